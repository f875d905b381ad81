//! Rules of several groups, what comes of silence, and signatures over approvals.

use crate::common::{self, STAGING, World, account, end, new_deployment, promotion, rule};
use stella_domain::access::Role;
use stella_domain::approvers::{NamedInVain, named_in_vain};
use stella_domain::command::{Actor, SystemCommand, TenantCommand};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::promotion::{
    ApprovalRule, ApprovalSignature, GROUPS_MAX, Objection, OnExpiry, PromotionStatus, Quorum,
};
use stella_domain::rejection::Rejection;
use stella_protocol::digest::Digest;
use stella_protocol::id::AccountId;
use stella_protocol::trace::TraceContext;
use stella_signing::{ApprovalStatement, SigningKey};

const DAY_MS: u64 = 86_400_000;

fn set(rule: ApprovalRule) -> TenantCommand {
    TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule) }
}

fn quorum(needed: u32, from: &[u128]) -> Quorum {
    Quorum { needed, from: from.iter().map(|n| account(*n)).collect() }
}

/// One of the first people, and so many of others.
fn groups(first: &[u128], also: &[(u32, &[u128])]) -> ApprovalRule {
    let also = also.iter().map(|(needed, from)| quorum(*needed, from)).collect();
    ApprovalRule { also, ..rule(1, first) }
}

/// Person 1 asks for the promotion 2.
fn asked(rule: ApprovalRule) -> World {
    let mut world = World::with_release_1(1);
    (1..=5).for_each(|n| world.person(n));
    world.ok(set(rule));
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
    world
}

/// Over what the form of before says, if it is nobody's.
fn signature(by: &SigningKey, of: String, plan: Digest, account: Option<AccountId>) -> ApprovalSignature {
    let account = account.map(|account| account.to_string());
    let signature = by.sign(&ApprovalStatement { promotion: of, plan, account });
    ApprovalSignature { key: by.public(), signature }
}

fn has_started(world: &World) -> bool {
    matches!(world.promotion(2).status, PromotionStatus::Started { .. })
}

#[test]
fn each_group_has_to_approve() {
    let mut world = asked(groups(&[2, 3], &[(1, &[4])]));
    assert_eq!((world.promotion(2).missing(), world.promotion(2).is_approved()), (2, false));
    world.approve(2, 2).unwrap();
    world.approve(3, 2).unwrap();
    assert_eq!(world.promotion(2).missing(), 1, "two of the first group are not one of the second");
    let stranger = world.approve(5, 2).unwrap_err().to_string();
    assert!(stranger.contains("not among those whom the environment's rule names"), "{stranger}");
    world.approve(4, 2).unwrap();
    assert!(has_started(&world));
    let lets_through = world.events.iter().filter(|(_, it)| world.promotion(2).is_let_through_by(it));
    let by: Vec<&Actor> = lets_through.map(|(_, it)| &it.actor).collect();
    assert_eq!(by, [&common::person(4)], "the last that was needed, and no other");
    end(&world);
}

/// Person 1 asks for the promotion 2 in spite of a freeze, and something becomes of them before anybody approves.
fn overriding(becomes: impl Fn(&mut World)) -> World {
    let mut world = World::with_release_1(1);
    (1..=3).for_each(|n| world.person(n));
    world.ok(set(rule(1, &[])));
    let mut new = new_deployment(2, 2, None);
    new.override_freeze = Some("a fix".to_owned());
    world.tell_as(1, TenantCommand::Deploy(Box::new(new))).unwrap();
    becomes(&mut world);
    world.approve(2, 2).unwrap();
    end(&world);
    world
}

fn why_void(world: &World) -> &str {
    match &world.promotion(2).status {
        PromotionStatus::Invalidated { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_somebody_may_not_ask_for_any_more_does_not_start() {
    let removed =
        overriding(|world| drop(world.system(SystemCommand::RemoveAccount { account: account(1) }).unwrap()));
    assert_eq!(
        why_void(&removed),
        "whoever asked for it may not have it any more: account person-1 was removed"
    );
    let deployer = overriding(|world| world.give(1, Role::Deployer));
    assert!(
        why_void(&deployer).contains("account person-1 needs the role operator"),
        "{}",
        why_void(&deployer)
    );
    // The role is what counts, and not whether it was there all the time; nor does the token with which it was asked for.
    let back = overriding(|world| {
        world.give(1, Role::Viewer);
        world.give(1, Role::Operator);
        world.system(SystemCommand::RevokeApiToken { id: common::api_token(1) }).unwrap();
    });
    assert!(has_started(&back));
    // Nobody who asks for nothing special needs more than they had.
    let mut world = asked(rule(1, &[]));
    world.give(1, Role::Deployer);
    world.approve(2, 2).unwrap();
    assert!(has_started(&world));
    let mut world = asked(rule(1, &[]));
    world.give(1, Role::Approver);
    world.approve(2, 2).unwrap();
    assert!(why_void(&world).contains("account person-1 needs the role deployer"), "{}", why_void(&world));
}

#[test]
fn who_is_in_several_groups_counts_where_it_helps_most_and_once() {
    // 2 is in both: alone it is one approval, and it makes room for 3, who is only in the first.
    let mut world = asked(groups(&[2, 3], &[(1, &[2, 4])]));
    world.approve(2, 2).unwrap();
    assert_eq!(world.promotion(2).missing(), 1);
    world.approve(3, 2).unwrap();
    assert!(has_started(&world));
    let mut world = asked(groups(&[2, 3], &[(1, &[2, 4])]));
    world.approve(2, 2).unwrap();
    world.approve(4, 2).unwrap();
    assert!(has_started(&world));
    // An open group takes anybody who has the role, and who is named is kept for where that is needed.
    let mut world = asked(groups(&[], &[(1, &[2])]));
    world.approve(2, 2).unwrap();
    world.approve(5, 2).unwrap();
    assert!(has_started(&world));
    end(&world);
}

#[test]
fn an_approval_that_lapses_opens_its_group_again() {
    let mut world = asked(groups(&[2], &[(1, &[3, 4])]));
    world.approve(3, 2).unwrap();
    world.system(SystemCommand::RemoveAccount { account: account(3) }).unwrap();
    assert_eq!(world.promotion(2).missing(), 2);
    world.approve(4, 2).unwrap();
    world.approve(2, 2).unwrap();
    assert!(has_started(&world));
    end(&world);
}

#[test]
fn a_rule_that_nobody_can_meet_is_refused_and_nothing_has_changed() {
    let mut world = asked(rule(1, &[]));
    let before = world.state.clone();
    let mut refused = |rule: ApprovalRule, wanted: &str, about: &str| {
        let Err(Rejection::Invalid { field, problem }) = world.tell(set(rule)) else { panic!("{wanted}") };
        assert!(field == wanted && problem.contains(about), "{field} {problem}");
        assert!(world.state == before);
    };
    refused(groups(&[2], &[(1, &[2])]), "also", "those named give 1 of 2 approvals");
    refused(groups(&[2, 3], &[(2, &[2, 3]), (1, &[])]), "also", "those named give 2 of 3 approvals");
    refused(groups(&[2], &[(2, &[3])]), "also[0].from", "names 1 accounts, and 2 have to approve");
    refused(groups(&[2], &[(0, &[3])]), "also[0].needed", "is 0");
    refused(groups(&[], &[(16, &[])]), "also", "17 have to approve");
    let many = ApprovalRule { also: vec![quorum(1, &[]); GROUPS_MAX], ..rule(1, &[]) };
    refused(many, "also", "8 groups in all");
    let times = |times| ApprovalRule { on_expiry: OnExpiry::AskAgain { times }, ..rule(1, &[]) };
    refused(times(0), "on_expiry", "is 0");
    refused(times(9), "on_expiry", "is 9");
    end(&world);
}

#[test]
fn silence_may_be_a_no() {
    let mut world = asked(ApprovalRule { on_expiry: OnExpiry::Reject, ..rule(2, &[]) });
    world.approve(2, 2).unwrap();
    world.wait_ms(DAY_MS);
    let PromotionStatus::Rejected { objection, hold } = &world.promotion(2).status else {
        panic!("not rejected")
    };
    assert_eq!((*objection, &hold.by), (Objection::Unanswered, &Actor::System));
    assert_eq!(hold.reason, "1 approvals were missing when its time was up");
    let rejections = &world.tenant().totals.rejections[&common::name("staging")];
    assert_eq!(rejections.get("unanswered"), Some(&1));
    // No person may say so.
    let mut world = asked(rule(1, &[]));
    let reject = TenantCommand::RejectPromotion {
        promotion: promotion(2),
        objection: Objection::Unanswered,
        reason: "x".to_owned(),
    };
    assert!(
        matches!(world.tell_as(2, reject), Err(Rejection::Invalid { field, .. }) if field == "objection")
    );
    end(&world);
}

#[test]
fn what_has_its_approvals_and_waits_for_something_else_expires() {
    for on_expiry in [OnExpiry::Reject, OnExpiry::AskAgain { times: 3 }] {
        let mut world = asked(ApprovalRule { on_expiry, ..rule(1, &[]) });
        world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "x".to_owned() });
        world.approve(2, 2).unwrap();
        world.wait_ms(DAY_MS);
        assert!(matches!(world.promotion(2).status, PromotionStatus::Expired { .. }), "{on_expiry:?}");
        end(&world);
    }
}

#[test]
fn they_are_asked_again_so_often_and_what_was_said_counts() {
    let mut world = asked(ApprovalRule { on_expiry: OnExpiry::AskAgain { times: 2 }, ..rule(2, &[]) });
    world.approve(2, 2).unwrap();
    let began = world.promotion(2).requested_at;
    world.wait_ms(DAY_MS);
    let found = world.promotion(2);
    assert_eq!((found.asked_again, found.expires_at), (1, Some(began.plus_ms(2 * DAY_MS))));
    world.wait_ms(DAY_MS);
    assert_eq!((world.promotion(2).asked_again, world.promotion(2).missing()), (2, 1));
    world.wait_ms(DAY_MS);
    assert!(matches!(world.promotion(2).status, PromotionStatus::Expired { .. }));

    let mut world = asked(ApprovalRule { on_expiry: OnExpiry::AskAgain { times: 1 }, ..rule(2, &[]) });
    world.approve(2, 2).unwrap();
    world.wait_ms(DAY_MS);
    world.approve(3, 2).unwrap();
    assert!(has_started(&world));
    end(&world);
}

#[test]
fn a_signature_is_kept_if_its_key_has_made_it_over_this_plan_of_this_promotion() {
    let mut world = asked(rule(2, &[]));
    let key = common::signing_key(1);
    let plan = world.promotion(2).plan.root;
    let over = |of: String, plan: Digest, by: &SigningKey| signature(by, of, plan, Some(account(2)));
    let approve = |signature| TenantCommand::ApprovePromotion {
        promotion: promotion(2),
        plan,
        reason: String::new(),
        signature: Some(signature),
    };
    let right = over(promotion(2).to_string(), plan, &key);
    let of_another = ApprovalSignature { key: common::signing_key(2).public(), ..right };
    for wrong in [
        over(promotion(3).to_string(), plan, &key),
        over(promotion(2).to_string(), Digest([7; 32]), &key),
        signature(&key, promotion(2).to_string(), plan, Some(account(3))),
        of_another,
    ] {
        let refused = world.tell_as(2, approve(wrong));
        assert!(matches!(refused, Err(Rejection::Invalid { field, .. }) if field == "signature"));
        // Nor does a journal with one replay.
        let fact =
            Fact::ApprovalGranted { id: promotion(2), plan, reason: String::new(), signature: Some(wrong) };
        let event = Event { at: world.now, actor: common::person(2), trace: TraceContext::default(), fact };
        assert!(world.state.clone().apply(StreamId::Tenant(common::TENANT), &event).is_err());
    }
    world.tell_as(2, approve(right)).unwrap();
    assert_eq!(world.promotion(2).approvals[0].signature, Some(right));
    // Everybody may read it, and nobody may pass it off as their own.
    let copied = world.tell_as(3, approve(right)).unwrap_err();
    assert!(matches!(&copied, Rejection::Invalid { field, .. } if field == "signature"), "{copied}");
    // The same once more is answered as before.
    world.tell_as(2, approve(right)).unwrap();
    world.approve(3, 2).unwrap();
    assert_eq!(world.promotion(2).approvals[1].signature, None);
    end(&world);
}

/// What journals and plans of before there were groups have, to the byte.
#[test]
fn a_rule_of_one_group_is_written_as_ever() {
    let old = "{\"needed\":2,\"expires_ms\":86400000}";
    let parsed: ApprovalRule = serde_json::from_str(old).unwrap();
    assert_eq!(parsed, rule(2, &[]));
    assert_eq!(serde_json::to_string(&parsed).unwrap(), old);
}

#[test]
fn a_signature_that_would_be_lost_is_refused() {
    let mut world = asked(rule(2, &[]));
    let plan = world.promotion(2).plan.root;
    let key = common::signing_key(1);
    let signed = TenantCommand::ApprovePromotion {
        promotion: promotion(2),
        plan,
        reason: String::new(),
        signature: Some(signature(&key, promotion(2).to_string(), plan, Some(account(2)))),
    };
    world.approve(2, 2).unwrap();
    let late = common::conflict(world.tell_as(2, signed));
    assert!(late.contains("a signature comes with the approval"), "{late}");
    assert_eq!(world.promotion(2).approvals[0].signature, None);
    end(&world);
}

/// Journals of before have signatures that do not say whose approval they are; nobody can add one.
#[test]
fn a_signature_of_the_form_of_before_replays_and_is_taken_from_nobody() {
    let mut world = asked(rule(2, &[]));
    let plan = world.promotion(2).plan.root;
    let old = signature(&common::signing_key(1), promotion(2).to_string(), plan, None);
    let (id, reason) = (promotion(2), String::new());
    let signature = Some(old);
    let command = TenantCommand::ApprovePromotion { promotion: id, plan, reason: reason.clone(), signature };
    let refused = stella_domain::decide::decide(&world.state, &World::by(2, command), world.now).unwrap_err();
    assert!(matches!(&refused, Rejection::Invalid { field, .. } if field == "signature"), "{refused}");
    let fact = Fact::ApprovalGranted { id, plan, reason, signature };
    let event = Event { at: world.now, actor: common::person(2), trace: TraceContext::default(), fact };
    world.state.apply(StreamId::Tenant(common::TENANT), &event).unwrap();
}

#[test]
fn what_nobody_could_let_through_is_not_asked_for() {
    let mut world = World::with_release_1(1);
    (1..=5).for_each(|n| world.person(n));
    let ask = |world: &mut World, who: u128, n: u128| {
        world.tell_as(who, TenantCommand::Deploy(Box::new(new_deployment(n, 2, None))))
    };
    let plan = |world: &World, who: u128| {
        let new = new_deployment(9, 2, None);
        stella_domain::decide::plan(&world.state, common::person(who), common::TENANT, &new, world.now)
    };
    for (rule, given) in [(groups(&[1], &[(1, &[2])]), 1), (rule(2, &[1, 2]), 1), (rule(1, &[1]), 0)] {
        let needed = rule.needed_in_all();
        world.ok(set(rule));
        let refused = common::conflict(ask(&mut world, 1, 2));
        let wanted = format!(
            "without person-1 those whom the rule of staging names give {given} of {needed} approvals"
        );
        assert!(refused.contains(&wanted), "{refused}");
        assert_eq!(common::conflict(plan(&world, 1)), refused, "a plan says so too");
        plan(&world, 3).unwrap();
    }
    // Who has the role may be anybody, and two are left of three.
    for (n, rule) in [(2, rule(2, &[])), (3, rule(2, &[1, 2, 4])), (4, groups(&[], &[(1, &[2])]))] {
        world.ok(set(rule));
        ask(&mut world, 1, n).unwrap();
    }
    end(&world);
}

#[test]
fn who_may_not_approve_any_more_is_not_waited_for() {
    let mut world = World::with_release_1(1);
    (1..=4).for_each(|n| world.person(n));
    world.ok(set(groups(&[2], &[(1, &[3, 4])])));
    let ask = |world: &mut World, n: u128| {
        world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(n, 2, None))))
    };
    let plan = |world: &World| {
        let new = new_deployment(9, 2, None);
        stella_domain::decide::plan(&world.state, common::person(1), common::TENANT, &new, world.now)
    };
    assert_eq!(named_in_vain(&world.state, account(3)), []);
    // One of two is enough.
    world.give(3, Role::Deployer);
    ask(&mut world, 2).unwrap();
    let in_vain = |given| {
        let (tenant, environment) = (common::TENANT, STAGING);
        [NamedInVain { tenant, environment, given, needed: 2 }]
    };
    assert_eq!(named_in_vain(&world.state, account(3)), in_vain(2));
    world.system(SystemCommand::RemoveAccount { account: account(4) }).unwrap();
    let refused = common::conflict(ask(&mut world, 3));
    let wanted = format!(
        "nobody could let it through: account person-3 has not the role approver there, account {} was removed, and the others whom the rule of staging names give 1 of 2 approvals; change the rule (stella env approvals), or give the role",
        account(4)
    );
    assert_eq!(refused, wanted);
    assert_eq!(common::conflict(plan(&world)), refused, "a plan says so too");
    for (n, given) in [(4, 1), (3, 1)] {
        assert_eq!(named_in_vain(&world.state, account(n)), in_vain(given));
    }
    // Beside those who have asked themselves.
    world.ok(set(rule(2, &[1, 2, 3])));
    let refused = common::conflict(ask(&mut world, 3));
    let wanted = "without person-1 the others whom the rule of staging names give 1 of 2 approvals";
    assert!(refused.contains(wanted) && refused.contains("account person-3 has not the role"), "{refused}");
    // Whoever has the role may be anybody.
    world.give(3, Role::Approver);
    world.ok(set(groups(&[], &[(1, &[3])])));
    ask(&mut world, 5).unwrap();
    end(&world);
}
