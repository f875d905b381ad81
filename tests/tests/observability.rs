//! Somebody is paged: real Prometheus and Alertmanager, on the rendered bundle, watch a real control plane.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use stella_tests::cluster::{Cluster, TENANT};
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
