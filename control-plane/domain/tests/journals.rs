//! Journals of before lead to the state that their snapshots have.
//!
//! `golden/journals/N.jsonl` is a journal as it was written once, to the byte, and `N.state.json` the snapshot that was taken at its end.
//! A control plane starts from its snapshot, a restore from all events: both have to come to the same state, or the hash of a backup is
//! not that of what is restored from it. So a change of what `apply` keeps of events that are in journals already needs one more of
//! [`Projections::NOW`], with which older snapshots are left aside; `UPDATE_GOLDEN=1` then takes the snapshots anew. Journals are only
//! ever added: `UPDATE_GOLDEN=1` writes another one when a story has kinds of events that none has. One of them has events in forms in which
//! nothing writes them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use crate::common::{
    self, STAGING, World, account, agent, deployment, digest, failed, name, new_deployment, new_target,
    release, rule, target,
};
use serde_json::json;
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::archive::{Rule, due};
use stella_domain::command::{NewDeployment, NewHook, NewRun, SystemCommand, TargetChange, TenantCommand};
use stella_domain::environment::{PromotionPath, Verification};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::hook::HookAction;
use stella_domain::promotion::ApprovalSignature;
use stella_domain::state::{Projections, State};
use stella_domain::way_back::ProofRule;
use stella_protocol::id::{EnvironmentId, HookId, PromotionId, RunId};
use stella_protocol::message::TaskOutcome;
use stella_signing::ApprovalStatement;
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));
const PREVIEW: EnvironmentId = EnvironmentId(Uuid::from_u128(0x78));
const HOOK: HookId = HookId(Uuid::from_u128(0x7000));
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journals").join(name)
}

fn is_to_be_updated() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// The journals that were recorded, by their numbers.
fn recorded() -> impl Iterator<Item = (usize, Vec<(StreamId, Event)>)> {
    let read =
        |number| fs::read_to_string(golden(&format!("{number}.jsonl"))).ok().map(|text| (number, text));
    let parsed = |(number, text): (usize, String)| {
        let events = text.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("journal {number}: {error}: {line}"))
        });
        (number, events.collect())
    };
    (1..).map_while(read).map(parsed)
}

fn replayed(number: usize, events: &[(StreamId, Event)]) -> State {
    let mut state = State::default();
    for (at, (stream, event)) in events.iter().enumerate() {
        let applied = state.apply(*stream, event);
        applied.unwrap_or_else(|error| panic!("line {} of journal {number}: {error}", at + 1));
    }
    state
}

#[test]
fn a_journal_of_before_leads_to_the_state_of_its_snapshot() {
    let mut count = 0;
    for (number, events) in recorded() {
        count += 1;
        let state = replayed(number, &events);
        let path = golden(&format!("{number}.state.json"));
        let taken = |path| serde_json::from_str::<State>(&fs::read_to_string(path).unwrap_or_default());
        let is_older = taken(&path).map_or(true, |snapshot| snapshot.projections < Projections::NOW);
        if is_to_be_updated() && is_older {
            fs::write(&path, serde_json::to_string(&state).unwrap() + "\n").unwrap();
        }
        let snapshot = taken(&path).unwrap();
        assert_eq!(snapshot.projections, Projections::NOW, "UPDATE_GOLDEN=1 takes the snapshots anew");
        assert!(
            snapshot == state,
            "journal {number} leads to another state than its snapshot has: raise Projections::NOW, then UPDATE_GOLDEN=1"
        );
    }
    assert!(count > 0, "no journal is recorded; UPDATE_GOLDEN=1 writes one");
}

#[test]
fn each_kind_of_event_of_the_stories_is_in_a_recorded_journal() {
    for world in [story(), story_of_before()] {
        common::end(&world);
        let names = |events: &[(StreamId, Event)]| -> BTreeSet<&'static str> {
            events.iter().map(|(_, event)| event.fact.name()).collect()
        };
        let known: BTreeSet<_> = recorded().flat_map(|(_, events)| names(&events)).collect();
        let new: Vec<_> = names(&world.events).into_iter().filter(|name| !known.contains(name)).collect();
        if is_to_be_updated() && !new.is_empty() {
            record(&world);
            continue;
        }
        assert_eq!(new, [""; 0], "in no recorded journal; UPDATE_GOLDEN=1 adds one");
    }
}

fn record(world: &World) {
    let lines = world.events.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n");
    let number = recorded().count() + 1;
    fs::create_dir_all(golden("")).unwrap();
    fs::write(golden(&format!("{number}.jsonl")), lines.collect::<String>()).unwrap();
    let state = serde_json::to_string(&world.state).unwrap() + "\n";
    fs::write(golden(&format!("{number}.state.json")), state).unwrap();
}

/// What an installation goes through whose state keeps things beside the plain facts: proofs and what comes by itself for them,
/// variables of ways back, former secrets, signed approvals, verdicts, runs.
fn story() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    for (n, place, called) in [(9, PRODUCTION, "production"), (8, PREVIEW, "preview")] {
        let create = TenantCommand::CreateEnvironment {
            id: place,
            name: name(called),
            order: None,
            way_back_proof: ProofRule::Off,
        };
        world.ok(create);
        world.enrol(n);
        let there =
            stella_domain::command::NewTarget { environment: place, agent: agent(n), ..new_target(n) };
        world.ok(TenantCommand::CreateTarget(Box::new(there)));
        world.connect(n, vec![]);
    }
    promote(&mut world);
    take_back(&mut world);
    bring_where_nothing_is_left(&mut world);
    run_by_hook(&mut world);
    world
}

/// Release 2 proves itself in staging, and comes to production with an approval that is signed and one that is not.
fn promote(world: &mut World) {
    let requires = Some(PromotionPath::after(STAGING, MINUTE_MS, true));
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule: Some(rule(2, &[])) });
    world.set_gate(common::security("scan", &[]));
    world.scan(2, &[]);
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, Some(1))))).unwrap();
    world.complete(1);
    world.complete(2);
    world.wait_ms(MINUTE_MS);
    let asked = *world.tenant().open_promotions.iter().next().unwrap();
    let plan = world.tenant().promotions[&asked].plan.root;
    let (key, by) = (common::signing_key(1), Some(account(2).to_string()));
    let statement = ApprovalStatement { promotion: asked.to_string(), plan, account: by };
    let signature = ApprovalSignature { key: key.public(), signature: key.sign(&statement) };
    approve(world, 2, asked, Some(signature));
    approve(world, 3, asked, None);
    world.complete(9);
}

fn approve(world: &mut World, who: u128, promotion: PromotionId, signature: Option<ApprovalSignature>) {
    let plan = world.tenant().promotions[&promotion].plan.root;
    let reason = String::new();
    world.tell_as(who, TenantCommand::ApprovePromotion { promotion, plan, reason, signature }).unwrap();
}

/// Staging goes back to release 1, with the variables of then; and once more by itself.
fn take_back(world: &mut World) {
    let variables = BTreeMap::from([("port".to_owned(), Some("9090".to_owned()))]);
    let change = TargetChange { id: target(1), labels: BTreeMap::new(), variables, agent: None };
    world.ok(TenantCommand::UpdateTarget(Box::new(change)));
    world.ok(TenantCommand::Rollback { id: deployment(3), of: deployment(2), targets: None });
    world.complete(1);
    world.complete(2);
    world.scan(3, &[]);
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(4, 3, None))));
    world.finish(1, failed("exit 1"));
    world.finish(2, TaskOutcome::Succeeded);
    for n in 1..=2 {
        if world.tenant().targets[&target(n)].active.is_some() {
            world.complete(n);
        }
    }
}

/// The only target goes while a release bakes.
fn bring_where_nothing_is_left(world: &mut World) {
    let verification = Some(Verification { bake_ms: MINUTE_MS });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: PREVIEW, verification });
    let new = NewDeployment { environment: PREVIEW, ..new_deployment(5, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.complete(8);
    world.ok(TenantCommand::RemoveTarget { id: target(8) });
    world.wait_ms(MINUTE_MS);
}

/// A hook whose secret is rotated twice, and a run of its workflow.
fn run_by_hook(world: &mut World) {
    let (id, kind) = (account(50), AccountKind::Service);
    let roles = vec![Grant { role: Role::Deployer, tenant: Some(common::TENANT), environment: None }];
    world.system(SystemCommand::CreateAccount { id, name: name("ci"), kind, roles }).unwrap();
    let deploy = json!({ "release": "shop:2.0", "environment": "staging" });
    let steps =
        json!([{ "id": "soak", "wait": "30s" }, { "id": "out", "needs": ["soak"], "deploy": deploy }]);
    let template = serde_json::from_value(json!({ "name": "ship", "steps": steps })).unwrap();
    world.tell_as(1, TenantCommand::ApplyWorkflow(Box::new(template))).unwrap();
    let action = HookAction::Workflow { workflow: name("ship"), inputs: BTreeMap::new() };
    let new = NewHook { id: HOOK, name: name("shipped"), account: id, action, when: None, salt: digest(7) };
    world.tell_as(1, TenantCommand::CreateHook(Box::new(new))).unwrap();
    for salt in [8, 9] {
        let rotate = TenantCommand::RotateHook { hook: HOOK, salt: digest(salt), overlap_ms: MINUTE_MS };
        world.tell_as(1, rotate).unwrap();
    }
    let run = RunId(Uuid::from_u128(0x5000));
    let new = NewRun { id: run, workflow: name("ship"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world.wait_ms(30_000);
    world.complete(1);
    world.complete(2);
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(2)));
}

/// What versions wrote that did not say all that is said now, and what followed from that then: what was skipped had come, a failure took a
/// proof away whatever it had touched, no secret outlived the second one after it, and nothing proved a release where no target was left.
fn story_of_before() -> World {
    let mut world = World::with_release_1(4);
    world.person(1);
    for n in 2..=4 {
        world.disconnect(n);
    }
    world.deploy(2, 2, None);
    let (deployment_2, reason) = (deployment(2), "no power".to_owned());
    world.ok(TenantCommand::SkipTarget { deployment: deployment_2, target: target(2), reason });
    world.ok(TenantCommand::DrainAgent { agent: agent(3), reason: "patches".to_owned() });
    as_before(&mut world);
    world.complete(1);
    world.connect(4, vec![]);
    world.complete(4);
    for n in 1..=4 {
        assert_eq!(world.tenant().targets[&target(n)].last, Some(deployment_2));
    }
    world.wait_ms(30 * DAY_MS);
    let rule = Rule { never_within_ms: DAY_MS, after_ms: Some(29 * DAY_MS), newer_max: None };
    let ended = due(world.tenant(), rule, world.now);
    assert_eq!(ended.deployments, [deployment(1)], "it is what nothing is left of");
    world.ok(TenantCommand::Archive(Box::new(ended)));
    world.ok(TenantCommand::UndrainAgent { agent: agent(3) });
    (2..=3).for_each(|n| drop(world.connect(n, vec![])));
    fail_untouched(&mut world);
    world.ok(TenantCommand::CreateEnvironment {
        id: PREVIEW,
        name: name("preview"),
        order: None,
        way_back_proof: ProofRule::Off,
    });
    world.enrol(8);
    let there = stella_domain::command::NewTarget { environment: PREVIEW, ..new_target(8) };
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(8, vec![]);
    bring_where_nothing_is_left(&mut world);
    run_by_hook(&mut world);
    as_before(&mut world);
    assert_eq!(world.tenant().hooks[&HOOK].formers.len(), 1);
    world
}

/// Release 3 has proven itself, and somebody gives up another deployment of it before it has begun.
fn fail_untouched(world: &mut World) {
    let is_proven = |world: &World| world.tenant().environments[&STAGING].proven.contains_key(&release(3));
    world.deploy(6, 3, None);
    (1..=4).for_each(|n| world.complete(n));
    assert!(is_proven(world));
    (1..=4).for_each(|n| world.disconnect(n));
    world.deploy(7, 3, None);
    let (deployment, reason) = (deployment(7), "not now".to_owned());
    world.ok(TenantCommand::FailDeployment { deployment, roll_back: false, reason });
    as_before(world);
    assert!(!is_proven(world));
    (1..=4).for_each(|n| drop(world.connect(n, vec![])));
}

/// The events without what events of then did not say.
fn as_before(world: &mut World) {
    for (_, event) in &mut world.events {
        match &mut event.fact {
            Fact::TargetSkipped { never_came: said, .. }
            | Fact::DeploymentFailed { keeps_proof: said, .. }
            | Fact::HookRotated { keeps_others: said, .. } => *said = false,
            Fact::DeploymentSucceeded { proves, .. } => *proves = None,
            _ => {}
        }
    }
    world.state = replayed(0, &world.events);
}
