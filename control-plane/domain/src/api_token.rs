//! Bearer tokens of the API, and how they are found.

use std::ops::{Bound, Deref};

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, ApiTokenId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

/// How many tokens one account may have at the same time: one for each of its places, with room for a pipeline that makes one for
/// each job. Each has requests of its own, and all are in memory and in every snapshot.
pub const ACCOUNT_TOKENS_MAX: usize = 256;

/// A bearer token of the API. Only its hash is known here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// What it is for, for people.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: Digest,
    /// Whose it is; `None` may do everything.
    #[serde(default)]
    pub account: Option<AccountId>,
    /// From when on it lets nobody in; `None` is never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// All tokens, by id, by hash and by account. In snapshots it is the map by id alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OrdMap<ApiTokenId, ApiToken>", into = "OrdMap<ApiTokenId, ApiToken>")]
pub struct ApiTokens {
    by_id: OrdMap<ApiTokenId, ApiToken>,
    by_hash: OrdSet<(Digest, ApiTokenId)>,
    by_account: OrdSet<(AccountId, ApiTokenId)>,
}

/// The first and the last of all ids.
const ALL: (ApiTokenId, ApiTokenId) = (ApiTokenId(Uuid::nil()), ApiTokenId(Uuid::max()));

impl ApiTokens {
    /// The token with a hash. A search may end early: nobody can choose what a secret hashes to, so how long it takes tells nothing
    /// about which secrets there are.
    #[must_use]
    pub fn with_hash(&self, hash: Digest) -> Option<&ApiToken> {
        let found =
            self.by_hash.range((Bound::Included((hash, ALL.0)), Bound::Included((hash, ALL.1)))).next();
        found.and_then(|(_, id)| self.by_id.get(id))
    }

    /// The tokens of an account, by id.
    pub fn of_account(&self, account: AccountId) -> impl Iterator<Item = ApiTokenId> {
        let range = (Bound::Included((account, ALL.0)), Bound::Included((account, ALL.1)));
        self.by_account.range(range).map(|(_, id)| *id)
    }

    pub(crate) fn insert(&mut self, token: ApiToken) {
        self.remove(&token.id);
        self.by_hash.insert((token.hash, token.id));
        self.by_account.extend(token.account.map(|account| (account, token.id)));
        self.by_id.insert(token.id, token);
    }

    pub(crate) fn remove(&mut self, id: &ApiTokenId) -> Option<ApiToken> {
        let token = self.by_id.remove(id)?;
        self.by_hash.remove(&(token.hash, *id));
        if let Some(account) = token.account {
            self.by_account.remove(&(account, *id));
        }
        Some(token)
    }
}

/// For reading by id.
impl Deref for ApiTokens {
    type Target = OrdMap<ApiTokenId, ApiToken>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

impl From<OrdMap<ApiTokenId, ApiToken>> for ApiTokens {
    fn from(by_id: OrdMap<ApiTokenId, ApiToken>) -> Self {
        let mut tokens = Self::default();
        by_id.into_iter().for_each(|(_, token)| tokens.insert(token));
        tokens
    }
}

impl From<ApiTokens> for OrdMap<ApiTokenId, ApiToken> {
    fn from(tokens: ApiTokens) -> Self {
        tokens.by_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_hash_and_by_account_also_after_a_snapshot() {
        let id = |n| ApiTokenId(Uuid::from_u128(n));
        let account = AccountId(Uuid::from_u128(7));
        let mut tokens = ApiTokens::default();
        for n in 1..=3 {
            let (name, hash) = (n.to_string(), Digest([u8::try_from(n).unwrap(); 32]));
            let account = (n > 1).then_some(account);
            tokens.insert(ApiToken {
                id: id(n),
                name,
                hash,
                account,
                expires_at: None,
                created_at: Timestamp(1),
            });
        }
        tokens.remove(&id(2)).unwrap();
        let by_id: &OrdMap<ApiTokenId, ApiToken> = &tokens;
        let snapshot = serde_json::to_string(&tokens).unwrap();
        assert_eq!(snapshot, serde_json::to_string(by_id).unwrap(), "the format is the map's");
        let read: ApiTokens = serde_json::from_str(&snapshot).unwrap();
        assert_eq!(read, tokens);
        for tokens in [tokens, read] {
            let found = |byte| tokens.with_hash(Digest([byte; 32])).map(|token| token.id);
            assert_eq!([found(0), found(1), found(2), found(3)], [None, Some(id(1)), None, Some(id(3))]);
            assert_eq!(tokens.of_account(account).collect::<Vec<_>>(), [id(3)]);
        }
    }
}
