//! What ended deployments cost a control plane while they are in memory, and when they have left it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use stella_domain::event::StreamId;
use stella_journal::{Append, Journal as _, JournalConfig, SledJournal, Stream};

use crate::cluster::create_tenant;
use crate::control_plane::{ControlPlane, Settings};
use crate::load::core::Core;
use crate::load::figure::{Figure, as_f64};
use crate::process;

const PHASE: &str = "archive";

/// How many targets the deployments go to: the last one to each of them stays in memory.
const TARGETS: u32 = 100;
/// How many deployments are decided before their events are written.
const WRITTEN_TOGETHER: u32 = 500;
/// How long a start, or the way out of memory, may take.
const PATIENCE: Duration = Duration::from_secs(1_200);
const PAUSE: Duration = Duration::from_millis(200);
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// A control plane on a journal with so many ended deployments of one target each, of 1970: first with all of them in memory,
/// then as its defaults have it.
///
/// # Errors
/// If it does not come up, or they do not leave.
pub async fn measure(folder: &Path, deployments: u32) -> Result<Vec<Figure>> {
    let folder = tempfile::Builder::new().prefix("stella-load-").tempdir_in(folder)?;
    // A snapshot after each event, so that there is one soon.
    let settings = |retention: &str| Settings {
        snapshot_every_events: 1,
        log_level: "warn".to_owned(),
        tables: format!("[retention]\nmemory_interval_s = 1\n{retention}"),
        ..Settings::default()
    };
    let never = settings("memory_days = 0\nmemory_max = 0\n");
    let mut plane = ControlPlane::prepare(&folder.path().join("control-plane"), &never)?;
    let journal = plane.state_dir().join("journal");
    std::fs::create_dir_all(plane.state_dir())?;
    tokio::task::spawn_blocking(move || fill(&journal, deployments)).await??;
    // A journal without an authority is not started.
    plane.tool(&["ca", "create"])?;
    plane.resume_within(PATIENCE).await?;
    // A snapshot follows an event, and nothing happens by itself until the hosts of 1970 had their time to come back.
    create_tenant(&plane.api()?, "first").await?;
    let (snapshot, _) = figures(&plane, 0).await?;
    let all = started_again(&mut plane).await?;
    plane.stop()?;

    plane.configure(&settings(""))?;
    plane.resume_within(PATIENCE).await?;
    let start = Instant::now();
    create_tenant(&plane.api()?, "second").await?;
    let (small, _) = figures(&plane, u64::from(deployments.saturating_sub(TARGETS))).await?;
    let took = start.elapsed();
    let few = started_again(&mut plane).await?;
    let of = |what: &str| format!("{what}, {deployments} ended deployments");
    Ok(vec![
        Figure::new(PHASE, of("memory of the process"), few.resident / MIB, "MiB")
            .beside("all of them in memory", all.resident / MIB),
        Figure::new(PHASE, of("a snapshot"), small / MIB, "MiB")
            .beside("all of them in memory", snapshot / MIB),
        Figure::new(PHASE, of("start from a snapshot"), few.took.as_secs_f64(), "s")
            .beside("all of them in memory", all.took.as_secs_f64()),
        Figure::new(PHASE, of("the journal's folder"), few.disk / MIB, "MiB")
            .beside("all of them in memory", all.disk / MIB),
        Figure::new(
            PHASE,
            "an ended deployment of one target on the disk",
            few.disk / f64::from(deployments.max(1)) / KIB,
            "KiB",
        ),
        Figure::new(
            PHASE,
            "out of memory into the archive",
            f64::from(deployments) / took.as_secs_f64(),
            "a second",
        ),
    ])
}

/// The size of a snapshot that was taken when at least so many deployments had left memory, and how many have.
async fn figures(plane: &ControlPlane, archived: u64) -> Result<(f64, f64)> {
    let until = Instant::now() + PATIENCE;
    let mut last = (0.0, -1.0);
    loop {
        let text = plane.metrics().await?;
        let snapshot = value(&text, "stella_journal_snapshot_bytes").unwrap_or_default();
        let found = (snapshot, value(&text, "stella_archived{").unwrap_or_default());
        // Nothing has changed since: the snapshot is the last.
        if found.0 > 0.0 && found.1 >= as_f64(archived) && found == last {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "only {} deployments have left memory", found.1);
        last = found;
        tokio::time::sleep(PAUSE * 10).await;
    }
}

fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

struct Started {
    resident: f64,
    disk: f64,
    took: Duration,
}

async fn started_again(plane: &mut ControlPlane) -> Result<Started> {
    plane.stop()?;
    let start = Instant::now();
    plane.resume_within(PATIENCE).await?;
    let took = start.elapsed();
    let disk =
        value(&plane.metrics().await?, "stella_journal_size_bytes").context("the journal has no size")?;
    Ok(Started { resident: as_f64(process::resident_bytes(plane.pid()?)?), disk, took })
}

fn fill(folder: &Path, deployments: u32) -> Result<()> {
    let journal = SledJournal::open(folder, JournalConfig { cache_bytes: 64 << 20, reserve_bytes: 0 })?;
    let epoch = journal.begin_epoch()?;
    let mut core = Core::new(TARGETS)?;
    (1..=TARGETS).try_for_each(|number| core.host(number))?;
    let mut number = 0;
    while number < deployments {
        let until = deployments.min(number + WRITTEN_TOGETHER);
        while number < until {
            number += 1;
            core.deploy_to_one(number, number % TARGETS + 1)?;
        }
        let mut appends: BTreeMap<Stream, Append> = BTreeMap::new();
        for (stream, event) in core.take_events() {
            let stream = match stream {
                StreamId::System => Stream::System,
                StreamId::Tenant(tenant) => Stream::Tenant(tenant),
            };
            let expected = journal.heads().get(&stream).map(|head| head.next).unwrap_or_default();
            let append =
                appends.entry(stream).or_insert_with(|| Append { stream, expected, events: Vec::new() });
            append.events.push(serde_json::to_vec(&event)?);
        }
        let appends: Vec<Append> = appends.into_values().collect();
        journal.append(epoch, core.now(), &appends)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stella_domain::state::State;
    use stella_protocol::id::Position;

    use super::*;

    #[test]
    fn a_journal_is_filled_with_deployments_that_follow_from_one_another() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), 3).unwrap();
        let journal =
            SledJournal::open(folder.path(), JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 });
        let (journal, mut state) = (journal.unwrap(), State::default());
        for stream in journal.heads().into_keys() {
            let of = match stream {
                Stream::System => StreamId::System,
                Stream::Tenant(tenant) => StreamId::Tenant(tenant),
            };
            for entry in journal.read(stream, Position(0), usize::MAX).unwrap() {
                state.apply(of, &serde_json::from_slice(&entry.payload).unwrap()).unwrap();
            }
        }
        let tenant = state.tenants.values().next().unwrap();
        assert!(tenant.deployments.values().all(|it| it.status.is_final()) && tenant.deployments.len() == 3);
    }
}
