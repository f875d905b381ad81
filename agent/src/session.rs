//! The session with the control plane: dial, say hello, be welcomed, then report, obey and heartbeat, until it ends; and
//! again.
//!
//! A TLS handshake that succeeded proves nothing: with TLS 1.3 the server judges the client's certificate later. A session
//! exists from the welcome on, and a refused welcome is a failed try like any other.
//!
//! Reading order: [`Sessions`] (the loop), `connect` (dialling), `driver` (one session), `streams` (output), `artifacts`.

mod artifacts;
mod connect;
mod driver;
mod inspections;
mod renewal;
mod resolve;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::close::Advice;
use stella_protocol::message::FiguresAt;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use self::artifacts::SessionArtifacts;
pub use self::connect::Error as ConnectError;
pub(crate) use self::connect::{dial_enrolment, probe};
use self::resolve::Resolver;
pub use self::streams::Forwarder;
use crate::executor::{Surroundings, reason_of};
use crate::identity::Identity;
use crate::metrics::Pulse;
use crate::profile::Rights;
use crate::progress::Progress;
use crate::resources::Sampler;
use crate::retry::{Retry, SUCCESS_MIN};
use crate::runner::RunnerHandle;

/// The connection of the session that exists now. Everything beside the control stream goes through it.
pub type Link = quinn::Connection;

/// What sessions work with.
#[derive(Debug)]
pub struct Config {
    /// Where the control plane is, `host:port`.
    pub server: String,
    /// Where the identity is kept.
    pub state_dir: PathBuf,
    /// Looked into when the control plane asks what is there.
    pub surroundings: Surroundings,
    /// Whose turn it is to look. It outlives the sessions, as does a look that hangs with the host root's file system.
    pub questions: Arc<Semaphore>,
    /// How the host does.
    pub resources: Sampler,
    /// Who this agent is.
    pub identity: Identity,
    /// What tasks may do here.
    pub rights: Rights,
    /// The runner that sessions speak for.
    pub runner: RunnerHandle,
    /// Where the connection of the session is shown, from the welcome to its end.
    pub link: watch::Sender<Option<Link>>,
    /// Where heartbeats are noted.
    pub pulse: Arc<Pulse>,
    /// Where it is noted that sessions turn.
    pub progress: Arc<Progress>,
    /// Whether the agent sends the spans of its work to a collector itself.
    pub sends_spans: bool,
    /// Where scrapers on other hosts reach its own figures, if they do.
    pub figures: Option<FiguresAt>,
}

/// Keeps a session with the control plane.
#[derive(Debug)]
pub struct Sessions {
    config: Config,
    retry: Retry,
    resolver: Resolver,
}

/// Why a session is over or did not come to be, and what follows.
#[derive(Debug)]
struct End {
    advice: Advice,
    reason: String,
    /// Since when it was welcomed, if it was.
    welcomed_at: Option<Instant>,
}

impl Sessions {
    /// Sessions that begin with [`Self::run`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, retry: Retry::default(), resolver: Resolver::default() }
    }

    /// Keeps a session until `stop`; then it says goodbye.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let end = self.session(&stop).await;
            self.config.link.send_replace(None);
            if stop.is_cancelled() {
                return;
            }
            if end.welcomed_at.is_some_and(|at| at.elapsed() >= SUCCESS_MIN) {
                self.retry.succeeded();
            }
            let wait = self.retry.next_wait(end.advice);
            tell(&end, wait);
            self.config.progress.next_within(wait);
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn session(&mut self, stop: &CancellationToken) -> End {
        self.config.progress.next_within(connect::TRY_DURATION_MAX);
        let dialled = connect::dial_session(&self.config.server, &self.config.identity, &mut self.resolver);
        let connected = match stop.run_until_cancelled(dialled).await {
            Some(Ok(connected)) => connected,
            Some(Err(error)) => {
                return End { advice: error.advice(), reason: reason_of(&error), welcomed_at: None };
            }
            None => {
                return End {
                    advice: Advice::Retry,
                    reason: "the agent stops".to_owned(),
                    welcomed_at: None,
                };
            }
        };
        driver::drive(&mut self.config, connected, stop).await
    }
}

fn tell(end: &End, wait: Duration) {
    let (reason, wait_s) = (end.reason.as_str(), wait.as_secs_f32());
    match (end.advice, end.welcomed_at) {
        (Advice::NeedsOperator, _) => {
            tracing::error!(
                reason,
                wait_s,
                "the control plane does not take this agent; a person has to act"
            );
        }
        (Advice::Retry | Advice::RetrySlowly, Some(_)) => {
            tracing::warn!(reason, wait_s, "the session has ended")
        }
        (Advice::Retry | Advice::RetrySlowly, None) => {
            tracing::warn!(reason, wait_s, "no session with the control plane")
        }
    }
}
