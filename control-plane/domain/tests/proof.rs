//! The proof that a deployment could go back, before it changes anything.

use crate::common::colours::{blue_green, new_coloured};
use crate::common::{
    self, STAGING, World, agent, conflict, deployment, digest, end, facts, failed, hello, mark,
    new_deployment, target,
};
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::deployment::{OnFailure, Status};
use stella_domain::gate::Outcome;
use stella_domain::hold::{PauseCause, Verdict};
use stella_domain::rejection::Rejection;
use stella_domain::way_back::{FRESH_MS, LOOK_MS, Proof, ProofAnswer, ProofRule, WINDOW_MS};
use stella_protocol::id::{QuestionId, SessionEpoch};
use stella_protocol::limits::REASON_BYTES_MAX;
use stella_protocol::message::{Holding, Inspect, Wanted, capability};
use uuid::Uuid;

const PRESENT: Holding = Holding::Present { files: 3, bytes: 70 };

fn set(world: &mut World, rule: ProofRule) {
    world.ok(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
}

/// Targets with release 1, in an environment that requires the proof.
fn required(count: u128) -> World {
    let mut world = World::with_release_1(count);
    set(&mut world, ProofRule::Required);
    world
}

fn damaged() -> Holding {
    Holding::Damaged { reason: "bin/web is missing".to_owned() }
}

/// What is known of the way back of a target in deployment 2.
fn known(world: &World, n: u128) -> Option<ProofAnswer> {
    match &world.deployment(deployment(2)).targets[&target(n)].way_back {
        Some(Proof::Known { answer, .. }) => Some(answer.clone()),
        Some(Proof::Asked { .. }) | None => None,
    }
}

fn why(world: &World, n: u128) -> String {
    known(world, n).unwrap().reason().unwrap().to_owned()
}

/// Why deployment 2 is paused, if it is for the proof.
#[track_caller]
fn held(world: &World) -> &str {
    let deployment = world.deployment(deployment(2));
    assert_eq!(deployment.paused_for, PauseCause::WayBack);
    assert_eq!(deployment.counts.waiting, deployment.counts.total(), "nothing was changed");
    &deployment.paused.as_ref().expect("a pause").reason
}

fn active(world: &World) -> u32 {
    world.deployment(deployment(2)).counts.active
}

fn waive(n: u128) -> TenantCommand {
    TenantCommand::WaiveWayBack { deployment: deployment(n), reason: "it is broken anyway".to_owned() }
}

fn again() -> TenantCommand {
    TenantCommand::ProveWayBack { deployment: deployment(2) }
}

#[test]
fn nothing_is_changed_before_all_have_proven_that_they_could_go_back() {
    let mut world = required(2);
    let deployed = world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 2, None))));
    assert_eq!(facts(&deployed)[2..], ["way_back_asked"], "no target is started");
    let asked = world.question(1).unwrap();
    let one = Wanted { component: "web".to_owned(), version: "1.0".to_owned(), digest: digest(1) };
    assert_eq!(asked.wanted, [one], "what is there, and so where a rollback would go");
    assert_eq!((asked.slot, asked.timeout_ms), (None, LOOK_MS));

    assert_eq!(facts(&world.prove(1, &PRESENT)), ["way_back_answered"]);
    assert_eq!(active(&world), 0, "not before all have");
    let last = world.prove(2, &PRESENT);
    assert_eq!(facts(&last)[..2], ["way_back_answered", "target_started"]);
    assert_eq!(active(&world), 2);
    assert_eq!(known(&world, 1), Some(ProofAnswer::Proven { files: 3, bytes: 70 }));
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert_eq!(known(&world, 2), Some(ProofAnswer::Proven { files: 3, bytes: 70 }), "it is kept");
    end(&world);
}

#[test]
fn one_that_could_not_go_back_holds_all_and_is_named_until_somebody_waives_it() {
    let mut world = required(3);
    world.person(1);
    world.deploy(2, 2, Some(1));
    world.prove(1, &PRESENT);
    world.prove(2, &damaged());
    assert!(world.deployment(deployment(2)).paused.is_none(), "the others may still say something");
    world.prove(3, &Holding::Absent);
    assert_eq!(
        held(&world),
        "it is not proven that it could go back on web-2 (web 1.0: bin/web is missing), web-3 (web 1.0: is not on the host)"
    );
    let resume = TenantCommand::ResumeDeployment { deployment: deployment(2) };
    assert!(conflict(world.tell(resume)).contains("waive it with a reason"));
    let silent = TenantCommand::WaiveWayBack { deployment: deployment(2), reason: "x".repeat(2_000) };
    assert!(matches!(world.tell(silent), Err(Rejection::Invalid { .. })), "a reason has a length");

    world.tell_as(1, waive(2)).unwrap();
    assert_eq!(active(&world), 1, "it goes on, one at a time");
    let waived = world.deployment(deployment(2)).way_back.waived.clone().unwrap();
    assert_eq!((waived.reason.as_str(), waived.by), ("it is broken anyway", common::person(1)));
    assert!(conflict(world.tell(waive(2))).contains("nothing is left to prove"));
    assert!(conflict(world.tell(again())).contains("nothing is left to prove"));
    (1..=3).for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(world.deployment(deployment(2)).way_back.waived.is_some(), "for ever");
    assert_eq!(why(&world, 2), "web 1.0: bin/web is missing", "and so is why");
    end(&world);
}

#[test]
fn who_is_away_or_too_old_proves_nothing_and_is_asked_when_that_has_changed() {
    let mut world = required(3);
    world.disconnect(1);
    world.wait_ms(60_000);
    let mut old = hello(mark(2, 9), vec![]);
    old.capabilities &= !capability::HOLDINGS;
    world.connect_with(2, old, false);
    world.deploy(2, 2, None);
    world.prove(3, &PRESENT);
    assert!(held(&world).contains("web-1 (its agent host-1 is offline)"), "{}", held(&world));
    assert!(held(&world).contains("web-2 (its agent host-2 (0.1.0) is too old to say)"), "{}", held(&world));
    assert!(world.question(1).is_none() && world.question(2).is_none());

    world.connect_with(2, hello(mark(2, 9), vec![]), false);
    world.prove(2, &PRESENT);
    assert!(!held(&world).contains("web-2"), "{}", held(&world));
    world.connect(1, vec![]);
    assert!(world.question(3).is_none(), "who has answered is left in peace");
    world.prove(1, &PRESENT);
    assert_eq!(active(&world), 3, "it goes on by itself");
    (1..=3).for_each(|n| world.complete(n));
    end(&world);
}

#[test]
fn who_does_not_answer_holds_nobody_up_for_longer_than_the_window() {
    let mut world = required(2);
    world.deploy(2, 2, None);
    world.prove(1, &PRESENT);
    let late = world.question(2).unwrap().question;
    world.wait_ms(WINDOW_MS - 1);
    assert!(world.deployment(deployment(2)).paused.is_none());
    world.wait_ms(1);
    assert!(held(&world).contains("web-2 (its host did not answer in time)"), "{}", held(&world));
    world.disconnect(2);
    world.connect(2, vec![]);
    let answer = |question| TenantCommand::AnswerInspection {
        agent: agent(2),
        session: SessionEpoch(2),
        question,
        holdings: vec![PRESENT],
    };
    assert!(world.ok(answer(late)).events.is_empty(), "an answer to an earlier question is none");
    let asked = world.question(2).unwrap().question;
    assert_ne!(asked, late, "it was asked again when it came back");
    world.ok(answer(asked));
    assert_eq!(active(&world), 2);
    end(&world);
}

#[test]
fn who_leaves_while_it_is_asked_is_waited_for_only_until_it_counts_as_away() {
    let mut world = required(3);
    world.deploy(2, 2, None);
    world.prove(1, &PRESENT);
    // A session that was lost a moment ago may be back at once, and is asked again then.
    world.disconnect(2);
    world.connect(2, vec![]);
    assert!(world.question(2).is_some());
    world.disconnect(2);
    world.wait_ms(29_999);
    world.ok(TenantCommand::RevokeAgent { agent: agent(3), reason: "stolen".to_owned() });
    assert_eq!(why(&world, 3), "its agent host-3 was revoked");
    assert!(world.deployment(deployment(2)).paused.is_none());
    world.wait_ms(1);
    assert!(held(&world).contains("web-2 (its agent host-2 is offline), web-3"), "{}", held(&world));
    // Whoever was right long ago has to be right again when the others are.
    world.wait_ms(FRESH_MS);
    world.connect(2, vec![]);
    let skip = |n| TenantCommand::SkipTarget {
        deployment: deployment(2),
        target: target(n),
        reason: "it is scrapped".to_owned(),
    };
    world.ok(skip(3));
    world.prove(2, &PRESENT);
    assert_eq!(active(&world), 0);
    world.prove(1, &PRESENT);
    world.prove(2, &PRESENT);
    assert_eq!(active(&world), 2);
    end(&world);
}

#[test]
fn who_comes_back_while_others_are_asked_or_people_pause_is_asked_too() {
    for by_hand in [false, true] {
        let mut world = required(2);
        world.disconnect(1);
        world.wait_ms(60_000);
        world.deploy(2, 2, None);
        let id = deployment(2);
        if by_hand {
            world.ok(TenantCommand::PauseDeployment { deployment: id, reason: "lunch".to_owned() });
        }
        world.wait_ms(1);
        world.connect(1, vec![]);
        world.prove(2, &PRESENT);
        if by_hand {
            world.ok(TenantCommand::ResumeDeployment { deployment: id });
        }
        assert!(world.deployment(id).paused.is_none(), "{:?}", world.deployment(id).paused);
        assert!(world.question(1).is_some(), "it can say now what it could not");
        world.prove(1, &PRESENT);
        assert_eq!(active(&world), 2);
        end(&world);
    }
}

#[test]
fn what_has_begun_has_begun_whatever_became_of_the_first_target() {
    let mut world = required(3);
    let new = NewDeployment { on_failure: OnFailure::Ask, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    (1..=3).for_each(|n| drop(world.prove(n, &PRESENT)));
    world.wait_ms(FRESH_MS + 1);
    world.finish(1, failed("exit 1"));
    let reason = "it is scrapped".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(2), target: target(1), reason });
    let rollout = world.deployment(deployment(2));
    assert_eq!((rollout.counts.active, rollout.way_back.asked), (1, 1), "the next one, and no question");
    assert!(conflict(world.tell(again())).contains("nothing is left to prove"));
    end(&world);
}

#[test]
fn what_was_put_right_is_looked_at_again_and_what_is_stuck_may_be_left_alone() {
    let mut world = required(3);
    world.deploy(2, 2, None);
    for n in 1..=3 {
        world.prove(n, if n == 1 { &PRESENT } else { &Holding::Absent });
    }
    world.ok(again());
    assert!(world.ok(again()).events.is_empty(), "they are asked already");
    assert!(world.deployment(deployment(2)).paused.is_some());
    world.prove(1, &PRESENT);
    world.prove(2, &PRESENT);
    world.prove(3, &damaged());
    assert_eq!(
        held(&world),
        "it is not proven that it could go back on web-3 (web 1.0: bin/web is missing)",
        "it tells what is so now"
    );
    world.ok(again());
    let skip = |n| TenantCommand::SkipTarget {
        deployment: deployment(2),
        target: target(n),
        reason: "it is scrapped".to_owned(),
    };
    world.ok(skip(3));
    assert!(world.question(3).is_none(), "nobody waits for what it says");
    world.prove(1, &PRESENT);
    world.prove(2, &PRESENT);
    assert_eq!(active(&world), 2);
    end(&world);
}

#[test]
fn where_it_is_only_reported_nothing_waits_for_it() {
    let mut world = World::with_release_1(2);
    set(&mut world, ProofRule::Reported);
    let again = world
        .ok(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule: ProofRule::Reported });
    assert!(again.events.is_empty(), "it is so already");
    world.deploy(2, 2, None);
    assert_eq!(active(&world), 2);
    world.prove(1, &damaged());
    world.complete(1);
    assert_eq!(why(&world, 1), "web 1.0: bin/web is missing");
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert_eq!(why(&world, 2), "its deployment has ended before its host answered");
    assert!(world.question(2).is_none());
    end(&world);
}

#[test]
fn without_anything_to_go_back_to_nobody_is_asked() {
    let mut world = World::with_targets(2);
    set(&mut world, ProofRule::Required);
    let first = world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 1, None))));
    assert!(!facts(&first).contains(&"way_back_asked"), "nothing was there before");
    assert_eq!(active(&world), 2);
    (1..=2).for_each(|n| world.complete(n));
    let same = world.ok(TenantCommand::Deploy(Box::new(new_deployment(3, 1, None))));
    assert!(!facts(&same).contains(&"way_back_asked"), "it is there already");
    end(&world);
}

#[test]
fn a_rollback_is_never_held_up() {
    let mut world = required(2);
    world.deploy(2, 2, Some(1));
    (1..=2).for_each(|n| drop(world.prove(n, &PRESENT)));
    world.finish(1, failed("exit 1"));
    let back = world.rollback_of(2).unwrap();
    assert_eq!((back.counts.active, back.way_back.asked), (1, 0));
    world.complete(1);
    end(&world);
}

#[test]
fn what_is_known_without_a_host_is_not_asked() {
    let mut world = required(2);
    let (release, reason) = (common::release(1), "slow".to_owned());
    world.ok(TenantCommand::JudgeRelease { release, verdict: Verdict::Block, reason });
    world.deploy(2, 2, None);
    assert!(held(&world).contains("web-1 (the release there is blocked (slow)), web-2"), "{}", held(&world));
    assert!(world.question(1).is_none());
    set(&mut world, ProofRule::Reported);
    assert_eq!(active(&world), 2, "it goes on when it is not required any more");
    end(&world);
}

#[test]
fn who_has_waived_the_way_back_from_the_beginning_is_not_held_up() {
    let mut world = required(1);
    let waive_way_back = Some("it is broken anyway".to_owned());
    let new = NewDeployment { waive_way_back, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    assert_eq!(active(&world), 1);
    world.prove(1, &Holding::Absent);
    assert_eq!(why(&world, 1), "web 1.0: is not on the host", "it is recorded all the same");
    world.complete(1);
    end(&world);
}

#[test]
fn answers_that_are_old_when_it_could_begin_are_asked_for_again() {
    let mut world = required(1);
    world.deploy(2, 2, None);
    let reason = "lunch".to_owned();
    world.ok(TenantCommand::PauseDeployment { deployment: deployment(2), reason });
    world.prove(1, &PRESENT);
    assert_eq!(active(&world), 0, "somebody holds it");
    world.wait_ms(FRESH_MS + 1);
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    assert_eq!(active(&world), 0, "what its host said is old");
    world.prove(1, &PRESENT);
    assert_eq!(active(&world), 1);
    assert_eq!(world.deployment(deployment(2)).way_back.asked, 2);
    end(&world);
}

#[test]
fn a_gate_is_asked_after_the_proof_for_its_word_may_hold_for_less_time() {
    let mut world = required(1);
    world.set_gate(common::gate("ask", common::http()));
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 2, None))));
    world.answer(2, "ask", Outcome::Passed);
    assert!(world.question(1).is_some(), "it is let through and could begin");
    // The gate's word holds for a minute, and the host takes longer to answer.
    world.wait_ms(61_000);
    world.prove(1, &PRESENT);
    assert_eq!(active(&world), 0, "it waits for the gate now");
    world.answer(2, "ask", Outcome::Passed);
    assert_eq!(active(&world), 1);
    end(&world);
}

#[test]
fn a_deployment_that_is_cancelled_waits_for_no_answer() {
    let mut world = required(2);
    world.deploy(2, 2, None);
    world.prove(1, &PRESENT);
    let question = world.question(2).unwrap().question;
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
    assert!(matches!(world.status(2), Status::Cancelled { .. }));
    assert!(world.tenant().inspections.is_empty());
    let (agent, session) = (agent(2), world.session(2));
    let late = TenantCommand::AnswerInspection { agent, session, question, holdings: vec![PRESENT] };
    assert!(world.ok(late).events.is_empty());
    end(&world);
}

#[test]
fn of_a_release_with_colours_the_live_one_is_asked_about() {
    let mut world = World::with_targets(1);
    for n in 4..=5 {
        world.ok(TenantCommand::StoreArtifact { digest: digest(n), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(n))));
    }
    set(&mut world, ProofRule::Required);
    let deploy = |n, of| {
        let strategy = blue_green(None, Some(60_000));
        TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(n, of, None) }))
    };
    world.ok(deploy(1, 4));
    (0..2).for_each(|_| world.complete(1));
    world.ok(deploy(2, 5));
    let asked = world.question(1).unwrap();
    let folders: Vec<_> = asked.wanted.iter().map(|it| (it.component.as_str(), it.digest)).collect();
    assert_eq!(folders, [("web-blue", digest(4))], "the colour that stays as it is");
    world.prove(1, &damaged());
    assert!(held(&world).contains("web-blue 4.0: bin/web is missing"), "{}", held(&world));
    world.ok(waive(2));
    assert_eq!(active(&world), 1);
    end(&world);
}

#[test]
fn only_the_agent_that_was_asked_answers_and_only_for_itself() {
    let mut world = required(2);
    world.deploy(2, 2, None);
    let Inspect { question, .. } = world.question(1).unwrap();
    let answer = |n, session, question, holdings: Vec<Holding>| TenantCommand::AnswerInspection {
        agent: agent(n),
        session,
        question,
        holdings,
    };
    let session = world.session(2);
    assert!(world.ok(answer(2, session, question, vec![PRESENT])).events.is_empty(), "another agent");
    let unknown = QuestionId(Uuid::from_u128(9));
    assert!(world.ok(answer(1, session, unknown, vec![PRESENT])).events.is_empty());
    let old = SessionEpoch(session.0 + 1);
    assert!(matches!(world.tell(answer(1, old, question, vec![PRESENT])), Err(Rejection::SessionSuperseded)));
    world.ok(answer(1, session, question, vec![PRESENT, PRESENT]));
    assert_eq!(why(&world, 1), "its agent has answered something else");
    let long = Holding::Unverified { reason: "\u{e4}".repeat(REASON_BYTES_MAX / 2) };
    world.prove(2, &long);
    assert_eq!(why(&world, 2).chars().count(), 256);
    end(&world);
}

/// What the host of target 1 is to keep of the component, if a step says 2.
fn kept(world: &World) -> u8 {
    world.tenant().kept_on_host(world.task_on(1), 2)
}

#[test]
fn what_does_not_succeed_does_not_push_the_way_back_off_the_host() {
    let mut world = World::with_targets(1);
    let order = |n: u128, of: u128| {
        let order = NewDeployment { on_failure: OnFailure::Stop, ..new_deployment(n, of, None) };
        TenantCommand::Deploy(Box::new(order))
    };
    world.ok(order(1, 1));
    assert_eq!(kept(&world), 2, "there is no way back yet");
    world.complete(1);
    // Each brings its release and fails then. The same one again needs no more room.
    for (n, of, keep) in [(2, 2, 2), (3, 3, 3), (4, 2, 3)] {
        world.ok(order(n, of));
        assert_eq!(kept(&world), keep, "deployment {n}");
        world.complete_first_step(1);
        world.finish(1, failed("x"));
        assert!(matches!(world.status(n), Status::Failed { .. }));
    }
    // Back to what is good, and then something new that is: from there on it is the way back.
    world.ok(order(5, 1));
    assert_eq!(kept(&world), 2);
    world.complete(1);
    world.ok(order(6, 3));
    assert_eq!(kept(&world), 2);
    world.complete(1);
    world.ok(order(7, 2));
    assert_eq!(kept(&world), 2);
    world.complete(1);
    end(&world);
}
