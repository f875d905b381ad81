//! Runs: executions of one version of a workflow. Everything that a run waits for is here, so that it goes on after a restart where it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, DeploymentId, EnvironmentId, ReleaseId, RunId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use crate::command::Actor;
use crate::event::{Event, Fact};
use crate::gate::Check;
use crate::hold::Hold;
use crate::name::{Identifier, Name};
use crate::promotion::Approval;
use crate::workflow::{Method, NoticeSeverity};

/// How many runs of a tenant may be under way.
pub const ACTIVE_MAX: usize = 256;
/// How long the body of an answer may be that a call keeps, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 10;

/// An execution of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Of which workflow.
    pub workflow: Name,
    /// Of which version of it, whatever versions come later.
    pub version: u32,
    /// What it was given, defaults included.
    pub inputs: BTreeMap<Identifier, Value>,
    /// How far it has got.
    pub status: RunStatus,
    /// How far each step has got.
    pub steps: BTreeMap<Identifier, StepRun>,
    /// The step that waits for its end, if it is part of another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<(RunId, Identifier)>,
    /// Who started it: with this authority it deploys.
    pub started_by: Actor,
    /// Who could choose it beside them, if that is a hook.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen_by: Vec<Actor>,
    /// When.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it hands on: the outputs that its template declares, once it has succeeded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Value>,
    /// The trace that it belongs to, and the span that asked for it.
    pub trace: TraceContext,
}

impl Run {
    /// Whether this is who started it.
    #[must_use]
    pub fn is_started_by(&self, actor: &Actor) -> bool {
        self.started_by.is(actor)
    }

    /// Whether a step is under way, or may still be.
    #[must_use]
    pub fn is_open(&self, step: &Identifier) -> bool {
        self.steps.get(step).is_some_and(|step| !step.state.is_final())
    }
}

/// How far a run has got. The last three are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum RunStatus {
    /// Steps are started as soon as what they need is over.
    Running,
    /// A step failed: nothing new starts, and what is under way comes to its end.
    Failing {
        /// What failed, for a person.
        reason: String,
    },
    /// A step failed, and what has succeeded is made up for.
    Compensating {
        /// What failed, for a person.
        reason: String,
    },
    /// Somebody cancelled it: what is under way is ended.
    Cancelling {
        /// Who, when and why.
        hold: Hold,
    },
    /// All steps are over.
    Succeeded,
    /// A step failed.
    Failed {
        /// What failed, for a person.
        reason: String,
    },
    /// It was cancelled.
    Cancelled {
        /// Who, when and why.
        hold: Hold,
    },
}

impl RunStatus {
    /// The names of all of them.
    pub const NAMES: [&'static str; 7] =
        ["running", "failing", "compensating", "cancelling", "succeeded", "failed", "cancelled"];
    /// The names of the ends: the label `status` of `stella_workflow_runs_total`.
    pub const ENDS: [&'static str; 3] = ["succeeded", "failed", "cancelled"];

    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Cancelled { .. })
    }

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failing { .. } => "failing",
            Self::Compensating { .. } => "compensating",
            Self::Cancelling { .. } => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// How far one step of a run has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRun {
    /// What it is doing.
    pub state: StepState,
    /// How many attempts were begun.
    pub attempts: u32,
    /// How many of them do not count: their gate was asked again, because too many agents were silent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u32,
    /// When the first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it came to its end.
    pub finished_at: Option<Timestamp>,
    /// What others may use of it.
    pub outputs: BTreeMap<String, Value>,
    /// The runs of the newest attempt, also when that is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Child>,
    /// The newest job that an attempt of it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<DeploymentId>,
    /// Who has answered what it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<Actor>,
    /// How much of the time of the attempt that is under way is left, in milliseconds, while none of it passes: it waits for a deployment,
    /// or for a gate, where too many agents are silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_left_ms: Option<u64>,
    /// Why the attempt that is under way has failed when what it has begun has ended: its time was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<String>,
    /// When somebody has said no to the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_at: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl StepRun {
    pub(crate) const fn new() -> Self {
        Self {
            state: StepState::Waiting,
            attempts: 0,
            uncounted: 0,
            started_at: None,
            finished_at: None,
            outputs: BTreeMap::new(),
            parts: Vec::new(),
            job: None,
            answered_by: None,
            time_left_ms: None,
            overdue: None,
            rejected_at: None,
        }
    }
}

impl StepRun {
    /// How many attempts count.
    #[must_use]
    pub const fn counted(&self) -> u32 {
        self.attempts.saturating_sub(self.uncounted)
    }

    /// Whether this event let an approval step through: it is the last approval that was needed. The state that is seen is the one after
    /// it, or a later one.
    #[must_use]
    pub fn is_let_through_by(&self, event: &Event) -> bool {
        let is_approval = matches!(event.fact, Fact::StepApproved { .. });
        let names = self.outputs.get("approved_by").and_then(Value::as_array);
        let last = names.and_then(|all| all.last()).and_then(Value::as_str);
        let by = event.actor.account().map(|account| account.name.as_str());
        is_approval && self.state == StepState::Succeeded && by.is_some() && by == last
    }
}

/// What a step is doing. The last four are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum StepState {
    /// What it needs is not over.
    Waiting,
    /// It is under way.
    Running {
        /// With what.
        work: Work,
        /// When this attempt must be over; `None` is never.
        deadline: Option<Timestamp>,
    },
    /// An attempt failed; another one follows.
    BackingOff {
        /// When.
        until: Timestamp,
        /// What failed, for a person.
        reason: String,
    },
    /// The last attempt failed; somebody may retry it by hand.
    Held {
        /// Until when.
        until: Timestamp,
        /// What failed, for a person.
        reason: String,
    },
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed {
        /// What failed, for a person.
        reason: String,
    },
    /// Its turn never came.
    Skipped,
    /// It was ended.
    Cancelled,
}

impl StepState {
    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Skipped | Self::Cancelled)
    }

    /// Whether something is, or will be, going on by itself.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::BackingOff { .. } | Self::Held { .. })
    }

    /// Where an approver decides on it, if it waits for one and names a place.
    #[must_use]
    pub const fn approved_in(&self) -> Option<EnvironmentId> {
        if let Self::Running { work: Work::Approval { environment, .. }, .. } = self {
            *environment
        } else if let Self::Running { work: Work::Gate { environment, .. }, .. } = self {
            Some(*environment)
        } else {
            None
        }
    }

    /// Whether it waits for people's agreement.
    #[must_use]
    pub fn awaits_people(&self) -> bool {
        let is_approval = matches!(self, Self::Running { work: Work::Approval { .. }, .. });
        is_approval || self.asked().is_some_and(AskedGate::is_manual)
    }

    /// The gate that it waits for: of something outside, or of a person.
    #[must_use]
    pub fn asked(&self) -> Option<&AskedGate> {
        if let Self::Running { work: Work::Gate { asked, .. }, .. } = self { asked.as_deref() } else { None }
    }

    /// When it asks its gate again, if what that has said does not count.
    #[must_use]
    pub fn asks_again_at(&self) -> Option<Timestamp> {
        self.asked().and_then(|asked| asked.again_at)
    }

    /// The gate whose answer it waits for from outside.
    #[must_use]
    pub fn question(&self) -> Option<&AskedGate> {
        self.asked().filter(|asked| !asked.is_manual() && asked.again_at.is_none())
    }

    /// The deployment that it waits for.
    #[must_use]
    pub const fn deployment(&self) -> Option<DeploymentId> {
        if let Self::Running { work: Work::Deployment { deployment }, .. } = self {
            Some(*deployment)
        } else {
            None
        }
    }

    /// The runs whose ends it waits for.
    #[must_use]
    pub fn children(&self) -> &[Child] {
        if let Self::Running { work: Work::Runs { runs }, .. } = self { runs } else { &[] }
    }

    /// What goes out for it, and whose answer it waits for.
    #[must_use]
    pub const fn outgoing(&self) -> Option<Outgoing<'_>> {
        let Self::Running { work, .. } = self else { return None };
        match work {
            Work::Http(request) => Some(Outgoing::Call(request)),
            Work::Notify(notice) => Some(Outgoing::Notice(notice)),
            Work::Deployment { .. }
            | Work::Approval { .. }
            | Work::Wait { .. }
            | Work::Input
            | Work::Gate { .. }
            | Work::Runs { .. } => None,
        }
    }

    /// When something becomes of it by itself.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        match self {
            Self::Running { work: Work::Wait { until }, .. } => Some(*until),
            Self::Running { deadline, .. } => self.asks_again_at().or(*deadline),
            Self::BackingOff { until, .. } | Self::Held { until, .. } => Some(*until),
            Self::Waiting | Self::Succeeded | Self::Failed { .. } | Self::Skipped | Self::Cancelled => None,
        }
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running { .. } => "running",
            Self::BackingOff { .. } => "backing_off",
            Self::Held { .. } => "held",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a step that is under way waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Work {
    /// The end of a deployment, or of the promotion that asks for it.
    Deployment {
        /// Which one.
        deployment: DeploymentId,
    },
    /// People's agreement.
    Approval {
        /// How many accounts must agree.
        needed: u32,
        /// Only these accounts; if empty, all with the role. Sorted.
        from: Vec<AccountId>,
        /// Where they need the role; `None` is in the whole tenant.
        environment: Option<EnvironmentId>,
        /// What it is about, for people.
        message: String,
        /// Who has agreed.
        #[serde(default)]
        approvals: Vec<Approval>,
    },
    /// A time.
    Wait {
        /// Until when.
        until: Timestamp,
    },
    /// A person's answers.
    Input,
    /// The answer to a call. Whoever makes such calls finds it here.
    Http(Box<Request>),
    /// That somebody was told. Whoever tells people finds it here.
    Notify(Box<Notice>),
    /// A gate.
    Gate {
        /// For where.
        environment: EnvironmentId,
        /// For what.
        release: ReleaseId,
        /// What is asked, of something outside or of a person. Without, the gate is looked at, and says at once what it says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Box<AskedGate>>,
    },
    /// The ends of other runs.
    Runs {
        /// Which.
        runs: Vec<Child>,
    },
}

/// A gate that a step waits for. Whoever asks such things finds it here; it does not change when the environment's gate does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedGate {
    /// Which gate of the environment; `None` if the template has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// How it is found out, filled in.
    pub check: Check,
    /// The version of the gate's policy.
    pub policy: Digest,
    /// For how long a verdict that lets through is said to hold, in milliseconds.
    pub ttl_ms: u64,
    /// What it is about, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When this attempt has asked.
    pub at: Timestamp,
    /// When another attempt asks instead: what was said may be about nothing but agents that cannot be heard. Nobody is asked before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_at: Option<Timestamp>,
}

impl AskedGate {
    /// Whether people decide.
    #[must_use]
    pub const fn is_manual(&self) -> bool {
        matches!(self.check, Check::Manual)
    }
}

/// A run that is part of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// What it is done for; `None` if the step is done once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Its id.
    pub run: RunId,
}

/// A call, filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where; with a destination, what comes after its address.
    pub url: String,
    /// The name of a destination of the control plane's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// How.
    pub method: Method,
    /// With which headers.
    pub headers: BTreeMap<String, String>,
    /// With which body.
    pub body: Option<Value>,
    /// Which status codes are a success; if empty, 200 to 299.
    pub expect: Vec<u16>,
    /// Whether the answer's body is kept.
    pub keep_body: bool,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What somebody is told, filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whom: the name of a receiver.
    pub receiver: String,
    /// What.
    pub message: String,
    /// How bad it is.
    #[serde(default)]
    pub severity: NoticeSeverity,
    /// When this attempt began.
    pub at: Timestamp,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What goes out for a step, at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing<'s> {
    /// A call.
    Call(&'s Request),
    /// A message to people.
    Notice(&'s Notice),
}

/// How a step came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum StepEnd {
    /// It did what it should.
    Succeeded {
        /// What others may use of it.
        outputs: BTreeMap<String, Value>,
    },
    /// It did not.
    Failed {
        /// What failed, for a person.
        reason: String,
    },
    /// Its turn never came.
    Skipped,
    /// It was ended.
    Cancelled,
}

/// Where a run turns to, away from its goal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "to")]
pub enum Turn {
    /// To its failure.
    Failing {
        /// What failed, for a person.
        reason: String,
    },
    /// To making up for what was done.
    Compensating {
        /// What failed, for a person.
        reason: String,
    },
    /// To its cancellation.
    Cancelling {
        /// Why, for a person.
        reason: String,
    },
}

/// How a call, or a message to people, went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The receiver has taken the message.
    Told,
    /// There was an answer.
    Answered {
        /// Its status code.
        status: u16,
        /// Its body, if that was to be kept.
        body: Option<Value>,
    },
    /// There was none.
    Failed {
        /// Why, for a person.
        reason: String,
    },
}
