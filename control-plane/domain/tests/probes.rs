//! An outcome that nobody knows: what the host shows settles it, a person does, or nothing.

use crate::common::{
    World, agent, deployment, facts, hello, is_unknown, mark, name, new_deployment, new_release, release,
    target,
};
use stella_domain::command::TenantCommand;
use stella_domain::command::{NewDeployment, NewRelease};
use stella_domain::decide::Decision;
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::probe::{PAUSE_MS, ProbeAnswer, WAY_MS, WINDOW_MS, window_ms};
use stella_domain::rejection::Rejection;
use stella_domain::release::{Phase as StepPhase, Step, StepAction};
use stella_domain::task::TaskState;
use stella_protocol::id::TaskId;
use stella_protocol::limits::INSPECT_TIME_MS_MAX;
use stella_protocol::message::{Effect, Hello, Phase, TaskOutcome, capability};
use stella_protocol::spec::{CheckSpec, Probe, TaskSpec, UnitAction};

fn there() -> Effect {
    Effect::There { what: "2.0 is current".to_owned() }
}

fn absent() -> Effect {
    Effect::Absent { what: "the current release is 1.0".to_owned() }
}

fn unclear() -> Effect {
    Effect::Unclear { reason: "a process of it is still there".to_owned() }
}

/// The agent comes back with another journal than it had.
fn forget(world: &mut World, n: u128) -> Decision {
    let incarnation = 900 + u128::from(world.session(n).0);
    world.connect_with(n, hello(mark(incarnation, 0), vec![]), false)
}

/// Targets with release 1; release 2 is being brought to the first, and its agent has lost its journal.
fn forgotten(targets: u128) -> (World, TaskId) {
    let mut world = World::with_release_1(targets);
    world.deploy(2, 2, Some(1));
    let task = world.run(1);
    let told = forget(&mut world, 1);
    let seen = facts(&told);
    assert!(seen.ends_with(&["task_became_unknown", "task_probe_asked"]), "{seen:?}");
    (world, task)
}

fn progress(world: &World, n: u128) -> &Progress {
    &world.deployment(deployment(2)).targets[&target(n)].progress
}

#[test]
fn what_the_host_shows_to_be_done_has_succeeded_and_its_deployment_goes_on() {
    let (mut world, task) = forgotten(2);
    let probe = world.tenant().probes(agent(1), world.now).next().unwrap();
    assert_eq!((probe.key, &probe.spec), (world.task(task).key(), &world.task(task).spec));
    assert_eq!(probe.since, world.task(task).queued_at);

    let seen = facts(&world.probe(1, there()));
    assert_eq!(seen[..4], ["task_probed", "task_finished", "task_queued", "task_dispatched"]);
    assert!(matches!(world.task(task).state, TaskState::Succeeded(_)));
    let words = world.task(task).settled_by_probe().map(ProbeAnswer::words);
    assert_eq!(words, Some("2.0 is current"));
    assert_eq!(world.deployment(deployment(2)).targets[&target(1)].settled, Some(task));
    world.finish(1, TaskOutcome::Succeeded);
    world.complete(2);
    assert_eq!(world.deployment(deployment(2)).status, Status::Succeeded);
}

#[test]
fn what_the_host_shows_not_to_be_done_was_interrupted_and_can_be_tried_again() {
    let mut world = World::with_release_1(2);
    let new = NewDeployment { on_failure: OnFailure::Ask, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    let task = world.run(1);
    forget(&mut world, 1);
    world.probe(1, absent());
    let TaskState::Interrupted(end) = &world.task(task).state else { panic!("{:?}", world.task(task)) };
    assert_eq!(end.reason, "it was not done: the current release is 1.0");
    let Progress::Failed { reason, .. } = progress(&world, 1) else { panic!("{:?}", progress(&world, 1)) };
    assert!(reason.contains("interrupted: it was not done"), "{reason}");
    world.complete(2);

    world.ok(TenantCommand::RetryTarget { deployment: deployment(2), target: target(1) });
    world.complete(1);
    assert_eq!(world.deployment(deployment(2)).status, Status::Succeeded);
}

#[test]
fn what_the_host_cannot_tell_stays_unknown_until_a_person_decides() {
    let (mut world, task) = forgotten(1);
    assert_eq!(facts(&world.probe(1, unclear())), ["task_probed"]);
    assert!(is_unknown(world.task(task)));
    let why = world.task(task).unprobed().unwrap();
    assert_eq!(why, "its host cannot tell: a process of it is still there");
    world.ok(TenantCommand::SettleTask { task, succeeded: true, reason: "looked".to_owned() });
    assert!(matches!(world.task(task).state, TaskState::Succeeded(_)));
    assert_eq!(world.task(task).settled_by_probe(), None, "it was a person");
}

#[test]
fn silence_settles_nothing_and_holds_nothing_up() {
    let (mut world, task) = forgotten(1);
    world.wait_ms(WINDOW_MS);
    assert!(is_unknown(world.task(task)));
    let why = world.task(task).unprobed().unwrap();
    assert_eq!(why, "its host cannot tell: its host did not answer in time");
    assert_eq!(world.tenant().probes(agent(1), world.now).count(), 0, "nobody waits for it any more");

    // It comes back: the question is put again, under another number.
    let seen = facts(&world.connect(1, vec![]));
    assert_eq!(seen, ["agent_connected", "task_probe_asked"]);
    world.probe(1, there());
    assert!(matches!(world.task(task).state, TaskState::Succeeded(_)));
}

#[test]
fn short_sessions_ask_no_more_often_than_once_a_minute() {
    let (mut world, _) = forgotten(1);
    let first = world.tenant().probes(agent(1), world.now).next().unwrap();
    world.connect(1, vec![]);
    let again: Vec<_> = world.tenant().probes(agent(1), world.now).collect();
    assert_eq!(again, std::slice::from_ref(&first), "the same question, in the next session too");
    world.probe(1, unclear());
    assert_eq!(facts(&world.connect(1, vec![])), ["agent_connected"]);
    world.wait_ms(PAUSE_MS);
    assert_eq!(facts(&world.connect(1, vec![])), ["agent_connected", "task_probe_asked"]);

    // An answer to the question before means nothing any more.
    let (agent, session) = (agent(1), world.session(1));
    let question = first.question;
    let late = world.ok(TenantCommand::AnswerProbe { agent, session, question, effect: there() });
    assert_eq!(facts(&late), [""; 0]);
}

#[test]
fn an_agent_that_does_not_understand_it_is_not_asked() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    let task = world.run(1);
    let hello = hello(mark(77, 0), vec![]);
    let capabilities = hello.capabilities & !capability::PROBES;
    world.connect_with(1, Hello { capabilities, ..hello }, false);
    assert!(is_unknown(world.task(task)));
    assert_eq!(world.task(task).probe, None);
}

#[test]
fn nobody_answers_for_another_agent_or_from_an_older_session() {
    let (mut world, task) = forgotten(2);
    let question = world.tenant().probes(agent(1), world.now).next().unwrap().question;
    let (other, session) = (agent(2), world.session(2));
    world.ok(TenantCommand::AnswerProbe { agent: other, session, question, effect: there() });
    assert!(is_unknown(world.task(task)));

    let (agent, session) = (agent(1), world.session(1));
    world.connect(1, vec![]);
    let command = TenantCommand::AnswerProbe { agent, session, question, effect: there() };
    assert_eq!(world.tell(command).unwrap_err(), Rejection::SessionSuperseded);
}

#[test]
fn a_late_report_is_worth_more_than_a_look() {
    let (mut world, task) = forgotten(1);
    world.finish_task(1, task, TaskOutcome::TimedOut);
    assert!(matches!(world.task(task).state, TaskState::TimedOut(_)));
    assert_eq!(world.task(task).probe, None);
    assert_eq!(world.tenant().probes(agent(1), world.now).count(), 0);
}

#[test]
fn a_quarantine_ends_when_the_host_shows_what_became_of_the_task() {
    for (effect, state) in [(there(), "succeeded"), (absent(), "cancelled")] {
        let mut world = World::with_release_1(1);
        world.deploy(2, 2, None);
        let task = world.run(1);
        world.disconnect(1);
        world.wait_ms(stella_domain::agent::RECONNECT_WINDOW_MS);
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: "late".to_owned() });
        assert!(matches!(world.deployment(deployment(2)).status, Status::Cancelled { .. }));
        assert_eq!(world.tenant().targets[&target(1)].blocked_by, Some(task));
        assert_eq!(world.task(task).probe, None, "nobody is there to be asked");

        // Its journal is gone too, so that nothing but the host can tell.
        forget(&mut world, 1);
        world.probe(1, effect);
        assert_eq!(world.task(task).state.name(), state);
        assert_eq!(world.tenant().targets[&target(1)].blocked_by, None);
    }
}

#[test]
fn what_the_agent_still_has_is_not_asked_about() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    let task = world.run(1);
    let listed = world.listed(1, Phase::Running);
    world.connect(1, vec![listed]);
    assert_eq!(world.task(task).state.name(), "running");
    assert_eq!(world.tenant().probes(agent(1), world.now).count(), 0);
}

/// What becomes of one step after the answer of an agent with these capabilities, which has lost its journal, and what it says about that.
fn settled(action: StepAction, without: u64, effect: Effect) -> (&'static str, Option<String>) {
    let mut world = World::with_release_1(1);
    let step = Step { name: name("only"), action, timeout_ms: 30_000, phase: StepPhase::Prepare };
    let (id, components) = (release(5), new_release(2).components);
    let new = NewRelease { id, components, steps: vec![step], ..new_release(5) };
    world.ok(TenantCommand::CreateRelease(Box::new(new)));
    world.deploy(2, 5, None);
    let task = world.run(1);
    let hello = hello(mark(77, 0), vec![]);
    let capabilities = hello.capabilities & !without;
    world.connect_with(1, Hello { capabilities, ..hello }, false);
    world.probe(1, effect);
    let task = world.task(task);
    (task.state.name(), task.unprobed())
}

fn unit(action: UnitAction) -> StepAction {
    StepAction::Systemd { unit: "web.service".to_owned(), action }
}

#[test]
fn what_an_older_agent_takes_for_certain_settles_nothing() {
    let (now, before) = (0, capability::CERTAIN);
    let check = || {
        let address = "127.0.0.1:80".to_owned();
        StepAction::CheckTcp { address, interval_ms: 100, successes: 1 }
    };
    let restarts = || [UnitAction::Restart, UnitAction::ReloadOrRestart].map(unit);
    for restart in restarts() {
        assert_eq!(settled(restart, now, there()).0, "succeeded");
    }
    for restart in restarts() {
        assert_eq!(settled(restart, now, absent()).0, "interrupted");
    }
    for effect in [there(), absent()] {
        for restart in restarts() {
            let (state, why) = settled(restart, before, effect.clone());
            assert_eq!(state, "unknown");
            let why = why.unwrap();
            assert!(why.starts_with("its host cannot tell: its agent is too old to be certain"), "{why}");
        }
    }
    assert_eq!(settled(check(), now, absent()).0, "interrupted");
    assert_eq!(settled(check(), before, absent()).0, "unknown", "it may have had too little time");

    // Of these there was never any doubt.
    assert_eq!(settled(check(), before, there()).0, "succeeded");
    assert_eq!(settled(unit(UnitAction::Start), before, there()).0, "succeeded");
    assert_eq!(settled(unit(UnitAction::Stop), before, absent()).0, "interrupted");
}

#[test]
fn a_check_by_a_command_is_left_to_a_person_whatever_its_agent_says() {
    let argv = vec!["true".to_owned()];
    let check = StepAction::CheckCommand { argv, interval_ms: 100, successes: 1 };
    let (state, why) = settled(check, capability::CERTAIN, absent());
    assert_eq!(state, "unknown");
    let why = why.unwrap();
    assert!(why.contains("nobody can confirm that nothing of the check's command is left"), "{why}");
}

#[test]
fn what_a_disk_of_before_shows_to_be_there_proves_nothing() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    world.complete_first_step(1);
    let task = world.run(1);
    // The same journal without its end: the disk was restored, and what the first step has brought is gone.
    world.connect_with(1, hello(mark(1, 1), vec![]), false);
    assert_eq!(facts(&world.probe(1, there())), ["task_probed"]);
    assert!(is_unknown(world.task(task)));
    let why = world.task(task).unprobed().unwrap();
    assert!(why.starts_with("its host cannot tell: the journal of its agent has lost its end"), "{why}");
    assert!(why.ends_with("2.0 is current"), "{why}");

    // It is the same disk in later sessions, too.
    world.wait_ms(PAUSE_MS);
    world.connect(1, vec![]);
    world.probe(1, there());
    assert!(is_unknown(world.task(task)));
    // What is not there is not there.
    world.wait_ms(PAUSE_MS);
    world.connect(1, vec![]);
    world.probe(1, absent());
    assert_eq!(world.task(task).state.name(), "interrupted");
}

#[test]
fn what_was_begun_after_a_disk_was_restored_counts_as_ever() {
    let mut world = World::with_release_1(1);
    world.connect_with(1, hello(mark(1, 1), vec![]), false);
    world.wait_ms(1);
    world.deploy(2, 2, None);
    let task = world.run(1);
    forget(&mut world, 1);
    world.probe(1, there());
    assert!(matches!(world.task(task).state, TaskState::Succeeded(_)));
}

#[test]
fn a_check_may_be_asked_again_for_as_long_as_it_may_take() {
    let check = |timeout_ms| {
        let probe = Probe::Tcp { address: "127.0.0.1:80".to_owned() };
        window_ms(&TaskSpec::Check(CheckSpec { probe, interval_ms: 1_000, successes: 1, timeout_ms }))
    };
    assert_eq!(check(600_000), WINDOW_MS + 600_000);
    assert_eq!(check(u64::MAX), INSPECT_TIME_MS_MAX, "no agent takes a question that lasts longer");

    let (mut world, _) = forgotten(1);
    let look_ms = |world: &World| world.tenant().probes(agent(1), world.now).next().unwrap().timeout_ms;
    assert_eq!(look_ms(&world), WINDOW_MS - WAY_MS);
    world.wait_ms(50_000);
    assert_eq!(look_ms(&world), WINDOW_MS - WAY_MS - 50_000, "the answer has to be here in time");
}
