//! A supervisor's own group.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::super::process::Process;
use super::{Groups, TASK_PREFIX, VARIABLE, members};

/// How often a group is made: the agent may remove one that it finds empty before its supervisor is there.
const ENTRIES_MAX: usize = 8;

/// Where the group of this process is, in the one hierarchy of cgroup v2.
pub(super) fn path() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&groups, &mounts)
}

/// Of several mounts, the one that shows the most.
fn find(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (PathBuf::from(fields.next()?), PathBuf::from(fields.next()?));
        (after.starts_with("cgroup2 ") && own.starts_with(&root)).then_some((root, point))
    };
    let (root, point) = mounts.lines().filter_map(mount).min_by_key(|(root, _)| root.as_os_str().len())?;
    let below = own.strip_prefix(root).ok()?;
    // A group outside of this namespace is shown as `/..`.
    below.components().all(|part| matches!(part, std::path::Component::Normal(_))).then(|| point.join(below))
}

/// The group that this supervisor has made and is in.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    /// Where it came from.
    home: PathBuf,
    this: i32,
}

impl Group {
    /// Makes one as the agent has said in this process's environment, and goes there. `None` if it has said nothing or that is not possible:
    /// then the tree of parents is what there is.
    pub(crate) fn enter(this: Process) -> Option<Self> {
        let groups: Groups = serde_json::from_str(&std::env::var(VARIABLE).ok()?).ok()?;
        let home = path()?;
        let path = groups.base.join(format!("{TASK_PREFIX}{}-{}", this.pid, this.start_time));
        for _ in 0..ENTRIES_MAX {
            fs::create_dir(&path).ok()?;
            groups.limits.impose(&path);
            match fs::write(path.join("cgroup.procs"), "0") {
                Ok(()) => return Some(Self { path, home, this: this.pid }),
                // The agent has removed it as one that is empty.
                Err(_) if !path.exists() => {}
                Err(_) => break,
            }
        }
        let _empty = fs::remove_dir(&path);
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every process in it but this one.
    pub(crate) fn others(&self) -> io::Result<Vec<Process>> {
        let others = members(&self.path)?.into_iter().filter(|pid| *pid != self.this);
        Ok(others.filter_map(Process::of).filter(|process| process.is_alive()).collect())
    }

    /// Ends everything in it but this process, which is out of it from then on.
    pub(crate) fn kill(&self) -> io::Result<()> {
        if self.go_home().and_then(|()| super::kill(&self.path)).is_ok() {
            return Ok(());
        }
        for other in self.others()? {
            let _gone_or_forbidden = kill(Pid::from_raw(other.pid), Signal::SIGKILL);
        }
        Ok(())
    }

    fn go_home(&self) -> io::Result<()> {
        fs::write(self.home.join("cgroup.procs"), "0")
    }
}

impl Drop for Group {
    /// What a command has left behind on purpose stays in it, and the agent removes it when that has ended.
    fn drop(&mut self) {
        let _in_use = self.go_home().and_then(|()| fs::remove_dir(&self.path));
    }
}

/// What a command has used, with everything that came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Processor time, in microseconds.
    pub(crate) cpu_us: u64,
    /// The most memory at any moment, in bytes, the supervisor's included; `None` if that is not counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_peak_bytes: Option<u64>,
    /// Whether something was killed because the memory of its group was used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) out_of_memory: bool,
    /// Whether a process or thread could not be started because there were as many as there may be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) out_of_processes: bool,
}

/// The state of the counters before a command.
#[derive(Debug)]
pub(crate) struct Meter<'g> {
    group: &'g Path,
    before: Counters,
    /// Shows the most since it was written to; kernels before 6.12 cannot begin anew.
    peak: Option<File>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    cpu_us: u64,
    memory_kills: u64,
    process_refusals: u64,
}

impl Counters {
    fn read(group: &Path) -> Self {
        let of = |file: &str, key: &str| {
            let text = fs::read_to_string(group.join(file)).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self {
            cpu_us: of("cpu.stat", "usage_usec"),
            memory_kills: of("memory.events", "oom_kill"),
            process_refusals: of("pids.events", "max"),
        }
    }
}

impl<'g> Meter<'g> {
    pub(crate) fn start(group: &'g Group) -> Self {
        let group = group.path.as_path();
        let peak = File::options().read(true).write(true).open(group.join("memory.peak")).ok();
        let peak = peak.and_then(|mut file| file.write_all(b"0").is_ok().then_some(file));
        Self { group, before: Counters::read(group), peak }
    }

    pub(crate) fn stop(mut self) -> Usage {
        let now = Counters::read(self.group);
        let peak = self.peak.as_mut().and_then(|file| {
            let mut text = String::new();
            file.rewind().ok()?;
            file.read_to_string(&mut text).ok()?;
            text.trim().parse().ok()
        });
        Usage {
            cpu_us: now.cpu_us.saturating_sub(self.before.cpu_us),
            memory_peak_bytes: peak,
            out_of_memory: now.memory_kills > self.before.memory_kills,
            out_of_processes: now.process_refusals > self.before.process_refusals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        266 243 0:38 /system.slice/stella-agent.service /sys/fs/cgroup/system.slice/stella-agent.service rw shared:5 - cgroup2 cgroup rw\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_where_the_most_of_the_hierarchy_is_shown() {
        let at = |own: &str| find(&format!("4:memory:/x\n0::{own}\n"), MOUNTS);
        let found = at("/system.slice/stella-agent.service").unwrap();
        assert_eq!(found, Path::new("/sys/fs/cgroup/unified/system.slice/stella-agent.service"));
        assert_eq!(at("/").unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(at("/../../elsewhere"), None, "it is outside of what this process sees");
        assert_eq!(find("4:memory:/x\n", MOUNTS), None, "only the old hierarchies");
        assert_eq!(find("0::/x\n", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn usage_is_what_came_after_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let group = Group { path: folder.path().to_owned(), home: folder.path().to_owned(), this: 1 };
        write("cpu.stat", "usage_usec 1000\nuser_usec 900\n");
        write("memory.events", "max 3\noom_kill 1\noom_group_kill 0\n");
        let meter = Meter::start(&group);
        write("cpu.stat", "usage_usec 4500\nuser_usec 900\n");
        let used = meter.stop();
        assert_eq!(used, Usage { cpu_us: 3500, ..Usage::default() });
        let meter = Meter::start(&group);
        write("memory.events", "max 9\noom_kill 2\n");
        write("pids.events", "max 4\n");
        let used = meter.stop();
        assert!(used.out_of_memory && used.out_of_processes && used.cpu_us == 0, "{used:?}");
        let text = serde_json::to_string(&Usage { cpu_us: 7, ..Usage::default() }).unwrap();
        assert_eq!(text, r#"{"cpu_us":7}"#);
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap().cpu_us, 7);
    }
}
