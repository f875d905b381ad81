//! The publisher on a real journal, and a bus in memory that fails when it is told to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stella_domain::command::{Actor, Command, Request, SystemCommand, TenantCommand};
use stella_engine::{Config, Engine, Handle};
use stella_journal::{JournalConfig, SledJournal};
use stella_protocol::id::{EnvironmentId, TenantId};
use stella_protocol::trace::TraceContext;
use stella_publish::bus::{Bus, BusError, Message};
use stella_publish::publisher::Publisher;
use stella_readers::follow::Begin;
use stella_readers::place::{Places, StateFile};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long something may take to arrive before it is said to be missing.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Memory {
    sent: Arc<Mutex<Vec<Message>>>,
    arrived: Arc<Notify>,
    /// How many more pages are refused, after the first half of each has arrived.
    refuse: Arc<Mutex<u32>>,
}

impl Memory {
    /// Subjects in the order of their first arrival; duplicates dropped by id, as the real bus does.
    fn subjects(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let sent = self.sent.lock();
        sent.iter().filter(|it| seen.insert(it.id.clone())).map(|it| it.subject.clone()).collect()
    }

    async fn wait(&self, count: usize) -> Vec<String> {
        let all = async {
            loop {
                // Listened for before it is looked at, so that nothing arrives in between unnoticed.
                let arrival = self.arrived.notified();
                if self.subjects().len() >= count {
                    break;
                }
                arrival.await;
            }
        };
        // What is missing then, the assertion says.
        tokio::time::timeout(PATIENCE, all).await.ok();
        let found = self.subjects();
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }
}

impl Bus for Memory {
    async fn publish(&mut self, messages: &[Message]) -> Result<(), BusError> {
        let refuses = {
            let mut refuse = self.refuse.lock();
            let refuses = *refuse > 0;
            *refuse = refuse.saturating_sub(1);
            refuses
        };
        let arrives = if refuses { messages.len() / 2 } else { messages.len() };
        self.sent.lock().extend_from_slice(&messages[..arrives]);
        self.arrived.notify_waiters();
        if refuses { Err(BusError::Away("it was told to".to_owned())) } else { Ok(()) }
    }
}

/// A control plane's engine with a publisher.
struct World {
    engine: Engine,
    publisher: tokio::task::JoinHandle<()>,
    until: CancellationToken,
}

impl World {
    async fn start(folder: &Path, bus: &Memory, begin: Begin) -> Self {
        let config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        let journal = Arc::new(SledJournal::open(&folder.join("journal"), config).unwrap());
        let engine = Engine::start(journal, Config::default()).unwrap();
        let file = StateFile::new(folder.join("event-bus.json"));
        let publisher =
            Publisher::start(engine.handle(), file, bus.clone(), "/stella".to_owned(), begin).await.unwrap();
        let until = CancellationToken::new();
        let publisher = tokio::spawn(publisher.run(until.clone()));
        Self { engine, publisher, until }
    }

    /// Waits until the file says that all of the journal was published. What has arrived may be a part of it: after a crash a page that
    /// had arrived before comes again.
    async fn caught_up(&self, folder: &Path) {
        let file = StateFile::new(folder.join("event-bus.json"));
        let is_caught_up = || {
            let places = file.load::<Places>().unwrap().unwrap_or_default();
            self.engine.handle().heads().into_iter().all(|(stream, head)| places.of(stream).next == head)
        };
        let all = async {
            while !is_caught_up() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
    }

    async fn stop(self) {
        self.until.cancel();
        self.publisher.await.unwrap();
        self.engine.stop();
    }

    /// As a crash: the place is not saved.
    async fn crash(self) {
        self.publisher.abort();
        assert!(self.publisher.await.unwrap_err().is_cancelled());
        self.engine.stop();
    }
}

async fn submit(handle: &Handle, command: Command) {
    let request =
        Request { actor: Actor::System, trace: TraceContext::default(), idempotency: None, command };
    handle.submit(request).await.unwrap();
}

async fn tenant(handle: &Handle, id: u128, name: &str) {
    let id = TenantId(Uuid::from_u128(id));
    submit(handle, Command::System(SystemCommand::CreateTenant { id, name: name.parse().unwrap() })).await;
}

async fn environments(handle: &Handle, tenant: u128, ids: std::ops::Range<u128>) {
    for id in ids {
        let name = format!("env-{id}").parse().unwrap();
        let id = EnvironmentId(Uuid::from_u128(id));
        let command = TenantCommand::CreateEnvironment {
            id,
            name,
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        };
        submit(handle, Command::Tenant(TenantId(Uuid::from_u128(tenant)), command)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Program::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn everything_arrives_through_failures_and_restarts_and_a_new_bus_begins_now() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), Memory::default());
    let world = World::start(folder.path(), &bus, Begin::Beginning).await;
    let handle = world.engine.handle();
    tenant(&handle, 1, "acme").await;
    tenant(&handle, 2, "a.b").await;
    *bus.refuse.lock() = 2;
    environments(&handle, 1, 100..110).await;
    environments(&handle, 2, 200..205).await;
    // Two in the system's stream, two openings, fifteen environments.
    let all = bus.wait(19).await;
    let count = |subject: &str| all.iter().filter(|it| *it == subject).count();
    assert_eq!(count("system.tenant_created"), 2);
    assert_eq!(count("tenant.acme.environment_created"), 10);
    assert_eq!(count("tenant.a%2Eb.environment_created"), 5);
    drop(handle);
    world.crash().await;

    let world = World::start(folder.path(), &bus, Begin::Now).await;
    environments(&world.engine.handle(), 1, 110..112).await;
    bus.wait(21).await;
    world.caught_up(folder.path()).await;
    world.stop().await;
    let arrived = bus.sent.lock().len();
    let world = World::start(folder.path(), &bus, Begin::Beginning).await;
    environments(&world.engine.handle(), 1, 112..113).await;
    bus.wait(22).await;
    assert_eq!(bus.sent.lock().len(), arrived + 1, "after an orderly stop nothing comes twice");
    world.stop().await;

    std::fs::remove_file(folder.path().join("event-bus.json")).unwrap();
    let other = Memory::default();
    let world = World::start(folder.path(), &other, Begin::Now).await;
    tenant(&world.engine.handle(), 3, "late").await;
    assert_eq!(other.wait(2).await, ["system.tenant_created", "tenant.late.tenant_opened"]);
    world.stop().await;
}

#[tokio::test]
async fn a_restored_journal_loses_no_event_and_repeats_none_as_another() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), Memory::default());
    let (journal, backup) = (folder.path().join("journal"), folder.path().join("backup"));
    let world = World::start(folder.path(), &bus, Begin::Beginning).await;
    tenant(&world.engine.handle(), 1, "acme").await;
    environments(&world.engine.handle(), 1, 100..103).await;
    bus.wait(5).await;
    world.stop().await;
    copy(&journal, &backup);
    let world = World::start(folder.path(), &bus, Begin::Beginning).await;
    environments(&world.engine.handle(), 1, 103..106).await;
    bus.wait(8).await;
    world.stop().await;

    // From the backup: three events are gone, and others take their positions.
    std::fs::remove_dir_all(&journal).unwrap();
    copy(&backup, &journal);
    let world = World::start(folder.path(), &bus, Begin::Beginning).await;
    environments(&world.engine.handle(), 1, 203..205).await;
    bus.wait(10).await;
    world.stop().await;

    // From the backup again, without a publisher until it has grown beyond what was published.
    std::fs::remove_dir_all(&journal).unwrap();
    copy(&backup, &journal);
    let kept = std::fs::read(folder.path().join("event-bus.json")).unwrap();
    let world = World::start(folder.path(), &Memory::default(), Begin::Now).await;
    environments(&world.engine.handle(), 1, 303..309).await;
    world.stop().await;
    std::fs::write(folder.path().join("event-bus.json"), kept).unwrap();
    let world = World::start(folder.path(), &bus, Begin::Beginning).await;
    bus.wait(16).await;
    world.stop().await;
}
