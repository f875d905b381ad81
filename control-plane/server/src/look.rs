//! How a running control plane is, in its own words: for the doctor and for bundles, asked by the socket in the state folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use stella_api::Render;
use stella_api_types::time::rfc3339;
use stella_domain::agent::Connectivity;
use stella_domain::deployment::Deployment;
use stella_domain::tenant::TenantState;
use stella_engine::{Checkpoint, Handle};
use stella_journal::Stream;

use crate::authority::{Report, connectivity};
use crate::local;

/// How many tenants are described, how many of each one's newest deployments, and how many of its agents that are away.
const TENANTS_MAX: usize = 500;
const DEPLOYMENTS_MAX: usize = 20;
const AWAY_MAX: usize = 100;
/// The longest description that is read, in bytes.
const LOOK_BYTES_MAX: u64 = 64 << 20;
/// How much of the figures is read, in bytes: more than a bundle takes.
const METRICS_BYTES_MAX: u64 = 16 << 20;

/// Where a control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The API.
    pub(crate) api: SocketAddr,
    /// Prometheus.
    pub(crate) metrics: SocketAddr,
    /// Agents.
    pub(crate) agents: SocketAddr,
}

/// What is needed to describe it.
#[derive(Clone)]
pub(crate) struct View {
    /// Where it listens.
    pub(crate) listening: Listening,
    /// Its figures.
    pub(crate) render: Render,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("listening", &self.listening).finish_non_exhaustive()
    }
}

/// A control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    pub(crate) process: u32,
    pub(crate) version: String,
    pub(crate) listening: Listening,
    pub(crate) journal: Journal,
    pub(crate) authority: Report,
    pub(crate) tenants: Vec<Tenant>,
    /// How many tenants there are beside those.
    pub(crate) tenants_left_out: usize,
}

/// Its journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) incarnation: String,
    pub(crate) epoch: u64,
    pub(crate) last_event_at: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) commands_waiting: usize,
    /// The end of each stream.
    pub(crate) heads: BTreeMap<String, Head>,
}

/// The end of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) events: u64,
    pub(crate) hash: String,
}

/// A tenant, by what there is of it and how that does. Nothing of what people have written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) environments: usize,
    pub(crate) targets: usize,
    pub(crate) releases: usize,
    /// Agents by connectivity, and those that are revoked.
    pub(crate) agents: BTreeMap<String, usize>,
    /// Agents by version.
    pub(crate) versions: BTreeMap<String, usize>,
    /// Those that are not online, as many as are listed.
    pub(crate) away: BTreeMap<String, String>,
    /// Deployments in memory, by status.
    pub(crate) deployments: BTreeMap<String, usize>,
    pub(crate) newest_deployments: Vec<Rollout>,
    /// Tasks in memory, by state.
    pub(crate) tasks: BTreeMap<String, usize>,
    pub(crate) promotions_open: usize,
    pub(crate) runs_active: usize,
}

/// A deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rollout {
    pub(crate) id: String,
    pub(crate) environment: String,
    pub(crate) status: String,
    pub(crate) strategy: String,
    pub(crate) paused: bool,
    pub(crate) targets: usize,
    pub(crate) failed: u32,
    pub(crate) created_at: String,
}

impl Look {
    /// Describes the control plane at this point.
    pub(crate) fn at(point: &Checkpoint, engine: &Handle, listening: Listening, authority: Report) -> Self {
        let tenants = &point.state().tenants;
        let name = |stream: &Stream| match stream {
            Stream::System => "system".to_owned(),
            Stream::Tenant(id) => {
                tenants.get(id).map_or_else(|| stream.to_string(), |tenant| format!("tenant {}", tenant.name))
            }
        };
        let heads = point.heads().iter();
        Self {
            process: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listening,
            journal: Journal {
                incarnation: point.incarnation().to_string(),
                epoch: point.epoch().0,
                last_event_at: rfc3339(point.last_time()),
                bytes: engine.journal_size_bytes(),
                commands_waiting: engine.commands_waiting(),
                heads: heads
                    .map(|(stream, head)| {
                        (name(stream), Head { events: head.next.0, hash: head.hash.to_string() })
                    })
                    .collect(),
            },
            authority,
            tenants: tenants.values().take(TENANTS_MAX).map(|tenant| Tenant::of(tenant)).collect(),
            tenants_left_out: tenants.len().saturating_sub(TENANTS_MAX),
        }
    }
}

impl Tenant {
    fn of(tenant: &TenantState) -> Self {
        let (mut agents, mut versions, mut away) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for agent in tenant.agents.values() {
            let word = if agent.revoked.is_some() { "revoked" } else { connectivity(&agent.connectivity) };
            *agents.entry(word.to_owned()).or_default() += 1;
            if agent.revoked.is_some() {
                continue;
            }
            *versions.entry(agent.version.clone()).or_default() += 1;
            if !matches!(agent.connectivity, Connectivity::Online { .. }) && away.len() < AWAY_MAX {
                away.insert(agent.name.to_string(), word.to_owned());
            }
        }
        let mut deployments = BTreeMap::new();
        for deployment in tenant.deployments.values() {
            *deployments.entry(deployment.status.name().to_owned()).or_default() += 1;
        }
        let mut tasks = BTreeMap::new();
        for task in tenant.tasks.values() {
            *tasks.entry(task.state.name().to_owned()).or_default() += 1;
        }
        // Ids begin with the time.
        let newest = tenant.deployments.values().rev().take(DEPLOYMENTS_MAX);
        Self {
            name: tenant.name.to_string(),
            environments: tenant.environments.len(),
            targets: tenant.targets.len(),
            releases: tenant.releases.len(),
            agents,
            versions,
            away,
            deployments,
            newest_deployments: newest.map(|deployment| Rollout::of(tenant, deployment)).collect(),
            tasks,
            promotions_open: tenant.open_promotions.len(),
            runs_active: tenant.active_runs.len(),
        }
    }
}

impl Rollout {
    fn of(tenant: &TenantState, deployment: &Deployment) -> Self {
        let environment = tenant.environment_name(deployment.environment);
        Self {
            id: deployment.id.to_string(),
            environment: environment.map(ToString::to_string).unwrap_or_default(),
            status: deployment.status.name().to_owned(),
            strategy: deployment.strategy.name().to_owned(),
            paused: deployment.paused.is_some(),
            targets: deployment.targets.len(),
            failed: deployment.counts.failed,
            created_at: rfc3339(deployment.created_at),
        }
    }
}

/// Asks the control plane that runs on this folder; `None` if none does.
///
/// # Errors
/// If it does not answer, or is of another version.
pub(crate) fn ask(state_dir: &Path) -> anyhow::Result<Option<Look>> {
    let Some(answer) = local::call(state_dir, &local::Request::Look)? else { return Ok(None) };
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(answer, LOOK_BYTES_MAX), &mut bytes)?;
    let look = serde_json::from_slice(&bytes);
    look.map(Some).context("the control plane's answer is not understood; is it of another version?")
}

/// The figures of the control plane that runs on this folder; `None` if none does.
///
/// # Errors
/// If it does not answer, or is of another version.
pub(crate) fn figures(state_dir: &Path) -> anyhow::Result<Option<String>> {
    let Some(answer) = local::call(state_dir, &local::Request::Metrics)? else { return Ok(None) };
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(answer, METRICS_BYTES_MAX), &mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
