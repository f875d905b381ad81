//! The spans of the agent's own work, sent to a collector by itself: off unless one is configured. Without it the control plane writes
//! them, from what it is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stella_otlp::{Collector, Config, Error, KeyValue, Outlet, Span, SpanKind};
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::span;
use stella_protocol::time::Timestamp;

use crate::journal::Ending;
use crate::observers::{Attempted, status};

/// How many spans may wait for the collector: more than an agent ends in minutes. Beyond it they are dropped, no task is delayed.
const WAITING_SPANS_MAX: usize = 1_024;
/// How long the last ones may take when the agent stops.
const LAST_EXPORTS: Duration = Duration::from_secs(2);

/// Where they go.
#[derive(Debug)]
pub struct Spans {
    who: (TenantId, AgentId),
    outlet: Outlet,
    /// Last, because the outlet needs it until it has ended.
    _collector: Collector,
}

impl Spans {
    /// Starts to send, if a collector is configured. Whether it can be reached is seen later.
    ///
    /// # Errors
    /// If the configuration makes no sense, or a file cannot be used.
    pub fn open(config: &Config, who: (TenantId, AgentId)) -> Result<Option<Self>, Error> {
        let Some(collector) = Collector::open(config)? else { return Ok(None) };
        let outlet = collector.outlet("stella-agent", WAITING_SPANS_MAX)?;
        let address = collector.address().origin().ascii_serialization();
        tracing::info!(collector = address, "spans are sent to the collector directly");
        Ok(Some(Self { who, outlet, _collector: collector }))
    }

    /// Sends the span of an attempt that ran, if whoever began its trace wants that.
    pub(crate) fn ended(&self, attempt: &Attempted, ending: &Ending) {
        let Attempted { key, kind, target, target_name, trace } = attempt;
        let Some(started_at) = ending.started_at.filter(|_| trace.is_valid() && trace.sampled) else {
            return;
        };
        let ((tenant, agent), status) = (self.who, status(&ending.outcome));
        let (start, end) = (time(started_at), time(ending.finished_at.max(started_at)));
        let took = end.duration_since(start).unwrap_or_default();
        self.outlet.write(Span {
            trace: trace.clone(),
            id: span::execution(*key),
            parent: span::dispatch(*key),
            name: "agent.execute",
            kind: SpanKind::Consumer,
            start,
            end,
            attributes: vec![
                KeyValue::new("target_id", target.to_string()),
                KeyValue::new("agent_id", agent.to_string()),
                KeyValue::new("task_id", key.task.to_string()),
                KeyValue::new("attempt", i64::from(key.attempt.0)),
                KeyValue::new("tenant.id", tenant.to_string()),
                KeyValue::new("target", target_name.clone()),
                KeyValue::new("task_type", *kind),
                KeyValue::new("duration", took.as_secs_f64()),
                KeyValue::new("status", status),
            ],
            // What a command printed may be in the reason, and is not for everybody who sees traces.
            error: (status != "succeeded").then(|| status.to_owned()),
        });
    }

    /// Sends what is left. Blocks, for [`LAST_EXPORTS`] at most.
    pub(crate) fn stop(&self) {
        self.outlet.stop(LAST_EXPORTS);
    }
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0)
}
