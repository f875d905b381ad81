//! The deciding half of the writer loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use stella_domain::command::{Actor, Command, Outcome, Request};
use stella_domain::decide::decide;
use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_journal::Append;
use stella_protocol::id::Position;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use tokio::sync::oneshot;

use crate::handle::{CommittedEvent, Reply, Shared, SubmitError, Work};
use crate::{Checkpoint, Clock, codec};

/// How many commands share a flush. Large enough to amortise it, small enough to bound what a crash makes callers repeat.
const BATCH_COMMANDS_MAX: usize = 1_024;
/// The longest sleep of an idle writer: the bound on how late a timer can fire after the wall clock jumped.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// What was decided together: appended with one flush, then answered.
pub(crate) struct Batch {
    /// The rewind count that it was decided under.
    pub(crate) rewinds: u64,
    pub(crate) at: Timestamp,
    pub(crate) appends: Vec<Append>,
    pub(crate) events: Vec<CommittedEvent>,
    pub(crate) state: Arc<State>,
    pub(crate) answers: Vec<(Reply, Result<Outcome, SubmitError>)>,
    /// Who wants to know the durable point after it.
    pub(crate) checkpoints: Vec<oneshot::Sender<Checkpoint>>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.answers.is_empty() && self.checkpoints.is_empty()
    }
}

pub(crate) struct Config {
    pub(crate) clock: Clock,
    pub(crate) last_time: Timestamp,
    pub(crate) heads: BTreeMap<StreamId, Position>,
}

/// The only one who decides.
pub(crate) struct Writer {
    clock: Clock,
    /// Journal time: never goes back.
    time: Timestamp,
    /// The state after everything decided so far, durable or on its way.
    state: Arc<State>,
    /// The next position of each stream, counting what is on its way.
    heads: BTreeMap<StreamId, Position>,
    rewinds: u64,
    shared: Arc<Shared>,
    batches: SyncSender<Batch>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    pub(crate) fn new(
        config: Config,
        state: Arc<State>,
        shared: Arc<Shared>,
        batches: SyncSender<Batch>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            clock: config.clock,
            time: config.last_time,
            state,
            heads: config.heads,
            rewinds: 0,
            shared,
            batches,
            stop,
        }
    }

    /// Runs until it is told to stop, or nobody can flush any more.
    pub(crate) fn run(mut self, waiting: &Receiver<Work>) {
        loop {
            let first = match waiting.recv_timeout(self.idle_time()) {
                Ok(work) => Some(work),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let stopping = self.stop.load(Ordering::Acquire);
            let batch = self.decide_batch(first, waiting);
            if !batch.is_empty() && self.batches.send(batch).is_err() {
                break;
            }
            if stopping {
                break;
            }
        }
        self.shared.running.store(false, Ordering::Release);
    }

    fn idle_time(&self) -> Duration {
        self.state.next_due().map_or(IDLE_MAX, |due| due.since(self.clock.now()).min(IDLE_MAX))
    }

    fn decide_batch(&mut self, first: Option<Work>, waiting: &Receiver<Work>) -> Batch {
        self.rewind_if_needed();
        self.time = self.time.max(self.clock.now());
        let mut batch = Batch {
            rewinds: self.rewinds,
            at: self.time,
            appends: Vec::new(),
            events: Vec::new(),
            state: Arc::clone(&self.state),
            answers: Vec::new(),
            checkpoints: Vec::new(),
        };
        if self.state.next_due().is_some_and(|due| due <= self.time) {
            self.tick(&mut batch);
        }
        let mut next = first;
        while let Some(work) = next {
            match work {
                Work::Command(request, reply) => {
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    let answer = self.decide_one(&request, &mut batch);
                    batch.answers.push((reply, answer));
                }
                Work::Checkpoint(reply) => batch.checkpoints.push(reply),
                Work::Wake => {}
            }
            next = if batch.answers.len() < BATCH_COMMANDS_MAX { waiting.try_recv().ok() } else { None };
        }
        batch.state = Arc::clone(&self.state);
        self.collect_appends(&mut batch);
        batch
    }

    /// After a refused write everything decided since is void: go back to what is durable.
    fn rewind_if_needed(&mut self) {
        let rewinds = self.shared.rewinds.load(Ordering::Acquire);
        if rewinds != self.rewinds {
            self.rewinds = rewinds;
            self.state = self.shared.state();
            self.heads = self
                .shared
                .journal
                .heads()
                .into_iter()
                .map(|(stream, head)| (codec::from_journal(stream), head.next))
                .collect();
        }
    }

    fn tick(&mut self, batch: &mut Batch) {
        let request = Request {
            actor: Actor::System,
            trace: TraceContext::default(),
            idempotency: None,
            command: Command::Tick,
        };
        if let Err(error) = self.decide_one(&request, batch) {
            tracing::error!(error = &error as &dyn std::error::Error, "a due timer was rejected");
        }
    }

    fn decide_one(&mut self, request: &Request, batch: &mut Batch) -> Result<Outcome, SubmitError> {
        let decision = decide(&self.state, request, self.time)?;
        for (stream, event) in decision.events {
            let head = self.heads.entry(stream).or_default();
            batch.events.push(CommittedEvent { stream, position: *head, event: Arc::new(event) });
            *head = head.next();
        }
        self.state = Arc::new(decision.state);
        Ok(decision.outcome)
    }

    fn collect_appends(&self, batch: &mut Batch) {
        let mut by_stream: BTreeMap<StreamId, Append> = BTreeMap::new();
        for event in &batch.events {
            by_stream
                .entry(event.stream)
                .or_insert_with(|| Append {
                    stream: codec::to_journal(event.stream),
                    expected: event.position,
                    events: Vec::new(),
                })
                .events
                .push(codec::encode(&event.event));
        }
        batch.appends = by_stream.into_values().collect();
    }
}
