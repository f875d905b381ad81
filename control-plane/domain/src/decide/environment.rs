//! Environments.

use stella_protocol::id::EnvironmentId;

use super::transaction::Transaction;
use crate::command::Outcome;
use crate::event::Fact;
use crate::name::Name;
use crate::rejection::Rejection;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    name: &Name,
    order: Option<u32>,
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
    tx.emit(Fact::EnvironmentCreated { id, name: name.clone(), order })?;
    Ok(Outcome::Environment(id))
}
