//! Archives: how much a tenant may have, and what is told of a release whose archive has gone.

use serde_json::json;
use stella_domain::artifact::Rule;
use stella_domain::command::{Command, TenantCommand};

use crate::world::{World, digest_of, generous, submit};

#[tokio::test]
async fn a_tenant_stores_no_more_than_it_may_and_what_was_refused_leaves_nothing() {
    let world = World::with(stella_api::ApiConfig { tenant_artifact_bytes_max: 100, ..generous() }).await;
    world.tenant("acme").await;
    world.tenant("globex").await;
    let put = async |tenant: &str, content: &[u8]| {
        world.put(&format!("/api/v1/tenants/{tenant}/artifacts/{}", digest_of(content)), content).await
    };
    put("acme", &[1; 60]).await.expect(200);
    let refused = put("acme", &[2; 41]).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("api.tenant_artifact_bytes_max"), "{refused}");
    let second = digest_of(&[2; 41]).parse().unwrap();
    assert!(!world.deps.artifacts.contains(second).await.unwrap(), "the file stays although nobody knows it");
    put("globex", &[1; 60]).await.expect(200);
    put("acme", &[3; 40]).await.expect(200);
    // It is full: the body is not read any more, but for what is there already.
    put("acme", &[4; 1]).await.expect(409);
    put("acme", &[1; 60]).await.expect(200);
}

#[tokio::test]
async fn a_release_whose_archive_has_gone_says_so_until_it_is_uploaded_again() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let content = b"an archive";
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
