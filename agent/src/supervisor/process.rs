//! Processes as `/proc` tells of them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its id.
    pub(super) pid: i32,
    /// When it started, in clock ticks since the host's boot.
    pub(super) start_time: u64,
}

impl Process {
    /// The process that has this id now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self { pid, start_time: stat.start_time })
    }

    /// Whether it still runs. A zombie does not: all it has left is an exit status.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start_time == self.start_time && !stat.is_dead)
    }

    /// Sends a signal, if this very process is still there.
    pub(super) fn signal(self, signal: Signal) -> nix::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// The few fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
    pub(super) start_time: u64,
    pub(super) is_dead: bool,
}

impl Stat {
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in the second field may hold anything, so fields are counted from its last parenthesis.
    fn parse(pid: i32, bytes: &[u8]) -> Option<Self> {
        let after_name = bytes.iter().rposition(|&byte| byte == b')')? + 1;
        let text = std::str::from_utf8(&bytes[after_name..]).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let start_time = fields.nth(15)?.parse().ok()?;
        Some(Self { pid, parent, session, start_time, is_dead })
    }

    pub(super) const fn process(&self) -> Process {
        Process { pid: self.pid, start_time: self.start_time }
    }
}

/// Every process of the host that is not a zombie.
pub(super) fn all() -> io::Result<Vec<Stat>> {
    let mut stats = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        stats.extend(pid.and_then(Stat::read).filter(|stat| !stat.is_dead));
    }
    Ok(stats)
}

/// Everything below `roots` in the tree of parents, without the roots themselves.
pub(super) fn descendants(stats: &[Stat], roots: &[i32]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in stats {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut seen: HashSet<i32> = roots.iter().copied().collect();
    let mut open: Vec<i32> = roots.to_vec();
    while let Some(pid) = open.pop() {
        for stat in children.get(&pid).into_iter().flatten() {
            if seen.insert(stat.pid) {
                found.push(stat.process());
                open.push(stat.pid);
            }
        }
    }
    found
}

/// Whether a process was started with exactly this `NAME=value` in its environment. `None` if it may not be read.
pub(super) fn has_variable(pid: i32, variable: &str) -> Option<bool> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    Some(environment.split(|&byte| byte == 0).any(|entry| entry == variable.as_bytes()))
}

/// Names this boot of the host: process ids and start times mean nothing in another one.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = b"7 (a) b (c) S 3 5 6 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let stat = Stat::parse(7, line).unwrap();
        assert_eq!((stat.parent, stat.session, stat.start_time, stat.is_dead), (3, 6, 987_654, false));
    }

    #[test]
    fn this_process_is_alive_and_its_id_with_another_start_is_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let this = Process::of(pid).unwrap();
        assert!(this.is_alive());
        assert!(!Process { start_time: this.start_time + 1, ..this }.is_alive());
    }
}
