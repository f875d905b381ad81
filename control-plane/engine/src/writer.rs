//! The deciding half of the writer loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use stella_domain::command::{Actor, Command, Outcome, Request};
use stella_domain::decide::{Decision, Stuck, decide};
use stella_domain::event::{Event, StreamId};
use stella_domain::listening::Listening;
use stella_domain::rejection::Rejection;
use stella_domain::size::{DECISION_BYTES_MAX, EVENT_BYTES_MAX};
use stella_domain::state::State;
use stella_journal::{APPEND_BYTES_MAX, Append};
use stella_protocol::id::Position;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use tokio::sync::oneshot;

use crate::flusher::Outlet;
use crate::handle::{CommittedEvent, Reply, Shared, SubmitError, Work};
use crate::{Checkpoint, Clock, codec};

/// How many commands share a flush. Large enough to amortise it, small enough to bound what a crash makes callers repeat.
const BATCH_COMMANDS_MAX: usize = 1_024;
/// When a batch is closed for its size, in bytes of events. What goes over it is the last decision's.
const BATCH_BYTES: usize = 16 << 20;
// What the core may decide, the journal has to take: alone, and as the last of a batch.
const _: () = assert!(EVENT_BYTES_MAX <= stella_journal::EVENT_BYTES_MAX);
const _: () = assert!(BATCH_BYTES + DECISION_BYTES_MAX <= APPEND_BYTES_MAX);
/// For how long a batch is decided at most: others wait for its flush.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// How long timers wait after one of them was rejected, or after the journal took nothing: they stay due, and the writer has other
/// work.
const STUCK_TIMER_PAUSE_MS: u64 = 1_000;
/// How long timers wait after nothing but held-back ones was due: for so long others may be late while agents are waited for.
const HELD_BACK_PAUSE_MS: u64 = 250;
/// The longest sleep of an idle writer: the bound on how late a timer can fire after the wall clock jumped.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// What was decided together: appended with one flush, then answered.
pub(crate) struct Batch {
    /// The rewind count that it was decided under.
    pub(crate) rewinds: u64,
    pub(crate) at: Timestamp,
    pub(crate) appends: Vec<Append>,
    /// How many bytes of events the appends carry.
    bytes: usize,
    pub(crate) events: Vec<CommittedEvent>,
    pub(crate) state: Arc<State>,
    pub(crate) answers: Vec<(Reply, Result<Outcome, SubmitError>)>,
    /// Who wants to know the durable point after it.
    pub(crate) checkpoints: Vec<oneshot::Sender<Checkpoint>>,
    /// When the first of it was looked at.
    since: Instant,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.answers.is_empty() && self.checkpoints.is_empty()
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= BATCH_COMMANDS_MAX
            || self.bytes >= BATCH_BYTES
            || self.since.elapsed() >= BATCH_TIME
    }

    fn add(&mut self, stream: StreamId, position: Position, event: Event, payload: Vec<u8>) {
        self.bytes += payload.len();
        let name = codec::to_journal(stream);
        // Few streams share a batch, and the last one comes again most often.
        match self.appends.iter_mut().rfind(|append| append.stream == name) {
            Some(append) => append.events.push(payload),
            None => self.appends.push(Append { stream: name, expected: position, events: vec![payload] }),
        }
        self.events.push(CommittedEvent { stream, position, event: Arc::new(event) });
    }
}

pub(crate) struct Config {
    pub(crate) clock: Clock,
    pub(crate) last_time: Timestamp,
    pub(crate) heads: BTreeMap<StreamId, Position>,
    pub(crate) listening: Listening,
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
    /// Since when agents can be heard.
    listening: Listening,
    /// No timer is looked at before.
    timers_from: Timestamp,
    shared: Arc<Shared>,
    outlet: Outlet,
    stop: Arc<AtomicBool>,
}

impl Writer {
    pub(crate) fn new(
        config: Config,
        state: Arc<State>,
        shared: Arc<Shared>,
        outlet: Outlet,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            clock: config.clock,
            time: config.last_time,
            state,
            heads: config.heads,
            rewinds: 0,
            listening: config.listening,
            timers_from: Timestamp::default(),
            shared,
            outlet,
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
            if !batch.is_empty() && self.outlet.put(batch).is_err() {
                break;
            }
            if stopping {
                break;
            }
        }
        self.shared.running.store(false, Ordering::Release);
    }

    fn idle_time(&self) -> Duration {
        let due = self.state.next_due().map(|due| due.max(self.timers_from));
        due.map_or(IDLE_MAX, |due| due.since(self.clock.now()).min(IDLE_MAX))
    }

    fn decide_batch(&mut self, first: Option<Work>, waiting: &Receiver<Work>) -> Batch {
        self.rewind_if_needed();
        self.time = self.time.max(self.clock.now());
        self.hear_of_the_fleet();
        let mut batch = Batch {
            rewinds: self.rewinds,
            at: self.time,
            appends: Vec::new(),
            bytes: 0,
            events: Vec::new(),
            state: Arc::clone(&self.state),
            answers: Vec::new(),
            checkpoints: Vec::new(),
            since: Instant::now(),
        };
        if self.state.next_due().is_some_and(|due| due.max(self.timers_from) <= self.time) {
            self.tick(&mut batch);
        }
        let mut next = first;
        while let Some(work) = next {
            match work {
                Work::Command(request, reply) => {
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    let answer = self.decide_one(*request, &mut batch);
                    batch.answers.push((reply, answer));
                }
                Work::Checkpoint(reply) => batch.checkpoints.push(reply),
                Work::Wake => {}
            }
            next = if batch.is_full() { None } else { waiting.try_recv().ok() };
        }
        batch.state = Arc::clone(&self.state);
        batch
    }

    /// After a refused write everything decided since is void: go back to what is durable.
    fn rewind_if_needed(&mut self) {
        let rewinds = self.shared.rewinds.load(Ordering::Acquire);
        if rewinds != self.rewinds {
            self.rewinds = rewinds;
            // What was due is due again, and the disk is as full as it was.
            self.timers_from = self.time.plus_ms(STUCK_TIMER_PAUSE_MS);
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

    /// In journal time: that of the sessions which it is compared with.
    fn hear_of_the_fleet(&mut self) {
        let patience_ms = self.shared.patience_ms.swap(0, Ordering::AcqRel);
        if patience_ms > 0 {
            self.listening = Listening::Since { at: self.time, until: self.time.plus_ms(patience_ms) };
        }
    }

    fn tick(&mut self, batch: &mut Batch) {
        let request = Request {
            actor: Actor::System,
            trace: TraceContext::default(),
            idempotency: None,
            command: Command::Tick(self.listening),
        };
        let taken = decide(&self.state, &request, self.time).and_then(|mut decision| {
            let stuck = std::mem::take(&mut decision.stuck);
            let waits = decision.held_back && decision.events.is_empty();
            self.take(decision, batch).map(|_| (stuck, waits))
        });
        match taken {
            Ok((stuck, waits)) if stuck.is_empty() => {
                if waits {
                    self.timers_from = self.time.plus_ms(HELD_BACK_PAUSE_MS);
                }
                return;
            }
            Ok((stuck, _)) => {
                for Stuck { stream, timer, why } in stuck {
                    let error = &why as &dyn std::error::Error;
                    tracing::error!(?stream, ?timer, error, "a due timer was rejected and is tried again");
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "due timers were rejected and are tried again");
            }
        }
        self.timers_from = self.time.plus_ms(STUCK_TIMER_PAUSE_MS);
    }

    fn decide_one(&mut self, mut request: Request, batch: &mut Batch) -> Result<Outcome, SubmitError> {
        if let Command::Tick(listening) = &mut request.command {
            *listening = self.listening;
        }
        let decision = decide(&self.state, &request, self.time)?;
        Ok(self.take(decision, batch)?)
    }

    /// Adds what was decided to the batch, if the journal can take it.
    fn take(&mut self, decision: Decision, batch: &mut Batch) -> Result<Outcome, Rejection> {
        let payloads: Vec<Vec<u8>> = decision.events.iter().map(|(_, event)| codec::encode(event)).collect();
        if let Some(bytes) = payloads.iter().map(Vec::len).find(|bytes| *bytes > EVENT_BYTES_MAX) {
            return Err(Rejection::TooLarge { bytes, bytes_max: EVENT_BYTES_MAX });
        }
        let bytes = payloads.iter().map(Vec::len).sum();
        if bytes > DECISION_BYTES_MAX {
            return Err(Rejection::TooLarge { bytes, bytes_max: DECISION_BYTES_MAX });
        }
        for ((stream, event), payload) in decision.events.into_iter().zip(payloads) {
            let head = self.heads.entry(stream).or_default();
            batch.add(stream, *head, event, payload);
            *head = head.next();
        }
        self.state = Arc::new(decision.state);
        Ok(decision.outcome)
    }
}
