//! What hosts are asked, and say, about attempts whose outcome nobody knows.

use std::sync::Arc;

use stella_protocol::id::TaskId;
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced, missing};
use crate::deployment::Deployment;
use crate::event::{Fact, IllegalTransition};
use crate::probe::{Probe, Standing};
use crate::task::{Task, TaskState};
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_probe(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        match fact {
            Fact::TaskProbeAsked { key, number, until } => {
                let task = self.unknown_task(key.task, fact)?;
                let before = task.probe.as_ref().map_or(0, |probe| probe.number);
                let may = task.attempt == key.attempt
                    && task.probed_until().is_none()
                    && before.checked_add(1) == Some(*number);
                ensure(may, format!("task {}", key.task), "asked about otherwise", fact)?;
                let standing = Standing::Asked { until: *until };
                task.probe = Some(Probe { number: *number, asked_at: at, standing });
                self.timers.insert((*until, Timer::ProbeOverdue(key.task)));
                Ok(())
            }
            Fact::TaskProbed { key, answer } => {
                let task = self.unknown_task(key.task, fact)?;
                let is_open = task.attempt == key.attempt && task.probed_until().is_some();
                ensure(is_open, format!("task {}", key.task), "not asked about", fact)?;
                let asked = task.probe.clone();
                self.close_probe(key.task);
                let (Some(task), Some(asked)) = (self.tasks.get_mut(&key.task), asked) else {
                    return Err(missing(TaskId::KIND, key.task, fact));
                };
                let task = Arc::make_mut(task);
                let standing = Standing::Answered { at, answer: answer.clone() };
                task.probe = Some(Probe { standing, ..asked });
                let (deployment, target) = (task.deployment, task.target);
                let goes_on = |it: &&mut Arc<Deployment>| answer.settles() && !it.status.is_final();
                let deployment = self.deployments.get_mut(&deployment).filter(goes_on);
                let part = deployment.and_then(|it| Arc::make_mut(it).targets.get_mut(&target));
                if let Some(part) = part {
                    Arc::make_mut(part).settled = Some(key.task);
                }
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn unknown_task(&mut self, id: TaskId, fact: &Fact) -> Result<&mut Task, IllegalTransition> {
        let task = self.tasks.get_mut(&id).ok_or_else(|| missing(TaskId::KIND, id, fact))?;
        let is_unknown = matches!(task.state, TaskState::Unknown { .. });
        ensure(is_unknown, format!("task {id}"), task.state.name(), fact)?;
        Ok(Arc::make_mut(task))
    }

    /// Nobody waits for an answer about a task any more, if somebody did.
    pub(super) fn close_probe(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id)
            && let Some(until) = task.probed_until()
        {
            Arc::make_mut(task).probe = None;
            self.timers.remove(&(until, Timer::ProbeOverdue(id)));
        }
    }
}
