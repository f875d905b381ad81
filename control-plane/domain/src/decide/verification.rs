//! What comes after the last wave: the release bakes in on all targets, and the gates have the last word.

use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId};

use super::gate::{self, Asking, Ruling};
use super::transaction::Transaction;
use super::{fields, rollout};
use crate::command::Outcome;
use crate::environment::{BAKE_MS_RANGE, Verification};
use crate::event::Fact;
use crate::hold::PauseCause;
use crate::rejection::Rejection;

/// Sets what comes after the last wave of deployments to an environment. What waits there was asked for by the rule of before, and
/// has to be asked for anew; what is under way goes by the one that it was created with.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    verification: Option<Verification>,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    if let Some(Verification { bake_ms }) = verification {
        fields::range("bake_ms", bake_ms, BAKE_MS_RANGE, " (a second to a week)")?;
    }
    if environment.verification != verification {
        tx.emit(Fact::EnvironmentVerificationSet { id, verification })?;
    }
    Ok(Outcome::Done)
}

/// Ends a running deployment of which every target is through, once its release has proven itself there.
pub(super) fn before_the_end(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let Some(Verification { bake_ms }) = deployment.verification else {
        return tx.emit(Fact::DeploymentSucceeded { id });
    };
    // Whatever it is paused for, it goes on from here when that is over.
    if deployment.paused.is_some() {
        return Ok(());
    }
    if deployment.may_bake() {
        let (done, total) = (deployment.counts.succeeded, deployment.counts.total());
        let reason = format!("{done} of {total} targets have the release, and it is verified there");
        let (until, cause) = (Some(tx.now.plus_ms(bake_ms)), PauseCause::Verification);
        tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause })?;
        return gate::watch(tx, id);
    }
    match gate::rule(tx, PromotionId(id.0), Asking::Now)? {
        Ruling::Open => tx.emit(Fact::DeploymentSucceeded { id }),
        // An answer, somebody's word, or the time goes on from here.
        Ruling::Waits => Ok(()),
        Ruling::Closed(reason) => rollout::halt_for_gate(tx, id, &reason),
    }
}
