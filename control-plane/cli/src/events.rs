//! What happened, and what happens.

use std::collections::VecDeque;

use serde_json::Value;
use stella_api_types::event::{Event, JournalHead};
use stella_api_types::paths;
use stella_api_types::time::rfc3339;
use stella_protocol::time::Timestamp;

use crate::args::{Events, Output};
use crate::client::Error;
use crate::feed::{Source, Start};
use crate::task::by;
use crate::{Context, feed, print, when};

/// How many events a person is shown unless more are asked for.
const SHOWN: usize = 50;
/// How many events are read at a time on the way back.
const STRIDE: u64 = 500;
/// How far back what is followed is looked for, in events, unless more is asked for: whoever follows wants to see what happens now.
const BACK_MAX: u64 = 10_000;
/// Fields that say nothing to a person: what holds the journal together, and ids whose names are told.
const PLUMBING: [&str; 10] =
    ["session", "digest", "position", "generation", "plan", "policy", "inputs", "number", "key", "task"];
/// Numbers from here on are times, in milliseconds since 1970.
const TIMES_FROM: u64 = 1_000_000_000_000;

pub(crate) async fn events(context: &Context, command: Events) -> Result<(), Error> {
    let source = match command.system {
        true => Source { events: paths::SYSTEM_EVENTS.to_owned(), journal: paths::SYSTEM_JOURNAL.to_owned() },
        false => {
            Source { events: context.path(paths::EVENTS, &[])?, journal: context.path(paths::JOURNAL, &[])? }
        }
    };
    let (found, start) = gathered(context, &source, &command).await?;
    match (context.output, command.follow) {
        (Output::Json, false) => print::json(&found)?,
        // A feed is a line for each.
        (Output::Json, true) => found.iter().for_each(|event| print::json_line(&compact(event))),
        (Output::Text, false) => {
            let head = ["POSITION", "AT", "BY", "EVENT", "WHAT"];
            print::list(context.output, &found, &head, |event| row(event).into())?;
        }
        (Output::Text, true) => found.iter().for_each(|event| print::line(&aligned(event))),
    }
    if !command.follow {
        return Ok(());
    }
    feed::follow(context, &source, start, |event, text| match context.output {
        _ if !is_wanted(&command, event) => {}
        Output::Json => print::json_line(text),
        Output::Text => print::line(&aligned(event)),
    })
    .await
}

/// The events that are there and wanted, and what comes behind them.
async fn gathered(
    context: &Context,
    source: &Source,
    command: &Events,
) -> Result<(Vec<Event>, Start), Error> {
    let window = &command.window;
    let is_bounded = window.limit.is_some() || window.since.is_some() || window.until.is_some();
    let from = match (command.after, context.output) {
        (Some(after), _) => Some(after),
        (None, Output::Json) if !is_bounded => Some(0),
        (None, _) => None,
    };
    let Some(from) = from else { return back(context, source, command).await };
    let start = Start { next: from, incarnation: None };
    // What is followed from a position on comes with the feed.
    if command.follow {
        return Ok((Vec::new(), start));
    }
    let all: Vec<Event> = context.client.list(&source.events, &[("after", &from.to_string())]).await?;
    Ok((all.into_iter().filter(|it| is_wanted(command, it)).collect(), start))
}

/// From the end of the journal back, as far as is wanted.
async fn back(context: &Context, source: &Source, command: &Events) -> Result<(Vec<Event>, Start), Error> {
    let window = &command.window;
    let head: JournalHead = context.client.get(&source.journal).await?;
    let start = Start { next: head.position, incarnation: Some(head.incarnation) };
    let (limit, first) = match window.limit {
        Some(limit) => (limit, 0),
        None if window.all || window.since.is_some() => (usize::MAX, 0),
        None if window.until.is_some() && context.output == Output::Json => (usize::MAX, 0),
        None if command.follow => (SHOWN, head.position.saturating_sub(BACK_MAX)),
        None => (SHOWN, 0),
    };
    let (mut found, mut end) = (VecDeque::new(), head.position);
    while end > first && found.len() < limit {
        let from = end.saturating_sub(STRIDE).max(first);
        let page: Vec<Event> = context.client.between(&source.events, from, end - from).await?;
        for event in page.into_iter().rev() {
            if window.since.as_ref().is_some_and(|since| event.at < *since) || found.len() == limit {
                return Ok((found.into(), start));
            }
            if is_wanted(command, &event) {
                found.push_front(event);
            }
        }
        end = from;
    }
    Ok((found.into(), start))
}

fn is_wanted(command: &Events, event: &Event) -> bool {
    let is_about = |wanted: &String| {
        event.about.values().any(|name| name == wanted)
            || event.data.values().any(|value| value.as_str() == Some(wanted))
    };
    let is_before = |until: &String| event.at < *until;
    let is_in = |environment: &String| event.about.get("environment") == Some(environment);
    (command.kinds.is_empty() || command.kinds.contains(&event.kind))
        && command.about.as_ref().is_none_or(is_about)
        && command.window.until.as_ref().is_none_or(is_before)
        && command.environment.as_ref().is_none_or(is_in)
        && command.by.as_ref().is_none_or(|by| done_by(event) == *by)
}

/// Who did it: an agent too by its name, where that is told.
fn done_by(event: &Event) -> String {
    match event.about.get("agent") {
        Some(name) if event.actor.kind == "agent" => name.clone(),
        _ => by(&event.actor),
    }
}

fn row(event: &Event) -> [String; 5] {
    [event.position.to_string(), when::moment(&event.at), done_by(event), event.kind.clone(), what(event)]
}

/// A line of a feed: columns as wide as they mostly are.
fn aligned(event: &Event) -> String {
    let [position, at, by, kind, what] = row(event);
    print::one_line(format!("{position:<8}  {at}  {by:<12}  {kind:<24}  {what}").trim_end())
}

fn compact(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

/// What an event is about, by names, and its plain values.
fn what(event: &Event) -> String {
    let names = ["release", "environment", "target", "step", "deployment", "agent"];
    let about = names.iter().filter_map(|name| event.about.get_key_value(*name));
    let mut parts: Vec<String> = about.map(|(name, value)| format!("{name}={value}")).collect();
    let is_told = |key: &str| event.about.contains_key(key) || PLUMBING.contains(&key);
    for (key, value) in event.data.iter().filter(|(key, _)| !is_told(key)) {
        // What has a name and parts, such as how a task has failed.
        let named = value.as_object().filter(|it| it.len() == 1).and_then(|it| it.iter().next());
        let (value, inner) = match named {
            Some((name, Value::Object(inner))) => (&Value::String(name.clone()), Some(inner)),
            _ => (value, None),
        };
        parts.extend(plain(value).map(|value| format!("{key}={value}")));
        let inner = inner.into_iter().flatten().filter(|(key, _)| !is_told(key));
        parts.extend(inner.filter_map(|(key, value)| Some(format!("{key}={}", plain(value)?))));
    }
    parts.join(" ")
}

/// A value on one line; nothing for what has parts.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.is_empty() || text.contains(char::is_whitespace) => {
            Some(format!("{text:?}"))
        }
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_u64().filter(|number| *number >= TIMES_FROM) {
            Some(time) => rfc3339(Timestamp(time)),
            None => number.to_string(),
        }),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Object(parts) => match parts.get("type") {
            // What has a name and nothing else is plain too.
            Some(Value::String(name)) => Some(name.clone()),
            _ => None,
        },
        Value::Null | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::Client;
    use crate::double::{Double, Said};
    use crate::settings::Settings;

    fn event() -> Event {
        serde_json::from_value(json!({
            "position": 168, "type": "task_finished", "at": "2026-11-26T15:48:54.492Z",
            "actor": {"type": "agent", "id": "0199"},
            "about": {"target": "web-1", "step": "health", "release": "web:1.4.0"},
            "data": {
                "key": {"task": "0199", "attempt": 1}, "position": 4, "finished_at": 1_795_709_124_640_u64,
                "target": "0188", "outcome": "Succeeded", "reason": "it works again",
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_line_says_names_and_times_and_leaves_the_plumbing_out() {
        assert_eq!(
            what(&event()),
            "release=web:1.4.0 target=web-1 step=health finished_at=2026-11-26T16:05:24.640Z outcome=Succeeded \
             reason=\"it works again\""
        );
    }

    #[test]
    fn a_line_says_how_a_task_has_failed() {
        let mut failed = event();
        failed.data.insert("outcome".to_owned(), json!({"Failed": {"exit_code": 3, "reason": "no luck"}}));
        failed.data.remove("reason");
        assert!(
            what(&failed).ends_with("outcome=Failed exit_code=3 reason=\"no luck\""),
            "{}",
            what(&failed)
        );
    }

    fn follow(kind: &str) -> Events {
        Events {
            after: None,
            window: crate::args::Window::default(),
            kinds: vec![kind.to_owned()],
            about: None,
            environment: None,
            by: None,
            follow: true,
            system: true,
        }
    }

    #[tokio::test]
    async fn who_follows_what_is_rare_does_not_wait_for_the_whole_journal_to_be_read() {
        let double = Double::start(|asked| match asked.path.starts_with(paths::SYSTEM_JOURNAL) {
            true => Said::json(&json!({"incarnation": "a", "position": 10_000_000})),
            false => Said::json(&json!({"items": []})),
        })
        .await;
        let client = Client::of_double(double.url());
        let context = Context { client, settings: Settings::bare("https://double"), output: Output::Text };
        let source =
            Source { events: paths::SYSTEM_EVENTS.to_owned(), journal: paths::SYSTEM_JOURNAL.to_owned() };
        let (found, start) = gathered(&context, &source, &follow("tenant_created")).await.unwrap();
        assert_eq!((found.len(), start.next), (0, 10_000_000));
        assert_eq!(u64::from(double.asked()), 1 + BACK_MAX / STRIDE);
    }

    #[test]
    fn events_are_chosen_by_type_and_by_what_they_are_about() {
        let all = || Events { follow: false, kinds: Vec::new(), ..follow("") };
        let wanted = |kinds: &[&str], about: Option<&str>| {
            let kinds = kinds.iter().map(ToString::to_string).collect();
            is_wanted(&Events { kinds, about: about.map(str::to_owned), ..all() }, &event())
        };
        assert!(wanted(&[], None) && wanted(&["x", "task_finished"], None) && wanted(&[], Some("web-1")));
        assert!(wanted(&[], Some("0188")), "by id as well");
        assert!(!wanted(&["x"], None) && !wanted(&[], Some("web-2")));
        let until = |until: &str| crate::args::Window { until: Some(until.to_owned()), ..Default::default() };
        assert!(is_wanted(&Events { window: until("2026-11-26T15:48:54.493Z"), ..all() }, &event()));
        assert!(!is_wanted(&Events { window: until("2026-11-26T15:48:54.492Z"), ..all() }, &event()));
        let mut by_name = event();
        by_name.about.insert("agent".to_owned(), "host-7".to_owned());
        by_name.about.insert("environment".to_owned(), "production".to_owned());
        for (environment, by, expected) in [
            (Some("production"), None, true),
            (Some("staging"), None, false),
            (None, Some("host-7"), true),
            (None, Some("alice"), false),
        ] {
            let (environment, by) = (environment.map(str::to_owned), by.map(str::to_owned));
            assert_eq!(is_wanted(&Events { environment, by, ..all() }, &by_name), expected);
        }
    }
}
