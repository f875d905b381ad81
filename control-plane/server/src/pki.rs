//! The control plane's certificates: its authority, its own, and what its API shows.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use parking_lot::Mutex;
use stella_certs::authority::rotation::{Pair, Phase, Status};
use stella_certs::tls::{self, ServerIdentity};
use stella_certs::{Authority, GivenCertificate, ServerCertificate};
use tokio_util::sync::CancellationToken;

use crate::authority::Step;
use crate::config::Config;

/// How long the control plane's own certificate is valid. It is made anew at every start and daily in between.
const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How often it is made anew.
const SERVER_CERTIFICATE_RENEWAL: Duration = Duration::from_secs(86_400);

/// The certificates: the authority, and the control plane's own.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    pub(crate) authority: Arc<Authority>,
    /// What agents and scrapers are shown.
    pub(crate) identity: Arc<ServerIdentity>,
    /// What the API shows: the same, or what was given for it.
    pub(crate) api: Arc<ServerIdentity>,
    chosen: Arc<Mutex<Chosen>>,
    /// When what is shown, and what it is issued under, ends.
    ends: Arc<Mutex<Ends>>,
}

/// Certificates by name, each with its end.
pub(crate) type Ends = Vec<(&'static str, End)>;

/// How long before its end a certificate should have been replaced.
const REPLACED_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// The end of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) at: SystemTime,
    /// Without another one by then, somebody is told.
    pub(crate) due: SystemTime,
}

impl End {
    /// Of one that the control plane makes or its people rotate: long before the last day, whoever made it last.
    pub(crate) fn of_ours(at: SystemTime) -> Self {
        Self::with_left(at, REPLACED_BEFORE)
    }

    /// Of one that somebody else has issued.
    pub(crate) fn of_given((begins, at): (SystemTime, SystemTime)) -> Self {
        Self::with_left(at, given_ends_soon((begins, at)))
    }

    fn with_left(at: SystemTime, left: Duration) -> Self {
        Self { at, due: at.checked_sub(left).unwrap_or(SystemTime::UNIX_EPOCH) }
    }
}

/// How much is left of a certificate that somebody else has issued when it should have been renewed; of one that is issued for a short
/// time, a quarter of its life: automatic renewal comes at a third.
pub(crate) fn given_ends_soon((begins, ends): (SystemTime, SystemTime)) -> Duration {
    REPLACED_BEFORE.min(ends.duration_since(begins).unwrap_or_default() / 4)
}

/// What a configuration says of certificates.
#[derive(Debug)]
struct Chosen {
    /// The names in the control plane's own beside the local ones.
    names: Vec<String>,
    /// One that somebody else has issued, for the API.
    given: Option<GivenCertificate>,
}

impl Chosen {
    /// The API shows what was given for it, and otherwise the control plane's own.
    fn show(&self, own: &ServerCertificate, api: &ServerIdentity) -> anyhow::Result<()> {
        match &self.given {
            Some(given) => api.replace_by_given(given),
            None => api.replace(own)?,
        }
        Ok(())
    }

    fn api_ends(&self, own: &ServerCertificate) -> End {
        self.given
            .as_ref()
            .map_or_else(|| End::of_ours(own.not_after), |given| End::of_given(given.validity()))
    }
}

/// When all of them end. While there are two roots, after the switch to the new one, the old one and what is under it are still trusted.
fn ends_of(own: &ServerCertificate, api: End, authority: &Status) -> Ends {
    let Pair { issuing_not_after, root_not_after, .. } = &authority.active;
    let ours = |name, at: &SystemTime| (name, End::of_ours(*at));
    let mut ends = vec![
        ("api", api),
        ours("server", &own.not_after),
        ours("issuing", issuing_not_after),
        ours("root", root_not_after),
    ];
    if let (Some(Phase::Switched), Some(old)) = (authority.phase, &authority.other) {
        ends.extend([ours("old_issuing", &old.issuing_not_after), ours("old_root", &old.root_not_after)]);
    }
    ends
}

impl Pki {
    /// # Errors
    /// If the authority cannot be opened, or what was given for the API makes no sense.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let authority = Authority::open_or_create(&config.state_dir.join("pki"), now)
            .context("the certificate authority cannot be opened")?;
        let own = authority.issue_server(&config.api.names, now, SERVER_CERTIFICATE_LIFETIME)?;
        let chosen = Chosen { names: config.api.names.clone(), given: config.api.given()? };
        // Not valid now is no reason to leave agents alone.
        if let Some(Err(error)) = chosen.given.as_ref().map(|given| given.valid_at(now)) {
            tracing::error!(%error, "the API shows a certificate (api.certificate) that no caller takes");
        }
        let (identity, api) = (ServerIdentity::new(&own)?, ServerIdentity::new(&own)?);
        chosen.show(&own, &api)?;
        let ends = ends_of(&own, chosen.api_ends(&own), &authority.status());
        let (authority, chosen) = (Arc::new(authority), Arc::new(Mutex::new(chosen)));
        Ok(Self { authority, identity, api, chosen, ends: Arc::new(Mutex::new(ends)) })
    }

    /// How the metrics' listener speaks TLS.
    ///
    /// # Errors
    /// If the authorities of scrapers cannot be read.
    pub(crate) fn metrics_server(&self, config: &Config) -> anyhow::Result<rustls::ServerConfig> {
        Ok(tls::metrics_server(&self.identity, config.metrics.client_roots()?.as_deref())?)
    }

    /// Makes the control plane's certificate anew, with these names from now on, and has the API show what was given for it. Whether that
    /// is another one than before.
    ///
    /// # Errors
    /// If it cannot be made; what was there before stays.
    pub(crate) fn take_over(
        &self,
        names: &[String],
        given: Option<GivenCertificate>,
    ) -> anyhow::Result<bool> {
        let mut chosen = self.chosen.lock();
        let own = self.authority.issue_server(names, SystemTime::now(), SERVER_CERTIFICATE_LIFETIME)?;
        let is_another = chosen.given != given;
        let new = Chosen { names: names.to_vec(), given };
        self.identity.replace(&own)?;
        new.show(&own, &self.api)?;
        *self.ends.lock() = ends_of(&own, new.api_ends(&own), &self.status());
        *chosen = new;
        Ok(is_another)
    }

    /// Makes the control plane's certificate anew.
    ///
    /// # Errors
    /// If it cannot be made; the one before stays.
    fn renew(&self) -> anyhow::Result<()> {
        let chosen = self.chosen.lock();
        let own =
            self.authority.issue_server(&chosen.names, SystemTime::now(), SERVER_CERTIFICATE_LIFETIME)?;
        self.identity.replace(&own)?;
        chosen.show(&own, &self.api)?;
        *self.ends.lock() = ends_of(&own, chosen.api_ends(&own), &self.status());
        Ok(())
    }

    pub(crate) fn status(&self) -> Status {
        self.authority.status()
    }

    /// When each certificate ends.
    pub(crate) fn ends(&self) -> Ends {
        self.ends.lock().clone()
    }

    /// Does a step of the authority, and makes the control plane's certificate anew under what issues then.
    ///
    /// # Errors
    /// If it cannot be done; what was there before goes on.
    pub(crate) fn step(&self, step: Step) -> anyhow::Result<()> {
        let now = SystemTime::now();
        match step {
            Step::Status => return Ok(()),
            Step::RotateIssuing => self.authority.rotate_issuing(now)?,
            Step::Start => self.authority.start_rotation(now)?,
            Step::Switch => self.authority.switch_root(now)?,
            Step::Finish { .. } => self.authority.finish_rotation(now)?,
            Step::Cancel => self.authority.cancel_rotation(now)?,
        }
        self.renew()
    }
}

/// Makes it anew daily, until the shutdown.
pub(crate) async fn renew(pki: Pki, shutdown: CancellationToken) {
    while tokio::time::timeout(SERVER_CERTIFICATE_RENEWAL, shutdown.cancelled()).await.is_err() {
        match pki.renew() {
            Ok(()) => tracing::info!("the control plane's certificate was renewed"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the control plane's certificate was not renewed"
            ),
        }
    }
}
