//! Tasks a second through real agents: processes, journals on disk, a supervisor for every command.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::cluster::{create_release, create_token, token, wait_final};
use crate::load::figure::{Bound, Figure, as_f64};
use crate::load::raw;
use crate::load::site::{Site, Stopwatch, TENANT};
use crate::{recipe, wait};

const PHASE: &str = "real";

/// Targets of each agent: as many as it runs side by side.
const TARGETS_EACH: usize = 4;

const VERSION: &str = "1.0.0-real";

/// How long the raw limit is measured.
const RAW_TIME: Duration = Duration::from_secs(3);

/// Runs `/bin/true` this many times on each target of this many agents.
///
/// # Errors
/// If the deployments do not succeed.
pub async fn measure(site: &Site, agents: usize, steps: usize) -> Result<Vec<Figure>> {
    let fleet = start(site, agents).await?;
    let names: Vec<String> = fleet.iter().map(|agent| agent.name().to_owned()).collect();
    let steps_of_release =
        (0..steps).map(|number| recipe::program(&format!("step-{number}"), &["/bin/true"])).collect();
    create_release(&site.api, TENANT, &recipe::release(VERSION, &[], steps_of_release)).await?;
    let environments: Vec<String> = (0..TARGETS_EACH).map(|number| format!("real-{number}")).collect();
    for environment in &environments {
        site.environment(environment, &names).await?;
    }
    let control_plane = Stopwatch::start(site.control_plane.pid()?)?;
    let start = Instant::now();
    let deployments = environments.iter().map(|environment| async move {
        let order = recipe::all_at_once(environment, VERSION);
        let id = site.api.deploy(TENANT, &order, None).await?.deployment.id;
        let ended = wait_final(&site.api, TENANT, &id).await?;
        anyhow::ensure!(ended.deployment.status == "succeeded", "{:?}", ended.deployment);
        anyhow::Ok(())
    });
    futures::future::try_join_all(deployments).await?;
    let elapsed = start.elapsed().as_secs_f64();
    let used = control_plane.processors()?;
    drop(fleet);
    let tasks = as_f64(u64::try_from(agents * TARGETS_EACH * steps)?);
    let what = format!("/bin/true through {agents} real agents, {tasks:.0} tasks");
    let bare = raw::spawns(RAW_TIME)?;
    Ok(vec![
        Figure::new(PHASE, what, tasks / elapsed, "a second")
            .beside("bare spawn and wait", bare)
            .goal(Bound::RatioFloor(0.5)),
        Figure::new(PHASE, "control plane processor time meanwhile", used * 100.0, "% of a core"),
    ])
}

async fn start(site: &Site, agents: usize) -> Result<Vec<Agent>> {
    let mut fleet = Vec::new();
    for number in 0..agents {
        let name = format!("real-{number}");
        let mut agent = Agent::new(site.folder(), &name, &site.control_plane.agents_address())?;
        let invitation = create_token(&site.api, TENANT, &token(Some(&name), 1)).await?;
        agent.enrol(&invitation.token.context("the token is not in the answer")?)?;
        agent.start()?;
        fleet.push(agent);
    }
    for agent in &fleet {
        wait::until("the agent is online", async || {
            anyhow::ensure!(site.api.agent(TENANT, agent.name()).await?.connectivity == "online");
            Ok(())
        })
        .await?;
    }
    Ok(fleet)
}
