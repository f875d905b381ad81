//! Parts of workflows with real processes: a call that is under way when everything is killed, workflows in workflows, and gates.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use stella_api_types::paths;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::people::Shell;
use stella_tests::recipe::{release, shell};
use stella_tests::wait;
use tokio::sync::watch;

/// A hook that answers when it is told to, and remembers the idempotency keys of the calls that have come.
struct Hook {
    url: String,
    keys: Arc<Mutex<Vec<String>>>,
    answers: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

impl Hook {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/hooks/", listener.local_addr()?);
        let (answers, told) = watch::channel(false);
        let keys = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&keys);
        let answer = move |headers: HeaderMap| async move {
            let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
            seen.lock().push(key.to_owned());
            let mut told = told;
            told.wait_for(|it| *it).await.expect("the sender lives as long as the server");
            StatusCode::OK
        };
        let app = Router::new().route("/hooks/", post(answer));
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url, keys, answers, server })
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn apply(cluster: &Cluster, source: String) -> Result<Workflow> {
    let path = paths::fill(paths::WORKFLOWS, &[TENANT]);
    Ok(cluster.api.post(&path, &ApplyWorkflow { source }, None).await?)
}

async fn start(cluster: &Cluster, workflow: &str) -> Result<Run> {
    let body = StartRun { workflow: workflow.to_owned(), version: None, inputs: BTreeMap::new() };
    Ok(cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &body, None).await?)
}

async fn run(cluster: &Cluster, id: &str) -> Result<Run> {
    Ok(cluster.api.get(&paths::fill(paths::RUN, &[TENANT, id])).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_under_way_in_a_crash_is_made_again_under_the_same_key() -> Result<()> {
    let hook = Hook::start().await?;
    let tables = format!("[workflows]\nhttp_allowed = [\"{}\"]\n", hook.url);
    let mut cluster = Cluster::with_settings(0, &Settings { tables, ..Settings::default() }).await?;
    apply(
        &cluster,
        format!("name: tell\nsteps:\n  - id: call\n    timeout: 5m\n    http: {{url: \"{}\"}}\n", hook.url),
    )
    .await?;
    let started = start(&cluster, "tell").await?;
    let called = |times: usize| {
        let keys = Arc::clone(&hook.keys);
        wait::until("the hook is called", async move || {
            let keys = keys.lock().clone();
            ensure!(keys.len() >= times, "{keys:?}");
            Ok(())
        })
    };
    called(1).await?;
    // The answer has not come, and never will: whoever waits for it is gone.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    called(2).await?;
    ensure!(run(&cluster, &started.id).await?.steps[0].attempts == 1, "it is the same attempt");
    hook.answers.send(true)?;
    let ended = wait::until("the run has ended", async || {
        let found = run(&cluster, &started.id).await?;
        ensure!(found.is_final, "{found:?}");
        Ok(found)
    })
    .await?;
    ensure!(ended.status == "succeeded" && ended.steps[0].outputs["status"] == 200, "{ended:?}");
    let keys = hook.keys.lock().clone();
    ensure!(keys.iter().all(|key| *key == format!("{}/call/1", started.id)), "{keys:?}");
    cluster.passed()
}

const ONE: &str = r#"
name: one
inputs:
  host: {type: text}
steps:
  - id: out
    deploy: {release: "app:1.0.0", environment: ENVIRONMENT, targets: ["${inputs.host}"]}
"#;

const ALL: &str = r#"
name: all
steps:
  - id: look
    retry: {attempts: 20, backoff: 500ms, backoff_max: 1s}
    gate: {release: "app:1.0.0", environment: ENVIRONMENT, findings: {critical: 0}}
  - id: hosts
    needs: [look]
    for_each: {environment: ENVIRONMENT}
    workflow: {name: one, version: 1, inputs: {host: "${item}"}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_run_for_each_target_once_a_gate_lets_it_and_through_a_crash() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let script = "until [ -e go ]; do sleep 0.05; done; echo done >> done.txt";
    cluster.release(&release("1.0.0", &[], vec![shell("wait", script)])).await?;
    apply(&cluster, ONE.replace("ENVIRONMENT", ENVIRONMENT)).await?;
    apply(&cluster, ALL.replace("ENVIRONMENT", ENVIRONMENT)).await?;
    let started = start(&cluster, "all").await?;
    ensure!(started.steps[0].state == "backing_off", "nobody has scanned it: {started:?}");
    let clean = cluster.folder().join("clean.json");
    std::fs::write(&clean, r#"{"ArtifactName": "app", "Results": []}"#)?;
    {
        let dev = Shell::of(&cluster, "dev", "deployer").await?;
        dev.ok(&["findings", "record", "app:1.0.0", &clean.display().to_string(), "--scanner", "trivy"])?;
    }
    let parts = wait::until("both targets are worked on", async || {
        let found = run(&cluster, &started.id).await?;
        let step = found.steps.iter().find(|it| it.id == "hosts").context("no such step")?.clone();
        ensure!(step.runs.len() == 2, "{step:?}");
        for part in &step.runs {
            let part = run(&cluster, &part.run).await?;
            let deployment = part.steps[0].deployment.as_ref().context("no deployment yet")?;
            let tasks = cluster.api.tasks(TENANT, deployment).await?;
            ensure!(tasks.len() == 1 && tasks[0].state == "running", "{tasks:?}");
        }
        Ok(step.runs)
    })
    .await?;
    let items: Vec<_> = parts.iter().filter_map(|it| it.item.clone()).collect();
    ensure!(items == ["web-1", "web-2"], "{items:?}");
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    for agent in &cluster.agents {
        std::fs::write(agent.host_root().join("go"), "")?;
    }
    {
        let eyes = Shell::of(&cluster, "eyes", "viewer").await?;
        let drawn = eyes.ok(&["workflow", "graph", "--run", &started.id, "--watch"])?;
        ensure!(
            drawn.trim_end().lines().last().is_some_and(|it| it.contains("✓ hosts (workflow) succeeded")),
            "{drawn}"
        );
        let shown = eyes.ok(&["workflow", "status", &parts[0].run])?;
        ensure!(shown.contains("has succeeded"), "{shown}");
    }
    let ended = run(&cluster, &started.id).await?;
    ensure!(ended.status == "succeeded", "{ended:?}");
    let part = run(&cluster, &parts[0].run).await?;
    ensure!(part.parent.as_ref().is_some_and(|it| it.run == started.id && it.step == "hosts"), "{part:?}");
    for agent in &cluster.agents {
        ensure!(agent.read("done.txt") == "done\n", "each target was deployed to once");
    }
    cluster.passed()
}
