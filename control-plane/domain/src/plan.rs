//! What exactly a deployment would do, as one hash that people can approve.
//!
//! The hash is the root of a Merkle tree as in RFC 6962, section 2.1, so that the part of one target can be proven without
//! the others. Its leaves are JSON: what is wanted and by which rules, the release with its templates, then each target in
//! the order in which they are started with the digests of its tasks and of those of its rollback. JSON here is canonical, because fields have
//! a fixed order and maps are sorted. The golden vectors of the tests pin it; another form is another [`VERSION`].

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, EnvironmentId, ReleaseId, RunId, TargetId, TenantId};

use crate::amount::Amount;
use crate::colour::{self, Leg, Steps};
use crate::command::NewDeployment;
use crate::deployment::{OnFailure, Strategy};
use crate::environment::{Environment, Verification};
use crate::group::Part;
use crate::name::{Identifier, Name, Version};
use crate::promotion::ApprovalRule;
use crate::release::{Component, Release, Step};
use crate::render::{self, Names};
use crate::target::Target;
use crate::tenant::TenantState;

/// The version of the tree's form.
pub const VERSION: u16 = 1;
/// The version of the form with colours: targets name theirs, and have the digests of what is run there, also of other releases.
pub const VERSION_COLOURS: u16 = 2;
/// The version of the form of jobs: it says which step of which run wants it, and there is nothing to take back.
pub const VERSION_JOB: u16 = 3;

/// What a deployment would do, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of the tree's form.
    pub version: u16,
    /// The root of the tree.
    pub root: Digest,
    /// How many targets it has.
    pub targets: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "leaf")]
enum Leaf<'p> {
    Wanted {
        version: u16,
        tenant: TenantId,
        environment: EnvironmentId,
        environment_name: &'p Name,
        strategy: &'p Strategy,
        on_failure: OnFailure,
        #[serde(skip_serializing_if = "Option::is_none")]
        tolerate_failures: Option<Amount>,
        timeout_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        override_freeze: Option<&'p str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        waive_way_back: Option<&'p str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        replace_application: bool,
        rule: Option<&'p ApprovalRule>,
        #[serde(skip_serializing_if = "Option::is_none")]
        verification: Option<Verification>,
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<JobOf<'p>>,
    },
    Release {
        id: ReleaseId,
        application: &'p Name,
        version: &'p Version,
        components: &'p [Component],
        steps: &'p [Step],
    },
    Target {
        id: TargetId,
        name: &'p Name,
        agent: AgentId,
        slot: Option<&'p Name>,
        variables: &'p BTreeMap<String, String>,
        #[serde(skip_serializing_if = "<[Leg]>::is_empty")]
        legs: &'p [Leg],
        tasks: Vec<Digest>,
        rollback: Option<Rollback>,
    },
}

/// Who wants a job.
#[derive(Serialize)]
struct JobOf<'p> {
    workflow: &'p Name,
    run: RunId,
    step: &'p Identifier,
}

#[derive(Serialize)]
struct Rollback {
    release: ReleaseId,
    /// Empty if it cannot be gone back to: a step cannot be filled in any more.
    tasks: Vec<Digest>,
}

/// The plan of a deployment to these targets, which are in the order in which they are started.
pub(crate) fn seal(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    new: &NewDeployment,
    targets: Vec<(&Target, &[Leg])>,
) -> Plan {
    let job = new.job.as_ref().map(|job| JobOf { workflow: &job.workflow, run: job.run, step: &job.step });
    let version = match &job {
        Some(_) => VERSION_JOB,
        None if targets.iter().all(|(_, legs)| legs.is_empty()) => VERSION,
        None => VERSION_COLOURS,
    };
    let is_job = job.is_some();
    let has_groups = new.strategy.groups().is_some();
    let mut leaves = vec![
        hashed(&Leaf::Wanted {
            version,
            tenant: tenant.id,
            environment: environment.id,
            environment_name: &environment.name,
            strategy: &new.strategy,
            on_failure: new.on_failure,
            tolerate_failures: new.tolerate_failures,
            timeout_ms: new.timeout_ms,
            override_freeze: new.override_freeze.as_deref(),
            waive_way_back: new.waive_way_back.as_deref(),
            replace_application: new.replace_application,
            rule: environment.approvals.as_ref(),
            verification: environment.verification.filter(|_| !is_job),
            job,
        }),
        hashed(&Leaf::Release {
            id: release.id,
            application: &release.application,
            version: &release.version,
            components: &release.components,
            steps: &release.steps,
        }),
    ];
    let mut tasks = Tasks { tenant, environment, new: release, alike: HashMap::new() };
    let mut count = 0_u32;
    for (target, legs) in targets {
        let stays = is_job || (has_groups && Part::of(legs) == Part::Member);
        let previous = target.current.filter(|_| !stays).and_then(|id| tenant.releases.get(&id));
        let rollback = previous.map(|previous| Rollback {
            release: previous.id,
            tasks: tasks
                .on(previous.id, &target.as_it_was_brought(), &back(previous, target))
                .unwrap_or_default(),
        });
        leaves.push(hashed(&Leaf::Target {
            id: target.id,
            name: &target.name,
            agent: target.agent,
            slot: target.slot.as_ref(),
            variables: &target.variables,
            legs,
            tasks: tasks.on(release.id, target, legs).unwrap_or_default(),
            rollback,
        }));
        count = count.saturating_add(1);
    }
    Plan { version, root: root(&leaves), targets: count }
}

/// What would take a target back while the colour that is live now is kept; empty is all steps.
fn back(previous: &Release, target: &Target) -> Vec<Leg> {
    let switch = |colour| Leg { release: previous.id, colour: Some(colour), steps: Steps::Switch };
    target.live.map(switch).into_iter().collect()
}

/// Digests of tasks. A step that refers to nothing is the same task on every target, and hashed once.
struct Tasks<'p> {
    tenant: &'p TenantState,
    environment: &'p Environment,
    /// What is brought there, which the tenant does not know yet if it is a job's.
    new: &'p Release,
    alike: HashMap<(Leg, usize), Digest>,
}

impl Tasks<'_> {
    /// Those of all that is run on a target, which is all steps of the release without legs; `None` if one cannot be filled in.
    fn on(&mut self, release: ReleaseId, target: &Target, legs: &[Leg]) -> Option<Vec<Digest>> {
        let whole = Leg { release, colour: None, steps: Steps::All };
        let mut tasks = Vec::new();
        for leg in legs.iter().copied().chain(legs.is_empty().then_some(whole)) {
            let known = || self.tenant.releases.get(&leg.release).map(AsRef::as_ref);
            let release = if leg.release == self.new.id { self.new } else { known()? };
            let stage = self.environment.name.as_str();
            let names = Names::new(stage, release, target, leg.colour, &target.variables);
            for (number, step) in colour::steps(release, leg.steps).enumerate() {
                if let Some(digest) = self.alike.get(&(leg, number)) {
                    tasks.push(*digest);
                    continue;
                }
                let digest = hashed(&render::on_target(release, step, &names).ok()?);
                if render::references(step) == 0 {
                    self.alike.insert((leg, number), digest);
                }
                tasks.push(digest);
            }
        }
        Some(tasks)
    }
}

/// The hash of a leaf: over a zero byte and its JSON.
fn hashed(leaf: &impl Serialize) -> Digest {
    let json = serde_json::to_vec(leaf).expect("plain values, and maps with texts as keys, are JSON");
    Digest(Sha256::new_with_prefix([0]).chain_update(json).finalize().into())
}

/// The root over hashed leaves, of which there is at least one.
fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            // The largest power of two that is smaller than the number of leaves.
            let (left, right) = leaves.split_at(leaves.len().div_ceil(2).next_power_of_two());
            let mut hash = Sha256::new_with_prefix([1]);
            hash.update(root(left).0);
            hash.update(root(right).0);
            Digest(hash.finalize().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs and roots of the reference implementation of Certificate Transparency.
    #[test]
    fn the_tree_is_that_of_rfc_6962() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves: Vec<Digest> = inputs
            .iter()
            .map(|input| Digest(Sha256::new_with_prefix([0]).chain_update(input).finalize().into()))
            .collect();
        for (count, expected) in (1..).zip(roots) {
            assert_eq!(root(&leaves[..count]).to_hex(), expected, "{count} leaves");
        }
        assert_eq!(root(&[]).to_hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
