//! Workflows with real processes: a run comes to its end whatever is killed in between, and nothing is done twice that must not be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use stella_api_types::paths;
use stella_api_types::workflow::{ApplyWorkflow, DecideStep, Run, StartRun, Workflow};
use stella_tests::cluster::{Cluster, TENANT, create_environment, create_target, target};
use stella_tests::collector::{Collector, Span};
use stella_tests::control_plane::Settings;
use stella_tests::people::person;
use stella_tests::recipe::{release, shell};
use stella_tests::wait;

/// What a hook was sent: the idempotency key and the body of each call.
type Calls = Arc<Mutex<Vec<(String, String)>>>;

/// A hook that fails twice. It stops listening when the task is aborted.
async fn hook(calls: Calls) -> Result<(u16, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let answer = move |headers: HeaderMap, body: String| {
        let calls = Arc::clone(&calls);
        async move {
            let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
            let mut calls = calls.lock();
            calls.push((key.to_owned(), body));
            if calls.len() <= 2 { (StatusCode::BAD_GATEWAY, "") } else { (StatusCode::OK, "{\"ticket\": 7}") }
        }
    };
    let app = Router::new().route("/hooks/ticket", post(answer));
    let served = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
    Ok((port, served))
}

fn settings(collector: &Collector, port: u16) -> Settings {
    let tables = format!("[workflows]\nhttp_allowed = [\"http://127.0.0.1:{port}/hooks/\"]\n");
    Settings { traces_endpoint: Some(collector.endpoint()), tables, ..Settings::default() }
}

async fn apply(cluster: &Cluster, source: String) -> Result<Workflow> {
    let path = paths::fill(paths::WORKFLOWS, &[TENANT]);
    Ok(cluster.api.post(&path, &ApplyWorkflow { source }, None).await?)
}

async fn start(cluster: &Cluster, workflow: &str, inputs: &[(&str, &str)]) -> Result<Run> {
    let inputs = inputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let body =
        StartRun { workflow: workflow.to_owned(), version: None, inputs: inputs.collect::<BTreeMap<_, _>>() };
    Ok(cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &body, None).await?)
}

async fn wait_end(cluster: &Cluster, run: &str) -> Result<Run> {
    wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, run])).await?;
        ensure!(run.is_final, "{run:?}");
        Ok(run)
    })
    .await
}

async fn crash(cluster: &mut Cluster) -> Result<()> {
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await
}

const SHIP: &str = r#"
name: ship
description: To production, by way of staging
inputs:
  version: {type: text}
steps:
  - id: soak
    wait: 3s
  - id: staging
    needs: [soak]
    deploy: {release: "app:${inputs.version}", environment: staging}
  - id: go
    needs: [staging]
    approval: {needed: 1, environment: production, message: "ship ${inputs.version} to production?"}
  - id: production
    needs: [go]
    deploy: {release: "app:${inputs.version}", environment: production}
  - id: ticket
    needs: [production]
    retry: {attempts: 3, backoff: 100ms}
    http:
      url: HOOK
      body: {version: "${inputs.version}", by: "${steps.go.outputs.approved_by[0]}"}
      keep_body: true
"#;

/// The wait of a step for approvals is below the step.
fn waited_below(collector: &Collector, run: &str, asking: Option<&Span>) -> Result<()> {
    let (asking, waited) = (asking.context("the step that asked")?, collector.named("approval.wait"));
    let waited = waited.iter().find(|it| it.attributes.get("step").is_some_and(|step| step == "go"));
    let waited = waited.context("the wait for approvals")?;
    ensure!(waited.parent == asking.id && waited.trace == asking.trace, "{waited:?}, {asking:?}");
    ensure!(waited.attributes["decision"] == "approved" && waited.attributes["run_id"] == run, "{waited:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_comes_to_its_end_through_a_crash_in_every_step() -> Result<()> {
    let (collector, calls) = (Collector::start().await?, Calls::default());
    let (port, served) = hook(Arc::clone(&calls)).await?;
    let mut cluster = Cluster::with_settings(1, &settings(&collector, port)).await?;
    create_environment(&cluster.api, TENANT, "production").await?;
    let mut agent = cluster.enrolled("web-9", &[]).await?;
    create_target(&cluster.api, TENANT, &target("production", "web-9", "web-9")).await?;
    agent.start()?;
    cluster.agents.push(agent);
    cluster.wait_online("web-9").await?;
    let script = "until [ -e go ]; do sleep 0.05; done; echo done >> done.txt";
    cluster.release(&release("1.0.0", &[], vec![shell("wait", script)])).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    apply(&cluster, SHIP.replace("HOOK", &format!("http://127.0.0.1:{port}/hooks/ticket"))).await?;

    let run = start(&cluster, "ship", &[("version", "1.0.0")]).await?;
    ensure!(run.steps[0].state == "running" && run.status == "running", "{run:?}");
    crash(&mut cluster).await?;
    let staging = cluster.wait_step(&run.id, "staging", "running").await?;
    let staging = staging.deployment.context("it has a deployment")?;
    cluster.wait_task(&staging, "web-1", "wait", "running").await?;
    crash(&mut cluster).await?;
    std::fs::write(cluster.agents[0].host_root().join("go"), "")?;
    let asked = cluster.wait_step(&run.id, "go", "running").await?;
    ensure!(asked.approval.as_ref().is_some_and(|it| it.message == "ship 1.0.0 to production?"), "{asked:?}");
    crash(&mut cluster).await?;
    let decide = paths::fill(paths::STEP_DECIDE, &[TENANT, &run.id, "go"]);
    qa.post::<_, Run>(&decide, &DecideStep { approve: true, reason: "tested".to_owned() }, None).await?;
    let production = cluster.wait_step(&run.id, "production", "running").await?;
    let production = production.deployment.context("it has a deployment")?;
    cluster.wait_task(&production, "web-9", "wait", "running").await?;
    crash(&mut cluster).await?;
    std::fs::write(cluster.agents[1].host_root().join("go"), "")?;
    let ended = wait_end(&cluster, &run.id).await?;
    ensure!(ended.status == "succeeded", "{ended:?}");
    for agent in &cluster.agents {
        let done = agent.read("done.txt");
        ensure!(done == "done\n", "each deployment ran once: {done:?}");
    }

    let ticket = ended.steps.iter().find(|step| step.id == "ticket").context("the last step")?;
    ensure!(ticket.outputs["body"]["ticket"] == 7 && ticket.outputs["status"] == 200, "{ticket:?}");
    let (attempts, body) = (format!("{}/ticket/", run.id), r#"{"by":"qa","version":"1.0.0"}"#);
    let made = calls.lock().clone();
    ensure!(made.len() >= 3 && made.iter().all(|it| it.0.starts_with(&attempts) && it.1 == body), "{made:?}");
    let last = made.last().map(|it| it.0.clone());
    ensure!(
        last == Some(format!("{attempts}{}", ticket.attempts)) && made[0].0 == format!("{attempts}1"),
        "{made:?}"
    );

    let scraped = cluster.control_plane.metrics().await?;
    let counted =
        format!("stella_workflow_runs_total{{tenant=\"{TENANT}\",template=\"ship\",status=\"succeeded\"}} 1");
    ensure!(scraped.contains(&counted), "{scraped}");
    let whole = wait::until("the span of the run", async || {
        collector.named("workflow.run").into_iter().next().context("there is none")
    })
    .await?;
    ensure!(
        whole.attributes["template_id"] == "ship" && whole.attributes["status"] == "succeeded",
        "{whole:?}"
    );
    let steps = collector.named("workflow.step");
    let step =
        steps.iter().find(|it| it.attributes["node_id"] == "production").context("a span of its own")?;
    ensure!(step.parent == whole.id && step.attributes["step_type"] == "deploy", "{step:?}");
    let deployments = collector.named("deployment.execute");
    waited_below(&collector, &run.id, steps.iter().find(|it| it.attributes["node_id"] == "go"))?;
    let below = deployments.iter().find(|it| it.attributes["deployment_id"] == production);
    ensure!(below.is_some_and(|it| it.parent == step.id && it.trace == whole.trace), "{deployments:?}");
    served.abort();
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_applies_runs_shows_and_draws() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let file = cluster.folder().join("hello.yaml");
    std::fs::write(&file, "name: hello\nsteps:\n  - id: a\n    pause: 1s\n")?;
    let path = file.display().to_string();
    let (code, said) = cluster.stella(&["workflow", "check", &path])?;
    ensure!(code == Some(1) && said.contains("line 4, column 5: steps[0].pause: unknown field"), "{said}");
    let (code, said) = cluster.stella(&["workflow", "apply", &path])?;
    ensure!(code == Some(3) && said.contains("line 4, column 5: steps[0].pause: unknown field"), "{said}");
    std::fs::write(
        &file,
        "name: hello\nsteps:\n  - id: a\n    wait: 1s\n  - id: out\n    needs: [a]\n    deploy: {release: x, environment: moon}\n",
    )?;
    let (code, said) = cluster.stella(&["workflow", "apply", &path])?;
    ensure!(code == Some(3) && said.contains("line 7, column 39: there is no environment moon"), "{said}");
    std::fs::write(
        &file,
        "name: hello\nsteps:\n  - id: ask\n    input: {n: {type: number, max: 5}}\n  - id: out\n    needs: [ask]\n    when: steps.ask.outputs.n > 3\n    http: {url: \"http://169.254.169.254/latest\"}\n",
    )?;
    let (code, said) = cluster.stella(&["workflow", "apply", &path])?;
    ensure!(
        code == Some(0)
            && said.starts_with(
                "workflow hello has version 1\nwarning: step out: workflows of tenant acme may not call "
            ),
        "{said}"
    );
    let (_, said) = cluster.stella(&["workflow", "graph", "hello"])?;
    ensure!(said == "hello version 1\n○ ask (input)\n   ○ out (http) ← ask\n", "{said}");
    let (_, said) = cluster.stella(&["workflow", "graph", "hello", "--format", "svg"])?;
    ensure!(said.starts_with("<svg ") && said.trim_end().ends_with("</svg>"), "{said}");

    for (answer, status, code) in [("3", "succeeded", Some(0)), ("4", "failed", Some(1))] {
        let run = start(&cluster, "hello", &[]).await?;
        let (_, said) = cluster.stella(&["workflow", "answer", &run.id, "ask", "--set", "n=6"])?;
        ensure!(said.contains("answers.n: is 6; it must be at most 5"), "{said}");
        cluster.stella(&["workflow", "answer", &run.id, "ask", "--set", &format!("n={answer}")])?;
        let (ended, said) = cluster.stella(&["workflow", "watch", &run.id])?;
        ensure!(ended == code && said.contains(&format!("has {status}")), "{said}");
        // Nothing is called that nobody has allowed.
        ensure!(code == Some(0) || said.contains("workflows.http_allowed"), "{said}");
        let (_, said) = cluster.stella(&["workflow", "graph", "--run", &run.id])?;
        ensure!(said.contains("✓ ask (input) succeeded"), "{said}");
    }
    let (_, said) = cluster.stella(&["workflow", "runs", "--status", "failed"])?;
    ensure!(said.lines().count() == 2, "{said}");
    let (code, said) = cluster.stella(&["workflow", "remove", "hello", "--reason", "old"])?;
    ensure!(code == Some(0), "{said}");
    let (code, said) = cluster.stella(&["workflow", "run", "hello"])?;
    ensure!(code == Some(3) && said.contains("workflow hello was removed (old)"), "{said}");
    cluster.passed()
}
