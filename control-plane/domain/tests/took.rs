//! How long things took: counted once, by what they were.

use crate::common::{self, World, agent, end, name, target};
use stella_domain::command::Report;
use stella_domain::deployment::Status;
use stella_protocol::id::Position;
use stella_protocol::message::{Finished, Running, TaskOutcome};

/// The agent of target 1 starts its task after so many milliseconds, which then takes so long.
fn finish(world: &mut World, starts_after_ms: u64, took_ms: u64, outcome: TaskOutcome) {
    world.now = world.now.plus_ms(starts_after_ms);
    let (key, started_at) = (world.task_on(1).key(), world.now);
    world.report(1, Report::Running(Running { key, started_at }));
    world.now = world.now.plus_ms(took_ms);
    let (position, finished_at) = (Position(2), world.now);
    let finished = Finished { key, position, started_at: Some(started_at), finished_at, outcome };
    world.report(1, Report::Finished(finished));
}

#[test]
fn a_deployment_and_its_tasks_are_measured_at_their_ends() {
    let mut world = World::with_targets(1);
    world.deploy(1, 1, None);
    let done = &world.tenant().work[&agent(1)].done;
    assert!(done.keys().eq(["artifact"]) && done["artifact"].ends.is_empty(), "from 0 on: {done:?}");
    world.now = world.now.plus_ms(200);
    world.accept(1);
    finish(&mut world, 40, 700, TaskOutcome::Succeeded);
    finish(&mut world, 3, 60_000, TaskOutcome::TimedOut);
    assert!(matches!(world.status(1), Status::Failed { .. }), "{:?}", world.status(1));

    let tenant = world.tenant();
    let all = &tenant.totals.deployments_took[&name("staging")]["all_at_once"];
    assert_eq!((all.count(), all.sum_ms()), (1, 60_943));
    assert_eq!((all.up_to(60_000), all.up_to(120_000)), (0, 1));
    // The first was accepted after 200 ms, the second said nothing before it ran, 3 ms after it was queued.
    let dispatches = &tenant.totals.dispatches_took[&name("staging")];
    assert_eq!((dispatches.count(), dispatches.sum_ms(), dispatches.up_to(5)), (2, 203, 1));
    let done = &tenant.work[&agent(1)].done;
    assert_eq!((done["artifact"].ends["succeeded"], done["check"].ends["timed_out"]), (1, 1));
    assert_eq!((done["artifact"].took.sum_ms(), done["check"].took.sum_ms()), (700, 60_000));
    end(&world);
}

#[test]
fn what_never_came_to_its_agent_has_an_end_and_took_no_time() {
    let mut world = World::with_targets(1);
    world.disconnect(1);
    world.deploy(1, 1, None);
    let (deployment, reason) = (common::deployment(1), "nobody is there".to_owned());
    world.ok(stella_domain::command::TenantCommand::CancelDeployment { deployment, reason });
    let tenant = world.tenant();
    assert!(tenant.totals.dispatches_took.is_empty(), "{:?}", tenant.totals.dispatches_took);
    let artifacts = &tenant.work[&agent(1)].done["artifact"];
    assert_eq!((artifacts.ends["cancelled"], artifacts.took.count()), (1, 0));
    assert_eq!(tenant.totals.deployments_took[&name("staging")]["all_at_once"].count(), 1);
    assert!(tenant.targets[&target(1)].active.is_none());
    end(&world);
}
