//! Gates with real processes: what holds a release up, what halts it on its way, and what asks again after a crash.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use axum::Json;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::workflow::{Run, Step};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::collector::Collector;
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::Bundle;
use stella_tests::people::{Shell, ask, promotion};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;
use tokio::sync::watch;

/// A change management that answers when it is told how, and remembers what it was asked.
struct ChangeManagement {
    url: String,
    asked: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
    answer: watch::Sender<Option<Value>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl ChangeManagement {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/changes?key=s3cr3t", listener.local_addr()?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, answers) = watch::channel(None);
        let seen = Arc::clone(&asked);
        let route = axum::routing::post(move |headers: HeaderMap, Json(body): Json<Value>| async move {
            seen.lock().expect("no test panics with it").push((headers, body));
            let mut answers = answers;
            let answer =
                answers.wait_for(Option::is_some).await.expect("the sender lives as long as the server");
            Json(answer.clone())
        });
        let server =
            tokio::spawn(
                async move { axum::serve(listener, axum::Router::new().route("/changes", route)).await },
            );
        Ok(Self { url, asked, answer, server })
    }

    fn asked(&self) -> Vec<(HeaderMap, Value)> {
        self.asked.lock().expect("no test panics with it").clone()
    }
}

impl Drop for ChangeManagement {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn scan(cluster: &Cluster, critical: u32) -> Result<PathBuf> {
    let found = |n: u32| json!({"VulnerabilityID": format!("CVE-{n}"), "PkgName": "tls", "InstalledVersion": "1", "Severity": "CRITICAL"});
    let found: Vec<Value> = (1..=critical).map(found).collect();
    let path = cluster.folder().join(format!("trivy-{critical}.json"));
    std::fs::write(
        &path,
        json!({"ArtifactName": "app", "Results": [{"Target": "app", "Vulnerabilities": found}]}).to_string(),
    )?;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_holds_a_release_up_and_one_that_comes_later_halts_it_and_takes_it_back() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let (boss, dev) =
        (Shell::of(&cluster, "boss", "admin").await?, Shell::of(&cluster, "dev", "deployer").await?);
    let slow = "for i in $(seq 600); do [ -e go ] && exit 0; sleep 0.1; done; exit 1";
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("run", slow)])).await?;
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let said = boss.ok(&["gate", "set", "security", ENVIRONMENT, "scan", "--limit", "critical=0"])?;
    ensure!(said.contains("at most 0 critical"), "{said}");
    let (code, said) = dev.run(&["gate", "set", "manual", ENVIRONMENT, "mine"])?;
    ensure!(code == Some(3) && said.contains("role admin"), "{said}");

    let said = dev.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--plan"])?;
    ensure!(said.contains("gate scan failed: no scanner has reported"), "{said}");
    let said = dev.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--batch", "1"])?;
    ensure!(said.contains("waits for gate scan failed: no scanner has reported"), "{said}");
    let bad = scan(&cluster, 7)?.display().to_string();
    let said = dev.ok(&["findings", "record", "app:2.0.0", &bad, "--scanner", "trivy"])?;
    ensure!(said.contains("7 critical"), "{said}");
    let said = dev.ok(&["promotion", "list", "-o", "json", "--status", "approved"])?;
    let listed: Value = serde_json::from_str(&said)?;
    let id = listed[0]["id"].as_str().context("none waits")?.to_owned();
    let said = dev.ok(&["promotion", "show", &id])?;
    ensure!(said.contains("7 critical findings, and 0 are allowed: CVE-1 in tls@1"), "{said}");

    let good = scan(&cluster, 0)?.display().to_string();
    dev.ok(&["findings", "record", "app:2.0.0", &good, "--scanner", "trivy"])?;
    wait::until("the first target is worked on", async || {
        let tasks = cluster.api.tasks(TENANT, &id).await?;
        ensure!(tasks.iter().any(|task| task.state == "running"), "{tasks:?}");
        Ok(())
    })
    .await?;
    // It is halted at once, and the second target never gets it.
    dev.ok(&["findings", "record", "app:2.0.0", &bad, "--scanner", "trivy"])?;
    for agent in &cluster.agents {
        std::fs::write(agent.host_root().join("go"), "")?;
    }
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.status == "failed", "{ended:?}");
    let reason = ended.deployment.reason.clone().unwrap_or_default();
    ensure!(reason.contains("gate scan: 7 critical findings"), "{reason}");
    let skipped = ended.targets.iter().filter(|target| target.progress == "skipped").count();
    ensure!(skipped == 1, "{ended:?}");
    let log = cluster.control_plane.daemon().log();
    ensure!(log.contains("security.gate.failed"), "{log}");
    let metrics = cluster.control_plane.metrics().await?;
    let failed = "stella_gate_evaluations_total{tenant=\"acme\",env=\"staging\",gate_type=\"security\",result=\"failed\"} 3";
    ensure!(metrics.contains(failed), "{metrics}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_a_crash_is_asked_again_and_starts_once() -> Result<()> {
    let changes = ChangeManagement::start().await?;
    let headers = tempfile::NamedTempFile::new()?;
    std::fs::write(headers.path(), "Authorization: Bearer hunter2\n")?;
    let tables = format!(
        "[gates.http.changes]\nurl = {:?}\nheaders_file = {:?}\n",
        changes.url,
        headers.path().display().to_string()
    );
    let mut cluster = Cluster::with_settings(1, &Settings { tables, ..Settings::default() }).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    boss.ok(&["gate", "set", "http", ENVIRONMENT, "change", "--endpoint", "changes"])?;
    let waits = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let was_asked = async |times: usize| {
        wait::until("it is asked", async || {
            ensure!(changes.asked().len() >= times, "{} times", changes.asked().len());
            Ok(())
        })
        .await
    };
    was_asked(1).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    was_asked(2).await?;
    changes.answer.send_replace(Some(json!({"passed": true, "reason": "CHG-7 is approved"})));
    let ended = cluster.wait_final(&waits.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");

    let asked = changes.asked();
    let ((first, body), (second, _)) = (&asked[0], &asked[1]);
    ensure!(first["idempotency-key"] == second["idempotency-key"], "it is the same question");
    ensure!(first["authorization"] == "Bearer hunter2" && first.contains_key("traceparent"), "{first:?}");
    let wanted = (&body["environment"], &body["release"]["version"], &body["promotion"]);
    ensure!(wanted == (&json!(ENVIRONMENT), &json!("1.0.0"), &json!(waits.id)), "{body}");
    let state = promotion(&cluster.api, &waits.id).await?.gates;
    ensure!(
        state[0].reason.as_deref() == Some("CHG-7 is approved") && state[0].evaluations == 1,
        "{state:?}"
    );
    let log = cluster.control_plane.daemon().log();
    ensure!(!log.contains("hunter2") && !log.contains("s3cr3t"), "{log}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_of_a_real_prometheus_decides_and_without_it_nothing_fails() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let bundle = Bundle::for_gates(&mut cluster).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let gate = |name: &str, at_least: &str| {
        let query = "stella_agents_connected{tenant=\"acme\"}";
        boss.ok(&[
            "gate",
            "set",
            "metric",
            ENVIRONMENT,
            name,
            "--source",
            "main",
            "--query",
            query,
            "--at-least",
            at_least,
        ])
    };
    gate("agents", "2")?;
    let wanted = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let waits = ask(&cluster.api, &wanted).await?;
    let says = async |gate: &str, status: &str| {
        wait::until(&format!("gate {gate} is {status}"), async || {
            let gates = promotion(&cluster.api, &waits.id).await?.gates;
            let state = gates.iter().find(|it| it.gate == gate).with_context(|| format!("{gates:?}"))?;
            ensure!(state.status == status, "{state:?}");
            Ok(state.reason.clone().unwrap_or_default())
        })
        .await
    };
    let reason = says("agents", "unavailable").await?;
    ensure!(reason.contains("cannot be asked"), "{reason}");
    ensure!(promotion(&cluster.api, &waits.id).await?.status == "approved", "silence is not failure");
    let prometheus = bundle.prometheus().await?;
    prometheus.counts_agents(2).await?;
    gate("many", "99")?;
    let reason = says("many", "failed").await?;
    ensure!(reason.starts_with("not at least 99: 2 {"), "{reason}");
    boss.ok(&["gate", "override", &waits.id, "many", "--reason", "two are enough today"])?;
    let ended = cluster.wait_final(&waits.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    let gates = promotion(&cluster.api, &waits.id).await?.gates;
    let states: Vec<_> = gates.iter().map(|it| (it.gate.as_str(), it.status.as_str())).collect();
    ensure!(states == [("agents", "passed"), ("many", "overridden")], "{states:?}");
    let listed = boss.ok(&["events", "--type", "gate_overridden"])?;
    ensure!(listed.contains("gate_overridden"), "{TENANT}: {listed}");
    cluster.passed()
}

/// The book's workflow with gates as its steps, for this cluster: it looks again every second, and at a metric that there is.
fn guarded() -> Result<String> {
    let page = include_str!("../../docs/workflows.md");
    let (_, rest) = page.split_once("## Gates as steps").context("the heading")?;
    let (_, rest) = rest.split_once("```yaml\n").context("a template")?;
    let mut source = rest.split_once("```").context("its end")?.0.to_owned();
    for (book, here) in [
        ("web:", "app:"),
        ("environment: production", "environment: staging"),
        ("backoff: 1m", "backoff: 1s"),
        (
            "sum(rate(http_errors_total{version=\"${inputs.version}\"}[5m]))",
            "stella_agents_connected{tenant=\"acme\"}",
        ),
        ("at_most", "at_least"),
    ] {
        ensure!(source.contains(book), "the book has no {book}: {source}");
        source = source.replace(book, here);
    }
    Ok(source)
}

async fn step(cluster: &Cluster, run: &str, id: &str) -> Result<Step> {
    let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, run])).await?;
    run.steps.into_iter().find(|step| step.id == id).context("no such step")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_s_workflow_asks_gates_through_a_crash_and_people_at_the_end() -> Result<()> {
    let (changes, collector) = (ChangeManagement::start().await?, Collector::start().await?);
    let mut cluster = Cluster::start(1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let bundle = Bundle::render(&cluster.folder().join("bundle"), &cluster.control_plane)?;
    bundle.hurry()?;
    let tables = format!(
        "[gates.prometheus.main]\nurl = {:?}\n[gates.http.changes]\nurl = {:?}\n",
        bundle.prometheus_url(),
        changes.url
    );
    let traces_endpoint = Some(collector.endpoint());
    cluster.control_plane.configure(&Settings { tables, traces_endpoint, ..Settings::default() })?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    let (boss, dev) =
        (Shell::of(&cluster, "boss", "admin").await?, Shell::of(&cluster, "dev", "deployer").await?);
    let file = cluster.folder().join("guarded.yaml");
    std::fs::write(&file, guarded()?)?;
    // Who writes what is run approves nothing in it.
    let author = Shell::of(&cluster, "author", "operator").await?;
    author.ok(&["workflow", "apply", &file.display().to_string()])?;
    let said = dev.ok(&["workflow", "run", "guarded", "--input", "version=1.0.0", "-o", "json"])?;
    let run: Run = serde_json::from_str(&said)?;
    let id = run.id.as_str();

    // Nobody answers yet: that is no verdict, and is asked again.
    wait::until("the metric is asked in vain", async || {
        let step = step(&cluster, id, "errors").await?;
        ensure!(step.reason.as_ref().is_some_and(|it| it.contains("cannot be asked")), "{step:?}");
        Ok(())
    })
    .await?;
    let was_asked = async |times: usize| {
        wait::until("it is asked", async || {
            ensure!(changes.asked().len() >= times, "{} times", changes.asked().len());
            Ok(())
        })
        .await
    };
    was_asked(1).await?;
    let said = dev.ok(&["workflow", "status", id])?;
    ensure!(said.contains("change (gate) running: asks changes (http gate)"), "{said}");
    let tokens = (boss.token(), dev.token());
    cluster.control_plane.kill()?;
    let prometheus = bundle.prometheus().await?;
    cluster.control_plane.resume().await?;
    let (boss, dev) = (Shell::again(&cluster, tokens.0), Shell::again(&cluster, tokens.1));
    was_asked(2).await?;
    changes.answer.send_replace(Some(json!({"passed": true, "reason": "CHG-7 is approved"})));
    let asked = changes.asked();
    let ((first, body), (second, _)) = (&asked[0], &asked[1]);
    ensure!(first["idempotency-key"] == second["idempotency-key"], "it is the same question");
    ensure!(first["idempotency-key"] == format!("{id}/change/1"), "{first:?}");
    let wanted = (&body["environment"], &body["release"]["version"], &body["run"], &body["step"]);
    ensure!(wanted == (&json!(ENVIRONMENT), &json!("1.0.0"), &json!(id), &json!("change")), "{body}");

    board(&cluster, id, (&boss, &dev)).await?;
    drop(prometheus);
    figures(&cluster, &collector, id).await?;
    let log = cluster.control_plane.daemon().log();
    ensure!(log.contains("gate.failed") && !log.contains("s3cr3t"), "{log}");
    cluster.passed()
}

/// What a person decides at the end of the run, which has heard the others by then.
async fn board(cluster: &Cluster, id: &str, (boss, dev): (&Shell<'_>, &Shell<'_>)) -> Result<()> {
    cluster.wait_step(id, "board", "running").await?;
    let errors = step(cluster, id, "errors").await?;
    let reason = errors.outputs["reason"].as_str().unwrap_or_default();
    ensure!(errors.state == "succeeded" && reason.starts_with("at least 0.5: 1 {"), "{errors:?}");
    let said = dev.ok(&["workflow", "status", id])?;
    ensure!(said.contains(&format!("ship 1.0.0? (0/1); stella workflow approve {id} board")), "{said}");
    let said = dev.ok(&["workflow", "graph", "--run", id])?;
    ensure!(said.contains("board (gate) running"), "{said}");
    let (code, said) = dev.run(&["workflow", "approve", id, "board"])?;
    ensure!(code == Some(3) && said.contains("role approver"), "{said}");
    boss.ok(&["workflow", "approve", id, "board", "--reason", "seen"])?;
    let run = wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, id])).await?;
        ensure!(run.is_final, "{run:?}");
        Ok(run)
    })
    .await?;
    ensure!(run.status == "succeeded", "{run:?}");
    ensure!(step(cluster, id, "board").await?.outputs["decided_by"] == "boss", "{run:?}");
    Ok(())
}

/// What is counted and traced of the gates of a run.
async fn figures(cluster: &Cluster, collector: &Collector, id: &str) -> Result<()> {
    let metrics = cluster.control_plane.metrics().await?;
    for kind in ["http", "metric", "manual"] {
        let labels = format!("tenant=\"acme\",env=\"staging\",gate_type=\"{kind}\",result=\"passed\"");
        ensure!(metrics.contains(&format!("stella_gate_evaluations_total{{{labels}}} 1")), "{metrics}");
    }
    let seen = wait::until("the spans of the verdicts", async || {
        let seen = collector.named("gate.evaluate");
        ensure!(seen.iter().any(|it| it.attributes["gate_type"] == "manual"), "{seen:?}");
        Ok(seen)
    })
    .await?;
    let steps = wait::until("the span of the step", async || {
        let steps = collector.named("workflow.step");
        ensure!(steps.iter().any(|it| it.attributes["node_id"] == "board"), "{steps:?}");
        Ok(steps)
    })
    .await?;
    let board = steps.iter().find(|it| it.attributes["node_id"] == "board").context("board")?;
    let verdict = seen.iter().find(|it| it.attributes["gate_type"] == "manual").context("its verdict")?;
    ensure!(verdict.parent == board.id && verdict.attributes["run_id"] == id, "{verdict:?} {board:?}");
    Ok(())
}
