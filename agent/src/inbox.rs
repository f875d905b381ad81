//! What becomes of a dispatch: run it, answer it from the journal, or refuse it.
//!
//! A refusal changes nothing and is not journalled: if it is lost, the next hello shows an attempt that was never accepted,
//! and it is judged again. In one life of the agent an attempt that was refused stays refused, so that a duplicate that
//! overtook the answer does not run after the control plane has acted on the refusal.

use std::collections::VecDeque;

use stella_protocol::id::AttemptKey;
use stella_protocol::message::Dispatch;
use stella_protocol::spec::{Probe, TaskSpec};

use crate::executor::reason_of;
use crate::journal::{self, Journal, Known};
use crate::policy::Policy;

/// How many refusals are remembered: more than a session can have on its way.
const REFUSALS_MAX: usize = 1024;

/// What to do with a dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Journal it as accepted, end older generations, then run it.
    Accept,
    /// It is known: say again how far it is.
    Again(Known),
    /// Do not run it, for this reason.
    Refuse(String),
}

/// Judges dispatches.
#[derive(Debug)]
pub struct Inbox {
    policy: Policy,
    /// Oldest first.
    refusals: VecDeque<(AttemptKey, String)>,
}

impl Inbox {
    /// An inbox under a policy.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self { policy, refusals: VecDeque::new() }
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Another policy, for what comes from now on.
    pub fn follow(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Judges a dispatch. What is known comes first: a duplicate is answered as the first one was.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn judge(&mut self, journal: &Journal, dispatch: &Dispatch) -> Result<Verdict, journal::Error> {
        let key = dispatch.key();
        if let Some(known) = journal.get(key)? {
            return Ok(Verdict::Again(known));
        }
        if let Some((_, reason)) = self.refusals.iter().find(|(refused, _)| *refused == key) {
            return Ok(Verdict::Refuse(reason.clone()));
        }
        let Some(reason) = self.objection(journal, dispatch) else { return Ok(Verdict::Accept) };
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.pop_front();
        }
        self.refusals.push_back((key, reason.clone()));
        Ok(Verdict::Refuse(reason))
    }

    fn objection(&self, journal: &Journal, dispatch: &Dispatch) -> Option<String> {
        if let Some(reason) = self.policy.objection(&dispatch.spec) {
            return Some(reason);
        }
        let newest = journal.generation(dispatch.target);
        if newest.is_some_and(|newest| dispatch.generation < newest) {
            return Some("superseded by a newer deployment to this target".to_owned());
        }
        if let Some(newer) =
            journal.newest_other_attempt(dispatch.key()).filter(|other| *other > dispatch.key())
        {
            return Some(format!("superseded by attempt {} of the same task", newer.attempt));
        }
        if journal.is_full_of_attempts() {
            return Some(
                "too many attempts are open or unacknowledged on this agent; try again later".to_owned(),
            );
        }
        let error = journal.check_room(writes_little(&dispatch.spec)).err()?;
        Some(format!("no room for the agent's journal: {}", reason_of(&error)))
    }
}

/// Whether a task leaves little on the disk: it has no output of a command to keep, and an artifact that would have to be fetched looks
/// for room itself.
const fn writes_little(spec: &TaskSpec) -> bool {
    match spec {
        TaskSpec::Artifact(_) | TaskSpec::Systemd(_) => true,
        TaskSpec::Check(check) => !matches!(check.probe, Probe::Command(_)),
        TaskSpec::Command(_) => false,
    }
}
