//! What the silence of agents means after the control plane itself was away: nothing, until they had their time to come back.
//!
//! While it is away it hears nobody, and time passes all the same. Without this it would give up the whole fleet the moment it is back, before
//! anybody could reach it. So what follows from the silence of an agent that was there before is held back until the agent
//! has come back and said what it has to say, or until its time is over.
//!
//! This is no state: nothing of it is in the journal, and replay does not need it. It comes with each tick.

use stella_protocol::id::{AgentId, DeploymentId};
use stella_protocol::time::Timestamp;

use crate::agent::{Agent, Connectivity};
use crate::run::{StepState, Work};
use crate::tenant::{TenantState, Timer};
use crate::way_back::Proof;

/// How long an agent that is back has to say what has become of what it had, in milliseconds. Its reports follow its first word at once; those
/// of a whole fleet wait for the disk.
pub const REPORTS_MS: u64 = 10_000;

/// Since when agents can be heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listening {
    /// All along: nobody is waited for.
    #[default]
    Always,
    /// Not yet: nothing follows from their silence.
    NotYet,
    /// The control plane was away before.
    Since {
        /// Since when.
        at: Timestamp,
        /// Until when those who were there before have time to come back.
        until: Timestamp,
    },
}

impl Listening {
    /// Whether a due timer has to wait, because the agent that would make it void may come back, or has come back just now.
    #[must_use]
    pub fn holds_back(self, tenant: &TenantState, timer: &Timer, now: Timestamp) -> bool {
        if self == Self::Always {
            return false;
        }
        let awaits = |agent: AgentId| self.awaits(tenant, agent, now);
        match timer {
            Timer::ReconnectWindow(agent) => awaits(*agent),
            Timer::TaskOverdue(task) | Timer::ProbeOverdue(task) => {
                tenant.tasks.get(task).is_some_and(|task| awaits(task.agent))
            }
            Timer::DeploymentDeadline(deployment) => self.awaits_work(tenant, *deployment, now),
            Timer::WayBackOverdue(deployment) => tenant.deployments.get(deployment).is_some_and(|it| {
                let mut parts = it.targets.values();
                parts.any(|part| matches!(part.way_back, Some(Proof::Asked { .. })) && awaits(part.agent))
            }),
            Timer::StepDue(run, step) => {
                let step = tenant.runs.get(run).and_then(|run| run.steps.get(step));
                step.is_some_and(|step| self.awaits_step(tenant, &step.state, now))
            }
            Timer::RequestForgotten(_)
            | Timer::DeploymentResumes(_)
            | Timer::PromotionHeld(_)
            | Timer::PromotionExpires(_)
            | Timer::GateOverdue(..)
            | Timer::GateAgain(..)
            | Timer::AutoPromotion(..)
            | Timer::KeepEnds(_)
            | Timer::EnrolmentTokenEnded(_)
            | Timer::DeploymentPutOff(_)
            | Timer::ApiTokenEnded(_) => false,
        }
    }

    fn awaits(self, tenant: &TenantState, id: AgentId, now: Timestamp) -> bool {
        tenant.agents.get(&id).is_some_and(|agent| self.awaits_agent(agent, now))
    }

    const fn awaits_agent(self, agent: &Agent, now: Timestamp) -> bool {
        let (since, is_here) = match agent.connectivity {
            Connectivity::Never | Connectivity::Offline { .. } => return false,
            Connectivity::Online { since } => (since, true),
            Connectivity::Suspect { since } => (since, false),
        };
        match self {
            Self::Always => false,
            Self::NotYet => true,
            // What the state knows of it is of before.
            Self::Since { at, until } if since.0 <= at.0 => now.0 < until.0,
            // It is back, and may have something to say; one that was enrolled later has not.
            Self::Since { at, until } => {
                let was_there = agent.enrolled_at.0 <= at.0;
                was_there && is_here && since.0 < until.0 && now.0 < since.plus_ms(REPORTS_MS).0
            }
        }
    }

    /// Whether an agent that is waited for has something of a deployment in hand, which may have ended meanwhile.
    fn awaits_work(self, tenant: &TenantState, id: DeploymentId, now: Timestamp) -> bool {
        let parts = tenant.deployments.get(&id).into_iter().flat_map(|it| it.targets.values());
        let tasks = parts.filter_map(|part| tenant.tasks.get(&part.progress.task()?));
        tasks.filter(|task| task.state.is_open()).any(|task| self.awaits(tenant, task.agent, now))
    }

    /// The same of a step that waits for a deployment, itself or through other runs.
    fn awaits_step(self, tenant: &TenantState, step: &StepState, now: Timestamp) -> bool {
        if let StepState::Running { work: Work::Deployment { deployment }, .. } = step {
            return self.awaits_work(tenant, *deployment, now);
        }
        let parts = step.children().iter().filter_map(|child| tenant.runs.get(&child.run));
        parts.flat_map(|run| run.steps.values()).any(|step| self.awaits_step(tenant, &step.state, now))
    }
}
