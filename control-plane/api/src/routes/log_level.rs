//! How much the control plane logs: for who administers the installation.

use axum::extract::{Extension, State};
use stella_api_types::paths;
use stella_api_types::system::{LogLevel, SetLogLevel};
use stella_domain::access::{Role, Scope};
use stella_domain::command::{Command, SystemCommand};

use crate::App;
use crate::body::Json;
use crate::error::ApiError;
use crate::request::Caller;
use crate::submit::Change;

/// Tells how much the control plane logs.
#[utoipa::path(get, path = paths::LOG_LEVEL, tag = "system", responses((status = 200, body = LogLevel)))]
pub(crate) async fn log_level(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<LogLevel>, ApiError> {
    caller.rights(&app.engine.state(), app.engine.now())?.require(Role::Admin, Scope::Installation)?;
    Ok(shown(&app))
}

/// Changes how much the control plane logs, at once and until it is started again. Who did it is in the events that belong to no tenant.
#[utoipa::path(post, path = paths::LOG_LEVEL, tag = "system", request_body = SetLogLevel,
    responses((status = 200, body = LogLevel)))]
pub(crate) async fn set_log_level(
    State(app): State<App>,
    change: Change,
    Json(body): Json<SetLogLevel>,
) -> Result<Json<LogLevel>, ApiError> {
    change.require(&app, Role::Admin, Scope::Installation)?;
    let invalid = |error: stella_telemetry::Error| ApiError::invalid("level", error.to_string());
    stella_telemetry::LogLevel::check(&body.level).map_err(invalid)?;
    let command = SystemCommand::SetLogLevel { level: body.level.clone() };
    change.submit(&app, &body, Command::System(command)).await?;
    app.log_level.set(&body.level).map_err(invalid)?;
    Ok(shown(&app))
}

fn shown(app: &App) -> Json<LogLevel> {
    Json(LogLevel { level: app.log_level.current(), configured: app.log_level.configured().to_owned() })
}
