//! How the host does, for hellos, heartbeats and figures. Three small reads; no crate keeps a picture of all processes for it.
//!
//! They are made on a thread for what blocks: the host root may be on a file system whose other end has gone, and whoever asks for
//! its free space then waits for as long as that takes. Nobody waits for that here but the one thread.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use stella_protocol::message::Resources;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// How long somebody who asks for figures of now waits for them, before those of before have to do.
const PATIENCE: Duration = Duration::from_secs(1);

/// The figures of a host, and the look that is under way. Clones share both. Needs a tokio runtime around it.
#[derive(Clone)]
pub struct Sampler {
    look: Arc<dyn Fn() -> Resources + Send + Sync>,
    last: watch::Sender<Resources>,
    /// At most one thread looks, however long that takes.
    looking: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").field("last", &*self.last.borrow()).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Of the host whose disk of tasks is at `host_root`.
    #[must_use]
    pub fn new(host_root: PathBuf) -> Self {
        Self::of(move || sample(&host_root))
    }

    fn of(look: impl Fn() -> Resources + Send + Sync + 'static) -> Self {
        Self { look: Arc::new(look), last: watch::Sender::new(Resources::default()), looking: Arc::default() }
    }

    /// The figures of the look before, at once; begins another. What was not read yet, and what cannot be read, is 0.
    pub fn last(&self, tasks_running: u32) -> Resources {
        let last = Resources { tasks_running, ..*self.last.borrow() };
        self.begin();
        last
    }

    /// The figures of now; those of the look before if now takes too long.
    pub async fn fresh(&self, tasks_running: u32) -> Resources {
        let mut seen = self.last.subscribe();
        self.begin();
        // Whether or not it was in time: these are the newest.
        let _in_time = timeout(PATIENCE, seen.changed()).await;
        Resources { tasks_running, ..*seen.borrow() }
    }

    fn begin(&self) {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        let (look, last) = (Arc::clone(&self.look), self.last.clone());
        *looking = Some(spawn_blocking(move || {
            last.send_replace(look());
        }));
    }
}

/// What cannot be read is 0.
fn sample(host_root: &Path) -> Resources {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Resources {
        load_1m: load(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        memory_available_bytes: memory_figure(&memory, "MemAvailable:"),
        memory_total_bytes: memory_figure(&memory, "MemTotal:"),
        disk_available_bytes: statvfs(host_root)
            .map_or(0, |figures| figures.blocks_available().saturating_mul(figures.fragment_size())),
        tasks_running: 0,
    }
}

fn load(text: &str) -> f32 {
    let first = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
    first.filter(|load: &f32| load.is_finite() && *load >= 0.0).unwrap_or(0.0)
}

/// A line of `/proc/meminfo`, in bytes.
fn memory_figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes: Option<u64> = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_host_has_memory_and_a_disk() {
        let sampler = Sampler::new(PathBuf::from("/"));
        let resources = sampler.fresh(3).await;
        assert!(resources.memory_total_bytes > resources.memory_available_bytes);
        assert!(resources.memory_available_bytes > 0 && resources.disk_available_bytes > 0);
        assert_eq!(resources.tasks_running, 3);
        assert_eq!(sampler.last(4).memory_total_bytes, resources.memory_total_bytes);
    }

    /// The file system hangs from the second look on, until it is told to go on.
    #[tokio::test]
    async fn nobody_waits_for_a_file_system_that_hangs() {
        let looks = Arc::new(AtomicU64::new(0));
        let (go_on, hangs) = mpsc::channel::<()>();
        let hangs = Mutex::new(hangs);
        let counted = Arc::clone(&looks);
        let sampler = Sampler::of(move || {
            let look = counted.fetch_add(1, Ordering::SeqCst) + 1;
            if look > 1 {
                hangs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
            }
            Resources { disk_available_bytes: look, ..Resources::default() }
        });
        assert_eq!(sampler.fresh(0).await.disk_available_bytes, 1);
        while looks.load(Ordering::SeqCst) < 2 {
            sampler.last(0);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Heartbeats go on, a scrape is answered, and the hanging look is the only one.
        for tasks in 0..100 {
            assert_eq!(
                (sampler.last(tasks).disk_available_bytes, sampler.last(tasks).tasks_running),
                (1, tasks)
            );
        }
        assert_eq!(
            sampler.fresh(7).await,
            Resources { disk_available_bytes: 1, tasks_running: 7, ..Resources::default() }
        );
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        drop(go_on);
        while sampler.last(0).disk_available_bytes == 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn nonsense_is_zero() {
        assert_eq!(load("nan 1 2"), 0.0);
        assert_eq!(load(""), 0.0);
        assert_eq!(memory_figure("MemTotal: x kB", "MemTotal:"), 0);
        assert_eq!(memory_figure("MemTotal:   2 kB\n", "MemTotal:"), 2048);
    }
}
