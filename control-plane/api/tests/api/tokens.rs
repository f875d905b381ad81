//! Who may come in, and who no more.

use axum::body::Body;
use serde_json::json;

use crate::accounts::{account, ask};
use crate::world::{World, bare, within};

#[tokio::test]
async fn a_token_lets_in_until_it_is_revoked_and_its_feed_ends() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let created = world.post("/api/v1/tokens", &json!({"name": "build server"})).await.expect(201);
    let token = created["token"].as_str().unwrap().to_owned();
    let id = created["details"]["id"].as_str().unwrap().to_owned();
    let with = |path: &str| bare("GET", path).header("authorization", format!("Bearer {token}"));
    let ask = |path: &str| with(path).body(Body::empty()).unwrap();
    let listed = world.send(ask("/api/v1/tokens")).await.expect(200);
    let yours: Vec<_> =
        listed["items"].as_array().unwrap().iter().filter(|it| it["is_yours"] == true).collect();
    assert_eq!((yours.len(), &yours[0]["name"]), (1, &json!("build server")), "{listed}");
    assert!(!listed.to_string().contains(&token), "{listed}");

    let feed = with(&format!("{}/events", busy.at)).header("accept", "text/event-stream");
    let feed = world.open(feed.body(Body::empty()).unwrap()).await;
    assert_eq!(feed.status().as_u16(), 200);
    let path = format!("/api/v1/tokens/{id}");
    let revoked = world.send(world.request("DELETE", &path).body(Body::empty()).unwrap()).await;
    assert_eq!(revoked.status.as_u16(), 204);
    assert_eq!(world.send(ask("/api/v1/tenants")).await.status.as_u16(), 401);
    // It ends by itself: the body is complete.
    within(axum::body::to_bytes(feed.into_body(), 1 << 20)).await.unwrap();
    let again = world.send(world.request("DELETE", &path).body(Body::empty()).unwrap()).await;
    again.expect(404);
}

#[tokio::test]
async fn the_last_token_stays_and_a_name_is_needed() {
    let world = World::new().await;
    let listed = world.get("/api/v1/tokens").await.expect(200);
    let id = listed["items"][0]["id"].as_str().unwrap();
    let path = format!("/api/v1/tokens/{id}");
    let refused = world.send(world.request("DELETE", &path).body(Body::empty()).unwrap()).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("create another one first"), "{refused}");
    for name in ["", "a\nb"] {
        let refused = world.post("/api/v1/tokens", &json!({"name": name})).await.expect(422);
        assert_eq!(refused["field"], "name", "{refused}");
    }
    let unknown = world.request("DELETE", "/api/v1/tokens/nonsense").body(Body::empty()).unwrap();
    world.send(unknown).await.expect(404);
}

#[tokio::test]
async fn a_repeated_creation_does_not_show_the_token_again() {
    let world = World::new().await;
    let body = json!({"name": "once"});
    let create = || {
        let request = world.request("POST", "/api/v1/tokens").header("idempotency-key", "k");
        crate::world::with_json(request, &body)
    };
    let first = world.send(create()).await.expect(201);
    let again = world.send(create()).await.expect(201);
    assert!(first["token"].is_string() && again.get("token").is_none(), "{again}");
    assert_eq!(first["details"]["id"], again["details"]["id"]);
    assert!(again["note"].as_str().unwrap().contains("create another one"), "{again}");
}

#[tokio::test]
async fn a_token_that_ends_takes_its_feed_with_it() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    for wrong in [json!(0), json!(u64::MAX)] {
        let body = json!({"name": "brief", "expires_in_seconds": wrong});
        let refused = world.post("/api/v1/tokens", &body).await.expect(422);
        assert_eq!(refused["field"], "expires_in_seconds", "{refused}");
    }
    let with = |token: &str, path: &str| bare("GET", path).header("authorization", format!("Bearer {token}"));
    // Long enough to open a feed, also on a slow machine, and not longer than needed.
    let mut opened = None;
    for seconds in [1, 4, 16] {
        let body = json!({"name": "brief", "expires_in_seconds": seconds});
        let created = world.post("/api/v1/tokens", &body).await.expect(201);
        assert!(created["details"]["expires_at"].is_string(), "{created}");
        let token = created["token"].as_str().unwrap().to_owned();
        let feed = with(&token, &format!("{}/events", busy.at)).header("accept", "text/event-stream");
        let feed = world.open(feed.body(Body::empty()).unwrap()).await;
        if feed.status().as_u16() == 200 {
            opened = Some((token, feed));
            break;
        }
    }
    let (token, feed) = opened.expect("no feed could be opened in time");
    within(axum::body::to_bytes(feed.into_body(), 1 << 20)).await.unwrap();
    let refused = world.send(with(&token, "/api/v1/tenants").body(Body::empty()).unwrap()).await.expect(401);
    assert!(refused["detail"].as_str().unwrap().contains("expired"), "{refused}");
}

#[tokio::test]
async fn who_renews_their_own_tokens_without_end_has_to_wait_and_others_have_not() {
    let world = World::new().await;
    world.tenant("acme").await;
    let viewer = json!([{"role": "viewer", "tenant": "acme"}]);
    let (eve, ann) = (account(&world, "eve", &viewer).await, account(&world, "ann", &viewer).await);
    let another = json!({"name": "another"});
    for _ in 0..20 {
        let made = ask(&world, &eve, "POST", "/api/v1/tokens", Some(&another)).await.expect(201);
        let path = format!("/api/v1/tokens/{}", made["details"]["id"].as_str().unwrap());
        let revoked = ask(&world, &eve, "DELETE", &path, None).await;
        assert_eq!(revoked.status.as_u16(), 204, "{revoked:?}");
    }
    let events = world.system_head();
    let refused = ask(&world, &eve, "POST", "/api/v1/tokens", Some(&another)).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    refused.expect(429);
    assert_eq!(world.system_head(), events);
    // Whoever has stolen one of them must not be able to keep the others from being revoked.
    let own = ask(&world, &eve, "GET", "/api/v1/tokens", None).await.expect(200);
    let path = format!("/api/v1/tokens/{}", own["items"][0]["id"].as_str().unwrap());
    let revoked = ask(&world, &eve, "DELETE", &path, None).await;
    assert_eq!(revoked.status.as_u16(), 204, "{revoked:?}");
    ask(&world, &ann, "POST", "/api/v1/tokens", Some(&another)).await.expect(201);
    for _ in 0..30 {
        world.post("/api/v1/tokens", &json!({"name": "another", "account": "eve"})).await.expect(201);
    }
}
