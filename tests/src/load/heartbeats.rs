//! The processor time that heartbeating agents cost the control plane, beside a bare QUIC server that gets the same frames.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use stella_protocol::limits::HEARTBEAT_INTERVAL_MS;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::load::figure::{Figure, as_f64};
use crate::load::fleet::Fleet;
use crate::load::raw;
use crate::load::site::{Site, Stopwatch};
use crate::sim;

const PHASE: &str = "heartbeats";

/// How many connections are made at the same time.
const CONNECTS_AT_ONCE: usize = 64;

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
    // One interval passes first, so that handshakes are not counted.
    sleep(Duration::from_millis(HEARTBEAT_INTERVAL_MS)).await;
    let watch = Stopwatch::start(site.control_plane.pid()?)?;
    let beats = fleet.counters.heartbeats.load(std::sync::atomic::Ordering::Relaxed);
    sleep(duration).await;
    let product = watch.processors()? * 100.0;
    let beats = fleet.counters.heartbeats.load(std::sync::atomic::Ordering::Relaxed) - beats;
    let raw = raw_percent(program, site.folder(), fleet.len(), duration).await?;
    let a_second = as_f64(beats) / duration.as_secs_f64();
    let what =
        format!("control plane processor time for {} agents, {a_second:.0} heartbeats a second", fleet.len());
    Ok(vec![
        Figure::new(PHASE, what, product, "% of a core")
            .beside("bare quinn, same frames", raw)
            .goal("ratio <= 1.5"),
    ])
}

async fn raw_percent(program: &Path, folder: &Path, count: usize, duration: Duration) -> Result<f64> {
    let server = raw::Server::start(program, folder)?;
    let endpoint = sim::endpoint()?;
    let clients: Vec<raw::Client> = stream::iter(0..count)
        .map(|_| server.connect(&endpoint, false))
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await?;
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let between = Duration::from_millis(HEARTBEAT_INTERVAL_MS);
            sleep(between.mul_f64(rand::random::<f64>())).await;
            let mut ticks = interval(between);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while client.heartbeat().await.is_ok() {
                ticks.tick().await;
            }
        });
    }
    sleep(Duration::from_millis(HEARTBEAT_INTERVAL_MS)).await;
    let watch = Stopwatch::start(server.pid())?;
    sleep(duration).await;
    let percent = watch.processors()? * 100.0;
    tasks.shutdown().await;
    Ok(percent)
}
