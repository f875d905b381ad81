//! A collector of traces: takes OTLP over HTTP and over gRPC as the specification has it, on one port, and keeps what comes.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::post;
use axum::serve::Listener;
use flate2::read::GzDecoder;
use http_body_util::StreamBody;
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use prost::Message as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The largest body that is unpacked, in bytes.
const BODY_BYTES_MAX: u64 = 16 << 20;
/// Where gRPC has it.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// What is before each message of gRPC: whether it is packed, and its length.
const GRPC_HEAD_BYTES: usize = 5;

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
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
    /// How long it took, in nanoseconds.
    pub nanoseconds: u64,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether it did not go well.
    pub is_error: bool,
}

/// What has come.
#[derive(Debug, Default)]
struct Taken {
    spans: Mutex<Vec<Span>>,
    headers: Mutex<Vec<HeaderMap>>,
}

/// A collector. It stops listening when this is dropped.
#[derive(Debug)]
pub struct Collector {
    base: String,
    taken: Arc<Taken>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts to listen.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let base = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        Ok(Self::serve(base, listener))
    }

    /// Starts to listen with a certificate for `localhost` and its key (PEM).
    ///
    /// # Errors
    /// If there is no port, or the certificate is none.
    pub async fn start_tls(certificate: &str, key: &str) -> Result<Self> {
        stella_certs::install_provider();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let base = format!("https://localhost:{}", tcp.local_addr()?.port());
        Ok(Self::serve(base, Tls { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) }))
    }

    fn serve<L>(base: String, listener: L) -> Self
    where
        L: Listener,
        L::Addr: std::fmt::Debug,
    {
        let taken = Arc::new(Taken::default());
        let router = Router::new().route("/v1/traces", post(take)).route(GRPC_PATH, post(take_call));
        let router = router.with_state(Arc::clone(&taken));
        let task = tokio::spawn(async move {
            // The tests say what is missing if it ends.
            axum::serve(listener, router).await.ok();
        });
        Self { base, taken, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}/v1/traces", self.base)
    }

    /// The address without the path: for gRPC, and for programs that add it.
    #[must_use]
    pub fn base(&self) -> String {
        self.base.clone()
    }

    /// The headers of all requests so far.
    #[must_use]
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.taken.headers.lock().clone()
    }

    /// Everything so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.taken.spans.lock().clone()
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

/// Listens with TLS.
struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            // A client that does not trust the certificate goes away.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn take(State(taken): State<Arc<Taken>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let is_packed = headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    match keep(&taken, headers, &body, is_packed) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

/// One call of gRPC: a message comes, an empty one goes, and how it went is in the trailers.
async fn take_call(State(taken): State<Arc<Taken>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let kept = message(&body).and_then(|(is_packed, message)| keep(&taken, headers, message, is_packed));
    let status = if kept.is_ok() { "0" } else { "3" };
    let trailers =
        HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(status))]);
    let frames = [Frame::data(Bytes::from_static(&[0; GRPC_HEAD_BYTES])), Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, io::Error>)));
    let mut answer = Response::new(Body::new(body));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

fn message(body: &[u8]) -> Result<(bool, &[u8])> {
    let (head, message) = body.split_first_chunk::<GRPC_HEAD_BYTES>().context("no message")?;
    let [packed, length @ ..] = *head;
    ensure!(u32::from_be_bytes(length) as usize == message.len(), "not one message");
    Ok((packed == 1, message))
}

fn keep(taken: &Taken, headers: HeaderMap, body: &[u8], is_packed: bool) -> Result<()> {
    let found = if is_packed { read(&unpack(body)?) } else { read(body) }?;
    taken.headers.lock().push(headers);
    taken.spans.lock().extend(found);
    Ok(())
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
                start: span.start_time_unix_nano,
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
