//! Ids that follow from others. The core has no randomness, and replay must find the same ids; so what the core itself creates
//! is named by a hash of what it was created for: a version 8 UUID, which no caller's random id can be.

use sha2::{Digest as _, Sha256};
use stella_protocol::id::{
    AttemptKey, DeploymentId, EnvironmentId, QuestionId, ReleaseId, RunId, TargetId, TaskId,
};
use stella_protocol::time::Timestamp;
use uuid::{Builder, Uuid};

use crate::name::Identifier;

/// The task of one step of a deployment on one target.
///
/// `round` is how often the target was tried again: 0 at first.
pub(crate) fn task(deployment: DeploymentId, target: TargetId, step: u16, round: u32) -> TaskId {
    let (deployment, target, step) = (deployment.0.as_bytes(), target.0.as_bytes(), &step.to_be_bytes());
    TaskId(match round {
        0 => derived(&[b"task", deployment, target, step]),
        round => derived(&[b"task again", deployment, target, step, &round.to_be_bytes()]),
    })
}

/// The number-th question about the way back of a target of a deployment.
pub(crate) fn question(deployment: DeploymentId, target: TargetId, number: u32) -> QuestionId {
    let (deployment, target) = (deployment.0.as_bytes(), target.0.as_bytes());
    QuestionId(derived(&[b"way back", deployment, target, &number.to_be_bytes()]))
}

/// The number-th question about what is left of an attempt.
pub(crate) fn probe(key: AttemptKey, number: u32) -> QuestionId {
    let (task, attempt) = (key.task.0.as_bytes(), &key.attempt.0.to_be_bytes());
    QuestionId(derived(&[b"probe", task, attempt, &number.to_be_bytes()]))
}

/// The rollback that the failure of a deployment starts. Like a version 7 UUID it begins with the time, in milliseconds, so that
/// a list by id is a list by age.
pub(crate) fn rollback(of: DeploymentId, now: Timestamp) -> DeploymentId {
    let mut bytes = *derived(&[b"rollback", of.0.as_bytes()]).as_bytes();
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    DeploymentId(Builder::from_custom_bytes(bytes).into_uuid())
}

/// What ends the colours that a deployment has left idle, when their time is over.
pub(crate) fn retirement(of: DeploymentId, now: Timestamp) -> DeploymentId {
    let mut bytes = *derived(&[b"retirement", of.0.as_bytes()]).as_bytes();
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    DeploymentId(Builder::from_custom_bytes(bytes).into_uuid())
}

/// The deployment that an attempt of a step of a run asks for.
pub(crate) fn of_step(run: RunId, step: &Identifier, attempt: u32, now: Timestamp) -> DeploymentId {
    let parts: [&[u8]; 4] = [b"step", run.0.as_bytes(), &attempt.to_be_bytes(), step.as_str().as_bytes()];
    let mut bytes = *derived(&parts).as_bytes();
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    DeploymentId(Builder::from_custom_bytes(bytes).into_uuid())
}

/// One of the runs that an attempt of a step of a run starts.
pub(crate) fn of_step_run(run: RunId, step: &Identifier, attempt: u32, at: usize, now: Timestamp) -> RunId {
    let at = u64::try_from(at).unwrap_or(u64::MAX).to_be_bytes();
    let parts: [&[u8]; 5] =
        [b"run of step", run.0.as_bytes(), &attempt.to_be_bytes(), &at, step.as_str().as_bytes()];
    let mut bytes = *derived(&parts).as_bytes();
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    RunId(Builder::from_custom_bytes(bytes).into_uuid())
}

/// The deployment that brings a release to an environment by itself.
///
/// `round` is how often that was asked for in the same millisecond before: 0 at first.
pub(crate) fn automatic(
    environment: EnvironmentId,
    release: ReleaseId,
    now: Timestamp,
    round: u32,
) -> DeploymentId {
    let (place, what, at) = (environment.0.as_bytes(), release.0.as_bytes(), &now.0.to_be_bytes());
    let derived = match round {
        0 => derived(&[b"automatic", place, what, at]),
        round => derived(&[b"automatic again", place, what, at, &round.to_be_bytes()]),
    };
    let mut bytes = *derived.as_bytes();
    bytes[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
    DeploymentId(Builder::from_custom_bytes(bytes).into_uuid())
}

/// Every kind has parts of fixed length but for the last, so that two lists of parts never hash the same bytes.
fn derived(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(hash.finalize()) {
        *byte = hashed;
    }
    Builder::from_custom_bytes(bytes).into_uuid()
}
