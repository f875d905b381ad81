//! From the journal to the bus.

use std::io;
use std::time::{Duration, Instant};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_engine::{CommittedEvent, Handle, ReadError};
use stella_readers::follow::{Begin, Follower};
use stella_readers::place::{Places, StateFile};
use stella_readers::retry::Retry;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Message};
use crate::event::CloudEvent;

/// How many events are on their way at a time: enough to hide the round trip, few enough to be held in memory while the bus is away.
const PAGE_EVENTS: usize = 256;
/// How often the place is saved while events flow. What was sent since is sent again after a crash, with the same ids.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The first wait after the bus has failed.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest. A bus that is back should not wait much longer for the news.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Sends what is in the journal to a bus.
#[derive(Debug)]
pub struct Publisher<B> {
    bus: B,
    source: String,
    follower: Follower,
    file: StateFile,
    saved: Places,
    last_save: Option<Instant>,
    cannot_save: bool,
    is_away: bool,
    retry: Retry,
}

impl<B: Bus> Publisher<B> {
    /// Goes on where the file says. `source` is what the installation is called in events.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn start(
        engine: Handle,
        file: StateFile,
        bus: B,
        source: String,
        begin: Begin,
    ) -> Result<Self, ReadError> {
        describe();
        let loaded = file.load::<Places>().unwrap_or_else(|error| {
            tracing::warn!(file = %file.path().display(), %error, "how far events were published cannot be read; all of them are published again");
            Some(Places::default())
        });
        let follower = Follower::start(engine, loaded, begin).await?;
        let retry = Retry::new(RETRY_FIRST, RETRY_MAX);
        let saved = Places::default();
        let (last_save, cannot_save, is_away) = (None, false, false);
        let mut publisher =
            Self { bus, source, follower, file, saved, last_save, cannot_save, is_away, retry };
        // "From now on" is a fact from now on, also if the process ends before it has published anything.
        publisher.save().await;
        Ok(publisher)
    }

    /// Publishes until `until` is cancelled. What is in the journal then is published at the next start.
    pub async fn run(mut self, until: CancellationToken) {
        loop {
            // Outside of what can be cut off: two writers of one file would get into each other's way.
            if self.until_save() == Some(Duration::ZERO) {
                self.save().await;
            }
            if until.run_until_cancelled(self.step()).await != Some(true) {
                break;
            }
        }
        self.save().await;
    }

    /// How long until the place is to be saved; `None` if the file has it.
    fn until_save(&self) -> Option<Duration> {
        let since = self.last_save.map_or(SAVE_INTERVAL, |at| at.elapsed());
        (self.saved != *self.follower.places()).then(|| SAVE_INTERVAL.saturating_sub(since))
    }

    /// One page, or one wait. `false` if nothing more will come. It may be dropped at any time: what it has not passed comes again.
    async fn step(&mut self) -> bool {
        let page = match self.follower.page(PAGE_EVENTS).await {
            Ok(page) => page,
            Err(error) => {
                self.failed(&error);
                tokio::time::sleep(self.retry.next_wait()).await;
                return true;
            }
        };
        self.measure(&page);
        let Some(last) = page.last() else {
            let until_save = self.until_save();
            let committed = self.follower.committed();
            return match until_save {
                None => committed.await,
                Some(wait) => tokio::time::timeout(wait, committed).await.unwrap_or(true),
            };
        };
        let messages = messages(&self.source, &self.follower.engine().state(), &page);
        let started = Instant::now();
        match self.bus.publish(&messages).await {
            Ok(()) => {
                histogram!("stella_event_bus_publish_duration_seconds").record(started.elapsed());
                counter!("stella_event_bus_events_total", "result" => "published").increment(count(&page));
                self.follower.pass(last);
                self.succeeded();
            }
            Err(error) => {
                counter!("stella_event_bus_events_total", "result" => "failed").increment(count(&page));
                self.failed(&error);
                tokio::time::sleep(self.retry.next_wait()).await;
            }
        }
        true
    }

    fn measure(&self, page: &[CommittedEvent]) {
        let behind = self.follower.behind();
        let age = Follower::first_at(page).map(|at| self.follower.engine().now().since(at));
        #[expect(clippy::cast_precision_loss, reason = "a lag is looked at with two digits")]
        gauge!("stella_event_bus_lag_events").set(behind as f64);
        gauge!("stella_event_bus_lag_seconds").set(age.unwrap_or_default().as_secs_f64());
        gauge!("stella_event_bus_up").set(f64::from(u8::from(!self.is_away)));
    }

    fn succeeded(&mut self) {
        self.retry.succeeded();
        if std::mem::take(&mut self.is_away) {
            tracing::info!(waiting = self.follower.behind(), "the event bus takes events again");
        }
    }

    /// Said once for each time that it begins to fail.
    fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        gauge!("stella_event_bus_up").set(0.0);
        if !std::mem::replace(&mut self.is_away, true) {
            tracing::warn!(error, "events are not published; they wait in the journal");
        }
    }

    async fn save(&mut self) {
        let (file, places) = (self.file.clone(), self.follower.places().clone());
        let written = tokio::task::spawn_blocking(move || file.save(&places).map(|()| places)).await;
        self.last_save = Some(Instant::now());
        match written.map_err(io::Error::other).flatten() {
            Ok(places) => {
                self.saved = places;
                self.cannot_save = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.cannot_save, true) {
                    tracing::warn!(file = %self.file.path().display(), %error, "how far events were published cannot be saved; a restart publishes some again");
                }
            }
        }
    }
}

fn describe() {
    describe_gauge!("stella_event_bus_lag_events", "Durable events that the event bus does not have yet");
    describe_gauge!(
        "stella_event_bus_lag_seconds",
        Unit::Seconds,
        "How old the oldest event is that the event bus does not have yet"
    );
    describe_gauge!("stella_event_bus_up", "1 while the event bus takes events, else 0");
    describe_counter!("stella_event_bus_events_total", "Events that were sent to the event bus, by result");
    describe_histogram!(
        "stella_event_bus_publish_duration_seconds",
        Unit::Seconds,
        "How long the event bus took to acknowledge up to 256 events"
    );
}

fn count(page: &[CommittedEvent]) -> u64 {
    u64::try_from(page.len()).unwrap_or(u64::MAX)
}

fn messages(source: &str, state: &State, page: &[CommittedEvent]) -> Vec<Message> {
    let message = |committed: &CommittedEvent| {
        let tenant = match committed.stream {
            StreamId::System => None,
            StreamId::Tenant(tenant) => state.tenants.get(&tenant).map(AsRef::as_ref),
        };
        let event = CloudEvent::new(source, committed, tenant);
        let subject = match tenant.map(|tenant| &tenant.name) {
            None => format!("system.{}", committed.event.fact.name()),
            // A dot would be two levels of the subject.
            Some(name) => {
                format!("tenant.{}.{}", name.as_str().replace('.', "%2E"), committed.event.fact.name())
            }
        };
        let short = event.without_data(committed.stream, committed.position).to_bytes().into();
        Message { id: event.id.clone(), subject, body: event.to_bytes().into(), short }
    };
    page.iter().map(message).collect()
}
