//! The time until all agents are back after a kill -9 of the control plane.
//!
//! It has three parts: the control plane starts again, the agents notice (silence, as real ones do it), and they come back
//! with jitter. Only what is left is the work of handshakes and journal.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load::figure::Figure;
use crate::load::fleet::Fleet;
use crate::load::site::Site;
use crate::wait;

const PHASE: &str = "reconnect";

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Kills the control plane under this many agents and starts it again at once.
///
/// # Errors
/// If not all of them come back.
pub async fn measure(site: &mut Site, fleet: &mut Fleet, count: usize) -> Result<Vec<Figure>> {
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
    Ok(vec![
        Figure::new(PHASE, "kill -9 -> the control plane is ready", ready.as_secs_f64(), "s"),
        Figure::new(PHASE, format!("kill -9 -> all of {agents} agents are back"), back.as_secs_f64(), "s"),
    ])
}
