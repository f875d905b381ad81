//! Spans on their way to a collector, by OTLP, the same for both ends: batched on a thread of its own, bounded, and never waited for.
//!
//! Whoever has something to tell hands over a whole [`Span`], with its start and its end: nothing is kept open here. Nobody else knows the
//! crates of OpenTelemetry, whose API for traces is not stable yet.

mod config;
mod export;
pub mod outside;
mod places;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::{counter, describe_counter, describe_gauge};
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, Value};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _};
use reqwest::Url;
use stella_protocol::trace::TraceContext;
use stella_telemetry::redact_text;

pub use config::{Compression, Config, Protocol};
pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::SpanKind;

use self::export::Carrier;
use self::places::Places;

/// Why spans cannot be sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that makes no sense. It is not repeated.
    #[error("{0}")]
    Address(String),
    /// A file that is not there or not what it should be.
    #[error("{key} {}: {problem}", path.display())]
    File {
        /// Which key names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without what is in it.
        problem: String,
    },
    /// What would send them cannot be made.
    #[error("{problem}")]
    Client {
        /// What failed, or the key that led to it.
        problem: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Something that took time and has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace; its span is not looked at.
    pub trace: TraceContext,
    /// Which span this is.
    pub id: u64,
    /// 0 is none.
    pub parent: u64,
    /// What it is called.
    pub name: &'static str,
    /// Its part in the conversation.
    pub kind: SpanKind,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it.
    pub attributes: Vec<KeyValue>,
    /// Why it did not go well.
    pub error: Option<String>,
}

/// Says what the figures of spans are. Who makes the recorder later does that again.
pub fn describe() {
    describe_counter!(
        "stella_trace_spans_total",
        "Spans by what became of them: the collector has them, did not take them, or there was no place to wait for it"
    );
    describe_gauge!("stella_trace_spans_waiting", "Spans that wait for the collector, by service");
}

/// A collector that is configured. What sends to it ends with it.
#[derive(Debug)]
pub struct Collector {
    config: Config,
    address: Url,
    carrier: Carrier,
}

impl Collector {
    /// The one that is configured, if there is one. Whether it can be reached is seen later.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub fn open(config: &Config) -> Result<Option<Self>, Error> {
        let Some(address) = config.address()? else { return Ok(None) };
        let carrier = Carrier::start(config.protocol)?;
        Ok(Some(Self { config: config.clone(), address, carrier }))
    }

    /// Starts to send spans of a service. `waiting_max` of them may wait for the collector: beyond that they are dropped, and counted.
    ///
    /// # Errors
    /// If a file cannot be used.
    pub fn outlet(&self, service: &'static str, waiting_max: usize) -> Result<Outlet, Error> {
        describe();
        let Self { config, address, carrier } = self;
        let places = Places::new(service, waiting_max);
        let processor = export::processor(config, address, carrier, service, &places)?;
        Ok(Outlet { processor, places })
    }

    /// Sends no spans, and hears whether that is taken: address, certificate, path and headers are as they should be then. Blocks, for
    /// some seconds at most.
    ///
    /// # Errors
    /// If the configuration makes no sense; within it, why nobody takes it, without any header.
    pub fn probe(&self) -> Result<Result<(), String>, Error> {
        let asked = export::probe(&self.config, &self.address, &self.carrier)?;
        Ok(asked.map_err(|error| error.to_string()))
    }

    /// Where it is, for a person.
    #[must_use]
    pub const fn address(&self) -> &Url {
        &self.address
    }
}

/// The attributes without secrets: paths and what callers say of themselves are written by others.
fn masked(mut attributes: Vec<KeyValue>) -> Vec<KeyValue> {
    for attribute in &mut attributes {
        if let Value::String(text) = &attribute.value {
            attribute.value = redact_text(text.as_str()).into();
        }
    }
    attributes
}

/// Where spans of a service go.
#[derive(Debug)]
pub struct Outlet {
    processor: BatchSpanProcessor,
    places: Arc<Places>,
}

impl Outlet {
    /// Sends a span, with others. Never waits: what there is no place for is lost, and counted.
    pub fn write(&self, span: Span) {
        if !self.places.take() {
            counter!("stella_trace_spans_total", "result" => "dropped").increment(1);
            return;
        }
        // As it leaves with this span. The exporter's rules for it are those by which it was read.
        let state = span.trace.state.with_own(span.id).parse().unwrap_or_default();
        let (trace, id) = (TraceId::from(span.trace.trace_id), SpanId::from(span.id));
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state),
            parent_span_id: SpanId::from(span.parent),
            parent_span_is_remote: false,
            span_kind: span.kind,
            name: span.name.into(),
            start_time: span.start,
            end_time: span.end,
            attributes: masked(span.attributes),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, |why| Status::error(redact_text(&why))),
            instrumentation_scope: InstrumentationScope::builder("stella").build(),
        });
    }

    /// Sends what is left. Blocks, for `duration_max` at most.
    pub fn stop(&self, duration_max: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(duration_max) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}
