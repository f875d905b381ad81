//! How large what is decided may become. The journal takes no more at once, and what it does not take must not be decided.

use std::io;

use crate::event::Event;
use crate::rejection::Rejection;

/// The largest event, in bytes of JSON.
pub const EVENT_BYTES_MAX: usize = 4 << 20;
/// The most that one decision may write, in bytes of JSON.
pub const DECISION_BYTES_MAX: usize = 48 << 20;

/// How large events are together.
///
/// # Errors
/// [`Rejection::TooLarge`] if one of them is larger than it may be.
pub(crate) fn of_events(events: &[Event]) -> Result<usize, Rejection> {
    let mut total = 0_usize;
    for event in events {
        let bytes = of(event);
        if bytes > EVENT_BYTES_MAX {
            return Err(Rejection::TooLarge { bytes, bytes_max: EVENT_BYTES_MAX });
        }
        total = total.saturating_add(bytes);
    }
    Ok(total)
}

/// The length of a value's JSON, in bytes.
pub(crate) fn of(value: &impl serde::Serialize) -> usize {
    let mut counted = Counter(0);
    match serde_json::to_writer(&mut counted, value) {
        Ok(()) => counted.0,
        Err(_) => usize::MAX,
    }
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
