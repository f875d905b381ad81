//! NATS JetStream as a bus: each event is a message with `Nats-Msg-Id`, acknowledged by the stream that has stored it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::{HeaderMap, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{Config as StreamConfig, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::bus::{Bus, BusError, Message};
use crate::event::MEDIA_TYPE;

/// How long a connection, and each answer of the server, may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a page of events may take: many answers in parallel.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// The first wait before the connection is tried again; it doubles.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// How many commands may wait for the connection: those of one page, and as many again.
const WAITING_COMMANDS_MAX: usize = 512;
/// What the headers of a message take of the size that a server allows, in bytes, generously.
const HEADERS_BYTES_MAX: usize = 512;
/// For how long a stream that is made here remembers ids, to drop duplicates by: longer than a restart of either side takes.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(3_600);
/// What JetStream answers if a stream takes no messages of this size.
const MESSAGE_TOO_LARGE: u64 = 10_054;

/// Where the bus is, and how to get in. Secrets are in files.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// Servers of one cluster: `tls://nats-1.example.com:4222`.
    pub servers: Vec<String>,
    /// The stream that stores events.
    pub stream: String,
    /// What subjects begin with: `stella.events`.
    pub subject_prefix: String,
    /// Whether the stream is made if it is not there.
    pub create_stream: bool,
    /// For how long a stream that is made keeps events.
    pub max_age: Duration,
    /// A `.creds` file: user JWT and seed.
    pub credentials_file: Option<PathBuf>,
    /// The authorities that the servers' certificates may be under (PEM); the system's if not set.
    pub ca: Option<PathBuf>,
    /// A certificate (PEM) to show, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no server.
    #[error("no server is named")]
    NoServer,
    /// An address is none.
    #[error(
        "{server:?} is no address of a server; write nats://host:4222, or tls://host:4222 for an encrypted connection"
    )]
    Server {
        /// What was given.
        server: String,
    },
    /// An address holds a secret, which would be seen in the configuration and in logs.
    #[error("a server's address holds a user or a password; put them into a credentials file")]
    SecretInAddress,
    /// A subject prefix or the stream's name has characters that they may not have.
    #[error("{text:?} is no {what}; use letters, digits, '-' and '_'{more}")]
    Name {
        /// What was given.
        text: String,
        /// What it should be.
        what: &'static str,
        /// What else it may have.
        more: &'static str,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The credentials file holds none. What it holds is not shown.
    #[error("{} holds no user JWT and seed as `nsc generate creds` writes them", path.display())]
    Credentials {
        /// Which.
        path: PathBuf,
    },
}

impl NatsConfig {
    /// Checks all that can be checked without a connection.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.addresses()?;
        let is_word = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !is_word(&self.stream) {
            return Err(ConfigError::Name { text: self.stream.clone(), what: "name of a stream", more: "" });
        }
        if !self.subject_prefix.split('.').all(is_word) {
            let more = ", with '.' between levels";
            return Err(ConfigError::Name {
                text: self.subject_prefix.clone(),
                what: "prefix of subjects",
                more,
            });
        }
        let pair = self.client_certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        for path in self.ca.iter().chain(pair) {
            read(path)?;
        }
        self.options().map(drop)
    }

    fn addresses(&self) -> Result<Vec<ServerAddr>, ConfigError> {
        if self.servers.is_empty() {
            return Err(ConfigError::NoServer);
        }
        let parse = |server: &String| {
            let known = ["nats://", "tls://"].iter().any(|scheme| server.starts_with(scheme));
            if server.contains('@') {
                return Err(ConfigError::SecretInAddress);
            }
            let wrong = || ConfigError::Server { server: server.clone() };
            if known { server.parse().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        self.servers.iter().map(parse).collect()
    }

    fn options(&self) -> Result<ConnectOptions, ConfigError> {
        let mut options = ConnectOptions::new()
            .name("stella-orchestrator")
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .client_capacity(WAITING_COMMANDS_MAX)
            .reconnect_delay_callback(|attempts| {
                let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(16);
                RECONNECT_FIRST.saturating_mul(2_u32.pow(doublings)).min(RECONNECT_MAX)
            })
            .retry_on_initial_connect();
        if let Some(path) = &self.credentials_file {
            let text = read(path)?;
            options =
                options.credentials(&text).map_err(|_| ConfigError::Credentials { path: path.clone() })?;
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &self.client_certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        Ok(options)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

/// A connection to NATS. It is made in the background and made again whenever it is lost.
#[derive(Debug)]
pub struct Nats {
    config: NatsConfig,
    client: Client,
    context: Context,
    /// What went wrong with the connection last.
    trouble: Arc<Mutex<String>>,
    /// Of which connection it is known that the stream is there.
    ensured: Option<u64>,
}

impl Nats {
    /// Begins to connect. Whether a server can be reached is seen later.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub async fn connect(config: NatsConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let trouble = Arc::new(Mutex::new("there is no connection yet".to_owned()));
        let heard = Arc::clone(&trouble);
        let options = config.options()?.event_callback(move |event| {
            let heard = Arc::clone(&heard);
            async move {
                match event {
                    Event::ClientError(error) => *heard.lock() = error.to_string(),
                    Event::ServerError(error) => *heard.lock() = error.to_string(),
                    Event::Disconnected => "the connection was lost".clone_into(&mut heard.lock()),
                    Event::Connected | Event::Closed | Event::Draining | Event::LameDuckMode => {}
                    Event::SlowConsumer(_) => {}
                    #[expect(unreachable_patterns, reason = "a newer client may tell more")]
                    _ => {}
                }
            }
        });
        // With retries of the initial connection, only an address that is none is an error.
        let addresses = config.addresses()?;
        let server = config.servers.first().cloned().unwrap_or_default();
        let client = options.connect(addresses).await.map_err(|_| ConfigError::Server { server })?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(TIMEOUT);
        Ok(Self { config, client, context, trouble, ensured: None })
    }

    fn away(&self) -> BusError {
        BusError::Away(self.trouble.lock().clone())
    }

    /// Makes sure that the stream is there, once for each connection.
    async fn ensure_stream(&mut self) -> Result<(), BusError> {
        let connection = self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
        if self.ensured == Some(connection) || !self.config.create_stream {
            return Ok(());
        }
        let stream = StreamConfig {
            name: self.config.stream.clone(),
            subjects: vec![format!("{}.>", self.config.subject_prefix)],
            storage: StorageType::File,
            max_age: self.config.max_age,
            duplicate_window: DUPLICATE_WINDOW.min(self.config.max_age),
            ..StreamConfig::default()
        };
        let found = timeout(TIMEOUT, self.context.get_or_create_stream(stream)).await;
        match found {
            Ok(Ok(_)) => {
                self.ensured = Some(connection);
                Ok(())
            }
            Ok(Err(error)) => Err(BusError::Refused(format!(
                "the stream {} cannot be made ({error}); make it, or let this user do it",
                self.config.stream
            ))),
            Err(_) => Err(BusError::Away("the server does not answer".to_owned())),
        }
    }

    async fn send(&self, message: &Message, body: Bytes) -> Result<PublishAckFuture, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message.id.as_str());
        headers.insert(NATS_EXPECTED_STREAM, self.config.stream.as_str());
        headers.insert("Content-Type", MEDIA_TYPE);
        let subject = format!("{}.{}", self.config.subject_prefix, message.subject);
        self.context.publish_with_headers(subject, headers, body).await
    }

    /// All at once, and then all acknowledgements: one round trip for the page.
    async fn send_all(&self, messages: &[Message]) -> Result<(), BusError> {
        let body_bytes_max = self.client.server_info().max_payload.saturating_sub(HEADERS_BYTES_MAX);
        let mut waiting = Vec::with_capacity(messages.len());
        for message in messages {
            let fits = message.body.len() <= body_bytes_max;
            let body = if fits { &message.body } else { &message.short };
            waiting.push(self.send(message, body.clone()).await.map_err(|error| self.refused(&error))?);
        }
        for (message, acknowledged) in messages.iter().zip(waiting) {
            match acknowledged.await {
                Ok(_) => {}
                Err(error) if is_too_large(&error) => {
                    let again = self.send(message, message.short.clone()).await;
                    again
                        .map_err(|error| self.refused(&error))?
                        .await
                        .map_err(|error| self.refused(&error))?;
                }
                Err(error) => return Err(self.refused(&error)),
            }
        }
        Ok(())
    }

    fn refused(&self, error: &PublishError) -> BusError {
        match error.kind() {
            PublishErrorKind::StreamNotFound => BusError::Refused(format!(
                "no stream takes {}.>; make one, or set create_stream",
                self.config.subject_prefix
            )),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => self.away(),
            PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::MaxPayloadExceeded
            | PublishErrorKind::Other => BusError::Refused(chain(error)),
        }
    }
}

impl Bus for Nats {
    async fn publish(&mut self, messages: &[Message]) -> Result<(), BusError> {
        // While there is no connection the client would queue what is sent, and send it all when there is one.
        if self.client.connection_state() != State::Connected {
            return Err(self.away());
        }
        self.ensure_stream().await?;
        let sent = timeout(PAGE_TIMEOUT, self.send_all(messages)).await;
        sent.unwrap_or_else(|_| Err(BusError::Away("the server does not answer".to_owned())))
    }
}

/// Whether the stream has a limit of its own that the message is beyond.
fn is_too_large(error: &PublishError) -> bool {
    let source = std::error::Error::source(error);
    let answer = source.and_then(|it| it.downcast_ref::<jetstream::Error>());
    answer.is_some_and(|answer| answer.error_code().0 == MESSAGE_TOO_LARGE)
}

fn chain(error: &PublishError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NatsConfig {
        NatsConfig {
            servers: vec!["nats://127.0.0.1:1".to_owned()],
            stream: "STELLA".to_owned(),
            subject_prefix: "stella.events".to_owned(),
            create_stream: true,
            max_age: Duration::from_secs(60),
            credentials_file: None,
            ca: None,
            client_certificate: None,
        }
    }

    #[test]
    fn what_makes_no_sense_is_said_without_secrets() {
        config().check().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let creds = folder.path().join("creds");
        std::fs::write(&creds, "SUASECRETSEED").unwrap();
        let wrong = [
            (NatsConfig { servers: vec![], ..config() }, "no server"),
            (NatsConfig { servers: vec!["127.0.0.1:4222".to_owned()], ..config() }, "nats://"),
            (NatsConfig { servers: vec!["nats://me:hunter2@h".to_owned()], ..config() }, "credentials file"),
            (NatsConfig { stream: "A.B".to_owned(), ..config() }, "name of a stream"),
            (NatsConfig { subject_prefix: "a..b".to_owned(), ..config() }, "prefix of subjects"),
            (NatsConfig { subject_prefix: "a.>".to_owned(), ..config() }, "prefix of subjects"),
            (NatsConfig { ca: Some("/nonexistent".into()), ..config() }, "/nonexistent"),
            (NatsConfig { credentials_file: Some(creds), ..config() }, "no user JWT"),
        ];
        for (config, says) in wrong {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("SUASECRETSEED"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_away_at_once() {
        let mut nats = Nats::connect(config()).await.unwrap();
        let error = nats.publish(&[]).await.unwrap_err();
        assert!(matches!(error, BusError::Away(_)), "{error}");
    }
}
