//! What people decide about the targets of a running deployment.

use axum::extract::State;
use stella_api_types::deployment::{DeploymentDetail, FailDeployment};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_domain::command::TenantCommand;
use stella_domain::deployment::Deployment;
use stella_domain::tenant::TenantState;
use stella_protocol::id::TargetId;

use super::deployments::detail;
use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, archive, parse, resolve};

/// Gives a running deployment up: what is under way comes to its end, and then it has failed.
#[utoipa::path(post, path = paths::DEPLOYMENT_FAIL, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = FailDeployment,
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn fail(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<FailDeployment>,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let deployment = resolve::deployment(&tenant, &deployment)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::FailDeployment { deployment, roll_back: body.roll_back, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
}

/// Asks hosts again whether a deployment could go back, before it has changed anything: somebody has put something right.
#[utoipa::path(post, path = paths::DEPLOYMENT_PROVE, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn prove(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let deployment = resolve::deployment(&tenant, &deployment)?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::ProveWayBack { deployment }).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
}

/// Lets a deployment begin although it is not proven that it could go back on every target. Who did, and why, stays.
#[utoipa::path(post, path = paths::DEPLOYMENT_WAIVE, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn waive(
    State(app): State<App>,
    Path((tenant, deployment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let deployment = resolve::deployment(&tenant, &deployment)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::WaiveWayBack { deployment, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
}

/// Tries a failed target of a running deployment again, from its first step.
#[utoipa::path(post, path = paths::DEPLOYMENT_TARGET_RETRY, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path), ("target" = String, Path)),
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn retry_target(
    State(app): State<App>,
    Path((tenant, deployment, target)): Path<(String, String, String)>,
    change: Change,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let of = resolve::deployment(&tenant, &deployment)?;
    let (deployment, target) = (of.id, part(&tenant, of, &target)?);
    let command = TenantCommand::RetryTarget { deployment, target };
    change.tenant(&app, tenant.id, &(), command).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
}

/// Leaves a target of a running deployment alone: it waits, has failed, or waits for an agent that is away. The reason stays.
#[utoipa::path(post, path = paths::DEPLOYMENT_TARGET_SKIP, tag = "deployments",
    params(("tenant" = String, Path), ("deployment" = String, Path), ("target" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = DeploymentDetail)))]
pub(crate) async fn skip_target(
    State(app): State<App>,
    Path((tenant, deployment, target)): Path<(String, String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<DeploymentDetail>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_deployment(&app, resolve::tenant(&state, &tenant)?, &deployment).await?;
    let of = resolve::deployment(&tenant, &deployment)?;
    let (deployment, target) = (of.id, part(&tenant, of, &target)?);
    let reason = parse::reason("reason", &body.reason)?;
    let command = TenantCommand::SkipTarget { deployment, target, reason };
    change.tenant(&app, tenant.id, &body, command).await?;
    detail(&app, tenant.id, deployment).await.map(Json)
}

/// A target of a deployment by name or id, whether it is still there or was removed since.
fn part(tenant: &TenantState, deployment: &Deployment, text: &str) -> Result<TargetId, ApiError> {
    let removed = deployment.targets.keys().find(|id| id.to_string() == text);
    match removed {
        Some(id) => Ok(*id),
        None => Ok(resolve::target_in(tenant, deployment.environment, text)?.id),
    }
}
