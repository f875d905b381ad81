//! What a scrape of a large fleet takes, and what it takes from those who write meanwhile.
//!
//! The fleet has carried out a release with three types of steps before: most series are those of what each agent has done, and they begin
//! with its first task of a type.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::{create_release, create_token, token, wait_final};
use crate::load::figure::{Bound, Figure, Latencies, as_f64};
use crate::load::fleet::Fleet;
use crate::load::site::{Site, TENANT};
use crate::recipe;

const PHASE: &str = "scrape";

/// For how long writes are measured, once without scrapes and once with one after the other.
const DURATION: Duration = Duration::from_secs(10);

/// What the fleet is told to do.
const ENVIRONMENT: &str = "scraped";
const VERSION: &str = "1.0.0-scrape";

/// Scrapes without a pause, which no Prometheus does, beside durable writes.
///
/// # Errors
/// If a part of it does not come up.
pub async fn measure(site: &Site, fleet: &mut Fleet, agents: usize) -> Result<Vec<Figure>> {
    fleet.grow_to(site, agents).await?;
    work(site, fleet).await?;
    let quiet = writes(site, Instant::now() + DURATION).await?;
    let text = scrapes_of_text(site, Instant::now() + DURATION).await?;
    let until = Instant::now() + DURATION;
    let ((scrapes, page), busy) = tokio::try_join!(scrapes(site, until), writes(site, until))?;
    ensure!(scrapes.count() > 0 && busy.count() > 0 && quiet.count() > 0, "nothing was measured");
    let (series, bytes) = (series(&page), u64::try_from(page.len())?);
    let circumstances = format!("{} agents, {series} series", fleet.len());
    Ok(vec![
        Figure::new(PHASE, format!("a scrape, p50, {circumstances}"), scrapes.milliseconds(50.0), "ms")
            .beside("in the text format", text.milliseconds(50.0)),
        Figure::new(
            PHASE,
            format!("a scrape, the longest of {}", scrapes.count()),
            scrapes.milliseconds(100.0),
            "ms",
        )
        .goal(Bound::Ceiling(1_000.0)),
        Figure::new(PHASE, "what is scraped", as_f64(bytes) / 1024.0 / 1024.0, "MiB"),
        Figure::new(
            PHASE,
            "a durable write while scrapes follow each other, p99",
            busy.milliseconds(99.0),
            "ms",
        )
        .beside("without scrapes", quiet.milliseconds(99.0))
        .goal(Bound::Ceiling(100.0)),
    ])
}

/// A release with three types of steps, on every agent.
async fn work(site: &Site, fleet: &Fleet) -> Result<()> {
    let steps = vec![
        recipe::shell("migrate", "true"),
        recipe::restart("restart", "web.service"),
        recipe::check_tcp("check", "127.0.0.1:80"),
    ];
    create_release(&site.api, TENANT, &recipe::release(VERSION, &[], steps)).await?;
    site.environment(ENVIRONMENT, fleet.ids()).await?;
    let started = site.api.deploy(TENANT, &recipe::all_at_once(ENVIRONMENT, VERSION), None).await?;
    let ended = wait_final(&site.api, TENANT, &started.deployment.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{:?}", ended.deployment);
    Ok(())
}

/// How many series a page has.
fn series(page: &str) -> usize {
    page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// As a Prometheus scrapes that does not know OpenMetrics.
async fn scrapes_of_text(site: &Site, until: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    while Instant::now() < until {
        let start = Instant::now();
        site.control_plane.metrics().await?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}

/// Their latencies, and the last page.
async fn scrapes(site: &Site, until: Instant) -> Result<(Latencies, String)> {
    let (mut latencies, mut page) = (Latencies::default(), String::new());
    while Instant::now() < until {
        let start = Instant::now();
        page = site.control_plane.open_metrics().await?;
        latencies.record(start.elapsed());
    }
    Ok((latencies, page))
}

async fn writes(site: &Site, until: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    while Instant::now() < until {
        let start = Instant::now();
        create_token(&site.api, TENANT, &token(None, 1)).await?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}
