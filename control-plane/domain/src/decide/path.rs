//! The promotion path: what a release must have been through before it may come to an environment.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::EnvironmentId;
use stella_protocol::time::Timestamp;

use super::fields;
use super::transaction::Transaction;
use crate::command::Outcome;
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
        match (lacks(stage, requirement, release, now), path.needs) {
            (None, Needs::Any) => return Ok(()),
            (None, Needs::All) => {}
            (Some(lack), _) => missing.push((&stage.name, lack)),
        }
    }
    let problem = match missing.as_slice() {
        [] => return Ok(()),
        [(stage, Lack::Proof), ..] if path.needs == Needs::All => format!(
            "{name} must succeed on all targets of {stage} before it may come to {target}; deploy it there first"
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

/// What a release lacks in an environment that it must have been through.
enum Lack {
    Proof,
    Soak { soak_s: u64, left_s: u64 },
}

impl Lack {
    /// As one of several ways.
    fn in_one(&self, stage: &str) -> String {
        match self {
            Self::Proof => format!("when it has succeeded on all targets of {stage}, where it has not"),
            Self::Soak { soak_s, left_s } => {
                format!("when it has proven itself in {stage} for {soak_s} s, in {left_s} s")
            }
        }
    }
}

fn lacks(stage: &Environment, wanted: &Requirement, release: &Release, now: Timestamp) -> Option<Lack> {
    let Some(proven_at) = stage.proven.get(&release.id) else { return Some(Lack::Proof) };
    let soaked_at = proven_at.plus_ms(wanted.soak_ms);
    let left_s = soaked_at.0.saturating_sub(now.0).div_ceil(1_000);
    (now < soaked_at).then_some(Lack::Soak { soak_s: wanted.soak_ms / 1_000, left_s })
}
