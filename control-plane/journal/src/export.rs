//! Writing a journal out as text, whole or as far as it can be read.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use stella_protocol::id::Position;

use crate::open::{Raw, damage_of};
use crate::port::{Damage, Head, Journal, OpenError, Problem, ReadError, StorageError, Stream};
use crate::record::StoredHead;
use crate::scan::Scan;
use crate::transfer::{Event, FORMAT, Header, Line, StreamEnd, Trailer};

/// How many events of an open journal are read at a time.
const PAGE_EVENTS: usize = 4_096;

/// What to do about damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Stop at the first damage. What was written up to there has no trailer and cannot be imported.
    Complete,
    /// Write every stream up to its first damage and say what is missing.
    Salvage,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// How many streams have events in the export.
    pub streams: u64,
    /// How many events are in it.
    pub events: u64,
    /// What is not in it; empty unless it was a salvage.
    pub missing: Vec<MissingEvents>,
    /// Damage that costs no events of a stream, such as a lost head.
    pub damage: Vec<Damage>,
}

/// Events that could not be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingEvents {
    /// In which stream.
    pub stream: Stream,
    /// From which position on.
    pub from: Position,
    /// Where the stream ended, if that is known.
    pub end: Option<Position>,
    /// What is wrong there.
    pub why: String,
}

/// Why nothing, or nothing useful, was exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The journal could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal is damaged and not all of it was asked for what can be saved.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The storage engine failed.
    #[error("the journal's storage cannot be read")]
    Storage(#[source] StorageError),
    /// The export could not be written.
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => Self::Damaged(damage),
            ReadError::Storage(error) => Self::Storage(error),
        }
    }
}

/// Writes the journal in the directory as JSON lines. Needs a journal that nobody has open. `version` is that of the software which is the
/// oldest to understand it.
pub fn export(
    dir: &Path,
    out: &mut impl Write,
    coverage: Coverage,
    version: Option<String>,
) -> Result<ExportSummary, ExportError> {
    let raw = Raw::open_existing(dir)?;
    let inventory = raw.inventory()?;
    if coverage == Coverage::Complete
        && let Some(first) = inventory.problems.first()
    {
        return Err(first.clone().into());
    }
    let mut writer = LineWriter { out, hash: Sha256::new() };
    let (incarnation, epoch) = (inventory.incarnation, inventory.epoch);
    writer.write(&Line::Header(Header { format: FORMAT, incarnation, epoch, version }))?;
    let mut summary = ExportSummary { damage: inventory.problems, ..ExportSummary::default() };
    let mut streams = Vec::new();
    for (&stream, &stored) in &inventory.streams {
        let scan = Scan::all(&raw.tree, incarnation, stream, None);
        let (end, damage) = write_stream(stream, stored, scan, &mut writer)?;
        if let Some(damage) = damage {
            if coverage == Coverage::Complete {
                return Err(damage.into());
            }
            let why = damage.problem.to_string();
            let head = stored.map(|stored| stored.head.next);
            summary.missing.push(MissingEvents { stream, from: Position(end.events), end: head, why });
        }
        summary.events += end.events;
        summary.streams += u64::from(end.events > 0);
        streams.push(end);
    }
    writer.finish(summary.events, streams, summary.missing.clone())?;
    Ok(summary)
}

/// Writes the streams of an open journal up to these heads, as [`export`] does. Appends go on beside it: what is written
/// is what was durable when the heads were taken.
pub fn export_open(
    journal: &dyn Journal,
    heads: &BTreeMap<Stream, Head>,
    out: &mut impl Write,
) -> Result<ExportSummary, ExportError> {
    let mut writer = LineWriter { out, hash: Sha256::new() };
    let (incarnation, epoch) = (Some(journal.incarnation()), journal.epoch());
    writer.write(&Line::Header(Header { format: FORMAT, incarnation, epoch, version: None }))?;
    let mut summary = ExportSummary::default();
    let mut streams = Vec::new();
    for (&stream, head) in heads {
        let mut next = Position(0);
        while next < head.next {
            let left = usize::try_from(head.next.0 - next.0).unwrap_or(PAGE_EVENTS);
            let page = journal.read(stream, next, left.min(PAGE_EVENTS))?;
            let Some(last) = page.last() else {
                return Err(Damage::at(stream, next, Problem::Gap { found: head.next }).into());
            };
            next = last.position.next();
            for entry in &page {
                writer.write(&Line::Event(Event::new(
                    stream,
                    entry.position,
                    entry.at,
                    entry.epoch,
                    &entry.payload,
                )))?;
            }
        }
        summary.events += head.next.0;
        summary.streams += u64::from(head.next.0 > 0);
        streams.push(StreamEnd { stream, events: head.next.0, hash: head.hash });
    }
    writer.finish(summary.events, streams, Vec::new())?;
    Ok(summary)
}

/// Writes a stream up to its end or its first damage.
fn write_stream(
    stream: Stream,
    stored: Option<StoredHead>,
    scan: Scan,
    writer: &mut LineWriter<'_, impl Write>,
) -> Result<(StreamEnd, Option<Damage>), ExportError> {
    let mut end = StreamEnd { stream, events: 0, hash: Digest([0; 32]) };
    for checked in scan {
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => return Ok((end.clone(), Some(damage_of(stream, Position(end.events), error)))),
        };
        let record = checked.record;
        for (position, payload) in (record.first.0..).map(Position).zip(&record.events) {
            writer.write(&Line::Event(Event::new(stream, position, record.at, record.epoch, payload)))?;
        }
        end.events += record.events.len() as u64;
        end.hash = checked.hash;
    }
    let damage = stored.and_then(|stored| {
        let position = Position(end.events);
        if stored.head.next != position {
            Some(Damage::at(stream, position, Problem::HeadDisagrees { head: stored.head.next }))
        } else if stored.head.hash != end.hash {
            Some(Damage::at(stream, position, Problem::BrokenChain))
        } else {
            None
        }
    });
    Ok((end, damage))
}

struct LineWriter<'a, W> {
    out: &'a mut W,
    hash: Sha256,
}

impl<W: Write> LineWriter<'_, W> {
    fn write(&mut self, line: &Line) -> Result<(), ExportError> {
        let mut bytes = serde_json::to_vec(line).map_err(io::Error::from)?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        self.out.write_all(&bytes)?;
        Ok(())
    }

    fn finish(
        mut self,
        events: u64,
        streams: Vec<StreamEnd>,
        missing: Vec<MissingEvents>,
    ) -> Result<(), ExportError> {
        let sha256 = Digest(self.hash.clone().finalize().into());
        self.write(&Line::Trailer(Trailer { events, sha256, streams, missing }))?;
        Ok(self.out.flush()?)
    }
}
