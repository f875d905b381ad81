//! What a decision leaves to another one. A command may end many deployments at once, or let them go on: a release is blocked that is on its
//! way to several environments. What follows for each of their targets may be more than the journal takes at once, and then neither the command
//! could be carried out nor a timer fire, however often that was tried.
//!
//! That a deployment halts is decided at once for all of them, so that none starts anything more. What follows from that is put off where
//! much was decided already: it is due at once, and comes with a decision of its own.

use stella_protocol::id::DeploymentId;

use super::rollout;
use super::transaction::Transaction;
use crate::deployment::Status;
use crate::event::Fact;
use crate::rejection::Rejection;

/// After how many events what comes next in a deployment is put off. They and what follows for one deployment of the largest size, which is
/// three events for each of its targets and the one that creates it, are together no more than the journal takes: `tests/put_off.rs`.
const EVENTS_MAX: usize = 1_000;

/// Puts off what comes next in a deployment, if much was decided already; whether it did.
pub(super) fn put_off(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<bool, Rejection> {
    if tx.emitted() < EVENTS_MAX {
        return Ok(false);
    }
    if tx.deployment(id)?.put_off.is_none() {
        tx.emit(Fact::DeploymentPutOff { id, until: Some(tx.now) })?;
    }
    Ok(true)
}

/// Lets a deployment go on, now or in a decision of its own.
pub(super) fn advance(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    if put_off(tx, id)? { Ok(()) } else { rollout::advance(tx, id) }
}

/// Does what was put off.
pub(super) fn take_up(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    tx.emit(Fact::DeploymentPutOff { id, until: None })?;
    match tx.deployment(id)?.status {
        Status::Running => rollout::advance(tx, id),
        Status::Halting { .. } => rollout::come_to_the_end(tx, id),
        Status::Cancelling { .. } => rollout::end_what_is_open(tx, id),
        Status::Succeeded | Status::Failed { .. } | Status::Cancelled { .. } => Ok(()),
    }
}
