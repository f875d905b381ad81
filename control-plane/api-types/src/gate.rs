//! Gates: what must be so for a release to come to an environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Actor;
use crate::hold::Hold;

/// Sets a gate, instead of one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetGate {
    /// Its name, unique in the environment.
    pub name: String,
    /// How it is found out whether it lets through.
    pub check: Check,
    /// For how long a verdict that lets through holds, in seconds: a second to a week; 5 minutes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Whether it is about what was brought: then nobody looks at it before the release has come to a target, or is prepared there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verifies: bool,
}

/// A gate of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gate {
    /// Its name.
    pub name: String,
    /// How it is found out whether it lets through.
    pub check: Check,
    /// For how long a verdict that lets through holds, in seconds.
    pub ttl_seconds: u64,
    /// Whether it is about what was brought: then nobody looks at it before the release has come to a target, or is prepared there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verifies: bool,
    /// The digest of all this: the version of the policy that a verdict is made by.
    pub policy: String,
}

/// How it is found out whether a gate lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum Check {
    /// What scanners have found in the release.
    Security {
        /// How many findings of each severity (`critical`, `high`, `medium`, `low`, `unknown`) there may be. Of what is not listed there
        /// may be any number.
        limits: BTreeMap<String, u32>,
        /// Findings that do not count.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed: Vec<AllowedFinding>,
        /// Scanners that must have reported; if empty, any one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        scanners: Vec<String>,
        /// How old their reports may be, in seconds; any age if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_age_seconds: Option<u64>,
        /// The accounts whose reports count (names); everybody's who may report if empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reporters: Vec<String>,
    },
    /// What a Prometheus answers: there must be a sample, and each must compare as wanted.
    Metric {
        /// Which one: a name in the control plane's configuration (`gates.prometheus`).
        source: String,
        /// The query, in PromQL.
        query: String,
        /// How each sample must compare.
        comparison: Comparison,
        /// With what.
        #[schema(value_type = f64)]
        threshold: serde_json::Number,
    },
    /// What an expression comes to.
    Expression {
        /// The expression, in CEL, over `release` (`application`, `version`, `labels`, `provenance`), `environment` (`name`) and `findings` (how many there
        /// are of each severity, and the names of the `scanners` that have reported).
        expression: String,
    },
    /// What an HTTP endpoint answers.
    Http {
        /// Which one: a name in the control plane's configuration (`gates.http`).
        endpoint: String,
    },
    /// What a person says.
    Manual {},
    /// By whose keys the release is signed.
    Signature {
        /// How many signatures there must be, each by another key.
        needed: u32,
        /// Only those by these keys count (names or fingerprints); those by all registered ones if empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<String>,
    },
}

/// A finding that is known and does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedFinding {
    /// What it is called, such as `CVE-2026-1234`.
    pub id: String,
    /// Until when it does not count; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why, for people.
    pub reason: String,
}

/// How a number compares with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Smaller.
    Below,
    /// Smaller or the same.
    AtMost,
    /// Larger.
    Above,
    /// Larger or the same.
    AtLeast,
}

/// What a gate says about a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GateState {
    /// Its name.
    pub gate: String,
    /// Its type: `security`, `metric`, `expression`, `http`, `manual` or `signature`; absent if the environment has it no more.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `passed`, `failed`, `unavailable` (nobody could say), `overridden`, `outdated` (the verdict is too old, or of another version of the
    /// gate), or `pending` (there is no verdict yet).
    pub status: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The digest of what was looked at, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// The version of the gate that the verdict was made by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// When the verdict was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluated_at: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
    /// Until when it lets through, if that ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Since when an answer from outside is waited for, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<String>,
    /// When it is asked again: because it did not let through, or because the deployment holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_at: Option<String>,
    /// Whether the environment has it be about what was brought: then nobody looks at it before the release has come to a target, or is prepared there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verifies: bool,
    /// How many verdicts there were.
    pub evaluations: u32,
    /// Who let it through all the same, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Hold>,
}

/// What a gate would say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedGate {
    /// Its name.
    pub gate: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `passed` or `failed`; `pending` if it has to be asked first.
    pub status: String,
    /// Whether it is about what was brought: then nobody looks at it before the release has come to a target, or is prepared there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verifies: bool,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Says whether a manual gate lets a promotion through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideGate {
    /// Whether it does.
    pub passed: bool,
    /// Why, for people.
    pub reason: String,
}

/// The newest report of one scanner on a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanReport {
    /// Which scanner.
    pub scanner: String,
    /// The digest of the document that it was read from.
    pub document: String,
    /// When it came.
    pub at: String,
    /// Who brought it.
    pub by: Actor,
    /// How many findings there are of each severity.
    pub counts: BTreeMap<String, u32>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// One thing that a scanner has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `critical`, `high`, `medium`, `low` or `unknown`.
    pub severity: String,
    /// What it is called.
    pub id: String,
    /// Where it is; empty if the scanner does not say.
    pub component: String,
}
