//! What can be asked and called outside of the control plane, so that what never can is told when it is set up, and not when
//! somebody waits for it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use stella_api_types::deployment::DeploymentPlan;
use stella_domain::gate::Check;
use stella_domain::tenant::TenantState;
use stella_domain::workflow::{Action, Step, Template};
use stella_protocol::id::EnvironmentId;

use crate::error::ApiError;

/// Whom gates may ask, by name, and where workflows may call: what the configuration says.
#[derive(Clone)]
pub struct Outside {
    /// The names of `gates.prometheus`.
    pub prometheus: BTreeSet<String>,
    /// The names of `gates.http`.
    pub http: BTreeSet<String>,
    /// Why an address may not be called, if so.
    pub may_call: Arc<MayCall>,
}

/// See [`Outside::may_call`].
pub type MayCall = dyn Fn(&str) -> Result<(), String> + Send + Sync;

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("prometheus", &self.prometheus).field("http", &self.http).finish()
    }
}

impl Outside {
    /// Refuses a gate that nobody could ever answer.
    pub(crate) fn can_be_asked(&self, check: &Check) -> Result<(), ApiError> {
        let field = if matches!(check, Check::Metric { .. }) { "check.source" } else { "check.endpoint" };
        self.missing(check).map_or(Ok(()), |problem| Err(ApiError::invalid(field, problem)))
    }

    /// Why nobody can answer a gate, if so.
    fn missing(&self, check: &Check) -> Option<String> {
        let (section, known, name) = match check {
            Check::Metric { source, .. } => ("prometheus", &self.prometheus, source),
            Check::Http { endpoint } => ("http", &self.http, endpoint),
            Check::Security(_) | Check::Expression { .. } | Check::Manual | Check::Signature(_) => {
                return None;
            }
        };
        if known.contains(name.as_str()) {
            return None;
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let known =
            if known.is_empty() { "none is".to_owned() } else { format!("there is {}", known.join(", ")) };
        Some(format!("gates.{section}.{name} is not configured on the control plane; {known}"))
    }

    /// Says of a plan's gates which of them nobody could answer.
    pub(crate) fn doubt(&self, tenant: &TenantState, plan: &mut DeploymentPlan) {
        let id = plan.environment.id.parse::<EnvironmentId>();
        let Some(environment) = id.ok().and_then(|id| tenant.environments.get(&id)) else {
            return;
        };
        for planned in plan.gates.iter_mut().filter(|it| it.reason.is_none()) {
            let standing = environment.gates.values().find(|it| it.gate.name.as_str() == planned.gate);
            if let Some(problem) = standing.and_then(|it| self.missing(&it.gate.check)) {
                "unavailable".clone_into(&mut planned.status);
                planned.reason = Some(problem);
            }
        }
    }

    /// What of a workflow could never work here, as far as that can be seen before it is run.
    pub(crate) fn warnings(&self, template: &Template) -> Vec<String> {
        let steps = template.steps.iter();
        steps.filter_map(|it| Some(format!("step {}: {}", it.id, self.refusal(it)?))).collect()
    }

    /// Why a step can never do what it is for, if so. An address with expressions in it is only known when it is called.
    pub(crate) fn refusal(&self, step: &Step) -> Option<String> {
        let Some(Action::Http(call)) = step.action() else { return None };
        if call.url.contains("${") { None } else { (self.may_call)(&call.url).err() }
    }
}
