//! The owner of the journal and of every attempt: it accepts, starts, ends and reports.
//!
//! ```text
//! dispatch -> judged -> journalled -> (durable) -> Accepted is said, the attempt waits for its turn
//!          -> started -> Running is said -> over -> journalled -> (durable) -> Finished is said -> acknowledged -> forgotten
//! ```
//!
//! One attempt at a time on a target, in the order in which they were accepted; different targets side by side, up to the
//! configured number. A newer generation ends what is older on its target, and starts when that is over.
//!
//! One task owns everything here and waits in one place; sessions and executors talk to it through bounded queues, and it
//! never waits for any of them.

mod handle;
mod slots;
mod work;

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::id::{AttemptKey, Position};
use stella_protocol::limits::REASON_BYTES_MAX;
use stella_protocol::message::{
    Accepted, AttemptProbe, Cancel, Dispatch, Ending as Reached, EndingStage, Finished, JournalMark, Phase,
    Running, TaskOutcome, TracedDispatch,
};
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::handle::{Gone, HelloFacts, Left, Order, Pulse, RunnerHandle};
use self::slots::{Slot, Slots, Stage};
use self::work::{Over, Work};
use crate::cancel::{self, CancelRequest};
use crate::executor::{ArtifactSource, Executor, UnitManager};
use crate::host::HostRoot;
use crate::inbox::{Inbox, Verdict};
use crate::journal::{self, Ending, Journal, Known, LeftOpen};
use crate::observers::{self, Attempted, Observers};
use crate::output::now;
use crate::policy::Policy;
use crate::report::{Outlet, Report};
use crate::session::Link;
use crate::supervisor::GRACE_DEFAULT;
use crate::tuning::Tuning;

/// How many orders may wait: a session that gives them faster waits, and with it the control plane's stream.
const ORDERS_MAX: usize = 64;

/// How long something lazy may wait for another write to go with.
const LAZY_DURATION_MAX: Duration = Duration::from_secs(1);

/// How long after the last attempt the executor keeps what it could use for another: longer than the pauses within a
/// deployment, short enough that an idle agent is small.
const REST_AFTER: Duration = Duration::from_secs(10);

/// What a runner works with.
#[derive(Debug)]
pub struct Config {
    /// How many attempts may run side by side.
    pub concurrency: NonZeroUsize,
    /// Where the folders of attempts are; made if it is not there.
    pub attempts_dir: PathBuf,
    /// How long running attempts may go on when the agent stops.
    pub drain: Duration,
    /// Where tasks may write.
    pub host: HostRoot,
    /// What tasks may be.
    pub policy: Policy,
    /// How tasks are run.
    pub executor: Executor,
    /// Where artifacts come from.
    pub artifacts: Arc<dyn ArtifactSource>,
    /// The host's units.
    pub units: Arc<dyn UnitManager>,
    /// The connection that output goes through.
    pub link: watch::Receiver<Option<Link>>,
    /// Who is told how attempts ended.
    pub observers: Observers,
}

/// Why a runner has stopped by itself. The process has to stop with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal failed: what is promised and what is on disk may differ.
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Runner {
    journal: Journal,
    inbox: Inbox,
    slots: Slots,
    work: Work,
    concurrency: NonZeroUsize,
    drain: Duration,
    observers: Observers,
    outlet: Outlet,
    /// What may be said and done once a position is durable, in order.
    promises: VecDeque<(Position, Promise)>,
    orders: mpsc::Receiver<Order>,
    pulse: watch::Sender<Pulse>,
    /// Whether the agent stops: nothing is accepted or started any more.
    is_stopping: bool,
}

#[derive(Debug)]
enum Promise {
    /// Say that it is accepted, and let it take its turn.
    Accepted(AttemptKey),
    /// Say that it is over, and tell who observes attempts that ran: what is not on the disk might end again, and otherwise.
    Finished(Finished, Option<Box<(Attempted, Ending)>>),
}

/// What woke the runner.
enum Wake {
    Order(Option<Order>),
    Over(Over),
    Durable(Result<Position, journal::Error>),
    LazyIsDue,
    RestIsDue,
    Stop,
    DrainIsOver,
}

impl Runner {
    /// A runner that first ends and explains what an earlier life left open.
    ///
    /// # Errors
    /// If the folders of attempts cannot be read: what became of open attempts cannot be told then.
    pub fn new(
        journal: Journal,
        left_open: Vec<LeftOpen>,
        config: Config,
    ) -> io::Result<(Self, RunnerHandle)> {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let (pulse, pulse_receiver) =
            watch::channel(Pulse { position: journal.mark().position, tasks_running: 0 });
        let (concurrency, drain, policy) = (config.concurrency, config.drain, config.policy.clone());
        let observers = config.observers.clone();
        let open = journal.open_attempts();
        let mut runner = Self {
            journal,
            inbox: Inbox::new(policy),
            slots: Slots::default(),
            work: Work::new(config),
            concurrency,
            drain,
            observers,
            outlet: Outlet::default(),
            promises: VecDeque::new(),
            orders,
            pulse,
            is_stopping: false,
        };
        runner.work.take_over_folders(&open.iter().map(|attempt| attempt.key).collect())?;
        runner.work.sweep();
        for attempt in open.iter().filter(|attempt| attempt.phase == Phase::Finished) {
            runner.work.replay(attempt.key);
        }
        for LeftOpen { dispatch, started_at } in left_open {
            tracing::info!(taskId = %dispatch.task, attempt = dispatch.attempt.0, "looking for what became of an attempt of an earlier life");
            runner.slots.insert(dispatch.key(), Slot::recovering(&dispatch));
            runner.work.recover(dispatch, started_at);
        }
        Ok((runner, RunnerHandle::new(sender, pulse_receiver)))
    }

    /// Runs until `stop` and then until nothing runs any more, or the drain time is over. What still runs then is left to
    /// its supervisors; the next life of the agent finds it.
    ///
    /// # Errors
    /// If the journal fails. The process has to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut drained_by = None;
        let (mut lazy_by, mut rest_by) = (None, None);
        loop {
            if self.is_stopping && self.slots.running() == 0 && self.promises.is_empty() {
                break;
            }
            lazy_by = match (self.journal.has_lazy_writes(), lazy_by) {
                (false, _) => None,
                (true, None) => Some(Instant::now() + LAZY_DURATION_MAX),
                (true, due) => due,
            };
            let wake = tokio::select! {
                () = stop.cancelled(), if !self.is_stopping => Wake::Stop,
                durable = self.journal.durable() => Wake::Durable(durable),
                over = self.work.next() => Wake::Over(over),
                order = self.orders.recv() => Wake::Order(order),
                () = at(lazy_by) => Wake::LazyIsDue,
                () = at(rest_by) => Wake::RestIsDue,
                () = at(drained_by) => Wake::DrainIsOver,
            };
            match wake {
                Wake::Order(Some(order)) => self.obey(order)?,
                // Nobody can order anything any more: the service is gone.
                Wake::Order(None) => break,
                Wake::Over(over) => {
                    if matches!(over, Over::Attempt(..)) {
                        rest_by = Some(Instant::now() + REST_AFTER);
                    }
                    self.ended(over);
                }
                Wake::RestIsDue => {
                    self.work.rest();
                    rest_by = None;
                }
                Wake::Durable(position) => self.keep_promises(position?),
                Wake::LazyIsDue => self.journal.hurry(),
                Wake::Stop => {
                    self.is_stopping = true;
                    drained_by = Some(Instant::now() + self.drain);
                    self.hand_back();
                }
                Wake::DrainIsOver => break,
            }
            self.start_ready().await;
            self.beat();
        }
        if self.slots.running() > 0 {
            let running = self.slots.running();
            tracing::warn!(
                running,
                "attempts still run; they are left to their supervisors until the next start"
            );
        }
        self.journal.settle().await?;
        Ok(())
    }

    // === orders ===

    fn obey(&mut self, order: Order) -> Result<(), Error> {
        match order {
            Order::Hello(answer) => {
                let facts = HelloFacts {
                    capabilities: self.inbox.policy().capabilities(),
                    journal: self.journal.mark(),
                    control_plane: self.journal.control_plane(),
                    open: self.journal.open_attempts(),
                };
                // Whoever asked and left does not need it.
                drop(answer.send(facts));
            }
            Order::Attach { control_plane, settled, session } => {
                self.attach(control_plane, &settled, session)?
            }
            Order::Dispatch(dispatch) => self.dispatch(dispatch)?,
            Order::Cancel(cancel) => self.cancel(cancel, false)?,
            Order::End(cancel) => self.cancel(cancel, true)?,
            Order::Acknowledge(keys) => self.acknowledge(&keys),
            Order::Tune(tuning) => self.tune(*tuning),
            Order::Probe(probe, answer) => {
                let left = self.left_of(&probe)?;
                // Whoever asked and left does not need it.
                drop(answer.send(left));
            }
            Order::Ping(answer) => drop(answer.send(self.journal.waiting_for_disk())),
        }
        Ok(())
    }

    /// A session exists: it hears where everything is that is open.
    fn attach(
        &mut self,
        control_plane: JournalMark,
        settled: &[AttemptKey],
        session: mpsc::Sender<Report>,
    ) -> Result<(), Error> {
        if self.journal.note_control_plane(control_plane) {
            tracing::warn!(
                incarnation = %control_plane.incarnation,
                position = control_plane.position.0,
                "control plane journal rolled back; results are kept here until it acknowledges them"
            );
        }
        self.acknowledge(settled);
        self.outlet.attach(session);
        for attempt in self.journal.open_attempts() {
            if let Some(known) = self.journal.get(attempt.key)? {
                self.say_again(attempt.key, known);
            }
        }
        Ok(())
    }

    /// The control plane hears at the next session what is allowed here; until then dispatches that are not are refused.
    fn tune(&mut self, tuning: Tuning) {
        let Tuning { policy, drain, groups } = tuning;
        self.inbox.follow(policy);
        self.drain = drain;
        self.work.change_groups(groups.as_ref());
    }

    fn dispatch(&mut self, traced: Box<TracedDispatch>) -> Result<(), Error> {
        let _in_trace = observers::log_span(&traced.trace()).entered();
        let dispatch = &traced.dispatch;
        let key = dispatch.key();
        match self.inbox.judge(&self.journal, dispatch)? {
            Verdict::Again(known) => {
                tracing::info!(taskId = %key.task, attempt = key.attempt.0, "a dispatch came again; it is answered from the journal");
                self.say_again(key, known);
            }
            // Unanswered, it is sent again in the next session.
            Verdict::Accept | Verdict::Refuse(_) if self.is_stopping => {}
            Verdict::Refuse(mut reason) => {
                tracing::warn!(taskId = %key.task, attempt = key.attempt.0, reason, "a dispatch is refused");
                if self.journal.check_room(false).is_err() {
                    // What attempts have left on the host root may be what is in the way.
                    self.work.sweep();
                }
                reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
                self.outlet.say(Report::Finished(Finished {
                    key,
                    position: self.journal.mark().position,
                    started_at: None,
                    finished_at: now(),
                    outcome: TaskOutcome::Refused { reason },
                }));
            }
            Verdict::Accept => {
                tracing::info!(taskId = %key.task, attempt = key.attempt.0, kind = dispatch.spec.kind(), target = dispatch.target_name, "accepted");
                self.end_older(dispatch);
                let position = self.journal.accept(dispatch);
                self.slots.insert(key, Slot::accepted(traced));
                self.promises.push_back((position, Promise::Accepted(key)));
            }
        }
        Ok(())
    }

    /// Ends what an older deployment left on the dispatch's target.
    fn end_older(&mut self, dispatch: &Dispatch) {
        for key in self.slots.older_than(dispatch.target, dispatch.generation) {
            self.end(key, GRACE_DEFAULT, "superseded by a newer deployment");
        }
    }

    /// Says that the order to end an attempt is here, and what becomes of it.
    fn tell_ending(&mut self, key: AttemptKey) {
        self.outlet.say(Report::Ending(Reached { key, stage: EndingStage::Delivered }));
        if let Some(Stage::Running(handle)) = self.slots.stage(key) {
            self.work.follow(key, handle.stages());
        }
    }

    fn cancel(&mut self, cancel: Cancel, is_to_tell: bool) -> Result<(), Error> {
        if self.slots.contains(cancel.key) {
            if is_to_tell {
                self.tell_ending(cancel.key);
            }
            self.end(
                cancel.key,
                Duration::from_millis(cancel.grace_ms),
                "the control plane has cancelled it",
            );
        } else if let Some(known) = self.journal.get(cancel.key)? {
            self.say_again(cancel.key, known);
        }
        Ok(())
    }

    /// What is left here of an attempt. One that is over is said again, if it is known how it ended.
    fn left_of(&mut self, probe: &AttemptProbe) -> Result<Left, Error> {
        let key = probe.key;
        if self.work.is_ending_strangers() || self.slots.contains(key) {
            return Ok(Left::AtWork);
        }
        let known = self.journal.get(key)?;
        Ok(match known {
            Some(Known::Open { .. } | Known::Finished { durable: false, .. }) => Left::AtWork,
            Some(
                Known::Finished { report: Finished { outcome: TaskOutcome::Unknown { reason }, .. }, .. }
                | Known::Forgotten(Finished { outcome: TaskOutcome::Unknown { reason }, .. }),
            ) => Left::Unconfirmed(reason),
            Some(known @ (Known::Finished { .. } | Known::Forgotten(_))) => {
                self.say_again(key, known);
                Left::Reported
            }
            None => self.inbox.policy().objection(&probe.spec).map_or(Left::Nothing, Left::Forbidden),
        })
    }

    fn end(&mut self, key: AttemptKey, grace: Duration, reason: &str) {
        match self.slots.stage(key) {
            Some(Stage::Running(handle)) => {
                handle.request(CancelRequest { grace, reason: reason.to_owned() });
            }
            Some(Stage::Accepted(_)) => {
                self.slots.remove(key);
                self.finish(
                    key,
                    Ending { started_at: None, finished_at: now(), outcome: TaskOutcome::Cancelled },
                    None,
                );
            }
            // It is being ended already.
            Some(Stage::Recovering) | None => {}
        }
    }

    /// Ends what was accepted and has not begun, because it will not: whoever hears of it may send it to the next life of this agent.
    fn hand_back(&mut self) {
        for key in self.slots.unbegun() {
            tracing::info!(taskId = %key.task, attempt = key.attempt.0, "handed back: the agent stops before it has begun");
            self.slots.remove(key);
            let ending = Ending { started_at: None, finished_at: now(), outcome: TaskOutcome::Interrupted };
            self.finish(key, ending, None);
        }
    }

    fn acknowledge(&mut self, keys: &[AttemptKey]) {
        for key in self.journal.acknowledge(keys) {
            self.work.acknowledged(key);
        }
    }

    // === what follows ===

    fn ended(&mut self, over: Over) {
        match over {
            Over::Attempt(attempted, ending) => {
                let key = attempted.key;
                let _in_trace = observers::log_span(&attempted.trace).entered();
                tracing::info!(taskId = %key.task, attempt = key.attempt.0, outcome = ?ending.outcome, "ended");
                if matches!(self.slots.stage(key), Some(Stage::Recovering)) {
                    self.work.replay(key);
                }
                self.slots.remove(key);
                let told = Box::new((*attempted, ending.clone()));
                self.finish(key, ending, Some(told));
            }
            Over::Output(key) => {
                let is_forgotten = !self.slots.contains(key)
                    && matches!(self.journal.get(key), Ok(None | Some(Known::Forgotten(_))));
                self.work.output_is_over(key, is_forgotten);
            }
            Over::Stage(ending, stages) => {
                self.outlet.say(Report::Ending(ending));
                self.work.follow_on(ending.key, stages);
            }
            Over::Followed(key) => self.work.followed(key),
            Over::Cleaning => {}
        }
    }

    fn finish(&mut self, key: AttemptKey, ending: Ending, told: Option<Box<(Attempted, Ending)>>) {
        if let Some(report) = self.journal.finish(key, ending) {
            self.promises.push_back((report.position, Promise::Finished(report, told)));
        }
    }

    fn keep_promises(&mut self, durable: Position) {
        while self.promises.front().is_some_and(|(position, _)| *position <= durable) {
            match self.promises.pop_front() {
                Some((position, Promise::Accepted(key))) => {
                    self.outlet.say(Report::Accepted(Accepted { key, position }));
                    self.slots.enqueue(key);
                }
                Some((_, Promise::Finished(report, told))) => {
                    if let Some((attempted, ending)) = told.as_deref() {
                        self.observers.ended(attempted, ending);
                    }
                    self.outlet.say(Report::Finished(report));
                }
                None => {}
            }
        }
    }

    /// Says where an attempt is. What is not durable is not said: its promise will say it.
    fn say_again(&mut self, key: AttemptKey, known: Known) {
        match known {
            Known::Open { position, started_at, durable: true } => {
                self.outlet.say(Report::Accepted(Accepted { key, position }));
                if let Some(started_at) = started_at {
                    self.outlet.say(Report::Running(Running { key, started_at }));
                }
            }
            Known::Finished { report, durable: true } | Known::Forgotten(report) => {
                self.outlet.say(Report::Finished(report));
            }
            Known::Open { durable: false, .. } | Known::Finished { durable: false, .. } => {}
        }
    }

    /// Starts those whose turn it is. What is said of them is on its way before their work begins, which takes longer.
    async fn start_ready(&mut self) {
        if self.work.is_ending_strangers() {
            return;
        }
        let mut starting = Vec::new();
        while !self.is_stopping && self.slots.running() < self.concurrency.get() {
            let (handle, signal) = cancel::pair();
            let Some((key, dispatch)) = self.slots.start_ready(handle) else { break };
            let started_at = now();
            self.journal.started(key, started_at);
            self.outlet.say(Report::Running(Running { key, started_at }));
            starting.push((dispatch, started_at, signal));
        }
        if !starting.is_empty() {
            yield_now().await;
        }
        for (dispatch, started_at, signal) in starting {
            self.work.run(*dispatch, started_at, signal);
        }
    }

    fn beat(&self) {
        let tasks_running = u32::try_from(self.slots.running()).unwrap_or(u32::MAX);
        let pulse = Pulse { position: self.journal.mark().position, tasks_running };
        self.pulse.send_if_modified(|before| std::mem::replace(before, pulse) != pulse);
    }
}

/// Waits until a moment; for ever without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => sleep(Duration::MAX).await,
    }
}
