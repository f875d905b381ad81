//! Signatures of releases, made from what the API shows.

use serde_json::{Value, json};
use stella_api_types::release::{KEEP_RELEASES_WITHOUT_STEPS, Release, TIMEOUT_MS_WITHOUT_STEPS};
use stella_domain::release::{ARTIFACT_TIMEOUT_MS_DEFAULT, KEEP_RELEASES_DEFAULT};
use stella_signing::{Component, SigningKey, Statement};

use crate::accounts::{account, ask};
use crate::world::{World, archive_of};

/// What a signer makes of a release that is shown: nothing of the core's is used.
fn statement(release: &Release) -> Statement {
    Statement {
        application: release.application.clone(),
        version: release.version.clone(),
        components: release
            .components
            .iter()
            .map(|it| Component {
                name: it.name.clone(),
                digest: it.digest.parse().unwrap(),
                size_bytes: it.size_bytes,
            })
            .collect(),
        steps: release.steps.iter().map(|step| serde_json::to_value(step).unwrap()).collect(),
        labels: release.labels.clone(),
        provenance: release.provenance.as_ref().map(|it| serde_json::to_value(it).unwrap()),
    }
}

/// A release with everything that one can have, which is not there yet.
fn everything(digest: &str) -> Value {
    let steps = json!([
        {"name": "unpack", "action": {"type": "artifact", "component": "web"}},
        {"name": "run", "action": {"type": "command", "argv": ["/bin/true", "ü\n"]}},
        {"name": "run-more", "timeout_ms": 1_000, "action": {"type": "command", "argv": ["x"], "environment": {"B": "2", "A": "1"}, "working_directory": "web", "user": "web"}},
        {"name": "http", "action": {"type": "check_http", "url": "http://localhost/"}},
        {"name": "tcp", "action": {"type": "check_tcp", "address": "localhost:80"}},
        {"name": "check", "action": {"type": "check_command", "argv": ["/bin/true"], "successes": 3}},
        {"name": "start", "action": {"type": "systemd", "unit": "web.service", "action": "start"}},
        {"name": "stop", "action": {"type": "systemd", "unit": "web.service", "action": "stop"}},
        {"name": "restart", "action": {"type": "systemd", "unit": "web.service", "action": "restart"}},
        {"name": "reload", "action": {"type": "systemd", "unit": "web.service", "action": "reload_or_restart"}},
    ]);
    let document = json!({"uri": "https://ci.example.com/1/sbom.json", "digest": digest});
    json!({
        "application": "web", "version": "2.0.0", "components": [{"name": "web", "digest": digest}], "steps": steps,
        "labels": {"tier": "gold"},
        "provenance": {
            "commit": "4b825dc642cb", "repository": "ssh://git@git.example.com/web.git", "build_url": "https://ci.example.com/1",
            "builder": "ci", "sboms": [document], "attestations": [document],
        },
    })
}

async fn register(world: &World, at: &str, name: &str) -> SigningKey {
    let key = SigningKey::generate().unwrap();
    let body = json!({"name": name, "public_key": key.public().to_pem()});
    let added = world.post(&format!("{at}/release-keys"), &body).await.expect(201);
    assert_eq!(added["id"], key.public().fingerprint().to_string());
    assert_eq!(added["public_key"], key.public().to_pem());
    key
}

#[tokio::test]
async fn whoever_signs_what_is_shown_has_signed_what_is_kept() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let at = &busy.at;
    let key = register(&world, at, "ci").await;
    let created = world.post(&format!("{at}/releases"), &everything(&busy.digest)).await.expect(201);
    for name in ["web:1.0.0", "web:2.0.0"] {
        let shown: Release =
            serde_json::from_value(world.get(&format!("{at}/releases/{name}")).await.expect(200)).unwrap();
        let statement = statement(&shown);
        assert_eq!(shown.statement, statement.digest().to_string(), "{name}");
        let body = json!({"key": "ci", "signature": key.sign(&statement).to_string()});
        let signed = world.post(&format!("{at}/releases/{name}/signatures"), &body).await.expect(200);
        let signature = &signed["signatures"][0];
        assert_eq!((&signature["name"], &signature["counts"]), (&json!("ci"), &json!(true)));
        assert_eq!(signature["signature"], body["signature"], "anybody can check it again");
        world.post(&format!("{at}/releases/{name}/signatures"), &body).await.expect(200);
    }
    assert_eq!(created["provenance"]["sboms"][0]["digest"], busy.digest);
    let listed = world.get(&format!("{at}/releases")).await.expect(200);
    assert!(
        listed["items"].as_array().unwrap().iter().all(|it| it["signatures"].as_array().unwrap().len() == 1)
    );
}

#[tokio::test]
async fn a_release_that_has_to_be_signed_comes_with_its_signature_or_not_at_all() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let at = &busy.at;
    let key = register(&world, at, "ci").await;
    let path = format!("{at}/signing");
    let wrong = world.post(&path, &json!({"needed": 1, "keys": ["nobody"]})).await.expect(422);
    assert_eq!(wrong["field"], "keys[0]", "{wrong}");
    let wrong = world.post(&path, &json!({"needed": 0, "keys": ["ci"]})).await.expect(422);
    assert_eq!(wrong["field"], "keys", "{wrong}");
    let set = world.post(&path, &json!({"needed": 1, "keys": ["ci"]})).await.expect(200);
    assert_eq!(set["signing"], json!({"needed": 1, "keys": ["ci"]}));

    let mut body = everything(&busy.digest);
    let refused = world.post(&format!("{at}/releases"), &body).await.expect(422);
    assert_eq!(refused["field"], "signatures", "{refused}");
    // What would be shown: with the defaults that are left out above.
    let mut shown = body.clone();
    for (field, value) in [("id", ""), ("created_at", "")] {
        shown[field] = value.into();
    }
    shown["components"][0]["size_bytes"] = archive_of(b"archive of acme").len().into();
    let shown: Release = serde_json::from_value(shown).unwrap();
    let fingerprint = key.public().fingerprint().to_string();
    let other = Statement { version: "2.0.1".to_owned(), ..statement(&shown) };
    body["signatures"] = json!([{"key": fingerprint, "signature": key.sign(&other).to_string()}]);
    let refused = world.post(&format!("{at}/releases"), &body).await.expect(422);
    assert_eq!(refused["field"], "signatures[0].signature", "{refused}");
    body["signatures"] = json!([{"key": fingerprint, "signature": "AAAA"}]);
    let refused = world.post(&format!("{at}/releases"), &body).await.expect(422);
    assert_eq!(refused["field"], "signatures[0].signature", "{refused}");
    body["signatures"] = json!([{"key": fingerprint, "signature": key.sign(&statement(&shown)).to_string()}]);
    let created = world.post(&format!("{at}/releases"), &body).await.expect(201);
    assert_eq!(created["signatures"][0]["name"], "ci");

    let revoke = format!("{at}/release-keys/ci/revoke");
    assert_eq!(world.post(&revoke, &json!({"reason": ""})).await.expect(422)["field"], "reason");
    let revoked = world.post(&revoke, &json!({"reason": "lost"})).await.expect(200);
    assert_eq!(revoked["revoked"]["reason"], "lost");
    let shown = world.get(&format!("{at}/releases/web:2.0.0")).await.expect(200);
    assert_eq!(shown["signatures"][0]["counts"], false, "{shown}");
    let deploy = json!({"environment": "prod", "release": "web:2.0.0"});
    let refused = world.post(&format!("{at}/deployment-plans"), &deploy).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("key ci was revoked"), "{refused}");
    world.post(&path, &json!({"needed": 0})).await.expect(200);
    assert_eq!(
        world.get(&format!("{at}/release-keys")).await.expect(200)["items"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn keys_are_an_administrators_business_and_private_ones_are_sent_back() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let keys = format!("{}/release-keys", busy.at);
    let role = json!([{"role": "operator", "tenant": "acme"}]);
    let dev = account(&world, "dev", &role).await;
    let key = SigningKey::generate().unwrap();
    let body = json!({"name": "ci", "public_key": key.public().to_pem()});
    let refused = ask(&world, &dev, "POST", &keys, Some(&body)).await.expect(403);
    assert!(refused["detail"].as_str().unwrap().contains("role admin"), "{refused}");
    for (text, hint) in [(key.to_pem().unwrap().as_str(), "private key"), ("ssh-ed25519 AAAA", "PEM")] {
        let refused = world.post(&keys, &json!({"name": "ci", "public_key": text})).await.expect(422);
        assert_eq!(refused["field"], "public_key");
        assert!(refused["detail"].as_str().unwrap().contains(hint), "{refused}");
        assert!(!refused.to_string().contains(text.lines().nth(1).unwrap_or("AAAA")), "it is not repeated");
    }
}

/// A signer who says no steps says those that the control plane would say.
#[test]
fn what_a_release_without_steps_does_is_the_same_on_both_sides() {
    assert_eq!(KEEP_RELEASES_WITHOUT_STEPS, KEEP_RELEASES_DEFAULT);
    assert_eq!(TIMEOUT_MS_WITHOUT_STEPS, ARTIFACT_TIMEOUT_MS_DEFAULT);
}
