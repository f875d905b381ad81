//! The proof that a deployment could go back.

use stella_api_types::deployment as dto;
use stella_api_types::environment::ProofRule as Dto;
use stella_domain::deployment::{Deployment, TargetRollout};
use stella_domain::way_back::{Proof, ProofAnswer, ProofRule};
use stella_protocol::time::Timestamp;

use super::{hold, time};

/// What an environment wants of it.
pub(crate) const fn rule(rule: ProofRule) -> Dto {
    match rule {
        ProofRule::Off => Dto::Off,
        ProofRule::Reported => Dto::Reported,
        ProofRule::Required => Dto::Required,
    }
}

/// What a deployment knows of it as a whole.
pub(super) fn of_deployment(deployment: &Deployment) -> Option<dto::WayBack> {
    let it = &deployment.way_back;
    (it.asked > 0 || it.waived.is_some()).then(|| dto::WayBack {
        asked: it.asked,
        asked_at: it.asked_at.map(time),
        open: it.open,
        until: it.until.map(time),
        waived: it.waived.as_ref().map(hold),
    })
}

/// What is known of a target's part.
pub(super) fn of_target(part: &TargetRollout) -> Option<dto::TargetWayBack> {
    Some(match part.way_back.as_ref()? {
        Proof::Asked { number: _ } => {
            dto::TargetWayBack { state: "asked".to_owned(), at: None, reason: None, files: None, bytes: None }
        }
        Proof::Known { at, answer } => known(answer, Some(*at)),
    })
}

/// What is said about a way back.
pub(crate) fn known(answer: &ProofAnswer, at: Option<Timestamp>) -> dto::TargetWayBack {
    let (files, bytes) = match answer {
        ProofAnswer::Proven { files, bytes } => (Some(*files), Some(*bytes)),
        ProofAnswer::Refuted { .. } | ProofAnswer::Unproven { .. } => (None, None),
    };
    dto::TargetWayBack {
        state: answer.name().to_owned(),
        at: at.map(time),
        reason: answer.reason().map(str::to_owned),
        files,
        bytes,
    }
}
