//! What an agent reports, on its way into the journal.
//!
//! Several reports wait for their flush at the same time; one at a time would make a session as slow as the disk. They
//! are handed to the engine in the order in which they came: a command is queued when its future is first polled, and
//! that is done here, by hand. When the engine has no room they wait here, in order, and are offered again.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use stella_domain::command::{Outcome, Report, TenantCommand};
use stella_domain::rejection::Rejection;
use stella_domain::spans;
use stella_engine::{Handle, SubmitError};
use stella_protocol::close::CloseCode;
use stella_protocol::id::{AttemptKey, SessionEpoch};
use tokio::time::{Sleep, sleep};

use super::{Peer, request};
use crate::limits::{REPORT_RETRY_PAUSE, REPORTS_IN_FLIGHT_MAX};

/// The reports of one session. Without any it owns next to no memory.
pub(super) struct Reports {
    engine: Handle,
    peer: Peer,
    session: SessionEpoch,
    /// Reports that are not with the engine, by the order in which they came.
    waiting: BTreeMap<u64, Report>,
    in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Until when the engine is left alone.
    pause: Option<Pin<Box<Sleep>>>,
    taken: u64,
}

/// What the engine said.
pub(super) enum Answer {
    /// To one report.
    Submitted { number: u64, report: Report, result: Result<Outcome, SubmitError> },
    /// Nothing; the pause is over.
    Rested,
}

/// What to do about it.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing.
    Nothing,
    /// The result is durable: the agent may forget it.
    Acknowledge(AttemptKey),
    /// The session must not go on.
    Close(CloseCode),
}

impl Reports {
    pub(super) fn new(engine: Handle, peer: Peer, session: SessionEpoch) -> Self {
        Self {
            engine,
            peer,
            session,
            waiting: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            pause: None,
            taken: 0,
        }
    }

    /// How many are not durable yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Takes the next report. It is not sent before [`Self::send`].
    pub(super) fn take(&mut self, report: Report) {
        metrics::counter!("stella_fleet_reports_total", "kind" => kind(&report)).increment(1);
        self.waiting.insert(self.taken, report);
        self.taken += 1;
    }

    /// Hands reports to the engine, until one is answered at once or there is nothing more to do.
    pub(super) fn send(&mut self) -> Option<Answer> {
        while self.pause.is_none() && self.in_flight.len() < REPORTS_IN_FLIGHT_MAX {
            let (number, report) = self.waiting.pop_first()?;
            let mut submitted = self.submit(number, report);
            // The first poll puts the command into the engine's queue. Later ones only wait.
            if let Some(answer) = (&mut submitted).now_or_never() {
                return Some(answer);
            }
            self.in_flight.push(submitted);
        }
        None
    }

    /// The next answer. It never comes while there is nothing to wait for. Cancel safe.
    pub(super) async fn next(&mut self) -> Answer {
        poll_fn(|context| {
            if let Some(pause) = &mut self.pause
                && pause.as_mut().poll(context).is_ready()
            {
                self.pause = None;
                return Poll::Ready(Answer::Rested);
            }
            match self.in_flight.poll_next_unpin(context) {
                Poll::Ready(Some(answer)) => Poll::Ready(answer),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Judges an answer. A report that the engine had no room for is kept.
    pub(super) fn settle(&mut self, answer: Answer) -> Verdict {
        let Answer::Submitted { number, report, result } = answer else { return Verdict::Nothing };
        match result {
            Ok(_) => acknowledge(&report),
            Err(SubmitError::NoSpace { .. } | SubmitError::Overloaded) => {
                self.waiting.insert(number, report);
                if self.pause.is_none() {
                    self.pause = Some(Box::pin(sleep(REPORT_RETRY_PAUSE)));
                }
                Verdict::Nothing
            }
            Err(SubmitError::Stopping) => Verdict::Close(CloseCode::ShuttingDown),
            Err(SubmitError::Rejected(rejection)) => self.rejected(&report, &rejection),
        }
    }

    fn rejected(&self, report: &Report, rejection: &Rejection) -> Verdict {
        match rejection {
            Rejection::SessionSuperseded => Verdict::Close(CloseCode::Superseded),
            Rejection::Revoked { .. } => Verdict::Close(CloseCode::Revoked),
            // Tasks that are not known are ignored with a note. This is about the agent itself.
            Rejection::NotFound { .. } => Verdict::Close(CloseCode::UnknownAgent),
            // Nothing was noted, and this end is to blame.
            Rejection::Defect(error) => {
                tracing::error!(tenantId = %self.peer.tenant, agentId = %self.peer.agent, taskId = %report.key().task, attempt = report.key().attempt.0, %error, "a report cannot be noted");
                Verdict::Nothing
            }
            // What follows from it at once is more than the journal takes: it is not the report's fault, and it may be less later.
            Rejection::TooLarge { .. } => {
                tracing::error!(tenantId = %self.peer.tenant, agentId = %self.peer.agent, taskId = %report.key().task, attempt = report.key().attempt.0, %rejection, "a report cannot be noted");
                Verdict::Nothing
            }
            // The same report would be rejected for ever, so the agent need not keep it.
            Rejection::Exists { .. }
            | Rejection::Forbidden { .. }
            | Rejection::Invalid { .. }
            | Rejection::Conflict { .. }
            | Rejection::KeyReused
            | Rejection::EnrolmentRefused { .. } => {
                tracing::warn!(tenantId = %self.peer.tenant, agentId = %self.peer.agent, taskId = %report.key().task, attempt = report.key().attempt.0, %rejection, "a report was rejected");
                acknowledge(report)
            }
        }
    }

    fn submit(&self, number: u64, report: Report) -> BoxFuture<'static, Answer> {
        let Self { peer, session, .. } = *self;
        let engine = self.engine.clone();
        // The report belongs to the trace that its task belongs to.
        let state = engine.state();
        let trace = state.tenants.get(&peer.tenant).and_then(|owned| {
            let task = owned.tasks.get(&report.key().task)?;
            Some(spans::of_task(owned.deployments.get(&task.deployment)?, task))
        });
        let trace = trace.unwrap_or_default();
        Box::pin(async move {
            let command = TenantCommand::Report { agent: peer.agent, session, report: report.clone() };
            let result = engine.submit(request(peer, trace, command)).await;
            Answer::Submitted { number, report, result }
        })
    }
}

/// Only results are kept by the agent until it hears that they are durable.
const fn acknowledge(report: &Report) -> Verdict {
    match report {
        Report::Finished(finished) => Verdict::Acknowledge(finished.key),
        Report::Accepted(_) | Report::Running(_) | Report::Ending(_) => Verdict::Nothing,
    }
}

const fn kind(report: &Report) -> &'static str {
    match report {
        Report::Accepted(_) => "accepted",
        Report::Running(_) => "running",
        Report::Finished(_) => "finished",
        Report::Ending(_) => "ending",
    }
}
