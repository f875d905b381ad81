//! Tasks and their output, and the end of the journal.

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use base64::Engine;
use futures::StreamExt;
use stella_api_types::event::{Actor, JournalHead};
use stella_api_types::paths;
use stella_api_types::task::{Cancellation, OutputLine, SettleTask, Task as Dto, TaskProbe};

use crate::args::{Output, Settled, Task};
use crate::client::Error;
use crate::{Context, print, when};

/// The longest line of a stream, in bytes; a longer one is not ours.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
const NDJSON: &str = "application/x-ndjson";

pub(crate) async fn task(context: &Context, command: Task) -> Result<(), Error> {
    match command {
        Task::List { deployment } => {
            let path = context.path(paths::DEPLOYMENT_TASKS, &[&deployment])?;
            let mut tasks: Vec<Dto> = context.client.list(&path, &[]).await?;
            if context.output == Output::Text {
                in_order(&mut tasks);
            }
            let head = ["TARGET", "STEP", "KIND", "STATE", "STARTED", "TOOK", "REASON", "ID"];
            print::list(context.output, &tasks, &head, |task| {
                let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                vec![
                    task.target.name.clone(),
                    task.step.clone(),
                    task.kind.clone(),
                    task.state.clone(),
                    or_none(task.started_at.as_deref().map(when::ago)),
                    or_none(took(task)),
                    task.reason.clone().unwrap_or_default(),
                    task.id.clone(),
                ]
            })
        }
        Task::Show { task } => {
            let found: Dto = context.client.get(&context.path(paths::TASK, &[&task])?).await?;
            print::result(context.output, &found, shown)
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

/// Target by target, in the order in which they were run.
pub(crate) fn in_order(tasks: &mut [Dto]) {
    tasks.sort_by(|a, b| (&a.target.name, &a.queued_at, &a.id).cmp(&(&b.target.name, &b.queued_at, &b.id)));
}

fn took(task: &Dto) -> Option<String> {
    when::took(task.started_at.as_deref()?, task.finished_at.as_deref()?)
}

/// What became of a task, in a word or two.
pub(crate) fn ended(task: &Dto) -> String {
    match task.exit_code {
        Some(code) if task.state != "succeeded" => format!("{}, exit code {code}", task.state),
        _ => task.state.clone(),
    }
}

fn shown(task: &Dto) -> String {
    let at = |at: &Option<String>| at.as_deref().map_or_else(|| "-".to_owned(), when::moment_and_age);
    let took = took(task).map(|took| format!(", after {took}")).unwrap_or_default();
    let mut text = format!(
        "task        {}\nstep        {} ({}), attempt {}\ntarget      {}, by agent {}\ndeployment  {}\nstate       {}\n\
         queued      {}\nstarted     {}\nended       {}{took}\nmay take    {}",
        task.id,
        task.step,
        task.kind,
        task.attempt,
        task.target.name,
        task.agent.name,
        task.deployment,
        ended(task),
        when::moment_and_age(&task.queued_at),
        at(&task.started_at),
        at(&task.finished_at),
        when::length(task.timeout_ms / 1_000),
    );
    if let Some(cancellation) = &task.cancellation {
        text.push_str(&format!("\ncancelled   {}", cancelled(cancellation)));
    }
    if let Some(probe) = &task.probe {
        text.push_str(&format!("\nhost        {}", probed(probe)));
    }
    if let Some(note) = &task.reason {
        text.push_str(&format!("\nnote        {}", print::one_line(note)));
    }
    text.push_str(&format!("\noutput      stella task logs {}", task.id));
    text
}

/// How far a cancellation has got, and what it waits for.
fn cancelled(cancellation: &Cancellation) -> String {
    let what = match cancellation.state.as_str() {
        "requested" => "requested; its agent has not taken it yet",
        "delivered" => "delivered; its agent has not begun with the end yet",
        "ending" => "ending; TERM was sent to its processes",
        "killed" => "ending; KILL was sent to what was left of its processes",
        "confirmed" => "confirmed",
        "unconfirmed" => {
            "unconfirmed; the target is quarantined until its agent or somebody (stella task settle) knows"
        }
        other => other,
    };
    let since = cancellation.since.as_deref().map(|at| format!(", since {}", when::moment(at)));
    let due =
        cancellation.due_at.as_deref().map(|at| format!(", unconfirmed at {} otherwise", when::moment(at)));
    format!("{what}{}{}", since.unwrap_or_default(), due.unwrap_or_default())
}

/// What a look at the host has shown.
fn probed(probe: &TaskProbe) -> String {
    let what = match probe.state.as_str() {
        "asked" => "is asked what is left of it",
        "done" => "shows that it was done",
        "not_done" => "shows that it was not done",
        "unclear" => "cannot tell what became of it",
        other => other,
    };
    let found = probe.found.as_deref().map(|found| format!(": {}", print::one_line(found)));
    let until = probe.until.as_deref().map(|at| format!(", until {}", when::moment(at)));
    format!(
        "{what}{}{} ({})",
        found.unwrap_or_default(),
        until.unwrap_or_default(),
        when::moment(&probe.since)
    )
}

async fn logs(context: &Context, task: &str, follow: bool) -> Result<(), Error> {
    let path = context.path(paths::TASK_OUTPUT, &[task])?;
    let query = [("follow", follow.to_string())];
    let is_read = std::io::stdout().is_terminal();
    lines(context, &path, &query, NDJSON, |line| match context.output {
        Output::Json if is_read => {
            print::json_line(&String::from_utf8_lossy(line));
            Ok(())
        }
        Output::Json => write(&mut std::io::stdout(), &[line, b"\n"]),
        Output::Text => piece(line, print_piece),
    })
    .await
}

/// What a task has printed, piece by piece, with where it has printed it.
pub(crate) async fn output(
    context: &Context,
    task: &str,
    mut take: impl FnMut(&str, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = context.path(paths::TASK_OUTPUT, &[task])?;
    lines(context, &path, &[], NDJSON, |line| piece(line, &mut take)).await
}

fn piece(line: &[u8], take: impl FnOnce(&str, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
    let Ok(piece) = serde_json::from_slice::<OutputLine>(line) else { return Ok(()) };
    let encoded =
        || base64::engine::general_purpose::STANDARD.decode(piece.base64.as_deref().unwrap_or_default());
    let bytes = piece.text.map_or_else(|| encoded().unwrap_or_default(), String::into_bytes);
    take(&piece.source, &bytes)
}

fn print_piece(source: &str, bytes: &[u8]) -> Result<(), Error> {
    let shown = |by_somebody| if by_somebody { print::harmless_bytes(bytes) } else { bytes.to_vec() };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    if source == "stderr" {
        let is_read = err.is_terminal();
        write(&mut err, &[&shown(is_read)])
    } else {
        let is_read = out.is_terminal();
        write(&mut out, &[&shown(is_read)])
    }
}

/// What the tasks of a deployment have printed, target by target.
pub(crate) async fn logs_of(
    context: &Context,
    deployment: &str,
    targets: &[String],
    steps: &[String],
) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_TASKS, &[deployment])?;
    let mut tasks: Vec<Dto> = context.client.list(&path, &[]).await?;
    in_order(&mut tasks);
    let is_one_of = |wanted: &[String], name: &String| wanted.is_empty() || wanted.contains(name);
    tasks.retain(|it| {
        (is_one_of(targets, &it.target.name) || targets.contains(&it.target.id)) && is_one_of(steps, &it.step)
    });
    if tasks.is_empty() {
        return Err(Error::Usage(format!("deployment {deployment} has no such task (yet)")));
    }
    for task in &tasks {
        if context.output == Output::Json {
            json_logs(context, task).await?;
            continue;
        }
        print::line(&format!("==> {} {} ({}) {}", task.target.name, task.step, ended(task), task.id));
        let mut is_open = false;
        output(context, &task.id, |_, bytes| {
            is_open = bytes.last().map_or(is_open, |last| *last != b'\n');
            print_piece("stdout", bytes)
        })
        .await?;
        print::line(if is_open { "\n" } else { "" });
    }
    Ok(())
}

/// The pieces as the API has them, with whose they are.
async fn json_logs(context: &Context, task: &Dto) -> Result<(), Error> {
    let path = context.path(paths::TASK_OUTPUT, &[&task.id])?;
    lines(context, &path, &[], NDJSON, |line| {
        let Ok(mut piece) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) else {
            return Ok(());
        };
        for (key, value) in [("target", &task.target.name), ("step", &task.step), ("task", &task.id)] {
            piece.insert(key.to_owned(), value.clone().into());
        }
        print::json_line(&serde_json::Value::from(piece).to_string());
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
    actor.account.clone().unwrap_or_else(|| match actor.kind.as_str() {
        "api_token" => "a token".to_owned(),
        "agent" => "an agent".to_owned(),
        "system" => "stella".to_owned(),
        other => other.to_owned(),
    })
}

/// Takes a stream line by line until the server ends it.
pub(crate) async fn lines(
    context: &Context,
    path: &str,
    query: &[(&str, String)],
    accept: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let response = context.client.stream(path, query, accept).await?;
    each_line(context, response, None, &mut take).await
}

/// Takes what comes line by line until the server ends it; with a longest silence, silence ends it as a broken connection does.
pub(crate) async fn each_line(
    context: &Context,
    response: reqwest::Response,
    silence_max: Option<Duration>,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut chunks = response.bytes_stream();
    let mut waiting = Vec::new();
    loop {
        let chunk = match silence_max {
            Some(silence_max) => tokio::time::timeout(silence_max, chunks.next())
                .await
                .map_err(|_| context.client.silent(silence_max))?,
            None => chunks.next().await,
        };
        let Some(chunk) = chunk else { return Ok(()) };
        waiting.extend_from_slice(&chunk.map_err(|error| context.client.broken(&error))?);
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
}

fn write(to: &mut impl Write, pieces: &[&[u8]]) -> Result<(), Error> {
    let result = pieces.iter().try_for_each(|piece| to.write_all(piece)).and_then(|()| to.flush());
    result.map_err(|error| Error::Usage(format!("the output cannot be written: {error}")))
}
