//! The flushing half of the writer loop: append, publish, answer, in this order.
//!
//! It has a thread of its own, so that a batch can be decided while the one before it is on its way to the disk. A batch that nothing is
//! on its way before and that is nobody's but one caller's is flushed by the thread that has decided it: there is nothing to decide
//! meanwhile, and to wake another thread takes as long as some disks do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use stella_domain::command::Outcome;
use stella_journal::{AppendError, Journal};
use stella_protocol::id::Epoch;
use tokio::sync::watch;

use crate::handle::{Committed, Reply, Shared, SubmitError};
use crate::snapshot::Taker;
use crate::writer::Batch;
use crate::{Checkpoint, Condition};

const PANICKED: &str = "the thread that writes it has panicked";

/// Who appends: the thread that has it.
pub(crate) struct Flusher {
    journal: Arc<dyn Journal>,
    epoch: Epoch,
    shared: Arc<Shared>,
    failure: Arc<OnceLock<String>>,
    snapshots: Taker,
}

/// Nothing more may be appended; why, is noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed;

/// The writer's way to the disk.
pub(crate) struct Outlet {
    flusher: Arc<Mutex<Flusher>>,
    batches: SyncSender<Batch>,
    /// How many batches were handed over and are not flushed. Only the owner of this adds to them.
    handed_over: Arc<AtomicUsize>,
}

impl Outlet {
    /// Flushes a batch, or hands it over to the thread that does.
    pub(crate) fn put(&self, batch: Batch) -> Result<(), Failed> {
        let is_alone = batch.answers.len() <= 1 && self.handed_over.load(Ordering::Acquire) == 0;
        if is_alone {
            return self.flusher.lock().map_err(|_panicked| Failed)?.commit(batch);
        }
        self.handed_over.fetch_add(1, Ordering::AcqRel);
        self.batches.send(batch).map_err(|_gone| Failed)
    }
}

/// The thread that flushes what is handed over.
pub(crate) struct Hand {
    flusher: Arc<Mutex<Flusher>>,
    batches: Receiver<Batch>,
    handed_over: Arc<AtomicUsize>,
    last_word: LastWord,
}

impl Hand {
    /// Runs until the writer is gone or the journal fails.
    pub(crate) fn run(self) {
        while let Ok(batch) = self.batches.recv() {
            let Ok(mut flusher) = self.flusher.lock() else { break };
            if flusher.commit(batch).is_err() {
                break;
            }
            drop(flusher);
            self.handed_over.fetch_sub(1, Ordering::AcqRel);
        }
        match self.flusher.lock() {
            Ok(mut flusher) => {
                flusher.shared.running.store(false, Ordering::Release);
                flusher.snapshots.finish();
            }
            // The writer was flushing. The first failure is what counts.
            Err(_panicked) => drop(self.last_word.failure.set(PANICKED.to_owned())),
        }
    }
}

/// Says what became of the engine, when the flusher ends. That is the last thread to end, however the other one does; and it is said
/// also if the flusher panics.
pub(crate) struct LastWord {
    shared: Arc<Shared>,
    condition: watch::Sender<Condition>,
    /// Whether somebody has asked for the end.
    stop: Arc<AtomicBool>,
    failure: Arc<OnceLock<String>>,
}

impl LastWord {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        condition: watch::Sender<Condition>,
        stop: Arc<AtomicBool>,
        failure: Arc<OnceLock<String>>,
    ) -> Self {
        Self { shared, condition, stop, failure }
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        self.shared.running.store(false, Ordering::Release);
        let condition = match self.failure.get() {
            Some(problem) => Condition::Failed(problem.clone()),
            None if std::thread::panicking() => Condition::Failed(PANICKED.to_owned()),
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
        failure: Arc<OnceLock<String>>,
        snapshots: Taker,
    ) -> Self {
        Self { journal, epoch, shared, failure, snapshots }
    }

    /// Divides it between the writer and the thread that flushes while the writer decides.
    pub(crate) fn divide(self, last_word: LastWord) -> (Outlet, Hand) {
        let (sender, batches) = std::sync::mpsc::sync_channel(1);
        let (flusher, handed_over) = (Arc::new(Mutex::new(self)), Arc::default());
        let outlet =
            Outlet { flusher: Arc::clone(&flusher), batches: sender, handed_over: Arc::clone(&handed_over) };
        (outlet, Hand { flusher, batches, handed_over, last_word })
    }

    fn commit(&mut self, mut batch: Batch) -> Result<(), Failed> {
        let checkpoints = std::mem::take(&mut batch.checkpoints);
        if let Err(problem) = self.flush(batch) {
            tracing::error!(
                problem,
                "the journal failed; stopping, because memory may hold what the disk does not"
            );
            // The first one is what counts.
            drop(self.failure.set(problem));
            return Err(Failed);
        }
        for reply in checkpoints {
            // Nobody else appends, so the published state is that of the heads, also when this batch was void. A caller
            // that went away does not want it.
            let point = Checkpoint::at_rest(Arc::clone(&self.journal), self.shared.state());
            drop(reply.send(point));
        }
        Ok(())
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
