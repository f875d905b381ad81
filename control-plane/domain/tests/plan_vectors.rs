//! Plans with all that is in them, to the byte, in each form that there is: what another program needs to be tested with that checks what
//! people approve. And what is sent to agents is what was sealed.
//!
//! `golden/plan-vectors.json` has them: for each plan its root, and its leaves with their paths; for each target's leaf the texts of the tasks
//! whose digests are in it, of the deployment and of what takes it back. Hashes are those of RFC 6962; a task's is made as that of a leaf.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::plans::{Leaf, Plans};
use crate::common::{
    self, STAGING, World, colours, deployment, gate, name, new_deployment, promotion, release, rule, target,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stella_domain::amount::Amount;
use stella_domain::command::{NewDeployment, NewRun, TargetChange, TenantCommand};
use stella_domain::decide;
use stella_domain::event::Fact;
use stella_domain::gate::Check;
use stella_domain::plan::PlanPart;
use stella_domain::state::State;
use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, PromotionId, RunId, TargetId};
use stella_protocol::message::TaskOutcome;
use stella_signing::merkle;
use uuid::Uuid;

/// A plan, with all that a verifier needs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Vector {
    name: String,
    version: u16,
    root: Digest,
    leaves: Vec<VectorLeaf>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VectorLeaf {
    /// To the byte.
    leaf: String,
    at: usize,
    path: Vec<Digest>,
    /// The tasks, in a target's leaf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tasks: Vec<String>,
    /// Those of the way back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rollback: Vec<String>,
}

/// Two targets with release 1, of which one has had another port since; and three people.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    change_port(&mut world, 1, "9001");
    world
}

fn change_port(world: &mut World, n: u128, port: &str) {
    let variables = BTreeMap::from([("port".to_owned(), Some(port.to_owned()))]);
    let change = TargetChange { id: target(n), labels: BTreeMap::new(), variables, agent: None };
    world.ok(TenantCommand::UpdateTarget(Box::new(change)));
}

/// All that agents have in hand succeeds, until nothing is left.
fn work(world: &mut World) {
    loop {
        let open = (1..=2_u128).find_map(|n| {
            let task = world.tenant().unsettled_tasks(common::agent(n)).next()?;
            Some((n, task.id))
        });
        let Some((n, task)) = open else { return };
        world.finish_task(n, task, TaskOutcome::Succeeded);
    }
}

/// What was sent to each target for a deployment, in the order of its steps.
fn sent(world: &World, of: DeploymentId) -> BTreeMap<TargetId, Vec<String>> {
    let mut found: BTreeMap<TargetId, BTreeMap<u16, String>> = BTreeMap::new();
    for (_, event) in &world.events {
        if let Fact::TaskQueued { task, deployment, target, step } = &event.fact
            && *deployment == of
        {
            let text = serde_json::to_string(&world.task(*task).spec).unwrap();
            found.entry(*target).or_default().insert(*step, text);
        }
    }
    found.into_iter().map(|(target, tasks)| (target, tasks.into_values().collect())).collect()
}

/// What was asked for, before it was: its plan is that of this state.
struct Asked {
    before: State,
    id: DeploymentId,
}

/// The vector of what was asked for and has been done, and, if it can be, taken back since.
fn vector(world: &World, name: &str, Asked { before, id }: &Asked, back: Option<DeploymentId>) -> Vector {
    let tenant = &before.tenants[&common::TENANT];
    let asked = &world.tenant().promotions[&PromotionId(id.0)];
    let (tasks, rollback) = (sent(world, *id), back.map(|back| sent(world, back)).unwrap_or_default());
    let whole = [PlanPart::Wanted, PlanPart::Guards, PlanPart::Release];
    let targets = world.deployment(*id).order.iter().map(|target| PlanPart::Target(*target));
    let mut leaves = Vec::new();
    for part in whole.into_iter().chain(targets) {
        let Ok(proof) = decide::prove(tenant, asked, part, world.now) else {
            assert_eq!(part, PlanPart::Guards, "only guards may be in no plan");
            continue;
        };
        let of = |texts: &BTreeMap<TargetId, Vec<String>>| match part {
            PlanPart::Target(target) => texts.get(&target).cloned().unwrap_or_default(),
            PlanPart::Wanted | PlanPart::Guards | PlanPart::Release => Vec::new(),
        };
        let (tasks, rollback) = (of(&tasks), of(&rollback));
        leaves.push(VectorLeaf { leaf: proof.leaf, at: proof.at, path: proof.path, tasks, rollback });
    }
    Vector { name: name.to_owned(), version: asked.plan.version, root: asked.plan.root, leaves }
}

fn ask(world: &mut World, new: NewDeployment) -> Asked {
    let (before, id) = (world.state.clone(), new.id);
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
    Asked { before, id }
}

fn take_back(world: &mut World, of: DeploymentId) -> DeploymentId {
    let id = deployment(99);
    world.ok(TenantCommand::Rollback { id, of, targets: None });
    work(world);
    id
}

fn plain() -> Vector {
    let mut world = world();
    let asked = ask(&mut world, new_deployment(2, 2, Some(1)));
    // What was sealed is what is done, whatever becomes of the target meanwhile.
    change_port(&mut world, 2, "9002");
    work(&mut world);
    let back = take_back(&mut world, asked.id);
    vector(&world, "two targets, one at a time", &asked, Some(back))
}

fn coloured() -> Vector {
    let mut world = world();
    for n in 4..=5 {
        world.ok(TenantCommand::StoreArtifact {
            digest: common::digest(n),
            size_bytes: 10,
            tenant_bytes_max: None,
        });
        world.ok(TenantCommand::CreateRelease(Box::new(colours::new_coloured(n))));
    }
    let strategy = colours::blue_green(None, None);
    ask(&mut world, NewDeployment { strategy: strategy.clone(), ..new_deployment(4, 4, None) });
    work(&mut world);
    let asked = ask(&mut world, NewDeployment { strategy, ..new_deployment(5, 5, None) });
    work(&mut world);
    let back = take_back(&mut world, asked.id);
    vector(&world, "two colours, prepared and switched", &asked, Some(back))
}

fn job() -> Vector {
    let mut world = world();
    let steps = json!([{ "id": "warm", "task": { "environment": "staging", "steps": [
        { "name": "warm", "command": { "argv": ["/warm", "${port}", "${target}"] } } ] } }]);
    let template = json!({ "name": "upkeep", "steps": steps });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let run = RunId(Uuid::from_u128(0x5000));
    let new = NewRun { id: run, workflow: name("upkeep"), version: None, inputs: BTreeMap::new() };
    let before = world.state.clone();
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    let id = *world.tenant().awaited.keys().next().unwrap();
    work(&mut world);
    vector(&world, "a job of a run", &Asked { before, id }, None)
}

fn guarded() -> Vector {
    let mut world = world();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[2, 3])) });
    world.ok(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget: Some(Amount::Count(1)) });
    world.set_gate(gate("manual", Check::Manual));
    let asked = ask(&mut world, new_deployment(2, 2, None));
    let word = TenantCommand::DecideGate {
        promotion: promotion(2),
        gate: name("manual"),
        passed: true,
        reason: String::new(),
    };
    world.tell_as(2, word).unwrap();
    world.approve(2, 2).unwrap();
    work(&mut world);
    let back = take_back(&mut world, asked.id);
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(1)));
    vector(&world, "with approvals, a gate and a budget", &asked, Some(back))
}

#[test]
fn plans_are_what_they_were_to_the_byte() {
    let vectors = [plain(), coloured(), job(), guarded()];
    assert_eq!(vectors.iter().map(|it| it.version).collect::<Vec<_>>(), [1, 2, 3, 5]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan-vectors.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&vectors).unwrap() + "\n").unwrap();
    }
    let committed = std::fs::read_to_string(&path).expect("committed vectors; UPDATE_GOLDEN=1 writes them");
    let committed: Vec<Vector> = serde_json::from_str(&committed).unwrap();
    for (committed, now) in committed.iter().zip(&vectors) {
        assert_eq!(committed, now, "what people approve has another form; that needs another version");
    }
    assert_eq!(committed.len(), vectors.len());
}

/// As any verifier would: from the file alone.
#[test]
fn the_vectors_hold_by_themselves() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan-vectors.json");
    let vectors: Vec<Vector> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let digests = |texts: &[String]| texts.iter().map(|it| merkle::leaf(it.as_bytes())).collect::<Vec<_>>();
    for Vector { name, root, leaves, .. } in &vectors {
        let mut targets = 0;
        for (at, it) in leaves.iter().enumerate() {
            assert_eq!(it.at, at, "{name}");
            let hash = merkle::leaf(it.leaf.as_bytes());
            assert_eq!(
                merkle::root_of(hash, at as u64, leaves.len() as u64, &it.path),
                Some(*root),
                "{name}"
            );
            if !it.leaf.starts_with("{\"leaf\":\"target\"") {
                continue;
            }
            targets += 1;
            let sealed: Leaf = serde_json::from_str(&it.leaf).unwrap();
            assert_eq!(sealed.tasks, digests(&it.tasks), "{name}: other tasks were sent than were sealed");
            assert!(!it.tasks.is_empty(), "{name}");
            let back = sealed.rollback.map(|it| it.tasks).unwrap_or_default();
            assert_eq!(back, digests(&it.rollback), "{name}: other tasks have taken it back");
        }
        assert_eq!(targets, 2, "{name}");
    }
}

/// The invariant of the walks finds tasks to look at, and would find another one.
#[test]
fn what_is_sent_is_what_was_sealed() {
    let mut world = world();
    let mut plans = Plans::default();
    let mut told = |world: &mut World, command: TenantCommand| {
        let (before, first) = (world.state.clone(), world.events.len());
        world.tell_as(1, command).unwrap();
        plans.step(&before, &world.state, &world.events[first..]);
    };
    told(&mut world, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None))));
    work(&mut world);
    told(&mut world, TenantCommand::Rollback { id: deployment(3), of: deployment(2), targets: None });
    assert_eq!(plans.found, (2, 2));
}
