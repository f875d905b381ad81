//! Accounts and tokens of the API.

use std::sync::Arc;

use stella_protocol::id::{AccountId, ApiTokenId};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced, missing, vacant};
use crate::access::Account;
use crate::api_token::ApiToken;
use crate::event::Fact;
use crate::state::SystemState;
use crate::tenant::Timer;

impl SystemState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_access(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        match fact {
            Fact::ApiTokenCreated { id, name, hash, account, expires_at } => {
                vacant(!self.api_tokens.contains_key(id), ApiTokenId::KIND, id, fact)?;
                let known = account.is_none_or(|account| self.accounts.contains_key(&account));
                ensure(known, format!("API token {id}"), "of an account that is not there", fact)?;
                let (id, name, hash, account, expires_at) = (*id, name.clone(), *hash, *account, *expires_at);
                self.timers.extend(expires_at.map(|end| (end, Timer::ApiTokenEnded(id))));
                self.api_tokens.insert(ApiToken { id, name, hash, account, expires_at, created_at: at });
                Ok(())
            }
            Fact::ApiTokenRevoked { id } => self.forget_token(*id, fact),
            Fact::AccountCreated { id, name, kind, roles } => {
                vacant(!self.accounts.contains_key(id), AccountId::KIND, id, fact)?;
                vacant(!self.account_names.contains_key(name), AccountId::KIND, name, fact)?;
                self.account_names.insert(name.clone(), *id);
                let (name, roles) = (name.clone(), roles.clone());
                let account = Account { id: *id, name, kind: *kind, roles, created_at: at };
                self.accounts.insert(*id, Arc::new(account));
                Ok(())
            }
            Fact::AccountRolesSet { id, roles } => {
                let account = self.accounts.get_mut(id).ok_or_else(|| missing(AccountId::KIND, id, fact))?;
                Arc::make_mut(account).roles.clone_from(roles);
                Ok(())
            }
            Fact::AccountRemoved { id } => {
                // Most were revoked before, each by a fact of its own.
                let tokens: Vec<ApiTokenId> = self.api_tokens.of_account(*id).collect();
                tokens.into_iter().try_for_each(|token| self.forget_token(token, fact))?;
                let account = self.accounts.remove(id).ok_or_else(|| missing(AccountId::KIND, id, fact))?;
                self.account_names.remove(&account.name);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn forget_token(&mut self, id: ApiTokenId, fact: &Fact) -> Applied {
        let token = self.api_tokens.remove(&id).ok_or_else(|| missing(ApiTokenId::KIND, id, fact))?;
        if let Some(end) = token.expires_at {
            self.timers.remove(&(end, Timer::ApiTokenEnded(id)));
        }
        Ok(())
    }
}
