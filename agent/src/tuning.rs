//! What of the configuration the runner takes over while it runs: which tasks may run here, what those that start may use, and how long
//! they may go on when the agent stops. Tasks that run already keep what they were started with.

use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::executor::reason_of;
use crate::policy::Policy;
use crate::runner::{Gone, Order, RunnerHandle};
use crate::supervisor::{Groups, Limits};

/// What holds from now on.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// What tasks may be.
    pub policy: Policy,
    /// How long running attempts may go on when the agent stops.
    pub drain: Duration,
    /// The control groups of tasks that start.
    pub groups: Option<Groups>,
}

/// The way from a configuration to the runner.
#[derive(Debug)]
pub struct Tuner {
    runner: RunnerHandle,
    /// Why nothing may run here at all: what this host was enrolled for, which no configuration changes.
    objection: Option<String>,
    limits: Limits,
    groups: Option<Groups>,
}

impl Tuner {
    pub(crate) const fn new(
        runner: RunnerHandle,
        objection: Option<String>,
        limits: Limits,
        groups: Option<Groups>,
    ) -> Self {
        Self { runner, objection, limits, groups }
    }

    /// Has the runner take over what can be.
    ///
    /// # Errors
    /// If the runner has stopped.
    pub(crate) async fn change(&mut self, config: &Config) -> Result<(), Gone> {
        if config.limits != self.limits {
            let (before, limits) = (self.groups.clone(), config.limits);
            // To move the agent into a group of its own may take as long as the kernel likes.
            if let Ok(groups) = spawn_blocking(move || limited(before.as_ref(), limits)).await {
                (self.groups, self.limits) = (groups, limits);
            }
        }
        let policy = config.policy.clone().unless(self.objection.clone());
        let tuning = Tuning { policy, drain: config.drain, groups: self.groups.clone() };
        self.runner.order(Order::Tune(Box::new(tuning))).await
    }
}

fn limited(before: Option<&Groups>, limits: Limits) -> Option<Groups> {
    let Some(before) = before else { return groups(limits) };
    let (groups, unenforced) = before.with(limits);
    tell(&unenforced);
    Some(groups)
}

/// The control groups of tasks, if there can be any.
pub(crate) fn groups(limits: Limits) -> Option<Groups> {
    match Groups::open(limits) {
        Ok((groups, unenforced)) => {
            tell(&unenforced);
            Some(groups)
        }
        Err(reason) => {
            let reason = reason_of(&reason);
            if limits == Limits::default() {
                tracing::info!(reason, "tasks have no control groups of their own");
            } else {
                tracing::error!(
                    reason,
                    "tasks have no control groups of their own, and their limits are not enforced"
                );
            }
            None
        }
    }
}

fn tell(unenforced: &[String]) {
    for limit in unenforced {
        tracing::error!(limit, "a limit of tasks is not enforced here");
    }
}
