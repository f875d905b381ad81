//! Silence is not failure: many agents that go silent at once are a network event, not as many hosts that have failed.

use std::collections::BTreeSet;

use imbl::OrdMap;
use stella_protocol::id::{AgentId, EnvironmentId};
use stella_protocol::time::Timestamp;

use super::fields;
use super::transaction::Transaction;
use crate::agent::Connectivity;
use crate::command::Outcome;
use crate::environment::{SILENCE_MS_RANGE, SilenceRule};
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::tenant::TenantState;

/// Sets when silence of an environment's agents is taken for a network event.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    rule: Option<SilenceRule>,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    if let Some(SilenceRule { percent, within_ms }) = rule {
        fields::range("percent", percent.into(), (1, 99), "%")?;
        fields::range("within_ms", within_ms, SILENCE_MS_RANGE, " (a second to an hour)")?;
    }
    if environment.silence != rule {
        tx.emit(Fact::EnvironmentSilenceSet { id, rule })?;
    }
    Ok(Outcome::Done)
}

/// Finds out which environments have gone silent, or are heard again, by what has happened.
pub(super) fn listen(tx: &mut Transaction<'_>) -> Result<(), Rejection> {
    let mut places: BTreeSet<EnvironmentId> = BTreeSet::new();
    for fact in tx.facts_from(0) {
        places.extend(concerned(&tx.tenant, fact));
    }
    for id in places {
        let Some(environment) = tx.tenant.environments.get(&id) else { continue };
        match (environment.silence, environment.silent_since) {
            (None, None) => {}
            (None, Some(_)) => tx.emit(Fact::EnvironmentHeardAgain { id })?,
            (Some(rule), None) => {
                if is_silent(&tx.tenant, id, rule, tx.now) {
                    let silent = count(silent_from(&tx.tenant, id, rule, tx.now));
                    let agents = count(heard_of(&tx.tenant, id).collect::<BTreeSet<_>>().iter());
                    tx.emit(Fact::EnvironmentWentSilent { id, silent, agents, holds_stand: true })?;
                }
            }
            (Some(rule), Some(since)) => {
                if !is_silent(&tx.tenant, id, rule, since) {
                    tx.emit(Fact::EnvironmentHeardAgain { id })?;
                }
            }
        }
    }
    Ok(())
}

/// The environments with a rule that this may matter for.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts say nothing about agents")]
fn concerned(tenant: &TenantState, fact: &Fact) -> Vec<EnvironmentId> {
    let ruled = |id: &EnvironmentId| {
        let environment = tenant.environments.get(id);
        environment.is_some_and(|it| it.silence.is_some() || it.silent_since.is_some())
    };
    match fact {
        Fact::AgentConnected { agent, .. }
        | Fact::AgentDisconnected { agent, .. }
        | Fact::AgentRevoked { agent, .. }
        | Fact::AgentDraining { agent, .. }
        | Fact::AgentUndrained { agent } => served_by(tenant, *agent).filter(ruled).collect(),
        Fact::EnvironmentSilenceSet { id, .. } => vec![*id],
        Fact::TargetCreated { environment, .. } => vec![*environment],
        Fact::TargetUpdated { id, agent: Some(_), .. } => {
            tenant.targets.get(id).map(|target| target.environment).into_iter().filter(ruled).collect()
        }
        Fact::TargetRemoved { .. } => tenant.environments.keys().filter(|id| ruled(id)).copied().collect(),
        _ => Vec::new(),
    }
}

/// The environments that an agent has targets in; one more than once if it has several there.
fn served_by(tenant: &TenantState, agent: AgentId) -> impl Iterator<Item = EnvironmentId> {
    let targets = tenant.index.slots.get(&agent).into_iter().flat_map(|slots| slots.values());
    targets.filter_map(|id| tenant.targets.get(id)).map(|target| target.environment)
}

/// Whether more agents than the rule lets have gone silent within its time before `at`, or later. Only agents that have ever been
/// heard count, and none whose host was taken out of rotation: that it goes away is what was planned.
///
/// When all of a large environment goes silent, or comes back, each agent asks this: it looks at no more than it has to.
fn is_silent(tenant: &TenantState, id: EnvironmentId, rule: SilenceRule, at: Timestamp) -> bool {
    let whole = |count: usize| u64::try_from(count).unwrap_or(u64::MAX / 100);
    let is_event = |silent, agents| whole(silent) * 100 > whole(agents) * u64::from(rule.percent);
    // There are at most as many agents as targets.
    let targets = tenant.index.targets.get(&id).map_or(0, OrdMap::len);
    let mut silent = 0;
    for _agent in silent_from(tenant, id, rule, at) {
        silent += 1;
        if is_event(silent, targets) {
            return true;
        }
    }
    if silent == 0 {
        return false;
    }
    let mut agents = BTreeSet::new();
    for agent in heard_of(tenant, id) {
        agents.insert(agent);
        if !is_event(silent, agents.len()) {
            return false;
        }
    }
    true
}

/// The agents of an environment that have gone silent within the rule's time before `at`, or later.
fn silent_from(
    tenant: &TenantState,
    id: EnvironmentId,
    rule: SilenceRule,
    at: Timestamp,
) -> impl Iterator<Item = AgentId> {
    let from = (Timestamp(at.0.saturating_sub(rule.within_ms)), AgentId(uuid::Uuid::nil()));
    let recent = tenant.silent.range(from..).map(|(_, agent)| *agent);
    let counts = |agent: &AgentId| tenant.agents.get(agent).is_some_and(|it| it.draining.is_none());
    recent.filter(counts).filter(move |agent| served_by(tenant, *agent).any(|it| it == id))
}

/// The agents of an environment that have been heard, were not revoked and are in rotation; one more than once if it has several targets there.
fn heard_of(tenant: &TenantState, id: EnvironmentId) -> impl Iterator<Item = AgentId> {
    let targets = tenant.index.targets.get(&id).into_iter().flat_map(|names| names.values());
    let agents = targets.filter_map(|target| tenant.targets.get(target)).map(|target| target.agent);
    agents.filter(|id| {
        let agent = tenant.agents.get(id);
        agent.is_some_and(|agent| {
            let counts = agent.revoked.is_none() && agent.draining.is_none();
            counts && agent.connectivity != Connectivity::Never
        })
    })
}

fn count(all: impl Iterator) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}
