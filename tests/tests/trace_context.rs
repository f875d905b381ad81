//! What travels with a trace, from a request to everything that is called and run because of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::http::HeaderMap;
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::json;
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_tests::api::Answer;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::collector::{Collector, Span};
use stella_tests::control_plane::Settings;
use stella_tests::people::Shell;
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;
use tokio::sync::watch;

const TRACE: &str = "0123456789abcdef0123456789abcdef";
const SHIP: &str = r#"
name: ship
steps:
  - id: tell
    http: {url: "HOOK"}
  - id: go
    needs: [tell]
    deploy: {release: "app:1.0.0", environment: staging}
"#;

/// Everybody who is called: what their headers were, by path. The gate's answer waits until it is told.
struct Others {
    port: u16,
    heard: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    answer: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

impl Others {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (answer, answers) = watch::channel(false);
        let seen = Arc::clone(&heard);
        let any = move |uri: axum::http::Uri, headers: HeaderMap| {
            seen.lock().push((uri.path().to_owned(), headers));
            let mut answers = answers.clone();
            async move {
                if uri.path() == "/gate" {
                    answers.wait_for(|may| *may).await.ok();
                }
                Json(json!({"passed": true, "reason": "fine"}))
            }
        };
        let app = Router::new().fallback(any);
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { port, heard, answer, server })
    }

    /// The headers of the first call there.
    async fn heard(&self, path: &str, calls: usize) -> Result<HeaderMap> {
        wait::until(&format!("{path} is called"), async || {
            let heard = self.heard.lock();
            let mut here = heard.iter().filter(|(it, _)| it == path);
            ensure!(here.clone().count() >= calls, "{heard:?}");
            Ok(here.next_back().context("never")?.1.clone())
        })
        .await
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Asks for something as somebody in a trace of their own would.
async fn in_trace(
    cluster: &Cluster,
    path: &str,
    body: &impl serde::Serialize,
    headers: &[(&str, &str)],
) -> Result<Answer> {
    let mut request = cluster.api.request(reqwest::Method::POST, path).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(cluster.api.answer(request).await?)
}

/// The one span of the trace with this name.
async fn span(collector: &Collector, name: &str) -> Result<Span> {
    wait::until(&format!("a span {name}"), async || {
        let found: Vec<_> = collector.named(name).into_iter().filter(|span| span.trace == TRACE).collect();
        let [span] = found.as_slice() else { anyhow::bail!("{:#?}", collector.spans()) };
        Ok(span.clone())
    })
    .await
}

fn check(said: &BTreeMap<String, String>, span: &Span) -> Result<()> {
    let expected = [
        ("traceparent", format!("00-{TRACE}-{}-01", span.id)),
        ("tracestate", format!("stella={},congo=t61rcWkgMzE,rojo=1", span.id)),
        ("baggage", "order=1234;priority=high,token=s3cr3t".to_owned()),
    ];
    let expected = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    ensure!(*said == expected, "{} was told {said:?}", span.name);
    ensure!(span.state == said["tracestate"], "{span:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_baggage_reach_every_call_and_command_also_through_a_crash() -> Result<()> {
    let (collector, others) = (Collector::start().await?, Others::start().await?);
    let url = format!("http://127.0.0.1:{}", others.port);
    let tables =
        format!("[gates.http.changes]\nurl = \"{url}/gate\"\n[workflows]\nhttp_allowed = [\"{url}/hook\"]\n");
    let settings = Settings {
        traces_endpoint: Some(collector.endpoint()),
        tables,
        log_level: "trace".to_owned(),
        ..Settings::default()
    };
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    let script = "env | grep -E '^(TRACEPARENT|TRACESTATE|BAGGAGE)=' > trace.txt";
    cluster.release(&release("1.0.0", &[], vec![shell("run", script)])).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    boss.ok(&["gate", "set", "http", ENVIRONMENT, "change", "--endpoint", "changes"])?;
    let source = SHIP.replace("HOOK", &format!("{url}/hook"));
    let path = paths::fill(paths::WORKFLOWS, &[TENANT]);
    cluster.api.post::<_, Workflow>(&path, &ApplyWorkflow { source }, None).await?;

    let run = StartRun { workflow: "ship".to_owned(), version: None, inputs: BTreeMap::new() };
    let parent = format!("00-{TRACE}-00000000000000aa-01");
    let headers = [
        ("traceparent", parent.as_str()),
        ("tracestate", "congo=t61rcWkgMzE, stella=0000000000000bad"),
        ("tracestate", "rojo=1"),
        ("baggage", "order = 1234;priority=high, not valid, token=s3cr3t"),
    ];
    let answer = in_trace(&cluster, &paths::fill(paths::RUNS, &[TENANT]), &run, &headers).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let run: Run = serde_json::from_slice(&answer.body)?;
    let hook = others.heard("/hook", 1).await?;
    others.heard("/gate", 1).await?;
    // What waits for the collector is lost with the process.
    let asked = wait::until("the step is written", async || {
        let steps = collector.named("workflow.step");
        steps.into_iter().find(|it| it.attributes["node_id"] == "tell").context("not yet")
    })
    .await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let gate = others.heard("/gate", 2).await?;
    others.answer.send_replace(true);
    wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, &run.id])).await?;
        ensure!(run.status == "succeeded", "{run:?}");
        Ok(())
    })
    .await?;

    let told = |headers: &HeaderMap| {
        let names = ["traceparent", "tracestate", "baggage"];
        let value =
            |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        names.into_iter().map(|name| (name.to_owned(), value(name))).collect()
    };
    check(&told(&hook), &asked)?;
    check(&told(&gate), &span(&collector, "gate.evaluate").await?)?;
    let text = cluster.agents[0].read("trace.txt");
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    check(&variables, &span(&collector, "agent.execute").await?)?;

    ensure!(!format!("{:?}", collector.spans()).contains("s3cr3t"), "baggage is nobody's attribute");
    for log in [cluster.control_plane.daemon().log(), cluster.agents[0].log()] {
        ensure!(!log.contains("s3cr3t"), "baggage may hold secrets: {log}");
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_dropped_and_never_an_error() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let script = "env | grep -E '^(TRACEPARENT|TRACESTATE|BAGGAGE)=' > trace.txt";
    cluster.release(&release("1.0.0", &[], vec![shell("run", script)])).await?;
    let parent = format!("00-{TRACE}-00000000000000aa-00");
    let long = format!("a={}", "v".repeat(9_000));
    let headers =
        [("traceparent", parent.as_str()), ("tracestate", "NO=1"), ("baggage", "no"), ("baggage", &long)];
    let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
    let answer = in_trace(&cluster, &path, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), &headers).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let said = wait::until("the command has run", async || {
        let said = cluster.agents[0].read("trace.txt");
        ensure!(said.ends_with('\n'), "{said}");
        Ok(said)
    })
    .await?;
    let lines: Vec<&str> = said.lines().collect();
    let [first, second] = lines.as_slice() else { anyhow::bail!("{said}") };
    let (parent, state) = if first.starts_with("TRACEPARENT") { (first, second) } else { (second, first) };
    ensure!(parent.starts_with(&format!("TRACEPARENT=00-{TRACE}-")) && parent.ends_with("-00"), "{said}");
    let span = parent.split('-').nth(2).context("no span")?;
    ensure!(*state == format!("TRACESTATE=stella={span}"), "{said}");
    cluster.passed()
}
