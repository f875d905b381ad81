//! A reader of the journal: page after page of durable events, stream by stream, from where it stopped.

use std::sync::Arc;

use stella_domain::event::StreamId;
use stella_engine::{Committed, CommittedEvent, Handle, ReadError};
use stella_protocol::id::Position;
use stella_protocol::time::Timestamp;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::place::{Place, Places, id_of};

/// Where a reader that has never read begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// With what happens from now on.
    #[default]
    Now,
    /// With the first event of the journal.
    Beginning,
}

/// A reader.
#[derive(Debug)]
pub struct Follower {
    engine: Handle,
    commits: broadcast::Receiver<Arc<Committed>>,
    places: Places,
    /// The stream that was read last: the next page is of another one, so that a busy tenant does not keep the others waiting.
    last: Option<StreamId>,
}

impl Follower {
    /// Goes on from saved places, after it was made sure that the journal still has the history that they are of.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn start(engine: Handle, saved: Option<Places>, begin: Begin) -> Result<Self, ReadError> {
        let commits = engine.subscribe();
        let places = match (saved, begin) {
            (Some(saved), _) => reconcile(&engine, saved).await?,
            (None, Begin::Beginning) => Places::default(),
            (None, Begin::Now) => {
                let mut places = Places::default();
                for (stream, next) in engine.opened_at() {
                    places.set(*stream, Place { next: *next, last: None });
                }
                places
            }
        };
        Ok(Self { engine, commits, places, last: None })
    }

    /// How far it is.
    #[must_use]
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// The engine whose journal it reads.
    #[must_use]
    pub const fn engine(&self) -> &Handle {
        &self.engine
    }

    /// How many durable events it has not passed.
    #[must_use]
    pub fn behind(&self) -> u64 {
        let heads = self.engine.heads().into_iter();
        heads.map(|(stream, head)| head.0.saturating_sub(self.places.of(stream).next.0)).sum()
    }

    /// The next events of one stream, at most `limit`; empty if everything was read. They come again until [`Self::pass`] was called.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn page(&mut self, limit: usize) -> Result<Vec<CommittedEvent>, ReadError> {
        let heads = self.engine.heads();
        let waiting = |(stream, head): (&StreamId, &Position)| {
            (self.places.of(*stream).next < *head).then_some(*stream)
        };
        let after_last = heads.iter().filter(|(stream, _)| Some(**stream) > self.last).find_map(waiting);
        let Some(stream) = after_last.or_else(|| heads.iter().find_map(waiting)) else {
            return Ok(Vec::new());
        };
        self.last = Some(stream);
        self.engine.read(stream, self.places.of(stream).next, limit).await
    }

    /// What was read up to this event is done with.
    pub fn pass(&mut self, event: &CommittedEvent) {
        let place = Place { next: event.position.next(), last: Some(id_of(event)) };
        self.places.set(event.stream, place);
    }

    /// Waits until something was committed that may not have been read. `false` if nothing will be any more.
    pub async fn committed(&mut self) -> bool {
        // Commits that were missed are in the journal.
        !matches!(self.commits.recv().await, Err(RecvError::Closed))
    }

    /// The time of a page's first event.
    #[must_use]
    pub fn first_at(page: &[CommittedEvent]) -> Option<Timestamp> {
        page.first().map(|first| first.event.at)
    }
}

/// Places that this journal has. A journal that was restored from a backup is behind what was read, or has another history there.
async fn reconcile(engine: &Handle, saved: Places) -> Result<Places, ReadError> {
    let mut places = saved.clone();
    for stream in saved.streams() {
        let Place { next, last } = saved.of(stream);
        let end = engine.opened_at().get(&stream).copied().unwrap_or_default();
        if next > end {
            tracing::warn!(stream = ?stream, next = next.0, end = end.0, "the journal is older than what was read of it; was it restored? Going on from its end");
            places.set(stream, Place { next: end, last: None });
            continue;
        }
        let (Some(before), Some(last)) = (next.0.checked_sub(1), last) else { continue };
        let found = engine.read(stream, Position(before), 1).await?;
        if found.first().map(id_of) != Some(last) {
            tracing::warn!(stream = ?stream, next = next.0, "the journal has another history than what was read of it; was it restored? All of the stream is read again");
            places.set(stream, Place::default());
        }
    }
    Ok(places)
}
