//! Tasks, their output, and events.

use std::io::{IsTerminal as _, Write};

use base64::Engine;
use futures::StreamExt;
use stella_api_types::event::{Actor, Event, JournalHead};
use stella_api_types::paths;
use stella_api_types::task::{OutputLine, SettleTask, Task as Dto};

use crate::args::{Events, Output, Settled, Task};
use crate::client::Error;
use crate::{Context, print};

/// The longest line of a stream, in bytes; a longer one is not ours.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(crate) async fn task(context: &Context, command: Task) -> Result<(), Error> {
    match command {
        Task::List { deployment } => {
            let path = context.path(paths::DEPLOYMENT_TASKS, &[&deployment])?;
            let tasks: Vec<Dto> = context.client.list(&path, &[]).await?;
            print::list(
                context.output,
                &tasks,
                &["TARGET", "STEP", "KIND", "STATE", "REASON", "ID"],
                |task| {
                    let reason = task.reason.clone().unwrap_or_default();
                    vec![
                        task.target.name.clone(),
                        task.step.clone(),
                        task.kind.clone(),
                        task.state.clone(),
                        reason,
                        task.id.clone(),
                    ]
                },
            )
        }
        Task::Show { task } => {
            let found: Dto = context.client.get(&context.path(paths::TASK, &[&task])?).await?;
            print::json(&found)
        }
        Task::Logs { task, follow } => logs(context, &task, follow).await,
        Task::Settle { task, outcome, reason } => {
            let body = SettleTask { succeeded: outcome == Settled::Succeeded, reason };
            let settled: Dto =
                context.client.post(&context.path(paths::TASK_SETTLE, &[&task])?, &body, None).await?;
            print::result(context.output, &settled, |task| format!("task {} is {}", task.id, task.state))
        }
    }
}

async fn logs(context: &Context, task: &str, follow: bool) -> Result<(), Error> {
    let path = context.path(paths::TASK_OUTPUT, &[task])?;
    let query = [("follow", follow.to_string())];
    let (output, mut out, mut err) = (context.output, std::io::stdout(), std::io::stderr());
    let (out_is_read, err_is_read) = (out.is_terminal(), err.is_terminal());
    lines(context, &path, &query, "application/x-ndjson", |line| {
        if output == Output::Json && out_is_read {
            print::json_line(&String::from_utf8_lossy(line));
            return Ok(());
        }
        if output == Output::Json {
            return write(&mut out, &[line, b"\n"]);
        }
        let Ok(piece) = serde_json::from_slice::<OutputLine>(line) else { return Ok(()) };
        let encoded =
            || base64::engine::general_purpose::STANDARD.decode(piece.base64.as_deref().unwrap_or_default());
        let bytes = piece.text.clone().map_or_else(|| encoded().unwrap_or_default(), String::into_bytes);
        let shown = |by_somebody| if by_somebody { print::harmless_bytes(&bytes) } else { bytes.clone() };
        if piece.source == "stderr" {
            write(&mut err, &[&shown(err_is_read)])
        } else {
            write(&mut out, &[&shown(out_is_read)])
        }
    })
    .await
}

pub(crate) async fn events(context: &Context, command: Events) -> Result<(), Error> {
    let path = match command.system {
        true => paths::SYSTEM_EVENTS.to_owned(),
        false => context.path(paths::EVENTS, &[])?,
    };
    if !command.follow {
        let after = command.after.to_string();
        let events: Vec<Event> = context.client.list(&path, &[("after", &after)]).await?;
        return print::list(context.output, &events, &["POSITION", "AT", "BY", "EVENT", "WHAT"], |event| {
            let position = event.position.to_string();
            vec![position, event.at.clone(), by(&event.actor), event.kind.clone(), compact(event)]
        });
    }
    let query = [("after", command.after.to_string())];
    lines(context, &path, &query, "text/event-stream", |line| {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let Ok(event) = serde_json::from_slice::<Event>(data) else { return Ok(()) };
        match context.output {
            Output::Json => print::json_line(String::from_utf8_lossy(data).trim()),
            Output::Text => {
                let by = by(&event.actor);
                let Event { position, at, kind, .. } = &event;
                print::line(&format!("{position} {at} {by} {kind} {}", print::one_line(&compact(&event))));
            }
        }
        Ok(())
    })
    .await
}

pub(crate) async fn journal(context: &Context, system: bool) -> Result<(), Error> {
    let path = match system {
        true => paths::SYSTEM_JOURNAL.to_owned(),
        false => context.path(paths::JOURNAL, &[])?,
    };
    let head: JournalHead = context.client.get(&path).await?;
    print::result(context.output, &head, |head| {
        let hash = head.hash.as_deref().unwrap_or("no events yet");
        format!("{} events, {hash}\nincarnation {}", head.position, head.incarnation)
    })
}

/// Who: an account by its name, what else by its kind.
pub(crate) fn by(actor: &Actor) -> String {
    actor.account.clone().unwrap_or_else(|| actor.kind.clone())
}

/// The event's plain values on one line.
fn compact(event: &Event) -> String {
    let plain = event.data.iter().filter(|(_, value)| value.is_string() || value.is_number());
    let pairs: Vec<String> = plain
        .map(|(key, value)| {
            format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    pairs.join(" ")
}

/// Takes a stream line by line until the server ends it.
async fn lines(
    context: &Context,
    path: &str,
    query: &[(&str, String)],
    accept: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let response = context.client.stream(path, query, accept).await?;
    let mut chunks = response.bytes_stream();
    let mut waiting = Vec::new();
    while let Some(chunk) = chunks.next().await {
        waiting.extend_from_slice(&chunk.map_err(|error| context.client.unreachable(&error))?);
        while let Some(end) = waiting.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            take(line.trim_ascii_end())?;
        }
        if waiting.len() > LINE_BYTES_MAX {
            return Err(Error::Usage(format!(
                "the control plane sent a line of over {LINE_BYTES_MAX} bytes"
            )));
        }
    }
    Ok(())
}

fn write(to: &mut impl Write, pieces: &[&[u8]]) -> Result<(), Error> {
    let result = pieces.iter().try_for_each(|piece| to.write_all(piece)).and_then(|()| to.flush());
    result.map_err(|error| Error::Usage(format!("the output cannot be written: {error}")))
}
