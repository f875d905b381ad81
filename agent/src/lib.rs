//! The agent of a host: it runs what the control plane dispatches, within a host root, and tells how it ended.
//!
//! Reading order: [`host`] (where tasks may write), [`executor`] (what each kind of task does), [`supervisor`] (how a
//! command outlives the agent without its end being lost), [`output`] and [`cancel`] (what goes out of a running task,
//! and what may come in).

pub mod cancel;
pub mod executor;
pub mod host;
pub mod output;
pub mod supervisor;
