//! A metric that goes bad while a canary soaks, and after the last wave: a real Prometheus says so, and real hosts go back.

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{CanaryStep, CreateDeployment, OnFailure, Strategy};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Bundle, Prometheus};
use stella_tests::people::{Shell, ask, promotion};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// Has the control plane ask a Prometheus that is not started yet.
async fn knows_prometheus(cluster: &mut Cluster) -> Result<Bundle> {
    let bundle = Bundle::render(&cluster.folder().join("bundle"), &cluster.control_plane)?;
    bundle.hurry()?;
    let tables = format!("[gates.prometheus.main]\nurl = {:?}\n", bundle.prometheus_url());
    cluster.control_plane.configure(&Settings { tables, ..Settings::default() })?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    for agent in &cluster.agents {
        cluster.wait_online(agent.name()).await?;
    }
    Ok(bundle)
}

/// Waits until Prometheus counts so many connected agents.
async fn counts_agents(prometheus: &Prometheus, agents: u32) -> Result<()> {
    wait::until(&format!("{agents} agents are counted"), async || {
        let wanted = format!("stella_agents_connected{{tenant=\"acme\"}} == {agents}");
        let series = prometheus.query(&wanted).await?;
        ensure!(!series.is_empty(), "{series:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_goes_bad_in_the_soak_halts_the_canary_there_and_takes_it_back() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    for version in ["1", "2"] {
        let run = shell("run", &format!("echo {version} >> ran.txt"));
        cluster.release(&release(&format!("{version}.0.0"), &[], vec![run])).await?;
    }
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let bundle = knows_prometheus(&mut cluster).await?;
    let prometheus = bundle.prometheus().await?;
    counts_agents(&prometheus, 2).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let query = "stella_agents_connected{tenant=\"acme\"}";
    let flags = ["--source", "main", "--query", query, "--at-least", "2", "--ttl", "1"];
    boss.ok(&[["gate", "set", "metric", ENVIRONMENT, "agents"].as_slice(), &flags].concat())?;
    let canary = Strategy::Canary {
        steps: vec![CanaryStep { percent: 50, soak_seconds: Some(3_600) }],
        batch: None,
        order: None,
    };
    let wanted =
        CreateDeployment { strategy: Some(canary), ..rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback) };
    let id = ask(&cluster.api, &wanted).await?.id;
    wait::until("the gate is asked again and again in the soak", async || {
        let gates = promotion(&cluster.api, &id).await?.gates;
        ensure!(gates[0].status == "passed" && gates[0].evaluations >= 4, "{gates:?}");
        Ok(())
    })
    .await?;
    let held = cluster.api.deployment(TENANT, &id).await?.deployment;
    ensure!(held.status == "running" && held.counts.succeeded == 1 && held.paused.is_some(), "{held:?}");
    // A host that is not the canary's goes away: nothing but the metric says so.
    cluster.agents[1].stop()?;
    let ended = cluster.wait_final(&id).await?;
    let reason = ended.deployment.reason.clone().unwrap_or_default();
    ensure!(
        ended.deployment.status == "failed" && reason.contains("gate agents: not at least 2: 1"),
        "{ended:?}"
    );
    ensure!(ended.deployment.counts.succeeded == 1 && ended.deployment.counts.skipped == 1, "{ended:?}");
    wait::until("the canary's host has what it had before", async || {
        let ran = cluster.agents[0].read("ran.txt");
        ensure!(ran.lines().eq(["1", "2", "1"]), "{ran}");
        Ok(())
    })
    .await?;
    ensure!(cluster.agents[1].read("ran.txt").lines().eq(["1"]), "it was not touched");
    cluster.agents[1].start()?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_bad_after_the_last_wave_is_taken_back_and_what_stays_good_is_a_success() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    for version in ["1", "2"] {
        let run = shell("run", &format!("echo {version} >> ran.txt"));
        cluster.release(&release(&format!("{version}.0.0"), &[], vec![run])).await?;
    }
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let bundle = knows_prometheus(&mut cluster).await?;
    let prometheus = bundle.prometheus().await?;
    counts_agents(&prometheus, 2).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let query = "stella_agents_connected{tenant=\"acme\"}";
    let flags = ["--verifies", "--source", "main", "--query", query, "--at-least", "2", "--ttl", "1"];
    boss.ok(&[["gate", "set", "metric", ENVIRONMENT, "agents"].as_slice(), &flags].concat())?;
    let said = boss.ok(&["env", "verify", ENVIRONMENT, "--bake", "1h"])?;
    ensure!(said.contains("all targets have had the release for 1 h"), "{said}");
    let said = boss.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--plan"])?;
    ensure!(said.contains("gate agents (metric) would be looked at once the release has come"), "{said}");
    ensure!(said.contains("has succeeded when all targets have had the release for 1 h"), "{said}");

    let wanted = rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback);
    let id = cluster.api.deploy(TENANT, &wanted, None).await?.deployment.id;
    let bakes = wait::until("all have it, and the gate is asked again and again", async || {
        let held = cluster.api.deployment(TENANT, &id).await?.deployment;
        ensure!(held.paused_for.as_deref() == Some("verification"), "{held:?}");
        let gates = promotion(&cluster.api, &id).await?.gates;
        ensure!(gates[0].status == "passed" && gates[0].evaluations >= 4, "{gates:?}");
        Ok(held)
    })
    .await?;
    ensure!(
        bakes.status == "running" && bakes.counts.succeeded == 2 && bakes.resumes_at.is_some(),
        "{bakes:?}"
    );
    cluster.agents[1].stop()?;
    let ended = cluster.wait_final(&id).await?;
    let reason = ended.deployment.reason.clone().unwrap_or_default();
    ensure!(
        ended.deployment.status == "failed" && reason.contains("gate agents: not at least 2:"),
        "{ended:?}"
    );
    cluster.agents[1].start()?;
    let back = cluster.wait_final(&ended.rollbacks[0]).await?.deployment;
    let of = back.rollback_of.as_ref().context("it takes the other back")?;
    ensure!(back.status == "succeeded" && of.reason == "verification", "{back:?}");
    for agent in &cluster.agents {
        ensure!(agent.read("ran.txt").lines().eq(["1", "2", "1"]), "{}", agent.read("ran.txt"));
    }
    let metrics = cluster.control_plane.metrics().await?;
    let counted = "stella_rollbacks_total{tenant=\"acme\",env=\"staging\",reason=\"verification\"} 1";
    ensure!(metrics.contains(counted), "{metrics}");

    counts_agents(&prometheus, 2).await?;
    let boss = Shell::of(&cluster, "boss-of-two", "admin").await?;
    boss.ok(&["env", "verify", ENVIRONMENT, "--bake", "2s"])?;
    let said = boss.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--wait"])?;
    ensure!(said.contains("2 of 2 targets have the release, and it is verified there"), "{said}");
    ensure!(said.contains("succeeded"), "{said}");
    cluster.passed()
}
