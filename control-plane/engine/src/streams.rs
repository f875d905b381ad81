//! Who follows one stream: a commit wakes those of its streams, and nobody else.
//!
//! There may be thousands of them, and most commits are of other tenants. One channel for all would wake each with every commit.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use stella_domain::event::StreamId;
use tokio::sync::broadcast;

use crate::handle::Committed;

/// How many commits a slow follower of a stream may be behind before it has to read the journal. Each channel has as many places from
/// the beginning.
const LAG_MAX: usize = 64;

/// A channel for each stream that somebody follows, or has followed until its last commit.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<StreamId, broadcast::Sender<Arc<Committed>>>>);

impl Streams {
    pub(crate) fn follow(&self, stream: StreamId) -> broadcast::Receiver<Arc<Committed>> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry(stream).or_insert_with(|| broadcast::channel(LAG_MAX).0).subscribe()
    }

    /// Tells those who follow a stream of the commit. Channels that nobody listens to any more are given up.
    pub(crate) fn tell(&self, committed: &Arc<Committed>) {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.is_empty() {
            return;
        }
        let streams: BTreeSet<StreamId> = committed.events.iter().map(|event| event.stream).collect();
        for stream in streams {
            let is_heard = channels.get(&stream).map(|it| it.send(Arc::clone(committed)).is_ok());
            if is_heard == Some(false) {
                channels.remove(&stream);
            }
        }
    }
}
