//! Pieces of output between a supervisor and its agent, and in the spool file of an attempt.
//!
//! A frame is `kind: u8, at: u64 (ms since the epoch), length: u32, bytes`, little-endian. Kinds 0, 1 and 2 are output
//! (standard output, standard error, the agent's words); kinds 3 and 4 are the end, with the record's last line as JSON,
//! and are only on the pipe: after 3 the supervisor leaves, after 4 it is ready for another attempt. Kinds 5 and 6 are empty, and say
//! there that TERM and KILL were sent to the tree.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use stella_protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use stella_protocol::message::{EndingStage, OutputChunk, OutputSource};
use stella_protocol::time::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::record::Ended;

/// How much output an attempt keeps on the host's disk, in bytes: as much as the control plane keeps of it. What comes after is only
/// streamed.
pub const SPOOL_BYTES_MAX: u64 = 16 * 1024 * 1024;

const SPOOL_FILE: &str = "output";
const HEAD_BYTES: usize = 13;
const KIND_END: u8 = 3;
const KIND_END_AND_READY: u8 = 4;
const KIND_TERMINATED: u8 = 5;
const KIND_KILLED: u8 = 6;

/// One frame from a supervisor.
#[derive(Debug)]
pub(super) enum Frame {
    Output(OutputChunk),
    /// How far the end of the tree has got.
    Stage(EndingStage),
    End {
        ended: Box<Ended>,
        /// Whether the supervisor waits for another attempt.
        is_ready: bool,
    },
}

#[derive(Debug)]
struct Head {
    kind: u8,
    at: Timestamp,
    length: usize,
}

impl Head {
    fn decode(bytes: [u8; HEAD_BYTES]) -> io::Result<Self> {
        let [kind, rest @ ..] = bytes;
        let (at, length) = rest.split_at(8);
        let at = u64::from_le_bytes(at.try_into().expect("eight bytes were split off"));
        let length = u32::from_le_bytes(length.try_into().expect("four bytes are left of twelve"));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if kind > KIND_KILLED || length > OUTPUT_CHUNK_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no frame of a supervisor"));
        }
        Ok(Self { kind, at: Timestamp(at), length })
    }

    fn finish(self, bytes: Vec<u8>) -> io::Result<Frame> {
        let source = match self.kind {
            0 => OutputSource::Stdout,
            1 => OutputSource::Stderr,
            2 => OutputSource::Agent,
            KIND_TERMINATED => return Ok(Frame::Stage(EndingStage::Terminated)),
            KIND_KILLED => return Ok(Frame::Stage(EndingStage::Killed)),
            kind => {
                let ended = serde_json::from_slice(&bytes)?;
                return Ok(Frame::End { ended, is_ready: kind == KIND_END_AND_READY });
            }
        };
        Ok(Frame::Output(OutputChunk { source, at: self.at, bytes }))
    }
}

fn encode(kind: u8, at: Timestamp, bytes: &[u8], into: &mut Vec<u8>) {
    let bytes = &bytes[..bytes.len().min(OUTPUT_CHUNK_BYTES_MAX)];
    let length = u32::try_from(bytes.len()).expect("a chunk is smaller than 4 GiB");
    into.push(kind);
    into.extend_from_slice(&at.0.to_le_bytes());
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(bytes);
}

/// Appends an output frame to `into`.
pub(super) fn encode_output(source: OutputSource, at: Timestamp, bytes: &[u8], into: &mut Vec<u8>) {
    let kind = match source {
        OutputSource::Stdout => 0,
        OutputSource::Stderr => 1,
        OutputSource::Agent => 2,
    };
    encode(kind, at, bytes, into);
}

/// Appends a frame to `into` that says how far the end of the tree has got.
pub(super) fn encode_stage(stage: EndingStage, at: Timestamp, into: &mut Vec<u8>) {
    match stage {
        // What is delivered is known to who delivers it.
        EndingStage::Delivered => {}
        EndingStage::Terminated => encode(KIND_TERMINATED, at, &[], into),
        EndingStage::Killed => encode(KIND_KILLED, at, &[], into),
    }
}

/// Appends the last frame of an attempt to `into`.
pub(super) fn encode_end(ended: &Ended, is_ready: bool, into: &mut Vec<u8>) -> io::Result<()> {
    let kind = if is_ready { KIND_END_AND_READY } else { KIND_END };
    encode(kind, ended.ended_at, &serde_json::to_vec(ended)?, into);
    Ok(())
}

/// Reads the next frame from a supervisor; `None` at the end of the stream.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut head = [0; HEAD_BYTES];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let head = Head::decode(head)?;
    let mut bytes = vec![0; head.length];
    stream.read_exact(&mut bytes).await?;
    head.finish(bytes).map(Some)
}

/// The output that an attempt has left on disk, from its beginning, for an agent that lost the live stream. Ends at the
/// first torn frame, or behind the first error of the disk. Blocks on the disk.
///
/// # Errors
/// If the spool is there and cannot be opened.
pub fn spooled(attempt_dir: &Path) -> io::Result<impl Iterator<Item = io::Result<OutputChunk>> + use<>> {
    let mut file = match File::open(attempt_dir.join(SPOOL_FILE)) {
        Ok(file) => Some(BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(std::iter::from_fn(move || {
        let next = next_spooled(file.as_mut()?).transpose();
        if !matches!(next, Some(Ok(_))) {
            file = None;
        }
        next
    }))
}

fn next_spooled(file: &mut impl Read) -> io::Result<Option<OutputChunk>> {
    let mut head = [0; HEAD_BYTES];
    if !is_filled(file, &mut head)? {
        return Ok(None);
    }
    let Ok(head) = Head::decode(head) else { return Ok(None) };
    let mut bytes = vec![0; head.length];
    if !is_filled(file, &mut bytes)? {
        return Ok(None);
    }
    match head.finish(bytes) {
        Ok(Frame::Output(chunk)) => Ok(Some(chunk)),
        Ok(Frame::Stage(_) | Frame::End { .. }) | Err(_) => Ok(None),
    }
}

/// False at the end of the file. A disk that cannot be read is not an end.
fn is_filled(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The spool while it is written. The file is created with the first output: a silent command costs none.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    /// Whether the last line that is kept is whole.
    ends_line: bool,
    /// Bytes of output that were not kept.
    pub(super) dropped: u64,
}

impl Spool {
    pub(super) fn new(attempt_dir: &Path) -> Self {
        Self { path: attempt_dir.join(SPOOL_FILE), file: None, written: 0, ends_line: true, dropped: 0 }
    }

    /// Keeps an encoded frame of `payload` bytes of output. A full or broken disk costs output, never the command.
    pub(super) fn write(&mut self, frame: &[u8], at: Timestamp, payload: usize) {
        let payload = payload as u64;
        if self.dropped > 0 {
            self.dropped += payload;
            return;
        }
        let fits = self.written + payload <= SPOOL_BYTES_MAX;
        if !fits {
            let mut notice = Vec::new();
            let begin = if self.ends_line { "" } else { "\n" };
            let words = format!(
                "{begin}the output is too long to be kept on the host; from here on it is only streamed\n"
            );
            encode_output(OutputSource::Agent, at, words.as_bytes(), &mut notice);
            // The notice is for people; a disk that does not take it changes nothing.
            let _unsaid = self.append(&notice);
        }
        let kept = fits && self.append(frame).is_ok();
        if kept {
            self.written += payload;
            self.ends_line = frame.ends_with(b"\n");
        } else {
            self.dropped += payload;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let options =
                    OpenOptions::new().append(true).create_new(true).mode(0o600).open(&self.path)?;
                self.file.insert(options)
            }
        };
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends there, with the place")]

    use super::*;

    #[test]
    fn a_spool_ends_where_it_is_torn_and_not_where_it_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join(SPOOL_FILE);
        let mut frames = Vec::new();
        encode_output(OutputSource::Stdout, Timestamp(1), b"one", &mut frames);
        let whole = frames.len();
        encode_output(OutputSource::Stdout, Timestamp(2), b"two", &mut frames);
        for length in whole..frames.len() {
            std::fs::write(&spool, &frames[..length]).unwrap();
            let read: Vec<_> = spooled(folder.path()).unwrap().map(|it| it.unwrap().bytes).collect();
            assert_eq!(read, [b"one"]);
        }
        // A folder can be opened, and not be read.
        std::fs::remove_file(&spool).unwrap();
        std::fs::create_dir(&spool).unwrap();
        let read: Vec<_> = spooled(folder.path()).unwrap().collect();
        assert!(matches!(&read[..], [Err(_)]), "{read:?}");
    }
}
