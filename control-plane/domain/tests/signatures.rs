//! Signatures of releases: what counts, what does not any more, and what may not move without.

use std::str::FromStr;

use crate::common::{
    self, STAGING, World, add_key, conflict, deployment, digest, end, facts, failure, gate, key_id, name,
    new_deployment, new_release, promotion, release, signed, signing_key,
};
use stella_domain::command::{NewRelease, Outcome, TenantCommand};
use stella_domain::decide::{self, Decision};
use stella_domain::deployment::Status;
use stella_domain::event::{Fact, StreamId};
use stella_domain::gate::{Check, Gate, Outcome as Says};
use stella_domain::name::Version;
use stella_domain::promotion::PromotionStatus;
use stella_domain::provenance::{Provenance, Reference};
use stella_domain::rejection::Rejection;
use stella_domain::release::Release;
use stella_domain::signature::{SIGNATURES_MAX, statement};
use stella_protocol::id::ReleaseId;
use uuid::Uuid;

/// Two targets with release 1, three people, and the keys `ci` and `qa`.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    (1..=2).for_each(|n| drop(world.ok(add_key(n))));
    world
}

fn signature_gate(needed: u32, keys: &[usize]) -> Gate {
    gate("signed", Check::Signature(signed(needed, keys)))
}

/// Person 1 asks for release 2 everywhere, one target at a time.
fn ask(world: &mut World, n: u128) -> Decision {
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(n, 2, Some(1))))).unwrap()
}

fn revoke(world: &mut World, n: usize) -> Decision {
    world.ok(TenantCommand::RevokeReleaseKey { key: key_id(n), reason: "the laptop is gone".to_owned() })
}

fn demand(world: &mut World, needed: u32, keys: &[usize]) -> Decision {
    world.ok(TenantCommand::SetReleaseSigning { rule: Some(signed(needed, keys)) })
}

fn reason(world: &World, n: u128) -> (Says, String) {
    let verdict = world.gate(n, "signed").verdict.unwrap();
    (verdict.outcome, verdict.reason)
}

/// A release that is not there yet, with its signatures by these keys.
fn signed_release(of: u8, provenance: Option<Provenance>, keys: &[usize]) -> NewRelease {
    let mut new = NewRelease { id: release(of.into()), provenance, ..new_release(1) };
    new.version = Version::from_str(&format!("{of}.0")).unwrap();
    let would_be = Release {
        id: new.id,
        application: new.application.clone(),
        version: new.version.clone(),
        components: new.components.clone(),
        steps: new.steps.clone(),
        labels: new.labels.clone(),
        provenance: new.provenance.clone(),
        channels: Vec::new(),
        standing: stella_domain::hold::Standing::Good,
        created_at: stella_protocol::time::Timestamp(0),
    };
    let sign = |n: &usize| (key_id(*n), signing_key(*n).sign(&statement(&would_be)));
    new.signatures = keys.iter().map(sign).collect();
    new
}

#[test]
fn what_two_keys_have_to_sign_waits_for_the_second() {
    let mut world = world();
    world.set_gate(signature_gate(2, &[1, 2]));
    assert_eq!(ask(&mut world, 2).outcome, Outcome::Promotion(promotion(2)));
    assert_eq!(
        reason(&world, 2),
        (
            Says::Failed,
            "shop:2.0 has no signature that counts, and 2 by ci, qa are needed; sign it: stella release sign"
                .replace("ci, qa", if key_id(1) < key_id(2) { "ci, qa" } else { "qa, ci" })
        )
    );
    let decision = world.sign(1, 2).unwrap();
    assert_eq!(facts(&decision), ["release_signed", "gate_evaluated"]);
    assert!(reason(&world, 2).1.contains("has 1 of 2 signatures (ci)"), "{:?}", reason(&world, 2));
    assert!(world.sign(1, 2).unwrap().events.is_empty(), "signing twice is signing once");
    let decision = world.sign(2, 2).unwrap();
    assert!(facts(&decision).contains(&"deployment_created"), "{decision:?}");
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn the_signature_of_another_key_does_not_count_for_a_gate_that_names_keys() {
    let mut world = world();
    world.set_gate(signature_gate(1, &[2]));
    world.sign(1, 2).unwrap();
    assert_eq!(ask(&mut world, 2).outcome, Outcome::Promotion(promotion(2)));
    assert!(reason(&world, 2).1.contains("1 by qa are needed"));
    world.set_gate(signature_gate(1, &[]));
    assert_eq!(reason(&world, 2), (Says::Passed, "signed by ci".to_owned()));
    assert_eq!(*world.status(2), Status::Running);
    end(&world);
}

#[test]
fn a_key_that_is_revoked_on_the_way_halts_the_roll_out_before_its_next_wave() {
    let mut world = world();
    world.set_gate(signature_gate(1, &[]));
    world.sign(1, 2).unwrap();
    ask(&mut world, 2);
    world.complete(1);
    let decision = revoke(&mut world, 1);
    assert_eq!(facts(&decision)[..3], ["release_key_revoked", "gate_evaluated", "deployment_halted"]);
    world.complete_first_step(2);
    assert!(failure(&world, 2).contains("key ci was revoked"), "{}", failure(&world, 2));
    end(&world);
}

#[test]
fn a_revoked_key_signs_nothing_and_never_comes_back() {
    let mut world = world();
    revoke(&mut world, 1);
    assert!(conflict(world.sign(1, 2)).contains("revoked"));
    assert!(conflict(world.tell(add_key(1))).contains("never comes back"));
    assert!(facts(&revoke(&mut world, 1)).is_empty());
    let named = TenantCommand::SetGate { environment: STAGING, gate: Box::new(signature_gate(1, &[1])) };
    assert!(
        matches!(world.tell(named), Err(Rejection::Invalid { field, problem }) if field == "keys" && problem.contains("revoked"))
    );
    let renamed = TenantCommand::AddReleaseKey { name: name("ci"), public_key: signing_key(3).public() };
    assert!(matches!(world.tell(renamed), Err(Rejection::Exists { .. })));
    end(&world);
}

#[test]
fn what_is_not_a_signature_of_this_release_by_this_key_is_refused() {
    let mut world = world();
    let two = statement(&world.tenant().releases[&release(2)]);
    let one = statement(&world.tenant().releases[&release(1)]);
    let sign = |key, signature| TenantCommand::SignRelease { release: release(2), key, signature };
    let cases = [
        ("signature", sign(key_id(1), signing_key(1).sign(&one))),
        ("signature", sign(key_id(1), signing_key(2).sign(&two))),
        ("key", sign(key_id(3), signing_key(3).sign(&two))),
        ("key", sign(digest(1), signing_key(1).sign(&two))),
    ];
    for (wanted, command) in cases {
        let Err(Rejection::Invalid { field, problem }) = world.tell(command.clone()) else {
            panic!("{command:?}")
        };
        assert_eq!(field, wanted, "{problem}");
    }
    assert!(world.tenant().signatures.is_empty());
    end(&world);
}

#[test]
fn a_signature_that_was_made_up_does_not_replay() {
    let mut world = world();
    let mut before = world.state.clone();
    let event = world.sign(1, 2).unwrap().events.remove(0).1;
    let Fact::ReleaseSigned { release, key, .. } = event.fact else { panic!("{event:?}") };
    let one = statement(&world.tenant().releases[&common::release(1)]);
    let fact = Fact::ReleaseSigned { release, key, signature: signing_key(1).sign(&one) };
    let forged = stella_domain::event::Event { fact, ..event };
    let error = before.apply(StreamId::Tenant(common::TENANT), &forged).unwrap_err();
    assert_eq!(error.state, "not what was signed");
}

#[test]
fn a_tenant_that_demands_signatures_takes_in_and_moves_nothing_without() {
    let mut world = world();
    demand(&mut world, 2, &[]);
    let unsigned = signed_release(7, None, &[]);
    let Err(Rejection::Invalid { field, problem }) =
        world.tell(TenantCommand::CreateRelease(Box::new(unsigned)))
    else {
        panic!("an unsigned release came in")
    };
    assert_eq!(field, "signatures");
    assert!(problem.contains("--sign-with"), "{problem}");
    assert!(!world.tenant().releases.contains_key(&release(7)), "nothing of it is left");
    // One signature lets it in, and QA's lets it move.
    let created = world.ok(TenantCommand::CreateRelease(Box::new(signed_release(7, None, &[1]))));
    assert_eq!(facts(&created), ["release_created", "release_signed"]);
    let wanted = || TenantCommand::Deploy(Box::new(new_deployment(2, 7, Some(1))));
    let refused = conflict(world.tell_as(1, wanted()));
    assert!(
        refused.contains("tenant acme demands") && refused.contains("1 of 2 signatures (ci)"),
        "{refused}"
    );
    let plan = decide::planned(world.tenant(), &new_deployment(2, 7, Some(1)), world.now);
    assert!(conflict(plan).contains("1 of 2"));
    world.sign(2, 7).unwrap();
    world.tell_as(1, wanted()).unwrap();
    assert_eq!(*world.status(2), Status::Running);
    end(&world);
}

#[test]
fn a_demand_holds_for_what_was_there_before_it_and_for_what_is_on_its_way() {
    let mut world = world();
    ask(&mut world, 2);
    let decision = demand(&mut world, 1, &[]);
    assert_eq!(facts(&decision)[..2], ["release_signing_set", "deployment_halted"]);
    world.finish(1, stella_protocol::message::TaskOutcome::Succeeded);
    assert!(failure(&world, 2).contains("demands signatures"), "{}", failure(&world, 2));
    assert!(world.rollback_of(2).is_some(), "the way back needs no signature");
    world.complete(1);
    assert!(world.sign(2, 2).is_ok());
    ask(&mut world, 3);
    assert_eq!(*world.status(3), Status::Running);
    end(&world);
}

#[test]
fn a_promotion_that_waits_is_void_when_the_release_loses_a_signature_that_is_demanded() {
    let mut world = world();
    demand(&mut world, 1, &[1]);
    world.sign(1, 2).unwrap();
    let rule = Some(common::rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    ask(&mut world, 2);
    revoke(&mut world, 1);
    let PromotionStatus::Invalidated { reason, .. } = &world.promotion(2).status else { panic!() };
    assert!(reason.contains("key ci was revoked"), "{reason}");
    end(&world);
}

#[test]
fn a_release_comes_with_its_provenance_and_the_signature_is_over_that_too() {
    let mut world = world();
    let reference = |uri: &str| Reference { uri: uri.to_owned(), digest: digest(9) };
    let provenance = Provenance {
        commit: Some("4b825dc642cb".to_owned()),
        repository: Some("https://git.example.com/shop".to_owned()),
        build_url: Some("https://ci.example.com/1".to_owned()),
        builder: Some("ci".to_owned()),
        sboms: vec![reference("https://ci.example.com/1/sbom.json")],
        attestations: vec![reference("https://ci.example.com/1/slsa.json")],
    };
    let mut other = signed_release(7, Some(provenance.clone()), &[1]);
    other.provenance = Some(Provenance { commit: Some("another".to_owned()), ..provenance.clone() });
    let refused = world.tell(TenantCommand::CreateRelease(Box::new(other)));
    assert!(
        matches!(&refused, Err(Rejection::Invalid { field, .. }) if field == "signatures[0].signature"),
        "{refused:?}"
    );
    let new = signed_release(7, Some(provenance.clone()), &[1, 2]);
    world.ok(TenantCommand::CreateRelease(Box::new(new)));
    assert_eq!(world.tenant().releases[&release(7)].provenance, Some(provenance));
    // Gates may ask about it.
    let expression = "release.provenance.builder == 'ci' && size(release.provenance.sboms) == 1".to_owned();
    world.set_gate(gate("built", Check::Expression { expression }));
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 7, None))));
    assert_eq!(world.gate(2, "built").verdict.unwrap().outcome, Says::Passed);
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(3, 3, None))));
    assert_eq!(world.gate(3, "built").verdict.map(|it| it.outcome), None, "the targets are not free yet");
    end(&world);
}

#[test]
fn rules_that_could_never_be_met_are_refused_by_field() {
    let mut world = world();
    let too_many = u32::try_from(SIGNATURES_MAX).unwrap() + 1;
    for (rule, wanted, hint) in [
        (signed(0, &[]), "needed", "between 1"),
        (signed(too_many, &[]), "needed", "between 1"),
        (signed(2, &[1]), "keys", "names 1 keys"),
        (signed(2, &[1, 1]), "keys", "names 1 keys"),
        (signed(1, &[3]), "keys", "no release key"),
    ] {
        let commands = [
            TenantCommand::SetReleaseSigning { rule: Some(rule.clone()) },
            TenantCommand::SetGate {
                environment: STAGING,
                gate: Box::new(gate("signed", Check::Signature(rule))),
            },
        ];
        for command in commands {
            let Err(Rejection::Invalid { field, problem }) = world.tell(command.clone()) else {
                panic!("{command:?}")
            };
            assert!(field == wanted && problem.contains(hint), "{field}: {problem}");
        }
    }
    let missing = TenantCommand::RevokeReleaseKey { key: digest(9), reason: String::new() };
    assert!(matches!(world.tell(missing), Err(Rejection::NotFound { .. })));
    let two = statement(&world.tenant().releases[&release(2)]);
    let nothing = TenantCommand::SignRelease {
        release: ReleaseId(Uuid::from_u128(0xdead)),
        key: key_id(1),
        signature: signing_key(1).sign(&two),
    };
    assert!(matches!(world.tell(nothing), Err(Rejection::NotFound { .. })));
    assert!(!world.tenant().deployments.contains_key(&deployment(2)));
    end(&world);
}

#[test]
fn what_a_step_is_a_part_of_is_signed_too() {
    let mut new = new_release(1);
    let said = |new: &NewRelease| {
        let release = Release {
            id: new.id,
            application: new.application.clone(),
            version: new.version.clone(),
            components: new.components.clone(),
            steps: new.steps.clone(),
            labels: new.labels.clone(),
            provenance: None,
            channels: Vec::new(),
            standing: stella_domain::hold::Standing::Good,
            created_at: stella_protocol::time::Timestamp(0),
        };
        serde_json::to_value(statement(&release).steps).unwrap()
    };
    assert!(said(&new)[1].get("phase").is_none());
    new.steps[1].phase = stella_domain::release::Phase::Switch;
    assert_eq!(said(&new)[1]["phase"], "switch");
}
