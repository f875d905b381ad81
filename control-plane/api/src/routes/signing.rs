//! Keys that sign releases, signatures by them, and the demand for them.

use axum::extract::State;
use axum::http::StatusCode;
use stella_api_types::hold::HoldBack;
use stella_api_types::release::Release;
use stella_api_types::signing::{AddReleaseKey, ReleaseKey, SetSigning, Sign};
use stella_api_types::tenant::Tenant;
use stella_api_types::{Page, paths};
use stella_domain::command::TenantCommand;
use stella_protocol::digest::Digest;
use stella_protocol::id::TenantId;

use crate::body::{Json, Path};
use crate::error::ApiError;
use crate::submit::Change;
use crate::{App, parse, resolve, view};

/// Lists the keys that sign releases, revoked ones included.
#[utoipa::path(get, path = paths::RELEASE_KEYS, tag = "releases", params(("tenant" = String, Path)),
    responses((status = 200, body = Page<ReleaseKey>)))]
pub(crate) async fn release_keys(
    State(app): State<App>,
    Path(tenant): Path<String>,
) -> Result<Json<Page<ReleaseKey>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    // There are too few for pages.
    let items = tenant.release_keys.values().map(|key| view::release_key(key)).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Registers a key that signs releases. Registering it again is fine.
#[utoipa::path(post, path = paths::RELEASE_KEYS, tag = "releases", params(("tenant" = String, Path)),
    request_body = AddReleaseKey, responses((status = 201, body = ReleaseKey)))]
pub(crate) async fn add_release_key(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<AddReleaseKey>,
) -> Result<(StatusCode, Json<ReleaseKey>), ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    let name = parse::name("name", &body.name)?;
    let public_key = parse::public_key("public_key", &body.public_key)?;
    let id = public_key.fingerprint();
    change.tenant(&app, tenant, &body, TenantCommand::AddReleaseKey { name, public_key }).await?;
    Ok((StatusCode::CREATED, shown(&app, tenant, id)?))
}

/// Lets nothing count any more that a key has signed. What is under way halts before its next wave.
#[utoipa::path(post, path = paths::RELEASE_KEY_REVOKE, tag = "releases",
    params(("tenant" = String, Path), ("key" = String, Path)), request_body = HoldBack,
    responses((status = 200, body = ReleaseKey)))]
pub(crate) async fn revoke_release_key(
    State(app): State<App>,
    Path((tenant, key)): Path<(String, String)>,
    change: Change,
    Json(body): Json<HoldBack>,
) -> Result<Json<ReleaseKey>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let key = resolve::release_key(tenant, &key)?.id;
    let reason = parse::reason("reason", &body.reason)?;
    change.tenant(&app, tenant.id, &body, TenantCommand::RevokeReleaseKey { key, reason }).await?;
    shown(&app, tenant.id, key)
}

fn shown(app: &App, tenant: TenantId, key: Digest) -> Result<Json<ReleaseKey>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.to_string())?;
    Ok(Json(view::release_key(resolve::release_key(tenant, &key.to_string())?)))
}

/// Adds a signature to a release. It is checked, and may be added again.
#[utoipa::path(post, path = paths::RELEASE_SIGNATURES, tag = "releases",
    params(("tenant" = String, Path), ("release" = String, Path)), request_body = Sign,
    responses((status = 200, body = Release)))]
pub(crate) async fn sign_release(
    State(app): State<App>,
    Path((tenant, release)): Path<(String, String)>,
    change: Change,
    Json(body): Json<Sign>,
) -> Result<Json<Release>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let release = resolve::release(tenant, &release)?.id;
    let (key, signature) = parse::signature(tenant, "", &body)?;
    change.tenant(&app, tenant.id, &body, TenantCommand::SignRelease { release, key, signature }).await?;
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok(Json(view::release(tenant, resolve::release(tenant, &release.to_string())?)))
}

/// Sets which signatures every release of the tenant must have. What is under way without them halts before its next wave.
#[utoipa::path(post, path = paths::TENANT_SIGNING, tag = "releases", params(("tenant" = String, Path)),
    request_body = SetSigning, responses((status = 200, body = Tenant)))]
pub(crate) async fn set_signing(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<SetSigning>,
) -> Result<Json<Tenant>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let rule = match (body.needed, body.keys.as_slice()) {
        (0, []) => None,
        (0, _) => {
            let problem = "names keys, and none of them has to sign; set needed";
            return Err(ApiError::invalid("keys", problem));
        }
        (needed, keys) => Some(parse::signature_rule(tenant, "keys", needed, keys)?),
    };
    change.tenant(&app, tenant.id, &body, TenantCommand::SetReleaseSigning { rule }).await?;
    Ok(Json(view::tenant(resolve::tenant(&app.engine.state(), &tenant.id.to_string())?)))
}
