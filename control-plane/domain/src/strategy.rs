//! Strategies: how the targets of a deployment follow one another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::amount::Amount;
use crate::colour::Colour;

/// How many steps a canary may have.
pub const CANARY_STEPS_MAX: usize = 16;
/// The shortest and the longest time that a canary step may hold by itself, in milliseconds: a second and a week.
pub const CANARY_SOAK_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);
/// The shortest and the longest pause between two batches, in milliseconds: a second and a week.
pub const PAUSE_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);

/// The shortest and the longest warm-up, in milliseconds: a second and a week.
pub const WARM_UP_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);
/// The shortest and the longest time that a colour is kept, in milliseconds: a second and a week.
pub const KEEP_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);

/// How targets follow one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Strategy {
    /// All targets at the same time.
    AllAtOnce,
    /// A number of targets at a time.
    Rolling(Rolling),
    /// Some targets first; the others when the release has proven itself there.
    Canary {
        /// Where to hold, with growing percents. At least one; after the last come all other targets.
        steps: Arc<[CanaryStep]>,
        /// How many targets may be worked on at the same time; `None` is all that the step lets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch: Option<Amount>,
        /// Which targets come first; `None` is the order of their names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<Order>,
    },
    /// The colour that is not live is filled on all targets first; then they are switched to it.
    BlueGreen(BlueGreen),
}

/// Prepared on all targets, then switched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueGreen {
    /// How long what was prepared warms up before the switch, in milliseconds; `None` is not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up_ms: Option<u64>,
    /// Whether it waits there until somebody resumes it. Not with a time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm: bool,
    /// How many targets may be switched at the same time; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Amount>,
    /// How long the colour that is not live any more is kept, in milliseconds; `None` is until the next deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// The two groups of targets that are its colours; `None` is that each target has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
}

/// Two groups of targets, of which one has the traffic, and the targets that lead it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// The label that says which group a target is in: its value is the name of a colour.
    pub label: String,
    /// The labels of the targets that lead the traffic: those that have all of them. Steps of the phase `switch` are run there and
    /// nowhere else, and the other phases are not run there. Never empty.
    pub switch: BTreeMap<String, String>,
    /// The group that has the traffic as long as nobody has switched it here; `None` is that none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Colour>,
}

impl BlueGreen {
    /// Whether it holds between what prepares and the switch.
    #[must_use]
    pub const fn warms_up(&self) -> bool {
        self.warm_up_ms.is_some() || self.confirm
    }
}

/// A number of targets at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolling {
    /// How many targets may be worked on at the same time. At least 1; a share is rounded up.
    pub batch: Amount,
    /// How many targets may be worked on or have failed at the same time; a share is rounded down. `None` is as many as the
    /// batch and the tolerated failures let.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Amount>,
    /// How many targets must be neither worked on nor have failed; a share is rounded up. Another way to say
    /// `max_unavailable`, and never there with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_healthy: Option<Amount>,
    /// How long to pause after each batch, in milliseconds. With it, a batch begins when the one before has ended as a whole;
    /// without, each target that ends lets the next one begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// Which targets come first; `None` is the order of their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

impl Rolling {
    /// So many at a time, in the order of their names.
    #[must_use]
    pub const fn of(batch: u32) -> Self {
        let batch = Amount::Count(batch);
        Self { batch, max_unavailable: None, minimum_healthy: None, pause_ms: None, order: None }
    }

    /// How many of `total` targets may be worked on or have failed at the same time.
    #[must_use]
    pub fn unavailable_max(&self, total: u32) -> u32 {
        let by_health = self.minimum_healthy.map(|healthy| total.saturating_sub(healthy.at_least(total)));
        let by_limit = self.max_unavailable.map(|limit| limit.at_most(total));
        by_limit.or(by_health).unwrap_or(u32::MAX)
    }
}

/// Which targets come first: by the value of a label, numbers before texts. Targets of the same value come in the order of
/// their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What the values mean.
    pub by: OrderBy,
    /// The label.
    pub label: String,
}

/// What the values of a label mean for the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderBy {
    /// Nothing more than the order.
    Label,
    /// What fails together, a rack for example: never two of them are worked on at the same time.
    Domain,
    /// What fails together: neighbours in the order are in different ones, as far as there are.
    Spread,
}

/// A share of the targets, after which a canary holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// How many of all targets, 1 to 99, rounded up.
    pub percent: u32,
    /// For how long the release proves itself then, in milliseconds; `None` is until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_ms: Option<u64>,
}

impl CanaryStep {
    /// How many of so many targets it is.
    #[must_use]
    pub fn of(self, total: u32) -> u32 {
        Amount::Percent(self.percent).at_least(total).min(total)
    }
}

impl Strategy {
    /// The names of all of them.
    pub const NAMES: [&'static str; 4] = ["all_at_once", "rolling", "canary", "blue_green"];

    /// What goes where neither who deploys nor the environment says how: one target at a time, so that the first fault is that of one.
    #[must_use]
    pub const fn usual() -> Self {
        Self::Rolling(Rolling::of(1))
    }

    /// How many of `total` targets may be worked on at the same time; those of a blue-green deployment when they are switched.
    #[must_use]
    pub fn active_max(&self, total: u32) -> u32 {
        match self {
            Self::AllAtOnce => u32::MAX,
            Self::Rolling(rolling) => rolling.batch.at_least(total),
            Self::Canary { batch, .. } | Self::BlueGreen(BlueGreen { batch, .. }) => {
                batch.map_or(u32::MAX, |batch| batch.at_least(total))
            }
        }
    }

    /// How many of `total` targets may be worked on or have failed at the same time.
    #[must_use]
    pub fn unavailable_max(&self, total: u32) -> u32 {
        match self {
            Self::Rolling(rolling) => rolling.unavailable_max(total),
            Self::AllAtOnce | Self::Canary { .. } | Self::BlueGreen(_) => u32::MAX,
        }
    }

    /// The step of a canary after so many others.
    #[must_use]
    pub fn step(&self, passed: u32) -> Option<CanaryStep> {
        match self {
            Self::AllAtOnce | Self::Rolling(_) | Self::BlueGreen(_) => None,
            Self::Canary { steps, .. } => usize::try_from(passed).ok().and_then(|at| steps.get(at)).copied(),
        }
    }

    /// Whether a hold comes after the targets that are started when so many steps of a canary are behind it.
    #[must_use]
    pub fn holds_after(&self, steps_passed: u32) -> bool {
        self.step(steps_passed).is_some() || self.pause_ms().is_some()
    }

    /// How long to pause after each batch, in milliseconds.
    #[must_use]
    pub const fn pause_ms(&self) -> Option<u64> {
        match self {
            Self::Rolling(rolling) => rolling.pause_ms,
            Self::AllAtOnce | Self::Canary { .. } | Self::BlueGreen(_) => None,
        }
    }

    /// What a blue-green deployment is to do.
    #[must_use]
    pub const fn blue_green(&self) -> Option<&BlueGreen> {
        match self {
            Self::BlueGreen(how) => Some(how),
            Self::AllAtOnce | Self::Rolling(_) | Self::Canary { .. } => None,
        }
    }

    /// The two groups of targets that a blue-green deployment goes to and fro between, if its colours are such.
    #[must_use]
    pub fn groups(&self) -> Option<&Groups> {
        self.blue_green().and_then(|how| how.groups.as_ref())
    }

    /// Which targets come first; `None` is the order of their names.
    #[must_use]
    pub const fn order(&self) -> Option<&Order> {
        match self {
            Self::Rolling(rolling) => rolling.order.as_ref(),
            Self::Canary { order, .. } => order.as_ref(),
            Self::AllAtOnce | Self::BlueGreen(_) => None,
        }
    }

    /// Whether targets of two failure domains are never worked on at the same time.
    #[must_use]
    pub fn is_by_domain(&self) -> bool {
        self.order().is_some_and(|order| order.by == OrderBy::Domain)
    }

    /// The same with counts instead of shares of `total`, for fewer targets: what was 10 % of a hundred stays 10.
    #[must_use]
    pub fn counted(&self, total: u32) -> Self {
        match self {
            Self::AllAtOnce => Self::AllAtOnce,
            Self::Rolling(rolling) => Self::Rolling(Rolling {
                batch: Amount::Count(rolling.batch.at_least(total)),
                max_unavailable: Some(rolling.unavailable_max(total))
                    .filter(|max| *max < u32::MAX)
                    .map(Amount::Count),
                minimum_healthy: None,
                pause_ms: rolling.pause_ms,
                order: rolling.order.clone(),
            }),
            Self::Canary { steps, batch, order } => Self::Canary {
                steps: Arc::clone(steps),
                batch: batch.map(|batch| Amount::Count(batch.at_least(total))),
                order: order.clone(),
            },
            Self::BlueGreen(how) => Self::BlueGreen(BlueGreen {
                batch: how.batch.map(|batch| Amount::Count(batch.at_least(total))),
                ..how.clone()
            }),
        }
    }

    /// The number of the wave, from 1, that each target would belong to if none failed: a batch of a rolling deployment, or
    /// what comes before the next hold of a canary, or what a blue-green one switches at the same time. `domains` are those of the targets
    /// that take part, in their order; `total` is how many there are with those that are left out.
    #[must_use]
    pub fn waves(&self, total: u32, domains: &[Option<&str>]) -> Vec<u32> {
        let taking_part = u32::try_from(domains.len()).unwrap_or(u32::MAX);
        let is_full = |passed, at| self.step(passed).is_some_and(|step| at >= step.of(taking_part));
        let batch = match self {
            Self::AllAtOnce | Self::Canary { .. } => u32::MAX,
            Self::Rolling(_) | Self::BlueGreen(_) => self.active_max(total).max(1),
        };
        let (mut wave, mut in_wave, mut passed) = (1, 0, 0);
        let mut before: Option<&str> = None;
        (0_u32..)
            .zip(domains)
            .map(|(at, domain)| {
                let new_domain = self.is_by_domain() && at > 0 && *domain != before;
                if in_wave >= batch || new_domain || is_full(passed, at) {
                    (wave, in_wave) = (wave + 1, 0);
                }
                while is_full(passed, at) {
                    passed += 1;
                }
                in_wave += 1;
                before = *domain;
                wave
            })
            .collect()
    }

    /// The name in metrics and messages: one of [`Self::NAMES`].
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AllAtOnce => "all_at_once",
            Self::Rolling(_) => "rolling",
            Self::Canary { .. } => "canary",
            Self::BlueGreen(_) => "blue_green",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_its_name_on_the_list() {
        let canary = Strategy::Canary { steps: Arc::new([]), batch: None, order: None };
        let all = [
            Strategy::AllAtOnce,
            Strategy::Rolling(Rolling::of(1)),
            canary,
            Strategy::BlueGreen(BlueGreen::default()),
        ];
        assert_eq!(all.map(|it| it.name()), Strategy::NAMES);
    }

    #[test]
    fn waves_end_where_a_batch_a_domain_or_a_step_does() {
        let plain = [None; 5];
        let racks = ["a", "a", "a", "b", "b"].map(Some);
        let rolling = |batch, by: Option<OrderBy>| {
            let order = by.map(|by| Order { by, label: "rack".to_owned() });
            Strategy::Rolling(Rolling { batch, order, ..Rolling::of(1) })
        };
        assert_eq!(Strategy::AllAtOnce.waves(5, &plain), [1, 1, 1, 1, 1]);
        assert_eq!(rolling(Amount::Count(2), None).waves(5, &plain), [1, 1, 2, 2, 3]);
        assert_eq!(rolling(Amount::Percent(50), None).waves(5, &plain), [1, 1, 1, 2, 2]);
        assert_eq!(rolling(Amount::Count(2), Some(OrderBy::Domain)).waves(5, &racks), [1, 1, 2, 3, 3]);
        assert_eq!(rolling(Amount::Percent(100), Some(OrderBy::Domain)).waves(5, &racks), [1, 1, 1, 2, 2]);
        assert_eq!(rolling(Amount::Percent(100), Some(OrderBy::Spread)).waves(5, &racks), [1, 1, 1, 1, 1]);
        let steps = [1, 2, 50].map(|percent| CanaryStep { percent, soak_ms: None }).into();
        let canary = Strategy::Canary { steps, batch: None, order: None };
        assert_eq!(canary.waves(5, &plain), [1, 2, 2, 3, 3]);
        // Half of what is left; a batch stays as large as it was.
        assert_eq!(canary.waves(5, &plain[..2]), [1, 2]);
        assert_eq!(rolling(Amount::Percent(50), None).waves(5, &plain[..4]), [1, 1, 1, 2]);
    }

    #[test]
    fn a_strategy_of_before_shares_and_orders_reads_as_it_was_meant() {
        let rolling: Strategy = serde_json::from_str(r#"{"type":"rolling","batch":3}"#).unwrap();
        assert_eq!(rolling, Strategy::Rolling(Rolling::of(3)));
        assert_eq!(serde_json::to_string(&rolling).unwrap(), r#"{"type":"rolling","batch":3}"#);
        let canary = r#"{"type":"canary","steps":[{"percent":10}],"batch":2}"#;
        let read: Strategy = serde_json::from_str(canary).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), canary);
    }
}
