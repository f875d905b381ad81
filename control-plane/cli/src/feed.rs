//! The feed of events, which goes on where it was when its connection breaks: nobody who reads it misses what happened meanwhile.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use stella_api_types::event::{Event, JournalHead};

use crate::client::Error;
use crate::follow::{self, INTERVAL, Look};
use crate::{Context, print, task};

const EVENT_STREAM: &str = "text/event-stream";

/// The longest silence of a feed that is alive: a quiet one says so every 15 seconds. After more, nobody is at the other end.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// What is followed: events, and the journal that they are in.
pub(crate) struct Source {
    /// The path of the feed.
    pub(crate) events: String,
    /// The path of the journal's head.
    pub(crate) journal: String,
}

/// From where on something is followed.
pub(crate) struct Start {
    /// The position.
    pub(crate) next: u64,
    /// In which life of the journal, if that is known.
    pub(crate) incarnation: Option<String>,
}

/// Gives every event from a position on to `take`, with its text as it came. Ends only with an error.
///
/// # Errors
/// What the control plane refuses, such as a token that was revoked, or a position behind the end of a journal that was restored; that the
/// journal is another one now, though it may have grown beyond that position; that the control plane was away for longer than anything is
/// followed.
pub(crate) async fn follow(
    context: &Context,
    source: &Source,
    start: Start,
    take: impl FnMut(&Event, &str),
) -> Result<(), Error> {
    let (next, take, known) = (Cell::new(start.next), RefCell::new(take), RefCell::new(start.incarnation));
    let look = async || {
        let after = [("after", next.get().to_string())];
        let response = context.client.stream(&source.events, &after, EVENT_STREAM).await?;
        // Asked for after the feed was opened: whatever is replaced later breaks that.
        let head: JournalHead = context.client.get(&source.journal).await?;
        let is_other = known.replace(Some(head.incarnation.clone())).is_some_and(|it| it != head.incarnation);
        if is_other {
            return Err(Error::OtherJournal { next: next.get(), end: head.position });
        }
        let ended = task::each_line(context, response, Some(SILENCE_MAX), |line| {
            let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
            let Ok(event) = serde_json::from_slice::<Event>(data) else { return Ok(()) };
            take.borrow_mut()(&event, String::from_utf8_lossy(data).trim());
            next.set(event.position.saturating_add(1));
            Ok(())
        });
        match ended.await {
            Ok(()) => Ok("the control plane has ended the feed".to_owned()),
            Err(error) if error.passes() => Ok(error.to_string()),
            Err(error) => Err(error),
        }
    };
    let Err(error) = follow::until(INTERVAL, look, |look| {
        let (Look::Found(why) | Look::Lost(why)) = look;
        print::warning(&format!("{why}; trying to go on from position {}", next.get()));
        Ok(None::<Infallible>)
    })
    .await;
    if error.passes() {
        print::warning(&format!("nothing was missed until here; go on with: --after {}", next.get()));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::Output;
    use crate::client::Client;
    use crate::double::{Double, Said};
    use crate::settings::Settings;

    /// Follows from position 5 on what a double says, whose journal has these lives, one a connection; the positions that came.
    async fn followed(lives: [&'static str; 3]) -> (Error, Vec<u64>) {
        let double = Double::start(move |asked| {
            let round = usize::try_from(asked.number.div_ceil(2) - 1).unwrap();
            let Some(life) = lives.get(round) else { return Said::refusal(401, None) };
            if asked.path.starts_with("/journal") {
                return Said::json(&json!({ "incarnation": life, "position": 100 }));
            }
            let position: u64 = asked.path.rsplit_once('=').unwrap().1.parse().unwrap();
            Said::feed(&[json!({
                "position": position, "type": "environment_created", "at": "2026-11-26T15:48:54.492Z",
                "actor": {"type": "system"}, "data": {},
            })])
        })
        .await;
        let client = Client::of_double(double.url());
        let context = Context { client, settings: Settings::bare("https://double"), output: Output::Json };
        let source = Source { events: "/events".to_owned(), journal: "/journal".to_owned() };
        let mut came = Vec::new();
        let start = Start { next: 5, incarnation: None };
        let error = follow(&context, &source, start, |event, _| came.push(event.position)).await.unwrap_err();
        (error, came)
    }

    #[tokio::test]
    async fn a_feed_goes_on_in_the_same_journal_and_in_no_other() {
        let (error, came) = followed(["a", "a", "b"]).await;
        assert!(matches!(error, Error::OtherJournal { next: 7, .. }), "{error}");
        assert_eq!(came, [5, 6], "what another journal has there is not what comes next");
    }
}
