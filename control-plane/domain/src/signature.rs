//! Signatures of releases: by whose keys, and how many are wanted.
//!
//! A tenant registers the public halves of the keys that sign its releases. A signature is a fact, and is checked against the
//! release's statement before it becomes one. Whether it counts is another question, and is asked each time anew: that of a
//! revoked key counts no more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stella_protocol::digest::Digest;
use stella_protocol::id::ReleaseId;
use stella_protocol::spec::UnitAction;
use stella_protocol::time::Timestamp;
use stella_signing::{Component, PublicKey, Signature, Statement};

use crate::command::Actor;
use crate::gate::{Evaluated, Outcome, digest_of};
use crate::hold::Hold;
use crate::name::Name;
use crate::release::{Phase, Release, Step, StepAction};
use crate::tenant::TenantState;

/// How many keys a tenant may have that are not revoked, and how many a rule may name.
pub const KEYS_MAX: usize = 64;
/// How many keys a tenant may ever have: a revoked one is kept, so that it never comes again.
pub const KEYS_EVER_MAX: usize = 1_024;
/// How many signatures a release may have.
pub const SIGNATURES_MAX: usize = 16;

/// A key that signs releases of a tenant: its public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseKey {
    /// Its fingerprint: [`PublicKey::fingerprint`].
    pub id: Digest,
    /// Its name, unique in the tenant for ever.
    pub name: Name,
    /// What checks its signatures.
    pub public_key: PublicKey,
    /// When it was registered.
    pub added_at: Timestamp,
    /// By whom.
    pub added_by: Actor,
    /// Since when nothing that it signed counts.
    pub revoked: Option<Hold>,
}

/// A signature of a release that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseSignature {
    /// Its bytes, so that anybody can check it again.
    pub signature: Signature,
    /// When it came.
    pub at: Timestamp,
    /// Who brought it: not always who signed.
    pub by: Actor,
}

/// The signatures of a release, by their keys.
pub type Signatures = BTreeMap<Digest, ReleaseSignature>;

/// How many signatures are wanted, and by which keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRule {
    /// How many. At least 1.
    pub needed: u32,
    /// Only those by these keys count; if empty, those by all that are registered. Sorted, none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Digest>,
}

impl SignatureRule {
    /// The keys whose signatures of a release count.
    pub fn counted<'t>(
        &'t self,
        tenant: &'t TenantState,
        release: ReleaseId,
    ) -> impl Iterator<Item = &'t ReleaseKey> {
        let signed = tenant.signatures.get(&release).into_iter().flat_map(|signatures| signatures.keys());
        let named = signed.filter(|key| self.keys.is_empty() || self.keys.binary_search(key).is_ok());
        named
            .filter_map(|key| tenant.release_keys.get(key))
            .map(AsRef::as_ref)
            .filter(|key| key.revoked.is_none())
    }

    /// What is missing, for a person; `None` if nothing is.
    #[must_use]
    pub fn missing(&self, tenant: &TenantState, release: ReleaseId) -> Option<String> {
        let counted: Vec<&str> = self.counted(tenant, release).map(|key| key.name.as_str()).collect();
        let needed = usize::try_from(self.needed).unwrap_or(usize::MAX);
        if counted.len() >= needed {
            return None;
        }
        let has = match counted.as_slice() {
            [] => "no signature that counts".to_owned(),
            keys => format!("{} of {needed} signatures ({})", keys.len(), keys.join(", ")),
        };
        let whose = if self.keys.is_empty() {
            "registered keys".to_owned()
        } else {
            let name = |id: &Digest| tenant.release_keys.get(id).map(|key| key.name.as_str());
            let names: Vec<&str> = self.keys.iter().filter_map(name).collect();
            names.join(", ")
        };
        let revoked = tenant.signatures.get(&release).into_iter().flat_map(|signatures| signatures.keys());
        let revoked = revoked
            .filter_map(|id| tenant.release_keys.get(id))
            .filter(|key| key.revoked.is_some())
            .map(|key| format!("; key {} was revoked", key.name));
        let revoked: String = revoked.collect();
        Some(format!("has {has}, and {needed} by {whose} are needed{revoked}; sign it: stella release sign"))
    }

    /// What it comes to for a release.
    #[must_use]
    pub fn evaluate(&self, tenant: &TenantState, release: &Release) -> Evaluated {
        let (outcome, reason) = match self.missing(tenant, release.id) {
            Some(missing) => {
                (Outcome::Failed, format!("{}:{} {missing}", release.application, release.version))
            }
            None => {
                let counted: Vec<&str> =
                    self.counted(tenant, release.id).map(|key| key.name.as_str()).collect();
                (Outcome::Passed, format!("signed by {}", counted.join(", ")))
            }
        };
        Evaluated { outcome, reason, inputs: self.inputs(tenant, release.id), changes_at: None }
    }

    /// The digest of what it looks at.
    #[must_use]
    pub fn inputs(&self, tenant: &TenantState, release: ReleaseId) -> Digest {
        let counted: Vec<Digest> = self.counted(tenant, release).map(|key| key.id).collect();
        digest_of(&(release, counted))
    }
}

impl TenantState {
    /// What a release lacks of the signatures that its tenant demands of all; `None` if nothing.
    #[must_use]
    pub fn lacks_signatures(&self, release: ReleaseId) -> Option<String> {
        self.signing.as_ref().and_then(|rule| rule.missing(self, release))
    }
}

/// What is signed of a release: the same bytes as a signer makes of what the API shows.
#[must_use]
pub fn statement(release: &Release) -> Statement {
    let component = |it: &crate::release::Component| Component {
        name: it.name.to_string(),
        digest: it.digest,
        size_bytes: it.size_bytes,
    };
    Statement {
        application: release.application.to_string(),
        version: release.version.to_string(),
        components: release.components.iter().map(component).collect(),
        steps: release.steps.iter().map(step).collect(),
        labels: release.labels.clone(),
        provenance: release.provenance.as_ref().map(|it| json!(it)),
    }
}

/// A step in the API's form, which is the one that people write and sign.
fn step(step: &Step) -> Value {
    let mut value =
        json!({ "name": step.name, "timeout_ms": step.timeout_ms, "action": action(&step.action) });
    // As in the API, what is said by default is not there: what was signed before there were phases still is.
    if step.phase != Phase::default() {
        value["phase"] = json!(step.phase);
    }
    value
}

fn action(action: &StepAction) -> Value {
    match action {
        StepAction::Artifact { component, keep_releases } => {
            json!({ "type": "artifact", "component": component, "keep_releases": keep_releases })
        }
        StepAction::Command { argv, environment, working_directory, user } => {
            let mut value = json!({ "type": "command", "argv": argv });
            if !environment.is_empty() {
                value["environment"] = json!(environment);
            }
            if let Some(folder) = working_directory {
                value["working_directory"] = json!(folder);
            }
            if let Some(user) = user {
                value["user"] = json!(user);
            }
            value
        }
        StepAction::CheckHttp { url, status, interval_ms, successes } => json!({
            "type": "check_http", "url": url, "status": status, "interval_ms": interval_ms, "successes": successes,
        }),
        StepAction::CheckTcp { address, interval_ms, successes } => json!({
            "type": "check_tcp", "address": address, "interval_ms": interval_ms, "successes": successes,
        }),
        StepAction::CheckCommand { argv, interval_ms, successes } => json!({
            "type": "check_command", "argv": argv, "interval_ms": interval_ms, "successes": successes,
        }),
        StepAction::Systemd { unit, action } => {
            let action = match action {
                UnitAction::Start => "start",
                UnitAction::Stop => "stop",
                UnitAction::Restart => "restart",
                UnitAction::ReloadOrRestart => "reload_or_restart",
            };
            json!({ "type": "systemd", "unit": unit, "action": action })
        }
    }
}
