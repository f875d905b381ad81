//! The whole state: one tree of values that is cheap to clone, so that a reader keeps the snapshot that it started with.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, TenantId};
use stella_protocol::time::Timestamp;

use crate::access::{Account, Rights};
use crate::api_token::ApiTokens;
use crate::authority::Authority;
use crate::name::Name;
use crate::tenant::{AnsweredRequest, TenantState, Timer};

/// Everything that the control plane knows. Two states that applied the same events are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What belongs to no tenant.
    pub system: SystemState,
    /// The tenants.
    pub tenants: OrdMap<TenantId, Arc<TenantState>>,
    /// What it counts.
    #[serde(default = "Projections::of_before")]
    pub projections: Projections,
}

/// What a state counts, and keeps, of its events. A snapshot of a version that counted less leads to another state than the events that it
/// was made of, so the events are applied anew instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Projections(u32);

impl Projections {
    /// Of this version. One more with each thing that is counted, or kept, from events of before; `tests/journals.rs` finds out if it
    /// is not.
    pub const NOW: Self = Self(6);

    const fn of_before() -> Self {
        Self(0)
    }
}

impl Default for Projections {
    fn default() -> Self {
        Self::NOW
    }
}

impl State {
    /// When the next timer is due; `None` if nothing waits for time to pass.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let tenants = self.tenants.values().filter_map(|tenant| tenant.timers.get_min());
        tenants.chain(self.system.timers.get_min()).map(|(at, _)| *at).min()
    }

    /// Whether an archive belongs to any tenant.
    #[must_use]
    pub fn knows_artifact(&self, digest: Digest) -> bool {
        self.tenants.values().any(|tenant| tenant.artifacts.contains_key(&digest))
    }

    /// Whether somebody who administers the installation can come in, also when all tokens that end have ended.
    pub(crate) fn is_administered(&self) -> bool {
        let never = Timestamp(u64::MAX);
        let mut tokens = self.system.api_tokens.keys();
        tokens.any(|token| Rights::of(self, *token, never).is_some_and(|rights| rights.administers()))
    }
}

/// What belongs to no tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemState {
    /// Tenants by name.
    pub tenants: OrdMap<Name, TenantId>,
    /// Bearer tokens of the API.
    pub api_tokens: ApiTokens,
    /// Who uses the API.
    #[serde(default)]
    pub accounts: OrdMap<AccountId, Arc<Account>>,
    /// Accounts by name.
    #[serde(default)]
    pub account_names: OrdMap<Name, AccountId>,
    /// The certificate authority, once something was done to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Authority>,
    /// Answers that were given, by idempotency key.
    pub requests: OrdMap<String, AnsweredRequest>,
    /// What is due when.
    pub timers: imbl::OrdSet<(Timestamp, Timer)>,
}
