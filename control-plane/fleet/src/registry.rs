//! Which agents have a session, and what only memory knows of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quinn::Connection;
use stella_protocol::id::{AgentId, SessionEpoch, TenantId};
use stella_protocol::message::{Holding, Inspect, Resources};
use stella_protocol::time::Timestamp;
use tokio::sync::{Notify, oneshot};

use crate::life::Life;
use crate::limits::ASKERS_MAX;

/// What is known of an agent's live session. None of it is in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveFigures {
    /// The session.
    pub session: SessionEpoch,
    /// When the agent was last heard, by the control plane's clock.
    pub last_seen: Timestamp,
    /// How its host did then.
    pub resources: Resources,
    /// Where it connects from now.
    pub remote: SocketAddr,
    /// The connection's round trip time.
    pub rtt: Duration,
    /// How many packets were sent on this connection.
    pub packets_sent: u64,
    /// How many of them were lost.
    pub packets_lost: u64,
}

/// Who waits for the answer to a question about a host.
pub(crate) type Asker = oneshot::Sender<Vec<Holding>>;

/// A live session, as others see it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) session: SessionEpoch,
    /// Tells the session to look at the state again.
    pub(crate) wake: Notify,
    connection: Connection,
    heard: Mutex<(Timestamp, Resources)>,
    /// Of the certificate that the agent comes back with.
    life: Mutex<Life>,
    /// What somebody wants to know about the host, until the session takes it.
    questions: Mutex<Vec<(Inspect, Asker)>>,
}

impl Link {
    pub(crate) fn new(
        tenant: TenantId,
        agent: AgentId,
        session: SessionEpoch,
        connection: Connection,
        heard: (Timestamp, Resources),
        life: Life,
    ) -> Arc<Self> {
        let (wake, heard, questions) = (Notify::new(), Mutex::new(heard), Mutex::default());
        let life = Mutex::new(life);
        Arc::new(Self { tenant, agent, session, wake, connection, heard, life, questions })
    }

    pub(crate) fn set_life(&self, life: Life) {
        *self.life.lock() = life;
    }

    /// Has the session ask something; the answer never comes if it cannot, or too many ask.
    pub(crate) fn ask(&self, inspect: Inspect) -> oneshot::Receiver<Vec<Holding>> {
        let (asker, answer) = oneshot::channel();
        let mut questions = self.questions.lock();
        questions.retain(|(_, asker)| !asker.is_closed());
        if questions.len() < ASKERS_MAX {
            questions.push((inspect, asker));
            self.wake.notify_one();
        }
        answer
    }

    pub(crate) fn take_questions(&self) -> Vec<(Inspect, Asker)> {
        std::mem::take(&mut *self.questions.lock())
    }

    pub(crate) fn heard(&self, at: Timestamp, resources: Option<Resources>) {
        let mut heard = self.heard.lock();
        heard.0 = at;
        if let Some(resources) = resources {
            heard.1 = resources;
        }
    }

    pub(crate) fn figures(&self) -> LiveFigures {
        let (last_seen, resources) = *self.heard.lock();
        let path = self.connection.stats().path;
        LiveFigures {
            session: self.session,
            last_seen,
            resources,
            remote: self.connection.remote_address(),
            rtt: path.rtt,
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
        }
    }
}

/// The live sessions: at most one an agent, and always the newest.
#[derive(Debug)]
pub(crate) struct Registry {
    links: RwLock<HashMap<AgentId, Arc<Link>>>,
    /// When agents were last heard whose session has ended. As many as have an identity, which the state keeps too.
    left: Mutex<HashMap<AgentId, Timestamp>>,
    /// The certificates of such agents.
    lives: Mutex<HashMap<AgentId, Life>>,
}

impl Registry {
    /// One that knows when agents were last heard before, and with which certificates.
    pub(crate) fn new(
        left: impl IntoIterator<Item = (AgentId, Timestamp)>,
        lives: impl IntoIterator<Item = (AgentId, Life)>,
    ) -> Self {
        let (left, lives) = (left.into_iter().collect(), lives.into_iter().collect());
        Self { links: RwLock::default(), left: Mutex::new(left), lives: Mutex::new(lives) }
    }

    /// Enters a session, and wakes the older one that it takes the place of. A session that is itself the older one is
    /// not entered, and finds out from the state.
    pub(crate) fn enter(&self, link: &Arc<Link>) {
        let mut links = self.links.write();
        match links.get(&link.agent) {
            Some(other) if other.session > link.session => return,
            Some(other) => other.wake.notify_one(),
            None => {}
        }
        links.insert(link.agent, Arc::clone(link));
        Self::publish_size(&links);
    }

    /// Takes a session out, unless a newer one has its place.
    pub(crate) fn leave(&self, link: &Arc<Link>) {
        let heard = link.heard.lock().0;
        // Before the link goes: an agent is never without one or the other.
        self.left.lock().entry(link.agent).and_modify(|last| *last = heard.max(*last)).or_insert(heard);
        let mut links = self.links.write();
        if links.get(&link.agent).is_some_and(|entered| Arc::ptr_eq(entered, link)) {
            self.lives.lock().insert(link.agent, *link.life.lock());
            links.remove(&link.agent);
        }
        Self::publish_size(&links);
    }

    pub(crate) fn get(&self, agent: AgentId) -> Option<Arc<Link>> {
        self.links.read().get(&agent).cloned()
    }

    /// When an agent was last heard, now or in a session that has ended.
    pub(crate) fn last_seen(&self, agent: AgentId) -> Option<Timestamp> {
        let live = self.get(agent).map(|link| link.heard.lock().0);
        live.or_else(|| self.left.lock().get(&agent).copied())
    }

    /// The life of the certificate that an agent has, as far as that is known: from its session, or the one before.
    pub(crate) fn life(&self, agent: AgentId) -> Option<Life> {
        let live = self.get(agent).map(|link| *link.life.lock());
        live.or_else(|| self.lives.lock().get(&agent).copied())
    }

    pub(crate) fn len(&self) -> usize {
        self.links.read().len()
    }

    pub(crate) fn wake(&self, agent: AgentId) {
        if let Some(link) = self.links.read().get(&agent) {
            link.wake.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        self.wake_where(|_| true);
    }

    /// What is asked of each may take long, and the thread that flushes wakes sessions here too: it waits for none of that.
    pub(crate) fn wake_where(&self, wanted: impl Fn(&Link) -> bool) {
        let links: Vec<Arc<Link>> = self.links.read().values().cloned().collect();
        for link in links.iter().filter(|link| wanted(link)) {
            link.wake.notify_one();
        }
    }

    fn publish_size(links: &HashMap<AgentId, Arc<Link>>) {
        let size = u32::try_from(links.len()).unwrap_or(u32::MAX);
        metrics::gauge!("stella_fleet_sessions").set(f64::from(size));
    }
}
