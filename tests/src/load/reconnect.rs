//! The time until all agents are back after a kill -9 of the control plane.
//!
//! It has three parts: the control plane starts again, the agents notice (silence, as real ones do it), and they come back
//! with jitter. Only what is left is the work of handshakes and journal; the raw limit is as many bare handshakes at once.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::load::figure::Figure;
use crate::load::fleet::Fleet;
use crate::load::raw;
use crate::load::site::Site;
use crate::{sim, wait};

const PHASE: &str = "reconnect";

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many bare connections are made at the same time.
const CONNECTS_AT_ONCE: usize = 64;

/// Kills the control plane under this many agents and starts it again at once.
///
/// # Errors
/// If not all of them come back.
pub async fn measure(
    site: &mut Site,
    fleet: &mut Fleet,
    count: usize,
    program: &Path,
) -> Result<Vec<Figure>> {
    fleet.grow_to(site, count).await?;
    let wanted = fleet.counters.sessions.load(Ordering::Relaxed) + u64::try_from(fleet.len())?;
    let killed = Instant::now();
    site.control_plane.kill()?;
    site.control_plane.resume_within(PATIENCE).await?;
    let ready = killed.elapsed();
    wait::until_within(PATIENCE, "all agents have a new session", async || {
        let sessions = fleet.counters.sessions.load(Ordering::Relaxed);
        anyhow::ensure!(sessions >= wanted, "{} are missing", wanted - sessions);
        Ok(())
    })
    .await?;
    fleet.wait_online(fleet.len()).await?;
    let back = killed.elapsed();
    let agents = fleet.len();
    let raw = handshakes(program, site.folder(), agents).await?;
    Ok(vec![
        Figure::new(PHASE, "kill -9 -> the control plane is ready", ready.as_secs_f64(), "s"),
        Figure::new(PHASE, format!("kill -9 -> all of {agents} agents are back"), back.as_secs_f64(), "s")
            .beside(format!("bare quinn, {agents} handshakes"), raw.as_secs_f64()),
    ])
}

/// How long a bare server needs for as many handshakes. Keys and certificates are there before, as agents have them.
async fn handshakes(program: &Path, folder: &Path, count: usize) -> Result<Duration> {
    let server = raw::Server::start(program, folder)?;
    let endpoint = sim::endpoint()?;
    let identities = (0..count).map(|_| server.identity()).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let clients: Vec<raw::Client> = stream::iter(&identities)
        .map(|identity| server.connect_as(identity, &endpoint, false))
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await?;
    let elapsed = start.elapsed();
    drop(clients);
    Ok(elapsed)
}
