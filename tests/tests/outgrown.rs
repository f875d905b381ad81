//! A journal that has outgrown its database: it is written out, read into a new one, and everything is there, on less disk.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{Deployment, OnFailure};
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
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

/// Does what the page says, in its order; the hashes of the state on the way.
async fn follow_the_page(cluster: &mut Cluster) -> Result<Vec<String>> {
    let page = include_str!("../../docs/operations.md");
    let block = page.split_once("### An outgrown journal").and_then(|(_, rest)| rest.split("```").nth(1));
    let block =
        block.and_then(|block| block.strip_prefix("console\n")).context("the page has no commands")?;
    let folder = cluster.folder().display().to_string();
    let state_dir = cluster.control_plane.state_dir().display().to_string();
    let mut states = Vec::new();
    for line in block.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let line = line.replace("/var/backups", &folder).replace("/var/lib/stella-orchestrator", &state_dir);
        match &line.split_whitespace().collect::<Vec<_>>()[..] {
            ["stella-orchestrator", arguments @ ..] => {
                let said = cluster.control_plane.tool(arguments)?;
                if arguments == ["journal", "verify"] {
                    let state = said.lines().find_map(|it| it.strip_prefix("state: "));
                    states.push(state.with_context(|| said.clone())?.to_owned());
                }
            }
            ["mv", from, to] => fs::rename(from, to)?,
            ["systemctl", "stop", "stella-orchestrator"] => cluster.control_plane.stop()?,
            ["systemctl", "start", "stella-orchestrator"] => cluster.control_plane.resume().await?,
            other => anyhow::bail!("nobody has tried {other:?}"),
        }
    }
    Ok(states)
}

async fn deployments(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let all: Vec<Deployment> = cluster.api.list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[]).await?;
    Ok(all.into_iter().map(|it| (it.id, it.status)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_written_out_and_read_in_again_is_smaller_and_has_everything() -> Result<()> {
    let retention = "[retention]\nmemory_max = 2\nmemory_seconds_min = 0\nmemory_interval_s = 1\n";
    let settings =
        Settings { snapshot_every_events: 10, tables: retention.to_owned(), ..Settings::default() };
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
    let journal = cluster.control_plane.state_dir().join("journal");
    let welcomes = cluster.agents[0].welcomes();
    let (grown, states) = (size(&journal)?, follow_the_page(&mut cluster).await?);
    ensure!(states.len() == 2 && states[0] == states[1], "{states:?}");
    let new = size(&journal)?;
    ensure!(new < grown, "{grown} bytes before, {new} after");
    cluster.agents[0].wait_welcomed(welcomes).await?;
    assert_eq!(deployments(&cluster).await?, before, "what was there");
    // One that was in the archive, with its tasks.
    let (oldest, _) = before.first().context("there are some")?;
    let tasks = cluster.api.tasks(TENANT, oldest).await?;
    ensure!(tasks.len() == 1 && tasks[0].state == "succeeded", "{tasks:?}");
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    cluster.passed()
}
