//! What a running task says, on its way out.

use std::time::{SystemTime, UNIX_EPOCH};

use stella_protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use stella_protocol::message::{OutputChunk, OutputSource};
use stella_protocol::time::Timestamp;
use tokio::sync::mpsc;

/// Where a task's output goes: a bounded queue.
///
/// A reader that is slow slows the command down, as a pipe does; a reader that is gone loses the output. Whoever holds
/// the receiver must therefore read it or drop it.
#[derive(Clone, Debug)]
pub struct OutputSink(mpsc::Sender<OutputChunk>);

impl OutputSink {
    /// A queue of `chunks` pieces of output, each at most [`OUTPUT_CHUNK_BYTES_MAX`] bytes.
    #[must_use]
    pub fn new(chunks: usize) -> (Self, mpsc::Receiver<OutputChunk>) {
        let (sender, receiver) = mpsc::channel(chunks);
        (Self(sender), receiver)
    }

    /// Hands one piece over; waits while the queue is full.
    pub async fn send(&self, chunk: OutputChunk) {
        // A receiver that is gone wants no output: the result of the task does not depend on it.
        let _gone = self.0.send(chunk).await;
    }

    /// One line of the agent's own words about the task. It is cut to [`OUTPUT_CHUNK_BYTES_MAX`].
    pub async fn say(&self, line: &str) {
        self.send(line_of_agent(line)).await;
    }

    /// The same, unless the queue is full: for words that must not delay what they announce.
    pub fn say_if_room(&self, line: &str) {
        let _full_or_gone = self.0.try_send(line_of_agent(line));
    }
}

fn line_of_agent(line: &str) -> OutputChunk {
    let mut bytes = line.as_bytes().to_vec();
    bytes.truncate(OUTPUT_CHUNK_BYTES_MAX - 1);
    bytes.push(b'\n');
    OutputChunk { source: OutputSource::Agent, at: now(), bytes }
}

/// The host's wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
