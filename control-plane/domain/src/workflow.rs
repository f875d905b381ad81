//! Workflows: what to do one after another, and on what that depends. A template is checked when it is applied, becomes a version that never
//! changes, and every run pins the version that it started with.

mod check;
mod input;
mod more;
mod notice;
mod quoting;
mod span;
mod strategy;
mod task;
mod text;
mod variables;

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_protocol::time::Timestamp;

use crate::amount::Amount;
use crate::command::Actor;
use crate::deployment::{self, Strategy};
use crate::hold::Hold;
use crate::name::{Identifier, Name};

pub use check::{Problem, UsedOutput, check, used_outputs};
pub use input::{Input, InputKind};
pub use more::{
    DEPTH_MAX, FAN_OUT_MAX, ForEach, GateStep, HttpGate, ManualGate, MetricGate, SubWorkflow, Targets,
};
pub use notice::{NOTICE_CHARS_MAX, NOTICE_MS_MAX, NoticeSeverity, Notify};
pub(crate) use quoting::{Address, Query};
pub use span::Span;
pub use strategy::strategy;
pub use task::{TargetStep, TaskStep};
pub(crate) use text::{Text, render, render_for, render_for_target};
pub use variables::STEP_WORK_MAX;
pub(crate) use variables::{Meter, Variables};

/// How many steps a template may have.
pub const STEPS_MAX: usize = 64;
/// How many inputs a run may have, and fields an input step.
pub const INPUTS_MAX: usize = 32;
/// How many steps one may wait for.
pub const NEEDS_MAX: usize = 32;
/// How many workflows a tenant may have, and versions one of them.
pub const WORKFLOWS_MAX: usize = 256;
/// How long a template may be, as it is written, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// How long a text that is given to a run may be, in bytes.
pub const VALUE_BYTES_MAX: usize = 4_096;
/// The shortest and the longest time of a step, in milliseconds: a second and 30 days.
pub const SPAN_MS_RANGE: (u64, u64) = (1_000, 30 * 24 * 3_600_000);
/// How many attempts a step may have.
pub const ATTEMPTS_MAX: u32 = 20;
/// The longest pause between two attempts, in milliseconds: an hour.
pub const BACKOFF_MS_MAX: u64 = 3_600_000;
/// How long an answer to a call may take, in milliseconds, and how long it takes at most if nobody says otherwise.
pub const CALL_MS_MAX: u64 = 300_000;
/// See [`CALL_MS_MAX`].
pub const CALL_MS_DEFAULT: u64 = 30_000;
/// How long a call may have to wait for its turn, and for a control plane that is down, in milliseconds: an hour. An answer that has
/// not come by then and within the call's own time is none.
pub const CALL_WAIT_MS_MAX: u64 = 3_600_000;
/// How long what a step asks for may be once its texts are filled in, as JSON, in bytes: it is one event, whatever the expressions come to.
pub const FILLED_BYTES_MAX: usize = 512 << 10;
/// How long the outputs of a run may be together, as JSON, in bytes: those of as many runs as one step may start are one event.
pub const OUTPUTS_BYTES_MAX: usize = FILLED_BYTES_MAX / FAN_OUT_MAX;
/// How many headers a call may have.
pub const HEADERS_MAX: usize = 32;

/// A workflow of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workflow {
    /// Its name.
    pub name: Name,
    /// Its versions, by number from 1. None is ever changed or taken away: runs go on by them.
    pub versions: OrdMap<u32, Arc<Version>>,
    /// Why no run may be started any more; a newer version makes it usable again.
    pub removed: Option<Hold>,
}

impl Workflow {
    /// The newest version's number; 0 if there is none.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.versions.get_max().map_or(0, |(number, _)| *number)
    }
}

/// A version of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What it says.
    pub template: Template,
    /// When it was applied.
    pub applied_at: Timestamp,
    /// By whom.
    pub applied_by: Actor,
}

/// What a workflow does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The workflow's name.
    pub name: Name,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What a run is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<Identifier, Input>,
    /// What is done. Those that need nothing start at once.
    pub steps: Vec<Step>,
    /// What a run that has succeeded hands on to the step that has started it, each an expression over what its steps have come to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<Identifier, String>,
}

impl Template {
    /// The step of this id.
    #[must_use]
    pub fn step(&self, id: &Identifier) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }
}

/// One thing to do. Exactly one of [`Step::action`]'s fields is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its id, unique in the template.
    pub id: Identifier,
    /// The steps that have to be over before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Identifier>,
    /// An expression: the step is skipped where it is not true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long one attempt may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Whether a failed attempt is made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// For how long a failed step waits for somebody to retry it by hand before it counts as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Span>,
    /// What its failure means for the run.
    #[serde(default, skip_serializing_if = "OnFailure::is_default")]
    pub on_failure: OnFailure,
    /// It is done only to make up for this step, if that has succeeded and the run compensates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensates: Option<Identifier>,
    /// Bring a release to an environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<Deploy>,
    /// Take a deployment of the run back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// Run something on targets, without a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskStep>,
    /// Wait for people to agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStep>,
    /// Wait for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// Ask a person for something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<BTreeMap<Identifier, Input>>,
    /// Call something outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Call>,
    /// Tell somebody something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// Look at a gate, or ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateStep>,
    /// Run another workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<SubWorkflow>,
    /// What another workflow is run for each of, all at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'t> {
    /// See [`Step::deploy`].
    Deploy(&'t Deploy),
    /// See [`Step::rollback`].
    Rollback(&'t Rollback),
    /// See [`Step::task`].
    Task(&'t TaskStep),
    /// See [`Step::approval`].
    Approval(&'t ApprovalStep),
    /// See [`Step::wait`].
    Wait(Span),
    /// See [`Step::input`].
    Input(&'t BTreeMap<Identifier, Input>),
    /// See [`Step::http`].
    Http(&'t Call),
    /// See [`Step::notify`].
    Notify(&'t Notify),
    /// See [`Step::gate`].
    Gate(&'t GateStep),
    /// See [`Step::workflow`].
    Workflow(&'t SubWorkflow),
}

impl Action<'_> {
    /// The names of all of them: the fields of a step, and the label `step_type` of `stella_workflow_step_duration_seconds`.
    pub const TYPES: [&'static str; 10] =
        ["deploy", "rollback", "task", "approval", "wait", "input", "http", "notify", "gate", "workflow"];

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deploy(_) => "deploy",
            Self::Rollback(_) => "rollback",
            Self::Task(_) => "task",
            Self::Approval(_) => "approval",
            Self::Wait(_) => "wait",
            Self::Input(_) => "input",
            Self::Http(_) => "http",
            Self::Notify(_) => "notify",
            Self::Gate(_) => "gate",
            Self::Workflow(_) => "workflow",
        }
    }
}

impl Step {
    /// What it does: all that is there. A checked template has exactly one.
    pub(crate) fn actions(&self) -> impl Iterator<Item = Action<'_>> {
        let deploy = self.deploy.as_ref().map(Action::Deploy);
        let rollback = self.rollback.as_ref().map(Action::Rollback);
        let task = self.task.as_ref().map(Action::Task);
        let approval = self.approval.as_ref().map(Action::Approval);
        let wait = self.wait.map(Action::Wait);
        let input = self.input.as_ref().map(Action::Input);
        let http = self.http.as_ref().map(Action::Http);
        let notify = self.notify.as_ref().map(Action::Notify);
        let gate = self.gate.as_ref().map(Action::Gate);
        let workflow = self.workflow.as_ref().map(Action::Workflow);
        [deploy, rollback, task, approval, wait, input, http, notify, gate, workflow].into_iter().flatten()
    }

    /// What it does.
    #[must_use]
    pub fn action(&self) -> Option<Action<'_>> {
        self.actions().next()
    }

    /// The name of what it does; empty if it does nothing, which no checked step does.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.action().map_or("", |action| action.name())
    }
}

/// Attempts after a failed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How many attempts there are in all.
    pub attempts: u32,
    /// The pause after the first attempt; after each further one it is twice as long.
    #[serde(default = "Retry::backoff_default")]
    pub backoff: Span,
    /// The longest pause.
    #[serde(default = "Retry::backoff_max_default")]
    pub backoff_max: Span,
}

impl Retry {
    fn backoff_default() -> Span {
        Span(5_000)
    }

    fn backoff_max_default() -> Span {
        Span(300_000)
    }

    /// The pause after so many attempts, in milliseconds.
    #[must_use]
    pub fn pause_ms(&self, attempts: u32) -> u64 {
        let doubled = 2_u64.saturating_pow(attempts.saturating_sub(1));
        self.backoff.0.saturating_mul(doubled).min(self.backoff_max.0)
    }
}

/// What the failure of a step means for its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing new starts, what is under way comes to its end, and the run has failed.
    #[default]
    Fail,
    /// The steps that need it go on as if it had succeeded.
    Continue,
    /// As for `Fail`; then what has succeeded is made up for, the newest first.
    Compensate,
}

impl OnFailure {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Bring a release to an environment: a promotion like any other, with the authority of whoever has started the run. Texts may hold
/// `${expressions}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The release: its id, or `application:version`.
    pub release: String,
    /// The environment's name or id.
    pub environment: String,
    /// How; if nothing is said as the environment has it, or one target at a time.
    #[serde(default, deserialize_with = "strategy::maybe_strategy", skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What to do when a target fails.
    #[serde(default)]
    pub on_target_failure: deployment::OnFailure,
    /// How many targets may fail before that counts: a number or a share such as `10%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// Only these targets, by name; those for the application if there are none, and no labels either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Only targets that have all of these labels, as they are when the step begins.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it may come to a target that has another application.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_application: bool,
    /// How long the deployment may take, once it has started.
    #[serde(default = "Deploy::timeout_default")]
    pub timeout: Span,
}

impl Deploy {
    const fn timeout_default() -> Span {
        Span(deployment::TIMEOUT_MS_DEFAULT)
    }
}

/// Take a deployment of the run back, as `stella rollback` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The `deploy` step.
    pub of: Identifier,
}

/// Wait for people to agree. Who started the run never counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalStep {
    /// How many accounts must agree.
    #[serde(default = "ApprovalStep::needed_default")]
    pub needed: u32,
    /// Only these accounts; without, all that have the role approver in `environment`, or in the whole tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Name>,
    /// Where the role approver is needed; without, in the whole tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Name>,
    /// What it is about, for people. May hold `${expressions}`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl ApprovalStep {
    const fn needed_default() -> u32 {
        1
    }
}

/// Call something outside. Texts may hold `${expressions}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Or the name of one of the destinations of the control plane's configuration, which has an address and headers of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// What comes after the address of `to`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// How.
    #[serde(default)]
    pub method: Method,
    /// With which headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// With which body: a text as it is, anything else as JSON. Texts in it may hold `${expressions}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Which answers are a success: status codes; without, 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// Whether the answer's body becomes the output `body`. It is in the journal for ever then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_body: bool,
}

impl Call {
    /// Where it goes: a whole address, or what comes after that of a destination.
    #[must_use]
    pub fn address(&self) -> &str {
        if self.to.is_some() { &self.path } else { &self.url }
    }
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "they are those of HTTP")]
pub enum Method {
    Get,
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The name in HTTP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}
