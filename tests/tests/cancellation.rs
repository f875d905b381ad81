//! A deployment is cancelled: its hosts say how far the end gets, and one that is cut off holds nothing up.

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::target::Target;
use stella_api_types::task::Task;
use stella_tests::agent::Agent;
use stella_tests::cluster::{self, Cluster, ENVIRONMENT, TENANT};
use stella_tests::process::is_alive;
use stella_tests::recipe::{all_at_once, release, rolling, shell};
use stella_tests::relay::Relay;
use stella_tests::wait;

/// Says who it is, and ends when it is told to.
const LONG: &str = "echo $$ >> pids; exec sleep 600";

/// The same, and does not end when it is told to.
const STUBBORN: &str = "trap '' TERM; echo $$ >> pids; while :; do sleep 0.1; done";

/// A cluster with one agent, `web-1`, on a network that can be cut.
async fn cut_off() -> Result<(Cluster, Relay)> {
    let mut cluster = Cluster::start(0).await?;
    let relay = Relay::to(&cluster.control_plane.agents_address()).await?;
    let mut agent = Agent::new(cluster.folder(), "web-1", &relay.address())?;
    let token = cluster::create_token(&cluster.api, TENANT, &cluster::token(Some("web-1"), 1)).await?;
    agent.enrol(token.token.as_deref().context("the token is not in the answer")?)?;
    cluster::create_target(&cluster.api, TENANT, &cluster::target(ENVIRONMENT, "web-1", "web-1")).await?;
    agent.start()?;
    cluster.agents.push(agent);
    cluster.wait_online("web-1").await?;
    Ok((cluster, relay))
}

async fn task(cluster: &Cluster, id: &str) -> Result<Task> {
    Ok(cluster.api.get(&paths::fill(paths::TASK, &[TENANT, id])).await?)
}

/// Waits until a command has said its process id on a host.
async fn pid(cluster: &Cluster, agent: usize) -> Result<u32> {
    cluster.wait_lines(agent, "pids", 1).await?;
    Ok(cluster.agents[agent].read("pids").trim().parse()?)
}

fn stella(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let (code, said) = cluster.stella(arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {said}");
    Ok(said)
}

async fn quarantined(cluster: &Cluster) -> Result<String> {
    let metrics = cluster.control_plane.metrics().await?;
    let name = "stella_targets_quarantined{tenant=\"acme\",env=\"staging\"} ";
    Ok(metrics.lines().find_map(|it| it.strip_prefix(name)).context("there is no such metric")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_holds_nothing_up_and_its_word_is_heard_when_it_is_back() -> Result<()> {
    let (cluster, relay) = cut_off().await?;
    cluster.release(&release("1.0.0", &[], vec![shell("work", LONG)])).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("work", "echo two >> ran")])).await?;
    let started = cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), None).await?;
    let id = started.deployment.id;
    let work = cluster.wait_task(&id, "web-1", "work", "running").await?.id;
    let command = pid(&cluster, 0).await?;
    relay.cut();
    cluster.wait_connectivity("web-1", "offline").await?;

    // Nobody waits for it; but nobody knows either.
    stella(&cluster, &["deployment", "cancel", &id, "--reason", "wrong one"])?;
    let ended = cluster.api.deployment(TENANT, &id).await?;
    ensure!(ended.deployment.status == "cancelled", "it is over at once: {ended:?}");
    let reason = ended.targets[0].reason.clone().unwrap_or_default();
    ensure!(reason.contains("quarantined") && reason.contains("its agent is offline"), "{reason}");
    let found = task(&cluster, &work).await?;
    ensure!(found.state == "unknown", "{found:?}");
    ensure!(found.cancellation.as_ref().is_some_and(|it| it.state == "unconfirmed"), "{found:?}");
    let target: Target = cluster.api.get(&paths::fill(paths::TARGET, &[TENANT, "web-1"])).await?;
    let quarantine = target.quarantined.context("it is quarantined")?;
    ensure!((&quarantine.task, &quarantine.deployment) == (&work, &id), "{quarantine:?}");
    let said = stella(&cluster, &["target", "show", "web-1"])?;
    ensure!(said.contains(&format!("quarantined  task {work} of deployment {id}")), "{said}");
    ensure!(stella(&cluster, &["target", "list"])?.contains(", quarantined"), "it is seen in the list");
    let said = stella(&cluster, &["task", "show", &work])?;
    ensure!(said.contains("cancelled   unconfirmed; the target is quarantined"), "{said}");
    ensure!(quarantined(&cluster).await? == "1", "it is counted");
    ensure!(is_alive(command), "it does still run there");
    let (code, said) = cluster.stella(&["deploy", "app:2.0.0", ENVIRONMENT, "--all-at-once"])?;
    ensure!(code != Some(0) && said.contains("quarantined"), "nothing comes beside it: {said}");

    // When it is back it is told, ends what runs, and says so.
    relay.mend();
    cluster.wait_online("web-1").await?;
    cluster.wait_task(&id, "web-1", "work", "cancelled").await?;
    ensure!(!is_alive(command), "it is confirmed, so it is gone");
    let found = task(&cluster, &work).await?;
    ensure!(found.cancellation.as_ref().is_some_and(|it| it.state == "confirmed"), "{found:?}");
    let target: Target = cluster.api.get(&paths::fill(paths::TARGET, &[TENANT, "web-1"])).await?;
    ensure!(target.quarantined.is_none() && quarantined(&cluster).await? == "0", "{target:?}");
    let ended = cluster.deploy(&all_at_once(ENVIRONMENT, "2.0.0")).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_what_ignores_it_is_followed_from_the_request_to_the_kill() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("work", STUBBORN)])).await?;
    let started = cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), None).await?;
    let id = started.deployment.id;
    let work = cluster.wait_task(&id, "web-1", "work", "running").await?.id;
    let command = pid(&cluster, 0).await?;
    stella(&cluster, &["deployment", "cancel", &id, "--reason", "wrong one"])?;
    // It has ten seconds before it is killed.
    let said = wait::until("TERM was sent", async || {
        let said = stella(&cluster, &["task", "show", &work])?;
        ensure!(said.contains("ending; TERM was sent"), "{said}");
        Ok(said)
    })
    .await?;
    ensure!(said.contains("unconfirmed at"), "{said}");
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "cancelled" && !is_alive(command), "{ended:?}");
    let found = task(&cluster, &work).await?;
    ensure!(found.cancellation.as_ref().is_some_and(|it| it.state == "confirmed"), "{found:?}");
    let events = cluster.api.events(TENANT).await?;
    let told = events.iter().filter(|it| it.kind == "task_ending");
    let stages: Vec<_> = told.map(|it| it.data["stage"].as_str().unwrap_or_default().to_owned()).collect();
    ensure!(stages == ["delivered", "terminated", "killed"], "{stages:?}");
    cluster.passed()
}
