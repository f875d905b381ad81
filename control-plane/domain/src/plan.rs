//! What exactly a deployment would do, as one hash that people can approve.
//!
//! The hash is the root of a Merkle tree as in RFC 6962, section 2.1, so that the part of one target can be proven without
//! the others. Its leaves are JSON: what is wanted and by which rules, what guards the environment where somebody has to approve, the release
//! with its templates, then each target in the order in which they are started with the digests of its tasks and of those of its rollback.
//! JSON here is canonical, because fields have a fixed order and maps are sorted. The golden vectors of the tests pin it; another form is
//! another [`VERSION`]. What was asked for in an older form is looked at in that form until its end.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, EnvironmentId, ReleaseId, RunId, TargetId, TenantId};
use stella_signing::merkle;

use crate::amount::Amount;
use crate::colour::{self, Colour, Leg, Steps};
use crate::command::NewDeployment;
use crate::deployment::{OnFailure, Strategy};
use crate::environment::{Environment, Needs, Requirement, Verification};
use crate::gate::Gate;
use crate::group::Part;
use crate::name::{Identifier, Name, Version};
use crate::promotion::ApprovalRule;
use crate::release::{Component, Release, Step};
use crate::render::{self, Names};
use crate::signature::SignatureRule;
use crate::target::Target;
use crate::tenant::TenantState;
use crate::way_back::ProofRule;

/// The version of the tree's form.
pub const VERSION: u16 = 1;
/// The version of the form with colours: targets name theirs, and have the digests of what is run there, also of other releases.
pub const VERSION_COLOURS: u16 = 2;
/// The version of the form of jobs: it says which step of which run wants it, and there is nothing to take back.
pub const VERSION_JOB: u16 = 3;
/// The version of the form for environments where somebody has to approve in which a part of what guards them was in it first: the gates,
/// the budget, and what is wanted of the way back.
pub const VERSION_SOME_GUARDS: u16 = 4;
/// The version of the form for environments where somebody has to approve: what guards them is in it too. That is the gates, the budget,
/// what is wanted of the way back, the path, the channels, and the signatures that the tenant demands. It may have colours, and be a job's.
pub const VERSION_GUARDS: u16 = 5;

/// What a deployment would do, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of the tree's form.
    pub version: u16,
    /// The root of the tree.
    pub root: Digest,
    /// How many targets it has.
    pub targets: u32,
    /// The hash of what guards the environment, if that is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guards: Option<Digest>,
}

/// What guards an environment where somebody has to approve, as far as it is in a plan: more with each version of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guarded {
    /// Nothing of it.
    Not,
    /// See [`VERSION_SOME_GUARDS`].
    Partly,
    /// See [`VERSION_GUARDS`].
    Wholly,
}

impl Plan {
    /// How much of what guards an environment is in a plan in the form of this one.
    pub(crate) const fn guarded(&self) -> Guarded {
        match self.version {
            ..VERSION_SOME_GUARDS => Guarded::Not,
            VERSION_SOME_GUARDS => Guarded::Partly,
            _ => Guarded::Wholly,
        }
    }
}

/// A part of a plan that can be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanPart {
    /// What is wanted, and by which rules.
    Wanted,
    /// What guards the environment.
    Guards,
    /// The release.
    Release,
    /// What is done on one target.
    Target(TargetId),
}

/// A leaf of a plan's tree, and the path from it to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartProof {
    /// What is in the leaf, to the byte.
    pub leaf: String,
    /// Its place among the leaves, from 0.
    pub at: usize,
    /// How many leaves there are.
    pub leaves: usize,
    /// The hashes beside it, from the leaf up.
    pub path: Vec<Digest>,
}

/// What the digests in a target's leaf are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetWork {
    /// What would be run there.
    pub tasks: Vec<PlannedTask>,
    /// The release that it would go back to, and what would be run for that; nothing if a step of it cannot be filled in any more.
    pub rollback: Option<(ReleaseId, Vec<PlannedTask>)>,
}

/// A step that is filled in for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTask {
    /// The release that the step is of.
    pub release: ReleaseId,
    /// The step.
    pub step: Name,
    /// The colour for which it is run, if the release has a switch.
    pub colour: Option<Colour>,
    /// The task, to the byte: JSON.
    pub text: String,
    /// The digest of that, as it is in the leaf.
    pub digest: Digest,
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
        override_path: Option<&'p str>,
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
    Guards {
        gates: Vec<&'p Gate>,
        budget: Option<Amount>,
        requires_way_back: bool,
        /// Nobody asks for one about a job.
        #[serde(skip_serializing_if = "Option::is_none")]
        way_back_proof: Option<ProofRule>,
        /// A job brings nothing that could have been elsewhere before.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<Path<'p>>,
        #[serde(skip_serializing_if = "<[Name]>::is_empty")]
        channels: &'p [Name],
        #[serde(skip_serializing_if = "Option::is_none")]
        signatures: Option<&'p SignatureRule>,
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

/// What a release must have been through. Whether it comes by itself then guards nothing.
#[derive(Serialize)]
struct Path<'p> {
    needs: Needs,
    after: Vec<&'p Requirement>,
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

/// What a plan is made of.
pub(crate) struct Sealing<'p> {
    pub(crate) tenant: &'p TenantState,
    pub(crate) environment: &'p Environment,
    pub(crate) release: &'p Release,
    pub(crate) new: &'p NewDeployment,
    /// The targets in the order in which they are started.
    pub(crate) targets: Vec<(&'p Target, &'p [Leg])>,
    /// In which form it is made where somebody has to approve.
    pub(crate) guarded: Guarded,
}

/// The leaves of a plan, hashed; one of them is kept, if somebody wants to see it.
struct Tree {
    hashes: Vec<Digest>,
    wanted: Option<PlanPart>,
    kept: Option<(usize, String)>,
}

impl Tree {
    fn add(&mut self, part: PlanPart, leaf: &Leaf<'_>) -> Digest {
        let json = serde_json::to_string(leaf).expect("plain values, and maps with texts as keys, are JSON");
        let hash = merkle::leaf(json.as_bytes());
        if self.wanted == Some(part) {
            self.kept = Some((self.hashes.len(), json));
        }
        self.hashes.push(hash);
        hash
    }
}

impl Sealing<'_> {
    /// The plan.
    pub(crate) fn seal(&self) -> Plan {
        self.grow(None).1
    }

    /// The plan, and one part of it with its proof; `None` if it has no such part.
    pub(crate) fn prove(&self, part: PlanPart) -> (Plan, Option<PartProof>) {
        let (Tree { hashes, kept, .. }, plan) = self.grow(Some(part));
        let proof = kept.and_then(|(at, leaf)| {
            Some(PartProof { leaf, at, leaves: hashes.len(), path: merkle::path(&hashes, at)? })
        });
        (plan, proof)
    }

    fn grow(&self, wanted: Option<PlanPart>) -> (Tree, Plan) {
        let Sealing { tenant, environment, release, new, .. } = *self;
        let job =
            new.job.as_ref().map(|job| JobOf { workflow: &job.workflow, run: job.run, step: &job.step });
        let is_job = job.is_some();
        let guarded = environment.approvals.as_ref().map_or(Guarded::Not, |_| self.guarded);
        let version = match &job {
            _ if guarded == Guarded::Wholly => VERSION_GUARDS,
            _ if guarded == Guarded::Partly => VERSION_SOME_GUARDS,
            Some(_) => VERSION_JOB,
            None if self.targets.iter().all(|(_, legs)| legs.is_empty()) => VERSION,
            None => VERSION_COLOURS,
        };
        let mut tree = Tree { hashes: Vec::with_capacity(self.targets.len() + 3), wanted, kept: None };
        let what = Leaf::Wanted {
            version,
            tenant: tenant.id,
            environment: environment.id,
            environment_name: &environment.name,
            strategy: &new.strategy,
            on_failure: new.on_failure,
            tolerate_failures: new.tolerate_failures,
            timeout_ms: new.timeout_ms,
            override_freeze: new.override_freeze.as_deref(),
            override_path: new.override_path.as_deref(),
            waive_way_back: new.waive_way_back.as_deref(),
            replace_application: new.replace_application,
            rule: environment.approvals.as_ref(),
            verification: environment.verification.filter(|_| !is_job),
            job,
        };
        tree.add(PlanPart::Wanted, &what);
        let guards = guards(tenant, environment, is_job, guarded);
        let guards = guards.map(|guards| tree.add(PlanPart::Guards, &guards));
        let recipe = Leaf::Release {
            id: release.id,
            application: &release.application,
            version: &release.version,
            components: &release.components,
            steps: &release.steps,
        };
        tree.add(PlanPart::Release, &recipe);
        self.add_targets(&mut tree, is_job);
        let targets = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        let root = merkle::root(&tree.hashes);
        (tree, Plan { version, root, targets, guards })
    }

    fn add_targets(&self, tree: &mut Tree, is_job: bool) {
        let release = self.release;
        let mut tasks = Tasks { places: self.places(), alike: HashMap::new() };
        for (target, legs) in &self.targets {
            let rollback = self.way_back(target, legs, is_job).map(|(previous, back)| Rollback {
                release: previous,
                tasks: tasks.on(previous, &target.as_it_was_brought(), &back).unwrap_or_default(),
            });
            let leaf = Leaf::Target {
                id: target.id,
                name: &target.name,
                agent: target.agent,
                slot: target.slot.as_ref(),
                variables: &target.variables,
                legs,
                tasks: tasks.on(release.id, target, legs).unwrap_or_default(),
                rollback,
            };
            tree.add(PlanPart::Target(target.id), &leaf);
        }
    }

    /// The tasks whose digests are in a target's leaf, filled in; `None` if the plan has no such target.
    pub(crate) fn work_on(&self, id: TargetId) -> Option<TargetWork> {
        let (target, legs) = self.targets.iter().find(|(target, _)| target.id == id)?;
        let places = self.places();
        let rollback = self.way_back(target, legs, self.new.job.is_some()).map(|(previous, back)| {
            (previous, places.texts(previous, &target.as_it_was_brought(), &back).unwrap_or_default())
        });
        let tasks = places.texts(self.release.id, target, legs).unwrap_or_default();
        Some(TargetWork { tasks, rollback })
    }

    const fn places(&self) -> Places<'_> {
        Places { tenant: self.tenant, environment: self.environment, new: self.release }
    }

    /// Where a target would go back to, and what is run for that.
    fn way_back(&self, target: &Target, legs: &[Leg], is_job: bool) -> Option<(ReleaseId, Vec<Leg>)> {
        let stays = is_job || (self.new.strategy.groups().is_some() && Part::of(legs) == Part::Member);
        let previous = target.current.filter(|_| !stays)?;
        let previous = self.tenant.releases.get(&previous)?;
        Some((previous.id, back(previous, target)))
    }
}

fn guards<'p>(
    tenant: &'p TenantState,
    environment: &'p Environment,
    is_job: bool,
    guarded: Guarded,
) -> Option<Leaf<'p>> {
    let is_whole = match guarded {
        Guarded::Not => return None,
        Guarded::Partly => false,
        Guarded::Wholly => true,
    };
    let path = environment.requires.as_ref().filter(|_| is_whole && !is_job);
    Some(Leaf::Guards {
        gates: environment.gates.values().map(|it| &it.gate).collect(),
        budget: environment.budget,
        requires_way_back: environment.requires_way_back && !is_job,
        way_back_proof: (!is_job).then_some(environment.way_back_proof),
        path: path.map(|path| Path { needs: path.needs, after: path.requirements().collect() }),
        channels: if is_whole { &environment.channels } else { &[] },
        signatures: tenant.signing.as_ref().filter(|_| is_whole),
    })
}

/// What would take a target back while the colour that is live now is kept; empty is all steps.
fn back(previous: &Release, target: &Target) -> Vec<Leg> {
    let switch = |colour| Leg { release: previous.id, colour: Some(colour), steps: Steps::Switch };
    target.live.map(switch).into_iter().collect()
}

/// Where tasks are filled in.
#[derive(Clone, Copy)]
struct Places<'p> {
    tenant: &'p TenantState,
    environment: &'p Environment,
    /// What is brought there, which the tenant does not know yet if it is a job's.
    new: &'p Release,
}

impl Places<'_> {
    /// Goes through all that is run on a target, which is all steps of the release without legs: for each step which one of which leg it
    /// is, and the names that it may refer to. `None` if one cannot be filled in.
    fn walk(
        &self,
        release: ReleaseId,
        target: &Target,
        legs: &[Leg],
        mut see: impl FnMut((Leg, usize), (&Release, &Step), &Names<'_>) -> Option<()>,
    ) -> Option<()> {
        let whole = Leg { release, colour: None, steps: Steps::All };
        for leg in legs.iter().copied().chain(legs.is_empty().then_some(whole)) {
            let known = || self.tenant.releases.get(&leg.release).map(AsRef::as_ref);
            let release = if leg.release == self.new.id { self.new } else { known()? };
            let stage = self.environment.name.as_str();
            let names = Names::new(stage, release, target, leg.colour, &target.variables);
            for (number, step) in colour::steps(release, leg.steps).enumerate() {
                see((leg, number), (release, step), &names)?;
            }
        }
        Some(())
    }

    /// All that is run on a target, filled in.
    fn texts(&self, release: ReleaseId, target: &Target, legs: &[Leg]) -> Option<Vec<PlannedTask>> {
        let mut tasks = Vec::new();
        self.walk(release, target, legs, |(leg, _), (release, step), names| {
            let json = json(&render::on_target(release, step, names).ok()?);
            let digest = merkle::leaf(json.as_bytes());
            let step = step.name.clone();
            tasks.push(PlannedTask { release: release.id, step, colour: leg.colour, text: json, digest });
            Some(())
        })?;
        Some(tasks)
    }
}

/// Digests of tasks. A step that refers to nothing is the same task on every target, and hashed once.
struct Tasks<'p> {
    places: Places<'p>,
    alike: HashMap<(Leg, usize), Digest>,
}

impl Tasks<'_> {
    /// Those of all that is run on a target; `None` if a step cannot be filled in.
    fn on(&mut self, release: ReleaseId, target: &Target, legs: &[Leg]) -> Option<Vec<Digest>> {
        let Self { places, alike } = self;
        let mut tasks = Vec::new();
        places.walk(release, target, legs, |which, (release, step), names| {
            if let Some(digest) = alike.get(&which) {
                tasks.push(*digest);
                return Some(());
            }
            let json = json(&render::on_target(release, step, names).ok()?);
            let digest = merkle::leaf(json.as_bytes());
            if render::references(step) == 0 {
                alike.insert(which, digest);
            }
            tasks.push(digest);
            Some(())
        })?;
        Some(tasks)
    }
}

/// The text of a task, over which its digest is made as that of a leaf: with a zero byte before it.
fn json(task: &impl Serialize) -> String {
    serde_json::to_string(task).expect("plain values, and maps with texts as keys, are JSON")
}
