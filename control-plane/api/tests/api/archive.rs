//! What has left memory is shown like everything else, and nothing can be done with it.

use serde_json::{Value, json};
use stella_domain::archive::Ended;
use stella_domain::name::Name;

use crate::world::{Busy, World, with_json};

/// `busy`, with five more deployments one after the other: all of them cancelled, and the last one still in memory.
async fn archived(world: &World) -> (Busy, Vec<String>) {
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/deployments", busy.at);
    let mut ids = vec![busy.deployment.clone()];
    for n in 0..=5 {
        let cancel = json!({"reason": "test"});
        world.post(&format!("{path}/{}/cancel", ids[n]), &cancel).await.expect(200);
        if n < 5 {
            let new = json!({"environment": "prod", "release": "web:1.0.0"});
            ids.push(id(&world.post(&path, &new).await.expect(201)));
        }
    }
    (busy, ids)
}

async fn let_go(world: &World, ids: &[String]) {
    let name = "acme".parse::<Name>().unwrap();
    let tenant = world.handle().state().system.tenants[&name];
    let deployments = ids.iter().map(|id| id.parse().unwrap()).collect();
    world.handle().archive_ended(tenant, Ended { deployments, ..Ended::default() }).await.unwrap();
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn archived_deployments_are_shown_as_before() {
    let world = World::new().await;
    let (Busy { at, task, .. }, ids) = archived(&world).await;
    let paths = [
        format!("{at}/deployments/{}", ids[0]),
        format!("{at}/deployments/{}/tasks", ids[0]),
        format!("{at}/tasks/{task}"),
        format!("{at}/promotions/{}", ids[0]),
        "/api/v1/system".to_owned(),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(world.get(path).await.expect(200));
    }
    let_go(&world, &ids[..4]).await;
    let in_memory = world.handle().state().tenants.values().map(|it| it.deployments.len()).sum::<usize>();
    assert_eq!(in_memory, 2);
    for (path, before) in paths.iter().zip(&mut before) {
        let mut now = world.get(path).await.expect(200);
        now["uptime"].take();
        before["uptime"].take();
        assert_eq!(now, *before, "{path}");
    }
    let output = world.get(&format!("{at}/tasks/{task}/output")).await;
    assert_eq!((output.status.as_u16(), output.body.len()), (200, 0), "it has printed nothing");
    let unknown = uuid::Uuid::now_v7();
    for path in ["deployments", "promotions", "tasks", "runs"] {
        world.get(&format!("{at}/{path}/{unknown}")).await.expect(404);
    }
}

#[tokio::test]
async fn lists_have_everything_once_and_in_order_wherever_it_is() {
    let world = World::new().await;
    let (Busy { at, .. }, all) = archived(&world).await;
    // One in between stays in memory.
    let_go(&world, &[&all[..2], &all[3..5]].concat()).await;
    for kind in ["deployments", "promotions"] {
        let path = format!("{at}/{kind}");
        assert_eq!(ids(&world.get(&path).await.expect(200)), all, "{kind}");
        for limit in [1, 2, 4] {
            let (mut found, mut query) = (Vec::new(), format!("?limit={limit}"));
            loop {
                let page = world.get(&format!("{path}{query}")).await.expect(200);
                assert!(ids(&page).len() <= limit);
                found.extend(ids(&page));
                let Some(next) = page["next_cursor"].as_str() else { break };
                query = format!("?limit={limit}&cursor={next}");
            }
            assert_eq!(found, all, "{kind} by {limit}");
        }
        let other = world.get(&format!("{path}?environment=prod")).await.expect(200);
        assert_eq!(ids(&other), all);
    }
    let cancelled = world.get(&format!("{at}/deployments?status=cancelled")).await.expect(200);
    assert_eq!(ids(&cancelled), all);
    let succeeded = world.get(&format!("{at}/deployments?status=succeeded")).await.expect(200);
    assert_eq!(ids(&succeeded), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_can_be_done_with_what_is_archived_and_that_is_said() {
    let world = World::new().await;
    let (Busy { at, task, .. }, ids) = archived(&world).await;
    let_go(&world, &ids[..1]).await;
    let head = world.head("acme");
    let deployment = format!("{at}/deployments/{}", ids[0]);
    for (path, body) in [
        (format!("{deployment}/rollback"), json!(null)),
        (format!("{deployment}/rollback-plans"), json!(null)),
        (format!("{deployment}/retry"), json!({})),
        (format!("{deployment}/cancel"), json!({"reason": "x"})),
        (format!("{deployment}/pause"), json!({"reason": "x"})),
        (format!("{at}/tasks/{task}/settle"), json!({"succeeded": true, "reason": "x"})),
        (format!("{at}/promotions/{}/withdraw", ids[0]), json!({"reason": "x"})),
    ] {
        let told = world.post(&path, &body).await.expect(409);
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains("is in the archive"), "{path}: {detail}");
    }
    assert_eq!(world.head("acme"), head, "nothing was changed");
}

/// The answer to a repeated request is the same, also when what it was about has left memory since.
#[tokio::test]
async fn a_repeated_request_is_answered_as_before() {
    let world = World::new().await;
    let (Busy { at, .. }, ids) = archived(&world).await;
    let new = json!({"environment": "prod", "release": "web:1.0.0"});
    let send = async |path: String, body: &Value, key: &str| {
        let request = world.request("POST", &path).header("idempotency-key", key.to_owned());
        world.send(with_json(request, body)).await
    };
    let created = send(format!("{at}/deployments"), &new, "one").await.expect(201);
    let cancel = format!("{at}/deployments/{}/cancel", id(&created));
    let cancelled = send(cancel.clone(), &json!({"reason": "x"}), "two").await.expect(200);
    let next = send(format!("{at}/deployments"), &new, "three").await.expect(201);
    let_go(&world, &[id(&created)]).await;
    let again = send(format!("{at}/deployments"), &new, "one").await.expect(201);
    assert_eq!(id(&again), id(&created));
    assert_eq!(send(cancel, &json!({"reason": "x"}), "two").await.expect(200), cancelled);
    assert!(id(&next) != id(&created) && ids.len() == 6);
}
