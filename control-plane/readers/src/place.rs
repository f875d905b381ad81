//! How far a reader of the journal is, in a file beside the journal.
//!
//! The file is whole or not there: it is written under another name, made durable and moved. If it is lost or cannot be read, events are
//! sent again rather than left out.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stella_domain::event::StreamId;
use stella_engine::CommittedEvent;
use stella_protocol::id::{Position, TenantId};

/// How much of such a file is read, in bytes: far more than any installation has tenants or open incidents for.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// How many hex digits of its hash an event's id has: 128 bits.
const ID_DIGITS: usize = 32;

/// A place in one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The next event that is wanted.
    pub next: Position,
    /// The id of the one before it: tells whether the journal still has the history that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// A place in each stream. One that is not here is read from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    #[serde(default)]
    system: Place,
    #[serde(default)]
    tenants: BTreeMap<TenantId, Place>,
}

impl Places {
    /// The place in a stream.
    #[must_use]
    pub fn of(&self, stream: StreamId) -> Place {
        match stream {
            StreamId::System => self.system.clone(),
            StreamId::Tenant(tenant) => self.tenants.get(&tenant).cloned().unwrap_or_default(),
        }
    }

    /// Moves the place in a stream.
    pub fn set(&mut self, stream: StreamId, place: Place) {
        match stream {
            StreamId::System => self.system = place,
            StreamId::Tenant(tenant) => drop(self.tenants.insert(tenant, place)),
        }
    }

    /// The streams of which something was read.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        std::iter::once(StreamId::System).chain(self.tenants.keys().copied().map(StreamId::Tenant))
    }
}

/// The id of an event. It follows from the stream, the position, and when and why it was decided: the same event has the same id in an
/// exported and imported journal, and another event at the same position of a restored one has another.
#[must_use]
pub fn id_of(committed: &CommittedEvent) -> String {
    let event = &committed.event;
    let mut hash = Sha256::new();
    hash.update(match committed.stream {
        StreamId::System => "/system".to_owned(),
        StreamId::Tenant(tenant) => format!("/tenants/{tenant}"),
    });
    for number in [committed.position.0, event.at.0, event.trace.span_id] {
        hash.update(number.to_be_bytes());
    }
    hash.update(event.trace.trace_id.to_be_bytes());
    hash.update(event.fact.name());
    let mut id = hex::encode(hash.finalize());
    id.truncate(ID_DIGITS);
    id
}

/// A value in a file that is whole or not there.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file at a path. Nothing is opened.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written last; `None` if nothing was.
    ///
    /// # Errors
    /// If it cannot be read, or is not what this version writes.
    pub fn load<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Writes it, durably. Blocks on the disk: async callers use a thread for it.
    ///
    /// # Errors
    /// If it cannot be written; what was there is there still.
    pub fn save<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let unfinished = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stella_domain::command::Actor;
    use stella_domain::event::{Event, Fact};
    use stella_protocol::id::AgentId;
    use stella_protocol::time::Timestamp;
    use stella_protocol::trace::TraceContext;
    use uuid::Uuid;

    use super::*;

    fn offline(position: u64, at: u64) -> CommittedEvent {
        let (actor, trace) = (Actor::System, TraceContext::default());
        let fact = Fact::AgentOffline { agent: AgentId(Uuid::from_u128(3)) };
        let event = Arc::new(Event { at: Timestamp(at), actor, trace, fact });
        CommittedEvent {
            stream: StreamId::Tenant(TenantId(Uuid::nil())),
            position: Position(position),
            event,
        }
    }

    #[test]
    fn ids_follow_from_the_event() {
        let id = id_of(&offline(7, 1));
        assert_eq!(id, id_of(&offline(7, 1)));
        assert_eq!(id.len(), ID_DIGITS);
        for other in [offline(8, 1), offline(7, 2)] {
            assert_ne!(id, id_of(&other));
        }
    }

    #[test]
    fn places_are_read_as_they_were_written_and_nonsense_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("event-bus.json"));
        assert_eq!(file.load::<Places>().unwrap(), None);
        let mut places = Places::default();
        let tenant = StreamId::Tenant(TenantId(Uuid::from_u128(7)));
        places.set(tenant, Place { next: Position(9), last: Some("ab".to_owned()) });
        places.set(StreamId::System, Place { next: Position(2), last: None });
        file.save(&places).unwrap();
        let read = file.load::<Places>().unwrap().unwrap();
        assert_eq!((read.of(tenant).next, read.of(StreamId::System).next), (Position(9), Position(2)));
        assert_eq!(read, places);
        assert_eq!(read.of(StreamId::Tenant(TenantId(Uuid::nil()))), Place::default());
        fs::write(file.path(), "{\"system\": 7").unwrap();
        file.load::<Places>().unwrap_err();
    }
}
