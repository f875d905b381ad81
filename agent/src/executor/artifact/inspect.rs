//! What this host holds of a release that could be gone back to. Nothing is changed, and no lock is taken: a task is not held up
//! by a question.

use std::sync::Arc;
use std::time::Duration;

use stella_protocol::limits::REASON_BYTES_MAX;
use stella_protocol::message::{Holding, Wanted};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{Stopped, reason_of};
use super::layout::{Release, Shelf};
use super::list::Compared;
use crate::host::HostRoot;

/// When looking has to end.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    by: Instant,
    stop: CancellationToken,
}

impl Patience {
    /// Until a time from now, or until `stop`.
    pub(crate) fn new(timeout: Duration, stop: CancellationToken) -> Self {
        Self { by: Instant::now() + timeout, stop }
    }

    pub(in super::super) fn check(&self) -> Result<(), Stopped> {
        if self.stop.is_cancelled() {
            Err(Stopped::Cancelled)
        } else if Instant::now() >= self.by {
            Err(Stopped::TimedOut)
        } else {
            Ok(())
        }
    }

    /// A pause between two looks; fails if the end is there first.
    pub(crate) async fn pause(&self, duration: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Stopped::Cancelled),
            () = tokio::time::sleep_until(self.by) => Err(Stopped::TimedOut),
            () = tokio::time::sleep(duration) => Ok(()),
        }
    }

    /// The turn of who has this patience, if it comes in time.
    pub(in super::super) async fn turn(&self, turn: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep_until(self.by) => None,
            turn = turn.acquire_owned() => turn.ok(),
        }
    }

    /// Until this time from now at most.
    pub(in super::super) fn at_most(&self, duration: Duration) -> Self {
        Self { by: self.by.min(Instant::now() + duration), stop: self.stop.clone() }
    }
}

/// What the host holds of each that is wanted. Reads every byte of it; blocks on the disk.
pub(crate) fn inspect(
    host: &HostRoot,
    slot: Option<&str>,
    wanted: &[Wanted],
    patience: &Patience,
) -> Vec<Holding> {
    let one = |wanted: &Wanted| match look(host, slot, wanted, patience) {
        Ok(holding) => holding,
        Err(reason) => unverified(reason),
    };
    wanted.iter().map(one).collect()
}

/// That it cannot be said, and why.
pub(crate) fn unverified(mut reason: String) -> Holding {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Holding::Unverified { reason }
}

fn look(
    host: &HostRoot,
    slot: Option<&str>,
    wanted: &Wanted,
    patience: &Patience,
) -> Result<Holding, String> {
    let release = Release::of(wanted).map_err(|error| reason_of(&error))?;
    let found = host.find_component(slot, &wanted.component).map_err(|error| reason_of(&error))?;
    let shelf = found.map(|dir| Shelf::open(&dir)).transpose().map_err(|error| reason_of(&error))?;
    let Some(shelf) = shelf.flatten() else { return Ok(Holding::Absent) };
    let is_there = || shelf.is_marked(&release).map_err(|error| reason_of(&error));
    if !is_there()? {
        return Ok(Holding::Absent);
    }
    let compared = match shelf.compare(&release, &|| patience.check()) {
        Ok(compared) => compared,
        Err(Stopped::TimedOut) => {
            return Err("the time was up before all of its files were read".to_owned());
        }
        Err(Stopped::Cancelled) => return Err("the agent has stopped looking".to_owned()),
    };
    match compared {
        Compared::Same { files, bytes } => Ok(Holding::Present { files, bytes }),
        Compared::Unclear(reason) => Err(reason),
        // It may just be on its way out: then its marker went first.
        Compared::Differs(_) if !is_there()? => Ok(Holding::Absent),
        Compared::Differs(mut reason) => {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            Ok(Holding::Damaged { reason })
        }
    }
}
