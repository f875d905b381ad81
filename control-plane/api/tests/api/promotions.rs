//! Promotions that wait for people.

use serde_json::{Value, json};

use crate::accounts::{account, ask};
use crate::world::World;

/// A tenant whose production needs an approval, a deployer and two approvers: what each of them can say, and where.
struct Stage {
    world: World,
    at: String,
    dev: String,
    qa: String,
    boss: String,
}

impl Stage {
    async fn new(rule: &Value) -> Self {
        let world = World::new().await;
        let busy = world.busy_tenant("acme").await;
        let at = busy.at.clone();
        world
            .post(&format!("{at}/deployments/{}/cancel", busy.deployment), &json!({"reason": "room"}))
            .await
            .expect(200);
        let role = |role: &str| json!([{"role": role, "tenant": "acme", "environment": "prod"}]);
        let dev = account(&world, "dev", &role("deployer")).await;
        let qa = account(&world, "qa", &role("approver")).await;
        let boss = account(&world, "boss", &role("admin")).await;
        let set = world.post(&format!("{at}/environments/prod/approvals"), rule).await.expect(200);
        assert_eq!(set["approvals"]["needed"], rule["needed"], "{set}");
        Self { world, at, dev, qa, boss }
    }

    async fn deploy(&self, status: u16) -> Value {
        let body = json!({"environment": "prod", "release": "web:1.0.0"});
        ask(&self.world, &self.dev, "POST", &format!("{}/deployments", self.at), Some(&body))
            .await
            .expect(status)
    }

    async fn say(&self, who: &str, id: &Value, what: &str, body: &Value, status: u16) -> Value {
        let path = format!("{}/promotions/{}/{what}", self.at, id.as_str().unwrap());
        ask(&self.world, who, "POST", &path, Some(body)).await.expect(status)
    }
}

#[tokio::test]
async fn a_deployment_waits_for_somebody_else_and_starts_with_their_approval() {
    let stage = Stage::new(&json!({"needed": 1})).await;
    let plan = json!({"environment": "prod", "release": "web:1.0.0"});
    let planned = stage.world.post(&format!("{}/deployment-plans", stage.at), &plan).await.expect(200);
    assert_eq!(planned["approvals_needed"], 1, "{planned}");

    let asked = stage.deploy(202).await;
    let id = &asked["id"];
    assert_eq!((&asked["status"], &asked["approvals_needed"]), (&json!("pending"), &json!(1)), "{asked}");
    assert_eq!(asked["plan"]["root"], planned["plan"]["root"], "the plan is the one that was shown");
    assert_eq!(asked["requested_by"]["account"], "dev");
    let at = format!("{}/promotions/{}", stage.at, id.as_str().unwrap());
    let shown = ask(&stage.world, &stage.qa, "GET", &format!("{at}/plan"), None).await.expect(200);
    assert_eq!(shown, planned, "approvers see what they are asked about");
    stage.world.get(&format!("{}/deployments/{}", stage.at, id.as_str().unwrap())).await.expect(404);

    let approve = json!({"plan": asked["plan"]["root"], "reason": "tested"});
    let refused = stage.say(&stage.dev, id, "approve", &approve, 403).await;
    assert!(refused["detail"].as_str().unwrap().contains("needs the role approver"), "{refused}");
    let other = json!({"plan": format!("sha256:{}", "0".repeat(64))});
    assert_eq!(stage.say(&stage.qa, id, "approve", &other, 409).await["code"], "conflict");
    assert_eq!(stage.say(&stage.qa, id, "approve", &json!({"plan": "x"}), 422).await["field"], "plan");
    let approved = stage.say(&stage.qa, id, "approve", &approve, 200).await;
    assert_eq!(
        (&approved["status"], &approved["approvals"][0]["by"]["name"]),
        (&json!("started"), &json!("qa"))
    );
    let deployment =
        stage.world.get(&format!("{}/deployments/{}", stage.at, id.as_str().unwrap())).await.expect(200);
    assert_eq!(deployment["created_by"]["account"], "dev", "{deployment}");
    let late = ask(&stage.world, &stage.qa, "GET", &format!("{at}/plan"), None).await.expect(409);
    assert!(late["detail"].as_str().unwrap().contains("it is started"), "{late}");
    let listed = stage.world.get(&format!("{}/promotions?status=started&environment=prod", stage.at)).await;
    // What was deployed before there was a rule is a promotion as well.
    assert_eq!(listed.expect(200)["items"].as_array().unwrap().len(), 2);
    let wrong = stage.world.get(&format!("{}/promotions?status=done", stage.at)).await.expect(422);
    assert!(wrong["detail"].as_str().unwrap().contains("pending, approved, started"), "{wrong}");
}

#[tokio::test]
async fn what_waits_for_approvals_says_what_holds_its_environment_too() {
    let stage = Stage::new(&json!({"needed": 1})).await;
    let (world, prod) = (&stage.world, format!("{}/environments/prod", stage.at));
    let plan = json!({"environment": "prod", "release": "web:1.0.0"});
    let plans = format!("{}/deployment-plans", stage.at);
    assert_eq!(world.post(&plans, &plan).await.expect(200)["warnings"], json!([]));
    let always = json!({"name": "sale", "reason": "the shop is full", "from": "2026-01-01T00:00",
        "to": "2026-01-02T00:00", "repeats": "daily"});
    world.post(&format!("{prod}/freezes"), &always).await.expect(200);
    world.post(&format!("{prod}/lock"), &json!({"reason": "the database moves"})).await.expect(200);

    let asked = stage.deploy(202).await;
    assert_eq!(asked["waits_for"], json!(["1 approval", "the lock", "a freeze"]), "{asked}");
    let (lock, freeze) = (asked["holds"][0].as_str().unwrap(), asked["holds"][1].as_str().unwrap());
    assert_eq!(lock, "environment prod is locked: the database moves");
    assert!(freeze.starts_with("environment prod is frozen until "), "{freeze}");
    assert!(freeze.ends_with("00:00 UTC (sale: the shop is full)"), "{freeze}");
    let planned = world.post(&plans, &plan).await.expect(200);
    let warning = |at: usize| planned["warnings"][at].as_str().unwrap();
    assert!(warning(0).starts_with(lock) && warning(1).starts_with(freeze), "{planned}");

    // Whoever overrides the freeze does not wait for it.
    let mut urgent = plan.clone();
    urgent["override_freeze"] = json!("orders are lost");
    let asked = world.post(&format!("{}/deployments", stage.at), &urgent).await.expect(202);
    assert_eq!(asked["waits_for"], json!(["1 approval", "the lock"]), "{asked}");
    stage.say(&stage.dev, &asked["id"], "withdraw", &json!({"reason": "typo"}), 200).await;
}

#[tokio::test]
async fn what_is_rejected_or_withdrawn_says_by_whom_and_why() {
    let stage = Stage::new(&json!({"needed": 1, "from": ["boss"], "expires_in_seconds": 60})).await;
    let asked = stage.deploy(202).await;
    let id = &asked["id"];
    let reject = json!({"objection": "bad_timing", "reason": "friday"});
    let refused = stage.say(&stage.qa, id, "reject", &reject, 403).await;
    assert!(refused["detail"].as_str().unwrap().contains("account qa is not among those"), "{refused}");
    let wrong = json!({"objection": "mood", "reason": "x"});
    assert_eq!(stage.say(&stage.boss, id, "reject", &wrong, 422).await["field"], "objection");
    let silent = json!({"objection": "other", "reason": " "});
    assert_eq!(stage.say(&stage.boss, id, "reject", &silent, 422).await["field"], "reason");
    let rejected = stage.say(&stage.boss, id, "reject", &reject, 200).await;
    assert_eq!(
        (&rejected["status"], &rejected["objection"], &rejected["reason"], &rejected["ended_by"]["account"]),
        (&json!("rejected"), &json!("bad_timing"), &json!("friday"), &json!("boss")),
        "{rejected}"
    );
    let asked = stage.deploy(202).await;
    let withdrawn = stage.say(&stage.dev, &asked["id"], "withdraw", &json!({"reason": "typo"}), 200).await;
    assert_eq!((&withdrawn["status"], &withdrawn["reason"]), (&json!("withdrawn"), &json!("typo")));
    let approve = json!({"plan": asked["plan"]["root"]});
    let late = stage.say(&stage.boss, &asked["id"], "approve", &approve, 409).await;
    assert!(late["detail"].as_str().unwrap().contains("deploy again"), "{late}");
}

#[tokio::test]
async fn an_approval_too_many_in_one_group_is_not_counted_for_another() {
    let rule = json!({"needed": 1, "from": ["qa", "boss"], "also": [{"needed": 1, "from": ["lead"]}]});
    let stage = Stage::new(&json!({"needed": 1})).await;
    let role = json!([{"role": "approver", "tenant": "acme", "environment": "prod"}]);
    let lead = account(&stage.world, "lead", &role).await;
    stage.world.post(&format!("{}/environments/prod/approvals", stage.at), &rule).await.expect(200);
    let asked = stage.deploy(202).await;
    let id = &asked["id"];
    assert_eq!(asked["waits_for"], json!(["1 approval of qa, boss", "1 approval of lead"]), "{asked}");
    assert_eq!((&asked["approvals_needed"], &asked["approvals_missing"]), (&json!(2), &json!(2)));
    let approve = json!({"plan": asked["plan"]["root"]});
    for who in [&stage.qa, &stage.boss] {
        let shown = stage.say(who, id, "approve", &approve, 200).await;
        assert_eq!(shown["approvals_missing"], 1, "{shown}");
        assert_eq!(shown["waits_for"], json!(["1 approval of lead"]), "{shown}");
        assert_eq!(shown["missing_from"][0]["from"][0]["name"], "lead", "{shown}");
    }
    let started = stage.say(&lead, id, "approve", &approve, 200).await;
    assert_eq!((&started["status"], &started["approvals_missing"]), (&json!("started"), &json!(0)));
}

#[tokio::test]
async fn a_rule_names_those_who_can_approve_there_and_nobody_else() {
    let stage = Stage::new(&json!({"needed": 1})).await;
    let path = format!("{}/environments/prod/approvals", stage.at);
    let refused = |body: Value, field: &'static str| {
        let (world, path) = (&stage.world, &path);
        async move {
            let said = world.post(path, &body).await.expect(422);
            assert_eq!(said["field"], field, "{said}");
            said["detail"].as_str().unwrap().to_owned()
        }
    };
    let deployer = refused(json!({"needed": 1, "from": ["qa", "dev"]}), "from[1]").await;
    let nobody = refused(json!({"needed": 1, "from": ["qa", "nobody"]}), "from[1]").await;
    assert_eq!(deployer.replace("dev", "nobody"), nobody, "whether the account exists cannot be told");
    refused(json!({"needed": 3, "from": ["qa", "boss"]}), "from").await;
    refused(json!({"needed": 17}), "needed").await;
    refused(json!({"needed": 1, "expires_in_seconds": 59}), "expires_in_seconds").await;
    refused(json!({"needed": 1, "expires_in_seconds": u64::MAX}), "expires_in_seconds").await;
    refused(json!({"needed": 0, "from": ["qa"]}), "from").await;
    let both = stage.world.post(&path, &json!({"needed": 2, "from": ["qa", "boss"]})).await.expect(200);
    assert_eq!(both["approvals"]["expires_in_seconds"], 604_800, "{both}");
    let open = stage.world.post(&path, &json!({"needed": 0})).await.expect(200);
    assert!(open.get("approvals").is_none(), "{open}");
    stage.deploy(201).await;
}
