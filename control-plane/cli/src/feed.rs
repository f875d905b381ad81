//! The feed of events, which goes on where it was when its connection breaks: nobody who reads it misses what happened meanwhile.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use stella_api_types::event::Event;

use crate::client::Error;
use crate::follow::{self, INTERVAL, Look};
use crate::{Context, print, task};

const EVENT_STREAM: &str = "text/event-stream";

/// The longest silence of a feed that is alive: a quiet one says so every 15 seconds. After more, nobody is at the other end.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Gives every event from a position on to `take`, with its text as it came. Ends only with an error.
///
/// # Errors
/// What the control plane refuses, such as a token that was revoked, or a position behind the end of a journal that was restored; that it
/// was away for longer than anything is followed.
pub(crate) async fn follow(
    context: &Context,
    path: &str,
    from: u64,
    take: impl FnMut(&Event, &str),
) -> Result<(), Error> {
    let (next, take) = (Cell::new(from), RefCell::new(take));
    let look = async || {
        let response =
            context.client.stream(path, &[("after", next.get().to_string())], EVENT_STREAM).await?;
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
