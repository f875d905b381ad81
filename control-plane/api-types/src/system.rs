//! The installation itself: what it is and how it does.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the installation is and how much it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct System {
    /// The software's version.
    pub version: String,
    /// The random name of this life of the journal. A restored or wiped journal has another one.
    pub journal_incarnation: String,
    /// Seconds since the start.
    pub uptime: u64,
    /// Where agents connect to: `host:port` (UDP).
    pub agent_address: String,
    /// SHA-256 of the root certificate that agents pin.
    pub root_fingerprint: String,
    /// The root certificates to trust, in PEM: two while one is being replaced by the other.
    #[serde(default)]
    pub roots_pem: String,
    /// How far such a rotation is: `distributing` or `switched`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_rotation: Option<String>,
    /// How much of what there is.
    pub counts: SystemCounts,
}

/// How much the control plane logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLevel {
    /// The level or filter that holds now.
    pub level: String,
    /// The one that is configured: it holds again after the next start.
    pub configured: String,
}

/// Another level, until the control plane is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `info,stella_fleet=debug`.
    pub level: String,
}

/// How much of what there is, in all tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SystemCounts {
    /// Tenants.
    pub tenants: u64,
    /// Environments.
    pub environments: u64,
    /// Targets.
    pub targets: u64,
    /// Agents that are not revoked.
    pub agents: u64,
    /// Agents with a live session.
    pub agents_online: u64,
    /// Releases.
    pub releases: u64,
    /// Deployments that are not final.
    pub active_deployments: u64,
    /// Promotions that wait for approvals, gates or anything else.
    #[serde(default)]
    pub waiting_promotions: u64,
    /// All deployments.
    pub deployments: u64,
    /// Tasks that are not final.
    pub open_tasks: u64,
}

/// How the control plane does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// The software's version.
    pub version: String,
    /// Seconds since the start.
    pub uptime: u64,
    /// What was looked at.
    pub checks: Checks,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checks {
    /// The journal.
    pub database: Check,
    /// The shared cache, if one is configured.
    pub redis: Check,
    /// The secret store, if one is configured.
    pub vault: Check,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `healthy`, `unhealthy` or `disabled`.
    pub status: String,
    /// How long it took to answer, in milliseconds. For the journal: its latest flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<u64>,
    /// What is wrong and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A bare yes or no, for the probes of an orchestrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// `ready`, `not_ready` or `alive`.
    pub status: String,
}
