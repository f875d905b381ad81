//! The last part of a span's way: OTLP over HTTP or gRPC. What holds for one holds for the other: batches leave from a thread of their
//! own, each within [`EXPORT_TIMEOUT`] with its retries, and whoever does not take them is not waited for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::{
    SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::config::{Compression, Config, Protocol};
use crate::places::Places;
use crate::{Error, outside};

/// How long spans wait for others to travel with.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The key that says where the collector is.
const ENDPOINT: &str = "traces.endpoint";
/// How long a connection may take to come about, and how long a silent one is believed in while it owes an answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What carries batches over gRPC: its connections live there, away from the work of the control plane. Nothing is needed for HTTP.
#[derive(Debug)]
pub(super) struct Carrier(Option<Runtime>);

impl Carrier {
    pub(super) fn start(protocol: Protocol) -> Result<Self, Error> {
        if protocol == Protocol::Http {
            return Ok(Self(None));
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("otlp").enable_all().build();
        Ok(Self(Some(runtime.map_err(|error| client("the thread for traces cannot be started", error))?)))
    }
}

impl Drop for Carrier {
    /// What is still on its way is given up.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts to send spans of a service there, as long as the carrier lives.
///
/// # Errors
/// If the configuration makes no sense.
pub(super) fn processor(
    config: &Config,
    address: &Url,
    carrier: &Carrier,
    service: &'static str,
    places: &Arc<Places>,
) -> Result<BatchSpanProcessor, Error> {
    let batches = BatchConfigBuilder::default()
        // It never has more than there are places, so it drops none by itself.
        .with_max_queue_size(places.max())
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let counted = Counted { places: Some(Arc::clone(places)), ..counted(config, address, carrier, service)? };
    Ok(BatchSpanProcessor::builder(counted).with_batch_config(batches).build())
}

/// Sends nothing, and hears whether that is taken.
///
/// # Errors
/// If the configuration makes no sense; within it, what the collector says or why it says nothing.
pub(super) fn probe(config: &Config, address: &Url, carrier: &Carrier) -> Result<OTelSdkResult, Error> {
    let counted = counted(config, address, carrier, "stella")?;
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    // Over HTTP a client that blocks is asked, which must not be within a runtime.
    let asking = std::thread::spawn(move || {
        // Who asked has gone away if this fails.
        answer.send(futures::executor::block_on(counted.send(Vec::new()))).ok();
    });
    let result = answered.recv_timeout(EXPORT_TIMEOUT * 2);
    if result.is_ok() {
        asking.join().ok();
    }
    Ok(result.unwrap_or(Err(OTelSdkError::Timeout(EXPORT_TIMEOUT))))
}

fn counted(
    config: &Config,
    address: &Url,
    carrier: &Carrier,
    service: &'static str,
) -> Result<Counted, Error> {
    let headers = config.headers_file.as_deref();
    let headers =
        headers.map(|path| outside::headers("traces.headers_file", path)).transpose()?.unwrap_or_default();
    let mut exporter = match &carrier.0 {
        None => over_http(config, address, headers)?,
        Some(runtime) => over_grpc(config, address, &headers, runtime)?,
    };
    let resource = Resource::builder_empty()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    exporter.set_resource(&resource);
    let carrier = carrier.0.as_ref().map(|runtime| runtime.handle().clone());
    Ok(Counted { exporter: Arc::new(exporter), carrier, places: None })
}

fn over_http(config: &Config, address: &Url, headers: HashMap<String, String>) -> Result<Otlp, Error> {
    let ca = config.ca.as_deref().map(|path| outside::roots("traces.ca", path)).transpose()?;
    // Without TLS no authorities are needed, and a host may have none.
    let ca = ca.or_else(|| (address.scheme() == "http").then(Vec::new));
    // The client must not be made within the runtime: it brings one of its own.
    let making = std::thread::spawn(move || {
        // The headers are for the collector that is configured, and for nobody that it may point to.
        let mut builder =
            reqwest::blocking::Client::builder().timeout(EXPORT_TIMEOUT).redirect(Policy::none());
        if let Some(certificates) = ca {
            builder = builder.tls_certs_only(certificates);
        }
        builder.build()
    });
    let made = making.join().map_err(|_| Error::Client {
        problem: "the thread of the HTTP client panicked",
        source: "no client was made".into(),
    })?;
    let made = made.map_err(|error| client("no HTTP client can be made", error))?;
    let mut builder = Otlp::builder()
        .with_http()
        .with_http_client(made)
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(address.as_str())
        .with_timeout(EXPORT_TIMEOUT)
        .with_headers(headers);
    if config.compression == Compression::Gzip {
        builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
    }
    builder.build().map_err(|error| client(ENDPOINT, error))
}

fn over_grpc(
    config: &Config,
    address: &Url,
    headers: &HashMap<String, String>,
    runtime: &Runtime,
) -> Result<Otlp, Error> {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let mut value = HeaderValue::from_str(value).map_err(|error| client("traces.headers_file", error))?;
        value.set_sensitive(true);
        let name = name.parse::<HeaderName>().map_err(|error| client("traces.headers_file", error))?;
        metadata.insert(name, value);
    }
    let mut builder = Otlp::builder()
        .with_tonic()
        .with_channel(channel(config, address, runtime)?)
        .with_timeout(EXPORT_TIMEOUT)
        .with_metadata(MetadataMap::from_headers(metadata));
    if config.compression == Compression::Gzip {
        builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
    }
    builder.build().map_err(|error| client(ENDPOINT, error))
}

/// A connection that comes about when it is needed, and again when it is lost.
fn channel(config: &Config, address: &Url, runtime: &Runtime) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(address.to_string()).map_err(|error| client(ENDPOINT, error))?;
    let mut endpoint = endpoint
        .connect_timeout(SILENCE_MAX)
        .timeout(EXPORT_TIMEOUT)
        .http2_keep_alive_interval(SILENCE_MAX)
        .keep_alive_timeout(SILENCE_MAX);
    if address.scheme() == "https" {
        let tls = match config.ca.as_deref() {
            Some(path) => roots(path)?,
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let problem = "no connection can be made with TLS; traces.ca names the authorities that the collector's certificate may be under";
        endpoint = endpoint.tls_config(tls).map_err(|error| client(problem, error))?;
    }
    let _within = runtime.enter();
    Ok(endpoint.connect_lazy())
}

fn roots(path: &Path) -> Result<ClientTlsConfig, Error> {
    // The same look at the file as for HTTP, with its errors.
    outside::roots("traces.ca", path)?;
    let pem = std::fs::read(path).map_err(|error| outside::wrong("traces.ca", path, error))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

fn client(problem: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Client { problem, source: Box::new(source) }
}

/// An exporter whose failures are seen.
#[derive(Debug)]
struct Counted {
    exporter: Arc<Otlp>,
    /// Where exports run; on the thread of the batches without.
    carrier: Option<Handle>,
    /// What the spans leave when their export has ended, if they were counted.
    places: Option<Arc<Places>>,
}

impl Counted {
    async fn send(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let Some(carrier) = &self.carrier else { return self.exporter.export(batch).await };
        let exporter = Arc::clone(&self.exporter);
        let limited = carrier.spawn(async move { timeout(EXPORT_TIMEOUT, exporter.export(batch)).await });
        match limited.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        }
    }
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let spans = u64::try_from(count).unwrap_or(u64::MAX);
        let result = self.send(batch).await;
        if let Some(places) = &self.places {
            places.free(count);
        }
        let label = if result.is_ok() { "exported" } else { "failed" };
        counter!("stella_trace_spans_total", "result" => label).increment(spans);
        if let Err(error) = &result {
            tracing::warn!(spans, %error, "spans could not be sent to the collector; they are lost");
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }
}
