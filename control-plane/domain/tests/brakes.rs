//! What holds deployments back from outside: a budget that is shared, many agents that are silent at once, freezes.

use crate::common::{
    self, STAGING, World, agent, conflict, deployment, end, failed, failure, name, new_deployment, target,
};
use stella_domain::amount::Amount::{self, Count, Percent};
use stella_domain::command::{Actor, NewDeployment, TenantCommand};
use stella_domain::deployment::{OnFailure, Status};
use stella_domain::environment::{SilenceRule, Verification};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::freeze::{Freeze, Repeats};
use stella_domain::gate::Outcome as Says;
use stella_domain::hold::PauseCause;
use stella_domain::rejection::Rejection;
use stella_domain::release::StepAction;
use stella_domain::strategy::{Rolling, Strategy};
use stella_protocol::message::{Phase, TaskOutcome};
use stella_protocol::trace::TraceContext;

fn budget(world: &mut World, budget: Option<Amount>) {
    world.ok(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget });
}

/// Deployment `n` of release 2 to these targets.
fn to(n: u128, targets: &[u128], strategy: Strategy) -> NewDeployment {
    let targets = Some(targets.iter().map(|n| target(*n)).collect());
    NewDeployment { targets, strategy, ..new_deployment(n, 2, None) }
}

fn deploy(world: &mut World, new: NewDeployment) {
    world.ok(TenantCommand::Deploy(Box::new(new)));
}

/// How many targets of deployment `n` are worked on and wait, and what it is paused for.
fn stands(world: &World, n: u128) -> (u32, u32, Option<PauseCause>) {
    let found = world.deployment(deployment(n));
    let paused = found.paused.is_some().then_some(found.paused_for);
    (found.counts.active, found.counts.waiting, paused)
}

fn reason(world: &World, n: u128) -> String {
    world.deployment(deployment(n)).paused.as_ref().unwrap().reason.clone()
}

#[test]
fn a_budget_is_shared_by_all_that_runs_there_at_once() {
    let mut world = World::with_release_1(6);
    budget(&mut world, Some(Count(3)));
    deploy(&mut world, to(2, &[1, 2], Strategy::AllAtOnce));
    deploy(&mut world, to(3, &[3, 4], Strategy::AllAtOnce));
    assert_eq!(stands(&world, 3), (1, 1, None), "one of two: three are at risk");
    deploy(&mut world, to(4, &[5, 6], Strategy::AllAtOnce));
    assert_eq!(stands(&world, 4), (0, 2, Some(PauseCause::Budget)));
    assert_eq!(reason(&world, 4), "waits for the budget of staging: 3 targets are at risk, at most 3 may be");
    let problem = conflict(world.tell(TenantCommand::ResumeDeployment { deployment: deployment(4) }));
    assert!(problem.contains("it goes on by itself when fewer targets are at risk"), "{problem}");
    world.wait_ms(24 * 3_600_000 / 30);
    world.complete(1);
    assert_eq!(
        (stands(&world, 3), stands(&world, 4)),
        ((2, 0, None), (0, 2, Some(PauseCause::Budget))),
        "the older one first"
    );
    world.complete(2);
    assert_eq!(stands(&world, 4), (1, 1, None));
    for n in 3..=6 {
        world.complete(n);
    }
    for n in 2..=4 {
        assert_eq!(*world.status(n), Status::Succeeded);
    }
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn a_canary_is_at_risk_until_it_has_proven_itself_and_a_rollback_never_is() {
    let mut world = World::with_release_1(8);
    budget(&mut world, Some(Percent(25)));
    deploy(&mut world, to(2, &[1, 2, 3, 4], common::canary(&[(50, Some(60_000))], None)));
    world.complete(1);
    world.complete(2);
    deploy(&mut world, to(3, &[5], Strategy::AllAtOnce));
    assert_eq!(stands(&world, 3), (0, 1, Some(PauseCause::Budget)), "the canary holds on two");
    world.wait_ms(60_000);
    assert_eq!((stands(&world, 2), stands(&world, 3)), ((2, 0, None), (0, 1, Some(PauseCause::Budget))));
    world.finish(3, failed("exit 1"));
    world.complete_first_step(4);
    let back = world.rollback_of(2).unwrap();
    assert_eq!(back.counts.active, 4, "all at once, whatever the budget is");
    assert_eq!(stands(&world, 3), (1, 0, None), "what failed is not at risk any more");
    end(&world);
}

#[test]
fn failures_stay_at_risk_until_their_deployment_has_ended() {
    let mut world = World::with_release_1(5);
    budget(&mut world, Some(Count(2)));
    let on_failure = OnFailure::Ask;
    deploy(&mut world, NewDeployment { on_failure, ..to(2, &[1, 2], Strategy::Rolling(Rolling::of(1))) });
    world.finish(1, failed("exit 1"));
    deploy(&mut world, to(3, &[3, 4], Strategy::AllAtOnce));
    assert_eq!(stands(&world, 3), (1, 1, None));
    let skip =
        TenantCommand::SkipTarget { deployment: deployment(2), target: target(1), reason: "x".to_owned() };
    world.ok(skip);
    assert_eq!((stands(&world, 2), stands(&world, 3)), ((1, 0, None), (1, 1, None)));
    budget(&mut world, Some(Count(3)));
    assert_eq!(stands(&world, 3), (2, 0, None), "raised");
    budget(&mut world, None);
    end(&world);
}

fn retry(n: u128, on: u128) -> TenantCommand {
    TenantCommand::RetryTarget { deployment: deployment(n), target: target(on) }
}

/// Neither ends before the other has, and what has failed counts until then: only people get them out of that, and they are told.
#[test]
fn deployments_that_wait_for_one_another_s_failures_say_so_and_what_to_do() {
    let mut world = World::with_release_1(6);
    budget(&mut world, Some(Count(2)));
    let tolerates = |n, targets: &[u128]| NewDeployment {
        tolerate_failures: Some(Count(1)),
        ..to(n, targets, Strategy::Rolling(Rolling::of(1)))
    };
    deploy(&mut world, tolerates(2, &[1, 2, 3]));
    deploy(&mut world, tolerates(3, &[4, 5, 6]));
    let waits = "waits for the budget of staging: 2 targets are at risk, at most 2 may be";
    world.finish(1, failed("exit 1"));
    assert_eq!(stands(&world, 2), (0, 2, Some(PauseCause::Budget)));
    assert_eq!(reason(&world, 2), waits, "the other one is still at it");
    world.finish(4, failed("exit 1"));
    assert_eq!(stands(&world, 3), (0, 2, Some(PauseCause::Budget)));
    let (one, other) = (deployment(2), deployment(3));
    let stuck =
        format!("{waits}, and all of them have failed, in {one}, {other}: try these again or skip them");
    assert_eq!((reason(&world, 2), reason(&world, 3)), (stuck.clone(), stuck.clone()));
    let problem = conflict(world.tell(TenantCommand::ResumeDeployment { deployment: one }));
    assert!(problem.contains("try the failed targets again (retry-target) or skip them"), "{problem}");
    world.wait_ms(30 * 24 * 3_600_000);
    assert_eq!(world.tenant().budget_used_up_by(world.deployment(one)), [one, other]);
    world.ok(retry(3, 4));
    assert_eq!(reason(&world, 2), waits, "something may come of it");
    world.finish(4, failed("exit 1 again"));
    assert_eq!((reason(&world, 2), reason(&world, 3)), (stuck.clone(), stuck));
    world.ok(retry(3, 4));
    world.complete(4);
    assert_eq!((stands(&world, 2), stands(&world, 3)), ((0, 2, Some(PauseCause::Budget)), (1, 1, None)));
    for n in [5, 6, 2, 3] {
        world.complete(n);
    }
    assert_eq!((world.status(2), world.status(3)), (&Status::Succeeded, &Status::Succeeded));
    end(&world);
}

#[test]
fn a_budget_that_is_lowered_to_what_has_failed_says_so() {
    let mut world = World::with_release_1(6);
    budget(&mut world, Some(Count(3)));
    let new = NewDeployment {
        tolerate_failures: Some(Count(2)),
        ..to(2, &[1, 2, 3, 4, 5], Strategy::Rolling(Rolling::of(1)))
    };
    deploy(&mut world, new);
    world.finish(1, failed("exit 1"));
    world.finish(2, failed("exit 1"));
    assert_eq!(stands(&world, 2), (1, 2, None));
    budget(&mut world, Some(Count(2)));
    world.complete(3);
    assert_eq!(stands(&world, 2), (0, 2, Some(PauseCause::Budget)));
    assert!(reason(&world, 2).ends_with(&format!("in {}: try these again or skip them", deployment(2))));
    budget(&mut world, Some(Count(3)));
    assert_eq!(stands(&world, 2), (1, 1, None));
    end(&world);
}

#[test]
fn what_could_never_fit_a_budget_is_refused_by_field() {
    let mut world = World::with_release_1(8);
    for wrong in [Count(0), Percent(0), Percent(101)] {
        let set = TenantCommand::SetEnvironmentBudget { environment: STAGING, budget: Some(wrong) };
        let told = world.tell(set);
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == "at_risk_max"), "{told:?}");
    }
    budget(&mut world, Some(Count(2)));
    let mut refused = |strategy, tolerated: Option<u32>, wanted: &str| {
        let new =
            NewDeployment { strategy, tolerate_failures: tolerated.map(Count), ..new_deployment(2, 2, None) };
        let told = world.tell(TenantCommand::Deploy(Box::new(new)));
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == wanted), "{told:?}");
    };
    refused(common::canary(&[(20, None), (80, None)], None), None, "strategy.steps[1].percent");
    refused(common::canary(&[(20, None)], None), Some(1), "strategy.steps[0].percent");
    let pausing = Rolling { pause_ms: Some(1_000), ..Rolling::of(3) };
    refused(Strategy::Rolling(pausing), None, "strategy.batch");
    refused(Strategy::AllAtOnce, Some(2), "tolerate_failures");
    // Without a hold a batch is only as large as the budget lets.
    deploy(&mut world, new_deployment(2, 2, Some(5)));
    assert_eq!(stands(&world, 2), (2, 6, None));
    end(&world);
}

fn rule(world: &mut World, percent: u32) {
    let rule = Some(SilenceRule { percent, within_ms: 60_000 });
    world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
}

#[test]
fn many_silent_agents_pause_what_runs_there_and_nothing_fails() {
    let mut world = World::with_release_1(5);
    rule(&mut world, 40);
    deploy(&mut world, to(2, &[1, 2, 3, 5], Strategy::Rolling(Rolling::of(2))));
    world.run(1);
    world.disconnect(1);
    world.wait_ms(30_000);
    world.disconnect(2);
    assert_eq!(stands(&world, 2), (2, 2, None), "two of five are not more than 40 %");
    let gone = world.session(3);
    let lost = "lost".to_owned();
    let decision = world.ok(TenantCommand::DisconnectAgent { agent: agent(3), session: gone, reason: lost });
    let counted = |fact: &Fact| matches!(fact, Fact::EnvironmentWentSilent { silent: 3, agents: 5, .. });
    assert!(decision.events.iter().any(|(_, event)| counted(&event.fact)), "{:?}", decision.events);
    assert_eq!(stands(&world, 2), (2, 2, Some(PauseCause::Silence)));
    assert_eq!(reason(&world, 2), "too many agents of staging have gone silent at once");
    let listed = vec![world.listed(1, Phase::Running)];
    // What comes meanwhile waits too, and no time passes it by.
    deploy(&mut world, to(3, &[4], Strategy::AllAtOnce));
    assert_eq!(stands(&world, 3), (0, 1, Some(PauseCause::Silence)));
    world.wait_ms(90 * 24 * 3_600_000);
    assert_eq!((world.status(2), world.status(3)), (&Status::Running, &Status::Running));
    world.connect(1, listed);
    assert_eq!((stands(&world, 2), stands(&world, 3)), ((2, 2, None), (1, 0, None)), "it is healed");
    world.complete(1);
    world.connect(2, vec![]);
    world.complete(2);
    world.connect(3, vec![]);
    for n in [4, 3, 5] {
        world.complete(n);
    }
    assert_eq!((world.status(2), world.status(3)), (&Status::Succeeded, &Status::Succeeded));
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn agents_that_go_one_by_one_are_no_event_and_a_rollback_waits_as_well() {
    let mut world = World::with_release_1(4);
    rule(&mut world, 50);
    for n in 1..=4 {
        world.disconnect(n);
        world.wait_ms(60_001);
    }
    assert_eq!(world.tenant().environments[&STAGING].silent_since, None);
    (1..=4).for_each(|n| drop(world.connect(n, vec![])));
    deploy(&mut world, new_deployment(2, 2, None));
    world.finish(1, failed("exit 1"));
    for n in 2..=4 {
        world.complete_first_step(n);
    }
    let back = world.rollback_of(2).unwrap().id;
    let active = |world: &World| world.deployment(back).counts.active;
    assert_eq!(active(&world), 4);
    (1..=3).for_each(|n| world.disconnect(n));
    assert_eq!(world.deployment(back).paused_for, PauseCause::Silence);
    world.wait_ms(7 * 24 * 3_600_000);
    assert_eq!(world.deployment(back).status, Status::Running, "its time stands still");
    // The rule is taken back: what is silent is nobody's event.
    world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule: None });
    assert!(world.deployment(back).paused.is_none());
    end(&world);
}

#[test]
fn a_rule_of_silence_that_makes_no_sense_is_refused_by_field() {
    let mut world = World::with_targets(1);
    for (percent, within_ms, wanted) in [
        (0, 60_000, "percent"),
        (100, 60_000, "percent"),
        (50, 999, "within_ms"),
        (50, 3_600_001, "within_ms"),
    ] {
        let rule = Some(SilenceRule { percent, within_ms });
        let told = world.tell(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == wanted), "{told:?}");
    }
}

#[test]
fn a_freeze_holds_what_is_on_its_way_before_its_next_target() {
    let mut world = World::with_release_1(3);
    deploy(&mut world, new_deployment(2, 2, Some(1)));
    let freeze = Box::new(common::freeze("weekend", "1970-01-01T00:00", "1970-01-02T00:00"));
    let set = TenantCommand::FreezeEnvironment { environment: STAGING, freeze };
    world.ok(set.clone());
    assert_eq!(stands(&world, 2), (1, 2, Some(PauseCause::Freeze)));
    assert!(reason(&world, 2).contains("staging is frozen (weekend: "), "{}", reason(&world, 2));
    world.complete(1);
    assert_eq!(stands(&world, 2), (0, 2, Some(PauseCause::Freeze)));
    assert!(
        conflict(world.tell(TenantCommand::ResumeDeployment { deployment: deployment(2) }))
            .contains("when the freeze ends")
    );
    world.ok(TenantCommand::UnfreezeEnvironment { environment: STAGING, freeze: name("weekend") });
    assert_eq!(stands(&world, 2), (1, 1, None));
    world.ok(set);
    world.wait_ms(24 * 3_600_000);
    assert_eq!(stands(&world, 2), (1, 1, None), "it is over by itself");
    world.complete(2);
    world.complete(3);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn a_freeze_that_is_over_is_refused_but_where_it_was_set_before() {
    let mut world = World::with_release_1(1);
    let freeze = common::freeze("weekend", "1970-01-01T00:00", "1970-01-02T00:00");
    let set = |freeze: &Freeze| {
        let freeze = Box::new(freeze.clone());
        TenantCommand::FreezeEnvironment { environment: STAGING, freeze }
    };
    world.ok(set(&freeze));
    world.wait_ms(24 * 3_600_000);
    let events = world.events.len();
    world.ok(set(&freeze));
    assert_eq!(
        world.events.len(),
        events,
        "whoever repeats a set-up is not stopped by the time that has passed"
    );
    let late = common::freeze("holidays", "1970-01-01T00:00", "1970-01-01T12:00");
    let told = world.tell(set(&late));
    assert!(
        matches!(&told, Err(Rejection::Invalid { field, problem }) if field == "to" && problem.contains("1970-01-01 12:00")),
        "{told:?}"
    );
    world.ok(set(&Freeze { repeats: Repeats::Daily, ..late }));
}

#[test]
fn what_overrides_a_freeze_goes_on_through_it_and_so_does_a_rollback() {
    let mut world = World::with_release_1(3);
    let override_freeze = Some("orders are lost".to_owned());
    deploy(&mut world, NewDeployment { override_freeze, ..new_deployment(2, 2, Some(1)) });
    let freeze = Box::new(common::freeze("weekend", "1970-01-01T00:00", "1970-01-02T00:00"));
    world.ok(TenantCommand::FreezeEnvironment { environment: STAGING, freeze });
    world.complete(1);
    assert_eq!(stands(&world, 2), (1, 1, None));
    world.finish(2, failed("exit 1"));
    assert_eq!(world.rollback_of(2).unwrap().counts.active, 2);
    end(&world);
}

#[test]
fn a_deployment_that_could_not_go_back_says_where_and_needs_a_waiver() {
    let mut world = World::with_release_1(2);
    world.enrol(3);
    world.ok(TenantCommand::CreateTarget(Box::new(common::new_target(3))));
    let required = TenantCommand::SetEnvironmentWayBack { environment: STAGING, required: true };
    world.ok(required.clone());
    assert!(world.ok(required).events.is_empty(), "it is so already");
    let deploy = |new: NewDeployment| TenantCommand::Deploy(Box::new(new));
    let problem = conflict(world.tell(deploy(new_deployment(2, 2, None))));
    assert!(
        problem.contains("could not go back on web-3 (nothing was deployed to it before), and"),
        "{problem}"
    );
    world.ok(deploy(to(2, &[1], Strategy::AllAtOnce)));
    world.complete(1);
    let reason = "slow".to_owned();
    let verdict = stella_domain::hold::Verdict::Block;
    world.ok(TenantCommand::JudgeRelease { release: common::release(1), verdict, reason });
    let third = |targets: &[u128]| NewDeployment {
        release: common::release(3),
        ..to(3, targets, Strategy::AllAtOnce)
    };
    let problem = conflict(world.tell(deploy(third(&[1, 2]))));
    assert!(problem.contains("on web-2 (the release there is blocked (slow)), and"), "{problem}");
    let waive_way_back = Some("it is broken anyway".to_owned());
    world.ok(deploy(NewDeployment { waive_way_back: waive_way_back.clone(), ..third(&[1, 2]) }));
    assert_eq!(world.promotion(3).wanted.waive_way_back, waive_way_back, "for ever");
    end(&world);
}

#[test]
fn a_release_that_would_delete_the_one_before_has_no_way_back() {
    let mut world = World::with_release_1(1);
    let mut greedy = common::new_release(9);
    world.ok(TenantCommand::StoreArtifact {
        digest: common::digest(9),
        size_bytes: 10,
        tenant_bytes_max: None,
    });
    greedy.steps[0].action = StepAction::Artifact { component: name("web"), keep_releases: 1 };
    world.ok(TenantCommand::CreateRelease(Box::new(greedy)));
    world.ok(TenantCommand::SetEnvironmentWayBack { environment: STAGING, required: true });
    let new = new_deployment(2, 9, None);
    let problem = conflict(world.tell(TenantCommand::Deploy(Box::new(new.clone()))));
    assert!(
        problem.contains("keeps only itself of component web on the host; let its step keep 2"),
        "{problem}"
    );
    world.ok(TenantCommand::SetEnvironmentWayBack { environment: STAGING, required: false });
    world.ok(TenantCommand::Deploy(Box::new(new)));
    end(&world);
}

#[test]
fn what_has_to_prove_itself_does_not_wait_for_a_budget_that_only_it_uses() {
    let mut world = World::with_release_1(8);
    budget(&mut world, Some(Percent(50)));
    let pausing = |batch| Strategy::Rolling(Rolling { pause_ms: Some(60_000), ..Rolling::of(batch) });
    deploy(&mut world, to(2, &[1, 2, 3, 4, 5, 6, 7, 8], pausing(4)));
    (1..=4).for_each(|n| world.complete(n));
    // Two hosts are replaced: half of six is three.
    (1..=2).for_each(|n| drop(world.ok(TenantCommand::RemoveTarget { id: target(n) })));
    world.wait_ms(60_000);
    assert_eq!(stands(&world, 2), (3, 1, None));
    (5..=7).for_each(|n| world.complete(n));
    assert_eq!(stands(&world, 2), (0, 1, Some(PauseCause::Batch)), "the batch is as large as it can be");
    assert!(reason(&world, 2).contains("lets it start no more than the 3 targets"), "{}", reason(&world, 2));
    world.wait_ms(60_000);
    world.complete(8);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);

    // The same for a canary whose step is larger than what the budget has become.
    let mut world = World::with_release_1(4);
    deploy(&mut world, to(2, &[1, 2, 3, 4], common::canary(&[(75, Some(60_000))], Some(1))));
    budget(&mut world, Some(Count(2)));
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!(stands(&world, 2), (0, 2, Some(PauseCause::CanaryStep)));
    assert_eq!(world.deployment(deployment(2)).steps_passed, 0, "its step is not behind it");
    world.wait_ms(60_000);
    world.complete(3);
    assert_eq!(stands(&world, 2), (0, 1, Some(PauseCause::CanaryStep)));
    world.wait_ms(60_000);
    world.complete(4);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn a_pause_for_a_freeze_lasts_as_long_as_some_freeze_does_and_no_longer() {
    let mut world = World::with_release_1(2);
    deploy(&mut world, to(2, &[1, 2], Strategy::Rolling(Rolling::of(1))));
    let freeze = |world: &mut World, named: &str, to: &str| {
        let freeze = Box::new(common::freeze(named, "1970-01-01T00:00", to));
        world.ok(TenantCommand::FreezeEnvironment { environment: STAGING, freeze });
    };
    freeze(&mut world, "winter", "1970-01-10T00:00");
    freeze(&mut world, "night", "1970-01-01T06:00");
    assert!(reason(&world, 2).contains("winter"), "{}", reason(&world, 2));
    world.ok(TenantCommand::UnfreezeEnvironment { environment: STAGING, freeze: name("winter") });
    assert_eq!(stands(&world, 2), (1, 1, Some(PauseCause::Freeze)));
    assert!(reason(&world, 2).contains("night"), "{}", reason(&world, 2));
    world.complete(1);
    world.wait_ms(6 * 3_600_000);
    assert_eq!(stands(&world, 2), (1, 0, None), "it goes on when that is over");
    world.complete(2);
    end(&world);
}

/// A gate that counts agents, or errors, fails because nobody can be heard. That says nothing about the release.
#[test]
fn what_is_said_about_silent_agents_halts_nothing_and_is_asked_anew() {
    let silent = || {
        let mut world = World::with_release_1(5);
        rule(&mut world, 40);
        world.set_gate(common::gate("agents-up", common::http()));
        deploy(&mut world, to(2, &[1, 2, 3, 4], common::canary(&[(25, Some(600_000))], None)));
        world.answer(2, "agents-up", Says::Passed);
        world.complete(1);
        world.answer(2, "agents-up", Says::Passed);
        (2..=4).for_each(|n| world.disconnect(n));
        world.wait_ms(60_000);
        world.answer(2, "agents-up", Says::Failed);
        assert_eq!(stands(&world, 2), (0, 3, Some(PauseCause::CanaryStep)));
        // Nor does what anybody else looks at.
        world.scan(2, &[]);
        assert_eq!(*world.status(2), Status::Running);
        world
    };
    let heal = |world: &mut World| (2..=4).for_each(|n| drop(world.connect(n, vec![])));

    // The soak stands still with it, and goes on from there.
    let mut world = silent();
    world.wait_ms(24 * 3_600_000);
    while world.gate(2, "agents-up").asked.is_none() {
        world.wait_ms(10_000);
    }
    world.answer(2, "agents-up", Says::Failed);
    assert_eq!(stands(&world, 2), (0, 3, Some(PauseCause::CanaryStep)));
    heal(&mut world);
    let ends = world.deployment(deployment(2)).resumes_at.unwrap();
    assert_eq!(ends, world.now.plus_ms(600_000), "nobody was heard from its first moment on");
    while stands(&world, 2).2.is_some() {
        match world.gate(2, "agents-up").asked {
            Some(_) => drop(world.answer(2, "agents-up", Says::Passed)),
            None => world.wait_ms(1_000),
        }
    }
    assert_eq!((stands(&world, 2), world.now), ((0, 3, None), ends), "it has to be asked anew");
    world.answer(2, "agents-up", Says::Passed);
    assert_eq!(stands(&world, 2), (3, 0, None));
    end(&world);

    // Once they are heard, what is said counts.
    let mut world = silent();
    heal(&mut world);
    assert_eq!(stands(&world, 2), (0, 3, Some(PauseCause::CanaryStep)));
    world.wait_ms(60_000);
    world.answer(2, "agents-up", Says::Failed);
    assert!(world.rollback_of(2).is_some());
    end(&world);

    // What is known of the release itself counts all the time.
    let mut world = silent();
    world.set_gate(common::security("scan", &[]));
    assert_eq!(*world.status(2), Status::Running);
    world.scan(2, &["CVE-1"]);
    assert!(failure(&world, 2).contains("1 critical findings"));
    end(&world);
}

/// Three agents fall silent; after half an hour they are heard again.
fn falls_silent(world: &mut World, meanwhile: impl FnOnce(&mut World)) {
    (2..=4).for_each(|n| world.disconnect(n));
    meanwhile(world);
    world.wait_ms(1_800_000);
    (2..=4).for_each(|n| drop(world.connect(n, vec![])));
}

/// Five targets of which the first has the release and soaks for ten minutes, under a rule for silent agents.
fn soaking() -> World {
    let mut world = World::with_release_1(5);
    rule(&mut world, 40);
    deploy(&mut world, to(2, &[1, 2, 3, 4, 5], common::canary(&[(20, Some(600_000))], None)));
    world.complete(1);
    world
}

/// Nobody sees what a release does on hosts that cannot be heard: that time proves nothing.
#[test]
fn what_proves_itself_does_so_while_its_agents_are_heard() {
    let verification = Some(Verification { bake_ms: 600_000 });
    let pausing = Strategy::Rolling(Rolling { pause_ms: Some(600_000), ..Rolling::of(1) });
    for (strategy, verification, cause, done) in [
        (common::canary(&[(20, Some(600_000))], None), None, PauseCause::CanaryStep, 1..=1),
        (pausing, None, PauseCause::Batch, 1..=1),
        (Strategy::AllAtOnce, verification, PauseCause::Verification, 1..=5),
    ] {
        let mut world = World::with_release_1(5);
        rule(&mut world, 40);
        world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
        deploy(&mut world, to(2, &[1, 2, 3, 4, 5], strategy));
        done.for_each(|n| world.complete(n));
        world.wait_ms(60_000);
        assert_eq!(stands(&world, 2).2, Some(cause));
        falls_silent(&mut world, |world| {
            let it = world.deployment(deployment(2));
            assert_eq!((it.resumes_at, it.resumes_in_ms), (None, Some(540_000)));
            assert!(it.resumes_by_itself() && !it.waits_for_a_word());
        });
        let it = world.deployment(deployment(2));
        assert_eq!((it.resumes_at, it.resumes_in_ms), (Some(world.now.plus_ms(540_000)), None));
        world.wait_ms(539_999);
        assert_eq!(stands(&world, 2).2, Some(cause));
        world.wait_ms(1);
        assert_eq!(stands(&world, 2).2, None, "ten minutes in all");
        end(&world);
    }
}

#[test]
fn people_end_a_hold_that_stands_still_or_make_it_last() {
    let id = deployment(2);
    let mut world = soaking();
    falls_silent(&mut world, |world| {
        world.ok(TenantCommand::ResumeDeployment { deployment: id });
        assert_eq!(stands(world, 2), (0, 4, Some(PauseCause::Silence)), "nothing begins meanwhile");
    });
    assert_eq!(stands(&world, 2), (4, 0, None));
    end(&world);

    let mut world = soaking();
    falls_silent(&mut world, |world| {
        world.ok(TenantCommand::PauseDeployment { deployment: id, reason: "errors rise".to_owned() });
    });
    world.wait_ms(24 * 3_600_000);
    assert_eq!(stands(&world, 2), (0, 4, Some(PauseCause::Person)), "until somebody resumes it");
    end(&world);

    let mut world = soaking();
    falls_silent(&mut world, |world| {
        world.ok(TenantCommand::CancelDeployment { deployment: id, reason: "enough".to_owned() });
        assert_eq!(world.deployment(id).resumes_in_ms, None);
    });
    assert!(matches!(world.status(2), Status::Cancelled { .. }) && world.is_at_rest());
    end(&world);

    // Without the rule it is no event.
    let mut world = soaking();
    world.wait_ms(60_000);
    (2..=4).for_each(|n| world.disconnect(n));
    world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule: None });
    assert_eq!(world.deployment(id).resumes_at, Some(world.now.plus_ms(540_000)));
    end(&world);
}

/// Journals have silences in which such holds came to their end: they are read as they are.
#[test]
fn a_hold_that_ended_in_a_silence_is_read_from_an_older_journal() {
    let mut world = soaking();
    let ends = world.deployment(deployment(2)).resumes_at.unwrap();
    let fact = r#"{"type":"environment_went_silent","id":"00000000-0000-0000-0000-000000000002","silent":3,"agents":5}"#;
    let fact = serde_json::from_str(fact).unwrap();
    let event = Event { at: world.now, actor: Actor::System, trace: TraceContext::default(), fact };
    let stream = StreamId::Tenant(common::TENANT);
    world.state.apply(stream, &event).unwrap();
    world.events.push((stream, event));
    assert_eq!(world.deployment(deployment(2)).resumes_at, Some(ends));
    world.wait_ms(600_000);
    assert_eq!(stands(&world, 2), (0, 4, Some(PauseCause::Silence)), "as it was then");
    end(&world);
}

/// What works on agents that are silent has not come to its end because nobody hears of it: its target goes back with the others.
#[test]
fn the_deadline_of_what_has_halted_does_not_pass_while_agents_are_silent() {
    let day = 24 * 3_600_000;
    for is_silent_first in [false, true] {
        let mut world = World::with_release_1(5);
        rule(&mut world, 40);
        deploy(&mut world, new_deployment(2, 2, None));
        for n in 1..=5 {
            world.run(n);
        }
        let listed: Vec<_> = (2..=4).map(|n| world.listed(n, Phase::Running)).collect();
        world.wait_ms(600_000);
        if !is_silent_first {
            world.finish(1, failed("exit 1"));
        }
        (2..=4).for_each(|n| world.disconnect(n));
        if is_silent_first {
            world.wait_ms(day);
            world.finish(1, failed("exit 1"));
        }
        world.wait_ms(day);
        assert!(matches!(world.status(2), Status::Halting { .. }), "{:?}", world.status(2));
        (2..=4).zip(listed).for_each(|(n, it)| drop(world.connect(n, vec![it])));
        // It has as much time as it had.
        world.wait_ms(3_600_000 - 600_000 - 1);
        assert!(!world.task_on(2).cancel_requested);
        for n in 2..=5 {
            world.finish(n, TaskOutcome::Succeeded);
        }
        assert_eq!(world.rollback_of(2).unwrap().order.len(), 5, "none is left out");
        end(&world);
    }

    // And no more.
    let mut world = halting();
    let listed: Vec<_> = (2..=4).map(|n| world.listed(n, Phase::Running)).collect();
    (2..=4).for_each(|n| world.disconnect(n));
    world.wait_ms(day);
    (2..=4).zip(listed).for_each(|(n, it)| drop(world.connect(n, vec![it])));
    world.wait_ms(3_600_000);
    assert!(world.task_on(2).cancel_requested);
    end(&world);
}

/// A deployment to five targets, of which one has failed and four are at work, under a rule for silent agents.
fn halting() -> World {
    let mut world = World::with_release_1(5);
    rule(&mut world, 40);
    deploy(&mut world, new_deployment(2, 2, None));
    for n in 1..=5 {
        world.run(n);
    }
    world.finish(1, failed("exit 1"));
    world
}

/// Journals have deadlines that passed while agents were silent: they are read as they are.
#[test]
fn a_deadline_that_passed_in_a_silence_is_read_from_an_older_journal() {
    let mut world = halting();
    (2..=4).for_each(|n| world.disconnect(n));
    world.wait_ms(3_600_000);
    let fact = Fact::DeploymentOverdue { id: deployment(2), reason: "late".to_owned() };
    let event = Event { at: world.now, actor: Actor::System, trace: TraceContext::default(), fact };
    let stream = StreamId::Tenant(common::TENANT);
    world.state.apply(stream, &event).unwrap();
    world.events.push((stream, event));
    (2..=4).for_each(|n| drop(world.connect(n, vec![])));
    end(&world);
}
