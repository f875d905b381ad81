//! The proof that a deployment could go back.

use serde_json::json;
use stella_domain::command::{Command, Outcome, Report, TenantCommand};
use stella_domain::name::Name;
use stella_protocol::id::{Attempt, AttemptKey, Position, SessionEpoch, TenantId};
use stella_protocol::message::{Finished, TaskOutcome, capability};
use stella_protocol::time::Timestamp;

use crate::world::{Busy, World, connect, submit};

/// The agent of a busy tenant connects and does its task; its session.
pub(crate) async fn deployed(world: &World, busy: &Busy) -> SessionEpoch {
    let agent = busy.agent.parse().unwrap();
    let connect = connect(agent, capability::ARTIFACT);
    let connected = submit(&world.handle(), Command::Tenant(tenant(world), connect)).await;
    let Outcome::Session(session) = connected else { panic!("{connected:?}") };
    done(world, busy, session, (&busy.task, 2)).await;
    let ended = world.get(&format!("{}/deployments/{}", busy.at, busy.deployment)).await.expect(200);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert!(ended.get("way_back").is_none(), "nobody was asked: {ended}");
    session
}

/// A task of it is done, which its agent says at a position of its journal.
pub(crate) async fn done(world: &World, busy: &Busy, session: SessionEpoch, (task, position): (&str, u64)) {
    let report = Report::Finished(Finished {
        key: AttemptKey { task: task.parse().unwrap(), attempt: Attempt(1) },
        position: Position(position),
        started_at: None,
        finished_at: Timestamp(1),
        outcome: TaskOutcome::Succeeded,
    });
    let report = TenantCommand::Report { agent: busy.agent.parse().unwrap(), session, report };
    submit(&world.handle(), Command::Tenant(tenant(world), report)).await;
}

fn tenant(world: &World) -> TenantId {
    world.handle().state().system.tenants[&"acme".parse::<Name>().unwrap()]
}

#[tokio::test]
async fn an_environment_says_what_it_wants_of_the_proof() {
    let world = World::new().await;
    world.tenant("acme").await;
    let path = "/api/v1/tenants/acme/environments";
    let created = world.post(path, &json!({"name": "prod"})).await.expect(201);
    assert_eq!(created["way_back_proof"], "reported", "so it is unless somebody says otherwise");
    let created = world.post(path, &json!({"name": "dev", "way_back_proof": "off"})).await.expect(201);
    assert_eq!(created["way_back_proof"], "off");
    let set = format!("{path}/prod/way-back-proof");
    for wrong in [json!({}), json!({"proof": "maybe"}), json!({"proof": "off", "since": 1})] {
        world.post(&set, &wrong).await.expect(422);
    }
    for proof in ["required", "required", "off", "reported"] {
        let shown = world.post(&set, &json!({ "proof": proof })).await.expect(200);
        assert_eq!(shown["way_back_proof"], proof);
    }
    world.post(&format!("{path}/nowhere/way-back-proof"), &json!({"proof": "off"})).await.expect(404);
}

#[tokio::test]
async fn what_is_held_for_the_proof_says_why_and_goes_on_with_a_waiver() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    deployed(&world, &busy).await;
    let content = crate::world::archive_of(b"another archive");
    let digest = crate::world::digest_of(&content);
    world.put(&format!("{}/artifacts/{digest}", busy.at), &content).await.expect(200);
    let component = json!({"name": "web", "digest": digest});
    let release = json!({"application": "web", "version": "2.0.0", "components": [component]});
    world.post(&format!("{}/releases", busy.at), &release).await.expect(201);
    let required = json!({"proof": "required"});
    world.post(&format!("{}/environments/prod/way-back-proof", busy.at), &required).await.expect(200);

    let wanted = json!({"environment": "prod", "release": "web:2.0.0"});
    let too_old = "its agent host-1 (0.1.0) is too old to say";
    let plan = world.post(&format!("{}/deployment-plans", busy.at), &wanted).await.expect(200);
    let planned = &plan["targets"][0];
    assert_eq!(planned["way_back"], json!({"state": "unproven", "reason": too_old}), "{plan}");
    assert_eq!(planned["warnings"][0], format!("its way back is unproven: {too_old}"));

    let created = world.post(&format!("{}/deployments", busy.at), &wanted).await.expect(201);
    assert_eq!((&created["paused_for"], &created["counts"]["waiting"]), (&json!("way_back"), &json!(1)));
    let part = &created["targets"][0]["way_back"];
    assert_eq!((&part["state"], &part["reason"]), (&json!("unproven"), &json!(too_old)), "{created}");
    let path = format!("{}/deployments/{}", busy.at, created["id"].as_str().unwrap());
    let refused = world.post(&format!("{path}/resume"), &json!({})).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("ask again (prove)"), "{refused}");
    let asked = world.post(&format!("{path}/prove"), &json!({})).await.expect(200);
    assert_eq!((&asked["way_back"]["asked"], &asked["way_back"]["open"]), (&json!(2), &json!(0)));
    assert_eq!(asked["paused_for"], "way_back", "nothing has changed");
    assert_eq!(world.post(&format!("{path}/waive"), &json!({})).await.expect(422)["field"], "reason");
    let waived =
        world.post(&format!("{path}/waive"), &json!({"reason": "1.0.0 is broken"})).await.expect(200);
    assert_eq!((&waived["counts"]["active"], waived.get("paused")), (&json!(1), None), "{waived}");
    assert_eq!(waived["way_back"]["waived"]["reason"], "1.0.0 is broken");
    assert_eq!(waived["way_back"]["waived"]["by"]["type"], "api_token");
    world.post(&format!("{path}/waive"), &json!({"reason": "again"})).await.expect(409);
    world.post(&format!("{path}/prove"), &json!({})).await.expect(409);
}
