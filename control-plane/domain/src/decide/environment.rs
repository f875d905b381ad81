//! Environments.

use stella_protocol::id::EnvironmentId;

use super::strategy::is_well_formed;
use super::transaction::Transaction;
use crate::command::Outcome;
use crate::event::Fact;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::strategy::Strategy;
use crate::way_back::ProofRule;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    name: &Name,
    order: Option<u32>,
    way_back_proof: ProofRule,
) -> Result<Outcome, Rejection> {
    if tx.tenant.index.environments.contains_key(name) {
        return Err(Rejection::exists(EnvironmentId::KIND, name));
    }
    if tx.tenant.environments.contains_key(&id) {
        return Err(Rejection::exists(EnvironmentId::KIND, id));
    }
    let after_all =
        || tx.tenant.environments.values().map(|other| other.order.saturating_add(1)).max().unwrap_or(0);
    let order = order.unwrap_or_else(after_all);
    tx.emit(Fact::EnvironmentCreated { id, name: name.clone(), order, way_back_proof })?;
    Ok(Outcome::Environment(id))
}

/// Sets how targets follow one another in deployments that do not say. Whether its targets can be taken like that is seen when one is
/// asked for: they may be others by then.
pub(super) fn set_strategy(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    strategy: Option<&Strategy>,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    if let Some(strategy) = strategy {
        is_well_formed(strategy)?;
    }
    if environment.strategy.as_ref() != strategy {
        tx.emit(Fact::EnvironmentStrategySet { id, strategy: strategy.cloned() })?;
    }
    Ok(Outcome::Done)
}
