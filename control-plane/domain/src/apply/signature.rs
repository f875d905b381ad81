//! Keys that sign releases, and signatures by them.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, PromotionId, ReleaseId};

use super::{Applied, ensure, misplaced, missing, vacant};
use crate::event::{Event, Fact};
use crate::hold::Hold;
use crate::signature::{self, ReleaseKey, ReleaseSignature};
use crate::tenant::TenantState;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_signature(&mut self, event: &Event) -> Applied {
        let Event { at, actor, fact, .. } = event;
        match fact {
            Fact::ReleaseKeyAdded { id, name, public_key } => {
                vacant(!self.release_keys.contains_key(id), "release key", id, fact)?;
                ensure(public_key.fingerprint() == *id, format!("release key {id}"), "of another key", fact)?;
                let key = ReleaseKey {
                    id: *id,
                    name: name.clone(),
                    public_key: *public_key,
                    added_at: *at,
                    added_by: actor.clone(),
                    revoked: None,
                };
                self.release_keys.insert(*id, Arc::new(key));
                Ok(())
            }
            Fact::ReleaseKeyRevoked { id, reason } => {
                let key = self.release_keys.get_mut(id).ok_or_else(|| missing("release key", id, fact))?;
                ensure(key.revoked.is_none(), format!("release key {id}"), "revoked", fact)?;
                let hold = Hold { reason: reason.clone(), by: actor.clone(), since: *at };
                Arc::make_mut(key).revoked = Some(hold);
                Ok(())
            }
            Fact::ReleaseSigned { release, key, signature } => {
                let signed =
                    self.releases.get(release).ok_or_else(|| missing(ReleaseId::KIND, release, fact))?;
                let known = self.release_keys.get(key).ok_or_else(|| missing("release key", key, fact))?;
                ensure(known.revoked.is_none(), format!("release key {key}"), "revoked", fact)?;
                // Also in replay: a journal in which a signature was made up is not one that this core has written.
                let holds = known.public_key.has_signed(&signature::statement(signed), signature);
                ensure(holds, format!("release {release}"), "not what was signed", fact)?;
                let signatures = Arc::make_mut(self.signatures.entry(*release).or_default());
                vacant(!signatures.contains_key(key), "signature by key", key, fact)?;
                let new = ReleaseSignature { signature: *signature, at: *at, by: actor.clone() };
                signatures.insert(*key, new);
                Ok(())
            }
            Fact::ReleaseSigningSet { rule } => {
                self.signing.clone_from(rule);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    /// INV-17: whether the release that a deployment starts now has the signatures that its tenant demands.
    pub(super) fn is_signed_as_demanded(&self, id: DeploymentId) -> bool {
        // Journals of before there were promotions have deployments without.
        let asked = self.promotions.contains_key(&PromotionId(id.0));
        let deployment = self.deployments.get(&id).filter(|it| asked && it.cause.is_asked_for());
        deployment.is_none_or(|it| self.lacks_signatures(it.release).is_none())
    }
}
