//! Who is not known gets nothing, and learns nothing.

use axum::body::Body;
use axum::http::HeaderValue;
use stella_api_types::paths;
use stella_certs::ApiToken;

use crate::document::{filled, operations, served};
use crate::world::{Answer, World, bare, new_token};

fn assert_refused(answer: &Answer, what: &str) -> String {
    assert_eq!(answer.status.as_u16(), 401, "{what}: {answer:?}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"stella\""), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    let problem = answer.json();
    assert_eq!(problem["code"], "unauthenticated", "{what}");
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_operation_but_health_and_the_document_wants_a_good_token() {
    let world = World::new().await;
    let (unknown, admin) = (ApiToken::generate().unwrap().to_string(), world.token.clone());
    let credentials = [
        None,
        Some(format!("Bearer {unknown}")),
        Some(format!("Basic {admin}")),
        Some(admin.clone()),
        Some("Bearer ".to_owned()),
        Some(format!("Bearer {}", &admin[..admin.len() - 1])),
        Some(format!("Bearer {admin}x")),
    ];
    for (method, template, wants_token) in operations(&served(&world).await) {
        for given in &credentials {
            let mut request = bare(&method, &filled(&template));
            if let Some(given) = given {
                request = request.header("authorization", given);
            }
            let answer = world.send(request.body(Body::empty()).unwrap()).await;
            // Who sends something to a hook signs it instead.
            if wants_token || template == paths::HOOK_DELIVERY {
                assert_refused(&answer, &format!("{method} {template} with {given:?}"));
            } else {
                assert_eq!(answer.status.as_u16(), 200, "{method} {template}");
            }
        }
    }
}

#[tokio::test]
async fn a_stranger_cannot_tell_what_exists() {
    let world = World::new().await;
    world.busy_tenant("acme").await;
    let mut details = Vec::new();
    for path in ["/api/v1/tenants/acme", "/api/v1/tenants/globex", "/api/v1/nothing", "/", "/metrics"] {
        let answer = world.send(bare("GET", path).body(Body::empty()).unwrap()).await;
        details.push(assert_refused(&answer, path));
    }
    // A method that a path does not know is not told from one that it does.
    let answer = world.send(bare("DELETE", "/api/v1/tenants").body(Body::empty()).unwrap()).await;
    details.push(assert_refused(&answer, "DELETE"));
    assert!(details.iter().all(|detail| *detail == details[0] && !detail.contains("acme")), "{details:?}");
}

#[tokio::test]
async fn a_header_that_is_no_text_is_refused_like_none() {
    let world = World::new().await;
    let garbage = HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap();
    let request = bare("GET", "/api/v1/system").header("authorization", garbage);
    assert_refused(&world.send(request.body(Body::empty()).unwrap()).await, "bytes");
}

#[tokio::test]
async fn any_token_that_the_engine_knows_will_do_and_the_scheme_has_no_case() {
    let world = World::new().await;
    let another = new_token(&world.handle()).await;
    for given in [format!("Bearer {another}"), format!("bearer {}", world.token)] {
        let request = bare("GET", "/api/v1/system").header("authorization", given);
        world.send(request.body(Body::empty()).unwrap()).await.expect(200);
    }
}
