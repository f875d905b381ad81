//! Every bound of the protocol, with its reason. Both ends enforce them before they allocate.

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

const _: () = assert!(OUTPUT_CHUNK_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(CHAIN_BYTES_MAX < FRAME_BYTES_MAX);
