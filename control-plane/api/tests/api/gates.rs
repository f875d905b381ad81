//! Gates and what scanners find.

use serde_json::{Value, json};

use crate::accounts::{account, ask};
use crate::world::World;

/// A tenant whose production is free, and somebody to ask for deployments.
async fn stage() -> (World, String, String) {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    world
        .post(&format!("{}/deployments/{}/cancel", busy.at, busy.deployment), &json!({"reason": "room"}))
        .await
        .expect(200);
    let role = json!([{"role": "deployer", "tenant": "acme", "environment": "prod"}]);
    let dev = account(&world, "dev", &role).await;
    (world, busy.at, dev)
}

fn security() -> Value {
    json!({"name": "scan", "check": {"type": "security", "limits": {"critical": 0}}, "ttl_seconds": 60})
}

#[tokio::test]
async fn a_gate_is_set_shown_replaced_and_removed() {
    let (world, at, _) = stage().await;
    let gates = format!("{at}/environments/prod/gates");
    let set = world.post(&gates, &security()).await.expect(200);
    let first = set["gates"][0].clone();
    assert_eq!((&first["name"], &first["check"]["limits"]), (&json!("scan"), &json!({"critical": 0})));
    let other = json!({"name": "scan", "check": {"type": "security", "limits": {"critical": 1}}});
    let set = world.post(&gates, &other).await.expect(200);
    assert_ne!(set["gates"][0]["policy"], first["policy"], "it is another policy");
    assert_eq!(set["gates"][0]["ttl_seconds"], 300);
    assert_eq!(world.get(&gates).await.expect(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(world.delete(&format!("{gates}/scan")).await.status, 204);
    world.delete(&format!("{gates}/scan")).await.expect(404);
}

/// Whoever may not set a gate learns nothing from trying, and whoever may learns nothing of accounts of other tenants.
#[tokio::test]
async fn a_gate_does_not_tell_which_accounts_there_are() {
    let (world, at, dev) = stage().await;
    world.tenant("globex").await;
    account(&world, "theirs", &json!([{"role": "admin", "tenant": "globex"}])).await;
    let admin = account(&world, "ours", &json!([{"role": "admin", "tenant": "acme"}])).await;
    let gates = format!("{at}/environments/prod/gates");
    let gate = |reporter: &str| json!({"name": "scan", "check": {"type": "security", "limits": {"critical": 0}, "reporters": [reporter]}});
    let refused = async |who: &str, reporter: &str, status: u16| {
        let answer = ask(&world, who, "POST", &gates, Some(&gate(reporter))).await.expect(status);
        (answer["detail"].to_string().replace(reporter, "NAME"), answer["field"].clone())
    };
    assert_eq!(refused(&dev, "theirs", 403).await, refused(&dev, "nobody", 403).await);
    assert_eq!(refused(&admin, "theirs", 422).await, refused(&admin, "nobody", 422).await);
    // One of the tenant is known: what refuses it then is that nobody may be asked here as soon as there are two tenants.
    assert_eq!(refused(&admin, "dev", 422).await.1, "check.endpoint");
}

#[tokio::test]
async fn a_deployment_waits_for_a_scan_and_for_a_person() {
    let (world, at, dev) = stage().await;
    let gates = format!("{at}/environments/prod/gates");
    world.post(&gates, &security()).await.expect(200);
    world.post(&gates, &json!({"name": "change", "check": {"type": "manual"}})).await.expect(200);
    let body = json!({"environment": "prod", "release": "web:1.0.0"});
    let planned = world.post(&format!("{at}/deployment-plans"), &body).await.expect(200);
    let states: Vec<_> =
        planned["gates"].as_array().unwrap().iter().map(|it| (&it["gate"], &it["status"])).collect();
    assert_eq!(states, [(&json!("change"), &json!("pending")), (&json!("scan"), &json!("failed"))]);

    let asked = ask(&world, &dev, "POST", &format!("{at}/deployments"), Some(&body)).await.expect(202);
    let id = asked["id"].as_str().unwrap();
    assert_eq!(asked["status"], "approved", "nobody has to approve: {asked}");
    assert_eq!(asked["gates"][1]["status"], "failed", "{asked}");
    assert_eq!(asked["waits_for"], json!(["gate change", "gate scan"]), "{asked}");
    let waiting = world.get(&format!("{at}/promotions?status=waiting")).await.expect(200);
    assert_eq!(waiting["items"][0]["id"], *id);
    assert_eq!(world.get("/api/v1/system").await.expect(200)["counts"]["waiting_promotions"], 1);
    let report = br#"{"matches":[{"vulnerability":{"id":"CVE-1","severity":"Low"},"artifact":{"name":"a","version":"1"}}]}"#;
    let findings = format!("{at}/releases/web:1.0.0/findings");
    let recorded = world.put(&format!("{findings}/grype"), report).await.expect(200);
    assert_eq!(
        (&recorded["counts"]["low"], &recorded["findings"][0]["component"]),
        (&json!(1), &json!("a@1"))
    );
    assert_eq!(world.get(&findings).await.expect(200)["items"][0], recorded);
    let shown = world.get(&format!("{at}/promotions/{id}")).await.expect(200);
    assert_eq!(shown["gates"][1]["status"], "passed", "{shown}");

    let decide = json!({"passed": true, "reason": "CHG-7"});
    let path = format!("{at}/promotions/{id}/gates/change/decision");
    ask(&world, &dev, "POST", &path, Some(&decide)).await.expect(403);
    let qa = account(&world, "qa", &json!([{"role": "approver", "tenant": "acme"}])).await;
    let started = ask(&world, &qa, "POST", &path, Some(&decide)).await.expect(200);
    assert_eq!(
        (&started["status"], &started["gates"][0]["by"]["account"]),
        (&json!("started"), &json!("qa"))
    );
    world.get(&format!("{at}/deployments/{id}")).await.expect(200);
}

#[tokio::test]
async fn a_gate_that_was_removed_is_shown_and_holds_nothing_back() {
    let (world, at, dev) = stage().await;
    let gates = format!("{at}/environments/prod/gates");
    world.post(&gates, &security()).await.expect(200);
    world.post(&gates, &json!({"name": "change", "check": {"type": "manual"}})).await.expect(200);
    let body = json!({"environment": "prod", "release": "web:1.0.0"});
    let asked = ask(&world, &dev, "POST", &format!("{at}/deployments"), Some(&body)).await.expect(202);
    assert_eq!(world.delete(&format!("{gates}/scan")).await.status, 204);
    let path = format!("{at}/promotions/{}", asked["id"].as_str().unwrap());
    let shown = world.get(&path).await.expect(200);
    assert_eq!(shown["waits_for"], json!(["gate change"]), "{shown}");
    let scan = &shown["gates"][1];
    assert_eq!(
        (&scan["gate"], &scan["status"], &scan["type"]),
        (&json!("scan"), &json!("failed"), &Value::Null)
    );
}

#[tokio::test]
async fn an_override_is_for_admins_and_has_a_reason() {
    let (world, at, dev) = stage().await;
    world.post(&format!("{at}/environments/prod/gates"), &security()).await.expect(200);
    let body = json!({"environment": "prod", "release": "web:1.0.0"});
    let asked = ask(&world, &dev, "POST", &format!("{at}/deployments"), Some(&body)).await.expect(202);
    let path = format!("{at}/promotions/{}/gates/scan/override", asked["id"].as_str().unwrap());
    let reason = json!({"reason": "customers are down"});
    ask(&world, &dev, "POST", &path, Some(&reason)).await.expect(403);
    assert_eq!(world.post(&path, &json!({"reason": " "})).await.expect(422)["field"], "reason");
    let started = world.post(&path, &reason).await.expect(200);
    let gate = &started["gates"][0];
    assert_eq!(
        (&gate["status"], &gate["overridden"]["reason"]),
        (&json!("overridden"), &json!("customers are down"))
    );
}

/// A source that the configuration gives to nobody is for the only tenant: with a second one, who sets a gate and who plans is told.
#[tokio::test]
async fn a_source_that_is_no_tenants_is_told_as_soon_as_there_are_two() {
    let (world, at, _) = stage().await;
    let gates = format!("{at}/environments/prod/gates");
    let check =
        json!({"type": "metric", "source": "main", "query": "up", "comparison": "above", "threshold": 0});
    let gate = json!({"name": "load", "check": check});
    world.post(&gates, &gate).await.expect(200);
    let wanted = json!({"environment": "prod", "release": "web:1.0.0"});
    let plan = world.post(&format!("{at}/deployment-plans"), &wanted).await.expect(200);
    assert_ne!(plan["gates"][0]["status"], "unavailable", "{plan}");

    world.post("/api/v1/tenants", &json!({"name": "globex"})).await.expect(201);
    let refused = world.post(&gates, &gate).await.expect(422);
    assert_eq!(refused["field"], "check.source", "{refused}");
    assert!(refused.to_string().contains("gates.prometheus.main.tenants"), "{refused}");
    let plan = world.post(&format!("{at}/deployment-plans"), &wanted).await.expect(200);
    let gate = &plan["gates"][0];
    assert_eq!(gate["status"], "unavailable", "{plan}");
    assert!(gate["reason"].as_str().unwrap().contains("gates.prometheus.main.tenants"), "{plan}");
}

#[tokio::test]
async fn nonsense_is_refused_with_the_field() {
    let (world, at, _) = stage().await;
    let gates = format!("{at}/environments/prod/gates");
    for (check, field) in [
        (json!({"type": "security", "limits": {"awful": 0}}), "check.limits.awful"),
        (
            json!({"type": "security", "limits": {"high": 0}, "allowed": [{"id": "C", "until": "soon", "reason": "x"}]}),
            "check.allowed[0].until",
        ),
        (json!({"type": "security", "limits": {}}), "limits"),
        (
            json!({"type": "metric", "source": "Main", "query": "up", "comparison": "above", "threshold": 0}),
            "check.source",
        ),
        (
            json!({"type": "metric", "source": "other", "query": "up", "comparison": "above", "threshold": 0}),
            "check.source",
        ),
        (json!({"type": "http", "endpoint": "changes"}), "check.endpoint"),
        (json!({"type": "expression", "expression": "secrets.x == 1"}), "expression"),
    ] {
        let refused = world.post(&gates, &json!({"name": "g", "check": check})).await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
    let slow = json!({"name": "g", "check": {"type": "manual"}, "ttl_seconds": 0});
    assert_eq!(world.post(&gates, &slow).await.expect(422)["field"], "ttl_seconds");
    let unknown = json!({"name": "g", "check": {"type": "manual", "who": "me"}});
    world.post(&gates, &unknown).await.expect(422);
    let path = format!("{at}/releases/web:1.0.0/findings/trivy");
    for wrong in ["<html>", "{}", r#"{"runs":7}"#] {
        let refused = world.put(&path, wrong.as_bytes()).await.expect(422);
        assert_eq!(refused["field"], "body", "{refused}");
    }
    let large = vec![b' '; 17 * 1024 * 1024];
    assert_eq!(world.put(&path, &large).await.expect(413)["code"], "too_large");
}
