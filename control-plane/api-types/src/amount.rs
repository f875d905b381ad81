//! So many of some things, as a count or as a share of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// So many of some things: a count, such as `3`, or a share of all of them, such as `"25%"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// A share of all of them, from `1%` to `100%`.
    Share(String),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => f.write_str(share),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let number: u32 = digits
            .parse()
            .map_err(|_| format!("{text:?} is no count, such as 3, and no share, such as 25%"))?;
        Ok(if digits == text { Self::Count(number) } else { Self::Share(text.to_owned()) })
    }
}
