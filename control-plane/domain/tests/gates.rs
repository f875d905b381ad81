//! Gates: what lets a promotion come, what holds it up, and what ends it on its way.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, World, canary, conflict, deployment, end, facts, failure, findings, gate, http, name,
    new_deployment, promotion, rule, security, target,
};
use stella_domain::command::{Answer, NewDeployment, Outcome, TenantCommand};
use stella_domain::decide::{self, Decision};
use stella_domain::deployment::{Status, Strategy};
use stella_domain::findings::{Finding, Severity};
use stella_domain::gate::{
    AGAIN_MS_RANGE, ANSWER_MS_MAX, Check, Comparison, Number, Outcome as Says, Security,
};
use stella_domain::rejection::Rejection;
use stella_domain::strategy::Rolling;
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;

/// Two targets with release 1, and three people.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world
}

/// Person 1 asks for release 2 everywhere, one target at a time.
fn ask(world: &mut World, n: u128) -> Decision {
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(n, 2, Some(1))))).unwrap()
}

fn verdict(world: &World, n: u128, gate: &str) -> (Says, String) {
    let verdict = world.gate(n, gate).verdict.unwrap();
    (verdict.outcome, verdict.reason)
}

#[test]
fn what_has_no_bad_findings_starts_with_the_request_for_it() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    world.scan(2, &[]);
    let decision = ask(&mut world, 2);
    assert_eq!(decision.outcome, Outcome::Deployment(deployment(2)));
    assert_eq!(facts(&decision)[..3], ["promotion_requested", "gate_evaluated", "deployment_created"]);
    assert_eq!(verdict(&world, 2, "scan"), (Says::Passed, "findings: 0 critical".to_owned()));
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert_eq!(
        world.tenant().totals.gates[&name("staging")]["security"]["passed"],
        1,
        "one verdict for both waves"
    );
    end(&world);
}

#[test]
fn what_nobody_has_scanned_waits_until_somebody_has() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    assert_eq!(ask(&mut world, 2).outcome, Outcome::Promotion(promotion(2)));
    assert!(verdict(&world, 2, "scan").1.contains("no scanner has reported"));
    let decision = world.scan(2, &["CVE-1"]);
    assert_eq!(facts(&decision), ["findings_recorded", "gate_evaluated"]);
    let (says, why) = verdict(&world, 2, "scan");
    assert_eq!(
        (says, why.as_str()),
        (Says::Failed, "1 critical findings, and 0 are allowed: CVE-1 in openssl@3.0.1")
    );
    assert!(facts(&world.scan(3, &[])).len() == 1, "the scan of another release changes nothing");
    // A second scan that comes to the same is not another verdict, and one without it lets it start.
    let decision = world.scan(2, &[]);
    assert!(facts(&decision).contains(&"deployment_created"), "{decision:?}");
    end(&world);
}

#[test]
fn a_finding_that_comes_on_the_way_halts_the_roll_out_and_takes_it_back() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    world.scan(2, &[]);
    ask(&mut world, 2);
    world.complete(1);
    let decision = world.scan(2, &["CVE-1"]);
    assert_eq!(facts(&decision)[..3], ["findings_recorded", "gate_evaluated", "deployment_halted"]);
    world.finish(2, TaskOutcome::Succeeded);
    assert!(failure(&world, 2).starts_with("gate scan: 1 critical findings"), "{}", failure(&world, 2));
    // Both targets were touched: the second one was worked on when the finding came. No gate is in the way back.
    assert_eq!(world.rollback_of(2).unwrap().targets.len(), 2);
    world.complete(1);
    world.complete(2);
    end(&world);
}

#[test]
fn an_allowed_finding_counts_again_when_its_time_is_up_before_the_next_wave() {
    let mut world = world();
    let soon = world.now.plus_ms(30_000);
    world.set_gate(security("scan", &[("CVE-1", Some(soon.0))]));
    world.scan(2, &["CVE-1"]);
    ask(&mut world, 2);
    assert_eq!(world.gate(2, "scan").verdict.unwrap().expires_at, Some(soon));
    world.wait_ms(30_000);
    world.complete(1);
    assert!(failure(&world, 2).contains("CVE-1"), "the second target was not started");
    assert_eq!(world.rollback_of(2).unwrap().targets.keys().collect::<Vec<_>>(), [&target(1)]);
    end(&world);
}

#[test]
fn something_outside_is_asked_and_its_answer_starts_what_waits() {
    let mut world = world();
    world.set_gate(gate("change", http()));
    let decision = ask(&mut world, 2);
    assert_eq!(facts(&decision), ["promotion_requested", "gate_asked"]);
    world.wait_ms(500);
    let decision = world.answer(2, "change", Says::Passed);
    assert_eq!(facts(&decision)[..2], ["gate_evaluated", "deployment_created"]);
    let verdict = world.gate(2, "change").verdict.unwrap();
    assert_eq!(verdict.at.since(verdict.asked_at).as_millis(), 500);
    // The verdict is of the first target's wave: it is asked again, and nothing goes on before the answer.
    world.complete(1);
    assert!(world.gate(2, "change").verdict.unwrap().expires_at > Some(world.now), "it is young enough");
    assert!(world.gate(2, "change").asked.is_some());
    assert_eq!((world.status(2), world.deployment(deployment(2)).counts.active), (&Status::Running, 0));
    end(&world);
    world.answer(2, "change", Says::Passed);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn what_ends_while_it_is_asked_waits_for_the_same_answer() {
    let mut world = World::with_release_1(5);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(gate("change", http()));
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, Some(2))))).unwrap();
    world.answer(2, "change", Says::Passed);
    let counts = |world: &World| {
        let counts = world.deployment(deployment(2)).counts;
        (counts.succeeded, counts.active)
    };
    world.complete(1);
    assert_eq!((counts(&world), world.gate(2, "change").asked.is_some()), ((1, 1), true));
    world.complete(2);
    assert_eq!(counts(&world), (2, 0));
    world.answer(2, "change", Says::Passed);
    assert_eq!((counts(&world), world.gate(2, "change").asked), ((2, 2), None), "one answer for both");
    world.complete(3);
    world.answer(2, "change", Says::Failed);
    assert!(matches!(world.status(2), Status::Halting { .. }));
    world.finish(4, TaskOutcome::Succeeded);
    assert_eq!(world.rollback_of(2).unwrap().targets.len(), 4, "the fifth never got it");
    end(&world);
}

/// Four targets; one of them has release 2 and soaks for ten minutes, and the gate has let it through.
fn soaking() -> World {
    let mut world = World::with_release_1(4);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(gate("errors", http()));
    let strategy = canary(&[(25, Some(600_000))], None);
    let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
    world.answer(2, "errors", Says::Passed);
    world.complete_first_step(1);
    world.finish(1, TaskOutcome::Succeeded);
    let last = world.events.iter().rev().take(2).map(|(_, event)| event.fact.name());
    assert!(last.eq(["gate_asked", "deployment_paused"]));
    world
}

#[test]
fn what_is_outside_is_asked_while_a_canary_soaks_and_fails_it_there() {
    let mut world = soaking();
    for _ in 0..3 {
        world.answer(2, "errors", Says::Passed);
        assert_eq!(world.gate(2, "errors").asked, None);
        world.wait_ms(59_999);
        assert_eq!(world.gate(2, "errors").asked, None, "not before its time");
        world.wait_ms(1);
    }
    // Silence is not failure, in a soak as before a wave.
    world.answer(2, "errors", Says::Unavailable);
    world.wait_ms(AGAIN_MS_RANGE.0);
    assert!(world.deployment(deployment(2)).paused.is_some());
    end(&world);
    world.answer(2, "errors", Says::Failed);
    assert!(failure(&world, 2).contains("gate errors: the change is known"));
    assert_eq!(world.rollback_of(2).unwrap().targets.keys().collect::<Vec<_>>(), [&target(1)]);
    assert_eq!(world.gate(2, "errors").again_at, None);
    world.complete(1);
    end(&world);
}

#[test]
fn what_was_said_in_the_soak_does_not_count_after_it() {
    let mut world = soaking();
    for _ in 0..9 {
        world.answer(2, "errors", Says::Passed);
        world.wait_ms(60_000);
    }
    world.answer(2, "errors", Says::Passed);
    world.wait_ms(60_000);
    let record = world.gate(2, "errors");
    assert_eq!(world.deployment(deployment(2)).paused, None, "the soak is over");
    assert!(record.asked.is_some() && record.again_at.is_none(), "{record:?}");
    assert_eq!(world.deployment(deployment(2)).counts.active, 0);
    world.answer(2, "errors", Says::Passed);
    assert_eq!(world.deployment(deployment(2)).counts.active, 3);
    assert_eq!(world.gate(2, "errors").again_at, None, "nothing holds, and nothing is watched");
    (2..=4).for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn a_pause_between_batches_is_watched_and_one_of_a_person_is_not() {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(gate("errors", http()));
    let strategy = Strategy::Rolling(Rolling { pause_ms: Some(300_000), ..Rolling::of(1) });
    let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
    world.answer(2, "errors", Says::Passed);
    world.complete(1);
    world.answer(2, "errors", Says::Passed);
    let over = || TenantCommand::OverrideGate {
        promotion: promotion(2),
        gate: name("errors"),
        reason: "known".to_owned(),
    };
    let pause = TenantCommand::PauseDeployment { deployment: deployment(2), reason: "lunch".to_owned() };
    world.ok(pause);
    world.wait_ms(60_000);
    world.answer(2, "errors", Says::Passed);
    assert_eq!(world.gate(2, "errors").again_at, None, "what was asked for the pause before was the last");
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    assert!(world.gate(2, "errors").asked.is_some());
    world.tell_as(2, over()).unwrap();
    assert_eq!(world.deployment(deployment(2)).counts.active, 1, "what is overridden is not asked");
    world.complete(2);
    end(&world);
}

#[test]
fn an_answer_that_fails_on_the_way_halts_and_one_that_is_missing_only_waits() {
    let mut world = world();
    world.set_gate(gate("change", http()));
    ask(&mut world, 2);
    world.answer(2, "change", Says::Passed);
    world.wait_ms(60_000);
    world.complete(1);
    world.wait_ms(ANSWER_MS_MAX);
    let (says, _) = verdict(&world, 2, "change");
    assert_eq!((says, world.status(2)), (Says::Unavailable, &Status::Running), "silence is not failure");
    end(&world);
    world.wait_ms(AGAIN_MS_RANGE.0);
    world.answer(2, "change", Says::Failed);
    assert!(failure(&world, 2).contains("gate change: the change is known"));
    assert!(world.rollback_of(2).is_some());
    end(&world);
}

#[test]
fn what_does_not_let_through_is_asked_again_after_longer_and_longer_pauses() {
    let mut world = world();
    world.set_gate(gate("change", http()));
    ask(&mut world, 2);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        world.answer(2, "change", Says::Failed);
        let again_at = world.gate(2, "change").again_at.unwrap();
        pauses.push(again_at.since(world.now).as_secs());
        assert_eq!(world.gate(2, "change").asked, None);
        world.wait_ms(again_at.0 - world.now.0);
    }
    assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 900, 900, 900]);
    world.answer(2, "change", Says::Passed);
    assert_eq!((world.status(2), world.gate(2, "change").misses), (&Status::Running, 0));
    end(&world);
}

#[test]
fn a_late_answer_and_one_to_another_question_change_nothing() {
    let mut world = world();
    world.set_gate(gate("change", http()));
    ask(&mut world, 2);
    let late = Answer {
        promotion: promotion(2),
        gate: name("change"),
        number: world.gate(2, "change").asked.unwrap().number,
        outcome: Says::Passed,
        reason: String::new(),
        inputs: None,
    };
    world.wait_ms(ANSWER_MS_MAX + AGAIN_MS_RANGE.0);
    assert_eq!(world.ok(TenantCommand::AnswerGate(Box::new(late.clone()))).events, []);
    // Who asks the API cannot answer for what is outside.
    let forged = world.tell_as(1, TenantCommand::AnswerGate(Box::new(late)));
    assert!(matches!(forged, Err(Rejection::Forbidden { .. })), "{forged:?}");
    end(&world);
}

#[test]
fn a_manual_gate_is_decided_by_somebody_else() {
    let mut world = world();
    world.set_gate(gate("change", Check::Manual));
    ask(&mut world, 2);
    let decide = |passed| TenantCommand::DecideGate {
        promotion: promotion(2),
        gate: name("change"),
        passed,
        reason: "ticket 7".to_owned(),
    };
    for nobody in [world.tell_as(1, decide(true)), world.tell(decide(true))] {
        assert!(matches!(nobody, Err(Rejection::Forbidden { .. })), "{nobody:?}");
    }
    world.tell_as(2, decide(false)).unwrap();
    assert!(world.promotion(2).is_open());
    assert_eq!(world.tell_as(2, decide(false)).unwrap().events, [], "twice is once");
    world.tell_as(2, decide(true)).unwrap();
    world.wait_ms(3_000_000);
    assert_eq!(world.status(2), &Status::Running, "a person's word does not get old");
    world.complete(1);
    world.tell_as(3, decide(false)).unwrap();
    world.finish(2, TaskOutcome::Succeeded);
    assert!(failure(&world, 2).contains("gate change: ticket 7"));
    end(&world);
}

#[test]
fn an_override_is_for_one_promotion_and_one_version_of_the_gate() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    world.scan(2, &["CVE-1"]);
    ask(&mut world, 2);
    let over = |n, reason: &str| TenantCommand::OverrideGate {
        promotion: promotion(n),
        gate: name("scan"),
        reason: reason.to_owned(),
    };
    assert!(matches!(world.tell_as(2, over(2, " ")), Err(Rejection::Invalid { .. })));
    let decision = world.tell_as(2, over(2, "customers are down")).unwrap();
    assert_eq!(facts(&decision)[..2], ["gate_overridden", "deployment_created"]);
    let overridden = world.gate(2, "scan").overridden.unwrap();
    assert_eq!(overridden.hold.reason, "customers are down");
    // Another version of the gate was not overridden: the next target is not started.
    world.set_gate(security("scan", &[("CVE-2", None)]));
    world.finish(1, TaskOutcome::Succeeded);
    assert!(failure(&world, 2).contains("CVE-1"));
    world.complete(1);
    ask(&mut world, 3);
    assert!(world.promotion(3).is_open(), "nor was it for another promotion");
    let over_again = world.tell_as(2, over(2, "once more"));
    assert!(conflict(over_again).contains("starts nothing more"));
    end(&world);
}

#[test]
fn approvals_and_gates_are_both_needed_in_any_order() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    world.set_gate(gate("change", http()));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    let decision = ask(&mut world, 2);
    assert_eq!(
        facts(&decision),
        ["promotion_requested", "gate_asked", "gate_evaluated"],
        "who approves sees them"
    );
    world.answer(2, "change", Says::Passed);
    world.scan(2, &["CVE-1"]);
    world.approve(2, 2).unwrap();
    assert_eq!(world.promotion(2).status_name(), "approved");
    world.wait_ms(60_000);
    world.scan(2, &[]);
    assert!(world.promotion(2).is_open(), "what was answered is too old by now");
    world.answer(2, "change", Says::Passed);
    assert_eq!(*world.status(2), Status::Running);
    end(&world);
}

#[test]
fn a_gate_that_is_set_on_the_way_holds_the_next_wave_and_its_removal_lets_it_go_on() {
    let mut world = world();
    ask(&mut world, 2);
    world.set_gate(gate("change", Check::Manual));
    world.complete(1);
    assert_eq!(world.deployment(deployment(2)).counts.waiting, 1);
    end(&world);
    world.ok(TenantCommand::RemoveGate { environment: STAGING, gate: name("change") });
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn what_a_removed_or_changed_gate_had_asked_is_forgotten() {
    let mut world = world();
    world.set_gate(gate("change", http()));
    ask(&mut world, 2);
    let first = world.gate(2, "change").asked.unwrap();
    let slower = stella_domain::gate::Gate { ttl_ms: 120_000, ..gate("change", http()) };
    world.set_gate(slower);
    let second = world.gate(2, "change").asked.unwrap();
    assert_ne!(first.policy, second.policy, "it is asked anew, as it is now");
    end(&world);
    world.ok(TenantCommand::RemoveGate { environment: STAGING, gate: name("change") });
    assert_eq!(*world.status(2), Status::Running, "nothing is in the way any more");
    end(&world);
}

/// Each look plans a promotion anew, which takes long where there are many targets.
#[test]
fn what_is_about_one_promotion_has_no_other_looked_at() {
    let mut world = World::with_release_1(2);
    (1..=2).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    world.set_gate(gate("change", http()));
    world.set_gate(gate("board", Check::Manual));
    for (n, on) in [(2, 1), (3, 2)] {
        let new = NewDeployment { targets: Some(vec![target(on)]), ..new_deployment(n, 2, None) };
        world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
        world.approve(2, n).unwrap();
        world.answer(n, "change", Says::Passed);
    }
    // What was said is too old by now: whoever looks asks again.
    world.wait_ms(world.tenant().environments[&STAGING].gates[&name("change")].gate.ttl_ms);
    let is_asked = |world: &World, n| world.gate(n, "change").asked.is_some();
    assert!(!is_asked(&world, 2) && !is_asked(&world, 3));
    let decide = |world: &mut World, n| {
        let (promotion, gate, reason) = (promotion(n), name("board"), String::new());
        world.tell_as(2, TenantCommand::DecideGate { promotion, gate, passed: true, reason }).unwrap();
    };
    decide(&mut world, 2);
    assert!(is_asked(&world, 2) && !is_asked(&world, 3), "a gate");
    world.answer(2, "change", Says::Passed);
    assert_eq!(*world.status(2), Status::Running);
    assert!(!is_asked(&world, 3), "a start");
    world.complete(1);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(!is_asked(&world, 3), "an end on other targets");
    decide(&mut world, 3);
    assert!(is_asked(&world, 3));
    end(&world);
}

#[test]
fn a_plan_says_what_the_gates_would_say() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    world.set_gate(gate("change", http()));
    let environment = &world.tenant().environments[&STAGING];
    let says = decide::preview(
        world.tenant(),
        environment,
        &world.tenant().releases[&common::release(2)],
        world.now,
    );
    let says: Vec<_> =
        says.iter().map(|it| (it.gate.as_str(), it.kind, it.says.as_ref().map(|it| it.0))).collect();
    assert_eq!(says, [("change", "http", None), ("scan", "security", Some(Says::Failed))]);
}

#[test]
fn an_expression_looks_at_the_release_and_what_was_found_in_it() {
    let mut world = world();
    let source = "release.application == 'shop' && findings.critical == 0 && 'trivy' in findings.scanners";
    world.set_gate(gate("policy", Check::Expression { expression: source.to_owned() }));
    ask(&mut world, 2);
    assert_eq!(verdict(&world, 2, "policy"), (Says::Failed, format!("the expression is false: {source}")));
    world.scan(2, &[]);
    assert_eq!(*world.status(2), Status::Running);
    world.scan(2, &["CVE-1"]);
    assert!(matches!(world.status(2), Status::Halting { .. }));
    // What has no value lets nothing through.
    let missing = "release.labels['tier'] == 'gold'".to_owned();
    world.finish(1, TaskOutcome::Succeeded);
    world.complete(1);
    world.set_gate(gate("policy", Check::Expression { expression: missing }));
    ask(&mut world, 3);
    let (says, why) = verdict(&world, 3, "policy");
    assert!(says == Says::Failed && why.contains("cannot be decided"), "{why}");
    end(&world);
}

#[test]
fn a_promotion_without_a_rule_that_no_gate_lets_through_expires() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    ask(&mut world, 2);
    world.wait_ms(stella_domain::promotion::EXPIRES_MS_DEFAULT);
    assert_eq!(world.promotion(2).status_name(), "expired");
    end(&world);
}

#[test]
fn nonsense_is_refused_with_the_field() {
    let mut world = world();
    let field = |result: Result<Decision, Rejection>| match result {
        Err(Rejection::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let mut set = |check, ttl_ms| {
        let gate = stella_domain::gate::Gate { name: name("g"), check, ttl_ms, verifies: false };
        field(world.tell(TenantCommand::SetGate { environment: STAGING, gate: Box::new(gate) }))
    };
    assert_eq!(set(Check::Manual, 0), "ttl_ms");
    assert_eq!(set(Check::Security(Security::default()), 60_000), "limits");
    let query = |query: &str| Check::Metric {
        source: name("main"),
        query: query.to_owned(),
        comparison: Comparison::Below,
        threshold: Number::try_from(0.1).unwrap(),
    };
    assert_eq!(set(query("  "), 60_000), "query");
    assert_eq!(set(query(&"x".repeat(5_000)), 60_000), "query");
    let expression = |text: &str| Check::Expression { expression: text.to_owned() };
    assert_eq!(set(expression("release.version =="), 60_000), "expression");
    assert_eq!(set(expression("password == ''"), 60_000), "expression");
    let bad = findings(2, &[""]);
    assert_eq!(field(world.tell(TenantCommand::RecordFindings(Box::new(bad)))), "findings[0].id");
    assert!(Number::try_from(f64::NAN).is_err() && Number::try_from(f64::INFINITY).is_err());
    end(&world);
}

#[test]
fn what_several_scanners_find_counts_once_and_the_scanners_that_are_wanted_must_have_reported() {
    let found = |id: &str, severity| Finding { id: id.to_owned(), severity, component: "lib".to_owned() };
    let mut world = world();
    for (scanner, list) in [
        ("trivy", vec![found("CVE-1", Severity::High), found("CVE-2", Severity::Low)]),
        ("grype", vec![found("CVE-1", Severity::High), found("CVE-3", Severity::High)]),
    ] {
        let new = stella_domain::command::NewFindings {
            scanner: name(scanner),
            findings: list,
            ..findings(2, &[])
        };
        world.ok(TenantCommand::RecordFindings(Box::new(new)));
    }
    let reports = &world.tenant().findings[&common::release(2)];
    let limits = |high| BTreeMap::from([(Severity::High, high)]);
    let security = |high, scanners: &[&str], max_age_ms| Security {
        limits: limits(high),
        scanners: scanners.iter().map(|it| name(it)).collect(),
        max_age_ms,
        ..Security::default()
    };
    let at = |security: &Security, now: u64| security.evaluate(common::release(2), reports, Timestamp(now));
    let now = world.now.0;
    assert_eq!(
        at(&security(1, &[], None), now).reason,
        "2 high findings, and 1 are allowed: CVE-1 in lib, CVE-3 in lib"
    );
    assert_eq!(at(&security(2, &[], None), now).outcome, Says::Passed);
    assert_eq!(
        at(&security(1, &["trivy"], None), now).outcome,
        Says::Passed,
        "only what is asked for counts"
    );
    assert!(at(&security(9, &["snyk"], None), now).reason.contains("no report of scanner snyk"));
    let fresh = at(&security(2, &[], Some(1_000)), now);
    assert_eq!((fresh.outcome, fresh.changes_at), (Says::Passed, Some(Timestamp(now + 1_000))));
    assert!(at(&security(2, &[], Some(1_000)), now + 1_000).reason.contains("too old"));
}
