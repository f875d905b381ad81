//! Gates: which there are, what they say, and what follows from that.

use std::sync::Arc;

use stella_expression::Expression;
use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId, ReleaseId};
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{fields, promotion, put_off, release, rollout, signature};
use crate::command::{Answer, NewFindings, Outcome};
use crate::deployment::{Deployment, Status};
use crate::environment::Environment;
use crate::event::Fact;
use crate::findings::{self, FINDING_COMPONENT_BYTES_MAX, FINDING_ID_BYTES_MAX, FINDINGS_MAX, SCANNERS_MAX};
use crate::gate::{
    self, AGAIN_MS_RANGE, ALLOWED_MAX, Check, Evaluated, GATES_MAX, Gate, Outcome as Says, QUERY_BYTES_MAX,
    REPORTERS_MAX, Record, Standing, TTL_MS_RANGE, VARIABLES, cut,
};
use crate::name::Name;
use crate::promotion::PromotionStatus;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::tenant::TenantState;

/// What all gates of an environment together say about one promotion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It may come, or go on.
    Open,
    /// Nobody can say yet; it is looked at again when something is known.
    Waits,
    /// It may not.
    Closed(String),
}

/// What one gate would say about a release that nobody has asked for yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Which gate.
    pub gate: Name,
    /// Its type.
    pub kind: &'static str,
    /// Whether nobody looks at it before the release has come somewhere.
    pub verifies: bool,
    /// What it says; `None` if that has to be asked first.
    pub says: Option<(Says, String)>,
}

/// What the gates of an environment would say now.
#[must_use]
pub fn preview(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    now: Timestamp,
) -> Vec<Preview> {
    let look = |standing: &Standing| {
        let Gate { name, check, verifies, .. } = &standing.gate;
        let says = evaluate(tenant, environment, check, release, now).map(|it| (it.outcome, it.reason));
        Preview { gate: name.clone(), kind: check.name(), verifies: *verifies, says }
    };
    environment.gates.values().map(look).collect()
}

/// What a check comes to that is decided here; `None` if it has to be asked.
pub(super) fn evaluate(
    tenant: &TenantState,
    environment: &Environment,
    check: &Check,
    release: &Release,
    now: Timestamp,
) -> Option<Evaluated> {
    let reports = || tenant.findings.get(&release.id).cloned().unwrap_or_default();
    match check {
        // It brings no software that could have been looked into.
        Check::Security(security) if tenant.is_of_job(release.id) => {
            Some(security.nothing_to_find(release.id))
        }
        Check::Security(security) => Some(security.evaluate(release.id, &reports(), now)),
        Check::Expression { expression } => {
            Some(gate::evaluate_expression(expression, &environment.name, release, &reports()))
        }
        Check::Signature(rule) => Some(rule.evaluate(tenant, release)),
        Check::Metric { .. } | Check::Http { .. } | Check::Manual => None,
    }
}

/// Whether what a verdict was made on is what there is now.
fn looked_at(
    tenant: &TenantState,
    environment: &Environment,
    check: &Check,
    release: &Release,
    record: &Record,
) -> bool {
    let Some(verdict) = record.verdict.as_ref().filter(|_| record.overridden.is_none()) else { return true };
    inputs(tenant, environment, check, release).is_none_or(|inputs| verdict.inputs == Some(inputs))
}

/// Whether what something outside said is about what goes on now: nothing that it could be about has ended since.
fn is_of_this_wave(
    tenant: &TenantState,
    promotion: PromotionId,
    check: &Check,
    record: &Record,
    policy: Digest,
) -> bool {
    !check.is_outside()
        || record.is_overridden(policy)
        || record.verdict.as_ref().is_some_and(|it| it.wave == tenant.wave_of(promotion))
}

/// The digest of what a check that is decided here looks at; `None` for the others.
fn inputs(
    tenant: &TenantState,
    environment: &Environment,
    check: &Check,
    release: &Release,
) -> Option<Digest> {
    let reports = || tenant.findings.get(&release.id).cloned().unwrap_or_default();
    match check {
        Check::Security(security) => Some(security.inputs(release.id, &reports())),
        Check::Expression { .. } => Some(gate::expression_inputs(&environment.name, release, &reports())),
        Check::Signature(rule) => Some(rule.inputs(tenant, release.id)),
        Check::Metric { .. } | Check::Http { .. } | Check::Manual => None,
    }
}

/// Sets a gate, instead of one of the same name. What is under way meets it before its next wave.
pub(super) fn set(tx: &mut Transaction<'_>, id: EnvironmentId, gate: &Gate) -> Result<Outcome, Rejection> {
    let environment = environment(tx, id)?;
    let gate = &sorted(gate.clone());
    makes_sense(&tx.tenant, gate)?;
    let others = environment.gates.keys().filter(|name| **name != gate.name).count();
    if others >= GATES_MAX {
        let problem =
            format!("environment {} has {others} gates already; remove one first", environment.name);
        return Err(Rejection::Conflict { problem });
    }
    if environment.gates.get(&gate.name).is_none_or(|it| it.gate != *gate) {
        tx.emit(Fact::EnvironmentGateSet { id, gate: Box::new(gate.clone()) })?;
        nudge(tx, |it| it.0 == id)?;
    }
    Ok(Outcome::Done)
}

pub(super) fn remove(tx: &mut Transaction<'_>, id: EnvironmentId, name: &Name) -> Result<Outcome, Rejection> {
    if !environment(tx, id)?.gates.contains_key(name) {
        return Err(Rejection::not_found("gate", name));
    }
    tx.emit(Fact::EnvironmentGateRemoved { id, gate: name.clone() })?;
    nudge(tx, |it| it.0 == id)?;
    Ok(Outcome::Done)
}

/// What is looked up in a gate is in order.
fn sorted(mut gate: Gate) -> Gate {
    if let Check::Signature(rule) = &mut gate.check {
        rule.keys.sort_unstable();
        rule.keys.dedup();
    }
    gate
}

fn environment<'t>(tx: &'t Transaction<'_>, id: EnvironmentId) -> Result<&'t Arc<Environment>, Rejection> {
    tx.tenant.environments.get(&id).ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))
}

fn makes_sense(tenant: &TenantState, gate: &Gate) -> Result<(), Rejection> {
    fields::range("ttl_ms", gate.ttl_ms, TTL_MS_RANGE, " (a second to a week)")?;
    match &gate.check {
        Check::Security(security) => {
            if security.limits.is_empty() && security.scanners.is_empty() {
                let problem = "is empty, so that any report would do; say how many findings there may be";
                return Err(Rejection::invalid("limits", problem));
            }
            if security.allowed.len() > ALLOWED_MAX {
                let problem =
                    format!("there are {}; at most {ALLOWED_MAX} can be allowed", security.allowed.len());
                return Err(Rejection::invalid("allowed", problem));
            }
            if security.reporters.len() > REPORTERS_MAX {
                let problem =
                    format!("there are {}; at most {REPORTERS_MAX} can be named", security.reporters.len());
                return Err(Rejection::invalid("reporters", problem));
            }
            for (at, allowed) in security.allowed.iter().enumerate() {
                if allowed.id.is_empty() || allowed.id.len() > FINDING_ID_BYTES_MAX {
                    let problem = format!("must have 1 to {FINDING_ID_BYTES_MAX} bytes");
                    return Err(Rejection::invalid(format!("allowed[{at}].id"), problem));
                }
                fields::reason(&allowed.reason)?;
            }
            Ok(())
        }
        Check::Metric { query, .. } if query.trim().is_empty() || query.len() > QUERY_BYTES_MAX => {
            Err(Rejection::invalid("query", format!("must have 1 to {QUERY_BYTES_MAX} bytes")))
        }
        Check::Expression { expression } => compiles(expression),
        Check::Signature(rule) => signature::makes_sense(tenant, rule),
        Check::Metric { .. } | Check::Http { .. } | Check::Manual => Ok(()),
    }
}

/// A wrong name is found when the gate is set, and not when it is needed.
fn compiles(source: &str) -> Result<(), Rejection> {
    let invalid = |problem| Rejection::invalid("expression", problem);
    let expression = Expression::compile(source).map_err(|error| invalid(error.to_string()))?;
    match expression.references().iter().find(|it| !VARIABLES.contains(&it.name.as_str())) {
        Some(it) => {
            Err(invalid(format!("{}: there is no {}; there are {}", it.at, it.name, VARIABLES.join(", "))))
        }
        None => Ok(()),
    }
}

/// Whether questions may be asked outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// They are: something could start.
    Now,
    /// Not yet.
    Later,
}

/// What the gates say about a promotion now. What can be decided is, and is recorded if it is another verdict than before.
pub(super) fn rule(tx: &mut Transaction<'_>, id: PromotionId, asking: Asking) -> Result<Ruling, Rejection> {
    let has_brought = has_brought(&tx.tenant, id);
    rule_on(tx, id, asking, |gate| has_brought || !gate.verifies)
}

fn has_brought(tenant: &TenantState, promotion: PromotionId) -> bool {
    tenant.deployments.get(&DeploymentId(promotion.0)).is_some_and(|it| it.has_brought())
}

/// What the gates that verify say about what was brought.
pub(super) fn rule_at_the_end(tx: &mut Transaction<'_>, id: PromotionId) -> Result<Ruling, Rejection> {
    rule_on(tx, id, Asking::Now, |gate| gate.verifies)
}

fn rule_on(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    asking: Asking,
    matters: impl Fn(&Gate) -> bool,
) -> Result<Ruling, Rejection> {
    let Some(promotion) = tx.tenant.promotions.get(&id) else { return Ok(Ruling::Open) };
    let (place_id, release_id) = (promotion.wanted.environment, promotion.wanted.release);
    let place = Arc::clone(environment(tx, place_id)?);
    let release = tx.tenant.recipe(release_id).map(Arc::clone);
    let release = release.ok_or_else(|| Rejection::not_found(ReleaseId::KIND, release_id))?;
    let (mut waits, mut closed) =
        (false, signature::is_signed(&tx.tenant, &release).err().map(|it| it.to_string()));
    for standing in place.gates.values().filter(|it| matters(&it.gate)) {
        match rule_one(tx, id, (&place, &release), (standing, asking))? {
            Ruling::Open => {}
            Ruling::Waits => waits = true,
            Ruling::Closed(reason) => {
                closed = closed.or_else(|| Some(format!("gate {}: {reason}", standing.gate.name)))
            }
        }
    }
    Ok(match closed {
        Some(reason) => Ruling::Closed(reason),
        None if waits => Ruling::Waits,
        None => Ruling::Open,
    })
}

fn rule_one(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    (place, release): (&Environment, &Release),
    (Standing { gate, policy }, asking): (&Standing, Asking),
) -> Result<Ruling, Rejection> {
    let record = record(&tx.tenant, id, &gate.name);
    if record.lets_through(*policy, tx.now)
        && looked_at(&tx.tenant, place, &gate.check, release, &record)
        && is_of_this_wave(&tx.tenant, id, &gate.check, &record, *policy)
    {
        return Ok(Ruling::Open);
    }
    let before = record.verdict.as_ref().filter(|verdict| verdict.policy == *policy);
    // Time alone never makes one pass that did not, so that the same question need not be worked out again.
    if let Some(before) = before.filter(|it| it.outcome == Says::Failed && it.inputs.is_some())
        && inputs(&tx.tenant, place, &gate.check, release) == before.inputs
    {
        return Ok(Ruling::Closed(before.reason.clone()));
    }
    if let Some(found) = evaluate(&tx.tenant, place, &gate.check, release, tx.now) {
        let (outcome, reason) = (found.outcome, found.reason.clone());
        let ends = [found.changes_at, Some(tx.now.plus_ms(gate.ttl_ms))];
        let expires_at = ends.into_iter().flatten().min().filter(|_| outcome == Says::Passed);
        tx.emit(Fact::GateEvaluated {
            promotion: id,
            gate: gate.name.clone(),
            kind: gate.check.name().to_owned(),
            number: record.evaluations.saturating_add(1),
            policy: *policy,
            outcome,
            reason: cut(found.reason),
            inputs: Some(found.inputs),
            expires_at,
            again_at: None,
        })?;
        return Ok(if outcome == Says::Passed { Ruling::Open } else { Ruling::Closed(reason) });
    }
    if record.asked.is_some() {
        return Ok(Ruling::Waits);
    }
    let is_manual = matches!(gate.check, Check::Manual);
    let (is_silent, is_of_silence) =
        (place.silent_since.is_some(), before.is_some_and(|it| is_of_silence(place, it.asked_at)));
    match before {
        Some(it) if it.outcome == Says::Failed && is_manual => Ok(Ruling::Closed(it.reason.clone())),
        Some(it) if it.outcome == Says::Failed && record.again_at.is_some() && !is_of_silence => {
            Ok(Ruling::Closed(it.reason.clone()))
        }
        // It is asked again when it is time to. What was said in a silence that is over is asked for at once.
        Some(it)
            if it.outcome != Says::Passed
                && record.again_at.is_some()
                && (is_silent || it.outcome == Says::Unavailable) =>
        {
            Ok(Ruling::Waits)
        }
        Some(_) | None => {
            if asking == Asking::Now && !is_manual {
                ask(tx, id, &gate.name, &record, *policy)?;
            }
            Ok(Ruling::Waits)
        }
    }
}

/// Whether what something outside has said may be about nothing but agents that cannot be heard: that counts against no release.
pub(super) fn is_of_silence(place: &Environment, asked_at: Timestamp) -> bool {
    place.silent_since.is_some() || place.heard_again_at.is_some_and(|heard| asked_at < heard)
}

fn ask(
    tx: &mut Transaction<'_>,
    promotion: PromotionId,
    gate: &Name,
    record: &Record,
    policy: Digest,
) -> Result<(), Rejection> {
    let number = record.evaluations.saturating_add(1);
    tx.emit(Fact::GateAsked { promotion, gate: gate.clone(), number, policy })
}

fn record(tenant: &TenantState, promotion: PromotionId, gate: &Name) -> Record {
    tenant.gates.get(&promotion).and_then(|records| records.get(gate)).cloned().unwrap_or_default()
}

/// Whether a gate of its environment that no person decides has never been decided or asked for this promotion.
pub(super) fn is_new_to(tenant: &TenantState, promotion: PromotionId, environment: &Environment) -> bool {
    let known = |gate: &Name| {
        let record = record(tenant, promotion, gate);
        record.verdict.is_some() || record.asked.is_some() || record.overridden.is_some()
    };
    let waits = |it: &&Standing| !matches!(it.gate.check, Check::Manual) && !it.gate.verifies;
    let mut asked = environment.gates.values().filter(waits);
    asked.any(|it| !known(&it.gate.name))
}

/// The answer of something outside. One that is late changes nothing.
pub(super) fn answer(tx: &mut Transaction<'_>, answer: &Answer) -> Result<Outcome, Rejection> {
    let Answer { promotion, gate, number, outcome, reason, inputs } = answer;
    let asked = record(&tx.tenant, *promotion, gate).asked;
    if asked.is_some_and(|asked| asked.number == *number) {
        decided(tx, *promotion, gate, (*outcome, reason.clone()), *inputs)?;
    }
    Ok(Outcome::Done)
}

/// Nobody has answered in time.
pub(super) fn overdue(
    tx: &mut Transaction<'_>,
    promotion: PromotionId,
    gate: &Name,
) -> Result<(), Rejection> {
    decided(tx, promotion, gate, (Says::Unavailable, "there was no answer in time".to_owned()), None)
}

/// Asks what is outside while a deployment holds for the release to prove itself: at once, and then again and again.
pub(super) fn watch(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let promotion = PromotionId(id.0);
    let is_asked_for = deployment.cause.is_asked_for() && tx.tenant.promotions.contains_key(&promotion);
    if !deployment.is_watched() || !is_asked_for {
        return Ok(());
    }
    let has_brought = deployment.has_brought();
    let place = Arc::clone(environment(tx, deployment.environment)?);
    let outside = place.gates.values().filter(|it| it.gate.check.is_outside());
    for Standing { gate, policy } in outside.filter(|it| has_brought || !it.gate.verifies) {
        let record = record(&tx.tenant, promotion, &gate.name);
        let is_known = record.asked.is_some() || record.again_at.is_some();
        if !is_known && !record.is_overridden(*policy) {
            ask(tx, promotion, &gate.name, &record, *policy)?;
        }
    }
    Ok(())
}

/// The pause after a verdict is over.
pub(super) fn again(tx: &mut Transaction<'_>, promotion: PromotionId, gate: &Name) -> Result<(), Rejection> {
    let policy = standing(tx, promotion, gate)?.policy;
    let record = record(&tx.tenant, promotion, gate);
    ask(tx, promotion, gate, &record, policy)
}

/// Records what something outside, or a person, has said about a gate, and what follows.
fn decided(
    tx: &mut Transaction<'_>,
    promotion: PromotionId,
    gate: &Name,
    (outcome, reason): (Says, String),
    inputs: Option<Digest>,
) -> Result<(), Rejection> {
    let Standing { gate: Gate { check, ttl_ms, .. }, policy } = standing(tx, promotion, gate)?;
    let record = record(&tx.tenant, promotion, gate);
    let (is_asked, passed) = (record.asked.is_some(), outcome == Says::Passed);
    let holds = tx.tenant.deployments.get(&DeploymentId(promotion.0)).is_some_and(|it| it.is_watched());
    let pause_ms = match passed {
        true => holds.then_some(ttl_ms),
        false => Some(pause_ms(record.misses)),
    };
    tx.emit(Fact::GateEvaluated {
        promotion,
        gate: gate.clone(),
        kind: check.name().to_owned(),
        number: record.evaluations.saturating_add(1),
        policy,
        outcome,
        reason: cut(reason),
        inputs,
        expires_at: (passed && is_asked).then(|| tx.now.plus_ms(ttl_ms)),
        again_at: pause_ms.filter(|_| is_asked).map(|ms| tx.now.plus_ms(ms)),
    })?;
    nudge(tx, |it| it.1.0 == promotion.0)
}

/// What gates still wait for at the end of a deployment.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// The gates on which somebody has to say a word.
    pub(super) words: Vec<Name>,
    /// Whether something outside has to answer.
    pub(super) answers: bool,
}

/// What is missing for the end of a deployment: without a bake, only gates that verify matter then.
pub(super) fn missing(tx: &Transaction<'_>, deployment: &Deployment) -> Result<Missing, Rejection> {
    let id = PromotionId(deployment.id.0);
    let place = environment(tx, deployment.environment)?;
    let mut missing = Missing::default();
    let all = deployment.verification.is_some();
    for Standing { gate, policy } in place.gates.values().filter(|it| all || it.gate.verifies) {
        let record = record(&tx.tenant, id, &gate.name);
        let has_passed = record.lets_through(*policy, tx.now)
            && is_of_this_wave(&tx.tenant, id, &gate.check, &record, *policy);
        if !has_passed && matches!(gate.check, Check::Manual) {
            missing.words.push(gate.name.clone());
        }
        missing.answers |= !has_passed && gate.check.is_outside();
    }
    Ok(missing)
}

/// The gate as the promotion's environment has it.
fn standing(tx: &Transaction<'_>, promotion: PromotionId, gate: &Name) -> Result<Standing, Rejection> {
    let environment = environment(tx, tx.promotion(promotion)?.wanted.environment)?;
    environment.gates.get(gate).cloned().ok_or_else(|| Rejection::not_found("gate", gate))
}

/// Twice as long each time.
pub(super) fn pause_ms(misses: u32) -> u64 {
    let (first, longest) = AGAIN_MS_RANGE;
    first.checked_shl(misses).filter(|ms| *ms >> misses == first).unwrap_or(longest).min(longest)
}

/// A person's word on a manual gate.
pub(super) fn decide(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    gate: &Name,
    passed: bool,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let standing = concerned(tx, id, gate)?;
    if !matches!(standing.gate.check, Check::Manual) {
        let problem =
            format!("gate {gate} is of type {}, and not decided by people", standing.gate.check.name());
        return Err(Rejection::conflict(problem));
    }
    if tx.actor().account().is_none() {
        let problem = "a gate is decided by somebody: use a token that belongs to an account with the role approver (stella account create, \
             stella token create --account)";
        return Err(Rejection::Forbidden { problem: problem.to_owned() });
    }
    promotion::is_free_to_let_through(tx.actor(), tx.promotion(id)?, "decides on a gate of")?;
    let has_brought = has_brought(&tx.tenant, id);
    if standing.gate.verifies && !has_brought {
        let problem = format!(
            "gate {gate} is about what was brought, and nothing has come to a target yet; say it once the deployment has"
        );
        return Err(Rejection::conflict(problem));
    }
    let outcome = if passed { Says::Passed } else { Says::Failed };
    let before = record(&tx.tenant, id, gate).verdict;
    if before.is_none_or(|it| it.outcome != outcome || it.policy != standing.policy || it.reason != reason) {
        decided(tx, id, gate, (outcome, reason.to_owned()), None)?;
    }
    Ok(Outcome::Promotion(id))
}

/// Lets a promotion through a gate whatever it says. It is recorded for ever.
pub(super) fn override_it(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    gate: &Name,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if reason.trim().is_empty() {
        return Err(Rejection::invalid("reason", "is empty; say why the gate does not matter here"));
    }
    let policy = concerned(tx, id, gate)?.policy;
    if record(&tx.tenant, id, gate).overridden.is_none_or(|it| it.policy != policy) {
        tx.emit(Fact::GateOverridden {
            promotion: id,
            gate: gate.clone(),
            policy,
            reason: reason.to_owned(),
        })?;
        nudge(tx, |it| it.1.0 == id.0)?;
    }
    Ok(Outcome::Promotion(id))
}

/// The gate, if what it is about can still be let through or held up.
fn concerned(tx: &Transaction<'_>, id: PromotionId, gate: &Name) -> Result<Standing, Rejection> {
    let promotion = tx.promotion(id)?;
    let is_over = match &promotion.status {
        PromotionStatus::Pending => false,
        PromotionStatus::Started { .. } => tx.deployment(promotion.wanted.id)?.status != Status::Running,
        PromotionStatus::Rejected { .. }
        | PromotionStatus::Withdrawn { .. }
        | PromotionStatus::Expired { .. }
        | PromotionStatus::Invalidated { .. } => true,
    };
    if is_over {
        return Err(Rejection::conflict(format!(
            "promotion {id} starts nothing more; its gates do not matter now"
        )));
    }
    standing(tx, id, gate)
}

/// What a scanner has found in a release. It may end what is bringing that release.
pub(super) fn record_findings(tx: &mut Transaction<'_>, new: &NewFindings) -> Result<Outcome, Rejection> {
    let NewFindings { release: id, scanner, digest, findings, bounds } = new;
    let release = tx.tenant.releases.get(id).ok_or_else(|| Rejection::not_found(ReleaseId::KIND, id))?;
    if findings.len() > FINDINGS_MAX {
        let problem = format!(
            "there are {}; at most {FINDINGS_MAX} are kept, so leave the least severe out",
            findings.len()
        );
        return Err(Rejection::invalid("findings", problem));
    }
    for (at, found) in findings.iter().enumerate() {
        if found.id.is_empty() || found.id.len() > FINDING_ID_BYTES_MAX {
            let problem = format!("must have 1 to {FINDING_ID_BYTES_MAX} bytes");
            return Err(Rejection::invalid(format!("findings[{at}].id"), problem));
        }
        if found.id.contains(char::is_control) || found.component.contains(char::is_control) {
            return Err(Rejection::invalid(format!("findings[{at}]"), "must have no control characters"));
        }
        if found.component.len() > FINDING_COMPONENT_BYTES_MAX {
            let problem = format!("must have at most {FINDING_COMPONENT_BYTES_MAX} bytes");
            return Err(Rejection::invalid(format!("findings[{at}].component"), problem));
        }
    }
    let reports = tx.tenant.findings.get(id);
    let is_new = reports.is_none_or(|it| !it.contains_key(scanner));
    if is_new && reports.is_some_and(|it| it.len() >= SCANNERS_MAX) {
        let name = format!("{}:{}", release.application, release.version);
        return Err(Rejection::conflict(format!("{SCANNERS_MAX} scanners have reported on {name} already")));
    }
    let mut findings = findings.clone();
    findings.sort_unstable_by(|one, other| (other.severity, &one.id).cmp(&(one.severity, &other.id)));
    findings.dedup();
    let less = reports.and_then(|it| it.get(scanner)).map_or(0, |report| report.bytes());
    release::has_room(&tx.tenant, *bounds, (0, findings::bytes_of(&findings), less))?;
    tx.emit(Fact::FindingsRecorded { release: *id, scanner: scanner.clone(), digest: *digest, findings })?;
    let id = *id;
    nudge(tx, |it| it.2 == id)?;
    Ok(Outcome::Done)
}

/// Lets deployments that somebody asked for, and that are concerned, go on or halt as their gates say now.
pub(super) fn nudge(
    tx: &mut Transaction<'_>,
    concerns: impl Fn((EnvironmentId, DeploymentId, ReleaseId)) -> bool,
) -> Result<(), Rejection> {
    let active = tx.tenant.active_deployments.iter().filter_map(|id| tx.tenant.deployments.get(id));
    let concerned: Vec<DeploymentId> = active
        .filter(|it| it.cause.is_asked_for() && it.status == Status::Running)
        .filter(|it| concerns((it.environment, it.id, it.release)))
        .map(|it| it.id)
        .collect();
    for id in concerned {
        match rule(tx, PromotionId(id.0), Asking::Later)? {
            Ruling::Closed(reason) => rollout::halt_for_gate(tx, id, &reason)?,
            Ruling::Open | Ruling::Waits => put_off::advance(tx, id)?,
        }
    }
    Ok(())
}
