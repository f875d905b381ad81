//! `command` tasks with real processes under the real supervisor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::hung::Hung;
use common::{Host, Output, PATIENCE, dispatch, failure, is_alive, shell, wait_for, wait_for_pid};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use stella_agent::cancel::CancelRequest;
use stella_agent::host::PREPARED_MAX;
use stella_agent::supervisor::{SPOOL_BYTES_MAX, spooled};
use stella_protocol::message::{Dispatch, TaskOutcome};
use stella_protocol::spec::{CommandSpec, TaskSpec};

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    let host = Host::new();
    assert_eq!(host.run(TaskSpec::Command(shell("true"))).await.0, TaskOutcome::Succeeded);
    assert_eq!(
        host.run(TaskSpec::Command(shell("exit 42"))).await.0,
        TaskOutcome::Failed { reason: "the command exited with code 42".to_owned(), exit_code: Some(42) }
    );
    let (killed, _) = host.run(TaskSpec::Command(shell("kill -9 $$"))).await;
    assert_eq!(failure(&killed), "the command was ended by signal 9 (SIGKILL)");
}

#[tokio::test]
async fn a_command_has_neither_the_agents_protection_from_a_lack_of_memory_nor_its_many_files() {
    // As the agent's unit sets it; not every machine lets a test do that, and then there is nothing to inherit.
    let is_protected = std::fs::write("/proc/self/oom_score_adj", "-500").is_ok();
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    assert!(files > 1024, "{files}");
    let script = "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj; ulimit -Sn";
    let (outcome, output) = Host::new().run(TaskSpec::Command(shell(script))).await;
    assert_eq!(outcome, TaskOutcome::Succeeded);
    let supervisor = if is_protected { "-500" } else { "0" };
    assert_eq!(output.stdout, format!("0\n{supervisor}\n1024\n"));
    let raised = format!("ulimit -Sn {files} && ulimit -Sn");
    let (_, output) = Host::new().run(TaskSpec::Command(shell(&raised))).await;
    assert_eq!(output.stdout, format!("{files}\n"), "it may ask for as many as before");
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let host = Host::new();
    let argv = |program: &str| CommandSpec { argv: vec![program.to_owned()], ..shell("") };
    for (spec, word) in [
        (argv("no-such-program-anywhere"), "is not in PATH"),
        (argv("/no/such/program"), "\"/no/such/program\""),
        (argv("/etc/passwd"), "Permission denied"),
        (CommandSpec { argv: Vec::new(), ..shell("") }, "argv is empty"),
        (CommandSpec { working_directory: Some("not/there".to_owned()), ..shell("") }, "not/there"),
        (CommandSpec { working_directory: Some("../..".to_owned()), ..shell("") }, "leaves the host root"),
        (CommandSpec { user: Some("nobody-has-this-name".to_owned()), ..shell("") }, "there is no user"),
    ] {
        let (outcome, _) = host.run(TaskSpec::Command(spec)).await;
        assert!(failure(&outcome).contains(word), "{word:?} is not in {outcome:?}");
    }
}

#[tokio::test]
async fn a_slot_that_nothing_was_brought_to_yet_is_created_for_its_first_command() {
    let host = Host::new();
    let first = Dispatch { slot: Some("blue".to_owned()), ..dispatch(TaskSpec::Command(shell("pwd"))) };
    let mut task = host.start_dispatch(first);
    let mut output = Output::default();
    while let Some(chunk) = tokio::time::timeout(PATIENCE, task.output.recv()).await.unwrap() {
        output.add(&chunk);
    }
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Succeeded);
    assert!(output.stdout.trim_end().ends_with("/blue"), "{}", output.stdout);
}

#[tokio::test]
async fn output_is_live_and_kept() {
    let host = Host::new();
    let go = host.folder.path().join("go");
    let script = format!(
        "echo first; echo error >&2; while [ ! -e {} ]; do sleep 0.01; done; echo last",
        go.display()
    );
    let mut task = host.start(TaskSpec::Command(shell(&script)));
    let mut output = Output::default();
    while output.stdout != "first\n" || output.stderr != "error\n" {
        output.add(&tokio::time::timeout(PATIENCE, task.output.recv()).await.unwrap().unwrap());
    }
    std::fs::write(go, "").unwrap();
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Succeeded);
    while let Some(chunk) = task.output.recv().await {
        output.add(&chunk);
    }
    assert_eq!(output.stdout, "first\nlast\n");

    let mut kept = Output::default();
    spooled(&task.attempt_dir).unwrap().for_each(|chunk| kept.add(&chunk.unwrap()));
    assert_eq!((kept.stdout, kept.stderr), (output.stdout, output.stderr));
}

#[tokio::test]
async fn all_of_a_long_output_is_streamed_and_a_bounded_part_is_kept() {
    let host = Host::new();
    let bytes = SPOOL_BYTES_MAX + 1_000_000;
    let mut task = host.start(TaskSpec::Command(shell(&format!("head -c {bytes} /dev/zero"))));
    let mut streamed = 0;
    while let Some(chunk) = task.output.recv().await {
        streamed += chunk.bytes.len() as u64;
    }
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Succeeded);
    assert_eq!(streamed, bytes);
    let mut kept = Output::default();
    spooled(&task.attempt_dir).unwrap().for_each(|chunk| kept.add(&chunk.unwrap()));
    assert!(kept.stdout.len() as u64 <= SPOOL_BYTES_MAX && kept.stdout.len() as u64 > SPOOL_BYTES_MAX / 2);
    assert_eq!(kept.agent.matches("too long to be kept").count(), 1);
}

#[tokio::test]
async fn the_environment_is_clean_and_carries_the_trace() {
    let host = Host::new();
    let mut spec = CommandSpec { argv: vec!["env".to_owned()], ..shell("") };
    spec.environment.insert("GREETING".to_owned(), "hello".to_owned());
    spec.environment.insert("STELLA_ATTEMPT_KEY".to_owned(), "not this".to_owned());
    let (outcome, output) = host.run(TaskSpec::Command(spec)).await;
    assert_eq!(outcome, TaskOutcome::Succeeded);
    let names: Vec<&str> = output.stdout.lines().filter_map(|line| line.split('=').next()).collect();
    for name in &names {
        let expected = name.starts_with("STELLA_")
            || ["PATH", "HOME", "TRACEPARENT", "TRACESTATE", "GREETING"].contains(name);
        assert!(expected, "{name} leaked into the command");
    }
    for line in ["GREETING=hello", "STELLA_TARGET=web-1", "STELLA_RELEASE=1.2.3", "STELLA_ATTEMPT=1"] {
        assert!(output.stdout.lines().any(|found| found == line), "{line} is not in {}", output.stdout);
    }
    for line in [
        "TRACEPARENT=00-00000000000000000000000000000abc-0000000000000def-01",
        "TRACESTATE=stella=0000000000000def",
    ] {
        assert!(output.stdout.lines().any(|found| found == line), "{line} is not in {}", output.stdout);
    }
    assert!(!output.stdout.contains("not this"), "the marker can be forged");
}

#[tokio::test]
async fn a_slot_is_where_its_commands_run() {
    let host = Host::new();
    let slot = host.root.path().join("blue");
    std::fs::create_dir(&slot).unwrap();
    let mut dispatch = dispatch(TaskSpec::Command(shell("pwd > here")));
    dispatch.slot = Some("blue".to_owned());
    assert_eq!(host.start_dispatch(dispatch).run.await.unwrap(), TaskOutcome::Succeeded);
    assert_eq!(std::fs::read_to_string(slot.join("here")).unwrap().trim_end(), slot.to_str().unwrap());
}

#[tokio::test]
async fn another_user_has_none_of_roots_groups() {
    if !nix::unistd::Uid::effective().is_root() {
        // Without root there is nobody to become; then the refusal is what there is to test.
        let spec = CommandSpec { user: Some("root".to_owned()), ..shell("id") };
        let (outcome, _) = Host::new().run(TaskSpec::Command(spec)).await;
        assert!(failure(&outcome).contains("does not run as root"));
        return;
    }
    let host = Host::new();
    let spec = CommandSpec {
        user: Some("nobody".to_owned()),
        working_directory: Some("/".to_owned()),
        ..shell("id -u; id -G; echo $USER")
    };
    let (outcome, output) = host.run(TaskSpec::Command(spec)).await;
    assert_eq!(outcome, TaskOutcome::Succeeded, "{output:?}");
    let user = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(output.stdout, format!("{}\n{}\nnobody\n", user.uid, user.gid));
}

/// A shell that ignores TERM, with a grandchild that left its session. Both write their ids first.
fn stubborn_tree(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {folder}/escaped; while :; do sleep 0.05; done' & \
         echo $$ > {folder}/shell; while :; do sleep 0.05; done"
    )
}

#[tokio::test]
async fn a_time_out_ends_the_whole_tree() {
    let host = Host::new();
    let script = stubborn_tree(host.folder.path());
    // The tree has to be there before its time is up; grace is five seconds, which it ignores.
    let task = host.start(TaskSpec::Command(CommandSpec { timeout_ms: 2_000, ..shell(&script) }));
    let escaped = wait_for_pid(&host.folder.path().join("escaped")).await;
    let shell = wait_for_pid(&host.folder.path().join("shell")).await;
    assert!(is_alive(escaped) && is_alive(shell));
    assert_eq!(task.run.await.unwrap(), TaskOutcome::TimedOut);
    assert!(!is_alive(escaped), "a process that left the session survived");
    assert!(!is_alive(shell));
}

#[tokio::test]
async fn a_cancelled_command_ends_with_its_tree_after_the_grace() {
    let host = Host::new();
    let script = stubborn_tree(host.folder.path());
    let task = host.start(TaskSpec::Command(shell(&script)));
    let escaped = wait_for_pid(&host.folder.path().join("escaped")).await;
    task.cancel.request(CancelRequest { grace: Duration::from_millis(100), reason: "a test".to_owned() });
    assert_eq!(tokio::time::timeout(PATIENCE, task.run).await.unwrap().unwrap(), TaskOutcome::Cancelled);
    assert!(!is_alive(escaped));
}

#[tokio::test]
async fn a_cancelled_command_may_end_itself_within_the_grace() {
    let host = Host::new();
    let ready = host.folder.path().join("ready");
    let script = format!(
        "trap 'echo tidied up; exit 0' TERM; echo $$ > {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let mut task = host.start(TaskSpec::Command(shell(&script)));
    wait_for_pid(&ready).await;
    task.cancel.request(CancelRequest { grace: PATIENCE, reason: "a test".to_owned() });
    assert_eq!(tokio::time::timeout(PATIENCE, task.run).await.unwrap().unwrap(), TaskOutcome::Cancelled);
    let mut output = Output::default();
    while let Some(chunk) = task.output.recv().await {
        output.add(&chunk);
    }
    assert_eq!(output.stdout, "tidied up\n");
}

#[tokio::test]
async fn a_cancel_before_the_start_of_the_command_is_not_lost() {
    let host = Host::new();
    let task = host.start(TaskSpec::Command(shell("exec sleep 60")));
    task.cancel.request(CancelRequest { grace: Duration::ZERO, reason: "a test".to_owned() });
    assert_eq!(tokio::time::timeout(PATIENCE, task.run).await.unwrap().unwrap(), TaskOutcome::Cancelled);
}

#[tokio::test]
async fn a_daemon_that_a_command_leaves_behind_is_left_alone() {
    let host = Host::new();
    let pid = host.folder.path().join("daemon");
    let script = format!("setsid sleep 60 >/dev/null 2>&1 & echo $! > {}", pid.display());
    let (outcome, _) = host.run(TaskSpec::Command(shell(&script))).await;
    assert_eq!(outcome, TaskOutcome::Succeeded);
    let daemon = wait_for_pid(&pid).await;
    assert!(is_alive(daemon), "the daemon was ended with the command");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_daemon_that_holds_the_output_open_does_not_hold_up_the_end() {
    let host = Host::new();
    let pid = host.folder.path().join("daemon");
    let script = format!("sleep 60 & echo $! > {}; echo started", pid.display());
    let (outcome, output) = host.run(TaskSpec::Command(shell(&script))).await;
    assert_eq!((outcome, output.stdout.as_str()), (TaskOutcome::Succeeded, "started\n"));
    let daemon = wait_for_pid(&pid).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("the daemon's end", || !is_alive(daemon)).await;
}

#[tokio::test]
async fn an_attempt_runs_once() {
    let host = Host::new();
    let count = host.folder.path().join("count");
    let dispatch = dispatch(TaskSpec::Command(shell(&format!("echo ran >> {}", count.display()))));
    assert_eq!(host.start_dispatch(dispatch.clone()).run.await.unwrap(), TaskOutcome::Succeeded);
    let again = host.start_dispatch(dispatch).run.await.unwrap();
    assert!(failure(&again).contains("has been started before"), "{again:?}");
    assert_eq!(std::fs::read_to_string(count).unwrap(), "ran\n");
}

#[tokio::test]
async fn nothing_of_the_environment_is_on_the_agents_disk() {
    let host = Host::new();
    let mut spec = shell("echo done");
    spec.environment.insert("PASSWORD".to_owned(), "correct-horse-battery".to_owned());
    let task = host.start(TaskSpec::Command(spec));
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Succeeded);
    for entry in std::fs::read_dir(&task.attempt_dir).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("correct-horse"));
    }
}

#[tokio::test]
async fn a_slot_that_does_not_answer_holds_up_no_other() {
    let host = Host::new();
    let in_slot = |slot: &str, timeout_ms| {
        let spec = CommandSpec { timeout_ms, ..shell("true") };
        Dispatch { slot: Some(slot.to_owned()), ..dispatch(TaskSpec::Command(spec)) }
    };
    let path = host.root.path().join("remote");
    std::fs::create_dir(&path).unwrap();
    let hung = Hung::over(&path);
    for _ in 0..2 * PREPARED_MAX {
        let task = host.start_dispatch(in_slot("remote", 200));
        assert_eq!(task.run.await.unwrap(), TaskOutcome::TimedOut);
    }
    let task = host.start_dispatch(in_slot("local", 30_000));
    assert_eq!(task.run.await.unwrap(), TaskOutcome::Succeeded);
    drop(hung);
}

#[test]
fn a_host_root_that_does_not_answer_holds_up_the_tasks_that_need_it_and_nothing_else() {
    let threads = PREPARED_MAX + 1;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(threads).build().unwrap().block_on(async {
        let host = Host::new();
        let hung = Hung::over(host.root.path());
        let tasks: Vec<_> = (0..2 * threads).map(|_| host.start(TaskSpec::Command(shell("true")))).collect();
        let quick = CommandSpec { timeout_ms: 200, ..shell("true") };
        let (outcome, output) = host.run(TaskSpec::Command(quick)).await;
        assert_eq!(outcome, TaskOutcome::TimedOut);
        assert!(output.agent.contains("did not answer"), "{output:?}");
        // The agent's own work on the disk goes on.
        tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(|| ())).await.unwrap().unwrap();
        for mut task in tasks {
            task.cancel.request(CancelRequest { grace: Duration::ZERO, reason: "a test".to_owned() });
            let outcome = tokio::time::timeout(PATIENCE, &mut task.run).await.unwrap().unwrap();
            assert_eq!(outcome, TaskOutcome::Cancelled);
        }
        drop(hung);
        assert_eq!(host.run(TaskSpec::Command(shell("true"))).await.0, TaskOutcome::Succeeded);
    });
}
