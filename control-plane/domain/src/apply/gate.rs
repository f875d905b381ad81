//! Gates, what they said, and what scanners found.

use std::collections::BTreeMap;
use std::sync::Arc;

use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced, missing};
use crate::deployment::Status;
use crate::event::{Event, Fact, IllegalTransition};
use crate::findings::Report;
use crate::gate::{Asked, Outcome, Override, Record, Standing, Verdict};
use crate::hold::Hold;
use crate::name::Name;
use crate::promotion::PromotionStatus;
use crate::tenant::{TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_gate(&mut self, event: &Event) -> Applied {
        let Event { at, actor, fact, .. } = event;
        let at = *at;
        match fact {
            Fact::EnvironmentGateSet { id, gate } => {
                let standing = Standing { gate: (**gate).clone(), policy: gate.policy() };
                self.gates_of(*id, fact)?.insert(gate.name.clone(), standing);
                self.forget_questions_in(*id, &gate.name);
                Ok(())
            }
            Fact::EnvironmentGateRemoved { id, gate } => {
                let removed = self.gates_of(*id, fact)?.remove(gate);
                self.forget_questions_in(*id, gate);
                removed.map(drop).ok_or_else(|| missing("gate", gate, fact))
            }
            Fact::GateAsked { promotion, gate, number, policy } => {
                self.matters(*promotion, gate, fact)?;
                self.stop_again(*promotion, gate);
                let record = self.record_mut(*promotion, gate);
                let next = record.asked.is_none() && *number == record.evaluations.saturating_add(1);
                ensure(next, subject(gate, *promotion), "asked already", fact)?;
                let asked = Asked { number: *number, policy: *policy, at };
                record.asked = Some(asked);
                self.timers.insert((asked.overdue_at(), Timer::GateOverdue(*promotion, gate.clone())));
                Ok(())
            }
            Fact::GateEvaluated { .. } => self.gate_evaluated(event),
            Fact::GateOverridden { promotion, gate, policy, reason } => {
                let environment = self.matters(*promotion, gate, fact)?;
                let hold = Hold { reason: reason.clone(), by: actor.clone(), since: at };
                let kind = self.gates_of(environment, fact)?.get(gate).map(|it| it.gate.check.name());
                // What it says does not matter any more.
                self.forget_questions(*promotion, Some(gate));
                self.record_mut(*promotion, gate).overridden = Some(Override { policy: *policy, hold });
                self.count_verdict(environment, kind.unwrap_or_default(), "overridden");
                Ok(())
            }
            Fact::FindingsRecorded { release, scanner, digest, findings } => {
                ensure(self.releases.contains_key(release), format!("release {release}"), "missing", fact)?;
                let report = Report { digest: *digest, findings: findings.clone(), at, by: actor.clone() };
                let more = report.bytes();
                let former =
                    self.findings.entry(*release).or_default().insert(scanner.clone(), Arc::new(report));
                let less = former.map_or(0, |former| former.bytes());
                self.index.release_bytes = self.index.release_bytes.saturating_sub(less).saturating_add(more);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn gate_evaluated(&mut self, event: &Event) -> Applied {
        let Event { at, actor, fact, .. } = event;
        let Fact::GateEvaluated {
            promotion,
            gate,
            kind,
            number,
            policy,
            outcome,
            reason,
            inputs,
            expires_at,
            again_at,
        } = fact
        else {
            return Err(misplaced(fact));
        };
        let environment = self.matters(*promotion, gate, fact)?;
        self.stop_again(*promotion, gate);
        let asked = self.stop_asking(*promotion, gate);
        let wave = self.wave_of(*promotion);
        let record = self.record_mut(*promotion, gate);
        let next = *number == record.evaluations.saturating_add(1);
        ensure(next, subject(gate, *promotion), format!("at verdict {}", record.evaluations), fact)?;
        record.evaluations = *number;
        record.misses = if *outcome == Outcome::Passed { 0 } else { record.misses.saturating_add(1) };
        record.again_at = *again_at;
        record.verdict = Some(Verdict {
            outcome: *outcome,
            reason: reason.clone(),
            policy: *policy,
            inputs: *inputs,
            asked_at: asked.map_or(*at, |asked| asked.at),
            at: *at,
            by: actor.clone(),
            expires_at: *expires_at,
            wave,
        });
        self.timers.extend(again_at.map(|again| (again, Timer::GateAgain(*promotion, gate.clone()))));
        self.count_verdict(environment, kind, outcome.name());
        Ok(())
    }

    /// How many waves of a promotion's deployment are over; none before it has begun.
    pub(crate) fn wave_of(&self, promotion: PromotionId) -> u32 {
        self.deployments.get(&DeploymentId(promotion.0)).map_or(0, |deployment| deployment.waves)
    }

    /// INV-12: whether each gate lets through what a deployment starts now.
    pub(super) fn is_let_through(&self, id: DeploymentId, now: Timestamp) -> bool {
        let Some(deployment) = self.deployments.get(&id).filter(|it| it.cause.is_asked_for()) else {
            return true;
        };
        let promotion = PromotionId(id.0);
        // Journals of before there were promotions have deployments without.
        if !self.promotions.contains_key(&promotion) {
            return true;
        }
        let Some(environment) = self.environments.get(&deployment.environment) else { return false };
        let records = self.gates.get(&promotion);
        environment.gates.iter().all(|(name, standing)| {
            if standing.gate.verifies && !deployment.has_brought() {
                return true;
            }
            let record = records.and_then(|records| records.get(name));
            record.is_some_and(|record| record.lets_through(standing.policy, now))
        })
    }

    /// The environment of a promotion whose gates matter: it waits, or its deployment runs.
    fn matters(&self, id: PromotionId, gate: &Name, fact: &Fact) -> Result<EnvironmentId, IllegalTransition> {
        let promotion = self.promotions.get(&id).ok_or_else(|| missing(PromotionId::KIND, id, fact))?;
        let runs = || {
            let deployment = self.deployments.get(&promotion.wanted.id);
            deployment.is_some_and(|it| it.status == Status::Running)
        };
        let matters = match &promotion.status {
            PromotionStatus::Pending => true,
            PromotionStatus::Started { .. } => runs(),
            PromotionStatus::Rejected { .. }
            | PromotionStatus::Withdrawn { .. }
            | PromotionStatus::Expired { .. }
            | PromotionStatus::Invalidated { .. } => false,
        };
        ensure(matters, subject(gate, id), "of no matter any more", fact)?;
        let place = promotion.wanted.environment;
        let is_there = self.environments.get(&place).is_some_and(|it| it.gates.contains_key(gate));
        ensure(is_there, subject(gate, id), "not a gate of its environment", fact)?;
        Ok(place)
    }

    fn gates_of(
        &mut self,
        id: EnvironmentId,
        fact: &Fact,
    ) -> Result<&mut BTreeMap<Name, Standing>, IllegalTransition> {
        let environment =
            self.environments.get_mut(&id).ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
        Ok(&mut Arc::make_mut(environment).gates)
    }

    fn record_mut(&mut self, promotion: PromotionId, gate: &Name) -> &mut Record {
        Arc::make_mut(self.gates.entry(promotion).or_default()).entry(gate.clone()).or_default()
    }

    /// What was asked about this gate was about another version of it.
    fn forget_questions_in(&mut self, environment: EnvironmentId, gate: &Name) {
        let started = self.active_deployments.iter().map(|id| PromotionId(id.0));
        let live: Vec<PromotionId> = self.open_promotions.iter().copied().chain(started).collect();
        for id in live {
            if self.promotions.get(&id).is_some_and(|it| it.wanted.environment == environment) {
                self.forget_questions(id, Some(gate));
            }
        }
    }

    /// Nobody waits for the answers any more: those about one gate, or about all of them.
    pub(super) fn forget_questions(&mut self, promotion: PromotionId, gate: Option<&Name>) {
        let Some(records) = self.gates.get(&promotion) else { return };
        let known: Vec<Name> =
            records.keys().filter(|name| gate.is_none_or(|it| it == *name)).cloned().collect();
        for name in known {
            self.stop_again(promotion, &name);
            self.stop_asking(promotion, &name);
        }
    }

    fn stop_again(&mut self, promotion: PromotionId, gate: &Name) {
        let known = self.gates.get(&promotion).and_then(|records| records.get(gate)?.again_at);
        if let Some(at) = known {
            self.record_mut(promotion, gate).again_at = None;
            self.timers.remove(&(at, Timer::GateAgain(promotion, gate.clone())));
        }
    }

    fn stop_asking(&mut self, promotion: PromotionId, gate: &Name) -> Option<Asked> {
        let asked = self.gates.get(&promotion).and_then(|records| records.get(gate)?.asked)?;
        self.record_mut(promotion, gate).asked = None;
        self.timers.remove(&(asked.overdue_at(), Timer::GateOverdue(promotion, gate.clone())));
        Some(asked)
    }

    /// Counts what a gate has said, for metrics.
    pub(super) fn count_verdict(&mut self, environment: EnvironmentId, kind: &str, outcome: &str) {
        let Some(stage) = self.environments.get(&environment) else { return };
        let by_kind = self.totals.gates.entry(stage.name.clone()).or_default();
        *by_kind.entry(kind.to_owned()).or_default().entry(outcome.to_owned()).or_insert(0) += 1;
    }
}

fn subject(gate: &Name, promotion: PromotionId) -> String {
    format!("gate {gate} of promotion {promotion}")
}
