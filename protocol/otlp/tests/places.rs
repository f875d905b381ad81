//! What waits for a collector that says nothing is bounded, and what finds no place is counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::time::{Duration, UNIX_EPOCH};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use stella_otlp::{Collector, Compression, Config, Protocol, Span, SpanKind};
use stella_protocol::trace::TraceContext;

const PLACES: usize = 10;
const WRITTEN: u64 = 100;

/// A collector that takes connections and never answers: they stay in the listener's queue.
fn silent() -> (TcpListener, Config) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let config = Config {
        endpoint: Some(endpoint),
        protocol: Protocol::Http,
        compression: Compression::None,
        ca: None,
        headers_file: None,
    };
    (listener, config)
}

fn span(id: u64) -> Span {
    Span {
        trace: TraceContext { trace_id: 1, span_id: 1, sampled: true, ..TraceContext::default() },
        id,
        parent: 1,
        name: "test",
        kind: SpanKind::Internal,
        start: UNIX_EPOCH,
        end: UNIX_EPOCH,
        attributes: Vec::new(),
        error: None,
    }
}

/// The value of a series, 0 if it is not there.
fn value(page: &PrometheusHandle, series: &str) -> u64 {
    let text = page.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn spans_that_find_no_place_are_counted() {
    stella_certs::install_provider();
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let (_listener, config) = silent();
        let collector = Collector::open(&config).unwrap().unwrap();
        let outlet = collector.outlet("tested", PLACES).unwrap();
        assert_eq!(value(&page, "stella_trace_spans_waiting{service=\"tested\"}"), 0);
        for id in 1..=WRITTEN {
            outlet.write(span(id));
        }
        // Those that are being sent have their places until the collector has answered.
        let places = u64::try_from(PLACES).unwrap();
        assert_eq!(value(&page, "stella_trace_spans_waiting{service=\"tested\"}"), places);
        assert_eq!(value(&page, "stella_trace_spans_total{result=\"dropped\"}"), WRITTEN - places);
        outlet.stop(Duration::ZERO);
    });
}
