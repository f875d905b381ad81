//! How many spans may wait for a collector. The processor bounds them too, but tells nobody of those that it drops.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::gauge;

/// The places of a service's spans, from when they are written until the collector has answered.
#[derive(Debug)]
pub(crate) struct Places {
    service: &'static str,
    taken: Mutex<usize>,
    max: usize,
}

impl Places {
    pub(crate) fn new(service: &'static str, max: usize) -> Arc<Self> {
        let places = Self { service, taken: Mutex::new(0), max };
        places.show(0);
        Arc::new(places)
    }

    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    /// Takes a place, if one is free.
    pub(crate) fn take(&self) -> bool {
        let mut taken = self.taken();
        let is_free = *taken < self.max;
        if is_free {
            *taken += 1;
            self.show(*taken);
        }
        is_free
    }

    /// Gives places back: the processor exports what it was given, and each span once.
    pub(crate) fn free(&self, count: usize) {
        let mut taken = self.taken();
        *taken = taken.saturating_sub(count);
        self.show(*taken);
    }

    fn taken(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looked up each time, because the recorder may come later; and while the count is held, so that the last to be shown is the last.
    fn show(&self, taken: usize) {
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        gauge!("stella_trace_spans_waiting", "service" => self.service).set(taken);
    }
}
