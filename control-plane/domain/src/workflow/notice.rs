//! What steps tell people.

use serde::{Deserialize, Serialize};

/// How long what is told may be once it is filled in, in characters. What is longer is cut off: it is for people.
pub const NOTICE_CHARS_MAX: usize = 3_000;
/// How long a receiver may take to answer, in milliseconds, and how long it may take if nobody says otherwise.
pub const NOTICE_MS_MAX: u64 = 15_000;
/// How long the name of a receiver may be.
const RECEIVER_CHARS_MAX: usize = 63;

/// Tell one of the receivers of the control plane's configuration something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// Whom: the name of one of `notifications.receivers`.
    pub receiver: String,
    /// What. May hold `${expressions}`.
    pub message: String,
    /// How bad it is, where receivers make a difference.
    #[serde(default, skip_serializing_if = "NoticeSeverity::is_default")]
    pub severity: NoticeSeverity,
}

impl Notify {
    /// Whether it may be the name of a receiver.
    #[must_use]
    pub fn may_be_receiver(name: &str) -> bool {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=RECEIVER_CHARS_MAX).contains(&name.len()) && name.bytes().all(is_word)
    }
}

/// How bad something is that people are told. The words are those of the alerts, and of PagerDuty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeSeverity {
    /// Good to know.
    #[default]
    Info,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

impl NoticeSeverity {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
