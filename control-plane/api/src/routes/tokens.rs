//! Bearer tokens of the API: who may come in.

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use stella_api_types::token::{ApiToken, ApiTokenCreated, CreateApiToken, EXPIRES_IN_SECONDS_MAX};
use stella_api_types::{Page, paths};
use stella_domain::access::{Role, Scope};
use stella_domain::command::{Command, Outcome, SystemCommand};
use stella_protocol::id::{AccountId, ApiTokenId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

use crate::body::{Json, Paging, Path, Query, page};
use crate::error::ApiError;
use crate::request::Caller;
use crate::submit::{Change, unexpected};
use crate::{App, resolve, view};

/// Lists tokens, without their secrets: those of the caller's account, or all for who administers the installation.
#[utoipa::path(get, path = paths::API_TOKENS, tag = "accounts", params(Paging), responses((status = 200, body = Page<ApiToken>)))]
pub(crate) async fn tokens(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<ApiToken>>, ApiError> {
    let state = app.engine.state();
    let rights = caller.rights(&state, app.engine.now())?;
    let own = rights.account().map(|account| account.id);
    let seen = state.system.api_tokens.iter().filter(|(_, it)| rights.administers() || it.account == own);
    page(&paging, seen.map(|(id, it)| (*id, it)), |it| view::api_token(&state, it, caller.token))
}

/// Creates a token, for the caller's own account if none is named. It is in this answer and nowhere else: a repeated request
/// is not shown it again.
#[utoipa::path(post, path = paths::API_TOKENS, tag = "accounts", request_body = CreateApiToken,
    responses((status = 201, body = ApiTokenCreated)))]
pub(crate) async fn create_token(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    change: Change,
    Json(body): Json<CreateApiToken>,
) -> Result<(StatusCode, Json<ApiTokenCreated>), ApiError> {
    let id = ApiTokenId(Uuid::now_v7());
    let token = stella_certs::ApiToken::generate().map_err(|error| ApiError::internal(&error))?;
    let account = owner(&app, &caller, body.account.as_deref())?;
    let expires_at = body.expires_in_seconds.map(|seconds| end_of_life(&app, seconds)).transpose()?;
    at_its_pace(&app, &caller)?;
    let (name, hash) = (body.name.clone(), token.hash());
    let command = SystemCommand::CreateApiToken { id, name, hash, account, expires_at };
    let outcome = change.submit(&app, &body, Command::System(command)).await?;
    let Outcome::ApiToken(created) = outcome else { return Err(unexpected(&outcome)) };
    let state = app.engine.state();
    let found = state.system.api_tokens.get(&created);
    let details = found.ok_or_else(|| ApiError::not_found(ApiTokenId::KIND, &created.to_string()))?;
    let first_time = created == id;
    let note = "the token was shown when this request was answered first; create another one if it is lost";
    let answer = ApiTokenCreated {
        token: first_time.then(|| token.to_string()),
        note: (!first_time).then(|| note.to_owned()),
        details: view::api_token(&state, details, caller.token),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Everybody may renew their own tokens, and nobody may fill the journal with that. Who administers the installation creates those of others.
fn at_its_pace(app: &App, caller: &Caller) -> Result<(), ApiError> {
    let state = app.engine.state();
    let rights = caller.rights(&state, app.engine.now())?;
    match rights.account() {
        Some(account) if !rights.administers() => app.tuning.limits().token_change(account.id),
        Some(_) | None => Ok(()),
    }
}

/// When a new token ends.
fn end_of_life(app: &App, seconds: u64) -> Result<Timestamp, ApiError> {
    if (1..=EXPIRES_IN_SECONDS_MAX).contains(&seconds) {
        return Ok(app.engine.now().plus_ms(seconds * 1_000));
    }
    let problem = format!("must be between 1 and {EXPIRES_IN_SECONDS_MAX} (ten years)");
    Err(ApiError::invalid("expires_in_seconds", problem))
}

/// Whose a new token is. Only who administers the installation can learn which accounts there are.
fn owner(app: &App, caller: &Caller, named: Option<&str>) -> Result<Option<AccountId>, ApiError> {
    let state = app.engine.state();
    let rights = caller.rights(&state, app.engine.now())?;
    let own = rights.account();
    match named {
        None => Ok(own.map(|account| account.id)),
        Some(text) if own.is_some_and(|own| own.name.as_str() == text || own.id.to_string() == text) => {
            Ok(own.map(|account| account.id))
        }
        Some(text) => {
            rights.require(Role::Admin, Scope::Installation)?;
            let found = resolve::account(&state, text);
            let found = found.map_err(|error| ApiError::invalid("account", error.detail()))?;
            Ok(Some(found.id))
        }
    }
}

/// Revokes a token: its next request is refused, and its open feeds end. The last one of who administers the installation stays.
#[utoipa::path(delete, path = paths::API_TOKEN, tag = "accounts", params(("token" = String, Path)), responses((status = 204)))]
pub(crate) async fn revoke_token(
    State(app): State<App>,
    Path(token): Path<String>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let id = token.parse().map_err(|_| ApiError::not_found(ApiTokenId::KIND, &token))?;
    change.submit(&app, &(), Command::System(SystemCommand::RevokeApiToken { id })).await?;
    Ok(StatusCode::NO_CONTENT)
}
