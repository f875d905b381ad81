//! Journals for tests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::path::Path;

use stella_durable::{Batch, Store, StoreConfig};
use stella_journal::{Append, Entry, Head, Journal, JournalConfig, SledJournal, Stream};
use stella_protocol::id::{Epoch, Position, TenantId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

pub const CONFIG: JournalConfig = StoreConfig { cache_bytes: 16 << 20, reserve_bytes: 0 };

pub const fn tenant(number: u128) -> Stream {
    Stream::Tenant(TenantId(Uuid::from_u128(number)))
}

/// Opens the journal as its leader.
pub fn lead(dir: &Path) -> SledJournal {
    let journal = SledJournal::open(dir, CONFIG).expect("the journal is whole");
    journal.begin_epoch().expect("there is space");
    journal
}

pub fn append_one(journal: &SledJournal, stream: Stream, events: &[&str]) -> Head {
    append_bytes(journal, stream, events.iter().map(|event| event.as_bytes().to_vec()).collect())
}

/// Appends at the end of the stream, one millisecond after the newest event.
pub fn append_bytes(journal: &SledJournal, stream: Stream, events: Vec<Vec<u8>>) -> Head {
    let expected = journal.heads().get(&stream).map(|head| head.next).unwrap_or_default();
    let at = journal.last_time().plus_ms(1);
    let appends = [Append { stream, expected, events }];
    journal.append(journal.epoch(), at, &appends).expect("the append is in order")[0]
}

pub fn read_all(journal: &SledJournal, stream: Stream) -> Vec<Entry> {
    journal.read(stream, Position(0), usize::MAX).expect("the stream is whole")
}

pub fn entry(position: u64, at: u64, payload: &[u8]) -> Entry {
    Entry { position: Position(position), at: Timestamp(at), epoch: Epoch(1), payload: payload.to_vec() }
}

/// Changes stored pairs behind the journal's back. `change` gets each pair and says what becomes of its value.
pub fn tamper(dir: &Path, tree: &str, change: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) {
    let store = Store::open(dir, CONFIG).expect("nobody has it open");
    let tree = store.tree(tree).expect("the tree is there");
    let mut batch = Batch::default();
    for pair in tree.scan_prefix([]) {
        let (key, value) = pair.expect("it is readable");
        match change(&key, &value) {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    store.apply(&tree, batch).expect("it is writable");
    store.barrier().expect("the disk works");
}

/// The key of the record of a stream that starts at a position, from the documented layout.
pub fn record_key(stream: Stream, first: u64) -> Vec<u8> {
    let mut key = vec![2];
    match stream {
        Stream::System => key.push(0),
        Stream::Tenant(tenant) => {
            key.push(1);
            key.extend(tenant.0.as_bytes());
        }
    }
    key.extend(first.to_be_bytes());
    key
}
