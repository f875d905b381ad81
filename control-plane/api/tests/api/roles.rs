//! Which role each operation takes: what the document says is what is so, and what the book shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use serde_json::{Map, Value, json};
use stella_signing::SigningKey;

use crate::accounts::account;
use crate::document::served;
use crate::world::{World, bare, with_json};

/// The roles that are given in a tenant.
const IN_TENANT: [&str; 4] = ["deployer", "approver", "operator", "admin"];

/// Every operation of the document: method, path, and what is said of it.
pub(crate) fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().clone().into_iter();
        let path = path.clone();
        methods.map(move |(method, it)| (method.to_uppercase(), path.clone(), it)).collect::<Vec<_>>()
    };
    paths.flat_map(of).collect()
}

/// What could be in a field of this name.
fn named(digest: &str, field: &str) -> Option<Value> {
    Some(match field {
        "environment" => json!("prod"),
        "release" => json!("web:1.0.0"),
        "agent" => json!("host-1"),
        "source" => json!("name: ship\nsteps:\n  - id: soak\n    wait: 1h\n"),
        "plan" | "digest" => json!(digest),
        "version" => json!("9.9.9"),
        "workflow" => json!("ship"),
        "check" => json!({"type": "manual"}),
        "reason" | "name" | "application" | "channel" => json!("something"),
        _ => return None,
    })
}

/// A body that the schema allows: what has to be there, and nothing else.
pub(crate) fn sample(document: &Value, digest: &str, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let found = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return sample(document, digest, found);
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(first) = schema[choice].as_array().and_then(|all| all.first()) {
            return sample(document, digest, first);
        }
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    if let Some(fields) = schema["required"].as_array() {
        let fields = fields.iter().map(|field| {
            let field = field.as_str().unwrap();
            let value = named(digest, field);
            (
                field.to_owned(),
                value.unwrap_or_else(|| sample(document, digest, &schema["properties"][field])),
            )
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

/// What stands for each parameter of a path.
pub(crate) type Parameters = BTreeMap<&'static str, String>;

/// The path with what there is in place of its parameters.
pub(crate) fn filled(parameters: &Parameters, template: &str) -> String {
    // Tokens of the API are in a parameter of the same name. They belong to no tenant.
    let is_known = |part: &str| part != "{token}" || template.contains("/enrolment-tokens/");
    let parts = template.split('/').map(|part| match parameters.get(part) {
        Some(value) if is_known(part) => value,
        Some(_) => "something",
        None => {
            assert!(!part.starts_with('{'), "nothing is furnished for {part} of {template}");
            part
        }
    });
    let path = parts.collect::<Vec<_>>().join("/");
    let is_of_one_target = template.ends_with("/plan/tasks") || template.ends_with("-plans/tasks");
    path + if is_of_one_target { "?target=web-1" } else { "" }
}

/// A tenant in which there is one of all that paths lead to, by its id where it has one.
pub(crate) async fn furnished(world: &World) -> Parameters {
    let busy = world.busy_tenant("acme").await;
    let at = &busy.at;
    let source = "name: ship\nsteps:\n  - id: soak\n    wait: 1h\n";
    world.post(&format!("{at}/workflows"), &json!({ "source": source })).await;
    let role = json!([{"role": "deployer", "tenant": "acme"}]);
    let service = json!({"name": "ci", "kind": "service", "roles": role});
    world.post("/api/v1/accounts", &service).await.expect(201);
    let hook = json!({"name": "shipped", "account": "ci", "workflow": {"name": "ship"}});
    world.post(&format!("{at}/hooks"), &hook).await.expect(201);
    let run = world.post(&format!("{at}/runs"), &json!({"workflow": "ship"})).await.expect(201);
    let token = world.post(&format!("{at}/enrolment-tokens"), &json!({"name": "host-2"})).await.expect(201);
    let key = json!({"name": "builder", "public_key": SigningKey::generate().unwrap().public().to_pem()});
    let key = world.post(&format!("{at}/release-keys"), &key).await.expect(201);
    let channel = json!({"application": "web", "name": "stable"});
    world.post(&format!("{at}/channels"), &channel).await.expect(200);
    let freeze =
        json!({"name": "holidays", "reason": "r", "from": "2040-01-01 00:00", "to": "2040-01-02 00:00"});
    world.post(&format!("{at}/environments/prod/freezes"), &freeze).await.expect(200);
    let gate = json!({"name": "change", "check": {"type": "manual"}});
    world.post(&format!("{at}/environments/prod/gates"), &gate).await.expect(200);
    let of = |it: &Value| it["id"].as_str().unwrap().to_owned();
    let first = async |list: &str| of(&world.get(&format!("{at}/{list}")).await.expect(200)["items"][0]);
    BTreeMap::from([
        ("{tenant}", "acme".to_owned()),
        ("{promotion}", first("promotions").await),
        ("{hook}", first("hooks").await),
        ("{run}", of(&run)),
        ("{step}", "soak".to_owned()),
        ("{key}", of(&key)),
        ("{application}", "web".to_owned()),
        ("{channel}", "stable".to_owned()),
        ("{freeze}", "holidays".to_owned()),
        ("{gate}", "change".to_owned()),
        ("{account}", "ci".to_owned()),
        ("{token}", of(&token["details"])),
        ("{workflow}", "ship".to_owned()),
        ("{scanner}", "trivy".to_owned()),
        ("{environment}", busy.environment),
        ("{agent}", busy.agent),
        ("{target}", busy.target),
        ("{digest}", busy.digest),
        ("{release}", busy.release),
        ("{deployment}", busy.deployment),
        ("{task}", busy.task),
    ])
}

/// Whether a time is one, and whether a key is one and is known, is looked at before anybody's role.
const LOOKED_AT_FIRST: [&str; 3] = [
    "POST /api/v1/tenants/{tenant}/environments/{environment}/freezes",
    "POST /api/v1/tenants/{tenant}/release-keys",
    "POST /api/v1/tenants/{tenant}/releases/{release}/signatures",
];

#[tokio::test]
async fn who_lacks_a_role_is_told_the_one_that_the_document_names() {
    let world = World::new().await;
    let parameters = furnished(&world).await;
    let document = Arc::new(served(&world).await);
    let viewer = account(&world, "viewer", &json!([{"role": "viewer", "tenant": "acme"}])).await;
    let (mut wrong, mut unseen, mut seen) = (Vec::new(), Vec::new(), 0_usize);
    for (method, path, operation) in operations(&document) {
        let Some(role) = operation["x-role"].as_str() else {
            wrong.push(format!("{method} {path} says no role"));
            continue;
        };
        if role == "none" {
            continue;
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let request =
            bare(&method, &filled(&parameters, &path)).header("authorization", format!("Bearer {viewer}"));
        let answer = world
            .send(match schema.is_null() {
                true => request.body(Body::empty()).unwrap(),
                false => with_json(request, &sample(&document, &parameters["{digest}"], schema)),
            })
            .await;
        let detail = String::from_utf8_lossy(&answer.body).into_owned();
        let is_forbidden = answer.status.as_u16() == 403;
        if ["any", "viewer"].contains(&role) {
            if is_forbidden {
                wrong.push(format!("{method} {path} is for {role}: {detail}"));
            }
        } else if !is_forbidden {
            unseen.push(format!("{method} {path}"));
        } else if IN_TENANT.contains(&role) && !detail.contains(&format!("needs the role {role}")) {
            wrong.push(format!("{method} {path} is not for {role}: {detail}"));
        } else {
            seen += 1;
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(unseen, LOOKED_AT_FIRST);
    assert!(seen >= 60, "only {seen} were refused by their role");
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
