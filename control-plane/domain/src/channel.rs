//! Channels: named streams of an application's releases, such as `stable` and `beta`.
//!
//! A channel has a rule. Which channels a release is in is found out when it is registered, and never changes, as the release does
//! not: a later rule is for later releases. Environments may say which channels they take.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use semver::{Prerelease, VersionReq};
use serde::{Deserialize, Serialize};
use stella_protocol::time::Timestamp;

use crate::command::Actor;
use crate::name::{Name, Version};
use crate::release::Release;

/// How many channels an application may have: each is looked at when a release is registered.
pub const CHANNELS_MAX: usize = 32;
/// How many applications may have channels.
pub const APPLICATIONS_MAX: usize = 1_024;
/// How many pre-releases a rule may name, and how many channels an environment.
pub const NAMED_MAX: usize = 16;
/// How long a range of versions may be, in bytes.
pub const RANGE_BYTES_MAX: usize = 256;

/// A channel of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Of what.
    pub application: Name,
    /// Its name, unique in the application.
    pub name: Name,
    /// What belongs to it.
    pub rule: ChannelRule,
    /// When it was set.
    pub set_at: Timestamp,
    /// By whom.
    pub set_by: Actor,
}

/// Which releases belong to a channel: those for which all of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRule {
    /// A range of semantic versions, as Cargo writes it: `>=1.2, <2`. What comes after a hyphen is left out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<String>,
    /// Which pre-releases.
    #[serde(default)]
    pub pre_releases: PreReleases,
    /// Labels that a release must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Which pre-releases belong to a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreReleases {
    /// None: only versions without a hyphen.
    #[default]
    None,
    /// Those that begin with one of these, and none that are finished: `beta` stands for `1.0.0-beta` and `1.0.0-beta.2`.
    Only(Vec<String>),
    /// All, and what is finished, and what is no semantic version.
    Any,
}

impl ChannelRule {
    /// Whether a release belongs to the channel.
    #[must_use]
    pub fn takes(&self, version: &Version, labels: &BTreeMap<String, String>) -> bool {
        let labelled = self.labels.iter().all(|(label, value)| labels.get(label) == Some(value));
        labelled && self.takes_version(version)
    }

    fn takes_version(&self, version: &Version) -> bool {
        let Ok(mut version) = semver::Version::parse(version.as_str()) else {
            return self.versions.is_none() && self.pre_releases == PreReleases::Any;
        };
        let first = version.pre.as_str().split('.').next().unwrap_or_default();
        let wanted = match &self.pre_releases {
            PreReleases::None => version.pre.is_empty(),
            PreReleases::Only(tags) => tags.iter().any(|tag| tag == first),
            PreReleases::Any => true,
        };
        version.pre = Prerelease::EMPTY;
        let range = self.versions.as_ref().map(|range| VersionReq::parse(range));
        wanted && range.is_none_or(|range| range.is_ok_and(|range| range.matches(&version)))
    }
}

/// Which of two releases is newer: by their versions if both are semantic ones, then by when they were registered. What is no semantic
/// version is older than all that are.
#[must_use]
pub fn by_age(one: &Release, other: &Release) -> Ordering {
    let version = |it: &Release| semver::Version::parse(it.version.as_str()).ok();
    version(one).cmp(&version(other)).then(one.created_at.cmp(&other.created_at)).then(one.id.cmp(&other.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(rule: &ChannelRule, version: &str) -> bool {
        rule.takes(&version.parse().unwrap(), &BTreeMap::new())
    }

    #[test]
    fn ranges_and_pre_releases_are_looked_at_apart() {
        let rule = |versions: Option<&str>, pre_releases| ChannelRule {
            versions: versions.map(str::to_owned),
            pre_releases,
            labels: BTreeMap::new(),
        };
        let stable = rule(None, PreReleases::None);
        let beta = rule(Some(">=1.2, <2"), PreReleases::Only(vec!["beta".to_owned(), "rc".to_owned()]));
        let all = rule(None, PreReleases::Any);
        let one = rule(Some("^1"), PreReleases::Any);
        for (version, wanted) in [
            ("1.0.0", [true, false, true, true]),
            ("2.0.0+build.7", [true, false, true, false]),
            ("1.2.0-beta", [false, true, true, true]),
            ("1.9.9-rc.2", [false, true, true, true]),
            ("1.9.9-betamax.2", [false, false, true, true]),
            ("2.0.0-beta.1", [false, false, true, false]),
            ("1.1.0-beta.1", [false, false, true, true]),
            ("2026-11-26", [false, false, true, false]),
            ("1.0", [false, false, true, false]),
        ] {
            assert_eq!([&stable, &beta, &all, &one].map(|it| takes(it, version)), wanted, "{version}");
        }
    }

    #[test]
    fn labels_must_be_there_with_their_values() {
        let rule = ChannelRule {
            labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
            ..ChannelRule::default()
        };
        let labels = |value: &str| BTreeMap::from([("tier".to_owned(), value.to_owned())]);
        assert!(rule.takes(&"1.0.0".parse().unwrap(), &labels("gold")));
        assert!(!rule.takes(&"1.0.0".parse().unwrap(), &labels("lead")));
        assert!(!takes(&rule, "1.0.0"));
    }
}
