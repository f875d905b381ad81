//! What has ended leaves memory.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, PromotionId, RunId, TaskId};

use super::{Applied, ensure, misplaced, missing};
use crate::event::Fact;
use crate::job::own_release;
use crate::tenant::TenantState;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_archive(&mut self, fact: &Fact) -> Applied {
        match fact {
            Fact::DeploymentArchived { id } => self.deployment_archived(*id, fact),
            Fact::PromotionArchived { id } => {
                let promotion =
                    self.promotions.get(id).ok_or_else(|| missing(PromotionId::KIND, id, fact))?;
                ensure(!self.needs_promotion(promotion), format!("promotion {id}"), "needed", fact)?;
                self.forget_promotion(*id);
                Ok(())
            }
            Fact::RunArchived { id } => {
                let run = self.runs.get(id).ok_or_else(|| missing(RunId::KIND, id, fact))?;
                ensure(!self.needs_run(run), format!("run {id}"), run.status.name(), fact)?;
                self.runs.remove(id);
                self.archived.runs += 1;
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn deployment_archived(&mut self, id: DeploymentId, fact: &Fact) -> Applied {
        let deployment = self.deployments.get(&id).ok_or_else(|| missing(DeploymentId::KIND, id, fact))?;
        let deployment = Arc::clone(deployment);
        let is_needed = self.needs_deployment(&deployment);
        ensure(!is_needed, super::deployment::subject(id), "needed", fact)?;
        let tasks: Vec<TaskId> = self.tasks_of(&deployment).into_iter().map(|task| task.id).collect();
        for task in tasks {
            self.tasks.remove(&task);
        }
        self.deployments.remove(&id);
        self.archived.deployments += 1;
        self.forget_promotion(PromotionId(id.0));
        Ok(())
    }

    /// A deployment that is a rollback has none.
    fn forget_promotion(&mut self, id: PromotionId) {
        self.jobs.remove(&own_release(DeploymentId(id.0)));
        self.gates.remove(&id);
        if self.promotions.remove(&id).is_some() {
            self.archived.promotions += 1;
        }
    }
}
