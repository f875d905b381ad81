//! Many simulated agents in this process: each has an identity, a QUIC connection and a session of its own.
//!
//! They heartbeat as told, accept and finish every task at once, and come back after a lost connection as real agents do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use quinn::Endpoint;
use stella_certs::EnrolmentToken;
use stella_protocol::message::{Accepted, Dispatch, Finished, Heartbeat, Resources, Running, TaskOutcome};
use stella_protocol::session::SendError;
use stella_protocol::session::agent::{AgentEvent, AgentSession};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::site::Site;
use crate::sim::{self, Identity, Memory, Session};
use crate::wait;

/// How many sockets the agents share: hosts have one each, but this process has not that many descriptors to spare.
const ENDPOINTS: usize = 16;

/// How many enrol at the same time: below what the control plane has places for.
const ENROLMENTS_AT_ONCE: usize = 32;

/// How often an enrolment is tried before it is given up.
const ENROLMENT_TRIES: u32 = 5;

/// The longest wait before the first try to come back, and before any.
const RETRY_FIRST_MAX: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The silence of the transport after which a real agent gives up a connection, in heartbeats and at least.
const SILENT_HEARTBEATS_MAX: u32 = 3;
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// What the agents have done, together.
#[derive(Debug, Default)]
pub struct Counters {
    /// Live sessions.
    pub online: AtomicUsize,
    /// Sessions that were welcomed.
    pub sessions: AtomicU64,
    /// Results that the control plane has acknowledged as durable.
    pub acknowledged: AtomicU64,
    /// Heartbeats sent.
    pub heartbeats: AtomicU64,
}

impl Counters {
    /// Live sessions.
    #[must_use]
    pub fn online(&self) -> usize {
        self.online.load(Ordering::Relaxed)
    }

    /// Acknowledged results.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// The agents. They are gone when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    /// What they have done.
    pub counters: Arc<Counters>,
    ids: Vec<String>,
    endpoints: Vec<Endpoint>,
    server: SocketAddr,
    stop: watch::Sender<bool>,
    agents: JoinSet<()>,
}

impl Fleet {
    /// No agents yet.
    ///
    /// # Errors
    /// If there are no sockets.
    pub fn new(server: SocketAddr) -> Result<Self> {
        let endpoints = (0..ENDPOINTS).map(|_| sim::endpoint()).collect::<Result<Vec<_>>>()?;
        let (stop, _) = watch::channel(false);
        let (counters, agents) = (Arc::default(), JoinSet::new());
        Ok(Self { counters, ids: Vec::new(), endpoints, server, stop, agents })
    }

    /// Enrols and connects more agents, until there are `count`; returns when all are welcomed.
    ///
    /// # Errors
    /// If not all of them get in.
    pub async fn grow_to(&mut self, site: &Site, count: usize) -> Result<()> {
        let missing = count.saturating_sub(self.ids.len());
        if missing == 0 {
            return Ok(());
        }
        let token = site.token(u32::try_from(missing)?).await?;
        let (endpoints, server, token) = (&self.endpoints, self.server, &token);
        let identities: Vec<Identity> = stream::iter(0..missing)
            .map(|number| enrol(&endpoints[number % ENDPOINTS], server, token))
            .buffer_unordered(ENROLMENTS_AT_ONCE)
            .try_collect()
            .await?;
        for (number, identity) in identities.into_iter().enumerate() {
            self.ids.push(identity.agent.to_string());
            let agent = Simulated {
                endpoint: self.endpoints[number % ENDPOINTS].clone(),
                server: self.server,
                client: identity.client()?,
                memory: Memory::default(),
                counters: Arc::clone(&self.counters),
            };
            self.agents.spawn(agent.run(self.stop.subscribe()));
        }
        self.wait_online(count).await
    }

    /// Waits until this many have a live session.
    ///
    /// # Errors
    /// If they do not get there in time.
    pub async fn wait_online(&self, count: usize) -> Result<()> {
        let patience = wait::PATIENCE * 2;
        wait::until_within(patience, &format!("{count} simulated agents are online"), async || {
            let online = self.counters.online();
            anyhow::ensure!(online >= count, "{online} are");
            Ok(())
        })
        .await
    }

    /// Their ids, in the order in which they came.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Lets all of them say goodbye.
    pub async fn leave(mut self) {
        // Nobody listens any more if all of them are gone.
        self.stop.send(true).ok();
        while self.agents.join_next().await.is_some() {}
    }
}

async fn enrol(endpoint: &Endpoint, server: SocketAddr, token: &EnrolmentToken) -> Result<Identity> {
    let mut tries = 0;
    loop {
        tries += 1;
        match sim::enrol(endpoint, server, token).await {
            Ok(identity) => return Ok(identity),
            Err(error) if tries == ENROLMENT_TRIES => {
                return Err(error.context("a simulated agent cannot enrol"));
            }
            // Too many at once, for example. The key was new, so nothing but a use of the token can be lost.
            Err(_) => sleep(RETRY_FIRST_MAX * tries).await,
        }
    }
}

struct Simulated {
    endpoint: Endpoint,
    server: SocketAddr,
    client: quinn::ClientConfig,
    memory: Memory,
    counters: Arc<Counters>,
}

/// What woke an agent.
enum Wake {
    Bytes,
    Timeout,
    Stop,
}

impl Simulated {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        while !*stop.borrow() {
            let opened = Session::open(&self.endpoint, self.server, self.client.clone(), &self.memory).await;
            if let Ok(session) = opened {
                failures = 0;
                self.counters.sessions.fetch_add(1, Ordering::Relaxed);
                self.counters.online.fetch_add(1, Ordering::Relaxed);
                self.live(session, &mut stop).await;
                self.counters.online.fetch_sub(1, Ordering::Relaxed);
            }
            let longest = RETRY_FIRST_MAX.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
            failures += 1;
            tokio::select! {
                () = sleep(longest.mul_f64(rand::random::<f64>())) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn live(&mut self, mut session: Session, stop: &mut watch::Receiver<bool>) {
        self.memory.control_plane = Some(session.welcome.control_plane);
        let interval = Duration::from_millis(session.welcome.heartbeat_interval_ms);
        let mut heard = (0, Instant::now());
        loop {
            if session.flush().await.is_err() {
                return;
            }
            let deadline = session.deadline().map_or_else(|| Instant::now() + interval, Instant::from_std);
            let wake = tokio::select! {
                () = session.read() => Wake::Bytes,
                () = sleep_until(deadline) => Wake::Timeout,
                _ = stop.changed() => Wake::Stop,
            };
            match wake {
                Wake::Bytes => {}
                Wake::Timeout => {
                    if is_silent(&session, &mut heard, interval) {
                        return;
                    }
                    self.heartbeat(&mut session);
                }
                Wake::Stop => {
                    // Whether the goodbye gets through is no matter.
                    session.logic.goodbye().ok();
                    session.flush().await.ok();
                    return;
                }
            }
            if self.obey(&mut session).await.is_none() {
                return;
            }
        }
    }

    fn heartbeat(&self, session: &mut Session) {
        let now = session.now();
        if session.logic.poll_heartbeat_due(now) {
            let beat = Heartbeat { position: self.memory.journal.position, resources: Resources::default() };
            if session.logic.heartbeat(beat, now).is_ok() {
                self.counters.heartbeats.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Does what was said; `None` if the session is over.
    async fn obey(&mut self, session: &mut Session) -> Option<()> {
        while let Some(event) = session.event() {
            match event {
                AgentEvent::Dispatch(dispatch) => self.finish(session, &dispatch.dispatch).await?,
                AgentEvent::Acknowledged(keys) => {
                    let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
                    self.counters.acknowledged.fetch_add(count, Ordering::Relaxed);
                }
                AgentEvent::Closed(_) => return None,
                AgentEvent::Welcomed(_)
                | AgentEvent::Cancel(_)
                | AgentEvent::End(_)
                | AgentEvent::Renewed(_)
                | AgentEvent::Trust(_)
                | AgentEvent::Inspect(_)
                | AgentEvent::Probe(_)
                | AgentEvent::WhereFigures
                | AgentEvent::Drain => {}
            }
        }
        Some(())
    }

    /// A whole life of a task, at once.
    async fn finish(&mut self, session: &mut Session, dispatch: &Dispatch) -> Option<()> {
        let (key, at) = (dispatch.key(), sim::now());
        let accepted = Accepted { key, position: self.memory.record() };
        let running = Running { key, started_at: at };
        let finished = Finished {
            key,
            position: self.memory.record(),
            started_at: Some(at),
            finished_at: at,
            outcome: TaskOutcome::Succeeded,
        };
        say(session, |logic| logic.accepted(accepted)).await?;
        say(session, |logic| logic.running(running)).await?;
        say(session, |logic| logic.finished(finished.clone())).await
    }
}

/// Queues a frame; `None` if the session is over.
async fn say(
    session: &mut Session,
    frame: impl Fn(&mut AgentSession) -> Result<(), SendError>,
) -> Option<()> {
    match frame(&mut session.logic) {
        Ok(()) => Some(()),
        Err(SendError::QueueFull { .. }) => {
            session.flush().await.ok()?;
            frame(&mut session.logic).ok()
        }
        Err(SendError::NotNow { .. } | SendError::ForeignDispatch { .. } | SendError::Frame(_)) => None,
    }
}

/// Every heartbeat is acknowledged by the other end's transport, so silence means that it is gone.
fn is_silent(session: &Session, heard: &mut (u64, Instant), interval: Duration) -> bool {
    let datagrams = session.connection.stats().udp_rx.datagrams;
    if datagrams != heard.0 {
        *heard = (datagrams, Instant::now());
    }
    heard.1.elapsed() > SILENCE_MIN.max(interval * SILENT_HEARTBEATS_MAX)
}

/// Waits until the control plane has acknowledged this many results in all.
///
/// # Errors
/// If it does not within the given time.
pub async fn wait_acknowledged(counters: &Counters, wanted: u64, patience: Duration) -> Result<()> {
    wait::until_within(patience, &format!("{wanted} results are acknowledged"), async || {
        let found = counters.acknowledged();
        anyhow::ensure!(found >= wanted, "{found} are");
        Ok(())
    })
    .await
    .context("the control plane does not keep up")
}
