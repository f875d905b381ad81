//! The bodies of the fuzz targets in `protocol/fuzz`. They live here so that the tests run them on stable too.
//!
//! Each takes any bytes and panics if the decoders break a promise: never panic, stay within the limits, and give back
//! what was encoded.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{self, Decoder, FrameError, HEADER_BYTES};
use crate::id::{Incarnation, Position, SessionEpoch};
use crate::limits::{FRAME_BYTES_MAX, HEARTBEAT_INTERVAL_MS, OUTGOING_BYTES_MAX};
use crate::message::{
    ArtifactRequest, ArtifactResponse, EnrolRequest, EnrolRequestFor, EnrolResponse, Hello, JournalMark,
    OutputChunk, OutputHeader, Resources, ToAgent, ToControlPlane, Welcome,
};
use crate::session::Millis;
use crate::session::agent::{AgentEvent, AgentSession};
use crate::session::control::{ControlEvent, ControlSession};
use crate::time::Timestamp;
use crate::trace::{BAGGAGE, Baggage, TRACEPARENT, TRACESTATE, TraceContext, TraceState};
use crate::validate::Validate;

/// One fuzz target's body.
pub type Body = fn(&[u8]);

/// Every target by its name: the names in `protocol/fuzz/Cargo.toml` and of the folders of its corpus.
pub const TARGETS: [(&str, Body); 8] = [
    ("decode_to_agent", decode_to_agent),
    ("decode_to_control_plane", decode_to_control_plane),
    ("decode_enrol", decode_enrol),
    ("decode_output", decode_output),
    ("decode_artifact", decode_artifact),
    ("decoder", decoder),
    ("session", session),
    ("trace_headers", trace_headers),
];

/// The body of a frame to an agent.
pub fn decode_to_agent(data: &[u8]) {
    round_trip::<ToAgent>(data);
}

/// The body of a frame to the control plane.
pub fn decode_to_control_plane(data: &[u8]) {
    round_trip::<ToControlPlane>(data);
}

/// The body of an enrolment frame, in either direction.
pub fn decode_enrol(data: &[u8]) {
    round_trip::<EnrolRequest>(data);
    round_trip::<EnrolRequestFor>(data);
    round_trip::<EnrolResponse>(data);
}

/// The body of a frame of an output stream.
pub fn decode_output(data: &[u8]) {
    round_trip::<OutputHeader>(data);
    round_trip::<OutputChunk>(data);
}

/// The body of an artifact frame, in either direction.
pub fn decode_artifact(data: &[u8]) {
    round_trip::<ArtifactRequest>(data);
    round_trip::<ArtifactResponse>(data);
}

/// A stream of frames, cut into pieces of the size that the first byte says: the pieces must not matter.
pub fn decoder(data: &[u8]) {
    let (piece, stream) = piece_and_stream(data);
    let (whole_frames, whole_end) = drain(stream, stream.len().max(1));
    let (cut_frames, cut_end) = drain(stream, piece);
    assert_eq!(whole_frames, cut_frames, "the pieces changed the frames");
    assert_eq!(whole_end, cut_end, "the pieces changed the error");
}

/// A stream of frames into both ends of a session, cut into pieces of the size that the first byte says.
pub fn session(data: &[u8]) {
    let (piece, stream) = piece_and_stream(data);
    control_session(stream, piece);
    agent_session(stream, piece);
}

/// The headers of a request by which it belongs to a trace: each line is one, by its first byte `traceparent`, `tracestate` or
/// `baggage`. What is taken from them is within its limits, and the next one takes it from us as it is.
pub fn trace_headers(data: &[u8]) {
    let lines = || data.split(|byte| *byte == b'\n').filter_map(<[u8]>::split_first);
    let of_name = |name: &'static str| {
        let number = [TRACEPARENT, TRACESTATE, BAGGAGE].iter().position(|known| *known == name);
        lines().filter_map(move |(kind, value)| (Some(usize::from(kind % 3)) == number).then_some(value))
    };
    let context = TraceContext::from_headers(of_name);
    assert!(context.state.as_str().len() <= TraceState::BYTES_MAX, "more of the state is kept than may be");
    assert!(context.baggage.as_str().len() <= Baggage::BYTES_MAX, "more baggage is kept than may be");
    let sent: Vec<(&str, String)> = context.headers().collect();
    let again = TraceContext::from_headers(|name| {
        sent.iter().filter(move |(sent, _)| *sent == name).map(|(_, value)| value.as_bytes())
    });
    assert_eq!(again, context, "the way changes it");
}

fn round_trip<T: Serialize + DeserializeOwned + Validate + PartialEq + Debug>(data: &[u8]) {
    let Ok(message) = frame::decode::<T>(data) else { return };
    assert_eq!(message.validate(), Ok(()), "a message out of bounds was decoded");
    let encoded = frame::encode(&message).expect("what was decoded can be encoded");
    assert!(encoded.len() - HEADER_BYTES <= data.len(), "encoding is the shortest form");
    let again = frame::decode::<T>(&encoded[HEADER_BYTES..]).expect("what was encoded can be decoded");
    assert_eq!(message, again, "a round trip changed the message");
}

fn piece_and_stream(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((1, data), |(first, stream)| (usize::from(*first).max(1), stream))
}

/// All frames of a stream, and the error that ended it.
fn drain(stream: &[u8], piece: usize) -> (Vec<ToControlPlane>, Option<FrameError>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for bytes in stream.chunks(piece) {
        if let Err(error) = decoder.push(bytes) {
            return (frames, Some(error));
        }
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.memory_bytes(), 0, "a broken decoder holds memory");
                    return (frames, Some(error));
                }
            }
        }
        assert!(decoder.pending_bytes() < HEADER_BYTES + FRAME_BYTES_MAX, "more than a frame waits");
        assert!(decoder.pending_bytes() > 0 || decoder.memory_bytes() == 0, "an idle decoder holds memory");
    }
    (frames, None)
}

fn control_session(stream: &[u8], piece: usize) {
    let mut session = ControlSession::new(Millis(0));
    for (now, bytes) in (1..).map(Millis).zip(stream.chunks(piece)) {
        session.handle_bytes(bytes);
        while let Some(event) = session.poll_event(now) {
            match event {
                ControlEvent::Hello(_) => session.welcome(welcome(), now).expect("a hello can be answered"),
                ControlEvent::Finished(finished) => session.acknowledge(finished.key).expect("there is room"),
                ControlEvent::Closed(_) => {
                    assert_eq!(session.poll_event(now), None, "something came after the end")
                }
                ControlEvent::Heartbeat(_)
                | ControlEvent::Accepted(_)
                | ControlEvent::Running(_)
                | ControlEvent::Renew(_)
                | ControlEvent::Trusts(_)
                | ControlEvent::Inspected(_)
                | ControlEvent::FiguresAt(_)
                | ControlEvent::Ending(_)
                | ControlEvent::Probed(_) => {
                    assert!(session.session().is_some(), "a frame came before the welcome")
                }
            }
        }
        assert!(
            session.poll_transmit().is_none_or(|bytes| bytes.len() <= OUTGOING_BYTES_MAX),
            "too much is queued"
        );
        assert_eq!(
            session.close_reason().is_some(),
            session.poll_timeout().is_none(),
            "the dead wait for nothing"
        );
    }
}

fn agent_session(stream: &[u8], piece: usize) {
    let mut session = AgentSession::new(hello(), Millis(0)).expect("the hello is in bounds");
    for (now, bytes) in (1..).map(Millis).zip(stream.chunks(piece)) {
        session.handle_bytes(bytes);
        while let Some(event) = session.poll_event(now) {
            match event {
                AgentEvent::Dispatch(dispatch) => {
                    assert_eq!(Some(dispatch.dispatch.session), session.session(), "a foreign dispatch")
                }
                AgentEvent::Closed(_) => {
                    assert_eq!(session.poll_event(now), None, "something came after the end")
                }
                AgentEvent::Welcomed(_)
                | AgentEvent::Cancel(_)
                | AgentEvent::End(_)
                | AgentEvent::Acknowledged(_)
                | AgentEvent::Renewed(_)
                | AgentEvent::Trust(_)
                | AgentEvent::Inspect(_)
                | AgentEvent::Probe(_)
                | AgentEvent::WhereFigures
                | AgentEvent::Drain => {
                    assert!(session.session().is_some(), "a frame came before the welcome")
                }
            }
        }
        assert_eq!(
            session.close_reason().is_some(),
            session.poll_timeout().is_none(),
            "the dead wait for nothing"
        );
    }
}

fn mark() -> JournalMark {
    JournalMark { incarnation: Incarnation(uuid::Uuid::nil()), position: Position(0) }
}

fn hello() -> Hello {
    Hello {
        agent_version: String::new(),
        capabilities: 0,
        journal: mark(),
        control_plane: None,
        open: Vec::new(),
        resources: Resources::default(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionEpoch(1),
        control_plane: mark(),
        heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
        settled: Vec::new(),
        now: Timestamp(0),
    }
}
