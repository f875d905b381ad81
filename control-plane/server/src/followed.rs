//! Parts that take another configuration over while everything else goes on: whom people are told by, whom gates ask, where workflows may
//! call, and how long what has ended is kept.
//!
//! What they have to do is in the journal and not in them, as it has to be for a restart. So a part is ended in order and begun anew with
//! what is new, instead of each of them knowing how to change. Calls of workflows are the exception: one that is under way goes on,
//! because to begin anew is to call again.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use stella_api::{Outside, Reach};
use stella_engine::Handle;
use stella_notify::notifier::{Look, Notifier};
use stella_readers::place::StateFile;
use stella_store::{ArtifactStore, OutputStore};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::calls::{Caller, Destinations, Whose};
use crate::config::Config;
use crate::retention;

/// The pause before a part is begun again that could not be: the journal cannot be read.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);

/// The configuration that such parts follow.
#[derive(Debug)]
pub(crate) struct Followed {
    config: watch::Sender<Arc<Config>>,
    reach: Reach,
}

/// Another configuration that was looked at: nothing in it will fail.
#[derive(Debug)]
pub(crate) struct Ready(Arc<Config>, Outside);

impl Followed {
    /// # Errors
    /// As [`Self::look_at`].
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let Ready(config, outside) = Self::look_at(config)?;
        Ok(Self { config: watch::Sender::new(config), reach: Reach::new(outside) })
    }

    /// What gates and workflows may ask and call, for whoever sets them up.
    pub(crate) fn reach(&self) -> Reach {
        self.reach.clone()
    }

    /// The configuration, for a part that follows it.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Looks whether all parts can be begun with a configuration. Reads the files that it names.
    ///
    /// # Errors
    /// Names the key that makes no sense.
    pub(crate) fn look_at(config: &Config) -> anyhow::Result<Ready> {
        config.notifications.receivers()?;
        let notifications = config.notifications.clone();
        config.gates.sources()?;
        let destinations = Destinations::parse(&config.workflows)?;
        Caller::client(&destinations)?;
        let gates = config.gates.clone();
        let outside = Outside {
            prometheus: config.gates.prometheus.keys().cloned().collect(),
            http: config.gates.http.keys().cloned().collect(),
            may_ask: Arc::new(move |check, tenant, count| gates.may_ask(check, tenant, count)),
            may_call: Arc::new(move |(tenant, tenants), to, url| {
                destinations.refusal(Whose { tenant, tenants }, to, url)
            }),
            may_notify: Arc::new(move |tenant, receiver| notifications.may_notify(tenant, receiver)),
        };
        Ok(Ready(Arc::new(config.clone()), outside))
    }

    /// Takes it over.
    pub(crate) fn change(&self, Ready(config, outside): Ready) {
        self.reach.change(outside);
        self.config.send_replace(config);
    }
}

/// Tells people, if there is anybody to be told.
pub(crate) async fn notify(
    engine: Handle,
    look: Look,
    config: watch::Receiver<Arc<Config>>,
    until: CancellationToken,
) {
    let of = |config: &Config| {
        let told = &config.notifications;
        said(told, told.secret_files().chain(told.ca_files()))
    };
    anew(config, &until, of, |config, until| notify_as((engine.clone(), look.clone()), config, until)).await;
}

async fn notify_as((engine, look): (Handle, Look), config: Arc<Config>, until: CancellationToken) {
    loop {
        match notifier(&engine, &look, &config).await {
            Ok(None) => return,
            Ok(Some(notifier)) => return notifier.run(until).await,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "notifications cannot be made; it is tried again"
                );
            }
        }
        if until.run_until_cancelled(tokio::time::sleep(BEGIN_AGAIN)).await.is_none() {
            return;
        }
    }
}

async fn notifier(engine: &Handle, look: &Look, config: &Config) -> anyhow::Result<Option<Notifier>> {
    let receivers = config.notifications.receivers()?;
    if receivers.is_empty() {
        return Ok(None);
    }
    let file = StateFile::new(config.state_dir.join("notifications.json"));
    let routes = config.notifications.routes();
    let notifier = Notifier::start(engine.clone(), file, receivers, routes, look.clone()).await;
    notifier.map(Some).context("the journal")
}

/// Asks what gates want to know.
pub(crate) async fn ask(engine: Handle, config: watch::Receiver<Arc<Config>>, until: CancellationToken) {
    let of = |config: &Config| said(&config.gates, config.gates.files());
    anew(config, &until, of, |config, until| ask_as(engine.clone(), config, until)).await;
}

async fn ask_as(engine: Handle, config: Arc<Config>, until: CancellationToken) {
    loop {
        match config.gates.sources() {
            Ok(sources) => return stella_gates::run(engine, sources, until).await,
            // A file that is being replaced, perhaps.
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "gates cannot be asked; it is tried again");
            }
        }
        if until.run_until_cancelled(tokio::time::sleep(BEGIN_AGAIN)).await.is_none() {
            return;
        }
    }
}

/// Takes out of memory, and from the disk, what has ended long ago.
pub(crate) async fn retain(
    engine: Handle,
    (artifacts, output): (Arc<ArtifactStore>, Arc<OutputStore>),
    config: watch::Receiver<Arc<Config>>,
    until: CancellationToken,
) {
    let of = |config: &Config| said(&config.retention, std::iter::empty());
    anew(config, &until, of, |config, until| {
        let stores = (Arc::clone(&artifacts), Arc::clone(&output));
        retention::run(engine.clone(), stores, config.retention.clone(), until)
    })
    .await;
}

/// What a section says, with what is in the files that it names: what is rotated there is taken over as well.
fn said<'a>(section: &impl Serialize, files: impl Iterator<Item = &'a PathBuf>) -> Zeroizing<Vec<u8>> {
    let mut said = Zeroizing::new(serde_json::to_vec(section).unwrap_or_default());
    for file in files {
        said.extend(std::fs::read(file).unwrap_or_default());
    }
    said
}

/// Runs a part until `until` is cancelled, and begins it anew whenever what `of` finds is something else. One has ended before the next begins.
async fn anew<Work: Future<Output = ()>>(
    mut configs: watch::Receiver<Arc<Config>>,
    until: &CancellationToken,
    of: impl Fn(&Config) -> Zeroizing<Vec<u8>>,
    begin: impl Fn(Arc<Config>, CancellationToken) -> Work,
) {
    while !until.is_cancelled() {
        let config = Arc::clone(&configs.borrow_and_update());
        let (token, begun_with) = (until.child_token(), of(&config));
        let mut work = pin!(begin(config, token.clone()));
        let mut has_ended = false;
        loop {
            tokio::select! {
                // One that has nothing to do waits for a configuration that gives it something.
                () = &mut work, if !has_ended => has_ended = true,
                () = until.cancelled(), if has_ended => return,
                // Nobody is left to change anything: it goes on as it is.
                () = another(&mut configs) => if of(&configs.borrow_and_update()) != begun_with { break },
            }
        }
        token.cancel();
        if !has_ended {
            work.await;
        }
    }
}

/// Waits for the next configuration; for ever if none can come. Safe to drop and to call again.
pub(crate) async fn another<T>(configs: &mut watch::Receiver<T>) {
    if configs.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn keeping(days: u32) -> Arc<Config> {
        let mut config = Config::default();
        config.retention.output_days = days.into();
        Arc::new(config)
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_begun_anew_with_what_is_new_and_only_then_and_one_at_a_time() {
        let (sender, configs) = watch::channel(keeping(1));
        let until = CancellationToken::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&log);
        let stop = until.clone();
        let part = tokio::spawn(async move {
            let of = |config: &Config| said(&config.retention, std::iter::empty());
            anew(configs, &stop, of, async |config: Arc<Config>, until: CancellationToken| {
                let days = config.retention.output_days;
                noted.lock().push(format!("begins {days}"));
                if days == 0 {
                    return;
                }
                until.cancelled().await;
                // It has something to put in order.
                tokio::time::sleep(Duration::from_secs(1)).await;
                noted.lock().push(format!("ends {days}"));
            })
            .await;
        });
        let settle = || tokio::time::sleep(Duration::from_secs(5));
        for days in [1, 2, 2, 0, 3] {
            settle().await;
            sender.send_replace(keeping(days));
        }
        settle().await;
        assert_eq!(*log.lock(), ["begins 1", "ends 1", "begins 2", "ends 2", "begins 0", "begins 3"]);
        // Without anybody to change it, it goes on.
        drop(sender);
        settle().await;
        assert_eq!(log.lock().len(), 6);
        until.cancel();
        part.await.unwrap();
        assert_eq!(log.lock().last().unwrap(), "ends 3");
    }
}
