//! A reader that sees each durable batch with the state after it, in this life of the process.
//!
//! As long as it keeps up it is given the batches as they are. When it does not, what it has missed is read back from the journal, with
//! the state of a later durable point: what an event is about is in there still, but may have gone on meanwhile. Streams are read
//! back one after the other; within each of them the order is that of the journal.
//!
//! A process that is killed may have durable events that its readers of this kind have not seen. Nobody sees them later: who needs that
//! saves a place, as [`crate::follow`] does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_engine::{Committed, Handle, ReadError, SubmitError};
use stella_protocol::id::Position;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::retry::Retry;

/// How many events are read back at a time: what is in memory of them.
const PAGE_EVENTS: u64 = 512;
/// The first wait after the journal could not be read, or was too busy to say where it is.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A reader.
#[derive(Debug)]
pub struct Live {
    engine: Handle,
    commits: broadcast::Receiver<Arc<Committed>>,
    /// The next event of each stream; of one that is not here, its first.
    next: BTreeMap<StreamId, Position>,
    way: Way,
    retry: Retry,
    cannot_read: bool,
}

/// How it gets on.
#[derive(Debug)]
enum Way {
    /// It is given batches.
    Along,
    /// It has missed something, and does not know yet up to where it has to read back.
    Behind,
    /// It reads back.
    Back(Goal),
}

/// A durable point.
#[derive(Clone, Debug)]
struct Goal {
    state: Arc<State>,
    heads: BTreeMap<StreamId, Position>,
}

impl Live {
    /// Begins with the first event that was decided since the journal was opened.
    #[must_use]
    pub fn start(engine: Handle) -> Self {
        let commits = engine.subscribe();
        let next = engine.opened_at().clone();
        let retry = Retry::new(RETRY_FIRST, RETRY_MAX);
        Self { engine, commits, next, way: Way::Behind, retry, cannot_read: false }
    }

    /// The next events, with the state after them or a later one. `None` once `until` is cancelled and everything was read that was
    /// committed before, or cannot be.
    pub async fn next(&mut self, until: &CancellationToken) -> Option<Arc<Committed>> {
        loop {
            match &self.way {
                Way::Along => {}
                Way::Behind => {
                    self.way = Way::Back(self.goal(until).await);
                    continue;
                }
                Way::Back(goal) => {
                    match self.read_back(goal).await {
                        Ok(Some(batch)) => {
                            self.cannot_read = false;
                            self.retry.succeeded();
                            return Some(self.pass(Arc::new(batch)));
                        }
                        Ok(None) => self.way = Way::Along,
                        Err(error) => {
                            self.say_unread(&error);
                            let pause = tokio::time::sleep(self.retry.next_wait());
                            until.run_until_cancelled(pause).await?;
                        }
                    }
                    continue;
                }
            }
            let received = tokio::select! {
                biased;
                received = self.commits.recv() => received,
                () = until.cancelled() => return None,
            };
            match received {
                Ok(commit) => {
                    if let Some(news) = self.news(commit) {
                        return Some(news);
                    }
                }
                Err(RecvError::Lagged(batches)) => {
                    tracing::debug!(batches, "a reader of the journal is behind, and reads back");
                    self.way = Way::Behind;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// What of a batch was not read back already; `None` if nothing is left, or something before it is missing.
    fn news(&mut self, commit: Arc<Committed>) -> Option<Arc<Committed>> {
        let mut firsts = BTreeMap::new();
        for event in &commit.events {
            firsts.entry(event.stream).or_insert(event.position);
        }
        if firsts.iter().any(|(stream, first)| *first > self.next_of(*stream)) {
            self.way = Way::Behind;
            return None;
        }
        if firsts.iter().all(|(stream, first)| *first == self.next_of(*stream)) {
            return Some(self.pass(commit));
        }
        let is_new = |event: &&_| -> bool {
            let event: &stella_engine::CommittedEvent = event;
            event.position >= self.next_of(event.stream)
        };
        let events: Vec<_> = commit.events.iter().filter(is_new).cloned().collect();
        let state = Arc::clone(&commit.state);
        (!events.is_empty()).then(|| self.pass(Arc::new(Committed { state, events })))
    }

    fn pass(&mut self, batch: Arc<Committed>) -> Arc<Committed> {
        for event in &batch.events {
            self.next.insert(event.stream, event.position.next());
        }
        batch
    }

    fn next_of(&self, stream: StreamId) -> Position {
        self.next.get(&stream).copied().unwrap_or_default()
    }

    /// The next page on the way to a durable point; `None` at its end.
    async fn read_back(&self, goal: &Goal) -> Result<Option<Committed>, ReadError> {
        let behind = goal.heads.iter().find(|(stream, head)| self.next_of(**stream) < **head);
        let Some((stream, head)) = behind else { return Ok(None) };
        let from = self.next_of(*stream);
        let limit = usize::try_from((head.0 - from.0).min(PAGE_EVENTS)).unwrap_or(usize::MAX);
        let events = self.engine.read(*stream, from, limit).await?;
        Ok(Some(Committed { state: Arc::clone(&goal.state), events }))
    }

    /// Up to where to read back. The state is that of exactly this point, so that it knows what the events are about.
    async fn goal(&mut self, until: &CancellationToken) -> Goal {
        loop {
            match self.engine.checkpoint().await {
                Ok(point) => {
                    self.retry.succeeded();
                    let (state, heads) = point.into_end();
                    return Goal { state, heads };
                }
                Err(SubmitError::Overloaded) => {
                    let pause = tokio::time::sleep(self.retry.next_wait());
                    if until.run_until_cancelled(pause).await.is_none() {
                        break;
                    }
                }
                Err(SubmitError::Stopping | SubmitError::Rejected(_) | SubmitError::NoSpace { .. }) => break,
            }
        }
        // Nothing is decided any more, or nobody waits for the newest.
        Goal { heads: self.engine.heads(), state: self.engine.state() }
    }

    fn say_unread(&mut self, error: &ReadError) {
        if !std::mem::replace(&mut self.cannot_read, true) {
            let error = error as &dyn std::error::Error;
            tracing::error!(
                error,
                "a reader of the journal is behind, and cannot read back what it has missed"
            );
        }
    }
}
