//! Promotions: who has to agree, what gates say, and who has signed.

use super::*;

/// A promotion that needs two approvals, of which the table's person gives one.
pub(super) fn promotions(table: &mut String) {
    let id = promotion(2);
    let fresh = || {
        let mut world = World::with_release_1(1);
        (1..=3).for_each(|n| world.person(n));
        let rule = Some(rule(2, &[]));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
        world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "x".to_owned() });
        let new = TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)));
        world.tell_as(1, new).unwrap();
        world
    };
    let reason = || "x".to_owned();
    let objection = Objection::Other;
    let both = |world: &mut World| {
        world.approve(2, 2).unwrap();
        world.approve(3, 2).unwrap();
    };
    type Steps<'s> = &'s dyn Fn(&mut World);
    let situations: [(&str, Steps<'_>); 9] = [
        ("pending", &|_| ()),
        ("pending, approved by another", &|world| drop(world.approve(3, 2).unwrap())),
        ("pending, approved by the same", &|world| drop(world.approve(2, 2).unwrap())),
        ("approved", &both),
        ("started", &|world| {
            both(world);
            world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
        }),
        ("rejected", &|world| {
            let reject = TenantCommand::RejectPromotion { promotion: id, objection, reason: reason() };
            world.tell_as(2, reject).unwrap();
        }),
        ("withdrawn", &|world| {
            world.ok(TenantCommand::WithdrawPromotion { promotion: id, reason: reason() });
        }),
        ("expired", &|world| world.wait_ms(86_400_000)),
        ("invalidated", &|world| {
            world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: None });
        }),
    ];
    for (label, steps) in situations {
        let mut world = fresh();
        steps(&mut world);
        let (wanted, plan) = (Box::new(new_deployment(2, 2, None)), world.promotion(2).plan);
        let rule = world.promotion(2).rule.clone();
        let facts = [
            Fact::PromotionRequested { id, wanted, plan, rule, expires_at: None, chosen_by: Vec::new() },
            Fact::ApprovalGranted { id, plan: plan.root, reason: reason(), signature: None },
            Fact::ApprovalLapsed { id, account: common::account(2), reason: reason() },
            Fact::PromotionRejected { id, objection, reason: reason() },
            Fact::PromotionWithdrawn { id, reason: reason() },
            Fact::PromotionExpired { id },
            Fact::PromotionAskedAgain { id, expires_at: Timestamp(u64::MAX) },
            Fact::PromotionInvalidated { id, reason: reason() },
            Fact::PromotionArchived { id },
            created(deployment(2), 1),
        ];
        let mut facts = facts.map(|fact| (fact.name().to_owned(), fact)).to_vec();
        let other = Fact::ApprovalGranted { id, plan: digest(9), reason: reason(), signature: None };
        facts.push(("approval_granted, of another plan".to_owned(), other));
        rows(table, &format!("promotion {label}"), &world.state, &facts, |state| {
            let Some(promotion) = state.tenants[&TENANT].promotions.get(&id) else {
                return "gone".to_owned();
            };
            format!("{}, {} of 2 approvals", promotion.status_name(), promotion.approvals.len())
        });
    }
}

/// A gate that asks something outside, for one promotion.
pub(super) fn gates(table: &mut String) {
    let id = promotion(2);
    let fresh = || {
        let mut world = World::with_release_1(2);
        (1..=2).for_each(|n| world.person(n));
        world.set_gate(common::gate("change", common::http()));
        world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, Some(1))))).unwrap();
        world
    };
    type Steps<'s> = &'s dyn Fn(&mut World);
    let locked = |world: &mut World| {
        world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "x".to_owned() });
    };
    let situations: [(&str, Steps<'_>); 8] = [
        ("asked", &|_| ()),
        ("passed, and its promotion waits", &|world| {
            locked(world);
            world.answer(2, "change", Outcome::Passed);
        }),
        ("failed", &|world| drop(world.answer(2, "change", Outcome::Failed))),
        ("overridden, and its promotion waits", &|world| {
            locked(world);
            let (gate, reason) = (name("change"), "x".to_owned());
            world.tell_as(2, TenantCommand::OverrideGate { promotion: id, gate, reason }).unwrap();
        }),
        ("passed, and its deployment runs", &|world| drop(world.answer(2, "change", Outcome::Passed))),
        ("asked before the next wave", &|world| {
            world.answer(2, "change", Outcome::Passed);
            world.wait_ms(60_000);
            world.complete(1);
        }),
        ("closed before the next wave", &|world| {
            world.answer(2, "change", Outcome::Passed);
            world.wait_ms(60_000);
            world.complete(1);
            world.answer(2, "change", Outcome::Failed);
        }),
        ("of a promotion that was withdrawn", &|world| {
            world.ok(TenantCommand::WithdrawPromotion { promotion: id, reason: "x".to_owned() });
        }),
    ];
    for (label, steps) in situations {
        let mut world = fresh();
        steps(&mut world);
        let facts = gate_facts(&world);
        rows(table, &format!("gate {label}"), &world.state, &facts, |state| {
            let tenant = &state.tenants[&TENANT];
            let record = &tenant.gates[&id][&name("change")];
            let verdict = record.verdict.as_ref().map_or("no verdict", |it| it.outcome.name());
            let asked = if record.asked.is_some() { ", asked" } else { "" };
            let again = if record.again_at.is_some() { ", again later" } else { "" };
            let overridden = if record.overridden.is_some() { ", overridden" } else { "" };
            let started = tenant.deployments.get(&deployment(2)).map_or(0, |it| it.counts.active);
            format!("{verdict}{asked}{again}{overridden}, {started} targets worked on")
        });
    }
}

fn gate_facts(world: &World) -> Vec<(String, Fact)> {
    let (promotion, gate) = (promotion(2), name("change"));
    let record = world.gate(2, "change");
    let policy = common::gate("change", common::http()).policy();
    let next = record.evaluations + 1;
    let asked = |number| Fact::GateAsked { promotion, gate: gate.clone(), number, policy };
    let evaluated = |number, outcome, expires_at| Fact::GateEvaluated {
        promotion,
        gate: gate.clone(),
        kind: "http".to_owned(),
        number,
        policy,
        outcome,
        reason: "x".to_owned(),
        inputs: None,
        expires_at,
        again_at: None,
    };
    let started = |target_number| Fact::TargetStarted {
        deployment: deployment(2),
        target: target(target_number),
        generation: Generation(9_000_000),
    };
    let facts = [
        ("gate_asked", asked(next)),
        ("gate_asked, another number", asked(next + 1)),
        ("gate_evaluated, passed", evaluated(next, Outcome::Passed, None)),
        ("gate_evaluated, failed", evaluated(next, Outcome::Failed, None)),
        ("gate_evaluated, another number", evaluated(next + 1, Outcome::Passed, None)),
        (
            "gate_overridden",
            Fact::GateOverridden { promotion, gate: gate.clone(), policy, reason: "x".to_owned() },
        ),
        ("target_started, the second one", started(2)),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
}

/// A key that signs releases, and the release 2 that it may have signed.
pub(super) fn signatures(table: &mut String) {
    type Steps<'s> = &'s dyn Fn(&mut World);
    let add = |world: &mut World| drop(world.ok(common::add_key(1)));
    let revoke = TenantCommand::RevokeReleaseKey { key: common::key_id(1), reason: "x".to_owned() };
    let situations: [(&str, Steps<'_>); 5] = [
        ("unknown", &|_| ()),
        ("registered", &add),
        ("that has signed", &|world| {
            add(world);
            world.sign(1, 2).unwrap();
        }),
        ("that was revoked", &|world| {
            add(world);
            world.ok(revoke.clone());
        }),
        ("that has signed and was revoked", &|world| {
            add(world);
            world.sign(1, 2).unwrap();
            world.ok(revoke.clone());
        }),
    ];
    for (label, steps) in situations {
        let mut world = World::with_release_1(1);
        steps(&mut world);
        let (id, key) = (common::key_id(1), common::signing_key(1));
        let statement = |n| statement(&world.tenant().releases[&release(n)]);
        let signed =
            |n, of| Fact::ReleaseSigned { release: release(n), key: id, signature: key.sign(&statement(of)) };
        let added = |id| Fact::ReleaseKeyAdded { id, name: name("ci"), public_key: key.public() };
        let facts = [
            ("release_key_added", added(id)),
            ("release_key_added, of another fingerprint", added(digest(1))),
            ("release_key_revoked", Fact::ReleaseKeyRevoked { id, reason: "x".to_owned() }),
            ("release_signed", signed(2, 2)),
            ("release_signed, another statement", signed(2, 1)),
        ]
        .map(|(name, fact)| (name.to_owned(), fact));
        rows(table, &format!("release key {label}"), &world.state, &facts, |state| {
            let tenant = &state.tenants[&TENANT];
            let counted = common::signed(1, &[]).counted(tenant, release(2)).count();
            let revoked = tenant.release_keys.get(&id).is_some_and(|key| key.revoked.is_some());
            let signatures = tenant.signatures.get(&release(2)).map_or(0, |it| it.len());
            format!(
                "{}, {counted} of {signatures} signatures count",
                if revoked { "revoked" } else { "good" }
            )
        });
    }
}
