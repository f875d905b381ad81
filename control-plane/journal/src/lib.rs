//! The journal: the control plane's system of record, behind a port.
//!
//! A journal is a set of streams: one for each tenant and one for the system. A stream is an ordered run of events;
//! an event is bytes here (the engine knows what they mean) and its position counts from 0. One append writes events
//! of several streams atomically, with one barrier, and returns when they are durable.
//!
//! Every record carries a checksum and the hash of the record before it, so damage is found and never read as data.
//! What is damaged is refused with the stream, the position and the way out; nothing is guessed or cut off silently.
//!
//! Reading order: [`port`] (what a journal does), [`record`] (the bytes), [`SledJournal`] (the embedded backend),
//! [`verify()`], [`export()`] and [`import()`] (tools for a journal that nobody has open).
//!
//! Why not one stream: a tenant can move to a leader of its own later, and positions of tenants must not tell one
//! tenant how busy the others are.

mod acknowledged;
mod archive;
mod export;
mod import;
mod open;
pub mod port;
pub mod record;
mod scan;
mod sled_journal;
mod snapshot;
mod storage;
mod transfer;
mod verify;

pub use export::{Coverage, ExportError, ExportSummary, MissingEvents, export, export_open};
pub use import::{ImportError, ImportSummary, Until, import, time_of, version_of};
pub use port::{
    APPEND_BYTES_MAX, Append, AppendError, Archive, ArchiveRecord, Damage, EVENT_BYTES_MAX, Entry, Head,
    Journal, Mark, OpenError, Problem, ReadError, Shelf, Snapshot, SnapshotError, StorageError, Stream,
};
pub use sled_journal::SledJournal;
pub use stella_durable::StoreConfig as JournalConfig;
pub use verify::{PROBLEMS_MAX, Report, StreamReport, verify};
