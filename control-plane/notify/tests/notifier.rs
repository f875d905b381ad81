//! The notifier on a real journal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stella_domain::command::{Actor, Command, Request, SystemCommand};
use stella_domain::event::StreamId;
use stella_engine::{Config, Engine};
use stella_journal::{JournalConfig, SledJournal};
use stella_notify::book::Book;
use stella_notify::notifier::{Look, Notifier};
use stella_notify::route::Routes;
use stella_protocol::id::{Position, TenantId};
use stella_protocol::trace::TraceContext;
use stella_readers::place::StateFile;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long something may take before it is said to be missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between events: far shorter than that between two saves.
const PAUSE: Duration = Duration::from_millis(100);

/// As the file has it, how far the system's stream was read.
fn saved(file: &Path) -> Position {
    let book = StateFile::new(file.to_owned()).load::<Book>().unwrap().unwrap_or_default();
    book.places.map(|places| places.of(StreamId::System).next).unwrap_or_default()
}

#[tokio::test]
async fn the_place_is_saved_while_there_are_events_that_concern_nobody_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
    let journal = Arc::new(SledJournal::open(&folder.path().join("journal"), config).unwrap());
    let engine = Engine::start(journal, Config::default()).unwrap();
    let file = folder.path().join("notifications.json");
    let (handle, state) = (engine.handle(), StateFile::new(file.clone()));
    let notifier =
        Notifier::start(handle.clone(), state, Vec::new(), Routes(Vec::new()), Look(Arc::new(Vec::new)))
            .await
            .unwrap();
    let until = CancellationToken::new();
    let running = tokio::spawn(notifier.run(until.clone()));

    let (first, started) = (saved(&file), Instant::now());
    let mut number = 0;
    while saved(&file) == first {
        assert!(started.elapsed() < PATIENCE, "{number} events were read, and the file is of before them");
        number += 1;
        let create = SystemCommand::CreateTenant {
            id: TenantId(Uuid::from_u128(number)),
            name: format!("tenant-{number}").parse().unwrap(),
        };
        let (actor, trace) = (Actor::System, TraceContext::default());
        let request = Request { actor, trace, idempotency: None, command: Command::System(create) };
        handle.submit(request).await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    until.cancel();
    running.await.unwrap();
    engine.stop();
}
