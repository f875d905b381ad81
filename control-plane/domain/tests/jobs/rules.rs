//! The rules of a place hold for jobs: who approves, what gates say, who signs.

use super::*;
use crate::common;

#[test]
fn people_approve_exactly_what_will_be_run() {
    let mut world = world();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    run_in(&mut world, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    let asked = *world.tenant().open_promotions.iter().next().unwrap();
    let promotion = world.tenant().promotions[&asked].clone();
    assert_eq!(promotion.wanted.job.as_ref().unwrap().steps.len(), 2, "it can be looked at");
    assert_eq!((promotion.plan.version, promotion.plan.targets), (5, 2));
    let approve = TenantCommand::ApprovePromotion {
        promotion: asked,
        plan: promotion.plan.root,
        reason: String::new(),
        signature: None,
    };
    assert!(
        world
            .tell_as(1, approve.clone())
            .unwrap_err()
            .to_string()
            .contains("nobody approves what they have asked for")
    );
    // What is asked for with other words is another plan.
    let mut other = self::world();
    other.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    apply(&mut other, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    start(&mut other, "2.1").unwrap();
    let root = other.tenant().promotions.values().find(|it| it.is_open()).unwrap().plan.root;
    assert_ne!(root, promotion.plan.root);
    assert_eq!(promotion.plan.root.to_hex(), GOLDEN_ROOT);
    world.tell_as(2, approve).unwrap();
    assert_eq!(active(&world, "schema"), [2, 3]);
    (2..=3).for_each(|n| world.complete(n));
    assert_eq!(states(&world), "succeeded: schema succeeded");
    end(&world);
    // What changes under it makes it void.
    let mut world = self::world();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    run_in(&mut world, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    world.ok(TenantCommand::RemoveTarget { id: target(3) });
    assert!(
        reason(&world).starts_with("step schema: the promotion is not valid any more"),
        "{}",
        reason(&world)
    );
    end(&world);
}

/// The root of the plan of a job: another form is another version.
const GOLDEN_ROOT: &str = "6da4d293207fb5c4cbd12d2c523b34ba77e87bde596614e2118b83b8589597a9";

#[test]
fn the_role_is_needed_where_it_runs_when_it_runs() {
    let mut world = world();
    apply(
        &mut world,
        json!([{ "id": "soak", "wait": "1m" }, { "id": "schema", "needs": ["soak"], "task": migrate(json!({})) }]),
    );
    start(&mut world, "2.0").unwrap();
    let roles = vec![Grant { role: Role::Viewer, tenant: None, environment: None }];
    world.system(SystemCommand::SetAccountRoles { account: common::account(1), roles }).unwrap();
    world.wait_ms(60_000);
    assert!(reason(&world).contains("account person-1 needs the role deployer in environment staging"));
    assert!(world.tenant().jobs.is_empty(), "nothing was asked for");
    end(&world);
}

#[test]
fn locks_freezes_and_gates_hold_a_job_as_they_hold_a_deployment() {
    let steps = || json!([{ "id": "schema", "task": migrate(json!({ "max_parallel": 1 })) }]);
    let mut locked = world();
    locked.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "audit".to_owned() });
    run_in(&mut locked, steps());
    assert!(reason(&locked).contains("environment staging is locked (audit)"));
    let mut frozen = world();
    let window = freeze("night", "1970-01-01T00:00", "1970-01-01T01:00");
    frozen.ok(TenantCommand::FreezeEnvironment { environment: STAGING, freeze: Box::new(window) });
    run_in(&mut frozen, steps());
    assert!(reason(&frozen).contains("is frozen"), "{}", reason(&frozen));
    let mut asked = world();
    asked.set_gate(gate("change", http()));
    asked.set_gate(security("scan", &[]));
    run_in(&mut asked, steps());
    let id = DeploymentId(asked.tenant().open_promotions.iter().next().unwrap().0);
    let said = |world: &World, of: &str| world.tenant().gates[&PromotionId(id.0)][&name(of)].clone();
    assert_eq!(said(&asked, "scan").verdict.unwrap().reason, "a job brings no software");
    let answer = |world: &mut World, outcome| {
        let number = said(world, "change").asked.expect("a question").number;
        world.ok(TenantCommand::AnswerGate(Box::new(stella_domain::command::Answer {
            promotion: PromotionId(id.0),
            gate: name("change"),
            number,
            outcome,
            reason: "the change is known".to_owned(),
            inputs: None,
        })));
    };
    answer(&mut asked, Outcome::Passed);
    assert_eq!(active(&asked, "schema"), [2]);
    asked.wait_ms(60_000);
    asked.complete(2);
    assert_eq!(active(&asked, "schema"), [], "it is asked again before the next wave");
    answer(&mut asked, Outcome::Failed);
    assert_eq!(reason(&asked), "step schema: the job failed: gate change: the change is known");
    // What looks at a release sees who wants the job, and no more: an expression fails closed.
    for (expression, passes) in [
        ("release.application == 'ops' && release.version == 'schema'", true),
        ("release.labels.checked == 'yes'", false),
    ] {
        let mut world = world();
        world.set_gate(gate("rule", Check::Expression { expression: expression.to_owned() }));
        run_in(&mut world, steps());
        assert_eq!(now(&world).steps[&self::id("schema")].job.is_some(), passes, "{expression}");
    }
    [&locked, &frozen, &asked].into_iter().for_each(end);
}

#[test]
fn the_budget_of_an_environment_counts_jobs() {
    let mut world = world();
    let budget = Some(Amount::Count(1));
    world.ok(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget });
    run_in(&mut world, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    assert_eq!(active(&world, "schema"), [2]);
    let new = NewDeployment { targets: Some(vec![target(1)]), ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    assert_eq!(world.deployment(common::deployment(2)).counts.active, 0, "one is at risk already");
    world.complete(2);
    world.complete(3);
    world.complete(1);
    assert_eq!(states(&world), "succeeded: schema succeeded");
    end(&world);
}

#[test]
fn an_environment_that_wants_a_way_back_lets_jobs_run() {
    let mut world = world();
    world.ok(TenantCommand::SetEnvironmentWayBack { environment: STAGING, required: true });
    let rule = ProofRule::Required;
    world.ok(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
    run_in(&mut world, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    assert_eq!(active(&world, "schema"), [2, 3], "they replace nothing, so there is nothing to prove");
    end(&world);
}

/// A release with one command and no artifact.
fn tool(n: u8) -> NewRelease {
    let mut new = new_release(n);
    new.application = name("tools");
    new.components.clear();
    new.steps.remove(0);
    new.id = release(u128::from(n) + 40);
    new
}

#[test]
fn a_tenant_that_demands_signatures_runs_only_what_is_signed() {
    let of = |release: &str| json!([{ "id": "schema", "task": { "environment": "staging", "labels": { "role": "db" }, "release": release } }]);
    let mut world = world();
    world.ok(add_key(1));
    world.ok(TenantCommand::CreateRelease(Box::new(tool(2))));
    world.ok(TenantCommand::SetReleaseSigning { rule: Some(signed(1, &[])) });
    apply(&mut world, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    start(&mut world, "2.0").unwrap();
    assert!(
        reason(&world).starts_with("step schema: tenant acme demands signatures of all that is run, and nobody signs the steps of a template"),
        "{}",
        reason(&world)
    );
    assert!(world.tenant().jobs.is_empty());
    let again = |world: &mut World, n: u128, release: &str| {
        apply(world, of(release));
        let id = RunId(Uuid::from_u128(0x5000 + n));
        let new = NewRun { id, workflow: name("ops"), version: None, inputs: BTreeMap::new() };
        world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
        match &world.tenant().runs[&id].status {
            RunStatus::Failed { reason } => reason.clone(),
            _ => String::new(),
        }
    };
    let unsigned = again(&mut world, 1, "tools:2.0");
    assert!(unsigned.contains("tools:2.0 has no signature that counts"), "{unsigned}");
    world.sign(1, 42).unwrap();
    assert_eq!(again(&mut world, 2, "${'tools'}:2.0"), "");
    let before = all_known(&world);
    assert_eq!(world.task_on(2).step.as_str(), "check", "the steps of the release");
    // What counts no more halts it before its next target, as it does a deployment.
    let revoke = TenantCommand::RevokeReleaseKey { key: common::key_id(1), reason: "stolen".to_owned() };
    world.ok(revoke);
    for n in 2..=3 {
        world.finish(n, TaskOutcome::Succeeded);
    }
    assert_eq!(all_known(&world), before, "it has not become what is there");
    end(&world);
}

#[test]
fn a_release_that_brings_something_or_may_not_be_run_is_no_job() {
    let of =
        |release: &str| json!([{ "id": "schema", "task": { "environment": "staging", "release": release } }]);
    let mut blocked = world();
    blocked.ok(TenantCommand::CreateRelease(Box::new(tool(2))));
    blocked.ok(TenantCommand::JudgeRelease {
        release: release(42),
        verdict: stella_domain::hold::Verdict::Block,
        reason: "drops tables".to_owned(),
    });
    run_in(&mut blocked, of("tools:2.0"));
    assert!(reason(&blocked).contains("release tools:2.0 is blocked (drops tables)"));
    for (release, expected) in [
        ("shop:2.0", "release: is shop:2.0; it brings artifacts; a job brings nothing, so deploy it"),
        ("shop:9.0", "there is no release shop:9.0"),
        ("${inputs.to}", "there is no release 2.0"),
    ] {
        let mut world = world();
        run_in(&mut world, of(release));
        assert!(reason(&world).contains(expected), "{}", reason(&world));
        end(&world);
    }
}
