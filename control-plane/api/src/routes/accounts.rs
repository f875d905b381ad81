//! Who uses the API, and what they may do.

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use stella_api_types::account::{Account, CreateAccount, RemovedAccount, SetRoles, WhoAmI};
use stella_api_types::{Page, paths};
use stella_domain::access::{Role, Scope};
use stella_domain::command::{Command, Outcome, SystemCommand};
use stella_protocol::id::AccountId;
use uuid::Uuid;

use crate::body::{Json, Paging, Path, Query, page};
use crate::error::ApiError;
use crate::request::Caller;
use crate::submit::{Change, unexpected};
use crate::{App, parse, resolve, view};

/// Says who asks and what they may do.
#[utoipa::path(get, path = paths::WHOAMI, tag = "accounts", responses((status = 200, body = WhoAmI)))]
pub(crate) async fn whoami(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<WhoAmI>, ApiError> {
    let state = app.engine.state();
    let account =
        caller.rights(&state, app.engine.now())?.account().map(|account| view::account(&state, account));
    Ok(Json(WhoAmI { token: caller.token.to_string(), account }))
}

/// Lists accounts.
#[utoipa::path(get, path = paths::ACCOUNTS, tag = "accounts", params(Paging), responses((status = 200, body = Page<Account>)))]
pub(crate) async fn accounts(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Account>>, ApiError> {
    let state = app.engine.state();
    caller.rights(&state, app.engine.now())?.require(Role::Admin, Scope::Installation)?;
    page(&paging, state.system.accounts.iter().map(|(id, it)| (*id, it)), |it| view::account(&state, it))
}

/// Creates an account. It has no token yet.
#[utoipa::path(post, path = paths::ACCOUNTS, tag = "accounts", request_body = CreateAccount,
    responses((status = 201, body = Account)))]
pub(crate) async fn create_account(
    State(app): State<App>,
    change: Change,
    Json(body): Json<CreateAccount>,
) -> Result<(StatusCode, Json<Account>), ApiError> {
    change.require(&app, Role::Admin, Scope::Installation)?;
    let name = parse::name("name", &body.name)?;
    let kind = parse::account_kind("kind", &body.kind)?;
    let roles = parse::roles(&app.engine.state(), &body.roles)?;
    let command = SystemCommand::CreateAccount { id: AccountId(Uuid::now_v7()), name, kind, roles };
    let outcome = change.submit(&app, &body, Command::System(command)).await?;
    Ok((StatusCode::CREATED, shown(&app, &outcome)?))
}

/// Shows an account.
#[utoipa::path(get, path = paths::ACCOUNT, tag = "accounts", params(("account" = String, Path)),
    responses((status = 200, body = Account)))]
pub(crate) async fn account(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(account): Path<String>,
) -> Result<Json<Account>, ApiError> {
    let state = app.engine.state();
    caller.rights(&state, app.engine.now())?.require(Role::Admin, Scope::Installation)?;
    Ok(Json(view::account_alone(&state, resolve::account(&state, &account)?)))
}

/// Sets what an account may do, at once and for all of its tokens.
#[utoipa::path(post, path = paths::ACCOUNT_ROLES, tag = "accounts", params(("account" = String, Path)),
    request_body = SetRoles, responses((status = 200, body = Account)))]
pub(crate) async fn set_roles(
    State(app): State<App>,
    Path(account): Path<String>,
    change: Change,
    Json(body): Json<SetRoles>,
) -> Result<Json<Account>, ApiError> {
    change.require(&app, Role::Admin, Scope::Installation)?;
    let state = app.engine.state();
    let account = resolve::account(&state, &account)?.id;
    let roles = parse::roles(&state, &body.roles)?;
    let command = SystemCommand::SetAccountRoles { account, roles };
    let outcome = change.submit(&app, &body, Command::System(command)).await?;
    shown(&app, &outcome)
}

/// Removes an account and revokes its tokens. What it did stays recorded under its name.
#[utoipa::path(delete, path = paths::ACCOUNT, tag = "accounts", params(("account" = String, Path)),
    responses((status = 204), (status = 200, body = RemovedAccount, description = "it is removed, and something is in vain now")))]
pub(crate) async fn remove_account(
    State(app): State<App>,
    Path(account): Path<String>,
    change: Change,
) -> Result<Response, ApiError> {
    change.require(&app, Role::Admin, Scope::Installation)?;
    let state = app.engine.state();
    let found = resolve::account(&state, &account);
    if found.is_err() && change.was_carried_out_in_system(&state.system, &())? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let found = found?;
    let account = found.id;
    change.submit(&app, &(), Command::System(SystemCommand::RemoveAccount { account })).await?;
    let warnings = view::named_in_vain(&app.engine.state(), account, found.name.as_str());
    if warnings.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(RemovedAccount { warnings }).into_response())
}

fn shown(app: &App, outcome: &Outcome) -> Result<Json<Account>, ApiError> {
    let Outcome::Account(id) = outcome else { return Err(unexpected(outcome)) };
    let state = app.engine.state();
    Ok(Json(view::account_alone(&state, resolve::account(&state, &id.to_string())?)))
}
