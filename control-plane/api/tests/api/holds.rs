//! What people hold back.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_locked_environment_says_who_locked_it_and_refuses_deployments() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/environments/prod", busy.at);
    let locked = world.post(&format!("{path}/lock"), &json!({"reason": "audit"})).await.expect(200);
    assert_eq!(
        (&locked["lock"]["reason"], &locked["lock"]["by"]["type"]),
        (&json!("audit"), &json!("api_token"))
    );
    let deployment = json!({"environment": "prod", "release": "web:1.0.0"});
    let refused = world.post(&format!("{}/deployments", busy.at), &deployment).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("prod is locked (audit)"), "{refused}");
    let refused = world.post(&format!("{path}/lock"), &json!({"reason": "party"})).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("unlock it first"), "{refused}");
    assert_eq!(world.post(&format!("{path}/lock"), &json!({})).await.expect(422)["field"], "reason");
    for _ in 0..2 {
        let open = world.post(&format!("{path}/unlock"), &json!({})).await.expect(200);
        assert!(open.get("lock").is_none(), "{open}");
    }
    assert!(world.get(&path).await.expect(200).get("lock").is_none());
}

#[tokio::test]
async fn a_blocked_release_halts_its_deployment_and_is_refused_after_it() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/releases/web:1.0.0", busy.at);
    assert_eq!(world.get(&path).await.expect(200)["standing"], "good");
    let block = json!({"standing": "blocked", "reason": "loses orders"});
    let blocked = world.post(&format!("{path}/standing"), &block).await.expect(200);
    assert_eq!(
        (&blocked["standing"], &blocked["judged"]["reason"]),
        (&json!("blocked"), &json!("loses orders"))
    );
    let halted = world.get(&format!("{}/deployments/{}", busy.at, busy.deployment)).await.expect(200);
    assert_ne!(halted["status"], "running", "{halted}");
    assert!(halted["reason"].as_str().unwrap().contains("was blocked: loses orders"), "{halted}");
    let deployment = json!({"environment": "prod", "release": "web:1.0.0"});
    let refused = world.post(&format!("{}/deployments", busy.at), &deployment).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("is blocked (loses orders)"), "{refused}");
    let wrong = json!({"standing": "fine", "reason": "x"});
    assert_eq!(world.post(&format!("{path}/standing"), &wrong).await.expect(422)["field"], "standing");
}

#[tokio::test]
async fn a_paused_deployment_shows_it_and_goes_on() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/deployments/{}", busy.at, busy.deployment);
    let paused = world.post(&format!("{path}/pause"), &json!({"reason": "lunch"})).await.expect(200);
    assert_eq!((&paused["status"], &paused["paused"]["reason"]), (&json!("running"), &json!("lunch")));
    let resumed = world.post(&format!("{path}/resume"), &json!({})).await.expect(200);
    assert!(resumed.get("paused").is_none(), "{resumed}");
    world.post(&format!("{path}/cancel"), &json!({"reason": "enough"})).await.expect(200);
    world.post(&format!("{path}/pause"), &json!({"reason": "late"})).await.expect(409);
    world.post(&format!("{path}/resume"), &json!({})).await.expect(409);
}

#[tokio::test]
async fn the_promotion_path_is_shown_and_refuses_what_comes_from_elsewhere() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    world.post(&format!("{}/environments", busy.at), &json!({"name": "live"})).await.expect(201);
    let path = format!("{}/environments/live/path", busy.at);
    let set = world.post(&path, &json!({"after": "prod", "soak_seconds": 60})).await.expect(200);
    assert_eq!(
        (&set["follows"]["environment"]["name"], &set["follows"]["soak_seconds"]),
        (&json!("prod"), &json!(60))
    );
    let deployment = json!({"environment": "live", "release": "web:1.0.0"});
    let refused = world.post(&format!("{}/deployments", busy.at), &deployment).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("must succeed on all targets of prod"), "{refused}");

    let itself = world.post(&path, &json!({"after": "live"})).await.expect(422);
    assert_eq!(itself["field"], "after", "{itself}");
    let too_long = world.post(&path, &json!({"after": "prod", "soak_seconds": 2_592_001})).await.expect(422);
    assert_eq!(too_long["field"], "soak_seconds", "{too_long}");
    world.post(&path, &json!({"after": "nowhere"})).await.expect(404);
    assert!(world.post(&path, &json!({"after": null})).await.expect(200).get("follows").is_none());
}

#[tokio::test]
async fn an_ended_deployment_is_tried_again_on_what_it_left() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/deployments/{}", busy.at, busy.deployment);
    let early = world.post(&format!("{path}/retry"), &json!({})).await.expect(409);
    assert!(early["detail"].as_str().unwrap().contains("has not ended"), "{early}");
    world.post(&format!("{path}/cancel"), &json!({"reason": "wrong day"})).await.expect(200);
    world.post(&format!("{path}/retry"), &json!({"targets": ["web-9"]})).await.expect(404);
    let again = world.post(&format!("{path}/retry"), &json!({"targets": ["web-1"]})).await.expect(201);
    assert_eq!((&again["status"], &again["counts"]["total"]), (&json!("running"), &json!(1)));
    assert_ne!(again["id"], busy.deployment.as_str());
    assert_eq!(world.get(&path).await.expect(200)["status"], "cancelled");
}
