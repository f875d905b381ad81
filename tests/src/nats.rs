//! A real NATS server with JetStream, from Debian's packages, and everything that its stream has stored.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Context};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::{ports, wait};

const PROGRAM: &str = "/usr/sbin/nats-server";

/// The stream that the control plane makes by default.
pub const STREAM: &str = "STELLA";

/// An event as the stream has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// What duplicates were dropped by.
    pub message_id: String,
    /// The event.
    pub event: Value,
}

/// A server. It is killed when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    daemon: Daemon,
    folder: PathBuf,
    port: u16,
}

impl NatsServer {
    /// A server that keeps everything in `folder` and is not started yet. `more` is of its configuration file.
    ///
    /// # Errors
    /// If it is not installed, or the folder cannot be written.
    pub fn prepare(folder: &Path, more: &str) -> Result<Self> {
        ensure!(Path::new(PROGRAM).is_file(), "{PROGRAM} is not there; run `make tools` first");
        fs::create_dir_all(folder)?;
        let (port, config) = (ports::free()?, folder.join("nats.conf"));
        let store = folder.join("jetstream");
        let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?} }}\n{more}\n");
        fs::write(&config, text)?;
        let arguments = vec!["--config".to_owned(), config.display().to_string()];
        let daemon = Daemon::new("nats-server", PROGRAM.into(), arguments, folder.join("nats.log"));
        Ok(Self { daemon, folder: folder.to_owned(), port })
    }

    /// Starts it, or starts it again.
    ///
    /// # Errors
    /// If it runs.
    pub fn start(&mut self) -> Result<()> {
        self.daemon.start()
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Its port on the loopback address.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Shows its log.
    pub fn show_log(&self) {
        self.daemon.show_log();
    }

    /// A client of it.
    ///
    /// # Errors
    /// If it lets nobody in within the tests' patience.
    pub async fn client(&self, options: impl Fn() -> ConnectOptions) -> Result<Context> {
        let address = format!("127.0.0.1:{}", self.port);
        let client = wait::until("NATS answers", async || Ok(options().connect(&address).await?)).await?;
        Ok(jetstream::new(client))
    }
}

/// Everything that the stream has, in its order.
///
/// # Errors
/// If there is no stream.
pub async fn stored(context: &Context) -> Result<Vec<Stored>> {
    let mut stream = context.get_stream(STREAM).await?;
    let state = stream.info().await?.state.clone();
    let mut all = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await?;
        let id = message.headers.get("Nats-Msg-Id").context("no Nats-Msg-Id")?;
        all.push(Stored {
            subject: message.subject.to_string(),
            message_id: id.to_string(),
            event: serde_json::from_slice(&message.payload)?,
        });
    }
    Ok(all)
}
