//! What everybody else sees of the engine: a cheap clone that hides the channels.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use stella_domain::archive::Ended;
use stella_domain::command::{Actor, Command, Outcome, Request, TenantCommand};
use stella_domain::event::{Event, StreamId};
use stella_domain::rejection::Rejection;
use stella_domain::state::State;
use stella_journal::{AppendError, Journal};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Position, TenantId};
use stella_protocol::message::JournalMark;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use tokio::sync::{broadcast, oneshot};
use uuid::Uuid;

use crate::blocking;
use crate::flushing::Flushing;
use crate::streams::Streams;
use crate::{Archive, Checkpoint, Clock, codec};

/// A cheap clone of the way in.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: SyncSender<Work>,
}

/// What the threads and the handles share.
pub(crate) struct Shared {
    pub(crate) journal: Arc<dyn Journal>,
    clock: Clock,
    state: Arc<ArcSwap<State>>,
    committed: broadcast::Sender<Arc<Committed>>,
    /// Who follows one stream.
    followed: Streams,
    /// Who is called before all others hear of a batch.
    called_first: RwLock<Vec<Call>>,
    /// Whether commands are still carried out.
    pub(crate) running: AtomicBool,
    /// Whether the last write was refused for want of space: said in the log once, and what counts of a journal that knows no better.
    pub(crate) no_space: AtomicBool,
    /// The flush that is under way, and the last one.
    pub(crate) flushing: Flushing,
    /// How many commands have been submitted and not been taken by the writer.
    pub(crate) waiting: AtomicUsize,
    /// Counts how often decided batches were thrown away; what was decided before is void.
    pub(crate) rewinds: AtomicU64,
    /// How long agents are waited for from now on, in milliseconds; 0 once the writer has seen it.
    pub(crate) patience_ms: AtomicU64,
    /// Where streams ended when the journal was opened.
    opened_at: BTreeMap<StreamId, Position>,
    archive: Archive,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        journal: Arc<dyn Journal>,
        clock: Clock,
        state: Arc<ArcSwap<State>>,
        committed: broadcast::Sender<Arc<Committed>>,
        opened_at: BTreeMap<StreamId, Position>,
        flushing: Flushing,
    ) -> Self {
        let archive = Archive::new(Arc::clone(&journal));
        Self {
            archive,
            journal,
            clock,
            state,
            committed,
            followed: Streams::default(),
            called_first: RwLock::default(),
            running: AtomicBool::new(true),
            no_space: AtomicBool::new(false),
            flushing,
            waiting: AtomicUsize::new(0),
            rewinds: AtomicU64::new(0),
            patience_ms: AtomicU64::new(0),
            opened_at,
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Makes a durable batch visible: first the state, then the events.
    pub(crate) fn publish(&self, committed: Committed) {
        self.state.store(Arc::clone(&committed.state));
        if !committed.events.is_empty() {
            for call in self.called_first.read().unwrap_or_else(PoisonError::into_inner).iter() {
                call(&committed);
            }
            let committed = Arc::new(committed);
            self.followed.tell(&committed);
            // Nobody listening is fine.
            drop(self.committed.send(committed));
        }
    }
}

/// What is called with each durable batch.
type Call = Box<dyn Fn(&Committed) + Send + Sync>;

/// What the writer takes from the queue.
#[derive(Debug)]
pub(crate) enum Work {
    /// A command, and where its answer goes.
    Command(Box<Request>, Reply),
    /// The next durable point, and who wants to know it.
    Checkpoint(oneshot::Sender<Checkpoint>),
    /// Look at the stop flag.
    Wake,
}

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Outcome, SubmitError>>;

/// One durable batch: its events, and the state after it.
#[derive(Debug)]
pub struct Committed {
    /// The state after the batch.
    pub state: Arc<State>,
    /// The batch's events in order.
    pub events: Vec<CommittedEvent>,
}

/// A durable event.
#[derive(Clone, Debug)]
pub struct CommittedEvent {
    /// Its stream.
    pub stream: StreamId,
    /// Its position in the stream, from 0.
    pub position: Position,
    /// What happened.
    pub event: Arc<Event>,
}

impl CommittedEvent {
    /// The fields of the fact as they are in the journal, but for its name and for the hashes of secrets: who has such a hash can
    /// try secrets against it at leisure. What leaves the control plane is made of these.
    #[must_use]
    pub fn public_fields(&self) -> serde_json::Map<String, serde_json::Value> {
        // It is JSON in the journal already, so it can be written as JSON; and a fact with a tag is an object.
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(&self.event.fact) else {
            return serde_json::Map::new();
        };
        for hidden in ["type", "secret_hash", "hash"] {
            fields.remove(hidden);
        }
        fields
    }
}

/// Why a command had no effect, or no known one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The core said no. Nothing was changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The disk is nearly full: writes are refused, reads go on. Nothing was changed.
    #[error(
        "the journal's disk has only {available_bytes} bytes left and {reserve_bytes} are kept in reserve: free some space there"
    )]
    NoSpace {
        /// What is left.
        available_bytes: u64,
        /// What is kept.
        reserve_bytes: u64,
    },
    /// Too many commands are waiting. Nothing was changed.
    #[error("too many requests are waiting to be written; try again shortly")]
    Overloaded,
    /// The engine is stopping. A command that was already taken may have had its effect.
    #[error("the control plane is stopping")]
    Stopping,
}

/// Why events cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The journal refuses.
    #[error("the journal cannot be read")]
    Journal(#[source] stella_journal::ReadError),
    /// An event's bytes are not an event of this version.
    #[error("event {position} of {stream:?} is not understood by this version")]
    Event {
        /// Its stream.
        stream: StreamId,
        /// Its position.
        position: Position,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A record of what has left memory is not of this version.
    #[error("the archive's record {id} is not understood by this version")]
    Archived {
        /// Whose.
        id: Uuid,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The reading thread was stopped.
    #[error("the control plane is stopping")]
    Stopping,
    /// Reading broke off.
    #[error("reading broke off by a defect; the log of the control plane says more")]
    Defect,
}

/// Why nothing was forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be written to the archive.
    #[error("the archive cannot be written")]
    Write(#[source] AppendError),
    /// Writing it broke off.
    #[error("writing to the archive broke off by a defect; the log says more")]
    Defect,
    /// It is in the archive, and in memory still.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// How the journal does, for `/health`.
#[derive(Clone, Copy, Debug)]
pub struct HealthReport {
    /// Whether the writer loop is running.
    pub writable: bool,
    /// How long the last flush took that has ended; before the first, that of the opening.
    pub last_flush: Duration,
    /// For how long a flush has been under way, if one is: on a disk that hangs, this grows.
    pub flushing: Option<Duration>,
    /// Whether the free-space reserve is reached, so that a write is refused now.
    pub no_space: bool,
}

impl Handle {
    pub(crate) const fn new(shared: Arc<Shared>, commands: SyncSender<Work>) -> Self {
        Self { shared, commands }
    }

    /// Says that agents can be heard from now on. Those who were there before have this long to come back: what follows from
    /// their silence is held back until they are here, or their time is over.
    pub fn agents_can_come(&self, patience: Duration) {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).max(1);
        self.shared.patience_ms.store(patience_ms, Ordering::Release);
        self.wake();
    }

    /// Has a command carried out. A tick is decided with what is known of the fleet, whatever it says itself. The answer comes after its events are durable.
    ///
    /// Commands are carried out in the order in which their futures are first polled. A dropped future does not take the
    /// command back.
    ///
    /// # Errors
    /// See [`SubmitError`]; all but [`SubmitError::Stopping`] mean that nothing was changed.
    pub async fn submit(&self, request: Request) -> Result<Outcome, SubmitError> {
        let (reply, answer) = oneshot::channel();
        // Before it can be taken, so that the count never goes below zero.
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.commands.try_send(Work::Command(Box::new(request), reply));
        if sent.is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        match sent {
            Ok(()) => answer.await.unwrap_or(Err(SubmitError::Stopping)),
            Err(TrySendError::Full(_)) => Err(SubmitError::Overloaded),
            Err(TrySendError::Disconnected(_)) => Err(SubmitError::Stopping),
        }
    }

    /// The latest durable state: an immutable snapshot.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// Follows what becomes durable from now on. A subscriber that lags reads the state (or the journal) again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.shared.committed.subscribe()
    }

    /// Follows what becomes durable of one stream from now on: each batch that has something of it, and no other. A follower that lags reads
    /// the journal.
    #[must_use]
    pub fn follow(&self, stream: StreamId) -> broadcast::Receiver<Arc<Committed>> {
        self.shared.followed.follow(stream)
    }

    /// Has `call` called with each batch that becomes durable from now on, on the thread that flushes and before subscribers and callers
    /// hear of it: for what is not to wait for its turn among all that a commit wakes. The next flush waits for it, so it has to be
    /// quick; if it panics, the engine fails.
    pub fn call_first(&self, call: impl Fn(&Committed) + Send + Sync + 'static) {
        self.shared.called_first.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(call));
    }

    /// The next durable point, with the state that belongs to it: what was answered before this call is in it.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] or [`SubmitError::Stopping`].
    pub async fn checkpoint(&self) -> Result<Checkpoint, SubmitError> {
        let (reply, answer) = oneshot::channel();
        match self.commands.try_send(Work::Checkpoint(reply)) {
            Ok(()) => answer.await.map_err(|_| SubmitError::Stopping),
            Err(TrySendError::Full(_)) => Err(SubmitError::Overloaded),
            Err(TrySendError::Disconnected(_)) => Err(SubmitError::Stopping),
        }
    }

    /// Reads durable events back, at most `limit`, from a position on.
    ///
    /// # Errors
    /// If the journal is damaged there, or the engine is stopping.
    pub async fn read(
        &self,
        stream: StreamId,
        from: Position,
        limit: usize,
    ) -> Result<Vec<CommittedEvent>, ReadError> {
        let journal = Arc::clone(&self.shared.journal);
        blocking::read(move || read_events(journal.as_ref(), stream, from, limit)).await
    }

    /// How far the journal's newest event is ahead of the clock. Journal time never goes back: while it is ahead it stands still, and
    /// nothing becomes due.
    #[must_use]
    pub fn clock_lead(&self) -> Duration {
        self.shared.journal.last_time().since(self.now())
    }

    /// How many durable events a stream has.
    #[must_use]
    pub fn head(&self, stream: StreamId) -> Position {
        self.shared.journal.head(codec::to_journal(stream))
    }

    /// How many durable events each stream has that has some.
    #[must_use]
    pub fn heads(&self) -> BTreeMap<StreamId, Position> {
        let heads = self.shared.journal.heads();
        heads.into_iter().map(|(stream, head)| (codec::from_journal(stream), head.next)).collect()
    }

    /// How many events each stream had when the journal was opened: before anything was decided in this life of the process.
    #[must_use]
    pub fn opened_at(&self) -> &BTreeMap<StreamId, Position> {
        &self.shared.opened_at
    }

    /// The hash over a whole stream up to its head: it changes with every event and with every change of an old one.
    #[must_use]
    pub fn head_hash(&self, stream: StreamId) -> Option<Digest> {
        self.shared.journal.heads().get(&codec::to_journal(stream)).map(|head| head.hash)
    }

    /// The mark of a tenant's journal, for its agents to remember.
    #[must_use]
    pub fn journal_mark(&self, tenant: TenantId) -> JournalMark {
        JournalMark {
            incarnation: self.shared.journal.incarnation(),
            position: self.head(StreamId::Tenant(tenant)),
        }
    }

    /// Whether an agent has seen a journal that this one is not, or not any more: another life of it, or a later position.
    #[must_use]
    pub fn saw_the_future(&self, tenant: TenantId, seen: JournalMark) -> bool {
        let ours = self.journal_mark(tenant);
        seen.incarnation != ours.incarnation || seen.position > ours.position
    }

    /// What has left memory.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.shared.archive
    }

    /// Takes out of memory what has ended: writes it to the archive, and has it forgotten when that is durable. What turns out
    /// to be needed meanwhile stays.
    ///
    /// # Errors
    /// [`ArchiveError`]; then nothing was forgotten.
    pub async fn archive_ended(&self, tenant: TenantId, ended: Ended) -> Result<(), ArchiveError> {
        let (state, archive, wanted) = (self.state(), self.archive().clone(), ended.clone());
        let kept = tokio::task::spawn_blocking(move || match state.tenants.get(&tenant) {
            Some(tenant) => archive.keep(tenant, &wanted),
            None => Ok(()),
        });
        let broke_off = |error| match blocking::is_defect(&error) {
            true => ArchiveError::Defect,
            false => ArchiveError::Submit(SubmitError::Stopping),
        };
        kept.await.map_err(broke_off)?.map_err(ArchiveError::Write)?;
        let command = Command::Tenant(tenant, TenantCommand::Archive(Box::new(ended)));
        let (actor, trace) = (Actor::System, TraceContext::default());
        self.submit(Request { actor, trace, idempotency: None, command }).await?;
        Ok(())
    }

    /// How much of the disk the journal takes, in bytes, if that is known.
    #[must_use]
    pub fn journal_size_bytes(&self) -> Option<u64> {
        self.shared.journal.size_bytes()
    }

    /// How many commands wait to be decided.
    #[must_use]
    pub fn commands_waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// How the journal does.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        let flushing = self.shared.flushing.under_way();
        HealthReport {
            writable: self.shared.running.load(Ordering::Acquire),
            last_flush: self.shared.flushing.last(),
            flushing,
            no_space: self.is_short_of_space(flushing.is_some()),
        }
    }

    /// What is written now had its space, and to look may take as long as a disk hangs. Else the journal knows, also while nobody
    /// writes: nothing but a look would say that there is space again. One that does not know is believed its last answer.
    fn is_short_of_space(&self, is_flushing: bool) -> bool {
        let looked = if is_flushing { None } else { self.shared.journal.is_short_of_space() };
        looked.unwrap_or_else(|| self.shared.no_space.load(Ordering::Relaxed))
    }

    /// The engine's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Whether the engine's clock was set since a time of the journal: see [`crate::Clock::was_set_since`].
    #[must_use]
    pub fn clock_was_set_since(&self, at: Timestamp) -> bool {
        self.shared.clock.was_set_since(at)
    }

    pub(crate) fn wake(&self) {
        // A full queue wakes the writer as well.
        drop(self.commands.try_send(Work::Wake));
    }
}

pub(crate) fn read_events(
    journal: &dyn Journal,
    stream: StreamId,
    from: Position,
    limit: usize,
) -> Result<Vec<CommittedEvent>, ReadError> {
    let entries = journal.read(codec::to_journal(stream), from, limit).map_err(ReadError::Journal)?;
    entries
        .into_iter()
        .map(|entry| {
            let position = entry.position;
            let event = codec::decode(&entry.payload).map_err(|source| ReadError::Event {
                stream,
                position,
                source,
            })?;
            Ok(CommittedEvent { stream, position, event: Arc::new(event) })
        })
        .collect()
}
