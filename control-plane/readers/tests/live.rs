//! A reader on a real journal that is far slower than the writer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use stella_domain::command::{Actor, Command, Request, SystemCommand, TenantCommand};
use stella_domain::event::StreamId;
use stella_engine::{Config, Engine, Handle};
use stella_journal::{JournalConfig, SledJournal};
use stella_protocol::id::{EnvironmentId, Position, TenantId};
use stella_protocol::trace::TraceContext;
use stella_readers::live::Live;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// More batches than the engine keeps for a reader that does not read.
const BATCHES: u128 = 1_200;

fn start(folder: &Path) -> Engine {
    let config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
    Engine::start(Arc::new(SledJournal::open(folder, config).unwrap()), Config::default()).unwrap()
}

async fn submit(handle: &Handle, command: Command) {
    let (actor, trace) = (Actor::System, TraceContext::default());
    handle.submit(Request { actor, trace, idempotency: None, command }).await.unwrap();
}

async fn tenant(handle: &Handle, n: u128) {
    let name = format!("tenant-{n}").parse().unwrap();
    let create = SystemCommand::CreateTenant { id: TenantId(Uuid::from_u128(n)), name };
    submit(handle, Command::System(create)).await;
}

/// A batch of its own, because its answer is waited for.
async fn environment(handle: &Handle, tenant: u128, n: u128) {
    let create = TenantCommand::CreateEnvironment {
        id: EnvironmentId(Uuid::from_u128(n)),
        name: format!("env-{n}").parse().unwrap(),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    };
    submit(handle, Command::Tenant(TenantId(Uuid::from_u128(tenant)), create)).await;
}

/// Reads to the end. Each event came once, in the order of its stream, and with a state that knows its tenant.
async fn read(journal: &mut Live) -> BTreeMap<StreamId, Vec<Position>> {
    let until = CancellationToken::new();
    until.cancel();
    let mut read: BTreeMap<StreamId, Vec<Position>> = BTreeMap::new();
    while let Some(batch) = journal.next(&until).await {
        for event in &batch.events {
            read.entry(event.stream).or_default().push(event.position);
            if let StreamId::Tenant(tenant) = event.stream {
                assert!(batch.state.tenants.contains_key(&tenant), "{event:?}");
            }
        }
    }
    read
}

#[tokio::test]
async fn a_reader_that_is_far_behind_leaves_nothing_out_and_reads_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path());
    let handle = engine.handle();
    let mut journal = Live::start(handle.clone());
    tenant(&handle, 1).await;
    tenant(&handle, 2).await;
    for n in 0..BATCHES {
        environment(&handle, 1 + n % 2, n).await;
    }
    let first = read(&mut journal).await;
    for (stream, head) in handle.heads() {
        let all: Vec<_> = (0..head.0).map(Position).collect();
        assert_eq!(first[&stream], all, "of {stream:?}");
    }
    // It keeps up from here on.
    tenant(&handle, 3).await;
    environment(&handle, 2, BATCHES).await;
    let then = read(&mut journal).await;
    let count: usize = then.values().map(Vec::len).sum();
    let new: u64 = handle
        .heads()
        .iter()
        .map(|(stream, head)| {
            let before = first.get(stream).map_or(0, |positions| positions.len() as u64);
            head.0 - before
        })
        .sum();
    assert_eq!(count as u64, new, "{then:?}");
    engine.stop();
}

#[tokio::test]
async fn what_was_there_when_the_journal_was_opened_is_not_read_and_what_came_before_the_reader_is() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path());
    tenant(&engine.handle(), 1).await;
    engine.stop();
    let engine = start(folder.path());
    let handle = engine.handle();
    environment(&handle, 1, 1).await;
    let mut journal = Live::start(handle.clone());
    environment(&handle, 1, 2).await;
    let stream = StreamId::Tenant(TenantId(Uuid::from_u128(1)));
    let opened = handle.opened_at()[&stream];
    let wanted: Vec<_> = (opened.0..handle.head(stream).0).map(Position).collect();
    assert_eq!(read(&mut journal).await, BTreeMap::from([(stream, wanted)]));
    engine.stop();
}
