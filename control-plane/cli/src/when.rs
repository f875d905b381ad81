//! Times and lengths of time: as people write them, and as they read them.

use std::time::{SystemTime, UNIX_EPOCH};

use stella_api_types::time::{parse_rfc3339, rfc3339};
use stella_protocol::time::Timestamp;

/// Units of lengths, the largest first, in seconds.
const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
const MILLISECONDS: u64 = 1_000;

/// What time it is.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads a length in seconds, or with units: 90, 30s, 5m, 2h, 1d, 1w, 1h30m.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no length of time; write seconds, or units with it: 30s, 5m, 2h, 1d, 1h30m");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let (mut rest, mut total, mut larger) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let end = rest.find(|it: char| !it.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let (name, tail) = tail.split_at(tail.chars().next().map_or(0, char::len_utf8));
        let (_, unit) = UNITS.into_iter().find(|(it, _)| *it == name).ok_or_else(wrong)?;
        let number = number.parse::<u64>().map_err(|_| wrong())?;
        let added = number.checked_mul(unit).and_then(|seconds| total.checked_add(seconds));
        total = added.filter(|_| unit < larger).ok_or_else(wrong)?;
        (rest, larger) = (tail, unit);
    }
    if larger == u64::MAX { Err(wrong()) } else { Ok(total) }
}

/// Reads a name, and a length behind it if there is one: staging, staging:24h.
pub(crate) fn place_and_time(text: &str) -> Result<(String, Option<u64>), String> {
    match text.split_once(':') {
        Some((name, time)) => Ok((name.to_owned(), Some(seconds(time)?))),
        None => Ok((text.to_owned(), None)),
    }
}

/// Reads a time: RFC 3339, a day (its start in UTC), or how long ago.
pub(crate) fn since(text: &str) -> Result<String, String> {
    if let Ok(seconds) = seconds(text) {
        return Ok(rfc3339(Timestamp(now().0.saturating_sub(seconds.saturating_mul(MILLISECONDS)))));
    }
    let time = parse_rfc3339(text).or_else(|_| parse_rfc3339(&format!("{text}T00:00:00Z")));
    time.map(rfc3339).map_err(|_| {
        format!("{text:?} is no time; write 2026-12-18, 2026-12-18T18:00:00Z, or how long ago: 30m, 7d")
    })
}

/// A time for people; what is no time stays as it is.
pub(crate) fn moment(at: &str) -> String {
    parse_rfc3339(at).map_or_else(|_| at.to_owned(), |at| shown(at.0))
}

/// Milliseconds since 1970 for people.
pub(crate) fn shown(milliseconds: u64) -> String {
    let text = rfc3339(Timestamp(milliseconds));
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// A time for people, and how long ago that is, or how far ahead.
pub(crate) fn moment_and_age(at: &str) -> String {
    format!("{} ({})", moment(at), ago(at))
}

/// How long ago a time is, or how far ahead.
pub(crate) fn ago(at: &str) -> String {
    parse_rfc3339(at).map_or_else(|_| at.to_owned(), |at| apart(at, now()))
}

fn apart(at: Timestamp, now: Timestamp) -> String {
    match now.0.checked_sub(at.0) {
        Some(past) if past < MILLISECONDS => "just now".to_owned(),
        Some(past) => format!("{} ago", roughly(past / MILLISECONDS)),
        None => format!("in {}", roughly((at.0 - now.0).div_ceil(MILLISECONDS))),
    }
}

/// How long it took from one time to another; nothing if one of them is no time.
pub(crate) fn took(from: &str, to: &str) -> Option<String> {
    let (from, to) = (parse_rfc3339(from).ok()?, parse_rfc3339(to).ok()?);
    let milliseconds = to.0.saturating_sub(from.0);
    Some(match milliseconds {
        short if short < MILLISECONDS => format!("{short} ms"),
        short if short < 10 * MILLISECONDS => format!("{}.{} s", short / 1_000, short % 1_000 / 100),
        long => length(long / MILLISECONDS),
    })
}

/// A length as it is: `1 h 30 min`.
pub(crate) fn length(seconds: u64) -> String {
    let (mut rest, mut parts) = (seconds, Vec::new());
    for (name, unit) in [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)] {
        if rest >= unit {
            parts.push(format!("{} {name}", rest / unit));
            rest %= unit;
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// A length in its largest unit.
fn roughly(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_seconds_or_have_units() {
        for (text, wanted) in
            [("0", 0), ("90", 90), ("30s", 30), ("5m", 300), ("2h", 7_200), ("1d", 86_400), ("1h30m", 5_400)]
        {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for wrong in ["", "h", "1x", "1m2h", "5m5m", "-1", "1.5h", "1h30", "99999999999999999999s", "1ä"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_told_by_their_distance() {
        let now = Timestamp(10_000_000_000);
        for (at, wanted) in [
            (now.0, "just now"),
            (now.0 - 59_000, "59 s ago"),
            (now.0 - 200_000, "3 min ago"),
            (now.0 - 7_200_000, "2 h ago"),
            (now.0 - 86_400_000 * 9, "9 d ago"),
            (now.0 + 90_000, "in 1 min"),
        ] {
            assert_eq!(apart(Timestamp(at), now), wanted);
        }
        assert_eq!(moment("2026-11-26T15:48:54.492Z"), "2026-11-26 15:48:54 UTC");
        assert_eq!(moment("soon"), "soon");
        assert_eq!((length(5_400).as_str(), length(0).as_str()), ("1 h 30 min", "0 s"));
        let (from, to) = ("2026-11-26T15:48:54.000Z", "2026-11-26T15:48:56.250Z");
        assert_eq!(took(from, to).as_deref(), Some("2.2 s"));
    }

    #[test]
    fn a_time_may_be_a_day_or_how_long_ago() {
        assert_eq!(since("2026-12-01").as_deref(), Ok("2026-12-01T00:00:00.000Z"));
        assert_eq!(since("2026-12-01T10:00:00+02:00").as_deref(), Ok("2026-12-01T08:00:00.000Z"));
        let hour_ago = parse_rfc3339(&since("1h").unwrap()).unwrap();
        assert!(now().0 - hour_ago.0 >= 3_600_000);
        assert!(since("yesterday").is_err());
    }
}
