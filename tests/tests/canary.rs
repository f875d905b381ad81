//! A canary on real hosts: it holds over a crash of the control plane, and goes on when a person or its time says so.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{CanaryStep, CreateDeployment, DeploymentDetail, OnFailure, Strategy};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// Waits until a canary holds with so many targets done.
async fn holds(cluster: &Cluster, id: &str, done: u64) -> Result<DeploymentDetail> {
    wait::until(&format!("it holds with {done} targets done"), async || {
        let found = cluster.api.deployment(TENANT, id).await?;
        let is_there = found.deployment.paused.is_some() && found.deployment.counts.succeeded == done;
        ensure!(is_there, "{:?}", found.deployment);
        Ok(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_holds_over_a_crash_and_goes_on_by_hand_and_by_itself() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo ran >> ran.txt")])).await?;
    let steps = [(1, None), (50, Some(1))];
    let step = |(percent, soak_seconds)| CanaryStep { percent, soak_seconds };
    let strategy =
        Strategy::Canary { steps: steps.into_iter().map(step).collect(), batch: None, order: None };
    let body = CreateDeployment {
        strategy: Some(strategy.clone()),
        ..rolling(ENVIRONMENT, "1.0.0", OnFailure::Rollback)
    };
    let id = cluster.api.deploy(TENANT, &body, None).await?.deployment.id;
    let first = holds(&cluster, &id, 1).await?.deployment;
    ensure!(first.resumes_at.is_none() && first.strategy == strategy, "{first:?}");
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    for agent in &cluster.agents {
        cluster.wait_online(agent.name()).await?;
    }
    let again = holds(&cluster, &id, 1).await?.deployment;
    ensure!(again.paused == first.paused, "{again:?}");
    ensure!(cluster.agents[1].read("ran.txt").is_empty(), "the second host was not its turn");

    let path = paths::fill(paths::DEPLOYMENT_RESUME, &[TENANT, &id]);
    let resumed: DeploymentDetail = cluster.api.post(&path, &serde_json::json!({}), None).await?;
    ensure!(resumed.deployment.paused.is_none(), "{resumed:?}");
    let ended = cluster.wait_final(&id).await?.deployment;
    ensure!(ended.status == "succeeded" && ended.counts.succeeded == 3, "{ended:?}");
    for agent in 0..3 {
        cluster.wait_lines(agent, "ran.txt", 1).await?;
    }
    let events = cluster.api.events(TENANT).await?;
    let held: Vec<_> = events.iter().filter(|event| event.kind == "deployment_paused").collect();
    ensure!(held.len() == 2 && held[1].data["until"].is_u64(), "{held:?}");
    let by_itself = events.iter().filter(|it| it.kind == "deployment_resumed" && it.actor.kind == "system");
    ensure!(by_itself.count() == 1, "once by a person, once by its time");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_has_touched_its_first_hosts_only() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo 1 >> ran.txt")])).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("run", "echo 2 >> ran.txt; false")])).await?;
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Rollback)).await?;
    let said = Command::new(binaries::path("stella")?)
        .args(cluster.control_plane.stella_flags())
        .args(["-t", TENANT, "deploy", "app:2.0.0", ENVIRONMENT, "--canary", "50", "--wait"])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(said.stdout)?;
    ensure!(said.status.code() == Some(1) && text.contains("rollback"), "{text}");
    ensure!(cluster.agents[0].read("ran.txt").lines().eq(["1", "2", "1"]), "there and back");
    ensure!(cluster.agents[1].read("ran.txt").lines().eq(["1"]), "not touched");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_sees_where_a_canary_holds() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let stella = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let mut stella = Command::new(binaries::path("stella")?);
        stella.args(cluster.control_plane.stella_flags()).args(["-t", TENANT]).args(arguments);
        let ended = stella.stdin(Stdio::null()).output()?;
        Ok((ended.status.code(), String::from_utf8([ended.stdout, ended.stderr].concat())?))
    };
    let deploy = ["deploy", "app:1.0.0", ENVIRONMENT, "--canary", "10:1", "--canary", "60:600"];
    let (code, said) = stella(&[deploy.as_slice(), &["--plan"]].concat())?;
    let wanted = "canary: 10% (1) until 1 s have passed, 60% (2) until 10 min have passed, then the others";
    ensure!(code == Some(0) && said.contains(wanted), "{said}");
    for (wrong, why) in [("ten", "\"ten\" is no number"), ("10:soon", "\"soon\" is no length of time")] {
        let (code, said) = stella(&["deploy", "app:1.0.0", ENVIRONMENT, "--canary", wrong])?;
        ensure!(code == Some(2) && said.contains(why), "{said}");
    }
    let (code, said) = stella(&["deploy", "app:1.0.0", ENVIRONMENT, "--canary", "101"])?;
    ensure!(code == Some(3) && said.contains("strategy.steps[0].percent: is 101"), "{said}");
    let (code, said) = stella(&[deploy.as_slice(), &["--wait"]].concat())?;
    ensure!(
        code == Some(0) && said.contains("! paused: canary step 1: 1 of 2 targets have the release"),
        "{said}"
    );
    ensure!(said.contains("goes on at "), "{said}");

    let (_, said) = stella(&["deploy", "app:1.0.0", ENVIRONMENT, "--canary", "10:600", "-o", "json"])?;
    let created: DeploymentDetail = serde_json::from_str(&said).context(said)?;
    let id = created.deployment.id;
    holds(&cluster, &id, 1).await?;
    let (_, said) = stella(&["deployment", "show", &id])?;
    ensure!(said.contains("running, paused: canary step 1") && said.contains("goes on at "), "{said}");
    let path = paths::fill(paths::DEPLOYMENT_PAUSE, &[TENANT, &id]);
    let body = HoldBack { reason: "errors rise".to_owned() };
    let paused: DeploymentDetail = cluster.api.post(&path, &body, None).await?;
    let hold = paused.deployment.paused.context("it is not paused")?;
    ensure!(hold.reason == "errors rise" && paused.deployment.resumes_at.is_none(), "{hold:?}");
    cluster.passed()
}
