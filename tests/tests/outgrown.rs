//! A journal that has outgrown its database: it is written out, read into a new one, and everything is there, on less disk.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{Deployment, OnFailure};
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::{ControlPlane, Settings};
use stella_tests::recipe::{self, rolling, shell};
use stella_tests::wait;

/// What a folder with its folders takes, in bytes.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

/// The hash of the state that the journal leads to.
fn state(control_plane: &ControlPlane) -> Result<String> {
    let said = control_plane.tool(&["journal", "verify"])?;
    let line = said.lines().find_map(|line| line.strip_prefix("state: "));
    Ok(line.with_context(|| said.clone())?.to_owned())
}

async fn deployments(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let all: Vec<Deployment> = cluster.api.list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[]).await?;
    Ok(all.into_iter().map(|it| (it.id, it.status)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_written_out_and_read_in_again_is_smaller_and_has_everything() -> Result<()> {
    let retention = "[retention]\nmemory_max = 2\nmemory_seconds_min = 0\nmemory_interval_s = 1\n";
    let settings =
        Settings { snapshot_every_events: 50, tables: retention.to_owned(), ..Settings::default() };
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("work", "true")])).await?;
    for _ in 0..20 {
        let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
        ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    }
    wait::until("deployments have left memory", async || {
        let scraped = cluster.control_plane.metrics().await?;
        let line = scraped
            .lines()
            .find(|line| line.starts_with("stella_archived{") && line.contains("kind=\"deployments\""));
        let count: f64 = line.and_then(|line| line.rsplit(' ').next()).context("no series")?.parse()?;
        ensure!(count >= 15.0, "{count}");
        Ok(())
    })
    .await?;
    let before = deployments(&cluster).await?;
    cluster.control_plane.stop()?;

    let journal = cluster.control_plane.state_dir().join("journal");
    let (hash, grown) = (state(&cluster.control_plane)?, size(&journal)?);
    let file = cluster.folder().join("journal.jsonl").display().to_string();
    cluster.control_plane.tool(&["journal", "export", &file])?;
    fs::rename(&journal, cluster.folder().join("journal.old"))?;
    cluster.control_plane.tool(&["journal", "import", &file])?;
    assert_eq!(state(&cluster.control_plane)?, hash, "another state");
    let new = size(&journal)?;
    ensure!(new < grown, "{grown} bytes before, {new} after");

    cluster.control_plane.resume().await?;
    cluster.wait_online("web-1").await?;
    assert_eq!(deployments(&cluster).await?, before, "what was there");
    // One that was in the archive, with its tasks.
    let (oldest, _) = before.first().context("there are some")?;
    let tasks = cluster.api.tasks(TENANT, oldest).await?;
    ensure!(tasks.len() == 1 && tasks[0].state == "succeeded", "{tasks:?}");
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    cluster.passed()
}
