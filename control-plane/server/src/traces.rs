//! Spans on their way to a collector, by OTLP: batched on a thread of its own, bounded, and never waited for.

mod export;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::describe_counter;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _};
use parking_lot::Mutex;
use stella_protocol::trace::{TraceContext, TraceParent};

use self::export::{Carrier, processor};
use crate::config::Traces as Config;

/// How many traces are sent beside the sample, the newest of them: what fails goes on for a while, with a rollback for example.
const WANTED_MAX: usize = 4_096;
/// How long the last exports may take when the control plane stops.
const LAST_EXPORTS: Duration = Duration::from_secs(5);

/// Whose span it is: what a trace is coloured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    ControlPlane,
    Agent,
}

/// Something that took time and has ended.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) service: Service,
    /// The trace; its span is not looked at.
    pub(crate) trace: TraceContext,
    pub(crate) id: u64,
    /// 0 is none.
    pub(crate) parent: u64,
    pub(crate) name: &'static str,
    pub(crate) kind: SpanKind,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Vec<KeyValue>,
    /// Why it did not go well.
    pub(crate) error: Option<String>,
}

/// Where spans go.
pub(crate) struct Traces {
    control_plane: BatchSpanProcessor,
    agents: BatchSpanProcessor,
    ratio: f64,
    wanted: Mutex<Wanted>,
    /// Last, because the others need it until they have ended.
    _carrier: Carrier,
}

/// Traces that are written although they are not part of the sample, the newest of them.
#[derive(Debug, Default)]
struct Wanted {
    order: VecDeque<u128>,
    traces: HashSet<u128>,
}

impl Traces {
    /// Starts to export, if a collector is configured. Whether it can be reached is seen later.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(address) = config.address()? else { return Ok(None) };
        describe_counter!("stella_trace_spans_total", "Spans that were sent to the collector, by result");
        let carrier = Carrier::start(config.protocol)?;
        let processor = |service| processor(config, &address, &carrier, service);
        Ok(Some(Arc::new(Self {
            control_plane: processor("stella-orchestrator")?,
            agents: processor("stella-agent")?,
            _carrier: carrier,
            ratio: config.sample_ratio,
            wanted: Mutex::default(),
        })))
    }

    /// Whether spans of a trace are sent: if whoever began it has it sampled and it is part of our share, or if it is wanted.
    pub(crate) fn takes(&self, trace: TraceParent) -> bool {
        trace.is_valid()
            && ((trace.sampled && is_in_sample(trace.trace_id, self.ratio))
                || self.wanted.lock().traces.contains(&trace.trace_id))
    }

    /// Has all further spans of a trace sent, whether it is part of the sample or not.
    pub(crate) fn want(&self, trace: TraceParent) {
        let mut wanted = self.wanted.lock();
        if trace.is_valid() && wanted.traces.insert(trace.trace_id) {
            wanted.order.push_back(trace.trace_id);
            if wanted.order.len() > WANTED_MAX
                && let Some(oldest) = wanted.order.pop_front()
            {
                wanted.traces.remove(&oldest);
            }
        }
    }

    /// Sends a span, if spans of its trace are.
    pub(crate) fn write(&self, span: Span) {
        if !self.takes(span.trace.parent()) {
            return;
        }
        // As it leaves with this span. The exporter's rules for it are those by which it was read.
        let state = span.trace.state.with_own(span.id).parse().unwrap_or_default();
        let (trace, id) = (TraceId::from(span.trace.trace_id), SpanId::from(span.id));
        let context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state);
        let data = SpanData {
            span_context: context,
            parent_span_id: SpanId::from(span.parent),
            parent_span_is_remote: false,
            span_kind: span.kind,
            name: span.name.into(),
            start_time: span.start,
            end_time: span.end,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: InstrumentationScope::builder("stella").build(),
        };
        match span.service {
            Service::ControlPlane => self.control_plane.on_end(data),
            Service::Agent => self.agents.on_end(data),
        }
    }

    /// Sends what is left. Blocks, for [`LAST_EXPORTS`] at most for each service.
    pub(crate) fn stop(&self) {
        for processor in [&self.control_plane, &self.agents] {
            if let Err(error) = processor.shutdown_with_timeout(LAST_EXPORTS) {
                tracing::warn!(%error, "the last spans could not be sent");
            }
        }
    }
}

/// By the trace's lower half, as OpenTelemetry's ratio sampler does it: other parts that sample by the same ratio agree.
fn is_in_sample(trace_id: u128, ratio: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a ratio of a thousandth more or less")]
    let place = (trace_id & u128::from(u64::MAX >> 1)) as f64 / (u64::MAX >> 1) as f64;
    place < ratio || ratio >= 1.0
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
