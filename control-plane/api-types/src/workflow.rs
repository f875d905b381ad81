//! Workflows, and runs of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::deployment::DeploymentPlan;
use crate::event::Actor;
use crate::hold::Hold;
use crate::promotion::Approval;
use crate::release::Step as TargetStep;

/// A new workflow, or a newer version of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyWorkflow {
    /// The template as it is written: YAML or JSON, at most 64 KiB. It names the workflow.
    pub source: String,
}

/// A workflow at one of its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workflow {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Which version this is.
    pub version: u32,
    /// The newest version.
    pub newest: u32,
    /// When this version was applied.
    pub applied_at: String,
    /// By whom.
    pub applied_by: Actor,
    /// Why no run may be started any more, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Hold>,
    /// The template, as JSON.
    #[schema(value_type = Object)]
    pub template: Value,
    /// What of it could never work on this control plane, as it is configured now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A new run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// Of which workflow.
    pub workflow: String,
    /// Of which version of it; the newest if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What it is given, by the names of the template's inputs.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Value>,
}

/// What a run would do, had it been started now. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunPlan {
    /// Of which workflow.
    pub workflow: String,
    /// Of which version of it.
    pub version: u32,
    /// What it would be given, defaults included.
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Value>,
    /// What each step would do, in the order of the template.
    pub steps: Vec<PlannedStep>,
}

/// What a step would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// Its id.
    pub id: String,
    /// What it does, as in a run.
    #[serde(rename = "type")]
    pub kind: String,
    /// The steps that have to be over before.
    pub needs: Vec<String>,
    /// The step that it makes up for, if it does only that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensates: Option<String>,
    /// What it would do on which targets, if it were its turn now: of `deploy` and `task` steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<DeploymentPlan>,
    /// What it would run on each target: of `task` steps that do not name a release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<TargetStep>,
    /// Why that cannot be said, or why it would be refused now. When the steps that it needs are over, it may be otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Of which workflow.
    pub workflow: String,
    /// Of which version of it.
    pub version: u32,
    /// `running`, `failing`, `compensating`, `cancelling`, or one of the ends `succeeded`, `failed` and `cancelled`.
    pub status: String,
    /// Whether that is the end.
    pub is_final: bool,
    /// What failed, or why it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it was given.
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Value>,
    /// What it hands on: the outputs that its template declares, once it has succeeded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub outputs: BTreeMap<String, Value>,
    /// How far each step has got, in the order of the template.
    pub steps: Vec<Step>,
    /// The step that waits for its end, if it is part of another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentStep>,
    /// Who started it: with this authority it deploys.
    pub started_by: Actor,
    /// When.
    pub started_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// How far one step of a run has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// What it does: `deploy`, `rollback`, `task`, `approval`, `wait`, `input`, `http`, `gate` or `workflow`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The steps that have to be over before.
    pub needs: Vec<String>,
    /// The step that it makes up for, if it does only that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensates: Option<String>,
    /// `waiting`, `running`, `backing_off`, `held`, `succeeded`, `failed`, `skipped` or `cancelled`.
    pub state: String,
    /// How many attempts were begun.
    pub attempts: u32,
    /// What failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When something becomes of it by itself: the end of a wait, the next attempt, or its time-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// The deployment that it waits for, or the promotion of the same id; of a `task` step, also the last one that it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The status of the promotion of that id while its deployment has not started: `pending` (it waits for approvals or gates), or
    /// `approved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<String>,
    /// The runs of its newest attempt, also when that is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<ChildRun>,
    /// What it asks people to agree to: of an `approval` step, and of a `gate` step whose gate people decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<StepApproval>,
    /// The gate whose answer it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<StepGate>,
    /// What it asks for, as in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub asks_for: Option<Value>,
    /// Who has answered what it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<Actor>,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// What other steps may use of it.
    #[schema(value_type = Object)]
    pub outputs: BTreeMap<String, Value>,
}

/// A run that is part of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChildRun {
    /// Its id.
    pub run: String,
    /// What it is done for, if the step is done for each of several items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Its status; `archived` if it has ended and is not in memory any more: ask for it by its id.
    pub status: String,
}

/// The step that waits for a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParentStep {
    /// The run that it is in.
    pub run: String,
    /// Its id.
    pub step: String,
}

/// What a step asks people to agree to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepApproval {
    /// What it is about.
    pub message: String,
    /// How many accounts must agree.
    pub needed: u32,
    /// Who has.
    pub approvals: Vec<Approval>,
}

/// A gate that a step waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepGate {
    /// The gate of the environment; absent if the template has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Its type: `metric`, `http` or `manual`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is asked, by its name in the control plane's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The query of a metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Since when it is asked.
    pub asked_at: String,
}

/// What a step asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerStep {
    /// By the names that the step has for it.
    #[schema(value_type = Object)]
    pub answers: BTreeMap<String, Value>,
}

/// Somebody's word on a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideStep {
    /// Whether to go on.
    pub approve: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
}
