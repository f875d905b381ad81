//! Promotions: the one way to a deployment that somebody asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, DeploymentId, EnvironmentId, PromotionId, ReleaseId, TargetId, TaskId, TenantId,
};
use stella_protocol::time::Timestamp;

use super::deployment::{self, Opening, Prepared};
use super::gate::{self, Asking, Ruling};
use super::transaction::Transaction;
use super::{fields, freeze, group, hold, hook, path, void, way_back};
use crate::access::{self, Scope};
use crate::approvers;
use crate::choice;
use crate::colour::Leg;
use crate::command::{Actor, NewDeployment, Outcome, TenantCommand};
use crate::deployment::{Cause, Progress};
use crate::environment::Environment;
use crate::event::{Fact, PlannedTarget};
use crate::gate::Outcome as Says;
use crate::job::Job;
use crate::plan::{Guarded, PartProof, Plan, PlanPart, Sealing, TargetWork};
use crate::promotion::{
    APPROVALS_MAX, ASKED_AGAIN_MAX, ApprovalRule, ApprovalSignature, EXPIRES_MS_DEFAULT, EXPIRES_MS_RANGE,
    GROUPS_MAX, OPEN_MAX, Objection, OnExpiry, Promotion, PromotionStatus,
};
use crate::rejection::Rejection;
use crate::size::{self, EVENT_BYTES_MAX};
use crate::state::State;
use crate::target::Target;
use crate::tenant::TenantState;

/// How much what is planned for all targets may be, in bytes of JSON: the event that begins the deployment has it in it, and some
/// more.
const PLANNED_BYTES_MAX: usize = EVENT_BYTES_MAX / 16 * 15;

/// What a deployment would do.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its targets in the order in which they would be started.
    pub targets: Vec<PlannedTarget>,
    /// Why each of them could not go back, if it could not.
    pub no_way_back: Vec<Option<String>>,
    /// The hash over all of it.
    pub plan: Plan,
    /// Whose approval it would wait for; `None` is nobody's.
    pub rule: Option<ApprovalRule>,
}

/// Asks for a deployment. It starts at once where nobody has to approve it.
pub(super) fn request(tx: &mut Transaction<'_>, new: &NewDeployment) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&new.environment);
    // A step that waits for it belongs to a run, in which others may have chosen.
    let run = tx.tenant.awaited.get(&new.id).map(|(run, _)| *run);
    let waits = environment.is_some_and(|environment| may_wait(environment))
        || ((run.is_some() || matches!(tx.actor(), Actor::Hook { .. })) && is_after_another(&tx.tenant, new));
    let chosen_by = run.map_or_else(|| hook::choosers(tx), |run| tx.tenant.choosers_in(run));
    request_as(tx, new, (waits, chosen_by))
}

/// Asks once more for what an ended deployment was to bring. Who asked for that then has chosen it.
pub(super) fn request_again(
    tx: &mut Transaction<'_>,
    new: &NewDeployment,
    of: DeploymentId,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&new.environment);
    let waits = environment.is_some_and(|environment| may_wait(environment));
    let chosen_by = tx.tenant.choosers_of(of);
    request_as(tx, new, (waits, chosen_by))
}

/// Asks for a deployment that may wait for locks and freezes wherever it goes: nobody is there to ask again. It is because of one that
/// has proven the release elsewhere; who asked for that has chosen it, and so have those who chose what has proven it in further places.
pub(super) fn request_patiently(
    tx: &mut Transaction<'_>,
    new: &NewDeployment,
    because_of: DeploymentId,
    others: &[Actor],
) -> Result<Outcome, Rejection> {
    let chosen_by: Vec<Actor> =
        tx.tenant.choosers_of(because_of).into_iter().chain(others.iter().cloned()).collect();
    let chosen_by = choice::each_once(&chosen_by);
    request_as(tx, new, (true, chosen_by))
}

fn request_as(
    tx: &mut Transaction<'_>,
    new: &NewDeployment,
    (may_wait, mut chosen_by): (bool, Vec<Actor>),
) -> Result<Outcome, Rejection> {
    let id = PromotionId(new.id.0);
    if tx.tenant.deployments.contains_key(&new.id) || tx.tenant.promotions.contains_key(&id) {
        return Err(Rejection::exists(DeploymentId::KIND, new.id));
    }
    fields::reason(new.override_freeze.as_deref().unwrap_or_default())?;
    fields::reason(new.override_path.as_deref().unwrap_or_default())?;
    fields::reason(new.waive_way_back.as_deref().unwrap_or_default())?;
    let prepared = checked(&tx.tenant, new, tx.now, may_wait)?;
    let rule = prepared.environment.approvals.clone();
    chosen_by.retain(|chooser| !chooser.is(tx.actor()));
    can_be_approved((tx.system, tx.tenant.id), &prepared.environment, tx.actor(), &chosen_by)?;
    if may_wait {
        has_room(&tx.tenant, &prepared)?;
    }
    let expires_ms = rule.as_ref().map_or(EXPIRES_MS_DEFAULT, |rule| rule.expires_ms);
    let expires_at = may_wait.then(|| tx.now.plus_ms(expires_ms));
    let plan = sealing(&tx.tenant, &prepared, new, Guarded::Wholly).seal();
    tx.emit(Fact::PromotionRequested {
        id,
        wanted: Box::new(new.clone()),
        plan,
        rule,
        expires_at,
        chosen_by,
    })?;
    if may_wait {
        let promotion = Arc::clone(tx.promotion(id)?);
        look_at(tx, &promotion)?;
    } else {
        start(tx, new, &prepared)?;
    }
    let waits = tx.promotion(id)?.is_open();
    Ok(if waits { Outcome::Promotion(id) } else { Outcome::Deployment(new.id) })
}

/// Whether another release proves itself on one of its targets: nobody is there to ask again when that has ended.
fn is_after_another(tenant: &TenantState, new: &NewDeployment) -> bool {
    let mut targets = tenant.meant_by(new).into_iter();
    new.job.is_none() && targets.any(|target| tenant.proving_on(target).is_some())
}

/// Whether a promotion to an environment need not start at once.
fn may_wait(environment: &Environment) -> bool {
    environment.approvals.is_some() || !environment.gates.is_empty()
}

/// What a deployment would do, had it been asked for at `now`.
///
/// # Errors
/// If it would be refused, for the same reason.
pub fn planned(tenant: &TenantState, new: &NewDeployment, now: Timestamp) -> Result<Planned, Rejection> {
    planned_as(tenant, new, now, Guarded::Wholly)
}

/// What a promotion that waits would do, had it been asked for at `now` in the form in which it was.
///
/// # Errors
/// If it would be refused now, or would do something else by now.
pub fn planned_again(
    tenant: &TenantState,
    promotion: &Promotion,
    now: Timestamp,
) -> Result<Planned, Rejection> {
    let planned = planned_as(tenant, &promotion.wanted, now, promotion.guarded())?;
    is_its(promotion, &planned.plan)?;
    Ok(planned)
}

/// Whether a plan is the one that people are asked about. Another one voids the promotion as soon as nothing works on its targets.
fn is_its(promotion: &Promotion, plan: &Plan) -> Result<(), Rejection> {
    if *plan == promotion.plan {
        return Ok(());
    }
    Err(Rejection::conflict(if plan.guards == promotion.plan.guards {
        "another deployment is changing its targets; look again when that has ended"
    } else {
        "what guards its environment has changed since it was asked for; it is void when what works on its targets has ended"
    }))
}

/// One part of the plan of a promotion that waits, and the proof that it is in what people approve.
///
/// # Errors
/// If it would be refused now, would do something else by now, or has no such part.
pub fn prove(
    tenant: &TenantState,
    promotion: &Promotion,
    part: PlanPart,
    now: Timestamp,
) -> Result<PartProof, Rejection> {
    let prepared = checked(tenant, &promotion.wanted, now, true)?;
    let sealing = sealing(tenant, &prepared, &promotion.wanted, promotion.guarded());
    let (plan, proof) = sealing.prove(part);
    is_its(promotion, &plan)?;
    proof.ok_or_else(|| match part {
        PlanPart::Target(id) => Rejection::not_found(TargetId::KIND, id),
        PlanPart::Wanted | PlanPart::Guards | PlanPart::Release => {
            Rejection::not_found("part of the plan", "guards")
        }
    })
}

/// What a promotion that waits would run on one of its targets, and what would take it back: what the digests in the target's leaf are of.
///
/// # Errors
/// If it would be refused now, would do something else by now, or does not go there.
pub fn work_on(
    tenant: &TenantState,
    promotion: &Promotion,
    target: TargetId,
    now: Timestamp,
) -> Result<TargetWork, Rejection> {
    let prepared = checked(tenant, &promotion.wanted, now, true)?;
    let sealing = sealing(tenant, &prepared, &promotion.wanted, promotion.guarded());
    is_its(promotion, &sealing.seal())?;
    sealing.work_on(target).ok_or_else(|| Rejection::not_found(TargetId::KIND, target))
}

/// The same of a deployment, had it been asked for at `now`.
///
/// # Errors
/// If it would be refused, or does not go there.
pub(super) fn planned_work(
    tenant: &TenantState,
    new: &NewDeployment,
    target: TargetId,
    now: Timestamp,
) -> Result<TargetWork, Rejection> {
    let waits = tenant.environments.get(&new.environment).is_some_and(|it| may_wait(it));
    let prepared = checked(tenant, new, now, waits)?;
    let work = sealing(tenant, &prepared, new, Guarded::Wholly).work_on(target);
    work.ok_or_else(|| Rejection::not_found(TargetId::KIND, target))
}

fn planned_as(
    tenant: &TenantState,
    new: &NewDeployment,
    now: Timestamp,
    guarded: Guarded,
) -> Result<Planned, Rejection> {
    let waits = tenant.environments.get(&new.environment).is_some_and(|it| may_wait(it));
    let prepared = checked(tenant, new, now, waits)?;
    let (targets, plan) = (prepared.planned(), sealing(tenant, &prepared, new, guarded).seal());
    let Prepared { environment, release, is_job, .. } = &prepared;
    let has_groups = new.strategy.groups().is_some();
    let stuck = |(target, legs): (&Arc<Target>, &Vec<Leg>)| {
        if *is_job {
            None
        } else if has_groups {
            group::no_way_back(tenant, environment, target, legs)
        } else {
            way_back::missing(tenant, environment, release, target)
        }
    };
    let no_way_back = prepared.targets.iter().zip(&prepared.legs).map(stuck).collect();
    Ok(Planned { targets, no_way_back, plan, rule: prepared.environment.approvals.clone() })
}

/// What waits for approvals or gates may wait for a lock and for its targets too; what does not, has to start now.
fn checked(
    tenant: &TenantState,
    new: &NewDeployment,
    now: Timestamp,
    may_wait: bool,
) -> Result<Prepared, Rejection> {
    let environment = tenant.environments.get(&new.environment);
    if let Some(environment) = environment.filter(|_| !may_wait) {
        hold::is_open(environment)?;
        if new.override_freeze.is_none() {
            freeze::is_over(environment, now)?;
        }
    }
    let prepared = deployment::prepare(tenant, new, now)?;
    // Seen now, and not when it starts: it may start when nobody is there to ask for less.
    let bytes = size::of(&prepared.planned());
    if bytes > PLANNED_BYTES_MAX {
        let problem = format!(
            "are too many at once: what is planned for them has {bytes} bytes, and may have {PLANNED_BYTES_MAX}; deploy to a part of them at a time"
        );
        return Err(Rejection::invalid("targets", problem));
    }
    if !may_wait {
        prepared.targets.iter().try_for_each(|target| deployment::is_open_to(tenant, new, target))?;
    }
    Ok(prepared)
}

fn has_room(tenant: &TenantState, prepared: &Prepared) -> Result<(), Rejection> {
    let environment = &prepared.environment;
    let waiting = open(tenant).filter(|it| it.wanted.environment == environment.id).count();
    if waiting < OPEN_MAX {
        return Ok(());
    }
    let problem = format!(
        "{waiting} promotions to {} wait already; decide on some of them, or withdraw them, first",
        environment.name
    );
    Err(Rejection::Conflict { problem })
}

/// What waits to bring a release to an environment, if something does.
pub(super) fn waiting_for(
    tenant: &TenantState,
    environment: EnvironmentId,
    release: ReleaseId,
) -> Option<PromotionId> {
    let mut waiting = open(tenant).filter(|it| it.wanted.targets.is_none() && it.wanted.job.is_none());
    let found = waiting.find(|it| it.wanted.environment == environment && it.wanted.release == release);
    found.map(|it| it.id)
}

fn open(tenant: &TenantState) -> impl Iterator<Item = &Arc<Promotion>> {
    tenant.open_promotions.iter().filter_map(|id| tenant.promotions.get(id))
}

fn sealing<'p>(
    tenant: &'p TenantState,
    prepared: &'p Prepared,
    new: &'p NewDeployment,
    guarded: Guarded,
) -> Sealing<'p> {
    let Prepared { environment, release, targets, legs, .. } = prepared;
    let targets = targets.iter().map(AsRef::as_ref).zip(legs.iter().map(Vec::as_slice)).collect();
    Sealing { tenant, environment, release, new, targets, guarded }
}

fn start(tx: &mut Transaction<'_>, new: &NewDeployment, prepared: &Prepared) -> Result<(), Rejection> {
    let opening = Opening {
        id: new.id,
        environment: new.environment,
        strategy: new.strategy.clone(),
        on_failure: new.on_failure,
        tolerate_failures: new.tolerate_failures,
        cause: match &new.job {
            None => Cause::Requested,
            Some(job) => {
                let Job { workflow, run, step, .. } = &**job;
                Cause::Job { workflow: workflow.clone(), run: *run, step: step.clone() }
            }
        },
        targets: prepared.planned(),
        left: Vec::new(),
        timeout_ms: new.timeout_ms,
        verification: prepared.environment.verification.filter(|_| !prepared.is_job),
    };
    deployment::open(tx, opening)
}

/// Sets whose approval promotions to an environment need from now on. Those that wait were asked for by the old rule, and have
/// to be asked for anew: see [`reconsider`].
pub(super) fn set_rule(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    rule: Option<&ApprovalRule>,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    let mut rule = rule.cloned();
    if let Some(rule) = &mut rule {
        is_sound(rule)?;
    }
    if environment.approvals != rule {
        tx.emit(Fact::EnvironmentApprovalsSet { id, rule })?;
    }
    Ok(Outcome::Done)
}

/// Sorts whom a rule names, and refuses one that nobody can meet.
fn is_sound(rule: &mut ApprovalRule) -> Result<(), Rejection> {
    fields::range("expires_ms", rule.expires_ms, EXPIRES_MS_RANGE, " (a minute to 90 days)")?;
    if let OnExpiry::AskAgain { times } = rule.on_expiry {
        fields::range("on_expiry", u64::from(times), (1, u64::from(ASKED_AGAIN_MAX)), " times")?;
    }
    if rule.also.len() >= GROUPS_MAX {
        return Err(Rejection::invalid("also", format!("there may be {GROUPS_MAX} groups in all")));
    }
    let ApprovalRule { needed, from, also, .. } = rule;
    group("", *needed, from)?;
    for (at, quorum) in also.iter_mut().enumerate() {
        group(&format!("also[{at}]."), quorum.needed, &mut quorum.from)?;
    }
    let needed = rule.needed_in_all();
    if needed > APPROVALS_MAX {
        let problem = format!("with it {needed} have to approve; at most {APPROVALS_MAX} may have to");
        return Err(Rejection::invalid("also", problem));
    }
    let (met, needed) = approvers::met_without(rule, |_| false);
    if met < needed {
        let problem = format!(
            "cannot be met: who is in several groups counts for one of them, so those named give {met} of {needed} approvals"
        );
        return Err(Rejection::invalid("also", problem));
    }
    Ok(())
}

/// Refuses what would wait in vain: those whom the rule names ask for it themselves, have chosen it, or may not approve there any more,
/// and who is left is not enough.
pub(super) fn can_be_approved(
    (state, tenant): (&State, TenantId),
    environment: &Environment,
    asks: &Actor,
    chosen_by: &[Actor],
) -> Result<(), Rejection> {
    let Some(rule) = &environment.approvals else { return Ok(()) };
    let place = Scope::Environment(tenant, environment.id);
    let (named, gone) = (approvers::named(rule), approvers::gone(state, rule, place));
    let barred: BTreeMap<AccountId, &str> = std::iter::once(asks)
        .chain(chosen_by)
        .filter_map(Actor::account)
        .filter(|it| named.contains(&it.id) && !gone.contains_key(&it.id))
        .map(|it| (it.id, it.name.as_str()))
        .collect();
    let (met, needed) = approvers::met_without(rule, |id| barred.contains_key(id) || gone.contains_key(id));
    if met >= needed {
        return Ok(());
    }
    let barred = barred.into_values().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    let gone = gone.into_values().collect::<Vec<_>>().join(", ");
    let (name, given) = (&environment.name, format!("{met} of {needed} approvals"));
    let why = match (barred.as_str(), gone.as_str()) {
        (barred, "") => format!(
            "nobody approves what they ask for or have chosen, and without {barred} those whom the rule of {name} names give {given}; somebody else has to ask for it"
        ),
        ("", gone) => format!(
            "{gone}, and the others whom the rule of {name} names give {given}; change the rule (stella env approvals), or give the role"
        ),
        (barred, gone) => format!(
            "{gone}, and nobody approves what they ask for or have chosen: without {barred} the others whom the rule of {name} names give {given}; change the rule (stella env approvals), give the role, or let somebody else ask for it"
        ),
    };
    Err(Rejection::conflict(format!("nobody could let it through: {why}")))
}

fn group(field: &str, needed: u32, from: &mut Vec<AccountId>) -> Result<(), Rejection> {
    fields::range(format!("{field}needed"), u64::from(needed), (1, u64::from(APPROVALS_MAX)), " approvals")?;
    from.sort_unstable();
    from.dedup();
    let named = u32::try_from(from.len()).unwrap_or(u32::MAX);
    let field = format!("{field}from");
    if named > APPROVALS_MAX {
        return Err(Rejection::invalid(field, format!("there are more than {APPROVALS_MAX}")));
    }
    if named > 0 && named < needed {
        let problem = format!("names {named} accounts, and {needed} have to approve");
        return Err(Rejection::invalid(field, problem));
    }
    Ok(())
}

/// Approves the plan of a promotion. Approving twice is approving once.
pub(super) fn approve(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    plan: Digest,
    reason: &str,
    signature: Option<ApprovalSignature>,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let promotion = waiting(tx, id)?;
    if promotion.rule.is_none() {
        let problem = format!("promotion {id} needs nobody's approval; it waits for its gates");
        return Err(Rejection::Conflict { problem });
    }
    if plan != promotion.plan.root {
        let problem =
            format!("promotion {id} has the plan {}, not {plan}; look at it again", promotion.plan.root);
        return Err(Rejection::Conflict { problem });
    }
    let account = decider(tx, promotion)?;
    is_free_to_let_through(tx.actor(), promotion, "approves")?;
    if signature.is_some_and(|it| !it.is_over(id, plan, account)) {
        let problem = format!(
            "is not one that this key has made over this plan of this promotion and your account ({account})"
        );
        return Err(Rejection::invalid("signature", problem));
    }
    match promotion.approvals.iter().find(|approval| approval.by.id == account) {
        None => tx.emit(Fact::ApprovalGranted { id, plan, reason: reason.to_owned(), signature })?,
        Some(before) if signature.is_some() && before.signature != signature => {
            let problem = format!(
                "you have approved promotion {id} already; a signature comes with the approval, and cannot be added or replaced later"
            );
            return Err(Rejection::Conflict { problem });
        }
        Some(_) => {}
    }
    Ok(Outcome::Promotion(id))
}

/// A promotion has waited for as long as it may. If approvals are missing, the rule says what comes of it.
pub(super) fn time_is_up(tx: &mut Transaction<'_>, id: PromotionId) -> Result<(), Rejection> {
    let promotion = tx.promotion(id)?;
    let rule = promotion.rule.as_ref().filter(|_| !promotion.is_approved());
    let fact = match rule.map(|rule| (rule.on_expiry, rule.expires_ms)) {
        Some((OnExpiry::Reject, _)) => {
            let reason = format!("{} approvals were missing when its time was up", promotion.missing());
            Fact::PromotionRejected { id, objection: Objection::Unanswered, reason }
        }
        Some((OnExpiry::AskAgain { times }, expires_ms)) if promotion.asked_again < times => {
            Fact::PromotionAskedAgain { id, expires_at: tx.now.plus_ms(expires_ms) }
        }
        Some((OnExpiry::Expire | OnExpiry::AskAgain { .. }, _)) | None => Fact::PromotionExpired { id },
    };
    tx.emit(fact)
}

/// Ends a promotion that must not start. Also who asked for it may find that.
pub(super) fn reject(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    objection: Objection,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if objection == Objection::Unanswered {
        let problem = "is what the control plane says of what nobody has answered; choose another";
        return Err(Rejection::invalid("objection", problem));
    }
    let promotion = waiting(tx, id)?;
    decider(tx, promotion)?;
    tx.emit(Fact::PromotionRejected { id, objection, reason: reason.to_owned() })?;
    Ok(Outcome::Promotion(id))
}

pub(super) fn withdraw(
    tx: &mut Transaction<'_>,
    id: PromotionId,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if matches!(tx.promotion(id)?.status, PromotionStatus::Withdrawn { .. }) {
        return Ok(Outcome::Promotion(id));
    }
    waiting(tx, id)?;
    tx.emit(Fact::PromotionWithdrawn { id, reason: reason.to_owned() })?;
    Ok(Outcome::Promotion(id))
}

fn waiting<'t>(tx: &'t Transaction<'_>, id: PromotionId) -> Result<&'t Arc<Promotion>, Rejection> {
    let promotion = tx.promotion(id)?;
    let problem = match &promotion.status {
        PromotionStatus::Pending => return Ok(promotion),
        PromotionStatus::Started { .. } => {
            format!("promotion {id} has started; cancel or roll back the deployment of the same id")
        }
        PromotionStatus::Rejected { hold, .. } => {
            format!("promotion {id} was rejected ({}); deploy again to ask anew", hold.reason)
        }
        PromotionStatus::Withdrawn { .. } => {
            format!("promotion {id} was withdrawn; deploy again to ask anew")
        }
        PromotionStatus::Expired { .. } => format!("promotion {id} has expired; deploy again to ask anew"),
        PromotionStatus::Invalidated { reason, .. } => {
            format!("promotion {id} is not valid any more ({reason}); deploy again to ask anew")
        }
    };
    Err(Rejection::Conflict { problem })
}

/// Who decides on a promotion: an account, because a token without one is nobody in particular.
fn decider(tx: &Transaction<'_>, promotion: &Promotion) -> Result<AccountId, Rejection> {
    let Some(account) = tx.actor().account() else {
        let problem = "a promotion is decided on by somebody: use a token that belongs to an account with the role approver (stella account create, \
             stella token create --account)";
        return Err(Rejection::Forbidden { problem: problem.to_owned() });
    };
    if promotion.rule.as_ref().is_some_and(|rule| !rule.lets_decide(account.id)) {
        let problem =
            format!("account {} is not among those whom the environment's rule names", account.name);
        return Err(Rejection::Forbidden { problem });
    }
    Ok(account.id)
}

/// Whether somebody may let through what is asked for: not who asked, and not who has chosen it.
pub(super) fn is_free_to_let_through(
    actor: &Actor,
    promotion: &Promotion,
    what: &str,
) -> Result<(), Rejection> {
    let problem = if promotion.requested_by.is(actor) {
        format!("nobody {what} what they have asked for; somebody else has to")
    } else if promotion.has_chosen(actor) {
        format!(
            "nobody {what} what they have chosen: they wrote the workflow of its run or answered what that asked for, made the hook behind it or a secret of that, or asked for what it comes from; somebody else has to"
        )
    } else {
        return Ok(());
    };
    Err(Rejection::Forbidden { problem })
}

/// Looks again at the promotions that wait, if anything has happened that may let one start or make it void.
pub(super) fn reconsider(tx: &mut Transaction<'_>) -> Result<(), Rejection> {
    let mut seen = 0;
    while !tx.tenant.open_promotions.is_empty() {
        let concerns: BTreeSet<Concern> =
            tx.facts_from(seen).flat_map(|fact| concerned(&tx.tenant, fact)).collect();
        if concerns.is_empty() {
            break;
        }
        seen = tx.facts_from(0).count();
        let is_concerned =
            |it: &&Arc<Promotion>| concerns.iter().any(|concern| concern.is_about(&tx.tenant, it));
        let candidates: Vec<Arc<Promotion>> = open(&tx.tenant).filter(is_concerned).cloned().collect();
        for promotion in candidates {
            look_at(tx, &promotion)?;
        }
    }
    Ok(())
}

/// The promotions that something is about. Each of them is planned anew, which takes long for thousands of targets: so no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Concern {
    /// This one.
    One(PromotionId),
    /// All to an environment.
    To(EnvironmentId),
    /// Those of a release to an environment.
    Of(EnvironmentId, ReleaseId),
    /// Those to an environment that wait for the targets of a deployment.
    Freed(EnvironmentId, DeploymentId),
}

impl Concern {
    fn is_about(&self, tenant: &TenantState, promotion: &Promotion) -> bool {
        let NewDeployment { environment, release, targets, strategy, .. } = &promotion.wanted;
        match self {
            Self::One(id) => promotion.id == *id,
            Self::To(place) => place == environment,
            Self::Of(place, of) => place == environment && of == release,
            Self::Freed(place, ended) => {
                let ended = tenant.deployments.get(ended);
                // What is on other targets says which are meant where none are named, and which group is live.
                let named = targets.as_ref().filter(|_| strategy.groups().is_none());
                let is_apart = |named: &Vec<TargetId>| {
                    ended.is_some_and(|ended| !named.iter().any(|it| ended.targets.contains_key(it)))
                };
                place == environment && !named.is_some_and(is_apart)
            }
        }
    }
}

/// The promotions that may start, or be void, since this happened. A running deployment changes its targets all
/// the time; what that means for others is seen at its end.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts concern no promotion")]
fn concerned(tenant: &TenantState, fact: &Fact) -> Vec<Concern> {
    let everywhere = || tenant.environments.keys().copied();
    let freed = |id: &DeploymentId| {
        let ended = tenant.deployments.get(id);
        ended.map(|it| Concern::Freed(it.environment, *id))
    };
    match fact {
        Fact::EnvironmentApprovalsSet { id, .. }
        | Fact::EnvironmentFreezeSet { id, .. }
        | Fact::EnvironmentFreezeRemoved { id, .. }
        | Fact::EnvironmentUnlocked { id }
        | Fact::EnvironmentUpdated { id, .. }
        | Fact::EnvironmentGateSet { id, .. }
        | Fact::EnvironmentGateRemoved { id, .. }
        | Fact::EnvironmentVerificationSet { id, .. }
        | Fact::EnvironmentBudgetSet { id, .. }
        | Fact::EnvironmentWayBackSet { id, .. }
        | Fact::EnvironmentWayBackProofSet { id, .. }
        | Fact::EnvironmentChannelsSet { id, .. } => vec![Concern::To(*id)],
        Fact::TargetCreated { environment, .. } => vec![Concern::To(*environment)],
        Fact::TargetUpdated { id, .. } => {
            tenant.targets.get(id).map(|target| Concern::To(target.environment)).into_iter().collect()
        }
        Fact::ApprovalGranted { id, .. }
        | Fact::PromotionHeld { id, until: None }
        | Fact::GateEvaluated { promotion: id, outcome: Says::Passed, .. }
        | Fact::GateOverridden { promotion: id, .. } => vec![Concern::One(*id)],
        Fact::DeploymentFailed { id, .. } => {
            let Some(failed) = tenant.deployments.get(id) else { return Vec::new() };
            let after = path::after(tenant, failed.environment);
            after.map(|next| Concern::Of(next, failed.release)).chain(freed(id)).collect()
        }
        Fact::DeploymentSucceeded { id, .. } | Fact::DeploymentCancelled { id, .. } => {
            freed(id).into_iter().collect()
        }
        Fact::TaskFinished { key, .. } => set_free(tenant, key.task).map(Concern::To).into_iter().collect(),
        Fact::ReleaseBlocked { id: release, .. }
        | Fact::FindingsRecorded { release, .. }
        | Fact::ReleaseSigned { release, .. } => {
            everywhere().map(|place| Concern::Of(place, *release)).collect()
        }
        Fact::ReleaseDisproven { environment, release, .. } => {
            path::after(tenant, *environment).map(|place| Concern::Of(place, *release)).collect()
        }
        Fact::TargetRemoved { .. }
        | Fact::AgentRevoked { .. }
        | Fact::ReleaseKeyRevoked { .. }
        | Fact::ReleaseSigningSet { .. }
        | Fact::EnvironmentPathSet { .. } => everywhere().map(Concern::To).collect(),
        _ => Vec::new(),
    }
}

/// The environment of a target that a task has set free long after its deployment had given it up: nobody knew what became of the task.
/// What the other ends of tasks mean for those who wait is seen at the end of their deployment.
pub(super) fn set_free(tenant: &TenantState, task: TaskId) -> Option<EnvironmentId> {
    let task = tenant.tasks.get(&task)?;
    let part = tenant.deployments.get(&task.deployment).and_then(|it| it.targets.get(&task.target));
    let was_left = part.is_none_or(|part| matches!(part.progress, Progress::Abandoned { .. }));
    let target = tenant.targets.get(&task.target).filter(|target| was_left && target.active.is_none())?;
    Some(target.environment)
}

/// Starts a promotion if it has its approvals and can, and ends it if it would not do any more what people were asked about.
fn look_at(tx: &mut Transaction<'_>, promotion: &Promotion) -> Result<(), Rejection> {
    let targets = tx.tenant.meant_by(&promotion.wanted);
    let wanted = &promotion.wanted;
    if targets.into_iter().any(|target| deployment::is_open_to(&tx.tenant, wanted, target).is_err()) {
        return Ok(());
    }
    let prepared = match deployment::prepare(&tx.tenant, &promotion.wanted, tx.now) {
        Ok(prepared) => prepared,
        Err(defect @ Rejection::Defect(_)) => return Err(defect),
        Err(rejection) => return invalidate(tx, promotion.id, rejection.to_string()),
    };
    if prepared.environment.approvals != promotion.rule {
        let reason = format!("the approvals that {} needs have changed", prepared.environment.name);
        return outdate(tx, promotion, reason);
    }
    let plan = sealing(&tx.tenant, &prepared, &promotion.wanted, promotion.guarded()).seal();
    if plan != promotion.plan {
        let reason = void::reason(tx, promotion, &prepared.environment, plan);
        return outdate(tx, promotion, reason);
    }
    if let Some(reason) = asked_in_vain(tx, promotion) {
        return invalidate(tx, promotion.id, reason);
    }
    lapse(tx, promotion)?;
    let promotion = &*Arc::clone(tx.promotion(promotion.id)?);
    // Who approves sees what the gates say. Something outside is asked once for that, and again when it could start.
    let is_approved = promotion.is_approved();
    let is_new = gate::is_new_to(&tx.tenant, promotion.id, &prepared.environment);
    let asking = if is_approved || is_new { Asking::Now } else { Asking::Later };
    let ruling = gate::rule(tx, promotion.id, asking)?;
    if !is_approved || ruling != Ruling::Open || hold::is_open(&prepared.environment).is_err() {
        return Ok(());
    }
    let overrides = promotion.wanted.override_freeze.is_some();
    let frozen = prepared.environment.lasting_freeze(tx.now).filter(|_| !overrides).map(|(_, until)| until);
    match frozen {
        None => start(tx, &promotion.wanted, &prepared),
        Some(until) if promotion.held_until == Some(until) => Ok(()),
        Some(until) => tx.emit(Fact::PromotionHeld { id: promotion.id, until: Some(until) }),
    }
}

/// Why whoever has asked for a promotion may not have it by now, with all that it overrides; `None` if they may.
fn asked_in_vain(tx: &Transaction<'_>, promotion: &Promotion) -> Option<String> {
    let command = TenantCommand::Deploy(Box::new(promotion.wanted.clone()));
    let asks = &promotion.requested_by;
    let problem = access::check_authority(tx.system, asks, tx.tenant.id, &command, tx.now).err()?;
    Some(format!("whoever asked for it may not have it any more: {problem}"))
}

/// Lets those approvals count no more whose accounts may not approve there now.
fn lapse(tx: &mut Transaction<'_>, promotion: &Promotion) -> Result<(), Rejection> {
    let place = Scope::Environment(tx.tenant.id, promotion.wanted.environment);
    for approval in &promotion.approvals {
        if let Some(reason) = access::no_approver(tx.system, &approval.by, place) {
            tx.emit(Fact::ApprovalLapsed { id: promotion.id, account: approval.by.id, reason })?;
        }
    }
    Ok(())
}

/// Lets the approvals of an account count no more where it may not approve now.
pub(super) fn lapse_of(tx: &mut Transaction<'_>, account: AccountId) -> Result<(), Rejection> {
    let has_approved = |it: &&Arc<Promotion>| it.approvals.iter().any(|it| it.by.id == account);
    let concerned: Vec<Arc<Promotion>> = open(&tx.tenant).filter(has_approved).cloned().collect();
    concerned.iter().try_for_each(|promotion| lapse(tx, promotion))
}

/// Ends a promotion because of a change. It could be asked for once more, as it would be now: where nobody is there to do that, the
/// release is due again.
fn outdate(tx: &mut Transaction<'_>, promotion: &Promotion, reason: String) -> Result<(), Rejection> {
    invalidate(tx, promotion.id, reason)?;
    let NewDeployment { environment, release, .. } = promotion.wanted;
    let comes_again = promotion.requested_by == Actor::System
        && tx.tenant.way_again(environment, release, tx.now).is_some();
    if comes_again {
        tx.emit(Fact::AutoPromotionDue { environment, release, again: Some(promotion.id) })?;
    }
    Ok(())
}

fn invalidate(tx: &mut Transaction<'_>, id: PromotionId, reason: String) -> Result<(), Rejection> {
    tx.emit(Fact::PromotionInvalidated { id, reason })
}
