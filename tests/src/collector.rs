//! A collector of traces: takes OTLP over HTTP as the specification has it, and keeps what comes.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The largest body that is unpacked, in bytes.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// A span as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// The id of its parent, in hex; empty without one.
    pub parent: String,
    /// Its `trace_state`.
    pub state: String,
    /// How long it took, in nanoseconds.
    pub nanoseconds: u64,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether it did not go well.
    pub is_error: bool,
}

type Spans = Arc<Mutex<Vec<Span>>>;

/// A collector. It stops listening when this is dropped.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    spans: Spans,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts to listen.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let spans = Spans::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        let task = tokio::spawn(async move {
            // The tests say what is missing if it ends.
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { port, spans, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}/v1/traces", self.base())
    }

    /// The address without the path, for programs that add it.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().clone()
    }

    /// The spans of one name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(spans): State<Spans>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let is_packed = headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let unpacked = if is_packed { unpack(&body) } else { Ok(body.to_vec()) };
    match unpacked.and_then(|body| read(&body)) {
        Ok(found) => {
            spans.lock().extend(found);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

fn unpack(body: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    GzDecoder::new(body).take(BODY_BYTES_MAX).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

fn read(body: &[u8]) -> Result<Vec<Span>> {
    let request = ExportTraceServiceRequest::decode(body)?;
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.context("no resource")?;
        let service = texts(&resource.attributes).remove("service.name").context("no service.name")?;
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(Span {
                service: service.clone(),
                name: span.name,
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                state: span.trace_state,
                nanoseconds: span
                    .end_time_unix_nano
                    .checked_sub(span.start_time_unix_nano)
                    .context("it ended before it began")?,
                attributes: texts(&span.attributes),
                is_error: span.status.is_some_and(|status| status.code == 2),
            });
        }
    }
    Ok(found)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|it| (it.key.clone(), text(&it.value))).collect()
}
