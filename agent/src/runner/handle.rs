//! The way to a runner.

use std::time::Duration;

use stella_protocol::id::{AttemptKey, Position};
use stella_protocol::message::{AttemptProbe, Cancel, JournalMark, OpenAttempt, TracedDispatch};
use tokio::sync::{mpsc, oneshot, watch};

use crate::report::Report;
use crate::tuning::Tuning;

/// What a runner can be told.
#[derive(Debug)]
pub enum Order {
    /// Give what a hello needs.
    Hello(oneshot::Sender<HelloFacts>),
    /// A session exists from here on; it hears the reports.
    Attach {
        /// From the welcome.
        control_plane: JournalMark,
        /// From the welcome: the results that the control plane has.
        settled: Vec<AttemptKey>,
        /// Where reports go; of capacity [`crate::report::REPORTS_MAX`].
        session: mpsc::Sender<Report>,
    },
    /// Run this.
    Dispatch(Box<TracedDispatch>),
    /// End this.
    Cancel(Cancel),
    /// End this attempt, and say how far that gets.
    End(Cancel),
    /// These results are durable at the control plane.
    Acknowledge(Vec<AttemptKey>),
    /// This holds from now on.
    Tune(Box<Tuning>),
    /// Tell what is left of an attempt, as far as the runner knows.
    Probe(Box<AttemptProbe>, oneshot::Sender<Left>),
    /// Tell for how long the disk has been busy with one commit.
    Ping(oneshot::Sender<Duration>),
}

/// What the runner knows of an attempt of which the control plane does not know what became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has it in hand, or ends what is left of attempts that its journal does not know.
    AtWork,
    /// It knows how it ended, and has said it again.
    Reported,
    /// It has ended, and the agent could not tell how.
    Unconfirmed(String),
    /// It knows nothing of it, and may not run such a task, nor what looks for its effect.
    Forbidden(String),
    /// It knows nothing of it.
    Nothing,
}

/// The runner's part of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloFacts {
    /// What the policy allows.
    pub capabilities: u64,
    /// The agent's journal.
    pub journal: JournalMark,
    /// The control plane's journal, as it was seen last.
    pub control_plane: Option<JournalMark>,
    /// What is open or unacknowledged.
    pub open: Vec<OpenAttempt>,
}

/// The runner's part of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// The journal's durable position.
    pub position: Position,
    /// How many attempts run.
    pub tasks_running: u32,
}

/// The runner has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the runner has stopped")]
pub struct Gone;

/// The way to a runner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunnerHandle {
    orders: mpsc::Sender<Order>,
    pulse: watch::Receiver<Pulse>,
}

impl RunnerHandle {
    pub(super) const fn new(orders: mpsc::Sender<Order>, pulse: watch::Receiver<Pulse>) -> Self {
        Self { orders, pulse }
    }

    /// Gives an order; waits while too many are waiting.
    ///
    /// # Errors
    /// If the runner has stopped.
    pub async fn order(&self, order: Order) -> Result<(), Gone> {
        self.orders.send(order).await.map_err(|_| Gone)
    }

    /// What a hello needs.
    ///
    /// # Errors
    /// If the runner has stopped.
    pub async fn hello(&self) -> Result<HelloFacts, Gone> {
        let (sender, answer) = oneshot::channel();
        self.order(Order::Hello(sender)).await?;
        answer.await.map_err(|_| Gone)
    }

    /// What is left of an attempt.
    ///
    /// # Errors
    /// If the runner has stopped.
    pub async fn left_of(&self, probe: AttemptProbe) -> Result<Left, Gone> {
        let (sender, answer) = oneshot::channel();
        self.order(Order::Probe(Box::new(probe), sender)).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Whether the runner lives, and for how long the disk has been busy with one commit.
    ///
    /// # Errors
    /// If the runner has stopped.
    pub async fn ping(&self) -> Result<Duration, Gone> {
        let (sender, answer) = oneshot::channel();
        self.order(Order::Ping(sender)).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Whether the runner has stopped.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.orders.is_closed()
    }

    /// What a heartbeat needs.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        *self.pulse.borrow()
    }
}
