//! Telling a running task to end, and hearing how far that has got.
//!
//! Why not a `CancellationToken`: a request carries its grace and its reason, and a task reads both when it stops.

use std::future::pending;
use std::time::Duration;

use stella_protocol::message::EndingStage;
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
pub struct CancelHandle {
    request: watch::Sender<Option<CancelRequest>>,
    stage: watch::Receiver<Option<EndingStage>>,
}

/// The side of the task.
#[derive(Clone, Debug)]
pub struct CancelSignal {
    request: watch::Receiver<Option<CancelRequest>>,
    stage: watch::Sender<Option<EndingStage>>,
}

/// A new pair for one task.
#[must_use]
pub fn pair() -> (CancelHandle, CancelSignal) {
    let (request, asked) = watch::channel(None);
    let (stage, told) = watch::channel(None);
    (CancelHandle { request, stage: told }, CancelSignal { request: asked, stage })
}

impl CancelHandle {
    /// Asks the task to end. The first request counts; later ones are ignored.
    pub fn request(&self, request: CancelRequest) {
        self.request.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(request);
            }
            first
        });
    }

    /// How far the end has got, from the first word of the task about it on; nothing more comes once the task is over. Every stage may
    /// be seen, or only the latest.
    #[must_use]
    pub fn stages(&self) -> watch::Receiver<Option<EndingStage>> {
        self.stage.clone()
    }
}

impl CancelSignal {
    /// The request, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<CancelRequest> {
        self.request.borrow().clone()
    }

    /// Whether there is a request.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.request.borrow().is_some()
    }

    /// Waits for a request; for ever if none can come any more. Safe to drop and to call again.
    pub async fn requested(&self) -> CancelRequest {
        let mut receiver = self.request.clone();
        let request = receiver.wait_for(Option::is_some).await.ok().and_then(|slot| slot.clone());
        match request {
            Some(request) => request,
            None => pending().await,
        }
    }

    /// Says how far the end has got. Nothing is said twice, and nothing after what is further.
    pub fn reached(&self, stage: EndingStage) {
        self.stage.send_if_modified(|slot| {
            let further = slot.is_none_or(|before| before < stage);
            if further {
                *slot = Some(stage);
            }
            further
        });
    }
}
