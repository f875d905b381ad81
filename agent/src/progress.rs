//! Whether the part that keeps the session still turns.
//!
//! A session that is away makes no agent sick: it dials again, for ever. One whose loop hangs does neither, and nobody would know: the
//! runner answers, the disk is well, and the agent is offline until somebody looks. So the loop says before each wait how long it may
//! take at most, and the watchdog is fed as long as that is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What is added to every wait: a busy host is late, and does not hang.
const GRACE: Duration = Duration::from_secs(60);

/// When the next sign of life is due. Cheap to share; signs are two atomic operations.
#[derive(Debug)]
pub struct Progress {
    since: Instant,
    /// Milliseconds after `since`.
    due_ms: AtomicU64,
}

impl Progress {
    /// The first sign is due soon.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let progress = Self { since: Instant::now(), due_ms: AtomicU64::new(0) };
        progress.next_within(Duration::ZERO);
        Arc::new(progress)
    }

    /// There is progress, and the next comes within this time.
    pub(crate) fn next_within(&self, wait: Duration) {
        let due = self.since.elapsed().saturating_add(wait).saturating_add(GRACE);
        self.due_ms.store(u64::try_from(due.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long a sign is missing; `None` if none is.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        let due = Duration::from_millis(self.due_ms.load(Ordering::Relaxed));
        self.since.elapsed().checked_sub(due).filter(|late| !late.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sign_that_does_not_come_is_missed_and_a_long_wait_is_none() {
        let progress = Progress::new();
        assert_eq!(progress.overdue(), None);
        progress.next_within(Duration::from_secs(300));
        tokio::time::advance(Duration::from_secs(359)).await;
        assert_eq!(progress.overdue(), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(progress.overdue(), Some(Duration::from_secs(4)));
        progress.next_within(Duration::ZERO);
        assert_eq!(progress.overdue(), None);
    }
}
