//! What is left of an attempt whose outcome nobody knows, and of its effect. Nothing is changed on the host.
//!
//! An effect counts only if nothing of the attempt runs any more: who asks has made sure that the runner does not have it, and its
//! processes are looked for here.

use std::sync::Arc;
use std::time::Duration;

use stella_protocol::limits::REASON_BYTES_MAX;
use stella_protocol::message::{AttemptProbe, Effect};
use stella_protocol::spec::{CheckSpec, Probe, TaskSpec};
use tokio::sync::Semaphore;

use super::artifact::inspect::Patience;
use super::{UnitManager, artifact, check, systemd};
use crate::host::HostRoot;
use crate::supervisor::processes_of;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where tasks write.
    pub host: HostRoot,
    /// The host's units.
    pub units: Arc<dyn UnitManager>,
}

impl Surroundings {
    /// Says what is left of an attempt that was queued so long ago, or a little longer, if that is known.
    /// Waits for its turn before it reads the disk.
    pub(crate) async fn look(
        &self,
        probe: AttemptProbe,
        age: Option<Duration>,
        patience: &Patience,
        turn: Arc<Semaphore>,
    ) -> Effect {
        let key = probe.key;
        let left = match tokio::task::spawn_blocking(move || processes_of(key)).await {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => return unclear(format!("the host's processes cannot be listed: {error}")),
            Err(_) => return unclear("looking for its processes failed; see the agent's log".to_owned()),
        };
        if !left.is_empty() {
            return unclear(format!("processes of it are still there: {left:?}; look at them on the host"));
        }
        let (host, slot) = (self.host.clone(), probe.slot);
        match probe.spec {
            TaskSpec::Artifact(spec) => {
                let Some(turn) = patience.turn(turn).await else {
                    return unclear("the host is still busy with an earlier question".to_owned());
                };
                let patience = patience.clone();
                let looked = tokio::task::spawn_blocking(move || {
                    // Held by the thread: nothing begins beside it, not even in the next session.
                    let _turn = turn;
                    artifact::probe::look(&host, slot.as_deref(), &spec, &patience)
                });
                let failed = |_| unclear("the work on the disk failed; see the agent's log".to_owned());
                looked.await.unwrap_or_else(failed)
            }
            TaskSpec::Systemd(spec) => systemd::probe(self.units.as_ref(), &spec, age, patience).await,
            TaskSpec::Check(spec) => check::probe(&spec, patience).await,
            TaskSpec::Command(_) => unclear("a command leaves no sign that could be looked for".to_owned()),
        }
    }
}

/// Whether only the agent's own records say how such a task ended, and nothing on the host does.
pub(crate) const fn leaves_no_sign(spec: &TaskSpec) -> bool {
    matches!(spec, TaskSpec::Command(_) | TaskSpec::Check(CheckSpec { probe: Probe::Command(_), .. }))
}

pub(crate) fn there(what: String) -> Effect {
    Effect::There { what: sendable(what) }
}

pub(crate) fn absent(what: String) -> Effect {
    Effect::Absent { what: sendable(what) }
}

pub(crate) fn unclear(reason: String) -> Effect {
    Effect::Unclear { reason: sendable(reason) }
}

/// As with the reason of a task: what a host says of an attempt goes into journals and messages.
fn sendable(mut words: String) -> String {
    words = stella_telemetry::redact_text(&words);
    words.truncate(words.floor_char_boundary(REASON_BYTES_MAX));
    words
}

#[cfg(test)]
mod tests {
    use super::{Effect, REASON_BYTES_MAX, unclear};

    #[test]
    fn what_is_said_of_an_attempt_shows_no_secret_and_fits() {
        let said = |words: &str| match unclear(words.to_owned()) {
            Effect::Unclear { reason } => reason,
            other @ (Effect::There { .. } | Effect::Absent { .. }) => panic!("{other:?}"),
        };
        let reason = said("https://ada:hunter2@web.example.com/health?token=s3cret did not answer");
        assert!(reason.contains("web.example.com") && reason.contains("did not answer"), "{reason}");
        assert!(!reason.contains("hunter2") && !reason.contains("s3cret"), "{reason}");
        assert!(said(&"ä".repeat(REASON_BYTES_MAX)).len() <= REASON_BYTES_MAX);
    }
}
