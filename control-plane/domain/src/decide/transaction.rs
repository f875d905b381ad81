//! One command's work on a copy of its tenant.

use std::sync::Arc;

use stella_protocol::id::{AgentId, DeploymentId, PromotionId, RunId, TargetId, TaskId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use crate::agent::Agent;
use crate::command::{Actor, Request};
use crate::deployment::Deployment;
use crate::event::{Event, Fact};
use crate::promotion::Promotion;
use crate::rejection::Rejection;
use crate::run::Run;
use crate::state::State;
use crate::target::Target;
use crate::task::Task;
use crate::tenant::TenantState;
use crate::workflow::{Meter, STEP_WORK_MAX};

/// A copy of a tenant and what has happened to it so far.
#[derive(Debug)]
pub(super) struct Transaction<'r> {
    pub(super) tenant: TenantState,
    pub(super) now: Timestamp,
    /// An agent that is sent nothing for the moment: its hello is being compared.
    pub(super) held: Option<AgentId>,
    /// What was there when the command came, for what belongs to no tenant.
    pub(super) system: &'r State,
    actor: Actor,
    trace: TraceContext,
    events: Vec<Event>,
    meter: Meter,
}

/// After how much work of expressions a decision begins no more steps of runs; the last one may take it [`STEP_WORK_MAX`] beyond.
/// Everybody waits for a decision.
pub(super) const WORK_MAX: u64 = STEP_WORK_MAX / 2;

impl<'r> Transaction<'r> {
    pub(super) fn new(state: &'r State, tenant: &TenantState, request: &Request, now: Timestamp) -> Self {
        Self {
            system: state,
            tenant: tenant.clone(),
            now,
            held: None,
            actor: request.actor.clone(),
            trace: request.trace.clone(),
            events: Vec::new(),
            meter: Meter::default(),
        }
    }

    /// What counts the work of expressions.
    pub(super) const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The work of expressions so far, in steps of their evaluation.
    pub(super) fn work(&self) -> u64 {
        self.meter.work()
    }

    /// Makes a fact of it: applied at once, recorded, and thrown away with all the others if the command is rejected.
    pub(super) fn emit(&mut self, fact: Fact) -> Result<(), Rejection> {
        let event = Event::new(self.now, &self.actor, &self.trace, fact);
        self.tenant.apply(&event).map_err(Rejection::Defect)?;
        self.events.push(event);
        Ok(())
    }

    /// Who asks.
    pub(super) const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Does something that somebody else has asked for earlier, in the trace of that.
    pub(super) fn with_authority<T>(
        &mut self,
        actor: Actor,
        trace: TraceContext,
        work: impl FnOnce(&mut Self) -> Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        let asks = std::mem::replace(&mut self.actor, actor);
        let within = std::mem::replace(&mut self.trace, trace);
        let result = work(self);
        (self.actor, self.trace) = (asks, within);
        result
    }

    /// Does something whole or not at all, without the command failing with it.
    pub(super) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        let (tenant, events) = (self.tenant.clone(), self.events.len());
        let result = work(self);
        if result.is_err() {
            self.tenant = tenant;
            self.events.truncate(events);
        }
        result
    }

    /// What has happened so far.
    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many facts there are so far.
    pub(super) const fn emitted(&self) -> usize {
        self.events.len()
    }

    /// What has happened in this transaction, from the `first` fact on.
    pub(super) fn facts_from(&self, first: usize) -> impl Iterator<Item = &Fact> {
        self.events.iter().skip(first).map(|event| &event.fact)
    }

    pub(super) fn into_parts(self) -> (TenantState, Vec<Event>) {
        (self.tenant, self.events)
    }

    pub(super) fn agent(&self, id: AgentId) -> Result<&Arc<Agent>, Rejection> {
        self.tenant.agents.get(&id).ok_or_else(|| Rejection::not_found(AgentId::KIND, id))
    }

    pub(super) fn target(&self, id: TargetId) -> Result<&Arc<Target>, Rejection> {
        self.tenant.targets.get(&id).ok_or_else(|| Rejection::not_found(TargetId::KIND, id))
    }

    pub(super) fn task(&self, id: TaskId) -> Result<&Arc<Task>, Rejection> {
        self.tenant.tasks.get(&id).ok_or_else(|| Rejection::not_found(TaskId::KIND, id))
    }

    pub(super) fn promotion(&self, id: PromotionId) -> Result<&Arc<Promotion>, Rejection> {
        self.tenant.promotions.get(&id).ok_or_else(|| Rejection::not_found(PromotionId::KIND, id))
    }

    pub(super) fn run(&self, id: RunId) -> Result<&Arc<Run>, Rejection> {
        self.tenant.runs.get(&id).ok_or_else(|| Rejection::not_found(RunId::KIND, id))
    }

    pub(super) fn deployment(&self, id: DeploymentId) -> Result<&Arc<Deployment>, Rejection> {
        self.tenant.deployments.get(&id).ok_or_else(|| Rejection::not_found(DeploymentId::KIND, id))
    }
}
