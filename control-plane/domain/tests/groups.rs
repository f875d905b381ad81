//! Blue-green between two groups of targets: the one without traffic gets the release, then those that lead the traffic are switched.

use crate::common::colours::{groups, in_group, new_coloured};
use crate::common::{
    self, STAGING, World, agent, conflict, deployment, digest, end, failed, failure, new_deployment, release,
    target,
};
use stella_domain::amount::Amount;
use stella_domain::colour::{Colour, Stage};
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::decide;
use stella_domain::deployment::{Cause, OnFailure, Status};
use stella_domain::event::Fact;
use stella_domain::group;
use stella_domain::hold::PauseCause;
use stella_domain::rejection::Rejection;
use stella_domain::strategy::{BlueGreen, Groups, Strategy};
use stella_domain::way_back::{ProofAnswer, ProofRule};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::TaskSpec;

const BLUE: Option<Colour> = Some(Colour::Blue);
const GREEN: Option<Colour> = Some(Colour::Green);

/// `web-1` and `web-2` are blue, `web-3` and `web-4` green; `web-5` and `web-6` lead the traffic.
fn empty() -> World {
    let mut world = World::new();
    for (n, part) in (1..).zip(["blue", "blue", "green", "green", "lb", "lb"]) {
        world.enrol(n);
        world.connect(n, vec![]);
        world.ok(TenantCommand::CreateTarget(Box::new(in_group(n, part))));
    }
    for n in 4..=6 {
        world.ok(TenantCommand::StoreArtifact { digest: digest(n), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(n))));
    }
    world
}

/// Release 4 is on the blue ones, and has the traffic, by deployment 4.
fn world() -> World {
    let mut world = empty();
    deploy(&mut world, 4, BlueGreen::default());
    through(&mut world, &[1, 2], &[5, 6]);
    assert_eq!(*world.status(4), Status::Succeeded);
    world
}

fn strategy(how: BlueGreen) -> Strategy {
    Strategy::BlueGreen(BlueGreen { groups: Some(how.groups.unwrap_or_else(|| groups(None))), ..how })
}

fn wanted(n: u128, how: BlueGreen) -> NewDeployment {
    NewDeployment { strategy: strategy(how), ..new_deployment(n, n, None) }
}

/// Deployment `n` of release `n`.
fn deploy(world: &mut World, n: u128, how: BlueGreen) {
    world.ok(TenantCommand::Deploy(Box::new(wanted(n, how))));
}

/// These steps succeed on a target, one after the other.
#[track_caller]
fn steps(world: &mut World, n: u128, names: &[&str]) {
    for step in names {
        assert_eq!(world.task_on(n).step.as_str(), *step, "on web-{n}");
        world.finish(n, TaskOutcome::Succeeded);
    }
}

/// A group is prepared, and the traffic is led there.
#[track_caller]
fn through(world: &mut World, members: &[u128], leaders: &[u128]) {
    members.iter().for_each(|n| steps(world, *n, &["install", "check"]));
    leaders.iter().for_each(|n| steps(world, *n, &["switch", "verify"]));
}

/// The number of the release that is live on a target, its colour, and what it holds idle: which release, and whether it is ready.
type Here = (Option<u128>, Option<Colour>, Option<(u128, bool)>);

fn here(world: &World, n: u128) -> Here {
    let place = &world.tenant().targets[&target(n)];
    let number = |id| (1..=6).find(|n| release(*n) == id).unwrap();
    (place.current.map(number), place.live, place.idle.map(|idle| (number(idle.release), idle.is_ready)))
}

fn all(world: &World) -> [Here; 6] {
    [1, 2, 3, 4, 5, 6].map(|n| here(world, n))
}

fn argv(world: &World, n: u128) -> Vec<String> {
    match &world.task_on(n).spec {
        TaskSpec::Command(command) => command.argv.clone(),
        TaskSpec::Artifact(_) | TaskSpec::Check(_) | TaskSpec::Systemd(_) => panic!("a command"),
    }
}

fn parts(world: &World, of: u128) -> Vec<(u128, &'static str)> {
    let deployment = world.deployment(deployment(of));
    let part = |n: u128| Some((n, deployment.targets.get(&target(n))?.progress.name()));
    (1..=6).filter_map(part).collect()
}

const LIVE_4: Here = (Some(4), BLUE, None);

#[test]
fn the_group_without_traffic_gets_the_release_and_then_the_traffic() {
    let mut world = world();
    let none = (None, None, None);
    assert_eq!(all(&world), [LIVE_4, LIVE_4, none, none, LIVE_4, LIVE_4]);
    deploy(&mut world, 5, BlueGreen::default());
    assert_eq!(
        parts(&world, 5),
        [(3, "active"), (4, "active"), (5, "waiting"), (6, "waiting")],
        "the live group is no part of it"
    );
    let TaskSpec::Artifact(artifact) = &world.task_on(3).spec else { panic!("an artifact") };
    assert_eq!(artifact.component, "web-green", "a colour has folders of its own");
    steps(&mut world, 3, &["install", "check"]);
    assert_eq!(parts(&world, 5)[..2], [(3, "ready"), (4, "active")]);
    assert_eq!(here(&world, 3), (None, None, Some((5, true))), "it has no traffic");
    steps(&mut world, 4, &["install", "check"]);
    assert_eq!(world.deployment(deployment(5)).stage, Stage::Switch);
    assert_eq!(argv(&world, 5)[..2], ["switch", "to green at 805"]);
    steps(&mut world, 5, &["switch", "verify"]);
    assert_eq!(here(&world, 3), (None, None, Some((5, true))), "not all lead there yet");
    steps(&mut world, 6, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded);
    let (live, kept) = ((Some(5), GREEN, None), (None, None, Some((4, true))));
    assert_eq!(all(&world), [kept, kept, live, live, live, live]);
    assert!(
        world.tenant().environments[&STAGING].proven.contains_key(&release(5)),
        "it is everywhere it can be"
    );
    // To and fro: what the other group holds is ended first.
    deploy(&mut world, 6, BlueGreen::default());
    assert_eq!(argv(&world, 1), ["retire", "blue of 4.0"]);
    steps(&mut world, 1, &["retire"]);
    steps(&mut world, 2, &["retire"]);
    through(&mut world, &[1, 2], &[5, 6]);
    assert_eq!(here(&world, 1), (Some(6), BLUE, None));
    assert_eq!(here(&world, 3), (None, None, Some((5, true))));
    end(&world);
}

#[test]
fn the_way_back_is_only_the_switch_as_long_as_the_old_group_is_kept() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen { keep_ms: Some(60_000), ..BlueGreen::default() });
    through(&mut world, &[3, 4], &[5, 6]);
    let half = Some(vec![target(5)]);
    let half = world.tell(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: half });
    let Err(Rejection::Invalid { field, problem }) = half else { panic!("{half:?}") };
    assert!(field == "targets" && problem.contains("goes back as a whole"), "{problem}");
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    assert_eq!(parts(&world, 7), [(5, "active"), (6, "active")]);
    assert_eq!(argv(&world, 5)[..2], ["switch", "to blue at 805"]);
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(7), Status::Succeeded);
    let kept = (None, None, Some((5, true)));
    assert_eq!(all(&world), [LIVE_4, LIVE_4, kept, kept, LIVE_4, LIVE_4]);
    // What was taken back is kept as long as the other one would have been, and ended then.
    world.wait_ms(59_999);
    assert!(world.tenant().active_deployments.is_empty());
    world.wait_ms(1);
    for n in 3..=4 {
        assert_eq!(argv(&world, n), ["retire", "green of 5.0"]);
        steps(&mut world, n, &["retire"]);
    }
    assert_eq!(here(&world, 3), (None, None, None));
    end(&world);
}

#[test]
fn a_group_that_is_not_kept_is_prepared_again_before_the_traffic_goes_back() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen::default());
    through(&mut world, &[3, 4], &[5, 6]);
    world.ok(TenantCommand::RetireColours { id: deployment(8), of: deployment(5) });
    assert_eq!(parts(&world, 8), [(1, "active"), (2, "active")]);
    (1..=2).for_each(|n| steps(&mut world, n, &["retire"]));
    assert_eq!(*world.status(8), Status::Succeeded);
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    assert_eq!(parts(&world, 7), [(1, "active"), (2, "active"), (5, "waiting"), (6, "waiting")]);
    steps(&mut world, 1, &["install", "check"]);
    assert_eq!(parts(&world, 7)[2], (5, "waiting"), "there is no room for all of the traffic yet");
    steps(&mut world, 2, &["install", "check"]);
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(7), Status::Succeeded);
    assert_eq!(here(&world, 1), LIVE_4);
    assert_eq!(here(&world, 3), (None, None, Some((5, true))));
    end(&world);
}

#[test]
fn a_failure_while_preparing_switches_nothing_and_leaves_the_live_group_alone() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen::default());
    steps(&mut world, 3, &["install", "check"]);
    world.finish(4, failed("full disk"));
    assert!(failure(&world, 5).contains("step install on web-4 failed: full disk"));
    assert!(world.rollback_of(5).is_none(), "there is nothing to take back");
    assert_eq!(parts(&world, 5), [(3, "skipped"), (4, "failed"), (5, "skipped"), (6, "skipped")]);
    assert_eq!((here(&world, 1), here(&world, 5)), (LIVE_4, LIVE_4));
    // All of the group once more.
    world.ok(TenantCommand::RetryDeployment { id: deployment(9), of: deployment(5), targets: None });
    (3..=4).for_each(|n| steps(&mut world, n, &["retire"]));
    through(&mut world, &[3, 4], &[5, 6]);
    assert_eq!(here(&world, 4), (Some(5), GREEN, None));
    end(&world);
}

#[test]
fn a_switch_that_fails_is_taken_back_everywhere() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen { batch: Some(Amount::Count(1)), ..BlueGreen::default() });
    through(&mut world, &[3, 4], &[5]);
    world.finish(6, failed("reload failed"));
    assert!(failure(&world, 5).contains("reload failed"));
    let back = world.rollback_of(5).unwrap();
    assert_eq!(back.targets.len(), 2, "only what leads the traffic");
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    let idle = (None, None, Some((5, true)));
    assert_eq!(all(&world), [LIVE_4, LIVE_4, idle, idle, LIVE_4, LIVE_4]);
    end(&world);
}

/// No share of failures is tolerated where the traffic goes, and nobody says which group is live until it is decided.
#[test]
fn a_switch_that_nobody_takes_back_has_to_be_decided_first() {
    let mut world = world();
    let new = wanted(5, BlueGreen { batch: Some(Amount::Count(1)), ..BlueGreen::default() });
    let tolerate_failures = Some(Amount::Count(1));
    let new = NewDeployment { on_failure: OnFailure::Stop, tolerate_failures, ..new };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    through(&mut world, &[3, 4], &[5]);
    world.finish(6, failed("reload failed"));
    assert!(matches!(world.status(5), Status::Failed { .. }));
    let told = |world: &mut World| match world
        .tell(TenantCommand::Deploy(Box::new(wanted(6, BlueGreen::default()))))
    {
        Err(Rejection::Invalid { field, problem }) => format!("{field}: {problem}"),
        told => panic!("{told:?}"),
    };
    let why = told(&mut world);
    assert!(
        why.starts_with("strategy.groups.live: nobody knows which group is live: the switch of target web-6"),
        "{why}"
    );
    assert!(why.contains(&deployment(5).to_string()), "{why}");
    let retire = world.tell(TenantCommand::RetireColours { id: deployment(8), of: deployment(5) });
    assert!(conflict(retire).contains("has left nothing idle"), "one of them may have traffic");
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    steps(&mut world, 5, &["switch", "verify"]);
    world.finish(6, failed("reload failed"));
    assert!(matches!(world.status(7), Status::Failed { .. }));
    let why = told(&mut world);
    assert!(why.contains(&deployment(5).to_string()), "not the rollback, which is not rolled back: {why}");
    world.ok(TenantCommand::Rollback { id: deployment(10), of: deployment(5), targets: None });
    assert_eq!(parts(&world, 10), [(6, "active")], "the other one is back already");
    steps(&mut world, 6, &["switch", "verify"]);
    assert_eq!(here(&world, 6), LIVE_4);
    end(&world);
}

#[test]
fn both_groups_live_is_said_with_the_targets_that_lead_there() {
    let mut world = world();
    let new = wanted(5, BlueGreen { batch: Some(Amount::Count(1)), ..BlueGreen::default() });
    world.ok(TenantCommand::Deploy(Box::new(new)));
    through(&mut world, &[3, 4], &[]);
    let reason = "no power".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(5), target: target(6), reason });
    steps(&mut world, 5, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded, "somebody wants it so");
    let told = world.tell(TenantCommand::Deploy(Box::new(wanted(6, BlueGreen::default()))));
    let Err(Rejection::Invalid { field, problem }) = told else { panic!("{told:?}") };
    assert_eq!(field, "strategy.groups.live");
    assert!(problem.contains("target web-6 leads to blue and target web-5 to green"), "{problem}");
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    steps(&mut world, 5, &["switch", "verify"]);
    assert_eq!((here(&world, 1), here(&world, 5)), (LIVE_4, LIVE_4));
    deploy(&mut world, 6, BlueGreen::default());
    end(&world);
}

#[test]
fn it_warms_up_and_is_checked_once_more_and_somebody_can_confirm_it() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen { warm_up_ms: Some(60_000), ..BlueGreen::default() });
    (3..=4).for_each(|n| steps(&mut world, n, &["install", "check"]));
    let waiting = world.deployment(deployment(5));
    assert_eq!(waiting.paused_for, PauseCause::WarmUp);
    assert_eq!(waiting.paused.as_ref().unwrap().reason, "2 of 2 targets are prepared and warm up");
    world.wait_ms(60_000);
    assert_eq!(world.deployment(deployment(5)).stage, Stage::Check);
    assert_eq!(here(&world, 3), (None, None, Some((5, false))), "until it is checked");
    (3..=4).for_each(|n| steps(&mut world, n, &["check"]));
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(here(&world, 4), (Some(5), GREEN, None));
    deploy(&mut world, 6, BlueGreen { confirm: true, ..BlueGreen::default() });
    (1..=2).for_each(|n| steps(&mut world, n, &["retire", "install", "check"]));
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(6) });
    (1..=2).for_each(|n| steps(&mut world, n, &["check"]));
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(6), Status::Succeeded);
    end(&world);
}

#[test]
fn tolerated_failures_are_of_the_group_and_the_failed_target_gets_no_part_of_it() {
    let mut world = world();
    let tolerate_failures = Some(Amount::Count(1));
    let new = NewDeployment { tolerate_failures, ..wanted(5, BlueGreen::default()) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.finish(3, failed("full disk"));
    through(&mut world, &[4], &[5, 6]);
    assert_eq!(*world.status(5), Status::Succeeded);
    assert_eq!(here(&world, 3), (None, None, Some((5, false))));
    assert_eq!(here(&world, 4), (Some(5), GREEN, None));
    assert!(!world.tenant().environments[&STAGING].proven.contains_key(&release(5)), "not everywhere");
    let all_of_it = Some(Amount::Percent(99));
    let new = NewDeployment { tolerate_failures: all_of_it, ..wanted(6, BlueGreen::default()) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    end(&world);
}

/// It was prepared before somebody wanted it left alone, and gets the traffic with its group.
#[test]
fn a_prepared_target_that_is_skipped_keeps_no_release_from_being_proven() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen::default());
    steps(&mut world, 3, &["install", "check"]);
    let reason = "broken fan".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(5), target: target(3), reason });
    through(&mut world, &[4], &[5, 6]);
    assert_eq!(*world.status(5), Status::Succeeded);
    assert_eq!(here(&world, 3), (Some(5), GREEN, None));
    assert!(world.tenant().environments[&STAGING].proven.contains_key(&release(5)));
    end(&world);
}

/// Release 5 comes to the green group; `web-7` is new, and led nowhere before.
fn with_a_new_leader() -> World {
    let mut world = world();
    world.enrol(7);
    world.connect(7, vec![]);
    world.ok(TenantCommand::CreateTarget(Box::new(in_group(7, "lb"))));
    deploy(&mut world, 5, BlueGreen::default());
    through(&mut world, &[3, 4], &[5, 6]);
    world
}

/// Left as it was, it would send traffic to the group that the next deployment takes for idle.
#[test]
fn what_led_nowhere_before_is_led_back_with_the_others() {
    let mut world = with_a_new_leader();
    steps(&mut world, 7, &["switch"]);
    world.finish(7, failed("still the old one"));
    assert!(failure(&world, 5).ends_with("still the old one"), "{}", failure(&world, 5));
    let back = world.rollback_of(5).unwrap();
    assert_eq!((back.targets.len(), &back.left), (3, &Vec::new()));
    assert_eq!(argv(&world, 7)[..2], ["switch", "to blue at 807"]);
    (5..=7).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!([5, 6, 7].map(|n| here(&world, n)), [LIVE_4; 3]);
    deploy(&mut world, 6, BlueGreen::default());
    assert_eq!(parts(&world, 6)[..2], [(3, "active"), (4, "active")], "green is idle");
    end(&world);
    // By hand it is the same.
    let mut world = with_a_new_leader();
    steps(&mut world, 7, &["switch", "verify"]);
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    (5..=7).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!([5, 6, 7].map(|n| here(&world, n)), [LIVE_4; 3]);
    end(&world);
}

#[test]
fn what_leads_the_traffic_goes_back_together_or_not_at_all() {
    let mut world = with_a_new_leader();
    steps(&mut world, 7, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded);
    world.ok(TenantCommand::RevokeAgent { agent: agent(7), reason: "sold".to_owned() });
    let problem =
        conflict(world.tell(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None }));
    assert!(
        problem.contains("together or not at all")
            && problem.contains("(the agent was revoked that serves web-7)"),
        "{problem}"
    );
    assert_eq!(here(&world, 5), (Some(5), GREEN, None));
    end(&world);
}

/// A rollback is not rolled back, and nobody is told to do that.
#[test]
fn what_has_come_since_is_told_with_what_to_do_about_it() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen::default());
    through(&mut world, &[3, 4], &[5, 6]);
    let back = |n, of| TenantCommand::Rollback { id: deployment(n), of: deployment(of), targets: None };
    deploy(&mut world, 6, BlueGreen::default());
    (1..=2).for_each(|n| steps(&mut world, n, &["retire"]));
    through(&mut world, &[1, 2], &[5, 6]);
    let since = |n| {
        format!("deployment {} has come to target web-5 since; roll that one back instead", deployment(n))
    };
    assert_eq!(conflict(world.tell(back(7, 5))), since(6));
    world.ok(back(7, 6));
    assert!(
        conflict(world.tell(back(8, 5))).ends_with("works on target web-5; wait for its end or cancel it")
    );
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    let already = format!("deployment {} has taken it back on target web-5 already", deployment(7));
    assert_eq!(conflict(world.tell(back(8, 6))), already);
    let newer =
        format!("deployment {} has taken a newer one back on target web-5 since; deploy the", deployment(7));
    let told = conflict(world.tell(back(8, 5)));
    assert!(told.starts_with(&newer), "{told}");
    end(&world);
}

/// It leads where the others go back to.
#[test]
fn what_was_never_led_away_keeps_nothing_from_being_led_back() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen::default());
    let reason = "later".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(5), target: target(6), reason });
    through(&mut world, &[3, 4], &[5]);
    assert_eq!(*world.status(5), Status::Succeeded);
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    assert_eq!(parts(&world, 7), [(5, "active")]);
    steps(&mut world, 5, &["switch", "verify"]);
    assert_eq!((here(&world, 5), here(&world, 6)), (LIVE_4, LIVE_4));
    end(&world);
}

#[test]
fn nothing_is_switched_to_a_group_that_nobody_wants_prepared() {
    let mut world = world();
    let new = NewDeployment { on_failure: OnFailure::Ask, ..wanted(5, BlueGreen::default()) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    for n in 3..=4 {
        world.finish(n, failed("full disk"));
    }
    for n in 3..=4 {
        let reason = "broken".to_owned();
        world.ok(TenantCommand::SkipTarget { deployment: deployment(5), target: target(n), reason });
    }
    assert!(
        failure(&world, 5).contains("no target of the group green is prepared"),
        "{}",
        failure(&world, 5)
    );
    assert_eq!(here(&world, 5), LIVE_4);
    end(&world);
}

#[test]
fn what_leads_the_traffic_is_tried_again_from_its_switch_and_never_skipped_halfway() {
    let mut world = world();
    let new = NewDeployment { on_failure: OnFailure::Ask, ..wanted(5, BlueGreen::default()) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    through(&mut world, &[3, 4], &[5]);
    steps(&mut world, 6, &["switch"]);
    world.finish(6, failed("still the old one"));
    let reason = "no power".to_owned();
    let told = world.tell(TenantCommand::SkipTarget { deployment: deployment(5), target: target(6), reason });
    assert!(conflict(told).contains("the switch of web-6 was left halfway"));
    world.ok(TenantCommand::RetryTarget { deployment: deployment(5), target: target(6) });
    steps(&mut world, 6, &["switch", "verify"]);
    assert_eq!(*world.status(5), Status::Succeeded);
    assert_eq!(here(&world, 3), (Some(5), GREEN, None));
    end(&world);
}

#[test]
fn a_cancellation_leaves_the_live_group_as_it_is() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen { confirm: true, ..BlueGreen::default() });
    (3..=4).for_each(|n| steps(&mut world, n, &["install", "check"]));
    let reason = "enough".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(5), reason });
    assert!(matches!(world.status(5), Status::Cancelled { .. }));
    let idle = (None, None, Some((5, false)));
    assert_eq!(all(&world), [LIVE_4, LIVE_4, idle, idle, LIVE_4, LIVE_4]);
    end(&world);
}

#[test]
fn only_what_leads_the_traffic_is_at_risk_and_has_to_prove_its_way_back() {
    let mut world = world();
    let budget = Some(Amount::Count(1));
    world.ok(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget });
    world.ok(TenantCommand::SetEnvironmentWayBack { environment: STAGING, required: true });
    let rule = ProofRule::Required;
    world.ok(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
    deploy(&mut world, 5, BlueGreen::default());
    let proven = ProofAnswer::Proven { files: 0, bytes: 0 };
    let answers = world.events.iter().filter_map(|(_, event)| match &event.fact {
        Fact::WayBackAnswered { target, answer, .. } => Some((*target, answer.clone())),
        _ => None,
    });
    assert_eq!(answers.collect::<Vec<_>>(), [(target(5), proven.clone()), (target(6), proven)]);
    (3..=4).for_each(|n| steps(&mut world, n, &["install", "check"]));
    assert_eq!((world.deployment(deployment(5)).counts.active, world.tenant().at_risk(STAGING)), (1, 1));
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(5), Status::Succeeded);
    end(&world);
}

#[test]
fn a_group_that_had_the_traffic_before_is_not_touched_by_the_first_deployment() {
    let mut world = empty();
    let how = BlueGreen { groups: Some(groups(BLUE)), ..BlueGreen::default() };
    deploy(&mut world, 4, how);
    assert_eq!(parts(&world, 4)[..2], [(3, "active"), (4, "active")]);
    through(&mut world, &[3, 4], &[5, 6]);
    assert_eq!(here(&world, 5), (Some(4), GREEN, None));
    // From now on the targets tell.
    let how = BlueGreen { groups: Some(groups(BLUE)), ..BlueGreen::default() };
    deploy(&mut world, 5, how);
    assert_eq!(parts(&world, 5)[..2], [(1, "active"), (2, "active")]);
    end(&world);
}

#[test]
fn a_target_that_has_come_since_holds_no_way_back_up() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen::default());
    through(&mut world, &[3, 4], &[5, 6]);
    world.enrol(7);
    world.ok(TenantCommand::CreateTarget(Box::new(in_group(7, "blue"))));
    world.ok(TenantCommand::Rollback { id: deployment(7), of: deployment(5), targets: None });
    assert_eq!(parts(&world, 7), [(5, "active"), (6, "active")]);
    (5..=6).for_each(|n| steps(&mut world, n, &["switch", "verify"]));
    assert_eq!(*world.status(7), Status::Succeeded);
    end(&world);
}

#[test]
fn a_plan_says_which_wave_comes_when_and_hashes_the_groups() {
    let mut world = world();
    let how = BlueGreen { batch: Some(Amount::Count(1)), ..BlueGreen::default() };
    let new = wanted(5, how);
    let ask = |world: &World, new: &NewDeployment| {
        decide::plan(&world.state, common::person(1), common::TENANT, new, world.now).unwrap()
    };
    world.person(1);
    let planned = ask(&world, &new);
    assert_eq!(group::waves(world.tenant(), &new.strategy, &planned.targets), [1, 1, 2, 3].map(Some));
    assert_eq!(planned.plan.version, 2, "its form is that of colours");
    assert_eq!(planned.plan.root.to_hex(), GOLDEN);
    assert_eq!(planned.no_way_back, [None, None, None, None]);
    let other = BlueGreen { groups: Some(Groups { live: BLUE, ..groups(None) }), ..BlueGreen::default() };
    let other = ask(&world, &wanted(5, BlueGreen { batch: Some(Amount::Count(1)), ..other }));
    assert_ne!(other.plan.root, planned.plan.root, "what is said of the groups is approved too");
}

const GOLDEN: &str = "5335c52942c172db27cd6b5987acd6c42b189e17e10df3e5e7761acc4ba623df";

#[test]
fn what_makes_no_sense_is_refused_by_field() {
    let mut world = world();
    let mut refused = |change: &dyn Fn(&mut NewDeployment, &mut BlueGreen), wanted_field: &str, why: &str| {
        let mut how = BlueGreen { groups: Some(groups(None)), ..BlueGreen::default() };
        let mut new = new_deployment(9, 5, None);
        change(&mut new, &mut how);
        new.strategy = Strategy::BlueGreen(how);
        let told = world.tell(TenantCommand::Deploy(Box::new(new)));
        let Err(Rejection::Invalid { field, problem }) = &told else { panic!("{told:?}") };
        assert_eq!(field, wanted_field, "{problem}");
        assert!(problem.contains(why), "{problem}");
    };
    let with = |change: &dyn Fn(&mut Groups), how: &mut BlueGreen| how.groups.iter_mut().for_each(change);
    refused(&|_, how| with(&|it| it.label = String::new(), how), "strategy.groups.label", "1 to 63");
    refused(&|_, how| with(&|it| it.switch.clear(), how), "strategy.groups.switch", "is empty");
    refused(
        &|_, how| with(&|it| drop(it.switch.insert("colour".to_owned(), "x".to_owned())), how),
        "strategy.groups.switch",
        "what leads the traffic is in none",
    );
    refused(&|_, how| how.batch = Some(Amount::Percent(50)), "strategy.batch", "give a count");
    refused(&|new, _| new.targets = Some(vec![target(3)]), "targets", "as a whole");
    refused(
        &|_, how| with(&|it| drop(it.switch.insert("role".to_owned(), "gate".to_owned())), how),
        "targets[web-5].labels.colour",
        "is in no group",
    );
    refused(
        &|_, how| with(&|it| it.label = "place".to_owned(), how),
        "targets[web-1].labels.place",
        "is in no group",
    );
    refused(&|new, _| new.tolerate_failures = Some(Amount::Count(2)), "tolerate_failures", "has 2 targets");
    // A deployment that does not know of the groups would lead traffic by itself.
    refused(&|_, how| how.groups = None, "strategy.groups", "is part of two groups");

    let mut said = |part: &str, n: u128, wanted_field: &str, why: &str| {
        world.enrol(n);
        let mut new = in_group(n, part);
        if part == "both" {
            new.labels =
                [("colour", "blue"), ("role", "lb")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        }
        world.ok(TenantCommand::CreateTarget(Box::new(new)));
        let told = world.tell(TenantCommand::Deploy(Box::new(wanted(5, BlueGreen::default()))));
        let Err(Rejection::Invalid { field, problem }) = &told else { panic!("{told:?}") };
        assert_eq!(field, wanted_field, "{problem}");
        assert!(problem.contains(why), "{problem}");
        world.ok(TenantCommand::RemoveTarget { id: target(n) });
    };
    said("red", 7, "targets[web-7].labels.colour", "is red; the groups are blue and green");
    said("both", 8, "targets[web-8].labels.colour", "cannot be in a group too");
    for n in 3..=4 {
        world.ok(TenantCommand::RemoveTarget { id: target(n) });
    }
    let told = world.tell(TenantCommand::Deploy(Box::new(wanted(5, BlueGreen::default()))));
    let Err(Rejection::Invalid { field, problem }) = &told else { panic!("{told:?}") };
    assert_eq!(
        (field.as_str(), problem.contains("colour=green")),
        ("strategy.groups.label", true),
        "{problem}"
    );
    for n in 5..=6 {
        world.ok(TenantCommand::RemoveTarget { id: target(n) });
    }
    let told = world.tell(TenantCommand::Deploy(Box::new(wanted(5, BlueGreen::default()))));
    let Err(Rejection::Invalid { field, .. }) = &told else { panic!("{told:?}") };
    assert_eq!(field, "strategy.groups.switch");
}

/// What leads the traffic is not live any more in the words of those that are gone: the group's own targets tell.
#[test]
fn new_load_balancers_are_told_which_group_is_live_by_the_groups() {
    let mut world = world();
    for n in 5..=6 {
        world.ok(TenantCommand::RemoveTarget { id: target(n) });
    }
    world.enrol(7);
    world.connect(7, vec![]);
    world.ok(TenantCommand::CreateTarget(Box::new(in_group(7, "lb"))));
    deploy(&mut world, 5, BlueGreen::default());
    assert_eq!(parts(&world, 5), [(3, "active"), (4, "active")]);
    (3..=4).for_each(|n| steps(&mut world, n, &["install", "check"]));
    steps(&mut world, 7, &["switch", "verify"]);
    assert_eq!((here(&world, 1), here(&world, 7)), ((None, None, Some((4, true))), (Some(5), GREEN, None)));
    end(&world);
}

#[test]
fn a_deployment_is_not_forgotten_while_it_has_left_a_group_idle() {
    let mut world = world();
    deploy(&mut world, 5, BlueGreen { keep_ms: Some(60_000), ..BlueGreen::default() });
    through(&mut world, &[3, 4], &[5, 6]);
    let before = world.deployment(deployment(5)).clone();
    assert!(
        world.tenant().needs_deployment(&before),
        "what it has left idle is on targets that are no part of it"
    );
    world.wait_ms(60_000);
    let retirement =
        world.tenant().deployments.values().find(|it| it.cause == Cause::Retirement { of: deployment(5) });
    assert_eq!(retirement.unwrap().targets.len(), 2);
    end(&world);
}
