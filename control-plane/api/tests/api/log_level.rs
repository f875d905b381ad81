//! How much is logged: changed by who administers the installation, and recorded.

use serde_json::json;

use crate::accounts::{account, ask};
use crate::world::World;

const PATH: &str = "/api/v1/log-level";

#[tokio::test]
async fn an_admin_changes_the_level_and_who_did_it_is_recorded() {
    let world = World::new().await;
    let shown = world.get(PATH).await.expect(200);
    assert_eq!(shown, json!({"level": "info", "configured": "info"}));
    let body = json!({"level": "info,stella_fleet=debug"});
    let set = world.post(PATH, &body).await.expect(200);
    assert_eq!(set, json!({"level": "info,stella_fleet=debug", "configured": "info"}));
    assert_eq!(world.get(PATH).await.expect(200), set);
    let events = world.get("/api/v1/events").await.expect(200);
    let last = events["items"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["type"], &last["data"]), (&json!("log_level_set"), &body), "{last}");
    assert_eq!(last["actor"]["type"], "api_token", "{last}");
}

#[tokio::test]
async fn what_is_no_level_changes_nothing_and_others_may_neither_see_nor_change_it() {
    let world = World::new().await;
    for wrong in ["debgu", "", "info,stella_fleet", "info\u{7}"] {
        let problem = world.post(PATH, &json!({"level": wrong})).await.expect(422);
        assert_eq!(problem["field"], "level", "{problem}");
    }
    world.busy_tenant("acme").await;
    let token = account(&world, "op", &json!([{"role": "operator"}])).await;
    ask(&world, &token, "GET", PATH, None).await.expect(403);
    ask(&world, &token, "POST", PATH, Some(&json!({"level": "debug"}))).await.expect(403);
    assert_eq!(world.get(PATH).await.expect(200)["level"], "info");
}
