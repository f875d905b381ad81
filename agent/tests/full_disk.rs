//! A disk that takes nothing more: what the agent has promised and what is on its disk may differ, so it stops and says so. Needs root,
//! to mount a small disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

mod common;
mod control_plane;

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use common::disk::Disk;
use control_plane::{ControlPlane, DAY, dispatch, on, soon};
use stella_protocol::id::AttemptKey;
use stella_protocol::session::control::ControlEvent;
use tokio::process::{Child, Command};

/// More than fits on what is left of the disk in any way that the journal writes.
const DISPATCHES_MAX: u128 = 200;

/// The agent's program, which writes its log to `log`.
fn start(state: &Path, root: &Path, log: &Path) -> Child {
    let config = log.with_extension("toml");
    fs::write(&config, "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stella-agent"));
    command.arg("run").arg("--config").arg(config).arg("--state-dir").arg(state).arg("--host-root").arg(root);
    command.args(["--reserve-bytes", "0", "--log-format", "json", "--drain-seconds", "0"]);
    let out = File::options().create(true).append(true).open(log).unwrap();
    command
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn exit_code(agent: &mut Child) -> Option<i32> {
    soon("the agent's end", agent.wait()).await.unwrap().code()
}

#[tokio::test]
async fn an_agent_whose_commit_fails_stops_and_knows_afterwards_what_it_has_promised() {
    let control_plane = ControlPlane::start();
    let (disk, folder) = (Disk::mount(), tempfile::tempdir().unwrap());
    let (state, root, log) =
        (disk.path().join("state"), folder.path().join("root"), folder.path().join("log"));
    stella_agent::identity::create_state_dir(&state).unwrap();
    control_plane.enrol(&state, DAY);
    let mut agent = start(&state, &root, &log);
    let (mut peer, hello) = control_plane.welcome().await;
    assert!(hello.open.is_empty());

    let mut promised: Vec<AttemptKey> = Vec::new();
    peer.dispatch(on(dispatch(1, "true"), 1, 1)).await;
    let first = peer.finished().await;
    promised.push(first.key);
    disk.leave(0);
    let mut task = 1;
    let code = loop {
        task += 1;
        assert!(task < DISPATCHES_MAX, "the disk is full, and {task} attempts were accepted");
        let next = on(dispatch(task, &format!("true # {}", "x".repeat(20_000))), task, 1);
        // An agent that has stopped takes nothing, and says nothing.
        if peer.session.dispatch(Box::new(next)).is_ok() {
            while let Some(bytes) = peer.session.poll_transmit() {
                peer.send.write_all(&bytes).await.ok();
            }
        }
        match peer.report().await {
            ControlEvent::Accepted(accepted) => promised.push(accepted.key),
            ControlEvent::Closed(_) => break exit_code(&mut agent).await,
            _ => {}
        }
    };
    assert_eq!(code, Some(1));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("what is promised and what is on disk may differ"), "{said}");

    disk.give_back();
    let mut agent = start(&state, &root, &log);
    let (_peer, hello) = control_plane.greet().await;
    for key in promised {
        assert!(hello.open.iter().any(|open| open.key == key), "{key} was promised and is forgotten");
    }
    agent.kill().await.unwrap();
}
