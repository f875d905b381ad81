//! An agent loses its memory in the middle of a task, and nobody knows how that ended. What its host shows settles it, or a person does.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::task::{SettleTask, Task};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{archive, artifact, check_tcp, release, rolling, shell};
use stella_tests::wait;

/// What brings a version, and says so in a file.
async fn versions(cluster: &Cluster) -> Result<()> {
    for version in ["1.0.0", "2.0.0"] {
        let digest = cluster.api.upload(TENANT, &archive(&[("version", version)])?).await?;
        let steps = vec![artifact("web"), shell("after", "cat web/current/version >> after")];
        cluster.release(&release(version, &[("web", &digest)], steps)).await?;
    }
    for version in ["1.0.0", "2.0.0"] {
        let ended = cluster.deploy(&rolling(ENVIRONMENT, version, OnFailure::Stop)).await?;
        ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    }
    fs::remove_file(cluster.agents[0].host_root().join("after"))?;
    Ok(())
}

fn component(cluster: &Cluster) -> PathBuf {
    cluster.agents[0].host_root().join("web")
}

/// Holds the component as another task would.
fn hold(cluster: &Cluster) -> Result<File> {
    let lock = File::options().write(true).open(component(cluster).join(".lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn current(cluster: &Cluster) -> String {
    let link = fs::read_link(component(cluster).join("current")).unwrap_or_default();
    link.display().to_string()
}

async fn probed(cluster: &Cluster, task: &str, verdict: &str) -> Result<Task> {
    wait::until("the host has said what it shows", async || {
        let found: Task = cluster.api.get(&paths::fill(paths::TASK, &[TENANT, task])).await?;
        let probe = found.probe.clone().context("it was not asked")?;
        ensure!(probe.state == verdict, "{probe:?}");
        Ok(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_was_switched_to_is_seen_on_the_host_and_the_deployment_goes_on() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    versions(&cluster).await?;
    let held = hold(&cluster)?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    let task = cluster.wait_task(&id, "web-1", "install", "running").await?.id;
    // Nobody hears that it is done.
    cluster.control_plane.kill()?;
    drop(held);
    wait::until("the switch", async || {
        let current = current(&cluster);
        ensure!(current.contains("1.0.0-"), "{current}");
        Ok(())
    })
    .await?;
    cluster.agents[0].kill()?;
    cluster.agents[0].wipe_journal()?;
    cluster.control_plane.resume().await?;
    cluster.agents[0].start()?;

    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    let reason = ended.targets[0].reason.clone().unwrap_or_default();
    ensure!(reason.contains("step install was settled by a look at the host"), "{reason}");
    ensure!(cluster.agents[0].read("after") == "1.0.0", "the step after it ran once");
    let found = probed(&cluster, &task, "done").await?;
    ensure!(found.state == "succeeded", "{found:?}");
    let shown = cluster.stella(&["task", "show", &task])?.1;
    ensure!(shown.contains("host        shows that it was done: 1.0.0-"), "{shown}");
    let events = cluster.api.events(TENANT).await?;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let at = kinds.iter().position(|kind| *kind == "task_became_unknown").context("it was known")?;
    let expected = ["task_became_unknown", "task_probe_asked", "task_probed", "task_finished"];
    ensure!(kinds[at..].starts_with(&expected), "{kinds:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_was_not_switched_to_counts_as_interrupted_and_can_be_tried_again() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    versions(&cluster).await?;
    let held = hold(&cluster)?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Ask);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    let task = cluster.wait_task(&id, "web-1", "install", "running").await?.id;
    cluster.agents[0].kill()?;
    cluster.agents[0].wipe_journal()?;
    drop(held);
    cluster.agents[0].start()?;

    let found = probed(&cluster, &task, "not_done").await?;
    ensure!(found.state == "interrupted", "{found:?}");
    let reason = found.reason.unwrap_or_default();
    ensure!(reason.contains("the current release of web is 2.0.0-"), "{reason}");
    ensure!(current(&cluster).contains("2.0.0-"), "nothing was run again: {}", current(&cluster));
    let (code, said) = cluster.stella(&["deployment", "retry-target", &id, "web-1"])?;
    ensure!(code == Some(0), "{said}");
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    ensure!(cluster.agents[0].read("after") == "1.0.0", "the step after it ran once");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_restored_proves_nothing_of_what_it_has_lost() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let port = TcpListener::bind("127.0.0.1:0")?;
    let address = port.local_addr()?.to_string();
    for version in ["1.0.0", "2.0.0"] {
        let digest = cluster.api.upload(TENANT, &archive(&[("version", version)])?).await?;
        let steps = vec![artifact("web"), check_tcp("check", &address)];
        cluster.release(&release(version, &[("web", &digest)], steps)).await?;
    }
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    let disk = tempfile::tempdir()?;
    cluster.agents[0].stop()?;
    cluster.agents[0].save_disk(disk.path())?;
    cluster.agents[0].start()?;
    cluster.wait_online("web-1").await?;

    // The new version is there, and is not healthy yet. Then the disk is one from before, with the old version, which is.
    drop(port);
    let id = cluster
        .api
        .deploy(TENANT, &rolling(ENVIRONMENT, "2.0.0", OnFailure::Stop), None)
        .await?
        .deployment
        .id;
    let check = cluster.wait_task(&id, "web-1", "check", "running").await?.id;
    ensure!(current(&cluster).contains("2.0.0-"), "{}", current(&cluster));
    cluster.agents[0].kill()?;
    cluster.agents[0].restore_disk(disk.path())?;
    let _healthy = TcpListener::bind(&address)?;
    cluster.agents[0].start()?;

    let found = probed(&cluster, &check, "unclear").await?;
    ensure!(found.state == "unknown", "{found:?}");
    ensure!(current(&cluster).contains("1.0.0-"), "{}", current(&cluster));
    let detail = cluster.api.deployment(TENANT, &id).await?;
    ensure!(detail.deployment.status == "running", "{detail:?}");
    let reason = detail.targets[0].reason.clone().unwrap_or_default();
    ensure!(reason.contains("the journal of its agent has lost its end"), "{reason}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_asked_again_and_a_command_is_left_to_a_person() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    // A port that nobody else is given as long as it is wanted here.
    let port = TcpListener::bind("127.0.0.1:0")?;
    let address = port.local_addr()?.to_string();
    drop(port);
    let steps = vec![check_tcp("check", &address), shell("work", "echo run >> runs; sleep 600")];
    cluster.release(&release("1.0.0", &[], steps)).await?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    let check = cluster.wait_task(&id, "web-1", "check", "running").await?.id;
    cluster.agents[0].kill()?;
    cluster.agents[0].wipe_journal()?;
    let _healthy = TcpListener::bind(&address)?;
    cluster.agents[0].start()?;
    probed(&cluster, &check, "done").await?;

    let work = cluster.wait_task(&id, "web-1", "work", "running").await?.id;
    cluster.wait_lines(0, "runs", 1).await?;
    cluster.agents[0].kill()?;
    cluster.agents[0].wipe_journal()?;
    cluster.agents[0].start()?;
    let found = probed(&cluster, &work, "unclear").await?;
    ensure!(found.state == "unknown", "{found:?}");
    let detail = cluster.api.deployment(TENANT, &id).await?;
    let reason = detail.targets[0].reason.clone().unwrap_or_default();
    ensure!(reason.contains("its host cannot tell: a command leaves no sign"), "{reason}");

    // The control plane is restarted in between: what it knows, it still knows.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.wait_online("web-1").await?;
    let path = paths::fill(paths::TASK_SETTLE, &[TENANT, &work]);
    let settle = SettleTask { succeeded: true, reason: "looked at the host".to_owned() };
    let settled: Task = cluster.api.post(&path, &settle, None).await?;
    ensure!(settled.state == "succeeded", "{settled:?}");
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    ensure!(cluster.agents[0].read("runs") == "run\n", "it ran once");
    cluster.passed()
}
