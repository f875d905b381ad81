//! Making a journal from an export.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use stella_durable::{Batch, Error};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

use crate::export::MissingEvents;
use crate::open::{Raw, TOOL_CONFIG};
use crate::port::{EVENT_BYTES_MAX, Head, OpenError, Stream};
use crate::record::{
    EPOCH_KEY, IDENTITY_KEY, StoredHead, encode_epoch, encode_head, encode_identity, hash_of_nothing,
    head_key,
};
use crate::sled_journal::pack;
use crate::transfer::{Event, FORMAT, Header, LINE_BYTES_MAX, Line, Trailer};

/// How much payload is gathered before it is written behind a barrier, in bytes.
const GROUP_BYTES: usize = 1 << 20;

/// Up to where an export is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// All events of this time and before: journal time never goes back, so that is a state that once was.
    Time(Timestamp),
}

impl Until {
    const fn takes(self, at: Timestamp) -> bool {
        match self {
            Self::End => true,
            Self::Time(last) => at.0 <= last.0,
        }
    }
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSummary {
    /// The new journal's name. Agents see by it that this is another life of the journal.
    pub incarnation: Incarnation,
    /// How many streams there are.
    pub streams: u64,
    /// How many events there are.
    pub events: u64,
    /// How many events of the export were left out, because they are later than what was asked for.
    pub left_out: u64,
    /// When the newest event was decided; zero without events.
    pub last: Timestamp,
    /// What the export says that it could not save.
    pub missing: Vec<MissingEvents>,
}

/// Why there is no usable journal after an import.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is something in the directory.
    #[error("{} is not empty; import into a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// The export could not be read.
    #[error("the export cannot be read")]
    Read(#[source] io::Error),
    /// A line is not what it should be.
    #[error("line {line} of the export: {problem}; the directory is of no use, remove it")]
    Line {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing would be in the new journal.
    #[error("all of its events are later than the time that was asked for")]
    NothingUntil {
        /// When the first of them was decided.
        first: Timestamp,
    },
    /// The directory could not be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal could not be written.
    #[error("the new journal cannot be written")]
    Write(#[from] Error),
}

/// Makes a journal in a new or empty directory from an export, with a new incarnation and new hash chains.
///
/// Positions, times, epochs and payloads are kept. The journal gets its name last: an import that was cut off is not
/// taken for a journal. What comes after `until` is checked like the rest and left out; if that is all there is, the directory stays as it
/// was: a control plane would take an empty journal for a beginning.
pub fn import(source: &mut impl BufRead, dir: &Path, until: Until) -> Result<ImportSummary, ImportError> {
    let is_used = match dir.read_dir() {
        Ok(mut items) => items.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if is_used {
        return Err(ImportError::NotEmpty(dir.to_owned()));
    }
    let mut lines = LineReader { source, number: 0, hash: Sha256::new() };
    let header = match lines.next()? {
        (Line::Header(header), _) => header,
        (Line::Event(_) | Line::Trailer(_), _) => return Err(lines.problem("the header is missing")),
    };
    let mut importer = Importer::new(dir, &header, &lines)?;
    loop {
        match lines.next()? {
            (Line::Event(event), _) => importer.take(event, until, &lines)?,
            (Line::Header(_), _) => return Err(lines.problem("there is a second header")),
            (Line::Trailer(trailer), before) => {
                importer.check(&trailer, before, &lines)?;
                lines.expect_end()?;
                return importer.finish(trailer.missing);
            }
        }
    }
}

/// The version of the software that wrote an export, if it says.
pub fn version_of(source: &mut impl BufRead) -> Result<Option<String>, ImportError> {
    let mut lines = LineReader { source, number: 0, hash: Sha256::new() };
    match lines.next()? {
        (Line::Header(header), _) => Ok(header.version),
        (Line::Event(_) | Line::Trailer(_), _) => Err(lines.problem("the header is missing")),
    }
}

/// When an event of an export was decided; `None` if it is not in there.
pub fn time_of(
    source: &mut impl BufRead,
    stream: Stream,
    position: Position,
) -> Result<Option<Timestamp>, ImportError> {
    let mut lines = LineReader { source, number: 0, hash: Sha256::new() };
    loop {
        match lines.next()?.0 {
            Line::Event(event) if (event.stream, event.position) == (stream, position) => {
                return Ok(Some(event.at));
            }
            Line::Event(_) | Line::Header(_) => {}
            Line::Trailer(_) => return Ok(None),
        }
    }
}

/// A journal in the making.
struct Importer {
    dir: PathBuf,
    /// `None` until there is something to write.
    raw: Option<Raw>,
    incarnation: Incarnation,
    epoch: Epoch,
    heads: BTreeMap<Stream, StoredHead>,
    events: u64,
    /// Where each stream of the export is, counting what is left out, and the time of its newest event.
    seen: BTreeMap<Stream, (Position, Timestamp)>,
    /// When the first event of all was decided.
    first: Option<Timestamp>,
    /// Events of one append that are not packed yet.
    run: Option<Run>,
    batch: Batch,
    batch_bytes: usize,
}

struct Run {
    stream: Stream,
    at: Timestamp,
    epoch: Epoch,
    events: Vec<Vec<u8>>,
}

impl Importer {
    fn new(dir: &Path, header: &Header, lines: &LineReader<'_, impl BufRead>) -> Result<Self, ImportError> {
        if header.format != FORMAT {
            return Err(lines.problem("its format is not known to this software"));
        }
        Ok(Self {
            dir: dir.to_owned(),
            raw: None,
            incarnation: Incarnation(Uuid::new_v4()),
            epoch: header.epoch,
            heads: BTreeMap::new(),
            events: 0,
            seen: BTreeMap::new(),
            first: None,
            run: None,
            batch: Batch::default(),
            batch_bytes: 0,
        })
    }

    fn take(
        &mut self,
        event: Event,
        until: Until,
        lines: &LineReader<'_, impl BufRead>,
    ) -> Result<(), ImportError> {
        let (stream, position, at, epoch) = (event.stream, event.position, event.at, event.epoch);
        let payload = event.into_payload().ok_or_else(|| lines.problem("the payload is not readable"))?;
        if payload.len() > EVENT_BYTES_MAX {
            return Err(lines.problem("the event is too large"));
        }
        let (next, last) = self.seen.entry(stream).or_default();
        if position != *next {
            return Err(lines.problem("the position does not follow the one before it in its stream"));
        }
        if at < *last {
            return Err(lines.problem("the time is before the one of the event before it"));
        }
        (*next, *last) = (next.next(), at);
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        if !until.takes(at) {
            return Ok(());
        }
        let is_same_run =
            self.run.as_ref().is_some_and(|run| (run.stream, run.at, run.epoch) == (stream, at, epoch));
        if !is_same_run || self.batch_bytes >= GROUP_BYTES {
            self.pack_run();
            self.run = Some(Run { stream, at, epoch, events: Vec::new() });
        }
        if self.batch_bytes >= GROUP_BYTES {
            self.write_batch()?;
        }
        self.batch_bytes += payload.len() + 64;
        self.events += 1;
        self.epoch = self.epoch.max(epoch);
        if let Some(run) = &mut self.run {
            run.events.push(payload);
        }
        Ok(())
    }

    fn stored(&self, stream: Stream) -> StoredHead {
        self.heads.get(&stream).copied().unwrap_or_else(|| {
            let hash = hash_of_nothing(self.incarnation, stream);
            StoredHead { head: Head { next: Position(0), hash }, at: Timestamp(0) }
        })
    }

    fn pack_run(&mut self) {
        let Some(Run { stream, at, epoch, events }) = self.run.take() else { return };
        let head = self.stored(stream).head;
        let head = pack(stream, head, at, epoch, &events, |key, record| self.batch.insert(key, record));
        self.heads.insert(stream, StoredHead { head, at });
    }

    fn write_batch(&mut self) -> Result<(), ImportError> {
        self.batch_bytes = 0;
        let raw = match &mut self.raw {
            Some(raw) => raw,
            none => none.insert(Raw::open(&self.dir, TOOL_CONFIG)?),
        };
        raw.store.apply(&raw.tree, std::mem::take(&mut self.batch))?;
        Ok(raw.store.barrier()?)
    }

    fn check(
        &mut self,
        trailer: &Trailer,
        before: Digest,
        lines: &LineReader<'_, impl BufRead>,
    ) -> Result<(), ImportError> {
        self.pack_run();
        if trailer.sha256 != before {
            return Err(lines.problem("the export is not as it was written: its checksum is wrong"));
        }
        let told: BTreeMap<_, _> =
            trailer.streams.iter().filter(|end| end.events > 0).map(|end| (end.stream, end.events)).collect();
        let counted: BTreeMap<_, _> = self.seen.iter().map(|(stream, (next, _))| (*stream, next.0)).collect();
        if trailer.events != self.seen_events() || told != counted {
            return Err(lines.problem("the trailer counts other events than there are"));
        }
        Ok(())
    }

    fn seen_events(&self) -> u64 {
        self.seen.values().map(|(next, _)| next.0).sum()
    }

    fn finish(mut self, missing: Vec<MissingEvents>) -> Result<ImportSummary, ImportError> {
        if let Some(first) = self.first.filter(|_| self.events == 0) {
            return Err(ImportError::NothingUntil { first });
        }
        self.write_batch()?;
        for (&stream, &stored) in &self.heads {
            self.batch.insert(head_key(stream), encode_head(stored));
        }
        self.batch.insert(&EPOCH_KEY, encode_epoch(self.epoch));
        self.batch.insert(&IDENTITY_KEY, encode_identity(self.incarnation));
        self.write_batch()?;
        let streams = self.heads.len() as u64;
        let last = self.heads.values().map(|stored| stored.at).max().unwrap_or_default();
        let left_out = self.seen_events() - self.events;
        let (incarnation, events) = (self.incarnation, self.events);
        Ok(ImportSummary { incarnation, streams, events, left_out, last, missing })
    }
}

struct LineReader<'a, R> {
    source: &'a mut R,
    number: u64,
    hash: Sha256,
}

impl<R: BufRead> LineReader<'_, R> {
    /// The next line and the hash of all before it.
    fn next(&mut self) -> Result<(Line, Digest), ImportError> {
        self.number += 1;
        let before = Digest(self.hash.clone().finalize().into());
        let mut bytes = Vec::new();
        let mut limited = self.source.take(LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut bytes).map_err(ImportError::Read)?;
        if bytes.is_empty() {
            return Err(self.problem("the export ends before its trailer"));
        }
        if bytes.len() == LINE_BYTES_MAX {
            return Err(self.problem("the line is too long"));
        }
        self.hash.update(&bytes);
        let line = serde_json::from_slice(&bytes)
            .map_err(|error| ImportError::Line { line: self.number, problem: error.to_string() })?;
        Ok((line, before))
    }

    fn expect_end(&mut self) -> Result<(), ImportError> {
        if self.source.fill_buf().map_err(ImportError::Read)?.is_empty() {
            return Ok(());
        }
        self.number += 1;
        Err(self.problem("there is more after the trailer"))
    }

    fn problem(&self, problem: &str) -> ImportError {
        ImportError::Line { line: self.number, problem: problem.to_owned() }
    }
}
