//! Promotions: what starts at once, what waits for whom, and what ends before it starts.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, World, account, agent, deployment, digest, facts, failed, invariants, name,
    new_deployment, new_release, new_target, promotion, release, rule, target,
};
use stella_domain::access::{Grant, Role};
use stella_domain::amount::Amount;
use stella_domain::channel::{ChannelRule, PreReleases};
use stella_domain::command::{NewDeployment, NewTarget, Outcome, SystemCommand, TargetChange, TenantCommand};
use stella_domain::decide::{self, Decision};
use stella_domain::deployment::Status;
use stella_domain::environment::{PromotionPath, Verification};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::gate::Check;
use stella_domain::hold::Verdict;
use stella_domain::plan::{Plan, PlanPart};
use stella_domain::promotion::{ApprovalRule, EXPIRES_MS_RANGE, OPEN_MAX, Objection, PromotionStatus};
use stella_domain::rejection::Rejection;
use stella_domain::way_back::ProofRule;
use stella_protocol::digest::Digest;
use stella_protocol::id::EnvironmentId;
use stella_protocol::trace::TraceContext;
use stella_signing::merkle;
use uuid::Uuid;

/// Two targets with release 1; four people; and promotions to staging need the approvals of the rule.
fn world(wanted: Option<ApprovalRule>) -> World {
    let mut world = World::with_release_1(2);
    (1..=4).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: wanted });
    world
}

/// Person 1 asks for release 2 everywhere.
fn ask(world: &mut World, n: u128) -> Decision {
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(n, 2, Some(1))))).unwrap()
}

fn why(result: Result<Decision, Rejection>) -> String {
    match result {
        Err(Rejection::Conflict { problem } | Rejection::Forbidden { problem }) => problem,
        other => panic!("{other:?}"),
    }
}

fn ended(world: &World, n: u128) -> String {
    match &world.promotion(n).status {
        PromotionStatus::Invalidated { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_rule_a_promotion_starts_with_the_request_for_it() {
    let mut world = world(None);
    let decision = ask(&mut world, 2);
    assert_eq!(decision.outcome, Outcome::Deployment(deployment(2)));
    assert_eq!(facts(&decision)[..2], ["promotion_requested", "deployment_created"]);
    assert!(matches!(world.promotion(2).status, PromotionStatus::Started { .. }));
    world.complete(1);
    world.complete(2);
    assert_eq!(world.tenant().totals.promotions[&name("staging")]["succeeded"], 2);
    invariants::replay(&world.events, &world.state);
}

#[test]
fn a_promotion_waits_for_as_many_others_as_the_rule_needs() {
    let mut world = world(Some(rule(2, &[])));
    let decision = ask(&mut world, 2);
    assert_eq!(decision.outcome, Outcome::Promotion(promotion(2)));
    assert_eq!(facts(&decision), ["promotion_requested"]);
    assert!(why(world.approve(1, 2)).contains("nobody approves what they have asked for"));
    let by_nobody = TenantCommand::ApprovePromotion {
        promotion: promotion(2),
        plan: world.promotion(2).plan.root,
        reason: String::new(),
        signature: None,
    };
    assert!(why(world.tell(by_nobody)).contains("a token that belongs to an account"));
    for events in [1, 0] {
        assert_eq!(world.approve(2, 2).unwrap().events.len(), events, "twice is once");
        assert_eq!((world.promotion(2).missing(), world.promotion(2).status_name()), (1, "pending"));
    }
    assert!(world.tenant().totals.approvals_took.is_empty(), "it waits still");
    world.now = world.now.plus_ms(90_000);
    let last = world.approve(3, 2).unwrap();
    assert_eq!(facts(&last)[..2], ["approval_granted", "deployment_created"]);
    let took = &world.tenant().totals.approvals_took[&name("staging")];
    assert_eq!((took.count(), took.up_to(60_000), took.up_to(300_000)), (1, 0, 1));
    assert_eq!(*world.status(2), Status::Running);
    let created_by = world.deployment(deployment(2)).created_by.clone();
    assert_eq!(created_by.as_ref(), Some(&world.promotion(2).requested_by), "not who approved last");
    assert!(why(world.approve(4, 2)).contains("has started"));
    let totals = &world.tenant().totals.decisions[&name("staging")];
    assert_eq!(totals[&name("person-2")]["approved"], 1);
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
}

/// The metric and the span of a wait are written for this one; clocks may stand still between two approvals.
#[test]
fn one_approval_lets_a_promotion_through_also_of_two_in_one_moment() {
    let mut world = world(Some(rule(2, &[])));
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    world.approve(3, 2).unwrap();
    let granted = world.events.iter().filter(|(_, event)| event.fact.name() == "approval_granted");
    let through: Vec<bool> = granted.map(|(_, event)| world.promotion(2).is_let_through_by(event)).collect();
    assert_eq!(through, [false, true]);
    let mut others = world.events.iter().filter(|(_, event)| event.fact.name() != "approval_granted");
    assert!(others.all(|(_, event)| !world.promotion(2).is_let_through_by(event)));
}

#[test]
fn the_plan_that_is_approved_is_the_one_that_was_looked_at() {
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    let (promotion, reason) = (promotion(2), String::new());
    let other = TenantCommand::ApprovePromotion { promotion, plan: Digest([7; 32]), reason, signature: None };
    assert!(why(world.tell_as(2, other)).contains("look at it again"));
    assert_eq!(world.promotion(2).approvals, []);
}

#[test]
fn only_whom_the_rule_names_decides() {
    let mut world = world(Some(rule(1, &[3, 2, 3])));
    assert_eq!(
        world.tenant().environments[&STAGING].approvals.as_ref().unwrap().from,
        [account(2), account(3)]
    );
    ask(&mut world, 2);
    assert!(why(world.approve(4, 2)).contains("account person-4 is not among those"));
    let reject = TenantCommand::RejectPromotion {
        promotion: promotion(2),
        objection: Objection::BadTiming,
        reason: "friday".to_owned(),
    };
    why(world.tell_as(4, reject.clone()));
    world.tell_as(3, reject).unwrap();
    assert_eq!(world.promotion(2).status_name(), "rejected");
    assert!(why(world.approve(2, 2)).contains("was rejected (friday)"));
    let totals = &world.tenant().totals;
    assert_eq!(totals.rejections[&name("staging")]["bad_timing"], 1);
    assert_eq!(totals.decisions[&name("staging")][&name("person-3")]["rejected"], 1);
    assert_eq!(totals.promotions[&name("staging")]["rejected"], 1);
    assert!(world.tenant().deployments.len() == 1 && world.is_at_rest());
    invariants::replay(&world.events, &world.state);
}

#[test]
fn what_waits_too_long_expires_and_what_is_withdrawn_is_over() {
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    ask(&mut world, 3);
    let withdraw = TenantCommand::WithdrawPromotion { promotion: promotion(3), reason: "oops".to_owned() };
    for events in [1, 0] {
        assert_eq!(world.tell_as(1, withdraw.clone()).unwrap().events.len(), events);
    }
    world.wait_ms(86_399_999);
    assert_eq!(world.promotion(2).status_name(), "pending");
    world.wait_ms(1);
    assert_eq!(
        (world.promotion(2).status_name(), world.promotion(3).status_name()),
        ("expired", "withdrawn")
    );
    assert!(why(world.approve(2, 2)).contains("has expired; deploy again"));
    assert!(
        why(world
            .tell_as(1, TenantCommand::WithdrawPromotion { promotion: promotion(2), reason: String::new() }))
        .contains("has expired")
    );
    invariants::replay(&world.events, &world.state);
}

#[test]
fn an_approved_promotion_waits_for_a_lock_and_for_its_targets() {
    let mut world = world(Some(rule(1, &[])));
    world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "audit".to_owned() });
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    assert_eq!((world.promotion(2).status_name(), world.tenant().deployments.len()), ("approved", 1));
    world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
    assert_eq!(world.promotion(2).status_name(), "started");

    // The next one is approved while this one works on its targets; this one fails and everything is as it was.
    let mut later = new_deployment(3, 3, None);
    later.targets = Some(vec![target(1)]);
    world.tell_as(1, TenantCommand::Deploy(Box::new(later))).unwrap();
    world.approve(2, 3).unwrap();
    assert_eq!(world.promotion(3).status_name(), "approved");
    world.finish(1, failed("exit 1"));
    assert!(matches!(world.status(2), Status::Failed { .. }));
    assert_eq!(world.promotion(3).status_name(), "approved", "the rollback has the target now");
    world.complete(1);
    assert_eq!(world.promotion(3).status_name(), "started");
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
}

#[test]
fn a_task_of_unknown_end_holds_a_promotion_until_it_is_settled() {
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    let cancel = TenantCommand::CancelDeployment { deployment: deployment(2), reason: "stop".to_owned() };
    let task = world.task_on(1).id;
    world.ok(cancel);
    world.wait_ms(60_000);
    assert_eq!(world.tenant().targets[&target(1)].blocked_by, Some(task));
    ask(&mut world, 3);
    world.approve(2, 3).unwrap();
    assert_eq!(world.promotion(3).status_name(), "approved");
    world.ok(TenantCommand::SettleTask { task, succeeded: false, reason: "looked".to_owned() });
    assert_eq!(world.promotion(3).status_name(), "started");
}

/// A promotion that waits is void after this, for this reason.
fn one(change: &dyn Fn(&mut World), reason: &str) {
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    change(&mut world);
    let said = ended(&world, 2);
    assert!(said.contains(reason), "{said}");
    assert!(why(world.approve(2, 2)).contains("deploy again to ask anew"));
    assert_eq!(world.tenant().totals.promotions[&name("staging")]["invalidated"], 1);
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
}

#[test]
fn a_promotion_that_would_do_something_else_by_now_is_void() {
    one(
        &|world| {
            world.enrol(3);
            world.ok(TenantCommand::CreateTarget(Box::new(new_target(3))));
        },
        "it has 3 targets now, and had 2",
    );
    one(
        &|world| {
            world.ok(TenantCommand::RemoveTarget { id: target(2) });
        },
        "it has 1 targets now, and had 2",
    );
    one(
        &|world| {
            world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: "stolen".to_owned() });
        },
        "was revoked",
    );
    one(
        &|world| {
            let (release, reason) = (release(2), "loses orders".to_owned());
            world.ok(TenantCommand::JudgeRelease { release, verdict: Verdict::Block, reason });
        },
        "is blocked (loses orders)",
    );
    one(
        &|world| {
            world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: None });
        },
        "the approvals that staging needs have changed",
    );
    one(
        &|world| {
            let other = NewDeployment { targets: Some(vec![target(2)]), ..new_deployment(3, 3, None) };
            world.tell_as(1, TenantCommand::Deploy(Box::new(other))).unwrap();
            world.approve(2, 3).unwrap();
            assert_eq!(world.promotion(2).status_name(), "pending", "while another one is at work");
            world.complete(2);
        },
        &format!("shop:3.0 is on web-2 since deployment {}", deployment(3)),
    );
}

#[test]
fn the_reason_says_what_of_its_targets_or_environment_has_changed() {
    one(
        &|world| {
            let set = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
            let variables = [set("port", Some("9090")), set("mode", Some("new"))].into();
            let change = TargetChange { id: target(2), labels: BTreeMap::new(), variables, agent: None };
            world.ok(TenantCommand::UpdateTarget(Box::new(change)));
        },
        "variable mode of web-2 has changed; variable port of web-2 has changed",
    );
    one(
        &|world| {
            world.enrol(3);
            let (labels, variables) = (BTreeMap::new(), BTreeMap::new());
            let change = TargetChange { id: target(2), labels, variables, agent: Some(agent(3)) };
            world.ok(TenantCommand::UpdateTarget(Box::new(change)));
        },
        "target web-2 is served by another agent",
    );
    one(
        &|world| {
            let verification = Some(Verification { bake_ms: 60_000 });
            world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
        },
        "how a deployment to staging is verified in the end has changed",
    );
    // It is counted under the new name.
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    world.ok(TenantCommand::UpdateEnvironment { id: STAGING, name: Some(name("live")), order: None });
    assert_eq!(ended(&world, 2), "staging is called live now");
}

#[test]
fn a_target_that_is_not_meant_changes_nothing() {
    let mut world = world(Some(rule(1, &[])));
    let only = NewDeployment { targets: Some(vec![target(1)]), ..new_deployment(2, 2, None) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(only))).unwrap();
    world.enrol(3);
    world.ok(TenantCommand::CreateTarget(Box::new(new_target(3))));
    world.ok(TenantCommand::RemoveTarget { id: target(2) });
    assert_eq!(world.promotion(2).status_name(), "pending");
    world.approve(2, 2).unwrap();
    assert_eq!(*world.status(2), Status::Running);
}

#[test]
fn a_rollback_waits_for_nobody_and_a_retry_asks_again() {
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    world.finish(1, failed("exit 1"));
    world.complete(1);
    let retry = TenantCommand::RetryDeployment { id: deployment(5), of: deployment(2), targets: None };
    assert_eq!(world.tell_as(1, retry).unwrap().outcome, Outcome::Promotion(promotion(5)));
    world.approve(3, 5).unwrap();
    world.complete(1);
    world.complete(2);
    let back = TenantCommand::Rollback { id: deployment(6), of: deployment(5), targets: None };
    assert_eq!(world.tell_as(1, back).unwrap().outcome, Outcome::Deployment(deployment(6)));
    invariants::replay(&world.events, &world.state);
}

#[test]
fn rules_and_requests_that_make_no_sense_are_refused_by_field() {
    let mut world = world(None);
    let mut refused = |rule: ApprovalRule, field: &str| {
        let told =
            world.tell(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule) });
        assert!(matches!(&told, Err(Rejection::Invalid { field: at, .. }) if at == field), "{told:?}");
    };
    refused(rule(0, &[]), "needed");
    refused(rule(17, &[]), "needed");
    refused(rule(3, &[1, 2]), "from");
    refused(rule(2, &[1, 1]), "from");
    refused(rule(1, &(0..17).collect::<Vec<_>>()), "from");
    refused(ApprovalRule { expires_ms: EXPIRES_MS_RANGE.0 - 1, ..rule(1, &[]) }, "expires_ms");
    refused(ApprovalRule { expires_ms: EXPIRES_MS_RANGE.1 + 1, ..rule(1, &[]) }, "expires_ms");
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    for n in 0..u128::try_from(OPEN_MAX).unwrap() {
        ask(&mut world, 10 + n);
    }
    let one_more = TenantCommand::Deploy(Box::new(new_deployment(999, 2, None)));
    assert!(why(world.tell_as(1, one_more)).contains("64 promotions to staging wait already"));
    let again = TenantCommand::Deploy(Box::new(new_deployment(10, 2, None)));
    assert!(matches!(world.tell_as(1, again), Err(Rejection::Exists { .. })));
}

/// The pure core cannot be talked into it by a journal either.
#[test]
fn no_journal_makes_a_deployment_without_its_approvals() {
    let mut world = world(Some(rule(1, &[])));
    let before = world.events.len();
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    let mut state = stella_domain::state::State::default();
    let mut refused = None;
    for (at, (stream, event)) in world.events.iter().enumerate() {
        if at >= before && matches!(event.fact, Fact::ApprovalGranted { .. }) {
            // By who asked.
            let Event { actor, .. } = &world.events[before].1;
            let forged = Event { actor: actor.clone(), ..event.clone() };
            state.clone().apply(*stream, &forged).unwrap_err();
            continue;
        }
        if let Err(error) = state.apply(*stream, event) {
            refused = Some(error.fact);
            break;
        }
    }
    assert_eq!(refused, Some("deployment_created"));
}

const BEFORE: EnvironmentId = EnvironmentId(Uuid::from_u128(0x75));

/// Release 4 has been through what comes before staging, is in its channel, and is signed as the tenant demands.
fn guard(world: &mut World) {
    world.ok(TenantCommand::CreateEnvironment {
        id: BEFORE,
        name: name("before"),
        order: None,
        way_back_proof: ProofRule::Off,
    });
    world.enrol(7);
    let there = NewTarget { environment: BEFORE, agent: agent(7), ..new_target(7) };
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(7, vec![]);
    let (application, stable) = (name("shop"), name("stable"));
    let rule = ChannelRule { pre_releases: PreReleases::Any, ..ChannelRule::default() };
    world.ok(TenantCommand::SetChannel { application, name: stable.clone(), rule });
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(new_release(4))));
    let first = NewDeployment { environment: BEFORE, ..new_deployment(7, 4, None) };
    world.ok(TenantCommand::Deploy(Box::new(first)));
    world.complete(7);
    let requires = Some(PromotionPath::after(BEFORE, 0, false));
    world.ok(TenantCommand::SetEnvironmentPath { environment: STAGING, requires });
    world.ok(TenantCommand::SetEnvironmentChannels { environment: STAGING, channels: vec![stable] });
    world.ok(common::add_key(1));
    world.sign(1, 4).unwrap();
    world.ok(TenantCommand::SetReleaseSigning { rule: Some(common::signed(1, &[])) });
}

/// Where somebody has to approve, what guards the environment is part of what people approve: gates, budget, way back, path, channels
/// and signatures.
#[test]
fn what_guards_the_environment_is_part_of_what_is_approved() {
    let gate = || common::gate("manual", Check::Manual);
    let set = |world: &mut World| world.set_gate(gate());
    let environment = STAGING;
    let after = Some(PromotionPath::after(BEFORE, 0, false));
    let changes: [(TenantCommand, &str); 8] = [
        (
            TenantCommand::SetEnvironmentPath { environment, requires: None },
            "what comes before staging has changed, and that is part of what people approve",
        ),
        (
            TenantCommand::SetEnvironmentChannels { environment, channels: Vec::new() },
            "the channels that staging takes releases from have changed, and that is part of what people approve",
        ),
        (
            TenantCommand::SetReleaseSigning { rule: None },
            "the signatures that every release must have have changed, and that is part of what people approve",
        ),
        (
            TenantCommand::RemoveGate { environment, gate: name("manual") },
            "gate manual of staging was removed, and that is part of what people approve",
        ),
        (
            TenantCommand::SetGate { environment, gate: Box::new(common::security("scan", &[])) },
            "gate scan of staging was set, and that is part of what people approve",
        ),
        (
            TenantCommand::SetEnvironmentBudget { environment, budget: Some(Amount::Count(1)) },
            "how many targets of staging may be at risk has changed, and that is part of what people approve",
        ),
        (
            TenantCommand::SetEnvironmentWayBackProof { environment, rule: ProofRule::Required },
            "what staging wants of the way back has changed, and that is part of what people approve",
        ),
        (
            TenantCommand::SetEnvironmentWayBack { environment, required: true },
            "what staging wants of the way back has changed, and that is part of what people approve",
        ),
    ];
    for (change, expected) in changes {
        let mut world = world(Some(rule(2, &[])));
        set(&mut world);
        guard(&mut world);
        world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 4, Some(1))))).unwrap();
        world.approve(2, 2).unwrap();
        // The same once more is no change, and whether something comes by itself guards nothing.
        set(&mut world);
        for auto in [true, false] {
            let requires = after.clone().map(|path| PromotionPath { auto, ..path });
            world.ok(TenantCommand::SetEnvironmentPath { environment, requires });
        }
        assert!(world.promotion(2).is_open());
        world.ok(change);
        assert_eq!(ended(&world, 2), expected);
        common::end(&world);
    }
    // Where nobody approves, a gate that is taken away lets through what waits for it.
    let mut world = world(None);
    set(&mut world);
    ask(&mut world, 2);
    world.ok(TenantCommand::RemoveGate { environment, gate: name("manual") });
    assert!(matches!(world.promotion(2).status, PromotionStatus::Started { .. }));
}

/// While another deployment is at work nothing is void yet, and who looks is told what will be.
#[test]
fn who_looks_at_a_plan_is_told_whether_to_wait_or_not_to_approve_it() {
    let mut world = world(Some(rule(1, &[])));
    ask(&mut world, 2);
    let other = NewDeployment { targets: Some(vec![target(2)]), ..new_deployment(3, 3, None) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(other))).unwrap();
    world.approve(2, 3).unwrap();
    world.finish(2, stella_protocol::message::TaskOutcome::Succeeded);
    let look = |world: &World| decide::planned_again(world.tenant(), world.promotion(2), world.now);
    assert!(look(&world).is_ok(), "nothing has changed yet");
    world.set_gate(common::gate("manual", Check::Manual));
    let said = common::conflict(look(&world));
    assert!(said.contains("what guards its environment has changed since"), "{said}");
    let proof = decide::prove(world.tenant(), world.promotion(2), PlanPart::Wanted, world.now);
    assert_eq!(common::conflict(proof), said);
}

/// Each part is proven in the root that people approve, and what is not in it is not.
#[test]
fn each_part_of_a_plan_is_proven_in_its_root() {
    let mut world = world(Some(rule(2, &[])));
    world.set_gate(common::gate("manual", Check::Manual));
    ask(&mut world, 2);
    let found = world.promotion(2).clone();
    let prove = |world: &World, part| decide::prove(world.tenant(), &found, part, world.now);
    let targets = [PlanPart::Target(target(1)), PlanPart::Target(target(2))];
    let parts = [PlanPart::Wanted, PlanPart::Guards, PlanPart::Release];
    for (at, part) in parts.into_iter().chain(targets).enumerate() {
        let proof = prove(&world, part).unwrap();
        assert_eq!((proof.at, proof.leaves), (at, 5));
        let leaf = merkle::leaf(proof.leaf.as_bytes());
        let root = merkle::root_of(leaf, proof.at as u64, proof.leaves as u64, &proof.path);
        assert_eq!(root, Some(found.plan.root), "{part:?}");
    }
    let guards = prove(&world, PlanPart::Guards).unwrap().leaf;
    assert!(guards.starts_with("{\"leaf\":\"guards\",\"gates\":[{\"name\":\"manual\""), "{guards}");
    assert!(matches!(prove(&world, PlanPart::Target(target(9))), Err(Rejection::NotFound { .. })));
}

/// Person 1 has asked for release 2 everywhere, with this plan. It comes by its path, and is signed as it has to be.
fn asked_with(plan: Plan) -> World {
    let rule = Some(rule(2, &[2, 3]));
    let mut world = world(rule.clone());
    guard(&mut world);
    world.ok(TenantCommand::SetEnvironmentChannels { environment: STAGING, channels: Vec::new() });
    world.sign(1, 2).unwrap();
    let first = NewDeployment { environment: BEFORE, ..new_deployment(8, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(first)));
    world.complete(7);
    let (id, wanted) = (promotion(2), Box::new(new_deployment(2, 2, Some(1))));
    let expires_at = Some(world.now.plus_ms(86_400_000));
    let fact = Fact::PromotionRequested { id, wanted, plan, rule, expires_at, chosen_by: Vec::new() };
    let (actor, trace) = (common::person(1), TraceContext::default());
    let event = Event { at: world.now, actor, trace, fact };
    world.state.apply(StreamId::Tenant(common::TENANT), &event).unwrap();
    world.events.push((StreamId::Tenant(common::TENANT), event));
    world
}

/// What was asked for before guards, or before some of them, were part of it is looked at in its own form: the old roots still hold.
#[test]
fn what_was_asked_for_in_an_older_form_still_starts() {
    let root = |hex: &str| format!("sha256:{hex}").parse().unwrap();
    let some =
        br#"{"leaf":"guards","gates":[],"budget":null,"requires_way_back":false,"way_back_proof":"off"}"#;
    let forms = [
        Plan { version: 1, root: root(GOLDEN[0]), targets: 2, guards: None },
        Plan { version: 4, root: root(SOME_GUARDS[0]), targets: 2, guards: Some(merkle::leaf(some)) },
    ];
    for plan in forms {
        let mut world = asked_with(plan);
        let budget = Some(Amount::Count(1));
        if plan.guards.is_none() {
            world.ok(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget });
        }
        world.approve(2, 2).unwrap();
        world.approve(3, 2).unwrap();
        assert!(matches!(world.promotion(2).status, PromotionStatus::Started { .. }));
        common::end(&world);
    }
    // What was part of it then still is.
    let mut world = asked_with(forms[1]);
    world.set_gate(common::gate("manual", Check::Manual));
    assert!(ended(&world, 2).contains("that is part of what people approve"));
}

/// What is approved is a hash, so its form must not change by accident: another form needs another version.
#[test]
fn the_hash_of_a_plan_is_pinned() {
    let mut world = world(Some(rule(2, &[2, 3])));
    let roots: Vec<String> = [(2, Some(1)), (3, None)]
        .into_iter()
        .map(|(n, batch)| {
            let new = new_deployment(n, 2, batch);
            world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
            world.promotion(n).plan.root.to_hex()
        })
        .collect();
    assert_eq!(roots, GUARDED, "strategy and targets are part of it");
    assert_eq!((world.promotion(2).plan.version, world.promotion(2).plan.targets), (5, 2));
    let (stream, event) = world.events.last().unwrap();
    assert_eq!(*stream, StreamId::Tenant(common::TENANT));
    let again: Event = serde_json::from_str(&serde_json::to_string(event).unwrap()).unwrap();
    assert_eq!(&again, event);
}

const GUARDED: [&str; 2] = [
    "513372a96c0a4d92e21bbc66caacd5e000e50f4329815bfd3a90bae8e81dda2d",
    "caafae0887634c8396a98441741e293695717b1ef98cd40f6b87611fd707458f",
];

/// The first of them, in the form of before all guards were in it.
const SOME_GUARDS: [&str; 1] = ["dae83fd7d257597d8353e79c49b18e762e59d4bdf8500da1ed1739bace98a014"];

/// The first of them, in the form of before guards were in it.
const GOLDEN: [&str; 1] = ["a6dc257ce5bd130c1a376edb926999f812e3e6c469d9a9d686598bdba43779ec"];

fn lapsed(world: &World, n: u128) -> Vec<String> {
    world.promotion(n).lapsed.iter().map(|it| it.reason.clone()).collect()
}

#[test]
fn an_approval_does_not_count_whose_account_has_lost_the_role_before_the_start() {
    let mut world = world(Some(rule(2, &[])));
    world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "stocktaking".to_owned() });
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    world.approve(3, 2).unwrap();
    assert_eq!(world.promotion(2).status_name(), "approved");
    world.give(3, Role::Deployer);
    // Everybody sees it at once, and not only when the promotion could start.
    assert_eq!((world.promotion(2).status_name(), world.promotion(2).missing()), ("pending", 1));
    let decision = world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
    assert_eq!(facts(&decision), ["environment_unlocked"]);
    assert_eq!(lapsed(&world, 2), ["account person-3 has not the role approver there any more"]);
    // Who has the role again may say so again, and somebody else may as well.
    world.give(3, Role::Approver);
    assert!(matches!(world.promotion(2).status, PromotionStatus::Pending), "nothing comes back by itself");
    let decision = world.approve(3, 2).unwrap();
    assert!(facts(&decision).contains(&"deployment_created"), "{decision:?}");
    common::end(&world);
}

#[test]
fn an_approval_of_an_account_that_is_gone_does_not_count() {
    let mut world = world(Some(rule(2, &[])));
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    let decision = world.system(SystemCommand::RemoveAccount { account: account(2) }).unwrap();
    assert_eq!(facts(&decision), ["api_token_revoked", "account_removed", "approval_lapsed"]);
    let decision = world.approve(3, 2).unwrap();
    assert_eq!(facts(&decision), ["approval_granted"], "the last approval starts nothing");
    assert_eq!(lapsed(&world, 2), ["account person-2 was removed"]);
    let decision = world.approve(4, 2).unwrap();
    assert!(facts(&decision).contains(&"deployment_created"), "{decision:?}");
    common::end(&world);
}

/// Roles are looked at where the release goes, and not somewhere.
#[test]
fn a_role_in_another_environment_lets_no_approval_count() {
    let mut world = world(Some(rule(1, &[])));
    world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "x".to_owned() });
    ask(&mut world, 2);
    world.approve(2, 2).unwrap();
    let other = EnvironmentId(Uuid::from_u128(0x77));
    world.ok(TenantCommand::CreateEnvironment {
        id: other,
        name: name("other"),
        order: None,
        way_back_proof: ProofRule::Off,
    });
    let elsewhere = Grant { role: Role::Admin, tenant: Some(common::TENANT), environment: Some(other) };
    world.system(SystemCommand::SetAccountRoles { account: account(2), roles: vec![elsewhere] }).unwrap();
    world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
    assert_eq!(lapsed(&world, 2).len(), 1);
    assert!(!world.tenant().deployments.contains_key(&deployment(2)));
    common::end(&world);
}
