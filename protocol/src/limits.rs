//! Every bound of the protocol, with its reason. Both ends enforce them before they allocate.

use crate::trace::{Baggage, TraceState};

/// The largest control frame, in bytes. The largest honest one is a dispatch with a full command (argv and environment).
pub const FRAME_BYTES_MAX: usize = 256 * 1024;

/// The largest piece of task output in one frame, in bytes: small enough to interleave, large enough to be cheap.
pub const OUTPUT_CHUNK_BYTES_MAX: usize = 32 * 1024;

/// How many attempts an agent may have open or unacknowledged at once. Beyond it, it refuses dispatches.
pub const OPEN_ATTEMPTS_MAX: usize = 256;

/// The largest certificate signing request, in bytes. A P-256 request has about 300.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// The largest certificate chain that is sent to an agent, in bytes.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// The longest text that an agent may send for a person to read (a failure's reason), in bytes.
pub const REASON_BYTES_MAX: usize = 2 * 1024;

/// How many acknowledgements fit in one frame.
pub const ACKNOWLEDGEMENTS_MAX: usize = 1024;

/// The time between two heartbeats, in milliseconds, unless the control plane says otherwise in its welcome.
pub const HEARTBEAT_INTERVAL_MS: u64 = 5_000;

/// How long one end waits for the other's hello or welcome, in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;

/// After this many silent heartbeat intervals a session is dead.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;

/// The largest first frame of an agent without an identity, in bytes: nobody unknown may make the control plane hold more.
pub const ENROL_REQUEST_BYTES_MAX: usize = 16 * 1024;

/// How many unsent bytes a session keeps for its transport: room to report every open attempt after a reconnect.
pub const OUTGOING_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;

/// The shortest and the longest heartbeat interval that a welcome may ask for, in milliseconds: neither a flood nor a silence.
pub const HEARTBEAT_INTERVAL_MS_RANGE: (u64, u64) = (10, 300_000);

/// The longest time that a task, a pause or a grace may ask for, in milliseconds: 7 days. It also keeps sums of times far from overflow.
pub const TASK_TIME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;

/// The longest version text (of an agent, of a release), in bytes.
pub const VERSION_BYTES_MAX: usize = 128;

/// The longest name (host, target, component, unit, user), in bytes: what a file name may have.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest path, URL or address, in bytes: what a path may have.
pub const PATH_BYTES_MAX: usize = 4096;

/// How many arguments a command may have, the program included; also how many variables.
pub const ARGUMENTS_MAX: usize = 1024;

/// How many bytes a command's arguments and variables may have together: less than a frame, and far less than what `execve` takes.
pub const COMMAND_BYTES_MAX: usize = 192 * 1024;

/// How many artifacts one question about what a host holds may name: as many as a release has steps.
pub const HOLDINGS_MAX: usize = 64;

/// How many questions about what the host holds an agent keeps waiting: more than targets that one host has.
pub const QUESTIONS_MAX: usize = 256;

/// The longest time that looking at what a host holds may take, in milliseconds: an hour. It reads every byte that it vouches for.
pub const INSPECT_TIME_MS_MAX: u64 = 60 * 60 * 1000;

/// How many bytes may travel with a trace: 8,192 of baggage and 512 of what other tracing systems say.
pub const TRACE_BYTES_MAX: usize = Baggage::BYTES_MAX + TraceState::BYTES_MAX;

/// How many certificates a chain or a set of roots may have.
pub const CERTIFICATES_MAX: usize = 16;

const _: () = assert!(OUTPUT_CHUNK_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(CHAIN_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(2 * CHAIN_BYTES_MAX < FRAME_BYTES_MAX, "a chain and the roots travel in one frame");
const _: () = assert!(
    COMMAND_BYTES_MAX + 4 * 5 * ARGUMENTS_MAX + 8 * PATH_BYTES_MAX + TRACE_BYTES_MAX < FRAME_BYTES_MAX,
    "a full command fits a frame, with all that travels with its trace"
);
const _: () = assert!(
    HOLDINGS_MAX * (NAME_BYTES_MAX + VERSION_BYTES_MAX + 64) + NAME_BYTES_MAX + 64 < FRAME_BYTES_MAX,
    "a full question fits a frame"
);
const _: () =
    assert!(HOLDINGS_MAX * (REASON_BYTES_MAX + 16) + 64 < FRAME_BYTES_MAX, "a full answer fits a frame");
const _: () = assert!(CSR_BYTES_MAX + NAME_BYTES_MAX + VERSION_BYTES_MAX + 128 < ENROL_REQUEST_BYTES_MAX);
