//! Archives: how much a tenant may have, and what is told of a release whose archive has gone.

use axum::body::Body;
use futures::SinkExt as _;
use futures::channel::mpsc;
use serde_json::json;
use stella_domain::artifact::Rule;
use stella_domain::command::{Command, TenantCommand};

use crate::world::{World, archive_of, archive_with, bare, digest_of, generous, submit};

#[tokio::test]
async fn releases_beyond_what_the_tenant_may_have_are_refused() {
    let config =
        stella_api::ApiConfig { tenant_releases_max: 2, tenant_release_bytes_max: 2_000, ..generous() };
    let world = World::with(config).await;
    world.tenant("acme").await;
    world.tenant("globex").await;
    let create = async |tenant: &str, version: &str, label: usize| {
        let step = json!({"name": "a", "action": {"type": "check_tcp", "address": "localhost:80"}});
        let labels = json!({"x": "x".repeat(label)});
        let body = json!({"application": "web", "version": version, "steps": [step], "labels": labels});
        world.post(&format!("/api/v1/tenants/{tenant}/releases"), &body).await
    };
    create("acme", "1.0.0", 1).await.expect(201);
    create("acme", "1.1.0", 1).await.expect(201);
    let refused = create("acme", "1.2.0", 1).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("api.tenant_releases_max"), "{refused}");
    create("globex", "1.0.0", 1).await.expect(201);
    // Taken over while it runs.
    let smaller = stella_api::ApiConfig { tenant_release_bytes_max: 300, ..generous() };
    world.deps.tuning.change(&smaller);
    let refused = create("acme", "1.2.0", 200).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("api.tenant_release_bytes_max"), "{refused}");
    world.deps.tuning.change(&generous());
    create("acme", "1.2.0", 200).await.expect(201);
}

#[tokio::test]
async fn a_tenant_stores_no_more_than_it_may_and_what_was_refused_leaves_nothing() {
    let world = World::with(stella_api::ApiConfig { tenant_artifact_bytes_max: 5_632, ..generous() }).await;
    world.tenant("acme").await;
    world.tenant("globex").await;
    let put = async |tenant: &str, content: &[u8]| {
        let archive = archive_of(content);
        world.put(&format!("/api/v1/tenants/{tenant}/artifacts/{}", digest_of(&archive)), &archive).await
    };
    put("acme", &[1; 2_048]).await.expect(200);
    let refused = put("acme", &[2; 513]).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("api.tenant_artifact_bytes_max"), "{refused}");
    let second = digest_of(&archive_of(&[2; 513])).parse().unwrap();
    assert!(!world.deps.artifacts.contains(second).await.unwrap(), "the file stays although nobody knows it");
    put("globex", &[1; 2_048]).await.expect(200);
    put("acme", &[3; 512]).await.expect(200);
    // It is full: the body is not read any more, but for what is there already.
    put("acme", &[4; 1]).await.expect(409);
    put("acme", &[1; 2_048]).await.expect(200);
}

/// A body that comes piece by piece; what is sent into it has been taken once the next can be sent.
fn piecewise() -> (mpsc::Sender<Result<Vec<u8>, std::io::Error>>, Body) {
    let (pieces, taken) = mpsc::channel(0);
    (pieces, Body::from_stream(taken))
}

#[tokio::test]
async fn what_is_being_uploaded_counts_for_the_tenant_and_no_longer_than_that() {
    let world = World::with(stella_api::ApiConfig { tenant_artifact_bytes_max: 5_632, ..generous() }).await;
    world.tenant("acme").await;
    world.tenant("globex").await;
    let path =
        |tenant: &str, archive: &[u8]| format!("/api/v1/tenants/{tenant}/artifacts/{}", digest_of(archive));
    let (first, second) = (archive_of(&[1; 2_048]), archive_of(&[2; 2_048]));
    let (mut pieces, body) = piecewise();
    let under_way = world.send(world.request("PUT", &path("acme", &first)).body(body).unwrap());
    let meanwhile = async {
        pieces.send(Ok(first[..2_100].to_vec())).await.unwrap();
        // The piece before it was taken.
        pieces.send(Ok(first[2_100..2_101].to_vec())).await.unwrap();
        // It may fit if the first one does not come to its end.
        let refused = world.put(&path("acme", &second), &second).await.expect(503);
        assert_eq!(refused["code"], "overloaded");
        assert!(refused["detail"].as_str().unwrap().contains("with what is being uploaded"), "{refused}");
        world.put(&path("globex", &second), &second).await.expect(200);
        // The first one is given up.
        pieces.send(Err(std::io::ErrorKind::BrokenPipe.into())).await.unwrap();
    };
    let (broken_off, ()) = tokio::join!(under_way, meanwhile);
    broken_off.expect(400);
    world.put(&path("acme", &second), &second).await.expect(200);
}

#[tokio::test]
async fn an_archive_that_is_uploaded_once_more_beside_a_dead_link_counts_once() {
    let world = World::with(stella_api::ApiConfig { tenant_artifact_bytes_max: 5_632, ..generous() }).await;
    world.tenant("acme").await;
    let path = |archive: &[u8]| format!("/api/v1/tenants/acme/artifacts/{}", digest_of(archive));
    let (first, second) = (archive_of(&[1; 2_048]), archive_of(&[2; 512]));
    let (mut pieces, body) = piecewise();
    let dead = world.send(world.request("PUT", &path(&first)).body(body).unwrap());
    let meanwhile = async {
        pieces.send(Ok(first[..2_100].to_vec())).await.unwrap();
        pieces.send(Ok(first[2_100..2_101].to_vec())).await.unwrap();
        world.put(&path(&first), &first).await.expect(200);
        // Now that it is stored, what is still being sent of it takes nothing more.
        world.put(&path(&second), &second).await.expect(200);
        pieces.send(Err(std::io::ErrorKind::BrokenPipe.into())).await.unwrap();
    };
    let (broken_off, ()) = tokio::join!(dead, meanwhile);
    broken_off.expect(400);
}

#[tokio::test]
async fn an_upload_ends_with_the_role_that_it_needs() {
    let world = World::new().await;
    world.tenant("acme").await;
    let account = json!({"name": "ci", "kind": "service", "roles": [{"role": "deployer", "tenant": "acme"}]});
    world.post("/api/v1/accounts", &account).await.expect(201);
    let token = world.post("/api/v1/tokens", &json!({"name": "ci", "account": "ci"})).await.expect(201);
    let archive = archive_of(b"an archive");
    let (mut pieces, body) = piecewise();
    let put = bare("PUT", &format!("/api/v1/tenants/acme/artifacts/{}", digest_of(&archive)))
        .header("authorization", format!("Bearer {}", token["token"].as_str().unwrap()));
    let under_way = world.send(put.body(body).unwrap());
    let meanwhile = async {
        pieces.send(Ok(archive[..10].to_vec())).await.unwrap();
        pieces.send(Ok(archive[10..11].to_vec())).await.unwrap();
        world.post("/api/v1/accounts/ci/roles", &json!({"roles": []})).await.expect(200);
        // It may have been refused already.
        drop(pieces.send(Ok(archive[11..20].to_vec())).await);
        pieces
    };
    // It is refused although more is to come.
    let (refused, _pieces) = tokio::join!(under_way, meanwhile);
    refused.expect(403);
}

#[tokio::test]
async fn a_release_whose_archive_has_gone_says_so_until_it_is_uploaded_again() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let content = &archive_of(b"an archive");
    let upload = async || {
        let path = format!("/api/v1/tenants/acme/artifacts/{}", digest_of(content));
        world.put(&path, content).await.expect(200)
    };
    upload().await;
    let release = json!({"application": "shop", "version": "1.0.0", "components": [{"name": "web", "digest": digest_of(content)}]});
    let made = world.post("/api/v1/tenants/acme/releases", &release).await.expect(201);
    assert_eq!(made["components"][0].get("removed"), None, "{made}");
    let path = format!("/api/v1/tenants/acme/releases/{}", made["id"].as_str().unwrap());
    let rule = Rule { after_ms: 0, newest_min: 0 };
    let digests = vec![digest_of(content).parse().unwrap()];
    submit(&world.handle(), Command::Tenant(tenant, TenantCommand::RemoveArtifacts { digests, rule })).await;
    let shown = world.get(&path).await.expect(200);
    assert_eq!(shown["components"][0]["removed"], true, "{shown}");
    let archive = format!("/api/v1/tenants/acme/artifacts/{}", digest_of(content));
    world.get(&archive).await.expect(404);
    upload().await;
    assert_eq!(world.get(&path).await.expect(200)["components"][0].get("removed"), None);
    world.get(&archive).await.expect(200);
    // A backup without archives was restored, or somebody has tidied up.
    let digest = digest_of(content).parse().unwrap();
    assert!(world.deps.artifacts.remove(digest, || false).await.unwrap());
    world.get(&archive).await.expect(404);
    upload().await;
    world.get(&archive).await.expect(200);
}

#[tokio::test]
async fn an_archive_that_no_host_would_unpack_is_refused_by_its_entry_and_leaves_nothing() {
    let world = World::new().await;
    world.tenant("acme").await;
    let events = world.system_head();
    for (archive, said, remedy) in [
        (
            archive_with("../../etc/cron.d/x", b"gotcha"),
            "\"../../etc/cron.d/x\" has .. in its path",
            "tar -C FOLDER",
        ),
        (archive_with("/etc/x", b"gotcha"), "\"/etc/x\" has an absolute path", "tar -C FOLDER"),
        (archive_of(b"whole")[..600].to_vec(), "cannot be read", "send all of it"),
        (b"name: web\n".to_vec(), "cannot be read as .tar or .tar.gz", "hosts unpack .tar and .tar.gz"),
        (vec![0; 1024], "has no entries", "tar -C FOLDER"),
    ] {
        let digest = digest_of(&archive);
        let path = format!("/api/v1/tenants/acme/artifacts/{digest}");
        let refused = world.put(&path, &archive).await.expect(422);
        let detail = refused["detail"].as_str().unwrap();
        assert_eq!((&refused["code"], &refused["field"]), (&json!("invalid"), &json!("body")), "{refused}");
        assert!(detail.contains(said) && detail.contains(remedy), "{detail}");
        assert!(!world.deps.artifacts.contains(digest.parse().unwrap()).await.unwrap(), "{said}");
        world.get(&path).await.expect(404);
    }
    assert_eq!(world.system_head(), events);
}
