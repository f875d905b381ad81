//! Silence is not failure: many agents that go silent at once are a network event, not as many hosts that have failed.

use std::collections::BTreeSet;

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
                if let Some((silent, agents)) = is_silent(&tx.tenant, id, rule, tx.now) {
                    tx.emit(Fact::EnvironmentWentSilent { id, silent, agents })?;
                }
            }
            (Some(rule), Some(since)) => {
                if is_silent(&tx.tenant, id, rule, since).is_none() {
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
        | Fact::AgentRevoked { agent, .. } => served_by(tenant, *agent).filter(ruled).collect(),
        Fact::EnvironmentSilenceSet { id, .. } => vec![*id],
        Fact::TargetCreated { environment, .. } => vec![*environment],
        Fact::TargetRemoved { .. } => tenant.environments.keys().filter(|id| ruled(id)).copied().collect(),
        _ => Vec::new(),
    }
}

/// The environments that an agent has targets in; one more than once if it has several there.
fn served_by(tenant: &TenantState, agent: AgentId) -> impl Iterator<Item = EnvironmentId> {
    let targets = tenant.index.slots.get(&agent).into_iter().flat_map(|slots| slots.values());
    targets.filter_map(|id| tenant.targets.get(id)).map(|target| target.environment)
}

/// How many of how many agents have gone silent within the rule's time before `at`, or later; `None` if that is no event. Only
/// agents that have ever been heard count.
fn is_silent(
    tenant: &TenantState,
    id: EnvironmentId,
    rule: SilenceRule,
    at: Timestamp,
) -> Option<(u32, u32)> {
    let from = (Timestamp(at.0.saturating_sub(rule.within_ms)), AgentId(uuid::Uuid::nil()));
    let recent =
        tenant.silent.range(from..).filter(|(_, agent)| served_by(tenant, *agent).any(|it| it == id));
    let silent = u32::try_from(recent.count()).unwrap_or(u32::MAX);
    if silent == 0 {
        return None;
    }
    let targets = tenant.index.targets.get(&id).into_iter().flat_map(|names| names.values());
    let agents: BTreeSet<AgentId> = targets
        .filter_map(|target| tenant.targets.get(target))
        .filter(|target| {
            tenant
                .agents
                .get(&target.agent)
                .is_some_and(|agent| agent.revoked.is_none() && agent.connectivity != Connectivity::Never)
        })
        .map(|target| target.agent)
        .collect();
    let agents = u32::try_from(agents.len()).unwrap_or(u32::MAX);
    let is_event = u64::from(silent) * 100 > u64::from(agents) * u64::from(rule.percent);
    is_event.then_some((silent, agents))
}
