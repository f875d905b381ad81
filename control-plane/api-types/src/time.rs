//! Times as text.

use std::fmt;

use stella_protocol::time::Timestamp;

/// Writes a time as RFC 3339 in UTC with milliseconds: `2026-01-31T09:30:00.000Z`.
///
/// Times outside of the years that the calendar knows are shown as the nearest one that it does.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

/// Reads a time that [`rfc3339`] or any other RFC 3339 writer wrote.
///
/// # Errors
/// If it is not such a time, or one before 1970.
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, ParseTimeError> {
    let time: jiff::Timestamp = text.parse().map_err(|_| ParseTimeError)?;
    u64::try_from(time.as_millisecond()).map(Timestamp).map_err(|_| ParseTimeError)
}

/// Why a text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimeError;

impl fmt::Display for ParseTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a time; write RFC 3339, for example 2026-01-31T09:30:00.000Z")
    }
}

impl std::error::Error for ParseTimeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_always_written() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Timestamp(1_769_851_800_042)), "2026-01-31T09:30:00.042Z");
    }

    #[test]
    fn what_is_written_reads_back() {
        for at in [0, 1, 999, 1_769_851_800_042] {
            assert_eq!(parse_rfc3339(&rfc3339(Timestamp(at))), Ok(Timestamp(at)));
        }
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59Z"), Err(ParseTimeError));
        assert_eq!(parse_rfc3339("soon"), Err(ParseTimeError));
    }

    #[test]
    fn an_absurd_time_does_not_panic() {
        assert!(rfc3339(Timestamp(u64::MAX)).starts_with("9999-"));
    }
}
