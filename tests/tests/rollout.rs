//! A release reaches its hosts, a broken one does not stay there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{DeploymentDetail, DeploymentTarget, OnFailure};
use stella_api_types::environment::Environment;
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_api_types::release::{JudgeRelease, Release, Standing};
use stella_api_types::target::Target;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{
    self, archive, artifact, check_http, check_shell, check_tcp, rolling, shell, within,
};
use stella_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A service on every host: `GET /<agent>` answers 200 if the release that is current there is a good one.
struct Service {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Service {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let hosts: Vec<(String, PathBuf)> =
            cluster.agents.iter().map(|agent| (agent.name().to_owned(), agent.host_root())).collect();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let host = hosts.iter().find(|(name, _)| request.starts_with(&format!("GET /{name} ")));
                let health = host.map(|(_, root)| std::fs::read_to_string(root.join("web/current/health")));
                let status =
                    if matches!(health, Some(Ok(health)) if health == "good") { "200 OK" } else { "503 No" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                // A client that does not wait for its answer does not need it.
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Creates `app:<version>`, whose archive says how healthy it is.
async fn publish(
    cluster: &Cluster,
    service: &Service,
    version: &str,
    health: &str,
    activate: &str,
) -> Result<()> {
    let archive = archive(&[("health", health), ("bin/start", "#!/bin/sh\n"), ("version", version)])?;
    let digest = cluster.api.upload(TENANT, &archive).await?;
    let address = service.address;
    let steps = vec![
        artifact("web"),
        shell("activate", activate),
        within(check_http("healthy", &format!("http://{address}/${{target}}")), 2_000),
        check_tcp("listening", &address.to_string()),
        check_shell("right-version", "test \"$(cat web/current/version)\" = ${version}"),
    ];
    let release = cluster.release(&recipe::release(version, &[("web", &digest)], steps)).await?;
    ensure!(release.components[0].digest == digest, "{release:?}");
    Ok(())
}

/// The version that the `current` link of a host leads to.
fn current(root: &Path) -> Result<String> {
    let link = std::fs::read_link(root.join("web/current")).context("there is no current release")?;
    let name = link.file_name().context("the link leads nowhere")?.to_string_lossy().into_owned();
    let (version, _digest) = name.rsplit_once('-').context("an odd name")?;
    let content = std::fs::read_to_string(root.join("web/current/version"))?;
    ensure!(content == version, "the link says {version}, the files {content}");
    Ok(version.to_owned())
}

fn currents(cluster: &Cluster) -> Result<Vec<String>> {
    cluster.agents.iter().map(|agent| current(&agent.host_root())).collect()
}

fn progress(detail: &DeploymentDetail) -> Vec<&str> {
    detail.targets.iter().map(|target: &DeploymentTarget| target.progress.as_str()).collect()
}

const ACTIVATE: &str = "echo 'activating ${version} on ${target}'; echo ${version} >> activations";

#[tokio::test(flavor = "multi_thread")]
async fn a_release_rolls_out_and_a_broken_one_rolls_back() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let service = Service::start(&cluster).await?;
    publish(&cluster, &service, "1.0.0", "good", ACTIVATE).await?;
    publish(&cluster, &service, "2.0.0", "bad", ACTIVATE).await?;
    publish(&cluster, &service, "3.0.0", "good", "echo 'no luck today' >&2; exit 3").await?;

    let first = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Rollback)).await?;
    assert_eq!(first.deployment.status, "succeeded", "{first:?}");
    assert_eq!(currents(&cluster)?, ["1.0.0", "1.0.0"]);
    one_target_after_the_other(&cluster, &first).await?;
    output_is_kept(&cluster, &first).await?;

    a_plan_tells_what_would_be_done(&cluster)?;
    a_failed_check_rolls_back(&cluster).await?;
    a_failed_command_stops_if_that_is_the_policy(&cluster).await?;
    cluster.passed()
}

async fn one_target_after_the_other(cluster: &Cluster, detail: &DeploymentDetail) -> Result<()> {
    let tasks = cluster.api.tasks(TENANT, &detail.deployment.id).await?;
    assert_eq!(tasks.len(), 10, "five steps on two targets");
    assert!(tasks.iter().all(|task| task.state == "succeeded" && task.attempt == 1), "{tasks:?}");
    let first = tasks.iter().filter(|task| task.target.name == "web-1");
    let second = tasks.iter().filter(|task| task.target.name == "web-2");
    let last_end = first.filter_map(|task| task.finished_at.clone()).max();
    let first_start = second.filter_map(|task| task.started_at.clone()).min();
    ensure!(
        last_end.is_some() && last_end <= first_start,
        "web-1 until {last_end:?}, web-2 from {first_start:?}"
    );
    Ok(())
}

/// As a person sees it: what is there, what comes, and that nothing was done.
fn a_plan_tells_what_would_be_done(cluster: &Cluster) -> Result<()> {
    let mut stella = std::process::Command::new(stella_tests::binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["--tenant", TENANT, "deploy"]);
    let shown = stella.args(["app:2.0.0", ENVIRONMENT, "--plan"]).output()?;
    let text = String::from_utf8(shown.stdout)?;
    ensure!(shown.status.success(), "{text} {}", String::from_utf8_lossy(&shown.stderr));
    let row = text.lines().find(|line| line.contains("web-2")).context("no line for web-2")?;
    let columns: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(columns, ["2", "2", "web-2", "web-2", "(online)", "1.0.0", "2.0.0", "proven"], "{text}");
    assert!(text.contains("2 targets, 1 at a time") && text.contains("Nothing was changed"), "{text}");
    assert_eq!(currents(cluster)?, ["1.0.0", "1.0.0"]);
    Ok(())
}

async fn output_is_kept(cluster: &Cluster, detail: &DeploymentDetail) -> Result<()> {
    let tasks = cluster.api.tasks(TENANT, &detail.deployment.id).await?;
    let task = tasks.iter().find(|task| task.step == "activate" && task.target.name == "web-2");
    let path = paths::fill(paths::TASK_OUTPUT, &[TENANT, &task.context("no such task")?.id]);
    wait::until("the output is there", async || {
        let answer = cluster.api.answer(cluster.api.request(reqwest::Method::GET, &path)).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(text.contains("activating 1.0.0 on web-2"), "{} {text:?}", answer.status);
        Ok(())
    })
    .await
}

async fn a_failed_check_rolls_back(cluster: &Cluster) -> Result<()> {
    let broken = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback)).await?;
    assert_eq!(broken.deployment.status, "failed");
    assert_eq!(progress(&broken), ["failed", "skipped"], "the second target was never touched");
    let reason = broken.deployment.reason.as_deref().unwrap_or_default();
    ensure!(reason.contains("healthy") && reason.contains("web-1"), "{reason:?}");

    let rollback = cluster.wait_final(broken.rollbacks.first().context("there is no rollback")?).await?;
    assert_eq!(rollback.deployment.status, "succeeded", "{rollback:?}");
    let of = rollback.deployment.rollback_of.as_ref().context("it is no rollback")?;
    assert_eq!((of.id.as_str(), of.reason.as_str()), (broken.deployment.id.as_str(), "deployment_failed"));
    assert_eq!(rollback.targets.len(), 1, "only what was touched goes back");
    assert_eq!(currents(cluster)?, ["1.0.0", "1.0.0"]);
    assert_eq!(cluster.agents[0].read("activations"), "1.0.0\n2.0.0\n1.0.0\n");
    assert_eq!(cluster.agents[1].read("activations"), "1.0.0\n");
    let targets: Vec<Target> = cluster.api.list(&paths::fill(paths::TARGETS, &[TENANT]), &[]).await?;
    for target in targets {
        assert_eq!(target.current.map(|release| release.version).as_deref(), Some("1.0.0"));
    }
    Ok(())
}

async fn a_failed_command_stops_if_that_is_the_policy(cluster: &Cluster) -> Result<()> {
    let stopped = cluster.deploy(&rolling(ENVIRONMENT, "3.0.0", OnFailure::Stop)).await?;
    assert_eq!(stopped.deployment.status, "failed");
    assert_eq!(stopped.rollbacks, Vec::<String>::new());
    let task = cluster.wait_task(&stopped.deployment.id, "web-1", "activate", "failed").await?;
    assert_eq!(task.exit_code, Some(3));
    assert_eq!(currents(cluster)?, ["3.0.0", "1.0.0"], "it is left as it is");

    let path = paths::fill(paths::DEPLOYMENT_ROLLBACK, &[TENANT, &stopped.deployment.id]);
    let rollback: DeploymentDetail = cluster.api.post(&path, &serde_json::json!({}), Some("back")).await?;
    let rollback = cluster.wait_final(&rollback.deployment.id).await?;
    assert_eq!(rollback.deployment.status, "succeeded", "{rollback:?}");
    assert_eq!(rollback.deployment.rollback_of.map(|of| of.reason).as_deref(), Some("manual"));
    assert_eq!(currents(cluster)?, ["1.0.0", "1.0.0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_control_plane_and_a_lock_and_a_block_stop_what_comes_after() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let gated = "echo run >> runs; until [ -e gate ]; do sleep 0.05; done";
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("gated", gated)])).await?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let id = cluster.api.deploy(TENANT, &order, None).await?.deployment.id;
    cluster.wait_lines(0, "runs", 1).await?;
    let because = |reason: &str| HoldBack { reason: reason.to_owned() };
    let pause = paths::fill(paths::DEPLOYMENT_PAUSE, &[TENANT, &id]);
    let paused: DeploymentDetail = cluster.api.post(&pause, &because("lunch"), None).await?;
    ensure!(paused.deployment.paused.is_some(), "{paused:?}");
    std::fs::write(cluster.agents[0].host_root().join("gate"), "")?;
    wait::until("the first target to end", async || {
        let detail = cluster.api.deployment(TENANT, &id).await?;
        ensure!(detail.deployment.counts.succeeded == 1, "{detail:?}");
        Ok(())
    })
    .await?;

    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online(cluster.agents[1].name()).await?;
    let detail = cluster.api.deployment(TENANT, &id).await?;
    let paused = detail.deployment.paused.context("the pause was forgotten")?;
    assert_eq!((paused.reason.as_str(), detail.deployment.counts.waiting), ("lunch", 1));
    assert_eq!(cluster.agents[1].read("runs"), "");

    let lock = paths::fill(paths::ENVIRONMENT_LOCK, &[TENANT, ENVIRONMENT]);
    let locked: Environment = cluster.api.post(&lock, &because("audit"), None).await?;
    ensure!(locked.lock.is_some(), "{locked:?}");
    std::fs::write(cluster.agents[1].host_root().join("gate"), "")?;
    let resume = paths::fill(paths::DEPLOYMENT_RESUME, &[TENANT, &id]);
    let resumed: DeploymentDetail = cluster.api.post(&resume, &serde_json::json!({}), None).await?;
    ensure!(resumed.deployment.paused.is_none(), "{resumed:?}");
    assert_eq!(cluster.wait_final(&id).await?.deployment.status, "succeeded");
    let refused = cluster.api.deploy(TENANT, &order, None).await.unwrap_err().to_string();
    assert!(refused.contains("is locked (audit)"), "{refused}");

    let unlock = paths::fill(paths::ENVIRONMENT_UNLOCK, &[TENANT, ENVIRONMENT]);
    let unlocked: Environment = cluster.api.post(&unlock, &serde_json::json!({}), None).await?;
    ensure!(unlocked.lock.is_none(), "{unlocked:?}");
    let standing = paths::fill(paths::RELEASE_STANDING, &[TENANT, "app:1.0.0"]);
    let block = JudgeRelease { standing: Standing::Blocked, reason: "loses orders".to_owned() };
    let blocked: Release = cluster.api.post(&standing, &block, None).await?;
    ensure!(blocked.standing == Standing::Blocked, "{blocked:?}");
    let refused = cluster.api.deploy(TENANT, &order, None).await.unwrap_err().to_string();
    assert!(refused.contains("is blocked (loses orders)"), "{refused}");
    Ok(())
}
