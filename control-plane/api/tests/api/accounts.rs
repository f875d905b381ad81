//! People and programs with roles: what they see, what they may do, and what of others they cannot tell.

use axum::body::Body;
use serde_json::{Value, json};

use crate::world::{Answer, World, archive_of, bare, digest_of, with_json, within};

/// A new account with these roles, and a token of its.
pub(crate) async fn account(world: &World, name: &str, roles: &Value) -> String {
    let body = json!({"name": name, "roles": roles});
    world.post("/api/v1/accounts", &body).await.expect(201);
    let body = json!({"name": "laptop", "account": name});
    let created = world.post("/api/v1/tokens", &body).await.expect(201);
    assert_eq!(created["details"]["account"]["name"], name, "{created}");
    created["token"].as_str().unwrap().to_owned()
}

pub(crate) async fn ask(
    world: &World,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let request = bare(method, path).header("authorization", format!("Bearer {token}"));
    world
        .send(match body {
            Some(body) => with_json(request, body),
            None => request.body(Body::empty()).unwrap(),
        })
        .await
}

#[tokio::test]
async fn a_role_holds_where_it_was_given_and_nowhere_else() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    world.busy_tenant("globex").await;
    let at = &busy.at;
    world.post(&format!("{at}/environments"), &json!({"name": "staging"})).await.expect(201);
    let roles = json!([{"role": "deployer", "tenant": "acme", "environment": "staging"}]);
    let token = account(&world, "ci", &roles).await;
    let asked = |method: &'static str, path: String, body: Option<Value>| {
        let (world, token) = (&world, &token);
        async move { ask(world, token, method, &path, body.as_ref()).await }
    };

    let me = asked("GET", "/api/v1/whoami".into(), None).await.expect(200);
    assert_eq!((&me["account"]["name"], &me["account"]["tokens"]), (&json!("ci"), &json!(1)), "{me}");
    assert_eq!(me["account"]["roles"][0]["environment"]["name"], "staging", "{me}");
    // All of its tenant can be seen, and no other.
    let tenants = asked("GET", "/api/v1/tenants".into(), None).await.expect(200);
    assert_eq!(tenants["items"].as_array().unwrap().len(), 1, "{tenants}");
    let system = asked("GET", "/api/v1/system".into(), None).await.expect(200);
    assert_eq!(
        (&system["counts"]["tenants"], &system["counts"]["targets"]),
        (&json!(1), &json!(1)),
        "{system}"
    );
    asked("GET", format!("{at}/deployments/{}", busy.deployment), None).await.expect(200);
    let theirs = asked("GET", "/api/v1/tenants/globex/targets".into(), None).await.expect(404);
    let nobodys = asked("GET", "/api/v1/tenants/nobody/targets".into(), None).await.expect(404);
    let detail = |it: &Value| it["detail"].as_str().unwrap().replace("globex", "nobody");
    assert_eq!(detail(&theirs), detail(&nobodys), "whether it exists cannot be told");

    // A deployer of staging uploads and releases, and deploys there.
    let archive = archive_of(b"new");
    let digest = digest_of(&archive);
    let put =
        bare("PUT", &format!("{at}/artifacts/{digest}")).header("authorization", format!("Bearer {token}"));
    world.send(put.body(Body::from(archive)).unwrap()).await.expect(200);
    let component = json!({"name": "web", "digest": digest});
    let release = json!({"application": "web", "version": "2", "components": [component]});
    asked("POST", format!("{at}/releases"), Some(release)).await.expect(201);
    let deploy = |environment| Some(json!({"environment": environment, "release": "web:2"}));
    let refused = asked("POST", format!("{at}/deployments"), deploy("prod")).await.expect(403);
    assert_eq!(refused["code"], "forbidden");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("account ci needs the role deployer in environment prod of tenant acme"),
        "{detail}"
    );
    // Let through, and only then found to have no target.
    asked("POST", format!("{at}/deployments"), deploy("staging")).await.expect(422);
    let target = json!({"name": "web", "environment": "staging", "agent": "host-1", "slot": "staging"});
    world.post(&format!("{at}/targets"), &target).await.expect(201);
    let deployed = asked("POST", format!("{at}/deployments"), deploy("staging")).await.expect(201);
    assert_eq!(deployed["created_by"]["account"], "ci", "{deployed}");
    let cancel = Some(json!({"reason": "mine"}));
    let path = format!("{at}/deployments/{}/cancel", busy.deployment);
    asked("POST", path, cancel).await.expect(403);
    asked("POST", format!("{at}/environments"), Some(json!({"name": "qa"}))).await.expect(403);
    asked("POST", "/api/v1/tenants".into(), Some(json!({"name": "hooli"}))).await.expect(403);
    for path in ["/api/v1/accounts", "/api/v1/accounts/ci"] {
        asked("GET", path.into(), None).await.expect(403);
    }
    let grab = Some(json!({"roles": [{"role": "admin"}]}));
    asked("POST", "/api/v1/accounts/ci/roles".into(), grab).await.expect(403);
}

#[tokio::test]
async fn a_viewer_uploads_nothing_and_its_feed_ends_with_its_role() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let token = account(&world, "eve", &json!([{"role": "viewer", "tenant": "acme"}])).await;
    // Refused before the body is read: this one never comes to its end.
    let endless = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let put = bare("PUT", &format!("{}/artifacts/{}", busy.at, digest_of(b"x")));
    let put = put.header("authorization", format!("Bearer {token}")).body(endless).unwrap();
    within(world.send(put)).await.expect(403);

    let feed = bare("GET", &format!("{}/events", busy.at))
        .header("authorization", format!("Bearer {token}"))
        .header("accept", "text/event-stream");
    let feed = world.open(feed.body(Body::empty()).unwrap()).await;
    assert_eq!(feed.status().as_u16(), 200);
    world.post("/api/v1/accounts/eve/roles", &json!({"roles": []})).await.expect(200);
    within(axum::body::to_bytes(feed.into_body(), 1 << 20)).await.unwrap();
    ask(&world, &token, "GET", &busy.at, None).await.expect(404);
}

#[tokio::test]
async fn tokens_belong_to_their_account_and_go_with_it() {
    let world = World::new().await;
    world.tenant("acme").await;
    let token = account(&world, "ann", &json!([{"role": "admin", "tenant": "acme"}])).await;
    account(&world, "bob", &json!([])).await;
    // Without saying whose: one's own.
    let created =
        ask(&world, &token, "POST", "/api/v1/tokens", Some(&json!({"name": "phone"}))).await.expect(201);
    assert_eq!(created["details"]["account"]["name"], "ann");
    let theirs = json!({"name": "x", "account": "bob"});
    let nobodys = json!({"name": "x", "account": "nobody"});
    let refused = ask(&world, &token, "POST", "/api/v1/tokens", Some(&theirs)).await.expect(403);
    let same = ask(&world, &token, "POST", "/api/v1/tokens", Some(&nobodys)).await.expect(403);
    assert_eq!(refused["detail"], same["detail"], "which accounts there are cannot be told");
    world.post("/api/v1/tokens", &nobodys).await.expect(422);

    let listed = ask(&world, &token, "GET", "/api/v1/tokens", None).await.expect(200);
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|it| &it["account"]["name"]).collect();
    assert_eq!(names, ["ann", "ann"], "{listed}");
    let all = world.get("/api/v1/tokens").await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 4, "{all}");

    // What it does is recorded under its name.
    ask(&world, &token, "POST", "/api/v1/tenants/acme/environments", Some(&json!({"name": "qa"})))
        .await
        .expect(201);
    let gone = world.send(world.request("DELETE", "/api/v1/accounts/ann").body(Body::empty()).unwrap()).await;
    assert_eq!(gone.status.as_u16(), 204);
    ask(&world, &token, "GET", "/api/v1/whoami", None).await.expect(401);
    let events = world.get("/api/v1/tenants/acme/events").await.expect(200);
    let mut actors = events["items"].as_array().unwrap().iter().map(|it| &it["actor"]["account"]);
    assert_eq!(actors.next_back(), Some(&json!("ann")), "{events}");
    let accounts = world.get("/api/v1/accounts").await.expect(200);
    assert_eq!(accounts["items"].as_array().unwrap().len(), 1, "{accounts}");
}

#[tokio::test]
async fn bad_accounts_are_refused_with_the_field() {
    let world = World::new().await;
    world.tenant("acme").await;
    let cases = [
        (json!({"name": "No Name"}), "name"),
        (json!({"name": "x", "kind": "robot"}), "kind"),
        (json!({"name": "x", "roles": [{"role": "king"}]}), "roles[0].role"),
        (
            json!({"name": "x", "roles": [{"role": "viewer"}, {"role": "viewer", "tenant": "no"}]}),
            "roles[1].tenant",
        ),
        (json!({"name": "x", "roles": [{"role": "viewer", "environment": "no"}]}), "roles[0].tenant"),
        (
            json!({"name": "x", "roles": [{"role": "viewer", "tenant": "acme", "environment": "no"}]}),
            "roles[0].environment",
        ),
    ];
    for (body, field) in cases {
        let refused = world.post("/api/v1/accounts", &body).await.expect(422);
        assert_eq!(refused["field"], field, "{body}: {refused}");
    }
    world.post("/api/v1/accounts", &json!({"name": "x"})).await.expect(201);
    world.post("/api/v1/accounts", &json!({"name": "x"})).await.expect(409);
    world.get("/api/v1/accounts/nobody").await.expect(404);
}

#[tokio::test]
async fn what_became_of_accounts_and_tokens_can_be_read_by_who_administers() {
    let world = World::new().await;
    world.tenant("acme").await;
    let token = account(&world, "ann", &json!([{"role": "admin", "tenant": "acme"}])).await;
    for path in ["/api/v1/events", "/api/v1/journal"] {
        ask(&world, &token, "GET", path, None).await.expect(403);
    }
    let gone = world.send(world.request("DELETE", "/api/v1/accounts/ann").body(Body::empty()).unwrap()).await;
    assert_eq!(gone.status.as_u16(), 204);
    let events = world.get("/api/v1/events").await.expect(200);
    let items = events["items"].as_array().unwrap();
    let types: Vec<_> = items.iter().map(|it| it["type"].as_str().unwrap()).collect();
    let told = ["account_created", "api_token_created", "api_token_revoked", "account_removed"];
    assert_eq!(types[types.len() - 4..], told, "{events}");
    assert!(items.iter().all(|it| it["data"].get("hash").is_none()), "{events}");
    let head = world.get("/api/v1/journal").await.expect(200);
    assert_eq!(head["position"], items.len(), "{head}");
}

#[tokio::test]
async fn who_is_named_by_a_rule_and_cannot_approve_there_is_told() {
    let world = World::new().await;
    world.tenant("acme").await;
    let environments = "/api/v1/tenants/acme/environments";
    world.post(environments, &json!({"name": "prod"})).await.expect(201);
    let roles = json!([{"role": "approver", "tenant": "acme"}]);
    for name in ["ann", "zed"] {
        account(&world, name, &roles).await;
    }
    let rule = json!({"needed": 1, "from": ["ann", "zed"]});
    world.post(&format!("{environments}/prod/approvals"), &rule).await.expect(200);
    let path = "/api/v1/accounts/ann";
    assert!(world.get(path).await.expect(200).get("warnings").is_none());
    let set = world.post(&format!("{path}/roles"), &json!({"roles": []})).await.expect(200);
    let told =
        "the approval rule of prod in tenant acme names ann, who cannot approve there: the others are enough";
    assert_eq!(set["warnings"], json!([told]));
    assert_eq!(world.get(path).await.expect(200)["warnings"], json!([told]));

    let gone = world.send(world.request("DELETE", "/api/v1/accounts/zed").body(Body::empty()).unwrap()).await;
    let warnings = gone.expect(200)["warnings"].clone();
    let said = warnings[0].as_str().unwrap();
    assert!(
        said.contains("names zed, who cannot approve there") && said.contains("give 0 of 1 approvals"),
        "{said}"
    );
    let shown = world.get(&format!("{environments}/prod")).await.expect(200);
    let names: Vec<_> = shown["approvals"]["from"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"ann") && names.iter().any(|it| it.ends_with(" (removed)")), "{names:?}");

    world.post(&format!("{path}/roles"), &json!({"roles": roles})).await.expect(200);
    let set = world.get(path).await.expect(200);
    assert!(set.get("warnings").is_none(), "{set}");
}
