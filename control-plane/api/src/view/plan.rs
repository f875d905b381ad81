//! What a deployment would do, and what a person should know before it does.

use stella_api_types::deployment as dto;
use stella_domain::agent::Connectivity;
use stella_domain::deployment::{Deployment, TargetRollout};
use stella_domain::hold::Standing;
use stella_domain::tenant::TenantState;

use super::deployment::{on_failure, strategy};
use super::release::release_ref;
use super::{agent_named, connectivity, environment_named, target_named};

/// The plan behind a deployment that was decided and thrown away. `tenant` is the one in which it exists.
pub(crate) fn plan(tenant: &TenantState, deployment: &Deployment) -> dto::DeploymentPlan {
    let release = tenant.releases.get(&deployment.release);
    let parts = deployment.order.iter().filter_map(|id| deployment.targets.get(id));
    let standing = release.map(|release| &release.standing);
    dto::DeploymentPlan {
        environment: environment_named(tenant, deployment.environment),
        release: release_ref(tenant, deployment.release),
        strategy: strategy(deployment.strategy),
        on_failure: on_failure(deployment.on_failure),
        timeout_seconds: deployment.timeout_ms() / 1_000,
        steps: release
            .map_or_else(Vec::new, |it| it.steps.iter().map(|step| step.name.to_string()).collect()),
        targets: parts.map(|part| target(tenant, part)).collect(),
        warnings: match standing {
            Some(Standing::Deprecated(hold)) => vec![format!("the release is deprecated: {}", hold.reason)],
            Some(Standing::Good | Standing::Blocked(_)) | None => Vec::new(),
        },
    }
}

fn target(tenant: &TenantState, part: &TargetRollout) -> dto::PlannedTarget {
    let mut warnings = Vec::new();
    let is_there = tenant.agents.get(&part.agent).map_or(&Connectivity::Never, |agent| &agent.connectivity);
    let (name, _) = connectivity(is_there);
    match is_there {
        Connectivity::Online { .. } => {}
        Connectivity::Never => {
            warnings.push("its agent has never connected: it would wait for it".to_owned())
        }
        Connectivity::Suspect { .. } | Connectivity::Offline { .. } => {
            warnings.push(format!("its agent is {name}: it would wait for it"));
        }
    }
    let blocked = part.previous.and_then(|id| tenant.releases.get(&id)).and_then(|it| match &it.standing {
        Standing::Blocked(hold) => Some(hold),
        Standing::Good | Standing::Deprecated(_) => None,
    });
    match (part.previous, blocked) {
        (None, _) => warnings.push("it cannot go back: nothing was deployed to it before".to_owned()),
        (Some(_), Some(hold)) => {
            warnings.push(format!("it cannot go back: the release there is blocked ({})", hold.reason));
        }
        (Some(there), None) if there == part.release => {
            warnings.push("it has this release already".to_owned())
        }
        (Some(_), None) => {}
    }
    dto::PlannedTarget {
        target: target_named(tenant, part.target),
        agent: agent_named(tenant, part.agent),
        connectivity: name.to_owned(),
        current: part.previous.map(|id| release_ref(tenant, id)),
        can_go_back: part.previous.is_some_and(|there| there != part.release) && blocked.is_none(),
        warnings,
    }
}
