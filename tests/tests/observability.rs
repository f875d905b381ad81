//! Somebody is paged: real Prometheus and Alertmanager, on the rendered bundle, watch a real control plane.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::collector::{Collector, Span};
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Bundle, Event, Pager, Prometheus};
use stella_tests::people::{approve, ask, need_approvals, person};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::rotel::Rotel;
use stella_tests::{openmetrics, ports, scraping, wait};

/// `AgentOffline` asks for two minutes of silence, and that is not shortened.
const SILENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_pages_somebody_until_it_is_back() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let (pager, bundle) =
        (Pager::start().await?, Bundle::render(&cluster.folder().join("bundle"), &cluster.control_plane)?);
    bundle.hurry()?;
    bundle.page(&pager)?;
    let alertmanager = bundle.alertmanager().await?;
    let prometheus = bundle.prometheus().await?;

    wait::until("the control plane is scraped over HTTPS", async || {
        let targets = prometheus.targets().await?;
        let target = targets.first().context("there is no target")?;
        ensure!(target["health"] == "up", "{target}");
        ensure!(target["scrapeUrl"].as_str().is_some_and(|url| url.starts_with("https://")), "{target}");
        Ok(())
    })
    .await?;

    let lost = cluster.agents[1].name().to_owned();
    cluster.agents[1].kill()?;
    let page = wait::until_within(SILENCE, "somebody is paged", async || {
        let pages = pager.pages("AgentOffline");
        ensure!(!pages.is_empty(), "{:?}", prometheus.query("stella_agent_heartbeat_age_seconds").await?);
        Ok(pages)
    })
    .await?;
    let (action, event) = page.first().context("a page")?;
    ensure!(action == "trigger" && event["payload"]["severity"] == "critical", "{event}");
    let details = event["payload"]["custom_details"].to_string();
    ensure!(details.contains(&format!("Agent {lost} has not sent")), "{event}");
    ensure!(event["payload"]["summary"].as_str().is_some_and(|text| text.contains(TENANT)), "{event}");
    ensure!(!details.contains(cluster.agents[0].name()), "an agent that is well is in {event}");

    cluster.agents[1].start()?;
    wait::until("the page is resolved", async || {
        let pages = pager.pages("AgentOffline");
        let (action, resolved) = pages.last().context("a page")?;
        ensure!(action == "resolve" && resolved["dedup_key"] == event["dedup_key"], "{resolved}");
        Ok(())
    })
    .await?;
    drop((alertmanager, prometheus));
    cluster.passed()
}

/// An authority of the site's own, and a certificate under it, as files in a folder.
fn scraper_identity(folder: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    fs::write(folder.join("scrapers.crt"), authority.self_signed(&key)?.pem())?;
    let mut scraper = CertificateParams::new(vec!["prometheus.example.com".to_owned()])?;
    scraper.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let own = KeyPair::generate()?;
    fs::write(
        folder.join("scraper.crt"),
        scraper.signed_by(&own, &Issuer::from_params(&authority, &key))?.pem(),
    )?;
    Ok(fs::write(folder.join("scraper.key"), own.serialize_pem())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_scraper_with_a_certificate_gets_metrics_when_that_is_asked_for() -> Result<()> {
    let files = tempfile::tempdir()?;
    scraper_identity(files.path())?;
    let file = |name: &str| files.path().join(name).display().to_string();
    let settings =
        Settings { metrics_client_ca: Some(files.path().join("scrapers.crt")), ..Settings::default() };
    let cluster = Cluster::with_settings(0, &settings).await?;
    ensure!(cluster.control_plane.metrics().await.is_err(), "somebody without a certificate has the metrics");
    ensure!(cluster.control_plane.health().await?.status == "healthy", "the API asks for no certificate");

    let (certificate, key) = (file("scraper.crt"), file("scraper.key"));
    let flags = ["--client-cert", &certificate, "--client-key", &key];
    for (name, flags, health) in [("with", flags.as_slice(), "up"), ("without", &[], "down")] {
        let bundle = Bundle::render_with(&cluster.folder().join(name), &cluster.control_plane, flags)?;
        bundle.hurry()?;
        let prometheus = bundle.prometheus().await?;
        wait::until(
            &format!("the control plane is {health} for who comes {name} a certificate"),
            async || {
                let targets = prometheus.targets().await?;
                let target = targets.first().context("there is no target")?;
                ensure!(target["health"] == health, "{target}");
                Ok(())
            },
        )
        .await?;
    }
    cluster.passed()
}

/// Runbooks ask for the labels of an alert: whoever is paged has them.
fn pages_say_whose_they_are(pager: &Pager) -> Result<()> {
    for (name, labels) in [
        ("ManyAgentsSilent", vec!["tenant=acme"]),
        ("AgentOffline (other)", vec!["agent=db-1 tenant=other", "agent=db-2 tenant=other"]),
        ("JournalWritesRefused", vec!["instance=b:9090"]),
    ] {
        let page = pager.pages(name).pop().with_context(|| name.to_owned())?.1;
        let firing = page["payload"]["custom_details"]["firing"].to_string();
        for label in labels {
            ensure!(firing.contains(&format!("[ {label} ]")), "{label} is not in {page}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cause_is_one_page_and_the_rest_is_chat() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let (pager, bundle) =
        (Pager::start().await?, Bundle::render(&cluster.folder().join("bundle"), &cluster.control_plane)?);
    bundle.hurry()?;
    bundle.page(&pager)?;
    let alertmanager = bundle.alertmanager().await?;
    let offline = |tenant: &str, agent: &str| json!({ "alertname": "AgentOffline", "severity": "critical", "tenant": tenant, "agent": agent });
    alertmanager
        .fire(&[
            json!({ "alertname": "ManyAgentsSilent", "severity": "critical", "tenant": "acme" }),
            json!({ "alertname": "AgentPoolLow", "severity": "warning", "tenant": "acme" }),
            offline("acme", "web-1"),
            offline("other", "db-1"),
            offline("other", "db-2"),
            json!({ "alertname": "RollbackRateHigh", "severity": "warning" }),
            json!({ "alertname": "ApprovalBacklogHigh", "severity": "warning", "tenant": "acme", "env": "production" }),
            json!({ "alertname": "Watchdog", "severity": "none" }),
            // One of two control planes is not scraped: nothing is said of what it alone knows, nor of its absence more than once.
            json!({ "alertname": "ControlPlaneNotScraped", "severity": "critical", "instance": "a:9090" }),
            json!({ "alertname": "JournalWritesRefused", "severity": "critical", "instance": "a:9090" }),
            json!({ "alertname": "JournalWritesRefused", "severity": "critical", "instance": "b:9090" }),
            json!({ "alertname": "SomebodyElsesAlert", "severity": "warning", "instance": "a:9090" }),
        ])
        .await?;
    wait::until("all are told", async || {
        let (pages, events) = (pager.pages(""), pager.events());
        let chats = events.iter().filter(|event| matches!(event, Event::Chatted(_))).count();
        let chats_are_all = ["RollbackRateHigh", "ApprovalBacklogHigh", "SomebodyElsesAlert"].len();
        ensure!(pages.len() >= 4 && chats >= chats_are_all, "{events:?}");
        pages_say_whose_they_are(&pager)
    })
    .await?;
    // What is inhibited is known at once, and is in the same list as what is told.
    for alert in alertmanager.alerts().await? {
        let labels = &alert["labels"];
        let is_single = labels["alertname"] == "AgentOffline" || labels["alertname"] == "AgentPoolLow";
        let is_blind = labels["alertname"] == "JournalWritesRefused" && labels["instance"] == "a:9090";
        let is_quiet = (labels["tenant"] == "acme" && is_single) || is_blind;
        ensure!((alert["status"]["state"] == "suppressed") == is_quiet, "{alert}");
    }
    let events = pager.events();
    let about = |name: &str| pager.pages(name).len();
    ensure!(
        (about("ManyAgentsSilent"), about("AgentOffline (other)"), about("AgentOffline")) == (1, 1, 1),
        "{events:?}"
    );
    for event in &events {
        if let Event::Chatted(message) = event {
            let text = message.to_string();
            ensure!(message["channel"] == "#stella-alerts" && text.contains("FIRING"), "{text}");
        }
    }
    let chats = format!("{events:?}");
    ensure!(chats.contains("(warning) [ env=production tenant=acme ]"), "{chats}");
    // One of two is not scraped, and what is a sum over both is said; of none is anything known once both are not.
    alertmanager.fire(&[json!({ "alertname": "ControlPlaneNotScraped", "severity": "critical" })]).await?;
    wait::until("sums over all control planes are held back", async || {
        let alerts = alertmanager.alerts().await?;
        let sum = alerts.iter().find(|it| it["labels"]["alertname"] == "RollbackRateHigh");
        ensure!(sum.is_some_and(|it| it["status"]["state"] == "suppressed"), "{alerts:?}");
        let other = alerts.iter().find(|it| it["labels"]["alertname"] == "SomebodyElsesAlert");
        ensure!(other.is_some_and(|it| it["status"]["state"] == "active"), "{alerts:?}");
        Ok(())
    })
    .await?;
    drop(alertmanager);
    cluster.passed()
}

/// The figure of an agent's certificate in what the control plane exports.
async fn certificate_ends(cluster: &Cluster, agent: &str) -> Result<String> {
    let figures = cluster.control_plane.metrics().await?;
    let series = format!(
        "stella_agent_certificate_expiry_timestamp_seconds{{agent=\"{agent}\",tenant=\"{TENANT}\"}} "
    );
    let line = figures.lines().find_map(|line| line.strip_prefix(&series));
    Ok(line.with_context(|| format!("no {series} in {figures}"))?.to_owned())
}

/// Of a host that is away somebody is told while there is time, also if the control plane was restarted in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_not_renewed_pages_somebody_before_it_ends() -> Result<()> {
    // With what it is backdated by, that is renewed all the time, and reported 50 s after the last renewal.
    let settings = Settings { certificate_lifetime_s: Some(120), ..Settings::default() };
    let mut cluster = Cluster::with_settings(2, &settings).await?;
    let (well, away) = (cluster.agents[0].name().to_owned(), cluster.agents[1].name().to_owned());
    let at_first = certificate_ends(&cluster, &well).await?;
    cluster.agents[1].kill()?;
    let (file, id) = (
        cluster.control_plane.state_dir().join("last-certificates"),
        cluster.api.agent(TENANT, &away).await?.id,
    );
    let ends = wait::until("it is kept beside the journal", async || {
        let ends = certificate_ends(&cluster, &away).await?;
        let kept: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let kept_s = kept[&id]["ends"].as_f64().with_context(|| format!("no {id} in {kept}"))? / 1_000.0;
        ensure!(kept_s.to_string() == ends, "{ends}, and {kept}");
        Ok(ends)
    })
    .await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    ensure!(certificate_ends(&cluster, &away).await? == ends, "it is another after the restart");

    let (pager, bundle) =
        (Pager::start().await?, Bundle::render(&cluster.folder().join("bundle"), &cluster.control_plane)?);
    bundle.hurry()?;
    bundle.page(&pager)?;
    let alertmanager = bundle.alertmanager().await?;
    let prometheus = bundle.prometheus().await?;
    let told = format!("The certificate of agent {away} ");
    wait::until_within(SILENCE, "somebody is told of the host that is away", async || {
        let pages = pager.pages("AgentCertificateExpiresSoon");
        ensure!(pages.iter().any(|(_, page)| page.to_string().contains(&told)), "{pages:?}");
        Ok(())
    })
    .await?;
    wait::until("the one that is there has renewed its own", async || {
        let figures = cluster.control_plane.metrics().await?;
        let sent =
            figures.lines().find_map(|it| it.strip_prefix("stella_fleet_renewals_total{result=\"sent\"} "));
        ensure!(sent.is_some_and(|it| it != "0"), "{figures}");
        ensure!(certificate_ends(&cluster, &well).await? > at_first, "it ends when it did");
        Ok(())
    })
    .await?;
    // It is told in time: the host comes back, and nobody has to enrol it.
    cluster.agents[1].start()?;
    drop((alertmanager, prometheus));
    cluster.passed()
}

/// A new authority of scrapers needs no restart.
#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_scrapers_is_taken_over_by_a_reload() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    scraper_identity(cluster.folder())?;
    ensure!(cluster.control_plane.metrics().await?.contains("stella_build_info"), "everybody may scrape");
    let more = cluster.control_plane.config_file().with_extension("conf.d");
    fs::create_dir_all(&more)?;
    let write = |ca: &str| {
        let path = cluster.folder().join(ca).display().to_string();
        fs::write(more.join("scrapers.toml"), format!("[metrics]\nclient_ca = {path:?}\n"))
    };
    write("nowhere.crt")?;
    ensure!(
        cluster.control_plane.tool(&["reload"]).is_err(),
        "an authority that is not there was taken over"
    );
    ensure!(cluster.control_plane.metrics().await.is_ok(), "what is not good changes nothing");
    write("scrapers.crt")?;
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "metrics.client_ca: taken over\n");
    ensure!(cluster.control_plane.metrics().await.is_err(), "somebody without a certificate has the metrics");
    cluster.passed()
}

/// An agent's own figures, beside those of the control plane.
async fn scrape_agent(cluster: &mut Cluster, bundle: &Bundle) -> Result<()> {
    let port = ports::free()?;
    cluster.agents[0].configure("metrics", &format!("listen = \"127.0.0.1:{port}\""))?;
    cluster.wait_online(cluster.agents[0].name()).await?;
    bundle.add_agents(&[format!("127.0.0.1:{port}")], &json!({ "__scheme__": "http" }))
}

/// Waits for an exemplar of the series that leads to this span, and checks that it lies in its bucket.
async fn leads_to(prometheus: &Prometheus, series: &str, span: &Span) -> Result<()> {
    wait::until(&format!("{series} leads to {} {}", span.trace, span.id), async || {
        let all = prometheus.exemplars(series).await?;
        let found = all.iter().find_map(|of| {
            let exemplars = of["exemplars"].as_array()?;
            let it = exemplars.iter().find(|it| {
                it["labels"] == json!({ "trace_id": span.trace.as_str(), "span_id": span.id.as_str() })
            })?;
            Some((of["seriesLabels"]["le"].as_str()?, it["value"].as_str()?))
        });
        let (bound, value) = found.with_context(|| format!("{all:?}"))?;
        ensure!(value.parse::<f64>()? <= bound.parse()?, "{value} is not in the bucket up to {bound}");
        Ok(())
    })
    .await
}

/// From a figure to its trace, with a real Prometheus and a real collector: what one has as an exemplar the other has as a span.
#[tokio::test(flavor = "multi_thread")]
async fn figures_lead_to_the_traces_that_the_collector_has() -> Result<()> {
    let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
    let mut rotel = Rotel::start(folder.path(), &collector).await?;
    let settings = Settings { traces_endpoint: Some(rotel.endpoint()), ..Settings::default() };
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    let files = cluster.folder().join("site");
    scraping::site(&files)?;
    let file = |name: &str| files.join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.crt"), file("scraper.crt"), file("scraper.key"));
    let agents = ["--agents", "--agents-ca", &ca, "--agents-cert", &certificate, "--agents-key", &key];
    let bundle = Bundle::render_with(&cluster.folder().join("bundle"), &cluster.control_plane, &agents)?;
    bundle.hurry()?;
    scrape_agent(&mut cluster, &bundle).await?;
    let prometheus = bundle.prometheus().await?;

    let unsampled = "fedcba9876543210fedcba9876543210";
    let request = cluster.api.request(reqwest::Method::GET, paths::WHOAMI);
    cluster.api.answer(request.header("traceparent", format!("00-{unsampled}-00000000000000aa-00"))).await?;
    need_approvals(&cluster.api, 1).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let asked = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    approve(&qa, &asked).await?;
    ensure!(cluster.wait_final(&asked.id).await?.deployment.status == "succeeded");

    let whole = wait::until("the deployment is with the collector", async || {
        collector.named("deployment.execute").pop().context("not yet")
    })
    .await?;
    for (series, name) in [
        ("stella_deployment_duration_seconds_bucket", "deployment.execute"),
        ("stella_approval_duration_seconds_bucket", "approval.wait"),
        ("stella_agent_task_duration_seconds_bucket", "agent.execute"),
        ("stella_agent_own_task_duration_seconds_bucket", "agent.execute"),
        ("stella_http_request_duration_seconds_bucket{method=\"POST\"}", "http.request"),
    ] {
        let span = wait::until(&format!("a span {name}"), async || {
            let mut all = collector.named(name);
            all.retain(|it| it.trace == whole.trace);
            all.pop().context("not yet")
        })
        .await?;
        leads_to(&prometheus, series, &span).await?;
    }
    let text = format!("{:?}", prometheus.exemplars("{__name__=~\"stella_.*\"}").await?);
    ensure!(!text.contains(unsampled), "what is not sent anywhere leads nowhere: {text}");
    takes_whole_pages(&cluster, &prometheus).await?;
    counts_once(&prometheus).await?;
    rotel.check()?;
    cluster.passed()
}

/// The control plane's figures and the agent's own are both there, and what is asked of all jobs counts nothing twice.
async fn counts_once(prometheus: &Prometheus) -> Result<()> {
    for (expression, value, job) in [
        ("sum by (job) (stella_agent_tasks_total)", "1", "stella-orchestrator"),
        ("sum by (job) (stella_agent_task_duration_seconds_count)", "1", "stella-orchestrator"),
        ("count by (job) (stella_agent_heartbeat_age_seconds)", "1", "stella-orchestrator"),
        ("sum by (job) (stella_agent_own_tasks_total)", "1", "stella-agents"),
        ("count by (job) (stella_agent_own_heartbeat_age_seconds)", "1", "stella-agents"),
    ] {
        let series = wait::until(expression, async || {
            let series = prometheus.query(expression).await?;
            ensure!(!series.is_empty(), "nothing yet");
            Ok(series)
        })
        .await?;
        let [only] = series.as_slice() else { anyhow::bail!("{expression} gives {series:?}") };
        ensure!(only["metric"]["job"] == job && only["value"][1] == value, "{expression} gives {only}");
    }
    Ok(())
}

/// Both pages are OpenMetrics, valid by the letter, and nothing of them was refused.
async fn takes_whole_pages(cluster: &Cluster, prometheus: &Prometheus) -> Result<()> {
    let targets = prometheus.targets().await?;
    ensure!(targets.len() == 2 && targets.iter().all(|it| it["health"] == "up"), "{targets:?}");
    // In the text format the family has its suffix.
    for (family, kind) in [("stella_deployments", "counter"), ("stella_fleet_dispatches", "counter")] {
        let said = prometheus.metadata(family).await?;
        ensure!(said.first().is_some_and(|it| it["type"] == kind), "{family}: {said:?}");
    }
    let log = prometheus.log();
    // It says something there only if something of a page is not as it should be.
    ensure!(!log.contains("component=\"scrape manager\""), "{log}");
    let page = openmetrics::read(&cluster.control_plane.open_metrics().await?)?;
    ensure!(page.exemplars.len() >= 4 && page.families["stella_agents_connected"] == "gauge", "{page:?}");
    let text = cluster.control_plane.metrics().await?;
    let names = |lines: Vec<&str>| -> BTreeSet<String> {
        lines.into_iter().map(|line| line.split(['{', ' ']).next().unwrap_or_default().to_owned()).collect()
    };
    let in_text = names(text.lines().filter(|it| !it.starts_with('#') && !it.is_empty()).collect());
    let in_page = names(page.samples.keys().map(String::as_str).collect());
    ensure!(in_text == in_page, "the same figures in both formats: {in_text:?}, {in_page:?}");
    Ok(())
}
