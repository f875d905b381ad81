//! A disk that fills up, on either side: writes are refused with a clear reason, reads go on, and what was answered stays.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use serde_json::Value;
use stella_api_types::deployment::OnFailure;
use stella_api_types::environment::{CreateEnvironment, Environment};
use stella_api_types::paths;
use stella_api_types::problem::Problem;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_environment, create_target, target};
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Event, Pager};
use stella_tests::recipe::{self, rolling, shell};
use stella_tests::wait;

/// What a test may take away from the machine's disk for a moment, in bytes.
const BALLAST_BYTES_MAX: u64 = 2 << 30;

fn free_bytes(folder: &Path) -> Result<u64> {
    let figures = statvfs(folder)?;
    Ok(figures.blocks_available() * figures.fragment_size())
}

/// A file that takes space without being written.
struct Ballast {
    path: PathBuf,
}

impl Ballast {
    fn drop_into(folder: &Path, bytes: u64) -> Result<Self> {
        let path = folder.join("ballast");
        let file = File::create(&path)?;
        fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(bytes)?)
            .context("no space can be reserved here")?;
        Ok(Self { path })
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

async fn environments(cluster: &Cluster) -> Result<Vec<String>> {
    let found: Vec<Environment> = cluster.api.list(&paths::fill(paths::ENVIRONMENTS, &[TENANT]), &[]).await?;
    Ok(found.into_iter().map(|environment| environment.name).collect())
}

/// A control plane, and how much of its disk takes it below its reserve.
async fn near_its_reserve(agents: usize, tables: &str) -> Result<(Cluster, u64)> {
    let mut cluster = Cluster::start(agents).await?;
    cluster.control_plane.stop()?;
    let free = free_bytes(cluster.folder())?;
    let ballast_bytes = BALLAST_BYTES_MAX.min(free / 2);
    // Half of the ballast on either side for what others write at the same time.
    let reserve_bytes = free - ballast_bytes / 2;
    cluster.control_plane.configure(&Settings {
        reserve_bytes,
        tables: tables.to_owned(),
        ..Settings::default()
    })?;
    cluster.control_plane.resume().await?;
    Ok((cluster, ballast_bytes))
}

/// Writes until that is refused: the figure of the free space may be a second old, so the first tries may be taken.
async fn wait_refused(cluster: &Cluster) -> Result<Problem> {
    let path = paths::fill(paths::ENVIRONMENTS, &[TENANT]);
    let mut tries = 0;
    wait::until("a write is refused", async || {
        tries += 1;
        let body = CreateEnvironment { name: format!("during-{tries}"), order: None, way_back_proof: None };
        let tried = cluster.api.post::<_, Environment>(&path, &body, None).await;
        Ok(tried.err().context("it was taken")?.into_problem()?)
    })
    .await
}

/// Writes until that is taken.
async fn wait_taken(cluster: &Cluster) -> Result<()> {
    wait::until("writes are taken again", async || {
        create_environment(&cluster.api, TENANT, "after").await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn below_its_reserve_the_control_plane_refuses_writes_and_goes_on_reading() -> Result<()> {
    let (cluster, ballast_bytes) = near_its_reserve(1, "").await?;
    create_environment(&cluster.api, TENANT, "before").await?;

    let ballast = Ballast::drop_into(cluster.folder(), ballast_bytes)?;
    let problem = wait_refused(&cluster).await?;
    assert_eq!(problem.status, 507, "{problem:?}");
    ensure!(problem.retryable && problem.no_side_effects, "{problem:?}");
    ensure!(problem.detail.contains("free"), "{problem:?}");

    let names = environments(&cluster).await?;
    ensure!(names.contains(&"before".to_owned()), "reads go on: {names:?}");
    let health = cluster.control_plane.health().await?;
    assert_eq!(health.checks.database.status, "degraded", "{health:?}");
    ensure!(health.checks.database.detail.is_some(), "nobody is told why: {health:?}");

    drop(ballast);
    wait_taken(&cluster).await?;
    assert_eq!(cluster.control_plane.health().await?.status, "healthy");
    cluster.passed()
}

/// What `/health` and the gauge of the alert say, without a write that would find out.
async fn wait_said(cluster: &Cluster, status: &str, gauge: u8) -> Result<()> {
    wait::until(&format!("the control plane is {status} by itself"), async || {
        let health = cluster.control_plane.health().await?;
        ensure!(health.status == status, "{health:?}");
        let scraped = cluster.control_plane.metrics().await?;
        let line = format!("stella_journal_writes_refused {gauge}\n");
        ensure!(scraped.contains(&line), "no {line} in {scraped}");
        Ok(())
    })
    .await
}

/// Whoever watches it may send no requests to a node that is not healthy: then none would find out that there is space again.
#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_no_space_is_seen_before_a_write_is_tried_and_so_is_its_end() -> Result<()> {
    let (cluster, ballast_bytes) = near_its_reserve(0, "").await?;
    wait_said(&cluster, "healthy", 0).await?;
    let ballast = Ballast::drop_into(cluster.folder(), ballast_bytes)?;
    wait_said(&cluster, "degraded", 1).await?;
    drop(ballast);
    wait_said(&cluster, "healthy", 0).await?;

    let ballast = Ballast::drop_into(cluster.folder(), ballast_bytes)?;
    wait_refused(&cluster).await?;
    drop(ballast);
    wait_said(&cluster, "healthy", 0).await?;
    cluster.passed()
}

/// No event can say it: the journal takes none.
#[tokio::test(flavor = "multi_thread")]
async fn that_writes_are_refused_is_told_once_over_a_restart_and_so_is_its_end() -> Result<()> {
    let hook = Pager::start().await?;
    let tables = format!(
        "[[notifications.receivers]]\nname = \"hook\"\ntype = \"webhook\"\nurl = {:?}\n\
         [[notifications.routes]]\nreceivers = [\"hook\"]\nwait_s = 0\n",
        hook.hook_url()
    );
    let (mut cluster, ballast_bytes) = near_its_reserve(1, &tables).await?;
    let told = || -> Vec<(String, String)> {
        let bodies = hook.events().into_iter().filter_map(|event| match event {
            Event::Hooked { body, .. } => serde_json::from_str::<Value>(&body).ok(),
            Event::Paged(_) | Event::Chatted(_) => None,
        });
        let of_kind = bodies.filter(|it| it["kind"] == "writes_refused" && it.get("tenant").is_none());
        let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
        of_kind.map(|it| (text(&it, "status"), text(&it, "severity"))).collect()
    };
    let firing = ("firing".to_owned(), "critical".to_owned());
    let resolved = ("resolved".to_owned(), "critical".to_owned());

    let ballast = Ballast::drop_into(cluster.folder(), ballast_bytes)?;
    wait_refused(&cluster).await?;
    wait::until("somebody is told", async || {
        ensure!(told() == [firing.clone()], "{:?}", told());
        Ok(())
    })
    .await?;
    wait::until("it is saved that it was told", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(log.contains("notification.sent"), "{log}");
        Ok(())
    })
    .await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    wait_refused(&cluster).await?;
    drop(ballast);
    wait_taken(&cluster).await?;
    wait::until("they are told that it is over", async || {
        ensure!(told() == [firing.clone(), resolved.clone()], "{:?}", told());
        Ok(())
    })
    .await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_stop_while_everything_else_goes_on() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let archive = recipe::archive(&[("bin/hello", "hello")])?;
    let digest = cluster.api.upload(TENANT, &archive).await?;
    cluster.control_plane.stop()?;
    // More is free than what the journal keeps, and less than the four times as much that files beside it leave alone.
    let reserve_bytes = free_bytes(cluster.folder())? / 2;
    cluster.control_plane.configure(&Settings { reserve_bytes, ..Settings::default() })?;
    cluster.control_plane.resume().await?;
    cluster.wait_online("web-1").await?;

    let refused = cluster.api.upload(TENANT, &recipe::archive(&[("bin/hello", "hello again")])?).await;
    let problem = refused.err().context("it was taken")?.into_problem()?;
    assert_eq!(problem.status, 507, "{problem:?}");
    create_environment(&cluster.api, TENANT, "meanwhile").await?;
    let steps = vec![recipe::artifact("web"), shell("work", "echo run >> runs")];
    cluster.release(&recipe::release("1.0.0", &[("web", &digest)], steps)).await?;
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    assert_eq!(ended.deployment.status, "succeeded", "{ended:?}");
    assert_eq!(cluster.agents[0].read("runs"), "run\n");
    assert_eq!(cluster.control_plane.health().await?.status, "healthy");
    cluster.passed()
}

/// The files of the authority come first and the journal after them, so that the one may be at the end and the other not.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_rotation_that_the_journal_could_not_take_is_taken_when_there_is_space() -> Result<()> {
    let (cluster, ballast_bytes) = near_its_reserve(0, "").await?;
    let authority = |step: &str| cluster.control_plane.tool(&["ca", "rotate", step]);
    authority("start")?;
    authority("switch")?;
    let ballast = Ballast::drop_into(cluster.folder(), ballast_bytes)?;
    wait_refused(&cluster).await?;
    let refused = authority("finish").err().context("it was recorded on a full disk")?.to_string();
    ensure!(refused.contains("is not recorded"), "{refused}");
    drop(ballast);
    wait_taken(&cluster).await?;
    authority("finish")?;
    let again = authority("finish").err().context("there is nothing left to finish")?.to_string();
    ensure!(again.contains("no rotation of the root is under way"), "{again}");
    cluster.passed()
}

/// The reserve is there so that this never happens. When it does, the process stops instead of answering from memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_stops_the_control_plane_and_loses_nothing_that_was_answered() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    cluster.control_plane.stop()?;
    let now = journal_bytes(cluster.control_plane.state_dir())?;
    cluster.control_plane.daemon().limit_file_size(Some(now + (1 << 20)));
    cluster.control_plane.resume().await?;
    let mut answered = Vec::new();
    let status = loop {
        let name = format!("e-{}", answered.len());
        match create_environment(&cluster.api, TENANT, &name).await {
            Ok(_) => answered.push(name),
            Err(_) => break cluster.control_plane.daemon().wait(Duration::from_secs(30))?,
        }
        ensure!(answered.len() < 100_000, "the limit was never met");
    };
    ensure!(!status.success(), "it ended as if nothing had happened: {status}");
    let log = cluster.control_plane.daemon().log();
    ensure!(log.contains("journal"), "the log does not say what has failed");

    cluster.control_plane.daemon().limit_file_size(None);
    cluster.control_plane.resume().await?;
    let found = environments(&cluster).await?;
    for name in &answered {
        ensure!(found.contains(name), "{name} was answered and is gone");
    }
    // The one whose answer was a failure may be there or not; nothing else may.
    ensure!(found.len() <= answered.len() + 2, "{} answered, {} there", answered.len(), found.len());
    create_environment(&cluster.api, TENANT, "after").await?;
    cluster.passed()
}

/// The size of the largest file of the journal.
fn journal_bytes(state_dir: &Path) -> Result<u64> {
    let mut folders = vec![state_dir.join("journal")];
    let mut largest = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            largest = largest.max(metadata.len());
        }
    }
    Ok(largest)
}

#[tokio::test(flavor = "multi_thread")]
async fn below_its_reserve_an_agent_refuses_tasks_and_says_why() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let full = (1_u64 << 60).to_string();
    let mut agent = cluster.enrolled("full", &["--reserve-bytes", &full]).await?;
    create_target(&cluster.api, TENANT, &target(ENVIRONMENT, "full", "full")).await?;
    agent.start()?;
    cluster.agents.push(agent);
    cluster.wait_online("full").await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("work", "echo run >> runs")])).await?;

    // Targets follow in the order of their names: the full one is first.
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    assert_eq!(ended.deployment.status, "failed");
    let task = cluster.wait_task(&ended.deployment.id, "full", "work", "failed").await?;
    let reason = task.reason.unwrap_or_default();
    ensure!(reason.contains("free") || reason.contains("space"), "{reason:?}");
    assert_eq!(cluster.agents[1].read("runs"), "");
    cluster.passed()
}
