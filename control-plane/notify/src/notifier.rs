//! From the journal to the receivers: one task reads, one for each receiver tells.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use parking_lot::Mutex;
use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_engine::{CommittedEvent, Handle, ReadError};
use stella_readers::follow::{Begin, Follower};
use stella_readers::place::StateFile;
use stella_readers::retry::Retry;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::book::{Book, Next};
use crate::incident::{Change, Found, changes, lasting};
use crate::message::Message;
use crate::receiver::{DeliveryError, Receiver};
use crate::route::Routes;

/// How many events are read at a time.
const PAGE_EVENTS: usize = 512;
/// The longest sleep of a receiver's task that waits for a time: the bound on how late it is after the wall clock jumped.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// How long what has changed may be unsaved while nothing of it is sent: after a crash it is read again from the journal.
const CHANGE_UNSAVED_MAX: Duration = Duration::from_secs(1);
/// The same when nothing changed but the place: after a crash, no more than what was read since is read again.
const PLACE_UNSAVED_MAX: Duration = Duration::from_secs(10);
/// How often the control plane itself is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The first wait after the journal could not be read.
const READ_RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest.
const READ_RETRY_MAX: Duration = Duration::from_secs(30);

/// Looks at the control plane itself: what is wrong with it now. It is quick, and asks nobody who may be away.
#[derive(Clone)]
pub struct Look(pub Arc<dyn Fn() -> Vec<Found> + Send + Sync>);

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").finish_non_exhaustive()
    }
}

/// What the tasks share.
struct Shared {
    engine: Handle,
    routes: Routes,
    book: Mutex<Book>,
    /// Changes with the book: wakes the receivers' tasks.
    version: watch::Sender<u64>,
    file: StateFile,
    /// One writer at a time, so that the newest book is the last that is written. Says whether the last write failed.
    saving: tokio::sync::Mutex<bool>,
}

/// Reads the journal and tells receivers.
pub struct Notifier {
    shared: Arc<Shared>,
    follower: Follower,
    receivers: Vec<Receiver>,
    look: Look,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("receivers", &self.receivers).finish_non_exhaustive()
    }
}

impl Notifier {
    /// Goes on where the file says. What lasts since before the first start is taken in, what happened before is not.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn start(
        engine: Handle,
        file: StateFile,
        receivers: Vec<Receiver>,
        routes: Routes,
        look: Look,
    ) -> Result<Self, ReadError> {
        describe();
        let loaded = file.load::<Book>().unwrap_or_else(|error| {
            tracing::warn!(file = %file.path().display(), %error, "what was notified cannot be read and is forgotten; what lasts is told again");
            None
        });
        let (is_first, mut book) = (loaded.is_none(), loaded.unwrap_or_default());
        let follower = Follower::start(engine.clone(), book.places.take(), Begin::Now).await?;
        book.places = Some(follower.places().clone());
        let (state, now) = (engine.state(), engine.now());
        let names: BTreeSet<_> = receivers.iter().map(|receiver| receiver.name.as_str()).collect();
        book.reconcile(&names, &state, now);
        if is_first {
            for tenant in state.tenants.values() {
                for incident in lasting(tenant) {
                    book.take(&routes, (tenant.id, &tenant.name), Change::Begins(incident), now);
                }
            }
        }
        let shared = Arc::new(Shared {
            engine,
            routes,
            book: Mutex::new(book),
            version: watch::Sender::new(0),
            file,
            saving: tokio::sync::Mutex::new(false),
        });
        shared.save().await;
        Ok(Self { shared, follower, receivers, look })
    }

    /// Reads and tells until `until` is cancelled. What is not told then is told after the next start.
    pub async fn run(self, until: CancellationToken) {
        let Self { shared, follower, receivers, look } = self;
        let mut tasks = JoinSet::new();
        for receiver in receivers {
            let (shared, until) = (Arc::clone(&shared), until.clone());
            tasks.spawn(async move {
                let name = receiver.name.clone();
                tell(shared, receiver, until).await;
                // If it is told no more, nothing of it waits.
                measure(&name, 0, 0);
            });
        }
        let told = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(defect) = ended.map_err(JoinError::try_into_panic)
                    && let Ok(panic) = defect
                {
                    // It is this part's own.
                    std::panic::resume_unwind(panic);
                }
            }
        };
        tokio::join!(read(&shared, follower, &until), watch(&shared, &look, &until), told);
        shared.save().await;
    }
}

async fn read(shared: &Shared, mut follower: Follower, until: &CancellationToken) {
    let mut retry = Retry::new(READ_RETRY_FIRST, READ_RETRY_MAX);
    let mut cannot_read = false;
    let mut unsaved = Unsaved::default();
    loop {
        if unsaved.wait(Instant::now()).is_zero() {
            unsaved = Unsaved::default();
            shared.save().await;
        }
        let page = match until.run_until_cancelled(follower.page(PAGE_EVENTS)).await {
            None => return,
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                if !std::mem::replace(&mut cannot_read, true) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "notifications cannot be made: the journal cannot be read"
                    );
                }
                if until.run_until_cancelled(tokio::time::sleep(retry.next_wait())).await.is_none() {
                    return;
                }
                continue;
            }
        };
        cannot_read = false;
        retry.succeeded();
        let Some(last) = page.last() else {
            let committed = tokio::time::timeout(unsaved.wait(Instant::now()), follower.committed());
            match until.run_until_cancelled(committed).await {
                None | Some(Ok(false)) => return,
                Some(Ok(true) | Err(_)) => {}
            }
            continue;
        };
        follower.pass(last);
        let is_news = shared.take(&page, &follower);
        unsaved.note(is_news, Instant::now());
        if is_news {
            // Whoever sends something of it saves it first.
            shared.version.send_modify(|version| *version += 1);
        }
    }
}

/// When the file has to be written at the latest; never if it has everything. It is written whole and made durable, so that a flood of
/// changes must not have it written for each.
#[derive(Clone, Copy, Debug, Default)]
struct Unsaved(Option<Instant>);

impl Unsaved {
    fn note(&mut self, is_news: bool, now: Instant) {
        let due = now + if is_news { CHANGE_UNSAVED_MAX } else { PLACE_UNSAVED_MAX };
        self.0 = Some(self.0.map_or(due, |before| before.min(due)));
    }

    fn wait(self, now: Instant) -> Duration {
        self.0.map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }
}

/// Looks at the control plane itself again and again.
async fn watch(shared: &Shared, look: &Look, until: &CancellationToken) {
    loop {
        let (found, now) = ((look.0)(), shared.engine.now());
        let is_news = shared.book.lock().stand(&shared.routes, &found, now);
        if is_news {
            shared.save().await;
            shared.version.send_modify(|version| *version += 1);
        }
        if until.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Tells one receiver what is due, one message after the other.
async fn tell(shared: Arc<Shared>, receiver: Receiver, until: CancellationToken) {
    let mut version = shared.version.subscribe();
    let mut is_away = false;
    loop {
        version.borrow_and_update();
        let now = shared.engine.now();
        let (next, (open, late)) = {
            let mut book = shared.book.lock();
            (book.next(&receiver.name, now), book.figures(&receiver.name))
        };
        measure(&receiver.name, open, late);
        let changed = version.changed();
        let wait = match next {
            Next::Send { message, is_first } => {
                if is_first {
                    shared.save().await;
                }
                let Some(told) = until.run_until_cancelled(receiver.tell(&message)).await else { return };
                settle(&shared, &receiver.name, &message, told, &mut is_away).await;
                continue;
            }
            Next::WaitUntil(at) => at.since(now).min(SLEEP_MAX),
            Next::Nothing => SLEEP_MAX,
        };
        if until.run_until_cancelled(tokio::time::timeout(wait, changed)).await.is_none() {
            return;
        }
    }
}

/// Notes what became of a message. That it was delivered is saved before anything else is sent: it is not told twice.
async fn settle(
    shared: &Shared,
    name: &str,
    message: &Message,
    told: Result<Option<String>, DeliveryError>,
    is_away: &mut bool,
) {
    let now = shared.engine.now();
    let count = |result: &'static str| {
        counter!("stella_notifications_total", "receiver" => name.to_owned(), "result" => result)
            .increment(1);
    };
    match told {
        Ok(answer) => {
            shared.book.lock().delivered(message, now);
            shared.save().await;
            if answer.is_some() {
                count("delivered");
                tracing::info!(
                    receiver = name,
                    status = message.status(),
                    kind = message.kind.name(),
                    title = message.title(),
                    event = "notification.sent",
                    "Notification sent"
                );
            }
            if std::mem::take(is_away) {
                tracing::info!(receiver = name, "notifications are delivered again");
            }
        }
        Err(error) => {
            count("failed");
            shared.book.lock().failed(message, now);
            if !std::mem::replace(is_away, true) {
                tracing::warn!(receiver = name, %error, "notifications are not delivered; they are tried again");
            }
        }
    }
}

impl Shared {
    /// Takes a page of events. Whether it is anybody's concern.
    fn take(&self, page: &[CommittedEvent], follower: &Follower) -> bool {
        let state: Arc<State> = self.engine.state();
        let now = self.engine.now();
        let mut book = self.book.lock();
        let mut changed = false;
        for committed in page {
            let StreamId::Tenant(id) = committed.stream else { continue };
            let Some(tenant) = state.tenants.get(&id) else { continue };
            for change in changes(tenant, &committed.event.fact, committed.event.at) {
                changed |= book.take(&self.routes, (id, &tenant.name), change, now);
            }
        }
        book.places = Some(follower.places().clone());
        changed
    }

    async fn save(&self) {
        let mut fails = self.saving.lock().await;
        let (file, book) = (self.file.clone(), self.book.lock().clone());
        let written = tokio::task::spawn_blocking(move || file.save(&book)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => *fails = false,
            Err(error) => {
                if !std::mem::replace(&mut *fails, true) {
                    tracing::warn!(file = %self.file.path().display(), %error, "what was notified cannot be saved; a restart may tell it again");
                }
            }
        }
    }
}

fn describe() {
    describe_counter!(
        "stella_notifications_total",
        "Messages to a receiver of notifications, by result; a message that is tried again counts again"
    );
    describe_gauge!(
        "stella_notifications_open",
        "Incidents that a receiver of notifications is concerned with"
    );
    describe_gauge!("stella_notifications_late", "Messages that could not be delivered to a receiver so far");
}

#[expect(clippy::cast_precision_loss, reason = "counts of a fleet are far below 2^52")]
fn measure(receiver: &str, open: usize, late: usize) {
    gauge!("stella_notifications_open", "receiver" => receiver.to_owned()).set(open as f64);
    gauge!("stella_notifications_late", "receiver" => receiver.to_owned()).set(late as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is saved in ten seconds with a page each millisecond.
    fn saves(is_news: impl Fn(u64) -> bool) -> usize {
        let start = Instant::now();
        let mut unsaved = Unsaved::default();
        let is_saved = |at: &u64| {
            let now = start + Duration::from_millis(*at);
            let is_due = unsaved.wait(now).is_zero();
            if is_due {
                unsaved = Unsaved::default();
            }
            unsaved.note(is_news(*at), now);
            is_due
        };
        (0..=10_000).filter(is_saved).count()
    }

    #[test]
    fn a_flood_of_changes_is_saved_once_a_second_and_a_place_alone_less_often() {
        assert_eq!(Unsaved::default().wait(Instant::now()), Duration::MAX);
        assert_eq!(saves(|_| true), 10);
        assert_eq!(saves(|_| false), 1);
        assert_eq!(saves(|at| at == 5_000), 1, "what has changed does not wait as long as the place");
    }
}
