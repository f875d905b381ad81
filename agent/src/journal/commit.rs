//! Making what is staged durable: one commit at a time, with everything that was staged before it began.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stella_durable::{IVec, Sequence};
use stella_protocol::id::Position;
use tokio::sync::oneshot;

use super::codec::{self, LIFE_KEY, Life};
use super::{Error, Journal, Write};

/// A commit that is under way.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) position: Position,
    pub(super) since: Instant,
    /// Until it is done, the tree does not show them.
    pub(super) writes: Vec<Write>,
    pub(super) done: oneshot::Receiver<Result<(), Arc<stella_durable::Error>>>,
}

impl Journal {
    /// Whether something lazy is staged that no commit has been asked for.
    #[must_use]
    pub const fn has_lazy_writes(&self) -> bool {
        !self.staged.is_empty() && !self.is_urgent
    }

    /// Asks for a commit of what was staged lazily.
    pub const fn hurry(&mut self) {
        self.is_urgent = !self.staged.is_empty();
    }

    /// For how long the disk has been busy with the commit that is under way.
    #[must_use]
    pub fn waiting_for_disk(&self) -> Duration {
        self.under_way.as_ref().map_or(Duration::ZERO, |commit| commit.since.elapsed())
    }

    /// Waits until the next commit is durable, and gives the position that is then; for ever if nothing urgent is staged.
    /// Safe to drop and to call again.
    ///
    /// # Errors
    /// If the commit failed. The process has to stop: nobody can tell what the disk has.
    pub async fn durable(&mut self) -> Result<Position, Error> {
        if self.under_way.is_none() && self.is_urgent {
            self.begin();
        }
        let Some(commit) = &mut self.under_way else { return std::future::pending().await };
        let result = (&mut commit.done).await;
        let position = commit.position;
        self.under_way = None;
        match result {
            Ok(Ok(())) => {
                self.durable = position;
                Ok(position)
            }
            Ok(Err(error)) => Err(Error::Store(error)),
            Err(_gone) => Err(stella_durable::Error::Stopped.into()),
        }
    }

    /// Makes everything durable that is staged.
    ///
    /// # Errors
    /// As [`Self::durable`].
    pub async fn settle(&mut self) -> Result<(), Error> {
        self.hurry();
        while self.under_way.is_some() || !self.staged.is_empty() {
            self.durable().await?;
            self.hurry();
        }
        Ok(())
    }

    fn begin(&mut self) {
        let writes = self.staged.clone();
        let sequence = self.take_staged();
        let (sender, done) = oneshot::channel();
        // A journal that is gone waits for nothing.
        self.flusher.commit_then(&self.tree, sequence, move |result| drop(sender.send(result)));
        self.under_way = Some(Commit { position: self.position, since: Instant::now(), writes, done });
    }

    /// What is staged, in its order, of each key only what it comes to in the end. The life comes first: what is there after a crash has
    /// positions up to its own.
    pub(super) fn take_staged(&mut self) -> Sequence {
        let mut sequence = Sequence::default();
        let life = Life { incarnation: self.incarnation, position: self.position };
        sequence.insert(&LIFE_KEY, codec::encode(&LIFE_KEY, &life));
        let last: HashMap<IVec, usize> =
            self.staged.iter().enumerate().map(|(place, write)| (write.key.clone(), place)).collect();
        for (place, write) in self.staged.drain(..).enumerate() {
            if last.get(&write.key) != Some(&place) {
                continue;
            }
            match write.value {
                Some(value) => sequence.insert(write.key, value),
                None => sequence.remove(write.key),
            }
        }
        self.is_urgent = false;
        sequence
    }
}
