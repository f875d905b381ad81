//! Pages of lists, and their filters.

use std::collections::BTreeSet;
use std::slice::from_ref;

use serde_json::{Value, json};
use stella_api::{AgentsDial, ApiConfig};

use crate::world::{World, generous};

const ENVIRONMENTS: usize = 250;

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages from the first to the last.
async fn pages(world: &World, path: &str) -> Vec<Vec<String>> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let query = cursor.map(|cursor| format!("{separator}cursor={cursor}")).unwrap_or_default();
        let page = world.get(&format!("{path}{query}")).await.expect(200);
        found.push(ids(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return found,
        }
        assert!(found.len() <= ENVIRONMENTS, "the pages do not end");
    }
}

#[tokio::test]
async fn pages_have_everything_once_in_a_stable_order() {
    let world = World::new().await;
    world.tenant("acme").await;
    let path = "/api/v1/tenants/acme/environments";
    assert_eq!(world.get(path).await.expect(200), json!({"items": []}));
    for number in 0..ENVIRONMENTS {
        world.post(path, &json!({"name": format!("env-{number}")})).await.expect(201);
    }
    let found = pages(&world, path).await;
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    let all = found.concat();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), ENVIRONMENTS);
    assert!(all.is_sorted());
    assert_eq!(pages(&world, &format!("{path}?limit=500")).await, from_ref(&all));
    // The last page is full: there is no empty one after it.
    let fifties = pages(&world, &format!("{path}?limit=50")).await;
    assert_eq!((fifties.len(), fifties.concat()), (5, all.clone()));

    // What comes between two pages moves nothing.
    let first = world.get(&format!("{path}?limit=200")).await.expect(200);
    world.post(path, &json!({"name": "late"})).await.expect(201);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = world.get(&format!("{path}?limit=200&cursor={cursor}")).await.expect(200);
    let both = [ids(&first), ids(&second)].concat();
    assert_eq!((&both[..ENVIRONMENTS], both.len()), (all.as_slice(), ENVIRONMENTS + 1));
}

#[tokio::test]
async fn targets_and_deployments_are_found_by_what_they_belong_to() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    world.post(&format!("{}/environments", busy.at), &json!({"name": "dev"})).await.expect(201);
    let slots = ["one", "two", "three"];
    for slot in slots {
        let target = json!({"name": slot, "environment": "dev", "agent": "host-1", "slot": slot});
        world.post(&format!("{}/targets", busy.at), &target).await.expect(201);
    }
    let deployment = json!({"environment": "dev", "release": "web:1.0.0"});
    let dev = world.post(&format!("{}/deployments", busy.at), &deployment).await.expect(201);
    let dev = dev["id"].as_str().unwrap().to_owned();

    let count = async |query: &str| pages(&world, &format!("{}/{query}", busy.at)).await.concat();
    assert_eq!(count("targets").await.len(), 4);
    assert_eq!(count("targets?environment=dev&limit=2").await.len(), 3);
    assert_eq!(count(&format!("targets?environment={}", busy.environment)).await, from_ref(&busy.target));
    assert_eq!(count("deployments?environment=dev").await, from_ref(&dev));
    assert_eq!(count("deployments?status=running").await.len(), 2);
    let path = format!("{}/deployments/{}/cancel", busy.at, busy.deployment);
    world.post(&path, &json!({"reason": "not today"})).await.expect(200);
    assert_eq!(count("deployments?status=running").await, [dev]);
    assert_eq!(count("deployments?status=cancelled").await, from_ref(&busy.deployment));
    assert_eq!(count("deployments?status=cancelled&environment=dev").await, Vec::<String>::new());
    assert_eq!(count(&format!("deployments/{}/tasks", busy.deployment)).await, from_ref(&busy.task));
    assert_eq!(
        world.get(&format!("{}/targets?environment=nowhere", busy.at)).await.expect(404)["code"],
        "not_found"
    );
    let unknown = world.get(&format!("{}/deployments?status=bogus", busy.at)).await.expect(422);
    assert_eq!(unknown["field"], "status");
}

#[tokio::test]
async fn lists_can_begin_with_what_is_new() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let releases = format!("{}/releases", busy.at);
    for minor in 1..6 {
        let component = json!({"name": "web", "digest": busy.digest});
        let release =
            json!({"application": "web", "version": format!("1.{minor}.0"), "components": [component]});
        world.post(&releases, &release).await.expect(201);
    }
    let mut backwards = pages(&world, &releases).await.concat();
    backwards.reverse();
    let newest = pages(&world, &format!("{releases}?first=newest&limit=4")).await;
    assert_eq!((newest.len(), newest.concat()), (2, backwards));

    let deployments = format!("{}/deployments", busy.at);
    let cancel = async |id: &str| {
        world.post(&format!("{deployments}/{id}/cancel"), &json!({"reason": "room"})).await.expect(200);
    };
    cancel(&busy.deployment).await;
    let mut all = vec![busy.deployment.clone()];
    for _ in 0..3 {
        let body = json!({"environment": "prod", "release": "web:1.0.0"});
        let created = world.post(&deployments, &body).await.expect(201);
        let id = created["id"].as_str().unwrap().to_owned();
        cancel(&id).await;
        all.push(id);
    }
    assert_eq!(pages(&world, &deployments).await.concat(), all);
    all.reverse();
    assert_eq!(pages(&world, &format!("{deployments}?first=newest&limit=3")).await.concat(), all);
    assert_eq!(pages(&world, &format!("{deployments}?application=web&first=newest")).await.concat(), all);
    assert_eq!(pages(&world, &format!("{deployments}?application=api")).await.concat(), Vec::<String>::new());
    world.get(&format!("{deployments}?first=middle")).await.expect(400);
}

#[tokio::test]
async fn a_target_is_changed_in_place() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let update = format!("{}/targets/web-1/update", busy.at);
    let body = json!({"labels": {"rack": "7"}, "variables": {"port": "80"}});
    let changed = world.post(&update, &body).await.expect(200);
    assert_eq!((&changed["labels"], &changed["variables"]), (&json!({"rack": "7"}), &json!({"port": "80"})));
    let changed = world.post(&update, &json!({"labels": {"rack": null}})).await.expect(200);
    assert_eq!((&changed["labels"], &changed["variables"]), (&json!({}), &json!({"port": "80"})));
    world.agent("acme", "host-2").await;
    let moved = json!({"agent": "host-2"});
    let busy_now = world.post(&update, &moved).await.expect(409);
    assert!(busy_now["detail"].as_str().unwrap().contains("works on target web-1"), "{busy_now}");
    let cancel = format!("{}/deployments/{}/cancel", busy.at, busy.deployment);
    world.post(&cancel, &json!({"reason": "room"})).await.expect(200);
    let changed = world.post(&update, &moved).await.expect(200);
    assert_eq!(changed["agent"]["name"], "host-2");
    world.post(&update, &json!({"agent": "host-9"})).await.expect(404);
    world.post(&update, &json!({"slot": "b"})).await.expect(422);
    let events = world.get(&format!("{}/events?limit=500", busy.at)).await.expect(200);
    let events = events["items"].as_array().unwrap();
    let last = events.iter().rfind(|it| it["type"] == "target_updated").unwrap();
    assert_eq!(last["about"], json!({"target": "web-1", "agent": "host-2"}), "{last}");
    let queued = events.iter().find(|it| it["type"] == "task_queued").unwrap();
    assert_eq!(
        (&queued["about"]["release"], &queued["about"]["target"]),
        (&json!("web:1.0.0"), &json!("web-1"))
    );
}

#[tokio::test]
async fn the_figures_of_the_installation_are_those_of_the_lists() {
    let world = World::new().await;
    world.busy_tenant("acme").await;
    world.busy_tenant("globex").await;
    let system = world.get("/api/v1/system").await.expect(200);
    let one_each =
        ["environments", "targets", "agents", "releases", "deployments", "active_deployments", "open_tasks"];
    for counted in one_each {
        assert_eq!(system["counts"][counted], 2, "{counted}: {system}");
    }
    assert_eq!((&system["counts"]["tenants"], &system["counts"]["agents_online"]), (&json!(2), &json!(0)));
    assert_eq!(
        (&system["version"], &system["agent_address"]),
        (&json!("1.2.3-test"), &json!("stella.test:7443"))
    );
}

/// A token that sends hosts where nobody is any more is of no use.
#[tokio::test]
async fn what_agents_are_told_to_dial_follows_the_configuration() {
    let world = World::new().await;
    world.tenant("acme").await;
    for (dial, told) in [
        (AgentsDial::Host("other.test".into()), "other.test:7443"),
        (AgentsDial::Host("fd00::7".into()), "[fd00::7]:7443"),
        (AgentsDial::Address("outside.test:443".into()), "outside.test:443"),
    ] {
        world.deps.tuning.change(&ApiConfig { agents_dial: dial, ..generous() });
        assert_eq!(world.get("/api/v1/system").await.expect(200)["agent_address"], told);
        let created = world.post("/api/v1/tenants/acme/enrolment-tokens", &json!({})).await.expect(201);
        assert_eq!(created["agent_address"], told);
    }
}

/// A filter that is passed over shows what was not asked for.
#[tokio::test]
async fn a_parameter_that_is_not_known_is_refused() {
    let world = World::new().await;
    world.tenant("acme").await;
    let at = "/api/v1/tenants/acme";
    for list in
        ["environments", "targets", "releases", "deployments", "promotions", "runs", "agents", "events"]
    {
        world.get(&format!("{at}/{list}?limit=5")).await.expect(200);
        let refused = world.get(&format!("{at}/{list}?colour=web")).await;
        assert_eq!(refused.status.as_u16(), 400, "{list}: {refused:?}");
        assert!(refused.json().to_string().contains("colour"), "{list}");
    }
}
