//! Targets.

use stella_protocol::id::{EnvironmentId, TargetId};

use super::fields;
use super::transaction::Transaction;
use crate::command::{NewTarget, Outcome};
use crate::event::Fact;
use crate::rejection::Rejection;

pub(super) fn create(tx: &mut Transaction<'_>, new: &NewTarget) -> Result<Outcome, Rejection> {
    if tx.tenant.targets.contains_key(&new.id) {
        return Err(Rejection::exists(TargetId::KIND, new.id));
    }
    let environment = tx.tenant.environments.get(&new.environment);
    let environment =
        environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, new.environment))?;
    let agent = tx.agent(new.agent)?;
    if agent.revoked.is_some() {
        let problem =
            format!("agent {} was revoked; choose one that is enrolled, or enrol its host again", agent.name);
        return Err(Rejection::invalid("agent", problem));
    }
    fields::labels(&new.labels)?;
    fields::variables(&new.variables)?;
    if tx.tenant.index.targets.get(&environment.id).is_some_and(|names| names.contains_key(&new.name)) {
        return Err(Rejection::exists(TargetId::KIND, &new.name));
    }
    slot_is_free(tx, new)?;
    tx.emit(Fact::TargetCreated {
        id: new.id,
        environment: new.environment,
        name: new.name.clone(),
        kind: new.kind.clone(),
        agent: new.agent,
        slot: new.slot.clone(),
        labels: new.labels.clone(),
        variables: new.variables.clone(),
    })?;
    Ok(Outcome::Target(new.id))
}

/// Two targets must not share a folder; one without a slot has the whole host root and so is alone on its agent.
fn slot_is_free(tx: &Transaction<'_>, new: &NewTarget) -> Result<(), Rejection> {
    let Some(slots) = tx.tenant.index.slots.get(&new.agent) else { return Ok(()) };
    let name = |id: &TargetId| {
        tx.tenant.targets.get(id).map_or_else(|| id.to_string(), |target| target.name.to_string())
    };
    let problem = if let Some(whole) = slots.get("") {
        format!("target {} has the whole host; remove it, or give it a slot too", name(whole))
    } else if let Some(slot) = &new.slot {
        let Some(taken) = slots.get(slot.as_str()) else { return Ok(()) };
        format!("slot {slot} belongs to target {}; choose another slot", name(taken))
    } else {
        let Some((slot, other)) = slots.get_min() else { return Ok(()) };
        format!("target {} has slot {slot} on the same agent; give this one a slot too", name(other))
    };
    Err(Rejection::Conflict { problem })
}

pub(super) fn remove(tx: &mut Transaction<'_>, id: TargetId) -> Result<Outcome, Rejection> {
    let target = tx.target(id)?;
    if let Some(deployment) = target.active {
        let problem =
            format!("deployment {deployment} works on target {}; wait for its end or cancel it", target.name);
        return Err(Rejection::Conflict { problem });
    }
    if let Some(task) = target.blocked_by {
        let problem =
            format!("nobody knows what became of task {task} on target {}; settle it first", target.name);
        return Err(Rejection::Conflict { problem });
    }
    tx.emit(Fact::TargetRemoved { id })?;
    Ok(Outcome::Done)
}
