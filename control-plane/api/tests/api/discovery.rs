//! Agents that can be scraped are found by Prometheus: those of the tenants that its token may see, and no others.

use std::time::Instant;

use axum::body::Body;
use futures::StreamExt;
use serde_json::{Value, json};
use stella_domain::agent::FiguresAddress;
use stella_domain::command::{Command, TenantCommand};
use stella_domain::name::Name;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, EnrolmentTokenId};
use stella_protocol::message::capability;
use uuid::Uuid;

use crate::world::{Answer, World, bare, connect, submit};

const PATH: &str = "/api/v1/sd/agents";

async fn command(world: &World, tenant: &str, command: TenantCommand) {
    let id = world.handle().state().system.tenants[&tenant.parse::<Name>().unwrap()];
    submit(&world.handle(), Command::Tenant(id, command)).await;
}

async fn connects(world: &World, tenant: &str, agent: &str, capabilities: u64) {
    command(world, tenant, connect(agent.parse().unwrap(), capabilities)).await;
}

async fn serves(world: &World, tenant: &str, agent: &str, host: &str) {
    connects(world, tenant, agent, capability::FIGURES).await;
    let agent: AgentId = agent.parse().unwrap();
    let state = world.handle().state();
    let id = state.system.tenants[&tenant.parse::<Name>().unwrap()];
    let session = state.tenants[&id].agents[&agent].session;
    let at = FiguresAddress { host: host.to_owned(), port: 9091 };
    command(world, tenant, TenantCommand::RecordAgentFigures { agent, session, at }).await;
}

fn targets(found: &Value) -> Vec<&str> {
    found.as_array().unwrap().iter().map(|group| group["targets"][0].as_str().unwrap()).collect()
}

async fn asked_with(world: &World, token: &str, path: &str) -> Answer {
    let request = bare("GET", path).header("authorization", format!("Bearer {token}"));
    world.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn who_can_be_scraped_is_listed_with_what_is_known_of_it() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let loopback = world.agent("acme", "host-2").await;
    connects(&world, "acme", &loopback, capability::COMMAND).await;
    let answer = world.get(PATH).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.expect(200), json!([]), "nobody serves figures to other hosts");

    serves(&world, "acme", &busy.agent, "2001:db8::1").await;
    let at = format!("{}/targets", busy.at);
    world.post(&format!("{}/environments", busy.at), &json!({"name": "dev"})).await.expect(201);
    let more = json!({"name": "web-2", "environment": "dev", "agent": "host-1", "slot": "b"});
    world.post(&at, &more).await.expect(201);
    let tenant = world.get("/api/v1/tenants/acme").await.expect(200)["id"].clone();
    let found = world.get(PATH).await.expect(200);
    let labels = json!({
        "__scheme__": "https",
        "__meta_stella_agent": "host-1",
        "__meta_stella_agent_id": busy.agent,
        "__meta_stella_tenant": "acme",
        "__meta_stella_tenant_id": tenant,
        "__meta_stella_hostname": "host-1",
        "__meta_stella_version": "0.1.0",
        "__meta_stella_environments": ",dev,prod,",
    });
    assert_eq!(found, json!([{ "targets": ["[2001:db8::1]:9091"], "labels": labels }]));
    let shown = world.get(&format!("{}/agents/host-1", busy.at)).await.expect(200);
    assert_eq!(shown["metrics_address"], "[2001:db8::1]:9091");

    // It stays while it is away, and goes when it serves them no more or is revoked.
    let agent: AgentId = busy.agent.parse().unwrap();
    let (session, reason) = (stella_protocol::id::SessionEpoch(1), String::new());
    command(&world, "acme", TenantCommand::DisconnectAgent { agent, session, reason }).await;
    assert_eq!(targets(&world.get(PATH).await.expect(200)).len(), 1);
    connects(&world, "acme", &busy.agent, capability::COMMAND).await;
    assert_eq!(world.get(PATH).await.expect(200), json!([]));
    serves(&world, "acme", &busy.agent, "web-1").await;
    assert_eq!(targets(&world.get(PATH).await.expect(200)), ["web-1:9091"]);
    let events = world.get(&format!("{}/events", busy.at)).await.expect(200);
    let events = events["items"].as_array().unwrap().iter();
    let moved: Vec<_> =
        events.filter(|it| it["type"] == "agent_figures_moved").map(|it| &it["data"]["at"]["host"]).collect();
    assert_eq!(moved, [&json!("2001:db8::1"), &Value::Null, &json!("web-1")]);
    let revoke = json!({"reason": "stolen"});
    world.post(&format!("{}/agents/host-1/revoke", busy.at), &revoke).await.expect(200);
    assert_eq!(world.get(PATH).await.expect(200), json!([]));
}

#[tokio::test]
async fn labels_of_a_host_become_names_that_prometheus_takes() {
    let world = World::new().await;
    world.tenant("acme").await;
    let labels = json!({"rack": "r1", "kubernetes.io/zone": "a", "zone-1": "x", "zone.1": "y"});
    let body = json!({"name": "web-1", "labels": labels});
    let created = world.post("/api/v1/tenants/acme/enrolment-tokens", &body).await.expect(201);
    let token: EnrolmentTokenId = created["details"]["id"].as_str().unwrap().parse().unwrap();
    let agent = AgentId(Uuid::from_u128(7));
    let enrol = TenantCommand::Enrol {
        token,
        key_fingerprint: Digest([7; 32]),
        agent,
        hostname: "web-1".into(),
        takes_profile: true,
        wanted: None,
    };
    command(&world, "acme", enrol).await;
    serves(&world, "acme", &agent.to_string(), "10.0.0.1").await;
    let found = world.get(PATH).await.expect(200);
    let labels = &found[0]["labels"];
    for (name, value) in [("rack", "r1"), ("kubernetes_io_zone", "a"), ("zone_1", "x")] {
        assert_eq!(labels[format!("__meta_stella_label_{name}")], value, "{labels}");
    }
    assert_eq!(labels["__meta_stella_environments"], "", "{labels}");
}

#[tokio::test]
async fn a_token_finds_the_agents_of_its_tenants_and_is_refused_when_it_has_none() {
    let world = World::new().await;
    for tenant in ["acme", "globex"] {
        world.tenant(tenant).await;
        let agent = world.agent(tenant, "web-1").await;
        serves(&world, tenant, &agent, &format!("{tenant}.example.com")).await;
    }
    assert_eq!(targets(&world.get(PATH).await.expect(200)).len(), 2);
    let only = world.get(&format!("{PATH}?tenant=globex")).await.expect(200);
    assert_eq!(targets(&only), ["globex.example.com:9091"]);
    world.get(&format!("{PATH}?tenant=nobody")).await.expect(404);
    let document = world.get("/api/v1/openapi.json").await.expect(200);
    assert_eq!(document["paths"][PATH]["get"]["parameters"][0]["name"], "tenant");

    let roles = json!([{"role": "viewer", "tenant": "acme"}]);
    let account = json!({"name": "prometheus", "kind": "service", "roles": roles});
    world.post("/api/v1/accounts", &account).await.expect(201);
    let token =
        world.post("/api/v1/tokens", &json!({"name": "sd", "account": "prometheus"})).await.expect(201);
    let token = token["token"].as_str().unwrap();
    let found = asked_with(&world, token, PATH).await.expect(200);
    assert_eq!(targets(&found), ["acme.example.com:9091"]);
    asked_with(&world, token, &format!("{PATH}?tenant=globex")).await.expect(404);
    asked_with(&world, "stella_api_unknown", PATH).await.expect(401);
    // An empty list would take from Prometheus what it scrapes.
    world.post("/api/v1/accounts/prometheus/roles", &json!({"roles": []})).await.expect(200);
    let refused = asked_with(&world, token, PATH).await.expect(403);
    assert!(refused["detail"].as_str().unwrap().contains("viewer"), "{refused}");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a figure for people")]
async fn ten_thousand_agents_are_one_answer() {
    const COUNT: u32 = 10_000;
    let world = World::new().await;
    world.tenant("acme").await;
    let body = json!({"uses": COUNT, "labels": {"rack": "r1"}});
    let created = world.post("/api/v1/tenants/acme/enrolment-tokens", &body).await.expect(201);
    let token: EnrolmentTokenId = created["details"]["id"].as_str().unwrap().parse().unwrap();
    let tenant = world.handle().state().system.tenants[&"acme".parse::<Name>().unwrap()];
    let handle = world.handle();
    let agents = futures::stream::iter(1..=COUNT).map(|n| {
        let handle = handle.clone();
        async move {
            let agent = AgentId(Uuid::from_u128(n.into()));
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            let hostname = format!("web-{n}");
            let enrol = TenantCommand::Enrol {
                token,
                key_fingerprint: Digest(key),
                agent,
                hostname,
                takes_profile: true,
                wanted: None,
            };
            submit(&handle, Command::Tenant(tenant, enrol)).await;
            let connect = connect(agent, capability::FIGURES);
            submit(&handle, Command::Tenant(tenant, connect)).await;
            let session = stella_protocol::id::SessionEpoch(1);
            let at = FiguresAddress { host: format!("web-{n}.example.com"), port: 9091 };
            let serve = TenantCommand::RecordAgentFigures { agent, session, at };
            submit(&handle, Command::Tenant(tenant, serve)).await;
        }
    });
    agents.buffer_unordered(256).collect::<Vec<_>>().await;
    let began = Instant::now();
    let answer = world.get(PATH).await;
    let (took, bytes) = (began.elapsed(), answer.body.len());
    let found = answer.expect(200);
    println!("{COUNT} agents: {bytes} bytes in {took:?}");
    assert_eq!(targets(&found).len(), COUNT as usize);
}
