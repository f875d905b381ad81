//! What can be wrong with an expression.

use std::fmt;

/// How much of an evaluation's complaint is shown, in characters: it quotes values, which may be long.
const PROBLEM_CHARS_MAX: usize = 200;

/// Why there is no expression, or no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing to evaluate.
    #[error("is empty; leave it out, or write an expression such as inputs.size > 3")]
    Empty,
    /// It is too long.
    #[error("has {bytes} bytes, and may have {max}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// Its brackets are nested too deep.
    #[error("{at}: brackets are nested more than {max} deep")]
    TooNested {
        /// Where the first one is that is too deep.
        at: Place,
        /// How deep they may be.
        max: usize,
    },
    /// It has too many operators in one another, or in a row.
    #[error(
        "has more than {max} operators in one another; make it several expressions, or group it with brackets"
    )]
    TooDeep {
        /// How many there may be.
        max: usize,
    },
    /// It is not in the language.
    #[error("{at}: {problem}")]
    Syntax {
        /// Where.
        at: Place,
        /// What is wrong there.
        problem: String,
    },
    /// It calls what is not there.
    #[error("{at}: there is no function {name}; there are {}", crate::FUNCTIONS.join(", "))]
    UnknownFunction {
        /// Where.
        at: Place,
        /// What it calls.
        name: String,
    },
    /// It uses a part of the language that is not there.
    #[error("{at}: {what} cannot be used here")]
    Unsupported {
        /// Where.
        at: Place,
        /// What it uses.
        what: &'static str,
    },
    /// It could be too much work on the values at hand.
    #[error(
        "could take {cost} steps on these values, and may take {max}; nest fewer macros, or use smaller lists"
    )]
    TooCostly {
        /// How many steps it could take.
        cost: u64,
        /// How many it may take.
        max: u64,
    },
    /// A part of it has no value.
    #[error("has no value: {problem}")]
    NoValue {
        /// Why.
        problem: String,
    },
    /// It is used as a condition and is none.
    #[error("must be true or false, and is {found}")]
    NotBoolean {
        /// What it is.
        found: &'static str,
    },
    /// Its value cannot be kept.
    #[error("has a value of a kind that cannot be kept: {found}")]
    NotJson {
        /// What it is.
        found: &'static str,
    },
    /// The evaluator failed where it must not.
    #[error("could not be processed; this is a defect, please report it with the expression")]
    Defect,
    /// The system has no thread for the parser now. It says nothing about the expression.
    #[error("cannot be looked at now, because the system gives no thread for it; try again")]
    NoThread,
}

impl Error {
    /// Where in the expression, if it is about a part of it.
    #[must_use]
    pub const fn place(&self) -> Option<Place> {
        match self {
            Self::TooNested { at, .. }
            | Self::Syntax { at, .. }
            | Self::UnknownFunction { at, .. }
            | Self::Unsupported { at, .. } => Some(*at),
            Self::Empty
            | Self::TooLong { .. }
            | Self::TooDeep { .. }
            | Self::TooCostly { .. }
            | Self::NoValue { .. }
            | Self::NotBoolean { .. }
            | Self::NotJson { .. }
            | Self::Defect
            | Self::NoThread => None,
        }
    }

    pub(crate) fn no_value(error: &cel::ExecutionError) -> Self {
        let problem = error.to_string();
        let mut shown: String = problem.chars().take(PROBLEM_CHARS_MAX).collect();
        if shown.len() < problem.len() {
            shown.push('…');
        }
        Self::NoValue { problem: shown }
    }
}

/// A place in an expression, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// The place of a byte of `source`.
    pub(crate) fn of_byte(source: &str, offset: usize) -> Self {
        let before = source.get(..offset).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column }
    }

    /// The place of a character of `source`.
    pub(crate) fn of_char(source: &str, offset: usize) -> Self {
        let byte = source.char_indices().nth(offset).map_or(source.len(), |(byte, _)| byte);
        Self::of_byte(source, byte)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { line: 1, column } => write!(f, "at character {column}"),
            Self { line, column } => write!(f, "at line {line}, character {column}"),
        }
    }
}
