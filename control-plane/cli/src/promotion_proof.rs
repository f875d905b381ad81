//! Proofs that a part of a plan is in the hash that people approve: shown, and checked without the control plane.

use std::io::Read as _;
use std::path::Path;

use stella_api_types::paths;
use stella_api_types::promotion::PlanProof;
use stella_protocol::digest::Digest;
use stella_signing::merkle;

use crate::args::{Output, PlanPart};
use crate::client::{Error, read};
use crate::{Context, print};

/// How large a proof may be, in bytes: more than any leaf has.
const PROOF_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(crate) async fn prove(
    context: &Context,
    promotion: &str,
    target: Option<&str>,
    part: Option<PlanPart>,
) -> Result<(), Error> {
    let path = context.path(paths::PROMOTION_PLAN_PROOF, &[promotion])?;
    let part = part.map(|part| match part {
        PlanPart::Wanted => "wanted",
        PlanPart::Guards => "guards",
        PlanPart::Release => "release",
    });
    let query = [("target", target), ("part", part)];
    let query: Vec<(&str, &str)> = query.iter().filter_map(|(key, value)| Some((*key, (*value)?))).collect();
    let proof: PlanProof = context.client.get_where(&path, &query).await?;
    print::result(context.output, &proof, |it| {
        let proven = match holds(it, None) {
            Ok(root) => format!("it is leaf {} of {} in the plan {root}", it.index, it.leaves),
            Err(problem) => format!("warning: the proof does not hold: {problem}"),
        };
        format!("{}\n{proven}", pretty(&it.leaf))
    })
}

/// Checks a proof in a file; whether it holds.
pub(crate) fn verify(output: Output, file: &Path, plan: Option<&str>) -> Result<bool, Error> {
    let text = if file.as_os_str() == "-" { from_stdin()? } else { read(file)? };
    let proof: PlanProof = serde_json::from_str(&text)
        .map_err(|error| Error::Usage(format!("{} is no proof: {error}", file.display())))?;
    let found = holds(&proof, plan);
    let said = serde_json::json!({
        "holds": found.is_ok(), "promotion": proof.promotion, "problem": found.as_ref().err(), "plan": found.as_ref().ok().map(Digest::to_string),
    });
    print::result(output, &said, |_| match &found {
        Ok(root) => {
            let trusted = if plan.is_some() {
                ""
            } else {
                "; compare it with the one that was approved, or give it as --plan"
            };
            format!("{}\nthe proof holds: this is in the plan {root}{trusted}", pretty(&proof.leaf))
        }
        Err(problem) => format!("the proof does not hold: {problem}"),
    })?;
    Ok(found.is_ok())
}

fn from_stdin() -> Result<String, Error> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PROOF_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| Error::Usage(format!("standard input cannot be read: {error}")))?;
    Ok(text)
}

/// The root that a proof leads to, if it is the one that it should be.
fn holds(proof: &PlanProof, plan: Option<&str>) -> Result<Digest, String> {
    let digest = |what: &str, text: &str| text.parse::<Digest>().map_err(|error| format!("{what} {error}"));
    let path: Vec<Digest> =
        proof.path.iter().map(|text| digest("a hash of the path", text)).collect::<Result<_, _>>()?;
    let found = merkle::root_of(merkle::leaf(proof.leaf.as_bytes()), proof.index, proof.leaves, &path)
        .ok_or_else(|| format!("there is no leaf {} of {} with such a path", proof.index, proof.leaves))?;
    let named = digest("the plan", &proof.plan.root)?;
    let wanted = plan.map_or(Ok(named), |plan| digest("the plan", plan))?;
    if found != named {
        return Err(format!("it leads to {found}, and names the plan {named}"));
    }
    if found != wanted {
        return Err(format!("it is of the plan {found}, and {wanted} was approved"));
    }
    Ok(found)
}

fn pretty(leaf: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(leaf);
    value.and_then(|it| serde_json::to_string_pretty(&it)).unwrap_or_else(|_| print::one_line(leaf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stella_api_types::promotion::PlanHash;

    fn proof() -> PlanProof {
        let leaves: Vec<Digest> = ["a", "b", "c"].iter().map(|it| merkle::leaf(it.as_bytes())).collect();
        let path = merkle::path(&leaves, 1).expect("there are three");
        PlanProof {
            promotion: "1".to_owned(),
            plan: PlanHash { version: 4, root: merkle::root(&leaves).to_string(), targets: 1 },
            leaf: "b".to_owned(),
            index: 1,
            leaves: 3,
            path: path.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_proof_holds_for_its_leaf_its_place_and_its_plan() {
        let good = proof();
        let root = good.plan.root.clone();
        assert!(holds(&good, None).is_ok() && holds(&good, Some(&root)).is_ok());
        let other = merkle::leaf(b"x").to_string();
        assert!(holds(&good, Some(&other)).unwrap_err().contains("was approved"));
        let wrong = [
            PlanProof { leaf: "B".to_owned(), ..proof() },
            PlanProof { index: 2, ..proof() },
            PlanProof { leaves: 9, ..proof() },
            PlanProof { path: vec![other.clone()], ..proof() },
            PlanProof { path: vec!["x".to_owned()], ..proof() },
            PlanProof { plan: PlanHash { root: other, ..proof().plan }, ..proof() },
        ];
        assert!(wrong.iter().all(|it| holds(it, None).is_err()));
    }
}
