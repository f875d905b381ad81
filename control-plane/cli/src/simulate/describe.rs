//! A scenario of what is there.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use stella_api_types::agent::Agent;
use stella_api_types::deployment::{Deployment, Strategy};
use stella_api_types::environment::{Environment, ProofRule};
use stella_api_types::gate::Gate;
use stella_api_types::paths;
use stella_api_types::release::Release;
use stella_api_types::target::Target;
use stella_api_types::task::Task;
use stella_api_types::time::parse_rfc3339;
use stella_simulate::{STAGES_MAX, length};

use crate::Context;
use crate::args::Output;
use crate::client::Error;
use crate::{print, promotion};

/// What a step is taken to last that was never done there.
const GUESS: &str = "10s";

/// Prints a scenario of an environment and a release.
pub(crate) async fn scenario(
    context: &Context,
    environment: &str,
    release: Option<String>,
) -> Result<(), Error> {
    let place: Environment = context.client.get(&context.path(paths::ENVIRONMENT, &[environment])?).await?;
    let targets = targets(context, &place.id).await?;
    if targets.is_empty() {
        return Err(Error::Usage(format!("environment {} has no targets", place.name)));
    }
    let agents: Vec<Agent> = context.client.list(&context.path(paths::AGENTS, &[])?, &[]).await?;
    let path = context.path(paths::DEPLOYMENTS, &[])?;
    let query = [("environment", place.id.as_str()), ("status", "succeeded")];
    let deployments: Vec<Deployment> = context.client.list(&path, &query).await?;
    let newest = |is_it: &dyn Fn(&&Deployment) -> bool| {
        let wanted = deployments.iter().filter(|it| it.rollback_of.is_none()).filter(is_it);
        wanted.max_by(|one, other| one.created_at.cmp(&other.created_at))
    };
    let wanted = release.or_else(|| newest(&|_| true).map(|it| it.release.id.clone())).ok_or_else(|| {
        Error::Usage(format!("nothing was deployed to {} yet; say which release, with --release", place.name))
    })?;
    let release: Release = context.client.get(&context.path(paths::RELEASE, &[&wanted])?).await?;
    let took = match newest(&|it| it.release.application == release.application) {
        Some(deployment) => took(context, &deployment.id).await?,
        None => BTreeMap::new(),
    };
    let mut scenario = described(&place, &targets, &agents, &release, &took);
    let way = way(context, &place).await?;
    if !way.is_empty() {
        scenario["path"] = Value::Array(way);
    }
    match context.output {
        Output::Json => print::json(&scenario),
        Output::Text => {
            let text = serde_saphyr::to_string(&scenario)
                .map_err(|error| Error::Usage(format!("the scenario cannot be written: {error}")))?;
            print::line(text.trim_end());
            Ok(())
        }
    }
}

async fn targets(context: &Context, environment: &str) -> Result<Vec<Target>, Error> {
    let path = context.path(paths::TARGETS, &[])?;
    context.client.list(&path, &[("environment", environment)]).await
}

/// The environments that come before one, the first of all first: as far back as there is one before each, and it has targets.
async fn way(context: &Context, place: &Environment) -> Result<Vec<Value>, Error> {
    let mut way = Vec::new();
    let mut next = place.follows.clone();
    while let Some(before) = next.take().filter(|it| it.others.is_empty() && way.len() < STAGES_MAX) {
        let id = &before.environment.id;
        let hosts = targets(context, id).await?.len();
        if hosts == 0 {
            break;
        }
        let mut stage = json!({ "name": before.environment.name, "hosts": hosts });
        if before.soak_seconds > 0 {
            stage["soak"] = json!(length(before.soak_seconds.saturating_mul(1_000)));
        }
        way.insert(0, stage);
        next = context.client.get::<Environment>(&context.path(paths::ENVIRONMENT, &[id])?).await?.follows;
    }
    Ok(way)
}

/// The shortest and the longest time that each step took, in milliseconds.
async fn took(context: &Context, deployment: &str) -> Result<BTreeMap<String, (u64, u64)>, Error> {
    let path = context.path(paths::DEPLOYMENT_TASKS, &[deployment])?;
    let tasks: Vec<Task> = context.client.list(&path, &[]).await?;
    let mut took = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.state == "succeeded") {
        let at = |text: &Option<String>| text.as_deref().and_then(|text| parse_rfc3339(text).ok());
        let (Some(from), Some(to)) = (at(&task.started_at), at(&task.finished_at)) else { continue };
        let ms = to.0.saturating_sub(from.0).max(1);
        let (least, most) = took.entry(task.step.clone()).or_insert((ms, ms));
        (*least, *most) = (ms.min(*least), ms.max(*most));
    }
    Ok(took)
}

fn described(
    place: &Environment,
    targets: &[Target],
    agents: &[Agent],
    release: &Release,
    took: &BTreeMap<String, (u64, u64)>,
) -> Value {
    let mut guessed = Vec::new();
    let steps: Vec<Value> = release
        .steps
        .iter()
        .map(|step| {
            let takes = match took.get(&step.name) {
                Some((least, most)) if least == most => length(*least),
                Some((least, most)) => format!("{}..{}", length(*least), length(*most)),
                None => {
                    guessed.push(step.name.as_str());
                    GUESS.to_owned()
                }
            };
            let mut described =
                json!({ "name": step.name, "takes": takes, "timeout": length(step.timeout_ms) });
            if !step.phase.is_prepare() {
                described["phase"] = json!(step.phase);
            }
            described
        })
        .collect();
    let about = format!("{}:{} to {}", release.application, release.version, place.name);
    let description = match guessed.as_slice() {
        [] => about,
        guessed => format!("{about}; nobody knows yet how long it takes: {}", guessed.join(", ")),
    };
    json!({
        "description": description,
        "fleet": fleet(targets, agents),
        "environment": policy(place),
        "steps": steps,
        "deploy": { "strategy": place.strategy.as_ref().map_or_else(one_at_a_time, strategy) },
    })
}

fn one_at_a_time() -> Value {
    json!({ "type": "rolling", "batch": 1 })
}

/// The environment's strategy as a scenario has it: its times are in milliseconds.
fn strategy(strategy: &Strategy) -> Value {
    let mut described = json!(strategy);
    in_milliseconds(&mut described);
    described
}

fn in_milliseconds(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let times: Vec<String> = map.keys().filter(|key| key.ends_with("_seconds")).cloned().collect();
            for key in times {
                let seconds = map.remove(&key).and_then(|seconds| seconds.as_u64());
                let name = key.replace("_seconds", "_ms");
                map.extend(seconds.map(|seconds| (name, json!(seconds.saturating_mul(1_000)))));
            }
            map.values_mut().for_each(in_milliseconds);
        }
        Value::Array(list) => list.iter_mut().for_each(in_milliseconds),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Targets with the same labels are one group.
fn fleet(targets: &[Target], agents: &[Agent]) -> Vec<Value> {
    let connectivity: BTreeMap<&str, &str> =
        agents.iter().map(|agent| (agent.id.as_str(), agent.connectivity.as_str())).collect();
    let mut groups = BTreeMap::<(&BTreeMap<String, String>, bool), u32>::new();
    for target in targets {
        let is_away = connectivity.get(target.agent.id.as_str()).is_none_or(|it| *it != "online");
        *groups.entry((&target.labels, is_away)).or_default() += 1;
    }
    let group = |((labels, is_away), hosts): ((&BTreeMap<String, String>, bool), u32)| {
        let mut group = Map::from_iter([("hosts".to_owned(), json!(hosts))]);
        if !labels.is_empty() {
            group.insert("labels".to_owned(), json!(labels));
        }
        if is_away {
            group.insert("away".to_owned(), json!(true));
        }
        Value::Object(group)
    };
    groups.into_iter().map(group).collect()
}

fn policy(place: &Environment) -> Value {
    let mut policy = Map::new();
    if let Some(budget) = &place.budget {
        policy.insert("budget".to_owned(), json!(budget.at_risk_max));
    }
    if let Some(silence) = &place.silence {
        let within = length(silence.within_seconds.saturating_mul(1_000));
        policy.insert("silence".to_owned(), json!({ "percent": silence.percent, "within": within }));
    }
    if let Some(rule) = &place.verification {
        policy.insert("bake".to_owned(), json!(length(rule.bake_seconds.saturating_mul(1_000))));
    }
    if place.requires_way_back {
        policy.insert("require_way_back".to_owned(), json!(true));
    }
    if place.way_back_proof != ProofRule::Off {
        policy.insert("way_back_proof".to_owned(), json!(place.way_back_proof));
    }
    if let Some(approvals) = &place.approvals {
        policy.insert("approvals".to_owned(), json!(promotion::needed(approvals)));
    }
    let gate = |gate: &Gate| match gate.verifies {
        true => json!({ "name": gate.name, "verifies": true }),
        false => json!({ "name": gate.name }),
    };
    let gates: Vec<Value> = place.gates.iter().map(gate).collect();
    if !gates.is_empty() {
        policy.insert("gates".to_owned(), Value::Array(gates));
    }
    let freezes = place.freezes.iter().map(|it| {
        json!({ "name": it.name, "reason": it.reason, "from": it.from, "to": it.to,
                "time_zone": it.time_zone, "repeats": it.repeats })
    });
    let freezes: Vec<Value> = freezes.collect();
    if !freezes.is_empty() {
        policy.insert("freezes".to_owned(), Value::Array(freezes));
    }
    Value::Object(policy)
}
