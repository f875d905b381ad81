//! What will happen, in the order in which it does.

use std::collections::BTreeMap;

use stella_domain::name::Name;
use stella_protocol::id::{AttemptKey, DeploymentId, PromotionId, SessionEpoch, TargetId};
use stella_protocol::time::Timestamp;

/// Which host: its place in the fleet.
pub(crate) type HostIndex = usize;

/// Something that the core hears of when its time has come, or that a host does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A fault of the scenario begins.
    FaultBegins(usize),
    /// And ends.
    FaultEnds(usize),
    /// The control plane notices that a session is gone.
    SessionLost(HostIndex, SessionEpoch),
    /// A host dials.
    Dials(HostIndex),
    /// A dispatch reaches a host.
    Dispatched(HostIndex, AttemptKey),
    /// A request to end an attempt reaches a host.
    CancelReached(HostIndex, AttemptKey),
    /// What a host does comes to its end. The number says which beginning it belongs to.
    Ends(HostIndex, AttemptKey, u64),
    /// A host answers what it is asked about its files: a question of this deployment.
    Inspected(HostIndex, DeploymentId),
    /// A gate's question is answered.
    GateAnswered(PromotionId, Name, u32),
    /// Somebody approves, the how manieth of those who have to.
    Approves(PromotionId, u32),
    /// Somebody resumes a deployment whose pause has begun then.
    Resumes(DeploymentId, Timestamp),
    /// Somebody decides about a failed target.
    Decides(DeploymentId, TargetId),
    /// Somebody asks for the release where it comes next: in the how manieth environment on the way, or after all of them.
    Requests(usize),
    /// The control plane is there again.
    ControlPlaneBack,
}

/// What will happen. Of two things at the same time, what was planned first comes first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    planned: BTreeMap<(Timestamp, u64), Happening>,
    count: u64,
}

impl Queue {
    pub(crate) fn plan(&mut self, at: Timestamp, what: Happening) {
        self.planned.insert((at, self.count), what);
        self.count += 1;
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.planned.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether somebody will ask for the release in another environment.
    pub(crate) fn asks_for_more(&self) -> bool {
        self.planned.values().any(|what| matches!(what, Happening::Requests(_)))
    }

    pub(crate) fn pop(&mut self) -> Option<(Timestamp, Happening)> {
        self.planned.pop_first().map(|((at, _), what)| (at, what))
    }

    /// A number that was not given before.
    pub(crate) const fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}
