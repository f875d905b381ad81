//! Supervisors that serve one attempt after the other: only when nothing of the one before can touch the next.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{
    Host, PATIENCE, Task, is_alive, new_key, shell, supervised_shell, supervisor_pid, wait_for, wait_for_pid,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_agent::cancel::CancelRequest;
use stella_agent::supervisor::{Recovered, StartError, Supervisor, recover, restore_names};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{CommandSpec, TaskSpec};

/// Runs a command to its end; the supervisor that it had.
async fn run(host: &Host, spec: CommandSpec, outcome: &TaskOutcome) -> i32 {
    let Task { run, attempt_dir, .. } = host.start(TaskSpec::Command(spec));
    assert_eq!(run.await.unwrap(), *outcome);
    supervisor_pid(&attempt_dir)
}

async fn succeed(host: &Host, script: &str) -> i32 {
    run(host, shell(script), &TaskOutcome::Succeeded).await
}

#[tokio::test]
async fn one_supervisor_serves_one_attempt_after_the_other() {
    let host = Host::new();
    let first = succeed(&host, "true").await;
    assert_eq!(succeed(&host, "echo words; echo more >&2").await, first);
    let failed =
        TaskOutcome::Failed { reason: "the command exited with code 3".to_owned(), exit_code: Some(3) };
    assert_eq!(run(&host, shell("exit 3"), &failed).await, first);
    // One that could not be started leaves nothing behind either.
    let nothing = CommandSpec { argv: vec!["/no/such/program".to_owned()], ..shell("") };
    let Task { run, attempt_dir, .. } = host.start(TaskSpec::Command(nothing));
    assert!(matches!(run.await.unwrap(), TaskOutcome::Failed { .. }));
    assert_eq!(supervisor_pid(&attempt_dir), first);
    assert_eq!(succeed(&host, "true").await, first);
    host.supervisor.rest();
    wait_for("the supervisor's end", || !is_alive(first)).await;
}

#[tokio::test]
async fn attempts_side_by_side_have_supervisors_of_their_own() {
    let host = Host::new();
    let go = host.folder.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
    let tasks = [0; 3].map(|_| host.start(TaskSpec::Command(shell(&script))));
    for task in &tasks {
        wait_for("a start", || {
            fs::read_to_string(task.attempt_dir.join("record")).is_ok_and(|record| record.contains("Spawned"))
        })
        .await;
    }
    let mut pids = tasks.each_ref().map(|task| supervisor_pid(&task.attempt_dir));
    pids.sort_unstable();
    assert!(pids[0] != pids[1] && pids[1] != pids[2], "{pids:?}");
    fs::write(go, "").unwrap();
    for task in tasks {
        assert_eq!(task.run.await.unwrap(), TaskOutcome::Succeeded);
    }
}

#[tokio::test]
async fn a_supervisor_leaves_when_its_command_leaves_something_behind() {
    let host = Host::new();
    let pid = host.folder.path().join("pid");
    let daemon = format!("setsid sleep 60 >/dev/null 2>&1 & echo $! > {}", pid.display());
    let first = succeed(&host, &daemon).await;
    let daemon = wait_for_pid(&pid).await;
    let second = succeed(&host, "true").await;
    assert_ne!(first, second, "the next command shares a supervisor with a process of the one before");
    assert!(is_alive(daemon) && !is_alive(first));
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_supervisor_that_was_asked_to_end_its_command_gets_no_other() {
    let host = Host::new();
    let pid = host.folder.path().join("pid");
    let task = host.start(TaskSpec::Command(shell(&format!("echo $$ > {}; exec sleep 60", pid.display()))));
    wait_for_pid(&pid).await;
    let grace = Duration::from_secs(1);
    task.cancel.request(CancelRequest { grace, reason: "a test".to_owned() });
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Cancelled);
    let first = supervisor_pid(&task.attempt_dir);
    assert_ne!(succeed(&host, "true").await, first);
    wait_for("the supervisor's end", || !is_alive(first)).await;
}

#[tokio::test]
async fn a_supervisor_that_was_killed_while_it_waited_is_replaced() {
    let host = Host::new();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let first = succeed(&host, "true").await;
        assert!(is_alive(first), "it was not kept");
        kill(Pid::from_raw(first), signal).unwrap();
        wait_for("the supervisor's end", || !is_alive(first)).await;
        assert_ne!(succeed(&host, "true").await, first);
        host.supervisor.rest();
    }
}

#[tokio::test]
async fn a_second_command_has_the_signals_of_the_first() {
    let host = Host::new();
    let blocked = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let (first, second) = (shell(blocked), shell(blocked));
    let (_, first) = host.run(TaskSpec::Command(first)).await;
    let (_, second) = host.run(TaskSpec::Command(second)).await;
    assert!(first.stdout.contains("SigBlk:\t0000000000000000"), "{}", first.stdout);
    assert_eq!(
        first.stdout, second.stdout,
        "a command inherits what its predecessor's supervisor has blocked"
    );
}

#[tokio::test]
async fn a_folder_that_served_one_attempt_serves_the_next_without_its_past() {
    let host = Host::new();
    let first = host.start(TaskSpec::Command(shell("exit 3")));
    assert!(matches!(first.run.await.unwrap(), TaskOutcome::Failed { .. }));
    let inode = |dir: &Path| fs::metadata(dir.join("record")).unwrap().ino();
    let record = inode(&first.attempt_dir);
    host.supervisor.forget(first.attempt_dir.clone()).unwrap();

    let second = host.start(TaskSpec::Command(shell("true")));
    assert_eq!(second.run.await.unwrap(), TaskOutcome::Succeeded);
    assert_eq!(inode(&second.attempt_dir), record, "the record was made anew");
    assert!(!first.attempt_dir.exists());
    let found = recover(&second.attempt_dir, second.key, PATIENCE).await;
    assert!(matches!(found, Recovered::Finished { outcome: TaskOutcome::Succeeded, .. }), "{found:?}");
    // An agent that died before it wrote over the record has left the one before under the new name.
    let found = recover(&second.attempt_dir, new_key(), PATIENCE).await;
    assert_eq!(found, Recovered::NeverStarted);

    host.supervisor.forget(second.attempt_dir.clone()).unwrap();
    assert!(second.attempt_dir.exists(), "it was not kept");
    host.supervisor.rest();
    assert!(!second.attempt_dir.exists());
}

#[tokio::test]
async fn a_folder_that_lost_its_new_name_in_a_power_cut_is_found_by_its_record() {
    let host = Host::new();
    let first = host.start(TaskSpec::Command(shell("true")));
    assert_eq!(first.run.await.unwrap(), TaskOutcome::Succeeded);
    host.supervisor.forget(first.attempt_dir.clone()).unwrap();
    let second = host.start(TaskSpec::Command(shell("exit 3")));
    assert!(matches!(second.run.await.unwrap(), TaskOutcome::Failed { .. }));
    // Nothing makes the rename durable; this is what the disk may have of it.
    fs::rename(&second.attempt_dir, &first.attempt_dir).unwrap();

    let attempts = second.attempt_dir.parent().unwrap();
    fs::create_dir(attempts.join("without-a-record")).unwrap();
    fs::write(attempts.join("a-file"), "").unwrap();
    restore_names(attempts, |key| (key == second.key).then(|| second.attempt_dir.clone())).unwrap();
    assert!(!first.attempt_dir.exists());
    let found = recover(&second.attempt_dir, second.key, PATIENCE).await;
    let Recovered::Finished { outcome: TaskOutcome::Failed { exit_code, .. }, .. } = found else {
        panic!("{found:?}")
    };
    assert_eq!(exit_code, Some(3));
    // Once more, and for an attempt that does not matter any more: nothing is touched.
    restore_names(attempts, |_| None).unwrap();
    assert!(second.attempt_dir.exists());
}

#[tokio::test]
async fn a_folder_with_more_than_a_record_is_removed() {
    let host = Host::new();
    let first = host.start(TaskSpec::Command(shell("echo kept output")));
    assert_eq!(first.run.await.unwrap(), TaskOutcome::Succeeded);
    host.supervisor.forget(first.attempt_dir.clone()).unwrap();
    assert!(!first.attempt_dir.exists());
}

#[tokio::test]
async fn a_kept_folder_never_takes_the_place_of_one_that_exists() {
    let host = Host::new();
    let first = host.start(TaskSpec::Command(shell("true")));
    assert_eq!(first.run.await.unwrap(), TaskOutcome::Succeeded);
    host.supervisor.forget(first.attempt_dir).unwrap();
    let key = new_key();
    let dir = host.attempt_dir(key);
    fs::create_dir(&dir).unwrap();
    let started = host.supervisor.start(&dir, supervised_shell(key, "true")).await;
    assert!(matches!(started, Err(StartError::StartedBefore(_))), "{started:?}");
}

/// The system calls of supervisors about their records.
struct Traced {
    host: Host,
    trace: PathBuf,
}

impl Traced {
    fn new() -> Self {
        let mut host = Host::new();
        let (trace, program) = (host.folder.path().join("trace"), host.folder.path().join("traced-agent"));
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/strace -f -y -e trace=pwrite64,fdatasync -o {} {} \"$@\"\n",
            trace.display(),
            env!("CARGO_BIN_EXE_stella-agent"),
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        host.supervisor = Supervisor::at(program);
        Self { host, trace }
    }

    /// What was written to the records so far, and where the barriers are.
    fn calls(&self) -> Vec<&'static str> {
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        let about_records = trace.lines().filter(|line| line.contains("/record>"));
        about_records
            .filter_map(|line| {
                let known = ["Started", "Spawned", "Ended", "fdatasync"];
                known.into_iter().find(|word| line.contains(word))
            })
            .collect()
    }
}

#[tokio::test]
async fn the_end_of_a_command_is_durable_once_no_agent_is_there_to_write_it_down() {
    const ONE: [&str; 4] = ["Started", "fdatasync", "Spawned", "Ended"];
    let traced = Traced::new();
    succeed(&traced.host, "true").await;
    assert_eq!(traced.calls(), ONE, "the agent's journal makes the end durable, and it waits for no barrier");
    succeed(&traced.host, "true").await;
    assert_eq!(traced.calls(), [ONE, ONE].concat());
    // As if the agent had died before it wrote down what it was told.
    traced.host.supervisor.rest();
    wait_for("the last barrier", || traced.calls() == [&ONE[..], &ONE, &["fdatasync"]].concat()).await;
}

#[tokio::test]
async fn an_end_that_no_agent_hears_is_durable_at_once() {
    let traced = Traced::new();
    let go = traced.host.folder.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
    let task = traced.host.start(TaskSpec::Command(shell(&script)));
    wait_for("the start", || traced.calls().contains(&"Spawned")).await;
    task.run.abort();
    wait_for("the agent's side to be gone", || task.run.is_finished()).await;
    fs::write(go, "").unwrap();
    wait_for("the barrier", || traced.calls() == ["Started", "fdatasync", "Spawned", "Ended", "fdatasync"])
        .await;
}
