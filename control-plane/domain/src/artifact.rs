//! Archives that nothing needs any more. The journal keeps what releases are; their archives are files, and may go.

use std::collections::{BTreeMap, BTreeSet};

use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, ReleaseId};
use stella_protocol::time::Timestamp;

use crate::deployment::Deployment;
use crate::name::Name;
use crate::release::Release;
use crate::target::Target;
use crate::tenant::TenantState;

/// How many archives one command gives up, at most.
pub const BATCH_MAX: usize = 500;

/// When archives go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The archives of a release that was created less than this ago stay, in milliseconds.
    pub after_ms: u64,
    /// So many newest releases of each application keep theirs, however old they are.
    pub newest_min: usize,
}

/// Why archives cannot go: the releases that may yet come to a target, or are on one.
#[derive(Debug)]
pub struct Needs {
    archives: BTreeSet<Digest>,
}

impl Needs {
    /// Gathered once for all archives of a tenant.
    #[must_use]
    pub fn of(tenant: &TenantState, rule: Rule, now: Timestamp) -> Self {
        let mut kept = tenant.releases_in_use();
        let mut newest: BTreeMap<&Name, Vec<(Timestamp, ReleaseId)>> = BTreeMap::new();
        for release in tenant.releases.values() {
            if now.since(release.created_at).as_millis() < u128::from(rule.after_ms) {
                kept.insert(release.id);
            }
            newest.entry(&release.application).or_default().push((release.created_at, release.id));
        }
        for mut releases in newest.into_values() {
            releases.sort_unstable();
            kept.extend(releases.iter().rev().take(rule.newest_min).map(|(_, id)| id));
        }
        let releases = kept.iter().filter_map(|id| tenant.releases.get(id));
        Self { archives: releases.flat_map(|it| &it.components).map(|part| part.digest).collect() }
    }

    /// Whether an archive has to stay. One that no release is made of is needed by nobody.
    #[must_use]
    pub fn archive(&self, digest: Digest) -> bool {
        self.archives.contains(&digest)
    }
}

impl TenantState {
    /// How much its archives are, in bytes.
    #[must_use]
    pub fn artifact_bytes(&self) -> u64 {
        self.artifacts.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// A component of a release whose archive is not there any more.
    #[must_use]
    pub fn missing_archive(&self, release: &Release) -> Option<Digest> {
        let digests = release.components.iter().map(|part| part.digest);
        digests.into_iter().find(|digest| !self.artifacts.contains_key(digest))
    }

    /// The releases that are on a target, in either colour, or were there before what is there now; that are on their way, or
    /// are asked for, or will be by themselves.
    fn releases_in_use(&self) -> BTreeSet<ReleaseId> {
        let mut found = BTreeSet::new();
        for target in self.targets.values() {
            found.extend(target.current);
            found.extend(target.idle.map(|idle| idle.release));
            for deployment in visits(target).filter_map(|id| self.deployments.get(&id)) {
                brought(deployment, target, &mut found);
            }
        }
        for deployment in self.active_deployments.iter().filter_map(|id| self.deployments.get(id)) {
            found.insert(deployment.release);
            for part in deployment.targets.values() {
                found.insert(part.release);
                found.extend(part.previous);
                // If nothing is ever sent there, that one is the last again, and can be taken back.
                let before = part.before.and_then(|before| self.deployments.get(&before.last?));
                found.extend(before.and_then(|it| it.targets.get(&part.target)?.previous));
            }
        }
        let open = self.open_promotions.iter().filter_map(|id| self.promotions.get(id));
        found.extend(open.map(|promotion| promotion.wanted.release));
        found.extend(self.environments.values().flat_map(|it| it.automatic.keys()));
        found
    }
}

/// The deployments that were the last to do something at a target.
fn visits(target: &Target) -> impl Iterator<Item = DeploymentId> {
    let idle = target.idle.map(|idle| idle.by);
    [target.active, target.last, target.visited, idle].into_iter().flatten()
}

/// What a deployment has brought to a target, and what it would take it back to.
fn brought(deployment: &Deployment, target: &Target, found: &mut BTreeSet<ReleaseId>) {
    if let Some(part) = deployment.targets.get(&target.id) {
        found.insert(part.release);
        found.extend(part.previous);
    }
}
