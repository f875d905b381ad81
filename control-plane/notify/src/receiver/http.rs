//! Receivers that are told by an HTTP request.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use stella_api_types::time::rfc3339;
use stella_protocol::time::Timestamp;
use zeroize::Zeroizing;

use super::{DeliveryError, TIMEOUT, shown};
use crate::incident::Severity;
use crate::message::Message;
use crate::notice::Notice;

/// How much of an answer is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4_096;
/// The longest summary that PagerDuty takes, in characters.
const SUMMARY_CHARS_MAX: usize = 1_024;
/// Until then Slack shows a text whole.
const TEXT_CHARS_MAX: usize = 3_000;

/// A client for one address. The address may hold a secret and is shown nowhere.
pub struct HttpClient {
    client: Client,
    url: Zeroizing<String>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client. `ca` (PEM) are the authorities that the certificate may be under; the system's if there are none.
    ///
    /// # Errors
    /// If the address is none, or the authorities are none; says which.
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Self, &'static str> {
        let parsed = reqwest::Url::parse(url).map_err(|_| "the address is no URL")?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err("the address must begin with https:// or http://");
        }
        // What is sent is for the address that is configured, and for nobody that it may point to.
        let mut builder = Client::builder().timeout(TIMEOUT).redirect(Policy::none());
        if let Some(pem) = ca {
            let certificates =
                Certificate::from_pem_bundle(pem).map_err(|_| "the authorities are no PEM certificates")?;
            if certificates.is_empty() {
                return Err("the file of the authorities holds no certificate");
            }
            builder = builder.tls_certs_only(certificates);
        } else if parsed.scheme() == "http" {
            // Without TLS no authorities are needed, and a host may have none.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|_| "no HTTP client can be made")?;
        Ok(Self { client, url: Zeroizing::new(url.to_owned()) })
    }

    fn post(&self) -> RequestBuilder {
        self.client.post(self.url.as_str())
    }
}

/// JSON to an address of the receiver's own.
#[derive(Debug)]
pub struct Webhook {
    /// Where to.
    pub http: HttpClient,
    /// What messages are signed with, if they are.
    pub secret: Option<Secret>,
}

/// A secret that is shown nowhere.
pub struct Secret(pub Zeroizing<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Webhook {
    pub(super) async fn tell(&self, message: &Message) -> Result<String, DeliveryError> {
        answered(self.signed(&message.id(), message.at, message.to_json().to_string())).await
    }

    /// The time that is signed is that of sending: the call may have waited for its turn longer than receivers take what is old.
    pub(super) async fn notify(&self, notice: &Notice, now: Timestamp) -> Result<String, DeliveryError> {
        let mut request = self.signed(&notice.key, now, notice.to_json().to_string());
        request = request.header("Idempotency-Key", &notice.key);
        for (name, value) in &notice.trace {
            request = request.header(*name, value);
        }
        answered(request).await
    }

    fn signed(&self, id: &str, at: Timestamp, body: String) -> RequestBuilder {
        let seconds = (at.0 / 1_000).to_string();
        let mut request = self
            .http
            .post()
            .header("Content-Type", "application/json")
            .header("User-Agent", "stella-orchestrator")
            .header("Stella-Notification-Id", id)
            .header("Stella-Timestamp", &seconds);
        if let Some(secret) = &self.secret {
            request = request.header("Stella-Signature", signature(&secret.0, &seconds, &body));
        }
        request.body(body)
    }
}

/// HMAC-SHA256 over the timestamp, a dot and the body: a body cannot be sent again later as if it were new.
#[must_use]
pub fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length will do");
    for part in [timestamp, ".", body] {
        mac.update(part.as_bytes());
    }
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// An incoming webhook of Slack.
#[derive(Debug)]
pub struct Chat {
    /// Where to: the address is the secret.
    pub http: HttpClient,
    /// Another channel than the one of the webhook, where that may be chosen.
    pub channel: Option<String>,
}

impl Chat {
    pub(super) async fn tell(&self, message: &Message) -> Result<String, DeliveryError> {
        answered(self.http.post().json(&self.body(message))).await
    }

    fn body(&self, message: &Message) -> Value {
        let color = if message.status() == "resolved" { "good" } else { color(message.severity) };
        let lines: String = message.lines().join("\n").chars().take(TEXT_CHARS_MAX).collect();
        let title = escaped(&message.title());
        let attachment =
            json!({ "color": color, "fallback": title, "text": escaped(&lines), "ts": message.at.0 / 1_000 });
        self.to_channel(json!({ "text": format!("*{title}*"), "attachments": [attachment] }))
    }

    pub(super) async fn notify(&self, notice: &Notice) -> Result<String, DeliveryError> {
        let attachment = json!({
            "color": color(notice.severity),
            "fallback": escaped(&notice.title()),
            "text": escaped(&notice.message),
            "footer": escaped(&notice.origin()),
            "ts": notice.at.0 / 1_000,
        });
        let head = format!("*{}: {}*", escaped(&notice.tenant), escaped(&notice.workflow));
        let body = self.to_channel(json!({ "text": head, "attachments": [attachment] }));
        answered(self.http.post().json(&body)).await
    }

    fn to_channel(&self, mut body: Value) -> Value {
        if let Some(channel) = &self.channel {
            body["channel"] = channel.as_str().into();
        }
        body
    }
}

const fn color(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "danger",
        Severity::Warning => "warning",
        Severity::Info => "#439FE0",
    }
}

/// What Slack asks to be written otherwise: names of people and releases must not become links or mentions.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// PagerDuty's Events API.
#[derive(Debug)]
pub struct Pager {
    /// Where to.
    pub http: HttpClient,
    /// The integration's key.
    pub routing_key: Secret,
    /// What the installation is called.
    pub source: String,
}

impl Pager {
    /// A page is for what is wrong: what began and ended before it was due pages nobody.
    pub(super) async fn tell(&self, message: &Message) -> Result<Option<String>, DeliveryError> {
        if message.open.is_empty() && !message.was_open {
            return Ok(None);
        }
        let answer = answered(self.http.post().json(&self.event(message))).await?;
        if message.is_test {
            // A test that stays open would wake somebody.
            let over = Message { open: Vec::new(), was_open: true, ..message.clone() };
            answered(self.http.post().json(&self.event(&over))).await?;
        }
        Ok(Some(answer))
    }

    /// A page that somebody has to resolve: what a workflow says has no end. All attempts of a step are one page.
    pub(super) async fn notify(&self, notice: &Notice) -> Result<String, DeliveryError> {
        let summary: String = notice.title().chars().take(SUMMARY_CHARS_MAX).collect();
        let event = json!({
            "routing_key": self.routing_key.0.as_str(),
            "dedup_key": format!("stella/{}/{}", notice.run, notice.step),
            "event_action": "trigger",
            "client": "Stella",
            "payload": {
                "summary": summary,
                "source": self.source,
                "severity": notice.severity.name(),
                "timestamp": rfc3339(notice.at),
                "group": notice.tenant,
                "class": "workflow",
                "component": notice.workflow,
                "custom_details": notice.to_json(),
            },
        });
        answered(self.http.post().json(&event)).await
    }

    fn event(&self, message: &Message) -> Value {
        let mut event = json!({
            "routing_key": self.routing_key.0.as_str(),
            "dedup_key": format!("stella/{}", message.group),
            "event_action": if message.open.is_empty() { "resolve" } else { "trigger" },
        });
        if !message.open.is_empty() {
            let summary: String = message.title().chars().take(SUMMARY_CHARS_MAX).collect();
            event["client"] = "Stella".into();
            event["payload"] = json!({
                "summary": summary,
                "source": self.source,
                "severity": message.severity.name(),
                "timestamp": rfc3339(message.at),
                "group": message.tenant,
                "class": message.kind.name(),
                "component": message.environment,
                "custom_details": message.to_json(),
            });
        }
        event
    }
}

/// Sends a request: the status and the beginning of the answer, if it is a good one.
async fn answered(request: RequestBuilder) -> Result<String, DeliveryError> {
    // The address may be a secret.
    let unreachable = |error: reqwest::Error| {
        let error = error.without_url();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        DeliveryError::Unreachable(format!("{error}{}", source.unwrap_or_default()))
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() >= ANSWER_BYTES_MAX {
            body.truncate(ANSWER_BYTES_MAX);
            break;
        }
    }
    let answer = format!("{status}: {}", shown(&String::from_utf8_lossy(&body)));
    let is_away = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    match status {
        _ if status.is_success() => Ok(answer),
        _ if is_away => Err(DeliveryError::Unreachable(answer)),
        _ => Err(DeliveryError::Refused(answer)),
    }
}

#[cfg(test)]
mod tests {
    use stella_protocol::time::Timestamp;

    use super::*;

    #[test]
    fn a_signature_is_that_of_timestamp_and_body() {
        // By `printf '%s' '1700000000.{}' | openssl dgst -sha256 -hmac key`.
        let expected = "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        let found = signature("key", "1700000000", "{}");
        assert_eq!(found, expected);
        assert_ne!(found, signature("key", "1700000001", "{}"));
        assert_ne!(found, signature("other", "1700000000", "{}"));
    }

    #[test]
    fn names_do_not_become_links_in_chat() {
        stella_certs::install_provider();
        let chat = Chat { http: HttpClient::new("http://127.0.0.1:1", None).unwrap(), channel: None };
        let mut message = Message::test(Timestamp(0));
        message.open[0].summary = "<!channel> & <https://evil.example>".to_owned();
        let text = chat.body(&message).to_string();
        assert!(!text.contains("<!channel>") && text.contains("&lt;!channel&gt;"), "{text}");
    }

    #[test]
    fn an_address_is_a_url_and_is_not_shown() {
        stella_certs::install_provider();
        for wrong in ["hooks.example.com/secret", "ftp://hooks.example.com/secret", ""] {
            let error = HttpClient::new(wrong, None).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        let client = HttpClient::new("https://hooks.example.com/secret", None).unwrap();
        assert!(!format!("{client:?}").contains("secret"));
    }
}
