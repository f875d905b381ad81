//! The file of one attempt.
//!
//! Its records are frames of the protocol (length, body), so that one codec with one set of limits reads both.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use stella_protocol::frame::{self, HEADER_BYTES};
use stella_protocol::limits::FRAME_BYTES_MAX;
use stella_protocol::message::{OutputChunk, OutputSource};
use stella_protocol::time::Timestamp;
use stella_protocol::validate::{Invalid, Validate};

use super::{OutputPage, PAGE_BYTES_MAX, Place};
use crate::error::{StoreError, io_error};

/// What is in a file. The order of the variants and of their fields is the format: append only.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    /// What the agent sent, and how many bytes of output there are up to its end.
    Chunk { end: u64, chunk: OutputChunk },
    /// What came before `end` never arrived; the chunk says so.
    Gap { end: u64, chunk: OutputChunk },
    /// The limit is reached; the chunk says so, and no chunk follows.
    Truncated { chunk: OutputChunk },
    /// The agent has said that nothing follows.
    Complete,
}

impl Validate for Record {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Chunk { chunk, .. } | Self::Gap { chunk, .. } | Self::Truncated { chunk } => {
                chunk.validate()
            }
            Self::Complete => Ok(()),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// The file's length: where the next record goes.
    length: u64,
    length_max: u64,
    /// How many bytes of the attempt's output are here or known to be lost.
    end: u64,
    /// Whether the last line that is here is whole: a note of our own never goes into the middle of one.
    ends_line: bool,
    truncated: bool,
    complete: bool,
}

impl Log {
    pub(super) fn open(path: PathBuf, length_max: u64) -> Result<Self, StoreError> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let mut log = Self {
            file,
            path,
            length: 0,
            length_max,
            end: 0,
            ends_line: true,
            truncated: false,
            complete: false,
        };
        log.recover()?;
        Ok(log)
    }

    /// Adds what is not here yet of chunks that begin at `offset` of the attempt's output.
    pub(super) fn append(&mut self, mut offset: u64, chunks: Vec<OutputChunk>) -> Result<(), StoreError> {
        let mut buffer = BytesMut::new();
        let before = (self.end, self.ends_line, self.truncated);
        for mut chunk in chunks {
            let end = offset.saturating_add(chunk.bytes.len() as u64);
            if end > self.end && !self.truncated {
                if offset > self.end {
                    self.end = offset;
                    let chunk = self.note(chunk.at, "some output was lost on its way");
                    encode(&Record::Gap { end: offset, chunk }, &mut buffer)?;
                    self.ends_line = true;
                }
                let known = usize::try_from(self.end - offset).unwrap_or(chunk.bytes.len());
                chunk.bytes.drain(..known.min(chunk.bytes.len()));
                let at = chunk.at;
                self.end = end;
                let (start, ends_line) = (buffer.len(), chunk.bytes.ends_with(b"\n"));
                encode(&Record::Chunk { end, chunk }, &mut buffer)?;
                if self.length + buffer.len() as u64 > self.length_max {
                    buffer.truncate(start);
                    self.truncated = true;
                    let chunk = self.note(at, "the rest of the output is not kept: there is too much of it");
                    encode(&Record::Truncated { chunk }, &mut buffer)?;
                }
                self.ends_line = ends_line || self.truncated;
            }
            offset = end;
        }
        self.write(&buffer).inspect_err(|_| (self.end, self.ends_line, self.truncated) = before)
    }

    /// Says in the place of these chunks, which begin at `offset`, that there is no room for them, nor for what follows; unless they are
    /// here already.
    pub(super) fn cut_off(&mut self, offset: u64, chunks: &[OutputChunk]) -> Result<(), StoreError> {
        let end = chunks.iter().fold(offset, |end, chunk| end.saturating_add(chunk.bytes.len() as u64));
        let Some(first) = chunks.first().filter(|_| !self.truncated && end > self.end) else { return Ok(()) };
        let mut buffer = BytesMut::new();
        let chunk = self
            .note(first.at, "the rest of the output is not kept: the control plane's disk is nearly full");
        encode(&Record::Truncated { chunk }, &mut buffer)?;
        self.write(&buffer)?;
        (self.truncated, self.ends_line) = (true, true);
        Ok(())
    }

    /// Whether the agent has said that nothing follows.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Nothing follows the output up to `end`, unless more than that is here.
    pub(super) fn complete(&mut self, end: u64) -> Result<(), StoreError> {
        if self.complete || end < self.end {
            return Ok(());
        }
        let mut buffer = BytesMut::new();
        encode(&Record::Complete, &mut buffer)?;
        self.write(&buffer)?;
        self.complete = true;
        Ok(())
    }

    /// Words of our own in the middle of the output, in the agent's voice, on a line of their own.
    fn note(&self, at: Timestamp, text: &str) -> OutputChunk {
        let begin = if self.ends_line { "" } else { "\n" };
        OutputChunk { source: OutputSource::Agent, at, bytes: format!("{begin}[{text}]\n").into_bytes() }
    }

    fn write(&mut self, records: &[u8]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        // At a known place: after a failed write the next one goes over what it left.
        self.file.seek(SeekFrom::Start(self.length)).map_err(io_error("write", &self.path))?;
        self.file.write_all(records).map_err(io_error("write", &self.path))?;
        self.length += records.len() as u64;
        self.complete = false;
        Ok(())
    }

    /// Reads the records that are here and cuts off what a crash tore.
    fn recover(&mut self) -> Result<(), StoreError> {
        let mut reader = Reader::open(&self.file, &self.path, 0)?;
        loop {
            match reader.next() {
                Ok(Some(record)) => {
                    self.complete = matches!(record, Record::Complete);
                    self.truncated |= matches!(record, Record::Truncated { .. });
                    if let Record::Chunk { chunk, .. }
                    | Record::Gap { chunk, .. }
                    | Record::Truncated { chunk } = &record
                    {
                        self.ends_line = chunk.bytes.ends_with(b"\n");
                    }
                    if let Record::Chunk { end, .. } | Record::Gap { end, .. } = record {
                        self.end = end;
                    }
                }
                // A damaged record is cut off too, with what follows: what the agent still has comes again.
                Ok(None) | Err(StoreError::Damaged { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        self.length = reader.at;
        self.file.set_len(self.length).map_err(io_error("cut", &self.path))
    }
}

/// Reads from the record `from` on; `start` is a known place at or before it. Also returns where the next page starts.
pub(super) fn read_page(
    path: &Path,
    start: Place,
    from: u64,
    limit: usize,
) -> Result<(OutputPage, Place), StoreError> {
    let mut page = OutputPage { chunks: Vec::new(), next: from, complete: false };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((page, Place::default())),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let mut reader = Reader::open(&file, path, start.byte)?;
    let mut place = start;
    // A record that says "complete" is passed only when another one follows, so that the last page says it again.
    let mut passed = start;
    let mut bytes = 0;
    while page.chunks.len() < limit && bytes < PAGE_BYTES_MAX {
        let Some(record) = reader.next()? else { break };
        passed = Place { record: passed.record + 1, byte: reader.at };
        page.complete = matches!(record, Record::Complete);
        if !page.complete {
            place = passed;
        }
        if let Record::Chunk { chunk, .. } | Record::Gap { chunk, .. } | Record::Truncated { chunk } = record
            && passed.record > from
        {
            bytes += chunk.bytes.len();
            page.chunks.push(chunk);
        }
    }
    page.next = place.record.max(from);
    Ok((page, place))
}

/// Reads record after record.
struct Reader<'a> {
    input: BufReader<&'a File>,
    path: &'a Path,
    /// Where the next record starts.
    at: u64,
}

impl<'a> Reader<'a> {
    fn open(file: &'a File, path: &'a Path, at: u64) -> Result<Self, StoreError> {
        let mut input = BufReader::new(file);
        input.seek(SeekFrom::Start(at)).map_err(io_error("read", path))?;
        Ok(Self { input, path, at })
    }

    /// The next whole record; `None` at the end, or where a record is not whole (yet).
    fn next(&mut self) -> Result<Option<Record>, StoreError> {
        let mut header = [0; HEADER_BYTES];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged());
        }
        let mut body = vec![0; length];
        if !self.fill(&mut body)? {
            return Ok(None);
        }
        let record = frame::decode(&body).map_err(|_| self.damaged())?;
        self.at += (HEADER_BYTES + length) as u64;
        Ok(Some(record))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, StoreError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(io_error("read", self.path)(error)),
        }
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), at: self.at }
    }
}

fn encode(record: &Record, buffer: &mut BytesMut) -> Result<(), StoreError> {
    frame::encode_into(record, buffer).map_err(|source| StoreError::Chunk { source })
}
