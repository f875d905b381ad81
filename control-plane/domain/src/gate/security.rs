//! What scanners may have found in a release, and whose reports count.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::ReleaseId;
use stella_protocol::time::Timestamp;

use super::{Evaluated, Outcome, digest_of};
use crate::command::ActingAccount;
use crate::findings::{Finding, Report, Reports, Severity};
use crate::name::Name;

/// How many findings one gate may allow by name.
pub const ALLOWED_MAX: usize = 256;
/// How many accounts one gate may name whose reports count.
pub const REPORTERS_MAX: usize = 16;
/// How many findings a verdict names before it only counts them.
const NAMED_MAX: usize = 5;

/// What may have been found in a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// How many findings of a severity there may be. Of a severity that is not listed there may be any number.
    pub limits: BTreeMap<Severity, u32>,
    /// Findings that do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<Allowed>,
    /// Scanners that must have reported; if empty, any one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scanners: Vec<Name>,
    /// How old their reports may be, in milliseconds; `None` is any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    /// Whose reports count; if empty, everybody's who may report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reporters: Vec<ActingAccount>,
}

/// A finding that is known and does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// What it is called.
    pub id: String,
    /// Until when it does not count; `None` is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why, for a person.
    pub reason: String,
}

impl Security {
    /// What it comes to for a release with these reports.
    #[must_use]
    pub fn evaluate(&self, release: ReleaseId, reports: &Reports, now: Timestamp) -> Evaluated {
        let wanted = || self.counting(reports);
        let inputs = self.inputs(release, reports);
        let (outcome, reason) = match self.objection(reports, now) {
            Some(reason) => (Outcome::Failed, reason),
            None => (Outcome::Passed, self.praise(reports, now)),
        };
        let ends = self.allowed.iter().filter_map(|allowed| allowed.until);
        let ages = wanted().filter_map(|(_, report)| self.too_old_at(report));
        let changes_at = ends.chain(ages).filter(|at| *at > now).min();
        Evaluated { outcome, reason, inputs, changes_at }
    }

    /// What it comes to for what no scanner could look into.
    pub(crate) fn nothing_to_find(&self, release: ReleaseId) -> Evaluated {
        let (outcome, reason) = (Outcome::Passed, "a job brings no software".to_owned());
        Evaluated { outcome, reason, inputs: self.inputs(release, &Reports::default()), changes_at: None }
    }

    /// The digest of what it looks at.
    #[must_use]
    pub fn inputs(&self, release: ReleaseId, reports: &Reports) -> Digest {
        let wanted = self.counting(reports);
        let documents: Vec<_> = wanted.map(|(name, report)| (name, report.digest, report.at)).collect();
        digest_of(&(release, documents))
    }

    fn asks(&self, scanner: &Name) -> bool {
        self.scanners.is_empty() || self.scanners.contains(scanner)
    }

    /// The reports that count: of the scanners that are wanted, by whom the gate trusts.
    fn counting<'r>(&self, reports: &'r Reports) -> impl Iterator<Item = (&'r Name, &'r Arc<Report>)> {
        reports.iter().filter(|(name, report)| self.asks(name) && self.trusts(report))
    }

    fn trusts(&self, report: &Report) -> bool {
        let by = report.by.account();
        self.reporters.is_empty() || by.is_some_and(|by| self.reporters.iter().any(|it| it.id == by.id))
    }

    fn too_old_at(&self, report: &Report) -> Option<Timestamp> {
        self.max_age_ms.map(|age| report.at.plus_ms(age))
    }

    fn objection(&self, reports: &Reports, now: Timestamp) -> Option<String> {
        let by = || {
            let names: Vec<&str> = self.reporters.iter().map(|by| by.name.as_str()).collect();
            if names.is_empty() { String::new() } else { format!(" by {}", names.join(" or ")) }
        };
        let counts = |name: &&Name| reports.get(*name).is_some_and(|report| self.trusts(report));
        if let Some(missing) = self.scanners.iter().find(|name| !counts(name)) {
            return Some(format!("no report of scanner {missing}{} on this release; post one first", by()));
        }
        let mut wanted = self.counting(reports).peekable();
        if wanted.peek().is_none() {
            let by = by();
            return Some(format!("no scanner has reported{by} on this release; post its report first"));
        }
        if let Some((name, _)) =
            wanted.find(|(_, report)| self.too_old_at(report).is_some_and(|at| at <= now))
        {
            return Some(format!("the report of scanner {name} is too old; scan again"));
        }
        self.limits.iter().rev().find_map(|(severity, limit)| {
            let found = self.counted(reports, *severity, now);
            (found.len() > usize::try_from(*limit).unwrap_or(usize::MAX)).then(|| {
                format!("{} {severity} findings, and {limit} are allowed: {}", found.len(), listed(&found))
            })
        })
    }

    fn praise(&self, reports: &Reports, now: Timestamp) -> String {
        let counts = self
            .limits
            .keys()
            .rev()
            .map(|severity| format!("{} {severity}", self.counted(reports, *severity, now).len()));
        let counts: Vec<String> = counts.collect();
        if counts.is_empty() {
            "there is a report".to_owned()
        } else {
            format!("findings: {}", counts.join(", "))
        }
    }

    /// What counts of a severity; what several scanners have found counts once.
    fn counted<'r>(&self, reports: &'r Reports, severity: Severity, now: Timestamp) -> Vec<&'r Finding> {
        let wanted = self.counting(reports);
        let all = wanted.flat_map(|(_, report)| &report.findings).filter(|found| found.severity == severity);
        let mut counted: Vec<&Finding> = all
            .filter(|found| {
                !self.allowed.iter().any(|it| it.id == found.id && it.until.is_none_or(|end| now < end))
            })
            .collect();
        counted.sort_unstable();
        counted.dedup();
        counted
    }
}

fn listed(found: &[&Finding]) -> String {
    let mut named: Vec<String> =
        found
            .iter()
            .take(NAMED_MAX)
            .map(|it| {
                if it.component.is_empty() { it.id.clone() } else { format!("{} in {}", it.id, it.component) }
            })
            .collect();
    if found.len() > NAMED_MAX {
        named.push(format!("{} more", found.len() - NAMED_MAX));
    }
    named.join(", ")
}
