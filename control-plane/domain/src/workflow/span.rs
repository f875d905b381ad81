//! Lengths of time as people write them: `90s`, `10m`, `1h30m`, `7d`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub u64);

/// That a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no length of time; write 90s, 10m, 1h30m or 7d")]
pub struct NoSpan;

impl FromStr for Span {
    type Err = NoSpan;

    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let (mut left, mut total, mut last) = (text, 0_u64, u64::MAX);
        while !left.is_empty() {
            let digits = left.find(|c: char| !c.is_ascii_digit()).ok_or(NoSpan)?;
            let (number, rest) = left.split_at(digits);
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (unit, rest) = rest.split_at(unit);
            let (_, unit_ms) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(NoSpan)?;
            // From large to small, each once.
            if unit_ms >= last {
                return Err(NoSpan);
            }
            let number: u64 = number.parse().map_err(|_| NoSpan)?;
            total = number.checked_mul(unit_ms).and_then(|it| total.checked_add(it)).ok_or(NoSpan)?;
            (left, last) = (rest, unit_ms);
        }
        if text.is_empty() { Err(NoSpan) } else { Ok(Self(total)) }
    }
}

impl TryFrom<String> for Span {
    type Error = NoSpan;

    fn try_from(text: String) -> Result<Self, NoSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, unit_ms) in UNITS.into_iter().rev() {
            if left >= unit_ms {
                write!(f, "{}{unit}", left / unit_ms)?;
                left %= unit_ms;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_written_as_it_is_read() {
        for (text, ms) in
            [("1s", 1_000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("250ms", 250), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Span(ms)), "{text}");
            assert_eq!(Span(ms).to_string(), text);
        }
        for text in [
            "",
            "s",
            "10",
            "10x",
            "1m1h",
            "1m1m",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615d",
            "1 h",
        ] {
            assert_eq!(text.parse::<Span>(), Err(NoSpan), "{text}");
        }
    }
}
