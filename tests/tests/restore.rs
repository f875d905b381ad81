//! A control plane that comes back from a backup meets agents that have seen more than it has.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::OnFailure;
use stella_tests::cluster::{Cluster, ENVIRONMENT};
use stella_tests::guide::Terminal;
use stella_tests::recipe::{self, rolling, shell};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deployed_after_the_backup_does_not_stand_in_the_way_of_new_deployments() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    for version in ["1.0.0", "1.1.0"] {
        let note = format!("echo {version} >> versions");
        cluster.release(&recipe::release(version, &[], vec![shell("note", &note)])).await?;
    }
    let state = cluster.control_plane.state_dir().to_owned();
    let backup = cluster.folder().join("backup");
    let deploy = async |cluster: &Cluster, version: &str| -> Result<()> {
        let started = cluster.deploy(&rolling(ENVIRONMENT, version, OnFailure::Stop)).await?;
        let ended = cluster.wait_final(&started.deployment.id).await?;
        ensure!(ended.deployment.status == "succeeded", "{version}: {ended:?}");
        Ok(())
    };
    deploy(&cluster, "1.0.0").await?;
    cluster.control_plane.stop()?;
    ensure!(Command::new("cp").arg("-a").arg(&state).arg(&backup).status()?.success());
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    // The backup knows nothing of these.
    deploy(&cluster, "1.1.0").await?;
    deploy(&cluster, "1.0.0").await?;

    cluster.control_plane.stop()?;
    let welcomes = cluster.agents[0].welcomes();
    fs::remove_dir_all(&state)?;
    fs::rename(&backup, &state)?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.agents[0].wait_welcomed(welcomes).await?;
    deploy(&cluster, "1.1.0").await?;
    assert_eq!(cluster.agents[0].read("versions"), "1.0.0\n1.1.0\n1.0.0\n1.1.0\n");
    cluster.passed()
}

/// A file system that did not come up is no new installation.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_journal_is_away_does_not_begin_anew() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let state = cluster.control_plane.state_dir().to_owned();
    let journal = state.join("journal");
    let token = fs::read(state.join("admin-token"))?;
    let backup = cluster.folder().join("stella.backup").display().to_string();
    cluster.control_plane.stop()?;
    fs::rename(&journal, state.join("away"))?;
    let refused = |result: Result<String>| -> Result<()> {
        let error = format!("{:#}", result.err().context("it was not refused")?);
        ensure!(error.contains("is a file system not mounted?"), "{error}");
        Ok(())
    };
    // Nothing is there, and then the mount point alone.
    for is_mount_point in [false, true] {
        if is_mount_point {
            fs::create_dir(&journal)?;
        }
        refused(cluster.control_plane.tool(&["run"]))?;
        refused(cluster.control_plane.tool(&["backup", &backup]))?;
        ensure!(fs::read_dir(&journal).map_or(true, |mut it| it.next().is_none()), "a journal was made");
        ensure!(fs::read(state.join("admin-token"))? == token, "the first token was overwritten");
    }
    fs::remove_dir(&journal)?;
    fs::rename(state.join("away"), &journal)?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online("web-1").await?;
    cluster.passed()
}

/// A tool says no, for this reason.
fn refusal(cluster: &Cluster, arguments: &[&str], why: &str) -> Result<()> {
    let error = cluster.control_plane.tool(arguments).err().context("it was not refused")?;
    let error = format!("{error:#}");
    ensure!(error.contains(why), "{error}");
    Ok(())
}

/// Nor is an authority that did not come up: agents trust no other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_authority_is_away_makes_no_other_one() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let state = cluster.control_plane.state_dir().to_owned();
    let pki = state.join("pki");
    refusal(&cluster, &["ca", "create"], "a control plane runs on")?;
    cluster.control_plane.stop()?;
    refusal(&cluster, &["ca", "create"], "of an authority that may be whole")?;
    fs::rename(&pki, state.join("away"))?;
    // Nothing is there, and then the mount point alone.
    for is_mount_point in [false, true] {
        if is_mount_point {
            fs::create_dir(&pki)?;
        }
        refusal(&cluster, &["run"], "is a file system not mounted?")?;
        refusal(&cluster, &["doctor"], "FAIL  root certificate: ")?;
        ensure!(fs::read_dir(&pki).map_or(true, |mut it| it.next().is_none()), "something was made");
    }
    fs::remove_dir(&pki)?;
    fs::rename(state.join("away"), &pki)?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online("web-1").await?;
    cluster.passed()
}

/// A host that has lost its agent, as the page has it.
const SERVER: &str = "stella.example.com:7443";

/// What the page says to do where the authority is lost, in its order, up to the release on the host.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_a_lost_authority_is_true() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("note", "echo here >> notes")])).await?;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/disaster-recovery.md");
    let page = fs::read_to_string(page)?;
    let section = page.split_once("## The authority is lost").context("there is no such section")?.1;
    let blocks = section.split("```console\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let lines = blocks.flat_map(|(block, _)| block.lines()).filter(|line| !line.starts_with('#'));
    let lib = cluster.control_plane.state_dir().display().to_string();
    let backup = cluster.folder().join("stella.backup").display().to_string();
    cluster.control_plane.tool(&["backup", &backup])?;
    cluster.control_plane.stop()?;
    fs::remove_dir_all(format!("{lib}/pki"))?;
    let mut ran = Vec::new();
    for line in lines {
        let words: Vec<_> = line.split(' ').take(3).collect();
        match words[..] {
            ["tar" | "chown", ..] => {
                let line = line
                    .replace("/var/lib/stella-orchestrator", &lib)
                    .replace("/var/backups/stella.backup", &backup);
                ensure!(Command::new("sh").args(["-ec", &line]).status()?.success(), "{line}");
            }
            ["stella-orchestrator", "ca", "create"] => {
                // Until here a backup has helped.
                cluster.wait_online("web-1").await?;
                cluster.control_plane.stop()?;
                fs::remove_dir_all(format!("{lib}/pki"))?;
                cluster.control_plane.tool(&["ca", "create"])?;
            }
            ["systemctl", "start", "stella-orchestrator"] => {
                cluster.control_plane.resume().await?;
                cluster.api = cluster.control_plane.api()?;
            }
            ["systemctl", "stop", "stella-agent"] => cluster.agents[0].stop()?,
            ["systemctl", "start", "stella-agent"] => {
                cluster.agents[0].start()?;
                cluster.wait_online("web-1").await?;
            }
            ["stella-agent", "enrol", "--force"] => {
                ensure!(line.ends_with(&format!("--server {SERVER} --token @/root/token")), "{line}");
                let token = Terminal::open(&cluster, cluster.folder(), None).ok("cat web-1-token")?;
                cluster.agents[0].enrol_with(token.trim(), &["--force"])?;
            }
            ["stella", ..] => {
                // Agents of tests have all rights of whoever runs them.
                let line = line.replace("agent token", "agent token --profile full");
                Terminal::open(&cluster, cluster.folder(), None).ok(&line)?;
            }
            _ => anyhow::bail!("nobody knows how to follow {line:?}"),
        }
        ran.push(line);
    }
    ensure!(ran.len() == 11, "{ran:?}");
    let started = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let ended = cluster.wait_final(&started.deployment.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(cluster.agents[0].read("notes"), "here\n");
    cluster.passed()
}
