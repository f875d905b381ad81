//! How far deployments have got.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId, ReleaseId, TargetId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use super::{Applied, ensure, illegal, misplaced, missing, vacant};
use crate::colour::Stage;
use crate::command::Actor;
use crate::deployment::{Cause, Counts, Deployment, Progress, RollbackReason, Status, TargetRollout};
use crate::durations::DEPLOYMENTS_MS;
use crate::environment::Proof;
use crate::event::{Event, Fact, IllegalTransition, PlannedTarget};
use crate::hold::PauseCause;
use crate::tenant::{TenantState, Timer};
use crate::way_back::WayBack;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_deployment(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let at = *at;
        match fact {
            Fact::DeploymentCreated { .. } => self.deployment_created(event),
            Fact::DeploymentHalted { id, reason, on_failure, cause } => {
                let deployment = self.deployment_mut(*id, fact)?;
                let running = matches!(deployment.status, Status::Running);
                ensure(running, subject(*id), deployment.status.name(), fact)?;
                deployment.status = Status::Halting { reason: reason.clone() };
                deployment.on_failure = on_failure.unwrap_or(deployment.on_failure);
                deployment.halted_for = *cause;
                self.forget_questions(PromotionId(id.0), None);
                self.end_pause(at, *id, fact)?;
                self.stand_still(at, *id, fact)
            }
            Fact::DeploymentOverdue { id, reason } => {
                self.stop_deadline(*id, fact)?;
                let deployment = self.deployment_mut(*id, fact)?;
                // What had halted already has another cause.
                if matches!(deployment.status, Status::Running) {
                    deployment.halted_for = RollbackReason::TimeOut;
                }
                deployment.status = Status::Halting { reason: reason.clone() };
                self.forget_questions(PromotionId(id.0), None);
                Ok(())
            }
            Fact::DeploymentCancelRequested { id, reason } => {
                let deployment = self.deployment_mut(*id, fact)?;
                let going_on = matches!(deployment.status, Status::Running | Status::Halting { .. });
                ensure(going_on, subject(*id), deployment.status.name(), fact)?;
                deployment.status = Status::Cancelling { reason: reason.clone() };
                (deployment.paused, deployment.stands_since) = (None, None);
                let deadline = deployment.deadline;
                self.timers.remove(&(deadline, Timer::DeploymentDeadline(*id)));
                self.forget_questions(PromotionId(id.0), None);
                self.stop_resuming(*id, fact)
            }
            Fact::DeploymentPutOff { id, until } => self.put_off(*id, *until, fact),
            Fact::DeploymentSucceeded { id, .. } => {
                let is_let_through = self.is_let_through(*id, at);
                self.end_deployment(at, *id, fact, Status::Succeeded, |deployment| {
                    // INV-24
                    let is_verified = deployment.verification.is_none()
                        || (deployment.baked && deployment.paused.is_none() && is_let_through);
                    matches!(deployment.status, Status::Running)
                        && deployment.is_through()
                        && !deployment.has_failed_too_often()
                        && deployment.counts.succeeded > 0
                        && is_verified
                })
            }
            Fact::DeploymentFailed { id, reason, .. } => {
                self.end_deployment(at, *id, fact, Status::Failed { reason: reason.clone() }, |deployment| {
                    matches!(deployment.status, Status::Halting { .. }) && deployment.is_through()
                })
            }
            Fact::DeploymentCancelled { id, reason } => self.end_deployment(
                at,
                *id,
                fact,
                Status::Cancelled { reason: reason.clone() },
                |deployment| {
                    matches!(deployment.status, Status::Cancelling { .. }) && deployment.is_through()
                },
            ),
            other => Err(misplaced(other)),
        }
    }

    fn deployment_created(&mut self, event: &Event) -> Applied {
        let Event { at, actor, trace, fact } = event;
        let Fact::DeploymentCreated {
            id,
            environment,
            release,
            strategy,
            on_failure,
            cause,
            targets,
            deadline,
            tolerate_failures,
            verification,
            left,
        } = fact
        else {
            return Err(misplaced(fact));
        };
        vacant(!self.deployments.contains_key(id), DeploymentId::KIND, id, fact)?;
        let asked = self.begin_cause((*id, *environment), cause, *at, fact)?;
        let (created_by, trace) =
            asked.unwrap_or_else(|| (actor.clone(), self.trace_of_follow_up(cause, trace)));
        self.begin_job(*id, cause, fact)?;
        let parts = self.reserve_all(*id, targets, cause, fact)?;
        ensure(!parts.is_empty(), subject(*id), "without targets", fact)?;
        let total = u32::try_from(targets.len()).map_err(|_| illegal(subject(*id), "too large", fact))?;
        let mut deployment = Deployment {
            id: *id,
            environment: *environment,
            release: *release,
            strategy: strategy.clone(),
            on_failure: *on_failure,
            tolerate_failures: *tolerate_failures,
            cause: cause.clone(),
            status: Status::Running,
            paused: None,
            paused_for: PauseCause::Person,
            resumes_at: None,
            resumes_in_ms: None,
            steps_passed: 0,
            stage: Stage::Prepare,
            warmed_up: false,
            batch_from: 0,
            unproven: 0,
            proving: false,
            waves: 0,
            domain: None,
            verification: *verification,
            baked: false,
            halted_for: RollbackReason::default(),
            left: left.clone(),
            way_back: WayBack::default(),
            targets: parts,
            order: targets.iter().map(|planned| planned.target).collect(),
            next: 0,
            counts: Counts { waiting: total, ..Counts::default() },
            created_at: *at,
            created_by: Some(created_by),
            trace,
            timeout_ms: Some(deadline.0.saturating_sub(at.0)),
            deadline: *deadline,
            stands_since: None,
            put_off: None,
            finished_at: None,
        };
        deployment.step_over();
        self.deployments.insert(*id, Arc::new(deployment));
        self.active_deployments.insert(*id);
        self.timers.insert((*deadline, Timer::DeploymentDeadline(*id)));
        if self.is_silent(*environment) { self.time_steps(*at, fact) } else { Ok(()) }
    }

    /// What follows from why it begins: who asked for it, if somebody did, or that it takes another one back.
    fn begin_cause(
        &mut self,
        (id, environment): (DeploymentId, EnvironmentId),
        cause: &Cause,
        at: Timestamp,
        fact: &Fact,
    ) -> Result<Option<(Actor, TraceContext)>, IllegalTransition> {
        let stage = self
            .environments
            .get(&environment)
            .ok_or_else(|| missing(EnvironmentId::KIND, environment, fact))?;
        match cause {
            Cause::Rollback { reason, .. } => {
                let by_reason = self.totals.rollbacks.entry(stage.name.clone()).or_default();
                *by_reason.entry(reason.name().to_owned()).or_insert(0) += 1;
                Ok(None)
            }
            Cause::Retirement { .. } => Ok(None),
            Cause::Requested | Cause::Job { .. } => self.start_promotion(id, environment, at, fact),
        }
    }

    /// INV-22, the half of it that is about who wants it: a step that waits for just this.
    fn begin_job(&mut self, id: DeploymentId, cause: &Cause, fact: &Fact) -> Applied {
        let Cause::Job { run, step, .. } = cause else { return Ok(()) };
        let wanted = self.promotions.get(&PromotionId(id.0)).and_then(|it| it.wanted.job.as_ref());
        let is_its = wanted.is_some_and(|job| job.run == *run && job.step == *step);
        let waits = is_its && self.awaited.get(&id).is_some_and(|(by, at)| by == run && at == step);
        ensure(waits, subject(id), "a job that no step waits for", fact)?;
        let run = self.runs.get_mut(run).map(Arc::make_mut);
        run.and_then(|run| run.steps.get_mut(step)).into_iter().for_each(|step| step.job = Some(id));
        Ok(())
    }

    /// What follows from another deployment by itself is decided on an agent's report, which is of the same trace and has no baggage:
    /// it is that of the other one.
    fn trace_of_follow_up(&self, cause: &Cause, trace: &TraceContext) -> TraceContext {
        let (Cause::Rollback { of, .. } | Cause::Retirement { of }) = cause else { return trace.clone() };
        let first = self.deployments.get(of).filter(|it| it.trace.trace_id == trace.trace_id);
        let baggage = first.filter(|_| trace.baggage.is_empty()).map(|it| it.trace.baggage.clone());
        let correlation =
            first.filter(|_| trace.correlation.is_empty()).map(|it| it.trace.correlation.clone());
        let correlation = correlation.unwrap_or_else(|| trace.correlation.clone());
        TraceContext {
            correlation,
            baggage: baggage.unwrap_or_else(|| trace.baggage.clone()),
            ..trace.clone()
        }
    }

    fn reserve_all(
        &mut self,
        deployment: DeploymentId,
        targets: &[PlannedTarget],
        cause: &Cause,
        fact: &Fact,
    ) -> Result<OrdMap<TargetId, Arc<TargetRollout>>, IllegalTransition> {
        let mut parts = OrdMap::new();
        for planned in targets {
            let mut part = self.reserve(deployment, planned, fact)?;
            // INV-22: what is live there is never touched.
            part.is_spared |= cause.is_job();
            // What comes back comes with what it was brought with.
            part.variables_back = self.variables_back(cause, planned);
            parts.insert(planned.target, Arc::new(part));
        }
        Ok(parts)
    }

    /// With which variables a rollback brings a release back to a target; `None` with those that it has now.
    fn variables_back(
        &self,
        cause: &Cause,
        planned: &PlannedTarget,
    ) -> Option<Arc<BTreeMap<String, String>>> {
        let Cause::Rollback { of, .. } = cause else { return None };
        let taken_back = self.deployments.get(of)?.targets.get(&planned.target)?;
        taken_back.previous_variables.clone().filter(|_| taken_back.previous == Some(planned.release))
    }

    /// Reserving a target twice fails, so that a plan cannot name it twice either.
    fn reserve(
        &mut self,
        deployment: DeploymentId,
        planned: &PlannedTarget,
        fact: &Fact,
    ) -> Result<TargetRollout, IllegalTransition> {
        let target = self.targets.get_mut(&planned.target);
        let target = Arc::make_mut(target.ok_or_else(|| missing(TargetId::KIND, planned.target, fact))?);
        let free = target.active.is_none() && target.blocked_by.is_none();
        ensure(free, format!("target {}", planned.target), "being worked on", fact)?;
        target.active = Some(deployment);
        Ok(TargetRollout {
            target: planned.target,
            agent: target.agent,
            release: planned.release,
            previous: planned.previous,
            domain: planned.domain.clone(),
            variables: Arc::new(target.variables.clone()),
            variables_back: None,
            previous_variables: target.brought_with.clone(),
            legs: planned.legs.clone().into(),
            is_spared: !planned.legs.is_empty(),
            before: None,
            way_back: None,
            settled: None,
            round: 0,
            progress: Progress::Waiting,
        })
    }

    /// The deadline is one only as long as its timer is set: it can pass once.
    pub(super) fn stop_deadline(&mut self, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        let (deadline, status) = (deployment.deadline, deployment.status.name());
        // In journals of before it stood still, the deadline of what had halted passed while agents were silent.
        let stood = deployment.stands_since.take().is_some();
        let removed = self.timers.remove(&(deadline, Timer::DeploymentDeadline(id))).is_some();
        ensure(removed || stood, subject(id), format!("{status} without a deadline"), fact)
    }

    /// What comes next is put off, or taken up: one after the other.
    fn put_off(&mut self, id: DeploymentId, until: Option<Timestamp>, fact: &Fact) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        let turns = deployment.put_off.is_some() != until.is_some();
        ensure(turns && !deployment.status.is_final(), subject(id), deployment.status.name(), fact)?;
        self.take_up(id, fact)?;
        self.deployment_mut(id, fact)?.put_off = until;
        self.timers.extend(until.map(|due| (due, Timer::DeploymentPutOff(id))));
        Ok(())
    }

    /// Nothing is put off any more.
    fn take_up(&mut self, id: DeploymentId, fact: &Fact) -> Applied {
        if let Some(due) = self.deployment_mut(id, fact)?.put_off.take() {
            self.timers.remove(&(due, Timer::DeploymentPutOff(id)));
        }
        Ok(())
    }

    fn end_deployment(
        &mut self,
        at: Timestamp,
        id: DeploymentId,
        fact: &Fact,
        status: Status,
        may_end: impl FnOnce(&Deployment) -> bool,
    ) -> Applied {
        self.stop_resuming(id, fact)?;
        self.take_up(id, fact)?;
        self.end_questions(at, id, "its deployment has ended before its host answered", fact)?;
        let deployment = self.deployment_mut(id, fact)?;
        ensure(may_end(deployment), subject(id), where_it_is(deployment), fact)?;
        deployment.status = status;
        (deployment.paused, deployment.stands_since) = (None, None);
        deployment.finished_at = Some(at);
        let (deadline, environment) = (deployment.deadline, deployment.environment);
        let requested = deployment.cause == Cause::Requested;
        let is_promoted = deployment.cause.is_asked_for();
        let counts = deployment.cause.brings_release();
        let (release, created_at) = (deployment.release, deployment.created_at);
        let (strategy, status) = (deployment.strategy.name(), deployment.status.name());
        self.timers.remove(&(deadline, Timer::DeploymentDeadline(id)));
        self.active_deployments.remove(&id);
        self.forget_questions(PromotionId(id.0), None);
        self.group_is_live(id, fact)?;
        self.keep_colours(at, id, fact)?;
        let proof = if requested { self.proof(fact, environment, release) } else { Shown::Nothing };
        let proven = proof == Shown::Proof;
        let chosen_by = if proven { self.choosers_of(id) } else { Vec::new() };
        let stage = self
            .environments
            .get_mut(&environment)
            .ok_or_else(|| missing(EnvironmentId::KIND, environment, fact))?;
        let newly_proven = proven && !stage.proven.contains_key(&release);
        let disproven =
            !proven && requested && matches!(fact, Fact::DeploymentFailed { keeps_proof: false, .. });
        if proof == Shown::Nowhere && !stage.proven.contains_key(&release) {
            Arc::make_mut(stage).unshown.insert(release);
        } else if newly_proven {
            let stage = Arc::make_mut(stage);
            stage.proven.insert(release, at);
            stage.proofs.insert(release, Proof { by: id, chosen_by });
            stage.unshown.remove(&release);
        } else if disproven {
            let stage = Arc::make_mut(stage);
            stage.proven.remove(&release);
            stage.proofs.remove(&release);
        }
        // What only ends what nobody uses is nobody's deployment, nor is a job.
        if counts {
            let by_strategy = self.totals.deployments.entry(stage.name.clone()).or_default();
            let by_status = by_strategy.entry(strategy.to_owned()).or_default();
            *by_status.entry(status.to_owned()).or_insert(0) += 1;
            let by_strategy = self.totals.deployments_took.entry(stage.name.clone()).or_default();
            let took = by_strategy.entry(strategy.to_owned()).or_default();
            Arc::make_mut(took).add(at.since(created_at), &DEPLOYMENTS_MS);
        }
        if is_promoted && self.promotions.contains_key(&PromotionId(id.0)) {
            self.count_promotion(environment, status);
        }
        if newly_proven {
            self.await_automatic(environment, release);
        } else if disproven {
            self.forget_automatic(environment, release);
        }
        Ok(())
    }

    /// What the end of a deployment that somebody asked for shows.
    fn proof(&self, fact: &Fact, environment: EnvironmentId, release: ReleaseId) -> Shown {
        let Fact::DeploymentSucceeded { id, proves } = fact else { return Shown::Nothing };
        match proves {
            Some(true) => Shown::Proof,
            Some(false) => Shown::Nothing,
            None if !self.index.targets.contains_key(&environment) => Shown::Nowhere,
            None if self.is_everywhere(release, environment, *id) => Shown::Proof,
            None => Shown::Nothing,
        }
    }

    /// Whether every target of an environment has the release, but for those of a group without traffic: what proved it in journals of
    /// before the fact said so.
    fn is_everywhere(&self, release: ReleaseId, environment: EnvironmentId, by: DeploymentId) -> bool {
        let by = self.deployments.get(&by);
        let other = by.and_then(|it| Some((it.strategy.groups()?, it.leads_to()?.other())));
        self.targets_of(environment).all(|target| {
            let is_out = other.is_some_and(|(groups, colour)| groups.group_of(target) == Some(colour));
            is_out || target.current == Some(release)
        })
    }

    pub(super) fn deployment_mut(
        &mut self,
        id: DeploymentId,
        fact: &Fact,
    ) -> Result<&mut Deployment, IllegalTransition> {
        self.deployments.get_mut(&id).map(Arc::make_mut).ok_or_else(|| missing(DeploymentId::KIND, id, fact))
    }
}

/// What the end of a deployment shows of its release.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// That it is where it was to come.
    Proof,
    /// It would, but in a journal of before no target was left to show it.
    Nowhere,
    Nothing,
}

fn where_it_is(deployment: &Deployment) -> String {
    let Counts { waiting, active, .. } = deployment.counts;
    format!("{} with {active} active and {waiting} waiting targets", deployment.status.name())
}

pub(super) fn subject(id: DeploymentId) -> String {
    format!("deployment {id}")
}
