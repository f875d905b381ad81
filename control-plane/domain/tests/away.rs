//! The control plane was away: what it has not heard meanwhile says nothing of its agents, until they had their time to come back.

use stella_domain::agent::{Connectivity, RECONNECT_WINDOW_MS};
use stella_domain::command::{Command, NewDeployment, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::Status;
use stella_domain::listening::{Listening, REPORTS_MS};
use stella_domain::task::TaskState;
use stella_protocol::message::{Phase, TaskOutcome};

use crate::common::{World, agent, deployment, end, facts, new_deployment, new_target, target};

/// How long agents have to come back.
const PATIENCE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// Two targets, of which the first is at work on release 2 and has a minute for it.
fn world() -> World {
    let mut world = World::with_release_1(2);
    let new = TenantCommand::Deploy(Box::new(NewDeployment {
        timeout_ms: 60_000,
        ..new_deployment(2, 2, Some(1))
    }));
    world.ok(new);
    world.run(1);
    world
}

fn tick(world: &mut World, listening: Listening) -> Decision {
    world.send(&World::request(Command::Tick(listening))).unwrap()
}

/// The control plane is back after this long, and agents can come.
fn back_after(world: &mut World, away_ms: u64) -> Listening {
    world.now = world.now.plus_ms(away_ms);
    let ticked = tick(world, Listening::NotYet);
    assert_eq!((facts(&ticked), ticked.held_back), (vec![], true), "nobody could be heard yet");
    Listening::Since { at: world.now, until: world.now.plus_ms(PATIENCE_MS) }
}

fn later(world: &mut World, milliseconds: u64) {
    world.now = world.now.plus_ms(milliseconds);
}

fn is_offline(world: &World, n: u128) -> bool {
    matches!(world.tenant().agents[&agent(n)].connectivity, Connectivity::Offline { .. })
}

#[test]
fn who_was_missed_before_is_given_up_only_after_the_time_to_come_back() {
    let mut world = World::with_targets(2);
    world.disconnect(1);
    world.disconnect(2);
    let listening = back_after(&mut world, DAY_MS);
    assert!(tick(&mut world, listening).held_back);
    world.connect(1, vec![]);
    later(&mut world, PATIENCE_MS - 1);
    assert_eq!(facts(&tick(&mut world, listening)), [""; 0]);
    later(&mut world, 1);
    let ticked = tick(&mut world, listening);
    assert_eq!((facts(&ticked), ticked.held_back), (vec!["agent_offline"], false));
    assert!(is_offline(&world, 2) && !is_offline(&world, 1));
    end(&world);
}

#[test]
fn who_was_here_since_and_went_away_is_given_up_in_the_usual_time() {
    let mut world = World::with_targets(1);
    let listening = Listening::Since { at: world.now, until: world.now.plus_ms(PATIENCE_MS) };
    later(&mut world, 1);
    world.connect(1, vec![]);
    world.disconnect(1);
    later(&mut world, RECONNECT_WINDOW_MS);
    assert_eq!(facts(&tick(&mut world, listening)), ["agent_offline"]);
    end(&world);
}

#[test]
fn a_deadline_that_has_passed_meanwhile_waits_for_the_word_of_who_was_at_work() {
    let mut world = world();
    let task = world.task_on(1).id;
    let listed = world.listed(1, Phase::Finished);
    let listening = back_after(&mut world, DAY_MS);
    assert_eq!(facts(&tick(&mut world, listening)), [""; 0]);
    later(&mut world, PATIENCE_MS - 1);
    world.connect(1, vec![listed]);
    later(&mut world, REPORTS_MS - 1);
    let ticked = tick(&mut world, listening);
    assert_eq!((facts(&ticked), ticked.held_back), (vec![], true), "its report is on the way");
    world.finish_task(1, task, TaskOutcome::Succeeded);
    assert_eq!(world.task(task).state.name(), "succeeded");
    later(&mut world, 1);
    assert!(
        facts(&tick(&mut world, listening)).contains(&"deployment_overdue"),
        "the rest was not done in time"
    );
    assert!(!matches!(world.task(task).state, TaskState::Unknown { .. }));
    assert!(!matches!(world.status(2), Status::Running));
}

#[test]
fn nobody_waits_for_the_word_of_who_was_enrolled_after_the_return() {
    let mut world = World::with_release_1(1);
    let listening = Listening::Since { at: world.now, until: world.now.plus_ms(PATIENCE_MS) };
    later(&mut world, 1);
    world.enrol(2);
    world.connect(2, vec![]);
    world.ok(TenantCommand::CreateTarget(Box::new(new_target(2))));
    let timeout_ms = REPORTS_MS / 2;
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { timeout_ms, ..new_deployment(2, 2, None) })));
    world.complete(1);
    later(&mut world, timeout_ms);
    assert!(facts(&tick(&mut world, listening)).contains(&"deployment_overdue"));
    end(&world);
}

#[test]
fn a_deadline_that_has_passed_meanwhile_is_over_when_nobody_comes_back() {
    let mut world = world();
    let listening = back_after(&mut world, DAY_MS);
    later(&mut world, PATIENCE_MS - 1);
    assert_eq!(facts(&tick(&mut world, listening)), [""; 0]);
    later(&mut world, 1);
    assert!(facts(&tick(&mut world, listening)).contains(&"deployment_overdue"));
}

#[test]
fn what_is_to_end_is_not_given_up_before_its_agent_could_say_that_it_has_ended() {
    let mut world = world();
    let task = world.task_on(1).id;
    let listed = world.listed(1, Phase::Finished);
    let cancel =
        TenantCommand::CancelDeployment { deployment: deployment(2), reason: "not today".to_owned() };
    world.ok(cancel);
    world.disconnect(1);
    let listening = back_after(&mut world, DAY_MS);
    assert_eq!(facts(&tick(&mut world, listening)), [""; 0]);
    later(&mut world, 20_000);
    world.connect(1, vec![listed]);
    assert_eq!(facts(&tick(&mut world, listening)), [""; 0]);
    world.finish_task(1, task, TaskOutcome::Cancelled);
    assert!(matches!(world.status(2), Status::Cancelled { .. }), "{:?}", world.status(2));
    assert_eq!(world.tenant().targets[&target(1)].blocked_by, None);
}
