//! INV-27: what is sent to agents is what was sealed in the plan that people approve; and INV-11's counts, made anew from facts alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use stella_domain::colour::Steps;
use stella_domain::decide;
use stella_domain::deployment::{Cause, Strategy};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::hold::PauseCause;
use stella_domain::plan::PlanPart;
use stella_domain::state::State;
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, PromotionId, ReleaseId, TargetId, TaskId};
use stella_protocol::time::Timestamp;
use stella_signing::merkle;

use super::TENANT;

/// What a target's leaf says of the work there.
#[derive(Clone, Debug, Deserialize)]
pub struct Leaf {
    pub tasks: Vec<Digest>,
    pub rollback: Option<WayBack>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct WayBack {
    pub release: ReleaseId,
    pub tasks: Vec<Digest>,
}

/// The leaves of targets, as they were sealed when somebody asked, and the steps that tasks are of.
#[derive(Debug, Default)]
pub struct Plans {
    leaves: BTreeMap<(DeploymentId, TargetId), Leaf>,
    steps: BTreeMap<TaskId, usize>,
    /// How many tasks were found in a leaf: of what was asked for, and of rollbacks.
    pub found: (usize, usize),
}

impl Plans {
    /// Looks at what a command has led to.
    pub fn step(&mut self, before: &State, after: &State, events: &[(StreamId, Event)]) {
        let (Some(old), Some(new)) = (before.tenants.get(&TENANT), after.tenants.get(&TENANT)) else {
            return;
        };
        for (_, event) in events {
            if let Fact::PromotionRequested { id, .. } = &event.fact {
                self.seal(old, new, *id, event.at);
            } else if let Fact::TaskQueued { task, step, .. } = &event.fact {
                self.steps.insert(*task, usize::from(*step));
            } else if let Fact::TaskDispatched { key, .. } = &event.fact {
                self.dispatched(new, key.task);
            }
        }
    }

    /// A command that asks for something may begin it at once, so the plan is that of the state before.
    fn seal(&mut self, old: &TenantState, new: &TenantState, id: PromotionId, at: Timestamp) {
        let Some(promotion) = new.promotions.get(&id) else { return };
        for target in new.targets.values().filter(|it| it.environment == promotion.wanted.environment) {
            let part = PlanPart::Target(target.id);
            let proof = [old, new].into_iter().find_map(|it| decide::prove(it, promotion, part, at).ok());
            let Some(proof) = proof else { continue };
            let hash = merkle::leaf(proof.leaf.as_bytes());
            let root = merkle::root_of(hash, proof.at as u64, proof.leaves as u64, &proof.path);
            assert_eq!(
                root,
                Some(promotion.plan.root),
                "INV-27: the leaf of {} is not in the plan",
                target.name
            );
            let leaf: Leaf = serde_json::from_str(&proof.leaf).unwrap();
            self.leaves.insert((promotion.wanted.id, target.id), leaf);
        }
    }

    fn dispatched(&mut self, tenant: &TenantState, id: TaskId) {
        let (Some(task), Some(step)) = (tenant.tasks.get(&id), self.steps.get(&id)) else { return };
        let deployment = &tenant.deployments[&task.deployment];
        let hash = merkle::leaf(&serde_json::to_vec(&task.spec).unwrap());
        if deployment.cause.is_asked_for() {
            let Some(leaf) = self.leaves.get(&(task.deployment, task.target)) else { return };
            let sealed = leaf.tasks.get(*step);
            assert_eq!(
                sealed,
                Some(&hash),
                "INV-27: step {step} of {} is another task: {:?}",
                task.deployment,
                task.spec
            );
            self.found.0 += 1;
            return;
        }
        let Cause::Rollback { of, .. } = &deployment.cause else { return };
        let leaf = self.leaves.get(&(*of, task.target)).and_then(|leaf| leaf.rollback.as_ref());
        let part = &deployment.targets[&task.target];
        // What else has to be done to go back is in no plan, nor what cannot be filled in.
        let is_planned =
            part.legs.is_empty() || (part.legs.len() == 1 && part.legs[0].steps == Steps::Switch);
        let knows = part.variables_back.is_some();
        let Some(leaf) =
            leaf.filter(|it| is_planned && knows && it.release == part.release && !it.tasks.is_empty())
        else {
            return;
        };
        let sealed = leaf.tasks.get(*step);
        assert_eq!(
            sealed,
            Some(&hash),
            "INV-27: step {step} of {} takes back something else",
            task.deployment
        );
        self.found.1 += 1;
    }
}

/// Which targets have a release whose canary step or batch is not behind it, by the facts alone.
#[derive(Debug, Default)]
pub struct Unproven(BTreeMap<DeploymentId, Proving>);

#[derive(Debug)]
struct Proving {
    strategy: Strategy,
    runs: bool,
    paused: bool,
    /// Whether the hold has begun in which they prove it.
    holds: bool,
    steps_passed: u32,
    targets: BTreeSet<TargetId>,
}

impl Proving {
    fn holds_after(&self) -> bool {
        match &self.strategy {
            Strategy::Rolling(rolling) => rolling.pause_ms.is_some(),
            Strategy::Canary { steps, .. } => usize::try_from(self.steps_passed).unwrap() < steps.len(),
            Strategy::AllAtOnce | Strategy::BlueGreen(_) => false,
        }
    }

    fn go_on(&mut self) {
        if std::mem::take(&mut self.paused) && std::mem::take(&mut self.holds) {
            self.targets.clear();
        }
    }
}

impl Unproven {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most facts prove nothing")]
    pub fn note(&mut self, events: &[(StreamId, Event)]) {
        for (_, event) in events {
            if let Fact::DeploymentCreated { id, strategy, .. } = &event.fact {
                let proving = Proving {
                    strategy: strategy.clone(),
                    runs: true,
                    paused: false,
                    holds: false,
                    steps_passed: 0,
                    targets: BTreeSet::new(),
                };
                self.0.insert(*id, proving);
                continue;
            }
            let (Fact::TargetSucceeded { deployment: id, .. }
            | Fact::DeploymentPaused { id, .. }
            | Fact::DeploymentResumed { id }
            | Fact::DeploymentHalted { id, .. }
            | Fact::DeploymentOverdue { id, .. }
            | Fact::DeploymentCancelRequested { id, .. }) = &event.fact
            else {
                continue;
            };
            let proving = self.0.get_mut(id).expect("INV-11: of a deployment that was never created");
            match &event.fact {
                Fact::TargetSucceeded { target, .. } => {
                    if proving.runs && proving.holds_after() {
                        proving.targets.insert(*target);
                    }
                }
                Fact::DeploymentPaused { canary_step, cause, .. } => {
                    proving.paused = true;
                    proving.steps_passed = canary_step.unwrap_or(proving.steps_passed);
                    proving.holds |=
                        canary_step.is_some() || matches!(cause, PauseCause::CanaryStep | PauseCause::Batch);
                }
                Fact::DeploymentResumed { .. } => proving.go_on(),
                Fact::DeploymentHalted { .. } => {
                    proving.go_on();
                    proving.runs = false;
                }
                _ => proving.runs = false,
            }
        }
    }

    /// INV-11: what the state counts.
    pub fn check(&self, tenant: &TenantState) {
        for (id, proving) in &self.0 {
            if let Some(deployment) = tenant.deployments.get(id).filter(|it| !it.status.is_final()) {
                let counted = usize::try_from(deployment.unproven).unwrap();
                assert_eq!(counted, proving.targets.len(), "INV-11: what has yet to prove itself in {id}");
            }
        }
    }
}
