//! The clock, the core, and what comes to it.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use stella_domain::command::{Actor, Command, Outcome as Answer, Request, SystemCommand, TenantCommand};
use stella_domain::decide::{Decision, decide};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::listening::Listening;
use stella_domain::name::{Name, NameError};
use stella_domain::rejection::Rejection;
use stella_domain::state::State;
use stella_domain::tenant::{TenantState, Timer};
use stella_protocol::id::{AgentId, PromotionId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use crate::dice::Dice;
use crate::figures::{Figures, Log, Outcome, Waits};
use crate::fleet::{DEPLOYMENT, TENANT};
use crate::host::Host;
use crate::queue::{Happening, HostIndex, Queue};
use crate::scenario::{HORIZON_MS, Scenario};

/// How long before the request the fleet is set up, in milliseconds.
const SETUP_MS: u64 = 24 * 3_600_000;
/// How long timers wait after nothing but held-back ones was due, in milliseconds.
const HELD_BACK_PAUSE_MS: u64 = 250;

/// That the core refuses what the scenario asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Impossible {
    /// The field of the scenario that it is about.
    pub field: String,
    /// Why, and what would be right.
    pub problem: String,
}

impl Impossible {
    /// That the core has refused something of this part of a scenario.
    pub(crate) fn from_core(part: &str, rejection: &Rejection) -> Self {
        if let Rejection::Invalid { field, problem } = rejection {
            return Self { field: format!("{part}.{field}"), problem: problem.clone() };
        }
        Self { field: part.to_owned(), problem: rejection.to_string() }
    }

    /// That a name in this part is none.
    pub(crate) fn name(part: &str, error: &NameError) -> Self {
        Self { field: part.to_owned(), problem: error.to_string() }
    }
}

/// One simulation.
pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) dice: Dice,
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    pub(crate) queue: Queue,
    pub(crate) hosts: Vec<Host>,
    /// Which hosts each fault meets.
    pub(crate) struck: Vec<Vec<HostIndex>>,
    /// How many faults have each step fail on each host.
    pub(crate) broken: BTreeMap<(Name, HostIndex), u32>,
    /// How many faults close each gate.
    pub(crate) closed: BTreeMap<Name, u32>,
    /// Until when the control plane is away.
    pub(crate) down_until: Option<Timestamp>,
    /// Since when it hears its agents.
    pub(crate) listening: Listening,
    /// No timer is looked at before.
    timers_from: Timestamp,
    pub(crate) figures: Figures,
    places: BTreeMap<AgentId, HostIndex>,
    seed: u64,
    log: &'a mut dyn FnMut(&str),
    digest: Sha256,
    events: u64,
    /// Whether what happens is part of the simulation, and not of how the fleet came to be.
    pub(crate) begun: bool,
}

impl<'a> World<'a> {
    /// A fleet that has what it has before, up to the request.
    pub(crate) fn new(
        scenario: &'a Scenario,
        seed: u64,
        log: &'a mut dyn FnMut(&str),
    ) -> Result<Self, Impossible> {
        let dice = Dice::new(seed);
        let hosts = crate::fleet::hosts(scenario);
        let places = hosts.iter().enumerate().map(|(at, host)| (host.agent, at)).collect();
        let struck = |(at, fault): (usize, &crate::scenario::Fault)| {
            fault.hosts().map_or_else(Vec::new, |which| crate::fleet::struck(&hosts, which, dice, at))
        };
        let mut world = Self {
            scenario,
            dice,
            state: State::default(),
            now: Timestamp(scenario.starts.0 - SETUP_MS),
            queue: Queue::default(),
            struck: scenario.faults.iter().enumerate().map(struck).collect(),
            hosts,
            broken: BTreeMap::new(),
            closed: BTreeMap::new(),
            down_until: None,
            listening: Listening::Always,
            timers_from: Timestamp::default(),
            figures: Figures::new(scenario.starts.0),
            places,
            seed,
            log,
            digest: Sha256::new(),
            events: 0,
            begun: false,
        };
        world.set_up()?;
        world.request()?;
        Ok(world)
    }

    /// Lets everything happen that does.
    pub(crate) fn run(mut self) -> Result<Outcome, Impossible> {
        let horizon = Timestamp(self.scenario.starts.0).plus_ms(HORIZON_MS);
        let waits = loop {
            if self.is_over() {
                break None;
            }
            if self.only_watches(horizon) {
                break Some(Waits::ForEver);
            }
            match self.next_at() {
                Some(at) if at <= horizon => self.step()?,
                Some(_) => break Some(Waits::TooLong),
                None => break Some(Waits::ForEver),
            }
        };
        let digest = format!("sha256:{}", hex::encode(self.digest.clone().finalize()));
        let tenant = &self.state.tenants[&TENANT];
        let log = Log { seed: self.seed, events: self.events, digest };
        Ok(self.figures.outcome(tenant, self.now, waits, log))
    }

    /// When something happens next.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.next_due().into_iter().chain(self.queue.next_at()).min()
    }

    /// When timers are looked at next.
    fn next_due(&self) -> Option<Timestamp> {
        let due = self.state.next_due().filter(|_| self.down_until.is_none());
        due.map(|due| due.max(self.timers_from))
    }

    /// Fires what is due. What is held back is looked at again later, as in the control plane.
    fn tick(&mut self) -> Result<(), Impossible> {
        let ticked =
            self.decide(Actor::System, Command::Tick(self.listening)).map_err(|error| defect(&error))?;
        if ticked.held_back && ticked.events.is_empty() {
            self.timers_from = self.now.plus_ms(HELD_BACK_PAUSE_MS);
        }
        Ok(())
    }

    /// Lets the next thing happen.
    pub(crate) fn step(&mut self) -> Result<(), Impossible> {
        let due = self.next_due();
        // A timer that is due fires before what comes at the same time, as in the control plane.
        if let Some(due) = due
            && self.queue.next_at().is_none_or(|at| due <= at)
        {
            self.now = self.now.max(due);
            return self.tick();
        }
        let Some((at, happening)) = self.queue.pop() else { return Ok(()) };
        self.now = self.now.max(at);
        self.happen(happening)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Impossible> {
        let result = match happening {
            Happening::FaultBegins(fault) => self.fault_begins(fault),
            Happening::FaultEnds(fault) => self.fault_ends(fault),
            Happening::ControlPlaneBack => {
                self.control_plane_is_back();
                Ok(())
            }
            Happening::SessionLost(host, session) => self.session_lost(host, session),
            Happening::Dials(host) => self.dials(host),
            Happening::Dispatched(host, key) => self.dispatched(host, key),
            Happening::CancelReached(host, key) => self.cancel_reached(host, key),
            Happening::Ends(host, key, number) => self.ends(host, key, number),
            Happening::Inspected(host, deployment) => self.inspected(host, deployment),
            Happening::GateAnswered(promotion, gate, number) => self.answer_gate(promotion, &gate, number),
            Happening::Approves(promotion, number) => self.approve(promotion, number),
            Happening::Resumes(deployment, since) => self.resume(deployment, since),
            Happening::Decides(deployment, target) => self.decide_about(deployment, target),
            Happening::Requests(at) => self.requests(at),
        };
        result.map_err(|error| defect(&error))
    }

    /// Whether nothing is under way any more.
    fn is_over(&self) -> bool {
        let tenant = self.tenant();
        tenant.active_deployments.is_empty()
            && tenant.open_promotions.is_empty()
            && !self.queue.asks_for_more()
    }

    /// Whether deployments hold until somebody resumes them, and nothing happens until then but that gates are asked once more.
    fn only_watches(&self, horizon: Timestamp) -> bool {
        let tenant = self.tenant();
        let mut active = tenant.active_deployments.iter().filter_map(|id| tenant.deployments.get(id));
        let mut due = tenant.timers.iter().take_while(|(at, _)| *at <= horizon);
        self.queue.next_at().is_none()
            && tenant.open_promotions.is_empty()
            && active.all(|it| it.is_watched() && it.resumes_at.is_none())
            && due.all(|(_, timer)| matches!(timer, Timer::GateAgain(..)))
    }

    pub(crate) fn tenant(&self) -> &TenantState {
        // It is the first thing that is made, and never goes.
        &self.state.tenants[&TENANT]
    }

    /// The host of an agent.
    pub(crate) fn host_of(&self, agent: AgentId) -> Option<HostIndex> {
        self.places.get(&agent).copied()
    }

    pub(crate) fn tell_system(&mut self, command: SystemCommand) -> Result<Answer, Rejection> {
        self.decide(Actor::System, Command::System(command)).map(|decision| decision.outcome)
    }

    pub(crate) fn tell(&mut self, command: TenantCommand) -> Result<Answer, Rejection> {
        self.tell_as(Actor::System, command)
    }

    pub(crate) fn tell_as(&mut self, actor: Actor, command: TenantCommand) -> Result<Answer, Rejection> {
        self.decide(actor, Command::Tenant(TENANT, command)).map(|decision| decision.outcome)
    }

    /// What would come of it; nothing does.
    pub(crate) fn consider(&self, command: TenantCommand) -> Result<(), Rejection> {
        let command = Command::Tenant(TENANT, command);
        let request =
            Request { actor: Actor::System, trace: TraceContext::default(), idempotency: None, command };
        decide(&self.state, &request, self.now).map(drop)
    }

    fn decide(&mut self, actor: Actor, command: Command) -> Result<Decision, Rejection> {
        let request = Request { actor, trace: TraceContext::default(), idempotency: None, command };
        let decision = decide(&self.state, &request, self.now)?;
        self.state = decision.state.clone();
        for (stream, event) in &decision.events {
            if self.begun {
                self.write(*stream, event);
                let tenant = &self.state.tenants[&TENANT];
                self.figures.note(event, tenant, PromotionId(DEPLOYMENT.0));
            }
            self.notice(event);
        }
        if self.begun {
            let tenant = &self.state.tenants[&TENANT];
            self.figures.measure(tenant, self.now);
        }
        Ok(decision)
    }

    fn write(&mut self, stream: StreamId, event: &Event) {
        #[derive(serde::Serialize)]
        struct Line<'e> {
            stream: StreamId,
            #[serde(flatten)]
            event: &'e Event,
        }
        // All keys are texts, so that it can be written.
        let line = serde_json::to_string(&Line { stream, event }).unwrap_or_default();
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
        self.events += 1;
        (self.log)(&line);
    }

    /// What follows from an event outside of the core.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most facts have no effect outside")]
    fn notice(&mut self, event: &Event) {
        match &event.fact {
            Fact::TaskDispatched { key, session } => self.send_dispatch(*key, *session),
            Fact::TaskCancelRequested { key } => self.send_cancel(*key),
            Fact::WayBackAsked { deployment, targets, .. } => self.send_questions(*deployment, targets),
            Fact::GateAsked { promotion, gate, number, .. } => self.ask(*promotion, gate, *number),
            Fact::PromotionRequested { id, rule: Some(rule), .. } => {
                self.call_approvers(*id, rule.needed_in_all())
            }
            Fact::DeploymentPaused { id, until: None, cause, .. } => self.call_for_a_resume(*id, *cause),
            Fact::TargetFailed { deployment, target, .. } => self.call_for_a_decision(*deployment, *target),
            Fact::DeploymentSucceeded { id, .. } => self.came_through(*id),
            _ => {}
        }
    }
}

/// The core has refused what agents and people send without being asked to: it must not.
fn defect(rejection: &Rejection) -> Impossible {
    Impossible { field: String::new(), problem: format!("the simulation went astray: {rejection}") }
}
