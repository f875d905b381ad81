//! How the host does, for hellos and heartbeats. Three small reads; no crate keeps a picture of all processes for it.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use stella_protocol::message::Resources;

/// Figures of now. What cannot be read is 0.
#[must_use]
pub fn sample(host_root: &Path, tasks_running: u32) -> Resources {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Resources {
        load_1m: load(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        memory_available_bytes: memory_figure(&memory, "MemAvailable:"),
        memory_total_bytes: memory_figure(&memory, "MemTotal:"),
        disk_available_bytes: statvfs(host_root)
            .map_or(0, |figures| figures.blocks_available().saturating_mul(figures.fragment_size())),
        tasks_running,
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
    use super::*;

    #[test]
    fn a_host_has_memory_and_a_disk() {
        let resources = sample(Path::new("/"), 3);
        assert!(resources.memory_total_bytes > resources.memory_available_bytes);
        assert!(resources.memory_available_bytes > 0 && resources.disk_available_bytes > 0);
        assert_eq!(resources.tasks_running, 3);
    }

    #[test]
    fn nonsense_is_zero() {
        assert_eq!(load("nan 1 2"), 0.0);
        assert_eq!(load(""), 0.0);
        assert_eq!(memory_figure("MemTotal: x kB", "MemTotal:"), 0);
        assert_eq!(memory_figure("MemTotal:   2 kB\n", "MemTotal:"), 2048);
    }
}
