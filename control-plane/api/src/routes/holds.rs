//! What people hold back: releases and deployments.

use axum::extract::State;
use stella_api_types::deployment::DeploymentDetail;
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_api_types::release::{JudgeRelease, Release};
use stella_domain::command::TenantCommand;

use super::deployments::detail;
use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, archive, parse, resolve, view};

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
    Ok(Json(view::release(tenant, resolve::release(tenant, &release.to_string())?)))
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
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let deployment = resolve::deployment(&tenant, &deployment)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::PauseDeployment { deployment, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
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
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let deployment = resolve::deployment(&tenant, &deployment)?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::ResumeDeployment { deployment }).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
}
