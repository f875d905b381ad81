//! Deployments, rollbacks and tasks.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use stella_api_types::deployment::{
    CancelDeployment, CreateDeployment, Deployment, DeploymentDetail, DeploymentPlan, RetryDeployment,
    RollbackDeployment, RollbackPlan, TargetTasks,
};
use stella_api_types::promotion::{Asked, Promotion};
use stella_api_types::task::{SettleTask, Task};
use stella_api_types::{Page, paths};
use stella_domain::command::{NewDeployment, Outcome, TenantCommand};
use stella_domain::rejection::Rejection;
use stella_domain::strategy::Strategy;
use stella_domain::tenant::TenantState;
use stella_domain::{decide, deployment as domain};
use stella_engine::Walk;
use stella_protocol::id::{DeploymentId, EnvironmentId, TargetId, TaskId, TenantId};
use stella_protocol::time::Timestamp;
use utoipa::IntoParams;
use uuid::Uuid;

use super::promotions::{self, TargetOfPlan};
use crate::body::{First, Json, MaybeJson, Paging, Path, Query};
use crate::error::ApiError;
use crate::submit::{Change, unexpected};
use crate::{App, archive, parse, resolve, view, way_back};

/// How many targets an answer may have that is made where others are waited for. One of 10,000 takes a good part of a second.
const TARGETS_AT_ONCE: usize = 500;

/// Which deployments.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeploymentFilter {
    /// Only those to this environment.
    environment: Option<String>,
    /// Only those that bring a release of this application.
    application: Option<String>,
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

/// Lists deployments.
#[utoipa::path(get, path = paths::DEPLOYMENTS, tag = "deployments", params(("tenant" = String, Path), DeploymentFilter),
    responses((status = 200, body = Page<Deployment>)))]
pub(crate) async fn deployments(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(filter): Query<DeploymentFilter>,
) -> Result<Json<Page<Deployment>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment =
        filter.environment.as_deref().map(|text| resolve::environment(tenant, text)).transpose()?;
    let status = filter.status.as_deref().map(|status| parse::status("status", status)).transpose()?;
    let application =
        filter.application.as_deref().map(|text| parse::name("application", text)).transpose()?;
    let is_wanted = |it: &domain::Deployment| {
        environment.is_none_or(|wanted| it.environment == wanted.id)
            && status.is_none_or(|status| it.status.name() == status)
            && application.as_ref().is_none_or(|wanted| {
                tenant.releases.get(&it.release).is_some_and(|release| release.application == *wanted)
            })
    };
    let memory =
        tenant.deployments.iter().filter(|(_, it)| is_wanted(it)).map(|(id, it)| (*id, Arc::clone(it)));
    let archive = app.engine.archive();
    let read = (tenant.archived.deployments > 0).then_some(async |walk| {
        let found = archive.deployments(tenant.id, walk, archive::READ_MAX).await?;
        Ok(found.into_iter().map(|it| (it.id, it)).collect())
    });
    let paging = Paging { limit: filter.limit, cursor: filter.cursor, first: filter.first };
    archive::page(&paging, memory, read, is_wanted, |it| view::deployment(tenant, it)).await
}

/// Brings a release to an environment: at once, or with the approvals that it needs there.
#[utoipa::path(post, path = paths::DEPLOYMENTS, tag = "deployments", params(("tenant" = String, Path)),
    request_body = CreateDeployment,
    responses((status = 201, body = DeploymentDetail), (status = 202, description = "It waits for approvals", body = Promotion)))]
pub(crate) async fn deploy(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateDeployment>,
) -> Result<(StatusCode, Json<Asked>), ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let new = wanted(tenant, &body, app.engine.now())?;
    let outcome = change.tenant(&app, tenant.id, &body, TenantCommand::Deploy(Box::new(new))).await?;
    asked(&app, tenant.id, &outcome).await
}

/// Shows what a deployment would do: its targets in their order, what is on each, and what a person should know. It is
/// refused where the deployment would be, for the same reason; nothing is changed.
#[utoipa::path(post, path = paths::DEPLOYMENT_PLANS, tag = "deployments", params(("tenant" = String, Path)),
    request_body = CreateDeployment, responses((status = 200, body = DeploymentPlan)))]
pub(crate) async fn plan(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateDeployment>,
) -> Result<Json<DeploymentPlan>, ApiError> {
    let state = app.engine.state();
    let tenant = Arc::clone(resolve::tenant(&state, &tenant)?);
    let (actor, now) = (change.actor(), app.engine.now());
    let new = wanted(&tenant, &body, now)?;
    let (known, count) = (Arc::clone(&tenant), state.tenants.len());
    // Thousands of targets take a while.
    let decided = tokio::task::spawn_blocking(move || {
        decide::plan(&state, actor, tenant.id, &new, now).map(|planned| {
            (view::plan(&tenant, &new, &planned, now), way_back::provable(&tenant, &new, &planned.targets))
        })
    });
    let (mut plan, provable) = decided.await.map_err(|error| ApiError::internal(&error))??;
    if let Some(reach) = &app.outside {
        reach.now().doubt(&known, count, &mut plan);
    }
    way_back::look(&app, &mut plan, provable).await;
    Ok(Json(plan))
}

/// Shows what a deployment would run on one of its targets, filled in, and what would take that back. It is refused where the deployment
/// would be; nothing is changed.
#[utoipa::path(post, path = paths::DEPLOYMENT_PLAN_TASKS, tag = "deployments",
    params(("tenant" = String, Path), TargetOfPlan), request_body = CreateDeployment,
    responses((status = 200, body = TargetTasks)))]
pub(crate) async fn plan_tasks(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(of): Query<TargetOfPlan>,
    change: Change,
    Json(body): Json<CreateDeployment>,
) -> Result<Json<TargetTasks>, ApiError> {
    let state = app.engine.state();
    let tenant = Arc::clone(resolve::tenant(&state, &tenant)?);
    let (actor, now) = (change.actor(), app.engine.now());
    let new = wanted(&tenant, &body, now)?;
    let target = resolve::target_in(&tenant, new.environment, &of.target)?.id;
    // Thousands of targets take a while.
    let work = tokio::task::spawn_blocking(move || {
        let work = decide::plan_work(&state, actor, (tenant.id, target), &new, now)?;
        Ok::<_, Rejection>(view::target_tasks(&tenant, &new, target, &work))
    });
    Ok(Json(work.await.map_err(|error| ApiError::internal(&error))??))
}

/// The deployment that is asked for, under a new id.
fn wanted(tenant: &TenantState, body: &CreateDeployment, now: Timestamp) -> Result<NewDeployment, ApiError> {
    let place = resolve::environment(tenant, &body.environment)?;
    let environment = place.id;
    let release = match &body.channel {
        None => resolve::release(tenant, &body.release)?.id,
        Some(channel) => {
            let application = parse::name("release", &body.release)?;
            decide::newest(tenant, place, &application, &parse::name("channel", channel)?, now)?
        }
    };
    let targets = chosen(tenant, environment, body)?;
    Ok(NewDeployment {
        id: DeploymentId(Uuid::now_v7()),
        environment,
        release,
        strategy: match &body.strategy {
            Some(strategy) => parse::strategy(strategy)?,
            None => place.strategy.clone().unwrap_or(Strategy::usual()),
        },
        on_failure: parse::on_failure(body.on_failure),
        tolerate_failures: parse::maybe_amount("tolerate_failures", body.tolerate_failures.as_ref())?,
        targets,
        timeout_ms: parse::timeout_ms("timeout_seconds", body.timeout_seconds)?,
        override_freeze: why("override_freeze", body.override_freeze.as_deref())?,
        override_path: why("override_path", body.override_path.as_deref())?,
        waive_way_back: why("waive_way_back", body.waive_way_back.as_deref())?,
        replace_application: body.replace_application,
        job: None,
    })
}

/// Why something that speaks against it does not matter, if somebody says so.
fn why(field: &str, reason: Option<&str>) -> Result<Option<String>, ApiError> {
    reason.map(|reason| parse::reason(field, reason)).transpose()
}

/// The targets that are asked for by name or by label; `None` is all of the environment.
fn chosen(
    tenant: &TenantState,
    environment: EnvironmentId,
    body: &CreateDeployment,
) -> Result<Option<Vec<TargetId>>, ApiError> {
    if body.labels.is_empty() {
        let by_name = |name: &String| Ok(resolve::target_in(tenant, environment, name)?.id);
        return body.targets.as_ref().map(|names| names.iter().map(by_name).collect()).transpose();
    }
    if body.targets.is_some() {
        return Err(ApiError::invalid("labels", "choose targets by labels or by name, not by both"));
    }
    let found: Vec<TargetId> = tenant.targets_with(environment, &body.labels).map(|it| it.id).collect();
    if found.is_empty() {
        return Err(ApiError::invalid("labels", "no target of the environment has all of these labels"));
    }
    Ok(Some(found))
}

/// Takes a deployment back: each target that it touched gets what it had before.
#[utoipa::path(post, path = paths::DEPLOYMENT_ROLLBACK, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = Option<RollbackDeployment>,
    responses((status = 201, body = DeploymentDetail)))]
pub(crate) async fn rollback(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    MaybeJson(body): MaybeJson<RollbackDeployment>,
) -> Result<(StatusCode, Json<DeploymentDetail>), ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let of = resolve::deployment(&tenant, &deployment)?;
    let targets = named_in(&tenant, of, body.targets.as_deref())?;
    let command = TenantCommand::Rollback { id: DeploymentId(Uuid::now_v7()), of: of.id, targets };
    let outcome = change.tenant(&app, tenant.id, &body.targets, command).await?;
    created(&app, tenant.id, &outcome).await
}

/// Shows what taking a deployment back would do: where each target would go, and which would be left as they are. It is refused where
/// the rollback would be, for the same reason; nothing is changed.
#[utoipa::path(post, path = paths::DEPLOYMENT_ROLLBACK_PLANS, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = Option<RollbackDeployment>,
    responses((status = 200, body = RollbackPlan)))]
pub(crate) async fn rollback_plan(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    MaybeJson(body): MaybeJson<RollbackDeployment>,
) -> Result<Json<RollbackPlan>, ApiError> {
    let state = app.engine.state();
    let tenant = Arc::clone(resolve::tenant(&state, &tenant)?);
    let with_it = archive::with_deployment(&app, &tenant, &deployment).await?;
    let found = resolve::deployment(&with_it, &deployment)?;
    let of = found.id;
    if let Some(archived) = archive::only_readable(&app, &tenant, DeploymentId::KIND, &of.to_string()).await?
    {
        return Err(archived);
    }
    let targets = named_in(&with_it, found, body.targets.as_deref())?;
    let (actor, now) = (change.actor(), app.engine.now());
    let id = DeploymentId(Uuid::now_v7());
    // Thousands of targets take a while.
    let decided = tokio::task::spawn_blocking(move || {
        let planned = decide::plan_rollback(&state, actor, (tenant.id, id), of, targets, now)?;
        Ok::<_, Rejection>(view::rollback_plan(&tenant, of, &planned))
    });
    Ok(Json(decided.await.map_err(|error| ApiError::internal(&error))??))
}

/// The targets of these names or ids where a deployment went; `None` if none are given.
fn named_in(
    tenant: &TenantState,
    of: &domain::Deployment,
    names: Option<&[String]>,
) -> Result<Option<Vec<TargetId>>, ApiError> {
    let named = |name: &String| Ok(resolve::target_in(tenant, of.environment, name)?.id);
    names.map(|names| names.iter().map(named).collect()).transpose()
}

/// Ends the colours that an ended deployment has left idle, with the steps of the phase `retire` of what they hold.
#[utoipa::path(post, path = paths::DEPLOYMENT_RETIRE, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)),
    responses((status = 201, body = DeploymentDetail)))]
pub(crate) async fn retire(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
) -> Result<(StatusCode, Json<DeploymentDetail>), ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let of = resolve::deployment(tenant, &deployment)?.id;
    let command = TenantCommand::RetireColours { id: DeploymentId(Uuid::now_v7()), of };
    let outcome = change.tenant(&app, tenant.id, &(), command).await?;
    created(&app, tenant.id, &outcome).await
}

/// Deploys again to the targets that an ended deployment did not bring its release to.
#[utoipa::path(post, path = paths::DEPLOYMENT_RETRY, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = RetryDeployment,
    responses((status = 201, body = DeploymentDetail), (status = 202, description = "It waits for approvals", body = Promotion)))]
pub(crate) async fn retry(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<RetryDeployment>,
) -> Result<(StatusCode, Json<Asked>), ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let of = resolve::deployment(&tenant, &deployment)?;
    let targets = named_in(&tenant, of, body.targets.as_deref())?;
    let id = DeploymentId(Uuid::now_v7());
    let command = TenantCommand::RetryDeployment { id, of: of.id, targets };
    let outcome = change.tenant(&app, tenant.id, &body, command).await?;
    asked(&app, tenant.id, &outcome).await
}

/// What became of asking for a deployment.
async fn asked(
    app: &App,
    tenant: TenantId,
    outcome: &Outcome,
) -> Result<(StatusCode, Json<Asked>), ApiError> {
    if let Outcome::Promotion(id) = outcome {
        let promotion = promotions::shown(app, tenant, *id).await?;
        return Ok((StatusCode::ACCEPTED, Json(Asked::Waits(Box::new(promotion)))));
    }
    let (status, Json(deployment)) = created(app, tenant, outcome).await?;
    Ok((status, Json(Asked::Started(Box::new(deployment)))))
}

async fn created(
    app: &App,
    tenant: TenantId,
    outcome: &Outcome,
) -> Result<(StatusCode, Json<DeploymentDetail>), ApiError> {
    let Outcome::Deployment(id) = outcome else { return Err(unexpected(outcome)) };
    Ok((StatusCode::CREATED, Json(detail(app, tenant, *id).await?)))
}

/// A deployment as it is now.
pub(super) async fn detail(
    app: &App,
    tenant: TenantId,
    id: DeploymentId,
) -> Result<DeploymentDetail, ApiError> {
    let (state, id) = (app.engine.state(), id.to_string());
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let tenant = archive::with_deployment(app, tenant, &id).await?;
    Ok(view::deployment_detail(&tenant, resolve::deployment(&tenant, &id)?))
}

/// Shows a deployment with every target's part.
#[utoipa::path(get, path = paths::DEPLOYMENT, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn deployment(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let targets = resolve::deployment(&tenant, &deployment)?.targets.len();
    let answer = move || -> Result<Response, ApiError> {
        let found = resolve::deployment(&tenant, &deployment)?;
        Ok(Json(view::deployment_detail(&tenant, found)).into_response())
    };
    if targets <= TARGETS_AT_ONCE {
        return answer();
    }
    tokio::task::spawn_blocking(answer).await.map_err(|error| ApiError::internal(&error))?
}

/// Ends a deployment: what runs is stopped, what waits is not started.
#[utoipa::path(post, path = paths::DEPLOYMENT_CANCEL, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = CancelDeployment,
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn cancel(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<CancelDeployment>,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let id = resolve::deployment(&tenant, &deployment)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::CancelDeployment { deployment: id, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    detail(&app, tenant.id, id).await.map(Json)
}

/// Which page of a deployment's tasks; their ids say nothing about which came first.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TaskFilter {
    /// How many items at most, 1 to 500; 100 if not given.
    limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

/// Lists the tasks of a deployment.
#[utoipa::path(get, path = paths::DEPLOYMENT_TASKS, tag = "tasks",
    params(("tenant" = String, Path), ("deployment" = String, Path), TaskFilter), responses((status = 200, body = Page<Task>)))]
pub(crate) async fn tasks(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    Query(filter): Query<TaskFilter>,
) -> Result<Json<Page<Task>>, ApiError> {
    let paging = Paging { limit: filter.limit, cursor: filter.cursor, first: None };
    let state = app.engine.state();
    let now = resolve::tenant(&state, &tenant)?;
    let tenant = archive::with_deployment(&app, now, &deployment).await?;
    let deployment = resolve::deployment(&tenant, &deployment)?;
    let tasks = tenant.tasks_of(deployment).into_iter().map(|task| (task.id, Arc::clone(task)));
    let archive = app.engine.archive();
    let read = (!now.deployments.contains_key(&deployment.id)).then_some(async |walk: Walk<TaskId>| {
        let found = archive.tasks_of(tenant.id, deployment.id, walk.after, archive::READ_MAX).await?;
        Ok(found.into_iter().map(|task| (task.id, task)).collect())
    });
    archive::page(&paging, tasks, read, |_| true, |task| view::task(&tenant, task)).await
}

/// Shows a task.
#[utoipa::path(get, path = paths::TASK, tag = "tasks", params(("tenant" = String, Path), ("task" = String, Path)),
    responses((status = 200, body = Task)))]
pub(crate) async fn task(
    State(app): State<App>,
    Path((tenant, task)): Path<(String, String)>,
) -> Result<Json<Task>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_task(&app, resolve::tenant(&state, &tenant)?, &task).await?;
    Ok(Json(view::task(&tenant, resolve::task(&tenant, &task)?)))
}

/// Says what became of a task that is unknown.
#[utoipa::path(post, path = paths::TASK_SETTLE, tag = "tasks", params(("tenant" = String, Path), ("task" = String, Path)),
    request_body = SettleTask, responses((status = 200, body = Task)))]
pub(crate) async fn settle(
    State(app): State<App>,
    Path((tenant, task)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SettleTask>,
) -> Result<Json<Task>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_task(&app, resolve::tenant(&state, &tenant)?, &task).await?;
    let id = resolve::task(&tenant, &task)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::SettleTask { task: id, succeeded: body.succeeded, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    let (state, id) = (app.engine.state(), id.to_string());
    let tenant = archive::with_task(&app, resolve::tenant(&state, &tenant.id.to_string())?, &id).await?;
    Ok(Json(view::task(&tenant, resolve::task(&tenant, &id)?)))
}
