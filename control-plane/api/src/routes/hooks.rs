//! Incoming webhooks: which there are, and what they are for. What comes in by them is in [`super::deliveries`].

use std::collections::BTreeMap;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use stella_api_types::hook::{CreateHook, Hook, HookSecretMade, RotateHook};
use stella_api_types::{Page, paths};
use stella_certs::hook::salt;
use stella_domain::access::{Role, Scope};
use stella_domain::command::{NewHook, Outcome, TenantCommand};
use stella_domain::hook::HookAction;
use stella_domain::name::Identifier;
use stella_domain::state::State as DomainState;
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{HookId, TenantId};
use uuid::Uuid;

use crate::body::{Json, Paging, Path, Query, page};
use crate::error::ApiError;
use crate::request::Caller;
use crate::submit::{Change, unexpected};
use crate::{App, parse, resolve, view};

/// Lists hooks, without their secrets.
#[utoipa::path(get, path = paths::HOOKS, tag = "hooks", params(("tenant" = String, Path), Paging),
    responses((status = 200, body = Page<Hook>)))]
pub(crate) async fn hooks(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Hook>>, ApiError> {
    let (state, now) = (app.engine.state(), app.engine.now());
    let tenant = resolve::tenant(&state, &tenant)?;
    caller.rights(&state, now)?.require(Role::Viewer, Scope::Tenant(tenant.id))?;
    page(&paging, tenant.hooks.iter().map(|(id, it)| (*id, it)), |it| view::hook(&state, tenant, it, now))
}

/// Creates a hook. Its secret is in this answer and nowhere else: a repeated request is not shown it again.
#[utoipa::path(post, path = paths::HOOKS, tag = "hooks", params(("tenant" = String, Path)), request_body = CreateHook,
    responses((status = 201, body = HookSecretMade)))]
pub(crate) async fn create_hook(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateHook>,
) -> Result<(StatusCode, Json<HookSecretMade>), ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    change.require(&app, Role::Admin, Scope::Tenant(tenant.id))?;
    let new = wanted(&state, tenant, &body)?;
    let (id, salt) = (new.id, new.salt);
    let created = change.tenant(&app, tenant.id, &body, TenantCommand::CreateHook(Box::new(new))).await?;
    let Outcome::Hook(created) = created else { return Err(unexpected(&created)) };
    let secret = (created == id).then_some(salt);
    Ok((StatusCode::CREATED, Json(made(&app, tenant.id, created, secret)?)))
}

fn wanted(state: &DomainState, tenant: &TenantState, body: &CreateHook) -> Result<NewHook, ApiError> {
    let action = match (&body.workflow, &body.deploy) {
        (Some(workflow), None) => HookAction::Workflow {
            workflow: resolve::workflow(tenant, &workflow.name)?.name.clone(),
            inputs: expressions(&workflow.inputs)?,
        },
        (None, Some(deploy)) => HookAction::Deploy {
            environment: resolve::environment(tenant, &deploy.environment)?.id,
            release: deploy.release.clone(),
        },
        _ => return Err(ApiError::invalid("workflow", "give exactly one of workflow and deploy")),
    };
    // Who is no account here, and who is none at all, is the same to whoever asks.
    let account = resolve::account(state, &body.account).map(|account| account.id);
    let nobody = |_| ApiError::invalid("account", "there is no such account with a role in this tenant");
    Ok(NewHook {
        id: HookId(Uuid::now_v7()),
        name: parse::name("name", &body.name)?,
        account: account.map_err(nobody)?,
        action,
        when: body.when.clone(),
        salt: salt().map_err(|error| ApiError::internal(&error))?,
    })
}

fn expressions(inputs: &BTreeMap<String, String>) -> Result<BTreeMap<Identifier, String>, ApiError> {
    let identify = |(name, source): (&String, &String)| {
        let id = name.parse::<Identifier>();
        let id =
            id.map_err(|error| ApiError::invalid(format!("workflow.inputs.{name}"), error.to_string()))?;
        Ok((id, source.clone()))
    };
    inputs.iter().map(identify).collect()
}

/// Shows a hook, without its secret.
#[utoipa::path(get, path = paths::HOOK, tag = "hooks", params(("tenant" = String, Path), ("hook" = String, Path)),
    responses((status = 200, body = Hook)))]
pub(crate) async fn hook(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((tenant, hook)): Path<(String, String)>,
) -> Result<Json<Hook>, ApiError> {
    let (state, now) = (app.engine.state(), app.engine.now());
    let tenant = resolve::tenant(&state, &tenant)?;
    caller.rights(&state, now)?.require(Role::Viewer, Scope::Tenant(tenant.id))?;
    Ok(Json(view::hook(&state, tenant, resolve::hook(tenant, &hook)?, now)))
}

/// Gives a hook's sender another secret. It is in this answer and nowhere else.
#[utoipa::path(post, path = paths::HOOK_ROTATE, tag = "hooks", params(("tenant" = String, Path), ("hook" = String, Path)),
    request_body = RotateHook, responses((status = 200, body = HookSecretMade)))]
pub(crate) async fn rotate_hook(
    State(app): State<App>,
    Path((tenant, hook)): Path<(String, String)>,
    change: Change,
    Json(body): Json<RotateHook>,
) -> Result<Json<HookSecretMade>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let hook = resolve::hook(tenant, &hook)?.id;
    let salt = salt().map_err(|error| ApiError::internal(&error))?;
    let overlap_ms = body.overlap_seconds.saturating_mul(1_000);
    change.tenant(&app, tenant.id, &body, TenantCommand::RotateHook { hook, salt, overlap_ms }).await?;
    // A request that is repeated has left the salt of the first.
    let now_there = app.engine.state().tenants.get(&tenant.id).and_then(|it| Some(it.hooks.get(&hook)?.salt));
    made(&app, tenant.id, hook, now_there.filter(|it| *it == salt)).map(Json)
}

/// A hook with its secret, if that was made for this answer.
fn made(app: &App, tenant: TenantId, hook: HookId, salt: Option<Digest>) -> Result<HookSecretMade, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    let found = resolve::hook(tenant, &hook.to_string())?;
    let note = "the secret was shown when this request was answered first; rotate the hook if it is lost";
    Ok(HookSecretMade {
        secret: salt.map(|salt| app.hook_key.secret(hook, &salt).expose().to_owned()),
        note: salt.is_none().then(|| note.to_owned()),
        details: view::hook(&state, tenant, found, app.engine.now()),
    })
}

/// Removes a hook: what is sent to it is refused. What it has started goes on.
#[utoipa::path(delete, path = paths::HOOK, tag = "hooks", params(("tenant" = String, Path), ("hook" = String, Path)),
    responses((status = 204)))]
pub(crate) async fn remove_hook(
    State(app): State<App>,
    Path((tenant, hook)): Path<(String, String)>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let found = resolve::hook(tenant, &hook);
    if found.is_err() && change.was_carried_out(tenant, &())? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let hook = found?.id;
    change.tenant(&app, tenant.id, &(), TenantCommand::RemoveHook { hook }).await?;
    Ok(StatusCode::NO_CONTENT)
}
