//! Which spans are sent to the collector.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stella_otlp::{Collector, Outlet, Span};
use stella_protocol::trace::TraceParent;

use crate::config::Traces as Config;

/// How many traces are sent beside the sample, the newest of them: what fails goes on for a while, with a rollback for example.
const WANTED_MAX: usize = 4_096;
/// How many spans of each service may wait for the collector. Beyond it they are dropped, work is not delayed.
const WAITING_SPANS_MAX: usize = 16_384;
/// How long the last exports may take when the control plane stops.
const LAST_EXPORTS: Duration = Duration::from_secs(5);

/// Whose span it is: what a trace is coloured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    ControlPlane,
    Agent,
}

/// Where spans go.
pub(crate) struct Traces {
    control_plane: Outlet,
    agents: Outlet,
    wanted: Mutex<Wanted>,
    /// Last, because the others need it until they have ended.
    _collector: Collector,
}

/// Traces that are written although they are not part of the sample, the newest of them.
#[derive(Debug, Default)]
struct Wanted {
    order: VecDeque<u128>,
    traces: HashSet<u128>,
}

impl Traces {
    /// Starts to export, if a collector is configured. Whether it can be reached is seen later.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(collector) = Collector::open(&config.collector())? else { return Ok(None) };
        Ok(Some(Arc::new(Self {
            control_plane: collector.outlet("stella-orchestrator", WAITING_SPANS_MAX)?,
            agents: collector.outlet("stella-agent", WAITING_SPANS_MAX)?,
            _collector: collector,
            wanted: Mutex::default(),
        })))
    }

    /// Whether spans of a trace are sent: if it was sampled where it began, or if it is wanted.
    pub(crate) fn takes(&self, trace: TraceParent) -> bool {
        trace.is_valid() && (trace.sampled || self.wanted.lock().traces.contains(&trace.trace_id))
    }

    /// Has all further spans of a trace sent, whether it is part of the sample or not.
    pub(crate) fn want(&self, trace: TraceParent) {
        let mut wanted = self.wanted.lock();
        if trace.is_valid() && wanted.traces.insert(trace.trace_id) {
            wanted.order.push_back(trace.trace_id);
            if wanted.order.len() > WANTED_MAX
                && let Some(oldest) = wanted.order.pop_front()
            {
                wanted.traces.remove(&oldest);
            }
        }
    }

    /// Sends a span, if spans of its trace are.
    pub(crate) fn write(&self, service: Service, span: Span) {
        if !self.takes(span.trace.parent()) {
            return;
        }
        match service {
            Service::ControlPlane => self.control_plane.write(span),
            Service::Agent => self.agents.write(span),
        }
    }

    /// Sends what is left. Blocks, for [`LAST_EXPORTS`] at most for each service.
    pub(crate) fn stop(&self) {
        for outlet in [&self.control_plane, &self.agents] {
            outlet.stop(LAST_EXPORTS);
        }
    }
}
