//! The control plane's side of its agents: the QUIC listener, enrolment, sessions, dispatch, output and artifacts.
//!
//! One task for each connection, and a few for all of them. A session owns its control stream and decides nothing: what an
//! agent says becomes a command for the engine, and what the agent is told is read from the durable state. The
//! courier wakes a session when something was committed for its agent, and the sweep does it at
//! intervals; neither brings a message. A woken session compares the state with what it has sent and sends the rest.
//! There is therefore no queue of orders that could overflow, get lost, or run ahead of the disk.
//!
//! The journal knows nothing of sockets, and this crate nothing of how events are stored: it has a [`Handle`] to the
//! engine and no more.

mod courier;
mod enrol;
mod last_seen;
mod life;
mod limits;
mod listener;
mod orders;
mod pace;
mod registry;
mod session;
mod share;
mod socket;
mod streams;
mod sweep;
mod transport;
mod trust;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quinn::{Connection, Endpoint, VarInt};
use stella_certs::Authority;
use stella_certs::tls::ServerIdentity;
use stella_domain::agent::RECONNECT_WINDOW_MS;
use stella_engine::Handle;
use stella_parts::Parts;
use stella_protocol::close::CloseCode;
use stella_protocol::id::AgentId;
use stella_protocol::limits::{HEARTBEAT_INTERVAL_MS, HEARTBEATS_MISSED_MAX};
use stella_protocol::message::{Holding, Inspect};
use stella_protocol::network::Shares;
use stella_protocol::session::Millis;
use stella_protocol::time::Timestamp;
use stella_store::{ArtifactStore, OutputStore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use life::Life;
pub use registry::LiveFigures;

use limits::{CLOSE_TIME_MAX, DRAIN_TIME_MAX, ENROLMENTS, HANDSHAKES, TURNED_AWAY_MAX, UNPROVEN};
use pace::Pace;
use registry::Registry;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Where to listen (UDP). Port 0 takes any free one.
    pub listen: SocketAddr,
    /// How often agents send a heartbeat, in milliseconds. A session ends after three that are missing.
    pub heartbeat_interval_ms: u64,
    /// How long an agent's certificate is valid. Agents renew at two thirds of it.
    pub certificate_lifetime: Duration,
    /// How many agents may be connected. Beyond it they are told to come back later.
    pub sessions_max: usize,
    /// How often sessions are compared with the state even though nothing has woken them. An agent that the state has
    /// online without a session is taken for lost when two looks have found it so.
    pub reconcile_interval: Duration,
    /// How long agents that were connected before the start have to come back, on top of the heartbeats that may be missing. So long nothing
    /// follows from their silence: an agent may first have to notice that its connection is dead, waits for up to 30 s
    /// between its tries, and may be turned away once for want of room.
    pub return_time: Duration,
    /// How long an agent is asked nothing about attempts if its session has taken the place of one whose end nobody has seen. Another host that
    /// has the same identity, and is at work on them, is back by then and takes the session over: an agent that was superseded comes again
    /// after 15 s at the latest. So two hosts that supersede each other are not asked.
    pub probes_after: Duration,
    /// How often it is written down when agents were last heard.
    pub last_seen_interval: Duration,
}

impl FleetConfig {
    /// The usual choices.
    #[must_use]
    pub const fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
            certificate_lifetime: Duration::from_secs(14 * 24 * 60 * 60),
            sessions_max: 50_000,
            reconcile_interval: Duration::from_secs(5),
            return_time: Duration::from_millis(RECONNECT_WINDOW_MS).saturating_add(TURNED_AWAY_MAX),
            probes_after: Duration::from_secs(20),
            last_seen_interval: Duration::from_secs(10),
        }
    }

    /// How long after the start an agent that was connected before is waited for.
    const fn patience(&self) -> Duration {
        let heartbeats_ms = self.heartbeat_interval_ms.saturating_mul(HEARTBEATS_MISSED_MAX);
        Duration::from_millis(heartbeats_ms).saturating_add(self.return_time)
    }
}

/// What the fleet works with.
#[derive(Clone, Debug)]
pub struct FleetDeps {
    /// Decides and remembers. It has to outlive the fleet: stop it after [`Fleet::stopped`].
    pub engine: Handle,
    /// Issues certificates.
    pub authority: Arc<Authority>,
    /// The control plane's own certificate.
    pub identity: Arc<ServerIdentity>,
    /// Archives for agents to fetch.
    pub artifacts: Arc<ArtifactStore>,
    /// Where task output goes.
    pub output: Arc<OutputStore>,
    /// The file that keeps when agents were last heard; one beside it keeps when their certificates end.
    pub last_seen_file: PathBuf,
    /// Who watches over its tasks.
    pub parts: Parts,
}

/// Why the fleet cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The UDP socket cannot be opened.
    #[error("cannot listen on UDP {address}; is it in use, or not an address of this machine?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The certificates cannot be used for TLS.
    #[error("the certificates cannot be used for the agents' listener")]
    Tls(#[source] stella_certs::tls::Error),
    /// The TLS configuration has no cipher suite that QUIC needs.
    #[error("the TLS configuration cannot be used for QUIC")]
    Quic(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// The running fleet. Its tasks live until the token that it was started with is cancelled.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    identity: Arc<ServerIdentity>,
    local_addr: SocketAddr,
}

/// What all tasks of the fleet share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: FleetConfig,
    pub(crate) engine: Handle,
    pub(crate) authority: Arc<Authority>,
    pub(crate) artifacts: Arc<ArtifactStore>,
    pub(crate) output: Arc<OutputStore>,
    pub(crate) registry: Registry,
    /// Who has how many of the handshakes that are going on, or wait for their turn, of those who have proven their address.
    pub(crate) handshakes: Arc<Mutex<Shares>>,
    /// In whose name there are how many others.
    pub(crate) unproven: Arc<Mutex<Shares>>,
    /// Room for enrolments that are going on.
    pub(crate) enrolments: Arc<Mutex<Shares>>,
    pub(crate) pace: Pace,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
    started: Instant,
}

impl Shared {
    /// The sessions' clock.
    pub(crate) fn millis(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The moment of the runtime's clock that a moment of the sessions' clock is.
    pub(crate) fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.0)
    }
}

impl Fleet {
    /// Opens the socket and starts to serve. Cancel `shutdown`, then await [`Self::stopped`], to end it.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is left running.
    pub fn start(config: FleetConfig, deps: FleetDeps, shutdown: CancellationToken) -> Result<Self, Error> {
        let endpoint = transport::listen(config.listen, &deps.identity, &deps.authority.roots_der())?;
        let local_addr =
            endpoint.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?;
        let FleetDeps { engine, authority, identity, artifacts, output, last_seen_file, parts } = deps;
        let now = engine.now();
        // No time is after now: ages are not negative.
        let left = last_seen::load::<Timestamp>(&last_seen_file);
        let left = left.into_iter().map(|(agent, at)| (agent, at.min(now)));
        let lives = last_seen::load::<Life>(&last_seen::of_certificates(&last_seen_file));
        for result in session::RENEWALS {
            metrics::counter!("stella_fleet_renewals_total", "result" => result).increment(0);
        }
        let shared = Arc::new(Shared {
            config,
            engine,
            authority,
            artifacts,
            output,
            registry: Registry::new(left, lives),
            handshakes: Arc::new(Mutex::new(Shares::new(HANDSHAKES))),
            unproven: Arc::new(Mutex::new(Shares::new(UNPROVEN))),
            enrolments: Arc::new(Mutex::new(Shares::new(ENROLMENTS))),
            pace: Pace::new(),
            shutdown,
            tasks: TaskTracker::new(),
            started: Instant::now(),
        });
        // Before the listener: no commit may come between a session's first look at the state and the courier's.
        courier::begin(&shared);
        let until = shared.shutdown.clone();
        let work = courier::end(Arc::clone(&shared));
        shared.tasks.spawn(parts.essential("courier of agents", &until, work));
        shared.tasks.spawn(parts.essential("sweep of agents", &until, sweep::run(Arc::clone(&shared))));
        let work = listener::run(Arc::clone(&shared), endpoint.clone());
        shared.tasks.spawn(parts.essential("listener for agents", &until, work));
        let work = last_seen::run(Arc::clone(&shared), last_seen_file);
        shared.tasks.spawn(parts.other("memory of when agents were heard", &until, work));
        shared.engine.agents_can_come(shared.config.patience());
        tracing::info!(address = %local_addr, "listening for agents");
        Ok(Self { shared, endpoint, identity, local_addr })
    }

    /// Takes over which roots are trusted now, for connections to come, and has every session look at it: agents are told,
    /// and those whose certificate is of a root that is trusted no more are cut off. What they are told follows from the durable
    /// state: call it again when that has changed.
    ///
    /// # Errors
    /// If the roots cannot be used; those before stay.
    pub fn trust_has_changed(&self) -> Result<(), Error> {
        let server = transport::server_config(&self.identity, &self.shared.authority.roots_der())?;
        self.endpoint.set_server_config(Some(server));
        self.shared.registry.wake_all();
        Ok(())
    }

    /// Where agents reach it.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What is known of an agent's live session; `None` without one.
    #[must_use]
    pub fn live(&self, agent: AgentId) -> Option<LiveFigures> {
        self.shared.registry.get(agent).map(|link| link.figures())
    }

    /// When an agent was last heard, also when its session has ended since, or in an earlier life of this process;
    /// `None` if nobody knows.
    #[must_use]
    pub fn last_seen(&self, agent: AgentId) -> Option<Timestamp> {
        self.shared.registry.last_seen(agent)
    }

    /// The life of an agent's certificate, also when its session has ended since, or in an earlier life of this process; `None` if
    /// nobody knows.
    #[must_use]
    pub fn certificate(&self, agent: AgentId) -> Option<Life> {
        self.shared.registry.life(agent)
    }

    /// Asks an agent what its host holds, without a trace in the journal. `None` if it has no session, does not understand the
    /// question, does not answer within its time, or is asked too much.
    pub async fn inspect(&self, agent: AgentId, inspect: Inspect) -> Option<Vec<Holding>> {
        let patience = Duration::from_millis(inspect.timeout_ms);
        let answer = self.shared.registry.get(agent)?.ask(inspect);
        timeout(patience, answer).await.ok()?.ok()
    }

    /// How many agents have a session.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.registry.len()
    }

    /// Waits until the token is cancelled and all tasks have ended: every agent is told that the control plane shuts
    /// down. Of that the journal has nothing: it says nothing of the agents.
    pub async fn stopped(&self) {
        self.shared.shutdown.cancelled().await;
        self.shared.registry.wake_all();
        self.shared.tasks.close();
        if timeout(DRAIN_TIME_MAX, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.shared.tasks.len(),
                "some sessions did not end in time; their connections are cut"
            );
        }
        self.endpoint.close(quic_code(CloseCode::ShuttingDown), b"");
        if timeout(CLOSE_TIME_MAX, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some agents did not confirm the end of their connection");
        }
    }
}

/// Closes a connection with a code of the protocol and its text.
pub(crate) fn close(connection: &Connection, code: CloseCode) {
    connection.close(quic_code(code), code.to_string().as_bytes());
}

pub(crate) fn quic_code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.code())
}
