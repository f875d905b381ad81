//! Channels: named streams of an application's releases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Actor;

/// Sets a channel, instead of one of the same name. Releases that are there stay in the channels that they are in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetChannel {
    /// Of what.
    pub application: String,
    /// Its name, unique in the application.
    pub name: String,
    /// A range of semantic versions such as `>=1.2, <2`; what comes after a hyphen is left out of it. Any version if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<String>,
    /// Only pre-releases that begin with one of these: `beta` stands for `1.0.0-beta` and `1.0.0-beta.2`. Only finished versions if empty,
    /// and whatever there is if it is `["*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_releases: Vec<String>,
    /// Labels that a release must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    /// Of what.
    pub application: String,
    /// Its name.
    pub name: String,
    /// The range of versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<String>,
    /// Which pre-releases: see [`SetChannel::pre_releases`].
    pub pre_releases: Vec<String>,
    /// Labels that a release must have.
    pub labels: BTreeMap<String, String>,
    /// When it was set.
    pub set_at: String,
    /// By whom.
    pub set_by: Actor,
}

/// Sets from which channels releases may come to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetChannels {
    /// Their names; if empty, from all, and what is in none.
    pub channels: Vec<String>,
}
