//! What a scrape of a large fleet takes, and what it takes from those who write meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::{create_token, token};
use crate::load::figure::{Bound, Figure, Latencies, as_f64};
use crate::load::fleet::Fleet;
use crate::load::site::{Site, TENANT};

const PHASE: &str = "scrape";

/// For how long writes are measured, once without scrapes and once with one after the other.
const DURATION: Duration = Duration::from_secs(10);

/// Scrapes without a pause, which no Prometheus does, beside durable writes.
///
/// # Errors
/// If a part of it does not come up.
pub async fn measure(site: &Site, fleet: &mut Fleet, agents: usize) -> Result<Vec<Figure>> {
    fleet.grow_to(site, agents).await?;
    let quiet = writes(site, Instant::now() + DURATION).await?;
    let text = scrapes_of_text(site, Instant::now() + DURATION).await?;
    let until = Instant::now() + DURATION;
    let ((scrapes, bytes), busy) = tokio::try_join!(scrapes(site, until), writes(site, until))?;
    ensure!(scrapes.count() > 0 && busy.count() > 0 && quiet.count() > 0, "nothing was measured");
    let circumstances = format!("{} agents", fleet.len());
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
        .beside("without scrapes", quiet.milliseconds(99.0)),
    ])
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

async fn scrapes(site: &Site, until: Instant) -> Result<(Latencies, u64)> {
    let (mut latencies, mut bytes) = (Latencies::default(), 0);
    while Instant::now() < until {
        let start = Instant::now();
        let text = site.control_plane.open_metrics().await?;
        latencies.record(start.elapsed());
        bytes = u64::try_from(text.len())?;
    }
    Ok((latencies, bytes))
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
