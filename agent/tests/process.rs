//! The agent's binary as a process: small when idle, orderly at TERM, clear when it cannot start.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

mod control_plane;

use std::fs;
use std::process::{Output, Stdio};

use control_plane::{ControlPlane, Home, dispatch, soon, until_file_is};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_protocol::message::TaskOutcome;
use stella_protocol::session::CloseReason;
use stella_protocol::session::control::ControlEvent;
use tokio::process::{Child, Command};

/// What an idle agent may have resident.
const RESIDENT_KIB_MAX: u64 = 15 * 1024;

fn agent(home: &Home, arguments: &[&str]) -> Command {
    let config = home.dir.path().join("agent.toml");
    if !config.exists() {
        fs::write(&config, "reserve_bytes = 0\n[log]\nformat = \"json\"\n").unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_stella-agent"));
    command.args(arguments).arg("--config").arg(config).arg("--state-dir").arg(home.state());
    command.arg("--host-root").arg(home.root()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(mut command: Command) -> Output {
    soon("the agent's end", command.output()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id().unwrap()).unwrap()
}

/// A line of `/proc/<pid>/status`, in KiB.
fn resident_kib(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_idle_agent_is_small_and_stops_in_order() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let child = agent(&home, &["run"]).spawn().unwrap();
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "true")).await;
    let finished = peer.finished().await;
    assert_eq!(finished.outcome, TaskOutcome::Succeeded);
    peer.acknowledge(finished.key).await;
    for _ in 0..20 {
        assert!(matches!(peer.next().await, ControlEvent::Heartbeat(_)));
    }
    // What a debug build maps of its own large file is not the agent's need; what it has written to memory is.
    let anonymous = resident_kib(pid(&child), "RssAnon:");
    assert!(anonymous < RESIDENT_KIB_MAX, "{anonymous} KiB");

    kill(Pid::from_raw(pid(&child)), Signal::SIGTERM).unwrap();
    loop {
        match peer.next().await {
            ControlEvent::Closed(CloseReason::Goodbye) => break,
            ControlEvent::Closed(reason) => panic!("no goodbye: {reason:?}"),
            _ => {}
        }
    }
    let output = soon("the agent's end", child.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = text(&output.stdout);
    assert!(log.contains("the agent has stopped") && log.lines().all(|line| line.starts_with('{')), "{log}");
}

#[tokio::test]
async fn two_agents_do_not_share_a_state_folder() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let first = agent(&home, &["run"]).spawn().unwrap();
    let (_peer, _) = control_plane.welcome().await;
    let second = output(agent(&home, &["run"])).await;
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("in use by another process"), "{second:?}");
    drop(first);
}

#[tokio::test]
async fn a_host_that_is_not_enrolled_says_what_to_do() {
    let home = Home::new();
    for command in ["run", "status"] {
        let output = output(agent(&home, &[command])).await;
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains("stella-agent enrol --token"), "{output:?}");
    }
    assert!(!home.state().exists(), "a refusal changes nothing");
}

#[tokio::test]
async fn status_tells_who_the_agent_is() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let output = output(agent(&home, &["status", "--output", "json"])).await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["agent_id"], "00000000-0000-0000-0000-000000000002");
    assert_eq!(status["server"], control_plane.server());
    assert_eq!(status["certificate"]["expired"], false);
    assert!(!text(&output.stdout).contains("key"));
}

#[tokio::test]
async fn a_broken_token_is_refused_without_repeating_it() {
    let home = Home::new();
    let token = home.dir.path().join("token");
    fs::write(&token, "stella-enrol-1.c2VjcmV0LXNlY3JldA").unwrap();
    let from_file = format!("@{}", token.display());
    let output = output(agent(&home, &["enrol", "--server", "127.0.0.1:1", "--token", &from_file])).await;
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains("copy all of it") && !error.contains("c2VjcmV0"), "{error}");
}

/// An agent whose writes fail with an error, and not with a signal, once its files are limited: what is ignored is
/// inherited.
fn agent_that_survives_limits(home: &Home) -> Child {
    let run = agent(home, &["run"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    shell.arg(run.as_std().get_program()).args(run.as_std().get_args());
    shell
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn has_stopped_because_of_the_disk(child: Child) {
    let output = soon("the agent's end", child.wait_with_output()).await.unwrap();
    assert!(!output.status.success(), "it goes on after a failed write: {output:?}");
    let told = text(&output.stderr);
    assert!(told.contains("what is promised and what is on disk may differ"), "{told}");
}

#[tokio::test]
async fn an_acceptance_that_is_not_durable_starts_nothing_and_stops_the_agent() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let child = agent_that_survives_limits(&home);
    let (mut peer, _) = control_plane.welcome().await;
    limit_file_size(pid(&child), 1);
    peer.dispatch(dispatch(1, "echo ran > effect")).await;
    assert!(matches!(peer.report().await, ControlEvent::Closed(_)), "it was said all the same");
    has_stopped_because_of_the_disk(child).await;
    assert!(!home.root().join("effect").exists(), "a task was started that is not durable");
}

#[tokio::test]
async fn a_result_that_is_not_durable_is_not_reported_and_stops_the_agent() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let child = agent_that_survives_limits(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo up > up; while [ ! -e go ]; do sleep 0.02; done")).await;
    until_file_is(&home.root().join("up"), "up\n").await;
    limit_file_size(pid(&child), 1);
    fs::write(home.root().join("go"), "").unwrap();
    loop {
        match peer.report().await {
            ControlEvent::Finished(finished) => panic!("it was said all the same: {finished:?}"),
            ControlEvent::Closed(_) => break,
            _ => {}
        }
    }
    has_stopped_because_of_the_disk(child).await;

    // The next life finds the real result where the supervisor has left it.
    let next = agent(&home, &["run"]).spawn().unwrap();
    let (mut peer, hello) = control_plane.welcome().await;
    assert_eq!(hello.open.len(), 1);
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    drop(next);
}

fn limit_file_size(pid: i32, bytes: u64) {
    let limit = format!("--fsize={bytes}");
    let status =
        std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(status.success());
}
