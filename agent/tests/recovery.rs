//! What a restarted agent finds out about the commands of its earlier life.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{
    Host, PATIENCE, dispatch, is_alive, new_key, no_cancel, shell, supervised_shell, supervisor,
    supervisor_pid, wait_for, wait_for_pid,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_agent::executor::Executor;
use stella_agent::output::OutputSink;
use stella_agent::supervisor::{Recovered, give_up, recover, spooled};
use stella_protocol::id::{Attempt, AttemptKey, TaskId};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{CheckSpec, Probe, TaskSpec};
use stella_protocol::time::Timestamp;

/// This test binary, as an agent that runs a command to its end and waits to be told to go on, if it is given a folder
/// for that; then starts its command, says so, and waits for it until it is killed.
struct Agent {
    process: Child,
    key: AttemptKey,
}

const AGENT_TASK: &str = "RECOVERY_TEST_TASK";
const AGENT_DIR: &str = "RECOVERY_TEST_DIR";
const AGENT_SCRIPT: &str = "RECOVERY_TEST_SCRIPT";
const AGENT_FIRST_DIR: &str = "RECOVERY_TEST_FIRST_DIR";

impl Agent {
    fn start(attempt_dir: &Path, key: AttemptKey, script: &str) -> Self {
        Self { process: Self::command(attempt_dir, key, script).spawn().unwrap(), key }
    }

    fn start_with_a_first(attempt_dir: &Path, key: AttemptKey, script: &str, first_dir: &Path) -> Self {
        let mut command = Self::command(attempt_dir, key, script);
        Self { process: command.env(AGENT_FIRST_DIR, first_dir).spawn().unwrap(), key }
    }

    fn command(attempt_dir: &Path, key: AttemptKey, script: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "the_agent_of_the_other_tests"])
            .env(AGENT_TASK, key.task.to_string())
            .env(AGENT_DIR, attempt_dir)
            .env(AGENT_SCRIPT, script)
            .stdout(Stdio::null());
        command
    }

    fn kill(mut self) -> AttemptKey {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.key
    }
}

/// Does nothing unless it is started as an agent by another test.
#[tokio::test]
async fn the_agent_of_the_other_tests() {
    let Ok(task) = std::env::var(AGENT_TASK) else { return };
    let key = AttemptKey { task: task.parse::<TaskId>().unwrap(), attempt: Attempt(1) };
    let (dir, script) = (std::env::var(AGENT_DIR).unwrap(), std::env::var(AGENT_SCRIPT).unwrap());
    let (sink, _output) = OutputSink::new(16);
    let (supervisor, dir) = (supervisor(), Path::new(&dir));
    if let Ok(first) = std::env::var(AGENT_FIRST_DIR) {
        let spec = supervised_shell(new_key(), "true");
        supervisor.run(Path::new(&first), spec, &sink, &no_cancel()).await;
        std::fs::write(sibling(dir, "waits"), "").unwrap();
        wait_for("the word to go on", || sibling(dir, "goes-on").exists()).await;
    }
    let supervised = supervisor.start(dir, supervised_shell(key, &script)).await.unwrap();
    std::fs::write(sibling(dir, "given"), "").unwrap();
    supervised.wait(&sink, &no_cancel()).await;
}

/// A file beside an attempt's folder, by which an agent of a test and its test talk.
fn sibling(attempt_dir: &Path, name: &str) -> PathBuf {
    let mut path = attempt_dir.as_os_str().to_owned();
    path.push(".");
    path.push(name);
    path.into()
}

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_command_that_ended_while_there_was_no_agent_has_its_real_result() {
    let host = Host::new();
    let (pid, go) = (host.folder.path().join("pid"), host.folder.path().join("go"));
    let key = new_key();
    let dir = host.attempt_dir(key);
    let script = format!(
        "echo $$ > {}; while [ ! -e {} ]; do sleep 0.01; done; echo survived; exit 7",
        pid.display(),
        go.display()
    );
    let agent = Agent::start(&dir, key, &script);
    let command = wait_for_pid(&pid).await;
    let supervisor = supervisor_pid(&dir);
    agent.kill();
    assert!(is_alive(command) && is_alive(supervisor), "the command went down with its agent");
    std::fs::write(&go, "").unwrap();
    wait_for("the supervisor's end", || !is_alive(supervisor)).await;

    let Recovered::Finished { outcome, started_at, finished_at } = recover(&dir, key, PATIENCE).await else {
        panic!("no result")
    };
    let reason = "the command exited with code 7".to_owned();
    assert_eq!(outcome, TaskOutcome::Failed { reason, exit_code: Some(7) });
    assert!(started_at <= finished_at && started_at.0 > 0);
    let kept: Vec<u8> = spooled(&dir).unwrap().flat_map(|chunk| chunk.unwrap().bytes).collect();
    assert_eq!(kept, b"survived\n");
    // Asked again, it says the same.
    assert!(matches!(recover(&dir, key, PATIENCE).await, Recovered::Finished { .. }));
}

#[tokio::test]
async fn a_command_that_still_runs_is_ended_with_its_tree() {
    let host = Host::new();
    let (pid, escaped) = (host.folder.path().join("pid"), host.folder.path().join("escaped"));
    let key = new_key();
    let dir = host.attempt_dir(key);
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 0.05; done' & echo $$ > {}; wait",
        escaped.display(),
        pid.display()
    );
    let agent = Agent::start(&dir, key, &script);
    let (command, escaped) = (wait_for_pid(&pid).await, wait_for_pid(&escaped).await);
    let supervisor = supervisor_pid(&dir);
    agent.kill();
    let found = recover(&dir, key, Duration::from_secs(4)).await;
    assert!(matches!(found, Recovered::Interrupted { started_at: Some(_) }), "{found:?}");
    for process in [command, escaped, supervisor] {
        assert!(!is_alive(process), "{process} is still there");
    }
}

#[tokio::test]
async fn what_a_killed_supervisor_leaves_is_ended_as_far_as_it_is_seen() {
    let host = Host::new();
    let (pid, escaped) = (host.folder.path().join("pid"), host.folder.path().join("escaped"));
    let key = new_key();
    let dir = host.attempt_dir(key);
    let script = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 60' & echo $$ > {}; wait",
        escaped.display(),
        pid.display()
    );
    let agent = Agent::start(&dir, key, &script);
    let (command, escaped) = (wait_for_pid(&pid).await, wait_for_pid(&escaped).await);
    let supervisor = supervisor_pid(&dir);
    // The agent first: a living one would clean up by itself, which the next test shows.
    agent.kill();
    sigkill(supervisor);
    assert!(is_alive(command) && is_alive(escaped));
    unconfirmed(&recover(&dir, key, PATIENCE).await);
    assert!(!is_alive(command) && !is_alive(escaped));
}

/// There is no control group here: somebody may have got away.
fn unconfirmed(found: &Recovered) {
    let Recovered::Unknown { reason, started_at: Some(_) } = found else { panic!("{found:?}") };
    assert!(reason.contains("without a control group nobody can confirm"), "{reason}");
}

#[tokio::test]
async fn what_nobody_sees_any_more_is_not_taken_for_gone() {
    let host = Host::new();
    let hidden = host.folder.path().join("hidden");
    let key = new_key();
    let dir = host.attempt_dir(key);
    // With a parent, a session and an environment of its own.
    let script = format!(
        "(env -i /usr/bin/setsid /bin/sh -c 'echo $$ > {}; exec sleep 60' &); exec sleep 60",
        hidden.display()
    );
    let agent = Agent::start(&dir, key, &script);
    let hidden = wait_for_pid(&hidden).await;
    agent.kill();
    sigkill(supervisor_pid(&dir));
    unconfirmed(&recover(&dir, key, PATIENCE).await);
    assert!(is_alive(hidden), "it was seen after all");
    sigkill(hidden);
    // For an attempt that nobody knows, it is enough that nothing is seen.
    assert_eq!(give_up(&dir, PATIENCE).await, Ok(Some(key)));
}

#[tokio::test]
async fn an_order_that_a_supervisor_has_not_carried_out_yet_is_never_carried_out_after_recovery() {
    let host = Host::new();
    let ran = host.folder.path().join("ran");
    let (first, key) = (host.attempt_dir(new_key()), new_key());
    let dir = host.attempt_dir(key);
    let agent = Agent::start_with_a_first(&dir, key, &format!("echo > {}", ran.display()), &first);
    wait_for("the first command's end", || sibling(&dir, "waits").exists()).await;
    let supervisor = supervisor_pid(&first);
    // Frozen, it cannot read its next order, which therefore waits in the pipe when the agent goes down.
    kill(Pid::from_raw(supervisor), Signal::SIGSTOP).unwrap();
    std::fs::write(sibling(&dir, "goes-on"), "").unwrap();
    wait_for("the order", || sibling(&dir, "given").exists()).await;
    agent.kill();
    assert_eq!(supervisor_pid(&dir), supervisor, "it is another supervisor");
    assert_eq!(recover(&dir, key, Duration::from_secs(4)).await, Recovered::NeverStarted);
    assert!(!is_alive(supervisor), "it would carry the order out when it goes on");
    assert!(!ran.exists());
    // What it did before is not touched by that.
    assert!(std::fs::read_to_string(first.join("record")).unwrap().contains("Ended"));
}

#[tokio::test]
async fn an_order_is_carried_out_once_when_the_agent_dies_right_after_it() {
    let host = Host::new();
    let runs = host.folder.path().join("runs");
    for _ in 0..10 {
        let key = new_key();
        let dir = host.attempt_dir(key);
        std::fs::write(&runs, "").unwrap();
        let agent = Agent::start(&dir, key, &format!("echo run >> {}", runs.display()));
        wait_for("the order", || sibling(&dir, "given").exists()).await;
        agent.kill();
        let found = recover(&dir, key, PATIENCE).await;
        let count = std::fs::read_to_string(&runs).unwrap().lines().count();
        match &found {
            Recovered::Finished { outcome: TaskOutcome::Succeeded, .. } => assert_eq!(count, 1),
            Recovered::NeverStarted => assert_eq!(count, 0),
            Recovered::Interrupted { started_at: Some(_) } => assert!(count <= 1),
            Recovered::Finished { .. } | Recovered::Interrupted { .. } | Recovered::Unknown { .. } => {
                panic!("{found:?}")
            }
        }
        // One that has ended its command leaves by itself; any other is gone before its attempt is judged.
        let supervisor = supervisor_pid(&dir);
        assert!(matches!(found, Recovered::Finished { .. }) || !is_alive(supervisor), "{found:?}");
        wait_for("the supervisor's end", || !is_alive(supervisor)).await;
        assert_eq!(recover(&dir, key, PATIENCE).await, found, "asked again, it says something else");
    }
}

#[tokio::test]
async fn a_supervisor_without_an_attempt_leaves_with_its_agent() {
    let host = Host::new();
    let (first, key) = (host.attempt_dir(new_key()), new_key());
    let dir = host.attempt_dir(key);
    let agent = Agent::start_with_a_first(&dir, key, "true", &first);
    wait_for("the first command's end", || sibling(&dir, "waits").exists()).await;
    let supervisor = supervisor_pid(&first);
    assert!(is_alive(supervisor), "it was not kept");
    agent.kill();
    wait_for("the supervisor's end", || !is_alive(supervisor)).await;
}

#[tokio::test]
async fn what_is_found_of_a_supervisor_that_ends_at_its_start_is_found_again() {
    let host = Host::new();
    let (key, ready) = (new_key(), host.folder.path().join("ready"));
    let dir = host.attempt_dir(key);
    std::fs::create_dir(&dir).unwrap();
    // TERM comes while it writes down the start: no command has begun, and nobody watches one.
    let script = format!(
        "trap 'cat {started} >> {record}; exit' TERM; echo $$ > {ready}; while :; do sleep 0.1; done",
        started = host.folder.path().join("started").display(),
        record = dir.join("record").display(),
        ready = ready.display(),
    );
    let mut supervisor =
        Command::new("setsid").args(["sh", "-c", &script]).stdout(Stdio::null()).spawn().unwrap();
    let pid = wait_for_pid(&ready).await;
    let given = given_to(key, pid);
    std::fs::write(host.folder.path().join("started"), format!("{}\n", started_by(&given))).unwrap();
    std::fs::write(dir.join("record"), format!("{given}\n")).unwrap();
    let reaper = std::thread::spawn(move || supervisor.wait().unwrap());
    let found = recover(&dir, key, PATIENCE).await;
    reaper.join().unwrap();
    assert_eq!(found, Recovered::Interrupted { started_at: Some(Timestamp(1)) });
    // Its agent dies before its own journal has that.
    assert_eq!(recover(&dir, key, PATIENCE).await, found);
}

/// The line of a record that says who was given an attempt.
fn given_to(key: AttemptKey, supervisor: i32) -> serde_json::Value {
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let start_time: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    serde_json::json!({ "Given": {
        "key": key, "supervisor": { "pid": supervisor, "start_time": start_time }, "boot_id": boot_id.trim_end(),
    }})
}

/// The line that the supervisor of such a line writes next.
fn started_by(given: &serde_json::Value) -> serde_json::Value {
    let mut started = given["Given"].clone();
    started["at"] = 1.into();
    serde_json::json!({ "Started": started })
}

#[tokio::test]
async fn what_was_forked_and_had_not_become_the_command_is_ended_with_a_killed_supervisor() {
    let host = Host::new();
    let (key, pid) = (new_key(), host.folder.path().join("pid"));
    let dir = host.attempt_dir(key);
    std::fs::create_dir(&dir).unwrap();
    // Between its fork and its start a command has the supervisor's environment and session, and no marker of its own.
    let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
    let mut supervisor = Command::new("setsid")
        .args(["sh", "-c", &script])
        .env("STELLA_SUPERVISOR", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let forked = wait_for_pid(&pid).await;
    let given = given_to(key, i32::try_from(supervisor.id()).unwrap());
    std::fs::write(dir.join("record"), format!("{given}\n{}\n", started_by(&given))).unwrap();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    unconfirmed(&recover(&dir, key, PATIENCE).await);
    assert!(!is_alive(forked));
}

#[tokio::test]
async fn an_agent_that_loses_a_supervisor_ends_its_tree() {
    let host = Host::new();
    let pid = host.folder.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", pid.display());
    let task = host.start(TaskSpec::Command(shell(&script)));
    let command = wait_for_pid(&pid).await;
    sigkill(supervisor_pid(&task.attempt_dir));
    let TaskOutcome::Unknown { reason } = task.run.await.unwrap() else { panic!("without a control group") };
    assert!(reason.contains("its supervisor was killed"), "{reason}");
    assert!(!is_alive(command));
}

#[tokio::test]
async fn a_process_that_hides_from_its_marker_is_told_and_not_killed() {
    let host = Host::new();
    let (pid, hidden) = (host.folder.path().join("pid"), host.folder.path().join("hidden"));
    let key = new_key();
    let dir = host.attempt_dir(key);
    // Its parent ends at once, so nothing but the session connects it with the command.
    let script = format!(
        "(env -i /bin/sh -c 'echo $$ > {}; exec sleep 60' &); echo $$ > {}; exec sleep 60",
        hidden.display(),
        pid.display()
    );
    let agent = Agent::start(&dir, key, &script);
    let (command, hidden) = (wait_for_pid(&pid).await, wait_for_pid(&hidden).await);
    agent.kill();
    sigkill(supervisor_pid(&dir));
    let found = recover(&dir, key, PATIENCE).await;
    let Recovered::Unknown { reason, started_at: Some(_) } = found else { panic!("{found:?}") };
    assert!(reason.contains(&hidden.to_string()), "{reason}");
    assert!(!is_alive(command) && is_alive(hidden));
    sigkill(hidden);
}

#[tokio::test]
async fn an_attempt_without_a_record_never_started() {
    let host = Host::new();
    let key = new_key();
    assert_eq!(recover(&host.attempt_dir(key), key, PATIENCE).await, Recovered::NeverStarted);
    std::fs::create_dir(host.attempt_dir(key)).unwrap();
    assert_eq!(recover(&host.attempt_dir(key), key, PATIENCE).await, Recovered::NeverStarted);
    // The first line is written before a supervisor hears of the attempt: torn, it proves that none did.
    std::fs::write(host.attempt_dir(key).join("record"), "{\"Given\":{\"key\"").unwrap();
    assert_eq!(recover(&host.attempt_dir(key), key, PATIENCE).await, Recovered::NeverStarted);
}

#[tokio::test]
async fn a_record_of_another_boot_means_that_all_is_gone() {
    let host = Host::new();
    let pid = host.folder.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", pid.display());
    let task = host.start(TaskSpec::Command(shell(&script)));
    let command = wait_for_pid(&pid).await;
    let record = std::fs::read_to_string(task.attempt_dir.join("record")).unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = host.attempt_dir(new_key());
    std::fs::create_dir(&other).unwrap();
    let rebooted = record.replace(boot_id.trim_end(), "00000000-0000-0000-0000-000000000000");
    assert_ne!(record, rebooted);
    std::fs::write(other.join("record"), rebooted).unwrap();
    let found = recover(&other, task.key, PATIENCE).await;
    assert!(matches!(found, Recovered::Interrupted { started_at: Some(_) }), "{found:?}");
    assert!(is_alive(command), "process ids of another boot were signalled");
    sigkill(command);
    assert!(matches!(task.run.await.unwrap(), TaskOutcome::Failed { exit_code: None, .. }));
}

#[tokio::test]
async fn a_record_of_a_supervisor_that_served_one_attempt_only_is_understood() {
    let host = Host::new();
    let key = new_key();
    let dir = host.attempt_dir(key);
    std::fs::create_dir(&dir).unwrap();
    let started = serde_json::json!({ "Started": {
        "key": key, "supervisor": { "pid": 1, "start_time": 0 }, "boot_id": "another boot", "at": 5
    } });
    std::fs::write(dir.join("record"), format!("{started}\n")).unwrap();
    let interrupted = Recovered::Interrupted { started_at: Some(Timestamp(5)) };
    assert_eq!(recover(&dir, key, PATIENCE).await, interrupted);
    let ended = serde_json::json!({ "Ended": {
        "started_at": 5, "ended_at": 6, "end": { "Exited": { "code": 0 } }, "stop": null, "tree_gone": true
    } });
    std::fs::write(dir.join("record"), format!("{started}\n{ended}\n")).unwrap();
    let found = recover(&dir, key, PATIENCE).await;
    assert!(matches!(found, Recovered::Finished { outcome: TaskOutcome::Succeeded, .. }), "{found:?}");
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_unknown() {
    let host = Host::new();
    let key = new_key();
    std::fs::create_dir(host.attempt_dir(key)).unwrap();
    std::fs::write(host.attempt_dir(key).join("record"), "not a record\n").unwrap();
    let found = recover(&host.attempt_dir(key), key, PATIENCE).await;
    assert!(matches!(found, Recovered::Unknown { .. }), "{found:?}");
}

#[tokio::test]
async fn a_check_that_was_broken_off_is_interrupted_and_its_command_ended() {
    let host = Host::new();
    let pid = host.folder.path().join("pid");
    let probe = Probe::Command(shell(&format!("echo $$ > {}; exec sleep 60", pid.display())));
    let spec = CheckSpec { probe, interval_ms: 10, successes: 1, timeout_ms: 60_000 };
    let dispatch = dispatch(TaskSpec::Check(spec));
    let task = host.start_dispatch(dispatch.clone());
    let command = wait_for_pid(&pid).await;
    // As if the agent had gone: nobody listens any more.
    task.run.abort();
    assert!(task.run.await.unwrap_err().is_cancelled());
    let found = Executor::recover(&dispatch, &task.attempt_dir, PATIENCE).await;
    assert_eq!(found, Recovered::Interrupted { started_at: None });
    assert!(!is_alive(command));
}
