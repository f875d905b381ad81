//! A point of the journal with the state that it leads to: what a backup is made of, and what two journals are compared by.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_journal::{ExportError, ExportSummary, Head, Journal, Stream, export_open};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position};
use stella_protocol::time::Timestamp;

use crate::codec;
use crate::recovery::{RecoveryError, recover};

/// How much of the state is written before it is hashed, in bytes: a state is written in very small pieces.
const HASHED_BYTES: usize = 64 << 10;

/// A durable point: the ends of all streams, and the state after exactly these events.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    journal: Arc<dyn Journal>,
    state: Arc<State>,
    heads: BTreeMap<Stream, Head>,
    last_time: Timestamp,
}

impl Checkpoint {
    /// Of a journal that nobody appends to.
    ///
    /// # Errors
    /// If the journal does not lead to a state.
    pub fn of_journal(journal: Arc<dyn Journal>) -> Result<Self, RecoveryError> {
        let state = Arc::new(recover(journal.as_ref())?.state);
        Ok(Self::at_rest(journal, state))
    }

    /// By the only one who appends, who knows the state.
    pub(crate) fn at_rest(journal: Arc<dyn Journal>, state: Arc<State>) -> Self {
        let (heads, last_time) = (journal.heads(), journal.last_time());
        Self { journal, state, heads, last_time }
    }

    /// The journal's name.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.journal.incarnation()
    }

    /// The leader's term.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.journal.epoch()
    }

    /// Where each stream ends.
    #[must_use]
    pub const fn heads(&self) -> &BTreeMap<Stream, Head> {
        &self.heads
    }

    /// The state after all of it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state, and how many events each stream has that has some.
    #[must_use]
    pub fn into_end(self) -> (Arc<State>, BTreeMap<StreamId, Position>) {
        let heads = self.heads.into_iter().map(|(stream, head)| (codec::from_journal(stream), head.next));
        (self.state, heads.collect())
    }

    /// When the newest event was decided.
    #[must_use]
    pub const fn last_time(&self) -> Timestamp {
        self.last_time
    }

    /// SHA-256 of the state's JSON: equal for equal states of one version of this software, whatever journal they are from.
    ///
    /// # Errors
    /// If the state cannot be written as JSON, which no state is known for.
    pub fn state_hash(&self) -> Result<Digest, serde_json::Error> {
        let mut writer = BufWriter::with_capacity(HASHED_BYTES, Hasher(Sha256::new()));
        serde_json::to_writer(&mut writer, self.state.as_ref())?;
        let hasher = writer.into_inner().map_err(|error| serde_json::Error::io(error.into_error()))?;
        Ok(Digest(hasher.0.finalize().into()))
    }

    /// Writes all events up to this point, in the form of [`stella_journal::export()`]; appends may go on meanwhile.
    ///
    /// # Errors
    /// If the journal is damaged, or `out` fails.
    pub fn export(&self, out: &mut impl Write) -> Result<ExportSummary, ExportError> {
        export_open(self.journal.as_ref(), &self.heads, out)
    }
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
