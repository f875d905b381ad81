//! What is said. Each direction is one enum; variants and fields are append-only within a protocol version and pinned by
//! golden bytes in `tests/golden`.

mod ending;
mod enrol;
mod probe;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{
    Attempt, AttemptKey, DeploymentId, Generation, Incarnation, Position, QuestionId, SessionEpoch, TargetId,
    TaskId,
};
use crate::spec::TaskSpec;
use crate::time::Timestamp;
use crate::trace::{Baggage, TraceContext, TraceParent, TraceState};

pub use ending::{Ending, EndingStage};
pub use enrol::{EnrolRequest, EnrolRequestFor, EnrolResponse, Granted, Profile};
pub use probe::{AttemptProbe, AttemptProbed, Effect};

/// From an agent, on the control stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToControlPlane {
    /// The first frame: who speaks and what is open.
    Hello(Hello),
    /// I am alive, and this is how the host does.
    Heartbeat(Heartbeat),
    /// The attempt is in the agent's journal and will be run.
    Accepted(Accepted),
    /// The attempt has started.
    Running(Running),
    /// The attempt has ended. Sent again after every reconnect until it is acknowledged.
    Finished(Finished),
    /// A new certificate for the same identity, please.
    Renew(RenewRequest),
    /// The agent leaves on purpose (shutdown); what is open stays open.
    Goodbye,
    /// What the agent trusts and shows from now on, durably.
    Trusts(Trusts),
    /// What the host holds: the answer to a [`ToAgent::Inspect`].
    Inspected(Inspected),
    /// Where the agent serves its own figures: the answer to a [`ToAgent::WhereFigures`].
    FiguresAt(FiguresAt),
    /// How far the end of an attempt has got, after a [`ToAgent::End`].
    Ending(Ending),
    /// What is left of an attempt, and of its effect: the answer to a [`ToAgent::Probe`].
    Probed(AttemptProbed),
}

impl ToControlPlane {
    /// The frame's name for logs, metrics and violations.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Heartbeat(_) => "heartbeat",
            Self::Accepted(_) => "accepted",
            Self::Running(_) => "running",
            Self::Finished(_) => "finished",
            Self::Renew(_) => "renew",
            Self::Goodbye => "goodbye",
            Self::Trusts(_) => "trusts",
            Self::Inspected(_) => "inspected",
            Self::FiguresAt(_) => "figures_at",
            Self::Ending(_) => "ending",
            Self::Probed(_) => "probed",
        }
    }
}

/// To an agent, on the control stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToAgent {
    /// The answer to a hello: the session exists from here on.
    Welcome(Welcome),
    /// Run this.
    Dispatch(Box<Dispatch>),
    /// End this attempt: TERM, then KILL after the grace.
    Cancel(Cancel),
    /// These results are durable here; the agent may forget them.
    Acknowledge(Vec<AttemptKey>),
    /// The certificate that was asked for.
    Renewed(Renewed),
    /// Finish what is open and take nothing new, until the next welcome. Reserved: agents understand it, and no control plane sends it.
    Drain,
    /// Which roots to trust from now on. Only to agents with [`capability::TRUST`].
    Trust(Trust),
    /// Say what the host holds of a release. Only to agents with [`capability::HOLDINGS`].
    Inspect(Box<Inspect>),
    /// Run this, and hand on what travels with its trace. Only to agents with [`capability::TRACE`], and only if something does.
    TracedDispatch(Box<TracedDispatch>),
    /// Say where your own figures are. Only to agents with [`capability::FIGURES`].
    WhereFigures,
    /// End this attempt as [`Self::Cancel`] does, and say by [`ToControlPlane::Ending`] how far that gets. Only to agents with
    /// [`capability::ENDING`].
    End(Cancel),
    /// Look whether anything of an attempt is left whose outcome nobody knows, and whether its effect is there. Only to agents with
    /// [`capability::PROBES`].
    Probe(Box<AttemptProbe>),
}

impl ToAgent {
    /// The frame's name for logs, metrics and violations.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "welcome",
            Self::Dispatch(_) => "dispatch",
            Self::Cancel(_) => "cancel",
            Self::Acknowledge(_) => "acknowledge",
            Self::Renewed(_) => "renewed",
            Self::Drain => "drain",
            Self::Trust(_) => "trust",
            Self::Inspect(_) => "inspect",
            Self::TracedDispatch(_) => "traced_dispatch",
            Self::WhereFigures => "where_figures",
            Self::End(_) => "end",
            Self::Probe(_) => "probe",
        }
    }
}

/// A mark in a journal, to notice that it was wiped or rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalMark {
    /// Which life of the journal.
    pub incarnation: Incarnation,
    /// How far it had got. Never smaller in the same life.
    pub position: Position,
}

/// The first frame of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent's software version, for people.
    pub agent_version: String,
    /// What the agent can do: see [`capability`].
    pub capabilities: u64,
    /// The agent's own journal.
    pub journal: JournalMark,
    /// The control plane's journal as this agent saw it last; `None` if never.
    pub control_plane: Option<JournalMark>,
    /// Every attempt that is in the agent's journal and not acknowledged, at most [`crate::limits::OPEN_ATTEMPTS_MAX`].
    pub open: Vec<OpenAttempt>,
    /// How the host does.
    pub resources: Resources,
}

/// Bits of [`Hello::capabilities`].
pub mod capability {
    /// Runs `artifact` tasks.
    pub const ARTIFACT: u64 = 1;
    /// Runs `command` tasks.
    pub const COMMAND: u64 = 1 << 1;
    /// Runs `check` tasks.
    pub const CHECK: u64 = 1 << 2;
    /// Runs `systemd` tasks.
    pub const SYSTEMD: u64 = 1 << 3;
    /// Understands [`super::ToAgent::Trust`].
    pub const TRUST: u64 = 1 << 4;
    /// Understands [`super::ToAgent::Inspect`].
    pub const HOLDINGS: u64 = 1 << 5;
    /// Understands [`super::ToAgent::TracedDispatch`].
    pub const TRACE: u64 = 1 << 6;
    /// Says by [`FULL`] how it runs.
    pub const PROFILE: u64 = 1 << 7;
    /// Runs with rights beyond the confined profile: see [`super::Profile`]. Means nothing without [`PROFILE`].
    pub const FULL: u64 = 1 << 8;
    /// Sends the spans of its work to a collector itself, if their trace is sampled.
    pub const SPANS: u64 = 1 << 9;
    /// Serves its own figures to scrapers on other hosts, and understands [`super::ToAgent::WhereFigures`].
    pub const FIGURES: u64 = 1 << 10;
    /// Understands [`super::ToAgent::End`].
    pub const ENDING: u64 = 1 << 11;
    /// Lists in its hello whatever it has taken and not been acknowledged, even if it is not durable yet. One without it may still run
    /// what is not in its hello.
    pub const LISTS_ALL: u64 = 1 << 12;
    /// Understands [`super::ToAgent::Probe`].
    pub const PROBES: u64 = 1 << 13;
    /// Says of a unit or a check that its effect is there, or is not, only where that is certain: whatever clocks were set or stood still,
    /// and however little time there is. It knows that an attempt that was queued later than now has no age. Means nothing without
    /// [`PROBES`].
    pub const CERTAIN: u64 = 1 << 14;
    /// Says of an attempt that it was interrupted and has no start only if it had not begun, and never will: the task may be sent again, as
    /// another attempt. One without it may not know when an attempt has begun that it interrupted.
    pub const UNBEGUN: u64 = 1 << 15;
}

/// An attempt that the agent still knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAttempt {
    /// Which.
    pub key: AttemptKey,
    /// How far it has got.
    pub phase: Phase,
}

/// How far an attempt has got on the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// In the journal, not started.
    Accepted,
    /// Started.
    Running,
    /// Ended; the result follows in a [`ToControlPlane::Finished`] frame.
    Finished,
}

/// The control plane's answer to a hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// This session's number. Every frame of an older one is fenced off.
    pub session: SessionEpoch,
    /// The control plane's journal, to be echoed in the next hello.
    pub control_plane: JournalMark,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Open attempts of the hello whose result is durable here already: the agent may forget them.
    pub settled: Vec<AttemptKey>,
    /// The control plane's time, to tell the host's clock skew.
    pub now: Timestamp,
}

/// Run this attempt. Sent only after the control plane has it durably in state `dispatched`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The task.
    pub task: TaskId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// The session that it was dispatched in.
    pub session: SessionEpoch,
    /// The deployment that it belongs to.
    pub deployment: DeploymentId,
    /// The target that it changes.
    pub target: TargetId,
    /// The target's name, for the command's environment and for people.
    pub target_name: String,
    /// The folder under the host root that this target owns; `None` is the host root itself.
    pub slot: Option<String>,
    /// The target's generation: older ones are ended first, and an older dispatch is refused.
    pub generation: Generation,
    /// The release's version, for the command's environment and for people.
    pub release_version: String,
    /// The work.
    pub spec: TaskSpec,
    /// The trace and span that caused it.
    pub trace: TraceParent,
}

impl Dispatch {
    /// Task and attempt together.
    #[must_use]
    pub const fn key(&self) -> AttemptKey {
        AttemptKey { task: self.task, attempt: self.attempt }
    }
}

/// A dispatch, and what travels with its trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedDispatch {
    /// The dispatch, as it is without.
    pub dispatch: Dispatch,
    /// What other tracing systems said about the trace.
    pub state: TraceState,
    /// What whoever asked wants carried along.
    pub baggage: Baggage,
}

impl TracedDispatch {
    /// What the work belongs to.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        let (state, baggage) = (self.state.clone(), self.baggage.clone());
        TraceContext { state, baggage, ..self.dispatch.trace.into() }
    }

    /// Whether anything travels with it.
    #[must_use]
    pub const fn carries(&self) -> bool {
        !self.state.is_empty() || !self.baggage.is_empty()
    }
}

impl From<Dispatch> for TracedDispatch {
    fn from(dispatch: Dispatch) -> Self {
        Self { dispatch, state: TraceState::default(), baggage: Baggage::default() }
    }
}

/// End an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which.
    pub key: AttemptKey,
    /// The time between TERM and KILL, in milliseconds.
    pub grace_ms: u64,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// How far the agent's journal has got.
    pub position: Position,
    /// How the host does.
    pub resources: Resources,
}

/// Figures of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Load average of the last minute.
    pub load_1m: f32,
    /// Memory that is free for use, in bytes.
    pub memory_available_bytes: u64,
    /// Memory in all, in bytes.
    pub memory_total_bytes: u64,
    /// Free space where the host root is, in bytes.
    pub disk_available_bytes: u64,
    /// Tasks running now.
    pub tasks_running: u32,
}

/// The attempt is durable on the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Which.
    pub key: AttemptKey,
    /// The agent's journal position that holds it.
    pub position: Position,
}

/// The attempt has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Which.
    pub key: AttemptKey,
    /// When, by the agent's clock.
    pub started_at: Timestamp,
}

/// The attempt has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Which.
    pub key: AttemptKey,
    /// The agent's journal position that holds the result.
    pub position: Position,
    /// When it started, by the agent's clock; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended, by the agent's clock.
    pub finished_at: Timestamp,
    /// How it ended.
    pub outcome: TaskOutcome,
}

/// How an attempt ended on the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskOutcome {
    /// It did what it was asked to do.
    Succeeded,
    /// It ran and did not succeed.
    Failed {
        /// For a person: what happened and what to do.
        reason: String,
        /// The exit code of a command, if there was one.
        exit_code: Option<i32>,
    },
    /// It took longer than it may; its whole process tree is gone.
    TimedOut,
    /// It was told to end and its whole process tree is gone.
    Cancelled,
    /// The agent restarted in the middle of it; its whole process tree is confirmed gone. Or before it began: see [`capability::UNBEGUN`].
    Interrupted,
    /// The agent cannot tell what became of it.
    Unknown {
        /// For a person: why it cannot tell.
        reason: String,
    },
    /// The agent will not run it (policy, stale generation, no room). Nothing was changed.
    Refused {
        /// For a person: why.
        reason: String,
    },
}

/// A request for a new certificate on the live session. Names in it are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// A PKCS #10 request in DER, signed by the new key.
    pub csr_der: Vec<u8>,
}

/// A new certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The leaf and its intermediates, DER, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The roots to trust from now on, DER.
    pub roots_der: Vec<Vec<u8>>,
}

/// The roots to trust, when they change without a new certificate, and whether a new certificate is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The roots to trust from now on, instead of those before, DER. At least one.
    pub roots_der: Vec<Vec<u8>>,
    /// Whether the agent is to renew its certificate now: the one that it shows is of a root that will be dropped.
    pub renew: bool,
}

/// The answer to a [`Trust`], once it is on the agent's disk; and again after a renewal that one of them asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusts {
    /// SHA-256 of each root's DER.
    pub roots: Vec<Digest>,
    /// SHA-256 of the DER of the certificate that the agent shows from the next session on.
    pub certificate: Digest,
}

/// A question about what a host holds. It changes nothing there, and needs no room in the agent's journal: who asks in vain asks again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspect {
    /// Comes back in the answer.
    pub question: QuestionId,
    /// The folder under the host root that is asked about; `None` is the host root itself.
    pub slot: Option<String>,
    /// What should be there. At least one, at most [`crate::limits::HOLDINGS_MAX`].
    pub wanted: Vec<Wanted>,
    /// How long looking may take, in milliseconds, from when the question came.
    pub timeout_ms: u64,
}

/// An unpacked artifact that should be on a host, named as in [`crate::spec::ArtifactSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The component's name: a directory under the host root.
    pub component: String,
    /// The release's version.
    pub version: String,
    /// What the archive hashes to.
    pub digest: Digest,
}

/// The answer to a [`ToAgent::WhereFigures`]: where scrapers on other hosts reach `/metrics`, over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiguresAt {
    /// A name or an address without brackets; `None` is the address that the agent's connection comes from.
    pub host: Option<String>,
    /// The TCP port. Never 0.
    pub port: u16,
}

/// The answer to an [`Inspect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Which question.
    pub question: QuestionId,
    /// One for each that was wanted, in that order.
    pub holdings: Vec<Holding>,
}

/// What a host holds of one artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// It is there, and every file is as it was unpacked: each was read and hashed.
    Present {
        /// How many files were compared.
        files: u32,
        /// How many bytes they have.
        bytes: u64,
    },
    /// It is not there.
    Absent,
    /// It is there, and something of it is missing or not as it was unpacked.
    Damaged {
        /// For a person: what.
        reason: String,
    },
    /// It is there, and the agent cannot say whether all of it is as it was unpacked.
    Unverified {
        /// For a person: why not.
        reason: String,
    },
}

/// The head of a unidirectional stream of task output, from the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputHeader {
    /// Whose output.
    pub key: AttemptKey,
    /// How many bytes of output (payload, not frames) come before this stream's first chunk.
    pub offset: u64,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputChunk {
    /// Where it was written.
    pub source: OutputSource,
    /// When the agent read it, by its clock.
    pub at: Timestamp,
    /// The bytes, at most [`crate::limits::OUTPUT_CHUNK_BYTES_MAX`].
    #[serde(with = "crate::blob")]
    pub bytes: Vec<u8>,
}

/// Where output was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The agent's own words about the task (progress, truncation).
    Agent,
}

/// The head of a bidirectional stream that the agent opens to fetch an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRequest {
    /// Which.
    pub digest: Digest,
    /// From which byte on, to resume.
    pub offset: u64,
}

/// The control plane's answer, before the raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArtifactResponse {
    /// The bytes follow, from the offset to the end.
    Found {
        /// The whole size in bytes.
        size_bytes: u64,
    },
    /// No release of this agent's tenant has it.
    NotFound,
}
