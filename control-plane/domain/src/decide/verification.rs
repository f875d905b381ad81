//! What comes after the last wave: the release bakes in on all targets, and the gates have the last word.

use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId};

use super::gate::{self, Asking, Ruling};
use super::transaction::Transaction;
use super::{fields, rollout};
use crate::command::Outcome;
use crate::deployment::Cause;
use crate::environment::{BAKE_MS_RANGE, Verification};
use crate::event::Fact;
use crate::hold::PauseCause;
use crate::name::Name;
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

/// Ends a running deployment of which every target is through, once its release has proven itself there: it has baked if it has to, and
/// the gates agree; without a bake, those that verify.
pub(super) fn before_the_end(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let promotion = PromotionId(id.0);
    let deployment = tx.deployment(id)?;
    if deployment.waits_for_a_word() {
        if !gate::missing(tx, deployment)?.words.is_empty() {
            return Ok(());
        }
        tx.emit(Fact::DeploymentResumed { id })?;
    }
    let deployment = tx.deployment(id)?;
    // Whatever it is paused for, it goes on from here when that is over.
    if deployment.paused.is_some() && (deployment.verification.is_some() || deployment.baked) {
        return Ok(());
    }
    if let Some(Verification { bake_ms }) = deployment.verification
        && deployment.may_bake()
    {
        let reason = format!("{}, and it is verified there", deployment.counts.have_it());
        let (until, cause) = (Some(tx.now.plus_ms(bake_ms)), PauseCause::Verification);
        tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause })?;
        return gate::watch(tx, id);
    }
    let ruling = match deployment.verification {
        Some(_) => gate::rule(tx, promotion, Asking::Now)?,
        None if deployment.cause.is_asked_for() => gate::rule_at_the_end(tx, promotion)?,
        None => Ruling::Open,
    };
    match ruling {
        Ruling::Open => {
            let deployment = tx.deployment(id)?;
            let proves = (deployment.cause == Cause::Requested).then(|| tx.tenant.proves(deployment));
            tx.emit(Fact::DeploymentSucceeded { id, proves })
        }
        Ruling::Waits => wait(tx, id),
        Ruling::Closed(reason) => rollout::halt_for_gate(tx, id, &reason),
    }
}

/// An answer, or the end of its time, goes on from here. People may be asleep: while only somebody's word is missing, no time runs out,
/// and what can be asked outside is asked again and again.
fn wait(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let missing = gate::missing(tx, deployment)?;
    if missing.words.is_empty() || missing.answers || deployment.paused.is_some() {
        return Ok(());
    }
    let names: Vec<&str> = missing.words.iter().map(Name::as_str).collect();
    let reason = format!("somebody has to say whether what was brought is good (gate {})", names.join(", "));
    let cause = PauseCause::Verification;
    tx.emit(Fact::DeploymentPaused { id, reason, until: None, canary_step: None, cause })?;
    gate::watch(tx, id)
}
