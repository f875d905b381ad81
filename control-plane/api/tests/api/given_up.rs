//! What a request leaves behind whose caller hangs up: the change may have happened all the same.

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use futures::FutureExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use stella_api::{AnsweredRequest, OnAnswer};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing_subscriber::fmt::MakeWriter;

use crate::world::World;

/// The lines of a log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_request_whose_caller_hangs_up_is_logged_counted_and_traced() {
    let world = World::new().await;
    world.tenant("acme").await;
    let answered: Arc<Mutex<Vec<AnsweredRequest>>> = Arc::default();
    let told = Arc::clone(&answered);
    let on_answer = OnAnswer(Arc::new(move |request| told.lock().unwrap().push(request.clone())));
    let deps = stella_api::ApiDeps { on_answer: Some(on_answer), ..world.deps.clone() };
    let router = stella_api::router(deps, CancellationToken::new());
    let lines = Lines::default();
    let log = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let _log = tracing::subscriber::set_default(log);
    let metrics = PrometheusBuilder::new().build_recorder();
    let _metrics = metrics::set_default_local_recorder(&metrics);

    let path = "/api/v1/tenants/acme/environments";
    let request = world.request("POST", path).header("content-type", "application/json");
    let request = request.header("x-correlation-id", "given-up-1");
    // Its body never comes, so that it is surely under way when the connection goes away.
    let body = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let mut under_way = Box::pin(router.oneshot(request.body(body).unwrap()));
    assert!((&mut under_way).now_or_never().is_none(), "it waits for its body");
    drop(under_way);

    let answered = answered.lock().unwrap().clone();
    let [request] = answered.as_slice() else { panic!("{answered:?}") };
    assert_eq!((request.status, request.route.as_str()), (499, "/api/v1/tenants/{tenant}/environments"));
    assert!(request.tenant.is_some(), "{request:?}");
    let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = lines.lines().find(|line| line.contains("given-up-1")).unwrap_or_else(|| panic!("{lines}"));
    assert!(line.contains("INFO") && line.contains("status=499"), "{line}");
    let shown = metrics.handle().render();
    let sample = |name: &str, status: &str| {
        let mut samples = shown.lines().filter(|line| line.starts_with(name) && line.contains(status));
        samples.next().and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned())
    };
    assert_eq!(sample("stella_http_requests_total", "status=\"499\"").as_deref(), Some("1"), "{shown}");
    // None of the control plane's failures has happened, and each has a series that can rise from 0.
    for status in ["500", "503", "504", "507"] {
        let found = sample("stella_http_requests_total", &format!("status=\"{status}\""));
        assert_eq!(found.as_deref(), Some("0"), "{status}: {shown}");
    }
    assert_eq!(sample("stella_http_request_duration_seconds_count", "").as_deref(), Some("1"), "{shown}");
    assert_eq!(sample("stella_http_requests_in_flight", "POST").as_deref(), Some("0"), "{shown}");
}
