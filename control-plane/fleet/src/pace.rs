//! How often one agent may do what costs the control plane something that stays. An agent that was taken over has a certificate, and
//! may do all that an agent may, but not so often that others suffer.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use stella_protocol::id::AgentId;

use crate::limits::{
    ENTRIES_BURST, ENTRY_EVERY, OUTPUT_STREAM_EVERY, OUTPUT_STREAMS_BURST, RENEWAL_EVERY, RENEWALS_BURST,
};

/// What each agent has done lately.
#[derive(Debug)]
pub(crate) struct Pace {
    entries: DefaultKeyedRateLimiter<AgentId>,
    renewals: DefaultKeyedRateLimiter<AgentId>,
    outputs: DefaultKeyedRateLimiter<AgentId>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            entries: RateLimiter::keyed(quota(ENTRY_EVERY, ENTRIES_BURST)),
            renewals: RateLimiter::keyed(quota(RENEWAL_EVERY, RENEWALS_BURST)),
            outputs: RateLimiter::keyed(quota(OUTPUT_STREAM_EVERY, OUTPUT_STREAMS_BURST)),
        }
    }

    /// Whether it may begin a session now.
    pub(crate) fn may_enter(&self, agent: AgentId) -> bool {
        self.entries.check_key(&agent).is_ok()
    }

    /// Whether it may have another certificate now.
    pub(crate) fn may_renew(&self, agent: AgentId) -> bool {
        self.renewals.check_key(&agent).is_ok()
    }

    /// Whether another stream of its output may be taken now.
    pub(crate) fn may_open_output(&self, agent: AgentId) -> bool {
        self.outputs.check_key(&agent).is_ok()
    }

    /// Forgets who has done nothing for so long that it is as if it never had.
    pub(crate) fn forget_quiet(&self) {
        self.entries.retain_recent();
        self.renewals.retain_recent();
        self.outputs.retain_recent();
    }
}

fn quota(every: Duration, burst: NonZeroU32) -> Quota {
    Quota::with_period(every).expect("a constant above zero").allow_burst(burst)
}
