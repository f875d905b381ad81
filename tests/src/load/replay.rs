//! How long a control plane needs to start on a long journal without a snapshot, beside reading the journal and doing
//! nothing with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;
use stella_journal::{Journal as _, JournalConfig, SledJournal};
use stella_protocol::id::Position;

use crate::load::figure::{Figure, as_f64};
use crate::load::site::Site;

const PHASE: &str = "replay";

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// As the control plane has it.
const CACHE_BYTES: u64 = 64 << 20;

/// How many events are read at a time.
const READ_EVENTS: usize = 10_000;

/// Stops the control plane in order and starts it again on the journal that it has by now.
///
/// # Errors
/// If it does not stop or start.
pub async fn measure(site: &mut Site) -> Result<Vec<Figure>> {
    site.control_plane.stop()?;
    let Read { events, payload_bytes, kinds, disk_bytes, took: raw } = read(site)?;
    let start = Instant::now();
    site.control_plane.resume_within(PATIENCE).await?;
    let replayed = start.elapsed();
    let million = |duration: Duration| duration.as_secs_f64() * 1e6 / as_f64(events.max(1));
    let mut figures = vec![
        Figure::new(PHASE, format!("start on a journal of {events} events"), replayed.as_secs_f64(), "s")
            .beside("reading and checking them", raw.as_secs_f64()),
        Figure::new(PHASE, "the same for a million events", million(replayed), "s")
            .beside("reading", million(raw)),
        Figure::new(PHASE, "an event on the disk", as_f64(disk_bytes) / as_f64(events.max(1)), "bytes")
            .beside("its own bytes", as_f64(payload_bytes) / as_f64(events.max(1))),
    ];
    let per_event = as_f64(disk_bytes) / as_f64(payload_bytes.max(1));
    figures.extend(kinds.figures(per_event));
    Ok(figures)
}

/// What was read.
struct Read {
    events: u64,
    /// What the events themselves have.
    payload_bytes: u64,
    kinds: Kinds,
    /// What the whole journal takes.
    disk_bytes: u64,
    took: Duration,
}

/// Reads everything.
fn read(site: &Site) -> Result<Read> {
    let start = Instant::now();
    let settings = JournalConfig { cache_bytes: CACHE_BYTES, reserve_bytes: 0 };
    let journal = SledJournal::open(&site.control_plane.state_dir().join("journal"), settings)?;
    let (mut events, mut payload_bytes, mut kinds) = (0, 0, Kinds::default());
    for (stream, head) in journal.heads() {
        let mut position = Position(0);
        while position < head.next {
            let entries = journal.read(stream, position, READ_EVENTS)?;
            let Some(last) = entries.last() else { break };
            position = last.position.next();
            for entry in &entries {
                kinds.note(&entry.payload)?;
            }
            payload_bytes += u64::try_from(entries.iter().map(|entry| entry.payload.len()).sum::<usize>())?;
        }
        events += position.0;
    }
    let took = start.elapsed();
    Ok(Read { events, payload_bytes, kinds, disk_bytes: journal.size_on_disk()?, took })
}

/// How many events there are of each kind, and how many bytes they have.
#[derive(Default)]
struct Kinds(BTreeMap<String, (u64, u64)>);

#[derive(Deserialize)]
struct Event {
    fact: Fact,
}

#[derive(Deserialize)]
struct Fact {
    #[serde(rename = "type")]
    kind: String,
}

impl Kinds {
    fn note(&mut self, payload: &[u8]) -> Result<()> {
        let event: Event = serde_json::from_slice(payload)?;
        let (count, bytes) = self.0.entry(event.fact.kind).or_default();
        *count += 1;
        *bytes += u64::try_from(payload.len())?;
        Ok(())
    }

    /// What things of the domain cost in the journal, each with all of its events.
    fn figures(&self, disk_for_payload: f64) -> Vec<Figure> {
        let costs: [(&str, &str, &[&str]); 3] = [
            (
                "a connection of an agent and its end",
                "agent_connected",
                &["agent_connected", "agent_disconnected", "agent_offline"],
            ),
            ("a deployment without its tasks", "deployment_created", &["deployment_", "promotion_"]),
            ("a task", "task_queued", &["task_"]),
        ];
        let mut figures = Vec::new();
        for (what, counted, begins) in costs {
            let count = self.0.get(counted).map_or(0, |(count, _)| *count);
            let of_it = self.0.iter().filter(|(kind, _)| begins.iter().any(|begin| kind.starts_with(begin)));
            let bytes: u64 = of_it.map(|(_, (_, bytes))| bytes).sum();
            if count > 0 {
                let each = as_f64(bytes) / as_f64(count);
                let figure =
                    Figure::new(PHASE, format!("{what}, on the disk"), each * disk_for_payload, "bytes");
                figures.push(figure.beside("its own bytes", each));
            }
        }
        figures
    }
}
