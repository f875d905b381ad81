//! The promotion path: what a release must have been through before it may come to an environment.

use std::sync::Arc;

use stella_protocol::id::EnvironmentId;
use stella_protocol::time::Timestamp;

use super::fields;
use super::transaction::Transaction;
use crate::command::Outcome;
use crate::environment::{Environment, Requirement, SOAK_MS_RANGE};
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::tenant::TenantState;

/// Sets what comes before an environment, or that nothing does.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    requires: Option<Requirement>,
) -> Result<Outcome, Rejection> {
    let environment = find(&tx.tenant, id)?;
    if let Some(Requirement { after, soak_ms, auto: _ }) = requires {
        fields::range("soak_ms", soak_ms, SOAK_MS_RANGE, " (none to 30 days)")?;
        let before = find(&tx.tenant, after)?;
        if leads_through(&tx.tenant, before, id) {
            let problem = format!("{} would come before itself", environment.name);
            return Err(Rejection::invalid("after", problem));
        }
    }
    if environment.requires != requires {
        tx.emit(Fact::EnvironmentPathSet { id, requires })?;
    }
    Ok(Outcome::Done)
}

fn find(tenant: &TenantState, id: EnvironmentId) -> Result<&Arc<Environment>, Rejection> {
    tenant.environments.get(&id).ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))
}

/// Whether the way to `from` leads through `wanted`. Ends, because a path that is set never meets itself.
fn leads_through(tenant: &TenantState, from: &Environment, wanted: EnvironmentId) -> bool {
    let mut at = Some(from);
    while let Some(environment) = at {
        if environment.id == wanted {
            return true;
        }
        let before = environment.requires.and_then(|requires| tenant.environments.get(&requires.after));
        at = before.map(AsRef::as_ref);
    }
    false
}

/// Whether a release may come to an environment now.
pub(super) fn is_reached(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    now: Timestamp,
) -> Result<(), Rejection> {
    let Some(Requirement { after, soak_ms, auto: _ }) = environment.requires else { return Ok(()) };
    let before = find(tenant, after)?;
    let (target, stage) = (&environment.name, &before.name);
    let name = format!("release {}:{}", release.application, release.version);
    let Some(proven_at) = before.proven.get(&release.id) else {
        return Err(Rejection::conflict(format!(
            "{name} must succeed on all targets of {stage} before it may come to {target}; deploy it there first"
        )));
    };
    let soaked_at = proven_at.plus_ms(soak_ms);
    if now < soaked_at {
        let left_s = soaked_at.0.saturating_sub(now.0).div_ceil(1_000);
        return Err(Rejection::conflict(format!(
            "{name} has to prove itself in {stage} for {} s before it may come to {target}; try again in {left_s} s",
            soak_ms / 1_000
        )));
    }
    Ok(())
}
