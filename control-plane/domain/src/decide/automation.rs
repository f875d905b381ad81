//! Promotions that nobody asks for by hand: what has proven itself in one environment comes to the next.
//!
//! They go through the same request as all others, with the gates, approvals, locks and freezes of their environment. Who asks is the
//! control plane itself; who has asked for what proved the release has chosen it, and does not approve it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId, ReleaseId};

use super::transaction::Transaction;
use super::{deployment, promotion};
use crate::command::{Actor, NewDeployment};
use crate::deployment::Deployment;
use crate::environment::{Automatic, Environment};
use crate::event::Fact;
use crate::ids;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::release::Release;
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
        Fact::DeploymentSucceeded { id, .. }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. } => {
            tenant.deployments.get(id).map(|it| it.environment).into_iter().collect()
        }
        Fact::TaskFinished { key, .. } => promotion::set_free(tenant, key.task).into_iter().collect(),
        Fact::TargetRemoved { .. } => tenant.environments.keys().copied().collect(),
        _ => Vec::new(),
    }
}

/// A release that may come now, if nothing speaks against it.
struct Due {
    release: Arc<Release>,
    automatic: Automatic,
}

/// What became of asking for one.
enum Verdict {
    /// Something works on its targets: it is asked for when that has ended.
    Waits,
    Asked(PromotionId),
    /// It is there, or something newer is, or it is asked for already.
    Needless(String),
    /// It may not come, and why.
    Refused(String),
}

/// What is due for each application comes, whatever becomes of the others.
fn consider(tx: &mut Transaction<'_>, place: EnvironmentId) -> Result<(), Rejection> {
    let Some(environment) = tx.tenant.environments.get(&place).map(Arc::clone) else { return Ok(()) };
    let mut due: BTreeMap<Name, Vec<Due>> = BTreeMap::new();
    for (id, automatic) in environment.automatic.iter().filter(|(_, it)| it.is_due) {
        let Some(release) = tx.tenant.releases.get(id).map(Arc::clone) else { continue };
        let of_it = due.entry(release.application.clone()).or_default();
        of_it.push(Due { release, automatic: automatic.clone() });
    }
    due.into_values().try_for_each(|due| newest(tx, &environment, due))
}

/// Of all that are due the newest one comes that may; it waits for the targets to be free. What is older ends with it, and what may not come
/// takes the place of nothing.
fn newest(tx: &mut Transaction<'_>, environment: &Environment, mut due: Vec<Due>) -> Result<(), Rejection> {
    due.sort_by_key(|it| (it.release.created_at, it.release.id));
    while let Some(newest) = due.pop() {
        let id = newest.release.id;
        match ask(tx, environment, &newest)? {
            Verdict::Waits => return Ok(()),
            Verdict::Refused(reason) => {
                ended(tx, environment.id, id, None, reason)?;
                continue;
            }
            Verdict::Asked(promotion) => ended(tx, environment.id, id, Some(promotion), String::new())?,
            Verdict::Needless(reason) => ended(tx, environment.id, id, None, reason)?,
        }
        let Release { application, version, .. } = &*newest.release;
        for older in std::mem::take(&mut due) {
            let reason = format!("{application}:{version} is newer and due too");
            ended(tx, environment.id, older.release.id, None, reason)?;
        }
    }
    Ok(())
}

fn ask(
    tx: &mut Transaction<'_>,
    environment: &Environment,
    Due { release, automatic }: &Due,
) -> Result<Verdict, Rejection> {
    let Some(like) = tx.tenant.deployments.get(&automatic.like).map(Arc::clone) else {
        return Ok(Verdict::Refused("nobody knows any more how it was deployed".to_owned()));
    };
    let new = wanted(environment, release, &like, free_id(tx, environment, release));
    let mut targets = tx.tenant.meant_by(&new).into_iter();
    if targets.any(|target| deployment::is_open_to(&tx.tenant, &new, target).is_err()) {
        return Ok(Verdict::Waits);
    }
    if let Some(waiting) = promotion::waiting_for(&tx.tenant, environment.id, release.id) {
        return Ok(Verdict::Needless(format!("promotion {waiting} waits to bring it already")));
    }
    if let Some(reason) = needless(&tx.tenant, &with_traffic(&tx.tenant, &new), release) {
        return Ok(Verdict::Needless(reason));
    }
    if let Some(reason) = is_nowhere_yet(&tx.tenant, environment, &new, (release, like.environment)) {
        return Ok(Verdict::Refused(reason));
    }
    let asked = tx.attempt(|tx| {
        tx.with_authority(Actor::System, like.trace.clone(), |tx| {
            promotion::request_patiently(tx, &new, like.id, &automatic.chosen_by)
        })
    });
    match asked {
        Ok(_) => Ok(Verdict::Asked(PromotionId(new.id.0))),
        Err(defect @ Rejection::Defect(_)) => Err(defect),
        Err(rejection) => Ok(Verdict::Refused(rejection.to_string())),
    }
}

/// An id that nothing has. What was void as soon as it was asked for is asked for again in the same millisecond.
fn free_id(tx: &Transaction<'_>, environment: &Environment, release: &Release) -> DeploymentId {
    let id = |round| ids::automatic(environment.id, release.id, tx.now, round);
    let is_free = |round: &u32| !tx.tenant.promotions.contains_key(&PromotionId(id(*round).0));
    id((0..).find(is_free).unwrap_or_default())
}

/// It comes to the targets of its application, as it was deployed before.
fn wanted(
    environment: &Environment,
    release: &Release,
    like: &Deployment,
    id: DeploymentId,
) -> NewDeployment {
    NewDeployment {
        id,
        environment: environment.id,
        release: release.id,
        strategy: environment.strategy.clone().unwrap_or_else(|| like.strategy.clone()),
        on_failure: like.on_failure,
        tolerate_failures: like.tolerate_failures,
        targets: None,
        timeout_ms: like.timeout_ms(),
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
        job: None,
    }
}

/// Why nobody can tell where it is to go: nothing is on the targets yet, and it comes from where its application is not alone.
fn is_nowhere_yet(
    tenant: &TenantState,
    environment: &Environment,
    new: &NewDeployment,
    (release, from): (&Release, EnvironmentId),
) -> Option<String> {
    let application = &release.application;
    let is_somewhere = tenant.meant_by(new).iter().any(|target| target.current.is_some());
    (!is_somewhere && new.strategy.groups().is_none() && tenant.has_others(from, application)).then(|| {
        format!(
            "{} has nothing of {application} yet, and where it has proven itself are other applications too: deploy it there once by hand, and \
             say to which targets",
            environment.name
        )
    })
}

/// The targets that the release is to come to, or that lead the traffic there: not those of a group without traffic.
fn with_traffic<'t>(tenant: &'t TenantState, new: &'t NewDeployment) -> Vec<&'t Target> {
    let live = |groups| Some((groups, tenant.live_group_shown(new.environment, groups)?));
    let out = new.strategy.groups().and_then(live);
    let is_out =
        |target: &Target| out.is_some_and(|(groups, live)| groups.group_of(target) == Some(live.other()));
    tenant.meant_by(new).into_iter().map(AsRef::as_ref).filter(|target| !is_out(target)).collect()
}

/// Why it need not come any more. Nothing goes back by itself.
fn needless(tenant: &TenantState, targets: &[&Target], release: &Release) -> Option<String> {
    if !targets.is_empty() && targets.iter().all(|target| target.current == Some(release.id)) {
        return Some("it is on all targets already".to_owned());
    }
    let current = targets.iter().filter_map(|target| tenant.releases.get(&target.current?));
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
