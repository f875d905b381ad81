//! What there is: tenants, environments, targets, agents and the tokens they enrol with, and figures of it all.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;
use stella_api_types::agent::{
    Agent, CreateEnrolmentToken, EXPIRES_IN_SECONDS_MAX, EnrolmentToken, EnrolmentTokenCreated, Profile,
    RevokeAgent, RevokeEnrolmentToken,
};
use stella_api_types::environment::{CreateEnvironment, Environment};
use stella_api_types::system::{System, SystemCounts};
use stella_api_types::target::{CreateTarget, Target, UpdateTarget};
use stella_api_types::tenant::{CreateTenant, Tenant};
use stella_api_types::{Page, paths};
use stella_domain::agent::Connectivity;
use stella_domain::command::{
    Command, NewEnrolmentToken, NewTarget, Outcome, SystemCommand, TargetChange, TenantCommand,
};
use stella_protocol::id::{EnrolmentTokenId, EnvironmentId, TargetId, TenantId};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::{Json, Paging, Path, Query, page};
use crate::error::ApiError;
use crate::request::Caller;
use crate::submit::{Change, unexpected};
use crate::{App, parse, resolve, view};

type Created<T> = (StatusCode, Json<T>);

/// Lists the tenants in which the caller has a role.
#[utoipa::path(get, path = paths::TENANTS, tag = "tenants", params(Paging), responses((status = 200, body = Page<Tenant>)))]
pub(crate) async fn tenants(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Tenant>>, ApiError> {
    let state = app.engine.state();
    let rights = caller.rights(&state, app.engine.now())?;
    let seen = state.tenants.iter().filter(|(id, _)| rights.sees(**id));
    page(&paging, seen.map(|(id, tenant)| (*id, tenant)), |tenant| view::tenant(tenant))
}

/// Creates a tenant.
#[utoipa::path(post, path = paths::TENANTS, tag = "tenants", request_body = CreateTenant,
    responses((status = 201, body = Tenant)))]
pub(crate) async fn create_tenant(
    State(app): State<App>,
    change: Change,
    Json(body): Json<CreateTenant>,
) -> Result<Created<Tenant>, ApiError> {
    let name = parse::name("name", &body.name)?;
    let command = SystemCommand::CreateTenant { id: TenantId(Uuid::now_v7()), name };
    let outcome = change.submit(&app, &body, Command::System(command)).await?;
    let Outcome::Tenant(id) = outcome else { return Err(unexpected(&outcome)) };
    let state = app.engine.state();
    Ok((StatusCode::CREATED, Json(view::tenant(resolve::tenant(&state, &id.to_string())?))))
}

/// Shows a tenant.
#[utoipa::path(get, path = paths::TENANT, tag = "tenants", params(("tenant" = String, Path)), responses((status = 200, body = Tenant)))]
pub(crate) async fn tenant(
    State(app): State<App>,
    Path(tenant): Path<String>,
) -> Result<Json<Tenant>, ApiError> {
    Ok(Json(view::tenant(resolve::tenant(&app.engine.state(), &tenant)?)))
}

/// Lists environments.
#[utoipa::path(get, path = paths::ENVIRONMENTS, tag = "environments", params(("tenant" = String, Path), Paging),
    responses((status = 200, body = Page<Environment>)))]
pub(crate) async fn environments(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Environment>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    page(&paging, tenant.environments.iter().map(|(id, it)| (*id, it)), |it| {
        view::environment(&state, app.engine.now(), tenant, it)
    })
}

/// Creates an environment.
#[utoipa::path(post, path = paths::ENVIRONMENTS, tag = "environments", params(("tenant" = String, Path)),
    request_body = CreateEnvironment, responses((status = 201, body = Environment)))]
pub(crate) async fn create_environment(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateEnvironment>,
) -> Result<Created<Environment>, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    let name = parse::name("name", &body.name)?;
    let command = TenantCommand::CreateEnvironment {
        id: EnvironmentId(Uuid::now_v7()),
        name,
        order: body.order,
        way_back_proof: parse::proof_rule(body.way_back_proof.unwrap_or_default()),
    };
    let outcome = change.tenant(&app, tenant, &body, command).await?;
    let Outcome::Environment(id) = outcome else { return Err(unexpected(&outcome)) };
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    Ok((
        StatusCode::CREATED,
        Json(view::environment(
            &state,
            app.engine.now(),
            tenant,
            resolve::environment(tenant, &id.to_string())?,
        )),
    ))
}

/// Shows an environment.
#[utoipa::path(get, path = paths::ENVIRONMENT, tag = "environments",
    params(("tenant" = String, Path), ("environment" = String, Path)), responses((status = 200, body = Environment)))]
pub(crate) async fn environment(
    State(app): State<App>,
    Path((tenant, environment)): Path<(String, String)>,
) -> Result<Json<Environment>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    Ok(Json(view::environment(&state, app.engine.now(), tenant, resolve::environment(tenant, &environment)?)))
}

/// Which targets.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TargetFilter {
    /// Only those of this environment.
    environment: Option<String>,
    /// How many items at most, 1 to 500; 100 if not given.
    limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

/// Lists targets.
#[utoipa::path(get, path = paths::TARGETS, tag = "targets", params(("tenant" = String, Path), TargetFilter),
    responses((status = 200, body = Page<Target>)))]
pub(crate) async fn targets(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(filter): Query<TargetFilter>,
) -> Result<Json<Page<Target>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let environment =
        filter.environment.as_deref().map(|text| resolve::environment(tenant, text)).transpose()?;
    let wanted =
        tenant.targets.iter().filter(|(_, it)| environment.is_none_or(|wanted| it.environment == wanted.id));
    let paging = Paging { limit: filter.limit, cursor: filter.cursor, first: None };
    page(&paging, wanted.map(|(id, it)| (*id, it)), |it| view::target(tenant, it))
}

/// Creates a target.
#[utoipa::path(post, path = paths::TARGETS, tag = "targets", params(("tenant" = String, Path)), request_body = CreateTarget,
    responses((status = 201, body = Target)))]
pub(crate) async fn create_target(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateTarget>,
) -> Result<Created<Target>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let new = NewTarget {
        id: TargetId(Uuid::now_v7()),
        environment: resolve::environment(tenant, &body.environment)?.id,
        name: parse::name("name", &body.name)?,
        kind: parse::name("kind", body.kind.as_deref().unwrap_or("host"))?,
        agent: resolve::agent(tenant, &body.agent)?.id,
        slot: body.slot.as_deref().map(|slot| parse::name("slot", slot)).transpose()?,
        labels: body.labels.clone(),
        variables: body.variables.clone(),
    };
    let outcome = change.tenant(&app, tenant.id, &body, TenantCommand::CreateTarget(Box::new(new))).await?;
    let Outcome::Target(id) = outcome else { return Err(unexpected(&outcome)) };
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok((StatusCode::CREATED, Json(view::target(tenant, resolve::target(tenant, &id.to_string())?))))
}

/// Shows a target.
#[utoipa::path(get, path = paths::TARGET, tag = "targets", params(("tenant" = String, Path), ("target" = String, Path)),
    responses((status = 200, body = Target)))]
pub(crate) async fn target(
    State(app): State<App>,
    Path((tenant, target)): Path<(String, String)>,
) -> Result<Json<Target>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    Ok(Json(view::target(tenant, resolve::target(tenant, &target)?)))
}

/// Changes a target in place: its labels, its variables, or the agent that serves it.
#[utoipa::path(post, path = paths::TARGET_UPDATE, tag = "targets", params(("tenant" = String, Path), ("target" = String, Path)),
    request_body = UpdateTarget, responses((status = 200, body = Target)))]
pub(crate) async fn update_target(
    State(app): State<App>,
    Path((tenant, target)): Path<(String, String)>,
    change: Change,
    Json(body): Json<UpdateTarget>,
) -> Result<Json<Target>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let id = resolve::target(tenant, &target)?.id;
    let wanted = TargetChange {
        id,
        labels: body.labels.clone(),
        variables: body.variables.clone(),
        agent: body
            .agent
            .as_deref()
            .map(|text| resolve::agent(tenant, text).map(|agent| agent.id))
            .transpose()?,
    };
    change.tenant(&app, tenant.id, &body, TenantCommand::UpdateTarget(Box::new(wanted))).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::target(tenant, resolve::target(tenant, &id.to_string())?)))
}

/// Removes a target that no deployment works on.
#[utoipa::path(delete, path = paths::TARGET, tag = "targets", params(("tenant" = String, Path), ("target" = String, Path)),
    responses((status = 204, description = "Removed")))]
pub(crate) async fn remove_target(
    State(app): State<App>,
    Path((tenant, target)): Path<(String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let found = resolve::target(tenant, &target);
    if found.is_err() && change.was_carried_out(tenant, &())? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let id = found?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::RemoveTarget { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists agents.
#[utoipa::path(get, path = paths::AGENTS, tag = "agents", params(("tenant" = String, Path), Paging),
    responses((status = 200, body = Page<Agent>)))]
pub(crate) async fn agents(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Agent>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    page(&paging, tenant.agents.iter().map(|(id, it)| (*id, it)), |it| view::agent(tenant, it))
}

/// Shows an agent.
#[utoipa::path(get, path = paths::AGENT, tag = "agents", params(("tenant" = String, Path), ("agent" = String, Path)),
    responses((status = 200, body = Agent)))]
pub(crate) async fn agent(
    State(app): State<App>,
    Path((tenant, agent)): Path<(String, String)>,
) -> Result<Json<Agent>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    Ok(Json(view::agent(tenant, resolve::agent(tenant, &agent)?)))
}

/// Believes an agent's identity no more: its session is cut at once.
#[utoipa::path(post, path = paths::AGENT_REVOKE, tag = "agents", params(("tenant" = String, Path), ("agent" = String, Path)),
    request_body = RevokeAgent, responses((status = 200, body = Agent)))]
pub(crate) async fn revoke_agent(
    State(app): State<App>,
    Path((tenant, agent)): Path<(String, String)>,
    change: Change,
    Json(body): Json<RevokeAgent>,
) -> Result<Json<Agent>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let agent = resolve::agent(tenant, &agent)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    change.tenant(&app, tenant.id, &body, TenantCommand::RevokeAgent { agent, reason }).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::agent(tenant, resolve::agent(tenant, &agent.to_string())?)))
}

/// Lists enrolment tokens, without their secrets.
#[utoipa::path(get, path = paths::ENROLMENT_TOKENS, tag = "agents", params(("tenant" = String, Path), Paging),
    responses((status = 200, body = Page<EnrolmentToken>)))]
pub(crate) async fn enrolment_tokens(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<EnrolmentToken>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    page(&paging, tenant.enrolment_tokens.iter().map(|(id, it)| (*id, it)), |it| view::enrolment_token(it))
}

/// Creates an enrolment token. Its secret is in this answer and nowhere else: a repeated request is not shown it again.
#[utoipa::path(post, path = paths::ENROLMENT_TOKENS, tag = "agents", params(("tenant" = String, Path)),
    request_body = CreateEnrolmentToken, responses((status = 201, body = EnrolmentTokenCreated)))]
pub(crate) async fn create_enrolment_token(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateEnrolmentToken>,
) -> Result<Created<EnrolmentTokenCreated>, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    if !(1..=EXPIRES_IN_SECONDS_MAX).contains(&body.expires_in_seconds) {
        let problem = format!("must be between 1 and {EXPIRES_IN_SECONDS_MAX}");
        return Err(ApiError::invalid("expires_in_seconds", problem));
    }
    let id = EnrolmentTokenId(Uuid::now_v7());
    let token = stella_certs::EnrolmentToken::generate(id, app.authority.root_fingerprint())
        .map_err(|error| ApiError::internal(&error))?;
    let new = NewEnrolmentToken {
        id,
        secret_hash: token.secret_hash(),
        agent_name: body.name.as_deref().map(|name| parse::name("name", name)).transpose()?,
        labels: body.labels.clone(),
        profile: match body.profile {
            Profile::Confined => stella_protocol::message::Profile::Confined,
            Profile::Full => stella_protocol::message::Profile::Full,
        },
        uses_max: body.uses,
        expires_at: app.engine.now().plus_ms(body.expires_in_seconds * 1_000),
    };
    let command = TenantCommand::CreateEnrolmentToken(Box::new(new));
    let as_written = |field: String| match field.as_str() {
        "agent_name" => "name".to_owned(),
        "uses_max" => "uses".to_owned(),
        _ => field,
    };
    let outcome =
        change.tenant(&app, tenant, &body, command).await.map_err(|error| error.named(as_written))?;
    let Outcome::EnrolmentToken(created) = outcome else { return Err(unexpected(&outcome)) };
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let details = view::enrolment_token(resolve::enrolment_token(tenant, &created.to_string())?);
    let first_time = created == id;
    let note = "the token was shown when this request was answered first; create another one if it is lost";
    let answer = EnrolmentTokenCreated {
        token: first_time.then(|| token.to_string()),
        note: (!first_time).then(|| note.to_owned()),
        agent_address: app.agent_address(),
        details,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Takes an enrolment token back: no host enrols with it any more, not even one that asks again. Agents that it let in stay.
#[utoipa::path(post, path = paths::ENROLMENT_TOKEN_REVOKE, tag = "agents", params(("tenant" = String, Path), ("token" = String, Path)),
    request_body = RevokeEnrolmentToken, responses((status = 204, description = "Revoked")))]
pub(crate) async fn revoke_enrolment_token(
    State(app): State<App>,
    Path((tenant, token)): Path<(String, String)>,
    change: Change,
    Json(body): Json<RevokeEnrolmentToken>,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let reason = parse::reason("reason", &body.reason)?;
    let found = resolve::enrolment_token(tenant, &token);
    if found.is_err() && change.was_carried_out(tenant, &body)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let id = found?.id;
    change.tenant(&app, tenant.id, &body, TenantCommand::RevokeEnrolmentToken { id, reason }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Figures of the installation.
#[utoipa::path(get, path = paths::SYSTEM, tag = "system", responses((status = 200, body = System)))]
pub(crate) async fn system(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<System>, ApiError> {
    let state = app.engine.state();
    let rights = caller.rights(&state, app.engine.now())?;
    let seen: Vec<_> = state.tenants.values().filter(|tenant| rights.sees(tenant.id)).collect();
    let sum = |count: fn(&stella_domain::tenant::TenantState) -> usize| {
        seen.iter().map(|tenant| count(tenant) as u64).sum::<u64>()
    };
    let online = |tenant: &stella_domain::tenant::TenantState| {
        tenant
            .agents
            .values()
            .filter(|agent| matches!(agent.connectivity, Connectivity::Online { .. }))
            .count()
    };
    let counts = SystemCounts {
        tenants: seen.len() as u64,
        environments: sum(|tenant| tenant.environments.len()),
        targets: sum(|tenant| tenant.targets.len()),
        agents: sum(|tenant| tenant.agents.len()),
        agents_online: sum(online),
        releases: sum(|tenant| tenant.releases.len()),
        active_deployments: sum(|tenant| tenant.active_deployments.len()),
        waiting_promotions: sum(|tenant| tenant.open_promotions.len()),
        deployments: sum(|tenant| tenant.deployments.len())
            + seen.iter().map(|tenant| tenant.archived.deployments).sum::<u64>(),
        open_tasks: sum(|tenant| tenant.unsettled.values().map(|tasks| tasks.len()).sum()),
    };
    let incarnation = app.engine.journal_mark(TenantId(Uuid::nil())).incarnation;
    Ok(Json(System {
        version: app.version.to_owned(),
        journal_incarnation: incarnation.to_string(),
        uptime: app.started.elapsed().as_secs(),
        agent_address: app.agent_address(),
        root_fingerprint: app.authority.root_fingerprint().to_string(),
        roots_pem: app.authority.roots_pem(),
        root_rotation: app.authority.status().phase.map(|phase| phase.name().to_owned()),
        counts,
    }))
}
