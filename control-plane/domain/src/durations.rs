//! How long things took, counted in the state: histograms that neither lose nor double anything by a restart, because they follow
//! from the events as everything else does.
//!
//! All in milliseconds, the resolution of the journal's time. A count is kept under the bound that it was counted by, so that a
//! version with other bounds goes on with what was counted before: as long as a new bound is one of the old ones it is exact.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Deployments: from a second to six hours.
pub const DEPLOYMENTS_MS: [u64; 12] = [
    1_000, 5_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000,
    21_600_000,
];
/// Approvals: from a minute to four weeks.
pub const APPROVALS_MS: [u64; 14] = [
    60_000,
    300_000,
    900_000,
    3_600_000,
    14_400_000,
    28_800_000,
    57_600_000,
    86_400_000,
    172_800_000,
    259_200_000,
    432_000_000,
    604_800_000,
    1_209_600_000,
    2_419_200_000,
];
/// Steps of workflows: from a call to a wait of days.
pub const STEPS_MS: [u64; 11] =
    [100, 1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000, 604_800_000];
/// Tasks: from 10 ms to an hour.
pub const TASKS_MS: [u64; 11] =
    [10, 50, 100, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 1_800_000, 3_600_000];
/// The way of a task to its agent: from 5 ms to the hour that an agent may be away.
pub const DISPATCHES_MS: [u64; 14] =
    [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000, 300_000, 3_600_000];

/// How many took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// How many took at most so many milliseconds and more than the bound below, in the order of the bounds; what took longer than
    /// the largest is in `count` only.
    buckets: Vec<(u64, u64)>,
    count: u64,
    sum_ms: u64,
}

impl Durations {
    /// Nothing yet.
    pub const NONE: Self = Self { buckets: Vec::new(), count: 0, sum_ms: 0 };

    /// Counts one, under the first of these ascending bounds that it does not exceed.
    pub(crate) fn add(&mut self, took: Duration, bounds_ms: &[u64]) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(took_ms);
        let Some(bound) = bounds_ms.iter().find(|bound| took_ms <= **bound) else { return };
        match self.buckets.binary_search_by_key(bound, |(bound, _)| *bound) {
            Ok(at) => self.buckets[at].1 += 1,
            Err(at) => self.buckets.insert(at, (*bound, 1)),
        }
    }

    /// How many took at most so many milliseconds: a bound that is counted by.
    #[must_use]
    pub fn up_to(&self, bound_ms: u64) -> u64 {
        self.buckets.iter().take_while(|(bound, _)| *bound <= bound_ms).map(|(_, count)| count).sum()
    }

    /// How many there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How long all of them took, in milliseconds.
    #[must_use]
    pub const fn sum_ms(&self) -> u64 {
        self.sum_ms
    }

    /// All of these and of others together.
    pub fn merge(&mut self, others: &Self) {
        self.count += others.count;
        self.sum_ms = self.sum_ms.saturating_add(others.sum_ms);
        for (bound, count) in &others.buckets {
            match self.buckets.binary_search_by_key(bound, |(bound, _)| *bound) {
                Ok(at) => self.buckets[at].1 += count,
                Err(at) => self.buckets.insert(at, (*bound, *count)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_and_a_bound_belongs_to_what_is_below_it() {
        let mut took = Durations::default();
        for took_ms in [0, 10, 11, 100, 3_600_000, 3_600_001] {
            took.add(Duration::from_millis(took_ms), &TASKS_MS);
        }
        assert_eq!((took.count(), took.sum_ms()), (6, 7_200_122));
        let up_to = TASKS_MS.map(|bound| took.up_to(bound));
        assert_eq!(up_to, [2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5]);
        let mut both = took.clone();
        both.merge(&took);
        assert_eq!((both.count(), both.up_to(50), both.up_to(u64::MAX)), (12, 6, 10));
    }

    #[test]
    fn bounds_of_another_version_are_gone_on_with() {
        let mut took = Durations::default();
        let before: (&[u64], _) = (&[5, 10, 20], [7, 15]);
        let now: (&[u64], _) = (&[10, 40], [7, 30]);
        for (bounds, all) in [before, now] {
            all.into_iter().for_each(|ms| took.add(Duration::from_millis(ms), bounds));
        }
        assert_eq!([10, 20, 40].map(|bound| took.up_to(bound)), [2, 3, 4]);
        let text = serde_json::to_string(&took).unwrap();
        assert_eq!(text, r#"{"buckets":[[10,2],[20,1],[40,1]],"count":4,"sum_ms":59}"#);
        assert_eq!(serde_json::from_str::<Durations>(&text).unwrap(), took);
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [&DEPLOYMENTS_MS[..], &APPROVALS_MS, &STEPS_MS, &TASKS_MS, &DISPATCHES_MS] {
            assert!(bounds.is_sorted_by(|one, next| one < next), "{bounds:?}");
        }
    }
}
