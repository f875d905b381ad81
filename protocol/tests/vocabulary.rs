//! Texts for people and headers: identifiers, digests and trace contexts, and what is refused.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use stella_protocol::digest::{Digest, ParseDigestError};
use stella_protocol::id::{AgentId, SessionEpoch, TaskId};
use stella_protocol::trace::{ParseTraceParentError, TraceContext, TraceParent};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn traced() -> TraceParent {
    TraceParent {
        trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span_id: 0xb7ad_6b71_6920_3331,
        sampled: true,
    }
}

#[test]
fn the_recommendations_example_is_read_and_written() {
    assert_eq!(TRACEPARENT.parse(), Ok(traced()));
    assert_eq!(traced().to_string(), TRACEPARENT);
    assert!(
        !TraceParent::default().is_valid() && !TraceContext::default().is_valid(),
        "no trace is the default"
    );
}

#[test]
fn only_the_sampling_flag_is_read() {
    for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
        let text = format!("{}{flags}", &TRACEPARENT[..53]);
        assert_eq!(text.parse(), Ok(TraceParent { sampled, ..traced() }), "{text}");
    }
}

#[test]
fn a_later_version_is_read_by_its_first_four_fields() {
    for tail in ["", "-", "-what comes later"] {
        let text = format!("cc{}{tail}", &TRACEPARENT[2..]);
        assert_eq!(text.parse(), Ok(traced()), "{text}");
    }
}

#[test]
fn what_is_no_traceparent_is_refused() {
    let with =
        |at: usize, with: &str| format!("{}{with}{}", &TRACEPARENT[..at], &TRACEPARENT[at + with.len()..]);
    let refused = [
        String::new(),
        "00".into(),
        TRACEPARENT[..54].into(),
        format!("{TRACEPARENT}-"),
        format!("cc{}.", &TRACEPARENT[2..]),
        with(0, "ff"),
        with(0, "0x"),
        with(2, "_"),
        with(35, "_"),
        with(52, "_"),
        with(3, "A"),
        with(3, "+"),
        with(53, "0g"),
        with(3, &"0".repeat(32)),
        with(36, &"0".repeat(16)),
        with(3, "é"),
        "é".repeat(28),
    ];
    for text in refused {
        assert_eq!(text.parse::<TraceParent>(), Err(ParseTraceParentError), "{text}");
    }
}

/// What the headers of a request say.
fn said(headers: &[(&str, &str)]) -> TraceContext {
    TraceContext::from_headers(|name| {
        headers.iter().filter(move |(it, _)| *it == name).map(|(_, value)| value.as_bytes())
    })
}

#[test]
fn a_context_leaves_with_what_it_came_with_and_our_member_in_front() {
    let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    let context =
        said(&[parent, ("tracestate", "a=1"), ("tracestate", "stella=x,b=2"), ("baggage", "k = v")]);
    assert!(!context.sampled, "the decision is the caller's");
    let leaves: Vec<_> = context.with_span(0xaa).headers().collect();
    let expected = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00000000000000aa-00"),
        ("tracestate", "stella=00000000000000aa,a=1,b=2"),
        ("baggage", "k=v"),
    ];
    assert_eq!(leaves, expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn without_one_traceparent_there_is_no_state_and_baggage_all_the_same() {
    let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let others = [("tracestate", "a=1"), ("baggage", "k=v")];
    for parents in [vec![], vec![parent, parent], vec![("traceparent", "00-0-0-00")]] {
        let context = said(&[parents.as_slice(), &others].concat());
        assert!(!context.is_valid() && context.state.is_empty(), "{parents:?}");
        assert_eq!(context.headers().collect::<Vec<_>>(), [("baggage", "k=v".to_owned())]);
    }
    let context = said(&[parent, ("tracestate", "a"), ("baggage", "k")]);
    assert_eq!(context, traced().into(), "what is malformed leaves the rest as it is");
}

#[test]
fn a_digest_has_one_long_and_one_short_form() {
    let digest = Digest([0xab; 32]);
    let text = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(digest.to_string(), text);
    assert_eq!(format!("{digest:?}"), text);
    assert_eq!(text.parse(), Ok(digest));
    assert_eq!((digest.to_hex(), digest.short()), ("ab".repeat(32), "ab".repeat(6)));
}

#[test]
fn what_is_no_digest_is_refused() {
    let refused = [
        String::new(),
        "sha256:".into(),
        "ab".repeat(32),
        format!("sha512:{}", "ab".repeat(32)),
        format!("SHA256:{}", "ab".repeat(32)),
        format!("sha256:{}", "ab".repeat(31)),
        format!("sha256:{}", "ab".repeat(33)),
        format!("sha256:{}a", "ab".repeat(31)),
        format!("sha256:{}zz", "ab".repeat(31)),
        format!("sha256: {}", "ab".repeat(32)),
        format!("sha256:{}é", "ab".repeat(31)),
    ];
    for text in refused {
        assert_eq!(text.parse::<Digest>(), Err(ParseDigestError), "{text}");
    }
}

#[test]
fn an_id_that_is_none_says_which_kind_was_expected() {
    let text = "0190f5f4-7b3c-7c1d-9d55-4f2b8e6a1c33";
    let id: AgentId = text.parse().unwrap();
    assert_eq!((id.to_string().as_str(), format!("{id:?}")), (text, format!("agent:{text}")));
    let refused = "é".repeat(100).parse::<TaskId>().unwrap_err();
    assert_eq!((refused.kind, refused.text.chars().count()), ("task", 64));
    assert_eq!(SessionEpoch(u64::MAX).next(), SessionEpoch(u64::MAX), "numbers saturate");
}

proptest! {
    #[test]
    fn trace_contexts_come_back(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
        let context = TraceParent { trace_id, span_id, sampled };
        prop_assert_eq!(context.to_string().parse(), Ok(context));
    }

    #[test]
    fn digests_come_back(bytes: [u8; 32]) {
        prop_assert_eq!(Digest(bytes).to_string().parse(), Ok(Digest(bytes)));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,80}", bytes in any::<Vec<u8>>()) {
        let lossy = String::from_utf8_lossy(&bytes);
        for text in [text.as_str(), &lossy] {
            let _parsed = text.parse::<TraceParent>();
            let headers = |_: &'static str| [text.as_bytes()];
            let context = TraceContext::from_headers(headers);
            prop_assert!(context.headers().all(|(_, value)| value.len() <= 8192));
            let _parsed = text.parse::<Digest>();
            let _parsed = text.parse::<AgentId>();
        }
    }
}
