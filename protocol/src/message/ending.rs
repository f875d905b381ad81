//! How far the end of an attempt has got.

use serde::{Deserialize, Serialize};

use crate::id::AttemptKey;

/// How far the end of an attempt has got that was cancelled. Nothing is promised by it: the result follows in a [`super::Finished`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Which.
    pub key: AttemptKey,
    /// How far.
    pub stage: EndingStage,
}

/// How far the end of an attempt has got. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndingStage {
    /// The agent has the cancellation.
    Delivered,
    /// TERM was sent to the whole process tree.
    Terminated,
    /// KILL was sent to what was left of it after the grace.
    Killed,
}
