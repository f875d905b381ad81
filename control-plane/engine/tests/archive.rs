//! What leaves memory, on a real journal: over restarts, exports, imports and crashes in between.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use stella_domain::archive::Ended;
use stella_domain::command::{
    Actor, Command, NewDeployment, NewEnrolmentToken, NewRelease, NewTarget, Request, SystemCommand,
    TenantCommand,
};
use stella_domain::deployment::{OnFailure, Strategy};
use stella_domain::release::{Component, Phase, Step, StepAction};
use stella_domain::tenant::TenantState;
use stella_engine::{Checkpoint, Config, Engine, Handle, Walk};
use stella_journal::{Journal, JournalConfig, SledJournal, Until, import};
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, PromotionId, ReleaseId, TargetId, TaskId,
    TenantId,
};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STAGING: EnvironmentId = EnvironmentId(Uuid::from_u128(2));
const WEB: TargetId = TargetId(Uuid::from_u128(3));
const AGENT: AgentId = AgentId(Uuid::from_u128(4));
const RELEASE: ReleaseId = ReleaseId(Uuid::from_u128(5));
const TOKEN: EnrolmentTokenId = EnrolmentTokenId(Uuid::from_u128(6));
const DIGEST: Digest = Digest([7; 32]);

const fn deployment(n: u128) -> DeploymentId {
    DeploymentId(Uuid::from_u128(0x100 + n))
}

fn open(folder: &Path) -> Arc<SledJournal> {
    Arc::new(SledJournal::open(folder, JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 }).unwrap())
}

fn start(journal: &Arc<SledJournal>) -> Engine {
    Engine::start(Arc::clone(journal) as Arc<dyn Journal>, Config::default()).unwrap()
}

async fn submit(handle: &Handle, command: Command) {
    let (actor, trace) = (Actor::System, TraceContext::default());
    handle.submit(Request { actor, trace, idempotency: None, command }).await.unwrap();
}

async fn tell(handle: &Handle, command: TenantCommand) {
    submit(handle, Command::Tenant(TENANT, command)).await;
}

fn tenant(handle: &Handle) -> Arc<TenantState> {
    Arc::clone(&handle.state().tenants[&TENANT])
}

/// A target whose agent is away, and deployments to it that were cancelled, one after the other, but for the last one.
async fn with_deployments(handle: &Handle, count: u128) {
    let name = |text: &str| text.parse().unwrap();
    submit(handle, Command::System(SystemCommand::CreateTenant { id: TENANT, name: name("acme") })).await;
    tell(
        handle,
        TenantCommand::CreateEnvironment {
            id: STAGING,
            name: name("staging"),
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        },
    )
    .await;
    let token = NewEnrolmentToken {
        id: TOKEN,
        secret_hash: DIGEST,
        agent_name: None,
        labels: BTreeMap::new(),
        profile: stella_protocol::message::Profile::Confined,
        uses_max: 1,
        expires_at: Timestamp(u64::MAX),
    };
    tell(handle, TenantCommand::CreateEnrolmentToken(Box::new(token))).await;
    let hostname = "web-1".to_owned();
    let (key_fingerprint, takes_profile) = (DIGEST, true);
    let enrol = TenantCommand::Enrol {
        token: TOKEN,
        key_fingerprint,
        agent: AGENT,
        hostname,
        takes_profile,
        wanted: None,
    };
    tell(handle, enrol).await;
    let target = NewTarget {
        id: WEB,
        environment: STAGING,
        name: name("web-1"),
        kind: name("host"),
        agent: AGENT,
        slot: None,
        labels: BTreeMap::new(),
        variables: BTreeMap::new(),
    };
    tell(handle, TenantCommand::CreateTarget(Box::new(target))).await;
    tell(handle, TenantCommand::StoreArtifact { digest: DIGEST, size_bytes: 1, tenant_bytes_max: None })
        .await;
    let action = StepAction::Artifact { component: name("web"), keep_releases: 3 };
    let release = NewRelease {
        id: RELEASE,
        application: name("shop"),
        version: "1.0".parse().unwrap(),
        components: vec![Component { name: name("web"), digest: DIGEST, size_bytes: 1 }],
        steps: vec![Step { name: name("install"), action, timeout_ms: 60_000, phase: Phase::Prepare }],
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    };
    tell(handle, TenantCommand::CreateRelease(Box::new(release))).await;
    for n in 1..=count {
        tell(handle, TenantCommand::Deploy(Box::new(new_deployment(n)))).await;
        if n < count {
            let reason = "x".to_owned();
            tell(handle, TenantCommand::CancelDeployment { deployment: deployment(n), reason }).await;
        }
    }
}

fn new_deployment(n: u128) -> NewDeployment {
    NewDeployment {
        id: deployment(n),
        environment: STAGING,
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

fn ended(ids: impl IntoIterator<Item = u128>) -> Ended {
    Ended { deployments: ids.into_iter().map(deployment).collect(), ..Ended::default() }
}

/// Everything that was in memory of these deployments is read back as it was.
async fn is_archived(handle: &Handle, before: &TenantState, ids: impl IntoIterator<Item = u128>) {
    let (now, archive) = (tenant(handle), handle.archive());
    for id in ids.into_iter().map(deployment) {
        let promotion = PromotionId(id.0);
        assert!(!now.deployments.contains_key(&id) && !now.promotions.contains_key(&promotion));
        let was = &before.deployments[&id];
        for _ in 0..2 {
            // From the disk, and from the cache.
            assert_eq!(archive.deployment(TENANT, id).await.unwrap().as_ref(), Some(was));
        }
        let archived = archive.promotion(TENANT, promotion).await.unwrap().unwrap();
        assert_eq!(archived.promotion, before.promotions[&promotion]);
        let tasks = archive.tasks_of(TENANT, id, None, 10).await.unwrap();
        assert_eq!(tasks.iter().collect::<Vec<_>>(), before.tasks_of(was));
        assert_eq!(tasks.len(), 1);
        assert_eq!(archive.task(TENANT, tasks[0].id).await.unwrap().as_ref(), Some(&tasks[0]));
        assert!(!now.tasks.contains_key(&tasks[0].id));
    }
}

#[tokio::test]
async fn what_has_left_memory_is_read_back_and_stays_so_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let engine = start(&journal);
    let handle = engine.handle();
    with_deployments(&handle, 4).await;
    let before = tenant(&handle);
    // The last one goes on, and is left out.
    handle.archive_ended(TENANT, ended([1, 3, 4, 99])).await.unwrap();
    is_archived(&handle, &before, [1, 3]).await;
    assert!(tenant(&handle).deployments.contains_key(&deployment(2)));
    assert!(tenant(&handle).deployments.contains_key(&deployment(4)));
    let heads = handle.archive().deployments(TENANT, Walk { after: None, is_back: false }, 10).await.unwrap();
    assert_eq!(
        heads.iter().map(|it| it.id).collect::<Vec<_>>(),
        [deployment(1), deployment(3), deployment(4)]
    );
    assert!(heads.iter().all(|it| it.targets.is_empty() && it.counts.total() == 1), "parts are not listed");
    assert_eq!(handle.archive().deployment(TENANT, deployment(98)).await.unwrap(), None);
    assert_eq!(handle.archive().task(TENANT, TaskId(Uuid::nil())).await.unwrap(), None);
    // Once more is nothing more, and what is archived later is.
    handle.archive_ended(TENANT, ended([1, 2])).await.unwrap();
    let (after, archived) = (handle.state(), tenant(&handle).archived);
    assert_eq!((archived.deployments, archived.promotions), (3, 3));
    engine.stop();
    drop(handle);

    let engine = start(&journal);
    assert_eq!(engine.handle().state(), after, "a replay forgets the same");
    is_archived(&engine.handle(), &before, [1, 2, 3]).await;
}

#[tokio::test]
async fn an_import_has_the_archive_of_the_journal_that_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let engine = start(&open(&from));
    let handle = engine.handle();
    with_deployments(&handle, 4).await;
    let before = tenant(&handle);
    handle.archive_ended(TENANT, ended([1, 2, 3])).await.unwrap();
    let point = handle.checkpoint().await.unwrap();
    let mut events = Vec::new();
    point.export(&mut events).unwrap();
    import(&mut &events[..], &to, Until::End).unwrap();
    let imported = open(&to);
    let restored = Checkpoint::of_journal(Arc::clone(&imported) as Arc<dyn Journal>).unwrap();
    assert_eq!(restored.state_hash().unwrap(), point.state_hash().unwrap());
    let other = start(&imported);
    is_archived(&other.handle(), &before, [1, 2, 3]).await;
}

/// The copy is durable before the fact that forgets is; a crash in between leaves a thing in both, and it can go again.
#[tokio::test]
async fn a_crash_between_the_copy_and_the_fact_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let engine = start(&journal);
    let handle = engine.handle();
    with_deployments(&handle, 2).await;
    let before = tenant(&handle);
    engine.stop();
    // Nobody takes commands any more: only the copy is made.
    assert!(handle.archive_ended(TENANT, ended([1])).await.is_err());
    assert!(handle.archive().deployment(TENANT, deployment(1)).await.unwrap().is_some());
    assert!(tenant(&handle).deployments.contains_key(&deployment(1)));
    let engine = start(&journal);
    engine.handle().archive_ended(TENANT, ended([1])).await.unwrap();
    is_archived(&engine.handle(), &before, [1]).await;
}
