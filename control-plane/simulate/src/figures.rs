//! What came of it.

use std::collections::BTreeMap;

use serde::Serialize;
use stella_domain::deployment::{Cause, Counts, Deployment, Status};
use stella_domain::event::{Event, Fact};
use stella_domain::gate;
use stella_domain::promotion::PromotionStatus;
use stella_domain::tenant::TenantState;
use stella_protocol::id::PromotionId;
use stella_protocol::time::Timestamp;

use crate::fleet::{DEPLOYMENT, NEW, PLACE};
use crate::scenario::Stage;

/// Of which shares of the targets it is told when they had the release, in percent.
const MILESTONES: [u32; 5] = [10, 50, 90, 99, 100];
/// How many stops are told one by one.
const STOPS_MAX: usize = 100;

/// What came of one simulation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The seed that it was made with.
    pub seed: u64,
    /// `succeeded`, `failed`, `cancelled`; `expired`, `invalidated` and the like if it never started; `waiting` if it would
    /// not have ended by itself.
    pub status: String,
    /// Why it failed, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the request until nothing was under way any more, its rollback included, in milliseconds.
    pub duration_ms: u64,
    /// For how much of that it was held up, in milliseconds.
    pub held_up_ms: u64,
    /// What became of the targets.
    pub targets: Targets,
    /// How much was at risk.
    pub at_risk: AtRisk,
    /// How its rollback ended, if there was one: as `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<String>,
    /// When how many targets had the release.
    pub milestones: Vec<Milestone>,
    /// What held it up, one by one: the first hundred.
    pub stops: Vec<Stop>,
    /// What held it up, by cause.
    pub stop_totals: Vec<StopTotal>,
    /// How many events there were from the request on.
    pub events: u64,
    /// The SHA-256 of the event log: of each event's line of JSON with its line feed.
    pub log_digest: String,
}

/// What became of the targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// All of them.
    pub total: u32,
    /// On how many the release was begun.
    pub started: u32,
    /// How many got it.
    pub succeeded: u32,
    /// How many failed.
    pub failed: u32,
    /// How many were left out.
    pub skipped: u32,
    /// How many were left between two steps.
    pub abandoned: u32,
    /// On how many it is at the end, after a rollback too.
    pub have_it: u32,
}

/// How much was at risk: worked on, failed, or with a release that had yet to prove itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AtRisk {
    /// The most targets at once.
    pub most: u32,
    /// When that was for the first time, in milliseconds after the request.
    pub at_ms: u64,
}

/// When so many of the targets had the release for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Milestone {
    /// So many percent.
    pub percent: u32,
    /// In milliseconds after the request.
    pub at_ms: u64,
}

/// Something that held it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// What: a cause of a pause (`person`, `canary_step`, `batch`, `verification`, `failure`, `budget`, `silence`, `freeze`), `path`,
    /// `approval` or `gate`.
    pub cause: String,
    /// From when on, in milliseconds after the request.
    pub from_ms: u64,
    /// Until when; absent if it did not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why, for people.
    pub reason: String,
}

/// All that held it up for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StopTotal {
    /// See [`Stop::cause`].
    pub cause: String,
    /// How often.
    pub times: u32,
    /// For how long in all, in milliseconds.
    pub total_ms: u64,
    /// The first reason.
    pub reason: String,
}

/// Why a simulation came to an end although something was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Nothing would happen any more.
    ForEver,
    /// It has taken longer than anybody waits.
    TooLong,
}

/// What was written down.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) seed: u64,
    pub(crate) events: u64,
    pub(crate) digest: String,
}

/// What is counted while it goes on.
#[derive(Debug)]
pub(crate) struct Figures {
    start_ms: u64,
    started: u32,
    succeeded: u32,
    total: u32,
    at_risk: AtRisk,
    milestones: Vec<Milestone>,
    stops: Vec<Stop>,
}

impl Figures {
    pub(crate) const fn new(start_ms: u64) -> Self {
        Self {
            start_ms,
            started: 0,
            succeeded: 0,
            total: 0,
            at_risk: AtRisk { most: 0, at_ms: 0 },
            milestones: Vec::new(),
            stops: Vec::new(),
        }
    }

    /// The release goes through these environments first.
    pub(crate) fn on_the_way(&mut self, at: Timestamp, path: &[Stage]) {
        let stage = |stage: &Stage| match stage.soak {
            Some(soak) => format!("{} for {soak}", stage.name),
            None => stage.name.to_string(),
        };
        let stages: Vec<String> = path.iter().map(stage).collect();
        if !stages.is_empty() {
            self.begin("path", at, format!("it has to succeed in {} first", stages.join(", then in ")));
        }
    }

    const fn since_start(&self, at: Timestamp) -> u64 {
        at.0.saturating_sub(self.start_ms)
    }

    /// Takes note of an event. The state is the one after all events of its command.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most facts are not counted")]
    pub(crate) fn note(&mut self, event: &Event, tenant: &TenantState, promotion: PromotionId) {
        let at = event.at;
        match &event.fact {
            Fact::PromotionRequested { id, rule, .. } if *id == promotion => {
                self.end("path", at);
                if let Some(rule) = rule {
                    self.begin("approval", at, format!("{} have to approve", rule.needed_in_all()));
                }
            }
            Fact::ApprovalGranted { id, .. }
                if *id == promotion && tenant.promotions.get(id).is_some_and(|it| it.is_approved()) =>
            {
                self.end("approval", at);
            }
            Fact::PromotionHeld { id, until } if *id == promotion => match until {
                Some(_) => self.begin("freeze", at, "the environment is frozen".to_owned()),
                None => self.end("freeze", at),
            },
            Fact::GateEvaluated { promotion: id, gate, outcome, reason, .. } if *id == promotion => {
                match outcome {
                    gate::Outcome::Passed => self.end("gate", at),
                    gate::Outcome::Failed | gate::Outcome::Unavailable => {
                        self.begin("gate", at, format!("{gate}: {reason}"));
                    }
                }
            }
            Fact::DeploymentCreated { id, targets, .. } if *id == DEPLOYMENT => {
                self.total = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            }
            Fact::DeploymentPaused { id, reason, cause, .. } if *id == DEPLOYMENT => {
                self.begin(cause.name(), at, reason.clone());
            }
            Fact::DeploymentResumed { id } if *id == DEPLOYMENT => self.end_all(at),
            Fact::DeploymentHalted { id, .. }
            | Fact::DeploymentCancelRequested { id, .. }
            | Fact::DeploymentOverdue { id, .. }
                if *id == DEPLOYMENT =>
            {
                self.end_all(at);
            }
            Fact::TargetStarted { deployment, .. } if *deployment == DEPLOYMENT => self.started += 1,
            Fact::TargetSucceeded { deployment, .. } if *deployment == DEPLOYMENT => self.succeeds(at),
            _ => {}
        }
    }

    fn succeeds(&mut self, at: Timestamp) {
        self.succeeded += 1;
        let at_ms = self.since_start(at);
        for percent in MILESTONES {
            let needed = (u64::from(self.total) * u64::from(percent)).div_ceil(100);
            if u64::from(self.succeeded) == needed.max(1)
                && self.milestones.iter().all(|it| it.percent != percent)
            {
                self.milestones.push(Milestone { percent, at_ms });
            }
        }
    }

    /// Measures what holds now.
    pub(crate) fn measure(&mut self, tenant: &TenantState, now: Timestamp) {
        let now_at_risk = tenant.at_risk(PLACE);
        if now_at_risk > self.at_risk.most {
            self.at_risk = AtRisk { most: now_at_risk, at_ms: self.since_start(now) };
        }
    }

    fn begin(&mut self, cause: &str, at: Timestamp, reason: String) {
        if self.stops.iter().any(|stop| stop.cause == cause && stop.until_ms.is_none()) {
            return;
        }
        // One pause takes the place of another.
        if !matches!(cause, "approval" | "gate") {
            self.end_where(at, |stop| !matches!(stop.cause.as_str(), "approval" | "gate"));
        }
        let from_ms = self.since_start(at);
        self.stops.push(Stop { cause: cause.to_owned(), from_ms, until_ms: None, reason });
    }

    fn end(&mut self, cause: &str, at: Timestamp) {
        self.end_where(at, |stop| stop.cause == cause);
    }

    fn end_all(&mut self, at: Timestamp) {
        self.end_where(at, |_| true);
    }

    fn end_where(&mut self, at: Timestamp, ends: impl Fn(&Stop) -> bool) {
        let at_ms = self.since_start(at);
        // Those that have not ended are the newest.
        for stop in self.stops.iter_mut().rev().take(8).filter(|stop| stop.until_ms.is_none()) {
            if ends(stop) {
                stop.until_ms = Some(at_ms);
            }
        }
    }

    /// What came of it.
    pub(crate) fn outcome(
        mut self,
        tenant: &TenantState,
        now: Timestamp,
        waits: Option<Waits>,
        Log { seed, events, digest: log_digest }: Log,
    ) -> Outcome {
        let duration_ms = self.since_start(now);
        let deployment = tenant.deployments.get(&DEPLOYMENT);
        let (status, reason) = match waits {
            Some(waits) => ("waiting".to_owned(), Some(self.what_for(tenant, waits))),
            None => ended(tenant, deployment.map(AsRef::as_ref)),
        };
        let counts = deployment.map_or_else(Counts::default, |it| it.counts);
        let here = || tenant.targets.values().filter(|target| target.environment == PLACE);
        let have_it = here().filter(|target| target.current == Some(NEW)).count();
        let targets = Targets {
            total: u32::try_from(here().count()).unwrap_or(u32::MAX),
            started: self.started,
            succeeded: counts.succeeded,
            failed: counts.failed,
            skipped: counts.skipped,
            abandoned: counts.abandoned,
            have_it: u32::try_from(have_it).unwrap_or(u32::MAX),
        };
        let is_rollback = |it: &&std::sync::Arc<Deployment>| matches!(it.cause, Cause::Rollback { of, .. } if of == DEPLOYMENT);
        let rollback = tenant.deployments.values().find(is_rollback);
        let stop_totals = self.totals(duration_ms);
        let held_up_ms = self.held_up_ms(duration_ms);
        self.stops.truncate(STOPS_MAX);
        Outcome {
            seed,
            status,
            reason,
            duration_ms,
            held_up_ms,
            targets,
            at_risk: self.at_risk,
            rollback: rollback.map(|it| it.status.name().to_owned()),
            milestones: self.milestones,
            stops: self.stops,
            stop_totals,
            events,
            log_digest,
        }
    }

    fn what_for(&self, tenant: &TenantState, waits: Waits) -> String {
        let open = self.stops.iter().rev().find(|stop| stop.until_ms.is_none());
        let how_long = match waits {
            Waits::ForEver => "for ever",
            Waits::TooLong => "for longer than 30 days",
        };
        let what = match open {
            Some(Stop { cause, reason, .. }) => format!("{cause}: {reason}"),
            None if tenant.active_deployments.is_empty() => "what keeps it from starting".to_owned(),
            None => "hosts that cannot be reached".to_owned(),
        };
        format!("waits {how_long} for {what}")
    }

    fn totals(&self, end_ms: u64) -> Vec<StopTotal> {
        let mut totals = BTreeMap::<&str, StopTotal>::new();
        for stop in &self.stops {
            let total = totals.entry(&stop.cause).or_insert_with(|| StopTotal {
                cause: stop.cause.clone(),
                times: 0,
                total_ms: 0,
                reason: stop.reason.clone(),
            });
            total.times += 1;
            total.total_ms += stop.until_ms.unwrap_or(end_ms).saturating_sub(stop.from_ms);
        }
        totals.into_values().collect()
    }

    /// How long anything held it up; what did so at the same time counts once.
    fn held_up_ms(&self, end_ms: u64) -> u64 {
        let mut spans: Vec<(u64, u64)> =
            self.stops.iter().map(|stop| (stop.from_ms, stop.until_ms.unwrap_or(end_ms))).collect();
        spans.sort_unstable();
        let (mut total, mut reached) = (0, 0);
        for (from, until) in spans {
            total += until.saturating_sub(from.max(reached));
            reached = reached.max(until);
        }
        total
    }
}

/// How it ended.
fn ended(tenant: &TenantState, deployment: Option<&Deployment>) -> (String, Option<String>) {
    if let Some(deployment) = deployment {
        let reason = match &deployment.status {
            Status::Failed { reason } | Status::Cancelled { reason } => Some(reason.clone()),
            Status::Running | Status::Halting { .. } | Status::Cancelling { .. } | Status::Succeeded => None,
        };
        return (deployment.status.name().to_owned(), reason);
    }
    if let Some(stopped) = stopped_on_the_way(tenant) {
        return stopped;
    }
    let promotion = tenant.promotions.get(&PromotionId(DEPLOYMENT.0));
    let reason = promotion.and_then(|promotion| match &promotion.status {
        PromotionStatus::Invalidated { reason, .. } => Some(reason.clone()),
        PromotionStatus::Expired { .. } => Some("nobody let it through in time".to_owned()),
        PromotionStatus::Pending
        | PromotionStatus::Started { .. }
        | PromotionStatus::Rejected { .. }
        | PromotionStatus::Withdrawn { .. } => None,
    });
    (promotion.map_or("", |it| it.status.name()).to_owned(), reason)
}

/// How it ended if it did not come as far as where it should.
fn stopped_on_the_way(tenant: &TenantState) -> Option<(String, Option<String>)> {
    let mut requested = tenant.deployments.values().filter(|it| it.cause == Cause::Requested);
    let stopped = requested
        .find(|it| it.release == NEW && it.environment != PLACE && it.status.name() != "succeeded")?;
    let place = tenant.environments.get(&stopped.environment)?;
    let (status, reason) = ended(tenant, Some(stopped.as_ref()));
    Some((status, reason.map(|reason| format!("in {}, on the way: {reason}", place.name))))
}

/// What came of many simulations of one scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many there were.
    pub runs: u32,
    /// The first seed; the others follow it.
    pub first_seed: u64,
    /// How many ended how.
    pub statuses: BTreeMap<String, u32>,
    /// How long they took, in milliseconds.
    pub duration_ms: Spread,
    /// The most targets at risk at once.
    pub at_risk: Spread,
    /// On how many targets the release was begun, over those that did not succeed; absent if all did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_in_vain: Option<Spread>,
    /// What stopped those that did not succeed, the most frequent first: step and state, without the target.
    pub reasons: Vec<(String, u32)>,
}

/// How something is spread over many simulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub least: u64,
    /// Half of them have at most this.
    pub p50: u64,
    /// Nine of ten have at most this.
    pub p90: u64,
    /// The largest.
    pub most: u64,
    /// A seed that has the largest.
    pub most_seed: u64,
}

impl Summary {
    /// Of at least one outcome.
    #[must_use]
    pub fn of(outcomes: &[Outcome]) -> Option<Self> {
        let first_seed = outcomes.first()?.seed;
        let mut statuses = BTreeMap::new();
        let mut reasons = BTreeMap::<String, u32>::new();
        for outcome in outcomes {
            *statuses.entry(outcome.status.clone()).or_default() += 1;
            if let Some(reason) = &outcome.reason {
                *reasons.entry(without_target(reason)).or_default() += 1;
            }
        }
        let in_vain = outcomes.iter().filter(|it| it.status != "succeeded");
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        Some(Self {
            runs: u32::try_from(outcomes.len()).unwrap_or(u32::MAX),
            first_seed,
            statuses,
            duration_ms: Spread::of(outcomes.iter().map(|it| (it.duration_ms, it.seed)))?,
            at_risk: Spread::of(outcomes.iter().map(|it| (it.at_risk.most.into(), it.seed)))?,
            started_in_vain: Spread::of(in_vain.map(|it| (it.targets.started.into(), it.seed))),
            reasons,
        })
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = (u64, u64)>) -> Option<Self> {
        let mut values: Vec<(u64, u64)> = values.collect();
        values.sort_unstable();
        let share = |percent: usize| values.get((values.len() * percent).div_ceil(100).saturating_sub(1));
        let (least, _) = *values.first()?;
        let (most, most_seed) = *values.last()?;
        Some(Self { least, p50: share(50)?.0, p90: share(90)?.0, most, most_seed })
    }
}

/// `step check on web-017 failed: ...` is one reason, whichever the target.
fn without_target(reason: &str) -> String {
    match (reason.strip_prefix("step "), reason.split_once(" on ")) {
        (Some(_), Some((step, rest))) => {
            let state = rest.split_once(' ').map_or("", |(_, state)| state);
            let state = state.split_once(" (").map_or(state, |(state, _)| state);
            format!("{step} {state}")
        }
        _ => reason.to_owned(),
    }
}
