//! How the control plane does, for people, load balancers and supervisors. Needs no token and tells no secrets.

use axum::extract::State;
use axum::http::StatusCode;
use stella_api_types::paths;
use stella_api_types::system::{Check, Checks, Health, Probe};

use crate::App;
use crate::body::Json;

/// How the control plane and what it depends on do.
#[utoipa::path(get, path = paths::HEALTH, tag = "health", security(()),
    responses((status = 200, body = Health), (status = 503, description = "Not healthy", body = Health)))]
pub(crate) async fn health(State(app): State<App>) -> (StatusCode, Json<Health>) {
    let database = database(&app);
    let healthy = database.status == "healthy";
    let disabled = || Check { status: "disabled".into(), latency: None, detail: None };
    let body = Health {
        status: database.status.clone(),
        version: app.version.to_owned(),
        uptime: app.started.elapsed().as_secs(),
        // Neither is configured: a check that was not made is not called healthy.
        checks: Checks { database, redis: disabled(), vault: disabled() },
    };
    (if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

fn database(app: &App) -> Check {
    let report = app.engine.health();
    let latency = report.last_flush.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let (status, detail) = if !report.writable {
        ("unhealthy", Some("the journal has stopped; the process is about to end"))
    } else if report.no_space {
        ("degraded", Some("the journal's disk is nearly full: writes are refused, reads go on"))
    } else {
        ("healthy", None)
    };
    Check { status: status.into(), latency, detail: detail.map(str::to_owned) }
}

/// Whether to send requests here. Reads work without space for writes, so that is no reason to send them elsewhere.
#[utoipa::path(get, path = paths::HEALTH_READY, tag = "health", security(()),
    responses((status = 200, body = Probe), (status = 503, description = "Not ready", body = Probe)))]
pub(crate) async fn ready(State(app): State<App>) -> (StatusCode, Json<Probe>) {
    if app.engine.health().writable && !app.shutdown.is_cancelled() {
        (StatusCode::OK, Json(Probe { status: "ready".into() }))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Probe { status: "not_ready".into() }))
    }
}

/// Whether the process is alive: it answers.
#[utoipa::path(get, path = paths::HEALTH_LIVE, tag = "health", security(()), responses((status = 200, body = Probe)))]
pub(crate) async fn live() -> Json<Probe> {
    Json(Probe { status: "alive".into() })
}
