//! Channels: named streams of an application's releases.

use axum::extract::State;
use axum::http::StatusCode;
use stella_api_types::channel::{Channel, SetChannel, SetChannels};
use stella_api_types::environment::Environment;
use stella_api_types::{Page, paths};
use stella_domain::channel::{ChannelRule, PreReleases};
use stella_domain::command::TenantCommand;

use super::environments;
use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, parse, resolve, view};

/// What stands for whatever there is.
pub(crate) const ANY: &str = "*";

/// Lists channels.
#[utoipa::path(get, path = paths::CHANNELS, tag = "releases", params(("tenant" = String, Path)),
    responses((status = 200, body = Page<Channel>)))]
pub(crate) async fn channels(
    State(app): State<App>,
    Path(tenant): Path<String>,
) -> Result<Json<Page<Channel>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let all = tenant.channels.values().flat_map(|channels| channels.values());
    // An application has a handful.
    Ok(Json(Page { items: all.map(|it| view::channel(it)).collect(), next_cursor: None }))
}

/// Sets a channel, instead of one of the same name. It is for releases that are registered from now on.
#[utoipa::path(post, path = paths::CHANNELS, tag = "releases", params(("tenant" = String, Path)), request_body = SetChannel,
    responses((status = 200, body = Channel)))]
pub(crate) async fn set_channel(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<SetChannel>,
) -> Result<Json<Channel>, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    let application = parse::name("application", &body.application)?;
    let name = parse::name("name", &body.name)?;
    let pre_releases = match body.pre_releases.as_slice() {
        [] => PreReleases::None,
        [any] if any == ANY => PreReleases::Any,
        tags => PreReleases::Only(tags.to_vec()),
    };
    let rule = ChannelRule { versions: body.versions.clone(), pre_releases, labels: body.labels.clone() };
    let command = TenantCommand::SetChannel { application: application.clone(), name: name.clone(), rule };
    change.tenant(&app, tenant, &body, command).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let channel = tenant.channels.get(&application).and_then(|channels| channels.get(&name));
    Ok(Json(view::channel(channel.ok_or_else(|| ApiError::not_found("channel", name.as_str()))?)))
}

/// Removes a channel. Releases that are in it stay in it; no other one comes to it.
#[utoipa::path(delete, path = paths::CHANNEL, tag = "releases",
    params(("tenant" = String, Path), ("application" = String, Path), ("channel" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn remove_channel(
    State(app): State<App>,
    Path((tenant, application, channel)): Path<(String, String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    let missing = || ApiError::not_found("channel", &format!("{application}/{channel}"));
    let command = TenantCommand::RemoveChannel {
        application: application.parse().map_err(|_| missing())?,
        name: channel.parse().map_err(|_| missing())?,
    };
    change.tenant(&app, tenant, &(), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets from which channels releases may come to an environment.
#[utoipa::path(post, path = paths::ENVIRONMENT_CHANNELS, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetChannels,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_channels(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetChannels>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    let numbered = body.channels.iter().enumerate();
    let channels = numbered.map(|(at, it)| parse::name(&format!("channels[{at}]"), it));
    let channels = channels.collect::<Result<Vec<_>, _>>()?;
    let command = TenantCommand::SetEnvironmentChannels { environment, channels };
    change.tenant(&app, tenant.id, &body, command).await?;
    environments::shown(&app, tenant.id, environment)
}
