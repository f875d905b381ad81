//! Stories of two sessions in virtual time.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::world::{INTERVAL_MS, World, dispatch};
use common::{Choices, key};
use stella_protocol::close::{Advice, CloseCode};
use stella_protocol::frame::FrameError;
use stella_protocol::id::SessionEpoch;
use stella_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, HEARTBEATS_MISSED_MAX};
use stella_protocol::message::Phase;
use stella_protocol::session::{CloseReason, Millis, SendError, Timer, Violation};

#[test]
fn a_session_begins_with_hello_and_welcome_and_then_beats() {
    let mut world = World::new(1);
    assert_eq!(world.connection.agent.session(), None);
    world.run_until("a tenth heartbeat", |w| {
        w.story.iter().filter(|(_, said)| said == "heartbeat").count() == 10
    });

    assert_eq!(world.connection.agent.session(), Some(SessionEpoch(1)));
    assert_eq!(world.connection.control.session(), Some(SessionEpoch(1)));
    let (tenth, _) = world.story.last().unwrap();
    let (welcomed, _) = world.story.iter().find(|(_, said)| said == "welcomed 1").unwrap();
    let passed = tenth.since(*welcomed);
    assert!((10 * INTERVAL_MS..11 * INTERVAL_MS).contains(&passed), "ten heartbeats took {passed} ms");
}

#[test]
fn a_task_is_accepted_runs_finishes_and_is_forgotten() {
    let mut world = World::new(2);
    world.run_until("the welcome", |w| w.saw("welcomed"));
    let task = key(1, 1);
    world.create(task);
    world.run_until("the acknowledgement", |w| w.saw("acknowledged"));

    let said: Vec<_> =
        world.story.iter().map(|(_, said)| said.as_str()).filter(|said| *said != "heartbeat").collect();
    let expected = [
        "session 1",
        "welcomed 1",
        &format!("accepted {task}"),
        &format!("running {task}"),
        &format!("finished {task}"),
        "acknowledged 1",
    ];
    assert_eq!(said, expected);
    assert!(world.on_agent.is_empty(), "what is acknowledged is forgotten");
}

#[test]
fn a_result_that_was_lost_on_the_way_is_sent_again() {
    let mut world = World::new(3);
    world.run_until("the welcome", |w| w.saw("welcomed"));
    world.create(key(1, 1));
    world.run_until("the start", |w| w.saw("running"));
    world.connection.up.swallows = true;
    world.run_until("the end on the agent", |w| {
        w.on_agent.values().any(|(phase, _)| *phase == Phase::Finished)
    });
    assert!(!world.saw("finished"));

    world.reconnect();
    world.run_until("the result", |w| w.saw("finished"));
    world.run_until("the acknowledgement", |w| w.on_agent.is_empty());
    assert_eq!(world.starts[&key(1, 1)], 1);
}

#[test]
fn a_result_whose_acknowledgement_was_lost_is_settled_by_the_next_welcome() {
    let mut world = World::new(4);
    world.run_until("the welcome", |w| w.saw("welcomed"));
    world.create(key(1, 1));
    world.run_until("the start", |w| w.saw("running"));
    world.connection.down.swallows = true;
    world.run_until("the result", |w| w.saw("finished"));
    assert_eq!(world.on_agent.len(), 1, "the agent keeps what nobody has acknowledged");

    world.reconnect();
    world.run_until("the second welcome", |w| w.saw("welcomed 2"));
    assert!(world.on_agent.is_empty());
    assert!(!world.saw("acknowledged"), "the welcome was enough");
}

#[test]
fn every_task_runs_once_and_ends_whatever_breaks() {
    for seed in 0..200 {
        let mut faults = Choices::new(!seed);
        let mut world = World::new(seed);
        for number in 1..=20 {
            world.create(key(number, 1));
        }
        for _ in 0..40 {
            for _ in 0..faults.below(60) {
                world.step();
            }
            world.connection.up.swallows |= faults.below(4) == 0;
            world.connection.down.swallows |= faults.below(4) == 0;
            for _ in 0..faults.below(20) {
                world.step();
            }
            if world.connection.up.swallows || world.connection.down.swallows || faults.below(3) == 0 {
                world.reconnect();
            }
        }
        world.run_until("the end of all tasks", |w| {
            w.on_control.values().all(Option::is_some) && w.on_agent.is_empty()
        });
        assert_eq!(world.starts.len(), 20, "seed {seed}");
        assert!(world.starts.values().all(|starts| *starts == 1), "seed {seed}: {:?}", world.starts);
        let broke_order = world.closed.iter().find(|(_, reason)| matches!(reason, CloseReason::Violation(_)));
        assert_eq!(broke_order, None, "seed {seed}");
    }
}

#[test]
fn silence_ends_a_session_after_the_missed_heartbeats_and_not_before() {
    let mut world = World::new(5);
    world.run_until("a heartbeat", |w| w.saw("heartbeat"));
    let heard_at = world.now;
    world.connection.up.swallows = true;
    assert_eq!(world.connection.control.poll_timeout().unwrap().0, Timer::PeerSilent);
    world.run_until("the end", |w| !w.closed.is_empty());

    assert_eq!(world.closed, [("control", CloseReason::PeerSilent)]);
    assert_eq!(world.now, heard_at.plus(HEARTBEATS_MISSED_MAX * INTERVAL_MS));
    assert_eq!(world.closed[0].1.code(), CloseCode::PeerSilent);
}

#[test]
fn a_superseded_agent_is_told_so_and_comes_back_slowly() {
    let mut world = World::new(6);
    world.run_until("the welcome", |w| w.saw("welcomed"));
    world.connection.control.close(CloseCode::Superseded);
    let code = world.connection.control.close_reason().unwrap().code();
    world.connection.agent.handle_peer_close(code.code().into());

    let reason = world.connection.agent.close_reason().unwrap();
    assert_eq!(*reason, CloseReason::Peer(CloseCode::Superseded));
    assert_eq!(code.advice(), Advice::RetrySlowly);
    let stale = dispatch(key(1, 1), SessionEpoch(1));
    let refused = world.connection.control.dispatch(Box::new(stale));
    assert_eq!(refused, Err(SendError::NotNow { frame: "dispatch", state: "closed" }));
}

#[test]
fn a_dispatch_of_an_older_session_is_refused_by_the_newer_one() {
    let mut world = World::new(7);
    world.run_until("the welcome", |w| w.saw("welcomed 1"));
    world.reconnect();
    world.run_until("the second welcome", |w| w.saw("welcomed 2"));
    let refused = world.connection.control.dispatch(Box::new(dispatch(key(1, 1), SessionEpoch(1))));
    assert_eq!(refused, Err(SendError::ForeignDispatch { session: SessionEpoch(2), named: SessionEpoch(1) }));
    assert!(world.connection.control.session().is_some(), "the session goes on");
}

#[test]
fn a_lost_hello_ends_both_ends_at_the_deadline() {
    let mut world = World::new(8);
    world.connection.up.swallows = true;
    world.run_until("both ends", |w| w.closed.len() == 2);
    assert_eq!(world.now, Millis(1 + HANDSHAKE_TIMEOUT_MS));
    assert!(
        world.closed.iter().all(|(_, reason)| *reason == CloseReason::HandshakeTimeout),
        "{:?}",
        world.closed
    );
}

#[test]
fn an_oversized_frame_ends_the_session_at_its_header() {
    let mut world = World::new(9);
    world.run_until("the welcome", |w| w.saw("welcomed"));
    let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    world.connection.control.handle_bytes(&length.to_be_bytes());

    let too_large = FrameError::TooLarge { length: FRAME_BYTES_MAX + 1, max: FRAME_BYTES_MAX };
    let reason = world.connection.control.close_reason().unwrap();
    assert_eq!(*reason, CloseReason::Violation(Violation::Frame(too_large)));
    assert_eq!(reason.code(), CloseCode::FrameTooLarge);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = || {
        let mut world = World::new(10);
        (1..=5).for_each(|number| world.create(key(number, 1)));
        world.run_until("the end of all tasks", |w| w.saw("finished") && w.on_agent.is_empty());
        world.story
    };
    assert_eq!(story(), story());
}
