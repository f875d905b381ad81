//! What agents say.

use stella_protocol::id::AttemptKey;
use stella_protocol::message::{Accepted, Ending, Finished, Running};

/// An agent's word about an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is in the agent's journal.
    Accepted(Accepted),
    /// It has started.
    Running(Running),
    /// It has ended.
    Finished(Finished),
    /// It was cancelled, and its end has got so far.
    Ending(Ending),
}

impl Report {
    /// Which attempt it is about.
    #[must_use]
    pub const fn key(&self) -> AttemptKey {
        match self {
            Self::Accepted(report) => report.key,
            Self::Running(report) => report.key,
            Self::Finished(report) => report.key,
            Self::Ending(report) => report.key,
        }
    }
}
