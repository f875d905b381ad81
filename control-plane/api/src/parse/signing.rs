//! Signatures and where releases come from, from the shapes of requests.

use stella_api_types::release as release_dto;
use stella_api_types::signing::Sign;
use stella_domain::provenance::{Provenance, Reference};
use stella_domain::signature::SignatureRule;
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_signing::{PublicKey, Signature};

use super::digest;
use crate::error::ApiError;
use crate::resolve;

/// A public key that signs releases.
pub(crate) fn public_key(field: &str, text: &str) -> Result<PublicKey, ApiError> {
    text.parse().map_err(|error: stella_signing::KeyError| ApiError::invalid(field, error.to_string()))
}

/// A signature and the fingerprint of its key. `before` is what comes before the names of the fields.
pub(crate) fn signature(
    tenant: &TenantState,
    before: &str,
    body: &Sign,
) -> Result<(Digest, Signature), ApiError> {
    let key = release_key(tenant, &format!("{before}key"), &body.key)?;
    let signature = body.signature.parse().map_err(|error: stella_signing::KeyError| {
        ApiError::invalid(format!("{before}signature"), error.to_string())
    })?;
    Ok((key, signature))
}

/// How many signatures are wanted, and by which keys.
pub(crate) fn signature_rule(
    tenant: &TenantState,
    field: &str,
    needed: u32,
    keys: &[String],
) -> Result<SignatureRule, ApiError> {
    let numbered = keys.iter().enumerate();
    let keys = numbered.map(|(at, key)| release_key(tenant, &format!("{field}[{at}]"), key));
    let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    keys.dedup();
    Ok(SignatureRule { needed, keys })
}

fn release_key(tenant: &TenantState, field: &str, text: &str) -> Result<Digest, ApiError> {
    let found = resolve::release_key(tenant, text).map(|key| key.id);
    found.map_err(|_| {
        let problem = format!(
            "no release key {text:?} is registered in this tenant; an admin can do that: stella release key add"
        );
        ApiError::invalid(field, problem)
    })
}

/// Where a release comes from.
pub(crate) fn provenance(body: &release_dto::Provenance) -> Result<Provenance, ApiError> {
    let references = |field: &str, all: &[release_dto::Reference]| {
        let numbered = all.iter().enumerate();
        let parsed = numbered.map(|(at, it)| {
            let field = format!("provenance.{field}[{at}].digest");
            Ok(Reference { uri: it.uri.clone(), digest: digest(&field, &it.digest)? })
        });
        parsed.collect::<Result<Vec<_>, ApiError>>()
    };
    Ok(Provenance {
        commit: body.commit.clone(),
        repository: body.repository.clone(),
        build_url: body.build_url.clone(),
        builder: body.builder.clone(),
        sboms: references("sboms", &body.sboms)?,
        attestations: references("attestations", &body.attestations)?,
    })
}
