//! Keys that sign releases, signatures, and where releases come from.

use stella_api_types::{release as release_dto, signing as dto};
use stella_domain::provenance::{Provenance, Reference};
use stella_domain::release::Release;
use stella_domain::signature::{ReleaseKey, SignatureRule};
use stella_domain::tenant::TenantState;

use super::event::actor;
use super::{hold, time};

/// A key.
pub(crate) fn release_key(key: &ReleaseKey) -> dto::ReleaseKey {
    dto::ReleaseKey {
        id: key.id.to_string(),
        name: key.name.to_string(),
        public_key: key.public_key.to_pem(),
        added_at: time(key.added_at),
        added_by: actor(&key.added_by),
        revoked: key.revoked.as_ref().map(hold),
    }
}

/// The signatures of a release.
pub(super) fn signatures(tenant: &TenantState, release: &Release) -> Vec<dto::ReleaseSignature> {
    let all = tenant.signatures.get(&release.id).into_iter().flat_map(|all| all.iter());
    let shown = all.filter_map(|(id, it)| {
        let key = tenant.release_keys.get(id)?;
        Some(dto::ReleaseSignature {
            key: id.to_string(),
            name: key.name.to_string(),
            counts: key.revoked.is_none(),
            signature: it.signature.to_string(),
            at: time(it.at),
            by: actor(&it.by),
        })
    });
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by(|one, other| one.at.cmp(&other.at));
    shown
}

/// What a tenant demands of every release.
pub(super) fn signing(tenant: &TenantState) -> Option<dto::Signing> {
    let rule = tenant.signing.as_ref()?;
    Some(dto::Signing { needed: rule.needed, keys: names(tenant, rule) })
}

/// The names of the keys of a rule.
pub(super) fn names(tenant: &TenantState, rule: &SignatureRule) -> Vec<String> {
    let name = |id| tenant.release_keys.get(id).map(|key| key.name.to_string());
    rule.keys.iter().filter_map(name).collect()
}

/// Where a release comes from.
pub(super) fn provenance(provenance: &Provenance) -> release_dto::Provenance {
    let references = |all: &[Reference]| {
        let shown =
            |it: &Reference| release_dto::Reference { uri: it.uri.clone(), digest: it.digest.to_string() };
        all.iter().map(shown).collect()
    };
    release_dto::Provenance {
        commit: provenance.commit.clone(),
        repository: provenance.repository.clone(),
        build_url: provenance.build_url.clone(),
        builder: provenance.builder.clone(),
        sboms: references(&provenance.sboms),
        attestations: references(&provenance.attestations),
    }
}
