//! Traces, as a collector gets them: one tree from the request to each step on each host, whatever happens in between.

#[expect(dead_code, reason = "it has more than spans")]
#[path = "conformance/overview.rs"]
mod overview;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{DeploymentDetail, OnFailure};
use stella_api_types::environment::Environment;
use stella_api_types::gate::{Check, SetGate};
use stella_api_types::paths;
use stella_api_types::time::parse_rfc3339;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::collector::{Collector, Span};
use stella_tests::control_plane::Settings;
use stella_tests::people::{approve, ask, need_approvals, person, promotion};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::rotel::Rotel;
use stella_tests::{openmetrics, ports, wait};

async fn traced(agents: usize, collector: &Collector) -> Result<Cluster> {
    let settings = Settings { traces_endpoint: Some(collector.endpoint()), ..Settings::default() };
    Cluster::with_settings(agents, &settings).await
}

/// Waits until spans were lost and that is counted.
async fn wait_lost(cluster: &Cluster) -> Result<()> {
    wait::until("lost spans are counted", async || {
        let scraped = cluster.control_plane.metrics().await?;
        ensure!(scraped.contains("stella_trace_spans_total{result=\"failed\"}"), "{scraped}");
        Ok(())
    })
    .await
}

/// Waits for so many spans of a name in a trace.
async fn spans(collector: &Collector, trace: &str, name: &str, count: usize) -> Result<Vec<Span>> {
    wait::until(&format!("{count} spans {name}"), async || {
        let found: Vec<_> = collector.named(name).into_iter().filter(|span| span.trace == trace).collect();
        ensure!(found.len() == count, "{:#?}", collector.spans());
        Ok(found)
    })
    .await
}

/// The one span of a name that has this attribute.
async fn span_with(collector: &Collector, name: &str, key: &str, value: &str) -> Result<Span> {
    wait::until(&format!("a span {name} with {key} {value}"), async || {
        let mut found = collector.named(name);
        found.retain(|span| span.attributes.get(key).is_some_and(|it| it == value));
        ensure!(found.len() == 1, "{found:#?}");
        Ok(found.remove(0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_one_tree_from_the_request_to_each_step() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = traced(2, &collector).await?;
    let steps = vec![shell("first", "echo $TRACEPARENT > trace.txt"), shell("second", "true")];
    cluster.release(&release("1.0.0", &[], steps)).await?;
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
    ensure!(ended.status == "succeeded", "{ended:?}");

    let whole = span_with(&collector, "deployment.execute", "deployment_id", &ended.id).await?;
    ensure!(whole.attributes["environment"] == ENVIRONMENT && !whole.is_error, "{whole:?}");
    ensure!(whole.attributes["release_id"] == ended.release.id && whole.nanoseconds > 0, "{whole:?}");
    let asked = span_with(&collector, "http.request", "http.route", paths::DEPLOYMENTS).await?;
    ensure!(asked.id == whole.parent && asked.trace == whole.trace && asked.parent.is_empty(), "{asked:?}");
    ensure!(
        asked.attributes["http.status_code"] == "201" && asked.attributes["http.method"] == "POST",
        "{asked:?}"
    );
    ensure!(asked.service == "stella-orchestrator", "{asked:?}");

    let dispatched = spans(&collector, &whole.trace, "task.dispatch", 4).await?;
    let executed = spans(&collector, &whole.trace, "agent.execute", 4).await?;
    for dispatch in &dispatched {
        ensure!(dispatch.parent == whole.id, "{dispatch:?}");
        let executions: Vec<_> = executed.iter().filter(|span| span.parent == dispatch.id).collect();
        let [execution] = executions.as_slice() else { anyhow::bail!("{dispatch:?}: {executions:?}") };
        ensure!(
            execution.service == "stella-agent" && execution.attributes["task_type"] == "command",
            "{execution:?}"
        );
        for key in ["target_id", "agent_id", "task_id", "target", "agent"] {
            let (there, here) = (dispatch.attributes.get(key), execution.attributes.get(key));
            ensure!(there.is_some() && there == here, "{key} of {dispatch:?} and {execution:?}");
        }
    }
    for agent in &cluster.agents {
        let said = agent.read("trace.txt");
        let [_, trace, span, _] = said.trim().split('-').collect::<Vec<_>>()[..] else {
            anyhow::bail!("{said}")
        };
        let own = executed.iter().find(|it| it.id == span).with_context(|| said.clone())?;
        let is_own = own.attributes["agent"] == agent.name() && own.attributes["step"] == "first";
        ensure!(trace == whole.trace && is_own, "what a command starts belongs to its execution: {own:?}");
    }
    let probes = collector.named("http.request");
    ensure!(probes.iter().all(|span| !span.attributes["http.url"].starts_with("/health")), "{probes:#?}");
    cluster.passed()
}

/// The names of a span, which may be in any trace, and of those above it up to the one that has no parent; `None` if one is not there.
fn path_up<'s>(spans: &'s [Span], from: &'s Span) -> Option<Vec<&'s str>> {
    let mut names = vec![from.name.as_str()];
    let mut parent = from.parent.as_str();
    while !parent.is_empty() {
        let above = spans.iter().find(|it| it.trace == from.trace && it.id == *parent)?;
        names.push(&above.name);
        parent = &above.parent;
    }
    Some(names)
}

/// What OTLP travels in. What holds for one holds for the other.
#[derive(Clone, Copy, Debug)]
enum Way {
    Http,
    Grpc,
}

impl Way {
    /// Settings that send spans there, with more keys of their table.
    fn settings(self, endpoint: &str, more: &str) -> Settings {
        let protocol = match self {
            Self::Http => "http/protobuf",
            Self::Grpc => "grpc",
        };
        let tables = format!("[traces]\nendpoint = {endpoint:?}\nprotocol = {protocol:?}\n{more}\n");
        Settings { tables, ..Settings::default() }
    }

    fn of(self, rotel: &Rotel) -> String {
        match self {
            Self::Http => rotel.endpoint(),
            Self::Grpc => rotel.grpc_endpoint(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_gets_an_approved_deployment_as_one_tree_over_a_restart_in_between() -> Result<()> {
    one_tree_over_a_restart(Way::Http).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_gets_the_same_tree_over_grpc() -> Result<()> {
    one_tree_over_a_restart(Way::Grpc).await
}

/// Each span has the attributes of the overview's table, whatever it came through.
fn as_in_the_table(spans: &[Span]) -> Result<()> {
    for span in spans {
        let known = overview::SPANS.iter().find(|(name, _)| *name == span.name);
        for attribute in known.map_or(&[][..], |(_, attributes)| *attributes) {
            ensure!(span.attributes.contains_key(*attribute), "no {attribute} in {span:?}");
        }
    }
    Ok(())
}

/// A span is from then to then: what is journalled has milliseconds.
fn lasted(span: &Span, from: &str, to: &str) -> Result<()> {
    let nanoseconds = |text: &str| anyhow::Ok(parse_rfc3339(text).context("a time")?.0 * 1_000_000);
    let (start, end) = (nanoseconds(from)?, nanoseconds(to)?);
    ensure!(span.start == start && span.start + span.nanoseconds == end, "not {from} to {to}: {span:?}");
    Ok(())
}

async fn one_tree_over_a_restart(way: Way) -> Result<()> {
    let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
    let mut rotel = Rotel::start(folder.path(), &collector).await?;
    let settings = way.settings(&way.of(&rotel), "compression = \"gzip\"");
    let mut cluster = Cluster::with_settings(2, &settings).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("first", "true"), shell("second", "true")])).await?;
    need_approvals(&cluster.api, 1).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    let asked = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    // The span of the request has left before the end of the process that answered it.
    span_with(&collector, "http.request", "http.route", paths::DEPLOYMENTS).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let approved = approve(&qa, &asked).await?;
    let ended = cluster.wait_final(&asked.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");

    let whole = span_with(&collector, "deployment.execute", "deployment_id", &asked.id).await?;
    spans(&collector, &whole.trace, "agent.execute", 4).await?;
    spans(&collector, &whole.trace, "task.dispatch", 4).await?;
    let waited = spans(&collector, &whole.trace, "approval.wait", 1).await?.remove(0);
    // What began before the restart has its start nevertheless.
    lasted(&waited, &asked.requested_at, &approved.approvals[0].at)?;
    lasted(
        &whole,
        &ended.deployment.created_at,
        ended.deployment.finished_at.as_deref().unwrap_or_default(),
    )?;
    let all: Vec<_> = collector.spans().into_iter().filter(|span| span.trace == whole.trace).collect();
    for span in &all {
        let expected: &[&str] = match span.name.as_str() {
            "http.request" => &["http.request"],
            "approval.wait" => &["approval.wait", "http.request"],
            "deployment.execute" => &["deployment.execute", "http.request"],
            "task.dispatch" => &["task.dispatch", "deployment.execute", "http.request"],
            "agent.execute" => &["agent.execute", "task.dispatch", "deployment.execute", "http.request"],
            other => anyhow::bail!("{other} is not in the overview: {span:?}"),
        };
        ensure!(path_up(&all, span).as_deref() == Some(expected), "{span:?} in {all:#?}");
    }
    let ids: BTreeSet<_> = all.iter().map(|span| &span.id).collect();
    ensure!(ids.len() == all.len() && all.len() == 11, "each once: {all:#?}");
    as_in_the_table(&all)?;
    rotel.check()?;
    cluster.passed()
}

const SHIP: &str =
    "name: ship\nsteps:\n  - id: out\n    deploy: {release: \"app:1.0.0\", environment: staging}\n";

/// All that the overview names, in one trace: a run whose step asks for a promotion that a gate looks at and somebody approves.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_gets_all_key_spans_in_one_trace_over_a_restart() -> Result<()> {
    let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
    let mut rotel = Rotel::start(folder.path(), &collector).await?;
    let mut cluster = Cluster::with_settings(1, &Way::Http.settings(&rotel.endpoint(), "")).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    need_approvals(&cluster.api, 1).await?;
    let check = Check::Expression { expression: "true".to_owned() };
    let gate = SetGate { name: "rule".to_owned(), check, ttl_seconds: None, verifies: false };
    let path = paths::fill(paths::ENVIRONMENT_GATES, &[TENANT, ENVIRONMENT]);
    cluster.api.post::<_, Environment>(&path, &gate, None).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    let applied = ApplyWorkflow { source: SHIP.to_owned() };
    cluster.api.post::<_, Workflow>(&paths::fill(paths::WORKFLOWS, &[TENANT]), &applied, None).await?;
    let run = StartRun { workflow: "ship".to_owned(), version: None, inputs: BTreeMap::new() };
    let run: Run = cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &run, None).await?;
    let out = cluster.wait_step(&run.id, "out", "running").await?;
    let asked = promotion(&cluster.api, &out.deployment.context("it asks for a promotion")?).await?;
    span_with(&collector, "http.request", "http.route", paths::RUNS).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    approve(&qa, &asked).await?;
    let ended = cluster.wait_final(&asked.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");

    let whole = span_with(&collector, "workflow.run", "run_id", &run.id).await?;
    let above = ["workflow.step", "workflow.run", "http.request"];
    for (name, below) in [
        ("approval.wait", &[][..]),
        ("gate.evaluate", &[]),
        ("agent.execute", &["task.dispatch", "deployment.execute"]),
    ] {
        let span = spans(&collector, &whole.trace, name, 1).await?.remove(0);
        let wanted = [&[name], below, &above].concat();
        wait::until(&format!("what is above {name}"), async || {
            let all = collector.spans();
            let found = path_up(&all, &span);
            ensure!(found.as_deref() == Some(&wanted[..]), "{found:?}");
            Ok(())
        })
        .await?;
    }
    let all: Vec<_> = collector.spans().into_iter().filter(|span| span.trace == whole.trace).collect();
    let names: BTreeSet<_> = all.iter().map(|span| span.name.as_str()).collect();
    let wanted = overview::SPANS.iter().map(|(name, _)| *name).chain(["http.request"]);
    ensure!(names == wanted.collect(), "{names:?}");
    as_in_the_table(&all)?;
    rotel.check()?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_control_plane_is_written_once_and_where_it_belongs() -> Result<()> {
    let collector = Collector::start().await?;
    let mut cluster = traced(1, &collector).await?;
    cluster
        .release(&release("1.0.0", &[], vec![shell("wait", "until [ -e go ]; do sleep 0.05; done")]))
        .await?;
    need_approvals(&cluster.api, 1).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    let asked = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    approve(&qa, &asked).await?;
    cluster.wait_task(&asked.id, "web-1", "wait", "running").await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    std::fs::write(cluster.agents[0].host_root().join("go"), "")?;
    let ended: DeploymentDetail = cluster.wait_final(&asked.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");

    let waited = span_with(&collector, "approval.wait", "promotion_id", &asked.id).await?;
    ensure!(
        waited.attributes["decision"] == "approved" && waited.attributes.contains_key("duration"),
        "{waited:?}"
    );
    let whole = span_with(&collector, "deployment.execute", "deployment_id", &asked.id).await?;
    ensure!(whole.trace == waited.trace && whole.parent == waited.parent, "the trace is that of who asked");
    let executed = spans(&collector, &whole.trace, "agent.execute", 1).await?;
    ensure!(executed[0].attributes["status"] == "succeeded" && !executed[0].is_error, "{executed:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_and_a_failure_is_seen_without_what_was_printed() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = traced(1, &collector).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo s3cret; exit 7")])).await?;
    let trace = "0123456789abcdef0123456789abcdef";
    let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
    let body = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let request = cluster.api.request(reqwest::Method::POST, &path).json(&body);
    let answer =
        cluster.api.answer(request.header("traceparent", format!("00-{trace}-00000000000000aa-01"))).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let whole = spans(&collector, trace, "deployment.execute", 1).await?.remove(0);
    let asked = spans(&collector, trace, "http.request", 1).await?.remove(0);
    for span in [&whole, &asked] {
        ensure!(span.parent == "00000000000000aa", "{span:?}");
    }
    ensure!(whole.is_error && whole.attributes["status"] == "failed", "{whole:?}");
    let executed = spans(&collector, trace, "agent.execute", 1).await?;
    ensure!(executed[0].is_error, "{executed:?}");
    ensure!(!format!("{:?}", collector.spans()).contains("s3cret"), "output is nobody's attribute");

    let unsampled = "fedcba9876543210fedcba9876543210";
    let request = cluster.api.request(reqwest::Method::GET, &path);
    let header = format!("00-{unsampled}-00000000000000aa-00");
    cluster.api.answer(request.header("traceparent", header)).await?;
    // Something that comes later is there, so this would be.
    cluster.api.answer(cluster.api.request(reqwest::Method::GET, paths::WHOAMI)).await?;
    span_with(&collector, "http.request", "http.route", paths::WHOAMI).await?;
    ensure!(collector.spans().iter().all(|span| span.trace != unsampled), "its caller did not want it");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_delays_nothing_and_is_noticed() -> Result<()> {
    for way in [Way::Http, Way::Grpc] {
        delays_nothing(way, &format!("http://127.0.0.1:{}", ports::free()?)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_connections_and_says_nothing_delays_nothing_either() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    for way in [Way::Http, Way::Grpc] {
        delays_nothing(way, &endpoint).await?;
    }
    silent.abort();
    Ok(())
}

/// A deployment ends as ever, what was lost is counted, and the control plane stops although something is on its way.
async fn delays_nothing(way: Way, endpoint: &str) -> Result<()> {
    let mut cluster = Cluster::with_settings(1, &way.settings(endpoint, "")).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let ended = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    wait_lost(&cluster).await?;
    cluster.control_plane.stop()?;
    cluster.control_plane.resume().await?;
    cluster.passed()
}

/// A collector that comes back is found again, on the connection that was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_was_restarted_gets_spans_again() -> Result<()> {
    for way in [Way::Http, Way::Grpc] {
        let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
        let mut rotel = Rotel::start(folder.path(), &collector).await?;
        let cluster = Cluster::with_settings(0, &way.settings(&way.of(&rotel), "")).await?;
        wait::until("the first spans", async || {
            ensure!(!collector.spans().is_empty(), "none");
            Ok(())
        })
        .await?;
        rotel.kill()?;
        wait::until("spans are lost", async || {
            cluster.api.answer(cluster.api.request(reqwest::Method::GET, paths::WHOAMI)).await?;
            let scraped = cluster.control_plane.metrics().await?;
            ensure!(scraped.contains("stella_trace_spans_total{result=\"failed\"}"), "{scraped}");
            Ok(())
        })
        .await?;
        rotel.resume().await?;
        wait::until("spans come again", async || {
            // Nothing was asked for there before.
            cluster.api.answer(cluster.api.request(reqwest::Method::GET, paths::ACCOUNTS)).await?;
            let is_new =
                |span: &Span| span.attributes.get("http.route").is_some_and(|it| it == paths::ACCOUNTS);
            ensure!(collector.spans().iter().any(is_new), "{way:?}");
            Ok(())
        })
        .await?;
        cluster.passed()?;
    }
    Ok(())
}

/// Both ways with TLS, under an authority of the collector's own: headers arrive, and are in no log.
#[tokio::test(flavor = "multi_thread")]
async fn spans_travel_under_tls_with_their_headers_and_to_nobody_who_is_not_trusted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let another = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?
        .self_signed(&rcgen::KeyPair::generate()?)?;
    let (trusted, other) = (folder.path().join("ca.crt"), folder.path().join("other.crt"));
    std::fs::write(&trusted, certificate.pem())?;
    std::fs::write(&other, another.pem())?;
    let headers = folder.path().join("headers");
    std::fs::write(&headers, "Authorization: Bearer s3cr3t-collector\n")?;
    for way in [Way::Http, Way::Grpc] {
        let collector = Collector::start_tls(&certificate.pem(), &key.serialize_pem()).await?;
        for (ca, is_trusted) in [(&other, false), (&trusted, true)] {
            let more = format!("ca = {ca:?}\nheaders_file = {headers:?}\ncompression = \"gzip\"");
            let settings = way.settings(&collector.base(), &more);
            let settings = Settings { log_level: "trace".to_owned(), ..settings };
            let mut cluster = Cluster::with_settings(0, &settings).await?;
            if is_trusted {
                span_with(&collector, "http.request", "http.route", paths::TENANTS).await?;
                let seen = collector.headers();
                let all = seen.iter().all(|it| it["authorization"] == "Bearer s3cr3t-collector");
                ensure!(all && !seen.is_empty(), "{way:?}: {seen:?}");
            } else {
                wait_lost(&cluster).await?;
                ensure!(collector.spans().is_empty() && collector.headers().is_empty(), "{way:?}");
            }
            let log = cluster.control_plane.daemon().log();
            ensure!(!log.contains("s3cr3t-collector"), "{log}");
            cluster.passed()?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_their_headers_go_to_the_collector_and_not_where_it_points_to() -> Result<()> {
    let elsewhere = Collector::start().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}/v1/traces", listener.local_addr()?);
    let target = elsewhere.endpoint();
    let redirect = axum::routing::any(move || async move { axum::response::Redirect::temporary(&target) });
    let server =
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(redirect)).await });
    let settings = Settings { traces_endpoint: Some(endpoint), ..Settings::default() };
    let cluster = Cluster::with_settings(0, &settings).await?;
    wait_lost(&cluster).await?;
    ensure!(elsewhere.spans().is_empty(), "{:?}", elsewhere.spans());
    server.abort();
    cluster.passed()
}

/// The share is of the traces that begin here: whoever sends a trace has decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_callers_sampled_trace_is_sent_whatever_the_share_is() -> Result<()> {
    let collector = Collector::start().await?;
    let settings = Way::Http.settings(&collector.base(), "sample_ratio = 0.0");
    let cluster = Cluster::with_settings(1, &settings).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo $TRACEPARENT > trace.txt")])).await?;
    let trace = "0123456789abcdef0123456789abcdef";
    let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
    let request = cluster.api.request(reqwest::Method::POST, &path);
    let request = request.json(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop));
    let request = request.header("traceparent", format!("00-{trace}-00000000000000aa-01"));
    let answer = cluster.api.answer(request).await?;
    ensure!(answer.status == 201, "{answer:?}");
    for name in ["http.request", "deployment.execute", "task.dispatch", "agent.execute"] {
        spans(&collector, trace, name, 1).await?;
    }
    let told = cluster.agents[0].read("trace.txt");
    ensure!(told.contains(trace) && told.trim().ends_with("-01"), "what hangs below is sampled too: {told}");
    let others: Vec<_> = collector.spans().into_iter().filter(|span| span.trace != trace).collect();
    ensure!(others.is_empty(), "what begins here is not in a sample of nothing: {others:#?}");
    cluster.passed()
}

/// What fails is looked into, so a small sample is no loss: a deployment that fails is there with all of its tasks.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_fails_is_always_in_the_sample() -> Result<()> {
    for way in [Way::Http, Way::Grpc] {
        a_failure_is_exported(way).await?;
    }
    Ok(())
}

async fn a_failure_is_exported(way: Way) -> Result<()> {
    let collector = Collector::start().await?;
    let settings = way.settings(&collector.base(), "sample_ratio = 0.0");
    let cluster = Cluster::with_settings(1, &settings).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("fine", "true")])).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("fine", "true"), shell("bad", "exit 3")])).await?;
    let fine = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
    let fine = cluster.wait_final(&fine.id).await?.deployment;
    ensure!(fine.status == "succeeded", "{fine:?}");
    let bad = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback)).await?.deployment;
    ensure!(cluster.wait_final(&bad.id).await?.deployment.status == "failed");

    let whole = span_with(&collector, "deployment.execute", "deployment_id", &bad.id).await?;
    ensure!(whole.is_error, "{whole:?}");
    // Two of the deployment itself, and one of its rollback, which is of the same trace.
    let executed = spans(&collector, &whole.trace, "agent.execute", 3).await?;
    let dispatched = spans(&collector, &whole.trace, "task.dispatch", 3).await?;
    ensure!(executed.iter().filter(|it| it.is_error).count() == 1, "{executed:?}");
    for execution in &executed {
        ensure!(dispatched.iter().any(|it| it.id == execution.parent), "{execution:?}");
    }
    let others: Vec<_> = collector.spans().into_iter().filter(|it| it.trace != whole.trace).collect();
    ensure!(others.is_empty(), "nothing else is in a sample of nothing: {others:#?}");
    let page = openmetrics::read(&cluster.control_plane.open_metrics().await?)?;
    let leads = |labels: &String| labels.contains(&whole.trace);
    ensure!(page.exemplars.values().all(leads), "and nothing leads anywhere else: {:?}", page.exemplars);
    let deployments = page.exemplars.keys().any(|it| it.starts_with("stella_deployment_duration_seconds"));
    ensure!(deployments, "what failed is found by its duration: {:?}", page.exemplars);
    cluster.passed()
}
