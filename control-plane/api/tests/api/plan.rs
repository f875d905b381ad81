//! What a deployment would do.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::way_back::{deployed, done};
use crate::world::{Busy, World, archive_of, digest_of};

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
async fn the_plan_of_a_rollback_is_refused_where_the_rollback_would_be() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/deployments/{}", busy.at, busy.deployment);
    let ways = [format!("{path}/rollback-plans"), format!("{path}/rollback")];
    for reason in ["has not ended", "there is nothing to roll back"] {
        for way in &ways {
            let refused = world.post(way, &json!(null)).await.expect(409);
            assert!(refused["detail"].as_str().unwrap().contains(reason), "{refused}");
        }
        world.post(&format!("{path}/cancel"), &json!({"reason": "room"})).await;
    }
}

/// An archive in another release of a busy tenant.
async fn another_release(world: &World, busy: &Busy) {
    let content = archive_of(b"another archive");
    let digest = digest_of(&content);
    world.put(&format!("{}/artifacts/{digest}", busy.at), &content).await.expect(200);
    let component = json!({"name": "web", "digest": digest});
    let release = json!({"application": "web", "version": "2.0.0", "components": [component]});
    world.post(&format!("{}/releases", busy.at), &release).await.expect(201);
}

#[tokio::test]
async fn the_plan_of_a_rollback_says_that_it_would_wait_for_a_draining_host() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let session = deployed(&world, &busy).await;
    another_release(&world, &busy).await;
    let off = json!({"proof": "off"});
    world.post(&format!("{}/environments/prod/way-back-proof", busy.at), &off).await.expect(200);
    let wanted = json!({"environment": "prod", "release": "web:2.0.0"});
    let created = world.post(&format!("{}/deployments", busy.at), &wanted).await.expect(201);
    let path = format!("{}/deployments/{}", busy.at, created["id"].as_str().unwrap());
    let task = created["targets"][0]["task"].as_str().unwrap();
    done(&world, &busy, session, (task, 3)).await;
    let plans = format!("{path}/rollback-plans");
    let plan = world.post(&plans, &json!(null)).await.expect(200);
    assert_eq!(plan["targets"][0]["warnings"], json!([]), "{plan}");
    // The same for the one that is chosen; what cannot be chosen is said by its field.
    assert_eq!(world.post(&plans, &json!({"targets": ["web-1"]})).await.expect(200), plan);
    for way in [&plans, &format!("{path}/rollback")] {
        world.post(way, &json!({"targets": ["web-9"]})).await.expect(404);
        let refused = world.post(way, &json!({"targets": []})).await.expect(422);
        assert_eq!(refused["field"], "targets", "{refused}");
        let refused = world.post(way, &json!({"target": "web-1"})).await.expect(422);
        assert_eq!(refused["field"], "target", "{refused}");
    }
    let drain = json!({"reason": "kernel"});
    world.post(&format!("{}/agents/host-1/drain", busy.at), &drain).await.expect(200);
    let plan = world.post(&plans, &json!(null)).await.expect(200);
    let warning = "its agent host-1 is draining (kernel): it would wait until that is undrained, or until the target is skipped";
    assert_eq!(plan["targets"][0]["warnings"], json!([warning]), "{plan}");
}

/// The digests of tasks in what is shown of them, each of which is that of its text.
fn digests(tasks: &Value) -> Vec<String> {
    let digest = |task: &Value| {
        let text = task["task"].as_str().unwrap();
        let hash = Sha256::new().chain_update([0]).chain_update(text).finalize();
        assert_eq!(task["digest"], format!("sha256:{}", hex::encode(hash)), "{task}");
        task["digest"].as_str().unwrap().to_owned()
    };
    tasks.as_array().unwrap().iter().map(digest).collect()
}

#[tokio::test]
async fn the_tasks_that_are_shown_are_those_whose_digests_people_approve() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    deployed(&world, &busy).await;
    let variables = json!({"variables": {"port": "8080"}});
    world.post(&format!("{}/targets/web-1/update", busy.at), &variables).await.expect(200);
    let step = |name: &str, text: &str| json!({"name": name, "action": {"type": "command", "argv": ["echo", text]}, "timeout_ms": 60_000});
    let steps = [step("say", "on ${target}:${port}"), step("rest", "the same everywhere")];
    let release = json!({"application": "web", "version": "2.0.0", "components": [], "steps": steps});
    world.post(&format!("{}/releases", busy.at), &release).await.expect(201);
    let rule = json!({"needed": 1});
    world.post(&format!("{}/environments/prod/approvals", busy.at), &rule).await.expect(200);

    let wanted = json!({"environment": "prod", "release": "web:2.0.0"});
    let plans = format!("{}/deployment-plans/tasks?target=web-1", busy.at);
    let planned = world.post(&plans, &wanted).await.expect(200);
    let asked = world.post(&format!("{}/deployments", busy.at), &wanted).await.expect(202);
    let at = format!("{}/promotions/{}/plan", busy.at, asked["id"].as_str().unwrap());
    let shown = world.get(&format!("{at}/tasks?target=web-1")).await.expect(200);
    assert_eq!(shown, planned, "the deployment would do what the promotion does");
    assert!(shown["tasks"][0]["task"].as_str().unwrap().contains("on web-1:8080"), "{shown}");
    assert_eq!(
        (&shown["tasks"][1]["step"], &shown["rollback"]["release"]["version"]),
        (&json!("rest"), &json!("1.0.0"))
    );

    let proof = world.get(&format!("{at}/proof?target=web-1")).await.expect(200);
    let leaf: Value = serde_json::from_str(proof["leaf"].as_str().unwrap()).unwrap();
    assert_eq!(json!(digests(&shown["tasks"])), leaf["tasks"], "{leaf}");
    assert_eq!(json!(digests(&shown["rollback"]["tasks"])), leaf["rollback"]["tasks"], "{leaf}");
    assert_eq!((digests(&shown["tasks"]).len(), digests(&shown["rollback"]["tasks"]).len()), (2, 1));

    world.get(&format!("{at}/tasks?target=web-9")).await.expect(404);
    world.get(&format!("{at}/tasks")).await.expect(400);
    let withdraw = json!({"reason": "seen"});
    let path = format!("{}/promotions/{}/withdraw", busy.at, asked["id"].as_str().unwrap());
    world.post(&path, &withdraw).await.expect(200);
    world.get(&format!("{at}/tasks?target=web-1")).await.expect(409);
}

#[tokio::test]
async fn an_environment_has_a_strategy_for_who_does_not_say_one() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    let (set, plans) =
        (format!("{}/environments/prod/strategy", busy.at), format!("{}/deployment-plans", busy.at));
    let how = async |strategy: Option<&str>| {
        let mut wanted = json!({"environment": "prod", "release": "web:1.0.0"});
        if let Some(kind) = strategy {
            wanted["strategy"] = json!({ "type": kind });
        }
        world.post(&plans, &wanted).await.expect(200)["strategy"].clone()
    };
    assert_eq!(how(None).await, json!({"type": "rolling", "batch": 1}));
    let canary = json!({"type": "canary", "steps": [{"percent": 10, "soak_seconds": 600}]});
    let environment = world.post(&set, &json!({ "strategy": canary })).await.expect(200);
    assert_eq!(environment["strategy"], canary);
    assert_eq!(how(None).await, canary);
    assert_eq!(how(Some("all_at_once")).await, json!({"type": "all_at_once"}));
    let none = json!({"strategy": {"type": "rolling", "batch": 0}});
    assert_eq!(world.post(&set, &none).await.expect(422)["field"], "strategy.batch");
    assert_eq!(how(None).await, canary, "what is refused changes nothing");
    let gone = world.post(&set, &json!({ "strategy": null })).await.expect(200);
    assert!(gone["strategy"].is_null(), "{gone}");
    assert_eq!(how(None).await, json!({"type": "rolling", "batch": 1}));
}

#[tokio::test]
async fn targets_are_chosen_by_name_or_by_label() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    for (name, rack) in [("db-1", "a"), ("db-2", "b")] {
        let labels = json!({"role": "db", "rack": rack});
        let target =
            json!({"name": name, "environment": "prod", "agent": "host-1", "slot": name, "labels": labels});
        world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    }
    let plan = async |choice: Value| {
        let mut wanted = json!({"environment": "prod", "release": "web:1.0.0"});
        wanted.as_object_mut().unwrap().extend(choice.as_object().unwrap().clone());
        world.post(&format!("{}/deployment-plans", busy.at), &wanted).await
    };
    for (labels, expected) in [
        (json!({"role": "db"}), json!(["db-1", "db-2"])),
        (json!({"role": "db", "rack": "b"}), json!(["db-2"])),
    ] {
        let planned = plan(json!({ "labels": labels })).await.expect(200);
        let names = planned["targets"].as_array().unwrap().iter().map(|it| it["target"]["name"].clone());
        assert_eq!(Value::from_iter(names), expected);
    }
    for wrong in
        [json!({"labels": {"role": "cache"}}), json!({"labels": {"role": "db"}, "targets": ["db-1"]})]
    {
        assert_eq!(plan(wrong).await.expect(422)["field"], "labels");
    }
}

#[tokio::test]
async fn a_canary_is_checked_by_field_and_shown_as_it_was_asked_for() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    let deployment = |steps: Value| {
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

#[tokio::test]
async fn a_rolling_strategy_is_checked_by_field_and_shown_with_its_waves() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    for (slot, rack) in [("b", "2"), ("c", "10"), ("d", "2")] {
        let target = json!({"name": format!("web-{slot}"), "environment": "prod", "agent": "host-1", "slot": slot,
            "labels": {"rack": rack}});
        world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    }
    let wanted = |strategy: Value, tolerated: Value| {
        json!({"environment": "prod", "release": "web:1.0.0", "targets": ["web-b", "web-c", "web-d"],
            "strategy": strategy, "tolerate_failures": tolerated})
    };
    let path = format!("{}/deployment-plans", busy.at);
    let rolling = |field: &str, value: Value| json!({"type": "rolling", field: value});
    for (strategy, tolerated, field) in [
        (rolling("batch", json!("25")), json!(null), "strategy.batch"),
        (rolling("batch", json!("all")), json!(null), "strategy.batch"),
        (rolling("batch", json!("101%")), json!(null), "strategy.batch"),
        (rolling("batch", json!(0)), json!(null), "strategy.batch"),
        (rolling("max_unavailable", json!("10%")), json!(null), "strategy.max_unavailable"),
        (rolling("minimum_healthy", json!(3)), json!(null), "strategy.minimum_healthy"),
        (rolling("pause_seconds", json!(0)), json!(null), "strategy.pause_seconds"),
        (rolling("pause_seconds", json!(u64::MAX)), json!(null), "strategy.pause_seconds"),
        (rolling("order", json!({"by": "label", "label": ""})), json!(null), "strategy.order.label"),
        (rolling("order", json!({"by": "domain", "label": "row"})), json!(null), "targets[web-b].labels.row"),
        (rolling("batch", json!(1)), json!(3), "tolerate_failures"),
        (rolling("batch", json!(1)), json!("100%"), "tolerate_failures"),
    ] {
        assert_eq!(world.post(&path, &wanted(strategy, tolerated)).await.expect(422)["field"], field);
    }
    for strategy in [rolling("batches", json!(1)), rolling("order", json!({"by": "rack", "label": "rack"}))] {
        world.post(&path, &wanted(strategy, json!(null))).await.expect(422);
    }
    let strategy = json!({"type": "rolling", "batch": "100%", "minimum_healthy": 0, "pause_seconds": 60,
        "order": {"by": "domain", "label": "rack"}});
    world.post(&path, &wanted(strategy.clone(), json!("34%"))).await.expect(422);
    let strategy = json!({"type": "rolling", "batch": "50%", "minimum_healthy": "30%", "pause_seconds": 60,
        "order": {"by": "domain", "label": "rack"}});
    let plan = world.post(&path, &wanted(strategy.clone(), json!("34%"))).await.expect(200);
    assert_eq!((&plan["strategy"], &plan["tolerate_failures"]), (&strategy, &json!("34%")));
    let waves: Vec<_> = plan["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["target"]["name"].as_str().unwrap(),
                it["wave"].as_u64().unwrap(),
                it["domain"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(waves, [("web-b", 1, "2"), ("web-d", 1, "2"), ("web-c", 2, "10")]);
    let created = world.post(&format!("{}/deployments", busy.at), &wanted(strategy, json!("34%"))).await;
    let created = created.expect(201);
    assert_eq!((&created["tolerate_failures"], &created["counts"]["active"]), (&json!("34%"), &json!(2)));
}

#[tokio::test]
async fn a_way_back_is_wanted_and_waived_with_a_reason() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    let way_back = format!("{}/environments/prod/way-back", busy.at);
    world.post(&way_back, &json!({})).await.expect(422);
    let set = world.post(&way_back, &json!({"required": true})).await.expect(200);
    assert_eq!(set["requires_way_back"], json!(true));
    let wanted = |waiver: Option<&str>| json!({"environment": "prod", "release": "web:1.0.0", "waive_way_back": waiver});
    let path = format!("{}/deployments", busy.at);
    let refused = world.post(&path, &wanted(None)).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("nothing was deployed to it before"), "{refused}");
    assert_eq!(world.post(&path, &wanted(Some(" "))).await.expect(422)["field"], "waive_way_back");
    let created = world.post(&path, &wanted(Some("the first one"))).await.expect(201);
    let promotion = format!("{}/promotions/{}", busy.at, created["id"].as_str().unwrap());
    assert_eq!(world.get(&promotion).await.expect(200)["waive_way_back"], "the first one");
}
