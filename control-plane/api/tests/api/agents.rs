//! Agents: what they were enrolled for, and how they run.

use serde_json::{Value, json};
use stella_domain::command::{Command, Outcome};
use stella_domain::name::Name;
use stella_protocol::message::capability;

use crate::world::{World, connect, submit, with_json};

const TOKENS: &str = "/api/v1/tenants/acme/enrolment-tokens";

async fn says(world: &World, agent: &str, capabilities: u64) -> Value {
    let tenant = world.handle().state().system.tenants[&"acme".parse::<Name>().unwrap()];
    let connect = connect(agent.parse().unwrap(), capabilities);
    let connected = submit(&world.handle(), Command::Tenant(tenant, connect)).await;
    assert!(matches!(connected, Outcome::Session(_)), "{connected:?}");
    world.get(&format!("/api/v1/tenants/acme/agents/{agent}")).await.expect(200)
}

#[tokio::test]
async fn a_token_says_what_its_agents_are_for_and_who_runs_otherwise_is_seen() {
    let world = World::new().await;
    world.tenant("acme").await;
    for (body, profile) in [
        (json!({}), "confined"),
        (json!({"profile": "confined"}), "confined"),
        (json!({"profile": "full"}), "full"),
    ] {
        let created = world.post(TOKENS, &body).await.expect(201);
        assert_eq!(created["details"]["profile"], profile, "{body}");
    }
    for wrong in [json!({"profile": "root"}), json!({"profile": ""}), json!({"profile": {"full": 1}})] {
        world.post(TOKENS, &wrong).await.expect(422);
    }
    let listed = world.get(TOKENS).await.expect(200);
    let profiles: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|it| it["profile"].clone()).collect();
    assert_eq!(profiles, ["confined", "confined", "full"]);
    let events = world.get("/api/v1/tenants/acme/events").await.expect(200);
    let made =
        events["items"].as_array().unwrap().iter().filter(|it| it["type"] == "enrolment_token_created");
    assert_eq!(
        made.map(|it| it["data"]["profile"].clone()).collect::<Vec<_>>(),
        ["confined", "confined", "full"]
    );

    let agent = world.agent("acme", "web-1").await;
    let shown = world.get(&format!("/api/v1/tenants/acme/agents/{agent}")).await.expect(200);
    assert_eq!((&shown["profile"], shown.get("runs_as")), (&json!("confined"), None), "{shown}");
    for (capabilities, runs_as) in [
        (capability::COMMAND, Value::Null),
        (capability::FULL, Value::Null),
        (capability::PROFILE, json!("confined")),
        (capability::PROFILE | capability::FULL, json!("full")),
    ] {
        let shown = says(&world, &agent, capabilities).await;
        assert_eq!(shown.get("runs_as").cloned().unwrap_or_default(), runs_as, "{shown}");
        let problem = shown.get("profile_problem").and_then(Value::as_str);
        assert_eq!(problem.is_some_and(|it| it.contains("refuses every task")), runs_as == "full", "{shown}");
    }
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_gone_and_is_told_in_the_journal() {
    let world = World::new().await;
    world.tenant("acme").await;
    let created = world.post(TOKENS, &json!({"uses": 100})).await.expect(201);
    let id = created["details"]["id"].as_str().unwrap();
    let path = format!("{TOKENS}/{id}/revoke");
    world.post(&path, &json!({})).await.expect(422);
    world.tenant("globex").await;
    let elsewhere = format!("/api/v1/tenants/globex/enrolment-tokens/{id}/revoke");
    world.post(&elsewhere, &json!({"reason": "curious"})).await.expect(404);
    let once = |reason: &str| {
        let request = world.request("POST", &path).header("idempotency-key", "k-1");
        world.send(with_json(request, &json!({ "reason": reason })))
    };
    assert_eq!(once("it was in an image").await.status, 204);
    assert_eq!(once("it was in an image").await.status, 204, "a repeated request is answered as the first");
    world.post(&path, &json!({"reason": "again"})).await.expect(404);
    assert_eq!(world.get(TOKENS).await.expect(200)["items"], json!([]));
    let events = world.get("/api/v1/tenants/acme/events").await.expect(200);
    let told = events["items"].as_array().unwrap().iter().find(|it| it["type"] == "enrolment_token_revoked");
    assert_eq!(told.unwrap()["data"], json!({"id": id, "reason": "it was in an image"}));
}
