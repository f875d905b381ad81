//! How the control plane does, for people, load balancers and supervisors. Needs no token and tells no secrets.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use stella_api_types::paths;
use stella_api_types::system::{Check, Checks, Health, Probe};
use stella_engine::HealthReport;

use crate::App;
use crate::body::Json;

/// How long a write may be on its way to the disk. Slow disks take parts of a second; one that takes this long hangs, for now at least.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// How the control plane and what it depends on do.
#[utoipa::path(get, path = paths::HEALTH, tag = "health", security(()),
    responses((status = 200, body = Health), (status = 503, description = "Not healthy", body = Health)))]
pub(crate) async fn health(State(app): State<App>) -> (StatusCode, Json<Health>) {
    let database = database(&app.engine.health());
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

fn database(report: &HealthReport) -> Check {
    let hanging = hanging(report);
    let (status, detail) = if !report.writable {
        ("unhealthy", Some("the journal has stopped; the process is about to end".to_owned()))
    } else if let Some(waited) = hanging {
        let detail = format!("a write has waited for {} s for the journal's disk", waited.as_secs());
        ("unhealthy", Some(detail))
    } else if report.no_space {
        let detail = "the journal's disk is nearly full: writes are refused, reads go on";
        ("degraded", Some(detail.to_owned()))
    } else {
        ("healthy", None)
    };
    let latency = hanging.unwrap_or(report.last_flush);
    let latency = Some(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
    Check { status: status.into(), latency, detail }
}

/// For how long a write has been on its way to the disk, if that is too long.
fn hanging(report: &HealthReport) -> Option<Duration> {
    report.flushing.filter(|waited| *waited > FLUSH_PATIENCE)
}

/// Whether the journal takes writes, or refuses them at once.
fn answers(report: &HealthReport) -> bool {
    report.writable && hanging(report).is_none()
}

/// Whether to send requests here. Reads work without space for writes, so that is no reason to send them elsewhere; a disk that hangs is.
#[utoipa::path(get, path = paths::HEALTH_READY, tag = "health", security(()),
    responses((status = 200, body = Probe), (status = 503, description = "Not ready", body = Probe)))]
pub(crate) async fn ready(State(app): State<App>) -> (StatusCode, Json<Probe>) {
    if answers(&app.engine.health()) && !app.shutdown.is_cancelled() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(flushing: Option<u64>) -> HealthReport {
        let flushing = flushing.map(Duration::from_secs);
        HealthReport { writable: true, last_flush: Duration::from_millis(3), flushing, no_space: false }
    }

    #[test]
    fn a_write_that_does_not_end_is_not_healthy_and_one_that_is_slow_is() {
        for flushing in [None, Some(1), Some(5)] {
            let report = report(flushing);
            let check = database(&report);
            assert_eq!((check.status.as_str(), check.latency, check.detail), ("healthy", Some(3), None));
            assert!(answers(&report));
        }
        let report = report(Some(6));
        let check = database(&report);
        assert_eq!((check.status.as_str(), check.latency), ("unhealthy", Some(6_000)));
        assert!(check.detail.is_some_and(|detail| detail.contains("6 s")));
        assert!(!answers(&report), "a load balancer sends requests elsewhere");
        // With or without space: that is known only when it has ended.
        assert!(!answers(&HealthReport { no_space: true, ..report }));
    }
}
