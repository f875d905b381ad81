//! Blue-green: the idle colour is filled on all targets beside the live one, then they are switched, and back in an instant.

use crate::common::colours::{blue_green, new_coloured};
use crate::common::{
    self, STAGING, World, add_key, agent, conflict, deployment, digest, end, failed, failure, key_id, name,
    new_deployment, release, signed, target,
};
use stella_domain::amount::Amount;
use stella_domain::colour::{Colour, Stage};
use stella_domain::command::{NewDeployment, NewRelease, TargetChange, TenantCommand};
use stella_domain::deployment::{Cause, OnFailure, Progress, Status};
use stella_domain::hold::PauseCause;
use stella_domain::rejection::Rejection;
use stella_domain::release::{Phase, StepAction};
use stella_domain::strategy::{BlueGreen, Strategy};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::TaskSpec;

/// Targets with release 4 in blue, by deployment 4; release 5 has colours too.
fn world(count: u128) -> World {
    let mut world = World::with_targets(count);
    for n in 4..=6 {
        world.ok(TenantCommand::StoreArtifact { digest: digest(n), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(n))));
    }
    deploy(&mut world, 4, blue_green(None, None));
    (1..=count).for_each(|n| steps(&mut world, n, &["install", "check"]));
    (1..=count).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(4), Status::Succeeded);
    world
}

/// Deployment `n` of release `n`.
fn deploy(world: &mut World, n: u128, strategy: Strategy) {
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(n, n, None) })));
}

/// These steps succeed on a target, one after the other.
#[track_caller]
fn steps(world: &mut World, n: u128, names: &[&str]) {
    for step in names {
        assert_eq!(world.task_on(n).step.as_str(), *step);
        world.finish(n, TaskOutcome::Succeeded);
    }
}

/// The number of the release that is live, its colour, and what the other one holds: which release, and whether it is ready.
type Here = (Option<u128>, Option<Colour>, Option<(u128, Colour, bool)>);

fn here(world: &World, n: u128) -> Here {
    let place = &world.tenant().targets[&target(n)];
    let number = |id| (1..=6).find(|n| release(*n) == id).unwrap();
    let idle = place.idle.map(|idle| (number(idle.release), idle.colour, idle.is_ready));
    (place.current.map(number), place.live, idle)
}

fn progress(world: &World, of: u128, n: u128) -> &'static str {
    world.deployment(deployment(of)).targets[&target(n)].progress.name()
}

fn argv(world: &World, n: u128) -> Vec<String> {
    match &world.task_on(n).spec {
        TaskSpec::Command(command) => command.argv.clone(),
        TaskSpec::Artifact(_) | TaskSpec::Check(_) | TaskSpec::Systemd(_) => panic!("a command"),
    }
}

const BLUE: Option<Colour> = Some(Colour::Blue);
const GREEN: Option<Colour> = Some(Colour::Green);

#[test]
fn the_idle_colour_is_filled_everywhere_before_any_target_is_switched() {
    let mut world = world(2);
    assert_eq!(here(&world, 1), (Some(4), BLUE, None));
    deploy(&mut world, 5, blue_green(None, None));
    let TaskSpec::Artifact(artifact) = &world.task_on(1).spec else { panic!("an artifact") };
    assert_eq!(artifact.component, "web-green", "a colour has folders of its own");
    steps(&mut world, 1, &["install", "check"]);
    assert_eq!((progress(&world, 5, 1), progress(&world, 5, 2)), ("ready", "active"));
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, false))));
    steps(&mut world, 2, &["install", "check"]);
    assert_eq!(world.deployment(deployment(5)).stage, Stage::Switch);
    assert_eq!(argv(&world, 1), ["switch", "to green at 801"]);
    steps(&mut world, 2, &["switch", "verify"]);
    steps(&mut world, 1, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded);
    assert_eq!(here(&world, 2), (Some(5), GREEN, Some((4, Colour::Blue, true))));
    end(&world);
}

#[test]
fn a_failure_while_preparing_touches_nothing_that_is_live() {
    let mut world = world(2);
    deploy(&mut world, 5, blue_green(None, None));
    steps(&mut world, 1, &["install", "check"]);
    steps(&mut world, 2, &["install"]);
    world.finish(2, failed("it does not start"));
    assert!(failure(&world, 5).contains("step check on web-2 failed: it does not start"));
    assert!(world.rollback_of(5).is_none(), "there is nothing to take back");
    assert_eq!((progress(&world, 5, 1), progress(&world, 5, 2)), ("skipped", "failed"));
    for n in 1..=2 {
        assert_eq!(here(&world, n), (Some(4), BLUE, Some((5, Colour::Green, false))));
        assert_eq!(world.tenant().targets[&target(n)].last, Some(deployment(4)));
    }
    // What was there before can still be rolled back, and the next deployment ends what this one has left.
    deploy(&mut world, 6, blue_green(None, None));
    assert_eq!(argv(&world, 1), ["retire", "green of 5.0"]);
    for n in 1..=2 {
        steps(&mut world, n, &["retire", "install", "check"]);
    }
    (1..=2).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(here(&world, 1), (Some(6), GREEN, Some((4, Colour::Blue, true))));
    end(&world);
}

#[test]
fn a_key_that_is_revoked_in_the_warm_up_keeps_the_switch_from_beginning() {
    let mut world = world(2);
    world.ok(add_key(1));
    for of in [4, 5] {
        world.sign(1, of).unwrap();
    }
    world.ok(TenantCommand::SetReleaseSigning { rule: Some(signed(1, &[])) });
    deploy(&mut world, 5, blue_green(Some(60_000), None));
    (1..=2).for_each(|n| steps(&mut world, n, &["install", "check"]));
    assert_eq!(world.deployment(deployment(5)).paused_for, PauseCause::WarmUp);
    let reason = "the laptop is gone".to_owned();
    world.ok(TenantCommand::RevokeReleaseKey { key: key_id(1), reason });
    world.wait_ms(60_000);
    assert!(failure(&world, 5).contains("key ci was revoked"), "{}", failure(&world, 5));
    (1..=2).for_each(|n| assert_eq!(here(&world, n).0, Some(4)));
    end(&world);
}

#[test]
fn it_warms_up_for_its_time_and_checks_again_before_the_switch() {
    let mut world = world(2);
    deploy(&mut world, 5, blue_green(Some(60_000), None));
    (1..=2).for_each(|n| steps(&mut world, n, &["install", "check"]));
    let waiting = world.deployment(deployment(5));
    assert_eq!(waiting.paused.as_ref().unwrap().reason, "2 of 2 targets are prepared and warm up");
    assert_eq!((waiting.paused_for, waiting.stage), (PauseCause::WarmUp, Stage::Prepare));
    world.wait_ms(59_999);
    assert_eq!(progress(&world, 5, 1), "ready");
    world.wait_ms(1);
    assert_eq!(world.deployment(deployment(5)).stage, Stage::Check);
    steps(&mut world, 1, &["check"]);
    assert_eq!(progress(&world, 5, 1), "ready");
    world.finish(2, failed("it has died"));
    assert!(failure(&world, 5).contains("it has died"));
    assert!(world.rollback_of(5).is_none());
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, false))));
    end(&world);
}

#[test]
fn somebody_confirms_the_switch_and_a_gate_is_looked_at_again() {
    let mut world = world(1);
    world.set_gate(common::security("scan", &[]));
    world.scan(5, &[]);
    let confirm = BlueGreen { confirm: true, ..BlueGreen::default() };
    deploy(&mut world, 5, Strategy::BlueGreen(confirm));
    steps(&mut world, 1, &["install", "check"]);
    world.wait_ms(90 * 24 * 3_600_000);
    assert_eq!(progress(&world, 5, 1), "ready");
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(5) });
    world.scan(5, &["CVE-1"]);
    steps(&mut world, 1, &["check"]);
    assert!(failure(&world, 5).contains("gate scan"), "{:?}", world.status(5));
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, false))));
    end(&world);
}

#[test]
fn a_failed_switch_is_taken_back_by_the_switch_alone() {
    let mut world = world(3);
    deploy(&mut world, 5, blue_green(None, None));
    (1..=3).for_each(|n| steps(&mut world, n, &["install", "check"]));
    steps(&mut world, 1, &["switch", "verify"]);
    steps(&mut world, 2, &["switch"]);
    world.finish(2, failed("502"));
    assert!(world.tenant().targets[&target(2)].is_torn);
    steps(&mut world, 3, &["switch"]);
    assert!(matches!(world.status(5), Status::Failed { .. }));
    for n in 1..=3 {
        assert_eq!(argv(&world, n), ["switch", &format!("to blue at 80{n}")]);
        steps(&mut world, n, &["switch", "verify"]);
        assert_eq!((here(&world, n).0, here(&world, n).1), (Some(4), BLUE));
        assert!(!world.tenant().targets[&target(n)].is_torn);
    }
    assert_eq!(here(&world, 1).2, Some((5, Colour::Green, true)));
    assert_eq!(here(&world, 2).2, Some((5, Colour::Green, false)), "it was never seen to work");
    end(&world);
}

#[test]
fn a_person_switches_back_in_an_instant_as_long_as_the_old_colour_is_kept() {
    let mut world = world(1);
    deploy(&mut world, 5, blue_green(None, Some(60_000)));
    steps(&mut world, 1, &["install", "check", "switch", "verify"]);
    world.wait_ms(59_999);
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    steps(&mut world, 1, &["switch", "verify"]);
    assert_eq!(*world.status(7), Status::Succeeded);
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, true))));
    // What was taken back is kept as long as the other one would have been.
    world.wait_ms(59_999);
    assert!(world.tenant().active_deployments.is_empty());
    world.wait_ms(1);
    assert_eq!(argv(&world, 1), ["retire", "green of 5.0"]);
    steps(&mut world, 1, &["retire"]);
    assert_eq!(here(&world, 1), (Some(4), BLUE, None));
    assert_eq!(world.tenant().targets[&target(1)].last, Some(deployment(7)));
    end(&world);
}

/// What comes back has the variables that it came with; what is live, and is led away from first, those that the target has now.
#[test]
fn a_second_try_of_a_rollback_that_broke_off_in_its_switch_fills_in_each_release_with_its_own() {
    let mut world = world(1);
    let ports = |world: &mut World, blue: &str, green: &str| {
        let variables = [("port_blue", blue), ("port_green", green)]
            .map(|(k, v)| (k.to_owned(), Some(v.to_owned())))
            .into();
        let (id, labels) = (target(1), std::collections::BTreeMap::new());
        world.ok(TenantCommand::UpdateTarget(Box::new(TargetChange { id, labels, variables, agent: None })));
    };
    ports(&mut world, "8001", "8002");
    deploy(&mut world, 5, blue_green(None, None));
    steps(&mut world, 1, &["install", "check", "switch", "verify"]);
    ports(&mut world, "9001", "9002");
    deploy(&mut world, 6, blue_green(None, None));
    steps(&mut world, 1, &["retire", "install", "check", "switch", "verify"]);
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(6), targets: None });
    assert_eq!(argv(&world, 1), ["switch", "to green at 8002"]);
    world.finish(1, failed("502"));
    assert!(world.tenant().targets[&target(1)].is_torn);
    world.ok(TenantCommand::Rollback { id: deployment(8), of: deployment(6), targets: None });
    assert_eq!(argv(&world, 1), ["switch", "to blue at 9001"]);
    steps(&mut world, 1, &["switch", "verify"]);
    while world.task_on(1).step.as_str() != "switch" {
        world.finish(1, TaskOutcome::Succeeded);
    }
    assert_eq!(argv(&world, 1), ["switch", "to green at 8002"]);
    steps(&mut world, 1, &["switch", "verify"]);
    assert_eq!((world.status(8), here(&world, 1).0), (&Status::Succeeded, Some(5)));
    end(&world);
}

#[test]
fn after_the_keep_time_the_old_colour_is_retired_and_a_rollback_fills_it_again() {
    let mut world = world(2);
    deploy(&mut world, 5, blue_green(None, Some(60_000)));
    (1..=2).for_each(|n| steps(&mut world, n, &["install", "check"]));
    (1..=2).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    world.disconnect(2);
    world.wait_ms(60_000);
    let retirement =
        world.tenant().deployments.values().find(|it| it.cause == Cause::Retirement { of: deployment(5) });
    assert_eq!(retirement.unwrap().targets.len(), 1, "an agent that is away holds nothing up");
    assert_eq!(argv(&world, 1), ["retire", "blue of 4.0"], "the steps of the old release");
    steps(&mut world, 1, &["retire"]);
    assert_eq!(here(&world, 1), (Some(5), GREEN, None));
    assert_eq!(here(&world, 2), (Some(5), GREEN, Some((4, Colour::Blue, true))));
    world.connect(2, vec![]);
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    steps(&mut world, 2, &["switch", "verify"]);
    steps(&mut world, 1, &["install", "check", "switch", "verify"]);
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, true))));
    end(&world);
}

#[test]
fn the_old_colour_is_retired_by_hand_and_once() {
    let mut world = world(1);
    deploy(&mut world, 5, blue_green(None, None));
    let early = world.tell(TenantCommand::RetireColours { id: deployment(8), of: deployment(5) });
    assert!(conflict(early).contains("has not ended"));
    steps(&mut world, 1, &["install", "check", "switch", "verify"]);
    world.wait_ms(7 * 24 * 3_600_000);
    assert!(world.tenant().active_deployments.is_empty(), "until the next deployment, or by hand");
    world.ok(TenantCommand::RetireColours { id: deployment(8), of: deployment(5) });
    steps(&mut world, 1, &["retire"]);
    assert_eq!(here(&world, 1), (Some(5), GREEN, None));
    let again = world.tell(TenantCommand::RetireColours { id: deployment(9), of: deployment(5) });
    assert!(conflict(again).contains("has left nothing idle"));
    let back = world.tell(TenantCommand::Rollback { id: deployment(9), of: deployment(8), targets: None });
    assert!(conflict(back).contains("nothing to roll back"));
    end(&world);
}

/// Neither what is live nor what may be is ended: the traffic is decided first.
#[test]
fn a_switch_that_was_left_halfway_is_decided_by_the_next_deployment() {
    let mut world = world(1);
    let strategy = blue_green(None, Some(60_000));
    let new = NewDeployment { strategy, on_failure: OnFailure::Stop, ..new_deployment(5, 5, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    steps(&mut world, 1, &["install", "check"]);
    world.finish(1, failed("reload failed"));
    world.wait_ms(60_000);
    assert!(world.tenant().active_deployments.is_empty(), "its colour may have the traffic");
    let by_hand = world.tell(TenantCommand::RetireColours { id: deployment(8), of: deployment(5) });
    assert!(conflict(by_hand).contains("nothing idle"));
    deploy(&mut world, 6, blue_green(None, None));
    assert_eq!(argv(&world, 1), ["switch", "to blue at 801"]);
    let names = ["switch", "verify", "retire", "install", "check", "switch", "verify"];
    steps(&mut world, 1, &names);
    assert_eq!(here(&world, 1), (Some(6), GREEN, Some((4, Colour::Blue, true))));
    end(&world);
}

#[test]
fn a_target_that_failed_at_the_switch_is_tried_again_from_the_switch() {
    let mut world = world(2);
    let strategy = blue_green(None, None);
    let new = NewDeployment { strategy, on_failure: OnFailure::Ask, ..new_deployment(5, 5, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    let retry = |n| TenantCommand::RetryTarget { deployment: deployment(5), target: target(n) };
    steps(&mut world, 1, &["install"]);
    world.finish(1, failed("slow"));
    steps(&mut world, 2, &["install", "check"]);
    assert_eq!(progress(&world, 5, 2), "ready");
    world.ok(retry(1));
    steps(&mut world, 1, &["install", "check"]);
    steps(&mut world, 2, &["switch", "verify"]);
    world.finish(1, failed("reload failed"));
    world.ok(retry(1));
    steps(&mut world, 1, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded);
    // None is forgotten, also of a round that began with the switch.
    let all = world.tenant().tasks.values().filter(|task| task.deployment == deployment(5)).count();
    assert_eq!(world.tenant().tasks_of(world.deployment(deployment(5))).len(), all);
    end(&world);
}

#[test]
fn the_same_release_in_the_other_colour_can_be_taken_back_too() {
    let mut world = world(1);
    let strategy = blue_green(None, None);
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(7, 4, None) })));
    steps(&mut world, 1, &["install", "check", "switch", "verify"]);
    assert_eq!(here(&world, 1), (Some(4), GREEN, Some((4, Colour::Blue, true))));
    world.ok(TenantCommand::Rollback { id: deployment(8), of: deployment(7), targets: None });
    steps(&mut world, 1, &["switch", "verify"]);
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((4, Colour::Green, true))));
    end(&world);
}

#[test]
fn a_tolerated_failure_lets_the_others_be_switched_and_a_ready_target_can_be_skipped() {
    let mut world = world(3);
    let strategy = Strategy::BlueGreen(BlueGreen { batch: Some(Amount::Count(1)), ..BlueGreen::default() });
    let tolerate_failures = Some(Amount::Count(1));
    let new = NewDeployment { strategy, tolerate_failures, ..new_deployment(5, 5, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.finish(1, failed("full disk"));
    steps(&mut world, 2, &["install", "check"]);
    steps(&mut world, 3, &["install", "check"]);
    assert_eq!((progress(&world, 5, 2), progress(&world, 5, 3)), ("active", "ready"), "one after the other");
    let reason = "no power".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(5), target: target(3), reason });
    steps(&mut world, 2, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded);
    assert_eq!(here(&world, 3), (Some(4), BLUE, Some((5, Colour::Green, false))));
    end(&world);
}

#[test]
fn only_what_is_switched_is_at_risk() {
    let mut world = world(3);
    let budget = Some(Amount::Count(1));
    world.ok(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget });
    deploy(&mut world, 5, blue_green(None, None));
    assert_eq!(world.deployment(deployment(5)).counts.active, 3);
    (1..=3).for_each(|n| steps(&mut world, n, &["install", "check"]));
    assert_eq!((world.deployment(deployment(5)).counts.active, world.tenant().at_risk(STAGING)), (1, 1));
    (1..=3).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(5), Status::Succeeded);
    end(&world);
}

#[test]
fn what_was_unknown_and_what_was_cancelled_leave_what_is_live_alone() {
    let mut world = world(2);
    deploy(&mut world, 5, blue_green(Some(60_000), None));
    steps(&mut world, 1, &["install", "check"]);
    world.finish(2, TaskOutcome::Unknown { reason: "no record".to_owned() });
    world.wait_ms(120_000);
    assert_eq!(progress(&world, 5, 1), "ready", "nothing is switched while one is not known");
    let reason = "enough".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(5), reason });
    assert!(matches!(world.status(5), Status::Cancelled { .. }));
    assert_eq!((progress(&world, 5, 1), progress(&world, 5, 2)), ("skipped", "abandoned"));
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, false))));
    assert!(world.tenant().targets[&target(2)].blocked_by.is_some());
    end(&world);
}

#[test]
fn other_strategies_prepare_and_switch_one_target_after_the_other() {
    let mut world = world(2);
    world.deploy(5, 5, Some(1));
    steps(&mut world, 1, &["install", "check", "switch", "verify"]);
    assert_eq!(here(&world, 1), (Some(5), GREEN, Some((4, Colour::Blue, true))));
    steps(&mut world, 2, &["install", "check"]);
    world.finish(2, failed("reload failed"));
    (1..=2).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(here(&world, 1), (Some(4), BLUE, Some((5, Colour::Green, true))));
    end(&world);
}

#[test]
fn what_has_no_colours_comes_and_goes_and_leaves_the_other_behind() {
    let mut world = world(1);
    world.deploy(1, 1, None);
    world.complete(1);
    assert_eq!(here(&world, 1), (Some(1), None, Some((4, Colour::Blue, true))));
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(1), targets: None });
    steps(&mut world, 1, &["switch", "verify"]);
    assert_eq!(here(&world, 1), (Some(4), BLUE, None));
    world.deploy(2, 2, None);
    world.complete(1);
    deploy(&mut world, 5, blue_green(None, None));
    steps(&mut world, 1, &["retire", "install", "check", "switch", "verify"]);
    assert_eq!(here(&world, 1), (Some(5), BLUE, None));
    world.ok(TenantCommand::Rollback { id: deployment(8), of: deployment(5), targets: None });
    steps(&mut world, 1, &["install", "check"]);
    assert_eq!(here(&world, 1), (Some(2), None, Some((5, Colour::Blue, true))));
    end(&world);
}

#[test]
fn a_variable_may_have_a_value_for_each_colour() {
    let mut world = world(1);
    let mut place = common::new_target(9);
    world.enrol(9);
    world.connect(9, vec![]);
    place.variables = [("port_blue", "8001"), ("port_green", "8002")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    world.ok(TenantCommand::CreateTarget(Box::new(place)));
    let targets = Some(vec![target(9)]);
    for (n, port) in [(4_u128, "8001"), (5, "8002"), (6, "8001")] {
        let new = new_deployment(n + 10, n, None);
        let new = NewDeployment { strategy: blue_green(None, None), targets: targets.clone(), ..new };
        world.ok(TenantCommand::Deploy(Box::new(new)));
        let before: &[&str] = if n == 6 { &["retire", "install", "check"] } else { &["install", "check"] };
        steps(&mut world, 9, before);
        assert!(argv(&world, 9)[1].ends_with(port), "{:?}", argv(&world, 9));
        steps(&mut world, 9, &["switch", "verify"]);
    }
    let mut without = common::new_target(8);
    world.enrol(8);
    without.variables = [("colour".to_owned(), "red".to_owned())].into();
    let told = world.tell(TenantCommand::CreateTarget(Box::new(without)));
    assert!(
        matches!(&told, Err(Rejection::Invalid { field, .. }) if field == "variables.colour"),
        "{told:?}"
    );
    end(&world);
}

/// The form of version 2, which covers what is run there of other releases too. Another form needs another version.
#[test]
fn the_hash_of_a_plan_with_colours_is_pinned() {
    let mut world = world(2);
    (1..=3).for_each(|n| world.person(n));
    let rule = Some(common::rule(2, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    let ask = |world: &mut World, n: u128, strategy| {
        let new = NewDeployment { strategy, ..new_deployment(n, 5, None) };
        world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
        let plan = world.promotion(n).plan;
        (plan.version, plan.root.to_hex())
    };
    let first = ask(&mut world, 7, blue_green(Some(30_000), None));
    let other = ask(&mut world, 8, Strategy::AllAtOnce);
    assert_eq!([&first.1, &other.1], GOLDEN);
    assert_eq!((first.0, other.0), (5, 5));
}

const GOLDEN: [&str; 2] = [
    "9053b0166660da486bae4f165460d51251040587a4d87a4b40dc5b2668b16351",
    "7e8a394313ff2ff589d52b5473dd42b2f65814a51f245d7b4e529a6f2726a9ba",
];

#[test]
fn what_makes_no_sense_is_refused_by_field() {
    let mut world = world(1);
    let mut refused = |of: u128, how: BlueGreen, wanted: &str| {
        let strategy = Strategy::BlueGreen(how);
        let told = world
            .tell(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(9, of, None) })));
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == wanted), "{told:?}");
    };
    refused(1, BlueGreen::default(), "strategy.type");
    refused(5, BlueGreen { warm_up_ms: Some(999), ..BlueGreen::default() }, "strategy.warm_up_ms");
    refused(5, BlueGreen { keep_ms: Some(1), ..BlueGreen::default() }, "strategy.keep_ms");
    refused(5, BlueGreen { batch: Some(Amount::Percent(0)), ..BlueGreen::default() }, "strategy.batch");
    let both = BlueGreen { warm_up_ms: Some(1_000), confirm: true, ..BlueGreen::default() };
    refused(5, both, "strategy.confirm");

    let mut refused = |change: &dyn Fn(&mut NewRelease), wanted: &str| {
        let mut new = NewRelease { id: release(9), version: "9.9".parse().unwrap(), ..new_coloured(4) };
        change(&mut new);
        let told = world.tell(TenantCommand::CreateRelease(Box::new(new)));
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == wanted), "{told:?}");
    };
    refused(&|new| new.steps[3].phase = Phase::Prepare, "steps[3].phase");
    refused(&|new| new.steps[0].phase = Phase::Retire, "steps[1].phase");
    refused(&|new| drop(new.steps.drain(2..4)), "steps");
    refused(&|new| drop(new.steps.drain(..2)), "steps");
    let artifact = StepAction::Artifact { component: name("web"), keep_releases: 2 };
    refused(&move |new| new.steps[4].action = artifact.clone(), "steps[4].phase");
    assert!(world.tenant().agents.contains_key(&agent(1)));
}

#[test]
fn what_is_kept_of_before_there_were_colours_reads_as_it_was_meant() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    let mut json = serde_json::to_value(&world.state).unwrap();
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                let new = ["live", "idle", "is_torn", "visited", "stage", "warmed_up", "kept"];
                for name in new.into_iter().chain(["legs", "is_spared", "ready", "phase"]) {
                    map.remove(name);
                }
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut json);
    world.state = serde_json::from_value(json).unwrap();
    world.finish(1, failed("x"));
    assert!(matches!(world.deployment(deployment(2)).targets[&target(1)].progress, Progress::Failed { .. }));
    world.complete(1);
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(1)), "it was taken back");
}
