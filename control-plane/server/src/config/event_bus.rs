//! Where events are published.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use stella_publish::nats::NatsConfig;
use stella_readers::follow::Begin;

/// Where events are published; nowhere if no server is named.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventBus {
    /// NATS servers of one cluster, `nats://` or `tls://`.
    pub(crate) servers: Vec<String>,
    /// The JetStream stream that stores the events.
    pub(crate) stream: String,
    /// Whether it is made if it is not there.
    pub(crate) create_stream: bool,
    /// For how long a stream that is made keeps events, in seconds.
    pub(crate) stream_max_age_s: u64,
    /// What subjects begin with.
    pub(crate) subject_prefix: String,
    /// What `source` begins with in each event: what the installation is called.
    pub(crate) source: String,
    /// Where to begin when nothing was published before.
    pub(crate) begin: Begin,
    /// User JWT and seed, as `nsc` writes them.
    pub(crate) credentials_file: Option<PathBuf>,
    /// The authorities that the servers' certificates may be under (PEM); the system's if not set.
    pub(crate) ca: Option<PathBuf>,
    /// A certificate (PEM) for servers that ask for one.
    pub(crate) client_certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub(crate) client_key: Option<PathBuf>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            stream: "STELLA".to_owned(),
            create_stream: true,
            stream_max_age_s: 7 * 86_400,
            subject_prefix: "stella.events".to_owned(),
            source: "/stella".to_owned(),
            begin: Begin::Now,
            credentials_file: None,
            ca: None,
            client_certificate: None,
            client_key: None,
        }
    }
}

impl EventBus {
    /// What is wrong with it, if it is used.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(nats) = self.nats()? {
            nats.check().context("event_bus")?;
        }
        anyhow::ensure!(self.stream_max_age_s > 0, "event_bus.stream_max_age_s must be at least 1");
        let is_reference = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\'))
        };
        anyhow::ensure!(
            is_reference(&self.source),
            "event_bus.source must be a URI reference such as /stella or https://stella.example.com, not {:?}",
            self.source
        );
        Ok(())
    }

    /// The bus, if there is one.
    ///
    /// # Errors
    /// If a certificate has no key, or the other way round.
    pub(crate) fn nats(&self) -> anyhow::Result<Option<NatsConfig>> {
        if self.servers.is_empty() {
            return Ok(None);
        }
        let client_certificate = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => anyhow::bail!("event_bus.client_certificate and event_bus.client_key go together"),
        };
        Ok(Some(NatsConfig {
            servers: self.servers.clone(),
            stream: self.stream.clone(),
            subject_prefix: self.subject_prefix.clone(),
            create_stream: self.create_stream,
            max_age: Duration::from_secs(self.stream_max_age_s),
            credentials_file: self.credentials_file.clone(),
            ca: self.ca.clone(),
            client_certificate,
        }))
    }
}
