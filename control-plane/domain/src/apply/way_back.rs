//! What hosts have said about the way back.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, TargetId};
use stella_protocol::time::Timestamp;

use super::deployment::subject;
use super::{Applied, ensure, misplaced, missing};
use crate::deployment::Progress;
use crate::event::{Event, Fact};
use crate::hold::Hold;
use crate::tenant::{TenantState, Timer};
use crate::way_back::{Proof, ProofAnswer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_way_back(&mut self, event: &Event) -> Applied {
        let Event { at, fact, .. } = event;
        match fact {
            Fact::WayBackAsked { deployment, number, targets, until } => {
                self.way_back_asked(*at, *deployment, (*number, *until), targets, fact)
            }
            Fact::WayBackAnswered { deployment, target, answer } => {
                self.status(*deployment, fact)?;
                let rollout = self.deployments.get(deployment);
                let part = rollout.and_then(|it| it.targets.get(target));
                let asked = part.is_some_and(|part| matches!(part.way_back, Some(Proof::Asked { .. })));
                let early = rollout.is_some_and(|it| it.has_not_begun());
                ensure(asked || early, subject(*deployment), "begun, and nothing is asked", fact)?;
                self.close_question(*deployment, *target, fact)?;
                let known = Proof::Known { at: *at, answer: answer.clone() };
                self.set_proof(*deployment, *target, Some(known), fact)
            }
            Fact::WayBackUnanswered { deployment } => {
                self.status(*deployment, fact)?;
                let open = self.deployments.get(deployment).map_or(0, |it| it.way_back.open);
                ensure(open > 0, subject(*deployment), "waiting for no answer", fact)?;
                self.end_questions(*at, *deployment, "its host did not answer in time", fact)
            }
            Fact::WayBackWaived { deployment, reason } => {
                let hold = Hold { reason: reason.clone(), by: event.actor.clone(), since: *at };
                let rollout = self.deployment_mut(*deployment, fact)?;
                let may = rollout.has_not_begun() && rollout.way_back.waived.is_none();
                ensure(may, subject(*deployment), "begun, or waived already", fact)?;
                rollout.way_back.waived = Some(hold);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn way_back_asked(
        &mut self,
        at: Timestamp,
        id: DeploymentId,
        (number, until): (u32, Timestamp),
        targets: &[TargetId],
        fact: &Fact,
    ) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        ensure(deployment.has_not_begun(), subject(id), "begun already", fact)?;
        ensure(number == deployment.way_back.asked + 1, subject(id), "asked another number of times", fact)?;
        deployment.way_back.asked = number;
        deployment.way_back.asked_at = Some(at);
        for target in targets {
            let part = self.deployments.get(&id).and_then(|it| it.targets.get(target));
            let part = part.ok_or_else(|| missing(TargetId::KIND, target, fact))?;
            let waits = matches!(part.progress, Progress::Waiting);
            ensure(waits, format!("target {target}"), part.progress.name(), fact)?;
            let agent = part.agent;
            // Asked again, it has one question that counts.
            self.close_question(id, *target, fact)?;
            self.set_proof(id, *target, Some(Proof::Asked { number }), fact)?;
            self.inspections.entry(agent).or_default().insert((id, *target));
            self.deployment_mut(id, fact)?.way_back.open += 1;
        }
        let deployment = self.deployment_mut(id, fact)?;
        if deployment.way_back.open > 0 {
            let before = deployment.way_back.until.replace(until);
            self.timers.extend([(until, Timer::WayBackOverdue(id))]);
            if let Some(before) = before.filter(|before| *before != until) {
                self.timers.remove(&(before, Timer::WayBackOverdue(id)));
            }
        }
        Ok(())
    }

    /// The question about a target is not open any more, if it was; with the last one goes the timer.
    pub(super) fn close_question(&mut self, id: DeploymentId, target: TargetId, fact: &Fact) -> Applied {
        let part = self.deployments.get(&id).and_then(|it| it.targets.get(&target));
        let part = part.ok_or_else(|| missing(TargetId::KIND, target, fact))?;
        if !matches!(part.way_back, Some(Proof::Asked { .. })) {
            return Ok(());
        }
        let agent = part.agent;
        if let Some(open) = self.inspections.get_mut(&agent) {
            open.remove(&(id, target));
            if open.is_empty() {
                self.inspections.remove(&agent);
            }
        }
        self.set_proof(id, target, None, fact)?;
        let way_back = &mut self.deployment_mut(id, fact)?.way_back;
        way_back.open -= 1;
        if way_back.open == 0
            && let Some(until) = way_back.until.take()
        {
            self.timers.remove(&(until, Timer::WayBackOverdue(id)));
        }
        Ok(())
    }

    /// Nobody waits for the answers any more that have not come.
    pub(super) fn end_questions(
        &mut self,
        at: Timestamp,
        id: DeploymentId,
        why: &str,
        fact: &Fact,
    ) -> Applied {
        let deployment = self.deployment_mut(id, fact)?;
        if deployment.way_back.open == 0 {
            return Ok(());
        }
        let asked = deployment.targets.values().filter(|it| matches!(it.way_back, Some(Proof::Asked { .. })));
        for target in asked.map(|part| part.target).collect::<Vec<_>>() {
            self.close_question(id, target, fact)?;
            let answer = ProofAnswer::Unproven { reason: why.to_owned() };
            self.set_proof(id, target, Some(Proof::Known { at, answer }), fact)?;
        }
        Ok(())
    }

    fn set_proof(
        &mut self,
        id: DeploymentId,
        target: TargetId,
        proof: Option<Proof>,
        fact: &Fact,
    ) -> Applied {
        let part = self.deployment_mut(id, fact)?.targets.get_mut(&target);
        Arc::make_mut(part.ok_or_else(|| missing(TargetId::KIND, target, fact))?).way_back = proof;
        Ok(())
    }
}
