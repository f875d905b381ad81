//! Somebody is paged: real Prometheus and Alertmanager, on the rendered bundle, watch a real control plane.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;
use stella_tests::cluster::{Cluster, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Bundle, Event, Pager};
use stella_tests::wait;

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
            json!({ "alertname": "Watchdog", "severity": "none" }),
        ])
        .await?;
    wait::until("all are told", async || {
        let (pages, events) = (pager.pages(""), pager.events());
        let chats = events.iter().filter(|event| matches!(event, Event::Chatted(_))).count();
        ensure!(pages.len() >= 2 && chats >= 1, "{events:?}");
        Ok(())
    })
    .await?;
    // What is inhibited is known at once, and is in the same list as what is told.
    for alert in alertmanager.alerts().await? {
        let labels = &alert["labels"];
        let is_single = labels["alertname"] == "AgentOffline" || labels["alertname"] == "AgentPoolLow";
        let is_quiet = labels["tenant"] == "acme" && is_single;
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
    drop(alertmanager);
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
