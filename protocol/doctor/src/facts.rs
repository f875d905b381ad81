//! What a host is.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde_json::{Map, Value, json};

/// Names the host, its system and how it does. What cannot be read is null.
pub(crate) fn facts(folders: &[&Path]) -> Value {
    let text = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let release = text("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    let memory = text("/proc/meminfo").unwrap_or_default();
    let of_memory = |name: &str| {
        let rest = memory.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let uptime_s = text("/proc/uptime").and_then(|text| text.split('.').next()?.parse::<u64>().ok());
    let disks: Map<_, _> =
        folders.iter().map(|folder| (folder.display().to_string(), disk(folder))).collect();
    json!({
        "hostname": text("/proc/sys/kernel/hostname"),
        "system": system,
        "kernel": text("/proc/sys/kernel/osrelease"),
        "architecture": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism().map(std::num::NonZero::get).ok(),
        "uptime_s": uptime_s,
        "load": text("/proc/loadavg"),
        "memory_total_bytes": of_memory("MemTotal:"),
        "memory_available_bytes": of_memory("MemAvailable:"),
        "udp_receive_buffer_max_bytes": text("/proc/sys/net/core/rmem_max").and_then(|it| it.parse::<u64>().ok()),
        "user": nix::unistd::geteuid().as_raw(),
        "disks": disks,
    })
}

fn disk(folder: &Path) -> Value {
    statvfs(folder).map_or(Value::Null, |figures| {
        json!({
            "total_bytes": figures.blocks().saturating_mul(figures.fragment_size()),
            "available_bytes": figures.blocks_available().saturating_mul(figures.fragment_size()),
            "files_available": figures.files_available(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_kernel_and_a_disk() {
        let facts = facts(&[Path::new("/"), Path::new("/nonexistent")]);
        assert!(facts["kernel"].is_string() && facts["memory_total_bytes"].as_u64() > Some(0), "{facts}");
        assert!(facts["disks"]["/"]["total_bytes"].as_u64() > Some(0), "{facts}");
        assert!(facts["disks"]["/nonexistent"].is_null(), "{facts}");
    }
}
