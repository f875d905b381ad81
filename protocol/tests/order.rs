//! Which frame each end takes and sends in which state, and what becomes of everything else.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeMap;

use common::world::{command, dispatch, finished};
use common::{hello, key, mark, resources, uuid};
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame::{self, FrameError};
use stella_protocol::id::{Position, QuestionId, SessionEpoch};
use stella_protocol::limits::{ACKNOWLEDGEMENTS_MAX, OUTGOING_BYTES_MAX};
use stella_protocol::message::{
    Accepted, AttemptProbe, AttemptProbed, Cancel, Effect, Ending, EndingStage, FiguresAt, Heartbeat,
    Inspect, Inspected, RenewRequest, Renewed, Running, ToAgent, ToControlPlane, TracedDispatch, Trust,
    Trusts, Wanted, Welcome,
};
use stella_protocol::session::agent::{AgentEvent, AgentSession};
use stella_protocol::session::control::{ControlEvent, ControlSession};
use stella_protocol::session::{CloseReason, Millis, SendError, Timer, Violation};
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;

/// A state's name and a session in it.
type State<T> = (&'static str, fn() -> T);

const NOW: Millis = Millis(100);
const SESSION: SessionEpoch = SessionEpoch(3);

#[test]
fn an_agent_takes_these_frames_in_these_states_and_no_others() {
    let states: [State<AgentSession>; 3] =
        [("handshaking", handshaking_agent), ("active", active_agent), ("draining", draining_agent)];
    let taken: Vec<String> = states
        .into_iter()
        .flat_map(|(state, make)| to_agent().into_iter().map(move |frame| (state, make(), frame)))
        .filter_map(|(state, mut session, frame)| {
            session.handle_bytes(&frame::encode(&frame).unwrap());
            let event = session.poll_event(NOW).expect("every frame has an event");
            let AgentEvent::Closed(reason) = event else { return Some(format!("{state}: {}", frame.name())) };
            assert!(matches!(&reason, CloseReason::Violation(Violation::OutOfOrder { .. })), "{reason:?}");
            assert_eq!(reason.code(), CloseCode::ProtocolViolation);
            assert_eq!(session.poll_event(NOW), None);
            None
        })
        .collect();
    let expected = [
        "handshaking: welcome",
        "active: dispatch",
        "active: cancel",
        "active: acknowledge",
        "active: renewed",
        "active: drain",
        "active: trust",
        "active: inspect",
        "active: traced_dispatch",
        "active: where_figures",
        "active: end",
        "active: probe",
        "draining: cancel",
        "draining: acknowledge",
        "draining: renewed",
        "draining: trust",
        "draining: inspect",
        "draining: where_figures",
        "draining: end",
        "draining: probe",
    ];
    assert_eq!(taken, expected);
}

#[test]
fn a_control_plane_takes_these_frames_in_these_states_and_no_others() {
    let states: [State<ControlSession>; 3] =
        [("new", || ControlSession::new(NOW)), ("greeted", greeted_control), ("active", active_control)];
    let taken: Vec<String> = states
        .into_iter()
        .flat_map(|(state, make)| to_control_plane().into_iter().map(move |frame| (state, make(), frame)))
        .filter_map(|(state, mut session, frame)| {
            session.handle_bytes(&frame::encode(&frame).unwrap());
            let event = session.poll_event(NOW).expect("every frame has an event");
            let ControlEvent::Closed(CloseReason::Violation(violation)) = event else {
                return Some(format!("{state}: {}", frame.name()));
            };
            assert!(
                matches!(&violation, Violation::OutOfOrder { frame: name, .. } if *name == frame.name()),
                "{violation:?}"
            );
            assert_eq!(session.poll_event(NOW), None);
            None
        })
        .collect();
    let live = [
        "heartbeat",
        "accepted",
        "running",
        "finished",
        "renew",
        "goodbye",
        "trusts",
        "inspected",
        "figures_at",
        "ending",
        "probed",
    ];
    let lives = live.map(|name| format!("active: {name}"));
    let expected: Vec<String> = std::iter::once("new: hello".to_owned()).chain(lives).collect();
    assert_eq!(taken, expected);
}

#[test]
fn nothing_is_sent_before_the_welcome_or_after_the_end() {
    let mut agent = handshaking_agent();
    let accepted = Accepted { key: key(1, 1), position: Position(1) };
    let waiting = Err(SendError::NotNow { frame: "accepted", state: "waiting for the welcome" });
    assert_eq!(agent.accepted(accepted), waiting);
    assert!(agent.goodbye().is_err());
    agent.close(CloseCode::Internal);
    assert_eq!(agent.accepted(accepted), Err(SendError::NotNow { frame: "accepted", state: "closed" }));
    assert_eq!(agent.poll_transmit(), None, "what was queued is dropped");

    let mut control = ControlSession::new(NOW);
    assert!(control.welcome(welcome(), NOW).is_err(), "nobody has said hello");
    assert!(control.dispatch(Box::new(dispatch(key(1, 1), SESSION))).is_err());
    assert!(control.cancel(Cancel { key: key(1, 1), grace_ms: 1 }).is_err());
    assert!(control.acknowledge(key(1, 1)).is_err());
    assert_eq!(control.poll_transmit(), None);
    let mut control = active_control();
    assert!(control.welcome(welcome(), NOW).is_err(), "one welcome is enough");
}

#[test]
fn a_dispatch_that_names_another_session_is_refused_by_both_ends() {
    let foreign = dispatch(key(1, 1), SessionEpoch(2));
    let mut agent = active_agent();
    agent.handle_bytes(&frame::encode(&ToAgent::Dispatch(Box::new(foreign.clone()))).unwrap());
    let violation = Violation::ForeignDispatch { session: SESSION, named: SessionEpoch(2) };
    assert_eq!(agent.poll_event(NOW), Some(AgentEvent::Closed(CloseReason::Violation(violation))));

    let mut agent = active_agent();
    let traced = Box::new(TracedDispatch::from(foreign.clone()));
    agent.handle_bytes(&frame::encode(&ToAgent::TracedDispatch(traced.clone())).unwrap());
    let violation = Violation::ForeignDispatch { session: SESSION, named: SessionEpoch(2) };
    assert_eq!(agent.poll_event(NOW), Some(AgentEvent::Closed(CloseReason::Violation(violation))));

    for refused in [active_control().dispatch(Box::new(foreign)), active_control().dispatch_traced(traced)] {
        assert_eq!(refused, Err(SendError::ForeignDispatch { session: SESSION, named: SessionEpoch(2) }));
    }
}

#[test]
fn a_goodbye_leaves_behind_everything_that_was_queued() {
    let mut agent = active_agent();
    agent.finished(finished(key(1, 1))).unwrap();
    agent.goodbye().unwrap();
    assert_eq!(agent.poll_event(NOW), Some(AgentEvent::Closed(CloseReason::Local(CloseCode::Normal))));
    let sent = agent.poll_transmit().expect("the goodbye outlives the session");

    let mut control = active_control();
    control.handle_bytes(&sent);
    assert_eq!(control.poll_event(NOW), Some(ControlEvent::Finished(finished(key(1, 1)))));
    assert_eq!(control.poll_event(NOW), Some(ControlEvent::Closed(CloseReason::Goodbye)));
    assert_eq!(control.poll_event(NOW), None);
}

#[test]
fn acknowledgements_share_frames_and_go_before_what_follows() {
    let mut control = active_control();
    for attempt in 1..=u32::try_from(ACKNOWLEDGEMENTS_MAX).unwrap() + 1 {
        control.acknowledge(key(1, attempt)).unwrap();
    }
    control.dispatch(Box::new(dispatch(key(2, 1), SESSION))).unwrap();
    control.acknowledge(key(3, 1)).unwrap();
    assert_eq!(names(&mut control), ["acknowledge", "acknowledge", "dispatch", "acknowledge"]);
}

#[test]
fn a_transport_that_does_not_take_anything_stops_the_queue_at_its_limit() {
    let mut control = active_control();
    let mut large = dispatch(key(1, 1), SESSION);
    let environment = BTreeMap::from([("BLOB".to_owned(), "x".repeat(190 * 1024))]);
    large.spec = TaskSpec::Command(stella_protocol::spec::CommandSpec { environment, ..command() });
    let refused = std::iter::repeat_with(|| control.dispatch(Box::new(large.clone()))).find_map(Result::err);
    assert!(
        matches!(refused, Some(SendError::QueueFull { queued, max: OUTGOING_BYTES_MAX }) if queued > 0),
        "{refused:?}"
    );

    // Acknowledgements fill the last gap, then wait for the bytes before them.
    let refused = (1..).find_map(|attempt| control.acknowledge(key(2, attempt)).err());
    assert!(matches!(refused, Some(SendError::QueueFull { .. })));
    let first = control.poll_transmit().unwrap();
    assert!(first.len() <= OUTGOING_BYTES_MAX);
    assert_eq!(names(&mut control), ["acknowledge"], "what waited goes next");
    control.dispatch(Box::new(large)).expect("there is room again");
}

#[test]
fn a_heartbeat_that_cannot_be_sent_is_not_due_at_once_again() {
    let mut agent = active_agent();
    let due = NOW.plus(welcome().heartbeat_interval_ms);
    assert_eq!(agent.poll_timeout(), Some((Timer::HeartbeatDue, due)));
    assert!(!agent.poll_heartbeat_due(Millis(due.0 - 1)));
    assert!(agent.poll_heartbeat_due(due));
    let mut heartbeat = Heartbeat { position: Position(1), resources: resources() };
    heartbeat.resources.load_1m = f32::NAN;
    assert!(matches!(agent.heartbeat(heartbeat, due), Err(SendError::Frame(FrameError::Invalid(_)))));
    assert!(!agent.poll_heartbeat_due(due));
    assert_eq!(agent.poll_timeout(), Some((Timer::HeartbeatDue, due.plus(welcome().heartbeat_interval_ms))));
}

#[test]
fn the_first_reason_for_the_end_stands() {
    let mut control = active_control();
    control.handle_peer_close(77);
    control.close(CloseCode::Revoked);
    control.handle_lost();
    assert_eq!(control.poll_event(NOW), Some(ControlEvent::Closed(CloseReason::PeerUnknown(77))));
    assert_eq!(control.poll_event(NOW), None);
    assert_eq!(control.poll_timeout(), None);
}

#[test]
fn sessions_are_small() {
    assert!(size_of::<ControlSession>() <= 256, "{}", size_of::<ControlSession>());
    assert!(size_of::<AgentSession>() <= 256, "{}", size_of::<AgentSession>());
}

// === sessions in each state ===

fn handshaking_agent() -> AgentSession {
    AgentSession::new(hello(), NOW).unwrap()
}

fn active_agent() -> AgentSession {
    let mut session = handshaking_agent();
    session.handle_bytes(&frame::encode(&ToAgent::Welcome(welcome())).unwrap());
    assert_eq!(session.poll_event(NOW), Some(AgentEvent::Welcomed(welcome())));
    let _hello = session.poll_transmit().expect("the hello was queued");
    session
}

fn draining_agent() -> AgentSession {
    let mut session = active_agent();
    session.handle_bytes(&frame::encode(&ToAgent::Drain).unwrap());
    assert_eq!(session.poll_event(NOW), Some(AgentEvent::Drain));
    session
}

fn greeted_control() -> ControlSession {
    let mut session = ControlSession::new(NOW);
    session.handle_bytes(&frame::encode(&ToControlPlane::Hello(hello())).unwrap());
    assert_eq!(session.poll_event(NOW), Some(ControlEvent::Hello(hello())));
    session
}

fn active_control() -> ControlSession {
    let mut session = greeted_control();
    session.welcome(welcome(), NOW).unwrap();
    assert_eq!(names(&mut session), ["welcome"]);
    session
}

fn names(session: &mut ControlSession) -> Vec<&'static str> {
    let mut decoder = frame::Decoder::new();
    let mut names = Vec::new();
    while let Some(bytes) = session.poll_transmit() {
        decoder.push(&bytes).unwrap();
        while let Some(frame) = decoder.next::<ToAgent>().unwrap() {
            names.push(frame.name());
        }
    }
    names
}

// === every frame ===

fn welcome() -> Welcome {
    Welcome {
        session: SESSION,
        control_plane: mark(0xc1, 1),
        heartbeat_interval_ms: 5000,
        settled: Vec::new(),
        now: Timestamp(0),
    }
}

fn to_agent() -> Vec<ToAgent> {
    vec![
        ToAgent::Welcome(welcome()),
        ToAgent::Dispatch(Box::new(dispatch(key(1, 1), SESSION))),
        ToAgent::Cancel(Cancel { key: key(1, 1), grace_ms: 1 }),
        ToAgent::Acknowledge(vec![key(1, 1)]),
        ToAgent::Renewed(Renewed { chain_der: Vec::new(), roots_der: Vec::new() }),
        ToAgent::Drain,
        ToAgent::Trust(Trust { roots_der: vec![vec![1]], renew: false }),
        ToAgent::Inspect(Box::new(Inspect {
            question: QuestionId(uuid(1)),
            slot: None,
            wanted: vec![Wanted {
                component: "web".into(),
                version: "1.0.0".into(),
                digest: Digest([0; 32]),
            }],
            timeout_ms: 1,
        })),
        ToAgent::TracedDispatch(Box::new(dispatch(key(1, 1), SESSION).into())),
        ToAgent::WhereFigures,
        ToAgent::End(Cancel { key: key(1, 1), grace_ms: 1 }),
        ToAgent::Probe(Box::new(AttemptProbe {
            question: QuestionId(uuid(1)),
            key: key(1, 1),
            slot: None,
            spec: dispatch(key(1, 1), SESSION).spec,
            since: Timestamp(0),
            timeout_ms: 1,
        })),
    ]
}

fn to_control_plane() -> Vec<ToControlPlane> {
    vec![
        ToControlPlane::Hello(hello()),
        ToControlPlane::Heartbeat(Heartbeat { position: Position(1), resources: resources() }),
        ToControlPlane::Accepted(Accepted { key: key(1, 1), position: Position(1) }),
        ToControlPlane::Running(Running { key: key(1, 1), started_at: Timestamp(1) }),
        ToControlPlane::Finished(finished(key(1, 1))),
        ToControlPlane::Renew(RenewRequest { csr_der: vec![1] }),
        ToControlPlane::Goodbye,
        ToControlPlane::Trusts(Trusts { roots: Vec::new(), certificate: Digest([0; 32]) }),
        ToControlPlane::Inspected(Inspected { question: QuestionId(uuid(1)), holdings: Vec::new() }),
        ToControlPlane::FiguresAt(FiguresAt { host: None, port: 1 }),
        ToControlPlane::Ending(Ending { key: key(1, 1), stage: EndingStage::Delivered }),
        ToControlPlane::Probed(AttemptProbed {
            question: QuestionId(uuid(1)),
            effect: Effect::There { what: String::new() },
        }),
    ]
}
