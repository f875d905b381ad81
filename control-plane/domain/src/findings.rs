//! What scanners have found in a release. A release is never edited; this is beside it.
//!
//! Each scanner's newest report replaces the one before. What is in it comes from a tool's output, which the API reads; only
//! what a gate counts and a person looks for is kept.

use std::fmt;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::time::Timestamp;

use crate::command::Actor;
use crate::name::Name;
use crate::size;

/// How many findings a report may have: one event holds all of them.
pub const FINDINGS_MAX: usize = 5_000;
/// How many scanners may report on one release.
pub const SCANNERS_MAX: usize = 16;
/// How long the id of a finding may be, in bytes.
pub const FINDING_ID_BYTES_MAX: usize = 128;
/// How long the text that says where a finding is may be, in bytes.
pub const FINDING_COMPONENT_BYTES_MAX: usize = 256;

/// How bad a finding is, in the words that scanners share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The scanner does not say.
    Unknown,
    /// Hardly.
    Low,
    /// Somewhat.
    Medium,
    /// Bad.
    High,
    /// Very bad.
    Critical,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Self; 5] = [Self::Critical, Self::High, Self::Medium, Self::Low, Self::Unknown];

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that a scanner has found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is called, such as `CVE-2026-1234`.
    pub id: String,
    /// Where it is, such as `openssl@3.0.11`. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
}

/// The newest report of one scanner on a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The digest of the document that it was read from.
    pub digest: Digest,
    /// What was found, the worst first, nothing twice.
    pub findings: Vec<Finding>,
    /// When it came.
    pub at: Timestamp,
    /// Who brought it.
    pub by: Actor,
}

impl Report {
    /// How large what was found is, in bytes of JSON.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_of(&self.findings)
    }
}

/// As [`Report::bytes`], of one that is to be.
pub(crate) fn bytes_of(findings: &[Finding]) -> u64 {
    u64::try_from(size::of(&findings)).unwrap_or(u64::MAX)
}

/// The reports on one release, by scanner.
pub type Reports = OrdMap<Name, std::sync::Arc<Report>>;
