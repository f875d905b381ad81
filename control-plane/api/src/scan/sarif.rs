//! SARIF 2.1, which most analysers can write.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use stella_domain::findings::{Finding, Severity};

use super::{Error, finding, shaped};

#[derive(Deserialize)]
struct Log {
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    tool: Tool,
    #[serde(default)]
    results: Option<Vec<Outcome>>,
}

#[derive(Deserialize)]
struct Tool {
    driver: Driver,
}

#[derive(Deserialize)]
struct Driver {
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: String,
    #[serde(default)]
    properties: Properties,
    #[serde(default)]
    default_configuration: Option<Configuration>,
}

#[derive(Default, Deserialize)]
struct Properties {
    /// A CVSS score as text, by the convention of code hosting sites.
    #[serde(rename = "security-severity", default)]
    score: Score,
}

/// A number, or a text that is one; nothing for all else that may be there.
#[derive(Default)]
struct Score(Option<f64>);

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScoreVisitor).map(Score)
    }
}

struct ScoreVisitor;

impl<'de> Visitor<'de> for ScoreVisitor {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a score")
    }

    fn visit_f64<E>(self, number: f64) -> Result<Option<f64>, E> {
        Ok(Some(number))
    }

    #[expect(clippy::cast_precision_loss, reason = "a score is 0 to 10")]
    fn visit_u64<E>(self, number: u64) -> Result<Option<f64>, E> {
        Ok(Some(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "a score is 0 to 10")]
    fn visit_i64<E>(self, number: i64) -> Result<Option<f64>, E> {
        Ok(Some(number as f64))
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<f64>, E> {
        Ok(text.parse().ok())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<f64>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<f64>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    level: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    #[serde(default)]
    rule_id: Option<String>,
    #[serde(default)]
    rule_index: Option<usize>,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    suppressions: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    locations: Vec<Location>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(default)]
    physical_location: Option<PhysicalLocation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    #[serde(default)]
    artifact_location: Option<ArtifactLocation>,
}

#[derive(Deserialize)]
struct ArtifactLocation {
    #[serde(default)]
    uri: String,
}

pub(super) fn read(document: &[u8]) -> Result<Vec<Finding>, Error> {
    let log: Log = shaped("SARIF", document)?;
    let mut found = Vec::new();
    for Run { tool, results } in log.runs {
        let rules = &tool.driver.rules;
        // The first of a name counts.
        let by_id: HashMap<&str, &Rule> = rules.iter().rev().map(|rule| (rule.id.as_str(), rule)).collect();
        let open = results.into_iter().flatten().filter(|it| {
            // A result without a kind is a failure, and an empty list says that nothing was suppressed.
            it.kind.as_deref().is_none_or(|kind| kind == "fail")
                && it.suppressions.as_ref().is_none_or(Vec::is_empty)
        });
        found.extend(open.map(|outcome| {
            let rule = match (&outcome.rule_id, outcome.rule_index) {
                (_, Some(at)) if rules.get(at).is_some() => rules.get(at),
                (Some(id), _) => by_id.get(id.as_str()).copied(),
                (None, _) => None,
            };
            let id =
                outcome.rule_id.as_deref().or_else(|| rule.map(|rule| rule.id.as_str())).unwrap_or_default();
            finding(severity_of(&outcome, rule), id, place(&outcome))
        }));
    }
    Ok(found)
}

/// A rule's score counts before the level, which only says error, warning or note.
fn severity_of(outcome: &Outcome, rule: Option<&Rule>) -> Severity {
    if let Some(score) = rule.and_then(|rule| rule.properties.score.0) {
        return match score {
            score if score >= 9.0 => Severity::Critical,
            score if score >= 7.0 => Severity::High,
            score if score >= 4.0 => Severity::Medium,
            _ => Severity::Low,
        };
    }
    let by_default = rule.and_then(|rule| rule.default_configuration.as_ref()?.level.as_deref());
    match outcome.level.as_deref().or(by_default).unwrap_or("warning") {
        "error" => Severity::High,
        "warning" => Severity::Medium,
        _ => Severity::Low,
    }
}

fn place(outcome: &Outcome) -> &str {
    let first = outcome.locations.first().and_then(|it| it.physical_location.as_ref());
    first.and_then(|it| it.artifact_location.as_ref()).map_or("", |it| it.uri.as_str())
}
