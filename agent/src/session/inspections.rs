//! Questions about what the host holds, and about what is left of attempts: looked into beside everything else.
//!
//! What reads the disk does so one question at a time, on threads for that.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::limits::QUESTIONS_MAX;
use stella_protocol::message::{AttemptProbe, AttemptProbed, Effect, Holding, Inspect, Inspected};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::executor::{Patience, Surroundings, inspect, leaves_no_sign, unclear, unverified};
use crate::runner::{Left, RunnerHandle};

/// How often it is looked whether the runner is done with an attempt.
const INTERVAL: Duration = Duration::from_millis(500);

/// The questions of one session. Dropping it ends the search for their answers: who still wants to know asks again.
#[derive(Debug)]
pub(super) struct Inspections {
    surroundings: Surroundings,
    runner: RunnerHandle,
    tasks: JoinSet<Option<Answer>>,
    /// One question at a time, in whatever session: the disk is there for the tasks.
    turn: Arc<Semaphore>,
    stop: CancellationToken,
    _stops: DropGuard,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Answer {
    Inspected(Inspected),
    Probed(AttemptProbed),
}

impl Inspections {
    pub(super) fn new(surroundings: Surroundings, runner: RunnerHandle, turn: Arc<Semaphore>) -> Self {
        let stop = CancellationToken::new();
        let stops = stop.clone().drop_guard();
        Self { surroundings, runner, tasks: JoinSet::new(), turn, _stops: stops, stop }
    }

    /// Takes a question. Its answer comes out of [`Self::next`]; at once, if too many are waiting.
    pub(super) fn take(&mut self, question: Inspect) -> Option<Inspected> {
        if self.tasks.len() >= QUESTIONS_MAX {
            return Some(unanswered(&question, "too many such questions are waiting on the host"));
        }
        let time = Duration::from_millis(question.timeout_ms);
        let patience = Patience::new(time, self.stop.clone());
        let (host, turn) = (self.surroundings.host.clone(), Arc::clone(&self.turn));
        self.tasks.spawn(async move {
            let Ok(turn) = timeout(time, turn.acquire_owned()).await else {
                let why = "the host is still busy with an earlier question";
                return Some(Answer::Inspected(unanswered(&question, why)));
            };
            let failed = unanswered(&question, "the work on the disk failed; see the agent's log");
            let looked = spawn_blocking(move || {
                // Held by the thread: nothing begins beside it, not even in the next session.
                let _turn = turn;
                let holdings = inspect(&host, question.slot.as_deref(), &question.wanted, &patience);
                Inspected { question: question.question, holdings }
            });
            Some(Answer::Inspected(looked.await.unwrap_or(failed)))
        });
        None
    }

    /// Takes a question about an attempt that was queued so long ago, or a little longer, if that is known. As [`Self::take`]; if the runner
    /// knows how the attempt ended, its report is the answer.
    pub(super) fn take_probe(&mut self, probe: AttemptProbe, age: Option<Duration>) -> Option<AttemptProbed> {
        let question = probe.question;
        let answered = move |effect| AttemptProbed { question, effect };
        if self.tasks.len() >= QUESTIONS_MAX {
            return Some(answered(unclear("too many such questions are waiting on the host".to_owned())));
        }
        let time = Duration::from_millis(probe.timeout_ms);
        let patience = Patience::new(time, self.stop.clone());
        let look = Look {
            surroundings: self.surroundings.clone(),
            runner: self.runner.clone(),
            turn: Arc::clone(&self.turn),
            patience,
        };
        self.tasks
            .spawn(async move { look.at(probe, age).await.map(|effect| Answer::Probed(answered(effect))) });
        None
    }

    /// The next answer; it never comes if nothing was asked. Safe to drop and to call again.
    pub(super) async fn next(&mut self) -> Answer {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Some(answer))) => return answer,
                Some(Ok(None)) => {}
                Some(Err(error)) => tracing::error!(%error, "a question about what this host holds was lost"),
                None => pending().await,
            }
        }
    }
}

/// What the answer about one attempt takes.
struct Look {
    surroundings: Surroundings,
    runner: RunnerHandle,
    turn: Arc<Semaphore>,
    patience: Patience,
}

impl Look {
    /// `None` if the answer is, or will be, a report of the runner.
    async fn at(self, probe: AttemptProbe, age: Option<Duration>) -> Option<Effect> {
        let began = Instant::now();
        loop {
            match self.runner.left_of(probe.clone()).await {
                Ok(Left::Nothing) => break,
                Ok(Left::Reported) | Err(_) => return None,
                Ok(Left::Forbidden(reason)) => return Some(unclear(reason)),
                Ok(Left::Unconfirmed(reason)) if leaves_no_sign(&probe.spec) => return Some(unclear(reason)),
                Ok(Left::Unconfirmed(_)) => break,
                Ok(Left::AtWork) => {}
            }
            if self.patience.pause(INTERVAL).await.is_err() {
                return Some(unclear(
                    "the agent is still at work on it, or on ending what is left".to_owned(),
                ));
            }
        }
        let age = age.map(|age| age + began.elapsed());
        Some(self.surroundings.look(probe, age, &self.patience, self.turn).await)
    }
}

fn unanswered(question: &Inspect, why: &str) -> Inspected {
    let holdings: Vec<Holding> = question.wanted.iter().map(|_| unverified(why.to_owned())).collect();
    Inspected { question: question.question, holdings }
}
