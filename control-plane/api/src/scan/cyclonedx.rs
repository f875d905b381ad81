//! CycloneDX JSON with vulnerabilities, as scanners and VEX tools write it.

use std::collections::HashMap;

use serde::Deserialize;
use stella_domain::findings::{Finding, Severity};

use super::{Error, at_version, finding, severity, shaped};

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    components: Vec<Component>,
    #[serde(default)]
    vulnerabilities: Vec<Vulnerability>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "bom-ref", default)]
    reference: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct Vulnerability {
    #[serde(default)]
    id: String,
    #[serde(default)]
    ratings: Vec<Rating>,
    #[serde(default)]
    analysis: Option<Analysis>,
    #[serde(default)]
    affects: Vec<Affected>,
}

#[derive(Deserialize)]
struct Rating {
    #[serde(default)]
    severity: String,
}

#[derive(Deserialize)]
struct Analysis {
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct Affected {
    #[serde(rename = "ref", default)]
    reference: String,
}

pub(super) fn read(document: &[u8]) -> Result<Vec<Finding>, Error> {
    let document: Document = shaped("CycloneDX", document)?;
    let names: HashMap<&str, String> = document
        .components
        .iter()
        .map(|it| (it.reference.as_str(), at_version(&it.name, &it.version)))
        .collect();
    let mut found = Vec::new();
    for Vulnerability { id, ratings, analysis, affects } in &document.vulnerabilities {
        let settled = analysis.as_ref().is_some_and(|it| {
            matches!(
                it.state.as_str(),
                "not_affected" | "false_positive" | "resolved" | "resolved_with_pedigree"
            )
        });
        if settled {
            continue;
        }
        let worst = ratings.iter().map(|it| severity(&it.severity)).max().unwrap_or(Severity::Unknown);
        if affects.is_empty() {
            found.push(finding(worst, id, ""));
        }
        found.extend(affects.iter().map(|it| {
            let named = names.get(it.reference.as_str()).filter(|name| !name.is_empty());
            finding(worst, id, named.unwrap_or(&it.reference))
        }));
    }
    Ok(found)
}
