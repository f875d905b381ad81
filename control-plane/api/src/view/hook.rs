//! Incoming webhooks.

use stella_api_types::hook as dto;
use stella_api_types::paths;
use stella_domain::hook::{Hook, HookAction};
use stella_domain::state::State;
use stella_domain::tenant::TenantState;
use stella_protocol::time::Timestamp;

use super::event::actor;
use super::{named, time};

/// A hook of this tenant.
pub(crate) fn hook(state: &State, tenant: &TenantState, hook: &Hook, now: Timestamp) -> dto::Hook {
    let (workflow, deploy) = match &hook.action {
        HookAction::Workflow { workflow, inputs } => {
            let inputs = inputs.iter().map(|(name, source)| (name.to_string(), source.clone()));
            (Some(dto::HookWorkflow { name: workflow.to_string(), inputs: inputs.collect() }), None)
        }
        HookAction::Deploy { environment, release } => {
            let name = tenant.environment_name(*environment);
            let environment = name.map_or_else(|| environment.to_string(), ToString::to_string);
            (None, Some(dto::HookDeploy { environment, release: release.clone() }))
        }
    };
    let account = state.system.accounts.get(&hook.account);
    dto::Hook {
        id: hook.id.to_string(),
        name: hook.name.to_string(),
        path: paths::fill(paths::HOOK_DELIVERY, &[&hook.id.to_string()]),
        account: named(hook.account, account.map(|account| &account.name)),
        workflow,
        deploy,
        when: hook.when.clone(),
        former_secret_until: hook.formers(now).map(|it| it.until).max().map(time),
        created_at: time(hook.created_at),
        created_by: actor(&hook.created_by),
    }
}
