//! How long to wait before something outside is tried again. The only module here that knows the `backoff` crate, which is no longer
//! maintained.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Waits that double, with jitter, up to a cap. It never gives up.
#[derive(Debug)]
pub struct Retry {
    backoff: ExponentialBackoff,
    max: Duration,
}

impl Retry {
    /// The first wait is about `first`, the longest is `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        let mut backoff = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: 0.3,
            multiplier: 2.0,
            max_interval: max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.reset();
        Self { backoff, max }
    }

    /// A try has succeeded.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }

    /// How long to wait after a failure.
    pub fn next_wait(&mut self) -> Duration {
        self.backoff.next_backoff().unwrap_or(self.max).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_begin_anew() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut retry = Retry::new(first, max);
        assert!(retry.next_wait() <= first.mul_f64(1.3));
        let waits: Vec<_> = (0..20).map(|_| retry.next_wait()).collect();
        assert!(waits.iter().all(|wait| *wait <= max) && waits.iter().any(|wait| *wait >= max.mul_f64(0.6)));
        retry.succeeded();
        assert!(retry.next_wait() <= first.mul_f64(1.3));
    }
}
