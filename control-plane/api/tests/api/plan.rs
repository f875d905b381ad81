//! What a deployment would do.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_plan_shows_targets_and_warnings_and_changes_nothing() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let target = json!({"name": "web-0", "environment": "prod", "agent": "host-1", "slot": "b"});
    world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    let judged = json!({"standing": "deprecated", "reason": "slow"});
    world.post(&format!("{}/releases/web:1.0.0/standing", busy.at), &judged).await.expect(200);
    let before = world.head("acme");
    let wanted =
        json!({"environment": "prod", "release": "web:1.0.0", "targets": ["web-0"], "timeout_seconds": 90});
    let plan = world.post(&format!("{}/deployment-plans", busy.at), &wanted).await.expect(200);
    assert_eq!((&plan["timeout_seconds"], &plan["steps"]), (&json!(90), &json!(["web"])), "{plan}");
    assert_eq!(plan["warnings"], json!(["the release is deprecated: slow"]));
    let part = &plan["targets"][0];
    assert_eq!(
        (&part["target"]["name"], &part["connectivity"]),
        (&json!("web-0"), &json!("never")),
        "{plan}"
    );
    assert_eq!(part["can_go_back"], json!(false));
    let warnings = part["warnings"].to_string();
    assert!(warnings.contains("never connected") && warnings.contains("cannot go back"), "{warnings}");
    assert_eq!(world.head("acme"), before, "nothing was written");
    let deployments = world.get(&format!("{}/deployments", busy.at)).await.expect(200);
    assert_eq!(deployments["items"].as_array().unwrap().len(), 1, "only the one of before");
}

#[tokio::test]
async fn a_plan_is_refused_where_the_deployment_would_be() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let wanted = json!({"environment": "prod", "release": "web:1.0.0"});
    for refused in [json!({"environment": "nowhere", "release": "web:1.0.0"}), wanted.clone()] {
        let plan = world.post(&format!("{}/deployment-plans", busy.at), &refused).await;
        let deployment = world.post(&format!("{}/deployments", busy.at), &refused).await;
        assert_ne!(plan.status.as_u16(), 200);
        let (plan, deployment) = (plan.json(), deployment.json());
        assert_eq!((&plan["code"], &plan["detail"]), (&deployment["code"], &deployment["detail"]));
    }
    let lock = json!({"reason": "audit"});
    world.post(&format!("{}/environments/prod/lock", busy.at), &lock).await.expect(200);
    let refused = world.post(&format!("{}/deployment-plans", busy.at), &wanted).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("is locked (audit)"), "{refused}");
}

#[tokio::test]
async fn a_canary_is_checked_by_field_and_shown_as_it_was_asked_for() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    let deployment = |steps: serde_json::Value| {
        let strategy = json!({"type": "canary", "steps": steps});
        json!({"environment": "prod", "release": "web:1.0.0", "strategy": strategy})
    };
    let path = format!("{}/deployments", busy.at);
    for (steps, field) in [
        (json!([]), "strategy.steps"),
        (json!([{"percent": 101}]), "strategy.steps[0].percent"),
        (json!([{"percent": 10}, {"percent": 5}]), "strategy.steps[1].percent"),
        (json!([{"percent": 10, "soak_seconds": u64::MAX}]), "strategy.steps[0].soak_seconds"),
        (json!([{"percent": 10, "soak_seconds": 0}]), "strategy.steps[0].soak_seconds"),
    ] {
        assert_eq!(world.post(&path, &deployment(steps)).await.expect(422)["field"], field);
    }
    let steps = json!([{"percent": 10, "soak_seconds": 60}, {"percent": 50}]);
    let created = world.post(&path, &deployment(steps.clone())).await.expect(201);
    assert_eq!(created["strategy"], json!({"type": "canary", "steps": steps}));
}
