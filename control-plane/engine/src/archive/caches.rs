//! What was read back lately. Nothing in the archive changes, so a cached thing is never wrong; the times only bound the memory.

use std::sync::Arc;
use std::time::Duration;

use stella_domain::deployment::Deployment;
use stella_domain::run::Run;
use stella_domain::task::Task;
use stella_protocol::id::TenantId;
use uuid::Uuid;

use super::record::{ArchivedPromotion, Kind};

/// How many bytes of a record count as one entry: what is larger counts as several, so that the number of entries bounds the
/// memory. In memory a thing is about ten times as large as its record.
const ENTRY_BYTES: usize = 4 << 10;

/// One cache for each kind of thing.
#[derive(Debug)]
pub(crate) struct Caches {
    pub(super) deployments: Cache<Deployment>,
    pub(super) promotions: Cache<ArchivedPromotion>,
    pub(super) tasks: Cache<Task>,
    pub(super) runs: Cache<Run>,
}

impl Caches {
    /// The sizes and times are those of the operations overview: its caches of releases, targets and workflow templates.
    pub(super) fn new() -> Self {
        Self {
            deployments: Cache::new("deployments", Kind::Deployment, 1_000, Duration::from_secs(300)),
            promotions: Cache::new("promotions", Kind::Promotion, 1_000, Duration::from_secs(300)),
            tasks: Cache::new("tasks", Kind::Task, 5_000, Duration::from_secs(60)),
            runs: Cache::new("runs", Kind::Run, 100, Duration::from_secs(3_600)),
        }
    }

    pub(super) fn entries(&self) -> [(&'static str, u64); 4] {
        let Self { deployments, promotions, tasks, runs } = self;
        [
            (deployments.name, deployments.things.entry_count()),
            (promotions.name, promotions.things.entry_count()),
            (tasks.name, tasks.things.entry_count()),
            (runs.name, runs.things.entry_count()),
        ]
    }
}

/// A thing, and as how many entries it counts.
type Entry<T> = (Arc<T>, u32);

pub(super) struct Cache<T> {
    name: &'static str,
    pub(super) kind: Kind,
    things: moka::sync::Cache<(TenantId, Uuid), Entry<T>>,
}

impl<T> std::fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    fn new(name: &'static str, kind: Kind, entries_max: u64, ttl: Duration) -> Self {
        let things = moka::sync::Cache::builder()
            .max_capacity(entries_max)
            .weigher(|_, (_, entries): &Entry<T>| *entries)
            .time_to_live(ttl)
            .build();
        Self { name, kind, things }
    }

    pub(super) fn get(&self, tenant: TenantId, id: Uuid) -> Option<Arc<T>> {
        let found = self.things.get(&(tenant, id)).map(|(thing, _)| thing);
        let result = if found.is_some() { "stella_cache_hits_total" } else { "stella_cache_misses_total" };
        metrics::counter!(result, "cache" => self.name).increment(1);
        found
    }

    pub(super) fn put(&self, tenant: TenantId, id: Uuid, thing: Arc<T>, record_bytes: usize) {
        let entries = u32::try_from(record_bytes.div_ceil(ENTRY_BYTES)).unwrap_or(u32::MAX).max(1);
        self.things.insert((tenant, id), (thing, entries));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy<T: Send + Sync + 'static>(cache: &Cache<T>) -> (Option<u64>, Option<u64>) {
        let policy = cache.things.policy();
        (policy.time_to_live().map(|ttl| ttl.as_secs()), policy.max_capacity())
    }

    #[test]
    fn times_and_sizes_are_those_of_the_overviews_caches() {
        let caches = Caches::new();
        let (releases, targets, templates) =
            ((Some(300), Some(1_000)), (Some(60), Some(5_000)), (Some(3_600), Some(100)));
        assert_eq!(policy(&caches.deployments), releases);
        assert_eq!(policy(&caches.promotions), releases);
        assert_eq!(policy(&caches.tasks), targets);
        assert_eq!(policy(&caches.runs), templates);
    }
}
