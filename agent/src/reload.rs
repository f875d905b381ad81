//! A configuration that is read again while the agent runs: SIGHUP, `systemctl reload`.
//!
//! The log's level is taken over, and what the runner can take over ([`Tuner`]); whatever else is new is named, and waits for a restart. A
//! configuration that is not good changes nothing.

use std::path::PathBuf;

use stella_settings::Shown;
use stella_telemetry::LogLevel;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::config::{Error, Loaded, Settings};
use crate::executor::reason_of;
use crate::tuning::Tuner;

/// What a configuration is read from, and what it is in effect for.
#[derive(Debug)]
pub struct Reloader {
    file: Option<PathBuf>,
    over: Settings,
    running: Vec<Shown>,
    log: LogLevel,
}

/// SIGHUP, which ends a process that does not listen for it.
///
/// # Errors
/// If it cannot be listened for.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

impl Reloader {
    /// Remembers what is in effect.
    #[must_use]
    pub fn new(file: Option<PathBuf>, over: Settings, loaded: &Loaded, log: LogLevel) -> Self {
        Self { file, over, running: loaded.in_effect(), log }
    }

    /// Reloads at each SIGHUP, as long as the tasks live.
    pub fn at_hangups(mut self, mut hangups: Signal, mut tuner: Tuner, tasks: &mut JoinSet<()>) {
        tasks.spawn(async move {
            while hangups.recv().await.is_some() {
                match self.reload(&mut tuner).await {
                    Ok(()) => tracing::info!("SIGHUP: the configuration was read again"),
                    Err(error) => {
                        tracing::error!(
                            reason = reason_of(&error),
                            "SIGHUP: the configuration is not taken over"
                        );
                    }
                }
            }
        });
    }

    async fn reload(&mut self, tuner: &mut Tuner) -> Result<(), Error> {
        let loaded = Loaded::load(self.file.as_deref(), &self.over, |_| "environment or flag".to_owned())?;
        self.log.set(&loaded.config.log_level)?;
        if tuner.change(&loaded.config).await.is_err() {
            // The agent stops; the next start reads it.
            return Ok(());
        }
        for (before, now) in self.running.iter_mut().zip(loaded.in_effect()) {
            if before.value != now.value {
                tracing::info!(key = now.key, taken_over = now.reloads, "the configuration has changed");
            }
            if now.reloads {
                *before = now;
            }
        }
        Ok(())
    }
}
