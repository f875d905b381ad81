//! Targets.

use std::collections::BTreeMap;
use std::sync::Arc;

use stella_protocol::id::{AgentId, EnvironmentId, TargetId};

use super::fields;
use super::transaction::Transaction;
use crate::command::{NewTarget, Outcome, TargetChange};
use crate::event::Fact;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::target::Target;

pub(super) fn create(tx: &mut Transaction<'_>, new: &NewTarget) -> Result<Outcome, Rejection> {
    if tx.tenant.targets.contains_key(&new.id) {
        return Err(Rejection::exists(TargetId::KIND, new.id));
    }
    let environment = tx.tenant.environments.get(&new.environment);
    let environment =
        environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, new.environment))?;
    is_enrolled(tx, new.agent)?;
    fields::labels(&new.labels)?;
    fields::variables(&new.variables)?;
    if tx.tenant.index.targets.get(&environment.id).is_some_and(|names| names.contains_key(&new.name)) {
        return Err(Rejection::exists(TargetId::KIND, &new.name));
    }
    slot_is_free(tx, new.agent, new.slot.as_ref())?;
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

fn is_enrolled(tx: &Transaction<'_>, agent: AgentId) -> Result<(), Rejection> {
    let agent = tx.agent(agent)?;
    if agent.revoked.is_none() {
        return Ok(());
    }
    let problem =
        format!("agent {} was revoked; choose one that is enrolled, or enrol its host again", agent.name);
    Err(Rejection::invalid("agent", problem))
}

/// Two targets must not share a folder; one without a slot has the whole host root and so is alone on its agent.
fn slot_is_free(tx: &Transaction<'_>, agent: AgentId, slot: Option<&Name>) -> Result<(), Rejection> {
    let Some(slots) = tx.tenant.index.slots.get(&agent) else { return Ok(()) };
    let name = |id: &TargetId| {
        tx.tenant.targets.get(id).map_or_else(|| id.to_string(), |target| target.name.to_string())
    };
    let problem = if let Some(whole) = slots.get("") {
        format!("target {} has the whole host; remove it, or give it a slot too", name(whole))
    } else if let Some(slot) = slot {
        let Some(taken) = slots.get(slot.as_str()) else { return Ok(()) };
        format!("slot {slot} belongs to target {}; choose another slot", name(taken))
    } else {
        let Some((slot, other)) = slots.get_min() else { return Ok(()) };
        format!("target {} has slot {slot} on the same agent; give this one a slot too", name(other))
    };
    Err(Rejection::Conflict { problem })
}

/// Says in which ways a target is to be otherwise. What is asked for and is so already changes nothing.
pub(super) fn update(tx: &mut Transaction<'_>, change: &TargetChange) -> Result<Outcome, Rejection> {
    let target = Arc::clone(tx.target(change.id)?);
    let labels = merged(&target.labels, &change.labels);
    fields::labels(&labels)?;
    let variables = merged(&target.variables, &change.variables);
    fields::variables(&variables)?;
    let agent = change.agent.filter(|agent| *agent != target.agent);
    if let Some(agent) = agent {
        is_enrolled(tx, agent)?;
        is_left_alone(&target)?;
        has_no_part(tx, &target)?;
        slot_is_free(tx, agent, target.slot.as_ref())?;
    }
    let labels = Some(labels).filter(|labels| *labels != target.labels);
    if labels.is_some() && goes_to_groups(tx, &target) {
        // Labels say which group it is in, and what leads the traffic.
        has_no_part(tx, &target)?;
    }
    let variables = Some(variables).filter(|variables| *variables != target.variables);
    if labels.is_some() || variables.is_some() || agent.is_some() {
        tx.emit(Fact::TargetUpdated { id: target.id, labels, variables, agent })?;
    }
    Ok(Outcome::Target(target.id))
}

fn merged(
    now: &BTreeMap<String, String>,
    changes: &BTreeMap<String, Option<String>>,
) -> BTreeMap<String, String> {
    let mut merged = now.clone();
    for (name, value) in changes {
        match value {
            Some(value) => drop(merged.insert(name.clone(), value.clone())),
            None => drop(merged.remove(name)),
        }
    }
    merged
}

/// Whether a deployment that is under way goes to groups in the environment of a target.
fn goes_to_groups(tx: &Transaction<'_>, target: &Target) -> bool {
    let mut deployments = tx.tenant.active_deployments.iter().filter_map(|id| tx.tenant.deployments.get(id));
    deployments.any(|it| it.environment == target.environment && it.strategy.groups().is_some())
}

/// Whether no deployment that is under way has a part there: one that has failed may be tried again, by the agent of then.
fn has_no_part(tx: &Transaction<'_>, target: &Target) -> Result<(), Rejection> {
    let deployments = tx.tenant.active_deployments.iter().filter_map(|id| tx.tenant.deployments.get(id));
    let Some(other) = deployments.into_iter().find(|it| it.targets.contains_key(&target.id)) else {
        return Ok(());
    };
    let (other, name) = (other.id, &target.name);
    let problem =
        format!("deployment {other} with target {name} has not ended; wait for its end or cancel it");
    Err(Rejection::Conflict { problem })
}

pub(super) fn remove(tx: &mut Transaction<'_>, id: TargetId) -> Result<Outcome, Rejection> {
    is_left_alone(tx.target(id)?)?;
    tx.emit(Fact::TargetRemoved { id })?;
    Ok(Outcome::Done)
}

/// Whether no deployment works on a target, and no task may still be running there.
fn is_left_alone(target: &Target) -> Result<(), Rejection> {
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
    Ok(())
}
