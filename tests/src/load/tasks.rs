//! Durable task life cycles a second: created, dispatched, accepted, finished and acknowledged, each durable in the control
//! plane before it is told to anybody. The load comes from deployments with many targets.
//!
//! The simulated agents accept, start and finish a task in one go, so that these three may share a barrier of the control plane; a real
//! agent has a barrier of its own and the work itself in between.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use stella_api_types::deployment::CreateDeployment;

use crate::api::Api;
use crate::cluster::{create_release, wait_final};
use crate::load::figure::{Bound, Figure, as_f64};
use crate::load::fleet::{Counters, Fleet, wait_acknowledged};
use crate::load::raw;
use crate::load::site::{Site, Stopwatch, TENANT};
use crate::recipe;

const PHASE: &str = "tasks";

/// Environments, and so deployments at the same time: while one starts or ends, the others fill the pipe.
const ENVIRONMENTS: usize = 2;

/// How long one deployment may take.
const DEPLOYMENT_TIME_MAX: Duration = Duration::from_secs(120);

/// From how many agents on the figure is judged.
const JUDGED_MIN: usize = 1_000;

/// How long the raw limit is measured.
const RAW_TIME: Duration = Duration::from_secs(2);

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Agents that take part.
    pub agents: usize,
    /// Steps of the release, and so tasks for each target.
    pub steps: usize,
    /// New deployments are started for this long.
    pub duration: Duration,
}

/// Runs deployments back to back.
///
/// # Errors
/// If one of them does not succeed.
pub async fn measure(site: &Site, fleet: &mut Fleet, load: Load) -> Result<Vec<Figure>> {
    fleet.grow_to(site, load.agents).await?;
    let orders = prepare(site, fleet, load).await?;
    let mut disk = raw::Disk::open(site.folder())?;
    let raw_before = disk.appends_a_second(RAW_TIME)?;
    let control_plane = Stopwatch::start(site.control_plane.pid()?)?;
    let tool = Stopwatch::start(std::process::id())?;
    let before = fleet.counters.acknowledged();
    let start = Instant::now();
    let wanted = u64::try_from(load.agents * load.steps)?;
    let rounds = orders.iter().map(|order| repeat(&site.api, order, start, load.duration));
    let deployments: u64 = futures::future::try_join_all(rounds).await?.into_iter().sum();
    wait_acknowledged(&fleet.counters, before + deployments * wanted, DEPLOYMENT_TIME_MAX).await?;
    let elapsed = start.elapsed().as_secs_f64();
    let used = (control_plane.processors()?, tool.processors()?);
    let done = as_f64(fleet.counters.acknowledged() - before);
    // Before and after, because the pace of a disk changes within a minute.
    let raw_rate = f64::midpoint(raw_before, disk.appends_a_second(RAW_TIME)?);
    let circumstances = format!(
        "{} simulated agents (journals in memory, tasks end at once), {deployments} deployments",
        load.agents
    );
    let mut cycles =
        Figure::new(PHASE, format!("durable life cycles, {circumstances}"), done / elapsed, "a second")
            .beside("fdatasync of one append each", raw_rate);
    // The goal is for a thousand agents; few cannot get there.
    if load.agents >= JUDGED_MIN {
        cycles = cycles.goal(Bound::Floor(5_000.0));
    }
    Ok(vec![
        cycles,
        Figure::new(PHASE, "control plane processor time meanwhile", used.0 * 100.0, "% of a core"),
        Figure::new(PHASE, "load tool processor time meanwhile", used.1 * 100.0, "% of a core"),
    ])
}

async fn prepare(site: &Site, fleet: &Fleet, load: Load) -> Result<Vec<CreateDeployment>> {
    let suffix = fleet.counters.acknowledged();
    let version = format!("1.0.{suffix}");
    let steps = (0..load.steps).map(|number| recipe::shell(&format!("step-{number}"), "true")).collect();
    create_release(&site.api, TENANT, &recipe::release(&version, &[], steps)).await?;
    let agents = fleet.ids().get(..load.agents).context("there are not enough agents")?;
    let mut orders = Vec::new();
    for number in 0..ENVIRONMENTS {
        let environment = format!("tasks-{suffix}-{number}");
        site.environment(&environment, agents).await?;
        orders.push(recipe::all_at_once(&environment, &version));
    }
    Ok(orders)
}

/// Repeats a deployment until the time is over; how many there were.
async fn repeat(api: &Api, order: &CreateDeployment, start: Instant, duration: Duration) -> Result<u64> {
    let mut deployments = 0;
    while deployments == 0 || start.elapsed() < duration {
        let id = api.deploy(TENANT, order, None).await?.deployment.id;
        let ended = wait_final(api, TENANT, &id).await?;
        anyhow::ensure!(ended.deployment.status == "succeeded", "{:?}", ended.deployment);
        deployments += 1;
    }
    Ok(deployments)
}

/// Runs deployments until about this many events are in the journal, for measurements that need a long one.
///
/// # Errors
/// If one of them does not succeed.
pub async fn fill_journal(site: &Site, fleet: &mut Fleet, load: Load, events: u64) -> Result<()> {
    /// Queued, dispatched, accepted, started, finished.
    const EVENTS_A_TASK: u64 = 5;
    fleet.grow_to(site, load.agents).await?;
    let orders = prepare(site, fleet, load).await?;
    let enough = |counters: &Counters| counters.acknowledged() * EVENTS_A_TASK >= events;
    while !enough(&fleet.counters) {
        let rounds = orders.iter().map(|order| repeat(&site.api, order, Instant::now(), Duration::ZERO));
        futures::future::try_join_all(rounds).await?;
    }
    Ok(())
}
