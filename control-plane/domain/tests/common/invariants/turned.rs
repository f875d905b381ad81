//! Runs that have turned away: what may still begin in them.

use std::collections::{BTreeMap, BTreeSet};

use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::name::Identifier;
use stella_domain::run::{RunStatus, Work};
use stella_domain::tenant::TenantState;
use stella_protocol::id::{DeploymentId, RunId};

/// INV-29, fact by fact: one command may turn a run away and start something elsewhere.
pub(super) fn begin_nothing(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let mut turned: BTreeSet<RunId> =
        old.runs.values().filter(|it| it.status != RunStatus::Running).map(|it| it.id).collect();
    let mut awaited: BTreeMap<DeploymentId, (RunId, Identifier)> =
        old.awaited.iter().map(|(id, it)| (*id, it.clone())).collect();
    for (_, event) in events {
        if let Fact::RunTurned { id, .. } = &event.fact {
            turned.insert(*id);
        } else if let Fact::StepStarted { run, step, work, .. } = &event.fact {
            assert!(!is_over_in(new, &turned, (*run, step)), "INV-29: step {step} of {run} has started");
            if let Work::Deployment { deployment } = work {
                awaited.insert(*deployment, (*run, step.clone()));
            }
        } else if let Fact::DeploymentCreated { id, .. } = &event.fact
            && let Some((run, step)) = awaited.get(id)
        {
            assert!(!is_over_in(new, &turned, (*run, step)), "INV-29: {id} has begun for {step} of {run}");
        }
    }
}

/// Whether a step is in a run that has turned away, or in a part of one, and makes up for nothing.
fn is_over_in(tenant: &TenantState, turned: &BTreeSet<RunId>, (run, step): (RunId, &Identifier)) -> bool {
    let Some(found) = tenant.runs.get(&run) else { return false };
    if tenant.step_of(found, step).is_some_and(|it| it.compensates.is_some()) {
        return false;
    }
    let above = found.parent.as_ref();
    turned.contains(&run) || above.is_some_and(|(whole, step)| is_over_in(tenant, turned, (*whole, step)))
}
