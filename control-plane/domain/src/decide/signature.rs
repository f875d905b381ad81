//! Keys that sign releases, signatures by them, and who demands them.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::digest::Digest;
use stella_protocol::id::ReleaseId;
use stella_signing::{PublicKey, Signature};

use super::transaction::Transaction;
use super::{fields, gate};
use crate::command::Outcome;
use crate::event::Fact;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::signature::{self, KEYS_EVER_MAX, KEYS_MAX, ReleaseKey, SIGNATURES_MAX, SignatureRule};
use crate::tenant::TenantState;

/// Registers a key. Registering it again is registering it once.
pub(super) fn add_key(
    tx: &mut Transaction<'_>,
    name: &Name,
    public_key: PublicKey,
) -> Result<Outcome, Rejection> {
    let id = public_key.fingerprint();
    if let Some(known) = tx.tenant.release_keys.get(&id) {
        if known.revoked.is_some() {
            let problem = format!("key {} was revoked and never comes back; make a new one", known.name);
            return Err(Rejection::Conflict { problem });
        }
        if known.name == *name {
            return Ok(Outcome::Done);
        }
        return Err(Rejection::conflict(format!("this key is registered already, as {}", known.name)));
    }
    if tx.tenant.release_keys.values().any(|key| key.name == *name) {
        return Err(Rejection::exists("release key", name));
    }
    let live = tx.tenant.release_keys.values().filter(|key| key.revoked.is_none()).count();
    if live >= KEYS_MAX || tx.tenant.release_keys.len() >= KEYS_EVER_MAX {
        let problem =
            format!("there are {live} release keys already ({KEYS_MAX} at once, {KEYS_EVER_MAX} ever)");
        return Err(Rejection::Conflict { problem });
    }
    tx.emit(Fact::ReleaseKeyAdded { id, name: name.clone(), public_key })?;
    Ok(Outcome::Done)
}

/// Lets nothing count any more that a key has signed. What is under way halts before its next wave.
pub(super) fn revoke_key(tx: &mut Transaction<'_>, id: Digest, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if key(&tx.tenant, id)?.revoked.is_none() {
        tx.emit(Fact::ReleaseKeyRevoked { id, reason: reason.to_owned() })?;
        let signed = |(release, by): (&ReleaseId, &Arc<signature::Signatures>)| {
            by.contains_key(&id).then_some(*release)
        };
        let concerned: BTreeSet<ReleaseId> = tx.tenant.signatures.iter().filter_map(signed).collect();
        gate::nudge(tx, |it| concerned.contains(&it.2))?;
    }
    Ok(Outcome::Done)
}

/// Adds a signature to a release, if it is one.
pub(super) fn sign(
    tx: &mut Transaction<'_>,
    id: ReleaseId,
    by: Digest,
    signature: &Signature,
) -> Result<Outcome, Rejection> {
    let release = tx.tenant.releases.get(&id).ok_or_else(|| Rejection::not_found(ReleaseId::KIND, id))?;
    let key = tx.tenant.release_keys.get(&by).ok_or_else(|| {
        let problem =
            format!("no key {by} is registered in this tenant; an admin can do that: stella release key add");
        Rejection::invalid("key", problem)
    })?;
    if key.revoked.is_some() {
        let problem = format!("key {} was revoked; sign with another one", key.name);
        return Err(Rejection::Conflict { problem });
    }
    check(release, key, signature)?;
    let signatures = tx.tenant.signatures.get(&id);
    if signatures.is_some_and(|signatures| signatures.contains_key(&by)) {
        return Ok(Outcome::Done);
    }
    if signatures.is_some_and(|signatures| signatures.len() >= SIGNATURES_MAX) {
        let problem = format!("the release has {SIGNATURES_MAX} signatures already; more are not kept");
        return Err(Rejection::Conflict { problem });
    }
    tx.emit(Fact::ReleaseSigned { release: id, key: by, signature: *signature })?;
    Ok(Outcome::Done)
}

fn check(release: &Release, key: &ReleaseKey, signature: &Signature) -> Result<(), Rejection> {
    let statement = signature::statement(release);
    if key.public_key.has_signed(&statement, signature) {
        return Ok(());
    }
    let problem = format!(
        "is not by key {} over {}:{}, whose statement is {}; what was signed is something else",
        key.name,
        release.application,
        release.version,
        statement.digest()
    );
    Err(Rejection::invalid("signature", problem))
}

/// Sets which signatures every release of the tenant must have. What is under way without them halts before its next wave.
pub(super) fn demand(tx: &mut Transaction<'_>, rule: Option<&SignatureRule>) -> Result<Outcome, Rejection> {
    let mut rule = rule.cloned();
    if let Some(rule) = &mut rule {
        rule.keys.sort_unstable();
        rule.keys.dedup();
        makes_sense(&tx.tenant, rule)?;
    }
    if tx.tenant.signing != rule {
        tx.emit(Fact::ReleaseSigningSet { rule })?;
        gate::nudge(tx, |_| true)?;
    }
    Ok(Outcome::Done)
}

/// Whether a rule can be met by keys that there are.
pub(super) fn makes_sense(tenant: &TenantState, rule: &SignatureRule) -> Result<(), Rejection> {
    let max = u64::try_from(SIGNATURES_MAX).unwrap_or(u64::MAX);
    fields::range("needed", rule.needed.into(), (1, max), " signatures")?;
    if rule.keys.len() > KEYS_MAX {
        return Err(Rejection::invalid("keys", format!("there are more than {KEYS_MAX}")));
    }
    for id in &rule.keys {
        let key = key(tenant, *id).map_err(|error| Rejection::invalid("keys", error.to_string()))?;
        if key.revoked.is_some() {
            return Err(Rejection::invalid("keys", format!("key {} was revoked", key.name)));
        }
    }
    let named = u32::try_from(rule.keys.len()).unwrap_or(u32::MAX);
    if named > 0 && named < rule.needed {
        let problem = format!("names {named} keys, and {} signatures are needed", rule.needed);
        return Err(Rejection::invalid("keys", problem));
    }
    Ok(())
}

/// Whether a release may be registered: one that comes with no signature that counts stays out.
pub(super) fn may_come_in(tenant: &TenantState, release: ReleaseId) -> Result<(), Rejection> {
    let Some(rule) = &tenant.signing else { return Ok(()) };
    if rule.counted(tenant, release).next().is_some() {
        return Ok(());
    }
    let problem = format!(
        "tenant {} takes signed releases only, and none of the signatures counts; sign it: stella release create --sign-with KEY",
        tenant.name
    );
    Err(Rejection::invalid("signatures", problem))
}

/// Whether a release may go anywhere.
pub(super) fn is_signed(tenant: &TenantState, release: &Release) -> Result<(), Rejection> {
    match tenant.lacks_signatures(release.id) {
        None => Ok(()),
        Some(lacks) => {
            let name = format!("{}:{}", release.application, release.version);
            Err(Rejection::conflict(format!(
                "tenant {} demands signatures of every release: {name} {lacks}",
                tenant.name
            )))
        }
    }
}

fn key(tenant: &TenantState, id: Digest) -> Result<&Arc<ReleaseKey>, Rejection> {
    tenant.release_keys.get(&id).ok_or_else(|| Rejection::not_found("release key", id))
}
