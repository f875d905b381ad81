//! Health, the ids that every answer carries, and the whole of it behind a real socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use stella_certs::tls::{ServerIdentity, https_server};
use stella_certs::{Authority, certificates_from_pem};
use stella_protocol::trace::TraceParent;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::world::{World, bare, with_json, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn public(world: &World, path: &str) -> (u16, Value) {
    let answer = world.send(bare("GET", path).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    (answer.status.as_u16(), answer.json())
}

#[tokio::test]
async fn its_body_is_the_one_of_the_operations_overview() {
    let world = World::new().await;
    let (status, mut health) = public(&world, "/health").await;
    assert!(health["uptime"].take().is_u64());
    // The token's creation was flushed, so there is a latency.
    assert!(health["checks"]["database"]["latency"].take().is_u64());
    let expected = json!({
        "status": "healthy",
        "version": "1.2.3-test",
        "uptime": null,
        "checks": {
            "database": {"status": "healthy", "latency": null},
            "redis": {"status": "disabled"},
            "vault": {"status": "disabled"},
        },
    });
    assert_eq!((status, health), (200, expected));
    assert_eq!(public(&world, "/health/ready").await, (200, json!({"status": "ready"})));
    assert_eq!(public(&world, "/health/live").await, (200, json!({"status": "alive"})));
}

#[tokio::test]
async fn a_stopped_engine_is_not_healthy_and_says_so() {
    let world = World::new().await;
    let World { engine, .. } = &world;
    let handle = engine.handle();
    let router = stella_api::router(world.deps.clone(), world.shutdown.clone());
    let token = world.token.clone();
    world.engine.stop();
    assert!(!handle.health().writable);
    let ask = async |method: &str, path: &str, body: Value| {
        let request = bare(method, path).header("authorization", format!("Bearer {token}"));
        let response = tower::ServiceExt::oneshot(router.clone(), with_json(request, &body)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = within(axum::body::to_bytes(body, 1 << 20)).await.unwrap();
        (head.status.as_u16(), head.headers, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let (status, _, health) = ask("GET", "/health", json!({})).await;
    assert_eq!((status, &health["status"]), (503, &json!("unhealthy")));
    assert_eq!(health["checks"]["database"]["status"], "unhealthy");
    assert!(!health["checks"]["database"]["detail"].as_str().unwrap().is_empty());
    assert_eq!(ask("GET", "/health/ready", json!({})).await.0, 503);
    assert_eq!(ask("GET", "/health/live", json!({})).await.0, 200);
    // Reads go on; a write is refused and may be tried again elsewhere or later.
    assert_eq!(ask("GET", "/api/v1/tenants", json!({})).await.0, 200);
    let (status, headers, problem) = ask("POST", "/api/v1/tenants", json!({"name": "acme"})).await;
    assert_eq!((status, &problem["code"], &problem["retryable"]), (503, &json!("stopping"), &json!(true)));
    assert_eq!(problem["noSideEffects"], false);
    assert!(headers.contains_key("retry-after"));
}

#[tokio::test]
async fn while_it_shuts_down_it_is_alive_but_not_ready() {
    let world = World::new().await;
    world.shutdown.cancel();
    assert_eq!(public(&world, "/health/ready").await, (503, json!({"status": "not_ready"})));
    assert_eq!(public(&world, "/health/live").await.0, 200);
    assert_eq!(public(&world, "/health").await.0, 200);
}

#[tokio::test]
async fn a_trace_goes_on_into_the_events_and_the_correlation_id_comes_back() {
    let world = World::new().await;
    world.tenant("acme").await;
    let request = world.request("POST", "/api/v1/tenants/acme/environments");
    let request = request.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let request = with_json(request.header("x-correlation-id", "order 7"), &json!({"name": "dev"}));
    let answer = world.send(request).await;
    answer.expect(201);
    assert_eq!(answer.header("x-correlation-id"), Some("order 7"));
    assert!(answer.header("traceparent").unwrap().starts_with(&format!("00-{TRACE}-")));
    let events = world.get("/api/v1/tenants/acme/events").await.expect(200);
    let created = events["items"].as_array().unwrap().last().unwrap();
    assert_eq!((&created["type"], &created["trace_id"]), (&json!("environment_created"), &json!(TRACE)));
}

#[tokio::test]
async fn ids_that_make_no_sense_are_replaced() {
    let world = World::new().await;
    let long = "x".repeat(129);
    for (trace, correlation) in [("", ""), ("00-0-0-00", long.as_str()), (TRACE, "")] {
        let request =
            bare("GET", "/health").header("traceparent", trace).header("x-correlation-id", correlation);
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        let given: TraceParent = answer.header("traceparent").unwrap().parse().unwrap();
        assert!(given.is_valid());
        assert_ne!(format!("{:032x}", given.trace_id), TRACE);
        assert!(answer.header("x-correlation-id").unwrap().parse::<uuid::Uuid>().is_ok());
    }
}

/// The world behind a real socket, under an authority.
async fn served(world: &World) -> (Authority, SocketAddr, JoinHandle<Result<(), stella_api::Error>>) {
    stella_certs::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path(), SystemTime::now()).unwrap();
    let certificate = authority.issue_server(&[], SystemTime::now(), Duration::from_secs(3_600)).unwrap();
    let tls = https_server(&ServerIdentity::new(&certificate).unwrap()).unwrap();
    let (ready, address) = oneshot::channel();
    let serving = tokio::spawn(stella_api::serve(
        (Ipv4Addr::LOCALHOST, 0).into(),
        world.deps.clone(),
        tls,
        world.shutdown.clone(),
        move |address| ready.send(address).unwrap(),
    ));
    (authority, within(address).await.unwrap(), serving)
}

#[tokio::test]
async fn it_is_served_over_tls_until_the_shutdown() {
    let world = World::new().await;
    let (authority, address, serving) = served(&world).await;
    assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);

    let client = |roots: Option<reqwest::Certificate>| {
        let roots = roots.into_iter().collect::<Vec<_>>();
        reqwest::Client::builder().https_only(true).tls_certs_only(roots).build().unwrap()
    };
    let root = reqwest::Certificate::from_pem(authority.roots_pem().as_bytes()).unwrap();
    let trusting = client(Some(root));
    let url = format!("https://localhost:{}", address.port());
    let health: Value =
        within(trusting.get(format!("{url}/health")).send()).await.unwrap().json().await.unwrap();
    assert_eq!(health["status"], "healthy");
    let stranger = within(trusting.get(format!("{url}/api/v1/tenants")).send()).await.unwrap();
    assert_eq!(stranger.status().as_u16(), 401);
    let create = trusting.post(format!("{url}/api/v1/tenants")).bearer_auth(&world.token);
    let created = within(create.json(&json!({"name": "acme"})).send()).await.unwrap();
    assert_eq!(created.status().as_u16(), 201);
    // Who does not know the authority does not talk to it, and nobody does without TLS.
    assert!(within(client(None).get(format!("{url}/health")).send()).await.is_err());

    let follow = trusting.get(format!("{url}/api/v1/tenants/acme/events")).bearer_auth(&world.token);
    let mut feed = within(follow.header("accept", "text/event-stream").send()).await.unwrap();
    let first = within(feed.chunk()).await.unwrap().unwrap();
    assert!(first.starts_with(b"id: 0\n"), "{first:?}");
    world.shutdown.cancel();
    while within(feed.chunk()).await.unwrap().is_some() {}
    within(serving).await.unwrap().unwrap();
    assert!(trusting.get(format!("{url}/health")).send().await.is_err());
}

/// Of HTTP/2, and settings without any.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Keeps a connection of HTTP/2 alive for as long as the other end lets it.
async fn answer_pings(mut connection: impl AsyncRead + AsyncWrite + Unpin) {
    let mut head = [0; 9];
    while connection.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        let is_ping = head[3] == 6;
        if connection.read_exact(&mut payload).await.is_err() {
            return;
        }
        head[4] |= 1;
        if is_ping && connection.write_all(&[&head[..], &payload].concat()).await.is_err() {
            return;
        }
    }
}

/// Time is only moved while both connections are quiet.
async fn minutes_pass() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(70)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn the_connection_of_a_stranger_ends_and_that_of_a_feed_does_not() {
    let world = World::new().await;
    world.tenant("acme").await;
    let (authority, address, _serving) = served(&world).await;
    let root = reqwest::Certificate::from_pem(authority.roots_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let url = format!("https://localhost:{}/api/v1/tenants/acme/events", address.port());
    let follow = client.get(url).bearer_auth(&world.token).header("accept", "text/event-stream");
    let mut feed = within(follow.send()).await.unwrap();
    assert_eq!(feed.version(), reqwest::Version::HTTP_2);
    assert!(within(feed.chunk()).await.unwrap().unwrap().starts_with(b"id: 0\n"));

    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates_from_pem(authority.roots_pem().as_bytes()).unwrap());
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stranger = within(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap();
    stranger.write_all(PREFACE).await.unwrap();
    within(stranger.read_exact(&mut [0; 9])).await.unwrap();
    minutes_pass().await;
    within(answer_pings(stranger)).await;

    world.post("/api/v1/tenants/acme/environments", &json!({"name": "production"})).await.expect(201);
    let next = within(feed.chunk()).await.unwrap().unwrap();
    assert!(!next.is_empty());
}
