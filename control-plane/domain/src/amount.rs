//! So many of some things, as a count or as a share of them.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// So many of some things. In JSON a count is a number and a share is a text: `3`, `"25%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Amount {
    /// How many of `total` this is, with a share rounded down: for what must not be exceeded.
    #[must_use]
    pub fn at_most(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => narrowed(u64::from(total) * u64::from(percent) / 100),
        }
    }

    /// How many of `total` this is, with a share rounded up: for what must be reached.
    #[must_use]
    pub fn at_least(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => narrowed((u64::from(total) * u64::from(percent)).div_ceil(100)),
        }
    }
}

fn narrowed(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// That a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a count, such as 3, or a share, such as 25%")]
pub struct NoAmount;

impl FromStr for Amount {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Self, NoAmount> {
        let number = |digits: &str| digits.parse().map_err(|_| NoAmount);
        match text.strip_suffix('%') {
            Some(percent) => number(percent).map(Self::Percent),
            None => number(text).map(Self::Count),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a count, such as 3, or a share, such as \"25%\"")
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Amount, E> {
        u32::try_from(count).map(Amount::Count).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Amount, E> {
        text.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_to_the_safe_side() {
        for (amount, total, at_most, at_least) in [
            (Amount::Count(3), 10, 3, 3),
            (Amount::Percent(25), 10, 2, 3),
            (Amount::Percent(1), 10, 0, 1),
            (Amount::Percent(100), 10, 10, 10),
            (Amount::Percent(50), u32::MAX, u32::MAX / 2, u32::MAX / 2 + 1),
        ] {
            assert_eq!((amount.at_most(total), amount.at_least(total)), (at_most, at_least), "{amount}");
        }
    }

    #[test]
    fn json_has_numbers_and_texts() {
        for (amount, json) in [(Amount::Count(3), "3"), (Amount::Percent(25), "\"25%\"")] {
            assert_eq!(serde_json::to_string(&amount).unwrap(), json);
            assert_eq!(serde_json::from_str::<Amount>(json).unwrap(), amount);
        }
        for wrong in ["-1", "1.5", "\"\"", "\"%\"", "\"a%\"", "\"-1%\"", "4294967296", "null"] {
            assert!(serde_json::from_str::<Amount>(wrong).is_err(), "{wrong}");
        }
    }
}
