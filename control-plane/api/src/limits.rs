//! What can change while the API runs. Rate limits: by address for requests that are not authenticated, by token and by tenant for those that are, by hook and by tenant for what hooks are sent. Health and metrics are exempt.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use stella_domain::release::ReleaseBounds;
use stella_protocol::id::{AccountId, ApiTokenId, HookId, TenantId};
use stella_protocol::network::Network;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ErrorCode};
use crate::proxies::Proxies;
use crate::{AgentsDial, ApiConfig};

/// How often keys that have been quiet for long are forgotten, so that memory stays bounded by recent callers.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// What can change while the API runs.
#[derive(Debug)]
pub struct Tuning {
    limits: ArcSwap<Limits>,
    artifact_bytes_max: AtomicU64,
    tenant_artifact_bytes_max: AtomicU64,
    tenant_releases_max: AtomicU64,
    tenant_release_bytes_max: AtomicU64,
    proxies: ArcSwap<Proxies>,
    agents_dial: ArcSwap<AgentsDial>,
}

impl Tuning {
    /// What the configuration says at the start.
    #[must_use]
    pub fn new(config: &ApiConfig) -> Arc<Self> {
        Arc::new(Self {
            limits: ArcSwap::from_pointee(Limits::new(config)),
            artifact_bytes_max: AtomicU64::new(config.artifact_bytes_max),
            tenant_artifact_bytes_max: AtomicU64::new(config.tenant_artifact_bytes_max),
            tenant_releases_max: AtomicU64::new(config.tenant_releases_max),
            tenant_release_bytes_max: AtomicU64::new(config.tenant_release_bytes_max),
            proxies: ArcSwap::from_pointee(config.proxies.clone()),
            agents_dial: ArcSwap::from_pointee(config.agents_dial.clone()),
        })
    }

    /// Takes over another configuration but its address. Limits that have changed count anew.
    pub fn change(&self, config: &ApiConfig) {
        if self.limits.load().figures != Figures::of(config) {
            self.limits.store(Arc::new(Limits::new(config)));
        }
        self.artifact_bytes_max.store(config.artifact_bytes_max, Ordering::Relaxed);
        self.tenant_artifact_bytes_max.store(config.tenant_artifact_bytes_max, Ordering::Relaxed);
        self.tenant_releases_max.store(config.tenant_releases_max, Ordering::Relaxed);
        self.tenant_release_bytes_max.store(config.tenant_release_bytes_max, Ordering::Relaxed);
        self.proxies.store(Arc::new(config.proxies.clone()));
        self.agents_dial.store(Arc::new(config.agents_dial.clone()));
    }

    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    pub(crate) fn artifact_bytes_max(&self) -> u64 {
        self.artifact_bytes_max.load(Ordering::Relaxed)
    }

    /// `None` is as much as there is room for.
    pub(crate) fn tenant_artifact_bytes_max(&self) -> Option<u64> {
        Some(self.tenant_artifact_bytes_max.load(Ordering::Relaxed)).filter(|max| *max > 0)
    }

    /// How much the releases of a tenant may be together.
    pub(crate) fn release_bounds(&self) -> ReleaseBounds {
        let bound = |of: &AtomicU64| Some(of.load(Ordering::Relaxed)).filter(|max| *max > 0);
        ReleaseBounds {
            count_max: bound(&self.tenant_releases_max),
            bytes_max: bound(&self.tenant_release_bytes_max),
        }
    }

    /// The proxies that are believed.
    pub(crate) fn proxies(&self) -> Arc<Proxies> {
        self.proxies.load_full()
    }

    /// What agents are told to dial.
    pub(crate) fn agents_dial(&self) -> Arc<AgentsDial> {
        self.agents_dial.load_full()
    }

    /// Forgets quiet keys until shutdown.
    pub(crate) async fn keep_small(&self, shutdown: CancellationToken) {
        while tokio::time::timeout(FORGET_INTERVAL, shutdown.cancelled()).await.is_err() {
            self.limits().forget_quiet();
        }
    }
}

/// The numbers that limits are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    requests_per_minute: u32,
    burst: u32,
    tenant_requests_per_minute: u32,
    hook_requests_per_minute: u32,
}

impl Figures {
    const fn of(config: &ApiConfig) -> Self {
        let ApiConfig {
            requests_per_minute,
            burst,
            tenant_requests_per_minute,
            hook_requests_per_minute,
            ..
        } = *config;
        Self { requests_per_minute, burst, tenant_requests_per_minute, hook_requests_per_minute }
    }
}

/// How many of its own tokens an account may create and revoke without a pause: each change stays in the journal for ever.
const TOKEN_CHANGES_BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// How many more it may each minute.
const TOKEN_CHANGES_PER_MINUTE: NonZeroU32 = NonZeroU32::MIN;

/// The limits.
#[derive(Debug)]
pub(crate) struct Limits {
    figures: Figures,
    by_address: DefaultKeyedRateLimiter<Network>,
    by_token: DefaultKeyedRateLimiter<ApiTokenId>,
    by_account: DefaultKeyedRateLimiter<AccountId>,
    by_tenant: DefaultKeyedRateLimiter<TenantId>,
    by_hook: DefaultKeyedRateLimiter<HookId>,
    token_changes: DefaultKeyedRateLimiter<AccountId>,
}

impl Limits {
    pub(crate) fn new(config: &ApiConfig) -> Self {
        let quota = |per_minute: u32, burst: u32| {
            let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
            Quota::per_minute(at_least_one(per_minute)).allow_burst(at_least_one(burst))
        };
        Self {
            figures: Figures::of(config),
            by_address: RateLimiter::keyed(quota(config.requests_per_minute, config.burst)),
            by_token: RateLimiter::keyed(quota(config.requests_per_minute, config.burst)),
            by_account: RateLimiter::keyed(quota(config.requests_per_minute, config.burst)),
            // The whole minute's worth may come at once: bursts are the tokens' limit.
            by_tenant: RateLimiter::keyed(quota(
                config.tenant_requests_per_minute,
                config.tenant_requests_per_minute,
            )),
            // Senders send what has piled up at once.
            by_hook: RateLimiter::keyed(quota(
                config.hook_requests_per_minute,
                config.hook_requests_per_minute,
            )),
            token_changes: RateLimiter::keyed(
                Quota::per_minute(TOKEN_CHANGES_PER_MINUTE).allow_burst(TOKEN_CHANGES_BURST),
            ),
        }
    }

    pub(crate) fn address(&self, address: IpAddr) -> Result<(), ApiError> {
        check(&self.by_address, "address", &Network::of_host(address))
    }

    pub(crate) fn token(&self, token: ApiTokenId) -> Result<(), ApiError> {
        check(&self.by_token, "token", &token)
    }

    /// What an account asks for outside of tenants, with all its tokens.
    pub(crate) fn account(&self, account: AccountId) -> Result<(), ApiError> {
        check(&self.by_account, "account", &account)
    }

    pub(crate) fn tenant(&self, tenant: TenantId) -> Result<(), ApiError> {
        check(&self.by_tenant, "tenant", &tenant)
    }

    pub(crate) fn hook(&self, hook: HookId) -> Result<(), ApiError> {
        check(&self.by_hook, "hook", &hook)
    }

    /// What an account that administers nothing changes about its own tokens.
    pub(crate) fn token_change(&self, account: AccountId) -> Result<(), ApiError> {
        check(&self.token_changes, "account", &account)
    }

    fn forget_quiet(&self) {
        self.by_address.retain_recent();
        self.by_token.retain_recent();
        self.by_account.retain_recent();
        self.by_tenant.retain_recent();
        self.by_hook.retain_recent();
        self.token_changes.retain_recent();
    }
}

fn check<K: Hash + Eq + Clone>(
    limiter: &DefaultKeyedRateLimiter<K>,
    what: &'static str,
    key: &K,
) -> Result<(), ApiError> {
    limiter.check_key(key).map_err(|not_until| {
        metrics::counter!("stella_http_rate_limited_total", "limit" => what).increment(1);
        let wait = not_until.wait_time_from(DefaultClock::default().now());
        let seconds = wait.as_secs() + 1;
        ApiError::retry_after(
            ErrorCode::RateLimited,
            seconds,
            format!("this {what} has used up its requests for now; come back in {seconds} s"),
        )
    })
}
