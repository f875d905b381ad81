//! The certificate authority is replaced under a running fleet: one agent is there, one is away all the time, one never comes back
//! in time; and the control plane is killed after each step.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::agent::Agent;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_token, token};
use stella_tests::control_plane::ControlPlane;
use stella_tests::recipe::{self, all_at_once, shell};
use stella_tests::{binaries, daemon, wait};

/// What `ca status` says.
fn status(control_plane: &ControlPlane) -> Result<Value> {
    Ok(serde_json::from_str(&control_plane.tool(&["ca", "status", "--output", "json"])?)?)
}

fn behind(status: &Value) -> Vec<&str> {
    let agents = status["behind_agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    agents.iter().filter_map(|it| it["agent"].as_str()).collect()
}

async fn wait_behind(control_plane: &ControlPlane, wanted: &[&str]) -> Result<()> {
    wait::until(&format!("{wanted:?} are behind"), async || {
        let status = status(control_plane)?;
        ensure!(behind(&status) == wanted, "{status}");
        Ok(())
    })
    .await
}

/// As a power cut would, and back.
async fn kill(cluster: &mut Cluster) -> Result<()> {
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await
}

/// `stella` with a file of trusted certificates.
fn stella(cluster: &Cluster, ca: &Path, arguments: &[&str]) -> Result<String> {
    let mut flags = cluster.control_plane.stella_flags();
    if let Some(last) = flags.last_mut() {
        *last = ca.display().to_string();
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    daemon::run(&binaries::path("stella")?, &[&flags, arguments].concat())
}

async fn deploys(cluster: &Cluster, version: &str, targets: &[&str]) -> Result<()> {
    cluster.release(&recipe::release(version, &[], vec![shell("say", "echo here")])).await?;
    let mut deployment = all_at_once(ENVIRONMENT, version);
    deployment.targets = Some(targets.iter().map(|&it| it.to_owned()).collect());
    let ended = cluster.deploy(&deployment).await?;
    assert_eq!(ended.deployment.status, "succeeded", "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_replaced_while_an_agent_is_away_and_the_control_plane_is_killed() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let pinned = cluster.folder().join("pinned.crt");
    fs::copy(cluster.control_plane.state_dir().join("pki/root.crt"), &pinned)?;
    let kept = cluster.folder().join("kept.crt");
    fs::copy(&pinned, &kept)?;
    cluster.agents[1].stop()?;
    cluster.agents[2].stop()?;
    let before = create_token(&cluster.api, TENANT, &token(Some("web-4"), 1)).await?;

    let said = cluster.control_plane.tool(&["ca", "rotate", "start"])?;
    ensure!(said.contains("agents trust the new root"), "{said}");
    wait_behind(&cluster.control_plane, &["web-2", "web-3"]).await?;
    kill(&mut cluster).await?;
    assert_eq!(status(&cluster.control_plane)?["phase"], "distributing");

    cluster.control_plane.tool(&["ca", "rotate", "switch"])?;
    kill(&mut cluster).await?;
    assert_eq!(status(&cluster.control_plane)?["phase"], "switched");
    cluster.wait_online("web-1").await?;
    wait_behind(&cluster.control_plane, &["web-2", "web-3"]).await?;
    // Who trusts only the old root still gets in: people, hosts with a token of before, and the agent that was away.
    stella(&cluster, &pinned, &["status"])?;
    let changed = stella(&cluster, &kept, &["ca", "update"])?;
    ensure!(changed.contains("has the certificates of now"), "{changed}");
    let late = Agent::new(cluster.folder(), "web-4", &cluster.control_plane.agents_address())?;
    late.enrol(&before.token.context("no token")?)?;
    cluster.agents[1].start()?;
    cluster.wait_online("web-2").await?;
    wait_behind(&cluster.control_plane, &["web-3"]).await?;

    let refused = cluster.control_plane.tool(&["ca", "rotate", "finish"]).err().context("it was cut off")?;
    ensure!(format!("{refused:#}").contains("acme/web-3"), "{refused:#}");
    cluster.control_plane.tool(&["ca", "rotate", "finish", "--leave-behind"])?;
    kill(&mut cluster).await?;
    cluster.api = cluster.control_plane.api()?;
    let after = status(&cluster.control_plane)?;
    assert_eq!((&after["phase"], behind(&after)), (&Value::Null, vec!["web-3"]));
    for name in ["web-1", "web-2"] {
        cluster.wait_online(name).await?;
    }
    deploys(&cluster, "2.0.0", &["web-1", "web-2"]).await?;

    // What was not brought over is cut off, and says so.
    ensure!(stella(&cluster, &pinned, &["status"]).is_err(), "the old root is trusted by nobody");
    stella(&cluster, &kept, &["status"])?;
    cluster.agents[2].start()?;
    wait::until("the agent says that a person has to act", async || {
        let log = cluster.agents[2].log();
        ensure!(log.contains("a person has to act"), "{log}");
        Ok(())
    })
    .await?;
    let events = stella(&cluster, &kept, &["events", "--system"])?;
    for change in ["rotation_started", "root_switched", "rotation_finished"] {
        assert_eq!(events.matches(change).count(), 1, "{change}: {events}");
    }
    let metrics = cluster.control_plane.metrics().await?;
    ensure!(metrics.contains("stella_authority_agents_behind 1"), "{metrics}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuing_certificate_is_replaced_and_nobody_notices() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let before = status(&cluster.control_plane)?;
    let session = cluster.api.agent(TENANT, "web-1").await?.session;
    cluster.control_plane.tool(&["ca", "rotate-issuing"])?;
    let after = status(&cluster.control_plane)?;
    assert_eq!(after["root"], before["root"]);
    assert_ne!(after["issuing"], before["issuing"]);
    assert_eq!(cluster.api.agent(TENANT, "web-1").await?.session, session, "its session goes on");
    kill(&mut cluster).await?;
    cluster.wait_online("web-1").await?;
    assert_eq!(status(&cluster.control_plane)?, after);
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_is_given_up_and_the_root_key_may_be_away_but_for_the_start() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let pki = cluster.control_plane.state_dir().join("pki");
    let safe = cluster.folder().join("safe");
    fs::rename(pki.join("root.key"), &safe)?;
    let refused = cluster.control_plane.tool(&["ca", "rotate", "start"]).err().context("without its key")?;
    ensure!(format!("{refused:#}").contains("put it back"), "{refused:#}");
    fs::rename(&safe, pki.join("root.key"))?;

    cluster.control_plane.tool(&["ca", "rotate", "start"])?;
    wait_behind(&cluster.control_plane, &[]).await?;
    cluster.control_plane.tool(&["ca", "rotate", "cancel"])?;
    let given_up = status(&cluster.control_plane)?;
    assert_eq!((&given_up["phase"], &given_up["other_root"]), (&Value::Null, &Value::Null));

    // Once more, with the keys of both roots away after the start.
    cluster.control_plane.tool(&["ca", "rotate", "start"])?;
    fs::remove_file(pki.join("root.key"))?;
    fs::remove_file(pki.join("next/root.key"))?;
    wait_behind(&cluster.control_plane, &[]).await?;
    cluster.control_plane.tool(&["ca", "rotate", "switch"])?;
    wait_behind(&cluster.control_plane, &[]).await?;
    cluster.control_plane.tool(&["ca", "rotate", "finish"])?;
    kill(&mut cluster).await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online("web-1").await?;
    ensure!(!pki.join("root.key").exists(), "no key of the old root is left");
    cluster.passed()
}

/// The commands of the page on operations, in its order.
fn commands() -> Result<Vec<Vec<String>>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = fs::read_to_string(page)?;
    let (_, section) = page.split_once("## The certificate authority").context("the section is gone")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let commands = section.lines().filter_map(|line| line.strip_prefix("stella-orchestrator "));
    Ok(commands.map(|line| line.split(' ').map(str::to_owned).collect()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_book_work_in_their_order() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let commands = commands()?;
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        cluster.control_plane.tool(&command)?;
        wait_behind(&cluster.control_plane, &[]).await?;
    }
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online("web-1").await?;
    cluster.passed()
}
