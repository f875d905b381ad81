//! Who asks too much is told when to come back; nobody else notices.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use serde_json::json;
use stella_api::{AddressHeader, ApiConfig, Proxies};

use crate::world::{Answer, World, bare, generous, new_token};

const BURST: u32 = 5;

/// So few requests a minute that none becomes free while a test runs.
async fn strict() -> World {
    World::with(ApiConfig { requests_per_minute: 1, burst: BURST, ..generous() }).await
}

fn from(address: IpAddr, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 40_000))));
    request
}

fn assert_limited(answer: &Answer) {
    let problem = answer.expect(429);
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!("rate_limited"), &json!(true)));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_token_has_a_burst_and_then_waits() {
    let world = strict().await;
    for _ in 0..BURST {
        world.get("/api/v1/system").await.expect(200);
    }
    assert_limited(&world.get("/api/v1/system").await);
    // Another token has a burst of its own, and health is nobody's.
    let another = new_token(&world.handle()).await;
    let request = bare("GET", "/api/v1/system").header("authorization", format!("Bearer {another}"));
    world.send(request.body(Body::empty()).unwrap()).await.expect(200);
    for path in ["/health", "/health/ready", "/health/live"] {
        for _ in 0..=2 * BURST {
            world.get(path).await.expect(200);
        }
    }
}

#[tokio::test]
async fn a_refused_command_changes_nothing() {
    let world = strict().await;
    for _ in 0..BURST {
        world.get("/api/v1/system").await.expect(200);
    }
    let head = world.system_head();
    assert_limited(&world.post("/api/v1/tenants", &json!({"name": "acme"})).await);
    assert_eq!(world.system_head(), head);
}

#[tokio::test]
async fn strangers_are_counted_by_their_address() {
    let world = strict().await;
    let (one, other) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
    let ask = |address, path: &str| from(address, bare("GET", path).body(Body::empty()).unwrap());
    for _ in 0..BURST {
        world.send(ask(one, "/api/v1/system")).await.expect(401);
    }
    assert_limited(&world.send(ask(one, "/api/v1/system")).await);
    assert_limited(&world.send(ask(one, "/api/v1/openapi.json")).await);
    world.send(ask(other, "/api/v1/openapi.json")).await.expect(200);
    world.send(ask(one, "/health")).await.expect(200);
    // Who has a good token is not hindered by strangers at the same address.
    let known = world.request("GET", "/api/v1/system").body(Body::empty()).unwrap();
    world.send(from(one, known)).await.expect(200);
}

#[tokio::test]
async fn a_tenant_has_a_limit_over_all_tokens_and_names_that_it_is_called_by() {
    let world = World::with(ApiConfig { tenant_requests_per_minute: BURST, ..generous() }).await;
    let id = world.tenant("acme").await;
    world.tenant("globex").await;
    let another = new_token(&world.handle()).await;
    let paths = ["acme", "acm%65", &id.to_string(), "acme/targets", "%61cme/agents"];
    for path in paths {
        world.get(&format!("/api/v1/tenants/{path}")).await.expect(200);
    }
    for path in paths {
        assert_limited(&world.get(&format!("/api/v1/tenants/{path}")).await);
    }
    let request = bare("GET", "/api/v1/tenants/acme").header("authorization", format!("Bearer {another}"));
    assert_limited(&world.send(request.body(Body::empty()).unwrap()).await);
    world.get("/api/v1/tenants/globex").await.expect(200);
    world.get("/api/v1/tenants").await.expect(200);
}

#[tokio::test]
async fn behind_a_proxy_each_caller_has_requests_of_its_own_and_nobody_has_others() {
    let proxy = IpAddr::from(Ipv4Addr::new(10, 0, 0, 7));
    let proxies = Proxies::parse(&[proxy.to_string()], AddressHeader::XForwardedFor).unwrap();
    let world = World::with(ApiConfig { requests_per_minute: 1, burst: BURST, proxies, ..generous() }).await;
    let ask = async |peer: IpAddr, said: &str| {
        let request = bare("GET", "/api/v1/system").header("x-forwarded-for", said);
        world.send(from(peer, request.body(Body::empty()).unwrap())).await
    };
    for _ in 0..BURST {
        ask(proxy, "198.51.100.1").await.expect(401);
    }
    assert_limited(&ask(proxy, "198.51.100.1").await);
    assert_limited(&ask(proxy, "6.6.6.6, 198.51.100.1").await);
    ask(proxy, "198.51.100.2").await.expect(401);
    // Who is no proxy of ours is itself, whatever it says.
    let stranger = IpAddr::from(Ipv4Addr::new(203, 0, 113, 9));
    for caller in 0..BURST {
        ask(stranger, &format!("198.51.100.{}", 10 + caller)).await.expect(401);
    }
    assert_limited(&ask(stranger, "198.51.100.99").await);
}
