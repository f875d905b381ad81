//! Stands in for PagerDuty and Slack, which cannot be had on a test machine: takes their requests as their documentation has them
//! and refuses others.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The largest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// What somebody was told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Through PagerDuty's Events API v2.
    Paged(Value),
    /// Through an incoming webhook of Slack.
    Chatted(Value),
    /// Through a webhook of its own: the request's head, and its body.
    Hooked {
        /// Request line and headers.
        head: String,
        /// JSON.
        body: String,
    },
}

/// Somebody who is paged. The listener ends when this is dropped.
#[derive(Debug)]
pub struct Pager {
    port: u16,
    events: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<()>,
}

impl Pager {
    /// Starts to listen.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        Self::start_at(0).await
    }

    /// Starts to listen on a port that somebody was told before.
    ///
    /// # Errors
    /// If it is not free.
    pub async fn start_at(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away in between sends again.
                drop(answer(stream, &heard).await);
            }
        });
        Ok(Self { port, events, task })
    }

    /// Everything so far, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// What was paged about one alert: `event_action` and the whole event, oldest first.
    #[must_use]
    pub fn pages(&self, alert: &str) -> Vec<(String, Value)> {
        let about = |event: Event| match event {
            Event::Paged(page)
                if page["payload"]["summary"].as_str().is_some_and(|text| text.starts_with(alert)) =>
            {
                Some((page["event_action"].as_str().unwrap_or_default().to_owned(), page))
            }
            Event::Paged(_) | Event::Chatted(_) | Event::Hooked { .. } => None,
        };
        self.events().into_iter().filter_map(about).collect()
    }

    /// How many pages were resolved.
    #[must_use]
    pub fn resolves(&self) -> usize {
        let is_end = |event: &Event| matches!(event, Event::Paged(page) if page["event_action"] == "resolve");
        self.events().iter().filter(|event| is_end(event)).count()
    }

    /// Where a webhook of its own is.
    #[must_use]
    pub fn hook_url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Where PagerDuty's API is.
    #[must_use]
    pub fn pagerduty_url(&self) -> String {
        format!("http://127.0.0.1:{}/v2/enqueue", self.port)
    }

    /// Where Slack's webhook is.
    #[must_use]
    pub fn slack_url(&self) -> String {
        format!("http://127.0.0.1:{}/services/slack", self.port)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, heard: &Mutex<Vec<Event>>) -> Result<()> {
    let (head, body) = read(&mut stream).await?;
    let json = serde_json::from_slice::<Value>(&body).ok();
    let (status, answer) = match (head.split_whitespace().nth(1), json) {
        (Some("/v2/enqueue"), Some(event)) if is_page(&event) => {
            let key = event["dedup_key"].clone();
            heard.lock().push(Event::Paged(event));
            let said =
                serde_json::json!({ "status": "success", "message": "Event processed", "dedup_key": key });
            ("202 Accepted", said.to_string())
        }
        (Some("/services/slack"), Some(message)) if message["channel"].is_string() => {
            heard.lock().push(Event::Chatted(message));
            ("200 OK", "ok".to_owned())
        }
        (Some("/hook"), Some(_)) => {
            heard.lock().push(Event::Hooked { head, body: String::from_utf8(body)? });
            ("200 OK", "thanks".to_owned())
        }
        _ => ("400 Bad Request", r#"{"status": "invalid event", "errors": []}"#.to_owned()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    Ok(stream.write_all(answer.as_bytes()).await?)
}

/// What PagerDuty's documentation asks of an event.
fn is_page(event: &Value) -> bool {
    let text = |value: &Value, bytes_max: usize| {
        value.as_str().is_some_and(|it| !it.is_empty() && it.len() <= bytes_max)
    };
    let payload = &event["payload"];
    let is_resolve = event["event_action"] == "resolve";
    let is_whole = text(&payload["summary"], 1024)
        && text(&payload["source"], 1024)
        && ["critical", "error", "warning", "info"].iter().any(|known| payload["severity"] == *known);
    event["routing_key"].as_str().is_some_and(|key| key.len() == 32)
        && text(&event["dedup_key"], 255)
        && ["trigger", "acknowledge", "resolve"].iter().any(|known| event["event_action"] == *known)
        && (is_resolve || is_whole)
}

/// The head and the body of a request with a content length.
async fn read(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        if let Some(end) = all.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..end]).into_owned();
            let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(key, value)| {
                key.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())
                    .flatten()
            });
            let length = length.context("no content length")?;
            if all.len() >= end + 4 + length {
                return Ok((head, all[end + 4..end + 4 + length].to_vec()));
            }
        }
        anyhow::ensure!(all.len() <= REQUEST_BYTES_MAX, "the request is too large");
        anyhow::ensure!(stream.read_buf(&mut all).await? > 0, "the request ends early");
    }
}
