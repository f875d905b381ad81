//! The writer loop: commands in, durable events out.
//!
//! One thread decides, one thread flushes. While one batch is on its way to the disk the next is decided on the state that
//! the ones before it left; its answers wait for its own flush. With nothing on its way, the thread that decides flushes a single
//! command itself. What was answered is on disk, and what is not on disk had
//! no effect: readers, subscribers and callers see only [`Committed`] batches.
//!
//! This is a crate of its own, beneath `fleet` and `api`, so that both can submit commands without knowing one another or
//! how the journal stores bytes.

mod archive;
mod blocking;
mod checkpoint;
mod codec;
mod flusher;
mod flushing;
mod handle;
mod recovery;
mod snapshot;
mod steady;
mod streams;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use stella_domain::listening::Listening;
use stella_journal::Journal;
use stella_protocol::time::Timestamp;
use tokio::sync::{broadcast, watch};

use flushing::Flushing;
use steady::Steady;

pub use archive::{Archive, ArchivedPromotion, Walk};
pub use checkpoint::Checkpoint;
pub use handle::{ArchiveError, Committed, CommittedEvent, Handle, HealthReport, ReadError, SubmitError};
pub use recovery::RecoveryError;

/// How many commands may wait for the writer. Beyond it callers are told to come back.
const WAITING_COMMANDS_MAX: usize = 16_384;
/// How many committed batches a slow subscriber may be behind before it has to read the state again.
const SUBSCRIBER_LAG_MAX: usize = 1_024;

/// The stack of a thread, in bytes, without what expressions need.
const STACK_BYTES: usize = 4 << 20;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Config {
    /// A snapshot is taken after this many events.
    pub snapshot_every_events: u64,
    /// Tells the time. The engine makes sure that journal time never goes back.
    pub clock: Clock,
    /// Whether a fleet will come that says when agents can be heard: see [`Handle::agents_can_come`]. Until then, and for the time
    /// that they are given, nothing follows from the silence of those who were there before.
    pub awaits_agents: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { snapshot_every_events: 200_000, clock: Clock::steady(), awaits_agents: false }
    }
}

/// Tells the time; tests have one that they move by hand.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    set_at: Arc<dyn Fn() -> Option<Timestamp> + Send + Sync>,
}

impl Clock {
    /// The machine's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since_epoch =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
        })
    }

    /// The machine's wall clock for as long as it does not jump ahead. A jump of more than a minute is believed only after it has
    /// lasted for five, so that a clock that is wrong for a moment fires no deadline.
    #[must_use]
    pub fn steady() -> Self {
        let (wall, started) = (Self::system(), Instant::now());
        let steady = Arc::new(Mutex::new(Steady::new(wall.now(), Duration::ZERO)));
        let looked_at = Arc::clone(&steady);
        let clock = Self::new(move || {
            let mut steady = steady.lock().unwrap_or_else(PoisonError::into_inner);
            steady.tell(wall.now(), started.elapsed())
        });
        let set_at = move || looked_at.lock().unwrap_or_else(PoisonError::into_inner).set_at();
        Self { set_at: Arc::new(set_at), ..clock }
    }

    /// Any clock.
    #[must_use]
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), set_at: Arc::new(|| None) }
    }

    /// What it says now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// Whether it was set since it told this time, as far as this process knows: then nobody can say how long ago that was.
    #[must_use]
    pub fn was_set_since(&self, at: Timestamp) -> bool {
        (self.set_at)().is_some_and(|set_at| at <= set_at)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// What became of the engine, for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Commands are carried out.
    Running,
    /// It was asked to stop, and did.
    Stopped,
    /// It can not go on: what memory holds may not be on disk. The process must end and start again.
    Failed(String),
}

/// The owner of the threads. Dropping it stops them after what they have taken is flushed.
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    stop: Arc<AtomicBool>,
    condition: watch::Receiver<Condition>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Replays the journal and starts the threads.
    ///
    /// # Errors
    /// If the journal cannot be read to its end, or holds events that do not follow from one another.
    pub fn start(journal: Arc<dyn Journal>, config: Config) -> Result<Self, RecoveryError> {
        let recovered = recovery::recover(journal.as_ref())?;
        let opening = Instant::now();
        let epoch = journal.begin_epoch().map_err(RecoveryError::Epoch)?;
        let opening = opening.elapsed();
        let state = Arc::new(recovered.state);
        let published = Arc::new(ArcSwap::from(Arc::clone(&state)));
        let (committed, _) = broadcast::channel(SUBSCRIBER_LAG_MAX);
        let (commands, waiting) = std::sync::mpsc::sync_channel(WAITING_COMMANDS_MAX);
        let (condition_setter, condition) = watch::channel(Condition::Running);
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(handle::Shared::new(
            Arc::clone(&journal),
            config.clock.clone(),
            published,
            committed,
            recovered.heads.clone(),
            Flushing::new(opening),
        ));
        let failure = Arc::default();
        let snapshots =
            snapshot::Taker::new(Arc::clone(&journal), config.snapshot_every_events, recovered.replayed);
        let last_word = flusher::LastWord::new(
            Arc::clone(&shared),
            condition_setter,
            Arc::clone(&stop),
            Arc::clone(&failure),
        );
        let flusher = flusher::Flusher::new(journal, epoch, Arc::clone(&shared), failure, snapshots);
        let (outlet, hand) = flusher.divide(last_word);
        let writer = writer::Writer::new(
            writer::Config {
                clock: config.clock,
                last_time: recovered.last_time,
                heads: recovered.heads,
                listening: if config.awaits_agents { Listening::NotYet } else { Listening::Always },
            },
            state,
            Arc::clone(&shared),
            outlet,
            Arc::clone(&stop),
        );
        let threads = vec![
            spawn("journal-flusher", STACK_BYTES, move || hand.run()).map_err(RecoveryError::Thread)?,
            spawn("writer", STACK_BYTES + stella_expression::STACK_BYTES, move || {
                stella_expression::this_thread_is_roomy();
                writer.run(&waiting);
            })
            .map_err(RecoveryError::Thread)?,
        ];
        Ok(Self { handle: Handle::new(shared, commands), stop, condition, threads })
    }

    /// A way in for everybody else.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Follows what becomes of the engine.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.clone()
    }

    /// Stops taking commands, flushes what was taken and waits for the threads. Says what became of it: the last flush may fail too.
    pub fn stop(mut self) -> Condition {
        self.join();
        self.condition.borrow().clone()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.join();
    }
}

fn spawn(
    name: &str,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).stack_size(stack_bytes).spawn(run)
}
