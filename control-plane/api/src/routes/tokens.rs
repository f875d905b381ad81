//! Bearer tokens of the API: who may come in.

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use stella_api_types::token::{ApiToken, ApiTokenCreated, CreateApiToken};
use stella_api_types::{Page, paths};
use stella_domain::command::{Command, Outcome, SystemCommand};
use stella_protocol::id::ApiTokenId;
use uuid::Uuid;

use crate::body::{Json, Paging, Path, Query, page};
use crate::error::ApiError;
use crate::request::Caller;
use crate::submit::{Change, unexpected};
use crate::{App, view};

/// Lists tokens, without their secrets.
#[utoipa::path(get, path = paths::API_TOKENS, tag = "tokens", params(Paging), responses((status = 200, body = Page<ApiToken>)))]
pub(crate) async fn tokens(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<ApiToken>>, ApiError> {
    let state = app.engine.state();
    page(&paging, state.system.api_tokens.iter().map(|(id, it)| (*id, it)), |it| {
        view::api_token(it, caller.token)
    })
}

/// Creates a token. It is in this answer and nowhere else: a repeated request is not shown it again.
#[utoipa::path(post, path = paths::API_TOKENS, tag = "tokens", request_body = CreateApiToken,
    responses((status = 201, body = ApiTokenCreated)))]
pub(crate) async fn create_token(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    change: Change,
    Json(body): Json<CreateApiToken>,
) -> Result<(StatusCode, Json<ApiTokenCreated>), ApiError> {
    let id = ApiTokenId(Uuid::now_v7());
    let token = stella_certs::ApiToken::generate().map_err(|error| ApiError::internal(&error))?;
    let command = SystemCommand::CreateApiToken { id, name: body.name.clone(), hash: token.hash() };
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
        details: view::api_token(details, caller.token),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Revokes a token: its next request is refused, and its open feeds end. The last one stays.
#[utoipa::path(delete, path = paths::API_TOKEN, tag = "tokens", params(("token" = String, Path)), responses((status = 204)))]
pub(crate) async fn revoke_token(
    State(app): State<App>,
    Path(token): Path<String>,
    change: Change,
) -> Result<StatusCode, ApiError> {
    let id = token.parse().map_err(|_| ApiError::not_found(ApiTokenId::KIND, &token))?;
    change.submit(&app, &(), Command::System(SystemCommand::RevokeApiToken { id })).await?;
    Ok(StatusCode::NO_CONTENT)
}
