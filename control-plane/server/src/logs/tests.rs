//! The log on a real journal, of a reader that was away for longer than the engine waits for one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stella_domain::command::{
    Actor, Command, NewDeployment, NewEnrolmentToken, NewRelease, NewTarget, Request, SystemCommand,
    TenantCommand,
};
use stella_domain::deployment::OnFailure;
use stella_domain::listening::Listening;
use stella_domain::promotion::{ApprovalRule, OnExpiry};
use stella_domain::release::{Component, Phase, Step, StepAction};
use stella_domain::strategy::Strategy;
use stella_engine::{Clock, Config, Engine};
use stella_journal::{JournalConfig, SledJournal};
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, ReleaseId, TargetId, TenantId,
};
use stella_protocol::message::Profile;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use stella_telemetry::exemplars::Exemplars;
use stella_telemetry::exposition::Exposition;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use super::*;

const DAY_MS: u64 = 86_400_000;
/// Two batches each: more than the engine keeps for a reader that does not read.
const DEPLOYMENTS: u128 = 600;
const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const ENVIRONMENT: EnvironmentId = EnvironmentId(Uuid::from_u128(2));
const RELEASE: ReleaseId = ReleaseId(Uuid::from_u128(3));
const TOKEN: EnrolmentTokenId = EnrolmentTokenId(Uuid::from_u128(4));
const AGENT: AgentId = AgentId(Uuid::from_u128(5));

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Written {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

async fn submit(engine: &Engine, command: Command) {
    let (actor, trace) = (Actor::System, TraceContext::default());
    engine.handle().submit(Request { actor, trace, idempotency: None, command }).await.unwrap();
}

async fn tell(engine: &Engine, command: TenantCommand) {
    submit(engine, Command::Tenant(TENANT, command)).await;
}

/// A tenant with a release, and a target whose agent is away.
async fn world(folder: &Path, config: Config) -> Engine {
    let of_journal = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
    let journal = SledJournal::open(folder, of_journal).unwrap();
    let engine = Engine::start(Arc::new(journal), config).unwrap();
    let create = SystemCommand::CreateTenant { id: TENANT, name: "acme".parse().unwrap() };
    submit(&engine, Command::System(create)).await;
    let proof = stella_domain::way_back::ProofRule::Off;
    let name = "prod".parse().unwrap();
    let commands = [
        TenantCommand::CreateEnvironment { id: ENVIRONMENT, name, order: None, way_back_proof: proof },
        TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
            id: TOKEN,
            secret_hash: Digest([9; 32]),
            agent_name: None,
            labels: BTreeMap::new(),
            profile: Profile::Confined,
            uses_max: 1,
            expires_at: Timestamp(u64::MAX),
        })),
        TenantCommand::Enrol {
            token: TOKEN,
            key_fingerprint: Digest([8; 32]),
            agent: AGENT,
            hostname: "web-1".to_owned(),
            takes_profile: true,
            wanted: None,
        },
        TenantCommand::CreateTarget(Box::new(NewTarget {
            id: TargetId(Uuid::from_u128(6)),
            environment: ENVIRONMENT,
            name: "web-1".parse().unwrap(),
            kind: "host".parse().unwrap(),
            agent: AGENT,
            slot: None,
            labels: BTreeMap::new(),
            variables: BTreeMap::new(),
        })),
        TenantCommand::StoreArtifact { digest: Digest([1; 32]), size_bytes: 10, tenant_bytes_max: None },
        TenantCommand::CreateRelease(Box::new(new_release())),
    ];
    for command in commands {
        tell(&engine, command).await;
    }
    engine
}

fn new_release() -> NewRelease {
    let web: stella_domain::name::Name = "web".parse().unwrap();
    let action = StepAction::Artifact { component: web.clone(), keep_releases: 3 };
    NewRelease {
        id: RELEASE,
        application: "shop".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        components: vec![Component { name: web.clone(), digest: Digest([1; 32]), size_bytes: 10 }],
        steps: vec![Step { name: web, action, timeout_ms: 60_000, phase: Phase::Prepare }],
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    }
}

fn new_deployment(n: u128) -> NewDeployment {
    NewDeployment {
        id: DeploymentId(Uuid::from_u128(0x1000 + n)),
        environment: ENVIRONMENT,
        release: RELEASE,
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::Stop,
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

/// What the log says of all that was committed.
async fn logged(journal: Live) -> String {
    let written = Written::default();
    let log = tracing_subscriber::fmt().with_writer(written.clone()).with_ansi(false).finish();
    {
        let _log = tracing::subscriber::set_default(log);
        let until = CancellationToken::new();
        until.cancel();
        follow(journal, Measurements::new(None), until).await;
    }
    String::from_utf8(written.0.lock().clone()).unwrap()
}

/// Nobody has said anything in time, and nobody is there whose trace it could be but who asked for it.
#[tokio::test]
async fn what_time_does_to_a_promotion_is_found_by_the_request_that_asked_for_it() {
    let correlation = "ticket-42";
    for (on_expiry, name) in [
        (OnExpiry::Reject, "approval.denied"),
        (OnExpiry::AskAgain { times: 1 }, "promotion.asked_again"),
        (OnExpiry::Expire, "promotion.expired"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicU64::new(1_000_000));
        let read = Arc::clone(&now);
        let clock = Clock::new(move || Timestamp(read.load(Ordering::Relaxed)));
        let engine = world(folder.path(), Config { clock, ..Config::default() }).await;
        let journal = Live::start(engine.handle());
        let rule =
            ApprovalRule { needed: 1, from: Vec::new(), expires_ms: DAY_MS, also: Vec::new(), on_expiry };
        tell(&engine, TenantCommand::SetEnvironmentApprovals { environment: ENVIRONMENT, rule: Some(rule) })
            .await;
        let trace = TraceContext {
            trace_id: 0xabc,
            span_id: 0xdef,
            sampled: true,
            correlation: correlation.to_owned().try_into().unwrap(),
            ..TraceContext::default()
        };
        let command = Command::Tenant(TENANT, TenantCommand::Deploy(Box::new(new_deployment(0))));
        let (actor, idempotency) = (Actor::System, None);
        engine.handle().submit(Request { actor, trace, idempotency, command }).await.unwrap();
        now.fetch_add(DAY_MS + 1, Ordering::Relaxed);
        submit(&engine, Command::Tick(Listening::Always)).await;
        let text = logged(journal).await;
        let line = text.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        for part in ["00000000000000000000000000000abc", "0000000000000def", correlation] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        engine.stop();
    }
}

#[tokio::test]
async fn a_log_that_is_far_behind_leaves_no_deployment_out() {
    let folder = tempfile::tempdir().unwrap();
    let engine = world(folder.path(), Config::default()).await;
    let journal = Live::start(engine.handle());
    for n in 0..DEPLOYMENTS {
        let new = new_deployment(n);
        let deployment = new.id;
        tell(&engine, TenantCommand::Deploy(Box::new(new))).await;
        let reason = "it was only tried".to_owned();
        tell(&engine, TenantCommand::CancelDeployment { deployment, reason }).await;
    }
    let text = logged(journal).await;
    for event in ["deployment.started", "deployment.cancelled"] {
        for n in 0..DEPLOYMENTS {
            let id = new_deployment(n).id.to_string();
            let lines = text.lines().filter(|line| line.contains(event) && line.contains(&id)).count();
            assert_eq!(lines, 1, "{event} of deployment {n} in {text}");
        }
    }
    let (state, exemplars) = (engine.handle().state(), Exemplars::default());
    let families = crate::durations::families(&state, Exposition::Text, &exemplars);
    let figures = Exposition::Text.page("", families, &exemplars);
    let count = format!(
        "stella_deployment_duration_seconds_count{{tenant=\"acme\",env=\"prod\",strategy=\"all_at_once\"}} {DEPLOYMENTS}"
    );
    assert!(figures.contains(&count), "no {count} in {figures}");
    engine.stop();
}
