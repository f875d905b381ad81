//! From the journal to the state: the newest snapshot, then every event after it, by the same function as live.

use std::collections::BTreeMap;

use stella_domain::event::StreamId;
use stella_domain::state::{Projections, State};
use stella_journal::{AppendError, Journal};
use stella_protocol::id::Position;
use stella_protocol::time::Timestamp;

use crate::archive::{Group, ReplayError};
use crate::codec;
use crate::handle::{ReadError, read_events};

/// How many events are read at a time.
const PAGE_EVENTS: usize = 4_096;

/// Why the journal does not lead to a state. The process must not serve; the journal's tools say more.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A snapshot is there and cannot be read.
    #[error("the snapshots cannot be read")]
    Snapshot(#[source] stella_journal::ReadError),
    /// A snapshot is intact, but not of this version.
    #[error("the snapshot is not understood by this version")]
    SnapshotFormat(#[source] serde_json::Error),
    /// Events cannot be read.
    #[error("the journal cannot be replayed")]
    Read(#[source] ReadError),
    /// An event does not follow from the ones before it.
    #[error(
        "event {position} of {stream:?} does not follow from the events before it; run stella-orchestrator journal verify"
    )]
    Illegal {
        /// Its stream.
        stream: StreamId,
        /// Its position.
        position: Position,
        /// Why not.
        #[source]
        source: stella_domain::event::IllegalTransition,
    },
    /// What has left memory is not in the archive, and cannot be written there.
    #[error("the archive cannot be written")]
    Archive(#[source] AppendError),
    /// The new epoch cannot be written.
    #[error("the journal cannot be opened for writing")]
    Epoch(#[source] AppendError),
    /// No thread can be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
}

pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) heads: BTreeMap<StreamId, Position>,
    pub(crate) last_time: Timestamp,
    /// How many events came after the snapshot.
    pub(crate) replayed: u64,
}

pub(crate) fn recover(journal: &dyn Journal) -> Result<Recovered, RecoveryError> {
    let started = std::time::Instant::now();
    let (mut state, mut done) = from_snapshot(journal)?;
    let mut replayed = 0;
    let mut heads = BTreeMap::new();
    // Streams are ordered with the system's first: a tenant's events may rely on it.
    for (stream, head) in journal.heads() {
        let stream = codec::from_journal(stream);
        replayed += replay(journal, stream, done.remove(&stream).unwrap_or_default(), &mut state)?;
        heads.insert(stream, head.next);
    }
    let seconds = started.elapsed().as_secs_f64();
    metrics::gauge!("stella_journal_replay_duration_seconds").set(seconds);
    #[expect(clippy::cast_precision_loss, reason = "a count of events is looked at with three digits")]
    metrics::gauge!("stella_journal_replayed_events").set(replayed as f64);
    tracing::info!(events = replayed, seconds, tenants = state.tenants.len(), "journal replayed");
    Ok(Recovered { state, heads, last_time: journal.last_time(), replayed })
}

fn from_snapshot(journal: &dyn Journal) -> Result<(State, BTreeMap<StreamId, Position>), RecoveryError> {
    let Some(snapshot) = journal.load_snapshot().map_err(RecoveryError::Snapshot)? else {
        return Ok((State::default(), BTreeMap::new()));
    };
    let state: State = serde_json::from_slice(&snapshot.payload).map_err(RecoveryError::SnapshotFormat)?;
    if state.projections < Projections::NOW {
        tracing::info!("the snapshot is of a version that counted less; the whole journal is replayed, once");
        return Ok((State::default(), BTreeMap::new()));
    }
    let positions =
        snapshot.heads.into_iter().map(|(stream, head)| (codec::from_journal(stream), head.next)).collect();
    Ok((state, positions))
}

fn replay(
    journal: &dyn Journal,
    stream: StreamId,
    mut from: Position,
    state: &mut State,
) -> Result<u64, RecoveryError> {
    let mut replayed = 0;
    let mut archived = Group::new(journal);
    loop {
        let page = read_events(journal, stream, from, PAGE_EVENTS).map_err(RecoveryError::Read)?;
        let Some(last) = page.last() else {
            archived.write().map_err(RecoveryError::Archive)?;
            return Ok(replayed);
        };
        from = last.position.next();
        for entry in page {
            archived.before(state, stream, &entry.event).map_err(|error| match error {
                ReplayError::Read(error) => RecoveryError::Read(ReadError::Journal(error)),
                ReplayError::Write(error) => RecoveryError::Archive(error),
            })?;
            state.apply(stream, &entry.event).map_err(|source| RecoveryError::Illegal {
                stream,
                position: entry.position,
                source,
            })?;
            replayed += 1;
        }
    }
}
