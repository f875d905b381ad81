//! How long what has ended is kept where.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stella_domain::archive::Rule;
use stella_domain::artifact;

const DAY_S: u64 = 86_400;

/// How long what has ended is kept where. Everything stays in the journal and in the archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retention {
    /// What has ended longer ago than this leaves memory; 0 is never for that.
    pub(crate) memory_days: u64,
    /// So many ended deployments and promotions of an environment, and runs of a workflow, stay in memory; 0 is all of them.
    pub(crate) memory_max: usize,
    /// What has ended within so long never leaves memory.
    pub(crate) memory_seconds_min: u64,
    /// How often it is looked for, in seconds.
    pub(crate) memory_interval_s: u64,
    /// What tasks print is removed after so many days; 0 is never.
    pub(crate) output_days: u64,
    /// Archives of releases that are older than so many days, and needed by nothing, are removed; 0 is never.
    pub(crate) artifact_days: u64,
    /// So many newest releases of each application keep their archives, however old they are.
    pub(crate) artifact_releases_min: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            memory_days: 30,
            memory_max: 1_000,
            memory_seconds_min: 3_600,
            memory_interval_s: 60,
            output_days: 90,
            artifact_days: 0,
            artifact_releases_min: 10,
        }
    }
}

impl Retention {
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (key, days) in [
            ("memory_days", self.memory_days),
            ("output_days", self.output_days),
            ("artifact_days", self.artifact_days),
        ] {
            anyhow::ensure!(days <= 36_500, "retention.{key} must be at most 36500, not {days}");
        }
        let interval = self.memory_interval_s;
        anyhow::ensure!(
            (1..=DAY_S).contains(&interval),
            "retention.memory_interval_s must be between 1 and {DAY_S}, not {interval}"
        );
        let seconds = self.memory_seconds_min;
        anyhow::ensure!(
            seconds <= 365 * DAY_S,
            "retention.memory_seconds_min must be at most {}, not {seconds}",
            365 * DAY_S
        );
        Ok(())
    }

    /// When what has ended leaves memory; `None` is never.
    pub(crate) fn rule(&self) -> Option<Rule> {
        let rule = Rule {
            never_within_ms: self.memory_seconds_min * 1_000,
            after_ms: (self.memory_days > 0).then_some(self.memory_days * DAY_S * 1_000),
            newer_max: (self.memory_max > 0).then_some(self.memory_max),
        };
        (rule.after_ms.is_some() || rule.newer_max.is_some()).then_some(rule)
    }

    /// When archives go; `None` is never.
    pub(crate) fn artifact_rule(&self) -> Option<artifact::Rule> {
        let after_ms = self.artifact_days * DAY_S * 1_000;
        (self.artifact_days > 0)
            .then_some(artifact::Rule { after_ms, newest_min: self.artifact_releases_min })
    }

    /// How old output may become; `None` is as old as it likes.
    pub(crate) fn output_age(&self) -> Option<Duration> {
        (self.output_days > 0).then(|| Duration::from_secs(self.output_days * DAY_S))
    }
}
