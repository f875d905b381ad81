//! Hosts that are out of rotation: what still goes on there.

use stella_protocol::id::{AgentId, TaskId};

use crate::deployment::{Progress, TargetRollout};
use crate::hold::Hold;
use crate::name::Name;
use crate::target::Target;
use crate::task::TaskState;
use crate::tenant::TenantState;

impl TenantState {
    /// The agent of a target, and who has taken its host out of rotation; `None` if nobody has.
    #[must_use]
    pub fn draining(&self, target: &Target) -> Option<(&Name, &Hold)> {
        let agent = self.agents.get(&target.agent)?;
        agent.draining.as_ref().map(|hold| (&agent.name, hold))
    }

    /// INV-26: whether a task goes on with what was begun on its target, and so is no new work there. A host that is draining is sent
    /// no other.
    #[must_use]
    pub fn goes_on_with(&self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(&id) else { return false };
        if !matches!(task.state, TaskState::Queued) {
            return true;
        }
        let part = self.deployments.get(&task.deployment).and_then(|it| it.targets.get(&task.target));
        part.is_some_and(|part| match part.progress {
            Progress::Active { step, .. } => step > 0 || part.round > 0,
            Progress::Waiting
            | Progress::Ready { .. }
            | Progress::Succeeded { .. }
            | Progress::Failed { .. }
            | Progress::Skipped { .. }
            | Progress::Abandoned { .. } => false,
        })
    }

    /// On how many targets of an agent something is under way: begun by a deployment that has not ended there.
    #[must_use]
    pub fn under_way_on(&self, agent: AgentId) -> usize {
        self.parts_on(agent).filter(|part| self.is_begun(part)).count()
    }

    /// On how many targets of an agent something waits that nothing was sent of yet: for the host, or for its way into rotation.
    #[must_use]
    pub fn waiting_on(&self, agent: AgentId) -> usize {
        let waits =
            |part: &&TargetRollout| matches!(part.progress, Progress::Active { .. }) && !self.is_begun(part);
        self.parts_on(agent).filter(waits).count()
    }

    fn is_begun(&self, part: &TargetRollout) -> bool {
        match part.progress {
            Progress::Ready { .. } => true,
            Progress::Active { task, .. } => self.goes_on_with(task),
            Progress::Waiting
            | Progress::Succeeded { .. }
            | Progress::Failed { .. }
            | Progress::Skipped { .. }
            | Progress::Abandoned { .. } => false,
        }
    }

    /// The parts that an agent's targets have in deployments that have not ended.
    fn parts_on(&self, agent: AgentId) -> impl Iterator<Item = &TargetRollout> {
        let slots = self.index.slots.get(&agent).into_iter().flat_map(|slots| slots.values());
        let targets = slots.filter_map(|id| self.targets.get(id));
        targets.filter_map(|target| {
            let deployment = self.deployments.get(&target.active?)?;
            deployment.targets.get(&target.id).map(AsRef::as_ref)
        })
    }
}
