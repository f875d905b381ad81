//! Frames: what fits, what does not, and what the decoder holds in memory.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use bytes::BytesMut;
use common::world::{command, dispatch, finished};
use common::{Choices, hello, key};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use stella_protocol::frame::{self, Decoder, FrameError, HEADER_BYTES};
use stella_protocol::id::SessionEpoch;
use stella_protocol::limits::{
    ACKNOWLEDGEMENTS_MAX, ARGUMENTS_MAX, CHAIN_BYTES_MAX, COMMAND_BYTES_MAX, CSR_BYTES_MAX,
    ENROL_REQUEST_BYTES_MAX, FRAME_BYTES_MAX, NAME_BYTES_MAX, OPEN_ATTEMPTS_MAX, OUTPUT_CHUNK_BYTES_MAX,
    PATH_BYTES_MAX, REASON_BYTES_MAX, TRACE_BYTES_MAX, VERSION_BYTES_MAX,
};
use stella_protocol::message::{
    EnrolRequest, Finished, Hello, OpenAttempt, OutputChunk, OutputSource, Phase, Renewed, TaskOutcome,
    ToAgent, ToControlPlane, TracedDispatch,
};
use stella_protocol::spec::{CommandSpec, TaskSpec};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::{Baggage, TraceState};
use stella_protocol::validate::{Invalid, Validate};

#[test]
fn a_frame_is_a_length_and_a_body() {
    let frame = frame::encode(&ToAgent::Drain).unwrap();
    assert_eq!(frame[..], [0, 0, 0, 1, 5]);
    let mut buffer = BytesMut::from(&b"before"[..]);
    frame::encode_into(&ToAgent::Drain, &mut buffer).unwrap();
    assert_eq!(buffer[..], *b"before\0\0\0\x01\x05");
}

#[test]
fn what_cannot_be_encoded_leaves_the_buffer_as_it_was() {
    let mut buffer = BytesMut::from(&b"before"[..]);
    let many = ToAgent::Acknowledge(vec![key(1, 1); ACKNOWLEDGEMENTS_MAX + 1]);
    assert!(matches!(frame::encode_into(&many, &mut buffer), Err(FrameError::Invalid(_))));
    assert_eq!(buffer[..], *b"before");

    /// Valid by its own word, and larger than a frame.
    #[derive(serde::Serialize)]
    struct Unbounded(Vec<String>);
    impl Validate for Unbounded {
        fn validate(&self) -> Result<(), Invalid> {
            Ok(())
        }
    }
    let huge = Unbounded(vec!["x".repeat(1000); 300]);
    let refused = frame::encode_into(&huge, &mut buffer).unwrap_err();
    assert!(
        matches!(refused, FrameError::TooLarge { length, max: FRAME_BYTES_MAX } if length > FRAME_BYTES_MAX),
        "{refused}"
    );
    assert_eq!(buffer[..], *b"before");
}

#[test]
fn the_largest_valid_messages_fit() {
    let open = vec![OpenAttempt { key: key(0xff, u32::MAX), phase: Phase::Finished }; OPEN_ATTEMPTS_MAX];
    let hello = Hello { agent_version: "v".repeat(VERSION_BYTES_MAX), open, ..hello() };
    assert_fits(&ToControlPlane::Hello(hello));
    assert_fits(&ToAgent::Acknowledge(vec![key(0xff, u32::MAX); ACKNOWLEDGEMENTS_MAX]));
    let full_chain = || vec![vec![0xff; CHAIN_BYTES_MAX / 4]; 4];
    assert_fits(&ToAgent::Renewed(Renewed { chain_der: full_chain(), roots_der: full_chain() }));

    let mut dispatch = dispatch(key(0xff, u32::MAX), SessionEpoch(u64::MAX));
    let each = COMMAND_BYTES_MAX / (2 * ARGUMENTS_MAX);
    let variable = |number: usize| (format!("{number:04}"), "x".repeat(each - 4));
    dispatch.target_name = "n".repeat(NAME_BYTES_MAX);
    dispatch.slot = Some("s".repeat(NAME_BYTES_MAX));
    dispatch.release_version = "v".repeat(VERSION_BYTES_MAX);
    dispatch.spec = TaskSpec::Command(CommandSpec {
        argv: vec!["a".repeat(each); ARGUMENTS_MAX],
        environment: (0..ARGUMENTS_MAX).map(variable).collect(),
        working_directory: Some("d".repeat(PATH_BYTES_MAX)),
        user: Some("u".repeat(NAME_BYTES_MAX)),
        ..command()
    });
    assert_fits(&ToAgent::Dispatch(Box::new(dispatch.clone())));
    let state = TraceState::try_from(format!("a={},b={}", "s".repeat(254), "s".repeat(253))).unwrap();
    let baggage = Baggage::try_from(format!("a={}", "b".repeat(Baggage::BYTES_MAX - 2))).unwrap();
    assert_eq!(state.as_str().len() + baggage.as_str().len(), TRACE_BYTES_MAX);
    assert_fits(&ToAgent::TracedDispatch(Box::new(TracedDispatch { dispatch, state, baggage })));

    let enrol = EnrolRequest {
        token: stella_protocol::id::EnrolmentTokenId(common::uuid(0xff)),
        secret: [0xff; 32],
        csr_der: vec![0xff; CSR_BYTES_MAX],
        hostname: "h".repeat(NAME_BYTES_MAX),
        agent_version: "v".repeat(VERSION_BYTES_MAX),
    };
    assert!(frame::encode(&enrol).unwrap().len() <= HEADER_BYTES + ENROL_REQUEST_BYTES_MAX);
}

fn assert_fits<T: serde::Serialize + Validate>(message: &T) {
    let frame = frame::encode(message).expect("a valid message fits");
    assert!(frame.len() <= HEADER_BYTES + FRAME_BYTES_MAX);
}

#[test]
fn a_length_over_the_limit_is_refused_at_its_last_byte_and_nothing_is_kept() {
    let mut decoder = Decoder::with_limit(16);
    decoder.push(&[0, 0, 0]).unwrap();
    let refused = decoder.push(&[17]).unwrap_err();
    assert_eq!(refused, FrameError::TooLarge { length: 17, max: 16 });
    assert_eq!(decoder.memory_bytes(), 0);
    assert_eq!(decoder.push(&[0]), Err(FrameError::Broken));
    assert_eq!(decoder.next::<ToAgent>(), Err(FrameError::Broken));
}

#[test]
fn a_limit_cannot_be_raised_over_the_frames_limit() {
    let mut decoder = Decoder::with_limit(usize::MAX);
    assert!(matches!(decoder.push(&[0xff; 4]), Err(FrameError::TooLarge { max: FRAME_BYTES_MAX, .. })));
}

#[test]
fn bytes_after_a_message_are_an_error() {
    assert_eq!(frame::decode::<ToAgent>(&[5, 0, 0]), Err(FrameError::Trailing { length: 2 }));
}

#[test]
fn an_empty_an_unknown_and_a_cut_message_are_errors() {
    for body in [&[][..], &[6], &[2, 16, 1]] {
        let refused = frame::decode::<ToAgent>(body).unwrap_err();
        assert!(matches!(refused, FrameError::Malformed { message: "ToAgent", .. }), "{refused}");
    }
}

#[test]
fn a_decoder_between_frames_holds_no_memory() {
    let chunk = OutputChunk {
        source: OutputSource::Stdout,
        at: Timestamp(1),
        bytes: vec![7; OUTPUT_CHUNK_BYTES_MAX],
    };
    let frame = frame::encode(&chunk).unwrap();
    let mut decoder = Decoder::new();
    assert_eq!(decoder.memory_bytes(), 0);
    decoder.push(&frame[..100]).unwrap();
    assert!(
        decoder.memory_bytes() < 1024,
        "{} bytes for 100: nothing is allocated ahead",
        decoder.memory_bytes()
    );
    assert_eq!(decoder.next::<OutputChunk>(), Ok(None));
    decoder.push(&frame[100..]).unwrap();
    assert_eq!(decoder.next(), Ok(Some(chunk)));
    assert_eq!((decoder.pending_bytes(), decoder.memory_bytes()), (0, 0));
}

#[test]
fn a_caller_that_never_takes_frames_out_cannot_put_in_without_end() {
    let chunk = OutputChunk {
        source: OutputSource::Stdout,
        at: Timestamp(1),
        bytes: vec![7; OUTPUT_CHUNK_BYTES_MAX],
    };
    let frame = frame::encode(&chunk).unwrap();
    let mut decoder = Decoder::new();
    let refused = std::iter::repeat_with(|| decoder.push(&frame)).find_map(Result::err);
    assert!(
        matches!(refused, Some(FrameError::Backlog { length }) if length <= HEADER_BYTES + FRAME_BYTES_MAX + frame.len())
    );
    assert_eq!(decoder.next(), Ok(Some(chunk)), "nothing is lost");
}

#[test]
fn a_decoded_message_out_of_bounds_names_its_field() {
    let body = |message: &dyn Fn() -> Vec<u8>| frame::decode::<OutputChunk>(&message()).unwrap_err();
    let refused = body(&|| {
        let chunk = (OutputSource::Stdout, Timestamp(1), vec![7u8; OUTPUT_CHUNK_BYTES_MAX + 1]);
        bincode::serde::encode_to_vec(chunk, bincode::config::standard()).unwrap()
    });
    let FrameError::Invalid(invalid) = refused else { panic!("{refused}") };
    assert_eq!(invalid.field(), "output.bytes");
    assert_eq!(invalid.to_string(), "output.bytes has 32769 bytes, more than the 32768 that are allowed");
}

fn outcomes() -> impl Strategy<Value = TaskOutcome> {
    let reason = || ".{0,600}".prop_filter("a reason is bounded", |reason| reason.len() <= REASON_BYTES_MAX);
    prop_oneof![
        Just(TaskOutcome::Succeeded),
        (reason(), any::<Option<i32>>())
            .prop_map(|(reason, exit_code)| TaskOutcome::Failed { reason, exit_code }),
        Just(TaskOutcome::TimedOut),
        Just(TaskOutcome::Cancelled),
        Just(TaskOutcome::Interrupted),
        reason().prop_map(|reason| TaskOutcome::Unknown { reason }),
        reason().prop_map(|reason| TaskOutcome::Refused { reason }),
    ]
}

fn results() -> impl Strategy<Value = ToControlPlane> {
    let parts = (any::<u8>(), any::<u32>(), any::<Option<u64>>(), any::<u64>(), outcomes());
    parts.prop_map(|(task, attempt, started, finished_at, outcome)| {
        ToControlPlane::Finished(Finished {
            started_at: started.map(Timestamp),
            finished_at: Timestamp(finished_at),
            outcome,
            ..finished(key(task, attempt))
        })
    })
}

fn commands() -> impl Strategy<Value = ToAgent> {
    let text = || ".{0,40}";
    let parts = (
        prop::collection::vec(text(), 1..20),
        prop::collection::btree_map(text(), text(), 0..20),
        prop::option::of(text()),
        prop::option::of(text()),
        1..100_000_u64,
    );
    parts.prop_map(|(argv, environment, working_directory, user, timeout_ms)| {
        let spec = TaskSpec::Command(CommandSpec { argv, environment, working_directory, user, timeout_ms });
        ToAgent::Dispatch(Box::new(stella_protocol::message::Dispatch {
            spec,
            ..dispatch(key(1, 1), SessionEpoch(1))
        }))
    })
}

proptest! {
    #[test]
    fn commands_come_back_as_they_were(frame in commands()) {
        let encoded = frame::encode(&frame).unwrap();
        prop_assert_eq!(frame::decode::<ToAgent>(&encoded[HEADER_BYTES..]), Ok(frame));
    }

    #[test]
    fn streams_come_back_whatever_the_pieces(frames in prop::collection::vec(results(), 1..8), seed: u64) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            frame::encode_into(frame, &mut stream).unwrap();
        }
        let (mut choices, mut decoder, mut decoded) = (Choices::new(seed), Decoder::new(), Vec::new());
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + choices.below(rest.len()));
            decoder.push(piece).unwrap();
            while let Some(frame) = decoder.next::<ToControlPlane>().unwrap() {
                decoded.push(frame);
            }
            rest = after;
        }
        prop_assert_eq!(decoded, frames);
        prop_assert!(decoder.memory_bytes() == 0);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _message = frame::decode::<ToAgent>(&body);
        let _message = frame::decode::<ToControlPlane>(&body);
    }
}
