//! What is so now, for dashboards and alerts: deployments under way and of late, open tasks, how hosts do, disk and certificates.
//! Beyond the operations overview's metrics.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use nix::sys::statvfs::statvfs;
use stella_domain::agent::{Agent, Connectivity};
use stella_domain::archive::Archived;
use stella_domain::deployment::Deployment;
use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_domain::task::TaskState;
use stella_domain::tenant::TenantState;
use stella_engine::Handle;
use stella_fleet::{Life, LiveFigures};
use stella_protocol::time::Timestamp;

use crate::authority::count_behind;
use crate::backup;
use crate::pki::End;

/// How many deployments of a tenant are listed: a screen. Each is a series of its own, so there is an end to it.
const RECENT_DEPLOYMENTS_MAX: usize = 20;

/// What open [`TaskState`]s are called. All of them are there from 0 on.
const OPEN_STATES: [&str; 5] = ["queued", "dispatched", "accepted", "running", "unknown"];

pub(crate) fn describe() {
    describe_gauge!("stella_deployments_active", "Deployments that have not ended");
    describe_gauge!(
        "stella_deployment_recent_timestamp_seconds",
        Unit::Seconds,
        "When each of a tenant's newest 20 deployments was created"
    );
    describe_agents();
    describe_gauge!("stella_journal_size_bytes", Unit::Bytes, "What the journal takes on the disk");
    describe_gauge!(
        "stella_authority_agents_behind",
        "Agents that do not trust the newest root yet, or whose certificate is not of it"
    );
    describe_gauge!("stella_journal_events", "Events in the journal");
    describe_gauge!("stella_journal_commands_waiting", "Commands that wait to be decided");
    describe_gauge!(
        "stella_journal_flush_waiting_seconds",
        Unit::Seconds,
        "How long the durable write that is under way has taken; 0 if none is"
    );
    describe_gauge!(
        "stella_journal_clock_lead_seconds",
        Unit::Seconds,
        "How far the newest event is ahead of this machine's clock; until the clock is there, nothing becomes due"
    );
    describe_gauge!("stella_archived", "What has ended and left memory for the archive");
    describe_gauge!("stella_cache_entries", "Things of the archive that are in memory");
    describe_gauge!("stella_tasks_open", "Tasks that are not settled");
    describe_gauge!(
        "stella_task_unaccepted_age_seconds",
        Unit::Seconds,
        "How long the oldest dispatched task waits for a connected agent to accept it; 0 if none does"
    );
    describe_gauge!(
        "stella_task_unstarted_age_seconds",
        Unit::Seconds,
        "How long the oldest task that an agent has accepted waits to be started; 0 if none does"
    );
    describe_counter!(
        "stella_log_lines_dropped_total",
        "Lines of the log that were dropped, because where they go was too slow"
    );
    describe_disk();
}

fn describe_disk() {
    describe_gauge!("stella_journal_writes_refused", "1 while the disk is too full for writes, else 0");
    describe_gauge!(
        "stella_state_disk_available_bytes",
        Unit::Bytes,
        "Free space where the control plane keeps its state"
    );
    describe_gauge!(
        "stella_backup_last_success_timestamp_seconds",
        Unit::Seconds,
        "When the latest backup that was written to a file and found whole was taken; 0 if there was none"
    );
    describe_gauge!("stella_backup_last_size_bytes", Unit::Bytes, "How large that backup is");
    describe_gauge!("stella_state_disk_size_bytes", Unit::Bytes, "How large that disk is");
}

fn describe_agents() {
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
    describe_counter!(
        "stella_agent_packets_sent_total",
        "Packets that were sent on the agent's connection, from 0 with each connection"
    );
    describe_counter!("stella_agent_packets_lost_total", "Those of them that were lost");
    describe_gauge!(
        "stella_agent_certificate_renewal_timestamp_seconds",
        Unit::Seconds,
        "From when on the agent asks for another certificate"
    );
    describe_gauge!(
        "stella_agent_certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        "When the agent's certificate ends; it cannot come back by itself after that"
    );
}

/// The control plane's certificates, and the one that its API shows.
pub(crate) fn certificates(ends: &[(&'static str, End)]) {
    describe_gauge!(
        "stella_certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        "When a certificate of the control plane ends"
    );
    describe_gauge!(
        "stella_certificate_renewal_timestamp_seconds",
        Unit::Seconds,
        "When a certificate of the control plane should have been replaced"
    );
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    for (name, end) in ends {
        gauge!("stella_certificate_expiry_timestamp_seconds", "certificate" => *name).set(seconds(end.at));
        gauge!("stella_certificate_renewal_timestamp_seconds", "certificate" => *name).set(seconds(end.due));
    }
}

/// Who is behind in a rotation of the authority's root.
pub(crate) fn authority(state: &State) {
    if let Some(behind) = count_behind(state) {
        gauge!("stella_authority_agents_behind").set(f64::from(u32::try_from(behind).unwrap_or(u32::MAX)));
    }
}

/// The control plane's own log.
pub(crate) fn log() {
    for (output, lines) in stella_telemetry::dropped_lines() {
        counter!("stella_log_lines_dropped_total", "output" => output).absolute(lines);
    }
}

/// The control plane's disk.
pub(crate) fn disk(engine: &Handle, state_dir: &Path) {
    gauge!("stella_journal_writes_refused").set(f64::from(u8::from(engine.health().no_space)));
    match statvfs(state_dir) {
        Ok(figures) => {
            let of_blocks = |blocks: u64| bytes(blocks.saturating_mul(figures.fragment_size()));
            gauge!("stella_state_disk_available_bytes").set(of_blocks(figures.blocks_available()));
            gauge!("stella_state_disk_size_bytes").set(of_blocks(figures.blocks()));
        }
        // Without the series an alert on it is silent, so this has to be seen elsewhere.
        Err(errno) => {
            tracing::warn!(error = errno.desc(), "the free space of the state folder cannot be read")
        }
    }
}

/// The latest backup. There is a series without one too: that nothing was ever saved is what an alert is for.
pub(crate) fn backup(state_dir: &Path) {
    match backup::last(state_dir) {
        Ok(last) => {
            let (taken_at, size) = last.map_or((0, 0), |it| (it.taken_at.0, it.bytes));
            gauge!("stella_backup_last_success_timestamp_seconds").set(milliseconds(taken_at) / 1_000.0);
            gauge!("stella_backup_last_size_bytes").set(bytes(size));
        }
        Err(error) => tracing::warn!(%error, "when the latest backup was taken cannot be read"),
    }
}

/// Below which free space the control plane refuses writes. It is what the process was started with, and stays.
pub(crate) fn reserve(reserve_bytes: u64) {
    describe_gauge!(
        "stella_state_disk_reserve_bytes",
        Unit::Bytes,
        "The free space below which writes are refused"
    );
    gauge!("stella_state_disk_reserve_bytes").set(bytes(reserve_bytes));
}

/// How much the journal holds, and what waits to get into it.
pub(crate) fn journal(engine: &Handle) {
    if let Some(size) = engine.journal_size_bytes() {
        gauge!("stella_journal_size_bytes").set(bytes(size));
    }
    let (mut of_system, mut of_tenants) = (0, 0);
    for (stream, head) in engine.heads() {
        match stream {
            StreamId::System => of_system += head.0,
            StreamId::Tenant(_) => of_tenants += head.0,
        }
    }
    gauge!("stella_journal_events", "streams" => "system").set(bytes(of_system));
    gauge!("stella_journal_events", "streams" => "tenants").set(bytes(of_tenants));
    let waiting = u64::try_from(engine.commands_waiting()).unwrap_or(u64::MAX);
    gauge!("stella_journal_commands_waiting").set(bytes(waiting));
    let flushing = engine.health().flushing.unwrap_or_default();
    gauge!("stella_journal_flush_waiting_seconds").set(flushing.as_secs_f64());
    gauge!("stella_journal_clock_lead_seconds").set(engine.clock_lead().as_secs_f64());
}

/// What is in the archive, and what of it is in memory because it was looked at of late.
pub(crate) fn archive(engine: &Handle, state: &State) {
    for (cache, entries) in engine.archive().cached() {
        gauge!("stella_cache_entries", "cache" => cache).set(bytes(entries));
    }
    for tenant in state.tenants.values() {
        let Archived { deployments, promotions, runs } = tenant.archived;
        for (kind, count) in [("deployments", deployments), ("promotions", promotions), ("runs", runs)] {
            gauge!("stella_archived", "tenant" => tenant.name.to_string(), "kind" => kind).set(bytes(count));
        }
    }
}

/// A tenant's open tasks, how long the oldest that was sent to a connected agent is without an answer, and how long the oldest that was
/// accepted is not started.
pub(crate) fn tasks(tenant: &TenantState, now: Timestamp) {
    let mut open: BTreeMap<_, u32> = OPEN_STATES.into_iter().map(|state| (state, 0)).collect();
    let (mut oldest, mut unstarted) = (now, now);
    for agent in tenant.unsettled.keys() {
        let is_online = tenant
            .agents
            .get(agent)
            .is_some_and(|agent| matches!(agent.connectivity, Connectivity::Online { .. }));
        for task in tenant.unsettled_tasks(*agent) {
            *open.entry(task.state.name()).or_default() += 1;
            if let TaskState::Dispatched { at, .. } = &task.state
                && is_online
            {
                oldest = oldest.min(*at);
            }
            if let TaskState::Accepted { at } = &task.state {
                unstarted = unstarted.min(*at);
            }
        }
    }
    for (state, count) in open {
        gauge!("stella_tasks_open", "tenant" => tenant.name.to_string(), "state" => state)
            .set(f64::from(count));
    }
    gauge!("stella_task_unaccepted_age_seconds", "tenant" => tenant.name.to_string())
        .set(now.since(oldest).as_secs_f64());
    gauge!("stella_task_unstarted_age_seconds", "tenant" => tenant.name.to_string())
        .set(now.since(unstarted).as_secs_f64());
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
    let environment = tenant.environment_name(deployment.environment);
    let release = tenant.recipe(deployment.release);
    let labels = [
        ("tenant", tenant.name.to_string()),
        ("env", environment.map(ToString::to_string).unwrap_or_default()),
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
    counter!("stella_agent_packets_sent_total", &labels).absolute(live.packets_sent);
    counter!("stella_agent_packets_lost_total", &labels).absolute(live.packets_lost);
}

/// When an agent's certificate has to be renewed, and when it ends. It is told of agents that are away too: theirs end as well.
pub(crate) fn certificate(tenant: &TenantState, agent: &Agent, life: Life) {
    let labels = [("agent", agent.name.to_string()), ("tenant", tenant.name.to_string())];
    let Life { renew_at, ends } = life;
    gauge!("stella_agent_certificate_renewal_timestamp_seconds", &labels)
        .set(milliseconds(renew_at.0) / 1_000.0);
    gauge!("stella_agent_certificate_expiry_timestamp_seconds", &labels).set(milliseconds(ends.0) / 1_000.0);
}

#[expect(clippy::cast_precision_loss, reason = "a dashboard shows three digits of it")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53 for 285,000 years")]
const fn milliseconds(since_1970: u64) -> f64 {
    since_1970 as f64
}
