//! What has ended and was written to the archive is forgotten.

use super::transaction::Transaction;
use crate::archive::{BATCH_MAX, Ended, Needs};
use crate::command::Outcome;
use crate::event::Fact;
use crate::rejection::Rejection;

/// What is needed since it was written to the archive stays, and what is gone already is gone.
pub(super) fn forget(tx: &mut Transaction<'_>, ended: &Ended) -> Result<Outcome, Rejection> {
    if ended.count() > BATCH_MAX {
        return Err(Rejection::invalid("ended", format!("has {}, at most {BATCH_MAX} go", ended.count())));
    }
    let needs = Needs::of(&tx.tenant);
    for id in &ended.deployments {
        let found = tx.tenant.deployments.get(id);
        if found.is_some_and(|deployment| !needs.deployment(&tx.tenant, deployment)) {
            tx.emit(Fact::DeploymentArchived { id: *id })?;
        }
    }
    for id in &ended.promotions {
        let found = tx.tenant.promotions.get(id);
        if found.is_some_and(|promotion| !tx.tenant.needs_promotion(promotion)) {
            tx.emit(Fact::PromotionArchived { id: *id })?;
        }
    }
    for id in &ended.runs {
        if tx.tenant.runs.get(id).is_some_and(|run| !tx.tenant.needs_run(run)) {
            tx.emit(Fact::RunArchived { id: *id })?;
        }
    }
    Ok(Outcome::Done)
}
