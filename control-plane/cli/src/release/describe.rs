//! A release for people.

use stella_api_types::release::{Phase, Provenance, Release};

use crate::{hold, print, promotion, when};

/// What it is made of, what it does on a target, where it comes from, and who signed it.
pub(super) fn release(it: &Release) -> String {
    let mut text = vec![
        format!("{}:{} {}", it.application, it.version, it.id),
        format!("created {}", when::moment_and_age(&it.created_at)),
        format!("standing {}{}", hold::name(it.standing), hold::because(it.judged.as_ref())),
    ];
    if !it.channels.is_empty() {
        text.push(format!("channels {}", it.channels.join(", ")));
    }
    let labels: Vec<String> =
        it.labels.iter().map(|(key, value)| print::one_line(&format!("{key}={value}"))).collect();
    if !labels.is_empty() {
        text.push(format!("labels {}", labels.join(", ")));
    }
    text.push("components:".to_owned());
    let component = |it: &stella_api_types::release::Component| {
        let gone = if it.removed { ", removed: upload it again to deploy the release" } else { "" };
        format!("  {} {} ({} bytes{gone})", it.name, it.digest, it.size_bytes)
    };
    text.extend(it.components.iter().map(component));
    text.push("on each target:".to_owned());
    let phases = it.steps.iter().map(|step| match step.phase {
        Phase::Prepare => "",
        Phase::Switch => " (switch)",
        Phase::Retire => " (retire)",
    });
    let runs = promotion::runs(&it.steps).zip(&it.steps).zip(phases);
    text.extend(runs.map(|((line, step), phase)| {
        format!("{line}{phase}, within {}", when::length(step.timeout_ms.div_ceil(1_000)))
    }));
    text.extend(it.provenance.iter().flat_map(provenance));
    text.push(format!("statement {}", it.statement));
    text.extend(it.signatures.iter().map(|signature| {
        let counts = if signature.counts { "" } else { ", which counts no more" };
        format!("signed by {}{counts}", signature.name)
    }));
    text.join("\n")
}

fn provenance(it: &Provenance) -> Vec<String> {
    let plain = [
        ("commit", &it.commit),
        ("repository", &it.repository),
        ("build", &it.build_url),
        ("builder", &it.builder),
    ];
    let plain = plain
        .into_iter()
        .filter_map(|(name, value)| Some(print::one_line(&format!("{name} {}", value.as_ref()?))));
    let documents = [("sbom", &it.sboms), ("attestation", &it.attestations)];
    let documents = documents
        .into_iter()
        .flat_map(|(name, all)| all.iter().map(move |it| format!("{name} {} {}", it.uri, it.digest)));
    plain.chain(documents).collect()
}
