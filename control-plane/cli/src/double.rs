//! A double of the control plane for tests: says what it is told to, one answer a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What it is asked.
pub(crate) struct Asked {
    /// Which question it is, from 1.
    pub(crate) number: u32,
    /// The path with the query.
    pub(crate) path: String,
}

/// What it answers.
pub(crate) struct Said {
    status: u16,
    headers: String,
    body: String,
}

impl Said {
    pub(crate) fn json(body: &Value) -> Self {
        Self { status: 200, headers: "content-type: application/json\r\n".to_owned(), body: body.to_string() }
    }

    /// Events of a feed that ends after them.
    pub(crate) fn feed(events: &[Value]) -> Self {
        let body = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        Self { status: 200, headers: "content-type: text/event-stream\r\n".to_owned(), body }
    }

    pub(crate) fn refusal(status: u16, retry_after: Option<u64>) -> Self {
        let problem = json!({
            "type": "about:blank", "title": "no", "status": status, "detail": "no", "code": "no",
            "retryable": true, "noSideEffects": true,
        });
        let headers = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
        Self { status, headers, body: problem.to_string() }
    }
}

/// A control plane that is none.
pub(crate) struct Double {
    port: u16,
    asked: Arc<AtomicU32>,
}

impl Double {
    pub(crate) async fn start(answers: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that went away is the test's business.
                converse(stream, &count, &answers).await.ok();
            }
        });
        Self { port, asked }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many questions there were.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn converse(
    mut stream: TcpStream,
    count: &AtomicU32,
    answers: &(impl Fn(&Asked) -> Said + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await?;
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let number = count.fetch_add(1, Ordering::SeqCst) + 1;
    let Said { status, headers, body } = answers(&Asked { number, path });
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} -\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
