//! What may be asked of the core.

mod new;
mod outcome;
mod report;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, AgentId, ApiTokenId, DeploymentId, EnrolmentTokenId, EnvironmentId, HookId, PromotionId,
    QuestionId, ReleaseId, RunId, SessionEpoch, TargetId, TaskId, TenantId,
};
use stella_protocol::message::{Effect, Hello, Holding, Profile};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use stella_signing::{PublicKey, Signature};

use crate::access::{AccountKind, Grant};
use crate::agent::FiguresAddress;
use crate::amount::Amount;
use crate::archive::Ended;
use crate::authority::{AgentTrust, AuthorityRecord};
use crate::channel::ChannelRule;
use crate::environment::{PromotionPath, SilenceRule, Verification};
use crate::freeze::Freeze;
use crate::gate::{self, Gate};
use crate::hold::Verdict;
use crate::listening::Listening;
use crate::name::{Identifier, Name};
use crate::promotion::{ApprovalRule, ApprovalSignature, Objection};
use crate::run::CallOutcome;
use crate::signature::SignatureRule;
use crate::strategy::Strategy;
use crate::way_back::ProofRule;
use crate::workflow::Template;

pub use new::{
    Answer, NewDeployment, NewEnrolmentToken, NewFindings, NewHook, NewRelease, NewRun, NewTarget,
    TargetChange,
};
pub use outcome::Outcome;
pub use report::Report;

/// A command and what comes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Who asks.
    pub actor: Actor,
    /// The trace and span that caused it; goes into every event.
    pub trace: TraceContext,
    /// Makes the request safe to repeat.
    pub idempotency: Option<Idempotency>,
    /// What is asked.
    pub command: Command,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Actor {
    /// The control plane itself: timers, first start.
    System,
    /// The bearer of an API token.
    ApiToken {
        /// Which token.
        id: ApiTokenId,
        /// Whose it is; `None` if it belongs to no account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<ActingAccount>,
    },
    /// An agent on its session.
    Agent {
        /// Which agent.
        id: AgentId,
    },
    /// An incoming webhook, by a message that its sender has signed.
    Hook {
        /// Which hook.
        id: HookId,
        /// What it is called.
        name: Name,
        /// Whose authority it has.
        account: ActingAccount,
    },
}

impl Actor {
    /// Whose it is, if it is somebody's.
    #[must_use]
    pub const fn account(&self) -> Option<&ActingAccount> {
        match self {
            Self::ApiToken { account, .. } => account.as_ref(),
            Self::Hook { account, .. } => Some(account),
            Self::System | Self::Agent { .. } => None,
        }
    }

    /// Whether this is the same as another one: the same account, or the same token if it belongs to none. The control plane and agents
    /// are nobody.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        if let (Some(one), Some(other)) = (self.account(), other.account()) {
            return one.id == other.id;
        }
        match (self, other) {
            (Self::ApiToken { id: one, account: None }, Self::ApiToken { id: other, account: None }) => {
                one == other
            }
            _ => false,
        }
    }
}

/// An account that asks, as it is recorded: the name says who it was when the account is gone, and the id that a later one of
/// the same name is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActingAccount {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: Name,
}

/// The key of an idempotent request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// What the caller chose; the API prefixes it with the token's id. At most
    /// [`IDEMPOTENCY_KEY_BYTES_MAX`](crate::decide::IDEMPOTENCY_KEY_BYTES_MAX) bytes together.
    pub key: String,
    /// The digest of method, path and body: the same key with another one is refused.
    pub digest: Digest,
}

/// What is asked. Ids of new things come with the command; the core has no randomness.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Time has passed: fire what is due in every tenant, but for what waits for agents to come back.
    Tick(Listening),
    /// Something that belongs to no tenant.
    System(SystemCommand),
    /// Something of one tenant.
    Tenant(TenantId, TenantCommand),
}

/// Commands that belong to no tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum SystemCommand {
    /// A new tenant.
    CreateTenant {
        /// Its id.
        id: TenantId,
        /// Its name.
        name: Name,
    },
    /// A new bearer token for the API.
    CreateApiToken {
        /// Its id.
        id: ApiTokenId,
        /// What it is for.
        name: String,
        /// SHA-256 of the token.
        hash: Digest,
        /// Whose it is; `None` may do everything.
        account: Option<AccountId>,
        /// From when on it lets nobody in; `None` is never.
        expires_at: Option<Timestamp>,
    },
    /// Let nobody in with a token any more.
    RevokeApiToken {
        /// Which.
        id: ApiTokenId,
    },
    /// Somebody new uses the API.
    CreateAccount {
        /// Its id.
        id: AccountId,
        /// Its name.
        name: Name,
        /// What it is.
        kind: AccountKind,
        /// What it may do.
        roles: Vec<Grant>,
    },
    /// What an account may do from now on, instead of what it may do now.
    SetAccountRoles {
        /// Which.
        account: AccountId,
        /// What.
        roles: Vec<Grant>,
    },
    /// Somebody does not use the API any more. Its tokens are revoked.
    RemoveAccount {
        /// Which.
        account: AccountId,
    },
    /// Somebody changes how much the control plane logs, until it is started again. Only that it was done is recorded.
    SetLogLevel {
        /// A level or a filter, at most [`LOG_LEVEL_MAX`] characters. Whether it is one is the caller's part.
        level: String,
    },
    /// Something was done to the certificate authority, whose files are as this says. Saying it again changes nothing.
    RecordAuthority(AuthorityRecord),
}

/// How long a log level or filter may be, in characters.
pub const LOG_LEVEL_MAX: usize = 512;

/// Commands of one tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum TenantCommand {
    /// A new environment.
    CreateEnvironment {
        /// Its id.
        id: EnvironmentId,
        /// Its name.
        name: Name,
        /// Its place; `None` is after all others.
        order: Option<u32>,
        /// What it wants of the proof that a deployment could go back.
        way_back_proof: ProofRule,
    },
    /// An environment is to be called otherwise, or to have another place.
    UpdateEnvironment {
        /// Which.
        id: EnvironmentId,
        /// Its new name; `None` keeps the one that it has.
        name: Option<Name>,
        /// Its new place; `None` keeps the one that it has.
        order: Option<u32>,
    },
    /// An environment that is not used any more. Refused while anything is in it or leads to it.
    RemoveEnvironment {
        /// Which.
        id: EnvironmentId,
    },
    /// A new target.
    CreateTarget(Box<NewTarget>),
    /// A target is to be otherwise.
    UpdateTarget(Box<TargetChange>),
    /// A target that is not used any more. Refused while a deployment works on it.
    RemoveTarget {
        /// Which.
        id: TargetId,
    },
    /// A new enrolment token.
    CreateEnrolmentToken(Box<NewEnrolmentToken>),
    /// A host enrols. The caller has compared the secret's hash in constant time with the one in the state.
    Enrol {
        /// The token.
        token: EnrolmentTokenId,
        /// The digest of the host's public key.
        key_fingerprint: Digest,
        /// The id of the agent, if it is a new one.
        agent: AgentId,
        /// How the host calls itself.
        hostname: String,
        /// Whether it can be told the token's profile.
        takes_profile: bool,
        /// What the token has to be for, if the host says.
        wanted: Option<Profile>,
    },
    /// Believe an identity no more.
    RevokeAgent {
        /// Which.
        agent: AgentId,
        /// Why.
        reason: String,
    },
    /// Take a host out of rotation: what is under way there ends, and nothing new begins.
    DrainAgent {
        /// Which.
        agent: AgentId,
        /// Why.
        reason: String,
    },
    /// Let work come to a host again.
    UndrainAgent {
        /// Which.
        agent: AgentId,
    },
    /// An agent said hello on a new, authenticated connection.
    ConnectAgent {
        /// Which.
        agent: AgentId,
        /// What it said.
        hello: Box<Hello>,
        /// Whether the control plane's journal was found to be older than what this agent has seen of it.
        journal_rolled_back: bool,
    },
    /// An agent's session ended.
    DisconnectAgent {
        /// Which.
        agent: AgentId,
        /// Which session.
        session: SessionEpoch,
        /// Why, for a person.
        reason: String,
    },
    /// An agent's word about an attempt.
    Report {
        /// Which agent.
        agent: AgentId,
        /// In which session.
        session: SessionEpoch,
        /// What it says.
        report: Report,
    },
    /// An archive is stored and verified.
    StoreArtifact {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size_bytes: u64,
        /// How much the archives of the tenant may be in all, in bytes; `None` is as much as there is room for.
        tenant_bytes_max: Option<u64>,
    },
    /// Give up archives. What is needed by now, or is gone already, is left out.
    RemoveArtifacts {
        /// Which, at most [`crate::artifact::BATCH_MAX`].
        digests: Vec<Digest>,
        /// By which rule they may go.
        rule: crate::artifact::Rule,
    },
    /// A new release.
    CreateRelease(Box<NewRelease>),
    /// Let a key sign releases.
    AddReleaseKey {
        /// Its name.
        name: Name,
        /// Its public half.
        public_key: PublicKey,
    },
    /// Let nothing count any more that a key has signed.
    RevokeReleaseKey {
        /// Which.
        key: Digest,
        /// Why.
        reason: String,
    },
    /// Add a signature to a release.
    SignRelease {
        /// Which.
        release: ReleaseId,
        /// By which key.
        key: Digest,
        /// The signature.
        signature: Signature,
    },
    /// Set which releases of an application belong to a channel from now on.
    SetChannel {
        /// Of what.
        application: Name,
        /// Its name.
        name: Name,
        /// What belongs to it.
        rule: ChannelRule,
    },
    /// No release comes to a channel any more.
    RemoveChannel {
        /// Of what.
        application: Name,
        /// Its name.
        name: Name,
    },
    /// Set from which channels releases may come to an environment.
    SetEnvironmentChannels {
        /// Which.
        environment: EnvironmentId,
        /// Their names; none is from all.
        channels: Vec<Name>,
    },
    /// Set which signatures every release must have.
    SetReleaseSigning {
        /// Which; `None` is none.
        rule: Option<SignatureRule>,
    },
    /// A new deployment: a promotion, that starts at once if the environment needs no approvals.
    Deploy(Box<NewDeployment>),
    /// Take a deployment back by hand: every target that it touched goes to what was there before.
    Rollback {
        /// The id of the new deployment.
        id: DeploymentId,
        /// What to take back.
        of: DeploymentId,
        /// Only on these of the targets that it touched; `None` is all of them.
        targets: Option<Vec<TargetId>>,
    },
    /// End a deployment.
    CancelDeployment {
        /// Which.
        deployment: DeploymentId,
        /// Why.
        reason: String,
    },
    /// A person says what became of a task that is `unknown`.
    SettleTask {
        /// Which.
        task: TaskId,
        /// Whether it did what it was asked to do.
        succeeded: bool,
        /// How the person knows.
        reason: String,
    },
    /// Let nothing new come to an environment. Rollbacks may.
    LockEnvironment {
        /// Which.
        environment: EnvironmentId,
        /// Why.
        reason: String,
    },
    /// Let deployments come again.
    UnlockEnvironment {
        /// Which.
        environment: EnvironmentId,
    },
    /// Set what a release must have been through before it may come to an environment.
    SetEnvironmentPath {
        /// Which.
        environment: EnvironmentId,
        /// What; `None` is nothing.
        requires: Option<PromotionPath>,
    },
    /// Say what to think of a release.
    JudgeRelease {
        /// Which.
        release: ReleaseId,
        /// What.
        verdict: Verdict,
        /// Why.
        reason: String,
    },
    /// Start no further target of a deployment.
    PauseDeployment {
        /// Which.
        deployment: DeploymentId,
        /// Why.
        reason: String,
    },
    /// Let a paused deployment go on.
    ResumeDeployment {
        /// Which.
        deployment: DeploymentId,
    },
    /// Deploy again to the targets that an ended deployment did not bring its release to.
    RetryDeployment {
        /// The id of the new deployment.
        id: DeploymentId,
        /// Which one ended.
        of: DeploymentId,
        /// Only these of its targets; `None` is all that lack the release.
        targets: Option<Vec<TargetId>>,
    },
    /// End the colours that an ended deployment has left idle.
    RetireColours {
        /// The id of the deployment that does it.
        id: DeploymentId,
        /// Which one has left them.
        of: DeploymentId,
    },
    /// Set how many targets of an environment may be at risk at once.
    SetEnvironmentBudget {
        /// Which.
        environment: EnvironmentId,
        /// How many; `None` is all of them.
        budget: Option<Amount>,
    },
    /// Set whether deployments to an environment must be able to go back on every target.
    SetEnvironmentWayBack {
        /// Which.
        environment: EnvironmentId,
        /// Whether.
        required: bool,
    },
    /// Set how targets of an environment follow one another in deployments that do not say.
    SetEnvironmentStrategy {
        /// Which.
        environment: EnvironmentId,
        /// How; `None` leaves it to whoever asks.
        strategy: Option<Strategy>,
    },
    /// Set what an environment wants of the proof that a deployment could go back.
    SetEnvironmentWayBackProof {
        /// Which.
        environment: EnvironmentId,
        /// What.
        rule: ProofRule,
    },
    /// Ask the hosts of a deployment that has not begun once more whether it could go back.
    ProveWayBack {
        /// Which.
        deployment: DeploymentId,
    },
    /// Let a deployment begin although it is not proven that it could go back everywhere.
    WaiveWayBack {
        /// Which.
        deployment: DeploymentId,
        /// Why.
        reason: String,
    },
    /// Sets what comes after the last wave of deployments to an environment, before they have succeeded. Those that are under way or
    /// wait were asked for by the rule of before.
    SetEnvironmentVerification {
        /// Where.
        environment: EnvironmentId,
        /// What; `None` is nothing.
        verification: Option<Verification>,
    },
    /// Set when silence of an environment's agents is taken for a network event.
    SetEnvironmentSilence {
        /// Which.
        environment: EnvironmentId,
        /// When; `None` is never.
        rule: Option<SilenceRule>,
    },
    /// Try a failed target of a running deployment again, from its first step.
    RetryTarget {
        /// Which deployment.
        deployment: DeploymentId,
        /// Which of its targets.
        target: TargetId,
    },
    /// Leave a target of a running deployment alone: it waits, has failed, or waits for an agent that is away.
    SkipTarget {
        /// Which deployment.
        deployment: DeploymentId,
        /// Which of its targets.
        target: TargetId,
        /// Why.
        reason: String,
    },
    /// Give a running deployment up: what is under way comes to its end, and then it has failed.
    FailDeployment {
        /// Which.
        deployment: DeploymentId,
        /// Whether what it touched is taken back then.
        roll_back: bool,
        /// Why.
        reason: String,
    },
    /// Set whose approval a promotion to an environment needs.
    SetEnvironmentApprovals {
        /// Which.
        environment: EnvironmentId,
        /// Whose; `None` is nobody's.
        rule: Option<ApprovalRule>,
    },
    /// Let nothing new come to an environment at certain times; one of the same name is replaced.
    FreezeEnvironment {
        /// Which.
        environment: EnvironmentId,
        /// When, and why.
        freeze: Box<Freeze>,
    },
    /// Take such a time back.
    UnfreezeEnvironment {
        /// Which environment.
        environment: EnvironmentId,
        /// The freeze's name.
        freeze: Name,
    },
    /// Let a promotion through. With the last approval that it needs it starts, or as soon as it can.
    ApprovePromotion {
        /// Which.
        promotion: PromotionId,
        /// The root hash of the plan that is approved.
        plan: Digest,
        /// Why, for a person.
        reason: String,
        /// A signature over that, if one was given.
        signature: Option<ApprovalSignature>,
    },
    /// Do not let a promotion through.
    RejectPromotion {
        /// Which.
        promotion: PromotionId,
        /// What is the matter.
        objection: Objection,
        /// Why, for a person.
        reason: String,
    },
    /// A workflow, or a newer version of it. One that says the same as the newest is none.
    ApplyWorkflow(Box<Template>),
    /// Let nobody start a workflow any more. What runs goes on.
    RemoveWorkflow {
        /// Which.
        name: Name,
        /// Why.
        reason: String,
    },
    /// Run a workflow.
    StartRun(Box<NewRun>),
    /// An incoming webhook.
    CreateHook(Box<NewHook>),
    /// Give the sender of a hook another secret.
    RotateHook {
        /// Which.
        hook: HookId,
        /// What the secret follows from.
        salt: Digest,
        /// For how long the one before it is still good, in milliseconds.
        overlap_ms: u64,
    },
    /// Let nobody start anything by a hook any more.
    RemoveHook {
        /// Which.
        hook: HookId,
    },
    /// End a run, with what is under way in it.
    CancelRun {
        /// Which.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// Try a step again that failed and is held, or that will be tried again anyway.
    RetryStep {
        /// Of which run.
        run: RunId,
        /// Which.
        step: Identifier,
    },
    /// Give a step what it asks for.
    AnswerStep {
        /// Of which run.
        run: RunId,
        /// Which.
        step: Identifier,
        /// What.
        answers: BTreeMap<Identifier, Value>,
    },
    /// Agree, or do not, to what a step asks for agreement to.
    DecideStep {
        /// Of which run.
        run: RunId,
        /// Which.
        step: Identifier,
        /// Whether so.
        approve: bool,
        /// Why, for a person.
        reason: String,
    },
    /// The answer to a call of a step, from whoever makes such calls.
    AnswerCall {
        /// Of which run.
        run: RunId,
        /// Which.
        step: Identifier,
        /// To which of its attempts.
        attempt: u32,
        /// What became of it.
        outcome: CallOutcome,
    },
    /// What a gate has answered that a step has asked, from whoever asks such things.
    AnswerStepGate {
        /// Of which run.
        run: RunId,
        /// Which.
        step: Identifier,
        /// To which of its attempts.
        attempt: u32,
        /// Whether it lets through.
        outcome: gate::Outcome,
        /// Why, for a person.
        reason: String,
        /// The digest of what was looked at; `None` if nobody can say.
        inputs: Option<Digest>,
    },
    /// Ask for a promotion no more.
    WithdrawPromotion {
        /// Which.
        promotion: PromotionId,
        /// Why.
        reason: String,
    },
    /// Set what must be so for something to come to an environment; a gate of the same name is replaced.
    SetGate {
        /// Which environment.
        environment: EnvironmentId,
        /// What.
        gate: Box<Gate>,
    },
    /// Take a gate away.
    RemoveGate {
        /// Which environment.
        environment: EnvironmentId,
        /// The gate's name.
        gate: Name,
    },
    /// What was asked outside has been answered.
    AnswerGate(Box<Answer>),
    /// Say whether a manual gate lets a promotion through.
    DecideGate {
        /// Which promotion.
        promotion: PromotionId,
        /// The gate's name.
        gate: Name,
        /// Whether it does.
        passed: bool,
        /// Why, for a person.
        reason: String,
    },
    /// Let a promotion through a gate whatever that says.
    OverrideGate {
        /// Which promotion.
        promotion: PromotionId,
        /// The gate's name.
        gate: Name,
        /// Why, for a person.
        reason: String,
    },
    /// A scanner has looked at a release; its report takes the place of the one before.
    RecordFindings(Box<NewFindings>),
    /// Forget what has ended and was written to the archive. What is needed by now, or is gone already, is left out.
    Archive(Box<Ended>),
    /// An agent says what its host holds.
    AnswerInspection {
        /// Which agent.
        agent: AgentId,
        /// In which session.
        session: SessionEpoch,
        /// Which question it answers.
        question: QuestionId,
        /// What, in the order of the question.
        holdings: Vec<Holding>,
    },
    /// An agent says what is left of an attempt whose outcome nobody knows, and of its effect.
    AnswerProbe {
        /// Which agent.
        agent: AgentId,
        /// In which session.
        session: SessionEpoch,
        /// Which question it answers.
        question: QuestionId,
        /// What it found.
        effect: Effect,
    },
    /// An agent tells whom it trusts from now on, and which of the authority's roots its certificate is of.
    RecordAgentTrust {
        /// Which agent.
        agent: AgentId,
        /// In which session.
        session: SessionEpoch,
        /// Whom.
        trust: AgentTrust,
    },
    /// Let no host in any more with a token. Those that it let in stay.
    RevokeEnrolmentToken {
        /// Which.
        id: EnrolmentTokenId,
        /// Why.
        reason: String,
    },
    /// An agent tells where its own figures are.
    RecordAgentFigures {
        /// Which agent.
        agent: AgentId,
        /// In which session.
        session: SessionEpoch,
        /// Where.
        at: FiguresAddress,
    },
}
