//! What the figures are that are recorded where something happens, in words: all of them in one place, because several parts of the control
//! plane record some.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use crate::measured::REQUESTS;

/// Describes them to the recorder of the process.
pub(crate) fn describe() {
    describe_counter!("stella_http_requests_total", "HTTP requests");
    describe_histogram!(REQUESTS.name, Unit::Seconds, "Request latency");
    describe_gauge!("stella_http_requests_in_flight", "Active requests");
    describe_counter!(
        "stella_http_rate_limited_total",
        "Requests and connections that were sent away, by the limit that they were above"
    );
    describe_gauge!(
        "stella_parts_failed",
        "1 for a part of the control plane that has panicked; the others go on without it"
    );
    describe_counter!("stella_cache_hits_total", "How often a thing of the archive was in memory still");
    describe_counter!(
        "stella_cache_misses_total",
        "How often a thing of the archive was looked for on the disk"
    );
    journal();
    fleet();
}

fn journal() {
    describe_histogram!(
        "stella_journal_append_duration_seconds",
        Unit::Seconds,
        "How long a durable write took, the flush to the disk included"
    );
    describe_histogram!(
        "stella_journal_flush_duration_seconds",
        Unit::Seconds,
        "How much of it the flush to the disk took"
    );
    describe_histogram!("stella_journal_batch_events", "How many events shared a durable write");
    describe_gauge!(
        "stella_journal_replay_duration_seconds",
        Unit::Seconds,
        "How long the replay at the start took, the snapshot's loading included"
    );
    describe_gauge!("stella_journal_replayed_events", "How many events were replayed at the start");
    describe_gauge!(
        "stella_journal_snapshot_duration_seconds",
        Unit::Seconds,
        "How long the latest snapshot took"
    );
    describe_gauge!("stella_journal_snapshot_bytes", Unit::Bytes, "How large the latest snapshot is");
}

fn fleet() {
    describe_gauge!("stella_fleet_sessions", "Connections with agents");
    describe_counter!("stella_fleet_handshakes_total", "Handshakes with agents, by result");
    describe_counter!("stella_fleet_sessions_ended_total", "Connections with agents that ended, by reason");
    describe_counter!("stella_fleet_enrolments_total", "Enrolments of agents, by result");
    describe_counter!("stella_fleet_renewals_total", "Renewals of agents' certificates, by result");
    describe_counter!("stella_fleet_dispatches_total", "Tasks that were sent to agents");
    describe_counter!("stella_fleet_reports_total", "What agents reported of their tasks, by kind");
    describe_counter!(
        "stella_fleet_output_bytes_total",
        Unit::Bytes,
        "Output of commands that agents have sent"
    );
    describe_counter!(
        "stella_fleet_artifact_bytes_total",
        Unit::Bytes,
        "Archives of releases that were sent to agents"
    );
}
