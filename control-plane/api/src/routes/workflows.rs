//! Workflows, and runs of them.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use stella_api_types::hold::HoldBack;
use stella_api_types::workflow::{AnswerStep, ApplyWorkflow, DecideStep, Run, RunPlan, StartRun, Workflow};
use stella_api_types::{Page, paths};
use stella_domain::command::{NewRun, Outcome, TenantCommand};
use stella_domain::decide;
use stella_domain::name::{Identifier, Name};
use stella_domain::run::{self as domain, RunStatus};
use stella_domain::tenant::TenantState;
use stella_domain::workflow::Version;
use stella_protocol::id::{RunId, TenantId};
use stella_workflow_file::{Fault, Source};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::{First, Json, Paging, Path, Query, page};
use crate::error::ApiError;
use crate::outside::Reach;
use crate::submit::{Change, unexpected};
use crate::{App, archive, parse, resolve, view};

/// How many faults of a template are told at once.
const FAULTS_MAX: usize = 10;

/// Lists workflows at their newest versions, those that were removed too.
#[utoipa::path(get, path = paths::WORKFLOWS, tag = "workflows", params(("tenant" = String, Path), Paging),
    responses((status = 200, body = Page<Workflow>)))]
pub(crate) async fn workflows(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Workflow>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let newest = tenant.workflows.iter().filter_map(|(name, workflow)| {
        let (number, version) = workflow.versions.get_max()?;
        Some((name.clone(), (workflow, *number, version)))
    });
    page(&paging, newest, |(workflow, number, version)| {
        view::workflow(workflow, number, version, warned(&app, tenant, version))
    })
}

/// Makes a template the newest version of its workflow. One that says the same as the newest changes nothing.
#[utoipa::path(post, path = paths::WORKFLOWS, tag = "workflows", params(("tenant" = String, Path)),
    request_body = ApplyWorkflow, responses((status = 200, body = Workflow)))]
pub(crate) async fn apply(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<ApplyWorkflow>,
) -> Result<Json<Workflow>, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    let text = body.source.clone();
    // Templates are compiled as they are checked, which takes more than a moment.
    let read = tokio::task::spawn_blocking(move || {
        let source = Source::parse(&text).map_err(|fault| vec![fault])?;
        let template = source.template()?;
        Ok::<_, Vec<Fault>>((source, template))
    });
    let read = read.await.map_err(|error| ApiError::internal(&error))?;
    let (source, template) = read.map_err(|faults| wrong(&faults))?;
    let name = template.name.clone();
    let command = TenantCommand::ApplyWorkflow(Box::new(template));
    let applied = change.tenant(&app, tenant, &body, command).await.map_err(|error| {
        error.placed(|field| match source.fault(field.to_owned(), String::new()).at {
            Some(at) => format!("line {}, column {}: ", at.line, at.column),
            None => String::new(),
        })
    })?;
    let Outcome::Workflow(number) = applied else { return Err(unexpected(&applied)) };
    shown(&app, tenant, &name, Some(number)).map(Json)
}

/// All that is wrong with a file; the field is the first one's.
fn wrong(faults: &[Fault]) -> ApiError {
    let field = faults.first().map(|fault| fault.field.clone()).filter(|field| !field.is_empty());
    let mut lines: Vec<String> = faults.iter().take(FAULTS_MAX).map(ToString::to_string).collect();
    if faults.len() > FAULTS_MAX {
        lines.push(format!("and {} more", faults.len() - FAULTS_MAX));
    }
    ApiError::invalid(field.unwrap_or_else(|| "source".to_owned()), lines.join("\n"))
}

/// Which version.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhichVersion {
    /// Its number; the newest if not given.
    version: Option<u32>,
}

/// Shows a workflow.
#[utoipa::path(get, path = paths::WORKFLOW, tag = "workflows",
    params(("tenant" = String, Path), ("workflow" = String, Path), WhichVersion), responses((status = 200, body = Workflow)))]
pub(crate) async fn workflow(
    State(app): State<App>,
    Path((tenant, workflow)): Path<(String, String)>,
    Query(which): Query<WhichVersion>,
) -> Result<Json<Workflow>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let name = resolve::workflow(tenant, &workflow)?.name.clone();
    shown(&app, tenant.id, &name, which.version).map(Json)
}

/// Lets nobody start a workflow any more. What runs goes on; applying it again makes it usable again.
#[utoipa::path(post, path = paths::WORKFLOW_REMOVE, tag = "workflows",
    params(("tenant" = String, Path), ("workflow" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = Workflow)))]
pub(crate) async fn remove(
    State(app): State<App>,
    Path((tenant, workflow)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<Workflow>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let name = resolve::workflow(tenant, &workflow)?.name.clone();
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::RemoveWorkflow { name: name.clone(), reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, &name, None).map(Json)
}

/// What of a version could never work here.
fn warned(app: &App, tenant: &TenantState, version: &Version) -> Vec<String> {
    let count = app.engine.state().tenants.len();
    app.outside
        .as_ref()
        .map(|reach| reach.now().warnings(&tenant.name, count, &version.template))
        .unwrap_or_default()
}

fn shown(app: &App, tenant: TenantId, name: &Name, number: Option<u32>) -> Result<Workflow, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let workflow = resolve::workflow(tenant, name.as_str())?;
    let number = number.unwrap_or_else(|| workflow.newest());
    let version = workflow.versions.get(&number);
    let version = version.ok_or_else(|| ApiError::not_found("version", &format!("{number} of {name}")))?;
    Ok(view::workflow(workflow, number, version, warned(app, tenant, version)))
}

/// Which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunFilter {
    /// Only those of this workflow.
    workflow: Option<String>,
    /// Only those with this status.
    status: Option<String>,
    /// How many items at most, 1 to 500; 100 if not given.
    limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
    /// `oldest` (if not given) or `newest`: what comes first.
    #[param(inline)]
    first: Option<First>,
}

/// Lists runs.
#[utoipa::path(get, path = paths::RUNS, tag = "workflows", params(("tenant" = String, Path), RunFilter),
    responses((status = 200, body = Page<Run>)))]
pub(crate) async fn runs(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(filter): Query<RunFilter>,
) -> Result<Json<Page<Run>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let workflow = filter.workflow.as_deref().map(|text| resolve::workflow(tenant, text)).transpose()?;
    if let Some(status) = &filter.status
        && !RunStatus::NAMES.contains(&status.as_str())
    {
        let problem = format!("is {status:?}; it must be one of {}", RunStatus::NAMES.join(", "));
        return Err(ApiError::invalid("status", problem));
    }
    let is_wanted = |run: &domain::Run| {
        workflow.is_none_or(|wanted| run.workflow == wanted.name)
            && filter.status.as_ref().is_none_or(|status| run.status.name() == status)
    };
    let memory = tenant.runs.iter().filter(|(_, run)| is_wanted(run)).map(|(id, run)| (*id, Arc::clone(run)));
    let archive = app.engine.archive();
    let read = (tenant.archived.runs > 0).then_some(async |walk| {
        let found = archive.runs(tenant.id, walk, archive::READ_MAX).await?;
        Ok(found.into_iter().map(|run| (run.id, run)).collect())
    });
    let paging = Paging { limit: filter.limit, cursor: filter.cursor.clone(), first: filter.first };
    archive::page(&paging, memory, read, is_wanted, |run| view::run(tenant, run)).await
}

/// Runs a workflow.
#[utoipa::path(post, path = paths::RUNS, tag = "workflows", params(("tenant" = String, Path)), request_body = StartRun,
    responses((status = 201, body = Run)))]
pub(crate) async fn start(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<StartRun>,
) -> Result<(StatusCode, Json<Run>), ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let new = wanted(tenant, &body)?;
    let command = TenantCommand::StartRun(Box::new(new));
    let started = change.tenant(&app, tenant.id, &body, command).await?;
    let Outcome::Run(id) = started else { return Err(unexpected(&started)) };
    Ok((StatusCode::CREATED, Json(shown_run(&app, tenant.id, id).await?)))
}

fn wanted(tenant: &TenantState, body: &StartRun) -> Result<NewRun, ApiError> {
    let workflow = resolve::workflow(tenant, &body.workflow)?.name.clone();
    let inputs = identified("inputs", &body.inputs)?;
    Ok(NewRun { id: RunId(Uuid::now_v7()), workflow, version: body.version, inputs })
}

/// Shows what a run would do on targets, with all the checks that its steps would go through now. Nothing is changed.
#[utoipa::path(post, path = paths::RUN_PLANS, tag = "workflows", params(("tenant" = String, Path)), request_body = StartRun,
    responses((status = 200, body = RunPlan)))]
pub(crate) async fn plan_run(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<StartRun>,
) -> Result<Json<RunPlan>, ApiError> {
    let state = app.engine.state();
    let tenant = Arc::clone(resolve::tenant(&state, &tenant)?);
    let (new, actor, now) = (wanted(&tenant, &body)?, change.actor(), app.engine.now());
    // Thousands of targets take a while.
    let (outside, count) = (app.outside.as_ref().map(Reach::now), state.tenants.len());
    let decided = tokio::task::spawn_blocking(move || {
        decide::plan_run(&state, actor, tenant.id, &new, now)
            .map(|planned| view::run_plan(&tenant, &planned, outside.as_deref().map(|it| (it, count)), now))
    });
    Ok(Json(decided.await.map_err(|error| ApiError::internal(&error))??))
}

fn identified(
    field: &str,
    values: &BTreeMap<String, Value>,
) -> Result<BTreeMap<Identifier, Value>, ApiError> {
    let identify = |(name, value): (&String, &Value)| {
        let id = name.parse::<Identifier>();
        let id = id.map_err(|error| ApiError::invalid(format!("{field}.{name}"), error.to_string()))?;
        Ok((id, value.clone()))
    };
    values.iter().map(identify).collect()
}

/// Shows a run.
#[utoipa::path(get, path = paths::RUN, tag = "workflows", params(("tenant" = String, Path), ("run" = String, Path)),
    responses((status = 200, body = Run)))]
pub(crate) async fn run(
    State(app): State<App>,
    Path((tenant, run)): Path<(String, String)>,
) -> Result<Json<Run>, ApiError> {
    let (tenant, run) = found(&app, &tenant, &run).await?;
    shown_run(&app, tenant, run).await.map(Json)
}

/// Ends a run, with what is under way in it.
#[utoipa::path(post, path = paths::RUN_CANCEL, tag = "workflows", params(("tenant" = String, Path), ("run" = String, Path)),
    request_body = HoldBack, responses((status = 200, body = Run)))]
pub(crate) async fn cancel_run(
    State(app): State<App>,
    Path((tenant, run)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<Run>, ApiError> {
    let (tenant, run) = found(&app, &tenant, &run).await?;
    let reason = parse::reason("reason", &body.reason)?;
    change.tenant(&app, tenant, &body, TenantCommand::CancelRun { run, reason }).await?;
    shown_run(&app, tenant, run).await.map(Json)
}

/// Tries a step again that failed and is held, or that will be tried again anyway.
#[utoipa::path(post, path = paths::STEP_RETRY, tag = "workflows",
    params(("tenant" = String, Path), ("run" = String, Path), ("step" = String, Path)), responses((status = 200, body = Run)))]
pub(crate) async fn retry_step(
    State(app): State<App>,
    Path((tenant, run, step)): Path<(String, String, String)>,
    change: Change,
) -> Result<Json<Run>, ApiError> {
    let (tenant, run) = found(&app, &tenant, &run).await?;
    let step = identifier(&step)?;
    change.tenant(&app, tenant, &(), TenantCommand::RetryStep { run, step }).await?;
    shown_run(&app, tenant, run).await.map(Json)
}

/// Gives a step what it asks for.
#[utoipa::path(post, path = paths::STEP_ANSWER, tag = "workflows",
    params(("tenant" = String, Path), ("run" = String, Path), ("step" = String, Path)), request_body = AnswerStep,
    responses((status = 200, body = Run)))]
pub(crate) async fn answer_step(
    State(app): State<App>,
    Path((tenant, run, step)): Path<(String, String, String)>,
    change: Change,
    Json(body): Json<AnswerStep>,
) -> Result<Json<Run>, ApiError> {
    let (tenant, run) = found(&app, &tenant, &run).await?;
    let (step, answers) = (identifier(&step)?, identified("answers", &body.answers)?);
    change.tenant(&app, tenant, &body, TenantCommand::AnswerStep { run, step, answers }).await?;
    shown_run(&app, tenant, run).await.map(Json)
}

/// Agrees to a step, or does not. With the last approval that it needs the run goes on.
#[utoipa::path(post, path = paths::STEP_DECIDE, tag = "workflows",
    params(("tenant" = String, Path), ("run" = String, Path), ("step" = String, Path)), request_body = DecideStep,
    responses((status = 200, body = Run)))]
pub(crate) async fn decide_step(
    State(app): State<App>,
    Path((tenant, run, step)): Path<(String, String, String)>,
    change: Change,
    Json(body): Json<DecideStep>,
) -> Result<Json<Run>, ApiError> {
    let (tenant, run) = found(&app, &tenant, &run).await?;
    let (step, approve, reason) = (identifier(&step)?, body.approve, body.reason.trim().to_owned());
    change.tenant(&app, tenant, &body, TenantCommand::DecideStep { run, step, approve, reason }).await?;
    shown_run(&app, tenant, run).await.map(Json)
}

fn identifier(text: &str) -> Result<Identifier, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("step", text))
}

async fn found(app: &App, tenant: &str, run: &str) -> Result<(TenantId, RunId), ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_run(app, resolve::tenant(&state, tenant)?, run).await?;
    Ok((tenant.id, resolve::run(&tenant, run)?.id))
}

async fn shown_run(app: &App, tenant: TenantId, id: RunId) -> Result<Run, ApiError> {
    let (state, id) = (app.engine.state(), id.to_string());
    let tenant = archive::with_run(app, resolve::tenant(&state, &tenant.to_string())?, &id).await?;
    Ok(view::run(&tenant, resolve::run(&tenant, &id)?))
}
