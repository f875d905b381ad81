//! Both ends of a session in virtual time, joined by a network with latency that cuts bytes into pieces and can fail, and
//! driven as the agent and the control plane drive them, with journals that survive a lost connection.

use std::collections::{BTreeMap, VecDeque};

use stella_protocol::frame::HEADER_BYTES;
use stella_protocol::id::{AttemptKey, DeploymentId, Generation, Position, SessionEpoch, TargetId};
use stella_protocol::message::{
    Accepted, Dispatch, Finished, Heartbeat, Hello, OpenAttempt, Phase, Running, TaskOutcome, Welcome,
};
use stella_protocol::session::agent::{AgentEvent, AgentSession};
use stella_protocol::session::control::{ControlEvent, ControlSession};
use stella_protocol::session::{CloseReason, Millis};
use stella_protocol::spec::{CommandSpec, TaskSpec};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceParent;

use super::{Choices, hello, mark, resources, uuid};

pub(crate) const INTERVAL_MS: u64 = 1000;

/// One direction of the network.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    in_flight: VecDeque<(Millis, Vec<u8>)>,
    /// Swallows what is sent from here on.
    pub(crate) swallows: bool,
}

impl Pipe {
    /// In pieces of any size, in order, each after its latency.
    fn send(&mut self, mut bytes: &[u8], now: Millis, choices: &mut Choices) {
        while !bytes.is_empty() && !self.swallows {
            let (piece, rest) = bytes.split_at(1 + choices.below(bytes.len()));
            let last = self.in_flight.back().map_or(now, |(at, _)| *at);
            let latency_ms = 1 + u64::try_from(choices.below(20)).unwrap();
            self.in_flight.push_back((last.max(now.plus(latency_ms)), piece.to_vec()));
            bytes = rest;
        }
    }

    fn next_at(&self) -> Option<Millis> {
        self.in_flight.front().map(|(at, _)| *at)
    }

    fn receive(&mut self, now: Millis) -> Option<Vec<u8>> {
        self.in_flight.pop_front_if(|(at, _)| *at <= now).map(|(_, bytes)| bytes)
    }
}

/// A live connection: both sessions and the network between them.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) agent: AgentSession,
    pub(crate) control: ControlSession,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) connection: Connection,
    choices: Choices,
    epoch: SessionEpoch,
    /// The agent's journal: what is open, and when what runs will end.
    pub(crate) on_agent: BTreeMap<AttemptKey, (Phase, Millis)>,
    /// How often each attempt was started. More than once would be a disaster.
    pub(crate) starts: BTreeMap<AttemptKey, u32>,
    /// The control plane's journal.
    pub(crate) on_control: BTreeMap<AttemptKey, Option<TaskOutcome>>,
    /// All events in their order, in words, each with its time.
    pub(crate) story: Vec<(Millis, String)>,
    pub(crate) closed: Vec<(&'static str, CloseReason)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Millis(1),
            connection: connect(hello(), Millis(1)),
            choices: Choices::new(seed),
            epoch: SessionEpoch(0),
            on_agent: BTreeMap::new(),
            starts: BTreeMap::new(),
            on_control: BTreeMap::new(),
            story: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Until `done` holds; a story that takes an hour of virtual time has got stuck.
    pub(crate) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert!(self.now < Millis(3_600_000), "{what} never happened; {:?}", self.story);
            self.step();
        }
    }

    /// Whether anything happened whose words begin so.
    pub(crate) fn saw(&self, words: &str) -> bool {
        self.story.iter().any(|(_, said)| said.starts_with(words))
    }

    /// To the next moment at which anything happens, and through it: bytes first, then timers, then tasks.
    pub(crate) fn step(&mut self) {
        self.transmit();
        let Connection { agent, control, up, down } = &self.connection;
        let timers = [agent.poll_timeout(), control.poll_timeout()].into_iter().flatten().map(|(_, at)| at);
        let tasks = self.on_agent.values().filter(|(phase, _)| *phase == Phase::Running).map(|(_, end)| *end);
        let next = timers.chain(tasks).chain(up.next_at()).chain(down.next_at()).min();
        let Some(next) = next else {
            // Both ends have given up, and only the agent tries again.
            return self.reconnect();
        };
        self.now = self.now.max(next);

        while let Some(bytes) = self.connection.up.receive(self.now) {
            self.connection.control.handle_bytes(&bytes);
            self.act_on_control();
        }
        while let Some(bytes) = self.connection.down.receive(self.now) {
            self.connection.agent.handle_bytes(&bytes);
            self.act_on_agent();
        }
        self.connection.control.handle_timeout(self.now);
        self.connection.agent.handle_timeout(self.now);
        self.act_on_control();
        self.act_on_agent();
        if self.connection.agent.poll_heartbeat_due(self.now) {
            let heartbeat = Heartbeat { position: Position(1), resources: resources() };
            self.connection.agent.heartbeat(heartbeat, self.now).unwrap();
        }
        self.end_tasks();
    }

    /// The control plane decides on a task, and sends it if it can.
    pub(crate) fn create(&mut self, key: AttemptKey) {
        self.on_control.insert(key, None);
        if self.connection.control.session().is_some() {
            self.dispatch(key);
        }
    }

    /// The network breaks, and the agent connects again at once.
    pub(crate) fn reconnect(&mut self) {
        self.connection.agent.handle_lost();
        self.connection.control.handle_lost();
        self.act_on_control();
        self.act_on_agent();
        let open = self.on_agent.iter().map(|(key, (phase, _))| OpenAttempt { key: *key, phase: *phase });
        self.connection = connect(Hello { open: open.collect(), ..hello() }, self.now);
    }

    fn transmit(&mut self) {
        while let Some(bytes) = self.connection.agent.poll_transmit() {
            assert!(bytes.len() >= HEADER_BYTES);
            self.connection.up.send(&bytes, self.now, &mut self.choices);
        }
        while let Some(bytes) = self.connection.control.poll_transmit() {
            self.connection.down.send(&bytes, self.now, &mut self.choices);
        }
    }

    fn dispatch(&mut self, key: AttemptKey) {
        let dispatch = dispatch(key, self.epoch);
        self.connection.control.dispatch(Box::new(dispatch)).unwrap();
    }

    fn tell(&mut self, words: String) {
        self.story.push((self.now, words));
    }

    fn act_on_control(&mut self) {
        while let Some(event) = self.connection.control.poll_event(self.now) {
            match event {
                ControlEvent::Hello(hello) => self.welcome(&hello),
                ControlEvent::Heartbeat(_) => self.tell("heartbeat".into()),
                ControlEvent::Accepted(accepted) => self.tell(format!("accepted {}", accepted.key)),
                ControlEvent::Running(running) => self.tell(format!("running {}", running.key)),
                ControlEvent::Finished(finished) => {
                    let known = self.on_control.get_mut(&finished.key).expect("no result without a task");
                    if known.replace(finished.outcome).is_none() {
                        self.tell(format!("finished {}", finished.key));
                    }
                    self.connection.control.acknowledge(finished.key).unwrap();
                }
                ControlEvent::Renew(_)
                | ControlEvent::Trusts(_)
                | ControlEvent::Inspected(_)
                | ControlEvent::FiguresAt(_)
                | ControlEvent::Ending(_)
                | ControlEvent::Probed(_) => {
                    unreachable!("nobody asks for a certificate, or about a host, here")
                }
                ControlEvent::Closed(reason) => self.closed.push(("control", reason)),
            }
        }
    }

    /// What the agent lists and is done here is settled; what it does not list never reached it and is sent again.
    fn welcome(&mut self, hello: &Hello) {
        self.epoch = self.epoch.next();
        let is_done = |key: &AttemptKey| self.on_control[key].is_some();
        let welcome = Welcome {
            session: self.epoch,
            control_plane: mark(0xc1, 1),
            heartbeat_interval_ms: INTERVAL_MS,
            settled: hello.open.iter().map(|open| open.key).filter(is_done).collect(),
            now: Timestamp(0),
        };
        self.connection.control.welcome(welcome, self.now).unwrap();
        let open: Vec<_> = hello.open.iter().map(|open| open.key).collect();
        let unsent = self.on_control.iter().filter(|(key, outcome)| outcome.is_none() && !open.contains(key));
        for key in unsent.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.dispatch(key);
        }
        self.tell(format!("session {}", self.epoch));
    }

    fn act_on_agent(&mut self) {
        while let Some(event) = self.connection.agent.poll_event(self.now) {
            match event {
                AgentEvent::Welcomed(welcome) => {
                    self.tell(format!("welcomed {}", welcome.session));
                    self.on_agent.retain(|key, _| !welcome.settled.contains(key));
                    self.report_finished();
                }
                AgentEvent::Dispatch(traced) => self.start(traced.dispatch.key()),
                AgentEvent::Acknowledged(keys) => {
                    self.on_agent.retain(|key, _| !keys.contains(key));
                    self.tell(format!("acknowledged {}", keys.len()));
                }
                AgentEvent::Cancel(_)
                | AgentEvent::End(_)
                | AgentEvent::Renewed(_)
                | AgentEvent::Trust(_)
                | AgentEvent::Inspect(_)
                | AgentEvent::Probe(_)
                | AgentEvent::WhereFigures
                | AgentEvent::Drain => self.tell(format!("agent: {event:?}")),
                AgentEvent::Closed(reason) => self.closed.push(("agent", reason)),
            }
        }
    }

    fn start(&mut self, key: AttemptKey) {
        let duration_ms = u64::try_from(self.choices.below(2000)).unwrap();
        self.on_agent.insert(key, (Phase::Running, self.now.plus(duration_ms)));
        *self.starts.entry(key).or_default() += 1;
        self.connection.agent.accepted(Accepted { key, position: Position(1) }).unwrap();
        self.connection.agent.running(Running { key, started_at: Timestamp(self.now.0) }).unwrap();
    }

    fn end_tasks(&mut self) {
        let mut ended = Vec::new();
        for (key, (phase, end)) in &mut self.on_agent {
            if *phase == Phase::Running && *end <= self.now {
                *phase = Phase::Finished;
                ended.push(*key);
            }
        }
        if self.connection.agent.session().is_some() {
            ended.into_iter().for_each(|key| self.report(key));
        }
    }

    fn report_finished(&mut self) {
        let finished = self.on_agent.iter().filter(|(_, (phase, _))| *phase == Phase::Finished);
        finished.map(|(key, _)| *key).collect::<Vec<_>>().into_iter().for_each(|key| self.report(key));
    }

    fn report(&mut self, key: AttemptKey) {
        self.connection.agent.finished(finished(key)).unwrap();
    }
}

pub(crate) fn finished(key: AttemptKey) -> Finished {
    Finished {
        key,
        position: Position(2),
        started_at: None,
        finished_at: Timestamp(9),
        outcome: TaskOutcome::Succeeded,
    }
}

pub(crate) fn dispatch(key: AttemptKey, session: SessionEpoch) -> Dispatch {
    Dispatch {
        task: key.task,
        attempt: key.attempt,
        session,
        deployment: DeploymentId(uuid(0xd1)),
        target: TargetId(uuid(0xe1)),
        target_name: "web-1".into(),
        slot: None,
        generation: Generation(1),
        release_version: "1.0.0".into(),
        spec: TaskSpec::Command(command()),
        trace: TraceParent::default(),
    }
}

pub(crate) fn command() -> CommandSpec {
    CommandSpec {
        argv: vec!["/bin/true".into()],
        environment: BTreeMap::new(),
        working_directory: None,
        user: None,
        timeout_ms: 1000,
    }
}

fn connect(hello: Hello, now: Millis) -> Connection {
    Connection {
        agent: AgentSession::new(hello, now).unwrap(),
        control: ControlSession::new(now),
        up: Pipe::default(),
        down: Pipe::default(),
    }
}
