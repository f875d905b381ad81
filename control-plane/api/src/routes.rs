//! The routes, and the document that describes them.

mod accounts;
mod catalogue;
pub(crate) mod channels;
mod deliveries;
mod deployments;
mod discovery;
mod environments;
mod feed;
mod gates;
mod guide;
mod holds;
mod hooks;
mod log_level;
mod logs;
mod promotions;
mod releases;
mod rotation;
mod signing;
mod tokens;
mod workflows;

use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use stella_api_types::paths;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::JSON_BYTES_MAX;
use crate::error::{ApiError, ErrorCode};
use crate::{ApiDeps, App, health, request};

/// How long a request that is neither a stream nor an upload may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(OpenApi)]
#[openapi(
    info(title = "Stella", description = "The API of the Stella release orchestrator."),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// The API as a router, for tests; [`crate::serve()`] adds the socket.
pub fn router(deps: ApiDeps, shutdown: CancellationToken) -> Router {
    with_state(App::new(deps, shutdown))
}

/// The document that describes all routes, as it is served.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = all().split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    crate::roles::note(&mut document);
    crate::document::note(&mut document);
    document
}

/// Every route, with and without a time-out.
#[expect(clippy::too_many_lines, reason = "a table: each route has its line")]
fn all() -> OpenApiRouter<App> {
    let timed = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(tokens::tokens, tokens::create_token))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(accounts::whoami))
        .routes(routes!(accounts::accounts, accounts::create_account))
        .routes(routes!(accounts::account, accounts::remove_account))
        .routes(routes!(accounts::set_roles))
        .routes(routes!(catalogue::tenants, catalogue::create_tenant))
        .routes(routes!(catalogue::tenant))
        .routes(routes!(catalogue::environments, catalogue::create_environment))
        .routes(routes!(catalogue::environment, environments::remove_environment))
        .routes(routes!(environments::update_environment))
        .routes(routes!(environments::set_path))
        .routes(routes!(environments::set_approvals))
        .routes(routes!(environments::freeze_environment))
        .routes(routes!(environments::unfreeze_environment))
        .routes(routes!(gates::gates, gates::set_gate))
        .routes(routes!(gates::remove_gate))
        .routes(routes!(environments::set_budget))
        .routes(routes!(environments::set_silence))
        .routes(routes!(environments::set_verification))
        .routes(routes!(environments::set_way_back))
        .routes(routes!(environments::set_way_back_proof))
        .routes(routes!(environments::set_strategy))
        .routes(routes!(environments::lock_environment))
        .routes(routes!(environments::unlock_environment))
        .routes(routes!(catalogue::targets, catalogue::create_target))
        .routes(routes!(catalogue::target, catalogue::remove_target))
        .routes(routes!(catalogue::update_target))
        .routes(routes!(catalogue::agents))
        .routes(routes!(catalogue::agent))
        .routes(routes!(catalogue::revoke_agent))
        .routes(routes!(rotation::drain_agent))
        .routes(routes!(rotation::undrain_agent))
        .routes(routes!(discovery::agents_to_scrape))
        .routes(routes!(catalogue::enrolment_tokens, catalogue::create_enrolment_token))
        .routes(routes!(catalogue::revoke_enrolment_token))
        .routes(routes!(releases::artifact))
        .routes(routes!(releases::releases, releases::create_release))
        .routes(routes!(releases::release))
        .routes(routes!(holds::judge_release))
        .routes(routes!(gates::findings))
        .routes(routes!(gates::record_findings))
        .routes(routes!(promotions::promotions))
        .routes(routes!(promotions::promotion))
        .routes(routes!(promotions::promotion_plan))
        .routes(routes!(promotions::promotion_plan_proof))
        .routes(routes!(promotions::promotion_plan_tasks))
        .routes(routes!(promotions::approve))
        .routes(routes!(promotions::reject))
        .routes(routes!(promotions::withdraw))
        .routes(routes!(gates::decide_gate))
        .routes(routes!(gates::override_gate))
        .routes(routes!(deployments::deployments, deployments::deploy))
        .routes(routes!(deployments::plan))
        .routes(routes!(deployments::plan_tasks))
        .routes(routes!(deployments::deployment))
        .routes(routes!(deployments::rollback))
        .routes(routes!(deployments::rollback_plan))
        .routes(routes!(deployments::retire))
        .routes(routes!(deployments::cancel))
        .routes(routes!(deployments::retry))
        .routes(routes!(holds::pause))
        .routes(routes!(holds::resume))
        .routes(routes!(guide::fail))
        .routes(routes!(guide::prove))
        .routes(routes!(guide::waive))
        .routes(routes!(guide::retry_target))
        .routes(routes!(guide::skip_target))
        .routes(routes!(deployments::tasks))
        .routes(routes!(deployments::task))
        .routes(routes!(deployments::settle))
        .routes(routes!(feed::journal))
        .routes(routes!(feed::system_journal))
        .routes(routes!(catalogue::system))
        .routes(routes!(log_level::log_level, log_level::set_log_level))
        .routes(routes!(document))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::live))
        .merge(of_workflows())
        .merge(of_releases())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT));
    let streams = OpenApiRouter::new()
        .routes(routes!(releases::upload))
        .routes(routes!(logs::task_output))
        .routes(routes!(feed::events))
        .routes(routes!(feed::system_events));
    timed.merge(streams)
}

fn of_releases() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(signing::release_keys, signing::add_release_key))
        .routes(routes!(signing::revoke_release_key))
        .routes(routes!(signing::sign_release))
        .routes(routes!(signing::set_signing))
        .routes(routes!(channels::channels, channels::set_channel))
        .routes(routes!(channels::remove_channel))
        .routes(routes!(channels::set_channels))
}

fn of_workflows() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(workflows::workflows, workflows::apply))
        .routes(routes!(workflows::workflow))
        .routes(routes!(workflows::remove))
        .routes(routes!(workflows::runs, workflows::start))
        .routes(routes!(workflows::plan_run))
        .routes(routes!(workflows::run))
        .routes(routes!(workflows::cancel_run))
        .routes(routes!(workflows::retry_step))
        .routes(routes!(workflows::answer_step))
        .routes(routes!(workflows::decide_step))
        .routes(routes!(hooks::hooks, hooks::create_hook))
        .routes(routes!(hooks::hook, hooks::remove_hook))
        .routes(routes!(hooks::rotate_hook))
        .routes(routes!(deliveries::deliver))
}

pub(crate) fn with_state(app: App) -> Router {
    let (router, _) = all().split_for_parts();
    router
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .layer(CatchPanicLayer::custom(|_| panicked()))
        .layer(from_fn_with_state(app.clone(), request::layer))
        .with_state(app)
}

async fn unknown(State(_): State<App>) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "there is nothing at this path; GET /api/v1/openapi.json lists what there is",
    )
}

fn panicked() -> Response {
    tracing::error!("a handler panicked; this is a defect");
    ApiError::new(
        ErrorCode::Internal,
        "the log of the control plane says more; look for the correlation id of this answer",
    )
    .into_response()
}

/// This description.
#[utoipa::path(get, path = paths::OPENAPI, tag = "system", security(()), responses((status = 200, description = "The OpenAPI document")))]
async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}

/// It is the same for everybody, and strangers may ask for it.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = serde_json::to_vec(&openapi()).expect("it is made of texts and numbers alone");
    text.into()
});
