//! Telling a running task to end.
//!
//! Why not a `CancellationToken`: a request carries its grace and its reason, and a task reads both when it stops.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;

/// A request to end a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelRequest {
    /// The time between TERM and KILL.
    pub grace: Duration,
    /// For a person who reads the task's output: who asked, or why.
    pub reason: String,
}

/// The side that may ask. Dropping it asks for nothing.
#[derive(Clone, Debug)]
pub struct CancelHandle(watch::Sender<Option<CancelRequest>>);

/// The side of the task.
#[derive(Clone, Debug)]
pub struct CancelSignal(watch::Receiver<Option<CancelRequest>>);

/// A new pair for one task.
#[must_use]
pub fn pair() -> (CancelHandle, CancelSignal) {
    let (sender, receiver) = watch::channel(None);
    (CancelHandle(sender), CancelSignal(receiver))
}

impl CancelHandle {
    /// Asks the task to end. The first request counts; later ones are ignored.
    pub fn request(&self, request: CancelRequest) {
        self.0.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(request);
            }
            first
        });
    }
}

impl CancelSignal {
    /// The request, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<CancelRequest> {
        self.0.borrow().clone()
    }

    /// Whether there is a request.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for a request; for ever if none can come any more. Safe to drop and to call again.
    pub async fn requested(&self) -> CancelRequest {
        let mut receiver = self.0.clone();
        let request = receiver.wait_for(Option::is_some).await.ok().and_then(|slot| slot.clone());
        match request {
            Some(request) => request,
            None => pending().await,
        }
    }
}
