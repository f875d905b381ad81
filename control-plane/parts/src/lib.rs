//! The long-lived parts of a control plane: tasks that have no end of their own. None of them fails unnoticed.
//!
//! A part that panics is a defect, and what it did is not done any more. Some parts are what the control plane is for: without one of
//! them the process has to end, so that whoever starts it does that again. The others are missed too, but deployments go on without
//! them, and a process that ends for each of them again and again would be worse: they are told in the log and as
//! `stella_parts_failed`, on which there is an alert.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Watches parts. Clones watch together.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The first essential one that is gone.
    gone: Arc<watch::Sender<Option<&'static str>>>,
    /// Those that have panicked.
    failed: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { gone: Arc::new(watch::Sender::new(None)), failed: Arc::default() }
    }
}

impl Parts {
    /// A part that the process ends without. It may end only after `until` was cancelled.
    pub fn essential<F: Future>(
        &self,
        name: &'static str,
        until: &CancellationToken,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let (gone, failed) = (Some(Arc::clone(&self.gone)), Arc::clone(&self.failed));
        watched(Watch { name, until: until.clone(), gone, failed }, work)
    }

    /// A part that the process goes on without. It may end at any time, but not by a panic.
    pub fn other<F: Future>(
        &self,
        name: &'static str,
        until: &CancellationToken,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        watched(Watch { name, until: until.clone(), gone: None, failed: Arc::clone(&self.failed) }, work)
    }

    /// The parts that have panicked, by name. They do not come back.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Waits until an essential part is gone, and names it. Safe to drop and to call again.
    pub async fn gone(&self) -> &'static str {
        let mut gone = self.gone.subscribe();
        loop {
            if let Some(name) = *gone.borrow_and_update() {
                return name;
            }
            if gone.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn watched<F: Future>(watch: Watch, work: F) -> F::Output {
    metrics::gauge!("stella_parts_failed", "part" => watch.name).set(0.0);
    let _watch = watch;
    work.await
}

/// Is dropped with the part's work, however that ends.
struct Watch {
    name: &'static str,
    until: CancellationToken,
    gone: Option<Arc<watch::Sender<Option<&'static str>>>>,
    failed: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (part, has_panicked) = (self.name, std::thread::panicking());
        if has_panicked {
            tracing::error!(
                part,
                "a part of the control plane has panicked; this is a defect, please report it"
            );
            metrics::gauge!("stella_parts_failed", "part" => part).set(1.0);
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(part);
        }
        let Some(gone) = &self.gone else { return };
        if has_panicked || !self.until.is_cancelled() {
            gone.send_if_modified(|gone| gone.replace(part).is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_essential_part_that_ends_too_early_or_panics_is_gone() {
        for panics in [false, true] {
            let (parts, until) = (Parts::default(), CancellationToken::new());
            let work = async move { assert!(!panics, "a defect") };
            let ended = tokio::spawn(parts.clone().essential("courier", &until, work)).await;
            assert_eq!(ended.is_err(), panics);
            assert_eq!(parts.gone().await, "courier");
        }
    }

    #[tokio::test]
    async fn one_that_was_told_to_end_and_one_that_is_not_essential_end_nothing() {
        let (parts, until) = (Parts::default(), CancellationToken::new());
        tokio::spawn(parts.other("log", &until, async {})).await.unwrap();
        let panicked = tokio::spawn(parts.other("log", &until, async { panic!("a defect") })).await;
        assert!(panicked.is_err());
        assert_eq!(parts.failed(), ["log"]);
        until.cancel();
        tokio::spawn(parts.essential("courier", &until, async {})).await.unwrap();
        assert_eq!(*parts.gone.borrow(), None);
    }
}
