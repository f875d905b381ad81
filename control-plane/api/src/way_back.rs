//! Whether a deployment that is only planned could go back: asked of the hosts now, and recorded nowhere.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use stella_api_types::deployment::DeploymentPlan;
use stella_domain::command::NewDeployment;
use stella_domain::decide::{self, Provable};
use stella_domain::event::PlannedTarget;
use stella_domain::tenant::TenantState;
use stella_domain::way_back::{ProofAnswer, ProofRule};
use stella_protocol::id::{QuestionId, TargetId};
use stella_protocol::message::Inspect;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::{App, view};

/// How long a plan waits for hosts in all: somebody waits for it. Who needs longer is asked for longer by the deployment.
const LOOK_DURATION_MAX: Duration = Duration::from_secs(10);

/// How many hosts are asked at the same time.
const HOSTS_MAX: usize = 256;

/// Who could say of each target whether it could go back; nobody, where the environment wants no proof.
pub(crate) fn provable(
    tenant: &TenantState,
    wanted: &NewDeployment,
    targets: &[PlannedTarget],
) -> Vec<(TargetId, Provable)> {
    let rule = tenant.environments.get(&wanted.environment).map(|it| it.way_back_proof);
    if rule.is_none_or(|rule| rule == ProofRule::Off) {
        return Vec::new();
    }
    targets.iter().map(|planned| (planned.target, decide::provable(tenant, planned))).collect()
}

/// Asks the hosts, and notes in the plan what they say.
pub(crate) async fn look(app: &App, plan: &mut DeploymentPlan, provable: Vec<(TargetId, Provable)>) {
    let deadline = Instant::now() + LOOK_DURATION_MAX;
    let answers = stream::iter(provable).map(|(target, provable)| async move {
        Some((target.to_string(), look_at(app, provable, deadline).await?))
    });
    let answers: HashMap<String, ProofAnswer> =
        answers.buffer_unordered(HOSTS_MAX).filter_map(std::future::ready).collect().await;
    for target in &mut plan.targets {
        let Some(answer) = answers.get(&target.target.id) else { continue };
        target.way_back = Some(view::way_back::known(answer, None));
        // What is known without the host is among the warnings already.
        if let Some(reason) = answer.reason().filter(|_| target.can_go_back) {
            target.warnings.push(format!("its way back is {}: {reason}", answer.name()));
        }
    }
}

async fn look_at(app: &App, provable: Provable, deadline: Instant) -> Option<ProofAnswer> {
    let (agent, slot, wanted) = match provable {
        Provable::Nothing => return None,
        Provable::Known(answer) => return Some(answer),
        Provable::By(agent, slot, wanted) => (agent, slot, wanted),
    };
    let unproven = |reason: &str| Some(ProofAnswer::Unproven { reason: reason.to_owned() });
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let Some(look) = app.look.as_ref().filter(|_| timeout_ms > 0) else {
        return unproven("its host was not asked in time; the deployment asks it");
    };
    let question = QuestionId(Uuid::now_v7());
    let slot = slot.map(|slot| slot.to_string());
    let inspect = Inspect { question, slot, wanted: wanted.clone(), timeout_ms };
    match timeout_at(deadline, (look.0)(agent, inspect)).await {
        Ok(Some(holdings)) => Some(decide::judge(&wanted, &holdings)),
        Ok(None) | Err(_) => unproven("its host did not answer in time; the deployment waits longer"),
    }
}
