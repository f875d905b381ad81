//! Workflows and their runs.

mod graph;
mod plan;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_api_types::workflow::{
    AnswerStep, ApplyWorkflow, DecideStep, Run, RunPlan, StartRun, Step, Workflow as Dto,
};

use crate::args::{Format, Output, Window, Workflow};
use crate::client::Error;
use crate::follow::{self, INTERVAL, Look};
use crate::{Context, print, task, when, window};

use graph::Node;

/// Says what is wrong with a file; `false` if something is.
pub(crate) fn check(output: Output, file: &Path) -> Result<bool, Error> {
    let text = read(file)?;
    match stella_workflow_file::read(&text) {
        Ok(template) => {
            let (name, steps) = (template.name.to_string(), template.steps.len());
            let value = serde_json::json!({ "name": name, "steps": steps, "faults": [] });
            print::result(output, &value, |_| {
                let plural = if steps == 1 { "" } else { "s" };
                format!("workflow {name} is well-formed ({steps} step{plural})")
            })?;
            Ok(true)
        }
        Err(faults) => {
            let shown: Vec<String> =
                faults.iter().map(|fault| format!("{}: {fault}", file.display())).collect();
            print::result(output, &serde_json::json!({ "faults": shown }), |_| shown.join("\n"))?;
            Ok(false)
        }
    }
}

fn read(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file)
        .map_err(|error| Error::Usage(format!("{} cannot be read: {error}", file.display())))
}

/// Whether it went well: `false` is a run that did not succeed.
pub(crate) async fn workflow(context: &Context, command: Workflow) -> Result<bool, Error> {
    match command {
        Workflow::Check { file } => return check(context.output, &file),
        Workflow::Apply { file } => apply(context, &file).await?,
        Workflow::List => list(context).await?,
        Workflow::Show { workflow, version } => {
            let shown = found(context, &workflow, version).await?;
            print::result(context.output, &shown, |it| {
                let removed = it.removed.as_ref().map(|hold| format!(", removed: {}", hold.reason));
                let head = format!(
                    "{} version {} of {}{}",
                    it.name,
                    it.version,
                    it.newest,
                    removed.unwrap_or_default()
                );
                let template = serde_saphyr::to_string(&it.template).unwrap_or_default();
                let (at, by) = (when::moment_and_age(&it.applied_at), task::by(&it.applied_by));
                format!("{head}\napplied {at} by {by}\n\n{}", template.trim_end())
            })?;
        }
        Workflow::Remove { workflow, reason } => {
            let path = context.path(paths::WORKFLOW_REMOVE, &[&workflow])?;
            let removed: Dto = context.client.post(&path, &HoldBack { reason }, None).await?;
            print::result(context.output, &removed, |it| {
                format!("workflow {} is removed; what runs goes on", it.name)
            })?;
        }
        Workflow::Graph { workflow: _, run: Some(id), format, watch: true } => {
            return live(context, &id, format).await;
        }
        Workflow::Graph { workflow, run, format, watch: _ } => {
            let (title, nodes) = match (workflow, run) {
                (_, Some(run)) => {
                    let run: Run = context.client.get(&context.path(paths::RUN, &[&run])?).await?;
                    (
                        format!("{} {} ({})", run.workflow, run.id, run.status),
                        run.steps.iter().map(Node::of_run).collect(),
                    )
                }
                (workflow, None) => {
                    let shown = found(context, &workflow.unwrap_or_default(), None).await?;
                    (format!("{} version {}", shown.name, shown.version), graph::of_template(&shown.template))
                }
            };
            print::result(context.output, &nodes, |nodes| graph::draw(format, &title, nodes))?;
        }
        Workflow::Run { .. }
        | Workflow::Runs { .. }
        | Workflow::Status { .. }
        | Workflow::Watch { .. }
        | Workflow::Cancel { .. }
        | Workflow::Retry { .. }
        | Workflow::Answer { .. }
        | Workflow::Approve { .. }
        | Workflow::Reject { .. } => return runs(context, command).await,
    }
    Ok(true)
}

async fn apply(context: &Context, file: &Path) -> Result<(), Error> {
    let body = ApplyWorkflow { source: read(file)? };
    let applied: Dto = context.client.post(&context.path(paths::WORKFLOWS, &[])?, &body, None).await?;
    applied.warnings.iter().for_each(|warning| print::warning(warning));
    print::result(context.output, &applied, |it| format!("workflow {} has version {}", it.name, it.version))
}

async fn list(context: &Context) -> Result<(), Error> {
    let all: Vec<Dto> = context.client.list(&context.path(paths::WORKFLOWS, &[])?, &[]).await?;
    let head = ["NAME", "VERSION", "APPLIED", "BY", "STATE", "DESCRIPTION"];
    print::list(context.output, &all, &head, |it| {
        let state = if it.removed.is_some() { "removed" } else { "usable" };
        vec![
            it.name.clone(),
            it.newest.to_string(),
            when::ago(&it.applied_at),
            task::by(&it.applied_by),
            state.to_owned(),
            it.description.clone(),
        ]
    })
}

async fn found(context: &Context, workflow: &str, version: Option<u32>) -> Result<Dto, Error> {
    let path = context.path(paths::WORKFLOW, &[workflow])?;
    let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
    context.client.get(&format!("{path}{query}")).await
}

async fn runs(context: &Context, command: Workflow) -> Result<bool, Error> {
    let step = |template: &str, run: &str, step: &str| context.path(template, &[run, step]);
    let changed: Run = match command {
        Workflow::Run { workflow, version, inputs, plan, wait } => {
            let wanted = wanted(context, &workflow, version, &inputs).await?;
            let body = StartRun { workflow, version, inputs: values(inputs, &wanted) };
            if plan {
                let path = context.path(paths::RUN_PLANS, &[])?;
                let planned: RunPlan = context.client.post(&path, &body, None).await?;
                print::result(context.output, &planned, plan::text)?;
                return Ok(true);
            }
            let key = uuid::Uuid::new_v4().to_string();
            let run: Run = context.client.post(&context.path(paths::RUNS, &[])?, &body, Some(&key)).await?;
            if wait {
                return watch(context, &run.id).await;
            }
            run
        }
        Workflow::Runs { workflow, status, window } => {
            all(context, workflow, status, &window).await?;
            return Ok(true);
        }
        Workflow::Watch { run } => return watch(context, &run).await,
        Workflow::Status { run } => context.client.get(&context.path(paths::RUN, &[&run])?).await?,
        Workflow::Cancel { run, reason } => {
            context
                .client
                .post(&context.path(paths::RUN_CANCEL, &[&run])?, &HoldBack { reason }, None)
                .await?
        }
        Workflow::Retry { run, step: id } => {
            context.client.post(&step(paths::STEP_RETRY, &run, &id)?, &(), None).await?
        }
        Workflow::Answer { run, step: id, answers } => {
            let asking: Run = context.client.get(&context.path(paths::RUN, &[&run])?).await?;
            let asking = asking.steps.into_iter().find(|step| step.id == id);
            let wanted = asking.and_then(|step| step.asks_for).unwrap_or_default();
            let body = AnswerStep { answers: values(answers, &wanted) };
            context.client.post(&step(paths::STEP_ANSWER, &run, &id)?, &body, None).await?
        }
        Workflow::Approve { run, step: id, reason } => {
            let body = DecideStep { approve: true, reason };
            context.client.post(&step(paths::STEP_DECIDE, &run, &id)?, &body, None).await?
        }
        Workflow::Reject { run, step: id, reason } => {
            let body = DecideStep { approve: false, reason };
            context.client.post(&step(paths::STEP_DECIDE, &run, &id)?, &body, None).await?
        }
        Workflow::Check { .. }
        | Workflow::Apply { .. }
        | Workflow::List
        | Workflow::Show { .. }
        | Workflow::Remove { .. }
        | Workflow::Graph { .. } => return Ok(true),
    };
    print::result(context.output, &changed, text)?;
    Ok(true)
}

/// The inputs that a workflow wants, as in its template. Nobody is asked for them if none are given.
async fn wanted(
    context: &Context,
    workflow: &str,
    version: Option<u32>,
    given: &[(String, String)],
) -> Result<Value, Error> {
    if given.is_empty() {
        return Ok(Value::Null);
    }
    Ok(found(context, workflow, version).await?.template.get("inputs").cloned().unwrap_or_default())
}

/// What people write, as what is wanted under these names. What does not fit is sent as it is: the control plane says what would.
fn values(pairs: Vec<(String, String)>, wanted: &Value) -> BTreeMap<String, Value> {
    let value = |name: &str, text: String| {
        let kind = wanted.get(name).and_then(|it| it.get("type")).and_then(Value::as_str);
        let typed = match kind {
            Some("number") => text.parse::<i64>().ok().map(Value::from),
            Some("boolean") => text.parse::<bool>().ok().map(Value::from),
            _ => None,
        };
        typed.unwrap_or(Value::String(text))
    };
    pairs.into_iter().map(|(name, text)| (name.clone(), value(&name, text))).collect()
}

async fn all(
    context: &Context,
    workflow: Option<String>,
    status: Option<String>,
    window: &Window,
) -> Result<(), Error> {
    let filters = [("workflow", workflow), ("status", status)];
    let query: Vec<(&str, &str)> =
        filters.iter().filter_map(|(key, value)| value.as_deref().map(|value| (*key, value))).collect();
    let path = context.path(paths::RUNS, &[])?;
    let runs = window::list(context, &path, &query, window, |it: &Run| (&it.id, &it.started_at)).await?;
    let head = ["ID", "WORKFLOW", "VERSION", "STATUS", "STARTED", "BY"];
    print::list(context.output, &runs, &head, |it| {
        vec![
            it.id.clone(),
            it.workflow.clone(),
            it.version.to_string(),
            it.status.clone(),
            when::ago(&it.started_at),
            task::by(&it.started_by),
        ]
    })
}

fn text(run: &Run) -> String {
    let mut lines = vec![headline(run)];
    let (at, by) = (when::moment_and_age(&run.started_at), task::by(&run.started_by));
    lines.push(format!("started {at} by {by}"));
    lines.extend(run.steps.iter().map(|step| format!("  {}", describe(&run.id, step))));
    lines.extend(run.outputs.iter().map(|(name, value)| format!("output {name}: {}", shown(value))));
    lines.join("\n")
}

/// A value for people: a text as it is, all else as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn headline(run: &Run) -> String {
    let reason = print::because(run.reason.as_deref());
    let (status, but) = (said(&run.status), exceptions(run));
    format!("run {} of {} version {} {status}{but}{reason}", run.id, run.workflow, run.version)
}

/// The steps whose failure did not matter to a run that has succeeded.
fn exceptions(run: &Run) -> String {
    let failed = run.steps.iter().filter(|step| step.state == "failed").map(|step| step.id.as_str());
    let failed: Vec<&str> = failed.filter(|_| run.status == "succeeded").collect();
    match failed.as_slice() {
        [] => String::new(),
        [step] => format!(", but for step {step}, which failed"),
        steps => format!(", but for the steps {}, which failed", steps.join(", ")),
    }
}

fn said(status: &str) -> String {
    if matches!(status, "succeeded" | "failed") { format!("has {status}") } else { format!("is {status}") }
}

/// A step, and what somebody can do about it.
fn describe(run: &str, step: &Step) -> String {
    let mut line = format!("{} {} ({}) {}", graph::sign(&step.state), step.id, step.kind, step.state);
    line.push_str(&print::because(step.reason.as_deref()));
    let id = &step.id;
    match (&step.approval, &step.deployment) {
        (Some(approval), _) => {
            let message =
                if approval.message.is_empty() { String::new() } else { format!(" {}", approval.message) };
            let (given, needed) = (approval.approvals.len(), approval.needed);
            line.push_str(&format!(":{message} ({given}/{needed}); stella workflow approve {run} {id}"));
        }
        (None, Some(job)) if step.kind == "task" && step.promotion.is_some() => {
            line.push_str(&format!(": job {job}"));
        }
        (None, Some(job)) if step.kind == "task" => {
            line.push_str(&format!(": job {job}; stella task list {job}"));
        }
        (None, Some(deployment)) => line.push_str(&format!(": deployment {deployment}")),
        (None, None) => {
            let by = step.outputs.get("approved_by").and_then(Value::as_array).into_iter().flatten();
            let by: Vec<&str> = by.filter_map(Value::as_str).collect();
            if !by.is_empty() {
                line.push_str(&format!(": approved by {}", print::one_line(&by.join(", "))));
            }
        }
    }
    if let (Some(status), Some(id)) = (&step.promotion, &step.deployment) {
        line.push_str(&match status.as_str() {
            "approved" => "; approved, and waits for its start".to_owned(),
            _ => format!("; waits for approvals or gates: stella promotion show {id}"),
        });
    }
    for child in &step.runs {
        let item = child.item.as_ref().map(|item| format!("{item}: ")).unwrap_or_default();
        line.push_str(&format!("; {item}run {} {}", child.run, said(&child.status)));
    }
    if let Some(gate) = step.gate.as_ref().filter(|gate| gate.source.is_some()) {
        let called = gate.gate.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let source = gate.source.as_deref().unwrap_or_default();
        line.push_str(&format!(": asks {source} ({} gate{called})", gate.kind));
    }
    if step.asks_for.is_some() {
        line.push_str(&format!("; stella workflow answer {run} {id} --set NAME=VALUE"));
    }
    if step.state == "held" {
        line.push_str(&format!("; stella workflow retry {run} {id}"));
    }
    if let Some(due) = &step.due_at {
        line.push_str(&format!(" (until {})", when::moment(due)));
    }
    line
}

/// Draws a run anew with each change until it has ended; whether it succeeded. On a terminal the picture stays where it is.
async fn live(context: &Context, id: &str, format: Format) -> Result<bool, Error> {
    let path = context.path(paths::RUN, &[id])?;
    let takes_back = print::can_take_back();
    let mut shown = String::new();
    let watching = follow::until(
        INTERVAL,
        async || context.client.get::<Run>(&path).await,
        |look| {
            let Some(run) = seen(look) else { return Ok(None) };
            let title = format!("{} {} ({})", run.workflow, run.id, run.status);
            let nodes: Vec<Node> = run.steps.iter().map(Node::of_run).collect();
            let picture = graph::draw(format, &title, &nodes);
            if picture != shown {
                if takes_back && !shown.is_empty() {
                    print::take_back(shown.lines().count());
                }
                print::line(&picture);
                shown = picture;
            }
            Ok(run.is_final.then(|| run.status == "succeeded"))
        },
    );
    follow::unless_interrupted(watching, || goes_on(id)).await
}

/// How a run goes on that is watched no more.
fn goes_on(id: &str) -> String {
    format!(
        "watch it again with: stella workflow watch {id}; end the run with: stella workflow cancel {id} --reason REASON"
    )
}

/// The run, or the word that it is not seen for now.
fn seen(look: Look<Run>) -> Option<Run> {
    match look {
        Look::Found(run) => Some(run),
        Look::Lost(why) => {
            print::warning(&format!("{why}; trying again"));
            None
        }
    }
}

/// Shows each change until the run has ended; whether it succeeded.
async fn watch(context: &Context, id: &str) -> Result<bool, Error> {
    let path = context.path(paths::RUN, &[id])?;
    let mut shown = BTreeMap::<String, String>::new();
    let watching = follow::until(
        INTERVAL,
        async || context.client.get::<Run>(&path).await,
        |look| {
            let Some(run) = seen(look) else { return Ok(None) };
            if context.output == Output::Text {
                for step in run.steps.iter().filter(|step| step.state != "waiting") {
                    let text = describe(id, step);
                    if shown.get(&step.id) != Some(&text) {
                        print::line(&text);
                        shown.insert(step.id.clone(), text);
                    }
                }
            }
            if !run.is_final {
                return Ok(None);
            }
            print::result(context.output, &run, headline)?;
            Ok(Some(run.status == "succeeded"))
        },
    );
    follow::unless_interrupted(watching, || goes_on(id)).await
}
