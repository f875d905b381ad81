//! A request with a key takes effect once, however often it is sent.

use axum::body::Body;
use serde_json::{Value, json};

use crate::world::{Answer, World, bare, new_token, with_json};

async fn keyed(world: &World, token: &str, key: &str, path: &str, body: &Value) -> Answer {
    let request = bare("POST", path).header("authorization", format!("Bearer {token}"));
    world.send(with_json(request.header("idempotency-key", key), body)).await
}

#[tokio::test]
async fn the_same_key_and_body_get_the_same_resource_again() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let release = json!({"application": "web", "version": "2", "steps": [
        {"name": "run", "action": {"type": "command", "argv": ["true"]}}]});
    let target = json!({"name": "web-2", "environment": "prod", "agent": "host-1", "slot": "b"});
    for (path, body) in [
        ("/api/v1/tenants".to_owned(), json!({"name": "globex"})),
        (format!("{}/environments", busy.at), json!({"name": "staging"})),
        (format!("{}/targets", busy.at), target),
        (format!("{}/releases", busy.at), release),
    ] {
        // Any text will do that is neither empty nor too long; here, one for each path.
        let key = &path[path.len() - 8..];
        let first = keyed(&world, &world.token, key, &path, &body).await.expect(201);
        let heads = || (world.head("acme"), world.system_head());
        let before = heads();
        assert_eq!(keyed(&world, &world.token, key, &path, &body).await.expect(201), first);
        assert_eq!(heads(), before, "{path}: it took effect twice");
    }
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let world = World::new().await;
    world.tenant("acme").await;
    world.tenant("globex").await;
    let of = |tenant: &str| format!("/api/v1/tenants/{tenant}/environments");
    let (dev, prod) = (json!({"name": "dev"}), json!({"name": "prod"}));
    let first = keyed(&world, &world.token, "k", &of("acme"), &dev).await.expect(201);
    let reused = keyed(&world, &world.token, "k", &of("acme"), &prod).await.expect(422);
    assert_eq!((&reused["code"], &reused["noSideEffects"]), (&json!("idempotency_key_reused"), &json!(true)));
    // A path of the same tenant is part of the request, too.
    let elsewhere =
        keyed(&world, &world.token, "k", "/api/v1/tenants/acme/enrolment-tokens", &json!({})).await;
    assert_eq!(elsewhere.expect(422)["code"], "idempotency_key_reused");
    // Nothing of all that was done, and the first request can still be repeated.
    assert_eq!(world.get(&of("acme")).await.expect(200)["items"], json!([first]));
    assert_eq!(keyed(&world, &world.token, "k", &of("acme"), &dev).await.expect(201), first);

    let another = new_token(&world.handle()).await;
    let theirs = keyed(&world, &another, "k", &of("acme"), &prod).await.expect(201);
    assert_eq!(theirs["name"], "prod");
    let other_tenant = keyed(&world, &world.token, "k", &of("globex"), &prod).await.expect(201);
    assert_ne!(other_tenant["id"], theirs["id"]);
}

#[tokio::test]
async fn a_refused_request_does_not_use_its_key_up() {
    let world = World::new().await;
    world.tenant("acme").await;
    let body = json!({"name": "acme"});
    keyed(&world, &world.token, "k", "/api/v1/tenants", &body).await.expect(409);
    keyed(&world, &world.token, "k", "/api/v1/tenants", &json!({"name": "globex"})).await.expect(201);
}

#[tokio::test]
async fn what_was_removed_can_be_removed_again_with_the_same_key_only() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let target = json!({"name": "web-2", "environment": "prod", "agent": "host-1", "slot": "b"});
    world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    let remove = |key: &str| {
        let request =
            world.request("DELETE", &format!("{}/targets/web-2", busy.at)).header("idempotency-key", key);
        world.send(request.body(Body::empty()).unwrap())
    };
    for _ in 0..2 {
        assert_eq!(remove("mine").await.status.as_u16(), 204);
    }
    remove("another").await.expect(404);
    let head = world.head("acme");
    assert_eq!(remove("mine").await.status.as_u16(), 204);
    assert_eq!(world.head("acme"), head);
}

#[tokio::test]
async fn whatever_a_path_named_can_be_removed_again_with_the_same_key_only() {
    let world = World::new().await;
    world.tenant("acme").await;
    let of = |what: &str| format!("/api/v1/tenants/acme/{what}");
    world.post(&of("environments"), &json!({"name": "prod"})).await.expect(201);
    let freeze =
        json!({"name": "holidays", "reason": "r", "from": "2040-01-01 00:00", "to": "2040-01-02 00:00"});
    world.post(&of("environments/prod/freezes"), &freeze).await.expect(200);
    let gate = json!({"name": "quality", "check": {"type": "security", "limits": {"critical": 0}}, "ttl_seconds": 60});
    world.post(&of("environments/prod/gates"), &gate).await.expect(200);
    let account = json!({"name": "ci", "kind": "service", "roles": [{"role": "deployer", "tenant": "acme"}]});
    world.post("/api/v1/accounts", &account).await.expect(201);
    world
        .post(&of("workflows"), &json!({"source": "name: ship\nsteps:\n  - id: soak\n    wait: 1h\n"}))
        .await;
    let hook = json!({"name": "built", "account": "ci", "workflow": {"name": "ship"}});
    world.post(&of("hooks"), &hook).await.expect(201);
    let paths = [
        of("hooks/built"),
        "/api/v1/accounts/ci".to_owned(),
        of("environments/prod/gates/quality"),
        of("environments/prod/freezes/holidays"),
        // What the two before it are in.
        of("environments/prod"),
    ];
    let remove = |key: &'static str, path: &str| {
        let request = world.request("DELETE", path).header("idempotency-key", key);
        world.send(request.body(Body::empty()).unwrap())
    };
    let keys = ["k0", "k1", "k2", "k3", "k4"];
    for (key, path) in keys.into_iter().zip(&paths) {
        assert_eq!(remove(key, path).await.status.as_u16(), 204, "{path}");
    }
    let heads = (world.head("acme"), world.system_head());
    for (key, path) in keys.into_iter().zip(&paths) {
        assert_eq!(remove(key, path).await.status.as_u16(), 204, "{path} again");
        remove("another", path).await.expect(404);
    }
    assert_eq!((world.head("acme"), world.system_head()), heads);
}

#[tokio::test]
async fn what_was_renamed_can_be_renamed_again_with_the_same_key_only() {
    let world = World::new().await;
    world.tenant("acme").await;
    let all = "/api/v1/tenants/acme/environments";
    world.post(all, &json!({"name": "prod"})).await.expect(201);
    let (path, body) = (format!("{all}/prod/update"), json!({"name": "production"}));
    let first = keyed(&world, &world.token, "mine", &path, &body).await.expect(200);
    assert_eq!(keyed(&world, &world.token, "mine", &path, &body).await.expect(200), first);
    keyed(&world, &world.token, "another", &path, &body).await.expect(404);
    keyed(&world, &world.token, "mine", &path, &json!({"name": "live"})).await.expect(404);
}

#[tokio::test]
async fn requests_at_the_same_time_with_one_key_take_effect_once() {
    let world = World::new().await;
    let body = json!({"name": "acme"});
    let ask = || keyed(&world, &world.token, "k", "/api/v1/tenants", &body);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let one = one.expect(201);
    assert_eq!((two.expect(201), three.expect(201)), (one.clone(), one));
}

#[tokio::test]
async fn the_secret_of_an_enrolment_token_is_shown_once() {
    let world = World::new().await;
    world.tenant("acme").await;
    let path = "/api/v1/tenants/acme/enrolment-tokens";
    let first = keyed(&world, &world.token, "k", path, &json!({"uses": 3})).await.expect(201);
    let secret = first["token"].as_str().unwrap();
    assert!(secret.parse::<stella_certs::EnrolmentToken>().is_ok());
    let again = keyed(&world, &world.token, "k", path, &json!({"uses": 3})).await.expect(201);
    assert_eq!(again["details"], first["details"]);
    assert!(again.get("token").is_none() && !again["note"].as_str().unwrap().is_empty(), "{again}");
    let hash = secret.parse::<stella_certs::EnrolmentToken>().unwrap().secret_hash().to_string();
    for place in [path, "/api/v1/tenants/acme/events?limit=500"] {
        let shown = String::from_utf8(world.get(place).await.body.to_vec()).unwrap();
        assert!(!shown.contains(secret), "{place} shows the secret");
        assert!(!shown.contains(hash.trim_start_matches("sha256:")), "{place} shows the secret's hash");
    }
}
