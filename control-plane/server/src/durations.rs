//! How long things took, and what became of tasks: histograms and counters that are kept in the state. They are the same after a restart, and
//! a series ends with the thing that it is about.

use std::sync::Arc;

use stella_domain::durations::{APPROVALS_MS, DEPLOYMENTS_MS, DISPATCHES_MS, Durations, STEPS_MS, TASKS_MS};
use stella_domain::state::State;
use stella_domain::strategy::Strategy;
use stella_domain::task::TaskState;
use stella_domain::tenant::{Done, TenantState};
use stella_domain::workflow::Action;
use stella_telemetry::exemplars::Exemplars;
use stella_telemetry::exposition::Exposition;
use stella_telemetry::families::Families;

use crate::measured::{APPROVALS, DEPLOYMENTS, DISPATCHES, STEPS, TASKS, seconds};

/// What is not there yet.
const NONE: &Durations = &Durations::NONE;

/// All of them.
pub(crate) fn families(state: &State, format: Exposition, exemplars: &Exemplars) -> Families {
    let mut families = Families::new(format, exemplars);
    deployments(&mut families, state);
    approvals(&mut families, state);
    steps(&mut families, state);
    dispatches(&mut families, state);
    tasks(&mut families, state);
    families
}

/// From 0 on for all that an environment may have: the first of a kind is an increase.
fn deployments(families: &mut Families, state: &State) {
    families.histograms(&DEPLOYMENTS, "Deployment duration");
    for tenant in state.tenants.values() {
        for environment in tenant.environments.values() {
            let by_strategy = tenant.totals.deployments_took.get(&environment.name);
            for strategy in Strategy::NAMES {
                let took = by_strategy.and_then(|it| it.get(strategy)).map_or(NONE, AsRef::as_ref);
                let labels = [
                    ("tenant", tenant.name.as_str()),
                    ("env", environment.name.as_str()),
                    ("strategy", strategy),
                ];
                histogram(families, &labels, took, &DEPLOYMENTS_MS);
            }
        }
    }
}

/// From 0 on where approvals are needed.
fn approvals(families: &mut Families, state: &State) {
    families.histograms(&APPROVALS, "Time to approve");
    for tenant in state.tenants.values() {
        for environment in tenant.environments.values() {
            let took = tenant.totals.approvals_took.get(&environment.name);
            if took.is_some() || environment.approvals.is_some() {
                let labels = [("tenant", tenant.name.as_str()), ("env", environment.name.as_str())];
                histogram(families, &labels, took.map_or(NONE, AsRef::as_ref), &APPROVALS_MS);
            }
        }
    }
}

/// The operations overview has them by type alone, so they are those of all tenants together.
fn steps(families: &mut Families, state: &State) {
    families.histograms(&STEPS, "Step execution time");
    for kind in Action::TYPES {
        let mut all = Durations::default();
        for took in state.tenants.values().filter_map(|tenant| tenant.totals.steps_took.get(kind)) {
            all.merge(took);
        }
        histogram(families, &[("step_type", kind)], &all, &STEPS_MS);
    }
}

fn dispatches(families: &mut Families, state: &State) {
    let help = "From when a task was queued to the first word of its agent about it";
    families.histograms(&DISPATCHES, help);
    for tenant in state.tenants.values() {
        for environment in tenant.environments.values() {
            let took = tenant.totals.dispatches_took.get(&environment.name).map_or(NONE, AsRef::as_ref);
            let labels = [("tenant", tenant.name.as_str()), ("env", environment.name.as_str())];
            histogram(families, &labels, took, &DISPATCHES_MS);
        }
    }
}

/// By agent and type, from the first task of the type that was queued for the agent on.
fn tasks(families: &mut Families, state: &State) {
    families.counters("stella_agent_tasks_total", "Tasks executed");
    for (labels, done) in state.tenants.values().flat_map(done_of) {
        for end in TaskState::ENDS {
            let [tenant, agent, kind] = labels;
            let count = done.ends.get(end).copied().unwrap_or(0);
            families.counter(&[tenant, agent, kind, ("status", end)], count);
        }
    }
    families.histograms(&TASKS, "Task duration");
    for (labels, done) in state.tenants.values().flat_map(done_of) {
        histogram(families, &labels, &done.took, &TASKS_MS);
    }
}

type Labels<'t> = [(&'static str, &'t str); 3];

/// What the agents of a tenant have done that are not revoked.
fn done_of(tenant: &Arc<TenantState>) -> impl Iterator<Item = (Labels<'_>, &Done)> {
    let agents = tenant.agents.values().filter(|agent| agent.revoked.is_none());
    agents.flat_map(|agent| {
        let done = tenant.work.get(&agent.id).into_iter().flat_map(|work| &work.done);
        done.map(|(kind, done)| {
            let labels =
                [("tenant", tenant.name.as_str()), ("agent", agent.name.as_str()), ("type", kind.as_str())];
            (labels, done.as_ref())
        })
    })
}

/// The bounds are those of the family that was begun last.
fn histogram(families: &mut Families, labels: &[(&'static str, &str)], took: &Durations, bounds_ms: &[u64]) {
    let up_to = bounds_ms.iter().map(|bound| took.up_to(*bound));
    families.histogram(labels, up_to, took.count(), seconds(took.sum_ms()));
}
