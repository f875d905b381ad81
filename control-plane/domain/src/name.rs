//! Names that people choose. They end up in paths, labels and URLs, so they are parsed once, here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name or a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty or too long.
    #[error("must have 1 to {max} characters, not {length}")]
    Length {
        /// How many it has.
        length: usize,
        /// How many it may have.
        max: usize,
    },
    /// It has a character that it may not have there.
    #[error("must not have {character:?} at position {at}; allowed are {allowed}")]
    Character {
        /// Which character.
        character: char,
        /// Where, counted from 0.
        at: usize,
        /// What would be allowed, for a person.
        allowed: &'static str,
    },
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, max $max:literal, allowed $allowed:literal, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let length = text.chars().count();
                if length == 0 || length > $max {
                    return Err(NameError::Length { length, max: $max });
                }
                let first: fn(char) -> bool = $first;
                let rest: fn(char) -> bool = $rest;
                match text.chars().enumerate().find(|&(at, c)| !(if at == 0 { first(c) } else { rest(c) })) {
                    Some((at, character)) => Err(NameError::Character { character, at, allowed: $allowed }),
                    None => Ok(Self(text.to_owned())),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_type! {
    /// The name of a tenant, an environment, a target, an agent, a component or a step.
    Name, max 63, allowed "a-z, 0-9 and, after the first character, '-', '_' and '.'",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')
}

text_type! {
    /// The version of a release: semantic or free.
    Version, max 64, allowed "letters, digits and, after the first character, '-', '_', '.' and '+'",
    |c| c.is_ascii_alphanumeric(),
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+')
}

text_type! {
    /// The id of a step of a workflow, or the name of an input: a name that expressions can use.
    Identifier, max 63, allowed "a-z and, after the first character, 0-9 and '_'",
    |c| c.is_ascii_lowercase(),
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

impl Name {
    /// Makes a name out of any text (a host's own name, say): what is not allowed becomes '-'.
    #[must_use]
    pub fn sanitized(text: &str) -> Option<Self> {
        let cleaned: String = text
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| {
                if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.') {
                    c
                } else {
                    '-'
                }
            })
            .take(63)
            .collect();
        cleaned.trim_start_matches(['-', '_', '.']).parse().ok()
    }
}
