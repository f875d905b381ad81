//! Which role each operation takes: what the document says is what is so, and what the book shows.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use serde_json::{Map, Value, json};

use crate::accounts::account;
use crate::document::served;
use crate::world::{Busy, World, bare, with_json};

/// The roles that are given in a tenant.
const IN_TENANT: [&str; 4] = ["deployer", "approver", "operator", "admin"];

/// Every operation of the document: method, path, and what is said of it.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().clone().into_iter();
        let path = path.clone();
        methods.map(move |(method, it)| (method.to_uppercase(), path.clone(), it)).collect::<Vec<_>>()
    };
    paths.flat_map(of).collect()
}

/// What could be in a field of this name.
fn named(busy: &Busy, field: &str) -> Option<Value> {
    Some(match field {
        "environment" => json!("prod"),
        "release" => json!("web:1.0.0"),
        "agent" => json!("host-1"),
        "source" => json!("name: ship\nsteps:\n  - id: soak\n    wait: 1h\n"),
        "plan" | "digest" => json!(busy.digest),
        "version" => json!("9.9.9"),
        "reason" | "name" | "application" | "channel" => json!("something"),
        _ => return None,
    })
}

/// A body that the schema allows: what has to be there, and nothing else.
fn sample(document: &Value, busy: &Busy, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let found = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return sample(document, busy, found);
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(first) = schema[choice].as_array().and_then(|all| all.first()) {
            return sample(document, busy, first);
        }
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    if let Some(fields) = schema["required"].as_array() {
        let fields = fields.iter().map(|field| {
            let field = field.as_str().unwrap();
            let value = named(busy, field);
            (field.to_owned(), value.unwrap_or_else(|| sample(document, busy, &schema["properties"][field])))
        });
        return Value::Object(fields.collect::<Map<_, _>>());
    }
    match schema["type"].as_str() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("string") => json!("something"),
        _ => json!({}),
    }
}

/// The path with what there is in place of its parameters.
fn filled(busy: &Busy, template: &str) -> String {
    let parts = template.split('/').map(|part| match part {
        "{tenant}" => "acme",
        "{environment}" => "prod",
        "{target}" => &busy.target,
        "{agent}" => &busy.agent,
        "{release}" => &busy.release,
        "{deployment}" => &busy.deployment,
        "{promotion}" => &busy.deployment,
        "{task}" => &busy.task,
        "{digest}" => &busy.digest,
        "{workflow}" => "ship",
        "{hook}" => "shipped",
        "{scanner}" => "trivy",
        part if part.starts_with('{') => "something",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// A tenant in which there is one of all that has rules of its own about roles.
async fn furnished(world: &World) -> Busy {
    let busy = world.busy_tenant("acme").await;
    let source = "name: ship\nsteps:\n  - id: soak\n    wait: 1h\n";
    world.post(&format!("{}/workflows", busy.at), &json!({ "source": source })).await;
    let role = json!([{"role": "deployer", "tenant": "acme"}]);
    let service = json!({"name": "ci", "kind": "service", "roles": role});
    world.post("/api/v1/accounts", &service).await.expect(201);
    let hook = json!({"name": "shipped", "account": "ci", "workflow": {"name": "ship"}});
    world.post(&format!("{}/hooks", busy.at), &hook).await.expect(201);
    busy
}

#[tokio::test]
async fn who_lacks_a_role_is_told_the_one_that_the_document_names() {
    let world = World::new().await;
    let busy = furnished(&world).await;
    let document = Arc::new(served(&world).await);
    let viewer = account(&world, "viewer", &json!([{"role": "viewer", "tenant": "acme"}])).await;
    let (mut wrong, mut unseen, mut seen) = (Vec::new(), Vec::new(), 0);
    for (method, path, operation) in operations(&document) {
        let Some(role) = operation["x-role"].as_str() else {
            wrong.push(format!("{method} {path} says no role"));
            continue;
        };
        if role == "none" {
            continue;
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let mut at = filled(&busy, &path);
        if path.ends_with("/plan/tasks") || path.ends_with("-plans/tasks") {
            at.push_str("?target=web-1");
        }
        let request = bare(&method, &at).header("authorization", format!("Bearer {viewer}"));
        let answer = world
            .send(match schema.is_null() {
                true => request.body(Body::empty()).unwrap(),
                false => with_json(request, &sample(&document, &busy, schema)),
            })
            .await;
        let detail = String::from_utf8_lossy(&answer.body).into_owned();
        let is_forbidden = answer.status.as_u16() == 403;
        if ["any", "viewer"].contains(&role) {
            if is_forbidden {
                wrong.push(format!("{method} {path} is for {role}: {detail}"));
            }
        } else if !is_forbidden {
            unseen.push(format!("{method} {path}: {} {detail}", answer.status));
        } else if IN_TENANT.contains(&role) && !detail.contains(&format!("needs the role {role}")) {
            wrong.push(format!("{method} {path} is not for {role}: {detail}"));
        } else {
            seen += 1;
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    // What has to be there first, or a body of its own, is refused before anybody looks at roles.
    assert!(seen >= 60, "{seen} were refused by their role, and not: {unseen:#?}");
}

/// The first sentence of what is said of an operation.
fn summary(operation: &Value) -> String {
    let text = |field: &str| operation[field].as_str().unwrap_or_default();
    let all = format!("{} {}", text("summary"), text("description")).replace('\n', " ");
    let all = all.split_whitespace().collect::<Vec<_>>().join(" ");
    let first = all.split_once(". ").map_or(all.as_str(), |(first, _)| first);
    first.trim_end_matches('.').replace('|', "\\|")
}

#[test]
fn the_page_of_the_paths_is_what_the_document_says() {
    let document = serde_json::to_value(stella_api::openapi()).unwrap();
    let mut tags: Vec<(String, Vec<String>)> = Vec::new();
    for (method, path, operation) in operations(&document) {
        let tag = operation["tags"][0].as_str().unwrap().to_owned();
        let role = operation["x-role"].as_str().unwrap_or_default();
        let row = format!("| {method} | `{path}` | {role} | {} |", summary(&operation));
        match tags.iter_mut().find(|(known, _)| *known == tag) {
            Some((_, rows)) => rows.push(row),
            None => tags.push((tag, vec![row])),
        }
    }
    tags.sort();
    let mut page = String::from(HEAD);
    for (tag, rows) in &tags {
        let table = "| method | path | role | does |\n|---|---|---|---|";
        write!(page, "\n## {tag}\n\n{table}\n{}\n", rows.join("\n")).unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api-paths.md");
    if std::env::var_os("STELLA_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "run the test again with STELLA_UPDATE_DOCS=1 and look at what has changed");
}

const HEAD: &str = "# Paths of the API

This page is generated from the OpenAPI document, which every control plane serves without a token at `/api/v1/openapi.json`, and which also describes parameters, bodies and answers. [HTTP API](api.md) explains what all of them have in common.

The role is the one that an account needs in the place that is meant: in the tenant, or in the environment that the request is about. `viewer` is anybody with a role in the tenant, `any` is every account, and `none` needs no token. Each role includes the ones before it, in the order
`viewer`, `deployer`, `operator`, `admin`; `approver` stands beside them, and `admin` includes it. See [accounts and roles](concepts.md#accounts-and-roles). Some requests need more: a deployment that overrides a freeze or the promotion path, or that waives the way back, takes `operator`. The document has the role as `x-role`.
";
