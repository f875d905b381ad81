//! Hosts: what an agent does, as far as the core can see it.
//!
//! A host does the steps that it is told, in the times that the scenario gives them. It keeps what it has until it is
//! acknowledged, as the real agent's journal does, and says it again when it is connected again.

use std::collections::BTreeMap;

use stella_protocol::id::{AgentId, AttemptKey, EnvironmentId, Position, SessionEpoch, TargetId};
use stella_protocol::message::{JournalMark, OpenAttempt, Phase, TaskOutcome};
use stella_protocol::time::Timestamp;

/// A host and its agent.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) agent: AgentId,
    pub(crate) target: TargetId,
    /// Where that is.
    pub(crate) place: EnvironmentId,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// How many faults cut it off from the control plane.
    pub(crate) cut: u32,
    /// Whether it can never be reached.
    pub(crate) away: bool,
    /// How many faults keep it from running.
    pub(crate) down: u32,
    /// How many faults have it out of rotation.
    pub(crate) drained: u32,
    /// The session that it takes for live.
    pub(crate) session: Option<SessionEpoch>,
    /// Its journal.
    pub(crate) journal: JournalMark,
    /// What it was told and has not been acknowledged the end of.
    pub(crate) attempts: BTreeMap<AttemptKey, Attempt>,
}

/// Something that a host was told to do.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Which beginning it is: what was planned for another one is void.
    pub(crate) number: u64,
    pub(crate) started_at: Timestamp,
    /// How it will end, by itself.
    pub(crate) will: TaskOutcome,
    /// How it has ended.
    pub(crate) ended: Option<(Timestamp, TaskOutcome)>,
}

impl Host {
    /// Whether words come through now.
    pub(crate) const fn is_reachable(&self) -> bool {
        self.cut == 0 && !self.away && self.down == 0
    }

    /// The position of one more record.
    pub(crate) const fn record(&mut self) -> Position {
        self.journal.position = self.journal.position.next();
        self.journal.position
    }

    /// What it says of its attempts in a hello.
    pub(crate) fn open(&self) -> Vec<OpenAttempt> {
        let phase = |attempt: &Attempt| match attempt.ended {
            Some(_) => Phase::Finished,
            None => Phase::Running,
        };
        self.attempts.iter().map(|(key, attempt)| OpenAttempt { key: *key, phase: phase(attempt) }).collect()
    }

    /// It starts again: what it did is interrupted.
    pub(crate) fn restart(&mut self, now: Timestamp) {
        self.session = None;
        for attempt in self.attempts.values_mut() {
            if attempt.ended.is_none() {
                attempt.ended = Some((now, TaskOutcome::Interrupted));
            }
        }
    }
}
