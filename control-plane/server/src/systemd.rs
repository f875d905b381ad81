//! What systemd is told: that the control plane is ready, that it stops, and that it makes progress. Without systemd there is
//! nobody to tell.

use std::time::Duration;

use sd_notify::NotifyState;
use stella_domain::command::{Actor, Command, Request};
use stella_domain::listening::Listening;
use stella_engine::{Handle, SubmitError};
use stella_protocol::trace::TraceContext;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How long to wait before a full queue is tried again: it moves as long as the writer does.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// All listeners are bound.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// The end has begun.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Feeds the watchdog, if the unit has one, each time that the writer loop has answered and what it wrote before is on disk.
pub(crate) async fn feed_watchdog(engine: Handle, shutdown: CancellationToken) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let feeding = feed(patience / 3, || answers(&engine), || tell(NotifyState::Watchdog));
    shutdown.run_until_cancelled(feeding).await;
}

/// Feeds after each answer, and never without one. Ends once there will be no more answers.
async fn feed<Answer: Future<Output = bool>>(period: Duration, ask: impl Fn() -> Answer, feed: impl Fn()) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !ask().await {
            return;
        }
        feed();
    }
}

/// Waits for the writer loop's answer; `false` once there will be none.
async fn answers(engine: &Handle) -> bool {
    loop {
        match engine.submit(tick()).await {
            Err(SubmitError::Overloaded) => sleep(FULL_QUEUE_PAUSE).await,
            Err(SubmitError::Stopping) => return false,
            // A refusal is an answer too: a full disk is for an operator, not for a restart.
            Ok(_) | Err(SubmitError::Rejected(_) | SubmitError::NoSpace { .. }) => return true,
        }
    }
}

/// What changes nothing and takes its place in the queue.
fn tick() -> Request {
    Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::Tick(Listening::Always),
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(error = &error as &dyn std::error::Error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::pin::pin;
    use std::sync::Arc;

    use parking_lot::{Condvar, Mutex};
    use stella_domain::command::SystemCommand;
    use stella_engine::{Config, Engine};
    use stella_journal::{
        Append, AppendError, Archive, Entry, Head, Journal, JournalConfig, ReadError, SledJournal, Snapshot,
        SnapshotError, Stream,
    };
    use stella_protocol::digest::Digest;
    use stella_protocol::id::{Epoch, Incarnation, Position, TenantId};
    use stella_protocol::time::Timestamp;
    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A disk whose writes hang while the gate is shut.
    #[derive(Debug)]
    struct Hanging {
        disk: SledJournal,
        gate: Mutex<Gate>,
        opened: Condvar,
    }

    #[derive(Debug, Default)]
    struct Gate {
        is_shut: bool,
        somebody_waits: bool,
    }

    impl Hanging {
        fn set(&self, is_shut: bool) {
            self.gate.lock().is_shut = is_shut;
            self.opened.notify_all();
        }

        fn pass(&self) {
            let mut gate = self.gate.lock();
            gate.somebody_waits = gate.is_shut;
            self.opened.wait_while(&mut gate, |gate| gate.is_shut);
        }
    }

    impl Journal for Hanging {
        fn incarnation(&self) -> Incarnation {
            self.disk.incarnation()
        }

        fn epoch(&self) -> Epoch {
            self.disk.epoch()
        }

        fn begin_epoch(&self) -> Result<Epoch, AppendError> {
            self.disk.begin_epoch()
        }

        fn heads(&self) -> BTreeMap<Stream, Head> {
            self.disk.heads()
        }

        fn last_time(&self) -> Timestamp {
            self.disk.last_time()
        }

        fn append(&self, epoch: Epoch, at: Timestamp, appends: &[Append]) -> Result<Vec<Head>, AppendError> {
            self.pass();
            self.disk.append(epoch, at, appends)
        }

        fn read(&self, stream: Stream, from: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
            self.disk.read(stream, from, limit)
        }

        fn hash_at(&self, stream: Stream, position: Position) -> Result<Option<Digest>, ReadError> {
            self.disk.hash_at(stream, position)
        }

        fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
            self.disk.save_snapshot(snapshot)
        }

        fn load_snapshot(&self) -> Result<Option<Snapshot>, ReadError> {
            self.disk.load_snapshot()
        }

        fn archive(&self) -> &dyn Archive {
            self.disk.archive()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_after_each_answer_and_never_without_one() {
        let fed = Cell::new(0);
        let count = || fed.set(fed.get() + 1);
        let mut feeding = pin!(feed(SECOND, || std::future::ready(true), count));
        timeout(SECOND * 10, feeding.as_mut()).await.expect_err("it has ended");
        assert!((10..=11).contains(&fed.get()), "fed {} times in ten seconds", fed.get());

        fed.set(0);
        let mut feeding = pin!(feed(SECOND, std::future::pending, count));
        timeout(HOUR, feeding.as_mut()).await.expect_err("it has ended");
        assert_eq!(fed.get(), 0, "fed while nobody answered");

        timeout(HOUR, feed(SECOND, || std::future::ready(false), count)).await.unwrap();
        assert_eq!(fed.get(), 0, "fed after the end");
    }

    /// What is asked is the writer loop: with a write that hangs, it does not answer.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_writer_answers_only_while_its_disk_does() {
        let folder = tempfile::tempdir().unwrap();
        let settings = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        let disk = SledJournal::open(folder.path(), settings).unwrap();
        let journal = Arc::new(Hanging { disk, gate: Mutex::default(), opened: Condvar::new() });
        let engine = Engine::start(Arc::clone(&journal) as Arc<dyn Journal>, Config::default()).unwrap();
        let handle = engine.handle();
        assert!(answers(&handle).await);
        journal.set(true);
        let writing = tokio::spawn({
            let handle = handle.clone();
            let (id, name) = (TenantId(uuid::Uuid::from_u128(1)), "acme".parse().unwrap());
            let command = Command::System(SystemCommand::CreateTenant { id, name });
            async move { handle.submit(Request { command, ..tick() }).await }
        });
        while !journal.gate.lock().somebody_waits {
            sleep(Duration::from_millis(1)).await;
        }
        let mut asking = pin!(answers(&handle));
        let early = timeout(SECOND, asking.as_mut()).await;
        // Before anything may fail: the engine's threads are waited for.
        journal.set(false);
        assert!(early.is_err(), "it answered although nothing reached the disk");
        assert!(asking.await, "it goes on when the disk does");
        writing.await.unwrap().unwrap();
        engine.stop();
    }
}
