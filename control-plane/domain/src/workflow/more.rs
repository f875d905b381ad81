//! What steps do beside deploying, waiting and calling: look at gates, and run other workflows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::findings::Severity;
use crate::gate::{Comparison, Number};
use crate::name::{Identifier, Name};

/// How many runs one step may start.
pub const FAN_OUT_MAX: usize = 32;
/// How deep workflows may lie in one another. None lies in itself: a template names versions that were there before it.
pub const DEPTH_MAX: u32 = 4;

/// Look at a gate: one of an environment, by name, or one that is written here. Texts may hold `${expressions}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateStep {
    /// What is looked at: a release's id, or `application:version`.
    pub release: String,
    /// For where.
    pub environment: String,
    /// A gate that the environment has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// An expression over `release`, `environment` and `findings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// How many findings of each severity there may be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub findings: BTreeMap<Severity, u32>,
    /// How many registered keys must have signed the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<u32>,
    /// What a Prometheus must answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricGate>,
    /// Who must let it through, by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGate>,
    /// A person must let it through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<ManualGate>,
}

/// What a Prometheus must answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricGate {
    /// Which one: a name in the control plane's configuration.
    pub source: Name,
    /// The query, in PromQL. May hold `${expressions}`.
    pub query: String,
    /// How each sample of the answer must compare. There must be one.
    pub comparison: Comparison,
    /// With what.
    pub threshold: Number,
}

/// Who must let it through, by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGate {
    /// Which one: a name in the control plane's configuration.
    pub endpoint: Name,
}

/// An approver in the environment must let it through, other than who has asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManualGate {
    /// What it is about, for people. May hold `${expressions}`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Run another workflow, and wait for its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubWorkflow {
    /// Which one.
    pub name: Name,
    /// Which version of it: it does not change when newer ones come.
    pub version: u32,
    /// What it is given. Texts may hold `${expressions}`, and where the step is done for each of several items, `${item}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<Identifier, Value>,
}

/// What a step is done for each of: these texts, or the targets of an environment that have some labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ForEach {
    /// These. Each may hold `${expressions}`.
    Items(Vec<String>),
    /// The names of targets, in their order, as they are when the step begins.
    Targets(Targets),
}

/// Targets of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Where. May hold `${expressions}`.
    pub environment: String,
    /// Which: those that have these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
