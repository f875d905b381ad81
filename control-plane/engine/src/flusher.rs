//! The flushing half of the writer loop: append, publish, answer, in this order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use stella_domain::command::Outcome;
use stella_journal::{AppendError, Journal};
use stella_protocol::id::Epoch;
use tokio::sync::watch;

use crate::handle::{Committed, Reply, Shared, SubmitError};
use crate::snapshot::Taker;
use crate::writer::Batch;
use crate::{Checkpoint, Condition};

/// The only one who appends.
pub(crate) struct Flusher {
    journal: Arc<dyn Journal>,
    epoch: Epoch,
    shared: Arc<Shared>,
    last_word: LastWord,
    snapshots: Taker,
}

/// Says what became of the engine, when the flusher ends. That is the last thread to end, however the other one does; and it is said
/// also if the flusher panics.
pub(crate) struct LastWord {
    shared: Arc<Shared>,
    condition: watch::Sender<Condition>,
    /// Whether somebody has asked for the end.
    stop: Arc<AtomicBool>,
    failure: Option<String>,
}

impl LastWord {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        condition: watch::Sender<Condition>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self { shared, condition, stop, failure: None }
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        self.shared.running.store(false, Ordering::Release);
        let condition = match self.failure.take() {
            Some(problem) => Condition::Failed(problem),
            None if std::thread::panicking() => {
                Condition::Failed("the thread that writes it has panicked".to_owned())
            }
            None if self.stop.load(Ordering::Acquire) => Condition::Stopped,
            None => Condition::Failed("the thread that decides has ended by itself".to_owned()),
        };
        self.condition.send_replace(condition);
    }
}

impl Flusher {
    pub(crate) const fn new(
        journal: Arc<dyn Journal>,
        epoch: Epoch,
        shared: Arc<Shared>,
        last_word: LastWord,
        snapshots: Taker,
    ) -> Self {
        Self { journal, epoch, shared, last_word, snapshots }
    }

    /// Runs until the writer is gone or the journal fails.
    pub(crate) fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok(mut batch) = batches.recv() {
            let checkpoints = std::mem::take(&mut batch.checkpoints);
            if let Err(problem) = self.flush(batch) {
                tracing::error!(
                    problem,
                    "the journal failed; stopping, because memory may hold what the disk does not"
                );
                self.last_word.failure = Some(problem);
                break;
            }
            for reply in checkpoints {
                // Nobody else appends, so the published state is that of the heads, also when this batch was void. A caller
                // that went away does not want it.
                let point = Checkpoint::at_rest(Arc::clone(&self.journal), self.shared.state());
                drop(reply.send(point));
            }
        }
        self.shared.running.store(false, Ordering::Release);
        self.snapshots.finish();
    }

    fn flush(&mut self, batch: Batch) -> Result<(), String> {
        if batch.rewinds != self.shared.rewinds.load(Ordering::Acquire) {
            // Decided on a state that never became durable.
            answer(batch.answers, |_| Err(SubmitError::Overloaded));
            return Ok(());
        }
        if !batch.appends.is_empty() {
            let started = Instant::now();
            self.shared.flushing.begin();
            let appended = self.journal.append(self.epoch, batch.at, &batch.appends);
            self.shared.flushing.end();
            match appended {
                Ok(_) => {}
                Err(AppendError::NoSpace { available_bytes, reserve_bytes }) => {
                    self.refuse(batch, available_bytes, reserve_bytes);
                    return Ok(());
                }
                Err(error) => return Err(chain(&error)),
            }
            let took = started.elapsed();
            self.shared.flushing.took(took);
            if self.shared.no_space.swap(false, Ordering::Relaxed) {
                tracing::info!("writes are taken again: there is space on the journal's disk");
            }
            metrics::histogram!("stella_journal_append_duration_seconds").record(took);
            let events = u32::try_from(batch.events.len()).unwrap_or(u32::MAX);
            metrics::histogram!("stella_journal_batch_events").record(events);
        }
        let events = batch.events.len();
        let state = Arc::clone(&batch.state);
        self.shared.publish(Committed { state: batch.state, events: batch.events });
        answer(batch.answers, |decided| decided);
        self.snapshots.after(events, &state, batch.at);
        Ok(())
    }

    /// Nothing was written: what was decided is void, for this batch and for those decided on top of it.
    fn refuse(&self, batch: Batch, available_bytes: u64, reserve_bytes: u64) {
        self.shared.rewinds.fetch_add(1, Ordering::AcqRel);
        // Said once, and not for each write: the log may be on the same disk.
        if !self.shared.no_space.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                available_bytes,
                reserve_bytes,
                "writes are refused: the journal's disk is nearly full"
            );
        }
        answer(batch.answers, |decided| match decided {
            Err(rejected @ SubmitError::Rejected(_)) => Err(rejected),
            Ok(_) | Err(_) => Err(SubmitError::NoSpace { available_bytes, reserve_bytes }),
        });
    }
}

type Answer = Result<Outcome, SubmitError>;

fn answer(answers: Vec<(Reply, Answer)>, change: impl Fn(Answer) -> Answer) {
    for (reply, decided) in answers {
        // A caller that went away does not want its answer.
        drop(reply.send(change(decided)));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
