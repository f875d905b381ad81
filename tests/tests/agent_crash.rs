//! An agent is killed while a command runs or a release is on its way, or loses its memory. The truth is reported, and nothing runs again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::task::{SettleTask, Task};
use stella_tests::ambush::Ambush;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::process::is_alive;
use stella_tests::recipe::{self, rolling, shell};
use stella_tests::wait;

/// Waits for its gate and ends with the code that is in it.
const GATED: &str =
    "echo run >> runs; until [ -e gate ]; do sleep 0.05; done; echo done >> ends; exit $(cat gate)";

/// A tree that does not end by itself, one half of it in a session of its own.
const STUBBORN: &str = "echo run >> runs; sleep 600 & echo $! >> pids; setsid sleep 600 & echo $! >> pids; \
                        echo $$ >> pids; echo started >> ends; wait";

async fn deploy_and_kill(cluster: &mut Cluster, version: &str) -> Result<String> {
    let order = rolling(ENVIRONMENT, version, OnFailure::Rollback);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    cluster.wait_task(&id, "web-1", "work", "running").await?;
    cluster.wait_lines(0, "runs", 1).await?;
    cluster.agents[0].kill()?;
    Ok(id)
}

fn write(cluster: &Cluster, file: &str, content: &str) -> Result<()> {
    Ok(std::fs::write(cluster.agents[0].host_root().join(file), content)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ended_while_the_agent_was_dead_has_its_real_result() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    for (version, exit_code, state, status) in
        [("1.0.0", "0", "succeeded", "succeeded"), ("2.0.0", "7", "failed", "failed")]
    {
        for file in ["runs", "ends", "gate"] {
            // The first time there is nothing to remove.
            std::fs::remove_file(cluster.agents[0].host_root().join(file)).ok();
        }
        cluster.release(&recipe::release(version, &[], vec![shell("work", GATED)])).await?;
        let id = deploy_and_kill(&mut cluster, version).await?;
        write(&cluster, "gate", exit_code)?;
        cluster.wait_lines(0, "ends", 1).await?;
        wait::until("the command and its supervisor have ended", async || {
            let left = cluster.agents[0].offspring();
            ensure!(left.is_empty(), "{left:?} live");
            Ok(())
        })
        .await?;
        // For the rollback, which would run the first version again.
        write(&cluster, "gate", "0")?;
        cluster.agents[0].start()?;
        let task = cluster.wait_task(&id, "web-1", "work", state).await?;
        assert_eq!(task.exit_code.unwrap_or(0).to_string(), exit_code, "{task:?}");
        let ended = cluster.wait_final(&id).await?;
        assert_eq!(ended.deployment.status, status);
        for rollback in &ended.rollbacks {
            assert_eq!(cluster.wait_final(rollback).await?.deployment.status, "succeeded");
        }
        let runs = cluster.agents[0].read("runs").lines().count();
        assert_eq!(runs, 1 + ended.rollbacks.len(), "only the rollback runs again");
    }
    cluster.passed()
}

/// The disk reports an error for a flush: the agent stops, and what it could not keep is known from the supervisor after its start.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_flush_fails_stops_and_reports_the_truth_later() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("work", GATED)])).await?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Rollback);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    cluster.wait_task(&id, "web-1", "work", "running").await?;
    cluster.wait_lines(0, "runs", 1).await?;
    let (log, notes) = (cluster.agents[0].state_dir().join("journal/db"), cluster.folder().join("ambush"));
    let pid = cluster.agents[0].pid()?;
    let ambush = Ambush::lay(pid, "fdatasync", "error=EIO:when=1", &log, &notes).await?;
    write(&cluster, "gate", "0")?;
    let status = cluster.agents[0].daemon().wait(Duration::from_secs(60))?;
    ensure!(!status.success(), "it ended as if nothing had happened: {status}");
    drop(ambush);
    let said = cluster.agents[0].log();
    ensure!(said.contains("fdatasync"), "{said}");

    cluster.agents[0].start()?;
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    ensure!(cluster.agents[0].read("runs") == "run\n", "it ran once");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_still_runs_is_ended_whole_and_called_interrupted() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("work", "echo v1 >> installed")])).await?;
    cluster.release(&recipe::release("2.0.0", &[], vec![shell("work", STUBBORN)])).await?;
    let good = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Rollback)).await?;
    assert_eq!(good.deployment.status, "succeeded", "{good:?}");

    let id = deploy_and_kill(&mut cluster, "2.0.0").await?;
    cluster.wait_lines(0, "ends", 1).await?;
    let pids: Vec<u32> =
        cluster.agents[0].read("pids").lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_alive(*pid)), "a crash of the agent alone ends no command");

    cluster.agents[0].start()?;
    cluster.wait_task(&id, "web-1", "work", "interrupted").await?;
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "it is called interrupted, so nothing of it is left");
    let ended = cluster.wait_final(&id).await?;
    assert_eq!(ended.deployment.status, "failed");
    let progress: Vec<&str> = ended.targets.iter().map(|target| target.progress.as_str()).collect();
    assert_eq!(progress, ["failed", "skipped"]);
    let rollback = cluster.wait_final(ended.rollbacks.first().context("there is no rollback")?).await?;
    assert_eq!(rollback.deployment.status, "succeeded", "{rollback:?}");
    assert_eq!(cluster.agents[0].read("installed"), "v1\nv1\n");
    assert_eq!(cluster.agents[0].read("runs"), "run\n");
    assert_eq!(cluster.agents[1].read("runs"), "", "the second target was never touched");
    cluster.passed()
}

/// A release with one large file and many small ones, that can be packed no smaller.
fn bulky(cluster: &Cluster) -> Result<Vec<u8>> {
    let mut large = vec![0; 24 << 20];
    rand::rng().fill_bytes(&mut large);
    let file = cluster.folder().join("bulky.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&file)?);
    let mut add = |path: String, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content)
    };
    add("large".to_owned(), &large)?;
    for number in 0..4_000 {
        add(format!("small/{number}"), format!("{number}\n").as_bytes())?;
    }
    builder.into_inner()?;
    Ok(std::fs::read(file)?)
}

/// The files and folders below `web/.incoming` of the first host whose names end so.
fn incoming(cluster: &Cluster, ending: &str) -> Vec<PathBuf> {
    let found = std::fs::read_dir(cluster.agents[0].host_root().join("web/.incoming")).into_iter().flatten();
    let found = found.filter_map(|entry| Some(entry.ok()?.path()));
    found.filter(|path| path.extension().is_some_and(|it| it == ending)).collect()
}

/// Deploys the bulky release, kills the agent once this is there of it, and starts it again: the task is interrupted, and the target is as
/// it was.
async fn killed_while(cluster: &mut Cluster, what: &str, is_there: impl Fn(&Cluster) -> bool) -> Result<()> {
    let order = rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    wait::until(what, async || {
        ensure!(is_there(cluster), "{:?}", cluster.api.tasks(TENANT, &id).await?);
        Ok(())
    })
    .await?;
    cluster.agents[0].kill()?;
    assert_eq!(cluster.agents[0].read("web/current/version"), "1.0.0", "{what}");
    cluster.agents[0].start()?;
    cluster.wait_task(&id, "web-1", "install", "interrupted").await?;
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "failed", "{ended:?}");
    let rollback = cluster.wait_final(ended.rollbacks.first().context("there is no rollback")?).await?;
    assert_eq!(rollback.deployment.status, "succeeded", "{rollback:?}");
    assert_eq!(cluster.agents[0].read("web/current/version"), "1.0.0", "{what}");
    assert_eq!(incoming(cluster, "unpack"), Vec::<PathBuf>::new(), "{what}: something is left");
    Ok(())
}

/// A release comes to a host as a whole or not at all, whatever it was that the agent was killed in; and what was fetched is not fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_on_its_way_when_the_agent_dies_is_not_half_there() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let old = cluster.api.upload(TENANT, &recipe::archive(&[("version", "1.0.0")])?).await?;
    cluster.release(&recipe::release("1.0.0", &[("web", &old)], vec![recipe::artifact("web")])).await?;
    let good = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Rollback)).await?;
    assert_eq!(good.deployment.status, "succeeded", "{good:?}");
    let archive = bulky(&cluster)?;
    let new = cluster.api.upload(TENANT, &archive).await?;
    cluster.release(&recipe::release("2.0.0", &[("web", &new)], vec![recipe::artifact("web")])).await?;

    let fetched = |cluster: &Cluster| {
        let size = |path: &PathBuf| path.metadata().map_or(0, |it| it.len());
        incoming(cluster, "part").iter().map(size).max().unwrap_or_default()
    };
    killed_while(&mut cluster, "a part of it is fetched", |cluster| fetched(cluster) > 0).await?;
    let kept = fetched(&cluster);
    ensure!(kept > 0 && kept < archive.len() as u64, "{kept} bytes of {} are there", archive.len());
    killed_while(&mut cluster, "a part of it is unpacked", |cluster| !incoming(cluster, "unpack").is_empty())
        .await?;

    let ended = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback)).await?;
    assert_eq!(ended.deployment.status, "succeeded", "{ended:?}");
    assert_eq!(cluster.agents[0].read("web/current/small/3999"), "3999\n");
    assert_eq!(incoming(&cluster, "unpack"), Vec::<PathBuf>::new());
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_memory_runs_nothing_again_and_a_person_settles_it() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    cluster
        .release(&recipe::release(
            "1.0.0",
            &[],
            vec![shell("work", GATED), shell("after", "echo x >> after")],
        ))
        .await?;
    let id = deploy_and_kill(&mut cluster, "1.0.0").await?;
    cluster.agents[0].wipe_journal()?;
    cluster.agents[0].start()?;

    let task = cluster.wait_task(&id, "web-1", "work", "unknown").await?;
    ensure!(task.reason.is_some(), "nobody is told why: {task:?}");
    assert!(!task.is_final);
    write(&cluster, "gate", "0")?;
    // A second session, and the agent has answered for all that it knows: still nothing is sent again.
    cluster.agents[0].stop()?;
    cluster.agents[0].start()?;
    cluster.wait_online("web-1").await?;
    let detail = cluster.api.deployment(TENANT, &id).await?;
    assert_eq!(detail.deployment.status, "running", "it waits for a person");

    let path = paths::fill(paths::TASK_SETTLE, &[TENANT, &task.id]);
    let settle = SettleTask { succeeded: true, reason: "looked at the host".to_owned() };
    let settled: Task = cluster.api.post(&path, &settle, None).await?;
    assert_eq!(settled.state, "succeeded");
    let ended = cluster.wait_final(&id).await?;
    assert_eq!(ended.deployment.status, "succeeded", "{ended:?}");
    assert_eq!(cluster.agents[0].read("runs"), "run\n");
    assert_eq!(cluster.agents[0].read("after"), "x\n");
    let again = cluster.api.post::<_, Task>(&path, &settle, None).await.err().context("settled twice")?;
    assert_eq!(again.into_problem()?.status, 409);
    cluster.passed()
}
