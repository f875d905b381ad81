//! What heartbeats leave behind: memory and disk of both sides, after many of them and nothing else.
//!
//! A host that nobody deploys to beats 17,280 times a day. Here it beats as fast as the control plane may ask for, so that a day
//! takes half an hour. What a beat leaves is the difference between two looks, the first of them after a part of the beats:
//! what a session needs once is not counted.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use crate::agent::Agent;
use crate::cluster::{create_token, token};
use crate::load::figure::{Bound, Figure, as_f64};
use crate::load::fleet::Fleet;
use crate::load::site::{Site, TENANT};
use crate::{process, wait};

const PHASE: &str = "day";

const AGENT: &str = "beating";

/// How often agents beat here, in milliseconds: the least that the control plane's configuration takes.
pub const HEARTBEAT_INTERVAL_MS: u64 = 100;

/// The share of the beats before the first look.
const SETTLE_SHARE: u32 = 4;

/// How much longer than planned the beats may take on a busy machine.
const PATIENCE: u32 = 20;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// What both sides hold.
struct Look {
    agent_bytes: u64,
    agent_disk_bytes: u64,
    control_plane_bytes: u64,
    events: usize,
    beats: u64,
}

/// Lets a real agent and so many simulated ones beat this often each.
///
/// # Errors
/// If a part of it does not come up, or an agent loses its session.
pub async fn measure(site: &Site, fleet: &mut Fleet, agents: usize, beats: u32) -> Result<Vec<Figure>> {
    let mut agent = Agent::new(site.folder(), AGENT, &site.control_plane.agents_address())?;
    let invitation = create_token(&site.api, TENANT, &token(Some(AGENT), 1)).await?;
    agent.enrol(&invitation.token.context("the token is not in the answer")?)?;
    agent.start()?;
    wait::until("the agent is online", async || {
        ensure!(site.api.agent(TENANT, AGENT).await?.connectivity == "online");
        Ok(())
    })
    .await?;
    fleet.grow_to(site, agents).await?;
    beat(fleet, beats / SETTLE_SHARE).await?;
    let before = Look::take(site, fleet, &agent).await?;
    beat(fleet, beats).await?;
    let after = Look::take(site, fleet, &agent).await?;
    let each = (after.beats - before.beats) / u64::try_from(fleet.len())?.max(1);
    let grown = |before: u64, after: u64| as_f64(after.saturating_sub(before));
    let events = u64::try_from(after.events.saturating_sub(before.events))?;
    let share = format!("after {each} more heartbeats");
    let of_agent = grown(before.agent_bytes, after.agent_bytes) / MEBIBYTE;
    let of_all = grown(before.control_plane_bytes, after.control_plane_bytes) / MEBIBYTE;
    Ok(vec![
        Figure::new(PHASE, format!("memory that a real agent has grown by {share}"), of_agent, "MiB")
            .goal(Bound::Ceiling(1.0)),
        Figure::new(
            PHASE,
            format!("disk that a real agent has taken {share}"),
            grown(before.agent_disk_bytes, after.agent_disk_bytes),
            "bytes",
        )
        .goal(Bound::Ceiling(0.0)),
        Figure::new(
            PHASE,
            format!("memory that the control plane has grown by {share} of each of {} agents", fleet.len()),
            of_all,
            "MiB",
        ),
        Figure::new(PHASE, format!("events written {share}"), as_f64(events), "events")
            .goal(Bound::Ceiling(0.0)),
    ])
}

/// Waits until the simulated agents have sent so many each. The real one is told the same interval.
async fn beat(fleet: &Fleet, beats: u32) -> Result<()> {
    let sent = || fleet.counters.heartbeats.load(Ordering::Relaxed);
    let wanted = sent() + u64::from(beats) * u64::try_from(fleet.len())?;
    let planned = Duration::from_millis(HEARTBEAT_INTERVAL_MS) * beats;
    let sessions = fleet.counters.sessions.load(Ordering::Relaxed);
    wait::until_within(
        planned * PATIENCE + wait::PATIENCE,
        "the agents have sent their heartbeats",
        async || {
            let found = sent();
            ensure!(found >= wanted, "{found} of {wanted} are sent");
            Ok(())
        },
    )
    .await?;
    ensure!(sessions == fleet.counters.sessions.load(Ordering::Relaxed), "an agent has lost its session");
    // The last ones are on their way.
    sleep(Duration::from_millis(HEARTBEAT_INTERVAL_MS) * 2).await;
    Ok(())
}

impl Look {
    async fn take(site: &Site, fleet: &Fleet, agent: &Agent) -> Result<Self> {
        Ok(Self {
            agent_bytes: process::resident_bytes(agent.pid()?)?,
            agent_disk_bytes: bytes_below(&agent.state_dir())?,
            control_plane_bytes: site.resident_bytes()?,
            events: site.api.events(TENANT).await?.len(),
            beats: fleet.counters.heartbeats.load(Ordering::Relaxed),
        })
    }
}

/// How large the files in a folder are, together.
fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let about = fs::symlink_metadata(&path)?;
        bytes += if about.is_dir() { bytes_below(&path)? } else { about.len() };
    }
    Ok(bytes)
}
