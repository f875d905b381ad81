//! What is known of flushes: how long the last one took, and since when one is under way. A disk may hang instead of failing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Written by the flusher, read by whoever asks how the journal does.
#[derive(Debug)]
pub(crate) struct Flushing {
    opened: Instant,
    /// Since when one is under way, in nanoseconds after `opened`; 0 without one.
    since_ns: AtomicU64,
    /// How long the last one took, in nanoseconds; 0 before the first.
    last_ns: AtomicU64,
}

impl Flushing {
    /// With how long the flush took with which the journal was opened.
    pub(crate) fn new(opening: Duration) -> Self {
        Self {
            opened: Instant::now(),
            since_ns: AtomicU64::new(0),
            last_ns: AtomicU64::new(nanoseconds(opening)),
        }
    }

    /// One begins.
    pub(crate) fn begin(&self) {
        self.since_ns.store(nanoseconds(self.opened.elapsed()), Ordering::Relaxed);
    }

    /// It has ended, whether it has written anything or not.
    pub(crate) fn end(&self) {
        self.since_ns.store(0, Ordering::Relaxed);
    }

    /// It has written something, and took so long.
    pub(crate) fn took(&self, took: Duration) {
        self.last_ns.store(nanoseconds(took), Ordering::Relaxed);
    }

    /// How long the last one took.
    pub(crate) fn last(&self) -> Duration {
        Duration::from_nanos(self.last_ns.load(Ordering::Relaxed))
    }

    /// For how long one has been under way.
    pub(crate) fn under_way(&self) -> Option<Duration> {
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        (since_ns > 0).then(|| self.opened.elapsed().saturating_sub(Duration::from_nanos(since_ns)))
    }
}

/// At least 1, because 0 is none.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}
