//! What is known of the certificate authority. Its keys and certificates are files and no part of the state; what is here is
//! what was done to it, and which agents have heard of it.

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::time::Timestamp;

use crate::agent::Agent;

/// How far the rotation of the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationPhase {
    /// Agents are told of the new root. Everything is issued under the old one.
    Distributing,
    /// Everything is issued under the new root. The old one is still trusted.
    Switched,
}

impl RotationPhase {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Distributing => "distributing",
            Self::Switched => "switched",
        }
    }
}

/// The authority as its files have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// SHA-256 of the root that certificates are issued under.
    pub root: Digest,
    /// SHA-256 of the issuing certificate.
    pub issuing: Digest,
    /// The roots that are trusted, in order.
    pub trusted: Vec<Digest>,
    /// How far a rotation of the root is; `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RotationPhase>,
}

/// What became of the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityChange {
    /// There is a new issuing certificate under the same root.
    IssuingRotated,
    /// There is a new root, for agents to trust.
    RotationStarted,
    /// Everything is issued under the new root from now on.
    RootSwitched,
    /// The old root is trusted no more.
    RotationFinished,
    /// The new root was given up before it was used.
    RotationCancelled,
    /// Somebody has put other files in place.
    Replaced,
}

impl AuthorityRecord {
    /// What has happened since `before`; `None` if nothing has. Of an authority of which nothing was recorded, it is not known
    /// what it was: nothing has happened to it unless a rotation is under way.
    #[must_use]
    pub fn change_since(&self, before: Option<&Self>) -> Option<AuthorityChange> {
        use RotationPhase::{Distributing, Switched};
        if before == Some(self) {
            return None;
        }
        let was = before.and_then(|before| before.phase);
        let same_root = before.is_none_or(|before| before.root == self.root);
        Some(match (was, self.phase) {
            (None, Some(Distributing)) if same_root => AuthorityChange::RotationStarted,
            (Some(Distributing), Some(Switched)) if !same_root => AuthorityChange::RootSwitched,
            (Some(Switched), None) if same_root => AuthorityChange::RotationFinished,
            (Some(Distributing), None) if same_root => AuthorityChange::RotationCancelled,
            (None, None) if same_root => AuthorityChange::IssuingRotated,
            _ => AuthorityChange::Replaced,
        })
    }
}

/// The authority as it was recorded last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// What it is.
    pub record: AuthorityRecord,
    /// Since when.
    pub since: Timestamp,
    /// Since when certificates are issued under this root; `None` if they always were.
    pub root_since: Option<Timestamp>,
}

/// Whom an agent trusts, and under which root its own certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentTrust {
    /// The roots that it trusts, in order.
    pub roots: Vec<Digest>,
    /// The root of the certificate that it shows.
    pub root: Digest,
}

impl Authority {
    /// What an agent should trust and show, if it is to be told. Without any rotation nobody need be told anything.
    #[must_use]
    pub fn wanted_of(&self, agent: &Agent) -> Option<AgentTrust> {
        let wanted = AgentTrust { roots: self.record.trusted.clone(), root: self.record.root };
        let concerns = self.record.phase.is_some() || self.root_since.is_some() || agent.trust.is_some();
        (concerns && agent.trust.as_ref() != Some(&wanted)).then_some(wanted)
    }

    /// Whether an agent would be cut off by the end of the rotation, or has been by one before: it does not trust the new root,
    /// or its certificate is of the old one.
    #[must_use]
    pub fn is_behind(&self, agent: &Agent) -> bool {
        if agent.revoked.is_some() {
            return false;
        }
        let trusts = |root: &Digest| agent.trust.as_ref().is_some_and(|trust| trust.roots.contains(root));
        match (self.record.phase, self.root_since) {
            (Some(RotationPhase::Distributing), _) => {
                let new = self.record.trusted.iter().find(|root| **root != self.record.root);
                agent.enrolled_at < self.since && !new.is_none_or(trusts)
            }
            (Some(RotationPhase::Switched) | None, Some(since)) => {
                let shows = agent.trust.as_ref().is_some_and(|trust| trust.root == self.record.root);
                agent.enrolled_at < since && !(shows && trusts(&self.record.root))
            }
            (Some(RotationPhase::Switched) | None, None) => false,
        }
    }
}
