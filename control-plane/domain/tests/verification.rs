//! What comes after the last wave: a bake in which the gates are asked, and what follows from what they say.

use crate::common::{
    STAGING, World, canary, conflict, deployment, end, facts, failed, failure, gate, http, name,
    new_deployment, promotion, release, rule, security, target,
};
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::deployment::{Cause, OnFailure, RollbackReason, Status};
use stella_domain::environment::{BAKE_MS_RANGE, Verification};
use stella_domain::gate::{Check, Gate, Outcome as Says};
use stella_domain::hold::{PauseCause, Verdict};
use stella_domain::rejection::Rejection;
use stella_protocol::message::TaskOutcome;

const BAKE_MS: u64 = 600_000;

/// Two targets with release 1 and three people, where deployments bake for ten minutes.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    verify(&mut world, Some(BAKE_MS));
    world
}

fn verify(world: &mut World, bake_ms: Option<u64>) {
    let verification = bake_ms.map(|bake_ms| Verification { bake_ms });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
}

/// A gate that is asked about what was brought, and about nothing before.
fn verifying(name: &str, check: Check) -> Gate {
    Gate { verifies: true, ..gate(name, check) }
}

/// Person 1 asks for release 2 on both targets at once.
fn ask(world: &mut World) {
    let new = new_deployment(2, 2, Some(2));
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
}

fn bring(world: &mut World) {
    ask(world);
    world.complete(1);
    world.complete(2);
}

fn is_proven(world: &World) -> bool {
    world.tenant().environments[&STAGING].proven.contains_key(&release(2))
}

fn why_back(world: &World) -> RollbackReason {
    match world.rollback_of(2).unwrap().cause {
        Cause::Rollback { reason, .. } => reason,
        Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. } => panic!("no rollback"),
    }
}

#[test]
fn a_deployment_has_succeeded_and_is_a_proof_after_its_bake_alone() {
    let mut world = world();
    bring(&mut world);
    let rollout = world.deployment(deployment(2));
    assert_eq!((rollout.counts.succeeded, rollout.paused_for), (2, PauseCause::Verification));
    assert_eq!(
        rollout.paused.as_ref().unwrap().reason,
        "2 of 2 targets have the release, and it is verified there"
    );
    assert_eq!(rollout.resumes_at, Some(world.now.plus_ms(BAKE_MS)));
    assert!(!is_proven(&world));
    world.wait_ms(BAKE_MS - 1);
    assert_eq!(*world.status(2), Status::Running);
    world.wait_ms(1);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(is_proven(&world) && world.is_at_rest());
    end(&world);
}

#[test]
fn a_gate_that_fails_in_the_bake_takes_everything_back_and_proves_nothing() {
    let mut world = world();
    world.set_gate(verifying("errors", http()));
    ask(&mut world);
    assert_eq!(world.gate(2, "errors").asked, None, "there is nothing to ask about");
    world.complete(1);
    world.complete(2);
    for _ in 0..3 {
        world.answer(2, "errors", Says::Passed);
        world.wait_ms(60_000);
    }
    world.answer(2, "errors", Says::Failed);
    assert!(failure(&world, 2).contains("gate errors: the change is known"), "{}", failure(&world, 2));
    assert_eq!(
        (world.rollback_of(2).unwrap().targets.len(), why_back(&world)),
        (2, RollbackReason::Verification)
    );
    assert_eq!(world.tenant().totals.rollbacks[&name("staging")]["verification"], 1);
    world.complete(1);
    world.complete(2);
    assert!(!is_proven(&world));
    end(&world);
}

#[test]
fn the_last_word_is_said_after_the_bake_and_what_cannot_be_asked_waits() {
    let mut world = world();
    world.set_gate(verifying("errors", http()));
    bring(&mut world);
    world.answer(2, "errors", Says::Passed);
    for _ in 1..10 {
        world.wait_ms(60_000);
        world.answer(2, "errors", Says::Passed);
    }
    world.wait_ms(60_000);
    assert_eq!((world.status(2), &world.deployment(deployment(2)).paused), (&Status::Running, &None));
    world.answer(2, "errors", Says::Unavailable);
    end(&world);
    world.wait_ms(15_000);
    let decision = world.answer(2, "errors", Says::Passed);
    assert_eq!(facts(&decision)[..2], ["gate_evaluated", "deployment_succeeded"]);
    assert!(is_proven(&world));
    end(&world);
}

#[test]
fn without_an_answer_its_time_runs_out_and_that_is_why_it_goes_back() {
    let mut world = world();
    world.set_gate(verifying("errors", http()));
    bring(&mut world);
    world.wait_ms(BAKE_MS);
    world.wait_ms(3_600_000);
    assert!(failure(&world, 2).contains("it did not finish within"), "{}", failure(&world, 2));
    assert_eq!(why_back(&world), RollbackReason::TimeOut);
    end(&world);
}

#[test]
fn somebody_signs_off_what_was_brought() {
    let mut world = world();
    world.set_gate(verifying("sign-off", Check::Manual));
    bring(&mut world);
    let word = |passed| TenantCommand::DecideGate {
        promotion: promotion(2),
        gate: name("sign-off"),
        passed,
        reason: "looks good".to_owned(),
    };
    world.wait_ms(BAKE_MS);
    let rollout = world.deployment(deployment(2));
    let reason = "somebody has to say whether what was brought is good (gate sign-off)";
    assert_eq!(rollout.paused.as_ref().unwrap().reason, reason);
    // Whoever sleeps over it takes nothing back, and to resume it is no word.
    world.wait_ms(90 * 24 * 3_600_000);
    assert_eq!(*world.status(2), Status::Running, "nobody has said anything");
    let resumed = world.tell(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    assert!(conflict(resumed).contains("stella gate pass"));
    end(&world);
    assert!(matches!(world.tell_as(1, word(true)), Err(Rejection::Forbidden { .. })));
    world.tell_as(2, word(true)).unwrap();
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn a_word_on_what_was_brought_is_not_said_before_it_was() {
    let mut world = world();
    world.set_gate(verifying("sign-off", Check::Manual));
    ask(&mut world);
    let word = TenantCommand::DecideGate {
        promotion: promotion(2),
        gate: name("sign-off"),
        passed: true,
        reason: String::new(),
    };
    assert!(conflict(world.tell_as(2, word.clone())).contains("nothing has come to a target yet"));
    world.complete(1);
    world.tell_as(2, word).unwrap();
    world.complete(2);
    world.wait_ms(BAKE_MS);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn without_a_bake_the_gates_that_verify_have_the_last_word() {
    let mut world = world();
    verify(&mut world, None);
    world.set_gate(verifying("errors", http()));
    world.set_gate(verifying("sign-off", Check::Manual));
    world.set_gate(gate("before", http()));
    ask(&mut world);
    world.answer(2, "before", Says::Passed);
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Running);
    world.answer(2, "errors", Says::Passed);
    assert_eq!(world.deployment(deployment(2)).paused_for, PauseCause::Verification, "a word is missing");
    // What can be asked is asked again while it is waited for, and that is no end of the pause.
    for _ in 0..3 {
        world.answer(2, "errors", Says::Passed);
        assert!(world.deployment(deployment(2)).paused.is_some());
        world.wait_ms(60_000);
        assert!(world.deployment(deployment(2)).paused.is_some());
    }
    let word = |passed| TenantCommand::DecideGate {
        promotion: promotion(2),
        gate: name("sign-off"),
        passed,
        reason: String::new(),
    };
    world.tell_as(2, word(true)).unwrap();
    assert_eq!(*world.status(2), Status::Running, "the answer is too old by now");
    let decision = world.answer(2, "errors", Says::Passed);
    assert_eq!(facts(&decision)[..2], ["gate_evaluated", "deployment_succeeded"]);
    assert!(is_proven(&world));
    end(&world);

    let mut world = self::world();
    verify(&mut world, None);
    world.set_gate(verifying("errors", http()));
    bring(&mut world);
    world.answer(2, "errors", Says::Failed);
    assert_eq!((why_back(&world), is_proven(&world)), (RollbackReason::Verification, false));
    end(&world);

    let mut world = self::world();
    verify(&mut world, None);
    world.set_gate(verifying("sign-off", Check::Manual));
    bring(&mut world);
    world.tell_as(2, word(false)).unwrap();
    assert_eq!((why_back(&world), is_proven(&world)), (RollbackReason::Verification, false));
    end(&world);
}

#[test]
fn a_gate_that_verifies_is_asked_before_the_second_wave_and_not_before_the_first() {
    let mut world = World::with_release_1(4);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(verifying("errors", http()));
    let strategy = canary(&[(25, Some(120_000))], None);
    let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
    assert_eq!((world.deployment(deployment(2)).counts.active, world.gate(2, "errors").asked), (1, None));
    world.complete(1);
    world.answer(2, "errors", Says::Passed);
    world.wait_ms(60_000);
    world.answer(2, "errors", Says::Passed);
    world.wait_ms(60_000);
    assert_eq!(world.deployment(deployment(2)).counts.active, 0);
    world.answer(2, "errors", Says::Failed);
    assert_eq!(why_back(&world), RollbackReason::Gate);
    assert_eq!(world.rollback_of(2).unwrap().targets.keys().collect::<Vec<_>>(), [&target(1)]);
    end(&world);
}

#[test]
fn a_finding_and_a_blocked_release_end_a_bake_and_say_so() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    world.scan(2, &[]);
    bring(&mut world);
    world.scan(2, &["CVE-1"]);
    assert_eq!(why_back(&world), RollbackReason::Verification);
    world.complete(1);
    world.complete(2);
    end(&world);

    let mut world = self::world();
    bring(&mut world);
    let verdict = Verdict::Block;
    world.ok(TenantCommand::JudgeRelease { release: release(2), verdict, reason: "it leaks".to_owned() });
    assert_eq!(why_back(&world), RollbackReason::Blocked);
    end(&world);
}

#[test]
fn a_person_ends_the_bake_early_or_lets_it_last_and_gives_it_up() {
    let mut world = world();
    bring(&mut world);
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    assert_eq!(*world.status(2), Status::Succeeded, "whoever may resume it has looked");

    let mut world = self::world();
    bring(&mut world);
    let reason = "I want to look".to_owned();
    world.ok(TenantCommand::PauseDeployment { deployment: deployment(2), reason: reason.clone() });
    world.wait_ms(BAKE_MS * 10);
    assert_eq!(*world.status(2), Status::Running);
    world.ok(TenantCommand::FailDeployment { deployment: deployment(2), roll_back: true, reason });
    assert_eq!(why_back(&world), RollbackReason::DeploymentFailed);
    end(&world);
}

#[test]
fn what_stops_where_it_is_stays_and_a_rollback_is_not_verified() {
    let mut world = world();
    world.set_gate(verifying("errors", http()));
    let new = NewDeployment { on_failure: OnFailure::Stop, ..new_deployment(2, 2, Some(2)) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
    world.complete(1);
    world.complete(2);
    world.answer(2, "errors", Says::Failed);
    assert!(matches!(world.status(2), Status::Failed { .. }) && world.rollback_of(2).is_none());
    world.ok(TenantCommand::Rollback { id: deployment(3), of: deployment(2), targets: None });
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(3), Status::Succeeded, "at once");
    end(&world);
}

#[test]
fn what_has_failed_on_the_way_is_not_verified() {
    let mut world = world();
    ask(&mut world);
    world.finish(1, failed("exit 1"));
    world.finish(2, TaskOutcome::Succeeded);
    assert!(!world.deployment(deployment(2)).baked);
    end(&world);
}

#[test]
fn the_rule_is_frozen_into_the_plan_and_a_change_voids_what_waits() {
    let mut world = world();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    ask(&mut world);
    verify(&mut world, None);
    assert_eq!(world.promotion(2).status_name(), "invalidated");
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: None });
    verify(&mut world, Some(BAKE_MS));
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(3, 3, Some(2))))).unwrap();
    verify(&mut world, None);
    world.complete(1);
    world.complete(2);
    assert_eq!(world.deployment(deployment(3)).paused_for, PauseCause::Verification, "it was promised");
    end(&world);
}

#[test]
fn a_bake_of_no_time_or_of_ages_is_refused() {
    let mut world = world();
    for bake_ms in [BAKE_MS_RANGE.0 - 1, BAKE_MS_RANGE.1 + 1] {
        let verification = Some(Verification { bake_ms });
        let told =
            world.tell(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == "bake_ms"), "{told:?}");
    }
    assert_eq!(world.tenant().environments[&STAGING].verification, Some(Verification { bake_ms: BAKE_MS }));
}
