//! What a step of a workflow tells a receiver. It is about no incident: nothing ends it, and it is not told again once it was taken.

use serde_json::{Value, json};
use stella_api_types::time::rfc3339;
use stella_protocol::time::Timestamp;

use crate::incident::Severity;

/// How much of what is told is its title, in characters.
const TITLE_CHARS_MAX: usize = 200;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `RUN/STEP/ATTEMPT`: the same whenever this is sent, and nothing else's. Receivers drop duplicates by it.
    pub key: String,
    /// When the attempt began.
    pub at: Timestamp,
    /// How bad it is.
    pub severity: Severity,
    /// The tenant's name.
    pub tenant: String,
    /// The workflow's name.
    pub workflow: String,
    /// Its version.
    pub version: u32,
    /// The run's id.
    pub run: String,
    /// The step's id.
    pub step: String,
    /// Which attempt of the step it is.
    pub attempt: u32,
    /// What the step says.
    pub message: String,
    /// Headers that carry the trace on, for receivers that take such.
    pub trace: Vec<(&'static str, String)>,
}

impl Notice {
    /// One line: whose it is, and how it begins.
    #[must_use]
    pub fn title(&self) -> String {
        let first = self.message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let first = first.chars().map(|c| if c.is_control() { ' ' } else { c });
        format!("{}: {}", self.tenant, first.take(TITLE_CHARS_MAX).collect::<String>())
    }

    /// Where it comes from, for people.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("step {} of workflow {} version {}, run {}", self.step, self.workflow, self.version, self.run)
    }

    /// All of it as JSON: the same bytes each time that it is sent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.key,
            "kind": "workflow",
            "severity": self.severity.name(),
            "tenant": self.tenant,
            "at": rfc3339(self.at),
            "title": self.title(),
            "message": self.message,
            "workflow": self.workflow,
            "version": self.version,
            "run": self.run,
            "step": self.step,
            "attempt": self.attempt,
        })
    }
}
