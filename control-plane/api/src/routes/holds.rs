//! What people hold back: environments, releases and deployments.

use axum::extract::State;
use axum::http::StatusCode;
use stella_api_types::deployment::DeploymentDetail;
use stella_api_types::environment::{Environment, SetFreeze, SetPath};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_api_types::release::{JudgeRelease, Release};
use stella_domain::command::TenantCommand;
use stella_domain::environment::Requirement;

use super::deployments::detail;
use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, parse, resolve, view};

/// Locks an environment: no deployment may come, but for rollbacks. What is on its way there goes on.
#[utoipa::path(post, path = paths::ENVIRONMENT_LOCK, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = Environment)))]
pub(crate) async fn lock_environment(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::LockEnvironment { environment, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::environment(
        &state,
        app.engine.now(),
        tenant,
        resolve::environment(tenant, &environment.to_string())?,
    )))
}

/// Unlocks an environment. One that is not locked stays so.
#[utoipa::path(post, path = paths::ENVIRONMENT_UNLOCK, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), responses((status = 200, body = Environment)))]
pub(crate) async fn unlock_environment(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::UnlockEnvironment { environment }).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::environment(
        &state,
        app.engine.now(),
        tenant,
        resolve::environment(tenant, &environment.to_string())?,
    )))
}

/// Sets what a release must have been through before it may come to an environment.
#[utoipa::path(post, path = paths::ENVIRONMENT_PATH, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetPath,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_path(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetPath>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let soak_ms = parse::soak_ms("soak_seconds", body.soak_seconds)?;
    let after = body.after.as_deref().map(|text| resolve::environment(tenant, text)).transpose()?;
    let requires = after.map(|after| Requirement { after: after.id, soak_ms });
    let command = TenantCommand::SetEnvironmentPath { environment, requires };
    change.tenant(&app, tenant.id, &body, command).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::environment(
        &state,
        app.engine.now(),
        tenant,
        resolve::environment(tenant, &environment.to_string())?,
    )))
}

/// Lets nothing but rollbacks come to an environment at certain times. One of the same name is replaced.
#[utoipa::path(post, path = paths::ENVIRONMENT_FREEZES, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetFreeze,
    responses((status = 200, body = Environment)))]
pub(crate) async fn freeze(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetFreeze>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let freeze = Box::new(parse::freeze(&body)?);
    change.tenant(&app, tenant.id, &body, TenantCommand::FreezeEnvironment { environment, freeze }).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    let environment = resolve::environment(tenant, &environment.to_string())?;
    Ok(Json(view::environment(&state, app.engine.now(), tenant, environment)))
}

/// Takes a freeze back.
#[utoipa::path(delete, path = paths::ENVIRONMENT_FREEZE, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path), ("freeze" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn unfreeze(
    State(app): State<App>,
    Path((tenant, environment, freeze)): Path<(String, String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let freeze = freeze.parse().map_err(|_| ApiError::not_found("freeze", &freeze))?;
    change.tenant(&app, tenant.id, &(), TenantCommand::UnfreezeEnvironment { environment, freeze }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says what to think of a release. Blocking one halts the deployments that are bringing it somewhere.
#[utoipa::path(post, path = paths::RELEASE_STANDING, tag = "releases",
    params(("tenant" = String, Path), ("release" = String, Path)), request_body = JudgeRelease,
    responses((status = 200, body = Release)))]
pub(crate) async fn judge_release(
    State(app): State<App>,
    Path((tenant, release)): Path<(String, String)>,
    change: Change,
    Json(body): Json<JudgeRelease>,
) -> Result<Json<Release>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let release = resolve::release(tenant, &release)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let verdict = parse::verdict(body.standing);
    let command = TenantCommand::JudgeRelease { release, verdict, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::release(resolve::release(tenant, &release.to_string())?)))
}

/// Pauses a deployment: no further target is started. Those that are worked on come to their end, and its time stands still.
#[utoipa::path(post, path = paths::DEPLOYMENT_PAUSE, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn pause(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let deployment = resolve::deployment(tenant, &deployment)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::PauseDeployment { deployment, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    detail(&app, tenant.id, deployment).map(Json)
}

/// Lets a paused deployment go on. One that is not paused goes on anyway.
#[utoipa::path(post, path = paths::DEPLOYMENT_RESUME, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn resume(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let deployment = resolve::deployment(tenant, &deployment)?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::ResumeDeployment { deployment }).await?;
    detail(&app, tenant.id, deployment).map(Json)
}
