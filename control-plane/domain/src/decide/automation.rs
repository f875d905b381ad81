//! Promotions that nobody asks for by hand: what has proven itself in one environment comes to the next.
//!
//! They go through the same request as all others, with the gates, approvals, locks and freezes of their environment. Who asks is the
//! control plane itself; who has asked for what proved the release has chosen it, and does not approve it.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{EnvironmentId, PromotionId, ReleaseId};

use super::transaction::Transaction;
use super::{deployment, promotion};
use crate::command::{Actor, NewDeployment};
use crate::environment::Automatic;
use crate::event::Fact;
use crate::ids;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::strategy::Strategy;
use crate::target::Target;
use crate::tenant::TenantState;

/// Asks for what is due, wherever nothing is under way: where it has become so, or where something has ended.
pub(super) fn go_on(tx: &mut Transaction<'_>) -> Result<(), Rejection> {
    let due = |id: &EnvironmentId| {
        tx.tenant.environments.get(id).is_some_and(|it| it.automatic.values().any(|it| it.is_due))
    };
    let places: BTreeSet<EnvironmentId> =
        tx.facts_from(0).flat_map(|fact| concerned(&tx.tenant, fact)).filter(due).collect();
    for place in places {
        consider(tx, place)?;
    }
    Ok(())
}

/// Where something may come by itself since this happened.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts let nothing come")]
fn concerned(tenant: &TenantState, fact: &Fact) -> Vec<EnvironmentId> {
    match fact {
        Fact::AutoPromotionDue { environment, .. } => vec![*environment],
        Fact::DeploymentSucceeded { id }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. } => {
            tenant.deployments.get(id).map(|it| it.environment).into_iter().collect()
        }
        Fact::TaskFinished { key, .. } => promotion::set_free(tenant, key.task).into_iter().collect(),
        Fact::TargetRemoved { .. } => tenant.environments.keys().copied().collect(),
        _ => Vec::new(),
    }
}

/// Of all that are due the newest one comes; it waits for the targets to be free.
fn consider(tx: &mut Transaction<'_>, place: EnvironmentId) -> Result<(), Rejection> {
    let Some(environment) = tx.tenant.environments.get(&place).map(Arc::clone) else { return Ok(()) };
    let due = environment.automatic.iter().filter(|(_, it)| it.is_due);
    let mut due: Vec<(Arc<Release>, Automatic)> =
        due.filter_map(|(id, it)| Some((Arc::clone(tx.tenant.releases.get(id)?), it.clone()))).collect();
    due.sort_by_key(|(release, _)| (release.created_at, release.id));
    let Some((newest, automatic)) = due.pop() else { return Ok(()) };
    for (older, _) in due {
        let reason = format!("{}:{} is newer and due too", newest.application, newest.version);
        ended(tx, place, older.id, None, reason)?;
    }
    let all: Vec<&Target> = targets(tx, place).collect();
    if all.iter().any(|target| deployment::is_idle(target).is_err()) {
        return Ok(());
    }
    let Some(like) = tx.tenant.deployments.get(&automatic.like).map(Arc::clone) else {
        return ended(tx, place, newest.id, None, "nobody knows any more how it was deployed".to_owned());
    };
    let strategy = environment.strategy.clone().unwrap_or_else(|| like.strategy.clone());
    if let Some(waiting) = promotion::waiting_for(&tx.tenant, place, newest.id) {
        return ended(tx, place, newest.id, None, format!("promotion {waiting} waits to bring it already"));
    }
    if let Some(reason) = needless(tx, &with_traffic(tx, place, &strategy), &newest) {
        return ended(tx, place, newest.id, None, reason);
    }
    let id = ids::automatic(place, newest.id, tx.now);
    let new = NewDeployment {
        id,
        environment: place,
        release: newest.id,
        strategy,
        on_failure: like.on_failure,
        tolerate_failures: like.tolerate_failures,
        targets: None,
        timeout_ms: like.timeout_ms(),
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
        job: None,
    };
    let asked = tx.attempt(|tx| {
        tx.with_authority(Actor::System, like.trace.clone(), |tx| {
            promotion::request_patiently(tx, &new, like.id, &automatic.chosen_by)
        })
    });
    match asked {
        Ok(_) => ended(tx, place, newest.id, Some(PromotionId(id.0)), String::new()),
        Err(defect @ Rejection::Defect(_)) => Err(defect),
        Err(rejection) => ended(tx, place, newest.id, None, rejection.to_string()),
    }
}

fn targets<'t>(tx: &'t Transaction<'_>, place: EnvironmentId) -> impl Iterator<Item = &'t Target> {
    let names = tx.tenant.index.targets.get(&place).into_iter().flat_map(|names| names.values());
    names.filter_map(|id| tx.tenant.targets.get(id)).map(AsRef::as_ref)
}

/// The targets that the release is to come to, or that lead the traffic there: not those of a group without traffic.
fn with_traffic<'t>(tx: &'t Transaction<'_>, place: EnvironmentId, strategy: &Strategy) -> Vec<&'t Target> {
    let out = strategy.groups().and_then(|groups| Some((groups, tx.tenant.live_group_shown(place, groups)?)));
    let is_out =
        |target: &Target| out.is_some_and(|(groups, live)| groups.group_of(target) == Some(live.other()));
    targets(tx, place).filter(|target| !is_out(target)).collect()
}

/// Why it need not come any more. Nothing goes back by itself.
fn needless(tx: &Transaction<'_>, targets: &[&Target], release: &Release) -> Option<String> {
    if !targets.is_empty() && targets.iter().all(|target| target.current == Some(release.id)) {
        return Some("it is on all targets already".to_owned());
    }
    let current = targets.iter().filter_map(|target| tx.tenant.releases.get(&target.current?));
    let newer = current
        .filter(|it| it.application == release.application)
        .find(|it| (it.created_at, it.id) > (release.created_at, release.id));
    newer.map(|it| format!("{}:{} is there, which is newer", it.application, it.version))
}

fn ended(
    tx: &mut Transaction<'_>,
    environment: EnvironmentId,
    release: ReleaseId,
    promotion: Option<PromotionId>,
    reason: String,
) -> Result<(), Rejection> {
    tx.emit(Fact::AutoPromotionEnded { environment, release, promotion, reason })
}
