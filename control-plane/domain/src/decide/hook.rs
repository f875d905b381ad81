//! Incoming webhooks: who may be lent to them, and what they may start.

use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, EnvironmentId, HookId};

use super::transaction::Transaction;
use crate::access::{AccountKind, Role, Scope};
use crate::command::{Actor, NewHook, Outcome};
use crate::event::Fact;
use crate::hook::{self, FORMER_SALTS_MAX, HOOKS_MAX, HookAction, OVERLAP_MS_MAX};
use crate::name::Name;
use crate::rejection::Rejection;

pub(super) fn create(tx: &mut Transaction<'_>, new: &NewHook) -> Result<Outcome, Rejection> {
    let hooks = &tx.tenant.hooks;
    if hooks.contains_key(&new.id) {
        return Err(Rejection::exists(HookId::KIND, new.id));
    }
    if hooks.values().any(|hook| hook.name == new.name) {
        return Err(Rejection::exists(HookId::KIND, &new.name));
    }
    if hooks.len() >= HOOKS_MAX {
        return Err(Rejection::conflict(format!("the tenant has {HOOKS_MAX} hooks, which is the most")));
    }
    may_be_lent(tx, new.account)?;
    hook::check(&new.action, new.when.as_deref())?;
    may_be_started(tx, &new.action)?;
    tx.emit(Fact::HookCreated {
        id: new.id,
        name: new.name.clone(),
        account: new.account,
        action: new.action.clone(),
        when: new.when.clone(),
        salt: new.salt,
    })?;
    Ok(Outcome::Hook(new.id))
}

/// A person's authority is lent to nobody; and of accounts that have nothing to do here, nobody here knows.
fn may_be_lent(tx: &Transaction<'_>, account: AccountId) -> Result<(), Rejection> {
    let here = Scope::Somewhere(tx.tenant.id);
    match tx.system.system.accounts.get(&account).filter(|account| account.has(Role::Viewer, here)) {
        None => Err(Rejection::invalid("account", "there is no such account with a role in this tenant")),
        Some(account) if account.kind != AccountKind::Service => {
            let problem =
                format!("{} is a person; a hook has the authority of a service account", account.name);
            Err(Rejection::invalid("account", problem))
        }
        Some(_) => Ok(()),
    }
}

fn may_be_started(tx: &Transaction<'_>, action: &HookAction) -> Result<(), Rejection> {
    match action {
        HookAction::Workflow { workflow, inputs } => {
            let found = tx.tenant.workflows.get(workflow).filter(|it| it.removed.is_none());
            let newest = found.and_then(|it| it.versions.get_max());
            let (_, newest) = newest.ok_or_else(|| Rejection::not_found("workflow", workflow))?;
            match inputs.keys().find(|name| !newest.template.inputs.contains_key(*name)) {
                None => Ok(()),
                Some(name) => Err(Rejection::invalid(
                    format!("workflow.inputs.{name}"),
                    format!("workflow {workflow} has no input {name}"),
                )),
            }
        }
        HookAction::Deploy { environment, .. } if tx.tenant.environments.contains_key(environment) => Ok(()),
        HookAction::Deploy { environment, .. } => Err(Rejection::not_found(EnvironmentId::KIND, environment)),
    }
}

/// Gives the sender of a hook another secret. The one before it is good for `overlap_ms` more, and those before that for as long as they
/// were said to be; without an overlap, none is.
pub(super) fn rotate(
    tx: &mut Transaction<'_>,
    id: HookId,
    salt: Digest,
    overlap_ms: u64,
) -> Result<Outcome, Rejection> {
    let hook = tx.tenant.hooks.get(&id).ok_or_else(|| Rejection::not_found(HookId::KIND, id))?;
    if overlap_ms > OVERLAP_MS_MAX {
        let problem = format!("must be at most {} (7 days)", OVERLAP_MS_MAX / 1_000);
        return Err(Rejection::invalid("overlap_seconds", problem));
    }
    if overlap_ms > 0 && hook.formers(tx.now).count() >= FORMER_SALTS_MAX {
        let problem = format!(
            "{FORMER_SALTS_MAX} earlier secrets of hook {} are still good, which is the most; rotate it without an overlap to end all of them, or wait",
            hook.name
        );
        return Err(Rejection::conflict(problem));
    }
    let former_until = (overlap_ms > 0).then(|| tx.now.plus_ms(overlap_ms));
    tx.emit(Fact::HookRotated { id, salt, former_until, keeps_others: overlap_ms > 0 })?;
    Ok(Outcome::Hook(id))
}

pub(super) fn remove(tx: &mut Transaction<'_>, id: HookId) -> Result<Outcome, Rejection> {
    exists(tx, id)?;
    tx.emit(Fact::HookRemoved { id })?;
    Ok(Outcome::Done)
}

fn exists(tx: &Transaction<'_>, id: HookId) -> Result<(), Rejection> {
    if tx.tenant.hooks.contains_key(&id) { Ok(()) } else { Err(Rejection::not_found(HookId::KIND, id)) }
}

/// Who can choose what the hook asks for that asks now. They are recorded with it: the hook may be gone, or be another's, when something
/// comes of it.
pub(super) fn choosers(tx: &Transaction<'_>) -> Vec<Actor> {
    let Actor::Hook { id, .. } = tx.actor() else { return Vec::new() };
    tx.tenant.hooks.get(id).map(|hook| hook.choosers(tx.now)).unwrap_or_default()
}

/// The names of the hooks that bring releases to an environment.
pub(super) fn leading_to<'t>(
    tx: &'t Transaction<'_>,
    environment: EnvironmentId,
) -> impl Iterator<Item = &'t Name> {
    let leads = move |action: &HookAction| matches!(action, HookAction::Deploy { environment: to, .. } if *to == environment);
    tx.tenant.hooks.values().filter(move |hook| leads(&hook.action)).map(|hook| &hook.name)
}
