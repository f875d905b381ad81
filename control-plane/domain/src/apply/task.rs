//! How far tasks have got, and the indexes that go with them.

use std::sync::Arc;
use std::time::Duration;

use stella_protocol::id::{Attempt, AttemptKey, DeploymentId, Position, TargetId, TaskId};
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, illegal, misplaced, missing, vacant};
use crate::deployment::{Deployment, Progress, Status};
use crate::durations::{DISPATCHES_MS, TASKS_MS};
use crate::event::{Event, Fact, IllegalTransition};
use crate::render;
use crate::task::{CANCEL_WINDOW_MS, DELIVERY_WINDOW_MS, Ended, Ending, Task, TaskState};
use crate::tenant::{TenantState, Timer};

/// What the indexes make of a state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Queued,
    Open,
    Unknown,
    Final,
}

impl Standing {
    const fn of(state: &TaskState) -> Self {
        match state {
            TaskState::Queued => Self::Queued,
            TaskState::Dispatched { .. } | TaskState::Accepted { .. } | TaskState::Running { .. } => {
                Self::Open
            }
            TaskState::Unknown { .. } => Self::Unknown,
            TaskState::Succeeded(_)
            | TaskState::Failed(_)
            | TaskState::TimedOut(_)
            | TaskState::Cancelled(_)
            | TaskState::Interrupted(_) => Self::Final,
        }
    }
}

impl TenantState {
    /// A new task: the first step of a target that was just started, or the one after a step that succeeded.
    pub(super) fn apply_task_queued(&mut self, event: &Event) -> Applied {
        let fact = &event.fact;
        let Fact::TaskQueued { task: id, deployment: deployment_id, target, step } = fact else {
            return Err(misplaced(fact));
        };
        vacant(!self.tasks.contains_key(id), TaskId::KIND, id, fact)?;
        let deployment = self
            .deployments
            .get(deployment_id)
            .ok_or_else(|| missing(DeploymentId::KIND, deployment_id, fact))?;
        ensure(
            matches!(deployment.status, Status::Running),
            format!("deployment {deployment_id}"),
            deployment.status.name(),
            fact,
        )?;
        let task = self.make_task(event, *id, deployment, *target, *step)?;
        let (agent, generation, kind) = (task.agent, task.generation, task.spec.kind());
        self.enter_leg(*deployment_id, *target, *step, fact)?;
        let deployment = self
            .deployments
            .get(deployment_id)
            .ok_or_else(|| missing(DeploymentId::KIND, deployment_id, fact))?;
        let since = match deployment.targets.get(target).map(|part| &part.progress) {
            Some(Progress::Active { since, .. }) => *since,
            _ => event.at,
        };
        if *step > 0 {
            self.move_part(
                *deployment_id,
                *target,
                Progress::Active { generation, step: *step, task: *id, since },
                fact,
            )?;
        }
        self.tasks.insert(*id, Arc::new(task));
        self.unsettled.entry(agent).or_default().insert(*id);
        let work = self.work.get_mut(&agent).ok_or_else(|| missing("agent", agent, fact))?;
        let work = Arc::make_mut(work);
        work.queued.insert((event.at, *id));
        if !work.done.contains_key(kind) {
            work.done.insert(kind.to_owned(), Arc::default());
        }
        Ok(())
    }

    fn make_task(
        &self,
        event: &Event,
        id: TaskId,
        deployment: &Deployment,
        target: TargetId,
        step: u16,
    ) -> Result<Task, IllegalTransition> {
        let fact = &event.fact;
        let part = deployment.targets.get(&target).ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        let Progress::Active { generation, step: last_step, task: last_task, .. } = part.progress else {
            return Err(illegal(format!("target {target}"), part.progress.name(), fact));
        };
        let follows = match self.tasks.get(&last_task) {
            None => step == last_step && id == last_task,
            Some(last) => {
                matches!(last.state, TaskState::Succeeded(_)) && Some(step) == last_step.checked_add(1)
            }
        };
        ensure(follows, format!("target {target}"), format!("at step {last_step}"), fact)?;
        let place = self.place(part, step).ok_or_else(|| missing("step", step, fact))?;
        let spec = render::task(self, deployment, part, &place).ok_or_else(|| missing("step", step, fact))?;
        Ok(Task {
            id,
            deployment: deployment.id,
            target,
            agent: part.agent,
            generation,
            step: place.step.name.clone(),
            release: Some(place.release.id).filter(|id| *id != part.release),
            spec: spec.map_err(|error| illegal(format!("step {step}"), error, fact))?,
            attempt: Attempt(1),
            state: TaskState::Queued,
            cancel_requested: false,
            ending: None,
            probe: None,
            overdue_at: None,
            queued_at: event.at,
            trace: if deployment.trace.is_valid() { &deployment.trace } else { &event.trace }.parent(),
        })
    }

    pub(super) fn apply_task(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let key = key(fact).ok_or_else(|| misplaced(fact))?;
        let task = self.tasks.get_mut(&key.task).ok_or_else(|| missing(TaskId::KIND, key.task, fact))?;
        let task = Arc::make_mut(task);
        ensure(
            task.attempt == key.attempt,
            format!("task {}", key.task),
            format!("at attempt {}", task.attempt),
            fact,
        )?;
        if matches!(fact, Fact::TaskCancelRequested { .. } | Fact::TaskEnding { .. }) {
            return self.towards_its_end(key.task, at, fact);
        }
        let next = next(task, at, fact)
            .ok_or_else(|| illegal(format!("task {}", key.task), where_it_is(task), fact))?;
        let before = Standing::of(&task.state);
        let after = Standing::of(&next);
        let was_on_its_way = matches!(task.state, TaskState::Dispatched { .. });
        task.state = next;
        if matches!(fact, Fact::TaskHandedBack { .. }) {
            (task.attempt, task.queued_at) = (task.attempt.next(), at);
        }
        self.keep_indexes(key.task, before, after, seen(fact), fact)?;
        let has_come =
            matches!(fact, Fact::TaskAccepted { .. } | Fact::TaskStarted { .. } | Fact::TaskFinished { .. });
        if was_on_its_way && has_come {
            self.measure_dispatch(key.task, at);
        }
        if let (Standing::Final, Fact::TaskFinished { started_at, finished_at, .. }) = (after, fact) {
            self.count_end(key.task, started_at.map(|started_at| finished_at.since(started_at)));
        }
        Ok(())
    }

    /// A cancellation was asked for, or has got further: each stage has a time of its own for the next.
    fn towards_its_end(&mut self, id: TaskId, at: Timestamp, fact: &Fact) -> Applied {
        let Some(task) = self.tasks.get_mut(&id) else { return Err(missing(TaskId::KIND, id, fact)) };
        let task = Arc::make_mut(task);
        let agent = self.agents.get(&task.agent);
        let (may, window_ms) = if let Fact::TaskEnding { stage, .. } = fact {
            let is_further = task.ending.is_none_or(|before| before.stage < *stage);
            (task.cancel_requested && is_further, stage.window_ms())
        } else {
            let tells = agent.is_some_and(|agent| agent.tells_endings());
            (!task.cancel_requested, if tells { DELIVERY_WINDOW_MS } else { CANCEL_WINDOW_MS })
        };
        ensure(may && task.state.is_open(), format!("task {id}"), where_it_is(task), fact)?;
        if let Fact::TaskEnding { stage, .. } = fact {
            task.ending = Some(Ending { stage: *stage, at });
        }
        task.cancel_requested = true;
        let overdue_at = at.plus_ms(window_ms);
        if let Some(before) = task.overdue_at.replace(overdue_at) {
            self.timers.remove(&(before, Timer::TaskOverdue(id)));
        }
        self.timers.insert((overdue_at, Timer::TaskOverdue(id)));
        Ok(())
    }

    /// How long a task took to come to its agent.
    fn measure_dispatch(&mut self, id: TaskId, at: Timestamp) {
        let Some(task) = self.tasks.get(&id) else { return };
        let environment = self.deployments.get(&task.deployment).map(|it| it.environment);
        let Some(stage) = environment.and_then(|id| self.environments.get(&id)) else { return };
        let took = self.totals.dispatches_took.entry(stage.name.clone()).or_default();
        Arc::make_mut(took).add(at.since(task.queued_at), &DISPATCHES_MS);
    }

    /// Counts how a task has ended, and how long it took, by the agent's clock, if it was started.
    fn count_end(&mut self, id: TaskId, took: Option<Duration>) {
        let Some(task) = self.tasks.get(&id) else { return };
        let Some(work) = self.work.get_mut(&task.agent) else { return };
        // It is there since the task was queued.
        let Some(done) = Arc::make_mut(work).done.get_mut(task.spec.kind()) else { return };
        let done = Arc::make_mut(done);
        let end = task.state.name();
        match done.ends.get_mut(end) {
            Some(count) => *count += 1,
            None => drop(done.ends.insert(end.to_owned(), 1)),
        }
        if let Some(took) = took {
            done.took.add(took, &TASKS_MS);
        }
    }

    fn keep_indexes(
        &mut self,
        id: TaskId,
        before: Standing,
        after: Standing,
        seen: Option<Position>,
        fact: &Fact,
    ) -> Applied {
        let task = self.tasks.get(&id).ok_or_else(|| missing(TaskId::KIND, id, fact))?;
        let (agent, target) = (task.agent, task.target);
        if before == Standing::Open
            && after != Standing::Open
            && let Some(overdue_at) = task.overdue_at
        {
            self.timers.remove(&(overdue_at, Timer::TaskOverdue(id)));
        }
        let queued_at = task.queued_at;
        if before != after || seen.is_some() {
            let work = self.work.get_mut(&agent).ok_or_else(|| missing("agent", agent, fact))?;
            let work = Arc::make_mut(work);
            work.open = work.open + u32::from(after == Standing::Open) - u32::from(before == Standing::Open);
            if before == Standing::Queued {
                work.queued.remove(&(queued_at, id));
            }
            if after == Standing::Queued {
                work.queued.insert((queued_at, id));
            }
            if let (Some(journal), Some(position)) = (work.journal.as_mut(), seen) {
                journal.position = journal.position.max(position);
            }
        }
        if after == Standing::Final
            && let Some(tasks) = self.unsettled.get_mut(&agent)
        {
            tasks.remove(&id);
            if tasks.is_empty() {
                self.unsettled.remove(&agent);
            }
        }
        if before == Standing::Unknown {
            self.close_probe(id);
        }
        // Only a task that was unknown can have been left behind by its deployment.
        if before == Standing::Unknown
            && self.targets.get(&target).is_some_and(|target| target.blocked_by == Some(id))
            && let Some(target) = self.targets.get_mut(&target)
        {
            Arc::make_mut(target).blocked_by = None;
        }
        Ok(())
    }
}

const fn key(fact: &Fact) -> Option<AttemptKey> {
    let (Fact::TaskDispatched { key, .. }
    | Fact::TaskAccepted { key, .. }
    | Fact::TaskStarted { key, .. }
    | Fact::TaskFinished { key, .. }
    | Fact::TaskHandedBack { key, .. }
    | Fact::TaskBecameUnknown { key, .. }
    | Fact::TaskEnding { key, .. }
    | Fact::TaskCancelRequested { key }) = fact
    else {
        return None;
    };
    Some(*key)
}

/// How far the agent's journal has got, if the fact says so.
const fn seen(fact: &Fact) -> Option<Position> {
    if let Fact::TaskAccepted { position, .. }
    | Fact::TaskHandedBack { position, .. }
    | Fact::TaskFinished { position: Some(position), .. } = fact
    {
        Some(*position)
    } else {
        None
    }
}

/// The table of transitions: every pair that is not here is illegal.
fn next(task: &Task, at: Timestamp, fact: &Fact) -> Option<TaskState> {
    use TaskState::{Accepted, Dispatched, Queued, Running, Unknown};
    match (&task.state, fact) {
        (Queued, Fact::TaskDispatched { session, .. }) => Some(Dispatched { session: *session, at }),
        (Dispatched { session: before, .. }, Fact::TaskDispatched { session, .. }) if before < session => {
            Some(Dispatched { session: *session, at })
        }
        (Dispatched { .. }, Fact::TaskAccepted { .. }) => Some(Accepted { at }),
        (Dispatched { .. } | Accepted { .. }, Fact::TaskStarted { started_at, .. }) => {
            Some(Running { started_at: *started_at })
        }
        (Dispatched { .. } | Accepted { .. }, Fact::TaskHandedBack { .. }) if !task.cancel_requested => {
            Some(Queued)
        }
        (
            Queued | Dispatched { .. } | Accepted { .. } | Running { .. },
            Fact::TaskBecameUnknown { reason, .. },
        ) => Some(Unknown { since: at, reason: reason.clone() }),
        (Queued, Fact::TaskFinished { outcome: TaskOutcome::Cancelled, finished_at, .. }) => {
            let reason = "it was never sent to its agent".to_owned();
            Some(TaskState::Cancelled(Ended { started_at: None, at: *finished_at, reason, exit_code: None }))
        }
        (
            before @ (Dispatched { .. } | Accepted { .. } | Running { .. } | Unknown { .. }),
            Fact::TaskFinished { started_at, finished_at, outcome, never_began, .. },
        ) => {
            let known = if let Running { started_at } = before { Some(*started_at) } else { None };
            let started_at = started_at.or(known);
            ended(task, started_at, *finished_at, (outcome, *never_began))
        }
        _ => None,
    }
}

/// `None` for [`TaskOutcome::Unknown`]: that is no end, and has a fact of its own.
fn ended(
    task: &Task,
    started_at: Option<Timestamp>,
    at: Timestamp,
    (outcome, never_began): (&TaskOutcome, bool),
) -> Option<TaskState> {
    let end = |reason: &str, exit_code| Ended { started_at, at, reason: reason.to_owned(), exit_code };
    Some(match outcome {
        TaskOutcome::Succeeded => TaskState::Succeeded(end("", None)),
        TaskOutcome::Failed { reason, exit_code } => TaskState::Failed(end(reason, *exit_code)),
        TaskOutcome::TimedOut => TaskState::TimedOut(end("it took longer than it may", None)),
        TaskOutcome::Cancelled => TaskState::Cancelled(end("it was told to end", None)),
        TaskOutcome::Interrupted => TaskState::Interrupted(match task.settled_by_probe() {
            Some(found) => end(&format!("it was not done: {}", found.words()), None),
            None if never_began => end("its agent was restarted before it began", None),
            None => end("its agent restarted in the middle of it", None),
        }),
        TaskOutcome::Refused { reason } => {
            TaskState::Failed(end(&format!("the agent refused it: {reason}"), None))
        }
        TaskOutcome::Unknown { .. } => return None,
    })
}

fn where_it_is(task: &Task) -> String {
    let asked = task.cancellation().map(|it| format!(", its cancellation {}", it.name()));
    format!("{}{}", task.state.name(), asked.unwrap_or_default())
}
