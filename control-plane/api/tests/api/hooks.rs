//! What comes in by hooks: by what a message is known that comes again.

use axum::body::Body;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::world::{Answer, World, bare, within};

/// A hook that starts runs of a workflow.
struct Hooked {
    world: World,
    path: String,
    secret: String,
}

impl Hooked {
    async fn new() -> Self {
        let world = World::new().await;
        world.tenant("acme").await;
        let role = json!([{"role": "deployer", "tenant": "acme"}]);
        let account = json!({"name": "ci", "kind": "service", "roles": role});
        world.post("/api/v1/accounts", &account).await.expect(201);
        let source = "name: ship\nsteps:\n  - id: soak\n    wait: 1h\n";
        let at = "/api/v1/tenants/acme";
        world.post(&format!("{at}/workflows"), &json!({ "source": source })).await;
        let hook = json!({"name": "shipped", "account": "ci", "workflow": {"name": "ship"}});
        let made = world.post(&format!("{at}/hooks"), &hook).await.expect(201);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self { path: text(&made["details"]["path"]), secret: text(&made["secret"]), world }
    }

    fn mac(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    fn now(&self) -> u64 {
        self.world.handle().now().0 / 1_000
    }

    async fn send(&self, headers: &[(&str, String)], body: &str) -> Answer {
        let request = bare("POST", &self.path).header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        self.world.send(request.body(body.to_owned().into()).unwrap()).await
    }

    /// A message that is signed with its time, and with its key if `signs_key`.
    async fn timed(&self, at: u64, key: &str, signs_key: bool, body: &str) -> Answer {
        let signed = if signs_key { format!("{at}.{key}.{body}") } else { format!("{at}.{body}") };
        let headers = [
            ("stella-timestamp", at.to_string()),
            ("stella-signature", format!("v1={}", self.mac(&signed))),
            ("idempotency-key", key.to_owned()),
        ];
        self.send(&headers, body).await
    }
}

#[tokio::test]
async fn what_is_signed_anew_under_the_same_signed_key_is_the_same_message() {
    let hooked = Hooked::new().await;
    let (now, body) = (hooked.now(), r#"{"version":"1.4.0"}"#);
    let first = hooked.timed(now - 1, "build-42", true, body).await.expect(201);
    let again = hooked.timed(now, "build-42", true, body).await.expect(200);
    assert_eq!((&again["repeated"], &again["run"]), (&json!(true), &first["run"]), "{again}");
    let other = hooked.timed(now, "build-43", true, body).await.expect(201);
    assert_ne!(other["run"], first["run"], "another key is another message");
    let reused = hooked.timed(now, "build-42", true, r#"{"version":"1.4.1"}"#).await;
    assert_eq!(reused.json()["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn a_key_that_is_not_signed_is_not_what_a_message_with_a_time_is_known_by() {
    let hooked = Hooked::new().await;
    let (now, body) = (hooked.now(), r#"{"version":"1.4.0"}"#);
    let first = hooked.timed(now, "build-42", false, body).await.expect(201);
    let again = hooked.timed(now, "build-43", false, body).await.expect(200);
    assert_eq!(again["run"], first["run"], "whoever has recorded it gives it another key in vain");
    let signed = hooked.timed(now, "build-42", true, body).await.expect(201);
    assert_ne!(signed["run"], first["run"], "and takes nobody's signed key");

    // A recorded message is none without its key, or with another one.
    let recorded = hooked.mac(&format!("{now}.build-42.{body}"));
    for key in [None, Some("build-44")] {
        let mut headers =
            vec![("stella-timestamp", now.to_string()), ("stella-signature", format!("v1={recorded}"))];
        headers.extend(key.map(|key| ("idempotency-key", key.to_owned())));
        hooked.send(&headers, body).await.expect(401);
    }
}

#[tokio::test]
async fn no_text_is_a_message_in_two_ways() {
    let hooked = Hooked::new().await;
    let now = hooked.now();
    // The same text signed as time and body, and sent as time, key and body; and as a body alone.
    let signature = hooked.mac(&format!("{now}.1.5"));
    let headers = [
        ("stella-timestamp", now.to_string()),
        ("stella-signature", format!("v1={signature}")),
        ("idempotency-key", "1".to_owned()),
    ];
    let refused = hooked.send(&headers, "5").await.expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("object or array"), "{refused}");
    let headers = [("x-hub-signature-256", format!("sha256={signature}"))];
    hooked.send(&headers, &format!("{now}.1.5")).await.expect(400);
}

#[tokio::test]
async fn a_message_without_a_signature_or_to_no_hook_is_refused_before_its_body_is_read() {
    let hooked = Hooked::new().await;
    // This one never comes to its end.
    let endless = || Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let signature = format!("sha256={}", hooked.mac("{}"));
    let unsigned = bare("POST", &hooked.path).body(endless()).unwrap();
    within(hooked.world.send(unsigned)).await.expect(401);
    let nowhere = format!("/api/v1/hooks/{}", uuid::Uuid::from_u128(7));
    let unknown = bare("POST", &nowhere).header("x-hub-signature-256", signature.clone());
    let refused = within(hooked.world.send(unknown.body(endless()).unwrap())).await.expect(401);
    let wrong = [("x-hub-signature-256", format!("sha256={}", hooked.mac("[]")))];
    let same = hooked.send(&wrong, "{}").await.expect(401);
    assert_eq!(refused["detail"], same["detail"], "the answer does not tell them apart");
    hooked.send(&[("x-hub-signature-256", signature)], "{}").await.expect(201);
}

#[tokio::test]
async fn what_is_signed_without_a_time_is_known_by_a_name_that_nobody_signs() {
    let hooked = Hooked::new().await;
    let body = r#"{"version":"1.4.0"}"#;
    let signed = ("x-hub-signature-256", format!("sha256={}", hooked.mac(body)));
    let named = |name: &str| [signed.clone(), ("x-github-delivery", name.to_owned())];
    let first = hooked.send(&named("one"), body).await.expect(201);
    let again = hooked.send(&named("one"), body).await.expect(200);
    assert_eq!((&again["repeated"], &again["run"]), (&json!(true), &first["run"]), "{again}");
    let other = hooked.send(&named("two"), body).await.expect(201);
    assert_ne!(other["run"], first["run"], "two deliveries of the same body are two messages");
}
