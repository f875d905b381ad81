//! The JSON of Grype (`grype … -o json`).

use serde::Deserialize;
use stella_domain::findings::Finding;

use super::{Error, at_version, finding, severity, shaped};

#[derive(Deserialize)]
struct Report {
    matches: Vec<Match>,
}

#[derive(Deserialize)]
struct Match {
    vulnerability: Vulnerability,
    artifact: Artifact,
}

#[derive(Deserialize)]
struct Vulnerability {
    id: String,
    #[serde(default)]
    severity: String,
}

#[derive(Deserialize)]
struct Artifact {
    name: String,
    #[serde(default)]
    version: String,
}

pub(super) fn read(document: &[u8]) -> Result<Vec<Finding>, Error> {
    let report: Report = shaped("JSON of Grype", document)?;
    let found = report.matches.into_iter().map(|Match { vulnerability, artifact }| {
        let component = at_version(&artifact.name, &artifact.version);
        finding(severity(&vulnerability.severity), &vulnerability.id, &component)
    });
    Ok(found.collect())
}
