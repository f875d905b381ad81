//! Agents and enrolment tokens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Actor;

/// How long an enrolment token is good for unless the request says otherwise, in seconds.
pub const EXPIRES_IN_SECONDS_DEFAULT: u64 = 3_600;

/// The longest life of an enrolment token, in seconds: 30 days.
pub const EXPIRES_IN_SECONDS_MAX: u64 = 30 * 24 * 3_600;

/// An enrolled identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its id, which is in its certificate.
    pub id: String,
    /// Its name, unique in the tenant.
    pub name: String,
    /// `never`, `online`, `suspect` or `offline`.
    pub connectivity: String,
    /// Since when, unless it never connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How the host calls itself.
    pub hostname: String,
    /// The software version of its last session; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Labels of the token that it enrolled with.
    pub labels: BTreeMap<String, String>,
    /// What the token that it enrolled with lets tasks do on its host: `confined` or `full`; absent for tokens of before this was part
    /// of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// How its last session said that it runs: `confined` or `full`; absent if it said nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_as: Option<String>,
    /// What it means that the two differ, and what to do; absent if they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_problem: Option<String>,
    /// Where its own figures can be scraped from other hosts, `host:port`; absent if they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_address: Option<String>,
    /// Counts its sessions.
    pub session: u64,
    /// How many of its tasks are not final.
    pub open_tasks: u64,
    /// The digest of the public key that it enrolled with.
    pub key_fingerprint: String,
    /// When it was enrolled.
    pub enrolled_at: String,
    /// When and why it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// That its host was taken out of rotation; absent if it is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
}

/// That a host was taken out of rotation: nothing new begins there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Draining {
    /// Why, for people.
    pub reason: String,
    /// Who did it.
    pub by: Actor,
    /// Since when.
    pub since: String,
    /// On how many of its targets something is under way still. With 0, nothing goes on there any more.
    pub under_way: u64,
    /// On how many of its targets something waits until it is back in rotation.
    pub waiting: u64,
}

/// That an identity is not believed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revoked {
    /// When.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// Revokes an agent's identity, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeAgent {
    /// Why, for people.
    pub reason: String,
}

/// Takes an enrolment token back: no host enrols with it any more. Those that did stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeEnrolmentToken {
    /// Why, for people.
    pub reason: String,
}

/// A new enrolment token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrolmentToken {
    /// The name that the agent gets; the host's own if absent. Only with `uses` 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels that its agents get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What tasks may do on the hosts of its agents; `confined` if absent.
    #[serde(default, skip_serializing_if = "Profile::is_confined")]
    pub profile: Profile,
    /// How many different hosts may enrol with it.
    #[serde(default = "one")]
    #[schema(minimum = 1, default = 1)]
    pub uses: u32,
    /// How long it is good for, in seconds; at most 30 days.
    #[serde(default = "expires_in_seconds_default")]
    #[schema(minimum = 1, maximum = 2_592_000, default = 3600)]
    pub expires_in_seconds: u64,
}

/// What tasks may do on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Read it, change the host root, and start and stop units.
    #[default]
    Confined,
    /// Everything that root may.
    Full,
}

impl Profile {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
    const fn is_confined(&self) -> bool {
        matches!(self, Self::Confined)
    }
}

const fn one() -> u32 {
    1
}

const fn expires_in_seconds_default() -> u64 {
    EXPIRES_IN_SECONDS_DEFAULT
}

/// What is known of an enrolment token. The secret is not: only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrolmentToken {
    /// Its public half.
    pub id: String,
    /// The name that the agent gets, if it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// Labels that its agents get.
    pub labels: BTreeMap<String, String>,
    /// What tasks may do on the hosts of its agents: `confined` or `full`; absent for tokens of before this was part of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// How many different hosts may enrol with it.
    pub uses_max: u32,
    /// The ids of the agents that did.
    pub agents: Vec<String>,
    /// From when on it is worthless.
    pub expires_at: String,
    /// When it was created.
    pub created_at: String,
}

/// The answer to the creation of an enrolment token.
///
/// Not `Debug`: it carries a secret.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[expect(missing_debug_implementations, reason = "it carries a secret")]
pub struct EnrolmentTokenCreated {
    /// The whole token, secret included. Shown once: absent when an idempotent request is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Why there is no token in this answer, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Where agents connect to: `host:port` (UDP).
    pub agent_address: String,
    /// What the token is good for.
    pub details: EnrolmentToken,
}
