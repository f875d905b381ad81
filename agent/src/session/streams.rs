//! The output of one attempt, on its way to the control plane: a stream of its own, which lives as long as the attempt.
//!
//! Best effort, with bounded memory, and never in the way of the task: what the network does not take in time is dropped
//! from memory. A command's output is in the spool of its attempt as well, and what was dropped comes from there. After a
//! reconnect a new stream goes back as far as the last one may have lost something; every stream says at which byte it
//! begins, so that the control plane drops what it has and sees what is missing.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, SendStream, VarInt};
use stella_protocol::close::CloseCode;
use stella_protocol::frame;
use stella_protocol::id::AttemptKey;
use stella_protocol::message::{OutputChunk, OutputHeader};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Link;
use super::connect::SEND_WINDOW_BYTES;
use crate::supervisor::spooled;

/// How much output one attempt keeps in memory.
const BACKLOG_BYTES_MAX: usize = 64 * 1024;

/// How many pieces are read from a spool at once.
const SPOOL_PIECES: usize = 4;

/// How long a stream is waited for at once, and how often: the control plane lets only so many be open. Waiting for a turn is no standstill,
/// but what waits is in memory.
const OPEN_TURN: Duration = Duration::from_secs(1);
const OPEN_TURNS_MAX: u32 = 30;

/// How long output may stand still after the attempt's result was acknowledged.
const STALL_AFTER_RESULT: Duration = Duration::from_secs(10);

/// How long it may take in all after that, however slow the line is: all that a spool keeps, at 150 kbit/s. The attempt's folder stays
/// as long.
const GRACE_AFTER_RESULT: Duration = Duration::from_mins(15);

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
    /// Grows whenever the transport has taken something.
    taken: Arc<AtomicU64>,
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
#[derive(Debug)]
enum Ended {
    /// Everything has arrived.
    Done,
    /// The next byte to send is not there any more: the next stream begins behind the gap, and ends this one.
    Gap(Outgoing),
    /// The stream or the connection is gone.
    Lost,
    /// What is kept on the host cannot be read on: the stream broke off, so that nobody takes it for the end.
    Unreadable(io::Error),
}

impl Forwarder {
    /// Forwards output while it is made. `spool` is the attempt's folder, if its spool has exactly the same output.
    #[must_use]
    pub fn live(key: AttemptKey, chunks: mpsc::Receiver<OutputChunk>, spool: Option<PathBuf>) -> Self {
        Self::new(key, Some(chunks), spool)
    }

    /// Forwards all that is in the spool of an attempt of an earlier life.
    #[must_use]
    pub fn of_spool(key: AttemptKey, attempt_dir: PathBuf) -> Self {
        Self::new(key, None, Some(attempt_dir))
    }

    fn new(key: AttemptKey, live: Option<mpsc::Receiver<OutputChunk>>, spool: Option<PathBuf>) -> Self {
        let (backlog, taken) = (Backlog::default(), Arc::default());
        Self { key, source: Source { live, backlog, spool, taken } }
    }

    /// Whose output it is.
    #[must_use]
    pub const fn key(&self) -> AttemptKey {
        self.key
    }

    /// Ends when everything has arrived, or once the result was acknowledged and nothing goes on, or for too long.
    pub async fn run(self, link: watch::Receiver<Option<Link>>, acknowledged: CancellationToken) {
        let taken = Arc::clone(&self.source.taken);
        let too_long = async {
            acknowledged.cancelled().await;
            // Either way it is over.
            drop(timeout(GRACE_AFTER_RESULT, standstill(&taken)).await);
        };
        let key = self.key;
        tokio::select! {
            () = self.forward(link) => {}
            () = too_long => tracing::warn!(
                taskId = %key.task,
                attempt = key.attempt.0,
                "the control plane did not take all of a task's output in time; the rest is given up"
            ),
        }
    }

    fn say_unreadable(&self, error: &io::Error) {
        tracing::warn!(taskId = %self.key.task, attempt = self.key.attempt.0, %error, "output of a task that is kept here cannot be read; the rest of it is lost");
    }

    async fn forward(mut self, mut link: watch::Receiver<Option<Link>>) {
        if self.source.live.is_none()
            && let Err(error) = self.source.measure_spool().await
        {
            self.say_unreadable(&error);
            return;
        }
        let mut cursor = 0;
        let mut before: Option<Outgoing> = None;
        loop {
            if !self.source.has_more_than(cursor).await {
                // Nothing came behind the gap.
                if let Some(before) = &mut before {
                    before.finish();
                }
                return;
            }
            let connection = {
                let connected =
                    async { link.wait_for(Option::is_some).await.ok().and_then(|link| link.clone()) };
                self.source.absorb_while(connected).await
            };
            // The sessions are gone for good.
            let Some(connection) = connection else { return };
            match self.stream(&connection, &mut cursor, &mut before).await {
                Ended::Done => return,
                Ended::Unreadable(error) => return self.say_unreadable(&error),
                Ended::Gap(stream) => before = Some(stream),
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

    /// One stream, from `cursor` on, which is then the first byte that was not sent. Once it has begun, the stream before it ends, which
    /// stopped at a gap: a stream that ends with none behind it says that everything was sent.
    async fn stream(&mut self, connection: &Link, cursor: &mut u64, before: &mut Option<Outgoing>) -> Ended {
        let Ok(mut stream) = self.open(connection, before).await else { return Ended::Lost };
        let mut reader = self.source.reader(*cursor);
        if reader.is_none() {
            *cursor = (*cursor).max(self.source.backlog.start);
        }
        let header = OutputHeader { key: self.key, offset: *cursor };
        let Ok(header) = frame::encode(&header) else { return Ended::Lost };
        if self.source.write(&mut stream, header).await.is_err() {
            return Ended::Lost;
        }
        if let Some(mut before) = before.take() {
            // Whether its end arrives or not, this stream says where it begins.
            before.finish();
        }
        loop {
            let piece = match self.source.piece(cursor, &mut reader).await {
                Piece::Chunk(chunk) => chunk,
                Piece::Gap => return Ended::Gap(stream),
                Piece::Unreadable(error) => return Ended::Unreadable(error),
                Piece::End => break,
            };
            let length = piece.bytes.len() as u64;
            let Ok(bytes) = frame::encode(&piece) else { return Ended::Lost };
            if self.source.write(&mut stream, bytes).await.is_err() {
                return Ended::Lost;
            }
            *cursor += length;
        }
        if !stream.finish() {
            return Ended::Lost;
        }
        // Resolves once the other end's transport has all of it, or with a code if its owner did not want it.
        if matches!(stream.stream.stopped().await, Ok(None)) { Ended::Done } else { Ended::Lost }
    }

    /// Opens a stream, once the control plane lets another one be open. An older one has none to spare for a stream that begins while the
    /// one before it is open: that one ends then, which only tells too early that it was all.
    async fn open(
        &mut self,
        connection: &Link,
        before: &mut Option<Outgoing>,
    ) -> Result<Outgoing, ConnectionError> {
        let taken = Arc::clone(&self.source.taken);
        let opening = async {
            let mut opening = pin!(connection.open_uni());
            for _ in 0..OPEN_TURNS_MAX {
                if let Ok(opened) = timeout(OPEN_TURN, &mut opening).await {
                    return opened;
                }
                taken.fetch_add(1, Ordering::Relaxed);
                if let Some(mut before) = before.take() {
                    before.finish();
                }
            }
            opening.await
        };
        self.source.absorb_while(opening).await.map(Outgoing::new)
    }
}

/// Waits until nothing was taken for a while.
async fn standstill(taken: &AtomicU64) {
    let mut before = taken.load(Ordering::Relaxed);
    loop {
        sleep(STALL_AFTER_RESULT).await;
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// A stream of output. One that is dropped before its end breaks off: the transport would end it in order, in the middle of a frame
/// perhaps, which says that this was all.
#[derive(Debug)]
struct Outgoing {
    stream: SendStream,
    is_finished: bool,
}

impl Outgoing {
    const fn new(stream: SendStream) -> Self {
        Self { stream, is_finished: false }
    }

    /// Says that this was all; false if there is nobody to say it to.
    fn finish(&mut self) -> bool {
        self.is_finished = self.stream.finish().is_ok();
        self.is_finished
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_finished {
            // It fails if the stream is gone, which is as good.
            drop(self.stream.reset(VarInt::from_u32(CloseCode::Normal.code())));
        }
    }
}

/// The next thing to send.
enum Piece {
    Chunk(OutputChunk),
    Gap,
    Unreadable(io::Error),
    End,
}

/// A spool while it is read.
struct SpoolReader {
    pieces: Option<Box<dyn Iterator<Item = io::Result<OutputChunk>> + Send>>,
    read: VecDeque<io::Result<OutputChunk>>,
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
    async fn at(&mut self, cursor: u64) -> io::Result<Option<OutputChunk>> {
        loop {
            if self.read.is_empty() {
                let Some(mut pieces) = self.pieces.take() else { return Ok(None) };
                let read = move || {
                    let read: VecDeque<_> = pieces.by_ref().take(SPOOL_PIECES).collect();
                    (read, pieces)
                };
                let (read, pieces) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
                (self.read, self.pieces) = (read, Some(pieces));
            }
            let Some(chunk) = self.read.pop_front().transpose()? else { return Ok(None) };
            let start = self.offset;
            self.offset += chunk.bytes.len() as u64;
            if self.offset > cursor {
                return Ok(Some(from(chunk, cursor.saturating_sub(start))));
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
    async fn measure_spool(&mut self) -> io::Result<()> {
        let Some(dir) = self.spool.clone() else { return Ok(()) };
        let measure = move || {
            spooled(&dir)?.try_fold(0, |size, chunk| io::Result::Ok(size + chunk?.bytes.len() as u64))
        };
        let size = tokio::task::spawn_blocking(measure).await.map_err(io::Error::other)??;
        (self.backlog.start, self.backlog.end) = (size, size);
        Ok(())
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

    async fn write(&mut self, stream: &mut Outgoing, bytes: Bytes) -> Result<(), quinn::WriteError> {
        let written = self.absorb_while(stream.stream.write_chunk(bytes)).await;
        self.taken.fetch_add(u64::from(written.is_ok()), Ordering::Relaxed);
        written
    }

    /// The spool, if `cursor` is not in memory any more.
    fn reader(&self, cursor: u64) -> Option<SpoolReader> {
        if cursor >= self.backlog.start {
            return None;
        }
        let (pieces, read) = match spooled(self.spool.as_deref()?) {
            Ok(chunks) => (Some(Box::new(chunks) as Box<_>), VecDeque::new()),
            Err(error) => (None, VecDeque::from([Err(error)])),
        };
        Some(SpoolReader { pieces, read, offset: 0 })
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
        if let Some(spool) = reader {
            match spool.at(*cursor).await {
                Ok(Some(chunk)) => return Piece::Chunk(chunk),
                Ok(None) => {}
                Err(error) => return Piece::Unreadable(error),
            }
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
