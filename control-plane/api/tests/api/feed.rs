//! The feed of a tenant's events, and its pages.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use serde_json::{Value, json};
use stella_domain::command::{Command, TenantCommand};
use stella_protocol::id::EnvironmentId;
use uuid::Uuid;

use crate::world::{Reading, World, submit};

const PATH: &str = "/api/v1/tenants/acme/events";

async fn environments(world: &World, names: &[&str]) {
    for name in names {
        world.post("/api/v1/tenants/acme/environments", &json!({ "name": name })).await.expect(201);
    }
}

async fn follow(world: &World, query: &str, last_seen: Option<&str>) -> Reading {
    let mut request = world.request("GET", &format!("{PATH}{query}")).header("accept", "text/event-stream");
    if let Some(last_seen) = last_seen {
        request = request.header("last-event-id", last_seen);
    }
    let response = world.open(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Reading::new(response)
}

/// The next event: its id, its name, its data. Comments keep the connection alive and say nothing.
async fn next(feed: &mut Reading) -> Option<(u64, String, Value)> {
    loop {
        let block = feed.until("\n\n").await?;
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            block.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
        };
        if let (Some(id), Some(event), Some(data)) = (field("id"), field("event"), field("data")) {
            return Some((id.parse().unwrap(), event, serde_json::from_str(&data).unwrap()));
        }
    }
}

async fn positions(feed: &mut Reading, count: usize) -> Vec<u64> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(next(feed).await.expect("the feed ended").0);
    }
    found
}

#[tokio::test]
async fn a_place_that_it_cannot_begin_at_is_refused() {
    let world = World::new().await;
    world.tenant("acme").await;
    environments(&world, &["a"]).await;
    let refused = [
        ("", Some("yesterday"), "Last-Event-ID"),
        ("", Some("2"), "Last-Event-ID"),
        ("?after=3", None, "after"),
    ];
    for (query, last_seen, field) in refused {
        let mut request =
            world.request("GET", &format!("{PATH}{query}")).header("accept", "text/event-stream");
        if let Some(last_seen) = last_seen {
            request = request.header("last-event-id", last_seen);
        }
        let problem = world.send(request.body(Body::empty()).unwrap()).await.expect(422);
        assert_eq!(problem["field"], field, "{problem}");
    }
    let mut at_the_end = follow(&world, "", Some("1")).await;
    environments(&world, &["b"]).await;
    assert_eq!(positions(&mut at_the_end, 1).await, [2]);
}

#[tokio::test]
async fn it_begins_where_the_caller_says() {
    let world = World::new().await;
    world.tenant("acme").await;
    environments(&world, &["a", "b", "c"]).await;
    assert_eq!(positions(&mut follow(&world, "", None).await, 4).await, [0, 1, 2, 3]);
    assert_eq!(positions(&mut follow(&world, "?after=2", None).await, 2).await, [2, 3]);
    assert_eq!(positions(&mut follow(&world, "", Some("1")).await, 2).await, [2, 3]);
    // What was really seen counts more than the address that a client was given at first.
    assert_eq!(positions(&mut follow(&world, "?after=0", Some("2")).await, 1).await, [3]);
}

#[tokio::test]
async fn what_is_committed_arrives_in_order_without_gaps() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    world.tenant("globex").await;
    let mut feed = follow(&world, "?after=1", None).await;
    environments(&world, &["dev"]).await;
    let (id, event, data) = next(&mut feed).await.unwrap();
    assert_eq!((id, event.as_str()), (1, "environment_created"));
    assert_eq!(
        (&data["position"], &data["type"], &data["data"]["name"]),
        (&json!(1), &json!(event), &json!("dev"))
    );
    assert_eq!(data["actor"]["type"], "api_token");

    // More than the engine keeps for slow subscribers, while nobody reads: they come from the journal.
    for number in 0..1_500_u32 {
        let name = format!("env-{number}").parse().unwrap();
        let command = TenantCommand::CreateEnvironment {
            id: EnvironmentId(Uuid::now_v7()),
            name,
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        };
        submit(&world.handle(), Command::Tenant(tenant, command)).await;
    }
    // Another tenant's events are not in it.
    world.post("/api/v1/tenants/globex/environments", &json!({"name": "theirs"})).await.expect(201);
    environments(&world, &["last"]).await;
    assert_eq!(positions(&mut feed, 1_501).await, (2..1_503).collect::<Vec<_>>());
}

#[tokio::test]
async fn it_ends_when_the_control_plane_stops() {
    let world = World::new().await;
    world.tenant("acme").await;
    let mut feed = follow(&world, "", None).await;
    assert_eq!(positions(&mut feed, 1).await, [0]);
    world.shutdown.cancel();
    assert_eq!(next(&mut feed).await, None);
}

#[tokio::test]
async fn pages_have_the_same_events_as_the_feed() {
    let world = World::new().await;
    world.tenant("acme").await;
    environments(&world, &["a", "b", "c", "d"]).await;
    let first = world.get(&format!("{PATH}?limit=2")).await.expect(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = world.get(&format!("{PATH}?limit=2&cursor={cursor}")).await.expect(200);
    let third = world
        .get(&format!("{PATH}?limit=2&cursor={}", second["next_cursor"].as_str().unwrap()))
        .await
        .expect(200);
    assert!(third.get("next_cursor").is_none(), "{third}");
    let mut feed = follow(&world, "", None).await;
    for page in [first, second, third] {
        for item in page["items"].as_array().unwrap() {
            assert_eq!(next(&mut feed).await.unwrap().2, *item);
        }
    }
    assert_eq!(world.get(&format!("{PATH}?after=4")).await.expect(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(world.get(&format!("{PATH}?after=5")).await.expect(200), json!({"items": []}));
    assert_eq!(world.get(&format!("{PATH}?limit=501")).await.expect(422)["field"], "limit");
}

#[tokio::test]
async fn the_head_of_the_journal_is_where_the_events_end_and_its_hash_belongs_to_it() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let path = "/api/v1/tenants/acme/journal";
    let head = world.get(path).await.expect(200);
    assert_eq!(head["position"], 1);
    assert!(head["hash"].as_str().unwrap().starts_with("sha256:"), "{head}");
    assert_eq!(world.get(path).await.expect(200), head);
    let handle = world.handle();
    let writer = tokio::spawn(async move {
        for number in 0..300_u32 {
            let name = format!("env-{number}").parse().unwrap();
            let id = EnvironmentId(Uuid::now_v7());
            let command = TenantCommand::CreateEnvironment {
                id,
                name,
                order: None,
                way_back_proof: stella_domain::way_back::ProofRule::Off,
            };
            submit(&handle, Command::Tenant(tenant, command)).await;
        }
    });
    let mut hashes = BTreeMap::new();
    while !writer.is_finished() {
        let head = world.get(path).await.expect(200);
        let hash = head["hash"].as_str().unwrap().to_owned();
        let known = hashes.entry(head["position"].as_u64().unwrap()).or_insert_with(|| hash.clone());
        assert_eq!(*known, hash, "two hashes at {}", head["position"]);
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    let last = world.get(path).await.expect(200);
    assert_eq!(last["position"], world.head("acme"));
    let different: BTreeSet<&String> = hashes.values().collect();
    assert_eq!(different.len(), hashes.len(), "a hash stayed when an event came");
}
