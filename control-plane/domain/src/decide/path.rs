//! The promotion path: what a release must have been through before it may come to an environment.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId};
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{fields, rollout};
use crate::command::Outcome;
use crate::deployment::{Cause, Deployment, Status};
use crate::environment::{Environment, Needs, PromotionPath, Requirement, SOAK_MS_RANGE};
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::tenant::TenantState;

/// Sets what comes before an environment, or that nothing does.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    requires: Option<&PromotionPath>,
) -> Result<Outcome, Rejection> {
    let environment = find(&tx.tenant, id)?;
    let mut requires = requires.cloned();
    if let Some(path) = &mut requires {
        leads_to(&tx.tenant, environment, path)?;
        if path.others.is_empty() {
            path.needs = Needs::All;
        }
    }
    if environment.requires != requires {
        tx.emit(Fact::EnvironmentPathSet { id, requires })?;
    }
    Ok(Outcome::Done)
}

/// Whether a path may lead to an environment: from others that are there, each named once, none of which is reached from it.
fn leads_to(tenant: &TenantState, environment: &Environment, path: &PromotionPath) -> Result<(), Rejection> {
    let count = path.requirements().count();
    if count > PromotionPath::REQUIREMENTS_MAX {
        let most = PromotionPath::REQUIREMENTS_MAX;
        return Err(Rejection::invalid(
            "after",
            format!("names {count} environments; at most {most} are allowed"),
        ));
    }
    let mut named = BTreeSet::new();
    for Requirement { after, soak_ms } in path.requirements() {
        fields::range("soak_ms", *soak_ms, SOAK_MS_RANGE, " (none to 30 days)")?;
        let before = find(tenant, *after)?;
        if !named.insert(*after) {
            return Err(Rejection::invalid("after", format!("names {} more than once", before.name)));
        }
        if leads_through(tenant, before, environment.id) {
            let problem = format!("{} would come before itself", environment.name);
            return Err(Rejection::invalid("after", problem));
        }
    }
    Ok(())
}

fn find(tenant: &TenantState, id: EnvironmentId) -> Result<&Arc<Environment>, Rejection> {
    tenant.environments.get(&id).ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))
}

/// Whether a way to `from` leads through `wanted`.
fn leads_through(tenant: &TenantState, from: &Environment, wanted: EnvironmentId) -> bool {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from.id]);
    while let Some(id) = left.pop() {
        if id == wanted {
            return true;
        }
        if seen.insert(id) {
            let path = tenant.environments.get(&id).and_then(|it| it.requires.as_ref());
            left.extend(path.into_iter().flat_map(PromotionPath::requirements).map(|it| it.after));
        }
    }
    false
}

/// Whether a release may come to an environment now.
pub(super) fn is_reached(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    now: Timestamp,
) -> Result<(), Rejection> {
    let Some(path) = &environment.requires else { return Ok(()) };
    let name = format!("release {}:{}", release.application, release.version);
    let target = &environment.name;
    let mut missing = Vec::new();
    for requirement in path.requirements() {
        let stage = find(tenant, requirement.after)?;
        match (lacks(tenant, stage, requirement, (release, now)), path.needs) {
            (None, Needs::Any) => return Ok(()),
            (None, Needs::All) => {}
            (Some(lack), _) => missing.push((&stage.name, lack)),
        }
    }
    let problem = match missing.as_slice() {
        [] => return Ok(()),
        [(stage, Lack::Proof { whose }), ..] if path.needs == Needs::All => format!(
            "{name} must succeed on all targets of {stage}{whose} before it may come to {target}; deploy it there first"
        ),
        [(stage, Lack::Soak { soak_s, left_s }), ..] if path.needs == Needs::All => format!(
            "{name} has to prove itself in {stage} for {soak_s} s before it may come to {target}; try again in {left_s} s"
        ),
        lanes => {
            let lanes: Vec<String> = lanes.iter().map(|(stage, lack)| lack.in_one(stage.as_str())).collect();
            format!("{name} may come to {target} by one of these ways: {}", lanes.join("; "))
        }
    };
    Err(Rejection::conflict(problem))
}

/// The environments that come after another one.
pub(super) fn after(tenant: &TenantState, place: EnvironmentId) -> impl Iterator<Item = EnvironmentId> {
    tenant.environments.values().filter(move |it| it.follows(place)).map(|it| it.id)
}

/// Why a deployment may start no further target: what its release has been through when it began counts no more, or another path leads
/// there. Rollbacks and jobs need none, and nobody is asked where it was overridden.
pub(super) fn lost(tenant: &TenantState, deployment: &Deployment, now: Timestamp) -> Option<String> {
    let promotion = tenant.promotions.get(&PromotionId(deployment.id.0));
    let is_overridden = promotion.is_some_and(|it| it.wanted.override_path.is_some());
    if deployment.cause != Cause::Requested || is_overridden {
        return None;
    }
    let environment = tenant.environments.get(&deployment.environment)?;
    let release = tenant.releases.get(&deployment.release)?;
    let lack = is_reached(tenant, environment, release, now).err()?;
    Some(format!("it may not go on by the path that it came by: {lack}"))
}

/// Halts what runs, and has targets left, when a release has lost the proof that it came by, or another path leads there.
pub(super) fn reconsider(tx: &mut Transaction<'_>) -> Result<(), Rejection> {
    let mut seen = 0;
    loop {
        let places: BTreeSet<EnvironmentId> =
            tx.facts_from(seen).flat_map(|fact| concerned(&tx.tenant, fact)).collect();
        if places.is_empty() {
            return Ok(());
        }
        seen = tx.facts_from(0).count();
        let active = tx.tenant.active_deployments.iter().filter_map(|id| tx.tenant.deployments.get(id));
        // What is prepared beside what is live has its switch before it, also while all targets are at work.
        let goes_on = |it: &Deployment| it.left() > 0 || it.is_beside();
        let left = active.filter(|it| it.status == Status::Running && goes_on(it));
        let concerned = left.filter(|it| places.contains(&it.environment));
        let lost: Vec<(DeploymentId, String)> =
            concerned.filter_map(|it| Some((it.id, lost(&tx.tenant, it, tx.now)?))).collect();
        for (id, reason) in lost {
            rollout::halt_for_gate(tx, id, &reason)?;
        }
    }
}

/// Where what runs may have lost its path since this happened.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts take no proof away")]
fn concerned(tenant: &TenantState, fact: &Fact) -> Vec<EnvironmentId> {
    match fact {
        Fact::EnvironmentPathSet { id, .. } => vec![*id],
        Fact::ReleaseDisproven { environment, .. } => after(tenant, *environment).collect(),
        Fact::DeploymentFailed { id, .. } => {
            let failed = tenant.deployments.get(id);
            failed.into_iter().flat_map(|it| after(tenant, it.environment)).collect()
        }
        _ => Vec::new(),
    }
}

/// What a release lacks in an environment that it must have been through.
enum Lack {
    /// On the targets of the environment, or on those of them that `whose` says.
    Proof {
        whose: String,
    },
    Soak {
        soak_s: u64,
        left_s: u64,
    },
}

impl Lack {
    /// As one of several ways.
    fn in_one(&self, stage: &str) -> String {
        match self {
            Self::Proof { whose } => {
                format!("when it has succeeded on all targets of {stage}{whose}, where it has not")
            }
            Self::Soak { soak_s, left_s } => {
                format!("when it has proven itself in {stage} for {soak_s} s, in {left_s} s")
            }
        }
    }
}

fn lacks(
    tenant: &TenantState,
    stage: &Environment,
    wanted: &Requirement,
    (release, now): (&Release, Timestamp),
) -> Option<Lack> {
    let Some(proven_at) = stage.proven.get(&release.id) else {
        let application = &release.application;
        let is_shared = tenant.has_others(stage.id, application);
        let whose = if is_shared { format!(" that have {application}") } else { String::new() };
        return Some(Lack::Proof { whose });
    };
    let soaked_at = proven_at.plus_ms(wanted.soak_ms);
    let left_s = soaked_at.0.saturating_sub(now.0).div_ceil(1_000);
    (now < soaked_at).then_some(Lack::Soak { soak_s: wanted.soak_ms / 1_000, left_s })
}
