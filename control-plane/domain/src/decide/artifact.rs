//! Archives come, and go when nothing needs them any more.

use stella_protocol::digest::Digest;

use super::transaction::Transaction;
use crate::artifact::{BATCH_MAX, Needs, Rule};
use crate::command::Outcome;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::tenant::TenantState;

pub(super) fn store(
    tx: &mut Transaction<'_>,
    digest: Digest,
    size_bytes: u64,
    tenant_bytes_max: Option<u64>,
) -> Result<Outcome, Rejection> {
    match tx.tenant.artifacts.get(&digest) {
        Some(&known) if known == size_bytes => Ok(Outcome::Done),
        Some(known) => {
            Err(Rejection::conflict(format!("{digest} is stored with {known} bytes, not {size_bytes}")))
        }
        None if size_bytes == 0 => Err(Rejection::invalid("size_bytes", "an archive is not empty")),
        None => {
            has_room(&tx.tenant, size_bytes, tenant_bytes_max)?;
            tx.emit(Fact::ArtifactStored { digest, size_bytes })?;
            Ok(Outcome::Done)
        }
    }
}

fn has_room(tenant: &TenantState, more: u64, tenant_bytes_max: Option<u64>) -> Result<(), Rejection> {
    let Some(max) = tenant_bytes_max else { return Ok(()) };
    let used = tenant.artifact_bytes();
    if used.saturating_add(more) <= max {
        return Ok(());
    }
    let problem = format!(
        "the archives of tenant {} have {used} bytes, and {more} more are over its {max}: whoever runs the control plane can raise \
         api.tenant_artifact_bytes_max, or let old ones go with retention.artifact_days",
        tenant.name
    );
    Err(Rejection::Conflict { problem })
}

pub(super) fn remove(tx: &mut Transaction<'_>, digests: &[Digest], rule: Rule) -> Result<Outcome, Rejection> {
    if digests.len() > BATCH_MAX {
        return Err(Rejection::invalid("digests", format!("has {}, at most {BATCH_MAX} go", digests.len())));
    }
    let needs = Needs::of(&tx.tenant, rule, tx.now);
    for digest in digests.iter().copied() {
        if tx.tenant.artifacts.contains_key(&digest) && !needs.archive(digest) {
            tx.emit(Fact::ArtifactRemoved { digest })?;
        }
    }
    Ok(Outcome::Done)
}

/// Whether what a release is made of can be brought to a target.
pub(super) fn are_there(tenant: &TenantState, release: &Release) -> Result<(), Rejection> {
    let Some(digest) = tenant.missing_archive(release) else { return Ok(()) };
    let problem = format!(
        "an archive of release {}:{} was removed because it was old and nothing needed it; upload {digest} again, or deploy a newer release",
        release.application, release.version
    );
    Err(Rejection::Conflict { problem })
}
