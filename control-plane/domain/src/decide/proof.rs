//! The proof that a deployment could go back: asked for, answered, waived.
//!
//! It comes before the first target is changed. Where it is required, the deployment waits for the answers as it waits for a gate,
//! and is paused if one of them is not what it should be. A rollback is never held up by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, QuestionId, SessionEpoch, TargetId};
use stella_protocol::message::{Holding, Wanted, capability};

use super::transaction::Transaction;
use super::{agent, fields, group, rollout, way_back};
use crate::agent::{Agent, Connectivity};
use crate::colour::Steps;
use crate::command::Outcome;
use crate::deployment::{Deployment, TargetRollout};
use crate::event::{Fact, PlannedTarget};
use crate::hold::PauseCause;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::tenant::TenantState;
use crate::way_back::{FRESH_MS, Proof, ProofAnswer, ProofRule, REASON_MAX, WINDOW_MS};

/// How many targets a pause names before it only counts them.
const NAMED_MAX: usize = 5;

/// Sets what an environment wants of the proof. What waits there for it goes on if it is not required any more.
pub(super) fn set_rule(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    rule: ProofRule,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    if environment.way_back_proof != rule {
        tx.emit(Fact::EnvironmentWayBackProofSet { id, rule })?;
    }
    Ok(Outcome::Done)
}

/// Asks for the proof before the first target is changed, and says whether the deployment may go on to that. It is paused here if
/// it may not.
pub(super) fn before_the_first(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<bool, Rejection> {
    let deployment = tx.deployment(id)?;
    let rule = tx.tenant.proof_rule(deployment);
    let begins =
        deployment.has_not_begun() && deployment.paused.is_none() && deployment.next_waiting().is_some();
    if rule == ProofRule::Off || !begins {
        return Ok(true);
    }
    let is_waived = tx.tenant.is_proof_waived(deployment);
    let way_back = &deployment.way_back;
    let is_old = deployment.oldest_answer().is_some_and(|at| at.plus_ms(FRESH_MS) < tx.now);
    if way_back.open == 0 && (way_back.asked == 0 || (is_old && !is_waived)) {
        ask(tx, id, |_| true)?;
    }
    if tx.tenant.may_begin(tx.deployment(id)?) {
        return Ok(true);
    }
    ask_who_came_back(tx, id)?;
    hold(tx, id)?;
    Ok(false)
}

/// Asks those who could not say anything, and have connected since: they may have come while others were still asked, or while
/// the deployment was paused for something else.
fn ask_who_came_back(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.way_back.open > 0 {
        return Ok(());
    }
    let came_back = |part: &&Arc<TargetRollout>| {
        let Some(Proof::Known { at, answer: ProofAnswer::Unproven { .. } }) = &part.way_back else {
            return false;
        };
        let agent = tx.tenant.agents.get(&part.agent);
        agent.is_some_and(|it| matches!(it.connectivity, Connectivity::Online { since } if since > *at))
    };
    let back: BTreeSet<TargetId> =
        deployment.targets.values().filter(came_back).map(|part| part.target).collect();
    if back.is_empty() { Ok(()) } else { ask(tx, id, |part| back.contains(&part.target)) }
}

/// Asks the hosts of those targets that have something to go back to. What is known without a host is not asked.
fn ask(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    which: impl Fn(&TargetRollout) -> bool,
) -> Result<(), Rejection> {
    let deployment = Arc::clone(tx.deployment(id)?);
    let parts = deployment.order.iter().filter_map(|target| deployment.targets.get(target));
    let parts = parts.filter(|part| TenantState::is_worth_asking(part) && which(part));
    let (mut targets, mut known) = (Vec::new(), Vec::new());
    for part in parts {
        let planned = PlannedTarget {
            target: part.target,
            release: part.release,
            previous: part.previous,
            domain: None,
            legs: part.legs.to_vec(),
        };
        match provable(&tx.tenant, &planned) {
            Provable::Nothing => {}
            Provable::Known(answer) => known.push((part.target, answer)),
            Provable::By(..) => targets.push(part.target),
        }
    }
    if targets.is_empty() && known.is_empty() {
        return Ok(());
    }
    let number = deployment.way_back.asked.saturating_add(1);
    tx.emit(Fact::WayBackAsked { deployment: id, number, targets, until: tx.now.plus_ms(WINDOW_MS) })?;
    for (target, answer) in known {
        tx.emit(Fact::WayBackAnswered { deployment: id, target, answer })?;
    }
    Ok(())
}

/// What could prove that a target can go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provable {
    /// There is nothing to go back to, or no need to.
    Nothing,
    /// It is known without asking its host.
    Known(ProofAnswer),
    /// The host that this agent is on, if it holds this in this slot.
    By(AgentId, Option<Name>, Vec<Wanted>),
}

/// Who could say whether a target could go back from what is to be brought there.
#[must_use]
pub fn provable(tenant: &TenantState, planned: &PlannedTarget) -> Provable {
    let has_colour = planned.legs.last().is_some_and(|leg| leg.colour.is_some());
    if planned.previous.is_none_or(|previous| previous == planned.release && !has_colour) {
        return Provable::Nothing;
    }
    let refuted = |reason: String| Provable::Known(ProofAnswer::Refuted { reason: cut(&reason) });
    let target = tenant.targets.get(&planned.target);
    let (Some(target), Some(environment), Some(release), Some(previous)) = (
        target,
        target.and_then(|target| tenant.environments.get(&target.environment)),
        tenant.releases.get(&planned.release),
        planned.previous.and_then(|previous| tenant.releases.get(&previous)),
    ) else {
        return refuted("what was there is gone".to_owned());
    };
    // Only of groups the steps that prepare are run on others.
    let leads = planned.legs.last().is_some_and(|leg| leg.steps == Steps::Switch)
        && !planned.legs.iter().any(|leg| leg.steps == Steps::Prepare);
    if leads {
        return match group::no_way_back(tenant, environment, target, &planned.legs) {
            Some(why) => refuted(why),
            None => Provable::Known(ProofAnswer::Proven { files: 0, bytes: 0 }),
        };
    }
    if let Some(why) = way_back::missing(tenant, environment, release, target) {
        return refuted(why);
    }
    let wanted = tenant.kept_on(target, previous);
    if wanted.is_empty() {
        return Provable::Known(ProofAnswer::Proven { files: 0, bytes: 0 });
    }
    let Some(agent) = tenant.agents.get(&target.agent) else {
        return refuted("its agent is gone".to_owned());
    };
    if agent.revoked.is_some() {
        return refuted(format!("its agent {} was revoked", agent.name));
    }
    match unheard(agent) {
        Some(reason) => Provable::Known(ProofAnswer::Unproven { reason }),
        None => Provable::By(agent.id, target.slot.clone(), wanted),
    }
}

/// Why an agent cannot be asked, if it cannot. One whose session was lost a moment ago may be back at once.
fn unheard(agent: &Agent) -> Option<String> {
    let name = &agent.name;
    match agent.connectivity {
        Connectivity::Never => Some(format!("its agent {name} has never connected")),
        Connectivity::Offline { .. } => Some(format!("its agent {name} is offline")),
        Connectivity::Suspect { .. } | Connectivity::Online { .. } => {
            let understands = agent.capabilities & capability::HOLDINGS != 0;
            (!understands).then(|| format!("its agent {name} ({}) is too old to say", agent.version))
        }
    }
}

/// An agent has said what its host holds. What nobody waits for any more is answered without an event.
pub(super) fn answer(
    tx: &mut Transaction<'_>,
    agent: AgentId,
    session: SessionEpoch,
    question: QuestionId,
    holdings: &[Holding],
) -> Result<Outcome, Rejection> {
    agent::is_heard(tx, agent, session)?;
    let Some((deployment, target)) = tx.tenant.asked_about(agent, question) else { return Ok(Outcome::Done) };
    let Some(asked) = tx.tenant.inspection(deployment, target) else { return Ok(Outcome::Done) };
    let answer = judge(&asked.wanted, holdings);
    tx.emit(Fact::WayBackAnswered { deployment, target, answer })?;
    look_again(tx, deployment)?;
    Ok(Outcome::Done)
}

/// What a host's answer comes to: the worst of what it says.
#[must_use]
pub fn judge(wanted: &[Wanted], holdings: &[Holding]) -> ProofAnswer {
    if wanted.len() != holdings.len() {
        return ProofAnswer::Unproven { reason: "its agent has answered something else".to_owned() };
    }
    let (mut files, mut bytes, mut unproven) = (0_u32, 0_u64, None);
    for (one, holding) in wanted.iter().zip(holdings) {
        let about = |what: &str| cut(&format!("{} {}: {what}", one.component, one.version));
        match holding {
            Holding::Present { files: more, bytes: length } => {
                files = files.saturating_add(*more);
                bytes = bytes.saturating_add(*length);
            }
            Holding::Absent => return ProofAnswer::Refuted { reason: about("is not on the host") },
            Holding::Damaged { reason } => return ProofAnswer::Refuted { reason: about(reason) },
            Holding::Unverified { reason } => unproven = unproven.or_else(|| Some(about(reason))),
        }
    }
    match unproven {
        Some(reason) => ProofAnswer::Unproven { reason },
        None => ProofAnswer::Proven { files, bytes },
    }
}

/// Those who have not answered have not proven anything.
pub(super) fn overdue(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    tx.emit(Fact::WayBackUnanswered { deployment: id })?;
    look_again(tx, id)
}

/// Goes on with a deployment of which everything is known now.
fn look_again(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.way_back.open > 0 || !deployment.has_not_begun() {
        return Ok(());
    }
    let waits = deployment.paused.is_some() && deployment.paused_for == PauseCause::WayBack;
    if waits && !tx.tenant.may_begin(deployment) {
        return hold(tx, id);
    }
    rollout::advance(tx, id)
}

/// Asks again, because somebody has put something right.
pub(super) fn ask_again(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<Outcome, Rejection> {
    let deployment = tx.deployment(id)?;
    has_something_to_prove(tx, deployment)?;
    if deployment.way_back.open == 0 {
        ask(tx, id, |_| true)?;
        look_again(tx, id)?;
    }
    Ok(Outcome::Done)
}

fn has_something_to_prove(tx: &Transaction<'_>, deployment: &Deployment) -> Result<(), Rejection> {
    let id = deployment.id;
    if !deployment.has_not_begun() {
        let problem = format!(
            "deployment {id} is {}, and nothing is left to prove: that is done before the first target is changed",
            deployment.status.name()
        );
        return Err(Rejection::Conflict { problem });
    }
    if tx.tenant.proof_rule(deployment) == ProofRule::Off {
        let problem = "the environment asks for no proof; see what it wants with: stella env way-back-proof";
        return Err(Rejection::conflict(problem.to_owned()));
    }
    Ok(())
}

/// An agent is back: what it could not say while it was away it can say now.
pub(super) fn agent_is_back(tx: &mut Transaction<'_>, agent: AgentId) -> Result<(), Rejection> {
    let places = tx.tenant.index.slots.get(&agent).into_iter().flat_map(|slots| slots.values());
    let waits = places.filter_map(|target| {
        let id = tx.tenant.targets.get(target)?.active?;
        let deployment = tx.tenant.deployments.get(&id)?;
        let is_held = deployment.paused.is_some() && deployment.paused_for == PauseCause::WayBack;
        (is_held && deployment.has_not_begun()).then_some((id, *target))
    });
    let waits: Vec<(DeploymentId, TargetId)> = waits.collect();
    for (id, target) in waits {
        let is_doubted = |part: &TargetRollout| {
            let unproven =
                matches!(part.way_back, Some(Proof::Known { answer: ProofAnswer::Unproven { .. }, .. }));
            part.target == target && unproven
        };
        ask(tx, id, is_doubted)?;
        look_again(tx, id)?;
    }
    Ok(())
}

/// An agent will not answer what it was asked: nobody has to wait until the window is over.
pub(super) fn agent_is_gone(tx: &mut Transaction<'_>, agent: AgentId) -> Result<(), Rejection> {
    let holder = tx.agent(agent)?;
    let name = &holder.name;
    let answer = match &holder.revoked {
        Some(_) => ProofAnswer::Refuted { reason: format!("its agent {name} was revoked") },
        None => ProofAnswer::Unproven { reason: format!("its agent {name} is offline") },
    };
    let open = tx.tenant.inspections.get(&agent).into_iter().flatten().copied();
    for (deployment, target) in open.collect::<Vec<_>>() {
        // What followed from the one before may have closed it.
        if tx.tenant.inspection(deployment, target).is_some() {
            tx.emit(Fact::WayBackAnswered { deployment, target, answer: answer.clone() })?;
            look_again(tx, deployment)?;
        }
    }
    Ok(())
}

/// Lets a deployment begin although not all of its targets have proven that they could go back. It is kept for ever who did.
pub(super) fn waive(tx: &mut Transaction<'_>, id: DeploymentId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let deployment = tx.deployment(id)?;
    has_something_to_prove(tx, deployment)?;
    if deployment.way_back.waived.is_none() {
        tx.emit(Fact::WayBackWaived { deployment: id, reason: reason.to_owned() })?;
        rollout::advance(tx, id)?;
    }
    Ok(Outcome::Done)
}

/// Pauses a deployment of which not all targets could go back, as soon as that is known, and says which.
fn hold(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.way_back.open > 0 {
        return Ok(());
    }
    let name =
        |id: TargetId| tx.tenant.targets.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string());
    let stuck: Vec<(TargetId, &str)> = deployment.stuck().collect();
    let named = stuck.iter().take(NAMED_MAX).map(|(target, why)| format!("{} ({why})", name(*target)));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match stuck.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let reason = format!("it is not proven that it could go back on {named}{more}");
    if deployment.paused.as_ref().is_some_and(|hold| hold.reason == reason) {
        return Ok(());
    }
    let cause = PauseCause::WayBack;
    tx.emit(Fact::DeploymentPaused { id, reason, until: None, canary_step: None, cause })
}

fn cut(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}
