//! What is so now, for dashboards: deployments under way and of late, and how hosts do. Beyond the operations overview's metrics,
//! whose panels ask for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use metrics::{Unit, describe_gauge, gauge};
use stella_domain::agent::Agent;
use stella_domain::deployment::Deployment;
use stella_domain::tenant::TenantState;
use stella_fleet::LiveFigures;

/// How many deployments of a tenant are listed: a screen. Each is a series of its own, so there is an end to it.
const RECENT_DEPLOYMENTS_MAX: usize = 20;

pub(crate) fn describe() {
    describe_gauge!("stella_deployments_active", "Deployments that have not ended");
    describe_gauge!(
        "stella_deployment_recent_timestamp_seconds",
        Unit::Seconds,
        "When each of a tenant's newest 20 deployments was created"
    );
    describe_gauge!("stella_agent_load1", "The host's load average of the last minute");
    describe_gauge!(
        "stella_agent_memory_available_bytes",
        Unit::Bytes,
        "The host's memory that is free for use"
    );
    describe_gauge!("stella_agent_memory_total_bytes", Unit::Bytes, "The host's memory in all");
    describe_gauge!(
        "stella_agent_disk_available_bytes",
        Unit::Bytes,
        "Free space where the agent's host root is"
    );
    describe_gauge!("stella_agent_tasks_running", "Tasks that the agent runs now");
    describe_gauge!(
        "stella_agent_round_trip_seconds",
        Unit::Seconds,
        "The round trip to the agent, as its connection has it"
    );
}

/// A tenant's deployments: how many are under way in each environment, and the newest.
pub(crate) fn deployments(tenant: &TenantState) {
    let mut active: BTreeMap<_, u32> =
        tenant.environments.keys().map(|environment| (*environment, 0)).collect();
    for deployment in tenant.active_deployments.iter().filter_map(|id| tenant.deployments.get(id)) {
        *active.entry(deployment.environment).or_default() += 1;
    }
    for (environment, count) in active {
        let environment =
            tenant.environments.get(&environment).map(|it| it.name.to_string()).unwrap_or_default();
        gauge!("stella_deployments_active", "tenant" => tenant.name.to_string(), "env" => environment)
            .set(f64::from(count));
    }
    for deployment in newest(tenant) {
        list(tenant, deployment);
    }
}

/// The newest deployments, newest first.
fn newest(tenant: &TenantState) -> Vec<&Deployment> {
    let mut newest: Vec<&Deployment> = Vec::with_capacity(RECENT_DEPLOYMENTS_MAX + 1);
    for deployment in tenant.deployments.values() {
        let key = |it: &Deployment| Reverse((it.created_at, it.id));
        let at = newest.partition_point(|other| key(other) < key(deployment));
        if at < RECENT_DEPLOYMENTS_MAX {
            newest.insert(at, deployment);
            newest.truncate(RECENT_DEPLOYMENTS_MAX);
        }
    }
    newest
}

fn list(tenant: &TenantState, deployment: &Deployment) {
    let environment = tenant.environments.get(&deployment.environment);
    let release = tenant.releases.get(&deployment.release);
    let labels = [
        ("tenant", tenant.name.to_string()),
        ("env", environment.map(|it| it.name.to_string()).unwrap_or_default()),
        ("deployment", deployment.id.to_string()),
        ("release", release.map(|it| format!("{}:{}", it.application, it.version)).unwrap_or_default()),
        ("strategy", deployment.strategy.name().to_owned()),
        ("status", deployment.status.name().to_owned()),
    ];
    gauge!("stella_deployment_recent_timestamp_seconds", &labels)
        .set(milliseconds(deployment.created_at.0) / 1_000.0);
}

/// How an agent's host did at its last heartbeat.
pub(crate) fn host(tenant: &TenantState, agent: &Agent, live: &LiveFigures) {
    let labels = [("agent", agent.name.to_string()), ("tenant", tenant.name.to_string())];
    let resources = &live.resources;
    gauge!("stella_agent_load1", &labels).set(f64::from(resources.load_1m));
    gauge!("stella_agent_memory_available_bytes", &labels).set(bytes(resources.memory_available_bytes));
    gauge!("stella_agent_memory_total_bytes", &labels).set(bytes(resources.memory_total_bytes));
    gauge!("stella_agent_disk_available_bytes", &labels).set(bytes(resources.disk_available_bytes));
    gauge!("stella_agent_tasks_running", &labels).set(f64::from(resources.tasks_running));
    gauge!("stella_agent_round_trip_seconds", &labels).set(live.rtt.as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "a dashboard shows three digits of it")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53 for 285,000 years")]
const fn milliseconds(since_1970: u64) -> f64 {
    since_1970 as f64
}
