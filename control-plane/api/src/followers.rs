//! Answers that go on: feeds of events, output that is followed. Each is a request that was counted once and then stays.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use stella_domain::command::Actor;
use stella_protocol::id::{AccountId, ApiTokenId, TenantId};

use crate::error::{ApiError, ErrorCode};
use crate::request::Caller;

/// How many one account may have with all its tokens, of which it can make itself more, or a token without an account. Each screen of a
/// person has one or two.
const OF_ONE_MAX: usize = 64;
/// How many there may be in one tenant, so that others have some left.
const OF_TENANT_MAX: usize = 512;
/// When to try again.
const RETRY_AFTER_S: u64 = 10;

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct Followers(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    by_follower: HashMap<Follower, usize>,
    by_tenant: HashMap<TenantId, usize>,
}

/// Whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Follower {
    /// With whichever token.
    Account(AccountId),
    /// One that has no account.
    Token(ApiTokenId),
}

impl Follower {
    pub(crate) fn of(caller: &Caller) -> Self {
        if let Actor::ApiToken { account: Some(account), .. } = caller.actor() {
            Self::Account(account.id)
        } else {
            Self::Token(caller.token)
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Token(_) => "token",
        }
    }
}

/// One that is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Following {
    followers: Arc<Followers>,
    follower: Follower,
    tenant: Option<TenantId>,
}

impl Followers {
    /// Counts one more. What belongs to no tenant counts for who follows it only.
    pub(crate) fn enter(
        self: &Arc<Self>,
        follower: Follower,
        tenant: Option<TenantId>,
    ) -> Result<Following, ApiError> {
        let mut counts = self.0.lock();
        let of_one = counts.by_follower.get(&follower).copied().unwrap_or(0);
        let of_tenant = tenant.and_then(|tenant| counts.by_tenant.get(&tenant)).copied().unwrap_or(0);
        if of_one >= OF_ONE_MAX {
            return Err(too_many(follower.kind(), OF_ONE_MAX));
        }
        if of_tenant >= OF_TENANT_MAX {
            return Err(too_many("tenant", OF_TENANT_MAX));
        }
        counts.by_follower.insert(follower, of_one + 1);
        if let Some(tenant) = tenant {
            counts.by_tenant.insert(tenant, of_tenant + 1);
        }
        drop(counts);
        Ok(Following { followers: Arc::clone(self), follower, tenant })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut counts = self.followers.0.lock();
        leave(&mut counts.by_follower, &self.follower);
        if let Some(tenant) = &self.tenant {
            leave(&mut counts.by_tenant, tenant);
        }
    }
}

fn leave<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn too_many(of: &'static str, max: usize) -> ApiError {
    metrics::counter!("stella_http_rate_limited_total", "limit" => "followers").increment(1);
    let detail = format!(
        "this {of} follows {max} feeds and tasks at the same time, which is the most; end some of them"
    );
    ApiError::retry_after(ErrorCode::RateLimited, RETRY_AFTER_S, detail)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn account(id: u128) -> Follower {
        Follower::Account(AccountId(Uuid::from_u128(id)))
    }

    #[test]
    fn an_account_and_a_tenant_have_their_bounds_and_places_come_back() {
        let followers = Arc::new(Followers::default());
        let tenant = Some(TenantId(Uuid::from_u128(1)));
        let mut held: Vec<_> =
            (0..OF_ONE_MAX).map(|_| followers.enter(account(0), tenant).unwrap()).collect();
        assert!(followers.enter(account(0), tenant).is_err());
        assert!(followers.enter(account(0), None).is_err(), "it is the account's bound");
        let token = Follower::Token(ApiTokenId(Uuid::from_u128(0)));
        held.push(followers.enter(token, None).unwrap());
        let others = 1..u128::try_from(OF_TENANT_MAX / OF_ONE_MAX).unwrap();
        for other in others {
            held.extend((0..OF_ONE_MAX).map(|_| followers.enter(account(other), tenant).unwrap()));
        }
        assert!(followers.enter(account(99), tenant).is_err(), "it is the tenant's bound");
        let elsewhere = Some(TenantId(Uuid::from_u128(2)));
        held.push(followers.enter(account(99), elsewhere).unwrap());
        drop(held);
        let counts = followers.0.lock();
        assert!(counts.by_follower.is_empty() && counts.by_tenant.is_empty());
    }
}
