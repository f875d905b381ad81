//! What can be asked and called outside of the control plane, so that what never can is told when it is set up, and not when
//! somebody waits for it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use stella_api_types::deployment::DeploymentPlan;
use stella_domain::gate::Check;
use stella_domain::name::Name;
use stella_domain::tenant::TenantState;
use stella_domain::workflow::{Action, GateStep, Step, Template};
use stella_protocol::id::EnvironmentId;

use crate::error::ApiError;

/// Whom gates may ask, by name, and where workflows may call: what the configuration says.
#[derive(Clone)]
pub struct Outside {
    /// The names of `gates.prometheus`.
    pub prometheus: BTreeSet<String>,
    /// The names of `gates.http`.
    pub http: BTreeSet<String>,
    /// Why a gate of a tenant, which is one of so many, may not ask what is configured, if so.
    pub may_ask: Arc<MayAsk>,
    /// Why workflows of a tenant, which is one of so many, may not call something, if so.
    pub may_call: Arc<MayCall>,
    /// Why workflows of a tenant may not tell a receiver anything, if so.
    pub may_notify: Arc<MayNotify>,
}

/// See [`Outside::may_ask`].
pub type MayAsk = dyn Fn(&Check, &str, usize) -> Result<(), String> + Send + Sync;

/// See [`Outside::may_call`].
///
/// What is called is an address, or below the destination of that name; `None` where that is only known when it is called.
pub type MayCall = dyn Fn((&str, usize), Option<&Name>, Option<&str>) -> Result<(), String> + Send + Sync;

/// See [`Outside::may_notify`].
pub type MayNotify = dyn Fn(&str, &str) -> Result<(), String> + Send + Sync;

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("prometheus", &self.prometheus).field("http", &self.http).finish()
    }
}

/// It as the configuration says at this moment. Clones change together.
#[derive(Clone, Debug)]
pub struct Reach(Arc<ArcSwap<Outside>>);

impl Reach {
    /// What the configuration says at the start.
    #[must_use]
    pub fn new(outside: Outside) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(outside)))
    }

    /// Takes over another configuration.
    pub fn change(&self, outside: Outside) {
        self.0.store(Arc::new(outside));
    }

    pub(crate) fn now(&self) -> Arc<Outside> {
        self.0.load_full()
    }
}

impl Outside {
    /// Refuses a gate that nobody could ever answer.
    pub(crate) fn can_be_asked(
        &self,
        tenant: &TenantState,
        count: usize,
        check: &Check,
    ) -> Result<(), ApiError> {
        let field = if matches!(check, Check::Metric { .. }) { "check.source" } else { "check.endpoint" };
        self.missing(tenant, count, check).map_or(Ok(()), |problem| Err(ApiError::invalid(field, problem)))
    }

    /// Why nobody can answer a gate of a tenant, which is one of so many, if so.
    fn missing(&self, tenant: &TenantState, count: usize, check: &Check) -> Option<String> {
        let missing = match check {
            Check::Metric { source, .. } => self.no_prometheus(source),
            Check::Http { endpoint } => self.no_endpoint(endpoint),
            Check::Security(_) | Check::Expression { .. } | Check::Manual | Check::Signature(_) => None,
        };
        missing.or_else(|| (self.may_ask)(check, tenant.name.as_str(), count).err())
    }

    /// Says of a plan's gates which of them nobody could answer.
    pub(crate) fn doubt(&self, tenant: &TenantState, count: usize, plan: &mut DeploymentPlan) {
        let id = plan.environment.id.parse::<EnvironmentId>();
        let Some(environment) = id.ok().and_then(|id| tenant.environments.get(&id)) else {
            return;
        };
        for planned in plan.gates.iter_mut().filter(|it| it.reason.is_none()) {
            let standing = environment.gates.values().find(|it| it.gate.name.as_str() == planned.gate);
            if let Some(problem) = standing.and_then(|it| self.missing(tenant, count, &it.gate.check)) {
                "unavailable".clone_into(&mut planned.status);
                planned.reason = Some(problem);
            }
        }
    }

    /// What of a workflow of a tenant, which is one of so many, could never work here, as far as that can be seen before it is run.
    pub(crate) fn warnings(&self, tenant: &Name, count: usize, template: &Template) -> Vec<String> {
        let steps = template.steps.iter();
        steps.filter_map(|it| Some(format!("step {}: {}", it.id, self.refusal(tenant, count, it)?))).collect()
    }

    /// Why a tenant's step can never do what it is for, if so. An address with expressions in it is only known when it is called.
    pub(crate) fn refusal(&self, tenant: &Name, count: usize, step: &Step) -> Option<String> {
        match step.action()? {
            Action::Http(call) => {
                let to = call.address();
                let known = Some(to).filter(|to| !to.contains("${"));
                (self.may_call)((tenant.as_str(), count), call.to.as_ref(), known).err()
            }
            Action::Notify(notify) => (self.may_notify)(tenant.as_str(), &notify.receiver).err(),
            Action::Gate(GateStep { metric: Some(metric), .. }) => self.no_prometheus(&metric.source),
            Action::Gate(GateStep { http: Some(http), .. }) => self.no_endpoint(&http.endpoint),
            Action::Gate(_)
            | Action::Deploy(_)
            | Action::Rollback(_)
            | Action::Task(_)
            | Action::Approval(_)
            | Action::Wait(_)
            | Action::Input(_)
            | Action::Workflow(_) => None,
        }
    }

    fn no_prometheus(&self, name: &Name) -> Option<String> {
        missing("prometheus", &self.prometheus, name)
    }

    fn no_endpoint(&self, name: &Name) -> Option<String> {
        missing("http", &self.http, name)
    }
}

/// That a section of `[gates]` does not have a name, if so.
fn missing(section: &str, known: &BTreeSet<String>, name: &Name) -> Option<String> {
    if known.contains(name.as_str()) {
        return None;
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let known =
        if known.is_empty() { "none is".to_owned() } else { format!("there is {}", known.join(", ")) };
    Some(format!("gates.{section}.{name} is not configured on the control plane; {known}"))
}
