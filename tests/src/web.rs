//! A web service that says which version it is, and load on it: what must not fail while a load balancer is switched.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::recipe::archive;

/// Answers with its version, and takes half a second to be healthy. A bad one never is.
const SERVICE: &str = r#"
import http.server, sys, threading, time
VERSION, GOOD = "@VERSION@", "@GOOD@" == "yes"
began = time.monotonic()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_healthy = GOOD and time.monotonic() - began > 0.5
        status = 503 if self.path == "/health" and not is_healthy else 200
        body = VERSION.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"#;

/// The archive of a version; of one that never becomes healthy, if it is not good.
///
/// # Errors
/// If it cannot be written.
pub fn release_of(folder: &Path, version: &str, good: bool) -> Result<PathBuf> {
    let good = if good { "yes" } else { "no" };
    let service = SERVICE.replace("@VERSION@", version).replace("@GOOD@", good);
    let file = folder.join(format!("web-{version}.tar.gz"));
    fs::write(&file, archive(&[("web.py", &service)])?)?;
    Ok(file)
}

/// Requests all the time, through each load balancer.
#[derive(Debug)]
pub struct Load {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    versions: BTreeSet<String>,
    failures: Vec<String>,
}

impl Load {
    /// Two requests at a time through the load balancer of each port.
    #[must_use]
    pub fn start(fronts: Vec<u16>) -> Self {
        let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let threads = fronts.into_iter().flat_map(|front| [front; 2]).map(|port| {
            let (over, seen) = (Arc::clone(&over), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answer = version(port);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.requests += 1;
                    match answer {
                        Ok(version) => drop(seen.versions.insert(version)),
                        Err(error) => seen.failures.push(format!("{error:#}")),
                    }
                    drop(seen);
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        });
        let threads = threads.collect();
        Self { over, seen, threads }
    }

    /// The versions that answered since the last look.
    ///
    /// # Errors
    /// If a request has failed.
    pub fn versions(&self) -> Result<Vec<String>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { failures, requests, .. } = &*seen;
        ensure!(failures.is_empty(), "{} of {requests} requests failed: {failures:?}", failures.len());
        Ok(std::mem::take(&mut seen.versions).into_iter().collect())
    }

    /// How many requests there were.
    ///
    /// # Errors
    /// If one of them has failed.
    pub fn end(mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            ensure!(thread.join().is_ok(), "a thread has panicked");
        }
        self.versions()?;
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).requests)
    }
}

/// What the service behind this port says that it is.
///
/// # Errors
/// If it does not answer, or not with success.
pub fn version(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{head}");
    Ok(body.to_owned())
}
