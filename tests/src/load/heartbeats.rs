//! The processor time that heartbeating agents cost the control plane, beside a bare QUIC server that gets the same frames.
//!
//! Both are measured over the same time, each with connections of its own: whatever else this machine does is then the
//! same for both, and so is what the load tool takes from them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use stella_protocol::limits::HEARTBEAT_INTERVAL_MS;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::load::figure::{Bound, Figure, as_f64};
use crate::load::fleet::Fleet;
use crate::load::raw;
use crate::load::site::{Site, Stopwatch};
use crate::sim;

const PHASE: &str = "heartbeats";

/// How many connections are made at the same time.
const CONNECTS_AT_ONCE: usize = 64;

/// How many intervals pass before the measurement, so that handshakes are not counted.
const SETTLE_INTERVALS: u32 = 2;

/// Lets as many agents as there are, or `count`, do nothing but heartbeat for a while.
///
/// # Errors
/// If a part of it does not come up.
pub async fn measure(
    site: &Site,
    fleet: &mut Fleet,
    count: usize,
    duration: Duration,
    program: &Path,
) -> Result<Vec<Figure>> {
    fleet.grow_to(site, count).await?;
    let bare = Bare::start(program, site.folder(), fleet.len()).await?;
    sleep(Duration::from_millis(HEARTBEAT_INTERVAL_MS) * SETTLE_INTERVALS).await;
    let (product, raw) = (Stopwatch::start(site.control_plane.pid()?)?, Stopwatch::start(bare.server.pid())?);
    let heartbeats =
        || (fleet.counters.heartbeats.load(Ordering::Relaxed), bare.beats.load(Ordering::Relaxed));
    let before = heartbeats();
    sleep(duration).await;
    let after = heartbeats();
    let (product, raw) = (product.processors()?, raw.processors()?);
    let a_second = |beats: u64| as_f64(beats) / duration.as_secs_f64();
    let (beats, raw_beats) = (a_second(after.0 - before.0), a_second(after.1 - before.1));
    ensure!(beats > 0.0 && raw_beats > 0.0, "there was no heartbeat in {} s", duration.as_secs());
    let circumstances = format!("{} agents, {beats:.0} heartbeats a second", fleet.len());
    Ok(vec![
        Figure::new(
            PHASE,
            format!("control plane processor time of a heartbeat, {circumstances}"),
            product / beats * 1e6,
            "us",
        )
        .beside(format!("bare quinn, same frames, {raw_beats:.0} a second"), raw / raw_beats * 1e6)
        .goal(Bound::RatioCeiling(1.5)),
        Figure::new(
            PHASE,
            format!("control plane processor time, {circumstances}"),
            product * 100.0,
            "% of a core",
        ),
    ])
}

/// A bare server and its heartbeating clients, which end when this is dropped.
struct Bare {
    server: raw::Server,
    beats: Arc<AtomicU64>,
    _clients: JoinSet<()>,
}

impl Bare {
    async fn start(program: &Path, folder: &Path, count: usize) -> Result<Self> {
        let server = raw::Server::start(program, folder)?;
        let endpoint = sim::endpoint()?;
        let connected: Vec<raw::Client> = stream::iter(0..count)
            .map(|_| server.connect(&endpoint, false))
            .buffer_unordered(CONNECTS_AT_ONCE)
            .try_collect()
            .await?;
        let beats = Arc::<AtomicU64>::default();
        let mut clients = JoinSet::new();
        for client in connected {
            clients.spawn(beat(client, Arc::clone(&beats)));
        }
        Ok(Self { server, beats, _clients: clients })
    }
}

async fn beat(mut client: raw::Client, beats: Arc<AtomicU64>) {
    let between = Duration::from_millis(HEARTBEAT_INTERVAL_MS);
    // Spread over the interval, as agents are that have connected one after the other.
    sleep(between.mul_f64(rand::random::<f64>())).await;
    let mut ticks = interval(between);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if client.heartbeat().await.is_err() {
            return;
        }
        beats.fetch_add(1, Ordering::Relaxed);
    }
}
