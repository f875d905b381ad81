//! What a run would do on targets, as things are now; nothing follows from asking.

use stella_protocol::id::TenantId;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use super::promotion::{Planned, planned};
use super::transaction::Transaction;
use super::{deploy_step, job, promotion, workflow};
use crate::access;
use crate::command::{Actor, Command, NewDeployment, NewRun, Request, TenantCommand};
use crate::ids;
use crate::rejection::Rejection;
use crate::run::Run;
use crate::state::State;
use crate::workflow::{Action, Step, Template};

/// A run that was not started.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// The run as it would begin.
    pub run: Run,
    /// What it would do.
    pub template: Template,
    /// What each step would do on targets, in the order of the template.
    pub steps: Vec<PlannedStep>,
}

/// What a step of a run would do on targets.
#[derive(Clone, Debug)]
pub enum PlannedStep {
    /// Nothing: it does something else, or takes something back.
    Nothing,
    /// This.
    Does(Box<(NewDeployment, Planned)>),
    /// Nobody can say, or it would be refused, for this reason. For a step that needs others that may be another one when they are over.
    Cannot(Rejection),
}

/// What a run would do if `actor` started it, with all the checks that its steps would go through now.
///
/// # Errors
/// If it would not be started, for the same reason.
pub fn plan_run(
    state: &State,
    actor: Actor,
    tenant: TenantId,
    new: &NewRun,
    now: Timestamp,
) -> Result<PlannedRun, Rejection> {
    let command = Command::Tenant(tenant, TenantCommand::StartRun(Box::new(new.clone())));
    let request = Request { actor, trace: TraceContext::default(), idempotency: None, command };
    access::check(state, &request, now)?;
    let found = state.tenants.get(&tenant).ok_or_else(|| Rejection::not_found(TenantId::KIND, tenant))?;
    // What is begun here is thrown away.
    let mut tx = Transaction::new(state, found, &request, now);
    workflow::begin(&mut tx, new, None)?;
    let run = Run::clone(tx.run(new.id)?);
    let template = tx.tenant.template_of(&run).cloned();
    let template = template.ok_or_else(|| Rejection::not_found("workflow", &run.workflow))?;
    let steps = template.steps.iter().map(|step| planned_step(&tx, &run, step)).collect();
    Ok(PlannedRun { run, template, steps })
}

fn planned_step(tx: &Transaction<'_>, run: &Run, step: &Step) -> PlannedStep {
    let id = ids::of_step(run.id, &step.id, 1, tx.now);
    let wanted = match step.action() {
        Some(Action::Deploy(deploy)) => deploy_step::wanted(&tx.tenant, run, deploy, id, tx.meter()),
        Some(Action::Task(task)) => job::wanted(&tx.tenant, run, (step, task), id, tx.meter()),
        _ => return PlannedStep::Nothing,
    };
    let planned = wanted.and_then(|new| {
        let command = TenantCommand::Deploy(Box::new(new.clone()));
        access::check_authority(tx.system, tx.actor(), tx.tenant.id, &command, tx.now)?;
        let planned = planned(&tx.tenant, &new, tx.now)?;
        if let Some(environment) = tx.tenant.environments.get(&new.environment) {
            let place = (tx.system, tx.tenant.id);
            promotion::can_be_approved(place, environment, tx.actor(), &tx.tenant.choosers_in(run.id))?;
        }
        Ok((new, planned))
    });
    match planned {
        Ok(does) => PlannedStep::Does(Box::new(does)),
        Err(rejection) => PlannedStep::Cannot(rejection),
    }
}
