//! The OpenAPI document says what there is, all of it and nothing else.

use std::collections::BTreeSet;

use axum::body::Body;
use serde_json::Value;
use stella_api_types::paths;

use crate::world::{World, bare};

/// All templates of the API's own listener. A new constant is noticed by the comparison with the source below.
const PATHS: [&str; 103] = [
    paths::API_TOKENS,
    paths::API_TOKEN,
    paths::ACCOUNTS,
    paths::ACCOUNT,
    paths::ACCOUNT_ROLES,
    paths::WHOAMI,
    paths::TENANTS,
    paths::TENANT,
    paths::TENANT_SIGNING,
    paths::ENVIRONMENTS,
    paths::ENVIRONMENT,
    paths::ENVIRONMENT_APPROVALS,
    paths::ENVIRONMENT_FREEZES,
    paths::ENVIRONMENT_FREEZE,
    paths::ENVIRONMENT_GATES,
    paths::ENVIRONMENT_GATE,
    paths::ENVIRONMENT_BUDGET,
    paths::ENVIRONMENT_SILENCE,
    paths::ENVIRONMENT_UPDATE,
    paths::ENVIRONMENT_VERIFICATION,
    paths::ENVIRONMENT_WAY_BACK,
    paths::ENVIRONMENT_WAY_BACK_PROOF,
    paths::ENVIRONMENT_STRATEGY,
    paths::ENVIRONMENT_LOCK,
    paths::ENVIRONMENT_PATH,
    paths::ENVIRONMENT_UNLOCK,
    paths::TARGETS,
    paths::TARGET,
    paths::TARGET_UPDATE,
    paths::AGENTS,
    paths::AGENT,
    paths::AGENT_REVOKE,
    paths::AGENT_DRAIN,
    paths::AGENT_UNDRAIN,
    paths::SD_AGENTS,
    paths::ENROLMENT_TOKENS,
    paths::ENROLMENT_TOKEN_REVOKE,
    paths::ARTIFACT,
    paths::RELEASES,
    paths::RELEASE,
    paths::RELEASE_SIGNATURES,
    paths::CHANNELS,
    paths::CHANNEL,
    paths::ENVIRONMENT_CHANNELS,
    paths::RELEASE_KEYS,
    paths::RELEASE_KEY_REVOKE,
    paths::RELEASE_STANDING,
    paths::RELEASE_FINDINGS,
    paths::RELEASE_SCAN,
    paths::WORKFLOWS,
    paths::WORKFLOW,
    paths::WORKFLOW_REMOVE,
    paths::HOOKS,
    paths::HOOK,
    paths::HOOK_ROTATE,
    paths::HOOK_DELIVERY,
    paths::RUNS,
    paths::RUN_PLANS,
    paths::RUN,
    paths::RUN_CANCEL,
    paths::STEP_RETRY,
    paths::STEP_ANSWER,
    paths::STEP_DECIDE,
    paths::PROMOTIONS,
    paths::PROMOTION,
    paths::PROMOTION_PLAN,
    paths::PROMOTION_PLAN_PROOF,
    paths::PROMOTION_PLAN_TASKS,
    paths::PROMOTION_APPROVE,
    paths::PROMOTION_REJECT,
    paths::PROMOTION_WITHDRAW,
    paths::PROMOTION_GATE_DECISION,
    paths::PROMOTION_GATE_OVERRIDE,
    paths::DEPLOYMENTS,
    paths::DEPLOYMENT_PROVE,
    paths::DEPLOYMENT_WAIVE,
    paths::DEPLOYMENT_PLANS,
    paths::DEPLOYMENT_PLAN_TASKS,
    paths::DEPLOYMENT,
    paths::DEPLOYMENT_ROLLBACK,
    paths::DEPLOYMENT_ROLLBACK_PLANS,
    paths::DEPLOYMENT_RETIRE,
    paths::DEPLOYMENT_CANCEL,
    paths::DEPLOYMENT_RETRY,
    paths::DEPLOYMENT_PAUSE,
    paths::DEPLOYMENT_RESUME,
    paths::DEPLOYMENT_FAIL,
    paths::DEPLOYMENT_TARGET_RETRY,
    paths::DEPLOYMENT_TARGET_SKIP,
    paths::DEPLOYMENT_TASKS,
    paths::TASK,
    paths::TASK_OUTPUT,
    paths::TASK_SETTLE,
    paths::EVENTS,
    paths::JOURNAL,
    paths::SYSTEM_EVENTS,
    paths::SYSTEM_JOURNAL,
    paths::LOG_LEVEL,
    paths::SYSTEM,
    paths::OPENAPI,
    paths::HEALTH,
    paths::HEALTH_READY,
    paths::HEALTH_LIVE,
];

/// The document as it is served, to somebody without a token.
pub(crate) async fn served(world: &World) -> Value {
    let answer = world.send(bare("GET", paths::OPENAPI).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.expect(200)
}

/// Every operation: method, template, and whether it wants a token.
pub(crate) fn operations(document: &Value) -> Vec<(String, String, bool)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let public = operation["security"] == serde_json::json!([{}]);
            assert!(public || operation.get("security").is_none(), "{method} {path}: {operation}");
            found.push((method.to_uppercase(), path.clone(), !public));
        }
    }
    found
}

/// The template with something in place of its parameters.
pub(crate) fn filled(template: &str) -> String {
    paths::fill(template, &["nobody", "nothing", "never"])
}

#[tokio::test]
async fn it_describes_every_path_and_no_other() {
    let world = World::new().await;
    let document = served(&world).await;
    let described: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, BTreeSet::from(PATHS));
    let source = include_str!("../../../api-types/src/paths.rs");
    let constants = source.lines().filter(|line| line.starts_with("pub const ")).count();
    assert_eq!(
        constants,
        PATHS.len() + 1,
        "all constants but the one of the metrics' listener are in the list above"
    );
}

/// Clients are generated with them as names of functions.
#[tokio::test]
async fn every_operation_has_an_id_of_its_own() {
    let document = served(&World::new().await).await;
    let items = document["paths"].as_object().unwrap().values();
    let ids: Vec<&str> = items
        .flat_map(|item| item.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let different: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(different.len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn it_has_a_version_and_a_security_scheme_for_all_by_default() {
    let world = World::new().await;
    let document = served(&world).await;
    let version: Vec<u32> =
        document["openapi"].as_str().unwrap().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(version.as_slice() >= [3, 1].as_slice(), "{version:?}");
    assert_eq!(document["security"], serde_json::json!([{"bearer": []}]));
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["type"], "http");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    assert_eq!(document, serde_json::to_value(stella_api::openapi()).unwrap());
}

#[tokio::test]
async fn every_reference_in_it_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = served(&World::new().await).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn every_operation_in_it_is_served() {
    let world = World::new().await;
    for (method, template, _) in operations(&served(&world).await) {
        let request = world.request(&method, &filled(&template)).header("content-type", "application/json");
        let answer = world.send(request.body(Body::from("{}")).unwrap()).await;
        let detail = String::from_utf8_lossy(&answer.body).into_owned();
        assert_ne!(answer.status.as_u16(), 405, "{method} {template}: {detail}");
        assert!(!detail.contains("there is nothing at this path"), "{method} {template}: {detail}");
    }
}

#[tokio::test]
async fn only_health_and_the_document_are_public() {
    let public: BTreeSet<String> = operations(&served(&World::new().await).await)
        .into_iter()
        .filter_map(|(_, path, wants_token)| (!wants_token).then_some(path))
        .collect();
    // What is sent to a hook is signed instead.
    let expected =
        [paths::OPENAPI, paths::HEALTH, paths::HEALTH_READY, paths::HEALTH_LIVE, paths::HOOK_DELIVERY];
    assert_eq!(public, expected.map(str::to_owned).into());
}

/// Clients are generated with them as fields of what they throw and of what they send.
#[tokio::test]
async fn every_operation_has_its_problems_and_the_headers_that_are_taken() {
    let world = World::new().await;
    let document = served(&world).await;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for status in ["4XX", "5XX"] {
                let problem =
                    &operation["responses"][status]["content"]["application/problem+json"]["schema"];
                assert_eq!(problem["$ref"], "#/components/schemas/Problem", "{method} {path}: {operation}");
            }
            let headers: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|it| it["in"] == "header")
                .inspect(|it| assert_eq!(it["required"], false, "{method} {path}: {it}"))
                .map(|it| it["name"].as_str().unwrap())
                .collect();
            assert!(headers.contains("x-correlation-id"), "{method} {path}: {headers:?}");
            let is_feed = [paths::EVENTS, paths::SYSTEM_EVENTS].contains(&path.as_str());
            assert_eq!(headers.contains("Last-Event-ID"), is_feed, "{method} {path}: {headers:?}");
            assert_eq!(headers.contains("Idempotency-Key"), method != "get", "{method} {path}: {headers:?}");
        }
    }
}

/// Of a delivery any key counts that its signature covers; all other changes take the keys that the document says.
#[tokio::test]
async fn every_change_looks_at_its_idempotency_key() {
    let world = World::new().await;
    for (method, template, _) in operations(&served(&world).await) {
        if method == "GET" || template == paths::HOOK_DELIVERY {
            continue;
        }
        // One of them wants to know of which target first.
        let path = format!("{}?target=nothing", filled(&template));
        let request = world.request(&method, &path).header("content-type", "application/json");
        let request = request.header("idempotency-key", "two words");
        let refused = world.send(request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(refused.expect(422)["field"], "Idempotency-Key", "{method} {template}");
    }
}
