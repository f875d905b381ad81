//! Environments.

use std::sync::Arc;

use stella_protocol::id::EnvironmentId;

use super::hook;
use super::strategy::is_well_formed;
use super::transaction::Transaction;
use crate::access::Grant;
use crate::command::Outcome;
use crate::environment::{Environment, PromotionPath};
use crate::event::Fact;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::strategy::Strategy;
use crate::way_back::ProofRule;

/// How many names a refusal lists before it only counts them.
const NAMED_MAX: usize = 5;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    name: &Name,
    order: Option<u32>,
    way_back_proof: ProofRule,
) -> Result<Outcome, Rejection> {
    if tx.tenant.index.environments.contains_key(name) {
        return Err(Rejection::exists(EnvironmentId::KIND, name));
    }
    if tx.tenant.environment_name(id).is_some() {
        return Err(Rejection::exists(EnvironmentId::KIND, id));
    }
    let after_all =
        || tx.tenant.environments.values().map(|other| other.order.saturating_add(1)).max().unwrap_or(0);
    let order = order.unwrap_or_else(after_all);
    tx.emit(Fact::EnvironmentCreated { id, name: name.clone(), order, way_back_proof })?;
    Ok(Outcome::Environment(id))
}

/// Calls an environment otherwise, or gives it another place. What runs there is filled in with its name, so it keeps that as long as
/// something is on its way; promotions that wait were approved under the old name, and have to be asked for anew.
pub(super) fn update(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    name: Option<&Name>,
    order: Option<u32>,
) -> Result<Outcome, Rejection> {
    let environment = find(tx, id)?;
    let name = name.filter(|name| **name != environment.name);
    let order = order.filter(|order| *order != environment.order);
    if let Some(name) = name {
        if tx.tenant.index.environments.contains_key(name) {
            return Err(Rejection::exists(EnvironmentId::KIND, name));
        }
        if let Some(deployment) = tx.tenant.active_in(id).next() {
            let before = &environment.name;
            let problem = format!(
                "deployment {deployment} to {before} has not ended; wait for its end or cancel it, then rename {before}"
            );
            return Err(Rejection::conflict(problem));
        }
    }
    if name.is_some() || order.is_some() {
        tx.emit(Fact::EnvironmentUpdated { id, name: name.cloned(), order })?;
    }
    Ok(Outcome::Environment(id))
}

/// Takes an environment away that nothing is in and nothing leads to. What was done there stays as it was recorded.
pub(super) fn remove(tx: &mut Transaction<'_>, id: EnvironmentId) -> Result<Outcome, Rejection> {
    let environment = find(tx, id)?;
    let uses = uses(tx, environment);
    if !uses.is_empty() {
        let problem = format!("environment {} is in use: {}", environment.name, uses.join("; "));
        return Err(Rejection::conflict(problem));
    }
    tx.emit(Fact::EnvironmentRemoved { id })?;
    Ok(Outcome::Done)
}

fn find<'t>(tx: &'t Transaction<'_>, id: EnvironmentId) -> Result<&'t Arc<Environment>, Rejection> {
    tx.tenant.environments.get(&id).ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))
}

/// All that an environment is used for, each with what to do about it.
fn uses(tx: &Transaction<'_>, environment: &Environment) -> Vec<String> {
    let (tenant, id, name) = (&tx.tenant, environment.id, &environment.name);
    let targets = named(tenant.index.targets.get(&id).into_iter().flat_map(|names| names.keys()));
    let open = tenant.open_promotions.iter().filter_map(|it| tenant.promotions.get(it));
    let open = named(open.filter(|it| it.wanted.environment == id).map(|it| it.id));
    let active = named(tenant.active_in(id));
    let after = tenant.environments.values().filter(|it| it.follows(id));
    let after = after.map(|it| format!("it comes before {0} on the path (stella env path {0})", it.name));
    let before = environment.requires.iter().flat_map(PromotionPath::requirements);
    let before = named(before.filter_map(|it| tenant.environment_name(it.after)));
    let is_here = |grant: &Grant| grant.tenant == Some(tenant.id) && grant.environment == Some(id);
    let accounts = tx.system.system.accounts.values().filter(|it| it.roles.iter().any(is_here));
    let accounts = named(accounts.map(|it| &it.name));
    let mut uses: Vec<String> = Vec::new();
    uses.extend(targets.map(|it| format!("it has the targets {it} (stella target remove)")));
    uses.extend(
        active
            .map(|it| format!("deployments there have not ended: {it} (wait, or stella deployment cancel)")),
    );
    uses.extend(open.map(|it| format!("promotions wait to come there: {it} (stella promotion withdraw)")));
    uses.extend(
        before.map(|it| format!("it comes after {it} on the path (stella env path {name} --nothing)")),
    );
    uses.extend(after);
    let hooks = named(hook::leading_to(tx, id));
    uses.extend(hooks.map(|it| format!("hooks bring releases to it: {it} (stella hook remove)")));
    uses.extend(accounts.map(|it| format!("accounts have roles there: {it} (stella account roles)")));
    uses
}

/// The first few of some names, and how many more there are; nothing if there are none.
fn named(names: impl Iterator<Item = impl ToString>) -> Option<String> {
    let names: Vec<String> = names.map(|it| it.to_string()).collect();
    let first = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        _ if names.is_empty() => None,
        0 => Some(first),
        more => Some(format!("{first} and {more} more")),
    }
}

/// Sets how targets follow one another in deployments that do not say. Whether its targets can be taken like that is seen when one is
/// asked for: they may be others by then.
pub(super) fn set_strategy(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    strategy: Option<&Strategy>,
) -> Result<Outcome, Rejection> {
    let environment = find(tx, id)?;
    if let Some(strategy) = strategy {
        is_well_formed(strategy)?;
    }
    if environment.strategy.as_ref() != strategy {
        tx.emit(Fact::EnvironmentStrategySet { id, strategy: strategy.cloned() })?;
    }
    Ok(Outcome::Done)
}
