//! Agents that send the spans of their work to a collector themselves: each once, in its place in the tree, and never at a task's cost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::OnFailure;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::collector::{Collector, Span};
use stella_tests::control_plane::Settings;
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::rotel::Rotel;
use stella_tests::wait;

/// What OTLP travels in, and where a collector takes it.
fn ways(rotel: &Rotel) -> [(&'static str, String); 2] {
    [("http/protobuf", rotel.endpoint()), ("grpc", rotel.grpc_endpoint())]
}

fn keys(protocol: &str, endpoint: &str) -> String {
    format!("endpoint = {endpoint:?}\nprotocol = {protocol:?}\n")
}

/// A control plane that sends its spans to a real collector, and an agent that does so too.
async fn direct(
    rotel: &Rotel,
    agents: usize,
    (protocol, endpoint): (&str, &str),
    more: &str,
) -> Result<Cluster> {
    let tables = format!("[traces]\nendpoint = {:?}\n{more}\n", rotel.endpoint());
    let settings = Settings { tables, ..Settings::default() };
    let mut cluster = Cluster::with_settings(agents, &settings).await?;
    let traces = format!("{}compression = \"gzip\"", keys(protocol, endpoint));
    cluster.agents[0].configure("traces", &traces)?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    Ok(cluster)
}

/// So many spans of the work of agents, in this trace or in all of them.
async fn executed(collector: &Collector, count: usize) -> Result<Vec<Span>> {
    wait::until(&format!("{count} executions"), async || {
        let found = collector.named("agent.execute");
        ensure!(found.len() == count, "{found:#?}");
        Ok(found)
    })
    .await
}

/// Stops everything, which sends what is left, and looks whether anything is there twice.
async fn settled(mut cluster: Cluster, collector: &Collector, count: usize) -> Result<()> {
    for agent in &mut cluster.agents {
        agent.stop()?;
    }
    cluster.control_plane.stop()?;
    let spans = executed(collector, count).await?;
    let ids: BTreeSet<_> = spans.iter().map(|span| (&span.trace, &span.id)).collect();
    ensure!(ids.len() == count, "twice: {spans:#?}");
    cluster.control_plane.resume().await?;
    for agent in &mut cluster.agents {
        agent.start()?;
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_execution_is_there_once_whoever_sends_it() -> Result<()> {
    for way in 0..2 {
        let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
        let mut rotel = Rotel::start(folder.path(), &collector).await?;
        let (protocol, endpoint) = &ways(&rotel)[way];
        let cluster = direct(&rotel, 2, (protocol, endpoint), "").await?;
        let steps = vec![shell("first", "echo $TRACEPARENT > trace.txt"), shell("second", "exit 3")];
        cluster.release(&release("1.0.0", &[], steps)).await?;
        let asked = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
        ensure!(cluster.wait_final(&asked.id).await?.deployment.status == "failed");

        let itself = cluster.agents[0].name().to_owned();
        let id = cluster.api.agent(TENANT, &itself).await?.id;
        let told = cluster.agents[0].read("trace.txt");
        let spans = wait::until("both steps of the first host", async || {
            let mut spans = collector.named("agent.execute");
            spans.retain(|span| span.attributes["agent_id"] == id);
            ensure!(spans.len() == 2, "{spans:#?}");
            Ok(spans)
        })
        .await?;
        let dispatched = wait::until("both were dispatched", async || {
            let mut spans = collector.named("task.dispatch");
            spans.retain(|span| span.attributes["agent_id"] == id);
            ensure!(spans.len() == 2, "{spans:#?}");
            Ok(spans)
        })
        .await?;
        for span in &spans {
            ensure!(!span.attributes.contains_key("agent"), "the control plane sent it: {span:?}");
            ensure!(span.service == "stella-agent" && span.attributes["task_type"] == "command", "{span:?}");
            ensure!(span.attributes["target"] == itself && span.nanoseconds > 0, "{span:?}");
            let above = dispatched.iter().find(|it| it.id == span.parent && it.trace == span.trace);
            let above = above.with_context(|| format!("{span:?} hangs nowhere: {dispatched:#?}"))?;
            ensure!(above.attributes["task_id"] == span.attributes["task_id"], "{above:?}");
            ensure!(span.is_error == (span.attributes["status"] == "failed"), "{span:?}");
        }
        ensure!(spans.iter().filter(|span| span.is_error).count() == 1, "{spans:#?}");
        let (_, rest) = told.trim().split_once('-').context("TRACEPARENT")?;
        ensure!(spans.iter().any(|it| rest == format!("{}-{}-01", it.trace, it.id)), "{told}: {spans:#?}");
        let all = collector.named("agent.execute").len();
        settled(cluster, &collector, all).await?;
        rotel.check()?;
    }
    Ok(())
}

/// The decision is the control plane's: of what is not sampled an agent sends nothing, and what fails nevertheless is made up for.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_keeps_the_decision_and_failures_are_made_up_for_once() -> Result<()> {
    let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
    let mut rotel = Rotel::start(folder.path(), &collector).await?;
    let cluster = direct(&rotel, 1, ("http/protobuf", &rotel.endpoint()), "sample_ratio = 0.0").await?;
    cluster.release(&release("1.0.0", &[], vec![shell("fine", "echo $TRACEPARENT > trace.txt")])).await?;
    cluster.release(&release("2.0.0", &[], vec![shell("fine", "true"), shell("bad", "exit 3")])).await?;
    let fine = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
    ensure!(cluster.wait_final(&fine.id).await?.deployment.status == "succeeded");
    let told = cluster.agents[0].read("trace.txt");
    ensure!(told.trim().ends_with("-00"), "what hangs below is not sampled either: {told}");
    let bad = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback)).await?.deployment;
    ensure!(cluster.wait_final(&bad.id).await?.deployment.status == "failed");
    // Two of the deployment itself and one of its rollback, all of them from the control plane.
    let spans = executed(&collector, 3).await?;
    ensure!(spans.iter().all(|span| span.attributes.contains_key("agent")), "{spans:#?}");
    settled(cluster, &collector, 3).await?;
    rotel.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_goes_away_delays_no_task_and_gets_spans_again() -> Result<()> {
    for way in 0..2 {
        let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
        let mut rotel = Rotel::start(folder.path(), &collector).await?;
        let (protocol, endpoint) = &ways(&rotel)[way];
        let cluster = direct(&rotel, 1, (protocol, endpoint), "").await?;
        cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
        let deploy = async || {
            let asked = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
            let ended = cluster.wait_final(&asked.id).await?.deployment;
            ensure!(ended.status == "succeeded", "{ended:?}");
            Ok(())
        };
        deploy().await?;
        executed(&collector, 1).await?;
        rotel.kill()?;
        deploy().await?;
        wait::until("the loss is told", async || {
            let log = cluster.agents[0].log();
            ensure!(log.contains("spans could not be sent to the collector"), "{log}");
            Ok(())
        })
        .await?;
        rotel.resume().await?;
        deploy().await?;
        wait::until("spans come again", async || {
            let found = collector.named("agent.execute").len();
            ensure!(found >= 2, "{found}");
            Ok(())
        })
        .await?;
        cluster.passed()?;
    }
    Ok(())
}

/// An authority of the collector's own, and one of somebody else.
fn authorities(folder: &Path) -> Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let another = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?
        .self_signed(&rcgen::KeyPair::generate()?)?;
    fs::write(folder.join("ca.crt"), certificate.pem())?;
    fs::write(folder.join("other.crt"), another.pem())?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Headers arrive at the one that is trusted, and are in no log; the doctor says who is not.
#[tokio::test(flavor = "multi_thread")]
async fn spans_travel_under_tls_with_headers_and_the_doctor_says_what_is_wrong() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (certificate, key) = authorities(folder.path())?;
    let headers = folder.path().join("headers");
    fs::write(&headers, "Authorization: Bearer s3cr3t-collector\n")?;
    let mut cluster = Cluster::start(1).await?;
    cluster.agents[0].configure("log", "level = \"trace\"")?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    for protocol in ["http/protobuf", "grpc"] {
        let collector = Collector::start_tls(&certificate, &key).await?;
        for (ca, is_trusted) in [("other.crt", false), ("ca.crt", true)] {
            let ca = folder.path().join(ca);
            let more = format!("ca = {ca:?}\nheaders_file = {headers:?}\n");
            cluster.agents[0].configure("traces", &(keys(protocol, &collector.base()) + &more))?;
            cluster.wait_online(cluster.agents[0].name()).await?;
            let found = cluster.agents[0].tool(&["doctor"])?;
            let said = String::from_utf8(found.stdout)?;
            let verdict = if is_trusted { "takes spans" } else { "takes no spans" };
            ensure!(said.contains(verdict) && !said.contains("s3cr3t"), "{protocol}: {said}");
            let asked = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
            ensure!(cluster.wait_final(&asked.id).await?.deployment.status == "succeeded");
            if is_trusted {
                executed(&collector, 1).await?;
                let seen = collector.headers();
                let all = seen.iter().all(|it| it["authorization"] == "Bearer s3cr3t-collector");
                ensure!(all && !seen.is_empty(), "{protocol}: {seen:?}");
            } else {
                ensure!(collector.headers().is_empty(), "{protocol}: {:?}", collector.headers());
            }
        }
    }
    let log = cluster.agents[0].log();
    ensure!(!log.contains("s3cr3t-collector"), "{log}");
    cluster.passed()
}

/// Traces are worth no host: without its headers an agent works, and leaves its spans to the control plane.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_headers_works_and_the_control_plane_writes_its_spans() -> Result<()> {
    let collector = Collector::start().await?;
    let settings = Settings { traces_endpoint: Some(collector.endpoint()), ..Settings::default() };
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    let traces = keys("http/protobuf", &collector.endpoint()) + "headers_file = \"/nonexistent/headers\"";
    cluster.agents[0].configure("traces", &traces)?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    ensure!(!cluster.agents[0].tool(&["config", "check"])?.status.success(), "a check finds it");
    ensure!(cluster.agents[0].tool(&["config", "show"])?.status.success(), "others need it not");
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let asked = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?.deployment;
    ensure!(cluster.wait_final(&asked.id).await?.deployment.status == "succeeded");
    let spans = executed(&collector, 1).await?;
    ensure!(spans[0].attributes.contains_key("agent"), "{spans:?}");
    let log = cluster.agents[0].log();
    ensure!(log.contains("traces.headers_file /nonexistent/headers"), "{log}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_collector_is_found_before_the_start() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let more = cluster.agents[0].config_file().with_extension("conf.d");
    fs::create_dir_all(&more)?;
    for (keys, problem) in [
        ("endpoint = \"collector\"", "traces.endpoint is no URL"),
        ("endpoint = \"https://me:s3cret@collector\"", "traces.endpoint has credentials"),
        ("endpoint = \"http://c:4318/v1/traces\"\nprotocol = \"grpc\"", "http://c:4317 is usual"),
        ("endpoint = \"http://c\"\nheaders_file = \"/nonexistent/headers\"", "traces.headers_file"),
        ("endpoint = \"http://c\"\nca = \"ca.crt\"", "traces.ca"),
        ("sample_ratio = 0.5", "sample_ratio"),
    ] {
        fs::write(more.join("traces.toml"), format!("[traces]\n{keys}\n"))?;
        let checked = cluster.agents[0].tool(&["config", "check"])?;
        let said = String::from_utf8(checked.stderr)?;
        ensure!(!checked.status.success() && said.contains(problem), "{keys}: {said}");
        ensure!(!said.contains("s3cret"), "{said}");
    }
    fs::write(more.join("traces.toml"), "[traces]\nendpoint = \"http://127.0.0.1:1\"\n")?;
    ensure!(
        cluster.agents[0].tool(&["config", "check"])?.status.success(),
        "that nobody listens is seen later"
    );
    let found = String::from_utf8(cluster.agents[0].tool(&["doctor"])?.stdout)?;
    ensure!(found.contains("http://127.0.0.1:1 takes no spans"), "{found}");
    cluster.passed()
}
