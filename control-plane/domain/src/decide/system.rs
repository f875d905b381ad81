//! What belongs to no tenant: the tenants themselves, accounts, and the API's tokens.

use stella_protocol::id::{AccountId, ApiTokenId, TenantId};
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{Decision, authority, promotion, workflow};
use crate::access::{GRANTS_MAX, Grant};
use crate::api_token::ACCOUNT_TOKENS_MAX;
use crate::command::{LOG_LEVEL_MAX, Outcome, Request, SystemCommand};
use crate::event::{Fact, StreamId};
use crate::rejection::Rejection;
use crate::state::State;

/// How long an API token's name may be, in characters.
const TOKEN_NAME_MAX: usize = 128;

pub(super) fn decide(
    state: &State,
    request: &Request,
    command: &SystemCommand,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let mut decision = decided(state, request, command, now)?;
    if state.is_administered() && !decision.state.is_administered() {
        let problem = "nobody could administer the installation any more; create another one first: a token that does not expire, without an \
                       account or of one that is admin everywhere";
        return Err(Rejection::conflict(problem));
    }
    if let SystemCommand::SetAccountRoles { account, .. } | SystemCommand::RemoveAccount { account } = command
    {
        lapse(&mut decision, request, *account, now)?;
    }
    Ok(decision)
}

fn decided(
    state: &State,
    request: &Request,
    command: &SystemCommand,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let mut decision = Decision::new(state);
    let mut emit = |stream, fact| decision.emit(stream, request, now, fact);
    let outcome = match command {
        SystemCommand::CreateTenant { id, name } => {
            if state.system.tenants.contains_key(name) {
                return Err(Rejection::exists(TenantId::KIND, name));
            }
            if state.tenants.contains_key(id) {
                return Err(Rejection::exists(TenantId::KIND, id));
            }
            emit(StreamId::System, Fact::TenantCreated { id: *id, name: name.clone() })?;
            emit(StreamId::Tenant(*id), Fact::TenantOpened { id: *id, name: name.clone() })?;
            Outcome::Tenant(*id)
        }
        SystemCommand::CreateApiToken { id, name, hash, account, expires_at } => {
            token_name(name)?;
            if state.system.api_tokens.contains_key(id) {
                return Err(Rejection::exists(ApiTokenId::KIND, id));
            }
            account.map_or(Ok(()), |account| has_room(state, account))?;
            in_the_future(*expires_at, now)?;
            let (id, name, hash, account, expires_at) = (*id, name.clone(), *hash, *account, *expires_at);
            emit(StreamId::System, Fact::ApiTokenCreated { id, name, hash, account, expires_at })?;
            Outcome::ApiToken(id)
        }
        SystemCommand::RevokeApiToken { id } => {
            if !state.system.api_tokens.contains_key(id) {
                return Err(Rejection::not_found(ApiTokenId::KIND, id));
            }
            emit(StreamId::System, Fact::ApiTokenRevoked { id: *id })?;
            Outcome::Done
        }
        SystemCommand::CreateAccount { id, name, kind, roles } => {
            if state.system.account_names.contains_key(name) {
                return Err(Rejection::exists(AccountId::KIND, name));
            }
            if state.system.accounts.contains_key(id) {
                return Err(Rejection::exists(AccountId::KIND, id));
            }
            let roles = checked(state, roles)?;
            emit(StreamId::System, Fact::AccountCreated { id: *id, name: name.clone(), kind: *kind, roles })?;
            Outcome::Account(*id)
        }
        SystemCommand::SetAccountRoles { account, roles } => {
            known(state, *account)?;
            let roles = checked(state, roles)?;
            if state.system.accounts.get(account).is_none_or(|before| before.roles != roles) {
                emit(StreamId::System, Fact::AccountRolesSet { id: *account, roles })?;
            }
            Outcome::Account(*account)
        }
        SystemCommand::RemoveAccount { account } => {
            for fact in removal(state, *account)? {
                emit(StreamId::System, fact)?;
            }
            Outcome::Done
        }
        SystemCommand::SetLogLevel { .. } | SystemCommand::RecordAuthority(_) => {
            recorded(state, command)?.map_or(Ok(()), |fact| emit(StreamId::System, fact))?;
            Outcome::Done
        }
    };
    decision.outcome = outcome;
    Ok(decision)
}

/// What an account has approved counts no more where it may not approve any more: that is seen at once, and not when somebody looks.
fn lapse(
    decision: &mut Decision,
    request: &Request,
    account: AccountId,
    now: Timestamp,
) -> Result<(), Rejection> {
    let state = decision.state.clone();
    for tenant in state.tenants.values() {
        let mut tx = Transaction::new(&state, tenant, request, now);
        promotion::lapse_of(&mut tx, account)?;
        workflow::lapse_of(&mut tx, account)?;
        decision.merge(tx);
    }
    Ok(())
}

/// What is only written down: it changes something outside of the core.
#[expect(clippy::wildcard_enum_match_arm, reason = "the caller sorts them")]
fn recorded(state: &State, command: &SystemCommand) -> Result<Option<Fact>, Rejection> {
    match command {
        SystemCommand::SetLogLevel { level } => {
            log_level(level)?;
            Ok(Some(Fact::LogLevelSet { level: level.clone() }))
        }
        SystemCommand::RecordAuthority(record) => authority::record(state, record),
        _ => Ok(None),
    }
}

/// An account goes with its tokens. One of before there was a bound may have more than can be told one by one.
fn removal(state: &State, account: AccountId) -> Result<Vec<Fact>, Rejection> {
    known(state, account)?;
    let tokens = state.system.api_tokens.of_account(account).take(ACCOUNT_TOKENS_MAX);
    let revoked = tokens.map(|id| Fact::ApiTokenRevoked { id });
    Ok(revoked.chain([Fact::AccountRemoved { id: account }]).collect())
}

fn log_level(level: &str) -> Result<(), Rejection> {
    if level.is_empty() || level.chars().count() > LOG_LEVEL_MAX || level.contains(char::is_control) {
        let problem = format!("must have 1 to {LOG_LEVEL_MAX} characters and no control characters");
        return Err(Rejection::invalid("level", problem));
    }
    Ok(())
}

fn token_name(name: &str) -> Result<(), Rejection> {
    let length = name.chars().count();
    if length == 0 || length > TOKEN_NAME_MAX || name.contains(char::is_control) {
        let problem = format!("must have 1 to {TOKEN_NAME_MAX} characters and no control characters");
        return Err(Rejection::invalid("name", problem));
    }
    Ok(())
}

fn in_the_future(end: Option<Timestamp>, now: Timestamp) -> Result<(), Rejection> {
    if end.is_some_and(|end| end <= now) {
        return Err(Rejection::invalid("expires_at", "is not in the future"));
    }
    Ok(())
}

/// Whether an account may have another token.
fn has_room(state: &State, account: AccountId) -> Result<(), Rejection> {
    known(state, account)?;
    if state.system.api_tokens.of_account(account).nth(ACCOUNT_TOKENS_MAX - 1).is_none() {
        return Ok(());
    }
    let problem = format!(
        "the account has {ACCOUNT_TOKENS_MAX} tokens, which is the most; revoke some of them, or let them expire"
    );
    Err(Rejection::Conflict { problem })
}

fn known(state: &State, account: AccountId) -> Result<(), Rejection> {
    if state.system.accounts.contains_key(&account) {
        return Ok(());
    }
    Err(Rejection::not_found(AccountId::KIND, account))
}

/// Roles in places that exist, in order and none twice.
fn checked(state: &State, roles: &[Grant]) -> Result<Vec<Grant>, Rejection> {
    if roles.len() > GRANTS_MAX {
        return Err(Rejection::invalid("roles", format!("there are more than {GRANTS_MAX}")));
    }
    for (at, grant) in roles.iter().enumerate() {
        let problem = match (grant.tenant, grant.environment) {
            (None, None) => continue,
            (None, Some(_)) => "is in an environment of no tenant; say which tenant".to_owned(),
            (Some(id), environment) => match (state.tenants.get(&id), environment) {
                (None, _) => format!("there is no tenant {id}"),
                (Some(tenant), Some(environment)) if !tenant.environments.contains_key(&environment) => {
                    format!("tenant {} has no environment {environment}", tenant.name)
                }
                (Some(_), _) => continue,
            },
        };
        return Err(Rejection::invalid(format!("roles[{at}]"), problem));
    }
    let mut roles = roles.to_vec();
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}
