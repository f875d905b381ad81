//! A control plane of one tenant without anything around it: commands in, events kept, invariants checked.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

pub mod colours;
pub mod golden;
pub mod indexes;
pub mod invariants;
pub mod jobs;
pub mod plans;

use std::collections::BTreeMap;
use std::str::FromStr;

use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::amount::Amount;
use stella_domain::command::{
    ActingAccount, Actor, Answer, Command, Idempotency, NewDeployment, NewEnrolmentToken, NewFindings,
    NewRelease, NewTarget, Report, Request, SystemCommand, TenantCommand,
};
use stella_domain::decide::{Decision, decide};
use stella_domain::deployment::{Deployment, OnFailure, Status};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::findings::{Finding, Severity};
use stella_domain::freeze::{Freeze, Repeats};
use stella_domain::gate::{self, Allowed, Check, Gate, Record, Security};
use stella_domain::listening::Listening;
use stella_domain::name::{Name, Version};
use stella_domain::promotion::{ApprovalRule, Promotion};
use stella_domain::rejection::Rejection;
use stella_domain::release::Phase::Prepare;
use stella_domain::release::{Component, Step, StepAction};
use stella_domain::run::Run;
use stella_domain::signature::{self, SignatureRule};
use stella_domain::state::State;
use stella_domain::strategy::{CanaryStep, Rolling, Strategy};
use stella_domain::task::{Task, TaskState};
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, AgentId, ApiTokenId, DeploymentId, EnrolmentTokenId, EnvironmentId, Incarnation, Position,
    PromotionId, ReleaseId, RunId, SessionEpoch, TargetId, TaskId, TenantId,
};
use stella_protocol::message::{
    Accepted, Effect, Finished, Hello, Holding, Inspect, JournalMark, OpenAttempt, Phase, Resources, Running,
    TaskOutcome, capability,
};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use stella_signing::SigningKey;
use uuid::Uuid;

pub const TENANT: TenantId = TenantId(Uuid::from_u128(1));
pub const STAGING: EnvironmentId = EnvironmentId(Uuid::from_u128(2));
pub const TOKEN: EnrolmentTokenId = EnrolmentTokenId(Uuid::from_u128(3));

/// Keys that sign releases: `ci`, `qa` and `other`.
const SIGNING_KEYS: [&str; 3] = [
    "MC4CAQAwBQYDK2VwBCIEIIDE+uY7A71ZOgkjWaxr1dpVL4u614wVGhW7sqKP40ep",
    "MC4CAQAwBQYDK2VwBCIEIARNHBBL2/SstmevPwwXXLinAVNXv0deObn3UZse0Sek",
    "MC4CAQAwBQYDK2VwBCIEIMVdSMe2PboGMb2BjzFtL9h2vg5/T2C3oT1fsn+LmYsa",
];

/// The key `n`, from 1.
pub fn signing_key(n: usize) -> SigningKey {
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", SIGNING_KEYS[n - 1]);
    SigningKey::from_pem(&pem).unwrap()
}

/// The fingerprint of the key `n`.
pub fn key_id(n: usize) -> Digest {
    signing_key(n).public().fingerprint()
}

/// Registers the key `n`.
pub fn add_key(n: usize) -> TenantCommand {
    let name = name(["ci", "qa", "other"][n - 1]);
    TenantCommand::AddReleaseKey { name, public_key: signing_key(n).public() }
}

/// So many signatures, by these keys or by any.
pub fn signed(needed: u32, keys: &[usize]) -> SignatureRule {
    SignatureRule { needed, keys: keys.iter().map(|n| key_id(*n)).collect() }
}

pub fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

pub fn agent(n: u128) -> AgentId {
    AgentId(Uuid::from_u128(0x100 + n))
}

pub fn target(n: u128) -> TargetId {
    TargetId(Uuid::from_u128(0x1000 + n))
}

pub fn release(n: u128) -> ReleaseId {
    ReleaseId(Uuid::from_u128(0x200 + n))
}

pub fn deployment(n: u128) -> DeploymentId {
    DeploymentId(Uuid::from_u128(0x300 + n))
}

/// The promotion that asks for the deployment `n`.
pub fn promotion(n: u128) -> PromotionId {
    PromotionId(deployment(n).0)
}

pub fn account(n: u128) -> AccountId {
    AccountId(Uuid::from_u128(0x900 + n))
}

pub fn api_token(n: u128) -> ApiTokenId {
    ApiTokenId(Uuid::from_u128(0xa00 + n))
}

/// The person `n` with their token.
pub fn person(n: u128) -> Actor {
    let acting = ActingAccount { id: account(n), name: name(&format!("person-{n}")) };
    Actor::ApiToken { id: api_token(n), account: Some(acting) }
}

/// As many approvals as this, from these people or from anybody, within a day.
pub fn rule(needed: u32, from: &[u128]) -> ApprovalRule {
    ApprovalRule::of(needed, from.iter().map(|n| account(*n)).collect(), 86_400_000)
}

pub fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

pub fn mark(incarnation: u128, position: u64) -> JournalMark {
    JournalMark { incarnation: Incarnation(Uuid::from_u128(incarnation)), position: Position(position) }
}

pub fn hello(journal: JournalMark, open: Vec<OpenAttempt>) -> Hello {
    let resources = Resources::default();
    Hello {
        agent_version: "0.1.0".to_owned(),
        capabilities: 15 | capability::HOLDINGS | capability::PROBES | capability::CERTAIN,
        journal,
        control_plane: None,
        open,
        resources,
    }
}

pub fn failed(reason: &str) -> TaskOutcome {
    TaskOutcome::Failed { reason: reason.to_owned(), exit_code: Some(1) }
}

pub fn new_target(n: u128) -> NewTarget {
    NewTarget {
        id: target(n),
        environment: STAGING,
        name: name(&format!("web-{n}")),
        kind: name("host"),
        agent: agent(n),
        slot: None,
        labels: BTreeMap::new(),
        variables: BTreeMap::from([("port".to_owned(), format!("80{n}"))]),
    }
}

/// Version `n`: an artifact, and a check that needs `${port}`.
pub fn new_release(n: u8) -> NewRelease {
    let artifact = StepAction::Artifact { component: name("web"), keep_releases: 3 };
    let url = "http://localhost:${port}/${version}".to_owned();
    let check = StepAction::CheckHttp { url, status: 200, interval_ms: 100, successes: 1 };
    NewRelease {
        id: release(n.into()),
        application: name("shop"),
        version: Version::from_str(&format!("{n}.0")).unwrap(),
        components: vec![Component { name: name("web"), digest: digest(n), size_bytes: 10 }],
        steps: vec![
            Step { name: name("install"), action: artifact, timeout_ms: 60_000, phase: Prepare },
            Step { name: name("check"), action: check, timeout_ms: 30_000, phase: Prepare },
        ],
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    }
}

pub fn new_deployment(n: u128, of: u128, batch: Option<u32>) -> NewDeployment {
    NewDeployment {
        id: deployment(n),
        environment: STAGING,
        release: release(of),
        strategy: batch.map_or(Strategy::AllAtOnce, |batch| Strategy::Rolling(Rolling::of(batch))),
        on_failure: OnFailure::Rollback,
        tolerate_failures: None,
        targets: None,
        timeout_ms: 3_600_000,
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
        job: None,
    }
}

/// No critical findings are allowed but these.
pub fn security(name: &str, allowed: &[(&str, Option<u64>)]) -> Gate {
    let allow = |(id, until): &(&str, Option<u64>)| Allowed {
        id: (*id).to_owned(),
        until: until.map(Timestamp),
        reason: "not reachable".to_owned(),
    };
    let security = Security {
        limits: BTreeMap::from([(Severity::Critical, 0)]),
        allowed: allowed.iter().map(allow).collect(),
        ..Security::default()
    };
    gate(name, Check::Security(security))
}

/// A gate whose verdicts hold for a minute.
pub fn gate(name: &str, check: Check) -> Gate {
    Gate { name: self::name(name), check, ttl_ms: 60_000, verifies: false }
}

/// A question to an HTTP endpoint.
pub fn http() -> Check {
    Check::Http { endpoint: name("change-management") }
}

/// What a scanner found: these critical ones.
pub fn findings(of: u128, critical: &[&str]) -> NewFindings {
    let found = |id: &&str| Finding {
        severity: Severity::Critical,
        id: (*id).to_owned(),
        component: "openssl@3.0.1".to_owned(),
    };
    let scanner = name("trivy");
    NewFindings {
        release: release(of),
        scanner,
        digest: digest(critical.len().try_into().unwrap()),
        findings: critical.iter().map(found).collect(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    }
}

/// Steps of percents, and how long each holds.
pub fn canary(steps: &[(u32, Option<u64>)], batch: Option<u32>) -> Strategy {
    let step = |(percent, soak_ms): &(u32, Option<u64>)| CanaryStep { percent: *percent, soak_ms: *soak_ms };
    let batch = batch.map(Amount::Count);
    Strategy::Canary { steps: steps.iter().map(step).collect(), batch, order: None }
}

/// A freeze in UTC that does not repeat.
pub fn freeze(named: &str, from: &str, to: &str) -> Freeze {
    Freeze {
        name: name(named),
        reason: "nobody is there".to_owned(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        time_zone: "UTC".to_owned(),
        repeats: Repeats::Never,
    }
}

pub struct World {
    pub state: State,
    pub now: Timestamp,
    pub events: Vec<(StreamId, Event)>,
}

impl World {
    /// A tenant with an environment and an enrolment token.
    pub fn new() -> Self {
        let mut world = Self { state: State::default(), now: Timestamp(1_000_000), events: Vec::new() };
        world.system(SystemCommand::CreateTenant { id: TENANT, name: name("acme") }).unwrap();
        world.ok(TenantCommand::CreateEnvironment {
            id: STAGING,
            name: name("staging"),
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        });
        world.ok(TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
            id: TOKEN,
            secret_hash: digest(99),
            agent_name: None,
            labels: BTreeMap::new(),
            profile: stella_protocol::message::Profile::Confined,
            uses_max: 10_000,
            expires_at: Timestamp(u64::MAX),
        })));
        world
    }

    /// With targets `web-1`.. of an agent each, all online, and releases 1 to 3.
    pub fn with_targets(count: u128) -> Self {
        let mut world = Self::new();
        for n in 1..=count {
            world.enrol(n);
            world.ok(TenantCommand::CreateTarget(Box::new(new_target(n))));
            world.connect(n, vec![]);
        }
        for n in 1..=3 {
            world.ok(TenantCommand::StoreArtifact {
                digest: digest(n),
                size_bytes: 10,
                tenant_bytes_max: None,
            });
            world.ok(TenantCommand::CreateRelease(Box::new(new_release(n))));
        }
        world
    }

    pub fn enrol(&mut self, n: u128) {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&n.to_be_bytes());
        self.ok(TenantCommand::Enrol {
            token: TOKEN,
            key_fingerprint: Digest(key),
            agent: agent(n),
            hostname: format!("Host {n}"),
            takes_profile: true,
            wanted: None,
        });
    }

    pub fn request(command: Command) -> Request {
        Request { actor: Actor::System, trace: TraceContext::default(), idempotency: None, command }
    }

    pub fn send(&mut self, request: &Request) -> Result<Decision, Rejection> {
        let decision = decide(&self.state, request, self.now)?;
        self.state = decision.state.clone();
        self.events.extend(decision.events.iter().cloned());
        Ok(decision)
    }

    pub fn system(&mut self, command: SystemCommand) -> Result<Decision, Rejection> {
        self.send(&Self::request(Command::System(command)))
    }

    pub fn tell(&mut self, command: TenantCommand) -> Result<Decision, Rejection> {
        self.send(&Self::request(Command::Tenant(TENANT, command)))
    }

    pub fn tell_once(
        &mut self,
        key: &str,
        body: Digest,
        command: TenantCommand,
    ) -> Result<Decision, Rejection> {
        let idempotency = Some(Idempotency { key: key.to_owned(), digest: body });
        self.send(&Request { idempotency, ..Self::request(Command::Tenant(TENANT, command)) })
    }

    /// An account that may do everything, with a token.
    pub fn person(&mut self, n: u128) {
        let roles = vec![Grant { role: Role::Admin, tenant: None, environment: None }];
        let name = name(&format!("person-{n}"));
        let create = SystemCommand::CreateAccount { id: account(n), name, kind: AccountKind::User, roles };
        self.system(create).unwrap();
        let create = SystemCommand::CreateApiToken {
            id: api_token(n),
            name: "laptop".to_owned(),
            hash: digest(1),
            account: Some(account(n)),
            expires_at: None,
        };
        self.system(create).unwrap();
    }

    /// What the person `n` may do everywhere from now on.
    pub fn give(&mut self, n: u128, role: Role) {
        let roles = vec![Grant { role, tenant: None, environment: None }];
        self.system(SystemCommand::SetAccountRoles { account: account(n), roles }).unwrap();
    }

    /// The command of the person `n`.
    pub fn by(n: u128, command: TenantCommand) -> Request {
        Request { actor: person(n), ..Self::request(Command::Tenant(TENANT, command)) }
    }

    pub fn tell_as(&mut self, n: u128, command: TenantCommand) -> Result<Decision, Rejection> {
        self.send(&Self::by(n, command))
    }

    pub fn promotion(&self, n: u128) -> &Promotion {
        &self.tenant().promotions[&promotion(n)]
    }

    /// The person `who` approves the promotion `n`.
    pub fn approve(&mut self, who: u128, n: u128) -> Result<Decision, Rejection> {
        let plan = self.promotion(n).plan.root;
        let reason = "looks good".to_owned();
        self.tell_as(
            who,
            TenantCommand::ApprovePromotion { promotion: promotion(n), plan, reason, signature: None },
        )
    }

    pub fn set_gate(&mut self, gate: Gate) -> Decision {
        self.ok(TenantCommand::SetGate { environment: STAGING, gate: Box::new(gate) })
    }

    pub fn scan(&mut self, of: u128, critical: &[&str]) -> Decision {
        self.ok(TenantCommand::RecordFindings(Box::new(findings(of, critical))))
    }

    /// The key `n` signs a release that is there.
    pub fn sign(&mut self, n: usize, of: u128) -> Result<Decision, Rejection> {
        let statement = signature::statement(&self.tenant().releases[&release(of)]);
        let signature = signing_key(n).sign(&statement);
        self.tell(TenantCommand::SignRelease { release: release(of), key: key_id(n), signature })
    }

    /// What is known of a gate for the promotion `n`.
    pub fn gate(&self, n: u128, gate: &str) -> Record {
        let records = self.tenant().gates.get(&promotion(n));
        records.and_then(|records| records.get(&name(gate))).cloned().unwrap_or_default()
    }

    /// What was asked about a gate is answered.
    pub fn answer(&mut self, n: u128, gate: &str, outcome: gate::Outcome) -> Decision {
        let number = self.gate(n, gate).asked.expect("a question").number;
        self.ok(TenantCommand::AnswerGate(Box::new(Answer {
            promotion: promotion(n),
            gate: name(gate),
            number,
            outcome,
            reason: "the change is known".to_owned(),
            inputs: Some(digest(8)),
        })))
    }

    #[track_caller]
    pub fn ok(&mut self, command: TenantCommand) -> Decision {
        self.tell(command.clone()).unwrap_or_else(|error| panic!("{command:?}: {error:?}"))
    }

    /// Lets time pass and everything happen that is due.
    pub fn wait_ms(&mut self, milliseconds: u64) {
        let until = self.now.plus_ms(milliseconds);
        while let Some(due) = self.state.next_due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.send(&Self::request(Command::Tick(Listening::Always))).unwrap();
        }
        self.now = until;
    }

    /// Whether nothing waits for time to pass but the end of the token, which never comes.
    pub fn is_at_rest(&self) -> bool {
        self.state.next_due().is_none_or(|due| due == Timestamp(u64::MAX))
    }

    pub fn tenant(&self) -> &TenantState {
        &self.state.tenants[&TENANT]
    }

    pub fn deployment(&self, id: DeploymentId) -> &Deployment {
        &self.tenant().deployments[&id]
    }

    pub fn status(&self, n: u128) -> &Status {
        &self.deployment(deployment(n)).status
    }

    /// The task that a target waits for now.
    pub fn task_on(&self, n: u128) -> &Task {
        let active = self.tenant().targets[&target(n)].active.expect("a deployment");
        let task = self.deployment(active).targets[&target(n)].progress.task().expect("an active target");
        &self.tenant().tasks[&task]
    }

    pub fn task(&self, id: TaskId) -> &Task {
        &self.tenant().tasks[&id]
    }

    pub fn session(&self, n: u128) -> SessionEpoch {
        self.tenant().agents[&agent(n)].session
    }

    pub fn connect(&mut self, n: u128, open: Vec<OpenAttempt>) -> Decision {
        let journal = self.tenant().work[&agent(n)].journal.unwrap_or_else(|| mark(n, 0));
        self.connect_with(n, hello(journal, open), false)
    }

    pub fn connect_with(&mut self, n: u128, hello: Hello, journal_rolled_back: bool) -> Decision {
        self.ok(TenantCommand::ConnectAgent { agent: agent(n), hello: Box::new(hello), journal_rolled_back })
    }

    pub fn disconnect(&mut self, n: u128) {
        let session = self.session(n);
        self.ok(TenantCommand::DisconnectAgent { agent: agent(n), session, reason: "lost".to_owned() });
    }

    pub fn report(&mut self, n: u128, report: Report) -> Decision {
        let session = self.session(n);
        self.ok(TenantCommand::Report { agent: agent(n), session, report })
    }

    pub fn accept(&mut self, n: u128) -> TaskId {
        let key = self.task_on(n).key();
        self.report(n, Report::Accepted(Accepted { key, position: Position(1) }));
        key.task
    }

    pub fn run(&mut self, n: u128) -> TaskId {
        let key = self.task_on(n).key();
        let started_at = self.now;
        self.report(n, Report::Running(Running { key, started_at }));
        key.task
    }

    /// The agent ends the task on target `n`.
    pub fn finish(&mut self, n: u128, outcome: TaskOutcome) -> TaskId {
        let task = self.task_on(n).id;
        self.finish_task(n, task, outcome);
        task
    }

    pub fn finish_task(&mut self, n: u128, task: TaskId, outcome: TaskOutcome) {
        let (key, finished_at) = (self.task(task).key(), self.now);
        let report = Finished { key, position: Position(2), started_at: None, finished_at, outcome };
        self.report(n, Report::Finished(report));
    }

    /// Both steps succeed on target `n`.
    pub fn complete(&mut self, n: u128) {
        self.finish(n, TaskOutcome::Succeeded);
        self.finish(n, TaskOutcome::Succeeded);
    }

    /// The first of two steps succeeds on target `n`.
    pub fn complete_first_step(&mut self, n: u128) {
        self.finish(n, TaskOutcome::Succeeded);
    }

    /// What the agent `n` is asked about its host, the oldest question first.
    pub fn question(&self, n: u128) -> Option<Inspect> {
        let open = self.tenant().inspections.get(&agent(n))?;
        open.iter().find_map(|(deployment, target)| self.tenant().inspection(*deployment, *target))
    }

    /// The agent `n` answers what it is asked: the same about everything.
    pub fn prove(&mut self, n: u128, holding: &Holding) -> Decision {
        let Inspect { question, wanted, .. } = self.question(n).expect("a question");
        let (agent, session) = (agent(n), self.session(n));
        let holdings = vec![holding.clone(); wanted.len()];
        self.ok(TenantCommand::AnswerInspection { agent, session, question, holdings })
    }

    /// The agent `n` answers the first question about what is left of one of its attempts.
    pub fn probe(&mut self, n: u128, effect: Effect) -> Decision {
        let asked = self.tenant().probes(agent(n), self.now).next().expect("a question");
        let (agent, session) = (agent(n), self.session(n));
        self.ok(TenantCommand::AnswerProbe { agent, session, question: asked.question, effect })
    }

    pub fn deploy(&mut self, n: u128, of: u128, batch: Option<u32>) {
        self.ok(TenantCommand::Deploy(Box::new(new_deployment(n, of, batch))));
    }

    /// Every target has release 1, by deployment 1.
    pub fn with_release_1(count: u128) -> Self {
        let mut world = Self::with_targets(count);
        world.deploy(1, 1, None);
        for n in 1..=count {
            world.complete(n);
        }
        assert_eq!(*world.status(1), Status::Succeeded);
        world
    }

    /// The deployment that rolled another one back.
    pub fn rollback_of(&self, n: u128) -> Option<&Deployment> {
        use stella_domain::deployment::Cause;
        let all = self.tenant().deployments.values();
        all.map(AsRef::as_ref).find(|d| matches!(d.cause, Cause::Rollback { of, .. } if of == deployment(n)))
    }

    pub fn listed(&self, n: u128, phase: Phase) -> OpenAttempt {
        OpenAttempt { key: self.task_on(n).key(), phase }
    }
}

pub fn facts(decision: &Decision) -> Vec<&'static str> {
    decision.events.iter().map(|(_, event)| event.fact.name()).collect()
}

pub fn is_dispatch(fact: &Fact) -> bool {
    matches!(fact, Fact::TaskDispatched { .. })
}

pub fn is_unknown(task: &Task) -> bool {
    matches!(task.state, TaskState::Unknown { .. })
}

/// What holds at the end of every story.
#[track_caller]
pub fn end(world: &World) {
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
    invariants::never_again(&world.events);
    colours::switched(&world.events, &world.state);
    let mut unproven = plans::Unproven::default();
    unproven.note(&world.events);
    unproven.check(world.tenant());
}

#[track_caller]
pub fn conflict(result: Result<impl std::fmt::Debug, Rejection>) -> String {
    match result {
        Err(Rejection::Conflict { problem }) => problem,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

#[track_caller]
#[expect(clippy::wildcard_enum_match_arm, reason = "a test ends there, with the place")]
pub fn failure(world: &World, n: u128) -> String {
    match world.status(n) {
        Status::Failed { reason } => reason.clone(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

/// A run, after what has led to it was checked.
pub fn checked_run(world: &World, id: RunId) -> &Run {
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
    &world.tenant().runs[&id]
}

/// How a run and its steps are, in a line.
pub fn states_of(run: &Run) -> String {
    let steps = run.steps.iter().map(|(id, step)| format!("{id} {}", step.state.name()));
    format!("{}: {}", run.status.name(), steps.collect::<Vec<_>>().join(", "))
}
