//! The agent of a host: it runs what the control plane dispatches, within a host root, and tells how it ended.
//!
//! Reading order: [`host`] (where tasks may write), [`executor`] (what each kind of task does), [`supervisor`] (how a
//! command outlives the agent without its end being lost), [`output`] and [`cancel`] (what goes out of a running task,
//! and what may come in).
//!
//! Around that: [`journal`] (what the agent has promised), [`inbox`] and [`runner`] (what becomes of a dispatch),
//! [`session`] (the talk with the control plane), [`identity`], [`enrol`] and [`profile`] (who it is, and for how much), [`service`] (all of it), [`cli`].
//!
//! Beside that: `doctor` (why it does not work) and `support` (what is sent to who helps).

pub mod cancel;
pub mod cli;
pub mod config;
mod doctor;
pub mod enrol;
pub mod executor;
pub mod host;
pub mod identity;
pub mod inbox;
pub mod journal;
pub mod metrics;
pub mod observers;
pub mod output;
pub mod policy;
pub mod profile;
pub mod progress;
pub mod reload;
pub mod report;
pub mod resources;
pub mod retry;
pub mod runner;
pub mod service;
pub mod session;
pub mod spans;
pub mod supervisor;
mod support;
pub mod tuning;
