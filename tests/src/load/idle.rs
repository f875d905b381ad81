//! The memory that an idle agent costs the control plane, beside a bare QUIC server with the same windows.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::sleep;

use crate::load::figure::{Bound, Figure, as_f64};
use crate::load::fleet::Fleet;
use crate::load::raw;
use crate::load::site::Site;
use crate::{process, sim};

const PHASE: &str = "idle";

/// How long new connections get to become idle: what a handshake needs is given back by then.
const SETTLE: Duration = Duration::from_secs(6);

/// From how many new agents on the share of each is judged.
const JUDGED_MIN: u64 = 500;

/// How many connections are made at the same time.
const CONNECTS_AT_ONCE: usize = 64;

/// Grows the fleet through these sizes and measures at each.
///
/// # Errors
/// If a part of it does not come up.
pub async fn measure(site: &Site, fleet: &mut Fleet, sizes: &[usize], program: &Path) -> Result<Vec<Figure>> {
    let largest = sizes.iter().copied().max().unwrap_or(1);
    let raw_bytes = raw_bytes(program, site.folder(), largest).await?;
    let mut figures = Vec::new();
    let mut before = (fleet.len(), site.resident_bytes()?);
    for &size in sizes {
        fleet.grow_to(site, size).await?;
        sleep(SETTLE).await;
        let now = (fleet.len(), site.resident_bytes()?);
        let new = u64::try_from(now.0 - before.0)?.max(1);
        let each = as_f64(now.1.saturating_sub(before.1)) / as_f64(new) / 1024.0;
        let what = format!("control plane memory for each of {new} more idle agents ({} in all)", now.0);
        let mut figure = Figure::new(PHASE, what, each, "KiB");
        if size == largest {
            figure = figure.beside(format!("bare quinn, {largest} connections"), raw_bytes / 1024.0);
            // A few agents say nothing about one of many.
            if new >= JUDGED_MIN {
                figure = figure.goal(Bound::Ceiling(48.0));
            }
        }
        figures.push(figure);
        before = now;
    }
    let all = as_f64(before.1) / 1024.0 / 1024.0;
    figures.push(Figure::new(PHASE, format!("control plane memory with {} agents", before.0), all, "MiB"));
    Ok(figures)
}

/// What a connection costs a bare server, in bytes.
async fn raw_bytes(program: &Path, folder: &Path, connections: usize) -> Result<f64> {
    let server = raw::Server::start(program, folder)?;
    let endpoint = sim::endpoint()?;
    // The first connection pays for what all of them share.
    let first = server.connect(&endpoint, false).await?;
    sleep(SETTLE).await;
    let before = process::resident_bytes(server.pid())?;
    let clients: Vec<raw::Client> = stream::iter(0..connections)
        .map(|_| server.connect(&endpoint, false))
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await?;
    sleep(SETTLE).await;
    let grown = process::resident_bytes(server.pid())?.saturating_sub(before);
    drop((first, clients));
    Ok(as_f64(grown) / as_f64(u64::try_from(connections)?))
}
