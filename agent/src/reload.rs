//! A configuration that is read again while the agent runs: SIGHUP, `systemctl reload`.
//!
//! The log's level is taken over; whatever else is new is named, and waits for a restart. A configuration that is not good
//! changes nothing.

use std::path::PathBuf;

use stella_settings::Shown;
use stella_telemetry::LogLevel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::config::{Error, Loaded, Settings};
use crate::executor::reason_of;

/// What a configuration is read from, and what it is in effect for.
#[derive(Debug)]
pub struct Reloader {
    file: Option<PathBuf>,
    over: Settings,
    running: Vec<Shown>,
    log: LogLevel,
}

impl Reloader {
    /// Remembers what is in effect.
    #[must_use]
    pub fn new(file: Option<PathBuf>, over: Settings, loaded: &Loaded, log: LogLevel) -> Self {
        Self { file, over, running: loaded.in_effect(), log }
    }

    /// Reloads at each SIGHUP, as long as the tasks live.
    ///
    /// # Errors
    /// If the signal cannot be listened for.
    pub fn at_hangups(mut self, tasks: &mut JoinSet<()>) -> std::io::Result<()> {
        let mut hangups = signal(SignalKind::hangup())?;
        tasks.spawn(async move {
            while hangups.recv().await.is_some() {
                match self.reload() {
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
        Ok(())
    }

    fn reload(&mut self) -> Result<(), Error> {
        let loaded = Loaded::load(self.file.as_deref(), &self.over, |_| "environment or flag".to_owned())?;
        self.log.set(&loaded.config.log_level)?;
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
