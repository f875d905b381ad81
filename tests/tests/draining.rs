//! A host is taken out of rotation while it is at work, patched, and brought back.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_api_types::deployment::OnFailure;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::people::Shell;
use stella_tests::recipe::{all_at_once, release, rolling, shell};
use stella_tests::wait;

/// Waits for its gate.
const GATED: &str = "echo first >> ran; until [ -e gate ]; do sleep 0.05; done";

fn open_gate(cluster: &Cluster, agent: usize) -> Result<()> {
    Ok(std::fs::write(cluster.agents[agent].host_root().join("gate"), "")?)
}

async fn metric(cluster: &Cluster) -> Result<String> {
    let metrics = cluster.control_plane.metrics().await?;
    let line = metrics.lines().find_map(|it| it.strip_prefix("stella_agents_draining{tenant=\"acme\"} "));
    Ok(line.context("there is no such metric")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_drained_under_a_deployment_patched_and_brought_back() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let boss = Shell::of(&cluster, "boss", "operator").await?;
    let steps = vec![shell("work", GATED), shell("after", "echo second >> ran")];
    cluster.release(&release("1.0.0", &[], steps)).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("work", "echo two >> ran")])).await?;
    let started = cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), None).await?;
    let id = started.deployment.id;
    cluster.wait_task(&id, "web-1", "work", "running").await?;

    // The first is in the middle of its work, the third has not begun.
    let said = boss.ok(&["agent", "drain", "web-1", "--reason", "kernel"])?;
    ensure!(said.contains("web-1 is draining: something is under way on 1 target"), "{said}");
    let said = boss.ok(&["agent", "drain", "web-3", "--reason", "disk"])?;
    ensure!(said.contains("web-3 is drained: nothing goes on there"), "{said}");
    let said = boss.ok(&["agent", "list"])?;
    ensure!(said.contains("online, draining") && said.contains("online, drained"), "{said}");
    let said = boss.ok(&["agent", "show", "web-3"])?;
    ensure!(said.contains("out of it since") && said.contains("disk"), "{said}");
    let said = boss.ok(&["target", "list"])?;
    ensure!(said.matches(", draining").count() == 2, "{said}");
    ensure!(metric(&cluster).await? == "2", "both are counted");

    // Somebody waits for the end of what is under way, which has a step to go.
    let mut waits = boss.command(&["agent", "drain", "web-1", "--reason", "kernel", "--wait"])?.spawn()?;
    open_gate(&cluster, 0)?;
    ensure!(waits.wait()?.success(), "it is drained in the end");
    ensure!(cluster.agents[0].read("ran").lines().eq(["first", "second"]), "what was begun has ended");
    open_gate(&cluster, 1)?;
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "succeeded" && ended.deployment.counts.skipped == 1, "{ended:?}");
    let third = ended.targets.iter().find(|it| it.target.name == "web-3").context("it is listed")?;
    ensure!(third.reason.as_deref() == Some("its agent web-3 is draining: disk"), "{third:?}");
    ensure!(cluster.agents[2].read("ran").is_empty(), "nothing has begun there");

    // Patched, and rebooted: neither a restart of the host nor one of the control plane brings it back.
    let token = boss.token();
    cluster.agents[0].stop()?;
    cluster.control_plane.stop()?;
    cluster.control_plane.resume().await?;
    cluster.agents[0].start()?;
    for name in ["web-1", "web-2", "web-3"] {
        cluster.wait_online(name).await?;
    }
    let boss = Shell::again(&cluster, token);
    let plan = boss.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--plan"])?;
    ensure!(plan.contains("its agent web-1 is draining (kernel): it would be left out"), "{plan}");
    let ended = cluster.deploy(&all_at_once(ENVIRONMENT, "2.0.0")).await?;
    ensure!(ended.deployment.counts.skipped == 2 && ended.deployment.counts.succeeded == 1, "{ended:?}");
    ensure!(!cluster.agents[0].read("ran").contains("two"), "nothing new has begun there");

    for name in ["web-1", "web-3", "web-3"] {
        let said = boss.ok(&["agent", "undrain", name])?;
        ensure!(said.contains(&format!("agent {name} is in rotation")), "{said}");
    }
    let ended = cluster.deploy(&all_at_once(ENVIRONMENT, "2.0.0")).await?;
    ensure!(ended.deployment.counts.succeeded == 3, "{ended:?}");
    ensure!(metric(&cluster).await? == "0", "none is counted");
    let events = cluster.api.events(TENANT).await?;
    let told: Vec<&str> =
        events.iter().map(|it| it.kind.as_str()).filter(|it| it.contains("drain")).collect();
    ensure!(told.len() == 4, "one event for each change, and none for a repetition: {told:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_waits_for_a_host_that_is_out_of_rotation() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let boss = Shell::of(&cluster, "boss", "operator").await?;
    cluster.release(&release("1.0.0", &[], vec![shell("work", "echo one >> ran")])).await?;
    let breaks = "echo two >> ran; [ ! -e bad ] || { until [ -e gate ]; do sleep 0.05; done; exit 1; }";
    cluster.release(&release("2.0.0", &[], vec![shell("work", breaks)])).await?;
    cluster.deploy(&all_at_once(ENVIRONMENT, "1.0.0")).await?;
    std::fs::write(cluster.agents[1].host_root().join("bad"), "")?;
    let mut order = all_at_once(ENVIRONMENT, "2.0.0");
    order.on_failure = OnFailure::Rollback;
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    cluster.wait_task(&id, "web-1", "work", "succeeded").await?;
    cluster.wait_task(&id, "web-2", "work", "running").await?;
    boss.ok(&["agent", "drain", "web-1", "--reason", "kernel", "--wait"])?;
    open_gate(&cluster, 1)?;
    let ended = cluster.wait_final(&id).await?;
    let back = ended.rollbacks.first().context("it is taken back")?.clone();
    let waits = wait::until("the other is back, and this one waits", async || {
        let found = cluster.api.deployment(TENANT, &back).await?;
        ensure!(found.deployment.counts.succeeded == 1 && found.deployment.counts.active == 1, "{found:?}");
        Ok(found)
    })
    .await?;
    let reason = waits.targets.iter().find_map(|it| it.reason.clone()).unwrap_or_default();
    ensure!(reason == "waits for its agent web-1, which is draining: kernel", "{reason}");
    ensure!(cluster.agents[0].read("ran").lines().eq(["one", "two"]), "nothing was sent there");
    let said = boss.ok(&["agent", "show", "web-1", "--output", "json"])?;
    let said: Value = serde_json::from_str(&said)?;
    ensure!(said["draining"]["waiting"] == 1 && said["draining"]["under_way"] == 0, "{said}");
    boss.ok(&["agent", "undrain", "web-1"])?;
    ensure!(cluster.wait_final(&back).await?.deployment.status == "succeeded", "both are back");
    let ran = cluster.agents[0].read("ran");
    ensure!(ran.lines().eq(["one", "two", "one"]), "{ran}");
    cluster.passed()
}
