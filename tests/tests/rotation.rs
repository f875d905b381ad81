//! The certificate authority is replaced under a running fleet: one agent is there, one is away all the time, one never comes back
//! in time; and the control plane is killed after each step.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_certs::Authority;
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

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Puts an authority of that age in the place of the one that is there; hooks keep their key.
fn age(control_plane: &ControlPlane, now: SystemTime) -> Result<Authority> {
    let pki = control_plane.state_dir().join("pki");
    for file in ["root.key", "root.crt", "roots.crt", "issuing.key", "issuing.crt"] {
        fs::remove_file(pki.join(file))?;
    }
    Ok(Authority::open_or_create(&pki, now)?)
}

fn refusal(control_plane: &ControlPlane, arguments: &[&str], wanted: &[&str]) -> Result<()> {
    let error =
        control_plane.tool(arguments).err().with_context(|| format!("{arguments:?} was not refused"))?;
    let error = format!("{error:#}");
    ensure!(wanted.iter().all(|it| error.contains(it)), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuing_certificate_that_has_ended_is_replaced_before_the_start() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    cluster.control_plane.stop()?;
    age(&cluster.control_plane, SystemTime::now() - YEAR * 11)?;
    let control_plane = &mut cluster.control_plane;
    refusal(
        control_plane,
        &["run"],
        &["issuing.crt has expired", "is the clock right?", "ca rotate-issuing"],
    )?;
    refusal(
        control_plane,
        &["doctor"],
        &["issuing certificate: has ended", "ca rotate-issuing", "timedatectl"],
    )?;
    let (key, away) =
        (control_plane.state_dir().join("pki/root.key"), control_plane.state_dir().join("root.key"));
    fs::rename(&key, &away)?;
    refusal(control_plane, &["ca", "rotate-issuing"], &["root.key is needed for this"])?;
    fs::rename(&away, &key)?;
    refusal(control_plane, &["ca", "rotate", "start"], &["no control plane runs on"])?;
    let said = control_plane.tool(&["ca", "rotate-issuing"])?;
    ensure!(said.contains("next: start the control plane"), "{said}");
    control_plane.resume().await?;
    let status = status(control_plane)?;
    ensure!(said.contains(status["issuing"]["fingerprint"].as_str().context("no fingerprint")?), "{status}");
    cluster.api = cluster.control_plane.api()?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_root_whose_issuing_certificate_has_ended_keeps_nothing_from_working() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    cluster.control_plane.stop()?;
    let now = SystemTime::now();
    let aged = age(&cluster.control_plane, now - YEAR * 11)?;
    aged.start_rotation(now - YEAR * 5)?;
    aged.switch_root(now - YEAR * 5)?;
    cluster.control_plane.resume().await?;
    let figures = cluster.control_plane.metrics().await?;
    let ends = |certificate: &str| {
        let series = format!("stella_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}} ");
        figures.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok())
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    ensure!(ends("old_issuing").is_some_and(|end| end < now), "{figures}");
    ensure!(
        ["old_root", "issuing", "root"].iter().all(|it| ends(it).is_some_and(|end| end > now)),
        "{figures}"
    );
    let doctor = cluster.control_plane.tool_output(&["doctor"])?;
    let doctor = String::from_utf8(doctor.stdout)?;
    for wanted in [
        "ok    root certificate: ",
        "ok    issuing certificate: ",
        "ok    old root certificate: ",
        "WARN  old issuing certificate: has ended",
        "ca rotate finish",
    ] {
        ensure!(doctor.contains(wanted), "{wanted}: {doctor}");
    }
    ensure!(!doctor.contains("rotate-issuing"), "{doctor}");
    cluster.control_plane.tool(&["ca", "rotate", "finish"])?;
    let figures = cluster.control_plane.metrics().await?;
    ensure!(!figures.contains("certificate=\"old_"), "{figures}");
    cluster.api = cluster.control_plane.api()?;
    cluster.passed()
}
