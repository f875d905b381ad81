//! A configuration that is read again while the control plane runs: `systemctl reload`, SIGHUP.
//!
//! What can change without a restart is marked in the table of keys. The rest is named, and waits for one. A configuration
//! that is not good changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::Mutex;
use stella_api::{MetricsTls, Tuning};
use stella_settings::Shown;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::boot::api_config;
use crate::config::{Config, Loaded};
use crate::followed::Followed;
use crate::pki::Pki;

/// The key of the API's given certificate, whose file may have changed where the key has not.
const CERTIFICATE: &str = "api.certificate";

/// Takes over what is new.
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    /// The values that are in effect.
    running: Mutex<BTreeMap<String, Shown>>,
    log: stella_telemetry::LogLevel,
    tuning: Arc<Tuning>,
    pki: Pki,
    scraping: MetricsTls,
    followed: Followed,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A key whose value is another one now.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    key: String,
    /// Whether it is in effect; otherwise it needs a restart.
    is_in_effect: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, if self.is_in_effect { "taken over" } else { "needs a restart" })
    }
}

impl Reloader {
    pub(crate) fn new(
        loaded: &Loaded,
        log: stella_telemetry::LogLevel,
        tuning: Arc<Tuning>,
        pki: Pki,
        (scraping, followed): (MetricsTls, Followed),
    ) -> anyhow::Result<Arc<Self>> {
        let (file, running) = (loaded.file.clone(), Mutex::new(values(loaded.in_effect()?)));
        Ok(Arc::new(Self { file, running, log, tuning, pki, scraping, followed }))
    }

    /// What parts follow that take over another configuration by themselves.
    pub(crate) const fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Reads everything again and takes over what can be.
    ///
    /// # Errors
    /// If what is there now is no good configuration, or cannot be taken over; what was in effect goes on.
    pub(crate) fn reload(&self) -> anyhow::Result<Vec<Change>> {
        let loaded = Loaded::load(self.file.as_deref())?;
        let now = values(loaded.in_effect()?);
        let mut running = self.running.lock();
        let mut changes = Vec::new();
        for (key, shown) in &now {
            if running.get(key).map(|it| &it.value) != Some(&shown.value) {
                changes.push(Change { key: key.clone(), is_in_effect: shown.reloads });
            }
        }
        // A key of an open section that is gone.
        let gone = running.values().filter(|it| !now.contains_key(&it.key));
        changes.extend(gone.map(|it| Change { key: it.key.clone(), is_in_effect: it.reloads }));
        let is_level_new = changes.iter().any(|change| change.key == "log.level");
        let shows_another = self.take_over(&loaded.config, is_level_new)?;
        if shows_another && !changes.iter().any(|change| change.key == CERTIFICATE) {
            // The same file with another certificate in it.
            changes.push(Change { key: CERTIFICATE.to_owned(), is_in_effect: true });
        }
        for change in changes.iter().filter(|change| change.is_in_effect) {
            match now.get(&change.key) {
                Some(shown) => running.insert(change.key.clone(), shown.clone()),
                None => running.remove(&change.key),
            };
        }
        for change in &changes {
            tracing::info!(
                key = change.key,
                taken_over = change.is_in_effect,
                "the configuration has changed"
            );
        }
        Ok(changes)
    }

    /// All that can change, in an order in which what may fail comes first. Whether the API shows another given certificate.
    fn take_over(&self, config: &Config, is_level_new: bool) -> anyhow::Result<bool> {
        let (scraping, ready) = (self.pki.metrics_server(config)?, Followed::look_at(config)?);
        let (given, tuning) = (config.api.given_now()?, api_config(config)?);
        let shows_another = self
            .pki
            .take_over(&config.api.names, given)
            .context("the control plane's certificate cannot be made anew")?;
        // Otherwise what somebody has set through the API stays.
        if is_level_new {
            self.log.set(&config.log.level)?;
        }
        self.scraping.change(scraping);
        self.tuning.change(&tuning);
        self.followed.change(ready);
        Ok(shows_another)
    }
}

fn values(shown: Vec<Shown>) -> BTreeMap<String, Shown> {
    shown.into_iter().map(|it| (it.key.clone(), it)).collect()
}

/// Reloads at each SIGHUP, until the shutdown.
pub(crate) async fn at_hangups(reloader: Arc<Reloader>, shutdown: CancellationToken) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::error!(%error, "SIGHUP cannot be listened for"),
    };
    while shutdown.run_until_cancelled(hangups.recv()).await.flatten().is_some() {
        let reloader = Arc::clone(&reloader);
        let reloaded = tokio::task::spawn_blocking(move || reloader.reload()).await;
        match reloaded.map_err(anyhow::Error::from).flatten() {
            Ok(changes) => {
                tracing::info!(changes = changes.len(), "SIGHUP: the configuration was read again")
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "SIGHUP: the configuration is not taken over")
            }
        }
    }
}
