//! From what scanners write to findings: SARIF, CycloneDX, and the JSON of Trivy and Grype.
//!
//! Only the few fields that say what was found, how bad it is and where are read, in types of our own: the formats have crates,
//! but those want whole documents of one version, and tools differ. What a document says is not affected is left out.
//!
//! Nothing is read into a tree of everything that is there: one that is made for it takes thirty times the document's size in memory.

mod cyclonedx;
mod grype;
mod sarif;
mod trivy;

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use stella_domain::findings::{FINDING_COMPONENT_BYTES_MAX, FINDING_ID_BYTES_MAX, Finding, Severity};

/// How many objects and lists a document may have: each can become some hundred bytes in memory.
const CONTAINERS_MAX: usize = 1_000_000;

/// Why a document has no findings to read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not JSON.
    #[error("is not JSON")]
    Json(#[source] serde_json::Error),
    /// It is in no known format.
    #[error("is none of: SARIF 2.1, CycloneDX JSON with vulnerabilities, JSON of Trivy, JSON of Grype")]
    Format,
    /// There is too much in it.
    #[error("has more than {CONTAINERS_MAX} objects and lists; leave the least severe out")]
    TooMany,
    /// It is not as its format says.
    #[error("is not {format}: {problem}")]
    Shape {
        /// Which format it should be in.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// What a document's format is seen by.
#[derive(Deserialize)]
struct Head<'d> {
    #[serde(rename = "bomFormat", default, borrow)]
    bom_format: Option<Cow<'d, str>>,
    #[serde(default, deserialize_with = "is_there")]
    runs: bool,
    #[serde(default, deserialize_with = "is_there")]
    matches: bool,
    #[serde(rename = "Results", default, deserialize_with = "is_there")]
    results: bool,
    #[serde(rename = "ArtifactName", default, deserialize_with = "is_there")]
    artifact_name: bool,
}

/// The findings in a document, whose format is recognized.
pub(crate) fn read(document: &[u8]) -> Result<Vec<Finding>, Error> {
    if containers(document) > CONTAINERS_MAX {
        return Err(Error::TooMany);
    }
    let head: Head<'_> = serde_json::from_slice(document)
        .map_err(|error| if error.is_data() { Error::Format } else { Error::Json(error) })?;
    if head.bom_format.is_some_and(|format| format == "CycloneDX") {
        cyclonedx::read(document)
    } else if head.runs {
        sarif::read(document)
    } else if head.matches {
        grype::read(document)
    } else if head.results || head.artifact_name {
        trivy::read(document)
    } else {
        Err(Error::Format)
    }
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// How many objects and lists begin in a text of JSON.
fn containers(document: &[u8]) -> usize {
    let (mut count, mut in_text, mut is_escaped) = (0, false, false);
    for byte in document {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

fn shaped<'d, T: Deserialize<'d>>(format: &'static str, document: &'d [u8]) -> Result<T, Error> {
    serde_json::from_slice(document).map_err(|error| Error::Shape { format, problem: error.to_string() })
}

/// A finding, its texts cut to what is kept: a scanner's own words are longer sometimes, and no reason to lose a report.
fn finding(severity: Severity, id: &str, component: &str) -> Finding {
    let id = if id.is_empty() { "unnamed" } else { id };
    Finding {
        severity,
        id: cut(id, FINDING_ID_BYTES_MAX).to_owned(),
        component: cut(component, FINDING_COMPONENT_BYTES_MAX).to_owned(),
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A severity by name, in any case. What is less than low is low.
fn severity(name: &str) -> Severity {
    match name.to_ascii_lowercase().as_str() {
        "critical" => Severity::Critical,
        "high" => Severity::High,
        "medium" | "moderate" => Severity::Medium,
        "low" | "negligible" | "info" | "none" => Severity::Low,
        _ => Severity::Unknown,
    }
}

/// `name@version`, or what there is of it.
fn at_version(name: &str, version: &str) -> String {
    if version.is_empty() { name.to_owned() } else { format!("{name}@{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str) -> Vec<(Severity, String, String)> {
        let read = read(document.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        read.into_iter().map(|it| (it.severity, it.id, it.component)).collect()
    }

    fn one(severity: Severity, id: &str, component: &str) -> (Severity, String, String) {
        (severity, id.to_owned(), component.to_owned())
    }

    #[test]
    fn trivy_s_vulnerabilities_misconfigurations_and_secrets_are_found() {
        let document = r#"{"SchemaVersion":2,"ArtifactName":"web","Results":[
            {"Target":"debian","Vulnerabilities":[
                {"VulnerabilityID":"CVE-2026-1","PkgName":"openssl","InstalledVersion":"3.0.1","Severity":"CRITICAL","Title":"x"}]},
            {"Target":"Dockerfile","Misconfigurations":[
                {"ID":"DS002","Severity":"HIGH","Status":"FAIL"},{"ID":"DS003","Severity":"HIGH","Status":"PASS"}]},
            {"Target":"app.env","Secrets":[{"RuleID":"aws-access-key-id","Severity":"CRITICAL","Match":"****"}]},
            {"Target":"clean"}]}"#;
        let expected = [
            one(Severity::Critical, "CVE-2026-1", "openssl@3.0.1"),
            one(Severity::High, "DS002", "Dockerfile"),
            one(Severity::Critical, "aws-access-key-id", "app.env"),
        ];
        assert_eq!(found(document), expected);
        assert_eq!(found(r#"{"ArtifactName":"web","Results":null}"#), []);
    }

    #[test]
    fn grype_s_matches_are_found() {
        let document = r#"{"matches":[{"vulnerability":{"id":"GHSA-1","severity":"Negligible"},"artifact":{"name":"tar","version":"1.0"}}]}"#;
        assert_eq!(found(document), [one(Severity::Low, "GHSA-1", "tar@1.0")]);
    }

    #[test]
    fn cyclonedx_says_the_worst_rating_and_what_is_not_affected_is_left_out() {
        let document = r#"{"bomFormat":"CycloneDX","specVersion":"1.6",
            "components":[{"bom-ref":"pkg:a","name":"a","version":"2"}],
            "vulnerabilities":[
                {"id":"CVE-1","ratings":[{"severity":"medium"},{"severity":"high"}],"affects":[{"ref":"pkg:a"},{"ref":"pkg:b"}]},
                {"id":"CVE-2","ratings":[{"severity":"critical"}],"analysis":{"state":"not_affected"},"affects":[{"ref":"pkg:a"}]},
                {"id":"CVE-3"}]}"#;
        let expected = [
            one(Severity::High, "CVE-1", "a@2"),
            one(Severity::High, "CVE-1", "pkg:b"),
            one(Severity::Unknown, "CVE-3", ""),
        ];
        assert_eq!(found(document), expected);
    }

    #[test]
    fn sarif_s_levels_are_overruled_by_scores_and_suppressed_results_are_left_out() {
        let document = r#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x","rules":[
                {"id":"R1","properties":{"security-severity":"9.8"}},
                {"id":"R2","defaultConfiguration":{"level":"error"}}]}},
            "results":[
                {"ruleId":"R1","level":"warning","locations":[{"physicalLocation":{"artifactLocation":{"uri":"src/a.c"}}}]},
                {"ruleIndex":1},
                {"ruleId":"R3","level":"note"},
                {"ruleId":"R3","kind":"pass"},
                {"ruleId":"R1","suppressions":[{"kind":"external"}]}]}]}"#;
        let expected = [
            one(Severity::Critical, "R1", "src/a.c"),
            one(Severity::High, "R2", ""),
            one(Severity::Low, "R3", ""),
        ];
        assert_eq!(found(document), expected);
    }

    #[test]
    fn what_is_no_report_is_refused_in_words() {
        assert!(matches!(read(b"<xml/>"), Err(Error::Json(_))));
        for nothing in ["{}", "[]", "7", r#"{"bomFormat":"other"}"#] {
            assert!(matches!(read(nothing.as_bytes()), Err(Error::Format)), "{nothing}");
        }
        for shaped_otherwise in [r#"{"runs":{"a":1}}"#, r#"{"runs":null}"#] {
            let error = read(shaped_otherwise.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("is not SARIF: "), "{error}");
        }
        assert!(matches!(read(br#"{"runs":[]} and more"#), Err(Error::Json(_))));
    }

    #[test]
    fn what_would_take_much_memory_is_refused_before_it_is_read() {
        let many = |piece: &str, count: usize| format!(r#"{{"runs":[{}0]}}"#, piece.repeat(count));
        for piece in [r#"{"a":0},"#, "[],"] {
            let found = read(many(piece, CONTAINERS_MAX).as_bytes());
            assert!(matches!(found, Err(Error::TooMany)), "{found:?}");
        }
        let in_texts = r#"{"matches":[],"note":"{[\"{[\\","end":[{}]}"#;
        assert_eq!(containers(in_texts.as_bytes()), 4);
        assert_eq!(found(in_texts), []);
    }

    #[test]
    fn scores_are_numbers_or_texts_and_else_nothing() {
        for (score, expected) in [
            ("7", Severity::High),
            ("-1", Severity::Low),
            ("4.0", Severity::Medium),
            (r#""9.8""#, Severity::Critical),
            (r#""high""#, Severity::Medium),
            ("null", Severity::Medium),
            ("true", Severity::Medium),
            (r#"[{"a":[1]}]"#, Severity::Medium),
            (r#"{"a":{"b":1}}"#, Severity::Medium),
        ] {
            let document = format!(
                r#"{{"runs":[{{"tool":{{"driver":{{"rules":[
                    {{"id":"R","properties":{{"security-severity":{score}}}}},
                    {{"id":"R","properties":{{"security-severity":10}}}}]}}}},"results":[{{"ruleId":"R"}}]}}]}}"#
            );
            assert_eq!(found(&document), [one(expected, "R", "")], "{score}");
        }
    }

    #[test]
    fn long_texts_are_cut_and_missing_names_are_named() {
        let long = "ä".repeat(300);
        let cut = finding(Severity::Low, &long, &long);
        assert!(cut.id.len() <= FINDING_ID_BYTES_MAX && cut.component.len() <= FINDING_COMPONENT_BYTES_MAX);
        assert_eq!(finding(Severity::Low, "", "").id, "unnamed");
    }
}
