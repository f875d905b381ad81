//! Between the hosts and the core: sessions, dispatches, reports.

use stella_domain::agent::Connectivity;
use stella_domain::command::{Outcome as Answer, Report, TenantCommand};
use stella_domain::rejection::Rejection;
use stella_domain::task::TaskState;
use stella_protocol::id::{AttemptKey, DeploymentId, SessionEpoch, TargetId};
use stella_protocol::message::{
    Accepted, Finished, Hello, Holding, Inspect, Resources, Running, TaskOutcome, capability,
};

use crate::dice::{happens, within};
use crate::fleet::NEW;
use crate::host::Attempt;
use crate::queue::{Happening, HostIndex};
use crate::scenario::Range;
use crate::world::World;

/// How long a word takes from here to there, in milliseconds.
const LATENCY_MS: u64 = 10;
/// How long a command takes to end when it is told to, in milliseconds.
const ENDING_MS: u64 = 1_000;
/// How long a host takes to read what it holds of the version before, unless the scenario says otherwise.
const LOOK: Range = Range { shortest_ms: 1_000, longest_ms: 5_000 };
/// The version that simulated agents say they have.
const VERSION: &str = "simulated";

impl World<'_> {
    pub(crate) fn send_dispatch(&mut self, key: AttemptKey, session: SessionEpoch) {
        let Some(task) = self.tenant().tasks.get(&key.task) else { return };
        let Some(index) = self.host_of(task.agent) else { return };
        if self.hosts[index].session == Some(session) && self.hosts[index].is_reachable() {
            self.queue.plan(self.now.plus_ms(LATENCY_MS), Happening::Dispatched(index, key));
        }
    }

    pub(crate) fn send_cancel(&mut self, key: AttemptKey) {
        let Some(task) = self.tenant().tasks.get(&key.task) else { return };
        let Some(index) = self.host_of(task.agent) else { return };
        if self.hosts[index].session.is_some() && self.hosts[index].is_reachable() {
            self.queue.plan(self.now.plus_ms(LATENCY_MS), Happening::CancelReached(index, key));
        }
    }

    /// What the core has for a host that was not told, or may not have come through.
    fn tell_again(&mut self, index: HostIndex) {
        let Some(session) = self.hosts[index].session else { return };
        let host = &self.hosts[index];
        let (mut dispatches, mut cancels) = (Vec::new(), Vec::new());
        for task in self.tenant().unsettled_tasks(host.agent) {
            let key = task.key();
            let is_sent = matches!(task.state, TaskState::Dispatched { session: of, .. } if of == session);
            if is_sent && !host.attempts.contains_key(&key) {
                dispatches.push(key);
            }
            if task.cancel_requested && task.state.is_open() {
                cancels.push(key);
            }
        }
        for key in dispatches {
            self.queue.plan(self.now.plus_ms(LATENCY_MS), Happening::Dispatched(index, key));
        }
        for key in cancels {
            self.queue.plan(self.now.plus_ms(LATENCY_MS), Happening::CancelReached(index, key));
        }
    }

    /// Hosts that are there are asked what they hold, and those that are not will be when they are back.
    pub(crate) fn send_questions(&mut self, deployment: DeploymentId, targets: &[TargetId]) {
        let agents = targets.iter().filter_map(|target| Some(self.tenant().targets.get(target)?.agent));
        for agent in agents.collect::<Vec<_>>() {
            if let Some(index) = self.host_of(agent) {
                self.send_question(index, deployment);
            }
        }
    }

    fn send_question(&mut self, index: HostIndex, deployment: DeploymentId) {
        let host = &self.hosts[index];
        if host.session.is_none() || !host.is_reachable() {
            return;
        }
        let mut source = self.dice.of("look", &[host.name.as_bytes(), deployment.0.as_bytes()]);
        let takes_ms = within(&mut source, self.scenario.environment.proof_takes.unwrap_or(LOOK));
        self.queue.plan(self.now.plus_ms(LATENCY_MS + takes_ms), Happening::Inspected(index, deployment));
    }

    /// A host says what it holds of the version before: all of it, unless it has lost that.
    pub(crate) fn inspected(&mut self, index: HostIndex, deployment: DeploymentId) -> Result<(), Rejection> {
        let host = &self.hosts[index];
        let (Some(session), true) = (host.session, host.is_reachable()) else { return Ok(()) };
        let agent = host.agent;
        let tenant = self.tenant();
        let mut open = tenant.inspections.get(&agent).into_iter().flatten();
        let Some((_, target)) = open.find(|(of, _)| *of == deployment) else { return Ok(()) };
        let Some(Inspect { question, wanted, .. }) = tenant.inspection(deployment, *target) else {
            return Ok(());
        };
        let mut source = self.dice.of("holds", &[host.name.as_bytes()]);
        let is_lost = happens(&mut source, self.scenario.environment.proof_fails);
        let holding = if is_lost { Holding::Absent } else { Holding::Present { files: 1, bytes: 1 } };
        let holdings = vec![holding; wanted.len()];
        self.tell(TenantCommand::AnswerInspection { agent, session, question, holdings }).map(drop)
    }

    pub(crate) fn session_lost(&mut self, index: HostIndex, session: SessionEpoch) -> Result<(), Rejection> {
        if let Some(until) = self.down_until {
            self.queue.plan(until, Happening::SessionLost(index, session));
            return Ok(());
        }
        let host = &mut self.hosts[index];
        if host.session == Some(session) {
            if host.is_reachable() {
                return Ok(());
            }
            host.session = None;
        }
        let agent = host.agent;
        let is_live = self.tenant().agents.get(&agent).is_some_and(|it| {
            it.session == session && matches!(it.connectivity, Connectivity::Online { .. })
        });
        if !is_live {
            return Ok(());
        }
        let reason = "no heartbeat".to_owned();
        self.tell(TenantCommand::DisconnectAgent { agent, session, reason }).map(drop)
    }

    /// A host dials, or is heard again on a session that nobody has missed.
    pub(crate) fn dials(&mut self, index: HostIndex) -> Result<(), Rejection> {
        let host = &self.hosts[index];
        if self.down_until.is_some() || !host.is_reachable() {
            // Whoever ends that has it dial again.
            return Ok(());
        }
        if host.session.is_none() {
            let hello = Hello {
                agent_version: VERSION.to_owned(),
                capabilities: capability::ARTIFACT
                    | capability::COMMAND
                    | capability::CHECK
                    | capability::SYSTEMD
                    | capability::HOLDINGS
                    | capability::LISTS_ALL,
                journal: host.journal,
                control_plane: None,
                open: host.open(),
                resources: Resources::default(),
            };
            let (agent, hello) = (host.agent, Box::new(hello));
            let connect = TenantCommand::ConnectAgent { agent, hello, journal_rolled_back: false };
            if let Answer::Session(session) = self.tell(connect)? {
                self.hosts[index].session = Some(session);
            }
        }
        let known: Vec<AttemptKey> = self.hosts[index].attempts.keys().copied().collect();
        for key in known {
            self.report_all(index, key)?;
        }
        self.tell_again(index);
        let agent = self.hosts[index].agent;
        let open = self.tenant().inspections.get(&agent).into_iter().flatten().map(|(of, _)| *of);
        for deployment in open.collect::<Vec<_>>() {
            self.send_question(index, deployment);
        }
        Ok(())
    }

    /// A host is told to do something.
    pub(crate) fn dispatched(&mut self, index: HostIndex, key: AttemptKey) -> Result<(), Rejection> {
        if !self.hosts[index].is_reachable() || self.hosts[index].session.is_none() {
            return Ok(());
        }
        if !self.hosts[index].attempts.contains_key(&key)
            && let Some((takes_ms, will)) = self.fate(index, key)
        {
            let number = self.queue.number();
            let attempt = Attempt { number, started_at: self.now, will, ended: None };
            self.hosts[index].attempts.insert(key, attempt);
            self.queue.plan(self.now.plus_ms(takes_ms), Happening::Ends(index, key, number));
        }
        self.report_all(index, key)
    }

    /// How long an attempt will take on a host, in milliseconds, and how it will end; `None` if there is no such task any more.
    fn fate(&self, index: HostIndex, key: AttemptKey) -> Option<(u64, TaskOutcome)> {
        let tenant = self.tenant();
        let task = tenant.tasks.get(&key.task)?;
        let part = tenant.deployments.get(&task.deployment)?.targets.get(&task.target)?;
        let step = self.scenario.steps.iter().find(|step| step.name == task.step)?;
        if !self.begun {
            return Some((1, TaskOutcome::Succeeded));
        }
        let name = self.hosts[index].name.as_bytes();
        let parts: [&[u8]; 4] =
            [name, part.release.0.as_bytes(), step.name.as_str().as_bytes(), &part.round.to_be_bytes()];
        let mut source = self.dice.of("step", &parts);
        let takes_ms = within(&mut source, step.takes);
        let is_broken = self.broken.get(&(step.name.clone(), index)).is_some_and(|count| *count > 0);
        let fails = part.release == NEW && (happens(&mut source, step.fails) || is_broken);
        if takes_ms > step.timeout.0 {
            return Some((step.timeout.0, TaskOutcome::TimedOut));
        }
        let failed =
            || TaskOutcome::Failed { reason: "it fails in the simulation".to_owned(), exit_code: None };
        Some((takes_ms, if fails { failed() } else { TaskOutcome::Succeeded }))
    }

    pub(crate) fn cancel_reached(&mut self, index: HostIndex, key: AttemptKey) -> Result<(), Rejection> {
        if !self.hosts[index].is_reachable() || self.hosts[index].session.is_none() {
            return Ok(());
        }
        let (now, number) = (self.now, self.queue.number());
        match self.hosts[index].attempts.get_mut(&key) {
            Some(attempt) if attempt.ended.is_none() => {
                (attempt.number, attempt.will) = (number, TaskOutcome::Cancelled);
                self.queue.plan(now.plus_ms(ENDING_MS), Happening::Ends(index, key, number));
                Ok(())
            }
            Some(_) => self.report_all(index, key),
            None => {
                // It never came, and whatever brings it later finds it ended.
                let ended = Some((now, TaskOutcome::Cancelled));
                let attempt = Attempt { number, started_at: now, will: TaskOutcome::Cancelled, ended };
                self.hosts[index].attempts.insert(key, attempt);
                self.report_all(index, key)
            }
        }
    }

    pub(crate) fn ends(&mut self, index: HostIndex, key: AttemptKey, number: u64) -> Result<(), Rejection> {
        let now = self.now;
        let Some(attempt) = self.hosts[index].attempts.get_mut(&key) else { return Ok(()) };
        if attempt.number != number || attempt.ended.is_some() {
            return Ok(());
        }
        attempt.ended = Some((now, attempt.will.clone()));
        self.report_all(index, key)
    }

    /// A host says all that it knows of an attempt. What was said before has no effect.
    fn report_all(&mut self, index: HostIndex, key: AttemptKey) -> Result<(), Rejection> {
        let host = &mut self.hosts[index];
        let (Some(session), true) = (host.session, host.is_reachable()) else { return Ok(()) };
        let position = host.record();
        let Some(attempt) = host.attempts.get(&key).cloned() else { return Ok(()) };
        let agent = host.agent;
        let mut reports = Vec::with_capacity(3);
        if !matches!(attempt.ended, Some((_, TaskOutcome::Cancelled))) {
            reports.push(Report::Accepted(Accepted { key, position }));
            reports.push(Report::Running(Running { key, started_at: attempt.started_at }));
        }
        if let Some((finished_at, outcome)) = attempt.ended {
            let started_at = Some(attempt.started_at);
            reports.push(Report::Finished(Finished { key, position, started_at, finished_at, outcome }));
        }
        for report in reports {
            let is_last = matches!(report, Report::Finished(_));
            match self.tell(TenantCommand::Report { agent, session, report }) {
                // What follows from the report may have ended this session in the same breath: it will be said again.
                Ok(_) if is_last => drop(self.hosts[index].attempts.remove(&key)),
                Ok(_) | Err(Rejection::SessionSuperseded) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}
