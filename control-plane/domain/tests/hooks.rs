//! Incoming webhooks: which may be made, what they may start, and with whose authority.

use std::collections::BTreeMap;

use crate::common::{self, STAGING, TENANT, World, account, digest, name, new_deployment, person, rule};
use serde_json::{Value, json};
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::command::{
    ActingAccount, Actor, Command, NewHook, NewRun, Outcome, Request, SystemCommand, TenantCommand,
};
use stella_domain::decide::Decision;
use stella_domain::deployment::Status;
use stella_domain::environment::Verification;
use stella_domain::hook::{Delivery, HOOKS_MAX, HookAction, OVERLAP_MS_MAX, Wanted};
use stella_domain::name::Identifier;
use stella_domain::rejection::Rejection;
use stella_protocol::id::{DeploymentId, EnvironmentId, HookId, RunId};
use uuid::Uuid;

/// The service account of the hooks here.
const CI: u128 = 50;

const fn hook(n: u128) -> HookId {
    HookId(Uuid::from_u128(0x7000 + n))
}

const fn run(n: u128) -> RunId {
    RunId(Uuid::from_u128(0x5000 + n))
}

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// A tenant with a workflow, a person and a service account that may deploy there.
fn world() -> World {
    let mut world = World::with_release_1(1);
    world.person(1);
    let roles = vec![Grant { role: Role::Deployer, tenant: Some(TENANT), environment: None }];
    let (id, kind) = (account(CI), AccountKind::Service);
    world.system(SystemCommand::CreateAccount { id, name: name("ci"), kind, roles }).unwrap();
    let inputs = json!({ "version": { "type": "text", "max_length": 8 } });
    let template = json!({ "name": "ship", "inputs": inputs, "steps": [{ "id": "a", "wait": "1h" }] });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    world
}

fn runs(inputs: &[(&str, &str)]) -> HookAction {
    let inputs = inputs.iter().map(|(name, source)| (id(name), (*source).to_owned())).collect();
    HookAction::Workflow { workflow: name("ship"), inputs }
}

fn deploys(release: &str) -> HookAction {
    HookAction::Deploy { environment: STAGING, release: release.to_owned() }
}

fn new(n: u128, action: HookAction) -> NewHook {
    let (id, account, salt) = (hook(n), account(CI), digest(7));
    NewHook { id, name: name(&format!("hook-{n}")), account, action, when: None, salt }
}

fn create(world: &mut World, new: NewHook) -> Result<Decision, Rejection> {
    world.tell_as(1, TenantCommand::CreateHook(Box::new(new)))
}

fn delivery(event: &str, body: Value) -> Delivery {
    Delivery { event: event.to_owned(), id: "d-1".to_owned(), body }
}

fn by_hook(world: &mut World, n: u128, command: TenantCommand) -> Result<Decision, Rejection> {
    let acting = ActingAccount { id: account(CI), name: name("ci") };
    let actor = Actor::Hook { id: hook(n), name: name(&format!("hook-{n}")), account: acting };
    world.send(&Request { actor, ..World::request(Command::Tenant(TENANT, command)) })
}

fn start(n: u128, workflow: &str) -> TenantCommand {
    let inputs = BTreeMap::from([(id("version"), json!("2.0"))]);
    TenantCommand::StartRun(Box::new(NewRun { id: run(n), workflow: name(workflow), version: None, inputs }))
}

#[test]
fn what_a_message_starts_follows_from_expressions() {
    let mut world = world();
    let mut shipped = new(1, runs(&[("version", "body.release.tag + '-' + delivery")]));
    shipped.when = Some("event == 'release' && body.action == 'published'".to_owned());
    create(&mut world, shipped).unwrap();
    create(&mut world, new(2, deploys("'shop:' + body.version"))).unwrap();
    let wants =
        |n: u128, event: &str, body: Value| world.tenant().hooks[&hook(n)].wants(&delivery(event, body));
    let published = json!({ "action": "published", "release": { "tag": "2.0" } });
    let inputs = BTreeMap::from([(id("version"), json!("2.0-d-1"))]);
    let expected = Wanted::Run { workflow: name("ship"), inputs };
    assert_eq!(wants(1, "release", published.clone()).unwrap(), Some(expected));
    assert_eq!(wants(1, "push", published).unwrap(), None);
    let deploy = Wanted::Deploy { environment: STAGING, release: "shop:2.0".to_owned() };
    assert_eq!(wants(2, "", json!({ "version": "2.0" })).unwrap(), Some(deploy));
    for (n, body, expected) in [
        (1, json!({ "action": "published" }), "workflow.inputs.version: an expression in it has no value"),
        (1, json!([]), "when: has no value"),
        (2, json!({ "version": 2 }), "deploy.release: an expression in it has no value"),
    ] {
        let refused = wants(n, "release", body).unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{refused}");
    }
    let mut world = world;
    create(&mut world, new(3, deploys("body.version"))).unwrap();
    let refused = world.tenant().hooks[&hook(3)].wants(&delivery("", json!({ "version": 2 }))).unwrap_err();
    assert!(refused.to_string().starts_with("deploy.release: comes to no text"), "{refused}");
}

#[test]
fn a_hook_that_makes_no_sense_is_refused_with_its_field() {
    let mut world = world();
    create(&mut world, new(1, runs(&[]))).unwrap();
    let with = |n: u128, change: &dyn Fn(&mut NewHook)| {
        let mut wanted = new(n, runs(&[]));
        change(&mut wanted);
        wanted
    };
    let nowhere = EnvironmentId(Uuid::from_u128(0x99));
    for (wanted, expected) in [
        (new(1, runs(&[])), "exists already"),
        (with(2, &|it| it.name = name("hook-1")), "hook \"hook-1\" exists already"),
        (with(2, &|it| it.account = account(1)), "account: person-1 is a person"),
        (with(2, &|it| it.account = account(77)), "account: there is no such account with a role"),
        (with(2, &|it| it.when = Some("event ==".to_owned())), "when: at character"),
        (
            with(2, &|it| it.when = Some("secret == ''".to_owned())),
            "when: at character 1: there is no secret",
        ),
        (
            new(2, runs(&[("version", "inputs.x")])),
            "workflow.inputs.version: at character 1: there is no inputs",
        ),
        (new(2, runs(&[("other", "event")])), "workflow.inputs.other: workflow ship has no input other"),
        (new(2, deploys("")), "deploy.release: "),
        (
            new(2, HookAction::Deploy { environment: nowhere, release: "'x'".to_owned() }),
            "there is no environment",
        ),
        (
            new(2, HookAction::Workflow { workflow: name("none"), inputs: BTreeMap::new() }),
            "there is no workflow",
        ),
    ] {
        let refused = create(&mut world, wanted).unwrap_err().to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    assert_eq!(world.tenant().hooks.len(), 1, "nothing of that has happened");
    for n in 2..=HOOKS_MAX as u128 {
        create(&mut world, new(n, runs(&[]))).unwrap();
    }
    let many = create(&mut world, new(1_000, runs(&[]))).unwrap_err().to_string();
    assert!(many.contains("which is the most"), "{many}");
}

/// Its sender does not ask again.
#[test]
fn what_a_hook_deploys_waits_for_what_proves_itself_there() {
    let mut world = world();
    let verification = Some(Verification { bake_ms: 600_000 });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    world.deploy(2, 2, None);
    world.complete(1);
    create(&mut world, new(1, deploys("'shop:3.0'"))).unwrap();
    let asked = by_hook(&mut world, 1, TenantCommand::Deploy(Box::new(new_deployment(3, 3, None)))).unwrap();
    assert_eq!(asked.outcome, Outcome::Promotion(common::promotion(3)));
    world.wait_ms(600_000);
    assert_eq!((world.status(2), world.status(3)), (&Status::Succeeded, &Status::Running));
    common::end(&world);
}

/// An operator leads what is there; whose authority is lent is an admin's to say.
#[test]
fn hooks_are_for_who_sets_the_rules() {
    let mut world = world();
    create(&mut world, new(1, runs(&[]))).unwrap();
    world.person(2);
    for role in [Role::Operator, Role::Deployer, Role::Approver] {
        world.give(2, role);
        for command in [
            TenantCommand::CreateHook(Box::new(new(2, runs(&[])))),
            TenantCommand::RotateHook { hook: hook(1), salt: digest(9), overlap_ms: 0 },
            TenantCommand::RemoveHook { hook: hook(1) },
        ] {
            let refused = world.tell_as(2, command).unwrap_err();
            assert!(matches!(refused, Rejection::Forbidden { .. }), "{role:?}: {refused}");
        }
    }
}

#[test]
fn a_hook_starts_what_it_was_made_for_and_nothing_else() {
    let mut world = world();
    create(&mut world, new(1, runs(&[]))).unwrap();
    create(&mut world, new(2, deploys("'shop:2.0'"))).unwrap();
    let other = json!({ "name": "other", "steps": [{ "id": "a", "wait": "1h" }] });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(other).unwrap())));
    let frozen = {
        let mut wanted = new_deployment(9, 2, None);
        wanted.override_freeze = Some("now".to_owned());
        wanted
    };
    let mut pathless = new_deployment(9, 2, None);
    pathless.override_path = Some("now".to_owned());
    let cancel = TenantCommand::CancelRun { run: run(1), reason: "x".to_owned() };
    for (n, command) in [
        (1, start(1, "other")),
        (1, TenantCommand::Deploy(Box::new(new_deployment(9, 2, None)))),
        (1, cancel),
        (1, TenantCommand::RemoveHook { hook: hook(2) }),
        (2, start(1, "ship")),
        (2, TenantCommand::Deploy(Box::new(frozen))),
        (2, TenantCommand::Deploy(Box::new(pathless))),
    ] {
        let refused = by_hook(&mut world, n, command).unwrap_err().to_string();
        assert!(refused.contains("may only start what it was made for"), "{refused}");
    }
    let started = by_hook(&mut world, 1, start(1, "ship")).unwrap();
    assert_eq!(started.outcome, Outcome::Run(run(1)));
    assert_eq!(world.tenant().runs[&run(1)].started_by.account().unwrap().id, account(CI));
    let asked = by_hook(&mut world, 2, TenantCommand::Deploy(Box::new(new_deployment(9, 2, None)))).unwrap();
    assert_eq!(asked.outcome, Outcome::Deployment(DeploymentId(Uuid::from_u128(0x309))));

    // With the roles of now, and only as long as there are an account and a hook.
    let nothing = |world: &mut World, roles: Vec<Grant>| {
        world.system(SystemCommand::SetAccountRoles { account: account(CI), roles }).unwrap();
    };
    nothing(&mut world, vec![Grant { role: Role::Viewer, tenant: Some(TENANT), environment: None }]);
    let refused = by_hook(&mut world, 1, start(2, "ship")).unwrap_err().to_string();
    assert!(refused.contains("account ci needs the role deployer in tenant acme"), "{refused}");
    world.system(SystemCommand::RemoveAccount { account: account(CI) }).unwrap();
    let refused = by_hook(&mut world, 1, start(2, "ship")).unwrap_err().to_string();
    assert!(refused.contains("account ci was removed"), "{refused}");
    world.tell_as(1, TenantCommand::RemoveHook { hook: hook(1) }).unwrap();
    let refused = by_hook(&mut world, 1, start(2, "ship")).unwrap_err().to_string();
    assert!(refused.contains("the hook was removed"), "{refused}");
    assert_eq!(world.tenant().runs.len(), 1);
}

#[test]
fn an_account_does_not_approve_what_its_hook_has_asked_for() {
    let mut world = world();
    world.person(2);
    create(&mut world, new(1, deploys("'shop:2.0'"))).unwrap();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    let asked = by_hook(&mut world, 1, TenantCommand::Deploy(Box::new(new_deployment(9, 2, None)))).unwrap();
    let Outcome::Promotion(asked) = asked.outcome else { panic!("{:?}", asked.outcome) };
    let roles = vec![Grant { role: Role::Admin, tenant: Some(TENANT), environment: None }];
    world.system(SystemCommand::SetAccountRoles { account: account(CI), roles }).unwrap();
    let token = common::api_token(CI);
    world
        .system(SystemCommand::CreateApiToken {
            id: token,
            name: "x".to_owned(),
            hash: digest(50),
            account: Some(account(CI)),
            expires_at: None,
        })
        .unwrap();
    let plan = world.tenant().promotions[&asked].plan.root;
    let approve = |reason: &str| TenantCommand::ApprovePromotion {
        promotion: asked,
        plan,
        reason: reason.to_owned(),
        signature: None,
    };
    let acting = ActingAccount { id: account(CI), name: name("ci") };
    let actor = Actor::ApiToken { id: token, account: Some(acting) };
    let own = Request { actor, ..World::request(Command::Tenant(TENANT, approve("mine"))) };
    let refused = world.send(&own).unwrap_err().to_string();
    assert!(refused.contains("nobody approves what they have asked for"), "{refused}");
    world.tell_as(2, approve("looked")).unwrap();
    assert_eq!(world.tenant().promotions[&asked].approvals[0].by.id, person(2).account().unwrap().id);
}

/// Person 1 makes hook 1, and 2 to 4 secrets of it: at the end those of 3, for a minute, and of 4 are good.
fn rotated(action: HookAction) -> World {
    let mut world = world();
    (2..=5).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    create(&mut world, new(1, action)).unwrap();
    for (who, overlap_ms) in [(2, 0), (3, 0), (4, 60_000)] {
        let salt = digest(u8::try_from(who).unwrap());
        world.tell_as(who, TenantCommand::RotateHook { hook: hook(1), salt, overlap_ms }).unwrap();
    }
    world
}

/// They have seen a secret with which they could send whatever they like, and then let it through.
#[test]
fn whoever_made_a_hook_or_a_secret_of_it_does_not_approve_what_it_asks_for() {
    let mut world = rotated(deploys("'shop:2.0'"));
    let asked = by_hook(&mut world, 1, TenantCommand::Deploy(Box::new(new_deployment(9, 2, None)))).unwrap();
    let Outcome::Promotion(asked) = asked.outcome else { panic!("{:?}", asked.outcome) };
    // It is as it was when it asked.
    world.tell_as(1, TenantCommand::RemoveHook { hook: hook(1) }).unwrap();
    assert_eq!(world.tenant().promotions[&asked].chosen_by, [person(1), person(3), person(4)]);
    let plan = world.tenant().promotions[&asked].plan.root;
    let approve =
        || TenantCommand::ApprovePromotion { promotion: asked, plan, reason: String::new(), signature: None };
    for who in [1, 3, 4] {
        let own = world.tell_as(who, approve()).unwrap_err().to_string();
        assert!(own.contains("made the hook behind it or a secret of that"), "{own}");
    }
    world.tell_as(2, approve()).unwrap();
    assert!(!world.tenant().promotions[&asked].is_open());

    // What was good until then is nobody's any more.
    let mut world = rotated(deploys("'shop:2.0'"));
    world.wait_ms(60_000);
    by_hook(&mut world, 1, TenantCommand::Deploy(Box::new(new_deployment(9, 2, None)))).unwrap();
    let asked = *world.tenant().open_promotions.iter().next().unwrap();
    assert_eq!(world.tenant().promotions[&asked].chosen_by, [person(1), person(4)]);
}

#[test]
fn whoever_made_a_hook_or_a_secret_of_it_does_not_approve_in_its_runs() {
    let mut world = rotated(runs(&[]));
    let part = json!({ "name": "part", "steps": [{ "id": "go", "approval": {} },
        { "id": "out", "needs": ["go"], "deploy": { "release": "shop:2.0", "environment": "staging" } }] });
    let inputs = json!({ "version": { "type": "text", "max_length": 8 } });
    let whole = json!({ "name": "ship", "inputs": inputs, "steps": [
        { "id": "go", "approval": {} },
        { "id": "part", "needs": ["go"], "workflow": { "name": "part", "version": 1 } }] });
    for template in [part, whole] {
        let template = Box::new(serde_json::from_value(template).unwrap());
        world.ok(TenantCommand::ApplyWorkflow(template));
    }
    by_hook(&mut world, 1, start(1, "ship")).unwrap();
    world.tell_as(1, TenantCommand::RemoveHook { hook: hook(1) }).unwrap();
    let go = |run| TenantCommand::DecideStep { run, step: id("go"), approve: true, reason: String::new() };
    let lets_go = |world: &mut World, run: RunId| {
        for who in [1, 3, 4] {
            let own = world.tell_as(who, go(run)).unwrap_err().to_string();
            assert!(own.contains("made the hook that started it or a secret of that"), "{own}");
        }
        world.tell_as(2, go(run)).unwrap();
    };
    lets_go(&mut world, run(1));
    let part = *world.tenant().active_runs.iter().find(|id| **id != run(1)).unwrap();
    lets_go(&mut world, part);
    let asked = *world.tenant().open_promotions.iter().next().unwrap();
    let chosen_by = &world.tenant().promotions[&asked].chosen_by;
    assert!([1, 3, 4].iter().all(|n| chosen_by.contains(&person(*n))), "{chosen_by:?}");
}

#[test]
fn a_secret_has_a_successor_and_may_outlive_it_for_a_while() {
    let mut world = world();
    create(&mut world, new(1, runs(&[]))).unwrap();
    let rotate =
        |salt: u8, overlap_ms| TenantCommand::RotateHook { hook: hook(1), salt: digest(salt), overlap_ms };
    let salts = |world: &World| world.tenant().hooks[&hook(1)].salts(world.now).collect::<Vec<_>>();
    assert_eq!(salts(&world), [digest(7)]);
    world.tell_as(1, rotate(8, 60_000)).unwrap();
    assert_eq!(salts(&world), [digest(8), digest(7)]);
    world.wait_ms(59_999);
    assert_eq!(salts(&world).len(), 2);
    world.wait_ms(1);
    assert_eq!(salts(&world), [digest(8)]);
    world.tell_as(1, rotate(9, 60_000)).unwrap();
    // One that is not trusted any more goes at once, and takes the one before it along.
    world.tell_as(1, rotate(10, 0)).unwrap();
    assert_eq!(salts(&world), [digest(10)]);
    let long = world.tell_as(1, rotate(11, OVERLAP_MS_MAX + 1)).unwrap_err().to_string();
    assert!(long.contains("overlap_seconds: must be at most 604800"), "{long}");
    let none = TenantCommand::RotateHook { hook: hook(2), salt: digest(1), overlap_ms: 0 };
    assert!(matches!(world.tell_as(1, none).unwrap_err(), Rejection::NotFound { .. }));
}

#[test]
fn an_environment_that_a_hook_leads_to_is_used() {
    let mut world = World::new();
    world.person(1);
    let roles = vec![Grant { role: Role::Deployer, tenant: Some(TENANT), environment: None }];
    let (id, kind) = (account(CI), AccountKind::Service);
    world.system(SystemCommand::CreateAccount { id, name: name("ci"), kind, roles }).unwrap();
    create(&mut world, new(1, deploys("'shop:2.0'"))).unwrap();
    let refused = world.tell_as(1, TenantCommand::RemoveEnvironment { id: STAGING }).unwrap_err().to_string();
    assert!(refused.contains("hooks bring releases to it: hook-1 (stella hook remove)"), "{refused}");
    world.tell_as(1, TenantCommand::RemoveHook { hook: hook(1) }).unwrap();
    world.tell_as(1, TenantCommand::RemoveEnvironment { id: STAGING }).unwrap();
}

/// Whoever may write the workflow that a hook runs would otherwise choose what comes, and let it through alone.
#[test]
fn who_wrote_the_workflow_of_a_run_does_not_approve_what_it_asks_for() {
    let mut world = world();
    (2..=3).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    create(&mut world, new(1, runs(&[]))).unwrap();
    let steps = json!([{ "id": "go", "approval": {} },
        { "id": "out", "needs": ["go"], "deploy": { "release": "shop:2.0", "environment": "staging" } }]);
    let inputs = json!({ "version": { "type": "text", "max_length": 8 } });
    let template = json!({ "name": "ship", "inputs": inputs, "steps": steps });
    let template = Box::new(serde_json::from_value(template).unwrap());
    world.tell_as(2, TenantCommand::ApplyWorkflow(template)).unwrap();
    by_hook(&mut world, 1, start(1, "ship")).unwrap();
    let go =
        || TenantCommand::DecideStep { run: run(1), step: id("go"), approve: true, reason: String::new() };
    let own = world.tell_as(2, go()).unwrap_err();
    assert!(
        matches!(&own, Rejection::Forbidden { problem } if problem.contains("they wrote its workflow")),
        "{own}"
    );
    world.tell_as(3, go()).unwrap();
    let asked = *world.tenant().open_promotions.iter().next().unwrap();
    assert_eq!(world.tenant().promotions[&asked].chosen_by, [person(1), person(2)]);
    let plan = world.tenant().promotions[&asked].plan.root;
    let approve =
        || TenantCommand::ApprovePromotion { promotion: asked, plan, reason: String::new(), signature: None };
    let own = world.tell_as(2, approve()).unwrap_err();
    assert!(
        matches!(&own, Rejection::Forbidden { problem } if problem.contains("they wrote the workflow")),
        "{own}"
    );
    world.tell_as(3, approve()).unwrap();
    assert!(!world.tenant().promotions[&asked].is_open());
}

/// Who has lost the answer to a rotation rotates again, and the secret that the sender has goes on for as long as was said.
#[test]
fn a_second_rotation_leaves_the_secrets_before_it_their_time() {
    let mut world = world();
    create(&mut world, new(1, runs(&[]))).unwrap();
    let rotate =
        |salt: u8, overlap_ms| TenantCommand::RotateHook { hook: hook(1), salt: digest(salt), overlap_ms };
    let salts = |world: &World| world.tenant().hooks[&hook(1)].salts(world.now).collect::<Vec<_>>();
    world.tell_as(1, rotate(8, 120_000)).unwrap();
    world.tell_as(1, rotate(9, 60_000)).unwrap();
    assert_eq!(salts(&world), [digest(9), digest(8), digest(7)]);
    world.wait_ms(60_000);
    assert_eq!(salts(&world), [digest(9), digest(7)], "each has its own time");
    for n in 10..13 {
        world.tell_as(1, rotate(n, 60_000)).unwrap();
    }
    let full = world.tell_as(1, rotate(13, 60_000)).unwrap_err().to_string();
    assert!(full.contains("4 earlier secrets of hook hook-1 are still good, which is the most"), "{full}");
    world.wait_ms(60_000);
    world.tell_as(1, rotate(14, 60_000)).unwrap();
    assert_eq!(salts(&world), [digest(14), digest(12)]);
    world.tell_as(1, rotate(15, 0)).unwrap();
    assert_eq!(salts(&world), [digest(15)]);
    common::end(&world);
}
