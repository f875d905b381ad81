//! What systemd is told: that the control plane is ready, that it stops, and that it makes progress. Without systemd there is
//! nobody to tell.

use std::time::Duration;

use sd_notify::NotifyState;
use stella_domain::command::{Actor, Command, Request};
use stella_engine::{Handle, SubmitError};
use stella_protocol::trace::TraceContext;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How long to wait before a full queue is tried again: it moves as long as the writer does.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// All listeners are bound.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// The end has begun.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Feeds the watchdog, if the unit has one, each time that the writer loop has answered and what it wrote before is on disk.
pub(crate) async fn feed_watchdog(engine: Handle, shutdown: CancellationToken) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let feeding = async {
        let mut ticks = interval(patience / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !answers(&engine).await {
                return;
            }
            tell(NotifyState::Watchdog);
        }
    };
    shutdown.run_until_cancelled(feeding).await;
}

/// Waits for the writer loop's answer; `false` once there will be none.
async fn answers(engine: &Handle) -> bool {
    loop {
        let request = Request {
            actor: Actor::System,
            trace: TraceContext::default(),
            idempotency: None,
            command: Command::Tick,
        };
        match engine.submit(request).await {
            Err(SubmitError::Overloaded) => sleep(FULL_QUEUE_PAUSE).await,
            Err(SubmitError::Stopping) => return false,
            // A refusal is an answer too: a full disk is for an operator, not for a restart.
            Ok(_) | Err(SubmitError::Rejected(_) | SubmitError::NoSpace { .. }) => return true,
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(error = &error as &dyn std::error::Error, "systemd was not told");
    }
}
