//! W3C trace context and baggage: what a caller says about the trace that it is in, and what it wants carried along.
//!
//! Sources: <https://www.w3.org/TR/trace-context/> (level 1) and <https://www.w3.org/TR/baggage/>. What is malformed is dropped as they say,
//! and is never an error: a trace is not worth a request.

mod baggage;
mod correlation;
mod list;
mod parent;
mod state;

use serde::{Deserialize, Serialize};

pub use baggage::Baggage;
pub use correlation::{Correlation, NoCorrelation};
pub use list::NotCanonical;
pub use parent::{ParseTraceParentError, TraceParent};
pub use state::TraceState;

/// The name of the header that says which trace and span.
pub const TRACEPARENT: &str = "traceparent";
/// The name of the header with what each tracing system on the way adds.
pub const TRACESTATE: &str = "tracestate";
/// The name of the header with what the applications on the way tell each other.
pub const BAGGAGE: &str = "baggage";

/// Which trace something belongs to, which span caused it, and what travels with it.
///
/// Cheap to clone. In JSON it is what it was before `state` and `baggage` existed, if there is none of these,
/// nor a `correlation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// Identifies the trace; zero if there is none.
    pub trace_id: u128,
    /// The span that caused what carries this context.
    pub span_id: u64,
    /// The sampling decision, kept as it came.
    pub sampled: bool,
    /// What other tracing systems said about the trace.
    #[serde(default, skip_serializing_if = "TraceState::is_empty")]
    pub state: TraceState,
    /// What the caller wants carried along. May be there without a trace.
    #[serde(default, skip_serializing_if = "Baggage::is_empty")]
    pub baggage: Baggage,
    /// What the request is called that it began with. May be there without a trace. It stays with us: no header or message carries it on.
    #[serde(default, skip_serializing_if = "Correlation::is_empty")]
    pub correlation: Correlation,
}

impl TraceContext {
    /// What a caller sent, by the values of its headers of each name. Without one valid `traceparent` there is no trace, and what is said
    /// about it is not looked at; `baggage` is taken in any case.
    pub fn from_headers<'h, V>(values: impl Fn(&'static str) -> V) -> Self
    where
        V: IntoIterator<Item = &'h [u8]>,
    {
        let mut parents = values(TRACEPARENT).into_iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(only), None) => str::from_utf8(only).ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        let baggage = Baggage::from_headers(values(BAGGAGE));
        parent.map_or_else(
            || Self { baggage: baggage.clone(), ..Self::default() },
            |parent: TraceParent| {
                let state = TraceState::from_headers(values(TRACESTATE));
                Self { state, baggage: baggage.clone(), ..parent.into() }
            },
        )
    }

    /// Whether there is a trace at all.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.parent().is_valid()
    }

    /// Without what travels with it.
    #[must_use]
    pub const fn parent(&self) -> TraceParent {
        TraceParent { trace_id: self.trace_id, span_id: self.span_id, sampled: self.sampled }
    }

    /// The same trace, caused by another span. Without a trace it stays as it is.
    #[must_use]
    pub fn with_span(&self, span_id: u64) -> Self {
        if self.is_valid() { Self { span_id, ..self.clone() } } else { self.clone() }
    }

    /// The same trace without its baggage.
    #[must_use]
    pub fn without_baggage(&self) -> Self {
        Self { baggage: Baggage::default(), ..self.clone() }
    }

    /// The headers with which it leaves, by name; in capitals they are the variables of a command's environment.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let trace = self.is_valid().then(|| {
            [(TRACEPARENT, self.parent().to_string()), (TRACESTATE, self.state.with_own(self.span_id))]
        });
        let baggage = (!self.baggage.is_empty()).then(|| (BAGGAGE, self.baggage.as_str().to_owned()));
        trace.into_iter().flatten().chain(baggage)
    }
}

/// Whether a trace is part of a share of all traces, by its id's lower half, as OpenTelemetry's ratio sampler does it: other parts that
/// sample by the same ratio agree.
#[must_use]
pub fn is_in_sample(trace_id: u128, ratio: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a ratio of a thousandth more or less")]
    let place = (trace_id & u128::from(u64::MAX >> 1)) as f64 / (u64::MAX >> 1) as f64;
    place < ratio || ratio >= 1.0
}

impl From<TraceParent> for TraceContext {
    fn from(parent: TraceParent) -> Self {
        let TraceParent { trace_id, span_id, sampled } = parent;
        Self { trace_id, span_id, sampled, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_share_of_traces_and_the_same_for_each_of_their_spans() {
        let ids = (0..1_000_u64).map(|n| u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        for (ratio, least, most) in [(0.0, 0, 0), (0.1, 50, 150), (0.5, 400, 600), (1.0, 1_000, 1_000)] {
            let sampled = ids.clone().filter(|id| is_in_sample(*id, ratio)).count();
            assert!((least..=most).contains(&sampled), "{sampled} of 1,000 at {ratio}");
        }
    }
}
