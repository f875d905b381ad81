//! The control plane is away for longer than an agent may be, in order or by a crash, and makes nothing of a silence that is its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::event::Event as Happened;
use stella_domain::agent::RECONNECT_WINDOW_MS;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Event, Pager};
use stella_tests::wait;

/// Longer than what agents have to come back in after a start, the reconnect window and the wait of a notification together.
const OFFLINE_PATIENCE: Duration = Duration::from_secs(180);

/// What is said of agents that are not there.
const ALARMS: [&str; 3] = ["agent_disconnected", "agent_offline", "environment_went_silent"];

/// A cluster whose environment takes a fifth of its agents for a network event, and whose operators are told of all.
async fn watched(agents: usize, pager: &Pager) -> Result<Cluster> {
    let tables = format!(
        "[[notifications.receivers]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{}\"\n\
         [[notifications.routes]]\nreceivers = [\"hook\"]\nwait_s = 0\n",
        pager.hook_url()
    );
    let cluster = Cluster::with_settings(agents, &Settings { tables, ..Settings::default() }).await?;
    let rule = ["env", "silence", ENVIRONMENT, "--share", "20", "--within", "60"];
    let (code, said) = cluster.stella(&rule)?;
    ensure!(code == Some(0), "{said}");
    Ok(cluster)
}

/// How many sessions each agent has had.
async fn sessions(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for agent in &cluster.agents {
        let agent = cluster.api.agent(TENANT, agent.name()).await?;
        all.insert(agent.name, agent.session);
    }
    Ok(all)
}

/// Waits until each of these agents has a session that it did not have before.
async fn wait_back(cluster: &Cluster, before: &BTreeMap<String, u64>, names: &[&str]) -> Result<()> {
    wait::until("the agents are back", async || {
        let now = sessions(cluster).await?;
        ensure!(names.iter().all(|name| now[*name] > before[*name]), "{before:?} {now:?}");
        Ok(())
    })
    .await
}

/// The alarms there were, with whom they are about.
async fn alarms(cluster: &Cluster) -> Result<Vec<(String, Option<String>)>> {
    let events = cluster.api.events(TENANT).await?;
    let raised = events.into_iter().filter(|event: &Happened| ALARMS.contains(&event.kind.as_str()));
    Ok(raised.map(|event| (event.kind, event.about.get("agent").cloned())).collect())
}

/// What the operators were told.
fn told(pager: &Pager) -> Vec<String> {
    let bodies = pager.events().into_iter().filter_map(|event| match event {
        Event::Hooked { body, .. } => Some(body),
        Event::Paged(_) | Event::Chatted(_) => None,
    });
    bodies.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_for_longer_than_the_reconnect_window_alarms_nobody() -> Result<()> {
    let pager = Pager::start().await?;
    let mut cluster = watched(3, &pager).await?;
    let before = sessions(&cluster).await?;
    cluster.control_plane.stop()?;
    // This is what it is about: that time passes.
    tokio::time::sleep(Duration::from_millis(RECONNECT_WINDOW_MS + 2_000)).await;
    cluster.control_plane.resume().await?;
    wait_back(&cluster, &before, &["web-1", "web-2", "web-3"]).await?;
    let raised = alarms(&cluster).await?;
    ensure!(raised.is_empty(), "{raised:?}");
    ensure!(told(&pager).is_empty(), "{:?}", told(&pager));
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_agents_have_their_time_and_the_one_that_died_meanwhile_is_missed() -> Result<()> {
    let pager = Pager::start().await?;
    let mut cluster = watched(3, &pager).await?;
    let before = sessions(&cluster).await?;
    cluster.control_plane.kill()?;
    cluster.agents[2].kill()?;
    cluster.control_plane.resume().await?;
    wait_back(&cluster, &before, &["web-1", "web-2"]).await?;
    let raised = alarms(&cluster).await?;
    ensure!(raised.is_empty(), "{raised:?}");

    wait::until_within(OFFLINE_PATIENCE, "the one that died is missed", async || {
        let told = told(&pager);
        told.iter().find(|it| it.contains("agent_offline")).context("nobody was told")?;
        Ok(())
    })
    .await?;
    let raised = alarms(&cluster).await?;
    let dead = Some("web-3".to_owned());
    let expected =
        [("agent_disconnected", dead.clone()), ("environment_went_silent", None), ("agent_offline", dead)];
    let expected: Vec<_> = expected.map(|(kind, agent)| (kind.to_owned(), agent)).into();
    ensure!(raised == expected, "{raised:?}");
    cluster.agents[2].start()?;
    cluster.wait_online("web-3").await?;
    cluster.passed()
}
