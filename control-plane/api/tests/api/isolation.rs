//! What belongs to one tenant does not exist under another's path, not even by its id.

use axum::body::Body;
use serde_json::json;

use crate::document::served;
use crate::roles::{filled, furnished, operations, sample};
use crate::world::{World, with_json};

#[tokio::test]
async fn ids_of_one_tenant_lead_nowhere_in_another() {
    let world = World::new().await;
    let theirs = world.busy_tenant("acme").await;
    let ours = world.busy_tenant("globex").await;
    let deployment = format!("deployments/{}", theirs.deployment);
    let task = format!("tasks/{}", theirs.task);
    let reason = || json!({"reason": "curious"});
    let requests = [
        ("GET", format!("environments/{}", theirs.environment), None),
        ("GET", format!("targets/{}", theirs.target), None),
        ("DELETE", format!("targets/{}", theirs.target), None),
        ("GET", format!("targets?environment={}", theirs.environment), None),
        ("GET", format!("agents/{}", theirs.agent), None),
        ("POST", format!("agents/{}/revoke", theirs.agent), Some(reason())),
        ("POST", format!("agents/{}/drain", theirs.agent), Some(reason())),
        ("POST", format!("agents/{}/undrain", theirs.agent), None),
        ("GET", format!("artifacts/{}", theirs.digest), None),
        ("GET", format!("releases/{}", theirs.release), None),
        ("GET", deployment.clone(), None),
        ("GET", format!("{deployment}/tasks"), None),
        ("POST", format!("{deployment}/rollback"), None),
        ("POST", format!("{deployment}/rollback-plans"), None),
        ("POST", format!("{deployment}/cancel"), Some(reason())),
        ("GET", format!("deployments?environment={}", theirs.environment), None),
        ("GET", task.clone(), None),
        ("GET", format!("{task}/output"), None),
        ("POST", format!("{task}/settle"), Some(json!({"succeeded": true, "reason": "curious"}))),
        (
            "POST",
            "deployments".into(),
            Some(json!({"environment": theirs.environment, "release": "web:1.0.0"})),
        ),
        ("POST", "deployments".into(), Some(json!({"environment": "prod", "release": theirs.release}))),
        (
            "POST",
            "deployments".into(),
            Some(json!({"environment": "prod", "release": "web:1.0.0", "targets": [theirs.target]})),
        ),
        (
            "POST",
            "targets".into(),
            Some(json!({"name": "x", "environment": theirs.environment, "agent": "host-1", "slot": "x"})),
        ),
        (
            "POST",
            "targets".into(),
            Some(json!({"name": "x", "environment": "prod", "agent": theirs.agent, "slot": "x"})),
        ),
    ];
    let heads = || (world.head("acme"), world.head("globex"));
    let before = heads();
    for (method, path, body) in requests {
        let request = world.request(method, &format!("{}/{path}", ours.at));
        let request = match body {
            Some(body) => with_json(request, &body),
            None => request.body(Body::empty()).unwrap(),
        };
        let answer = world.send(request).await;
        assert_eq!(answer.status.as_u16(), 404, "{method} {path}: {answer:?}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("acme") && !text.contains("archive of"), "{method} {path}: {text}");
    }
    assert_eq!(heads(), before);
}

/// What takes a name or a digest of one's own, and makes something of it that was not there.
const MAKES_ITS_OWN: [&str; 1] = ["PUT /api/v1/tenants/{tenant}/artifacts/{digest}"];

#[tokio::test]
async fn no_path_of_the_document_leads_from_one_tenant_to_what_is_anothers() {
    let world = World::new().await;
    let mut parameters = furnished(&world).await;
    parameters.insert("{tenant}", "globex".to_owned());
    world.tenant("globex").await;
    let document = served(&world).await;
    let heads = || (world.head("acme"), world.head("globex"));
    let (before, mut tried, mut wrong) = (heads(), 0, Vec::new());
    for (method, template, operation) in operations(&document) {
        let Some((_, within)) = template.split_once("/{tenant}/") else { continue };
        if !within.contains('{') || MAKES_ITS_OWN.contains(&format!("{method} {template}").as_str()) {
            continue;
        }
        let path = filled(&parameters, &template);
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let request = world.request(&method, &path);
        let request = match schema.is_null() {
            true => request.body(Body::empty()).unwrap(),
            false => with_json(request, &sample(&document, &parameters["{digest}"], schema)),
        };
        let answer = world.send(request).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status.as_u16() != 404 || text.contains("acme") || text.contains("archive of") {
            wrong.push(format!("{method} {template}: {} {text}", answer.status));
        }
        tried += 1;
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(tried >= 60, "only {tried} operations were tried");
    assert_eq!(heads(), before);
}

#[tokio::test]
async fn an_archive_that_only_another_tenant_uploaded_cannot_be_released() {
    let world = World::new().await;
    let theirs = world.busy_tenant("acme").await;
    world.tenant("globex").await;
    let component = json!({"name": "web", "digest": theirs.digest});
    let release = json!({"application": "web", "version": "1", "components": [component]});
    let refused = world.post("/api/v1/tenants/globex/releases", &release).await.expect(422);
    assert_eq!(refused["field"], "components[0].digest");
}

#[tokio::test]
async fn names_can_be_the_same_in_two_tenants_and_ids_are_found_before_names() {
    let world = World::new().await;
    let one = world.busy_tenant("acme").await;
    let other = world.busy_tenant("globex").await;
    for (busy, by) in [(&one, "acme"), (&other, "globex")] {
        let found = world.get(&format!("/api/v1/tenants/{by}/environments/prod")).await.expect(200);
        assert_eq!(found["id"], busy.environment.as_str());
    }
    // A tenant that is called like another one's id does not take its place.
    let id = world.get("/api/v1/tenants/acme").await.expect(200)["id"].as_str().unwrap().to_owned();
    world.tenant(&id).await;
    assert_eq!(world.get(&format!("/api/v1/tenants/{id}")).await.expect(200)["name"], "acme");
}
