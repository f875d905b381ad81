//! The output of one attempt, on its way to the control plane: a stream of its own, which lives as long as the attempt.
//!
//! Best effort, with bounded memory, and never in the way of the task: what the network does not take in time is dropped
//! from memory. A command's output is in the spool of its attempt as well, and what was dropped comes from there. After a
//! reconnect a new stream goes back as far as the last one may have lost something; every stream says at which byte it
//! begins, so that the control plane drops what it has and sees what is missing.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use stella_protocol::frame;
use stella_protocol::id::AttemptKey;
use stella_protocol::message::{OutputChunk, OutputHeader};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Link;
use super::connect::SEND_WINDOW_BYTES;
use crate::supervisor::spooled;

/// How much output one attempt keeps in memory.
const BACKLOG_BYTES_MAX: usize = 64 * 1024;

/// How many pieces are read from a spool at once.
const SPOOL_PIECES: usize = 4;

/// How long output may still take after the attempt's result was acknowledged.
const GRACE_AFTER_RESULT: Duration = Duration::from_secs(10);

/// Forwards the output of one attempt.
#[derive(Debug)]
pub struct Forwarder {
    key: AttemptKey,
    source: Source,
}

/// What there is of an attempt's output.
#[derive(Debug)]
struct Source {
    /// `None` once the attempt has said everything.
    live: Option<mpsc::Receiver<OutputChunk>>,
    backlog: Backlog,
    /// The attempt's folder, if its spool has the same bytes as the live output.
    spool: Option<PathBuf>,
}

/// The newest output.
#[derive(Debug, Default)]
struct Backlog {
    chunks: VecDeque<OutputChunk>,
    /// How many bytes of output come before the first chunk that is kept, and before the next one that will come.
    start: u64,
    end: u64,
}

/// Why a stream is over.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Everything has arrived.
    Done,
    /// The next byte to send is not there any more: the next stream begins behind the gap.
    Gap,
    /// The stream or the connection is gone.
    Lost,
}

impl Forwarder {
    /// Forwards output while it is made. `spool` is the attempt's folder, if its spool has exactly the same output.
    #[must_use]
    pub fn live(key: AttemptKey, chunks: mpsc::Receiver<OutputChunk>, spool: Option<PathBuf>) -> Self {
        Self { key, source: Source { live: Some(chunks), backlog: Backlog::default(), spool } }
    }

    /// Forwards all that is in the spool of an attempt of an earlier life.
    #[must_use]
    pub fn of_spool(key: AttemptKey, attempt_dir: PathBuf) -> Self {
        Self { key, source: Source { live: None, backlog: Backlog::default(), spool: Some(attempt_dir) } }
    }

    /// Whose output it is.
    #[must_use]
    pub const fn key(&self) -> AttemptKey {
        self.key
    }

    /// Ends when everything has arrived, or a while after the result was acknowledged.
    pub async fn run(self, link: watch::Receiver<Option<Link>>, acknowledged: CancellationToken) {
        tokio::select! {
            () = self.forward(link) => {}
            () = async { acknowledged.cancelled().await; sleep(GRACE_AFTER_RESULT).await } => {}
        }
    }

    async fn forward(mut self, mut link: watch::Receiver<Option<Link>>) {
        if self.source.live.is_none() {
            self.source.measure_spool().await;
        }
        let mut cursor = 0;
        loop {
            if !self.source.has_more_than(cursor).await {
                return;
            }
            let connection = {
                let connected =
                    async { link.wait_for(Option::is_some).await.ok().and_then(|link| link.clone()) };
                self.source.absorb_while(connected).await
            };
            // The sessions are gone for good.
            let Some(connection) = connection else { return };
            match self.stream(&connection, &mut cursor).await {
                Ended::Done => return,
                Ended::Gap => {}
                Ended::Lost => {
                    // What the transport had not acknowledged may be lost.
                    cursor = cursor.saturating_sub(SEND_WINDOW_BYTES);
                    let lost = connection.stable_id();
                    drop(connection);
                    let is_another =
                        |link: &Option<Link>| link.as_ref().is_none_or(|link| link.stable_id() != lost);
                    let replaced = async { drop(link.wait_for(is_another).await) };
                    self.source.absorb_while(replaced).await;
                }
            }
        }
    }

    /// One stream, from `cursor` on, which is then the first byte that was not sent.
    async fn stream(&mut self, connection: &Link, cursor: &mut u64) -> Ended {
        let opened = self.source.absorb_while(connection.open_uni()).await;
        let Ok(mut stream) = opened else { return Ended::Lost };
        let mut reader = self.source.reader(*cursor);
        if reader.is_none() {
            *cursor = (*cursor).max(self.source.backlog.start);
        }
        let header = OutputHeader { key: self.key, offset: *cursor };
        let Ok(header) = frame::encode(&header) else { return Ended::Lost };
        if self.source.write(&mut stream, header).await.is_err() {
            return Ended::Lost;
        }
        loop {
            let piece = match self.source.piece(cursor, &mut reader).await {
                Piece::Chunk(chunk) => chunk,
                Piece::Gap => {
                    // Whether its end arrives or not, the next stream says where it begins.
                    let _told = stream.finish();
                    return Ended::Gap;
                }
                Piece::End => break,
            };
            let length = piece.bytes.len() as u64;
            let Ok(bytes) = frame::encode(&piece) else { return Ended::Lost };
            if self.source.write(&mut stream, bytes).await.is_err() {
                return Ended::Lost;
            }
            *cursor += length;
        }
        if stream.finish().is_err() {
            return Ended::Lost;
        }
        // Resolves once the other end's transport has all of it.
        if stream.stopped().await.is_ok() { Ended::Done } else { Ended::Lost }
    }
}

/// The next thing to send.
enum Piece {
    Chunk(OutputChunk),
    Gap,
    End,
}

/// A spool while it is read.
struct SpoolReader {
    pieces: Option<Box<dyn Iterator<Item = OutputChunk> + Send>>,
    read: VecDeque<OutputChunk>,
    /// How many bytes of output come before the next piece.
    offset: u64,
}

impl fmt::Debug for SpoolReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolReader").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl SpoolReader {
    /// The output at `cursor`; `None` at the end of what is there.
    async fn at(&mut self, cursor: u64) -> Option<OutputChunk> {
        loop {
            if self.read.is_empty() {
                let mut pieces = self.pieces.take()?;
                let read = move || {
                    let read: VecDeque<_> = pieces.by_ref().take(SPOOL_PIECES).collect();
                    (read, pieces)
                };
                let (read, pieces) = tokio::task::spawn_blocking(read).await.ok()?;
                (self.read, self.pieces) = (read, Some(pieces));
            }
            let chunk = self.read.pop_front()?;
            let start = self.offset;
            self.offset += chunk.bytes.len() as u64;
            if self.offset > cursor {
                return Some(from(chunk, cursor.saturating_sub(start)));
            }
        }
    }
}

/// A chunk without its first bytes.
fn from(mut chunk: OutputChunk, skip: u64) -> OutputChunk {
    let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.bytes.len());
    chunk.bytes.drain(..skip);
    chunk
}

impl Source {
    /// Takes the place of live output that is over: everything that the spool has.
    async fn measure_spool(&mut self) {
        let Some(dir) = self.spool.clone() else { return };
        let measure =
            move || spooled(&dir).map(|chunks| chunks.map(|chunk| chunk.bytes.len() as u64).sum::<u64>());
        let size = tokio::task::spawn_blocking(measure).await.ok().and_then(Result::ok).unwrap_or(0);
        (self.backlog.start, self.backlog.end) = (size, size);
    }

    /// Waits until there is output behind `cursor`; false if there will be none.
    async fn has_more_than(&mut self, cursor: u64) -> bool {
        while self.backlog.end <= cursor {
            let Some(live) = &mut self.live else { return false };
            match live.recv().await {
                Some(chunk) => self.backlog.push(chunk),
                None => self.live = None,
            }
        }
        true
    }

    /// Waits for something else, and takes the output that comes meanwhile: a task is never held up.
    async fn absorb_while<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let Some(live) = &mut self.live else { return work.await };
            tokio::select! {
                result = &mut work => return result,
                chunk = live.recv() => match chunk {
                    Some(chunk) => self.backlog.push(chunk),
                    None => self.live = None,
                },
            }
        }
    }

    async fn write(&mut self, stream: &mut SendStream, bytes: Bytes) -> Result<(), quinn::WriteError> {
        self.absorb_while(stream.write_chunk(bytes)).await
    }

    /// The spool, if `cursor` is not in memory any more.
    fn reader(&self, cursor: u64) -> Option<SpoolReader> {
        if cursor >= self.backlog.start {
            return None;
        }
        let chunks = spooled(self.spool.as_deref()?).ok()?;
        Some(SpoolReader { pieces: Some(Box::new(chunks)), read: VecDeque::new(), offset: 0 })
    }

    /// What comes at `cursor`; waits for it if the attempt is still going.
    async fn piece(&mut self, cursor: &mut u64, reader: &mut Option<SpoolReader>) -> Piece {
        if !self.has_more_than(*cursor).await {
            return Piece::End;
        }
        if let Some(chunk) = self.backlog.at(*cursor) {
            return Piece::Chunk(chunk);
        }
        if reader.is_none() {
            *reader = self.reader(*cursor);
        }
        if let Some(spool) = reader
            && let Some(chunk) = spool.at(*cursor).await
        {
            return Piece::Chunk(chunk);
        }
        *cursor = self.backlog.start;
        // A spool that has less than was measured ends here.
        if self.backlog.start == self.backlog.end && self.live.is_none() { Piece::End } else { Piece::Gap }
    }
}

impl Backlog {
    fn push(&mut self, chunk: OutputChunk) {
        self.end += chunk.bytes.len() as u64;
        self.chunks.push_back(chunk);
        while self.end - self.start > BACKLOG_BYTES_MAX as u64 {
            let Some(oldest) = self.chunks.pop_front() else { return };
            self.start += oldest.bytes.len() as u64;
        }
    }

    fn at(&self, cursor: u64) -> Option<OutputChunk> {
        let mut start = self.start;
        if cursor < start {
            return None;
        }
        for chunk in &self.chunks {
            let end = start + chunk.bytes.len() as u64;
            if cursor < end {
                return Some(from(chunk.clone(), cursor - start));
            }
            start = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use stella_protocol::message::OutputSource;
    use stella_protocol::time::Timestamp;

    use super::*;

    fn chunk(bytes: &[u8]) -> OutputChunk {
        OutputChunk { source: OutputSource::Stdout, at: Timestamp(1), bytes: bytes.to_vec() }
    }

    #[test]
    fn a_backlog_keeps_the_newest_output_and_knows_where_it_is() {
        let mut backlog = Backlog::default();
        backlog.push(chunk(b"hello "));
        backlog.push(chunk(b"world"));
        assert_eq!(backlog.at(0).unwrap().bytes, b"hello ");
        assert_eq!(backlog.at(8).unwrap().bytes, b"rld");
        assert!(backlog.at(11).is_none());
        for _ in 0..3 {
            backlog.push(chunk(&[7; 32 * 1024]));
        }
        assert_eq!((backlog.start, backlog.end), (11 + 32 * 1024, 11 + 3 * 32 * 1024));
        assert!(backlog.at(5).is_none(), "what was dropped is not made up");
    }
}
