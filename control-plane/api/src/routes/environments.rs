//! How environments are called, what they take and when: the path, approvals, budgets, silence, freezes and locks.

use axum::extract::State;
use axum::http::StatusCode;
use stella_api_types::environment::{
    Environment, SetApprovals, SetBudget, SetFreeze, SetPath, SetSilence, SetStrategy, SetVerification,
    SetWayBack, SetWayBackProof, UpdateEnvironment,
};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_domain::command::TenantCommand;
use stella_domain::environment::{SilenceRule, Verification};
use stella_protocol::id::{EnvironmentId, TenantId};

use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, parse, resolve, view};

/// Changes an environment's name or its place among the others.
#[utoipa::path(post, path = paths::ENVIRONMENT_UPDATE, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = UpdateEnvironment,
    responses((status = 200, body = Environment)))]
pub(crate) async fn update_environment(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<UpdateEnvironment>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let found = resolve::environment(tenant, &environment);
    // Sent again, because the answer was lost: it has its new name by now.
    if let (Err(_), Some(name)) = (&found, &body.name)
        && change.was_carried_out(tenant, &body)?
    {
        return shown(&app, tenant.id, resolve::environment(tenant, name)?.id);
    }
    let id = found?.id;
    let name = body.name.as_deref().map(|name| parse::name("name", name)).transpose()?;
    let command = TenantCommand::UpdateEnvironment { id, name, order: body.order };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, id)
}

/// Removes an environment that nothing is in and nothing leads to. What was done there stays recorded, under its name.
#[utoipa::path(delete, path = paths::ENVIRONMENT, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)),
    responses((status = 204, description = "Removed")))]
pub(crate) async fn remove_environment(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let found = resolve::environment(tenant, &environment);
    if found.is_err() && change.was_carried_out(tenant, &())? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let id = found?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::RemoveEnvironment { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

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
    shown(&app, tenant.id, environment)
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
    shown(&app, tenant.id, environment)
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
    let requires = parse::path(tenant, &body)?;
    let command = TenantCommand::SetEnvironmentPath { environment, requires };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Lets nothing but rollbacks come to an environment at certain times. One of the same name is replaced.
#[utoipa::path(post, path = paths::ENVIRONMENT_FREEZES, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetFreeze,
    responses((status = 200, body = Environment)))]
pub(crate) async fn freeze_environment(
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
    shown(&app, tenant.id, environment)
}

/// Takes a freeze back.
#[utoipa::path(delete, path = paths::ENVIRONMENT_FREEZE, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path), ("freeze" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn unfreeze_environment(
    State(app): State<App>,
    Path((tenant, environment, freeze)): Path<(String, String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let found = resolve::environment(tenant, &environment);
    if found.is_err() && change.was_carried_out(tenant, &())? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let environment = found?.id;
    let freeze = freeze.parse().map_err(|_| ApiError::not_found("freeze", &freeze))?;
    change.tenant(&app, tenant.id, &(), TenantCommand::UnfreezeEnvironment { environment, freeze }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets how many targets of an environment may be at risk at once, in all its deployments together. Rollbacks are not counted.
#[utoipa::path(post, path = paths::ENVIRONMENT_BUDGET, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetBudget,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_budget(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetBudget>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let budget = parse::maybe_amount("at_risk_max", body.at_risk_max.as_ref())?;
    let command = TenantCommand::SetEnvironmentBudget { environment, budget };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Sets whether deployments to an environment must be able to go back on every target, or be let through with a reason.
#[utoipa::path(post, path = paths::ENVIRONMENT_WAY_BACK, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetWayBack,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_way_back(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetWayBack>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let command = TenantCommand::SetEnvironmentWayBack { environment, required: body.required };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Sets how targets of an environment follow one another in deployments that do not say.
#[utoipa::path(post, path = paths::ENVIRONMENT_STRATEGY, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetStrategy,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_strategy(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetStrategy>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let strategy = body.strategy.as_ref().map(parse::strategy).transpose()?;
    let command = TenantCommand::SetEnvironmentStrategy { environment, strategy };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Sets what an environment wants of the proof that a deployment could go back. What waits there for the proof goes on if it is not
/// required any more.
#[utoipa::path(post, path = paths::ENVIRONMENT_WAY_BACK_PROOF, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetWayBackProof,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_way_back_proof(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetWayBackProof>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let rule = parse::proof_rule(body.proof);
    let command = TenantCommand::SetEnvironmentWayBackProof { environment, rule };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Sets what comes after the last wave of deployments to an environment: the release bakes in on all targets, and the gates are asked
/// meanwhile and once more at the end. A deployment has succeeded after that alone; what is under way goes by the rule of before.
#[utoipa::path(post, path = paths::ENVIRONMENT_VERIFICATION, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetVerification,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_verification(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetVerification>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let bake_ms = body.bake_seconds.map(|seconds| parse::bake_ms("bake_seconds", seconds)).transpose()?;
    let verification = bake_ms.map(|bake_ms| Verification { bake_ms });
    let command = TenantCommand::SetEnvironmentVerification { environment, verification };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Sets when silence of an environment's agents is taken for a network event: its deployments pause then, and go on when enough of
/// the agents are heard again.
#[utoipa::path(post, path = paths::ENVIRONMENT_SILENCE, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetSilence,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_silence(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetSilence>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let within_ms = parse::silence_ms("within_seconds", body.within_seconds)?;
    let rule = body.percent.map(|percent| SilenceRule { percent, within_ms });
    let command = TenantCommand::SetEnvironmentSilence { environment, rule };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// Sets whose approval promotions to an environment need. Those that wait have to be asked for anew.
#[utoipa::path(post, path = paths::ENVIRONMENT_APPROVALS, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetApprovals,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_approvals(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetApprovals>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let rule = parse::approvals(&state, tenant.id, environment, &body)?;
    let command = TenantCommand::SetEnvironmentApprovals { environment, rule };
    change.tenant(&app, tenant.id, &body, command).await?;
    shown(&app, tenant.id, environment)
}

/// An environment as it is now.
pub(super) fn shown(app: &App, tenant: TenantId, id: EnvironmentId) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let environment = resolve::environment(tenant, &id.to_string())?;
    Ok(Json(view::environment(&state, app.engine.now(), tenant, environment)))
}
