//! What is wrong here and what to do about it, said alike by all three programs, and what of it is sent to support.
//!
//! This crate knows hosts: files and their modes, free space, clocks, units of systemd. What only a program knows (its
//! configuration, its certificates, its journal, whom it talks to) that program looks at itself, and tells it by
//! [`Findings`]. Nothing here changes the host, and nothing here opens a database: a check must be safe beside the service
//! that it looks at.
//!
//! Reading order: [`Findings`] (what was found), [`host`] and [mod@unit] (what is looked at), [`Bundle`] (what is sent), [`Mask`]
//! (what never is), [`run()`] (programs of the host, with a deadline).

mod bundle;
mod facts;
pub mod host;
mod mask;
mod open;
mod report;
mod run;
mod told;
pub mod unit;

pub use bundle::{BUNDLE_BYTES_MAX, Bundle, Keep, MEMBER_BYTES_MAX, Manifest};
pub use mask::Mask;
pub use open::{CERTIFICATES_BYTES_MAX, open_configured, open_regular, read_all};
pub use report::{Check, Findings, Verdict};
pub use run::{Ran, run};
