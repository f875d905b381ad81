//! Every command runs under a small supervisor process of its own, so that its end is not lost when the agent's is.
//!
//! ```text
//! agent ── stdin: orders ──▶ stella-agent supervise ──▶ the command (own process group)
//!       ◀─ stdout: frames ──      │ subreaper, own session  └─▶ its children, wherever they fled to
//!       ── SIGTERM ──────▶        └─ writes `record` (started, spawned, ended) and `output` into the attempt folder
//! ```
//!
//! - While a command runs, its supervisor serves no other one: what happens to a supervisor concerns one command. When
//!   nothing of the command is left, its end is on disk and nobody has asked to end it, the supervisor waits for the next
//!   attempt (see `pool`), because to start one costs more than all that it does. Otherwise it leaves.
//! - The start is on disk before the command is started, and an attempt folder that exists is never given to a supervisor
//!   again: a command runs at most once, whatever crashes. Who will supervise is written down before a supervisor hears of
//!   the attempt, so that a restarted agent can end that process before it says that nothing was started.
//! - The specification goes through a pipe and never touches the disk, because its environment may hold secrets.
//! - A time-out holds without the agent: the supervisor has a deadline of its own on the monotonic clock.
//! - On TERM, the whole tree ends: TERM, grace, then KILL until nothing is left. The supervisor is a subreaper, so a
//!   process that left its group or session is still found by walking its parents.
//! - A command that ends by itself may leave processes behind on purpose (a start script and its daemon): they are left
//!   alone, and must not write to the command's output any more, since nobody reads it.
//! - The agent's own unit has to leave supervisors alone when it stops (`KillMode=process`).
//!
//! Why not threads or tasks of the agent: they end with it. Why not control groups alone: they need delegation, which a host
//! without systemd does not have; where they are, they are used beside this (see `group`).

pub mod child;
mod frame;
mod group;
mod pool;
mod process;
mod record;
mod recover;
mod run;
mod spec;

pub use frame::{SPOOL_BYTES_MAX, spooled};
pub use group::{Groups, Limits, Unavailable};
pub use pool::restore_names;
pub use recover::{Recovered, give_up, processes_of, recover};
pub use run::{StartError, Supervised, Supervisor};
pub use spec::{GRACE_DEFAULT, SPEC_BYTES_MAX, Spec};

/// The agent's first argument when it is started as a supervisor.
pub const VERB: &str = "supervise";

/// The environment variable by which the processes of an attempt are found again: `<task>#<attempt>`.
pub const MARKER: &str = "STELLA_ATTEMPT_KEY";

/// What a supervisor has in its own environment, and a command that was forked and not yet started still has.
const SUPERVISOR_VARIABLE: &str = "STELLA_SUPERVISOR";
const SUPERVISOR_MARKER: &str = "STELLA_SUPERVISOR=1";
