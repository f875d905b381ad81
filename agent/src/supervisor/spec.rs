//! What the agent tells a supervisor: the command at its start, and how to stop it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stella_protocol::id::AttemptKey;

/// The largest encoded specification, in bytes: twice the largest control frame, which it comes from.
pub const SPEC_BYTES_MAX: usize = 512 * 1024;

/// The time between TERM and KILL if nobody said otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);

const STOP_FILE: &str = "stop";

/// A command for a supervisor.
#[derive(Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Whose command it is.
    pub key: AttemptKey,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// Absolute.
    pub working_directory: PathBuf,
    /// The user to run as; `None` is the agent's own.
    pub user: Option<String>,
    /// From the start until the tree is told to end.
    pub timeout: Duration,
    /// The time between TERM and KILL after a time-out.
    pub grace: Duration,
    /// Whether it is one look of a check, of which there are many: what it used is told to nobody who has not asked.
    pub is_probe: bool,
}

/// Arguments and environment may hold secrets.
impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("key", &self.key)
            .field("program", &self.argv.first())
            .finish_non_exhaustive()
    }
}

/// The bytes for a supervisor's standard input: a length (`u32`, little-endian), then the attempt's folder and its
/// specification. `None` if they are too many.
pub(super) fn encode_order(attempt_dir: &Path, spec: &Spec) -> Option<Vec<u8>> {
    let order = bincode::serde::encode_to_vec((attempt_dir, spec), bincode::config::standard()).ok()?;
    let length = u32::try_from(order.len()).ok().filter(|_| order.len() <= SPEC_BYTES_MAX)?;
    Some([&length.to_le_bytes(), order.as_slice()].concat())
}

/// Waits for the next order. `None` without a whole one: the agent wants no more, or has died while it wrote it.
pub(super) fn read_order(from: &mut impl Read) -> Option<(PathBuf, Spec)> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let length =
        usize::try_from(u32::from_le_bytes(length)).ok().filter(|length| *length <= SPEC_BYTES_MAX)?;
    let mut order = vec![0; length];
    from.read_exact(&mut order).ok()?;
    let config = bincode::config::standard().with_limit::<SPEC_BYTES_MAX>();
    let (decoded, read) = bincode::serde::decode_from_slice(&order, config).ok()?;
    (read == length).then_some(decoded)
}

/// Why a supervisor ended the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StopReason {
    /// The time was up.
    TimedOut,
    /// The agent was asked to cancel.
    Cancelled,
    /// The agent came back and found it running.
    AgentRestarted,
    /// A TERM that the agent did not announce, for example at the host's shutdown.
    Terminated,
}

/// What a TERM means. Written beside the record before the signal is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stop {
    /// Why.
    pub(super) reason: StopReason,
    /// The time between TERM and KILL.
    pub(super) grace: Duration,
}

impl Stop {
    /// Leaves the request in the attempt's folder; whoever reads sees all of it or nothing.
    pub(super) fn write(self, attempt_dir: &Path) -> io::Result<()> {
        let temporary = attempt_dir.join("stop.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(&self)?)?;
        fs::rename(temporary, attempt_dir.join(STOP_FILE))
    }

    /// The request in the attempt's folder, if there is one.
    pub(super) fn read(attempt_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(attempt_dir.join(STOP_FILE)).ok()?).ok()
    }
}
