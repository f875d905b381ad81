//! Hosts that are taken out of rotation, and come back.

use axum::extract::State;
use stella_api_types::agent::Agent;
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_domain::command::TenantCommand;
use stella_protocol::id::{AgentId, TenantId};

use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, parse, resolve, view};

/// Takes an agent's host out of rotation: what is under way there ends, and nothing new begins. One that is out of it stays so; another
/// reason takes the place of the one before.
#[utoipa::path(post, path = paths::AGENT_DRAIN, tag = "agents", params(("tenant" = String, Path), ("agent" = String, Path)),
    request_body = HoldBack, responses((status = 200, body = Agent)))]
pub(crate) async fn drain_agent(
    State(app): State<App>,
    Path((tenant, agent)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<Agent>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let agent = resolve::agent(tenant, &agent)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    change.tenant(&app, tenant.id, &body, TenantCommand::DrainAgent { agent, reason }).await?;
    shown(&app, tenant.id, agent)
}

/// Lets work come to an agent's host again: also what has waited for it. One that is in rotation stays so.
#[utoipa::path(post, path = paths::AGENT_UNDRAIN, tag = "agents",
    params(("tenant" = String, Path), ("agent" = String, Path)), responses((status = 200, body = Agent)))]
pub(crate) async fn undrain_agent(
    State(app): State<App>,
    Path((tenant, agent)): Path<(String, String)>,
    change: Change,
) -> Result<Json<Agent>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let agent = resolve::agent(tenant, &agent)?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::UndrainAgent { agent }).await?;
    shown(&app, tenant.id, agent)
}

fn shown(app: &App, tenant: TenantId, agent: AgentId) -> Result<Json<Agent>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    Ok(Json(view::agent(tenant, resolve::agent(tenant, &agent.to_string())?)))
}
