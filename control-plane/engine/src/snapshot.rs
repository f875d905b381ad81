//! Snapshots: taken beside the writer loop from an immutable state, so that a restart replays little.

use std::sync::Arc;
use std::thread::JoinHandle;

use stella_domain::state::State;
use stella_journal::{Journal, Snapshot};
use stella_protocol::time::Timestamp;

/// Decides when to take one, and owns the thread that does.
pub(crate) struct Taker {
    journal: Arc<dyn Journal>,
    every_events: u64,
    events_since: u64,
    running: Option<JoinHandle<()>>,
}

impl Taker {
    pub(crate) const fn new(journal: Arc<dyn Journal>, every_events: u64, events_since: u64) -> Self {
        Self { journal, every_events, events_since, running: None }
    }

    /// Counts a durable batch; starts a snapshot if one is due and none is being taken.
    pub(crate) fn after(&mut self, events: usize, state: &Arc<State>, at: Timestamp) {
        self.events_since += events as u64;
        if self.events_since < self.every_events
            || self.running.as_ref().is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        self.finish();
        self.events_since = 0;
        // The caller is the only appender and has just appended: these heads are those of this state.
        let heads = self.journal.heads();
        let (journal, state) = (Arc::clone(&self.journal), Arc::clone(state));
        let take = move || {
            let started = std::time::Instant::now();
            let payload = match serde_json::to_vec(state.as_ref()) {
                Ok(payload) => payload,
                Err(error) => {
                    return tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "no snapshot was taken"
                    );
                }
            };
            let bytes = payload.len();
            match journal.save_snapshot(&Snapshot { heads, at, payload }) {
                Ok(()) => {
                    let seconds = started.elapsed().as_secs_f64();
                    metrics::gauge!("stella_journal_snapshot_duration_seconds").set(seconds);
                    #[expect(clippy::cast_precision_loss, reason = "a size is looked at with three digits")]
                    metrics::gauge!("stella_journal_snapshot_bytes").set(bytes as f64);
                    tracing::info!(bytes, seconds, "snapshot taken");
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no snapshot was taken")
                }
            }
        };
        match crate::spawn("snapshot", crate::STACK_BYTES, take) {
            Ok(thread) => self.running = Some(thread),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "no snapshot was taken"),
        }
    }

    /// Waits for the one that is being taken.
    pub(crate) fn finish(&mut self) {
        if self.running.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("taking a snapshot panicked");
        }
    }
}
