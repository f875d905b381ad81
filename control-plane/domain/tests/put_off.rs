//! Commands that end many deployments at once, or let them go on: each decision is one that can be written.

use std::collections::BTreeMap;

use crate::common::{
    STAGING, World, agent, deployment, end, facts, failed, is_dispatch, name, new_deployment, new_target,
    release, states_of,
};
use serde_json::json;
use stella_domain::command::{Command, NewDeployment, NewRun, NewTarget, Request, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::{Status, TARGETS_MAX};
use stella_domain::environment::PromotionPath;
use stella_domain::event::{Event, Fact};
use stella_domain::hold::Verdict;
use stella_domain::listening::Listening;
use stella_domain::size::{DECISION_BYTES_MAX, EVENT_BYTES_MAX};
use stella_domain::tenant::Timer;
use stella_protocol::id::{DeploymentId, EnvironmentId, RunId, TargetId};
use stella_protocol::trace::{Correlation, TraceContext};
use uuid::Uuid;

fn place(n: u128) -> EnvironmentId {
    EnvironmentId(Uuid::from_u128(0x7000 + n))
}

fn target(n: u128, host: u128) -> TargetId {
    TargetId(Uuid::from_u128((n << 32) + host))
}

/// Environments `place-1`.., each with a target on each of these hosts, which were never heard.
fn world(places: u128, hosts: u128) -> World {
    let mut world = World::with_release_1(1);
    (1..=hosts).map(|host| host + 1).for_each(|host| world.enrol(host));
    for n in 1..=places {
        world.ok(TenantCommand::CreateEnvironment {
            id: place(n),
            name: name(&format!("place-{n}")),
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        });
        for host in 1..=hosts {
            let new = NewTarget {
                id: target(n, host),
                environment: place(n),
                name: name(&format!("host-{n}-{host}")),
                agent: agent(host + 1),
                slot: Some(name(&format!("place-{n}"))),
                ..new_target(1)
            };
            world.ok(TenantCommand::CreateTarget(Box::new(new)));
        }
    }
    world
}

/// Release 2 comes to an environment: to so many targets at a time, or to all.
fn to(n: u128, batch: Option<u32>) -> TenantCommand {
    let new = new_deployment(10 + n, 2, batch);
    TenantCommand::Deploy(Box::new(NewDeployment { environment: place(n), ..new }))
}

/// Each environment has a deployment under way whose tasks wait for their hosts.
fn all_wait(places: u128, hosts: u128) -> World {
    let mut world = world(places, hosts);
    (1..=places).for_each(|n| drop(world.ok(to(n, None))));
    world
}

fn block() -> TenantCommand {
    TenantCommand::JudgeRelease {
        release: release(2),
        verdict: Verdict::Block,
        reason: "it loses data".to_owned(),
    }
}

fn put_off(world: &World) -> Vec<DeploymentId> {
    let all = world.tenant().deployments.values();
    all.filter(|it| it.put_off.is_some()).map(|it| it.id).collect()
}

fn tick(world: &mut World) -> Decision {
    world.send(&World::request(Command::Tick(Listening::Always))).unwrap()
}

#[test]
fn a_release_is_blocked_on_its_way_to_several_large_environments() {
    const HOSTS: usize = 520;
    let mut world = all_wait(3, 520);
    let mut decisions = vec![world.ok(block())];
    let has_halted = |world: &World, n: u128| {
        matches!(world.status(10 + n), Status::Halting { .. } | Status::Failed { .. })
    };
    assert!((1..=3_u128).all(|n| has_halted(&world, n)), "all of them halt at once");
    while !put_off(&world).is_empty() {
        assert!(decisions.len() < 10);
        decisions.push(tick(&mut world));
    }
    // Two events for each target, and some for the whole.
    let sizes: Vec<usize> = decisions.iter().map(|it| it.events.len()).collect();
    assert!(sizes.iter().sum::<usize>() > 6 * HOSTS, "{sizes:?}");
    assert!(sizes[0] < 2 * HOSTS + 100, "{sizes:?}");
    for n in 1..=3 {
        assert!(matches!(world.status(10 + n), Status::Failed { .. }));
        assert!((1..=520).all(|host| world.tenant().targets[&target(n, host)].active.is_none()));
    }
}

/// What one decision comes to at most: see `decide/put_off.rs`.
#[test]
fn the_events_of_a_decision_can_be_written_also_if_each_carries_a_long_trace() {
    let mut world = World::with_release_1(1);
    world.person(1);
    let parent = "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01";
    let says = (0..16).map(|n| format!("vendor{n:02}={}", "x".repeat(22))).collect::<Vec<_>>().join(",");
    let trace = TraceContext::from_headers(|header| match header {
        "traceparent" => vec![parent.as_bytes()],
        "tracestate" => vec![says.as_bytes()],
        _ => Vec::new(),
    });
    assert!(says.len() > 500 && !trace.state.is_empty());
    let correlation = Correlation::try_from("c".repeat(128)).unwrap();
    let deploy = TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)));
    let request = Request { trace: TraceContext { correlation, ..trace }, ..World::by(1, deploy) };
    let started = world.send(&request).unwrap();
    let of_targets = |event: &Event| match event.fact {
        Fact::TargetStarted { .. } | Fact::TaskQueued { .. } | Fact::TaskDispatched { .. } => {
            serde_json::to_vec(event).unwrap().len()
        }
        _ => 0,
    };
    let largest = started.events.iter().map(|(_, event)| of_targets(event)).max().unwrap();
    assert!(largest > 800, "{largest}");
    assert!((1_000 + 3 * TARGETS_MAX) * largest + EVENT_BYTES_MAX <= DECISION_BYTES_MAX, "{largest}");
}

#[test]
fn what_has_halted_starts_nothing_until_its_end_is_decided() {
    let mut world = all_wait(3, 520);
    world.ok(block());
    assert_eq!(put_off(&world), [deployment(12), deployment(13)]);
    assert!(matches!(world.status(11), Status::Failed { .. }));
    // A host that comes back in between is sent nothing of what it was to bring.
    let decision = world.connect(2, vec![]);
    assert!(!decision.events.iter().any(|(_, event)| is_dispatch(&event.fact)), "{:?}", facts(&decision));
    // Somebody cancels one of them meanwhile.
    let reason = "too late".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(12), reason });
    assert!(matches!(world.status(12), Status::Cancelled { .. }));
    assert_eq!(put_off(&world), [deployment(13)]);
    let decision = tick(&mut world);
    assert_eq!(facts(&decision).first(), Some(&"deployment_put_off"));
    assert!(matches!(world.status(13), Status::Failed { .. }));
    assert!(!world.tenant().timers.iter().any(|(_, timer)| matches!(timer, Timer::DeploymentPutOff(_))));
    end(&world);
}

#[test]
fn a_proof_that_is_lost_ends_what_came_by_it_in_several_environments() {
    let mut world = world(3, 520);
    world.deploy(2, 2, None);
    world.complete(1);
    for n in 1..=3 {
        let requires = Some(PromotionPath::after(STAGING, 0, false));
        world.ok(TenantCommand::SetEnvironmentPath { environment: place(n), requires });
        world.ok(to(n, Some(1)));
    }
    // Another attempt there fails: the release is proven no more.
    world.deploy(3, 2, None);
    world.finish(1, failed("it does not start"));
    let ended = |world: &World, n| matches!(world.status(n), Status::Failed { .. });
    assert_eq!([11, 12, 13].map(|n| ended(&world, n)), [true, true, false]);
    assert!(matches!(world.status(13), Status::Halting { .. }));
    assert_eq!(put_off(&world), [deployment(13)]);
    tick(&mut world);
    assert!(ended(&world, 13));
    end(&world);
}

#[test]
fn a_run_that_is_cancelled_ends_its_deployments_in_several_decisions() {
    const RUN: RunId = RunId(Uuid::from_u128(0x5000));
    let mut world = world(2, 520);
    world.person(1);
    let step = |n: u128| {
        let deploy = json!({ "release": "shop:2.0", "environment": format!("place-{n}"),
            "strategy": { "type": "all_at_once" } });
        json!({ "id": format!("to_{n}"), "deploy": deploy })
    };
    let template = json!({ "name": "ship", "steps": [step(1), step(2)] });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let new = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    // The second begins in a decision of its own.
    assert_eq!(put_off(&world).len(), 1);
    tick(&mut world);
    assert_eq!(put_off(&world), []);
    let started = world.events.iter().filter(|(_, event)| matches!(event.fact, Fact::TaskQueued { .. }));
    assert_eq!(started.count(), 2 + 2 * 520);
    world.ok(TenantCommand::CancelRun { run: RUN, reason: "not now".to_owned() });
    assert_eq!(put_off(&world).len(), 1);
    assert_eq!(states_of(&world.tenant().runs[&RUN]), "cancelling: to_1 cancelled, to_2 running");
    tick(&mut world);
    assert_eq!(states_of(&world.tenant().runs[&RUN]), "cancelled: to_1 cancelled, to_2 cancelled");
    end(&world);
}
