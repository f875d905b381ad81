//! Promotions and the rules that they follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use stella_api_types::environment::{Approvals, OnExpiry as OnExpiryDto, Quorum};
use stella_api_types::gate::GateState;
use stella_api_types::page::Named;
use stella_api_types::promotion as dto;
use stella_domain::command::NewDeployment;
use stella_domain::freeze::Freeze;
use stella_domain::gate::Record;
use stella_domain::hold::Hold;
use stella_domain::job::own_release;
use stella_domain::name::Name;
use stella_domain::plan::{PartProof, Plan};
use stella_domain::promotion::{
    Approval, ApprovalRule, Lapsed, Objection, OnExpiry, Promotion, PromotionStatus,
};
use stella_domain::state::State;
use stella_domain::target::Target;
use stella_domain::tenant::TenantState;
use stella_protocol::id::AccountId;
use stella_protocol::time::Timestamp;

use super::deployment::{amount, job_of, on_failure, own_ref, strategy};
use super::event::actor;
use super::release::{release_ref, step};
use super::{environment_named, gate, named, target_named, time};

/// A promotion of this tenant.
pub(crate) fn promotion(
    state: &State,
    tenant: &TenantState,
    promotion: &Promotion,
    gates: Option<&BTreeMap<Name, Record>>,
    now: Timestamp,
) -> dto::Promotion {
    let wanted = &promotion.wanted;
    let (reason, objection, by, ended_at) = match &promotion.status {
        PromotionStatus::Pending => (None, None, None, None),
        PromotionStatus::Started { at } | PromotionStatus::Expired { at } => (None, None, None, Some(*at)),
        PromotionStatus::Rejected { objection, hold } => {
            (Some(hold.reason.clone()), Some(*objection), Some(&hold.by), Some(hold.since))
        }
        PromotionStatus::Withdrawn { hold } => {
            (Some(hold.reason.clone()), None, Some(&hold.by), Some(hold.since))
        }
        PromotionStatus::Invalidated { at, reason } => (Some(reason.clone()), None, None, Some(*at)),
    };
    let gates = gate::states(tenant, promotion, gates, now);
    dto::Promotion {
        id: promotion.id.to_string(),
        waits_for: waits_for(state, tenant, promotion, &gates, now),
        holds: if promotion.is_open() { holds(tenant, wanted, now) } else { Vec::new() },
        environment: environment_named(tenant, wanted.environment),
        release: match &wanted.job {
            Some(job) if wanted.release == own_release(wanted.id) => {
                own_ref(wanted.release, &job.workflow, &job.step)
            }
            _ => release_ref(tenant, wanted.release),
        },
        job: wanted.job.as_ref().map(|job| dto::Job {
            of: job_of(&job.workflow, job.run, &job.step),
            steps: job.steps.iter().map(step).collect(),
        }),
        strategy: strategy(&wanted.strategy),
        on_failure: on_failure(wanted.on_failure),
        tolerate_failures: wanted.tolerate_failures.map(amount),
        targets: wanted
            .targets
            .as_ref()
            .map(|targets| targets.iter().map(|target| target_named(tenant, *target)).collect()),
        timeout_seconds: wanted.timeout_ms / 1_000,
        override_freeze: wanted.override_freeze.clone(),
        override_path: wanted.override_path.clone(),
        waive_way_back: wanted.waive_way_back.clone(),
        replace_application: wanted.replace_application,
        held_until: promotion.held_until.map(time),
        plan: plan_hash(promotion.plan),
        status: promotion.status_name().to_owned(),
        reason,
        objection: objection.map(self::objection),
        ended_by: by.map(actor),
        approvals_needed: promotion.rule.as_ref().map_or(0, ApprovalRule::needed_in_all),
        approvals_missing: Some(promotion.missing()),
        missing_from: promotion.lacking().into_iter().map(|it| quorum(state, it)).collect(),
        approvals_from: promotion
            .rule
            .iter()
            .filter(|rule| rule.groups().any(|(_, from)| !from.is_empty()))
            .flat_map(|rule| rule.groups().map(|it| quorum(state, it)))
            .collect(),
        approvals: promotion.approvals.iter().map(approval).collect(),
        lapsed: promotion.lapsed.iter().map(lapsed).collect(),
        gates,
        requested_at: time(promotion.requested_at),
        requested_by: actor(&promotion.requested_by),
        chosen_by: promotion.chosen_by.iter().map(actor).collect(),
        expires_at: promotion.expires_at.map(time),
        asked_again: promotion.asked_again,
        ended_at: ended_at.map(time),
    }
}

fn lapsed(it: &Lapsed) -> dto::LapsedApproval {
    let because = it.reason.clone();
    dto::LapsedApproval { approval: approval(&it.approval), lapsed_at: time(it.at), because }
}

/// What keeps a promotion from starting, in the order in which people can do something about it.
fn waits_for(
    state: &State,
    tenant: &TenantState,
    promotion: &Promotion,
    gates: &[GateState],
    now: Timestamp,
) -> Vec<String> {
    if !promotion.is_open() {
        return Vec::new();
    }
    let missing = promotion.lacking().into_iter().map(|group| missing(&quorum(state, group)));
    // One that the environment has no more is shown, and holds nothing back.
    let closed = gates.iter().filter(|it| it.kind.is_some() && !it.verifies);
    let closed = closed.filter(|it| !matches!(it.status.as_str(), "passed" | "overridden"));
    let (lock, freeze) = held_by(tenant, &promotion.wanted, now);
    let (lock, freeze) = (lock.map(|_| "the lock".to_owned()), freeze.map(|_| "a freeze".to_owned()));
    missing
        .chain(closed.map(|it| format!("gate {}", it.gate)))
        .chain(lock)
        .chain(freeze)
        .chain(busy(tenant, promotion))
        .collect()
}

/// The approvals that a group lacks, for people.
fn missing(group: &Quorum) -> String {
    let approvals = if group.needed == 1 { "approval" } else { "approvals" };
    let names: Vec<&str> = group.from.iter().map(|account| account.name.as_str()).collect();
    let from = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
    format!("{} {approvals}{from}", group.needed)
}

/// The lock and the freeze that keep what is wanted from its environment now. Whoever may has overridden a freeze with a reason.
fn held_by<'t>(
    tenant: &'t TenantState,
    wanted: &NewDeployment,
    now: Timestamp,
) -> (Option<&'t Hold>, Option<(&'t Freeze, Timestamp)>) {
    let environment = tenant.environments.get(&wanted.environment);
    let freeze = environment.filter(|_| wanted.override_freeze.is_none());
    (environment.and_then(|it| it.lock.as_ref()), freeze.and_then(|it| it.lasting_freeze(now)))
}

/// The same, for people.
pub(super) fn holds(tenant: &TenantState, wanted: &NewDeployment, now: Timestamp) -> Vec<String> {
    let name = environment_named(tenant, wanted.environment).name;
    let (lock, freeze) = held_by(tenant, wanted, now);
    let lock = lock.map(|lock| format!("environment {name} is locked: {}", lock.reason));
    let freeze = freeze.map(|(freeze, until)| {
        let until = freeze.shown(until);
        format!("environment {name} is frozen until {until} ({}: {})", freeze.name, freeze.reason)
    });
    lock.into_iter().chain(freeze).collect()
}

/// The first target of a promotion that something else works on, and how many more there are.
fn busy(tenant: &TenantState, promotion: &Promotion) -> Option<String> {
    let targets = tenant.meant_by(&promotion.wanted);
    let proves = |it: &Target| promotion.wanted.job.is_none() && tenant.proving_on(it).is_some();
    let is_busy = |it: &&Arc<Target>| it.active.is_some() || it.blocked_by.is_some() || proves(it);
    let mut busy = targets.into_iter().filter(is_busy);
    let first = &busy.next()?.name;
    Some(match busy.count() {
        0 => format!("target {first}"),
        more => format!("target {first} and {more} more"),
    })
}

fn approval(approval: &Approval) -> dto::Approval {
    dto::Approval {
        by: named(approval.by.id, Some(&approval.by.name)),
        at: time(approval.at),
        reason: approval.reason.clone(),
        signature: approval.signature.map(|it| dto::ApprovalSignature {
            public_key: it.key.to_pem(),
            signature: it.signature.to_string(),
            fingerprint: Some(it.key.fingerprint().to_string()),
        }),
    }
}

/// Whose approval an environment needs.
pub(super) fn rule(state: &State, rule: &ApprovalRule) -> Approvals {
    let Quorum { needed, from } = quorum(state, (rule.needed, &rule.from));
    let (on_expiry, ask_again_max) = match rule.on_expiry {
        OnExpiry::Expire => (OnExpiryDto::Expire, None),
        OnExpiry::Reject => (OnExpiryDto::Reject, None),
        OnExpiry::AskAgain { times } => (OnExpiryDto::AskAgain, Some(times)),
    };
    Approvals {
        needed,
        from,
        expires_in_seconds: rule.expires_ms / 1_000,
        also: rule.groups().skip(1).map(|it| quorum(state, it)).collect(),
        on_expiry,
        ask_again_max,
    }
}

fn quorum(state: &State, (needed, from): (u32, &[AccountId])) -> Quorum {
    // Of one that was removed only the id is left.
    let account = |id: &AccountId| match state.system.accounts.get(id) {
        Some(account) => named(id, Some(&account.name)),
        None => Named { id: id.to_string(), name: format!("{id} (removed)") },
    };
    Quorum { needed, from: from.iter().map(account).collect() }
}

pub(super) fn plan_hash(plan: Plan) -> dto::PlanHash {
    dto::PlanHash { version: plan.version, root: plan.root.to_string(), targets: plan.targets }
}

pub(crate) fn plan_proof(promotion: &Promotion, proof: PartProof) -> dto::PlanProof {
    dto::PlanProof {
        promotion: promotion.id.to_string(),
        plan: plan_hash(promotion.plan),
        leaf: proof.leaf,
        index: proof.at as u64,
        leaves: proof.leaves as u64,
        path: proof.path.iter().map(ToString::to_string).collect(),
    }
}

const fn objection(objection: Objection) -> dto::Objection {
    match objection {
        Objection::NotTested => dto::Objection::NotTested,
        Objection::TooRisky => dto::Objection::TooRisky,
        Objection::BadTiming => dto::Objection::BadTiming,
        Objection::Incomplete => dto::Objection::Incomplete,
        Objection::Mistake => dto::Objection::Mistake,
        Objection::Unanswered => dto::Objection::Unanswered,
        Objection::Other => dto::Objection::Other,
    }
}
