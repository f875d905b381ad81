//! Steps that look at a gate, or ask it. What is decided from the state is decided when the step begins. What asks something outside, or
//! a person, is a question of the step's attempt: one verdict ends it, whatever that is, and `retry` asks again. Only what something outside
//! has said while too many agents were silent, and that does not let it go on, ends nothing: it is asked again by itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stella_protocol::digest::Digest;
use stella_protocol::id::{EnvironmentId, ReleaseId, RunId};
use stella_protocol::time::Timestamp;

use super::deploy_step::{environment, release};
use super::gate;
use super::run::{self, Again, variables};
use super::transaction::Transaction;
use crate::command::Outcome;
use crate::environment::Environment;
use crate::event::Fact;
use crate::gate::{Check, Gate, Outcome as Says, QUERY_BYTES_MAX, Security, TTL_MS_DEFAULT, cut, digest_of};
use crate::name::{Identifier, Name};
use crate::rejection::Rejection;
use crate::run::{AskedGate, Run, StepEnd, Work};
use crate::signature::SignatureRule;
use crate::workflow::{GateStep, Query, Variables, render, render_for};

/// The gate that a step means.
struct Meant {
    name: Option<Name>,
    check: Check,
    policy: Digest,
    ttl_ms: u64,
}

/// A verdict.
struct Said {
    outcome: Says,
    reason: String,
    inputs: Option<Digest>,
    expires_at: Option<Timestamp>,
    /// The person who said it, if one did.
    by: Option<Name>,
}

/// What an attempt of a step looks at, or asks.
pub(super) fn work(tx: &Transaction<'_>, run: &Run, wanted: &GateStep) -> Result<Work, String> {
    let variables = variables(run, tx.meter());
    let fill =
        |field: &str, text: &str| render(text, &variables).map_err(|problem| format!("{field} {problem}"));
    let (place, what) = (fill("environment", &wanted.environment)?, fill("release", &wanted.release)?);
    let environment =
        environment(&tx.tenant, &place).ok_or_else(|| format!("there is no environment {place}"))?;
    let release = release(&tx.tenant, &what).ok_or_else(|| format!("there is no release {what}"))?;
    let place = tx.tenant.environments.get(&environment).ok_or("the environment is not there any more")?;
    let Meant { name, check, policy, ttl_ms } = meant(place, wanted, &variables)?;
    let asked = if check.is_decided_here() {
        None
    } else {
        let message = wanted.manual.as_ref().map_or("", |manual| &manual.message);
        let message = fill("manual.message", message)?;
        Some(Box::new(AskedGate { name, check, policy, ttl_ms, message, at: tx.now, again_at: None }))
    };
    Ok(Work::Gate { environment, release, asked })
}

fn meant(place: &Environment, wanted: &GateStep, variables: &Variables) -> Result<Meant, String> {
    let Some(name) = &wanted.name else {
        let check = written(wanted, variables)?;
        return Ok(Meant { name: None, policy: digest_of(&check), check, ttl_ms: TTL_MS_DEFAULT });
    };
    let standing = place.gates.get(name);
    let standing = standing.ok_or_else(|| format!("environment {} has no gate {name}", place.name))?;
    let Gate { check, ttl_ms, .. } = standing.gate.clone();
    Ok(Meant { name: Some(name.clone()), check, policy: standing.policy, ttl_ms })
}

/// The gate that a template has written, filled in. A checked one has exactly one.
fn written(wanted: &GateStep, variables: &Variables) -> Result<Check, String> {
    if let Some(metric) = &wanted.metric {
        let query = render_for(Query::default(), &metric.query, variables)
            .map_err(|problem| format!("metric.query {problem}"))?;
        if query.trim().is_empty() || query.len() > QUERY_BYTES_MAX {
            let bytes = query.len();
            return Err(format!(
                "metric.query has {bytes} bytes when it is filled in; it must have 1 to {QUERY_BYTES_MAX}"
            ));
        }
        let (source, comparison, threshold) = (metric.source.clone(), metric.comparison, metric.threshold);
        return Ok(Check::Metric { source, query, comparison, threshold });
    }
    if let Some(http) = &wanted.http {
        return Ok(Check::Http { endpoint: http.endpoint.clone() });
    }
    if wanted.manual.is_some() {
        return Ok(Check::Manual);
    }
    if let Some(expression) = &wanted.expression {
        return Ok(Check::Expression { expression: expression.clone() });
    }
    if let Some(needed) = wanted.signatures {
        return Ok(Check::Signature(SignatureRule { needed, keys: Vec::new() }));
    }
    Ok(Check::Security(Security { limits: wanted.findings.clone(), ..Security::default() }))
}

/// Looks at a gate that is decided from the state. What it says ends the attempt.
pub(super) fn look(
    tx: &mut Transaction<'_>,
    (id, step): (RunId, &Identifier),
    wanted: &GateStep,
    (place, release): (EnvironmentId, ReleaseId),
) -> Result<(), Rejection> {
    let run = tx.run(id)?;
    let looked = || {
        let place = tx.tenant.environments.get(&place).ok_or("the environment is not there any more")?;
        let release = tx.tenant.releases.get(&release).ok_or("the release is not there any more")?;
        let meant = meant(place, wanted, &variables(run, tx.meter()))?;
        let found = gate::evaluate(&tx.tenant, place, &meant.check, release, tx.now);
        let found = found.ok_or_else(|| format!("a gate of type {} has to be asked", meant.check.name()))?;
        Ok::<_, String>((meant, found))
    };
    match looked() {
        Ok((meant, found)) => {
            let (outcome, inputs) = (found.outcome, Some(found.inputs));
            let expires_at = found.changes_at.filter(|_| outcome == Says::Passed);
            let said = Said { outcome, reason: found.reason, inputs, expires_at, by: None };
            let asked_at = tx.now;
            decided(tx, (id, step), (meant, asked_at), said, Again::IfPlanned)
        }
        Err(reason) => run::fail(tx, id, step, &reason, Again::IfPlanned),
    }
}

/// What something outside has answered. Of an attempt that is not under way any more it is no news.
pub(super) fn answer(
    tx: &mut Transaction<'_>,
    (id, step, attempt): (RunId, &Identifier, u32),
    (outcome, reason): (Says, &str),
    inputs: Option<Digest>,
) -> Result<Outcome, Rejection> {
    let current = tx.run(id)?.steps.get(step).filter(|it| it.attempts == attempt);
    if let Some(asked) = current.and_then(|it| it.state.question()).cloned() {
        let expires_at = (outcome == Says::Passed).then(|| tx.now.plus_ms(asked.ttl_ms));
        let said = Said { outcome, reason: reason.to_owned(), inputs, expires_at, by: None };
        from_outside(tx, (id, step), asked, said)?;
    }
    Ok(Outcome::Done)
}

/// What something outside says, or does not, ends the attempt, unless it may be about nothing but agents that cannot be heard.
fn from_outside(
    tx: &mut Transaction<'_>,
    (id, step): (RunId, &Identifier),
    asked: AskedGate,
    said: Said,
) -> Result<(), Rejection> {
    let found = tx.run(id)?.steps.get(step);
    let is_of_silence = found.is_some_and(|found| {
        let place = found.state.approved_in().and_then(|place| tx.tenant.environments.get(&place));
        place.is_some_and(|place| gate::is_of_silence(place, asked.at))
    });
    if said.outcome == Says::Passed || !is_of_silence {
        return ends(tx, (id, step), asked, said, Again::IfPlanned);
    }
    let misses = found.map_or(0, |found| found.uncounted);
    let again_at = Some(tx.now.plus_ms(gate::pause_ms(misses)));
    let AskedGate { name, check, policy, ttl_ms, at: asked_at, .. } = asked;
    evaluated(tx, (id, step), (&Meant { name, check, policy, ttl_ms }, asked_at), &said, again_at)
}

/// A person's word on a gate that waits for one. Whoever has chosen what comes does not let it through.
pub(super) fn decide(
    tx: &mut Transaction<'_>,
    (id, step): (RunId, &Identifier),
    asked: AskedGate,
    (passes, reason): (bool, &str),
    by: Name,
) -> Result<Outcome, Rejection> {
    let outcome = if passes { Says::Passed } else { Says::Failed };
    let said = Said { outcome, reason: reason.to_owned(), inputs: None, expires_at: None, by: Some(by) };
    // A no is a no: nobody is asked again.
    ends(tx, (id, step), asked, said, Again::Never)?;
    Ok(Outcome::Run(id))
}

/// Nobody has said anything in time.
pub(super) fn overdue(
    tx: &mut Transaction<'_>,
    id: RunId,
    step: &Identifier,
    asked: AskedGate,
) -> Result<(), Rejection> {
    let who = if asked.is_manual() { "nobody has decided" } else { "there was no answer" };
    let reason = format!("{who} in time");
    let said = Said { outcome: Says::Unavailable, reason, inputs: None, expires_at: None, by: None };
    match asked.is_manual() {
        true => ends(tx, (id, step), asked, said, Again::IfPlanned),
        false => from_outside(tx, (id, step), asked, said),
    }
}

fn ends(
    tx: &mut Transaction<'_>,
    at: (RunId, &Identifier),
    asked: AskedGate,
    said: Said,
    again: Again,
) -> Result<(), Rejection> {
    let AskedGate { name, check, policy, ttl_ms, at: asked_at, .. } = asked;
    decided(tx, at, (Meant { name, check, policy, ttl_ms }, asked_at), said, again)
}

/// Records a verdict, which ends the attempt.
fn decided(
    tx: &mut Transaction<'_>,
    (id, step): (RunId, &Identifier),
    (meant, asked_at): (Meant, Timestamp),
    said: Said,
    again: Again,
) -> Result<(), Rejection> {
    evaluated(tx, (id, step), (&meant, asked_at), &said, None)?;
    let reason = cut(said.reason);
    if said.outcome == Says::Passed {
        let mut outputs = BTreeMap::from([("reason".to_owned(), Value::String(reason))]);
        outputs.extend(said.inputs.map(|inputs| ("inputs".to_owned(), json!(inputs))));
        outputs.extend(said.by.map(|by| ("decided_by".to_owned(), json!(by))));
        let end = StepEnd::Succeeded { outputs };
        return tx.emit(Fact::StepEnded { run: id, step: step.clone(), end });
    }
    let called = meant.name.map(|name| format!("gate {name}: ")).unwrap_or_default();
    let reason = match said.by {
        Some(by) if reason.is_empty() => format!("{called}{by} did not let it through"),
        Some(by) => format!("{called}{by} did not let it through: {reason}"),
        None => format!("{called}{reason}"),
    };
    run::fail(tx, id, step, &reason, again)
}

fn evaluated(
    tx: &mut Transaction<'_>,
    (id, step): (RunId, &Identifier),
    (meant, asked_at): (&Meant, Timestamp),
    said: &Said,
    again_at: Option<Timestamp>,
) -> Result<(), Rejection> {
    let attempt = tx.run(id)?.steps.get(step).map_or(0, |step| step.attempts);
    tx.emit(Fact::StepGateEvaluated {
        run: id,
        step: step.clone(),
        attempt,
        gate: meant.name.clone(),
        kind: meant.check.name().to_owned(),
        policy: meant.policy,
        asked_at,
        outcome: said.outcome,
        reason: cut(said.reason.clone()),
        inputs: said.inputs,
        expires_at: said.expires_at,
        again_at,
    })
}
