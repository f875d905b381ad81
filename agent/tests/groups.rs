//! Commands in control groups of their own: what hides is found, what is over leaves nothing, what was used is told.
//!
//! They need root and a hierarchy of cgroup v2 (which may have no controllers); without those, each says so and does nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{
    Host, Task, failure, is_alive, new_key, shell, supervised_shell, supervisor, supervisor_pid, wait_for,
    wait_for_pid,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_agent::cancel::CancelRequest;
use stella_agent::supervisor::{Groups, Limits, Recovered, recover};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::TaskSpec;

#[expect(clippy::print_stderr, reason = "who reads the result has to know that nothing was tried")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A group that is delegated to one test.
struct Delegated(PathBuf);

impl Delegated {
    fn new(name: &str) -> Option<Self> {
        for root in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
            let base = Path::new(root).join(format!("stella-tests-{name}-{}", std::process::id()));
            if Path::new(root).join("cgroup.procs").exists()
                && fs::create_dir(&base).is_ok()
                && base.join("cgroup.kill").exists()
            {
                return Some(Self(base));
            }
        }
        skipped("no cgroup v2 here that this user may write to");
        None
    }

    fn host(&self) -> (Host, Groups) {
        let (host, groups, unenforced) = self.limited(Limits::default());
        assert_eq!(unenforced, Vec::<String>::new());
        (host, groups)
    }

    /// The third part is what does not hold here.
    fn limited(&self, limits: Limits) -> (Host, Groups, Vec<String>) {
        let (groups, unenforced) = Groups::at(self.0.clone(), limits).unwrap();
        let mut host = Host::new();
        host.supervisor = supervisor().in_groups(Some(groups.clone()));
        (host, groups, unenforced)
    }

    /// The groups of supervisors.
    fn groups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let groups = entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path());
        groups.filter(|group| !group.ends_with("agent")).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _gone = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..100 {
            for group in self.groups().into_iter().chain([self.0.join("agent")]) {
                let _in_use = fs::remove_dir(group);
            }
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            // What was killed leaves its group when the kernel has taken it apart.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A script that starts `count` processes with a session, a parent and an environment of their own, and tells the last one's id.
fn hiding(folder: &Path, count: u32) -> (String, PathBuf) {
    let pid = folder.join("hidden");
    let hide =
        format!("exec env -i /usr/bin/setsid /bin/sh -c 'echo $$ > {}; exec /bin/sleep 600'", pid.display());
    let script = format!(
        "for n in $(seq {count}); do (setsid /bin/sh -c \"{}\" >/dev/null 2>&1 &); done; exec sleep 600",
        hide.replace('$', "\\$")
    );
    (script, pid)
}

#[tokio::test]
async fn a_cancelled_command_takes_with_it_what_has_hidden_and_its_group() {
    let Some(delegated) = Delegated::new("cancel") else { return };
    let (host, _) = delegated.host();
    let (script, pid) = hiding(host.folder.path(), 50);
    let task = host.start(TaskSpec::Command(shell(&script)));
    let hidden = wait_for_pid(&pid).await;
    let [group] = delegated.groups().try_into().unwrap();
    let all = || fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    wait_for("all of them", || all().lines().count() > 50).await;
    assert!(all().lines().any(|line| line == hidden.to_string()), "{hidden} is not in {}", all());
    task.cancel.request(CancelRequest { grace: Duration::from_millis(50), reason: "a test".to_owned() });
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Cancelled);
    assert!(!is_alive(hidden));
    wait_for("the group's end", || !group.exists()).await;
}

#[tokio::test]
async fn what_has_hidden_is_ended_when_the_supervisor_is_killed() {
    let Some(delegated) = Delegated::new("killed") else { return };
    let (host, _) = delegated.host();
    let (script, pid) = hiding(host.folder.path(), 1);
    let Task { run, attempt_dir, .. } = host.start(TaskSpec::Command(shell(&script)));
    let hidden = wait_for_pid(&pid).await;
    kill(Pid::from_raw(supervisor_pid(&attempt_dir)), Signal::SIGKILL).unwrap();
    // Its parent is gone, its session is its own, and nothing is in its environment.
    assert_eq!(run.await.unwrap(), TaskOutcome::Interrupted);
    assert!(!is_alive(hidden), "it has escaped");
}

#[tokio::test]
async fn an_agent_that_comes_back_ends_what_its_earlier_life_has_left_in_the_group() {
    let Some(delegated) = Delegated::new("back") else { return };
    let (host, groups) = delegated.host();
    let (script, pid) = hiding(host.folder.path(), 1);
    let key = new_key();
    let attempt_dir = host.attempt_dir(key);
    let supervised = host.supervisor.start(&attempt_dir, supervised_shell(key, &script)).await.unwrap();
    let hidden = wait_for_pid(&pid).await;
    // The agent and the supervisor die together.
    kill(Pid::from_raw(supervisor_pid(&attempt_dir)), Signal::SIGKILL).unwrap();
    drop(supervised);
    let found = recover(&attempt_dir, key, Duration::from_secs(10)).await;
    assert!(matches!(found, Recovered::Interrupted { .. }), "{found:?}");
    assert!(!is_alive(hidden), "it has escaped");
    groups.clean();
    assert_eq!(delegated.groups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_is_left_behind_on_purpose_lives_and_its_group_goes_with_it() {
    let Some(delegated) = Delegated::new("daemon") else { return };
    let (host, groups) = delegated.host();
    let pid = host.folder.path().join("pid");
    let script = format!("setsid sleep 600 >/dev/null 2>&1 & echo $! > {}", pid.display());
    assert_eq!(host.run(TaskSpec::Command(shell(&script))).await.0, TaskOutcome::Succeeded);
    let daemon = wait_for_pid(&pid).await;
    // Another command has another supervisor, and so another group.
    assert_eq!(host.run(TaskSpec::Command(shell("true"))).await.0, TaskOutcome::Succeeded);
    host.supervisor.rest();
    wait_for("the end of the second group", || delegated.groups().len() == 1).await;
    groups.clean();
    assert!(is_alive(daemon) && delegated.groups().len() == 1, "{:?}", delegated.groups());
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    wait_for("the group's end", || {
        groups.clean();
        delegated.groups().is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_a_command_used_is_in_its_record_and_not_what_the_one_before_did() {
    let Some(delegated) = Delegated::new("usage") else { return };
    let (host, _) = delegated.host();
    let used = async |script: &str| {
        let Task { run, attempt_dir, .. } = host.start(TaskSpec::Command(shell(script)));
        assert_eq!(run.await.unwrap(), TaskOutcome::Succeeded);
        let record = fs::read_to_string(attempt_dir.join("record")).unwrap();
        let last = record.trim_end_matches('\0').lines().last().unwrap().to_owned();
        let last: serde_json::Value = serde_json::from_str(&last).unwrap();
        (last["Ended"]["usage"]["cpu_us"].as_u64().unwrap(), supervisor_pid(&attempt_dir))
    };
    // As much as it takes to count that far, in whatever process.
    let (busy, first) = used("(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done) & wait").await;
    let (idle, second) = used("true").await;
    assert_eq!(first, second, "one supervisor served both");
    assert!(busy > 20_000 && idle < busy, "{busy} us, then {idle} us");
}

#[tokio::test]
async fn limits_hold_where_there_are_controllers_and_are_no_obstacle_where_there_are_none() {
    let Some(delegated) = Delegated::new("limits") else { return };
    let limits = Limits { processes: Some(8), ..Limits::default() };
    let (host, _, unenforced) = delegated.limited(limits);
    let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait";
    let (outcome, _) = host.run(TaskSpec::Command(shell(script))).await;
    if unenforced.is_empty() {
        assert!(failure(&outcome).contains("tasks.processes_max"), "{outcome:?}");
    } else {
        skipped(&unenforced.join("; "));
        assert_eq!(unenforced, ["pids: the controller is not delegated to the agent"]);
        assert_eq!(outcome, TaskOutcome::Succeeded);
    }
}

#[tokio::test]
async fn a_group_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let Some(delegated) = Delegated::new("threaded") else { return };
    let (host, _) = delegated.host();
    let (script, pid) = hiding(host.folder.path(), 1);
    let key = new_key();
    let attempt_dir = host.attempt_dir(key);
    let supervised = host.supervisor.start(&attempt_dir, supervised_shell(key, &script)).await.unwrap();
    wait_for_pid(&pid).await;
    let [group] = delegated.groups().try_into().unwrap();
    kill(Pid::from_raw(supervisor_pid(&attempt_dir)), Signal::SIGKILL).unwrap();
    drop(supervised);
    fs::write(group.join("cgroup.kill"), "1").unwrap();
    let is_empty =
        || fs::read_to_string(group.join("cgroup.events")).is_ok_and(|it| it.contains("populated 0"));
    wait_for("the group is empty", is_empty).await;
    // The kernel lists no processes of a group of threads, whether there are any or not.
    fs::write(group.join("cgroup.type"), "threaded").unwrap();
    let found = recover(&attempt_dir, key, Duration::from_secs(10)).await;
    let Recovered::Unknown { reason, .. } = &found else { panic!("{found:?}") };
    assert!(reason.contains("control group"), "{reason}");
}

/// The `ExecStopPost=` of the unit, for a hierarchy and a group that are not the host's.
fn switch_off(hierarchy: &Path, own: &str) -> std::process::Output {
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/stella-agent.service")).unwrap();
    let script = unit.lines().find_map(|line| line.strip_prefix("ExecStopPost=-/bin/sh -c '")).unwrap();
    let told = hierarchy.join("own");
    fs::write(&told, format!("4:memory:/x\n0::{own}\n")).unwrap();
    let script = script.strip_suffix('\'').unwrap().replace("$$", "$").replace("%%", "%");
    let script = script.replace("/sys/fs/cgroup", hierarchy.to_str().unwrap());
    let script = script.replace("/proc/self/cgroup", told.to_str().unwrap());
    std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap()
}

#[test]
fn the_unit_switches_controllers_off_one_by_one_wherever_its_group_is() {
    let hierarchy = tempfile::tempdir().unwrap();
    let base = hierarchy.path().join("apps.slice/stella-agent.service");
    let pipe = |group: &Path| {
        let path = group.join("cgroup.subtree_control");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Open for both, so that no writer waits for a reader.
        fs::File::options().read(true).write(true).open(path).unwrap()
    };
    fs::create_dir_all(base.join("task-1-2/inner")).unwrap();
    fs::create_dir_all(base.join("task-3-4")).unwrap();
    let mut pipes = [pipe(&base), pipe(&base.join("task-1-2")), pipe(&base.join("task-1-2/inner"))];
    // This one cannot be written to, and keeps nothing of the others on.
    fs::create_dir(base.join("task-3-4/cgroup.subtree_control")).unwrap();
    for own in ["/apps.slice/stella-agent.service/.control", "/apps.slice/stella-agent.service"] {
        let done = switch_off(hierarchy.path(), own);
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        for pipe in &mut pipes {
            let mut said = [0; 64];
            let length = std::io::Read::read(pipe, &mut said).unwrap();
            assert_eq!(&said[..length], b"-cpu\n-memory\n-pids\n");
        }
    }
    // Not in a group of a service: nothing is touched.
    fs::write(hierarchy.path().join("cgroup.subtree_control"), "as it was").unwrap();
    let done = switch_off(hierarchy.path(), "/");
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    assert_eq!(fs::read(hierarchy.path().join("cgroup.subtree_control")).unwrap(), b"as it was");
}
