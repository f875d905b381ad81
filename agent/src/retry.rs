//! How long to wait before the next try to reach the control plane.
//!
//! Capped exponential backoff with full jitter: a fleet that lost its control plane must not come back as one wave. The only
//! module that knows the `backoff` crate, which is no longer maintained; a successor is a change of this file.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use stella_protocol::close::Advice;

/// The mean of the first wait.
const FIRST_MEAN: Duration = Duration::from_millis(250);

/// The longest wait when trying again can help.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// The shortest wait when trying again soon would make it worse.
pub const SLOW_WAIT_MIN: Duration = Duration::from_millis(7_500);

/// The longest of these waits: half of the time after which an agent without a session counts as offline, so that one that is turned away
/// once is back in time.
pub const SLOW_WAIT_MAX: Duration = Duration::from_secs(15);

/// The shortest wait when only a person can help.
pub const OPERATOR_WAIT_MIN: Duration = Duration::from_secs(60);

/// The longest wait when only a person can help: they should not have to wait much longer than for a coffee.
pub const OPERATOR_WAIT_MAX: Duration = Duration::from_secs(300);

/// A session that lived this long was a success; a shorter one counts as a failed try, so that a control plane that falls
/// over right after its welcome is not hammered.
pub const SUCCESS_MIN: Duration = Duration::from_secs(5);

/// The waits between tries. It never gives up.
#[derive(Debug)]
pub struct Retry {
    backoff: ExponentialBackoff,
}

impl Default for Retry {
    fn default() -> Self {
        // Full jitter: the crate draws from mean * (1 - factor) to mean * (1 + factor).
        let mut backoff = ExponentialBackoff {
            current_interval: FIRST_MEAN,
            initial_interval: FIRST_MEAN,
            randomization_factor: 1.0,
            multiplier: 2.0,
            max_interval: WAIT_MAX / 2,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.reset();
        Self { backoff }
    }
}

impl Retry {
    /// A try has succeeded.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }

    /// How long to wait after a failure.
    pub fn next_wait(&mut self, advice: Advice) -> Duration {
        let drawn = self.backoff.next_backoff().unwrap_or(WAIT_MAX).min(WAIT_MAX);
        match advice {
            Advice::Retry => drawn,
            Advice::RetrySlowly => between(SLOW_WAIT_MIN, SLOW_WAIT_MAX),
            Advice::NeedsOperator => between(OPERATOR_WAIT_MIN, OPERATOR_WAIT_MAX),
        }
    }
}

fn between(min: Duration, max: Duration) -> Duration {
    min + (max - min).mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_use_all_of_the_range() {
        let mut retry = Retry::default();
        for tries in 0..7_u32 {
            let bound = (FIRST_MEAN * 2 * 2_u32.pow(tries)).min(WAIT_MAX) + Duration::from_millis(1);
            let wait = retry.next_wait(Advice::Retry);
            assert!(wait <= bound, "wait {wait:?} after {tries} tries");
        }
        let waits: Vec<_> = (0..2_000).map(|_| retry.next_wait(Advice::Retry)).collect();
        assert!(waits.iter().all(|wait| *wait <= WAIT_MAX));
        // Full jitter: the whole range is used, not a band around its middle.
        assert!(waits.iter().any(|wait| *wait < WAIT_MAX / 20), "no short wait");
        assert!(waits.iter().any(|wait| *wait > WAIT_MAX * 19 / 20), "no long wait");
    }

    #[test]
    fn a_success_begins_anew() {
        let mut retry = Retry::default();
        for _ in 0..10 {
            retry.next_wait(Advice::Retry);
        }
        retry.succeeded();
        assert!(retry.next_wait(Advice::Retry) <= FIRST_MEAN * 2 + Duration::from_millis(1));
    }

    #[test]
    fn bad_advice_waits_long_from_the_first_time_on() {
        let mut retry = Retry::default();
        for _ in 0..100 {
            let slow = retry.next_wait(Advice::RetrySlowly);
            assert!(slow >= SLOW_WAIT_MIN && slow <= SLOW_WAIT_MAX);
            let operator = retry.next_wait(Advice::NeedsOperator);
            assert!(operator >= OPERATOR_WAIT_MIN && operator <= OPERATOR_WAIT_MAX);
        }
    }
}
