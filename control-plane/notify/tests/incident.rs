//! What ends because where it was is gone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use serde_json::json;
use stella_domain::command::{Actor, Command, Request, SystemCommand, TenantCommand};
use stella_domain::event::Fact;
use stella_domain::tenant::TenantState;
use stella_domain::way_back::ProofRule;
use stella_domain::workflow::Template;
use stella_engine::{Config, Engine};
use stella_journal::{JournalConfig, SledJournal};
use stella_notify::incident::{Change, Kind, changes, still_lasts};
use stella_protocol::id::{EnvironmentId, TenantId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use tempfile::TempDir;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const QA: EnvironmentId = EnvironmentId(Uuid::from_u128(2));
const PROD: EnvironmentId = EnvironmentId(Uuid::from_u128(3));
const FAILED: Kind = Kind::DeploymentFailed;

struct World {
    engine: Engine,
    _folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        let journal = Arc::new(SledJournal::open(&folder.path().join("journal"), config).unwrap());
        let world = Self { engine: Engine::start(journal, Config::default()).unwrap(), _folder: folder };
        let create = SystemCommand::CreateTenant { id: TENANT, name: "acme".parse().unwrap() };
        world.submit(Command::System(create)).await;
        for (id, name) in [(QA, "qa"), (PROD, "prod")] {
            let name = name.parse().unwrap();
            let way_back_proof = ProofRule::default();
            world.ok(TenantCommand::CreateEnvironment { id, name, order: None, way_back_proof }).await;
        }
        world
    }

    async fn submit(&self, command: Command) {
        let (actor, trace) = (Actor::System, TraceContext::default());
        let request = Request { actor, trace, idempotency: None, command };
        self.engine.handle().submit(request).await.unwrap();
    }

    async fn ok(&self, command: TenantCommand) {
        self.submit(Command::Tenant(TENANT, command)).await;
    }

    fn tenant(&self) -> Arc<TenantState> {
        Arc::clone(&self.engine.handle().state().tenants[&TENANT])
    }

    fn lasts(&self, scope: &str) -> bool {
        still_lasts(Some(&self.tenant()), FAILED, "any", Some(scope))
    }
}

fn template(steps: &[&str]) -> Box<Template> {
    let steps: Vec<_> = steps.iter().map(|id| json!({"id": id, "wait": "1h"})).collect();
    Box::new(serde_json::from_value(json!({"name": "nightly", "steps": steps})).unwrap())
}

#[tokio::test]
async fn what_failed_in_an_environment_ends_with_it() {
    let world = World::new().await;
    let (shop, job) = (format!("{QA}/shop"), format!("{QA}/nightly/clean"));
    world.ok(TenantCommand::ApplyWorkflow(template(&["clean"]))).await;
    assert!(world.lasts(&shop) && world.lasts(&job));
    world.ok(TenantCommand::RemoveEnvironment { id: QA }).await;
    let ends = changes(&world.tenant(), &Fact::EnvironmentRemoved { id: QA }, Timestamp(1));
    assert_eq!(ends, [Change::EndsWithin(FAILED, format!("{QA}/"))]);
    // As a control plane sees it that starts later.
    assert!(!world.lasts(&shop) && !world.lasts(&job));
    assert!(world.lasts(&format!("{PROD}/shop")));
    assert!(still_lasts(Some(&world.tenant()), FAILED, "any", None), "nobody knows where it was");
    world.engine.stop();
}

#[tokio::test]
async fn a_job_that_failed_ends_with_its_workflow_or_its_step() {
    let world = World::new().await;
    let of = |environment: EnvironmentId, step: &str| format!("{environment}/nightly/{step}");
    world.ok(TenantCommand::ApplyWorkflow(template(&["clean", "copy"]))).await;
    assert!(world.lasts(&of(QA, "clean")) && world.lasts(&of(PROD, "copy")));

    world.ok(TenantCommand::ApplyWorkflow(template(&["copy"]))).await;
    let applied = Fact::WorkflowApplied { version: 2, template: template(&["copy"]) };
    let gone = [QA, PROD].map(|environment| Change::EndsIn(FAILED, of(environment, "clean")));
    assert_eq!(changes(&world.tenant(), &applied, Timestamp(1)), gone);
    assert!(!world.lasts(&of(QA, "clean")) && world.lasts(&of(PROD, "copy")));

    let name: stella_domain::name::Name = "nightly".parse().unwrap();
    world.ok(TenantCommand::RemoveWorkflow { name: name.clone(), reason: "done".to_owned() }).await;
    let removed = Fact::WorkflowRemoved { name, reason: "done".to_owned() };
    let gone = [QA, PROD].map(|environment| Change::EndsWithin(FAILED, format!("{environment}/nightly/")));
    assert_eq!(changes(&world.tenant(), &removed, Timestamp(1)), gone);
    assert!(!world.lasts(&of(PROD, "copy")));
    assert!(world.lasts(&format!("{PROD}/nightly")), "an application of that name");
    world.engine.stop();
}
