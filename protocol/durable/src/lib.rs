//! What "durable" means in this product, in one place.
//!
//! sled 0.34's `flush()` ends in `sync_file_range` on Linux: the pages have left for the disk, but neither the disk's
//! write cache nor the file's metadata is covered, so a power cut can lose what was "flushed". Its `flush_async` hangs
//! under concurrent callers. So a write is durable here after `flush()` **and** `fdatasync` of sled's own files. Both
//! calls are made by [`Store::barrier`] and nowhere else; clippy bans them in the rest of the workspace.
//!
//! Reading order: [`Store`] (a directory, its trees, the barrier), [`Flusher`] (one barrier for many waiting writers),
//! [`Error`] (which failures end the process and which do not).
//!
//! Why not a barrier on a timer: an answer must not leave before its write is safe, and waiting for a timer would make
//! every answer as slow as the timer.

mod error;
mod files;
mod flusher;
mod space;
mod store;

pub use error::Error;
pub use flusher::{Flusher, FlusherHandle, GROUP_MAX, QUEUE_MAX};
pub use sled::{Batch, IVec};
pub use store::{Pairs, Sequence, Store, StoreConfig, Tree};
