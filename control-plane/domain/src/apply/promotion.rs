//! How far promotions have got, and the rules that they follow.

use std::sync::Arc;

use stella_protocol::id::{AccountId, DeploymentId, EnvironmentId, PromotionId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use super::{Applied, ensure, illegal, misplaced, missing, vacant};
use crate::command::{ActingAccount, Actor};
use crate::durations::APPROVALS_MS;
use crate::event::{Event, Fact, IllegalTransition};
use crate::hold::Hold;
use crate::name::Name;
use crate::promotion::{APPROVALS_MAX, Approval, Lapsed, Objection, OnExpiry, Promotion, PromotionStatus};
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_promotion(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let at = *at;
        let hold = |reason: &String| Hold { reason: reason.clone(), by: event.actor.clone(), since: at };
        match fact {
            Fact::EnvironmentApprovalsSet { id, rule } => {
                let environment =
                    self.environments.get_mut(id).ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
                Arc::make_mut(environment).approvals.clone_from(rule);
                Ok(())
            }
            Fact::PromotionRequested { .. } => self.promotion_requested(event),
            Fact::ApprovalGranted { .. } => self.approval_granted(event),
            Fact::ApprovalLapsed { id, account, reason } => {
                self.approval_lapsed(*id, *account, reason, event)
            }
            Fact::PromotionRejected { .. } => self.promotion_rejected(event),
            Fact::PromotionAskedAgain { id, expires_at } => self.asked_again(*id, *expires_at, event),
            Fact::PromotionWithdrawn { id, reason } => {
                self.end_promotion(*id, PromotionStatus::Withdrawn { hold: hold(reason) }, fact).map(drop)
            }
            Fact::PromotionExpired { id } => {
                self.end_promotion(*id, PromotionStatus::Expired { at }, fact).map(drop)
            }
            Fact::PromotionHeld { id, until } => {
                self.stop_holding(*id, fact)?;
                let promotion = self.promotion_mut(*id, fact)?;
                ensure(promotion.is_open(), subject(*id), promotion.status.name(), fact)?;
                promotion.held_until = *until;
                self.timers.extend(until.map(|end| (end, Timer::PromotionHeld(*id))));
                Ok(())
            }
            Fact::PromotionInvalidated { id, reason } => {
                let status = PromotionStatus::Invalidated { at, reason: reason.clone() };
                self.end_promotion(*id, status, fact).map(drop)
            }
            other => Err(misplaced(other)),
        }
    }

    /// By somebody, or because nobody has said enough in time.
    fn promotion_rejected(&mut self, event: &Event) -> Applied {
        let Event { at, actor, fact, .. } = event;
        let Fact::PromotionRejected { id, objection, reason } = fact else { return Err(misplaced(fact)) };
        let by = if *objection == Objection::Unanswered {
            let may =
                matches!(actor, Actor::System) && self.is_unanswered(*id, *at, OnExpiry::Reject, fact)?;
            ensure(may, subject(*id), "not to be rejected for that", fact)?;
            None
        } else {
            Some(by_account(actor, *id, fact)?.name.clone())
        };
        let hold = Hold { reason: reason.clone(), by: actor.clone(), since: *at };
        let status = PromotionStatus::Rejected { objection: *objection, hold };
        let environment = self.end_promotion(*id, status, fact)?;
        let stage = self.stage_name(environment, fact)?;
        let by_objection = self.totals.rejections.entry(stage.clone()).or_default();
        *by_objection.entry(objection.name().to_owned()).or_insert(0) += 1;
        if let Some(by) = by {
            let by_account = self.totals.decisions.entry(stage).or_default().entry(by).or_default();
            *by_account.entry("rejected".to_owned()).or_insert(0) += 1;
        }
        Ok(())
    }

    /// Whether its time is up, approvals are missing, and its rule wants this then.
    fn is_unanswered(
        &mut self,
        id: PromotionId,
        at: Timestamp,
        wants: OnExpiry,
        fact: &Fact,
    ) -> Result<bool, IllegalTransition> {
        let promotion = self.promotion_mut(id, fact)?;
        let is_up = promotion.expires_at.is_some_and(|end| end <= at);
        let wanted = promotion.rule.as_ref().is_some_and(|rule| rule.on_expiry == wants);
        Ok(promotion.is_open() && is_up && wanted && !promotion.is_approved())
    }

    fn asked_again(&mut self, id: PromotionId, expires_at: Timestamp, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        let promotion = self.promotion_mut(id, fact)?;
        let before = promotion.expires_at;
        let wants = promotion.rule.as_ref().map(|rule| rule.on_expiry);
        let left = matches!(wants, Some(OnExpiry::AskAgain { times }) if promotion.asked_again < times);
        let may = match wants {
            Some(wants) if left => self.is_unanswered(id, *at, wants, fact)?,
            Some(_) | None => false,
        };
        ensure(may && expires_at > *at, subject(id), "not to be asked again", fact)?;
        let promotion = self.promotion_mut(id, fact)?;
        promotion.asked_again = promotion.asked_again.saturating_add(1);
        promotion.expires_at = Some(expires_at);
        if let Some(before) = before {
            self.timers.remove(&(before, Timer::PromotionExpires(id)));
        }
        self.timers.insert((expires_at, Timer::PromotionExpires(id)));
        Ok(())
    }

    fn promotion_requested(&mut self, event: &Event) -> Applied {
        let Event { at, actor, trace, fact } = event;
        let Fact::PromotionRequested { id, wanted, plan, rule, expires_at, chosen_by } = fact else {
            return Err(misplaced(fact));
        };
        vacant(!self.promotions.contains_key(id), PromotionId::KIND, id, fact)?;
        ensure(id.0 == wanted.id.0, subject(*id), "for a deployment of another id", fact)?;
        let stage = self.environments.get(&wanted.environment);
        let stage = stage.ok_or_else(|| missing(EnvironmentId::KIND, wanted.environment, fact))?;
        ensure(stage.approvals == *rule, subject(*id), "not by the rule of its environment", fact)?;
        let promotion = Promotion {
            id: *id,
            wanted: (**wanted).clone(),
            plan: *plan,
            rule: rule.clone(),
            approvals: Vec::new(),
            lapsed: Vec::new(),
            status: PromotionStatus::Pending,
            requested_at: *at,
            requested_by: actor.clone(),
            chosen_by: chosen_by.clone(),
            trace: trace.clone(),
            held_until: None,
            asked_again: 0,
            expires_at: *expires_at,
        };
        if let Some(own) = wanted.job.as_ref().and_then(|job| job.release(wanted.id, *at)) {
            self.jobs.insert(own.id, Arc::new(own));
        }
        self.promotions.insert(*id, Arc::new(promotion));
        self.open_promotions.insert(*id);
        self.timers.extend(expires_at.map(|end| (end, Timer::PromotionExpires(*id))));
        Ok(())
    }

    /// INV-10, the half of it that is about who approves.
    fn approval_granted(&mut self, event: &Event) -> Applied {
        let Event { at, actor, fact, .. } = event;
        let Fact::ApprovalGranted { id, plan, reason, signature } = fact else { return Err(misplaced(fact)) };
        let by = by_account(actor, *id, fact)?.clone();
        let promotion = self.promotion_mut(*id, fact)?;
        let own = promotion.is_of(actor);
        let again = promotion.approvals.iter().any(|approval| approval.by.id == by.id);
        let in_rule = promotion.rule.as_ref().is_some_and(|rule| rule.lets_decide(by.id));
        // Also in replay: a journal in which a signature was made up is not one that this core has written.
        let signed = signature.is_none_or(|it| it.may_be_recorded(*id, *plan, by.id));
        ensure(signed, subject(*id), "not what was signed", fact)?;
        let holds = promotion.is_open() && promotion.plan.root == *plan && in_rule && !own && !again;
        ensure(holds, subject(*id), promotion.status.name(), fact)?;
        let (reason, signature) = (reason.clone(), *signature);
        promotion.approvals.push(Approval { by: by.clone(), at: *at, reason, signature });
        let environment = promotion.wanted.environment;
        let waited = promotion.is_let_through_by(event).then(|| at.since(promotion.requested_at));
        let stage = self.stage_name(environment, fact)?;
        if let Some(waited) = waited {
            let took = self.totals.approvals_took.entry(stage.clone()).or_default();
            Arc::make_mut(took).add(waited, &APPROVALS_MS);
        }
        let by_account = self.totals.decisions.entry(stage).or_default().entry(by.name).or_default();
        *by_account.entry("approved".to_owned()).or_insert(0) += 1;
        Ok(())
    }

    /// Only what has not started can lose an approval.
    fn approval_lapsed(
        &mut self,
        id: PromotionId,
        account: AccountId,
        reason: &str,
        event: &Event,
    ) -> Applied {
        let fact = &event.fact;
        let promotion = self.promotion_mut(id, fact)?;
        ensure(promotion.is_open(), subject(id), promotion.status.name(), fact)?;
        let at = promotion.approvals.iter().position(|it| it.by.id == account);
        let at = at.ok_or_else(|| missing("approval", account, fact))?;
        let approval = promotion.approvals.remove(at);
        let most = usize::try_from(APPROVALS_MAX).unwrap_or(usize::MAX);
        if promotion.lapsed.len() >= most {
            promotion.lapsed.remove(0);
        }
        promotion.lapsed.push(Lapsed { approval, at: event.at, reason: reason.to_owned() });
        Ok(())
    }

    /// INV-10, the half of it that is about deployments: what becomes of the promotion of one that begins; who asked for it, in which trace.
    /// Journals of before there were promotions have deployments without.
    pub(super) fn start_promotion(
        &mut self,
        deployment: DeploymentId,
        environment: EnvironmentId,
        at: Timestamp,
        fact: &Fact,
    ) -> Result<Option<(Actor, TraceContext)>, IllegalTransition> {
        let id = PromotionId(deployment.0);
        let rule = self.environments.get(&environment).and_then(|stage| stage.approvals.clone());
        let Some(promotion) = self.promotions.get(&id) else {
            ensure(rule.is_none(), format!("deployment {deployment}"), "without its approvals", fact)?;
            return Ok(None);
        };
        let is_this = promotion.wanted.environment == environment && promotion.rule == rule;
        ensure(is_this && promotion.is_approved(), subject(id), promotion.status_name(), fact)?;
        let by = (promotion.requested_by.clone(), promotion.trace.clone());
        self.leave_open(id, fact)?;
        self.promotion_mut(id, fact)?.status = PromotionStatus::Started { at };
        Ok(Some(by))
    }

    /// A promotion that does not start any more.
    fn end_promotion(
        &mut self,
        id: PromotionId,
        status: PromotionStatus,
        fact: &Fact,
    ) -> Result<EnvironmentId, IllegalTransition> {
        self.leave_open(id, fact)?;
        self.forget_questions(id, None);
        let name = status.name();
        let promotion = self.promotion_mut(id, fact)?;
        promotion.status = status;
        let environment = promotion.wanted.environment;
        self.count_promotion(environment, name);
        Ok(environment)
    }

    /// It waits no more. Being among the open ones is what says that it did.
    fn leave_open(&mut self, id: PromotionId, fact: &Fact) -> Applied {
        let promotion = self.promotion_mut(id, fact)?;
        ensure(promotion.is_open(), subject(id), promotion.status.name(), fact)?;
        let expires_at = promotion.expires_at;
        self.stop_holding(id, fact)?;
        self.open_promotions.remove(&id);
        if let Some(end) = expires_at {
            self.timers.remove(&(end, Timer::PromotionExpires(id)));
        }
        Ok(())
    }

    fn stop_holding(&mut self, id: PromotionId, fact: &Fact) -> Applied {
        if let Some(end) = self.promotion_mut(id, fact)?.held_until.take() {
            self.timers.remove(&(end, Timer::PromotionHeld(id)));
        }
        Ok(())
    }

    pub(super) fn count_promotion(&mut self, environment: EnvironmentId, status: &str) {
        let Some(stage) = self.environments.get(&environment) else { return };
        let by_status = self.totals.promotions.entry(stage.name.clone()).or_default();
        *by_status.entry(status.to_owned()).or_insert(0) += 1;
    }

    fn stage_name(&self, id: EnvironmentId, fact: &Fact) -> Result<Name, IllegalTransition> {
        let stage = self.environments.get(&id).ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
        Ok(stage.name.clone())
    }

    fn promotion_mut(&mut self, id: PromotionId, fact: &Fact) -> Result<&mut Promotion, IllegalTransition> {
        self.promotions.get_mut(&id).map(Arc::make_mut).ok_or_else(|| missing(PromotionId::KIND, id, fact))
    }
}

/// Decisions are somebody's.
fn by_account<'a>(
    actor: &'a Actor,
    id: PromotionId,
    fact: &Fact,
) -> Result<&'a ActingAccount, IllegalTransition> {
    match actor {
        Actor::ApiToken { account: Some(account), .. } => Ok(account),
        Actor::ApiToken { account: None, .. } | Actor::System | Actor::Agent { .. } | Actor::Hook { .. } => {
            Err(illegal(subject(id), "decided on by nobody", fact))
        }
    }
}

fn subject(id: PromotionId) -> String {
    format!("promotion {id}")
}
