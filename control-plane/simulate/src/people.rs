//! What people do, and what gates are told.

use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::command::{ActingAccount, Actor, Answer, SystemCommand, TenantCommand};
use stella_domain::deployment::{OnFailure, Progress};
use stella_domain::gate;
use stella_domain::hold::PauseCause;
use stella_domain::name::Name;
use stella_domain::rejection::Rejection;
use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, PromotionId, TargetId};
use stella_protocol::time::Timestamp;

use crate::dice::within;
use crate::fleet::{TENANT, approver};
use crate::queue::Happening;
use crate::scenario::{Decision, Range};
use crate::world::World;

/// How long an endpoint takes to answer a gate, in milliseconds.
const ANSWERS: Range = Range { shortest_ms: 50, longest_ms: 500 };

impl World<'_> {
    /// Those who approve.
    pub(crate) fn hire(&mut self, approvers: u32) -> Result<(), Rejection> {
        for number in 0..approvers {
            let (account, token) = approver(number);
            let roles = vec![Grant { role: Role::Approver, tenant: Some(TENANT), environment: None }];
            let Ok(name) = named(number) else { continue };
            let kind = AccountKind::User;
            self.tell_system(SystemCommand::CreateAccount { id: account, name, kind, roles })?;
            self.tell_system(SystemCommand::CreateApiToken {
                id: token,
                name: "simulated".to_owned(),
                hash: Digest([0; 32]),
                account: Some(account),
                expires_at: None,
            })?;
        }
        Ok(())
    }

    pub(crate) fn call_approvers(&mut self, promotion: PromotionId, needed: u32) {
        let Some(range) = self.scenario.people.approve else { return };
        for number in 0..needed {
            let mut source = self.dice.of("approves", &[&number.to_be_bytes()]);
            let at = self.now.plus_ms(within(&mut source, range));
            self.queue.plan(at, Happening::Approves(promotion, number));
        }
    }

    pub(crate) fn approve(&mut self, promotion: PromotionId, number: u32) -> Result<(), Rejection> {
        if self.postpone(Happening::Approves(promotion, number)) {
            return Ok(());
        }
        let Some(plan) = self.tenant().promotions.get(&promotion).map(|it| it.plan.root) else {
            return Ok(());
        };
        let ((account, token), Ok(name)) = (approver(number), named(number)) else { return Ok(()) };
        let actor = Actor::ApiToken { id: token, account: Some(ActingAccount { id: account, name }) };
        let reason = "simulated".to_owned();
        harmless(
            self.tell_as(actor, TenantCommand::ApprovePromotion { promotion, plan, reason, signature: None }),
        )
    }

    pub(crate) fn call_for_a_resume(&mut self, deployment: DeploymentId, cause: PauseCause) {
        let Some(range) = self.scenario.people.resume else { return };
        // What the scenario has paused it resumes itself, and failures are for those who decide.
        if !matches!(cause, PauseCause::CanaryStep | PauseCause::WarmUp | PauseCause::WayBack) {
            return;
        }
        let mut source = self.dice.of("resumes", &[&self.now.0.to_be_bytes()]);
        let at = self.now.plus_ms(within(&mut source, range));
        self.queue.plan(at, Happening::Resumes(deployment, self.now));
    }

    pub(crate) fn resume(&mut self, deployment: DeploymentId, since: Timestamp) -> Result<(), Rejection> {
        if self.postpone(Happening::Resumes(deployment, since)) {
            return Ok(());
        }
        let paused = self.tenant().deployments.get(&deployment).and_then(|it| it.paused.as_ref());
        if paused.is_none_or(|hold| hold.since != since) {
            return Ok(());
        }
        let cause = self.tenant().deployments.get(&deployment).map(|it| it.paused_for);
        harmless(self.tell(match cause {
            Some(PauseCause::WayBack) => {
                TenantCommand::WaiveWayBack { deployment, reason: "simulated".to_owned() }
            }
            Some(_) | None => TenantCommand::ResumeDeployment { deployment },
        }))
    }

    pub(crate) fn call_for_a_decision(&mut self, deployment: DeploymentId, target: TargetId) {
        let Some(range) = self.scenario.people.decide else { return };
        let asks = |it: &std::sync::Arc<_>| {
            let it: &stella_domain::deployment::Deployment = it;
            it.on_failure == OnFailure::Ask
        };
        if !self.tenant().deployments.get(&deployment).is_some_and(asks) {
            return;
        }
        let mut source = self.dice.of("decides", &[target.0.as_bytes(), &self.now.0.to_be_bytes()]);
        let at = self.now.plus_ms(within(&mut source, range));
        self.queue.plan(at, Happening::Decides(deployment, target));
    }

    pub(crate) fn decide_about(
        &mut self,
        deployment: DeploymentId,
        target: TargetId,
    ) -> Result<(), Rejection> {
        if self.postpone(Happening::Decides(deployment, target)) {
            return Ok(());
        }
        let part = self.tenant().deployments.get(&deployment).and_then(|it| it.targets.get(&target));
        if !part.is_some_and(|part| matches!(part.progress, Progress::Failed { .. })) {
            return Ok(());
        }
        let reason = "simulated".to_owned();
        let command = match self.scenario.people.decision {
            Decision::Retry => TenantCommand::RetryTarget { deployment, target },
            Decision::Skip => TenantCommand::SkipTarget { deployment, target, reason },
            Decision::RollBack => TenantCommand::FailDeployment { deployment, roll_back: true, reason },
        };
        match self.tell(command) {
            // There is no room for it now: they try again.
            Err(Rejection::Conflict { .. }) => {
                self.call_for_a_decision(deployment, target);
                Ok(())
            }
            other => harmless(other),
        }
    }

    pub(crate) fn ask(&mut self, promotion: PromotionId, gate: &Name, number: u32) {
        let parts: [&[u8]; 2] = [gate.as_str().as_bytes(), &number.to_be_bytes()];
        let mut source = self.dice.of("gate", &parts);
        let at = self.now.plus_ms(within(&mut source, ANSWERS));
        self.queue.plan(at, Happening::GateAnswered(promotion, gate.clone(), number));
    }

    pub(crate) fn answer_gate(
        &mut self,
        promotion: PromotionId,
        gate: &Name,
        number: u32,
    ) -> Result<(), Rejection> {
        if self.postpone(Happening::GateAnswered(promotion, gate.clone(), number)) {
            return Ok(());
        }
        let is_closed = self.closed.get(gate).is_some_and(|count| *count > 0);
        let (outcome, reason) = if is_closed {
            (gate::Outcome::Failed, "the scenario has closed it")
        } else {
            (gate::Outcome::Passed, "nothing is against it")
        };
        let (gate, reason) = (gate.clone(), reason.to_owned());
        let answer = Answer { promotion, gate, number, outcome, reason, inputs: None };
        harmless(self.tell(TenantCommand::AnswerGate(Box::new(answer))))
    }

    /// Whether nobody is there to be told: then it comes again when somebody is.
    pub(crate) fn postpone(&mut self, happening: Happening) -> bool {
        let Some(until) = self.down_until else { return false };
        self.queue.plan(until, happening);
        true
    }
}

fn named(number: u32) -> Result<Name, stella_domain::name::NameError> {
    format!("approver-{}", u64::from(number) + 1).parse()
}

/// What people and gates say may come too late: then nothing has changed.
fn harmless<T>(told: Result<T, Rejection>) -> Result<(), Rejection> {
    match told {
        Ok(_) | Err(Rejection::Conflict { .. } | Rejection::NotFound { .. }) => Ok(()),
        Err(other) => Err(other),
    }
}
