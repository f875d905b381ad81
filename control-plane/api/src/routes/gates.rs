//! Gates: which there are, what people say about them, and what scanners have found.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use sha2::{Digest as _, Sha256};
use stella_api_types::environment::Environment;
use stella_api_types::gate::{DecideGate, Gate, ScanReport, SetGate};
use stella_api_types::hold::HoldBack;
use stella_api_types::promotion::Promotion;
use stella_api_types::{Page, paths};
use stella_domain::access::{Role, Scope};
use stella_domain::command::{NewFindings, TenantCommand};
use stella_domain::name::Name;
use stella_protocol::digest::Digest;

use super::environments;
use super::promotions::{found, shown};
use crate::body::{Json, Path};
use crate::error::{ApiError, ErrorCode};
use crate::submit::Change;
use crate::{App, parse, resolve, scan, view};

/// The largest report of a scanner, in bytes.
const REPORT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a report waits for those before it. Its own time goes on.
const TURN_MAX: Duration = Duration::from_secs(10);
/// When to come back if that was too long.
const COME_BACK_S: u64 = 15;

/// Lists what must be so for a release to come to an environment.
#[utoipa::path(get, path = paths::ENVIRONMENT_GATES, tag = "gates",
    params(("tenant" = String, Path), ("environment" = String, Path)), responses((status = 200, body = Page<Gate>)))]
pub(crate) async fn gates(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
) -> Result<Json<Page<Gate>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?;
    // There are too few for pages.
    Ok(Json(Page {
        items: environment.gates.values().map(|it| view::gate(tenant, it)).collect(),
        next_cursor: None,
    }))
}

/// Sets a gate, instead of one of the same name. What is under way meets it before its next wave; promotions that people approve become void.
#[utoipa::path(post, path = paths::ENVIRONMENT_GATES, tag = "gates",
    params(("tenant" = String, Path), ("environment" = String, Path)), request_body = SetGate,
    responses((status = 200, body = Environment)))]
pub(crate) async fn set_gate(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
    change: Change,
    Json(body): Json<SetGate>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment = resolve::environment(tenant, &environment)?.id;
    // A gate may name accounts.
    change.require(&app, Role::Admin, Scope::Environment(tenant.id, environment))?;
    let gate = Box::new(parse::gate(&state, tenant, &body)?);
    app.outside
        .as_ref()
        .map_or(Ok(()), |reach| reach.now().can_be_asked(tenant, state.tenants.len(), &gate.check))?;
    change.tenant(&app, tenant.id, &body, TenantCommand::SetGate { environment, gate }).await?;
    environments::shown(&app, tenant.id, environment)
}

/// Takes a gate away. Promotions that people approve become void, for it is part of what they approve; others that wait for it alone start.
#[utoipa::path(delete, path = paths::ENVIRONMENT_GATE, tag = "gates",
    params(("tenant" = String, Path), ("environment" = String, Path), ("gate" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn remove_gate(
    State(app): State<App>,
    Path((tenant, environment, gate)): Path<(String, String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let found = resolve::environment(tenant, &environment);
    if found.is_err() && change.was_carried_out(tenant, &())? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let environment = found?.id;
    let gate = named(&gate)?;
    change.tenant(&app, tenant.id, &(), TenantCommand::RemoveGate { environment, gate }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says whether a manual gate lets a promotion through. Whoever asked for it cannot.
#[utoipa::path(post, path = paths::PROMOTION_GATE_DECISION, tag = "gates",
    params(("tenant" = String, Path), ("promotion" = String, Path), ("gate" = String, Path)), request_body = DecideGate,
    responses((status = 200, body = Promotion)))]
pub(crate) async fn decide_gate(
    State(app): State<App>,
    Path((tenant, promotion, gate)): Path<(String, String, String)>,
    change: Change,
    Json(body): Json<DecideGate>,
) -> Result<Json<Promotion>, ApiError> {
    let (tenant, promotion) = found(&app, &tenant, &promotion).await?;
    let (gate, reason) = (named(&gate)?, parse::reason("reason", &body.reason)?);
    let command = TenantCommand::DecideGate { promotion, gate, passed: body.passed, reason };
    change.tenant(&app, tenant, &body, command).await?;
    shown(&app, tenant, promotion).await.map(Json)
}

/// Lets a promotion through a gate whatever that says. It is recorded for ever.
#[utoipa::path(post, path = paths::PROMOTION_GATE_OVERRIDE, tag = "gates",
    params(("tenant" = String, Path), ("promotion" = String, Path), ("gate" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = Promotion)))]
pub(crate) async fn override_gate(
    State(app): State<App>,
    Path((tenant, promotion, gate)): Path<(String, String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<Promotion>, ApiError> {
    let (tenant, promotion) = found(&app, &tenant, &promotion).await?;
    let (gate, reason) = (named(&gate)?, parse::reason("reason", &body.reason)?);
    change.tenant(&app, tenant, &body, TenantCommand::OverrideGate { promotion, gate, reason }).await?;
    shown(&app, tenant, promotion).await.map(Json)
}

/// Records what a scanner has found in a release, instead of its report before: SARIF, CycloneDX, or the JSON of Trivy or Grype.
#[utoipa::path(put, path = paths::RELEASE_SCAN, tag = "gates",
    params(("tenant" = String, Path), ("release" = String, Path), ("scanner" = String, Path)),
    request_body(content = Object, content_type = "application/json"), responses((status = 200, body = ScanReport)))]
pub(crate) async fn record_findings(
    State(app): State<App>,
    Path((tenant, release, scanner)): Path<(String, String, String)>,
    change: Change,
    body: Body,
) -> Result<Json<ScanReport>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    change.require(&app, Role::Deployer, Scope::Somewhere(tenant.id))?;
    let (release, scanner) = (resolve::release(tenant, &release)?.id, parse::name("scanner", &scanner)?);
    // Kept until it is read, whoever still waits for it: it takes its memory as long as that.
    let place = app.reports.take(tenant.id, TURN_MAX).await.ok_or_else(busy)?;
    let document = axum::body::to_bytes(body, REPORT_BYTES_MAX).await.map_err(|_| {
        let problem =
            format!("a report may have at most {REPORT_BYTES_MAX} bytes; leave the least severe out");
        ApiError::new(ErrorCode::TooLarge, problem)
    })?;
    let turn = app.report_reads.take(tenant.id, TURN_MAX).await.ok_or_else(busy)?;
    // A large one takes a while.
    let read = tokio::task::spawn_blocking(move || {
        let _held = (place, turn);
        let digest = Digest(Sha256::digest(&document).into());
        scan::read(&document).map(|findings| (digest, findings))
    });
    let (digest, findings) = read
        .await
        .map_err(|error| ApiError::internal(&error))?
        .map_err(|error| ApiError::invalid("body", error.to_string()))?;
    let new = NewFindings {
        release,
        scanner: scanner.clone(),
        digest,
        findings,
        bounds: app.tuning.release_bounds(),
    };
    change.tenant(&app, tenant.id, &digest, TenantCommand::RecordFindings(Box::new(new))).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    let report = tenant.findings.get(&release).and_then(|reports| reports.get(&scanner));
    let report = report.ok_or_else(|| ApiError::not_found("report", scanner.as_str()))?;
    Ok(Json(view::scan_report(&scanner, report)))
}

/// Shows what scanners have found in a release: the newest report of each.
#[utoipa::path(get, path = paths::RELEASE_FINDINGS, tag = "gates",
    params(("tenant" = String, Path), ("release" = String, Path)), responses((status = 200, body = Page<ScanReport>)))]
pub(crate) async fn findings(
    State(app): State<App>,
    Path((tenant, release)): Path<(String, String)>,
) -> Result<Json<Page<ScanReport>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let release = resolve::release(tenant, &release)?.id;
    let reports = tenant.findings.get(&release).into_iter().flatten();
    Ok(Json(Page {
        items: reports.map(|(scanner, report)| view::scan_report(scanner, report)).collect(),
        next_cursor: None,
    }))
}

fn busy() -> ApiError {
    let detail = "too many reports are being read; send it again later";
    ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail)
}

fn named(gate: &str) -> Result<Name, ApiError> {
    gate.parse().map_err(|_| ApiError::not_found("gate", gate))
}
