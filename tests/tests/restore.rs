//! A control plane that comes back from a backup meets agents that have seen more than it has.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::OnFailure;
use stella_tests::cluster::{Cluster, ENVIRONMENT};
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
    fs::remove_dir_all(&state)?;
    fs::rename(&backup, &state)?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online(cluster.agents[0].name()).await?;
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
