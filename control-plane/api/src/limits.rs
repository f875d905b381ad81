//! Rate limits: by address before a request is authenticated, by token and by tenant after it. Health and metrics are exempt.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use stella_protocol::id::{ApiTokenId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::ApiConfig;
use crate::error::{ApiError, ErrorCode};

/// How often keys that have been quiet for long are forgotten, so that memory stays bounded by recent callers.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// The three limits.
#[derive(Debug)]
pub(crate) struct Limits {
    by_address: DefaultKeyedRateLimiter<IpAddr>,
    by_token: DefaultKeyedRateLimiter<ApiTokenId>,
    by_tenant: DefaultKeyedRateLimiter<TenantId>,
}

impl Limits {
    pub(crate) fn new(config: &ApiConfig) -> Self {
        let quota = |per_minute: u32, burst: u32| {
            let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
            Quota::per_minute(at_least_one(per_minute)).allow_burst(at_least_one(burst))
        };
        Self {
            by_address: RateLimiter::keyed(quota(config.requests_per_minute, config.burst)),
            by_token: RateLimiter::keyed(quota(config.requests_per_minute, config.burst)),
            // The whole minute's worth may come at once: bursts are the tokens' limit.
            by_tenant: RateLimiter::keyed(quota(
                config.tenant_requests_per_minute,
                config.tenant_requests_per_minute,
            )),
        }
    }

    pub(crate) fn address(&self, address: IpAddr) -> Result<(), ApiError> {
        check(&self.by_address, "address", &address)
    }

    pub(crate) fn token(&self, token: ApiTokenId) -> Result<(), ApiError> {
        check(&self.by_token, "token", &token)
    }

    pub(crate) fn tenant(&self, tenant: TenantId) -> Result<(), ApiError> {
        check(&self.by_tenant, "tenant", &tenant)
    }

    /// Forgets quiet keys until shutdown.
    pub(crate) async fn keep_small(&self, shutdown: CancellationToken) {
        while tokio::time::timeout(FORGET_INTERVAL, shutdown.cancelled()).await.is_err() {
            self.by_address.retain_recent();
            self.by_token.retain_recent();
            self.by_tenant.retain_recent();
        }
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
