//! Accounts and tokens of the API.

use stella_api_types::account as dto;
use stella_api_types::token::ApiToken as ApiTokenDto;
use stella_domain::access::{Account, AccountKind, Grant};
use stella_domain::api_token::ApiToken;
use stella_domain::approvers::{self, NamedInVain};
use stella_domain::state::State;
use stella_protocol::id::{AccountId, ApiTokenId};

use super::{environment_named, named, time};

/// A token of the API, for the bearer of `caller`.
pub(crate) fn api_token(state: &State, token: &ApiToken, caller: ApiTokenId) -> ApiTokenDto {
    ApiTokenDto {
        id: token.id.to_string(),
        name: token.name.clone(),
        account: token.account.map(|id| named(id, state.system.accounts.get(&id).map(|it| &it.name))),
        is_yours: token.id == caller,
        created_at: time(token.created_at),
        expires_at: token.expires_at.map(time),
    }
}

/// An account.
pub(crate) fn account(state: &State, account: &Account) -> dto::Account {
    let kind = match account.kind {
        AccountKind::User => "user",
        AccountKind::Service => "service",
    };
    let tokens = state.system.api_tokens.of_account(account.id).count();
    dto::Account {
        id: account.id.to_string(),
        name: account.name.to_string(),
        kind: kind.to_owned(),
        roles: account.roles.iter().map(|it| grant(state, it)).collect(),
        tokens: tokens as u64,
        created_at: time(account.created_at),
        warnings: Vec::new(),
    }
}

/// An account by itself, with what is in vain now.
pub(crate) fn account_alone(state: &State, account: &Account) -> dto::Account {
    dto::Account {
        warnings: named_in_vain(state, account.id, account.name.as_str()),
        ..self::account(state, account)
    }
}

/// The approval rules that name an account which cannot approve there, or was removed.
pub(crate) fn named_in_vain(state: &State, id: AccountId, name: &str) -> Vec<String> {
    let rules = approvers::named_in_vain(state, id);
    rules.into_iter().filter_map(|it| in_vain(state, name, it)).collect()
}

fn in_vain(state: &State, name: &str, it: NamedInVain) -> Option<String> {
    let NamedInVain { tenant, environment, given, needed } = it;
    let tenant = state.tenants.get(&tenant)?;
    let place = &tenant.environments.get(&environment)?.name;
    let so = if given < needed {
        format!(
            "those whom it names give {given} of {needed} approvals, so nothing gets through there until it is changed (stella env approvals {place})"
        )
    } else {
        "the others are enough".to_owned()
    };
    Some(format!(
        "the approval rule of {place} in tenant {} names {name}, who cannot approve there: {so}",
        tenant.name
    ))
}

fn grant(state: &State, grant: &Grant) -> dto::Grant {
    let tenant = grant.tenant.and_then(|id| state.tenants.get(&id));
    dto::Grant {
        role: grant.role.name().to_owned(),
        tenant: grant.tenant.map(|id| named(id, tenant.map(|tenant| &tenant.name))),
        environment: grant.environment.and_then(|id| Some(environment_named(tenant?, id))),
    }
}
