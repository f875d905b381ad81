//! Every refusal is a problem with all its fields, and changes nothing.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::world::{ARTIFACT_BYTES_MAX, Answer, World, archive_of, digest_of, with_json};

const TENANT: &str = "acme";
const AT: &str = "/api/v1/tenants/acme";
const CORRELATION: &str = "c0ffee";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Sends it, and checks everything that all refusals have in common.
async fn refused(world: &World, mut request: Request<Body>, status: u16, code: &str) -> (Answer, Value) {
    let what = format!("{} {}", request.method(), request.uri());
    let path = request.uri().path().to_owned();
    let headers = request.headers_mut();
    headers.insert("x-correlation-id", CORRELATION.parse().unwrap());
    headers.insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap());
    let before = (world.head(TENANT), world.system_head());
    let answer = world.send(request).await;
    assert_eq!((world.head(TENANT), world.system_head()), before, "{what}: something was written");
    assert_eq!(answer.status.as_u16(), status, "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("x-correlation-id"), Some(CORRELATION), "{what}");
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{what}: {problem}");
    assert_eq!(problem["type"], format!("urn:stella:error:{code}"), "{what}");
    assert_eq!(problem["status"], status, "{what}");
    assert_eq!(problem["instance"], path, "{what}");
    assert_eq!(problem["retryable"], false, "{what}");
    assert_eq!(problem["noSideEffects"], true, "{what}");
    assert_eq!(
        (&problem["traceId"], &problem["correlationId"]),
        (&json!(TRACE), &json!(CORRELATION)),
        "{what}"
    );
    for text in ["title", "detail"] {
        assert!(!problem[text].as_str().unwrap().is_empty(), "{what}: {problem}");
    }
    (answer, problem)
}

/// A body that is refused with 422 for one field.
async fn invalid(world: &World, path: &str, body: &Value, field: &str) -> String {
    let request = with_json(world.request("POST", path), body);
    let (_, problem) = refused(world, request, 422, "invalid").await;
    assert_eq!(problem["field"], field, "{problem}");
    problem["detail"].as_str().unwrap().to_owned()
}

async fn world() -> World {
    let world = World::new().await;
    world.busy_tenant(TENANT).await;
    world
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let world = world().await;
    let path = format!("{AT}/environments");
    let post = |content_type: &str, body: &str| {
        let request = world.request("POST", &path).header("content-type", content_type);
        request.body(Body::from(body.to_owned())).unwrap()
    };
    for torn in ["", "{", "{\"name\": \"dev\"", "nonsense", "{\"name\": \"dev\"} x"] {
        refused(&world, post("application/json", torn), 400, "malformed_request").await;
    }
    for other in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        refused(&world, post(other, "{\"name\": \"dev\"}"), 415, "unsupported_media_type").await;
    }
    let without = world.request("POST", &path).body(Body::from("{\"name\": \"dev\"}")).unwrap();
    refused(&world, without, 415, "unsupported_media_type").await;
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
    let (_, problem) = refused(&world, post("application/json", &large), 413, "too_large").await;
    assert!(problem["detail"].as_str().unwrap().contains("1048576"), "{problem}");
}

#[tokio::test]
async fn fields_that_do_not_exist_are_missing_or_have_another_type() {
    let world = world().await;
    let environments = format!("{AT}/environments");
    let detail = invalid(&world, &environments, &json!({"name": "dev", "odrer": 1}), "odrer").await;
    assert!(detail.contains("unknown field") && detail.contains("`order`"), "{detail}");
    invalid(&world, &environments, &json!({"order": 1}), "name").await;
    invalid(&world, &environments, &json!({"name": 7}), "name").await;
    invalid(&world, &environments, &json!({"name": "dev", "order": -1}), "order").await;
    let deployment =
        json!({"environment": "prod", "release": "web:1.0.0", "strategy": {"type": "rolling", "bacth": 1}});
    let detail = invalid(&world, &format!("{AT}/deployments"), &deployment, "strategy.bacth").await;
    assert!(detail.contains("`batch`"), "{detail}");
    let steps = json!([{"name": "one", "action": {"type": "command"}}]);
    let release = json!({"application": "web", "version": "2", "steps": steps});
    invalid(&world, &format!("{AT}/releases"), &release, "steps[0].action.argv").await;
}

#[tokio::test]
async fn what_is_not_there() {
    let world = world().await;
    let get = |path: &str| world.request("GET", path).body(Body::empty()).unwrap();
    let unknown = uuid::Uuid::now_v7();
    for path in ["/", "/api/v1/nothing", "/api/v2/tenants", "/api/v1/tenants/", "/metrics"] {
        refused(&world, get(path), 404, "not_found").await;
    }
    for name in ["globex", &unknown.to_string(), "..", "a%2Fb", "Not%20a%20name"] {
        refused(&world, get(&format!("/api/v1/tenants/{name}")), 404, "not_found").await;
        for kind in ["environments", "targets", "agents", "releases", "deployments", "tasks"] {
            let (_, problem) = refused(&world, get(&format!("{AT}/{kind}/{name}")), 404, "not_found").await;
            let singular = kind.trim_end_matches('s');
            assert!(problem["detail"].as_str().unwrap().contains(singular), "{problem}");
        }
    }
    for path in [format!("tasks/{unknown}/output"), format!("deployments/{unknown}/tasks")] {
        refused(&world, get(&format!("{AT}/{path}")), 404, "not_found").await;
    }
    let digest = digest_of(b"never uploaded");
    refused(&world, get(&format!("{AT}/artifacts/{digest}")), 404, "not_found").await;
    let target = json!({"name": "w", "environment": "staging", "agent": "host-1"});
    refused(&world, with_json(world.request("POST", &format!("{AT}/targets")), &target), 404, "not_found")
        .await;
    let target = json!({"name": "w", "environment": "prod", "agent": "host-9"});
    refused(&world, with_json(world.request("POST", &format!("{AT}/targets")), &target), 404, "not_found")
        .await;
}

#[tokio::test]
async fn methods_that_a_path_does_not_know() {
    let world = world().await;
    for (method, path, allowed) in [
        ("DELETE", "/api/v1/tenants", ["GET", "POST"]),
        ("PATCH", &format!("{AT}/targets/web-1"), ["GET", "DELETE"]),
        ("POST", &format!("{AT}/artifacts/{}", digest_of(b"x")), ["GET", "PUT"]),
    ] {
        let request = world.request(method, path).body(Body::empty()).unwrap();
        let (answer, _) = refused(&world, request, 405, "method_not_allowed").await;
        let allow = answer.header("allow").unwrap();
        assert!(allowed.iter().all(|method| allow.contains(method)), "{method} {path}: {allow}");
    }
}

#[tokio::test]
async fn names_that_are_taken_or_none() {
    let world = world().await;
    for (path, body) in [
        ("/api/v1/tenants".to_owned(), json!({"name": TENANT})),
        (format!("{AT}/environments"), json!({"name": "prod"})),
        (
            format!("{AT}/targets"),
            json!({"name": "web-1", "environment": "prod", "agent": "host-1", "slot": "b"}),
        ),
    ] {
        refused(&world, with_json(world.request("POST", &path), &body), 409, "already_exists").await;
    }
    for name in ["", "Prod", "a b", "../prod", "-prod", &"x".repeat(64), "prod\0", "prüf"] {
        invalid(&world, "/api/v1/tenants", &json!({ "name": name }), "name").await;
        invalid(&world, &format!("{AT}/environments"), &json!({ "name": name }), "name").await;
    }
}

#[tokio::test]
async fn pages_that_make_no_sense() {
    let world = world().await;
    let get = |query: &str| {
        world.request("GET", &format!("{AT}/environments?{query}")).body(Body::empty()).unwrap()
    };
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=", "cursor"),
        ("cursor=%21", "cursor"),
        ("cursor=YQ", "cursor"),
    ] {
        let (_, problem) = refused(&world, get(query), 422, "invalid").await;
        assert_eq!(problem["field"], field, "{query}");
    }
    for query in ["limit=many", "limit=-1"] {
        refused(&world, get(query), 400, "malformed_request").await;
    }
}

#[tokio::test]
async fn idempotency_keys_that_cannot_be_kept() {
    let world = world().await;
    for key in ["", "a b", &"k".repeat(129), "schlüssel"] {
        let key = axum::http::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        let request = world.request("POST", "/api/v1/tenants").header("idempotency-key", key);
        let request = with_json(request, &json!({"name": "globex"}));
        let (_, problem) = refused(&world, request, 422, "invalid").await;
        assert_eq!(problem["field"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn releases_that_cannot_be_rolled_out() {
    let world = world().await;
    let path = format!("{AT}/releases");
    let release = |steps: Value| json!({"application": "web", "version": "2", "steps": steps});
    let step = |name: &str, action: Value| json!({"name": name, "action": action});
    let run = || json!({"type": "command", "argv": ["true"]});
    let digest = digest_of(b"never uploaded");
    let missing =
        json!({"application": "web", "version": "2", "components": [{"name": "web", "digest": digest}]});
    let detail = invalid(&world, &path, &missing, "components[0].digest").await;
    assert!(detail.contains(&format!("/artifacts/{digest}")), "no remedy: {detail}");
    let no_digest =
        json!({"application": "web", "version": "2", "components": [{"name": "web", "digest": "md5:1"}]});
    invalid(&world, &path, &no_digest, "components[0].digest").await;
    invalid(&world, &path, &json!({"application": "web", "version": "2"}), "components").await;
    invalid(&world, &path, &json!({"application": "Web", "version": "2"}), "application").await;
    invalid(&world, &path, &json!({"application": "web", "version": "a b"}), "version").await;
    let twice = release(json!([step("one", run()), step("one", run())]));
    invalid(&world, &path, &twice, "steps[1].name").await;
    let hasty = release(json!([{"name": "one", "timeout_ms": 1, "action": run()}]));
    invalid(&world, &path, &hasty, "steps[0].timeout_ms").await;
    for (action, field) in [
        (json!({"type": "command", "argv": []}), "argv"),
        (json!({"type": "check_http", "url": "ftp://x"}), "url"),
        (json!({"type": "check_tcp", "address": "x"}), "address"),
        (json!({"type": "check_tcp", "address": "x:1", "successes": 0}), "successes"),
        (json!({"type": "systemd", "unit": "", "action": "restart"}), "unit"),
    ] {
        let body = release(json!([step("fine", run()), step("bad", action)]));
        invalid(&world, &path, &body, &format!("steps[1].action.{field}")).await;
    }
    let same = json!({"application": "web", "version": "1.0.0", "steps": [step("one", run())]});
    refused(&world, with_json(world.request("POST", &path), &same), 409, "already_exists").await;
}

#[tokio::test]
async fn archives_that_are_not_what_they_should_be() {
    let world = world().await;
    let put = |digest: &str, content: Vec<u8>| {
        world.request("PUT", &format!("{AT}/artifacts/{digest}")).body(Body::from(content)).unwrap()
    };
    refused(&world, put(&digest_of(b"right"), b"wrong".to_vec()), 422, "wrong_digest").await;
    let large = vec![1; usize::try_from(ARTIFACT_BYTES_MAX).unwrap() + 1];
    refused(&world, put(&digest_of(&large), large), 413, "too_large").await;
    let (_, problem) = refused(&world, put("sha256:12", vec![1]), 422, "invalid").await;
    assert_eq!(problem["field"], "digest");
    refused(&world, put(&digest_of(b""), Vec::new()), 422, "invalid").await;
    // More than a JSON body may have is fine for an archive.
    let right = archive_of(&vec![2; usize::try_from(ARTIFACT_BYTES_MAX).unwrap() - 1_536]);
    world.put(&format!("{AT}/artifacts/{}", digest_of(&right)), &right).await.expect(200);
}

#[tokio::test]
async fn an_upload_that_stalls_is_given_up() {
    let world = world().await;
    let stuck = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let path = format!("{AT}/artifacts/{}", digest_of(b"never"));
    let request = world.request("PUT", &path).body(Body::from_stream(stuck)).unwrap();
    // Time goes on by itself as soon as nothing else can happen.
    tokio::time::pause();
    let response = world.open(request).await;
    assert_eq!(response.status().as_u16(), 504);
}

#[tokio::test]
async fn deployments_that_cannot_begin_or_end() {
    let world = world().await;
    world.post(&format!("{AT}/environments"), &json!({"name": "empty"})).await.expect(201);
    let path = format!("{AT}/deployments");
    let to = |environment: &str, more: Value| {
        let mut body = json!({"environment": environment, "release": "web:1.0.0"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let detail = invalid(&world, &path, &to("empty", json!({})), "targets").await;
    assert!(detail.contains("empty"), "{detail}");
    invalid(
        &world,
        &path,
        &to("prod", json!({"strategy": {"type": "rolling", "batch": 0}})),
        "strategy.batch",
    )
    .await;
    let detail = invalid(&world, &path, &to("prod", json!({"timeout_seconds": 0})), "timeout_seconds").await;
    assert!(detail.contains("604800"), "seconds were sent, milliseconds come back: {detail}");
    invalid(&world, &path, &to("prod", json!({"timeout_seconds": u64::MAX})), "timeout_seconds").await;
    let busy = with_json(world.request("POST", &path), &to("prod", json!({})));
    refused(&world, busy, 409, "conflict").await;
    let nowhere = with_json(world.request("POST", &path), &to("prod", json!({"targets": ["web-9"]})));
    refused(&world, nowhere, 404, "not_found").await;
    let deployment = world.get(&path).await.expect(200)["items"][0]["id"].as_str().unwrap().to_owned();
    invalid(&world, &format!("{path}/{deployment}/cancel"), &json!({"reason": " "}), "reason").await;
    let in_use = world.request("DELETE", &format!("{AT}/targets/web-1")).body(Body::empty()).unwrap();
    refused(&world, in_use, 409, "conflict").await;
}

#[tokio::test]
async fn enrolment_tokens_that_make_no_sense() {
    let world = world().await;
    let path = format!("{AT}/enrolment-tokens");
    invalid(&world, &path, &json!({"uses": 0}), "uses").await;
    invalid(&world, &path, &json!({"name": "host", "uses": 2}), "name").await;
    invalid(&world, &path, &json!({"expires_in_seconds": 0}), "expires_in_seconds").await;
    invalid(&world, &path, &json!({"expires_in_seconds": u64::MAX}), "expires_in_seconds").await;
    invalid(&world, &path, &json!({"labels": {"a b": "c"}}), "labels.a b").await;
}
