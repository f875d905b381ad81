//! A fleet on a real engine, journal and sockets, and agents that are driven by hand.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test file includes it and uses a part of it"
)]
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a failure here is a failed test")]

mod client;
mod disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use stella_certs::tls::ServerIdentity;
use stella_certs::{Authority, EnrolmentToken};
use stella_domain::command::{
    Actor, Command, NewDeployment, NewEnrolmentToken, NewRelease, NewTarget, Outcome, Request, SystemCommand,
    TenantCommand,
};
use stella_domain::deployment::{OnFailure, Strategy};
use stella_domain::release::{Component, Phase, Step, StepAction};
use stella_domain::state::State;
use stella_engine::{Clock, Config, Engine, Handle, SubmitError};
use stella_fleet::{Fleet, FleetConfig, FleetDeps};
use stella_parts::Parts;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, ReleaseId, TargetId, TenantId,
};
use stella_protocol::trace::TraceContext;
use stella_store::{ArtifactStore, OutputStore, Room};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use client::{Agent, Frames, Identity, dial_from, hello, offer_on, offer_to_enrol, offer_to_enrol_as};

/// How long anything may take. Only a broken test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Fails the test instead of waiting for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen in time")
}

pub struct World {
    pub fleet: Fleet,
    pub handle: Handle,
    pub authority: Arc<Authority>,
    pub artifacts: Arc<ArtifactStore>,
    pub output: Arc<OutputStore>,
    pub tenant: TenantId,
    pub shutdown: CancellationToken,
    pub later_ms: Arc<AtomicU64>,
    pub disk_is_full: Arc<AtomicBool>,
    config: FleetConfig,
    deps: FleetDeps,
    // The engine stops before its directory goes away.
    engine: Engine,
    dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut FleetConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let later_ms = Arc::new(AtomicU64::new(0));
        let disk_is_full = Arc::new(AtomicBool::new(false));
        let journal = disk::Disk::open(&dir.path().join("journal"), Arc::clone(&disk_is_full));
        let shift = Arc::clone(&later_ms);
        let clock = Clock::new(move || Clock::system().now().plus_ms(shift.load(Ordering::SeqCst)));
        let config = Config { clock, ..Config::default() };
        let engine = Engine::start(Arc::new(journal), config).unwrap();
        let handle = engine.handle();
        let tenant = create_tenant(&handle, "acme").await;

        let authority =
            Arc::new(Authority::open_or_create(&dir.path().join("pki"), SystemTime::now()).unwrap());
        let certificate = authority.issue_server(&[], SystemTime::now(), Duration::from_secs(3600)).unwrap();
        let identity = ServerIdentity::new(&certificate).unwrap();
        let artifacts =
            Arc::new(ArtifactStore::open(dir.path().join("artifacts"), Room::new("/", 0)).unwrap());
        let output = OutputStore::open(dir.path().join("output"), Room::new("/", 0)).unwrap();
        let mut config = FleetConfig::new("127.0.0.1:0".parse().unwrap());
        change(&mut config);
        let deps = FleetDeps {
            engine: handle.clone(),
            authority: Arc::clone(&authority),
            identity,
            artifacts: Arc::clone(&artifacts),
            output: Arc::clone(&output),
            last_seen_file: dir.path().join("last-seen"),
            parts: Parts::default(),
        };
        let shutdown = CancellationToken::new();
        let fleet = Fleet::start(config.clone(), deps.clone(), shutdown.clone()).unwrap();
        Self {
            fleet,
            handle,
            authority,
            artifacts,
            output,
            tenant,
            shutdown,
            later_ms,
            disk_is_full,
            config,
            deps,
            engine,
            dir,
        }
    }

    /// Ends the fleet, and gives another one in its place. The engine goes on.
    pub async fn restart_fleet(&mut self) {
        self.shutdown.cancel();
        soon(self.fleet.stopped()).await;
        self.shutdown = CancellationToken::new();
        self.fleet = Fleet::start(self.config.clone(), self.deps.clone(), self.shutdown.clone()).unwrap();
    }

    /// For the fleet that comes next.
    pub fn change(&mut self, change: impl FnOnce(&mut FleetConfig)) {
        change(&mut self.config);
    }

    /// The file that keeps when agents were last heard.
    pub fn last_seen_file(&self) -> &Path {
        &self.deps.last_seen_file
    }

    pub async fn submit(&self, command: TenantCommand) -> Result<Outcome, SubmitError> {
        self.submit_to(self.tenant, command).await
    }

    pub async fn submit_to(&self, tenant: TenantId, command: TenantCommand) -> Result<Outcome, SubmitError> {
        soon(self.handle.submit(request(Command::Tenant(tenant, command)))).await
    }

    pub fn state(&self) -> Arc<State> {
        self.handle.state()
    }

    /// Waits until the durable state is as wanted.
    pub async fn until(&self, mut wanted: impl FnMut(&State) -> bool) {
        let mut commits = self.handle.subscribe();
        soon(async {
            while !wanted(&self.handle.state()) {
                commits.recv().await.unwrap();
            }
        })
        .await;
    }

    /// Creates an enrolment token.
    pub async fn token(&self, uses_max: u32) -> EnrolmentToken {
        let id = EnrolmentTokenId(Uuid::now_v7());
        let token = EnrolmentToken::generate(id, self.authority.root_fingerprint()).unwrap();
        let new = NewEnrolmentToken {
            id,
            secret_hash: token.secret_hash(),
            agent_name: None,
            labels: BTreeMap::new(),
            profile: stella_protocol::message::Profile::Confined,
            uses_max,
            expires_at: self.handle.now().plus_ms(60_000),
        };
        self.submit(TenantCommand::CreateEnrolmentToken(Box::new(new))).await.unwrap();
        token
    }

    /// Enrols a new agent over the wire.
    pub async fn enrol(&self) -> Identity {
        let token = self.token(1).await;
        Identity::enrol(self.fleet.local_addr(), &token).await
    }

    /// Stores an archive and a release with a command step, and deploys it to a new target of the agent.
    pub async fn deploy(&self, agent: AgentId) -> DeploymentId {
        self.deploy_in(agent, TraceContext::default()).await
    }

    /// The same in a trace.
    pub async fn deploy_in(&self, agent: AgentId, trace: TraceContext) -> DeploymentId {
        let unique = Uuid::now_v7();
        let environment = EnvironmentId(unique);
        let name = format!("e-{}", unique.simple()).parse().unwrap();
        self.submit(TenantCommand::CreateEnvironment {
            id: environment,
            name,
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        })
        .await
        .unwrap();
        let target = NewTarget {
            id: TargetId(unique),
            environment,
            name: "web-1".parse().unwrap(),
            kind: "host".parse().unwrap(),
            agent,
            slot: Some(format!("s-{}", unique.simple()).parse().unwrap()),
            labels: BTreeMap::new(),
            variables: BTreeMap::new(),
        };
        self.submit(TenantCommand::CreateTarget(Box::new(target))).await.unwrap();
        let release = self.release(self.tenant, unique.as_bytes()).await;
        let deployment = NewDeployment {
            id: DeploymentId(unique),
            environment,
            release,
            strategy: Strategy::AllAtOnce,
            on_failure: OnFailure::Stop,
            tolerate_failures: None,
            targets: None,
            timeout_ms: 600_000,
            override_freeze: None,
            override_path: None,
            waive_way_back: None,
            replace_application: false,
            job: None,
        };
        let command = Command::Tenant(self.tenant, TenantCommand::Deploy(Box::new(deployment)));
        soon(self.handle.submit(Request { trace, ..request(command) })).await.unwrap();
        DeploymentId(unique)
    }

    /// A release of one archive with one command step.
    pub async fn release(&self, tenant: TenantId, content: &[u8]) -> ReleaseId {
        let (id, digest) = (ReleaseId(Uuid::now_v7()), digest(content));
        let mut upload = self.artifacts.upload(digest, content.len() as u64).await.unwrap();
        upload.write(content).await.unwrap();
        let size_bytes = upload.finish().await.unwrap().size_bytes;
        self.submit_to(tenant, TenantCommand::StoreArtifact { digest, size_bytes, tenant_bytes_max: None })
            .await
            .unwrap();
        let action = StepAction::Command {
            argv: vec!["true".to_owned()],
            environment: BTreeMap::new(),
            working_directory: None,
            user: None,
        };
        let new = NewRelease {
            id,
            application: "shop".parse().unwrap(),
            version: format!("1.0.0+{}", id.0.simple()).parse().unwrap(),
            components: vec![Component { name: "web".parse().unwrap(), digest, size_bytes }],
            steps: vec![Step {
                name: "go".parse().unwrap(),
                action,
                timeout_ms: 60_000,
                phase: Phase::Prepare,
            }],
            labels: BTreeMap::new(),
            provenance: None,
            signatures: Vec::new(),
            bounds: stella_domain::release::ReleaseBounds::default(),
        };
        self.submit_to(tenant, TenantCommand::CreateRelease(Box::new(new))).await.unwrap();
        id
    }
}

pub fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

pub async fn create_tenant(handle: &Handle, name: &str) -> TenantId {
    let id = TenantId(Uuid::now_v7());
    let command = Command::System(SystemCommand::CreateTenant { id, name: name.parse().unwrap() });
    soon(handle.submit(request(command))).await.unwrap();
    id
}

fn request(command: Command) -> Request {
    Request { actor: Actor::System, trace: TraceContext::default(), idempotency: None, command }
}
