//! A whole agent against a control plane of a few lines, over real connections, with real commands.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

mod control_plane;

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use control_plane::{
    Agent, ControlPlane, DAY, Home, PATIENCE, Peer, ders, dispatch, key, on, read_frame, read_output, soon,
    until_file, until_file_is,
};
use quinn::RecvStream;
use sha2::{Digest as _, Sha256};
use stella_agent::identity::Identity;
use stella_agent::policy::{Kind, Policy};
use stella_certs::tls::QuicPeer;
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame;
use stella_protocol::id::{AgentId, Attempt, Position};
use stella_protocol::message::{
    ArtifactRequest, ArtifactResponse, Dispatch, EndingStage, JournalMark, OpenAttempt, OutputChunk, Phase,
    RenewRequest, Renewed, TaskOutcome, Trust, capability,
};
use stella_protocol::session::CloseReason;
use stella_protocol::session::control::ControlEvent;
use stella_protocol::spec::{ArtifactSpec, TaskSpec};
use uuid::Uuid;

#[tokio::test]
async fn a_task_runs_once_whatever_is_repeated() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, hello) = control_plane.welcome().await;
    assert_eq!(hello.open, []);
    assert_eq!(hello.control_plane, None);
    assert_eq!(hello.capabilities & capability::COMMAND, capability::COMMAND);

    let task = dispatch(1, "echo ran >> effect; echo said");
    peer.dispatch(task.clone()).await;
    let ControlEvent::Accepted(accepted) = peer.report().await else { panic!("not accepted first") };
    assert_eq!(accepted.key, key(1));
    assert!(accepted.position > hello.journal.position);
    assert!(matches!(peer.report().await, ControlEvent::Running(running) if running.key == key(1)));
    let ControlEvent::Finished(finished) = peer.report().await else { panic!("not finished") };
    assert_eq!(finished.outcome, TaskOutcome::Succeeded);
    assert!(finished.position > accepted.position && finished.started_at.is_some());
    let (header, mut output) = peer.output().await;
    assert_eq!((header.key, header.offset), (key(1), 0));
    assert_eq!(read_output(&mut output, usize::MAX).await, b"said\n");

    // A duplicate is answered from the journal.
    peer.dispatch(task.clone()).await;
    assert_eq!(peer.finished().await, finished);

    // Nothing was acknowledged, so the next session hears it again.
    peer.connection.close(CloseCode::Normal.code().into(), b"");
    let (mut peer, hello) = control_plane.welcome().await;
    assert_eq!(hello.open, [OpenAttempt { key: key(1), phase: Phase::Finished }]);
    assert_eq!(hello.control_plane, Some(control_plane.mark));
    assert!(hello.journal.position >= finished.position);
    assert_eq!(peer.finished().await, finished);
    peer.acknowledge(key(1)).await;

    // Acknowledged, it is forgotten, and still not run again.
    peer.dispatch(task).await;
    assert_eq!(peer.finished().await, finished);
    peer.connection.close(CloseCode::Normal.code().into(), b"");
    let (peer, hello) = control_plane.welcome().await;
    assert_eq!(hello.open, []);
    assert_eq!(fs::read_to_string(home.root().join("effect")).unwrap(), "ran\n");
    drop(peer);
    agent.stop().await;
}

#[tokio::test]
async fn settled_results_are_forgotten_and_heartbeats_come() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "exit 3")).await;
    let finished = peer.finished().await;
    assert!(matches!(finished.outcome, TaskOutcome::Failed { exit_code: Some(3), .. }), "{finished:?}");
    peer.connection.close(CloseCode::Normal.code().into(), b"");

    let (mut peer, hello) = control_plane.greet().await;
    assert_eq!(hello.open.len(), 1);
    // A control plane whose journal went back: it is told in the log, and the session goes on.
    let older = JournalMark { position: Position(1), ..control_plane.mark };
    peer.welcome(older, vec![key(1)]).await;
    let ControlEvent::Heartbeat(beat) = peer.next().await else { panic!("a settled result was reported") };
    assert!(beat.resources.memory_total_bytes > 0 && beat.position >= finished.position);
    peer.connection.close(CloseCode::Normal.code().into(), b"");
    let (_peer, hello) = control_plane.welcome().await;
    assert_eq!((hello.open.as_slice(), hello.control_plane), (&[][..], Some(older)));
    agent.stop().await;
}

/// A control plane of the first versions ends a session in which a frame comes that it does not know.
#[tokio::test]
async fn what_a_control_plane_has_not_asked_for_is_not_said_to_it() {
    let control_plane = ControlPlane::start();
    let home = Home::new();
    stella_agent::identity::create_state_dir(&home.state()).unwrap();
    // So short a life that the certificate is renewed meanwhile.
    control_plane.enrol(&home.state(), Duration::from_secs(6));
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo ran")).await;
    let (mut heartbeats, mut is_finished, mut asks_to_renew) = (0, false, false);
    while heartbeats < 5 || !is_finished || !asks_to_renew {
        match peer.next().await {
            ControlEvent::Heartbeat(_) => heartbeats += 1,
            ControlEvent::Finished(finished) => {
                is_finished = true;
                peer.acknowledge(finished.key).await;
            }
            ControlEvent::Renew(_) => asks_to_renew = true,
            ControlEvent::Accepted(_) | ControlEvent::Running(_) => {}
            newer => panic!("it was not asked for {newer:?}"),
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_newer_generation_ends_the_older_one_first() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let trap = "trap 'echo old >> order; exit 1' TERM; echo up > up; while :; do sleep 0.02; done";
    peer.dispatch(on(dispatch(1, trap), 1, 1)).await;
    peer.dispatch(on(dispatch(2, "echo never >> order"), 1, 1)).await;
    until_file_is(&home.root().join("up"), "up\n").await;
    peer.dispatch(on(dispatch(3, "echo new >> order"), 1, 2)).await;
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let finished = peer.finished().await;
        outcomes.push((finished.key, finished.outcome));
    }
    outcomes.sort_by_key(|(key, _)| *key);
    let expected = [TaskOutcome::Cancelled, TaskOutcome::Cancelled, TaskOutcome::Succeeded];
    assert_eq!(
        outcomes,
        [(key(1), expected[0].clone()), (key(2), expected[1].clone()), (key(3), expected[2].clone())]
    );
    assert_eq!(fs::read_to_string(home.root().join("order")).unwrap(), "old\nnew\n");

    peer.dispatch(on(dispatch(4, "echo stale >> order"), 1, 1)).await;
    let refused = peer.finished().await;
    assert!(
        matches!(&refused.outcome, TaskOutcome::Refused { reason } if reason.contains("superseded")),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(home.root().join("order")).unwrap(), "old\nnew\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_cancelled_task_is_ended() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo up > up; sleep 600")).await;
    until_file_is(&home.root().join("up"), "up\n").await;
    let cancel = stella_protocol::message::Cancel { key: key(1), grace_ms: 1_000 };
    peer.session.cancel(cancel).unwrap();
    peer.transmit().await;
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Cancelled);
    agent.stop().await;
}

#[tokio::test]
async fn how_far_the_end_of_a_task_gets_is_told_to_who_asks_for_it() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, hello) = control_plane.welcome().await;
    assert_eq!(hello.capabilities & capability::ENDING, capability::ENDING);
    for (task, script, wanted) in [
        (1, "echo up > up1; exec sleep 600", &[EndingStage::Delivered, EndingStage::Terminated][..]),
        (
            2,
            "trap '' TERM; echo up > up2; while :; do sleep 0.1; done",
            &[EndingStage::Delivered, EndingStage::Terminated, EndingStage::Killed],
        ),
    ] {
        peer.dispatch(dispatch(task, script)).await;
        until_file_is(&home.root().join(format!("up{task}")), "up\n").await;
        let cancel = stella_protocol::message::Cancel { key: key(task), grace_ms: 300 };
        peer.session.end_attempt(cancel).unwrap();
        peer.transmit().await;
        let mut stages = Vec::new();
        let outcome = loop {
            match peer.report().await {
                ControlEvent::Ending(ending) if ending.key == key(task) => stages.push(ending.stage),
                ControlEvent::Finished(finished) => break finished.outcome,
                ControlEvent::Accepted(_) | ControlEvent::Running(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((outcome, &stages[..]), (TaskOutcome::Cancelled, wanted));
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_real_result_is_reported_after_a_crash() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let script =
        "echo up > up; while [ ! -e go ]; do sleep 0.02; done; echo said; echo ran >> effect; exit 4";
    peer.dispatch(dispatch(1, script)).await;
    until_file_is(&home.root().join("up"), "up\n").await;
    agent.crash().await;
    drop(peer);

    // It ends while there is no agent; its supervisor takes note.
    fs::write(home.root().join("go"), "").unwrap();
    let record = home.state().join(format!("attempts/{}-1/record", key(1).task));
    until_file(&record, |record| record.contains("Ended")).await;
    let agent = Agent::start(&home);
    let (mut peer, hello) = control_plane.welcome().await;
    assert_eq!(hello.open.len(), 1);
    let finished = peer.finished().await;
    assert!(matches!(finished.outcome, TaskOutcome::Failed { exit_code: Some(4), .. }), "{finished:?}");
    let (header, mut output) = peer.output().await;
    assert_eq!((header.key, header.offset), (key(1), 0));
    assert_eq!(read_output(&mut output, usize::MAX).await, b"said\n");
    assert_eq!(fs::read_to_string(home.root().join("effect")).unwrap(), "ran\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_command_that_outlives_a_crash_is_ended_and_interrupted() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo $$ > pid; exec sleep 600")).await;
    until_file(&home.root().join("pid"), |pid| pid.ends_with('\n')).await;
    agent.crash().await;
    drop(peer);
    let pid = fs::read_to_string(home.root().join("pid")).unwrap();
    let process = format!("/proc/{}/stat", pid.trim());
    assert!(fs::exists(&process).unwrap(), "a supervisor keeps the command alive");

    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    // Its target is not free before that is over.
    peer.dispatch(dispatch(2, "true")).await;
    let first = peer.finished().await;
    assert_eq!((first.key, first.outcome), (key(1), TaskOutcome::Interrupted));
    let is_gone = fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z "));
    assert!(is_gone, "the command still runs");
    let second = peer.finished().await;
    assert_eq!((second.key, second.outcome), (key(2), TaskOutcome::Succeeded));
    agent.stop().await;
}

#[tokio::test]
async fn what_has_not_begun_when_the_agent_stops_is_handed_back_and_can_be_sent_again() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    // Of one target, so that the second waits for the first.
    peer.dispatch(dispatch(1, "echo up > up; sleep 600")).await;
    peer.dispatch(dispatch(2, "echo run >> runs")).await;
    until_file_is(&home.root().join("up"), "up\n").await;
    while !matches!(peer.report().await, ControlEvent::Accepted(accepted) if accepted.key == key(2)) {}
    let (finished, ()) = tokio::join!(peer.finished(), agent.stop());
    assert_eq!((finished.key, finished.started_at), (key(2), None));
    assert_eq!(finished.outcome, TaskOutcome::Interrupted);

    let agent = Agent::start(&home);
    let (mut peer, hello) = control_plane.greet().await;
    let phases: Vec<_> = hello.open.iter().map(|open| (open.key, open.phase)).collect();
    assert_eq!(phases, [(key(1), Phase::Running), (key(2), Phase::Finished)]);
    peer.welcome(control_plane.mark, vec![key(2)]).await;
    let finished = peer.finished().await;
    assert_eq!((finished.key, finished.outcome), (key(1), TaskOutcome::Interrupted));
    assert!(finished.started_at.is_some(), "it had begun");
    let again = Dispatch { attempt: Attempt(2), ..dispatch(2, "echo run >> runs") };
    let again_key = again.key();
    peer.dispatch(again).await;
    let finished = peer.finished().await;
    assert_eq!((finished.key, finished.outcome), (again_key, TaskOutcome::Succeeded));
    assert_eq!(fs::read_to_string(home.root().join("runs")).unwrap(), "run\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_command_that_a_new_journal_does_not_know_is_ended_before_anything_starts() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "sleep 600 & echo $! > pid; wait")).await;
    until_file(&home.root().join("pid"), |pid| pid.ends_with('\n')).await;
    agent.crash().await;
    drop(peer);
    // What the agent's own message about a damaged journal says that may be done.
    fs::rename(home.state().join("journal"), home.state().join("journal.damaged")).unwrap();

    let agent = Agent::start(&home);
    let (mut peer, hello) = control_plane.welcome().await;
    assert!(hello.open.is_empty(), "the new journal knows nothing");
    peer.dispatch(dispatch(2, "pid=$(cat pid); ! grep -q ' [RSD] ' /proc/$pid/stat")).await;
    let second = peer.finished().await;
    assert_eq!(
        (second.key, second.outcome),
        (key(2), TaskOutcome::Succeeded),
        "it ran beside the one before"
    );
    let left = home.state().join("attempts").join(format!("{}-{}", key(1).task, key(1).attempt));
    assert!(!left.exists());
    agent.stop().await;
}

#[tokio::test]
async fn output_goes_on_after_a_reconnect() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two")).await;
    let (_, mut output) = peer.output().await;
    assert_eq!(read_output(&mut output, 4).await, b"one\n");
    peer.connection.close(CloseCode::ShuttingDown.code().into(), b"");

    fs::write(home.root().join("go"), "").unwrap();
    let (mut peer, _) = control_plane.welcome().await;
    let (header, mut output) = peer.output().await;
    let rest = read_output(&mut output, usize::MAX).await;
    let offset = usize::try_from(header.offset).unwrap();
    assert!(offset <= 4, "a gap: {header:?}");
    assert_eq!(rest, &b"one\ntwo\n"[offset..]);
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    agent.stop().await;
}

/// Runs a command that prints so much that the line takes it only while somebody reads.
async fn printed(peer: &mut Peer, task: u128, bytes: usize) -> RecvStream {
    peer.dispatch(dispatch(task, &format!("head -c {bytes} /dev/zero"))).await;
    let (_, output) = peer.output().await;
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    peer.acknowledge(key(task)).await;
    output
}

#[tokio::test]
async fn output_comes_after_the_result_for_as_long_as_it_gets_on() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let bytes = 4 << 20;
    let mut output = printed(&mut peer, 1, bytes).await;
    // The pause is what is tried: it is read slowly, for longer than output may stand still.
    let acknowledged = Instant::now();
    let mut read = 0;
    while let Some(chunk) = read_frame::<OutputChunk>(&mut output).await {
        read += chunk.bytes.len();
        if acknowledged.elapsed() < Duration::from_secs(13) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(read, bytes);
    agent.stop().await;
}

#[tokio::test]
async fn output_that_nobody_takes_breaks_off_and_does_not_end_as_if_it_were_all() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let mut output = printed(&mut peer, 1, 4 << 20).await;
    let broken = tokio::time::timeout(2 * PATIENCE, output.received_reset()).await;
    assert!(broken.unwrap().unwrap().is_some(), "it has come to its end");
    peer.dispatch(dispatch(2, "true")).await;
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    agent.stop().await;
}

/// As much as the control plane keeps of one attempt comes to it, however fast it is printed and however slow the line is.
#[tokio::test]
async fn output_that_the_control_plane_would_keep_is_not_lost() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let bytes = 15 << 20;
    // It is not read before all of it is printed.
    peer.dispatch(dispatch(1, &format!("head -c {bytes} /dev/zero; echo up > up"))).await;
    let (_, mut output) = peer.output().await;
    until_file_is(&home.root().join("up"), "up\n").await;
    assert_eq!(read_output(&mut output, usize::MAX).await.len(), bytes);
    agent.stop().await;
}

#[tokio::test]
async fn output_behind_what_is_kept_comes_in_a_stream_of_its_own() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let script =
        "head -c 20000000 /dev/zero; echo up > up; while [ ! -e go ]; do sleep 0.02; done; echo last";
    peer.dispatch(dispatch(1, script)).await;
    let (_, mut output) = peer.output().await;
    until_file_is(&home.root().join("up"), "up\n").await;
    let kept = read_output(&mut output, usize::MAX).await;
    let (header, mut output) = peer.output().await;
    assert!(kept.len() > 1 << 20 && header.offset > kept.len() as u64, "{} and {header:?}", kept.len());
    fs::write(home.root().join("go"), "").unwrap();
    assert!(read_output(&mut output, usize::MAX).await.ends_with(b"\0last\n"));
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn output_that_is_refused_comes_again() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo said; while [ ! -e go ]; do sleep 0.02; done")).await;
    let (_, mut output) = peer.output().await;
    assert_eq!(read_frame::<OutputChunk>(&mut output).await.unwrap().bytes, b"said\n");
    // There was no room for it, and nothing follows.
    output.stop(CloseCode::Overloaded.code().into()).unwrap();
    // Behind it on the same line.
    peer.dispatch(on(dispatch(2, "true"), 2, 1)).await;
    assert_eq!(peer.finished().await.key, key(2));
    fs::write(home.root().join("go"), "").unwrap();
    assert_eq!(peer.finished().await.key, key(1));
    peer.connection.close(CloseCode::ShuttingDown.code().into(), b"");
    let (peer, _) = control_plane.welcome().await;
    let (header, mut output) = peer.output().await;
    assert_eq!((header.key, header.offset), (key(1), 0));
    assert_eq!(read_output(&mut output, usize::MAX).await, b"said\n");
    agent.stop().await;
}

/// Where many tasks print at once, a stream may have to wait for its turn for longer than output may stand still.
#[tokio::test]
async fn output_that_waits_for_a_stream_is_not_given_up() {
    let control_plane = ControlPlane::start_with_streams(1);
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(1, "echo one; while [ ! -e go ]; do sleep 0.02; done")).await;
    let (_, mut first) = peer.output().await;
    peer.dispatch(on(dispatch(2, "echo two"), 2, 1)).await;
    assert_eq!(peer.finished().await.key, key(2));
    peer.acknowledge(key(2)).await;
    tokio::time::sleep(Duration::from_secs(13)).await;
    fs::write(home.root().join("go"), "").unwrap();
    assert_eq!(read_output(&mut first, usize::MAX).await, b"one\n");
    let (header, mut second) = peer.output().await;
    assert_eq!(header.key, key(2));
    assert_eq!(read_output(&mut second, usize::MAX).await, b"two\n");
    agent.stop().await;
}

/// A control plane of before lets as many streams be open as there are tasks.
#[tokio::test]
async fn output_behind_what_is_kept_comes_where_no_other_stream_may_be_open() {
    let control_plane = ControlPlane::start_with_streams(1);
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    peer.dispatch(dispatch(
        1,
        "head -c 20000000 /dev/zero; echo up > up; while [ ! -e go ]; do sleep 0.02; done; echo last",
    ))
    .await;
    let (_, mut output) = peer.output().await;
    until_file_is(&home.root().join("up"), "up\n").await;
    let kept = read_output(&mut output, usize::MAX).await;
    let (header, mut output) = peer.output().await;
    assert!(header.offset > kept.len() as u64, "{} and {header:?}", kept.len());
    fs::write(home.root().join("go"), "").unwrap();
    assert!(read_output(&mut output, usize::MAX).await.ends_with(b"\0last\n"));
    agent.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_on_the_session_and_shown_by_the_next() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    // Certificates begin a while before they are made: one this short is past two thirds of its life at once.
    control_plane.enrol(&home.state(), Duration::from_secs(30));
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let first = peer.serial();
    let ControlEvent::Renew(request) = peer.report().await else { panic!("no renewal") };
    let identity = Identity::load(&home.state()).unwrap();
    let issued = control_plane
        .authority
        .issue_agent(&request.csr_der, identity.tenant, identity.agent, SystemTime::now(), DAY)
        .unwrap();
    let renewed =
        Renewed { chain_der: ders(&issued.chain_der), roots_der: ders(&control_plane.authority.roots_der()) };
    peer.session.renewed(renewed).unwrap();
    peer.transmit().await;
    // The session goes on as it was.
    peer.dispatch(dispatch(1, "true")).await;
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    assert_eq!(ders(&Identity::load(&home.state()).unwrap().chain), ders(&issued.chain_der));
    peer.connection.close(CloseCode::Normal.code().into(), b"");
    let (peer, _) = control_plane.welcome().await;
    assert_ne!(peer.serial(), first);
    assert_eq!(peer.serial(), issued.serial_hex);
    agent.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_does_not_take_the_place_of_one_that_is() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let first = peer.serial();
    let identity = Identity::load(&home.state()).unwrap();
    let roots_der = ders(&control_plane.authority.roots_der());
    peer.session.trust(Trust { roots_der: roots_der.clone(), renew: true }).unwrap();
    peer.transmit().await;
    let request = loop {
        if let ControlEvent::Renew(request) = peer.report().await {
            break request;
        }
    };
    // As a control plane makes one whose clock is behind.
    let past = SystemTime::now() - 10 * DAY;
    let issued =
        control_plane.authority.issue_agent(&request.csr_der, identity.tenant, identity.agent, past, DAY);
    let renewed = Renewed { chain_der: ders(&issued.unwrap().chain_der), roots_der };
    peer.session.renewed(renewed).unwrap();
    peer.transmit().await;
    peer.dispatch(dispatch(1, "true")).await;
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    assert_eq!(ders(&Identity::load(&home.state()).unwrap().chain), ders(&identity.chain));
    peer.connection.close(CloseCode::Normal.code().into(), b"");
    let (peer, _) = control_plane.welcome().await;
    assert_eq!(peer.serial(), first);
    agent.stop().await;
}

/// Answers a request for a certificate with one that begins when it is `from`, and a day later ends; gives its chain.
async fn renew_from(
    control_plane: &ControlPlane,
    peer: &mut Peer,
    request: &RenewRequest,
    home: &Home,
    from: SystemTime,
) -> Vec<Vec<u8>> {
    let identity = Identity::load(&home.state()).unwrap();
    // Certificates begin five minutes before they are made.
    let made_at = from + Duration::from_secs(5 * 60);
    let issued =
        control_plane.authority.issue_agent(&request.csr_der, identity.tenant, identity.agent, made_at, DAY);
    let chain_der = ders(&issued.unwrap().chain_der);
    let roots_der = ders(&control_plane.authority.roots_der());
    peer.session.renewed(Renewed { chain_der: chain_der.clone(), roots_der }).unwrap();
    peer.transmit().await;
    chain_der
}

async fn until_kept(home: &Home, chain_der: &[Vec<u8>]) {
    let leaf = hex::encode(&chain_der[0]);
    until_file(&home.state().join("identity.json"), |text| text.contains(&leaf)).await;
}

/// So it is for each renewal of a host whose clock is behind by more than certificates are backdated.
#[tokio::test]
async fn a_certificate_that_has_yet_to_begin_waits_while_the_old_one_has_time() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let roots_der = ders(&control_plane.authority.roots_der());
    peer.session.trust(Trust { roots_der, renew: true }).unwrap();
    peer.transmit().await;
    let request = loop {
        if let ControlEvent::Renew(request) = peer.report().await {
            break request;
        }
    };
    let old = ders(&Identity::load(&home.state()).unwrap().chain);
    // Certificates have whole seconds.
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let begins = SystemTime::UNIX_EPOCH + Duration::from_secs(now_s + 8);
    let new = renew_from(&control_plane, &mut peer, &request, &home, begins).await;
    peer.dispatch(dispatch(1, "true")).await;
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    let kept = ders(&Identity::load(&home.state()).unwrap().chain);
    if SystemTime::now() < begins {
        assert_eq!(kept, old);
    }
    until_kept(&home, &new).await;
    assert!(SystemTime::now() >= begins);
    agent.stop().await;

    // This one is near its end.
    let home = Home::enrolled(&control_plane);
    control_plane.enrol(&home.state(), Duration::from_secs(40));
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let ControlEvent::Renew(request) = peer.report().await else { panic!("no renewal") };
    let begins = SystemTime::now() + Duration::from_secs(3600);
    let new = renew_from(&control_plane, &mut peer, &request, &home, begins).await;
    until_kept(&home, &new).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_artifact_comes_through_the_session() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::start(&home);
    let (mut peer, _) = control_plane.welcome().await;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    archive.append_data(&mut header, "index.html", &b"hello"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let digest = Digest(Sha256::digest(&archive).into());
    let mut task = dispatch(1, "");
    task.spec = TaskSpec::Artifact(ArtifactSpec {
        component: "web".to_owned(),
        version: "1.0.0".to_owned(),
        digest,
        size_bytes: archive.len() as u64,
        keep_releases: 2,
        timeout_ms: 30_000,
    });
    peer.dispatch(task).await;
    let (mut send, mut receive) = soon("a request", peer.connection.accept_bi()).await.unwrap();
    let request: ArtifactRequest = read_frame(&mut receive).await.unwrap();
    assert_eq!(request, ArtifactRequest { digest, offset: 0 });
    let found = ArtifactResponse::Found { size_bytes: archive.len() as u64 };
    send.write_all(&frame::encode(&found).unwrap()).await.unwrap();
    send.write_all(&archive).await.unwrap();
    send.finish().unwrap();
    assert_eq!(peer.finished().await.outcome, TaskOutcome::Succeeded);
    assert_eq!(fs::read_to_string(home.root().join("web/current/index.html")).unwrap(), "hello");
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_is_a_goodbye_with_the_results_before_it() {
    let control_plane = ControlPlane::start();
    let home = Home::enrolled(&control_plane);
    let agent = Agent::with_policy(&home, Policy::allowing(&[Kind::Command]));
    let (mut peer, hello) = control_plane.welcome().await;
    let rights = stella_agent::profile::Rights::own().bits();
    let beside = capability::TRUST | capability::HOLDINGS | capability::TRACE | capability::ENDING;
    let probes = capability::PROBES | capability::CERTAIN | capability::UNBEGUN;
    let all = capability::COMMAND | beside | capability::LISTS_ALL | probes | rights;
    assert_eq!(hello.capabilities, all);
    let admitted = QuicPeer::admit(
        Some(stella_protocol::version::ALPN_AGENT),
        peer.connection.peer_identity().unwrap().downcast_ref::<Vec<_>>().map(Vec::as_slice),
    );
    let QuicPeer::Agent { tenant, agent: id, .. } = admitted.unwrap() else { panic!("not an agent") };
    assert_eq!(tenant, Identity::load(&home.state()).unwrap().tenant);
    assert_eq!(id, AgentId(Uuid::from_u128(2)));
    peer.dispatch(dispatch(1, "echo up > up; sleep 0.3")).await;
    until_file_is(&home.root().join("up"), "up\n").await;
    let (_, finished) = tokio::join!(agent.stop(), async {
        let finished = peer.finished().await;
        loop {
            match peer.report().await {
                ControlEvent::Closed(CloseReason::Goodbye) => break,
                ControlEvent::Closed(reason) => panic!("no goodbye: {reason:?}"),
                _ => {}
            }
        }
        finished
    });
    assert_eq!(finished.outcome, TaskOutcome::Succeeded, "a running task has the drain time");
}
