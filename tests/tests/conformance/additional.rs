//! The metrics that the product has beyond the operations overview, as data: nothing is there that is not here, and nothing is here that is
//! not there.

/// Whether a metric is there in every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// From the start, or as soon as something has been done.
    Always,
    /// Once something has happened that need not happen.
    Sometimes,
}

use There::{Always, Sometimes};

/// A metric: its name, its type, its labels, whether it is there.
pub(crate) type Metric = (&'static str, &'static str, &'static [&'static str], There);

const AGENT: &[&str] = &["agent", "tenant"];

pub(crate) const METRICS: [Metric; 82] = [
    // The process.
    ("stella_build_info", "gauge", &["version"], Always),
    ("process_cpu_seconds_total", "counter", &[], Always),
    ("process_max_fds", "gauge", &[], Always),
    ("process_open_fds", "gauge", &[], Always),
    ("process_resident_memory_bytes", "gauge", &[], Always),
    ("process_start_time_seconds", "gauge", &[], Always),
    ("process_threads", "gauge", &[], Always),
    ("process_virtual_memory_bytes", "gauge", &[], Always),
    ("process_virtual_memory_max_bytes", "gauge", &[], Always),
    ("stella_parts_failed", "gauge", &["part"], Always),
    ("stella_log_lines_dropped_total", "counter", &["output"], Always),
    ("stella_trace_spans_total", "counter", &["result"], Always),
    ("stella_trace_spans_waiting", "gauge", &["service"], Always),
    ("stella_certificate_expiry_timestamp_seconds", "gauge", &["certificate"], Always),
    ("stella_certificate_renewal_timestamp_seconds", "gauge", &["certificate"], Always),
    ("stella_authority_agents_behind", "gauge", &[], Sometimes),
    // The journal and its disk.
    ("stella_journal_append_duration_seconds", "histogram", &[], Always),
    ("stella_journal_flush_duration_seconds", "histogram", &[], Always),
    ("stella_journal_batch_events", "histogram", &[], Always),
    ("stella_journal_flush_waiting_seconds", "gauge", &[], Always),
    ("stella_journal_commands_waiting", "gauge", &[], Always),
    ("stella_journal_clock_lead_seconds", "gauge", &[], Always),
    ("stella_journal_events", "gauge", &["streams"], Always),
    ("stella_journal_size_bytes", "gauge", &[], Always),
    ("stella_journal_writes_refused", "gauge", &[], Always),
    ("stella_journal_replay_duration_seconds", "gauge", &[], Always),
    ("stella_journal_replayed_events", "gauge", &[], Always),
    ("stella_journal_snapshot_duration_seconds", "gauge", &[], Sometimes),
    ("stella_journal_snapshot_bytes", "gauge", &[], Sometimes),
    ("stella_state_disk_available_bytes", "gauge", &[], Always),
    ("stella_state_disk_size_bytes", "gauge", &[], Always),
    ("stella_state_disk_reserve_bytes", "gauge", &[], Always),
    ("stella_backup_last_success_timestamp_seconds", "gauge", &[], Always),
    ("stella_backup_last_size_bytes", "gauge", &[], Always),
    ("stella_archived", "gauge", &["tenant", "kind"], Always),
    ("stella_archive_failures_total", "counter", &[], Always),
    ("stella_cache_entries", "gauge", &["cache"], Always),
    ("stella_cache_hits_total", "counter", &["cache"], Sometimes),
    ("stella_cache_misses_total", "counter", &["cache"], Sometimes),
    ("stella_artifacts_stored_bytes", "gauge", &[], Always),
    ("stella_artifacts_removed_total", "counter", &[], Sometimes),
    // Requests and sessions.
    ("stella_http_rate_limited_total", "counter", &["limit"], Sometimes),
    ("stella_fleet_sessions", "gauge", &[], Always),
    ("stella_fleet_handshakes_total", "counter", &["result"], Always),
    ("stella_fleet_sessions_ended_total", "counter", &["reason"], Always),
    ("stella_fleet_enrolments_total", "counter", &["result"], Always),
    ("stella_fleet_renewals_total", "counter", &["result"], Always),
    ("stella_fleet_dispatches_total", "counter", &[], Always),
    ("stella_fleet_reports_total", "counter", &["kind"], Always),
    ("stella_fleet_output_bytes_total", "counter", &[], Sometimes),
    ("stella_fleet_artifact_bytes_total", "counter", &[], Sometimes),
    // Agents and their hosts.
    ("stella_agents_enrolled", "gauge", &["tenant"], Always),
    ("stella_agents_draining", "gauge", &["tenant"], Always),
    ("stella_agent_environment", "gauge", &["agent", "tenant", "env"], Always),
    ("stella_agent_load1", "gauge", AGENT, Always),
    ("stella_agent_memory_available_bytes", "gauge", AGENT, Always),
    ("stella_agent_memory_total_bytes", "gauge", AGENT, Always),
    ("stella_agent_disk_available_bytes", "gauge", AGENT, Always),
    ("stella_agent_tasks_running", "gauge", AGENT, Always),
    ("stella_agent_round_trip_seconds", "gauge", AGENT, Always),
    ("stella_agent_packets_sent_total", "counter", AGENT, Always),
    ("stella_agent_packets_lost_total", "counter", AGENT, Always),
    ("stella_agent_certificate_expiry_timestamp_seconds", "gauge", AGENT, Always),
    ("stella_agent_certificate_renewal_timestamp_seconds", "gauge", AGENT, Always),
    // What is done.
    ("stella_targets_quarantined", "gauge", &["tenant", "env"], Always),
    ("stella_deployments_active", "gauge", &["tenant", "env"], Always),
    (
        "stella_deployment_recent_timestamp_seconds",
        "gauge",
        &["tenant", "env", "deployment", "release", "strategy", "status"],
        Always,
    ),
    ("stella_tasks_open", "gauge", &["tenant", "state"], Always),
    ("stella_task_dispatch_duration_seconds", "histogram", &["tenant", "env"], Always),
    ("stella_task_unaccepted_age_seconds", "gauge", &["tenant"], Always),
    ("stella_task_unstarted_age_seconds", "gauge", &["tenant"], Always),
    ("stella_approval_decisions_total", "counter", &["tenant", "env", "user", "decision"], Always),
    ("stella_approval_rejections_total", "counter", &["tenant", "env", "reason"], Always),
    ("stella_gate_evaluations_total", "counter", &["tenant", "env", "gate_type", "result"], Always),
    // Who is told.
    ("stella_event_bus_up", "gauge", &[], Sometimes),
    ("stella_event_bus_events_total", "counter", &["result"], Sometimes),
    ("stella_event_bus_lag_events", "gauge", &[], Sometimes),
    ("stella_event_bus_lag_seconds", "gauge", &[], Sometimes),
    ("stella_event_bus_publish_duration_seconds", "histogram", &[], Sometimes),
    ("stella_notifications_total", "counter", &["receiver", "result"], Sometimes),
    ("stella_notifications_open", "gauge", &["receiver"], Sometimes),
    ("stella_notifications_late", "gauge", &["receiver"], Sometimes),
];
