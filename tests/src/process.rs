//! What the kernel knows about a process: whether it is there, its memory, its processor time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Whether a process is there and not a zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_ok_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// What a process holds in memory, in bytes (resident, shared pages included).
///
/// # Errors
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("there is no process {pid}"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("process {pid} has no VmRSS"))? * 1024)
}

/// The processor time that a process has used, in user and kernel mode together.
///
/// # Errors
/// If there is no such process.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let fields = stat(pid)?;
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has no clock tick")?;
    let ticks_per_second = u32::try_from(ticks_per_second).context("an odd clock tick")?;
    // Fields 14 and 15 of proc(5); the first here is field 3.
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u32>().ok());
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    Ok(Duration::from_secs(1) * ticks.with_context(|| format!("odd times of process {pid}"))?
        / ticks_per_second)
}

/// Ends a process at once.
pub fn kill_now(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // A process that is gone already is as good.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}

/// The processes whose command line or environment mentions a folder: everything that an agent of a test has started.
#[must_use]
pub fn mentioning(folder: &Path) -> Vec<u32> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mentions = |file: String| {
        fs::read(file).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    };
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| mentions(format!("/proc/{pid}/cmdline")) || mentions(format!("/proc/{pid}/environ")))
        .filter(|pid| is_alive(*pid))
        .collect()
}

/// The fields of `/proc/<pid>/stat` after the command's name, which may contain anything.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("there is no process {pid}"))?;
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("odd stat of process {pid}"))?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn figures_of_this_process_make_sense() {
        let own = std::process::id();
        assert!(is_alive(own));
        assert!(resident_bytes(own).unwrap() > 100_000);
        assert!(processor_time(own).unwrap() < Duration::from_secs(600));
    }

    #[test]
    fn a_killed_process_is_not_alive_even_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("600").env("HERE", "/a/folder/of/its/own").spawn().unwrap();
        // The kernel lets the parent go on a moment before the child's environment can be seen.
        while mentioning(Path::new("/a/folder/of/its/own")) != [child.id()] {
            std::thread::yield_now();
        }
        kill_now(child.id());
        while is_alive(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(resident_bytes(child.id()).is_err());
    }
}
