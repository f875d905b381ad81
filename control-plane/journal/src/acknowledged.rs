//! How many events were acknowledged, remembered outside the storage engine.
//!
//! sled recovers from a damaged log by going back to what it can read, without a word; that is right for a write that
//! was cut off and wrong for events that were acknowledged. The file `acknowledged` beside sled's files holds their
//! number (version, incarnation, count, checksum), written after each barrier and without one: it may be behind after
//! a power cut, never ahead. A journal that has fewer events than it says has lost some.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use stella_protocol::id::Incarnation;

use crate::port::Problem;
use crate::record::{Fields, VERSION, seal};

const FILE_NAME: &str = "acknowledged";

/// The open file of a journal in use.
#[derive(Debug)]
pub(crate) struct AcknowledgedFile {
    file: File,
    incarnation: Incarnation,
}

impl AcknowledgedFile {
    pub(crate) fn open(dir: &Path, incarnation: Incarnation) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).write(true).truncate(false).mode(0o600).open(dir.join(FILE_NAME))?;
        Ok(Self { file, incarnation })
    }

    /// Remembers the number of durable events. The events are safe without it, so trouble with it is only reported.
    pub(crate) fn remember(&self, events: u64) {
        let mut bytes = vec![VERSION];
        bytes.extend(self.incarnation.0.as_bytes());
        bytes.extend(events.to_be_bytes());
        if let Err(error) = self.file.write_all_at(&seal(bytes), 0) {
            tracing::warn!(error = %error, "the number of acknowledged events could not be noted");
        }
    }
}

/// How many events were acknowledged in this directory, as far as is known. Zero if nothing is known.
///
/// The incarnation is only for people: a directory has one life, so a note of another one is as good a witness.
pub(crate) fn acknowledged_events(dir: &Path) -> io::Result<u64> {
    let bytes = match std::fs::read(dir.join(FILE_NAME)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    // A power cut can leave it empty or half written: it has no barrier.
    Ok(decode(&bytes).unwrap_or_else(|problem| {
        tracing::warn!(problem = %problem, "the note of acknowledged events is unreadable; going on without it");
        0
    }))
}

fn decode(bytes: &[u8]) -> Result<u64, Problem> {
    let mut fields = Fields::open(bytes)?;
    let _incarnation: [u8; 16] = fields.array()?;
    let events = fields.u64()?;
    fields.end()?;
    Ok(events)
}
