//! What people hold back.

use std::time::{Duration, SystemTime};

use serde_json::json;
use stella_protocol::time::Timestamp;

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
    world.post(&format!("{}/environments", busy.at), &json!({"name": "hotfix"})).await.expect(201);
    let several =
        json!({"after": "prod", "needs": "any", "others": [{"after": "hotfix", "soak_seconds": 5}]});
    let set = world.post(&path, &several).await.expect(200);
    let follows = &set["follows"];
    assert_eq!((&follows["needs"], &follows["soak_seconds"]), (&json!("any"), &json!(0)), "{set}");
    assert_eq!(follows["others"][0]["environment"]["name"], "hotfix", "{set}");
    assert_eq!(follows["others"][0]["soak_seconds"], 5, "{set}");
    let refused = world.post(&format!("{}/deployments", busy.at), &deployment).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("succeeded on all targets of hotfix"), "{refused}");
    for (body, field) in [
        (json!({"after": null, "others": [{"after": "prod"}]}), "others"),
        (json!({"after": "prod", "others": [{"after": "prod"}]}), "after"),
        (json!({"after": "prod", "others": [{"after": "live"}]}), "after"),
        (
            json!({"after": "prod", "others": [{"after": "hotfix", "soak_seconds": 2_592_001}]}),
            "others[0].soak_seconds",
        ),
    ] {
        let refused = world.post(&path, &body).await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
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

/// The clocks of UTC, to the minute.
fn clock(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = Timestamp(u64::try_from(since.as_millis()).unwrap());
    stella_api_types::time::rfc3339(at).chars().take(16).collect()
}

#[tokio::test]
async fn a_frozen_environment_says_until_when_and_is_overridden_with_a_reason() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let room = json!({"reason": "room"});
    world.post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &room).await.expect(200);
    let path = format!("{}/environments/prod", busy.at);
    let (hour, now) = (Duration::from_secs(3_600), SystemTime::now());
    let (from, to) = (clock(now - hour), clock(now + hour));
    let body =
        json!({"name": "holidays", "reason": "nobody is there", "from": from, "to": to, "repeats": "yearly"});
    let set = world.post(&format!("{path}/freezes"), &body).await.expect(200);
    let freeze = &set["freezes"][0];
    assert_eq!((&freeze["time_zone"], &freeze["repeats"]), (&json!("UTC"), &json!("yearly")), "{set}");
    assert_eq!(freeze["until"].as_str().unwrap()[..16], to, "{set}");

    let mut deployment = json!({"environment": "prod", "release": "web:1.0.0"});
    let deployments = format!("{}/deployments", busy.at);
    let refused = world.post(&deployments, &deployment).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("prod is frozen until"), "{refused}");
    deployment["override_freeze"] = json!(" ");
    assert_eq!(world.post(&deployments, &deployment).await.expect(422)["field"], "override_freeze");
    deployment["override_freeze"] = json!("orders are lost");
    let created = world.post(&deployments, &deployment).await.expect(201);
    let promotion = format!("{}/promotions/{}", busy.at, created["id"].as_str().unwrap());
    assert_eq!(world.get(&promotion).await.expect(200)["override_freeze"], "orders are lost");
    deployment["override_path"] = json!(" ");
    assert_eq!(world.post(&deployments, &deployment).await.expect(422)["field"], "override_path");

    for (field, value) in [
        ("from", "tomorrow"),
        ("time_zone", "Mars"),
        ("repeats", "hourly"),
        ("reason", " "),
        ("name", "No Name"),
    ] {
        let mut wrong = body.clone();
        wrong[field] = json!(value);
        let said = world.post(&format!("{path}/freezes"), &wrong).await.expect(422);
        assert_eq!(said["field"], field, "{value}");
    }
    let slip = json!({"name": "typo", "reason": "the wrong year", "from": "2020-11-27", "to": "2020-11-28"});
    let said = world.post(&format!("{path}/freezes"), &slip).await.expect(422);
    assert_eq!(said["field"], "to", "{said}");
    assert!(said["detail"].as_str().unwrap().contains("is over: it was 2020-11-28 00:00 UTC"), "{said}");
    assert_eq!(world.delete(&format!("{path}/freezes/holidays")).await.status, 204);
    world.delete(&format!("{path}/freezes/holidays")).await.expect(404);
    assert!(world.get(&path).await.expect(200).get("freezes").is_none());
}

#[tokio::test]
async fn a_failed_target_is_guided_and_the_reason_stays() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let deployment = format!("{}/deployments/{}", busy.at, busy.deployment);
    let detail = world.get(&deployment).await.expect(200);
    let target = detail["targets"][0]["target"]["name"].as_str().unwrap().to_owned();
    for (path, body, code) in [
        (format!("targets/{target}/retry"), json!({}), 409),
        (format!("targets/{target}/skip"), json!({"reason": ""}), 422),
        (format!("targets/{target}/skip"), json!({}), 422),
        (format!("targets/{target}/skip"), json!({"reason": "no power"}), 409),
        ("targets/nowhere/skip".to_owned(), json!({"reason": "no power"}), 404),
        ("targets/nowhere/retry".to_owned(), json!({}), 404),
        ("fail".to_owned(), json!({"roll_back": true}), 422),
        ("fail".to_owned(), json!({"reason": "bad", "rollback": true}), 422),
    ] {
        world.post(&format!("{deployment}/{path}"), &body).await.expect(code);
    }
    let failed = world.post(&format!("{deployment}/fail"), &json!({"reason": "bad"})).await.expect(200);
    assert!(failed["reason"].as_str().unwrap().starts_with("bad"), "{failed}");
    assert_eq!(failed["on_failure"], "stop");
    world.post(&format!("{deployment}/fail"), &json!({"reason": "bad"})).await.expect(409);
}

#[tokio::test]
async fn budgets_and_rules_of_silence_are_checked_by_field_and_shown() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let at = |what: &str| format!("{}/environments/prod/{what}", busy.at);
    for (what, body, field) in [
        ("budget", json!({"at_risk_max": 0}), "at_risk_max"),
        ("budget", json!({"at_risk_max": "0%"}), "at_risk_max"),
        ("budget", json!({"at_risk_max": "much"}), "at_risk_max"),
        ("silence", json!({"percent": 0}), "percent"),
        ("silence", json!({"percent": 100}), "percent"),
        ("silence", json!({"percent": 10, "within_seconds": 0}), "within_seconds"),
        ("silence", json!({"percent": 10, "within_seconds": 3601}), "within_seconds"),
    ] {
        assert_eq!(world.post(&at(what), &body).await.expect(422)["field"], field, "{body}");
    }
    let set = world.post(&at("budget"), &json!({"at_risk_max": "50%"})).await.expect(200);
    assert_eq!(set["budget"], json!({"at_risk_max": "50%", "targets_max": 1, "at_risk": 1}));
    let set = world.post(&at("silence"), &json!({"percent": 30})).await.expect(200);
    assert_eq!(set["silence"], json!({"percent": 30, "within_seconds": 60}));
    // What is under way uses all of it, so what comes then waits, and says so.
    let target = json!({"name": "web-9", "environment": "prod", "agent": "host-1", "slot": "z"});
    world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    let more = json!({"environment": "prod", "release": "web:1.0.0", "targets": ["web-9"]});
    let waits = world.post(&format!("{}/deployments", busy.at), &more).await.expect(201);
    assert_eq!((&waits["paused_for"], &waits["counts"]["waiting"]), (&json!("budget"), &json!(1)), "{waits}");
    assert!(waits["paused"]["reason"].as_str().unwrap().contains("1 targets are at risk, at most 1 may be"));
    let off = world.post(&at("budget"), &json!({"at_risk_max": null})).await.expect(200);
    assert_eq!(off["budget"], json!(null));
    let id = waits["id"].as_str().unwrap();
    let goes_on = world.get(&format!("{}/deployments/{id}", busy.at)).await.expect(200);
    assert_eq!((&goes_on["paused_for"], &goes_on["counts"]["active"]), (&json!(null), &json!(1)));
    let off = world.post(&at("silence"), &json!({"percent": null})).await.expect(200);
    assert_eq!(off["silence"], json!(null));
}

#[tokio::test]
async fn what_comes_after_the_last_wave_is_checked_by_field_and_shown() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/environments/prod/verification", busy.at);
    for bake_seconds in [json!(0), json!(604_801), json!(u64::MAX)] {
        let refused = world.post(&path, &json!({ "bake_seconds": bake_seconds })).await.expect(422);
        assert_eq!(refused["field"], "bake_seconds", "{refused}");
    }
    let set = world.post(&path, &json!({ "bake_seconds": 600 })).await.expect(200);
    assert_eq!(set["verification"], json!({ "bake_seconds": 600 }));
    let gate = json!({ "name": "sign-off", "check": { "type": "manual" }, "verifies": true });
    let set = world.post(&format!("{}/environments/prod/gates", busy.at), &gate).await.expect(200);
    assert_eq!(set["gates"][0]["verifies"], true, "{set}");
    let target = json!({ "name": "web-0", "environment": "prod", "agent": "host-1", "slot": "b" });
    world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    let wanted = json!({ "environment": "prod", "release": "web:1.0.0", "targets": ["web-0"] });
    let plan = world.post(&format!("{}/deployment-plans", busy.at), &wanted).await.expect(200);
    assert_eq!(plan["verification"], json!({ "bake_seconds": 600 }));
    assert_eq!(plan["gates"][0]["verifies"], true, "{plan}");
    let waits = world.post(&format!("{}/deployments", busy.at), &wanted).await.expect(201);
    assert_eq!(
        waits["verification"],
        json!({ "bake_seconds": 600 }),
        "the gate is no reason to wait: {waits}"
    );
    let off = world.post(&path, &json!({ "bake_seconds": null })).await.expect(200);
    assert_eq!(off["verification"], json!(null));
}
