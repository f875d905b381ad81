//! Control groups: a supervisor and all that it starts are in a group of their own, if the agent's unit lets it make them.
//!
//! ```text
//! stella-agent.service            what systemd delegates (Delegate=)
//! ├─ agent                        the agent and supervisors that wait, if limits are set
//! └─ task-<pid>-<start time>      one for each supervisor: it, its command, and whatever came of that, wherever it fled to
//! ```
//!
//! - A process is born into the group of its parent and cannot leave by accident, and not at all without being root: what has changed its session, its parent and its
//!   environment is still found, and one write to `cgroup.kill` ends all of it at once.
//! - A group belongs to a supervisor and not to an attempt, because to move a process costs up to 30 ms, in which the kernel waits for all
//!   processors. A supervisor serves another attempt only if nothing of the one before is left, so there never is another's process in it.
//! - Limits need controllers, and a group with controllers for its children may hold no process itself. They are switched on only if limits
//!   are set, and the unit's `ExecStopPost=` switches them off: without that systemd could not start the agent beside tasks that still run.
//! - Without groups (no cgroup v2, no delegation) all goes on as before: the tree of parents and the marker in the environment are what is
//!   looked at.

mod own;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use own::{Group, Meter, Usage};

/// Set to 1 by the unit that delegates. Whoever starts an agent by hand has delegated nothing.
const DELEGATED: &str = "STELLA_AGENT_DELEGATED";
/// How a supervisor is told where to make its group, as JSON.
pub(super) const VARIABLE: &str = "STELLA_SUPERVISOR_GROUPS";
/// The group of the agent itself, if it cannot stay where systemd has put it.
const AGENT_GROUP: &str = "agent";
const TASK_PREFIX: &str = "task-";
/// The deepest that groups of tasks are looked into: a command may have made some of its own.
const DEPTH_MAX: usize = 16;
/// How often what is in the way is moved before that is given up: new ones may come while it is done.
const MOVES_MAX: usize = 8;

/// What the tasks of one supervisor may use together. Nothing is limited that is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Processor time, in percent of one processor.
    pub cpu_percent: Option<u32>,
}

impl Limits {
    /// The controllers that they need.
    #[must_use]
    pub fn controllers(&self) -> Vec<&'static str> {
        let all = [
            ("memory", self.memory_bytes.is_some()),
            ("pids", self.processes.is_some()),
            ("cpu", self.cpu_percent.is_some()),
        ];
        all.into_iter().filter_map(|(name, is_needed)| is_needed.then_some(name)).collect()
    }

    /// Limits one group, as far as the kernel lets it: a host without swap has no file for it, and which controllers are missing is told
    /// where they are switched on.
    fn impose(&self, group: &Path) {
        for (file, value) in self.files() {
            let _told_elsewhere = fs::write(group.join(file), value);
        }
    }

    /// The files of a group and what to write there.
    fn files(&self) -> Vec<(&'static str, String)> {
        let memory = self.memory_bytes.map(|bytes| ("memory.max", bytes.to_string()));
        // What does not fit is not swapped out: that is no limit for the host.
        let swap = self.memory_bytes.map(|_| ("memory.swap.max", "0".to_owned()));
        // The supervisor is one of them.
        let processes = self.processes.map(|count| ("pids.max", (u64::from(count) + 1).to_string()));
        // In microseconds of each 100 ms.
        let cpu =
            self.cpu_percent.map(|percent| ("cpu.max", format!("{} 100000", u64::from(percent) * 1000)));
        [memory, swap, processes, cpu].into_iter().flatten().collect()
    }
}

/// Why there are no groups here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Nobody has said that the agent may make any.
    #[error("the agent's unit does not delegate its control group (Delegate= and {DELEGATED}=1)")]
    NotDelegated,
    /// The host has the old hierarchies only.
    #[error("the host has no cgroup v2 hierarchy")]
    NoHierarchy,
    /// The kernel or the mount says no.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Which group.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where supervisors make their groups, and what is allowed in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    base: PathBuf,
    limits: Limits,
}

impl Groups {
    /// Finds the group that the unit delegates, and switches on what the limits need. The second part is what that is not enforced: the
    /// name of a limit's controller, and why.
    ///
    /// # Errors
    /// If no group can be made here.
    pub fn open(limits: Limits) -> Result<(Self, Vec<String>), Unavailable> {
        if std::env::var_os(DELEGATED).is_none_or(|value| value != "1") {
            return Err(Unavailable::NotDelegated);
        }
        let own = own::path().ok_or(Unavailable::NoHierarchy)?;
        let base = if own.ends_with(AGENT_GROUP) { own.parent().unwrap_or(&own).to_owned() } else { own };
        Self::at(base, limits)
    }

    /// As [`Self::open`], for a group that is known.
    ///
    /// # Errors
    /// If no group can be made in it.
    pub fn at(base: PathBuf, limits: Limits) -> Result<(Self, Vec<String>), Unavailable> {
        let probe = base.join(format!("{TASK_PREFIX}probe-{}", std::process::id()));
        let tried = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
        tried.map_err(|source| Unavailable::Io { path: base.clone(), source })?;
        let groups = Self { base, limits };
        groups.clean();
        let unenforced = groups.enable();
        // A controller that was off and is on again has forgotten the limits of those who live through a restart of the agent.
        groups.of_tasks().for_each(|group| groups.limits.impose(&group));
        Ok((groups, unenforced))
    }

    /// The same with other limits, for what starts from now on: what runs keeps those that it has.
    #[must_use]
    pub fn with(&self, limits: Limits) -> (Self, Vec<String>) {
        let groups = Self { base: self.base.clone(), limits };
        let unenforced = groups.enable();
        (groups, unenforced)
    }

    /// Removes the groups in which nothing is left. Those of tasks that have left something behind stay until that ends.
    pub fn clean(&self) {
        for group in self.of_tasks().filter(|group| !is_populated(group)) {
            remove(&group, DEPTH_MAX);
        }
    }

    fn of_tasks(&self) -> impl Iterator<Item = PathBuf> {
        groups_in(&self.base).into_iter().filter(|path| is_of_tasks(path))
    }

    /// Switches on the controllers that the limits need; gives what could not be.
    fn enable(&self) -> Vec<String> {
        let needed = self.limits.controllers();
        if needed.is_empty() {
            return Vec::new();
        }
        let there = fs::read_to_string(self.base.join("cgroup.controllers")).unwrap_or_default();
        let (there, missing): (Vec<_>, Vec<_>) =
            needed.into_iter().partition(|name| there.split_whitespace().any(|it| it == *name));
        let mut unenforced: Vec<String> = missing
            .iter()
            .map(|name| format!("{name}: the controller is not delegated to the agent"))
            .collect();
        if there.is_empty() {
            return unenforced;
        }
        if let Err(error) = self.move_all_to_leaf() {
            unenforced.extend(there.iter().map(|name| format!("{name}: {error}")));
            return unenforced;
        }
        for name in there {
            // Each by itself: one that the kernel keeps does not take the others along.
            if let Err(error) = fs::write(self.base.join("cgroup.subtree_control"), format!("+{name}")) {
                unenforced.push(format!("{name}: {error}"));
            }
        }
        unenforced
    }

    /// The agent, and supervisors of its earlier lives that were started beside it.
    fn move_all_to_leaf(&self) -> io::Result<()> {
        let leaf = self.base.join(AGENT_GROUP);
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for _ in 0..MOVES_MAX {
            let here = fs::read_to_string(self.base.join("cgroup.procs"))?;
            if here.trim().is_empty() {
                break;
            }
            for pid in here.lines() {
                // One that has ended meanwhile is out of the way as well; one that stays is seen when the controllers are switched on.
                let _seen_later = fs::write(leaf.join("cgroup.procs"), pid);
            }
        }
        Ok(())
    }
}

/// Whether there is a process in a group or below it: then groups that are empty now are its command's to use.
fn is_populated(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// The processes of a group and of all below it.
pub(super) fn members(group: &Path) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    collect(group, DEPTH_MAX, &mut found)?;
    Ok(found)
}

fn collect(group: &Path, depth: usize, found: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok())),
        // Gone, and with it all that was in it; ENODEV if it goes while it is read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(()),
        Err(error) => return Err(error),
    }
    if depth > 0 {
        for child in groups_in(group) {
            // One of threads has no list of its own: its processes are in the list of the group above.
            let _listed_above = collect(&child, depth - 1, found);
        }
    }
    Ok(())
}

/// Ends everything in a group and below it at once, whatever it is forking. Kernels before 5.14 cannot.
pub(super) fn kill(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.kill"), "1")
}

/// Whether a path is one that a supervisor has made.
pub(super) fn is_of_tasks(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TASK_PREFIX))
}

fn groups_in(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    let is_group = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_group).map(|entry| entry.path()).collect()
}

/// A group with a process in it stays: the kernel does not remove it.
fn remove(group: &Path, depth: usize) {
    if depth > 0 {
        groups_in(group).iter().for_each(|child| remove(child, depth - 1));
    }
    let _in_use = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_files_of_the_kernel() {
        let limits = Limits { memory_bytes: Some(1 << 20), processes: Some(64), cpu_percent: Some(150) };
        assert_eq!(limits.controllers(), ["memory", "pids", "cpu"]);
        assert_eq!(
            limits.files(),
            [
                ("memory.max", "1048576".into()),
                ("memory.swap.max", "0".into()),
                ("pids.max", "65".into()),
                ("cpu.max", "150000 100000".into())
            ]
        );
        let none = Limits::default();
        assert!(none.controllers().is_empty() && none.files().is_empty());
    }

    /// A folder that looks like a group, as far as files do.
    #[test]
    fn limits_that_cannot_be_enforced_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpu io\n").unwrap();
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        let limits = Limits { memory_bytes: Some(1), processes: None, cpu_percent: Some(50) };
        let survivor = folder.path().join("task-1-2");
        fs::create_dir(&survivor).unwrap();
        fs::write(survivor.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let (_, unenforced) = Groups::at(folder.path().to_owned(), limits).unwrap();
        let again = fs::read_to_string(survivor.join("cpu.max")).unwrap();
        assert_eq!(again, "50000 100000", "one that lives through a restart of the agent is limited again");
        assert_eq!(unenforced, ["memory: the controller is not delegated to the agent"]);
        assert_eq!(fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert!(folder.path().join(AGENT_GROUP).is_dir());
        let missing = Groups::at(folder.path().join("none"), limits).unwrap_err();
        assert!(matches!(missing, Unavailable::Io { .. }), "{missing}");
    }

    #[test]
    fn what_is_empty_is_removed_and_nothing_but_groups_of_tasks() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["task-1-2/inner/most", "task-3-4", "task-5-6/inner", "agent", "system"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        // As a process does in a real one.
        fs::write(folder.path().join("task-3-4/held"), "").unwrap();
        fs::write(folder.path().join("task-5-6/cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let (groups, _) = Groups::at(folder.path().to_owned(), Limits::default()).unwrap();
        groups.clean();
        let mut left: Vec<_> =
            groups_in(folder.path()).iter().map(|it| it.file_name().unwrap().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["agent", "system", "task-3-4", "task-5-6"]);
        assert!(folder.path().join("task-5-6/inner").is_dir(), "a running command may be about to use it");
    }
}
