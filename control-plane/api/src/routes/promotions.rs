//! Promotions: who lets what through.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use stella_api_types::deployment::{DeploymentPlan, TargetTasks};
use stella_api_types::hold::HoldBack;
use stella_api_types::promotion::{ApprovePromotion, PlanProof, Promotion, RejectPromotion};
use stella_api_types::{Page, paths};
use stella_domain::command::TenantCommand;
use stella_domain::decide;
use stella_domain::plan::PlanPart;
use stella_domain::promotion as domain;
use stella_engine::ArchivedPromotion;
use stella_protocol::id::{PromotionId, TenantId};
use utoipa::IntoParams;

use crate::body::{First, Json, Paging, Path, Query};
use crate::error::{ApiError, ErrorCode};
use crate::submit::Change;
use crate::{App, archive, parse, resolve, view};

/// Which promotions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PromotionFilter {
    /// Only those to this environment.
    environment: Option<String>,
    /// Only those with this status; `waiting` is `pending` and `approved`.
    status: Option<String>,
    /// How many items at most, 1 to 500; 100 if not given.
    limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
    /// `oldest` (if not given) or `newest`: what comes first.
    #[param(inline)]
    first: Option<First>,
}

/// Lists promotions.
#[utoipa::path(get, path = paths::PROMOTIONS, tag = "promotions", params(("tenant" = String, Path), PromotionFilter),
    responses((status = 200, body = Page<Promotion>)))]
pub(crate) async fn promotions(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(filter): Query<PromotionFilter>,
) -> Result<Json<Page<Promotion>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment =
        filter.environment.as_deref().map(|text| resolve::environment(tenant, text)).transpose()?;
    let status = filter.status.as_deref().map(|text| parse::promotion_status("status", text)).transpose()?;
    let is_wanted = |it: &ArchivedPromotion| {
        environment.is_none_or(|wanted| it.promotion.wanted.environment == wanted.id)
            && status.is_none_or(|status| match status {
                parse::WAITING => it.promotion.is_open(),
                status => it.promotion.status_name() == status,
            })
    };
    let memory = tenant.promotions.iter().map(|(id, promotion)| {
        let (promotion, gates) = (Arc::clone(promotion), tenant.gates.get(id).cloned());
        (*id, Arc::new(ArchivedPromotion { promotion, gates }))
    });
    let archive = app.engine.archive();
    let read = (tenant.archived.promotions > 0).then_some(async |walk| {
        let found = archive.promotions(tenant.id, walk, archive::READ_MAX).await?;
        Ok(found.into_iter().map(|it| (it.promotion.id, it)).collect())
    });
    let (paging, now) =
        (Paging { limit: filter.limit, cursor: filter.cursor, first: filter.first }, app.engine.now());
    let memory = memory.filter(|(_, it)| is_wanted(it));
    archive::page(&paging, memory, read, is_wanted, |it| {
        view::promotion(&state, tenant, &it.promotion, it.gates.as_deref(), now)
    })
    .await
}

/// Shows a promotion.
#[utoipa::path(get, path = paths::PROMOTION, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path)), responses((status = 200, body = Promotion)))]
pub(crate) async fn promotion(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
) -> Result<Json<Promotion>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_promotion(&app, resolve::tenant(&state, &tenant)?, &promotion).await?;
    let promotion = resolve::promotion(&tenant, &promotion)?;
    let gates = tenant.gates.get(&promotion.id).map(AsRef::as_ref);
    Ok(Json(view::promotion(&state, &tenant, promotion, gates, app.engine.now())))
}

/// Shows what a promotion that waits would do: what one approves.
#[utoipa::path(get, path = paths::PROMOTION_PLAN, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path)), responses((status = 200, body = DeploymentPlan)))]
pub(crate) async fn promotion_plan(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
) -> Result<Json<DeploymentPlan>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_promotion(&app, resolve::tenant(&state, &tenant)?, &promotion).await?;
    let promotion = resolve::promotion(&tenant, &promotion)?.clone();
    still_waits(&promotion)?;
    let now = app.engine.now();
    // Thousands of targets take a while.
    let planned = tokio::task::spawn_blocking(move || {
        let planned = decide::planned_again(&tenant, &promotion, now)?;
        Ok::<_, ApiError>(view::plan(&tenant, &promotion.wanted, &planned, now))
    });
    Ok(Json(planned.await.map_err(|error| ApiError::internal(&error))??))
}

/// Which part of a plan.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PartOfPlan {
    /// What is done on this target, by name or id.
    target: Option<String>,
    /// Another part: `wanted` (how it would come, and by which approvals), `guards` (gates, budget, way back, path, channels and signatures, where
    /// somebody has to approve), `release`.
    part: Option<String>,
}

/// Proves that one part is in the plan that people approve: its leaf, and the path from it to the root.
#[utoipa::path(get, path = paths::PROMOTION_PLAN_PROOF, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path), PartOfPlan),
    responses((status = 200, body = PlanProof)))]
pub(crate) async fn promotion_plan_proof(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
    Query(wanted): Query<PartOfPlan>,
) -> Result<Json<PlanProof>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_promotion(&app, resolve::tenant(&state, &tenant)?, &promotion).await?;
    let promotion = resolve::promotion(&tenant, &promotion)?.clone();
    still_waits(&promotion)?;
    let part = match (wanted.target.as_deref(), wanted.part.as_deref()) {
        (Some(target), None) => {
            let place = promotion.wanted.environment;
            PlanPart::Target(resolve::target_in(&tenant, place, target)?.id)
        }
        (None, Some("wanted")) => PlanPart::Wanted,
        (None, Some("guards")) => PlanPart::Guards,
        (None, Some("release")) => PlanPart::Release,
        (None, Some(_)) => return Err(ApiError::invalid("part", "must be wanted, guards or release")),
        _ => return Err(ApiError::invalid("target", "name a target, or a part; one of them")),
    };
    let now = app.engine.now();
    // Thousands of targets take a while.
    let proven = tokio::task::spawn_blocking(move || {
        let proof = decide::prove(&tenant, &promotion, part, now)?;
        Ok::<_, ApiError>(view::plan_proof(&promotion, proof))
    });
    Ok(Json(proven.await.map_err(|error| ApiError::internal(&error))??))
}

/// Which target of a plan.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TargetOfPlan {
    /// Its name or id.
    pub(super) target: String,
}

/// Shows what a promotion that waits would run on one of its targets, filled in, and what would take that back: what the digests in the
/// target's part of the plan stand for.
#[utoipa::path(get, path = paths::PROMOTION_PLAN_TASKS, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path), TargetOfPlan),
    responses((status = 200, body = TargetTasks)))]
pub(crate) async fn promotion_plan_tasks(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
    Query(wanted): Query<TargetOfPlan>,
) -> Result<Json<TargetTasks>, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_promotion(&app, resolve::tenant(&state, &tenant)?, &promotion).await?;
    let promotion = resolve::promotion(&tenant, &promotion)?.clone();
    still_waits(&promotion)?;
    let target = resolve::target_in(&tenant, promotion.wanted.environment, &wanted.target)?.id;
    let now = app.engine.now();
    // Thousands of targets take a while.
    let work = tokio::task::spawn_blocking(move || {
        let work = decide::work_on(&tenant, &promotion, target, now)?;
        Ok::<_, ApiError>(view::target_tasks(&tenant, &promotion.wanted, target, &work))
    });
    Ok(Json(work.await.map_err(|error| ApiError::internal(&error))??))
}

/// What it would do is known as long as a promotion waits.
fn still_waits(promotion: &domain::Promotion) -> Result<(), ApiError> {
    if promotion.is_open() {
        return Ok(());
    }
    let problem = format!("promotion {} waits no more: it is {}", promotion.id, promotion.status_name());
    Err(ApiError::new(ErrorCode::Conflict, problem))
}

/// Approves a promotion. With the last approval that it needs it starts, or as soon as it can.
#[utoipa::path(post, path = paths::PROMOTION_APPROVE, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path)), request_body = ApprovePromotion,
    responses((status = 200, body = Promotion)))]
pub(crate) async fn approve(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
    change: Change,
    Json(body): Json<ApprovePromotion>,
) -> Result<Json<Promotion>, ApiError> {
    let (tenant, promotion) = found(&app, &tenant, &promotion).await?;
    let plan = parse::digest("plan", &body.plan)?;
    let reason = body.reason.trim().to_owned();
    let signature = body.signature.as_ref().map(parse::approval_signature).transpose()?;
    let command = TenantCommand::ApprovePromotion { promotion, plan, reason, signature };
    change.tenant(&app, tenant, &body, command).await?;
    shown(&app, tenant, promotion).await.map(Json)
}

/// Rejects a promotion: it never starts.
#[utoipa::path(post, path = paths::PROMOTION_REJECT, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path)), request_body = RejectPromotion,
    responses((status = 200, body = Promotion)))]
pub(crate) async fn reject(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
    change: Change,
    Json(body): Json<RejectPromotion>,
) -> Result<Json<Promotion>, ApiError> {
    let (tenant, promotion) = found(&app, &tenant, &promotion).await?;
    let reason = parse::reason("reason", &body.reason)?;
    let objection = parse::objection(body.objection);
    let command = TenantCommand::RejectPromotion { promotion, objection, reason };
    change.tenant(&app, tenant, &body, command).await?;
    shown(&app, tenant, promotion).await.map(Json)
}

/// Withdraws a promotion that waits.
#[utoipa::path(post, path = paths::PROMOTION_WITHDRAW, tag = "promotions",
    params(("tenant" = String, Path), ("promotion" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = Promotion)))]
pub(crate) async fn withdraw(
    State(app): State<App>,
    Path((tenant, promotion)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<Promotion>, ApiError> {
    let (tenant, promotion) = found(&app, &tenant, &promotion).await?;
    let reason = parse::reason("reason", &body.reason)?;
    change.tenant(&app, tenant, &body, TenantCommand::WithdrawPromotion { promotion, reason }).await?;
    shown(&app, tenant, promotion).await.map(Json)
}

pub(super) async fn found(
    app: &App,
    tenant: &str,
    promotion: &str,
) -> Result<(TenantId, PromotionId), ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_promotion(app, resolve::tenant(&state, tenant)?, promotion).await?;
    Ok((tenant.id, resolve::promotion(&tenant, promotion)?.id))
}

/// A promotion as it is now.
pub(super) async fn shown(app: &App, tenant: TenantId, id: PromotionId) -> Result<Promotion, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let tenant = archive::with_promotion(app, tenant, &id.to_string()).await?;
    let promotion = resolve::promotion(&tenant, &id.to_string())?;
    let gates = tenant.gates.get(&id).map(AsRef::as_ref);
    Ok(view::promotion(&state, &tenant, promotion, gates, app.engine.now()))
}
