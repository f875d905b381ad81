//! From what callers write to what it stands for.
//!
//! A thing is found by its id first and by its name second: a name that somebody made to look like another thing's id
//! must not lead there. Everything is looked up in an index; nothing is searched for that there can be many of.

use std::str::FromStr;
use std::sync::Arc;

use imbl::OrdMap;
use stella_domain::access::Account;
use stella_domain::agent::{Agent, EnrolmentToken};
use stella_domain::deployment::Deployment;
use stella_domain::environment::Environment;
use stella_domain::hook::Hook;
use stella_domain::name::{Name, Version};
use stella_domain::promotion::Promotion;
use stella_domain::release::Release;
use stella_domain::run::Run;
use stella_domain::signature::ReleaseKey;
use stella_domain::state::State;
use stella_domain::target::Target;
use stella_domain::task::Task;
use stella_domain::tenant::TenantState;
use stella_domain::workflow::Workflow;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, HookId, PromotionId, ReleaseId, RunId,
    TargetId, TaskId, TenantId,
};

use crate::error::ApiError;

/// The digits of an id.
const ID_DIGITS: usize = 32;
/// How many of them one must write at least.
const START_DIGITS_MIN: usize = 6;
/// How many names are told to whoever has written one that is not there.
const NAMES_TOLD_MAX: usize = 8;

/// The tenant with this id or name.
pub(crate) fn tenant<'s>(state: &'s State, text: &str) -> Result<&'s Arc<TenantState>, ApiError> {
    by_id::<TenantId, _>(&state.tenants, text)
        .or_else(|| by_name(&state.tenants, &state.system.tenants, text))
        .ok_or_else(|| ApiError::not_found(TenantId::KIND, text))
}

/// The id of the tenant with this id or name.
pub(crate) fn tenant_id(state: &State, text: &str) -> Result<TenantId, ApiError> {
    tenant(state, text).map(|tenant| tenant.id)
}

/// The account with this id or name.
pub(crate) fn account<'s>(state: &'s State, text: &str) -> Result<&'s Arc<Account>, ApiError> {
    by_id::<AccountId, _>(&state.system.accounts, text)
        .or_else(|| by_name(&state.system.accounts, &state.system.account_names, text))
        .ok_or_else(|| ApiError::not_found(AccountId::KIND, text))
}

/// The environment with this id or name.
pub(crate) fn environment<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Environment>, ApiError> {
    by_id::<EnvironmentId, _>(&tenant.environments, text)
        .or_else(|| by_name(&tenant.environments, &tenant.index.environments, text))
        .ok_or_else(|| {
            ApiError::not_found(EnvironmentId::KIND, text)
                .hinting(&there_are(tenant.index.environments.keys()))
        })
}

/// The names that there are, as the end of a sentence; nothing if there are none.
fn there_are<'n>(names: impl Iterator<Item = impl std::fmt::Display + 'n>) -> String {
    let mut names = names.map(|name| name.to_string());
    let told: Vec<String> = names.by_ref().take(NAMES_TOLD_MAX).collect();
    let more = if names.next().is_some() { " and others" } else { "" };
    if told.is_empty() { String::new() } else { format!("; there is {}{more}", told.join(", ")) }
}

/// The agent with this id or name.
pub(crate) fn agent<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Agent>, ApiError> {
    by_id::<AgentId, _>(&tenant.agents, text)
        .or_else(|| by_name(&tenant.agents, &tenant.index.agents, text))
        .ok_or_else(|| ApiError::not_found(AgentId::KIND, text))
}

/// The target with this id, or with this name if only one environment has one of that name.
pub(crate) fn target<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Target>, ApiError> {
    if let Some(found) = by_id::<TargetId, _>(&tenant.targets, text) {
        return Ok(found);
    }
    // One look-up for each environment, of which a tenant has a handful.
    let mut found = tenant.index.targets.values().filter_map(|index| by_name(&tenant.targets, index, text));
    let first = found.next().ok_or_else(|| ApiError::not_found(TargetId::KIND, text))?;
    if found.next().is_some() {
        return Err(ApiError::invalid(
            "target",
            "is the name of targets in several environments; use the target's id",
        ));
    }
    Ok(first)
}

/// The target of this environment with this id or name.
pub(crate) fn target_in<'s>(
    tenant: &'s TenantState,
    environment: EnvironmentId,
    text: &str,
) -> Result<&'s Arc<Target>, ApiError> {
    let index = tenant.index.targets.get(&environment);
    by_id::<TargetId, _>(&tenant.targets, text)
        .filter(|target| target.environment == environment)
        .or_else(|| index.and_then(|index| by_name(&tenant.targets, index, text)))
        .ok_or_else(|| ApiError::not_found(TargetId::KIND, text).hinting(" in this environment"))
}

/// The release with this id, or the one that is written `application:version`.
pub(crate) fn release<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Release>, ApiError> {
    by_id::<ReleaseId, _>(&tenant.releases, text)
        .or_else(|| {
            // Neither part can have a colon.
            let (application, version) = text.split_once(':')?;
            let versions = tenant.index.releases.get(&application.parse::<Name>().ok()?)?;
            tenant.releases.get(versions.get(&version.parse::<Version>().ok()?)?)
        })
        .ok_or_else(|| ApiError::not_found(ReleaseId::KIND, text).hinting(&releases_like(tenant, text)))
}

/// What somebody may have meant who has written a release that is not there: its newest versions, or the applications that there are.
fn releases_like(tenant: &TenantState, text: &str) -> String {
    let (application, version) = text.split_once(':').map_or((text, None), |(name, it)| (name, Some(it)));
    let versions = application.parse::<Name>().ok().and_then(|name| tenant.index.releases.get(&name));
    let Some(versions) = versions else { return there_are(tenant.index.releases.keys()) };
    let newest = there_are(versions.keys().rev());
    match version {
        Some(_) => newest,
        None => format!("; write {application}:VERSION, or the application with a channel{newest}"),
    }
}

/// The key with this fingerprint or name. There are too few for an index.
pub(crate) fn release_key<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<ReleaseKey>, ApiError> {
    by_id::<Digest, _>(&tenant.release_keys, text)
        .or_else(|| tenant.release_keys.values().find(|key| key.name.as_str() == text))
        .ok_or_else(|| ApiError::not_found("release key", text))
}

/// The deployment with this id.
pub(crate) fn deployment<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Deployment>, ApiError> {
    by_id_or_its_start(DeploymentId::KIND, &tenant.deployments, text)
}

/// The promotion with this id.
pub(crate) fn promotion<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Promotion>, ApiError> {
    by_id_or_its_start(PromotionId::KIND, &tenant.promotions, text)
}

/// The hook with this id or name.
pub(crate) fn hook<'t>(tenant: &'t TenantState, text: &str) -> Result<&'t Arc<Hook>, ApiError> {
    let by_id = text.parse::<HookId>().ok().and_then(|id| tenant.hooks.get(&id));
    // There are few.
    by_id
        .or_else(|| tenant.hooks.values().find(|hook| hook.name.as_str() == text))
        .ok_or_else(|| ApiError::not_found(HookId::KIND, text))
}

/// The workflow of this name.
pub(crate) fn workflow<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Workflow>, ApiError> {
    by_id::<Name, _>(&tenant.workflows, text).ok_or_else(|| ApiError::not_found("workflow", text))
}

/// The run with this id.
pub(crate) fn run<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Run>, ApiError> {
    by_id_or_its_start(RunId::KIND, &tenant.runs, text)
}

/// The task with this id.
pub(crate) fn task<'s>(tenant: &'s TenantState, text: &str) -> Result<&'s Arc<Task>, ApiError> {
    by_id_or_its_start(TaskId::KIND, &tenant.tasks, text)
}

/// The enrolment token with this id: the public half, never the secret.
pub(crate) fn enrolment_token<'s>(
    tenant: &'s TenantState,
    text: &str,
) -> Result<&'s Arc<EnrolmentToken>, ApiError> {
    by_id::<EnrolmentTokenId, _>(&tenant.enrolment_tokens, text)
        .ok_or_else(|| ApiError::not_found(EnrolmentTokenId::KIND, text))
}

fn by_id<'s, I: Ord + FromStr, T>(things: &'s OrdMap<I, Arc<T>>, text: &str) -> Option<&'s Arc<T>> {
    things.get(&text.parse::<I>().ok()?)
}

/// The thing with this id, or the only one in memory whose id begins so: ids are long, and people see them on a screen.
fn by_id_or_its_start<'s, I: Ord + FromStr, T>(
    kind: &'static str,
    things: &'s OrdMap<I, Arc<T>>,
    text: &str,
) -> Result<&'s Arc<T>, ApiError> {
    if let Some(found) = by_id(things, text) {
        return Ok(found);
    }
    let digits: String = text.chars().filter(|it| *it != '-').collect();
    let is_start = (START_DIGITS_MIN..ID_DIGITS).contains(&digits.len())
        && digits.chars().all(|it| it.is_ascii_hexdigit());
    let bound = |fill: &str| format!("{digits}{}", fill.repeat(ID_DIGITS - digits.len())).parse::<I>().ok();
    let not_found = || ApiError::not_found(kind, text);
    if !is_start {
        return Err(not_found());
    }
    let (Some(from), Some(to)) = (bound("0"), bound("f")) else { return Err(not_found()) };
    let mut found = things.range(from..=to).map(|(_, thing)| thing);
    let first = found.next().ok_or_else(not_found)?;
    if found.next().is_some() {
        return Err(ApiError::invalid(
            kind,
            format!("more than one id begins with {text}; write more of it"),
        ));
    }
    Ok(first)
}

fn by_name<'s, I: Ord, T>(
    things: &'s OrdMap<I, Arc<T>>,
    index: &OrdMap<Name, I>,
    text: &str,
) -> Option<&'s Arc<T>> {
    things.get(index.get(&text.parse::<Name>().ok()?)?)
}
