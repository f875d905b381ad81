//! What happened. Events are facts: they are in the journal for ever, so names and fields here are append-only
//! (a new field needs a serde default). They are stored as JSON, so that an exported journal can be read without us.

mod name;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, AgentId, ApiTokenId, AttemptKey, DeploymentId, EnrolmentTokenId, EnvironmentId, Generation,
    HookId, Position, PromotionId, ReleaseId, RunId, SessionEpoch, TargetId, TaskId, TenantId,
};
use stella_protocol::message::{JournalMark, Profile, TaskOutcome};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use stella_signing::{PublicKey, Signature};

use crate::access::{AccountKind, Grant};
use crate::agent::FiguresAddress;
use crate::amount::Amount;
use crate::authority::{AgentTrust, AuthorityChange, AuthorityRecord};
use crate::channel::ChannelRule;
use crate::colour::{Leg, Stage};
use crate::command::{Actor, NewDeployment, Outcome};
use crate::deployment::{Cause, OnFailure, RollbackReason, Strategy};
use crate::environment::{PromotionPath, SilenceRule, Verification};
use crate::findings::Finding;
use crate::freeze::Freeze;
use crate::gate::{self, Gate};
use crate::hold::PauseCause;
use crate::hook::HookAction;
use crate::left::LeftOut;
use crate::name::{Identifier, Name, Version};
use crate::plan::Plan;
use crate::probe::ProbeAnswer;
use crate::promotion::{ApprovalRule, ApprovalSignature, Objection};
use crate::provenance::Provenance;
use crate::release::{Component, Step};
use crate::run::{StepEnd, Turn, Work};
use crate::signature::SignatureRule;
use crate::task::EndingStage;
use crate::way_back::{ProofAnswer, ProofRule};
use crate::workflow::Template;

/// Which stream an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamId {
    /// What belongs to no tenant.
    System,
    /// What belongs to one.
    Tenant(TenantId),
}

/// A fact, and when, by whom and in which trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When. Never earlier than the event before it in the journal.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
    /// In which trace.
    pub trace: TraceContext,
    /// What.
    pub fact: Fact,
}

impl Event {
    /// Something that has just been decided. Baggage may be large, so only what begins work that it travels with keeps it.
    pub(crate) fn new(at: Timestamp, actor: &Actor, trace: &TraceContext, fact: Fact) -> Self {
        let trace = if fact.begins_work() { trace.clone() } else { trace.without_baggage() };
        Self { at, actor: actor.clone(), trace, fact }
    }
}

impl Fact {
    /// Whether tasks or calls may follow in the trace of this one. What a promotion led to follows in the promotion's.
    const fn begins_work(&self) -> bool {
        matches!(
            self,
            Self::PromotionRequested { .. }
                | Self::RunStarted { .. }
                | Self::DeploymentCreated { cause: Cause::Rollback { .. } | Cause::Retirement { .. }, .. }
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[expect(missing_docs, reason = "the fields are those of the commands and of the concept that they change")]
pub enum Fact {
    // System stream.
    TenantCreated {
        id: TenantId,
        name: Name,
    },
    ApiTokenCreated {
        id: ApiTokenId,
        name: String,
        hash: Digest,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<AccountId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    // Either stream.
    RequestAnswered {
        key: String,
        digest: Digest,
        outcome: Outcome,
        forgotten_at: Timestamp,
    },
    RequestForgotten {
        key: String,
    },
    // Tenant streams. The first event of each is its opening.
    TenantOpened {
        id: TenantId,
        name: Name,
    },
    EnvironmentCreated {
        id: EnvironmentId,
        name: Name,
        order: u32,
        /// What it wants of the proof of the way back; nothing in journals of before there was one.
        #[serde(default, skip_serializing_if = "ProofRule::is_default")]
        way_back_proof: ProofRule,
    },
    /// What is another for an environment now.
    EnvironmentUpdated {
        id: EnvironmentId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Name>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<u32>,
    },
    EnvironmentRemoved {
        id: EnvironmentId,
    },
    TargetCreated {
        id: TargetId,
        environment: EnvironmentId,
        name: Name,
        kind: Name,
        agent: AgentId,
        slot: Option<Name>,
        labels: BTreeMap<String, String>,
        variables: BTreeMap<String, String>,
    },
    TargetRemoved {
        id: TargetId,
    },
    EnrolmentTokenCreated {
        id: EnrolmentTokenId,
        secret_hash: Digest,
        agent_name: Option<Name>,
        labels: BTreeMap<String, String>,
        uses_max: u32,
        expires_at: Timestamp,
        /// None in journals of before tokens had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<Profile>,
    },
    AgentEnrolled {
        agent: AgentId,
        name: Name,
        token: EnrolmentTokenId,
        key_fingerprint: Digest,
        hostname: String,
        /// Whether the host could not be told its token's profile: it is held to none then, as agents of before tokens had one are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        profile_untold: bool,
    },
    AgentConnected {
        agent: AgentId,
        session: SessionEpoch,
        journal: JournalMark,
        version: String,
        /// Bits of what it can do; none in journals of before this was recorded.
        #[serde(default, skip_serializing_if = "is_zero")]
        capabilities: u64,
    },
    AgentDisconnected {
        agent: AgentId,
        session: SessionEpoch,
        reason: String,
    },
    AgentOffline {
        agent: AgentId,
    },
    AgentRevoked {
        agent: AgentId,
        reason: String,
    },
    /// Nothing new begins on its host; once more with another reason.
    AgentDraining {
        agent: AgentId,
        reason: String,
    },
    AgentUndrained {
        agent: AgentId,
    },
    ArtifactStored {
        digest: Digest,
        size_bytes: u64,
    },
    /// It was old and nothing needed it. It may be stored again.
    ArtifactRemoved {
        digest: Digest,
    },
    ReleaseCreated {
        id: ReleaseId,
        application: Name,
        version: Version,
        components: Vec<Component>,
        steps: Vec<Step>,
        labels: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provenance: Option<Box<Provenance>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        channels: Vec<Name>,
    },
    DeploymentCreated {
        id: DeploymentId,
        environment: EnvironmentId,
        release: ReleaseId,
        strategy: Strategy,
        on_failure: OnFailure,
        cause: Cause,
        targets: Vec<PlannedTarget>,
        deadline: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tolerate_failures: Option<Amount>,
        /// What comes after the last wave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verification: Option<Verification>,
        /// If it takes another one back: which of the targets of that are left as they are, and why. None in journals of before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<LeftOut>,
    },
    DeploymentHalted {
        id: DeploymentId,
        reason: String,
        /// What is to be done about it, if somebody has decided.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_failure: Option<OnFailure>,
        /// What for.
        #[serde(default, skip_serializing_if = "RollbackReason::is_default")]
        cause: RollbackReason,
    },
    DeploymentCancelRequested {
        id: DeploymentId,
        reason: String,
    },
    /// What comes next in it comes in a decision of its own, which is due then; nothing is put off any more if that is not said.
    DeploymentPutOff {
        id: DeploymentId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    DeploymentOverdue {
        id: DeploymentId,
        reason: String,
    },
    DeploymentSucceeded {
        id: DeploymentId,
        /// Whether it has proven its release in its environment, if somebody asked for it. In journals of before that is not said: it has if
        /// all targets of the environment have the release.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proves: Option<bool>,
    },
    DeploymentFailed {
        id: DeploymentId,
        reason: String,
        /// Whether nothing was done on any target: what had proven its release there still counts. False in journals of before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keeps_proof: bool,
    },
    DeploymentCancelled {
        id: DeploymentId,
        reason: String,
    },
    TargetStarted {
        deployment: DeploymentId,
        target: TargetId,
        generation: Generation,
    },
    TargetSucceeded {
        deployment: DeploymentId,
        target: TargetId,
    },
    TargetFailed {
        deployment: DeploymentId,
        target: TargetId,
        task: TaskId,
        reason: String,
    },
    TargetSkipped {
        deployment: DeploymentId,
        target: TargetId,
        /// Why somebody wants it left alone; `None` if its turn never came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Whether its turn had come, and nothing was sent there: what was the last to come there before is the last again. In journals of
        /// before that is so without a reason alone, and not said.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        never_came: bool,
    },
    TargetAbandoned {
        deployment: DeploymentId,
        target: TargetId,
    },
    TaskQueued {
        task: TaskId,
        deployment: DeploymentId,
        target: TargetId,
        step: u16,
    },
    TaskDispatched {
        key: AttemptKey,
        session: SessionEpoch,
    },
    TaskAccepted {
        key: AttemptKey,
        position: Position,
    },
    TaskStarted {
        key: AttemptKey,
        started_at: Timestamp,
    },
    TaskFinished {
        key: AttemptKey,
        position: Option<Position>,
        started_at: Option<Timestamp>,
        finished_at: Timestamp,
        outcome: TaskOutcome,
        /// Whether it was interrupted before it had begun. In journals of before nobody says so.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        never_began: bool,
    },
    /// Its agent was restarted before the attempt had begun, and will not begin it: the task waits for its agent again, as the next attempt.
    TaskHandedBack {
        key: AttemptKey,
        position: Position,
    },
    TaskBecameUnknown {
        key: AttemptKey,
        reason: String,
    },
    /// How far the end of a cancelled task has got, as its agent says.
    TaskEnding {
        key: AttemptKey,
        stage: EndingStage,
    },
    TaskCancelRequested {
        key: AttemptKey,
    },
    /// The agent of a task of which nobody knows what has become is asked what is left of it; the answer is waited for until then.
    TaskProbeAsked {
        key: AttemptKey,
        number: u32,
        until: Timestamp,
    },
    /// The agent has said what it found, or has not in time. If that settles the task, its end follows.
    TaskProbed {
        key: AttemptKey,
        answer: ProbeAnswer,
    },
    ReportIgnored {
        agent: AgentId,
        key: AttemptKey,
        reason: String,
    },
    EnvironmentLocked {
        id: EnvironmentId,
        reason: String,
    },
    EnvironmentUnlocked {
        id: EnvironmentId,
    },
    ReleaseDeprecated {
        id: ReleaseId,
        reason: String,
    },
    ReleaseBlocked {
        id: ReleaseId,
        reason: String,
    },
    ReleaseCleared {
        id: ReleaseId,
        reason: String,
    },
    DeploymentPaused {
        id: DeploymentId,
        reason: String,
        /// When it ends by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// The canary step, from 1, that is complete with it; `None` if a person pauses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        canary_step: Option<u32>,
        /// What it is for.
        #[serde(default, skip_serializing_if = "PauseCause::is_default")]
        cause: PauseCause,
    },
    DeploymentResumed {
        id: DeploymentId,
    },
    EnvironmentPathSet {
        id: EnvironmentId,
        requires: Option<PromotionPath>,
    },
    // System stream.
    ApiTokenRevoked {
        id: ApiTokenId,
    },
    AccountCreated {
        id: AccountId,
        name: Name,
        kind: AccountKind,
        roles: Vec<Grant>,
    },
    AccountRolesSet {
        id: AccountId,
        roles: Vec<Grant>,
    },
    AccountRemoved {
        id: AccountId,
    },
    /// Until the control plane is started again.
    LogLevelSet {
        level: String,
    },
    // Tenant streams.
    EnvironmentApprovalsSet {
        id: EnvironmentId,
        rule: Option<ApprovalRule>,
    },
    PromotionRequested {
        id: PromotionId,
        wanted: Box<NewDeployment>,
        plan: Plan,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<ApprovalRule>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        /// Who else has chosen what it brings. See [`crate::promotion::Promotion::chosen_by`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        chosen_by: Vec<Actor>,
    },
    ApprovalGranted {
        id: PromotionId,
        plan: Digest,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<ApprovalSignature>,
    },
    /// An approval counts no more: its account may not approve there any more.
    ApprovalLapsed {
        id: PromotionId,
        account: AccountId,
        reason: String,
    },
    PromotionRejected {
        id: PromotionId,
        objection: Objection,
        reason: String,
    },
    PromotionWithdrawn {
        id: PromotionId,
        reason: String,
    },
    PromotionExpired {
        id: PromotionId,
    },
    /// Not enough have approved in time: those who may are asked again, and it waits for as long once more.
    PromotionAskedAgain {
        id: PromotionId,
        expires_at: Timestamp,
    },
    PromotionInvalidated {
        id: PromotionId,
        reason: String,
    },
    EnvironmentFreezeSet {
        id: EnvironmentId,
        freeze: Freeze,
    },
    EnvironmentFreezeRemoved {
        id: EnvironmentId,
        freeze: Name,
    },
    /// An approved promotion waits for the end of a freeze, or not any more.
    PromotionHeld {
        id: PromotionId,
        until: Option<Timestamp>,
    },
    EnvironmentGateSet {
        id: EnvironmentId,
        gate: Box<Gate>,
    },
    EnvironmentGateRemoved {
        id: EnvironmentId,
        gate: Name,
    },
    /// Something outside is to be asked.
    GateAsked {
        promotion: PromotionId,
        gate: Name,
        number: u32,
        policy: Digest,
    },
    GateEvaluated {
        promotion: PromotionId,
        gate: Name,
        /// The gate's type.
        kind: String,
        number: u32,
        policy: Digest,
        outcome: gate::Outcome,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inputs: Option<Digest>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again_at: Option<Timestamp>,
    },
    GateOverridden {
        promotion: PromotionId,
        gate: Name,
        policy: Digest,
        reason: String,
    },
    FindingsRecorded {
        release: ReleaseId,
        scanner: Name,
        digest: Digest,
        findings: Vec<Finding>,
    },
    WorkflowApplied {
        version: u32,
        template: Box<Template>,
    },
    WorkflowRemoved {
        name: Name,
        reason: String,
    },
    HookCreated {
        id: HookId,
        name: Name,
        account: AccountId,
        action: HookAction,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when: Option<String>,
        salt: Digest,
    },
    /// Its sender has another secret.
    HookRotated {
        id: HookId,
        salt: Digest,
        /// Until when the one before it is good; not at all if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        former_until: Option<Timestamp>,
        /// Whether those before that one stay good for as long as they were said to be. In journals of before they did not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keeps_others: bool,
    },
    HookRemoved {
        id: HookId,
    },
    RunStarted {
        id: RunId,
        workflow: Name,
        version: u32,
        inputs: BTreeMap<Identifier, Value>,
        /// The step that waits for its end, if it is part of another run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<(RunId, Identifier)>,
        /// Who could choose what it does beside whoever started it: those behind a hook.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        chosen_by: Vec<Actor>,
    },
    StepStarted {
        run: RunId,
        step: Identifier,
        work: Work,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    StepApproved {
        run: RunId,
        step: Identifier,
        reason: String,
    },
    /// Somebody has said no. What that means for the step follows.
    StepRejected {
        run: RunId,
        step: Identifier,
        reason: String,
    },
    /// The same, of a step.
    StepApprovalLapsed {
        run: RunId,
        step: Identifier,
        account: AccountId,
        reason: String,
    },
    /// What a gate says that a step looks at, or has asked. The end of the attempt follows, or the gate is asked again.
    StepGateEvaluated {
        run: RunId,
        step: Identifier,
        /// Of which attempt.
        attempt: u32,
        /// The gate of the environment; none if the template has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gate: Option<Name>,
        /// The gate's type.
        kind: String,
        policy: Digest,
        asked_at: Timestamp,
        outcome: gate::Outcome,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inputs: Option<Digest>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        /// When it is asked again: it may have said nothing but that agents cannot be heard.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again_at: Option<Timestamp>,
    },
    /// An attempt failed; another one follows.
    StepBackedOff {
        run: RunId,
        step: Identifier,
        until: Timestamp,
        reason: String,
    },
    /// Its time is up. What it has begun is being ended; the attempt has failed when that has.
    StepOverdue {
        run: RunId,
        step: Identifier,
        reason: String,
    },
    /// The last attempt failed; somebody may retry it by hand until then.
    StepHeld {
        run: RunId,
        step: Identifier,
        until: Timestamp,
        reason: String,
    },
    StepEnded {
        run: RunId,
        step: Identifier,
        end: StepEnd,
    },
    RunTurned {
        id: RunId,
        turn: Turn,
    },
    /// Every step of it is over. How it ended follows from where it had turned.
    RunEnded {
        id: RunId,
        /// What it hands on, if it has succeeded and its template declares anything.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        outputs: BTreeMap<String, Value>,
    },
    /// A failed target is worked on again, from its first step.
    TargetRetried {
        deployment: DeploymentId,
        target: TargetId,
        generation: Generation,
    },
    /// At most so many targets of an environment may be at risk at once.
    EnvironmentBudgetSet {
        id: EnvironmentId,
        budget: Option<Amount>,
    },
    /// What comes after the last wave of a deployment there.
    EnvironmentVerificationSet {
        id: EnvironmentId,
        verification: Option<Verification>,
    },
    EnvironmentSilenceSet {
        id: EnvironmentId,
        rule: Option<SilenceRule>,
    },
    /// More of an environment's agents have gone silent than its rule takes for coincidence.
    EnvironmentWentSilent {
        id: EnvironmentId,
        silent: u32,
        agents: u32,
        /// Whether the holds in which releases prove themselves there stand still until the agents are heard again. They did not in
        /// journals of before this was kept.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        holds_stand: bool,
    },
    EnvironmentHeardAgain {
        id: EnvironmentId,
    },
    EnvironmentWayBackSet {
        id: EnvironmentId,
        required: bool,
    },
    EnvironmentStrategySet {
        id: EnvironmentId,
        strategy: Option<Strategy>,
    },
    EnvironmentWayBackProofSet {
        id: EnvironmentId,
        rule: ProofRule,
    },
    /// Hosts are asked whether a deployment could go back on these targets: for the number-th time.
    WayBackAsked {
        deployment: DeploymentId,
        number: u32,
        targets: Vec<TargetId>,
        until: Timestamp,
    },
    WayBackAnswered {
        deployment: DeploymentId,
        target: TargetId,
        answer: ProofAnswer,
    },
    /// Answers that had not come by then count as none.
    WayBackUnanswered {
        deployment: DeploymentId,
    },
    /// A deployment may begin although it is not proven that it could go back everywhere.
    WayBackWaived {
        deployment: DeploymentId,
        reason: String,
    },
    /// An ended deployment left memory for the archive, with its tasks and its promotion.
    DeploymentArchived {
        id: DeploymentId,
    },
    /// A promotion that became no deployment left memory for the archive.
    PromotionArchived {
        id: PromotionId,
    },
    /// An ended run left memory for the archive.
    RunArchived {
        id: RunId,
    },
    /// A key may sign releases of the tenant.
    ReleaseKeyAdded {
        id: Digest,
        name: Name,
        public_key: PublicKey,
    },
    /// Nothing that it has signed counts any more.
    ReleaseKeyRevoked {
        id: Digest,
        reason: String,
    },
    ReleaseSigned {
        release: ReleaseId,
        key: Digest,
        signature: Signature,
    },
    /// A release has proven itself for long enough to come to an environment by itself.
    AutoPromotionDue {
        environment: EnvironmentId,
        release: ReleaseId,
        /// Which promotion was to bring it and is void, if it is to come once more because of that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<PromotionId>,
    },
    /// A release has not proven itself in an environment any more: somebody has taken back what has brought it there. In journals of before
    /// also because the last target that it was on was gone when that ended.
    ReleaseDisproven {
        environment: EnvironmentId,
        release: ReleaseId,
        /// What was taken back, or has ended.
        deployment: DeploymentId,
    },
    /// It was asked for, or not and why.
    AutoPromotionEnded {
        environment: EnvironmentId,
        release: ReleaseId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        promotion: Option<PromotionId>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Which releases of an application belong to a channel from now on.
    ChannelSet {
        application: Name,
        name: Name,
        rule: ChannelRule,
    },
    ChannelRemoved {
        application: Name,
        name: Name,
    },
    /// From which channels releases may come to an environment; none is from all.
    EnvironmentChannelsSet {
        id: EnvironmentId,
        channels: Vec<Name>,
    },
    /// Which signatures every release must have.
    ReleaseSigningSet {
        rule: Option<SignatureRule>,
    },
    // System stream.
    AuthorityChanged {
        change: AuthorityChange,
        record: AuthorityRecord,
    },
    // Tenant streams.
    /// An agent has heard of a change of the authority.
    AgentTrustChanged {
        agent: AgentId,
        trust: AgentTrust,
    },
    /// An agent's own figures are somewhere else, or nowhere that other hosts reach.
    AgentFiguresMoved {
        agent: AgentId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<FiguresAddress>,
    },
    /// A token lets no host in any more.
    EnrolmentTokenRevoked {
        id: EnrolmentTokenId,
        reason: String,
    },
    /// A token that ended some time ago is shown no more.
    EnrolmentTokenForgotten {
        id: EnrolmentTokenId,
    },
    /// A target is through a stage of a blue-green deployment, and waits for the others.
    TargetReady {
        deployment: DeploymentId,
        target: TargetId,
    },
    /// It goes on in the next stage.
    TargetWentOn {
        deployment: DeploymentId,
        target: TargetId,
    },
    DeploymentStageBegan {
        id: DeploymentId,
        stage: Stage,
    },
    /// The time is over for which the colours that it has left idle are kept.
    DeploymentKeepEnded {
        id: DeploymentId,
    },
    /// What has changed of a target, as it is now. With another agent nothing is known of what is there.
    TargetUpdated {
        id: TargetId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labels: Option<BTreeMap<String, String>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variables: Option<BTreeMap<String, String>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentId>,
    },
}

/// A fact that does not follow from the state that it was applied to. Live, the core has contradicted itself and the command
/// is refused; in replay, the journal is not one that this state was made from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fact} cannot follow: {subject} is {state}")]
pub struct IllegalTransition {
    /// What the fact is about.
    pub subject: String,
    /// What is the case there.
    pub state: String,
    /// The fact's name.
    pub fact: &'static str,
}

/// One target of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTarget {
    /// The target.
    pub target: TargetId,
    /// What to bring there.
    pub release: ReleaseId,
    /// What is there before.
    pub previous: Option<ReleaseId>,
    /// The value of the label that the strategy orders by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What is run there; empty is all steps of the release, which has no colours then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<Leg>,
}
