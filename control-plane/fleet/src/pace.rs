//! How often one agent may do what costs the control plane something that stays. An agent that was taken over has a certificate, and
//! may do all that an agent may, but not so often that others suffer.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use stella_protocol::id::AgentId;
use stella_protocol::network::Network;

use crate::limits::{
    COMPLAINT_EVERY, COMPLAINTS_BURST, ENTRIES_BURST, ENTRY_EVERY, OUTPUT_STREAM_EVERY, OUTPUT_STREAMS_BURST,
    RENEWAL_EVERY, RENEWALS_BURST,
};

/// What each agent has done lately.
#[derive(Debug)]
pub(crate) struct Pace {
    entries: DefaultKeyedRateLimiter<AgentId>,
    renewals: DefaultKeyedRateLimiter<AgentId>,
    outputs: DefaultKeyedRateLimiter<AgentId>,
    complaints: DefaultKeyedRateLimiter<Network>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            entries: RateLimiter::keyed(quota(ENTRY_EVERY, ENTRIES_BURST)),
            renewals: RateLimiter::keyed(quota(RENEWAL_EVERY, RENEWALS_BURST)),
            outputs: RateLimiter::keyed(quota(OUTPUT_STREAM_EVERY, OUTPUT_STREAMS_BURST)),
            complaints: RateLimiter::keyed(quota(COMPLAINT_EVERY, COMPLAINTS_BURST)),
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

    /// Whether it may be a warning that somebody there was refused.
    pub(crate) fn may_complain(&self, address: IpAddr) -> bool {
        self.complaints.check_key(&Network::of_host(address)).is_ok()
    }

    /// Forgets who has done nothing for so long that it is as if it never had.
    pub(crate) fn forget_quiet(&self) {
        self.entries.retain_recent();
        self.renewals.retain_recent();
        self.outputs.retain_recent();
        self.complaints.retain_recent();
    }
}

fn quota(every: Duration, burst: NonZeroU32) -> Quota {
    Quota::with_period(every).expect("a constant above zero").allow_burst(burst)
}

/// Says that somebody at an address was refused: as a warning, or, when that comes too often from there, for who debugs only.
macro_rules! complain {
    ($shared:expr, $address:expr, $($said:tt)+) => {
        if $shared.pace.may_complain($address) {
            tracing::warn!($($said)+);
        } else {
            tracing::debug!($($said)+);
        }
    };
}

pub(crate) use complain;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_is_no_warning_each_time_and_others_are() {
        let pace = Pace::new();
        let [stranger, other] = ["2001:db8::1", "2001:db8:1::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let neighbour = "2001:db8::2".parse().unwrap();
        let warnings = (0..1_000).filter(|_| pace.may_complain(stranger)).count();
        assert_eq!(warnings, usize::try_from(COMPLAINTS_BURST.get()).unwrap());
        assert!(!pace.may_complain(neighbour), "it is the same network");
        assert!(pace.may_complain(other));
    }
}
