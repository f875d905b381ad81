//! A metric that goes bad while a canary soaks, and after the last wave: a real Prometheus says so, and real hosts go back.

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{CanaryStep, CreateDeployment, OnFailure, Strategy};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::monitoring::{Bundle, Prometheus};
use stella_tests::people::{Shell, ask, promotion};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// How many of the two hosts are there.
const CONNECTED: &str = "stella_agents_connected{tenant=\"acme\"}";

/// Two hosts with release 1.0.0, a release 2.0.0, and a Prometheus that gates may ask and that counts both hosts.
async fn two_hosts() -> Result<(Cluster, Bundle, Prometheus)> {
    let mut cluster = Cluster::start(2).await?;
    for version in ["1", "2"] {
        let run = shell("run", &format!("echo {version} >> ran.txt"));
        cluster.release(&release(&format!("{version}.0.0"), &[], vec![run])).await?;
    }
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let bundle = Bundle::for_gates(&mut cluster).await?;
    let prometheus = bundle.prometheus().await?;
    prometheus.counts_agents(2).await?;
    Ok((cluster, bundle, prometheus))
}

/// Has the environment want that both hosts are there.
fn want_both(boss: &Shell<'_>, more: &[&str]) -> Result<()> {
    let gate = ["gate", "set", "metric", ENVIRONMENT, "agents", "--source", "main", "--query", CONNECTED];
    boss.ok(&[&gate[..], &["--at-least", "2", "--ttl", "1"], more].concat()).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_goes_bad_in_the_soak_halts_the_canary_there_and_takes_it_back() -> Result<()> {
    let (mut cluster, _bundle, _prometheus) = two_hosts().await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    want_both(&boss, &[])?;
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
    let (mut cluster, _bundle, prometheus) = two_hosts().await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    want_both(&boss, &["--verifies"])?;
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

    prometheus.counts_agents(2).await?;
    let boss = Shell::of(&cluster, "boss-of-two", "admin").await?;
    boss.ok(&["env", "verify", ENVIRONMENT, "--bake", "8s"])?;
    let said = boss.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--wait"])?;
    ensure!(said.contains("2 of 2 targets have the release, and it is verified there"), "{said}");
    ensure!(said.contains("succeeded"), "{said}");
    cluster.passed()
}
