//! Gates: what must be so for a release to come to an environment.
//!
//! A gate belongs to an environment. It is looked at when a promotion is asked for, before it starts, and again before each
//! wave of its deployment: one that fails by then halts what is under way. A verdict says by which version of the gate, on
//! which inputs and until when it holds; an old one lets nothing through. Rollbacks go through no gate.
//!
//! Some gates are decided here, from the state. Others ask something outside of the control plane: then the question is a
//! fact, whoever does such things finds it in the state, and the answer comes as a command. Such an answer counts for the wave
//! in which it came: before the next one the same is asked again, and while a deployment holds for the release to prove itself
//! it is asked whenever the answer has run out.

mod security;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stella_expression::Expression;
use stella_protocol::digest::Digest;
use stella_protocol::time::Timestamp;

use crate::command::Actor;
use crate::findings::{Finding, Reports, Severity};
use crate::hold::Hold;
use crate::name::Name;
use crate::release::Release;
use crate::signature::SignatureRule;

pub use security::{ALLOWED_MAX, Allowed, REPORTERS_MAX, Security};

/// How many gates an environment may have: each is looked at before each wave.
pub const GATES_MAX: usize = 16;
/// How long a verdict may hold, in milliseconds: a second to a week.
pub const TTL_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);
/// How long a verdict holds if nobody says otherwise, in milliseconds.
pub const TTL_MS_DEFAULT: u64 = 300_000;
/// How long an answer from outside may take, in milliseconds. Whoever asks gives up before that.
pub const ANSWER_MS_MAX: u64 = 60_000;
/// The pause before something outside is asked again that did not let through: the first one and the longest one, in milliseconds.
/// Each is twice the one before, because every answer is an event.
pub const AGAIN_MS_RANGE: (u64, u64) = (15_000, 900_000);
/// How long a query may be, in bytes.
pub const QUERY_BYTES_MAX: usize = 4_096;
/// How long the reason of a verdict may be, in bytes. Longer ones are cut.
pub const VERDICT_REASON_BYTES_MAX: usize = 1_024;
/// What an expression may use: `release` (`application`, `version`, `labels`, `provenance`), `environment` (`name`) and `findings` (how many
/// there are of each severity over all scanners: `findings.critical`; and `findings.scanners`, the names of those that have reported).
pub const VARIABLES: [&str; 3] = ["environment", "findings", "release"];

/// What must be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Its name, unique in the environment.
    pub name: Name,
    /// How it is found out.
    pub check: Check,
    /// For how long a verdict that lets through holds at most, in milliseconds; and how often something outside is asked while a
    /// deployment holds.
    pub ttl_ms: u64,
    /// Whether it is about what was brought: then nobody looks at it before the release has come to a target, or is prepared there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verifies: bool,
}

impl Gate {
    /// The digest of what the gate wants: the version of the policy that a verdict was made by.
    #[must_use]
    pub fn policy(&self) -> Digest {
        digest_of(self)
    }
}

/// How it is found out whether a gate lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Check {
    /// What scanners have found in the release.
    Security(Security),
    /// What a Prometheus answers.
    Metric {
        /// Which one: a name in the control plane's configuration.
        source: Name,
        /// The query, in PromQL.
        query: String,
        /// How each sample of the answer must compare. There must be one.
        comparison: Comparison,
        /// With what.
        threshold: Number,
    },
    /// What an expression comes to.
    Expression {
        /// The expression, in CEL. See [`VARIABLES`].
        expression: String,
    },
    /// What an HTTP endpoint answers.
    Http {
        /// Which one: a name in the control plane's configuration.
        endpoint: Name,
    },
    /// What a person says.
    Manual,
    /// By whose keys the release is signed.
    Signature(SignatureRule),
}

impl Check {
    /// Whether the state says what it comes to. The others are asked: something outside, or a person.
    #[must_use]
    pub const fn is_decided_here(&self) -> bool {
        match self {
            Self::Security(_) | Self::Expression { .. } | Self::Signature(_) => true,
            Self::Metric { .. } | Self::Http { .. } | Self::Manual => false,
        }
    }

    /// The names of all of them.
    pub const TYPES: [&'static str; 6] = ["security", "metric", "expression", "http", "manual", "signature"];

    /// The name in messages, metrics and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Security(_) => "security",
            Self::Metric { .. } => "metric",
            Self::Expression { .. } => "expression",
            Self::Http { .. } => "http",
            Self::Manual => "manual",
            Self::Signature(_) => "signature",
        }
    }

    /// Whether something outside of the control plane is asked.
    #[must_use]
    pub const fn is_outside(&self) -> bool {
        match self {
            Self::Metric { .. } | Self::Http { .. } => true,
            Self::Security(_) | Self::Expression { .. } | Self::Manual | Self::Signature(_) => false,
        }
    }
}

/// How a number compares with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Comparison {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Below, Self::AtMost, Self::Above, Self::AtLeast];

    /// Whether `value` compares so with `threshold`. Nothing compares with what is not a number.
    #[must_use]
    pub fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Below => value < threshold,
            Self::AtMost => value <= threshold,
            Self::Above => value > threshold,
            Self::AtLeast => value >= threshold,
        }
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Below => "below",
            Self::AtMost => "at_most",
            Self::Above => "above",
            Self::AtLeast => "at_least",
        }
    }
}

/// A number that is one: finite.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Number(f64);

impl TryFrom<f64> for Number {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        // Minus zero is zero, so that equal numbers are the same policy.
        if value.is_finite() { Ok(Self(value + 0.0)) } else { Err("must be a finite number") }
    }
}

impl From<Number> for f64 {
    fn from(number: Number) -> Self {
        number.0
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Number {}

/// A gate as an environment has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What it wants.
    pub gate: Gate,
    /// [`Gate::policy`], worked out once.
    pub policy: Digest,
}

/// What is known of one gate for one promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How often it was decided.
    pub evaluations: u32,
    /// How often in a row it has not let through.
    pub misses: u32,
    /// The newest verdict.
    pub verdict: Option<Verdict>,
    /// What was asked outside and is not answered.
    pub asked: Option<Asked>,
    /// When something outside is asked again: because it did not let through, or because the deployment holds.
    pub again_at: Option<Timestamp>,
    /// Who lets it through all the same, for ever on record.
    pub overridden: Option<Override>,
}

impl Record {
    /// Whether somebody has said that this version of the policy does not matter.
    #[must_use]
    pub fn is_overridden(&self, policy: Digest) -> bool {
        self.overridden.as_ref().is_some_and(|it| it.policy == policy)
    }

    /// Whether it lets through at `now`.
    #[must_use]
    pub fn lets_through(&self, policy: Digest, now: Timestamp) -> bool {
        self.is_overridden(policy)
            || self.verdict.as_ref().is_some_and(|it| {
                it.outcome == Outcome::Passed
                    && it.policy == policy
                    && it.expires_at.is_none_or(|end| now < end)
            })
    }
}

/// A question to something outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its number: the answer has the same.
    pub number: u32,
    /// The version of the policy.
    pub policy: Digest,
    /// When.
    pub at: Timestamp,
}

impl Asked {
    /// When it counts as unanswered.
    #[must_use]
    pub const fn overdue_at(&self) -> Timestamp {
        self.at.plus_ms(ANSWER_MS_MAX)
    }
}

/// What a gate said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it lets through.
    pub outcome: Outcome,
    /// Why, for a person.
    pub reason: String,
    /// The version of the policy that it was made by.
    pub policy: Digest,
    /// The digest of what was looked at; `None` if nobody can say.
    pub inputs: Option<Digest>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When it was made.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
    /// Until when it lets through; `None` is as long as nothing changes.
    pub expires_at: Option<Timestamp>,
    /// How many waves of the deployment were over by then: see [`Deployment::waves`](crate::deployment::Deployment::waves).
    #[serde(default)]
    pub wave: u32,
}

/// Whether a gate lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It does.
    Passed,
    /// It does not.
    Failed,
    /// Nobody can say: what was asked gave no answer. Nothing is let through, and nothing is called failed.
    Unavailable,
}

impl Outcome {
    /// The name in messages, metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Somebody's word that a gate does not matter for one promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The version of the policy that is overridden: another one is not.
    pub policy: Digest,
    /// Who, when and why.
    pub hold: Hold,
}

/// What a check that is decided here comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluated {
    /// Whether it lets through.
    pub outcome: Outcome,
    /// Why, for a person.
    pub reason: String,
    /// The digest of what was looked at.
    pub inputs: Digest,
    /// When it would come to something else by time alone; `None` is never.
    pub changes_at: Option<Timestamp>,
}

/// What an expression comes to for a release with these reports.
#[must_use]
pub fn evaluate_expression(source: &str, place: &Name, release: &Release, reports: &Reports) -> Evaluated {
    let variables = variables(place, release, reports);
    let inputs = digest_of(&(release.id, &variables));
    let value = Expression::compile(source).and_then(|expression| expression.holds(&variables));
    let (outcome, reason) = match value {
        Ok(true) => (Outcome::Passed, "the expression is true".to_owned()),
        Ok(false) => (Outcome::Failed, format!("the expression is false: {source}")),
        Err(error) => (Outcome::Failed, format!("the expression cannot be decided: {error}")),
    };
    Evaluated { outcome, reason, inputs, changes_at: None }
}

/// The digest of what an expression looks at.
#[must_use]
pub fn expression_inputs(place: &Name, release: &Release, reports: &Reports) -> Digest {
    digest_of(&(release.id, &variables(place, release, reports)))
}

fn variables(place: &Name, release: &Release, reports: &Reports) -> BTreeMap<String, Value> {
    let mut found: Vec<&Finding> = reports.values().flat_map(|report| &report.findings).collect();
    found.sort_unstable();
    found.dedup();
    let count = |severity| found.iter().filter(|it| it.severity == severity).count();
    let mut findings: serde_json::Map<String, Value> =
        Severity::ALL.into_iter().map(|it| (it.name().to_owned(), count(it).into())).collect();
    let scanners: Vec<&str> = reports.keys().map(Name::as_str).collect();
    findings.insert("scanners".to_owned(), scanners.into());
    let values = [
        json!({ "name": place }),
        Value::Object(findings),
        json!({ "application": release.application, "version": release.version, "labels": release.labels, "provenance": provenance(release) }),
    ];
    VARIABLES.map(str::to_owned).into_iter().zip(values).collect()
}

/// All of it is there, so that an expression need not ask first.
fn provenance(release: &Release) -> Value {
    let known = release.provenance.clone().unwrap_or_default();
    json!({
        "commit": known.commit.unwrap_or_default(),
        "repository": known.repository.unwrap_or_default(),
        "build_url": known.build_url.unwrap_or_default(),
        "builder": known.builder.unwrap_or_default(),
        "sboms": known.sboms,
        "attestations": known.attestations,
    })
}

/// A reason, as long as it may be.
pub(crate) fn cut(mut reason: String) -> String {
    let end = reason.floor_char_boundary(VERDICT_REASON_BYTES_MAX);
    reason.truncate(end);
    reason
}

/// The digest of a value's JSON. Fields have a fixed order and maps are sorted.
pub(crate) fn digest_of(value: &impl Serialize) -> Digest {
    let json = serde_json::to_vec(value).expect("plain values, and maps with texts as keys, are JSON");
    Digest(Sha256::digest(json).into())
}
