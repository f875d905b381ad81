//! The JSON of Trivy (`trivy … --format json`).

use serde::Deserialize;
use stella_domain::findings::Finding;

use super::{Error, at_version, finding, severity, shaped};

#[derive(Deserialize)]
struct Report {
    #[serde(rename = "Results", default)]
    results: Option<Vec<Target>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Target {
    target: String,
    vulnerabilities: Option<Vec<Vulnerability>>,
    misconfigurations: Option<Vec<Misconfiguration>>,
    secrets: Option<Vec<Secret>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    pkg_name: String,
    installed_version: String,
    severity: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Misconfiguration {
    #[serde(rename = "ID")]
    id: String,
    severity: String,
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Secret {
    #[serde(rename = "RuleID")]
    rule: String,
    severity: String,
}

pub(super) fn read(document: &[u8]) -> Result<Vec<Finding>, Error> {
    let report: Report = shaped("JSON of Trivy", document)?;
    let mut found = Vec::new();
    for Target { target, vulnerabilities, misconfigurations, secrets } in report.results.unwrap_or_default() {
        found.extend(vulnerabilities.into_iter().flatten().map(|it| {
            finding(severity(&it.severity), &it.id, &at_version(&it.pkg_name, &it.installed_version))
        }));
        let failed = misconfigurations.into_iter().flatten().filter(|it| it.status != "PASS");
        found.extend(failed.map(|it| finding(severity(&it.severity), &it.id, &target)));
        found.extend(
            secrets.into_iter().flatten().map(|it| finding(severity(&it.severity), &it.rule, &target)),
        );
    }
    Ok(found)
}
