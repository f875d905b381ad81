//! Questions about what the host holds: looked into one at a time, beside everything else, on threads for the disk.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::limits::QUESTIONS_MAX;
use stella_protocol::message::{Holding, Inspect, Inspected};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::executor::{Patience, inspect, unverified};
use crate::host::HostRoot;

/// The questions of one session. Dropping it ends the search for their answers: who still wants to know asks again.
#[derive(Debug)]
pub(super) struct Inspections {
    host: HostRoot,
    tasks: JoinSet<Inspected>,
    /// One question at a time, in whatever session: the disk is there for the tasks.
    turn: Arc<Semaphore>,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Inspections {
    pub(super) fn new(host: HostRoot, turn: Arc<Semaphore>) -> Self {
        let stop = CancellationToken::new();
        Self { host, tasks: JoinSet::new(), turn, _stops: stop.clone().drop_guard(), stop }
    }

    /// Takes a question. Its answer comes out of [`Self::next`]; at once, if too many are waiting.
    pub(super) fn take(&mut self, question: Inspect) -> Option<Inspected> {
        if self.tasks.len() >= QUESTIONS_MAX {
            return Some(unanswered(&question, "too many such questions are waiting on the host"));
        }
        let time = Duration::from_millis(question.timeout_ms);
        let patience = Patience::new(time, self.stop.clone());
        let (host, turn) = (self.host.clone(), Arc::clone(&self.turn));
        self.tasks.spawn(async move {
            let Ok(turn) = timeout(time, turn.acquire_owned()).await else {
                return unanswered(&question, "the host is still busy with an earlier question");
            };
            let failed = unanswered(&question, "the work on the disk failed; see the agent's log");
            let looked = spawn_blocking(move || {
                // Held by the thread: nothing begins beside it, not even in the next session.
                let _turn = turn;
                let holdings = inspect(&host, question.slot.as_deref(), &question.wanted, &patience);
                Inspected { question: question.question, holdings }
            });
            looked.await.unwrap_or(failed)
        });
        None
    }

    /// The next answer; it never comes if nothing was asked. Safe to drop and to call again.
    pub(super) async fn next(&mut self) -> Inspected {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(inspected)) => return inspected,
                Some(Err(error)) => tracing::error!(%error, "a question about what this host holds was lost"),
                None => pending().await,
            }
        }
    }
}

fn unanswered(question: &Inspect, why: &str) -> Inspected {
    let holdings: Vec<Holding> = question.wanted.iter().map(|_| unverified(why.to_owned())).collect();
    Inspected { question: question.question, holdings }
}
