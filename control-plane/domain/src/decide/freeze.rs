//! Times in which nothing new comes to an environment.

use stella_protocol::id::EnvironmentId;
use stella_protocol::time::Timestamp;

use super::fields;
use super::transaction::Transaction;
use crate::command::Outcome;
use crate::environment::Environment;
use crate::event::Fact;
use crate::freeze::{FREEZES_MAX, Freeze, Nonsense};
use crate::name::Name;
use crate::rejection::Rejection;

/// Sets a freeze, instead of one of the same name.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    freeze: &Freeze,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    fields::reason(&freeze.reason)?;
    freeze.check().map_err(|nonsense| {
        let field = match &nonsense {
            Nonsense::TimeZone(_) => "time_zone",
            Nonsense::Length { .. } => "to",
        };
        Rejection::invalid(field, nonsense.to_string())
    })?;
    if environment.freezes.contains(freeze) {
        return Ok(Outcome::Done);
    }
    if let Some(end) = freeze.ended(tx.now) {
        // It would hold nothing, and whoever sets it means another time.
        let problem = format!("is over: it was {}, and nothing repeats it", freeze.shown(end));
        return Err(Rejection::invalid("to", problem));
    }
    let others = environment.freezes.iter().filter(|it| it.name != freeze.name).count();
    if others >= FREEZES_MAX {
        let problem =
            format!("environment {} has {others} freezes already; remove one first", environment.name);
        return Err(Rejection::Conflict { problem });
    }
    tx.emit(Fact::EnvironmentFreezeSet { id, freeze: freeze.clone() })?;
    Ok(Outcome::Done)
}

pub(super) fn remove(tx: &mut Transaction<'_>, id: EnvironmentId, name: &Name) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    if environment.freezes.iter().all(|it| it.name != *name) {
        return Err(Rejection::not_found("freeze", name));
    }
    tx.emit(Fact::EnvironmentFreezeRemoved { id, freeze: name.clone() })?;
    Ok(Outcome::Done)
}

/// Whether something may come that does not override it.
pub(super) fn is_over(environment: &Environment, now: Timestamp) -> Result<(), Rejection> {
    let Some((freeze, until)) = environment.lasting_freeze(now) else { return Ok(()) };
    let problem = format!(
        "environment {} is frozen until {} ({}: {}); wait, or override it with a reason if you may (deploy --override-freeze). A rollback is let through",
        environment.name,
        freeze.shown(until),
        freeze.name,
        freeze.reason
    );
    Err(Rejection::Conflict { problem })
}
