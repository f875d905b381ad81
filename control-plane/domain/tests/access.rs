//! Who may do what: every command with the least role that lets it through.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, TENANT, TOKEN, World, agent, deployment, digest, hello, invariants, mark, name,
    new_deployment, new_release, new_target, promotion, release, target,
};
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::api_token::ACCOUNT_TOKENS_MAX;
use stella_domain::command::{
    ActingAccount, Actor, Command, NewDeployment, NewEnrolmentToken, NewTarget, Outcome, Report, Request,
    SystemCommand, TargetChange, TenantCommand,
};
use stella_domain::decide::decide;
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::freeze::{Freeze, Repeats};
use stella_domain::hold::Verdict;
use stella_domain::promotion::Objection;
use stella_domain::rejection::Rejection;
use stella_protocol::id::{
    AccountId, ApiTokenId, Attempt, AttemptKey, DeploymentId, EnvironmentId, SessionEpoch, TargetId, TenantId,
};
use stella_protocol::message::Running;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x22));
const OTHER_TENANT: TenantId = TenantId(Uuid::from_u128(0x11));
const ALICE: AccountId = AccountId(Uuid::from_u128(0x900));
const ALICES: ApiTokenId = ApiTokenId(Uuid::from_u128(0x901));
const ROOT: ApiTokenId = ApiTokenId(Uuid::from_u128(0x902));

fn everywhere(role: Role) -> Grant {
    Grant { role, tenant: None, environment: None }
}

fn in_tenant(role: Role, tenant: TenantId) -> Grant {
    Grant { role, tenant: Some(tenant), environment: None }
}

fn in_environment(role: Role, environment: EnvironmentId) -> Grant {
    Grant { role, tenant: Some(TENANT), environment: Some(environment) }
}

/// A busy tenant with two environments, another tenant, a token that may do everything, and alice with hers.
fn world() -> World {
    let mut world = World::with_targets(2);
    world.ok(TenantCommand::CreateEnvironment {
        id: PRODUCTION,
        name: name("production"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    });
    world.deploy(1, 1, Some(1));
    world.system(SystemCommand::CreateTenant { id: OTHER_TENANT, name: name("globex") }).unwrap();
    world.system(token(ROOT, None)).unwrap();
    let alice = SystemCommand::CreateAccount {
        id: ALICE,
        name: name("alice"),
        kind: AccountKind::User,
        roles: vec![],
    };
    world.system(alice).unwrap();
    world.system(token(ALICES, Some(ALICE))).unwrap();
    world
}

fn token(id: ApiTokenId, account: Option<AccountId>) -> SystemCommand {
    SystemCommand::CreateApiToken { id, name: "x".to_owned(), hash: digest(1), account, expires_at: None }
}

fn give(world: &mut World, roles: &[Grant]) {
    let set = SystemCommand::SetAccountRoles { account: ALICE, roles: roles.to_vec() };
    world.system(set).unwrap();
}

/// What becomes of a command by the bearer of a token; nothing is changed.
fn asked(world: &World, token: ApiTokenId, command: Command) -> Result<Outcome, Rejection> {
    let account = (token == ALICES).then(|| ActingAccount { id: ALICE, name: name("alice") });
    let actor = Actor::ApiToken { id: token, account };
    let request = Request { actor, ..World::request(command) };
    decide(&world.state, &request, world.now).map(|decision| decision.outcome)
}

fn is_forbidden(result: &Result<Outcome, Rejection>) -> bool {
    matches!(result, Err(Rejection::Forbidden { .. }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Staging,
    Anywhere,
    Tenant,
}

/// Every command that people give in a tenant, with the least role for it and where that has to hold.
#[expect(clippy::too_many_lines, reason = "it is one table")]
fn commands(world: &World) -> Vec<(&'static str, Role, Where, TenantCommand)> {
    use Where::{Anywhere, Staging, Tenant};
    let reason = || "why".to_owned();
    let task = world.task_on(1).id;
    let statement = stella_domain::signature::statement(&world.tenant().releases[&release(1)]);
    let enrolment = NewEnrolmentToken {
        id: TOKEN,
        secret_hash: digest(1),
        agent_name: None,
        labels: BTreeMap::new(),
        profile: stella_protocol::message::Profile::Confined,
        uses_max: 1,
        expires_at: Timestamp(u64::MAX),
    };
    let freeze = Freeze {
        name: name("x"),
        reason: reason(),
        from: "2026-12-18T18:00".parse().unwrap(),
        to: "2026-12-21T08:00".parse().unwrap(),
        time_zone: "UTC".to_owned(),
        repeats: Repeats::Never,
    };
    let of = deployment(1);
    let unknown = DeploymentId(Uuid::from_u128(0xdead));
    vec![
        (
            "store",
            Role::Deployer,
            Anywhere,
            TenantCommand::StoreArtifact { digest: digest(7), size_bytes: 1, tenant_bytes_max: None },
        ),
        ("release", Role::Deployer, Anywhere, TenantCommand::CreateRelease(Box::new(new_release(9)))),
        (
            "sign",
            Role::Deployer,
            Anywhere,
            TenantCommand::SignRelease {
                release: release(1),
                key: digest(1),
                signature: common::signing_key(1).sign(&statement),
            },
        ),
        ("add key", Role::Admin, Tenant, common::add_key(1)),
        (
            "revoke key",
            Role::Admin,
            Tenant,
            TenantCommand::RevokeReleaseKey { key: digest(1), reason: reason() },
        ),
        (
            "channel",
            Role::Admin,
            Tenant,
            TenantCommand::SetChannel {
                application: name("shop"),
                name: name("stable"),
                rule: stella_domain::channel::ChannelRule::default(),
            },
        ),
        (
            "remove channel",
            Role::Admin,
            Tenant,
            TenantCommand::RemoveChannel { application: name("shop"), name: name("stable") },
        ),
        (
            "take channels",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentChannels { environment: STAGING, channels: Vec::new() },
        ),
        ("demand signatures", Role::Admin, Tenant, TenantCommand::SetReleaseSigning { rule: None }),
        ("deploy", Role::Deployer, Staging, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))),
        (
            "rollback",
            Role::Deployer,
            Staging,
            TenantCommand::Rollback { id: deployment(2), of, targets: None },
        ),
        (
            "retry",
            Role::Deployer,
            Staging,
            TenantCommand::RetryDeployment { id: deployment(2), of, targets: None },
        ),
        (
            "cancel",
            Role::Deployer,
            Staging,
            TenantCommand::CancelDeployment { deployment: of, reason: reason() },
        ),
        (
            "pause",
            Role::Deployer,
            Staging,
            TenantCommand::PauseDeployment { deployment: of, reason: reason() },
        ),
        ("resume", Role::Deployer, Staging, TenantCommand::ResumeDeployment { deployment: of }),
        ("resume nothing", Role::Deployer, Anywhere, TenantCommand::ResumeDeployment { deployment: unknown }),
        ("target", Role::Operator, Staging, TenantCommand::CreateTarget(Box::new(new_target(9)))),
        (
            "update",
            Role::Operator,
            Staging,
            TenantCommand::UpdateTarget(Box::new(TargetChange {
                id: target(2),
                labels: BTreeMap::new(),
                variables: BTreeMap::new(),
                agent: None,
            })),
        ),
        ("remove", Role::Operator, Staging, TenantCommand::RemoveTarget { id: target(2) }),
        (
            "remove nothing",
            Role::Operator,
            Anywhere,
            TenantCommand::RemoveTarget { id: TargetId(Uuid::from_u128(0xdead)) },
        ),
        (
            "lock",
            Role::Operator,
            Staging,
            TenantCommand::LockEnvironment { environment: STAGING, reason: reason() },
        ),
        ("unlock", Role::Operator, Staging, TenantCommand::UnlockEnvironment { environment: STAGING }),
        (
            "settle",
            Role::Operator,
            Staging,
            TenantCommand::SettleTask { task, succeeded: true, reason: reason() },
        ),
        ("invite", Role::Operator, Tenant, TenantCommand::CreateEnrolmentToken(Box::new(enrolment))),
        (
            "uninvite",
            Role::Operator,
            Tenant,
            TenantCommand::RevokeEnrolmentToken { id: TOKEN, reason: reason() },
        ),
        ("revoke", Role::Operator, Tenant, TenantCommand::RevokeAgent { agent: agent(1), reason: reason() }),
        ("drain", Role::Operator, Tenant, TenantCommand::DrainAgent { agent: agent(1), reason: reason() }),
        ("undrain", Role::Operator, Tenant, TenantCommand::UndrainAgent { agent: agent(1) }),
        (
            "judge",
            Role::Operator,
            Tenant,
            TenantCommand::JudgeRelease { release: release(1), verdict: Verdict::Block, reason: reason() },
        ),
        (
            "environment",
            Role::Admin,
            Tenant,
            TenantCommand::CreateEnvironment {
                id: EnvironmentId(Uuid::from_u128(0x33)),
                name: name("qa"),
                order: None,
                way_back_proof: stella_domain::way_back::ProofRule::Off,
            },
        ),
        (
            "approvals",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: None },
        ),
        (
            "freeze",
            Role::Admin,
            Staging,
            TenantCommand::FreezeEnvironment { environment: STAGING, freeze: Box::new(freeze) },
        ),
        (
            "budget",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentBudget { environment: STAGING, budget: None },
        ),
        (
            "way back",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentWayBack { environment: STAGING, required: true },
        ),
        (
            "strategy",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentStrategy { environment: STAGING, strategy: None },
        ),
        (
            "waive",
            Role::Operator,
            Staging,
            TenantCommand::Deploy(Box::new(NewDeployment {
                waive_way_back: Some(reason()),
                ..new_deployment(4, 1, None)
            })),
        ),
        (
            "silence",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentSilence { environment: STAGING, rule: None },
        ),
        (
            "verification",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentVerification { environment: STAGING, verification: None },
        ),
        (
            "retire",
            Role::Deployer,
            Staging,
            TenantCommand::RetireColours { id: deployment(5), of: deployment(1) },
        ),
        (
            "retry target",
            Role::Deployer,
            Staging,
            TenantCommand::RetryTarget { deployment: deployment(1), target: target(1) },
        ),
        (
            "skip target",
            Role::Deployer,
            Staging,
            TenantCommand::SkipTarget { deployment: deployment(1), target: target(1), reason: reason() },
        ),
        (
            "fail",
            Role::Deployer,
            Staging,
            TenantCommand::FailDeployment { deployment: deployment(1), roll_back: false, reason: reason() },
        ),
        (
            "unfreeze",
            Role::Admin,
            Staging,
            TenantCommand::UnfreezeEnvironment { environment: STAGING, freeze: name("x") },
        ),
        (
            "override",
            Role::Operator,
            Staging,
            TenantCommand::Deploy(Box::new(NewDeployment {
                override_freeze: Some(reason()),
                ..new_deployment(3, 1, None)
            })),
        ),
        (
            "override the path",
            Role::Operator,
            Staging,
            TenantCommand::Deploy(Box::new(NewDeployment {
                override_path: Some(reason()),
                ..new_deployment(3, 1, None)
            })),
        ),
        (
            "approve",
            Role::Approver,
            Staging,
            TenantCommand::ApprovePromotion {
                promotion: promotion(1),
                plan: digest(1),
                reason: reason(),
                signature: None,
            },
        ),
        (
            "reject",
            Role::Approver,
            Staging,
            TenantCommand::RejectPromotion {
                promotion: promotion(1),
                objection: Objection::Other,
                reason: reason(),
            },
        ),
        (
            "withdraw",
            Role::Deployer,
            Staging,
            TenantCommand::WithdrawPromotion { promotion: promotion(1), reason: reason() },
        ),
        (
            "path",
            Role::Admin,
            Staging,
            TenantCommand::SetEnvironmentPath { environment: STAGING, requires: None },
        ),
    ]
}

#[test]
fn every_command_needs_its_role_where_it_takes_effect() {
    let mut world = world();
    for (label, least, place, command) in commands(&world) {
        let command = Command::Tenant(TENANT, command);
        for role in Role::ALL {
            let enough = role.includes(least);
            for (grant, fits) in [
                (everywhere(role), true),
                (in_tenant(role, TENANT), true),
                (in_environment(role, STAGING), place != Where::Tenant),
                (in_environment(role, PRODUCTION), place == Where::Anywhere),
            ] {
                give(&mut world, &[grant]);
                let result = asked(&world, ALICES, command.clone());
                assert_eq!(is_forbidden(&result), !(enough && fits), "{label} with {grant:?}: {result:?}");
            }
            // Another tenant's people are not even told that this one exists.
            give(&mut world, &[in_tenant(role, OTHER_TENANT)]);
            let result = asked(&world, ALICES, command.clone());
            let unknown = Rejection::NotFound { kind: TenantId::KIND, id: TENANT.to_string() };
            assert_eq!(result, Err(unknown), "{label}");
        }
        assert!(!is_forbidden(&asked(&world, ROOT, command)), "{label}");
    }
    invariants::replay(&world.events, &world.state);
}

#[test]
fn another_target_on_a_host_needs_the_role_wherever_the_host_serves() {
    let mut world = world();
    // Host 3 has no target, host 4 one of staging, and host 5 one of each.
    let on = |n, host, environment| NewTarget {
        agent: agent(host),
        environment,
        slot: Some(name(&format!("slot-{n}"))),
        ..new_target(n)
    };
    for host in 3..=5 {
        world.enrol(host);
    }
    for (n, host, environment) in [(20, 4, STAGING), (21, 5, STAGING), (22, 5, PRODUCTION)] {
        world.ok(TenantCommand::CreateTarget(Box::new(on(n, host, environment))));
    }
    let (staging, production) =
        (in_environment(Role::Operator, STAGING), in_environment(Role::Operator, PRODUCTION));
    let everywhere_in_it = in_tenant(Role::Operator, TENANT);
    for (host, roles, is_enough) in [
        (5, vec![staging], false),
        (5, vec![production], false),
        (5, vec![staging, production], true),
        (5, vec![everywhere_in_it], true),
        (3, vec![staging], false),
        (3, vec![staging, production], false),
        (3, vec![everywhere_in_it], true),
        (4, vec![staging], true),
        (4, vec![production], false),
    ] {
        give(&mut world, &roles);
        let create = TenantCommand::CreateTarget(Box::new(on(30, host, STAGING)));
        let result = asked(&world, ALICES, Command::Tenant(TENANT, create));
        assert_eq!(result.is_ok(), is_enough, "host {host} with {roles:?}: {result:?}");
        assert_eq!(is_forbidden(&result), !is_enough, "host {host} with {roles:?}: {result:?}");
    }
    // A target that is moved comes to another host as well.
    let (hers, moved) = (in_environment(Role::Operator, STAGING), |host| {
        let change = TargetChange {
            id: target(20),
            labels: BTreeMap::new(),
            variables: BTreeMap::new(),
            agent: Some(agent(host)),
        };
        Command::Tenant(TENANT, TenantCommand::UpdateTarget(Box::new(change)))
    });
    give(&mut world, &[hers]);
    for (host, may) in [(3, false), (4, true), (5, false)] {
        let result = asked(&world, ALICES, moved(host));
        assert_eq!(is_forbidden(&result), !may, "to host {host}: {result:?}");
    }
    give(&mut world, &[staging]);
    for (host, why) in [(5, "has target web-22 of it"), (3, "serves no environment yet")] {
        let create = TenantCommand::CreateTarget(Box::new(on(30, host, STAGING)));
        let refused = asked(&world, ALICES, Command::Tenant(TENANT, create)).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn what_agents_say_cannot_be_said_with_a_token_nor_by_another_agent() {
    let world = world();
    let key = AttemptKey { task: world.task_on(1).id, attempt: Attempt(1) };
    let report = Report::Running(Running { key, started_at: world.now });
    let session = SessionEpoch(1);
    let said = [
        TenantCommand::Report { agent: agent(1), session, report },
        TenantCommand::DisconnectAgent { agent: agent(1), session, reason: String::new() },
        TenantCommand::ConnectAgent {
            agent: agent(1),
            hello: Box::new(hello(mark(1, 0), vec![])),
            journal_rolled_back: false,
        },
    ];
    let by = |id, command: &TenantCommand| {
        let actor = Actor::Agent { id };
        let request = Request { actor, ..World::request(Command::Tenant(TENANT, command.clone())) };
        decide(&world.state, &request, world.now).map(|decision| decision.outcome)
    };
    for command in &said {
        assert!(!is_forbidden(&by(agent(1), command)), "{command:?}");
        assert!(is_forbidden(&by(agent(2), command)), "{command:?}");
        assert!(is_forbidden(&asked(&world, ROOT, Command::Tenant(TENANT, command.clone()))), "{command:?}");
    }
    let deploy = TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)));
    assert!(is_forbidden(&by(agent(1), &deploy)));
}

#[test]
fn accounts_are_for_administrators_and_everybody_renews_their_own_tokens() {
    let mut world = world();
    let (other, new) = (AccountId(Uuid::from_u128(0x910)), ApiTokenId(Uuid::from_u128(0x911)));
    let create = |roles| SystemCommand::CreateAccount {
        id: other,
        name: name("bob"),
        kind: AccountKind::Service,
        roles,
    };
    give(&mut world, &[in_tenant(Role::Admin, TENANT)]);
    let everything = vec![everywhere(Role::Admin)];
    let refused = [
        create(vec![]),
        SystemCommand::SetAccountRoles { account: ALICE, roles: everything.clone() },
        SystemCommand::RemoveAccount { account: ALICE },
        SystemCommand::CreateTenant { id: TenantId(Uuid::from_u128(0x44)), name: name("hooli") },
        token(new, None),
        token(new, Some(other)),
        SystemCommand::RevokeApiToken { id: ROOT },
        SystemCommand::RevokeApiToken { id: new },
    ];
    for command in refused {
        assert!(is_forbidden(&asked(&world, ALICES, Command::System(command.clone()))), "{command:?}");
    }
    for command in [token(new, Some(ALICE)), SystemCommand::RevokeApiToken { id: ALICES }] {
        assert!(asked(&world, ALICES, Command::System(command.clone())).is_ok(), "{command:?}");
    }
    give(&mut world, &everything);
    assert_eq!(asked(&world, ALICES, Command::System(create(everything))), Ok(Outcome::Account(other)));
}

#[test]
fn roles_are_kept_in_order_and_only_for_places_that_exist() {
    let mut world = world();
    let twice =
        [in_tenant(Role::Viewer, TENANT), everywhere(Role::Deployer), in_tenant(Role::Viewer, TENANT)];
    give(&mut world, &twice);
    let kept = [in_tenant(Role::Viewer, TENANT), everywhere(Role::Deployer)];
    assert_eq!(world.state.system.accounts[&ALICE].roles, kept);
    let events = world.events.len();
    give(&mut world, &kept);
    assert_eq!(world.events.len(), events, "nothing has changed, so nothing is recorded");
    let nowhere = TenantId(Uuid::from_u128(0x77));
    let wrong = [
        in_tenant(Role::Viewer, nowhere),
        Grant { role: Role::Viewer, tenant: None, environment: Some(STAGING) },
        Grant { role: Role::Viewer, tenant: Some(OTHER_TENANT), environment: Some(STAGING) },
    ];
    for grant in wrong {
        let roles = vec![everywhere(Role::Viewer), grant];
        let refused = world.system(SystemCommand::SetAccountRoles { account: ALICE, roles }).unwrap_err();
        assert!(matches!(&refused, Rejection::Invalid { field, .. } if field == "roles[1]"), "{refused:?}");
    }
    let many = vec![everywhere(Role::Viewer); stella_domain::access::GRANTS_MAX + 1];
    world.system(SystemCommand::SetAccountRoles { account: ALICE, roles: many }).unwrap_err();
    let again = SystemCommand::CreateAccount {
        id: AccountId(Uuid::from_u128(0x999)),
        name: name("alice"),
        kind: AccountKind::User,
        roles: vec![],
    };
    assert!(matches!(world.system(again), Err(Rejection::Exists { .. })));
}

#[test]
fn the_last_who_administers_cannot_go() {
    let mut world = world();
    let conflict = |result: Result<_, Rejection>| assert!(matches!(result, Err(Rejection::Conflict { .. })));
    conflict(world.system(SystemCommand::RevokeApiToken { id: ROOT }).map(drop));
    give(&mut world, &[everywhere(Role::Admin)]);
    world.system(SystemCommand::RevokeApiToken { id: ROOT }).unwrap();
    conflict(world.system(SystemCommand::RevokeApiToken { id: ALICES }).map(drop));
    conflict(world.system(SystemCommand::SetAccountRoles { account: ALICE, roles: vec![] }).map(drop));
    conflict(world.system(SystemCommand::RemoveAccount { account: ALICE }).map(drop));
    world.system(token(ROOT, None)).unwrap();
    world.system(SystemCommand::RemoveAccount { account: ALICE }).unwrap();
    assert!(!world.state.system.api_tokens.contains_key(&ALICES), "its tokens are revoked");
    let late = asked(
        &world,
        ALICES,
        Command::Tenant(
            TENANT,
            TenantCommand::StoreArtifact { digest: digest(1), size_bytes: 1, tenant_bytes_max: None },
        ),
    );
    assert!(is_forbidden(&late), "{late:?}");
    let other = SystemCommand::CreateAccount {
        id: AccountId(Uuid::from_u128(0x999)),
        name: name("alice"),
        kind: AccountKind::User,
        roles: vec![],
    };
    world.system(other).unwrap();
    invariants::replay(&world.events, &world.state);
}

#[test]
fn an_account_has_so_many_tokens_and_no_more_and_goes_with_all_of_them() {
    let mut world = world();
    give(&mut world, &[everywhere(Role::Viewer)]);
    let nth = |n: usize| ApiTokenId(Uuid::from_u128(0x1_0000 + n as u128));
    let create = |n| Command::System(token(nth(n), Some(ALICE)));
    // One she has already.
    for n in 1..ACCOUNT_TOKENS_MAX {
        world.system(token(nth(n), Some(ALICE))).unwrap();
    }
    let refused = asked(&world, ALICES, create(0));
    assert!(
        matches!(&refused, Err(Rejection::Conflict { problem }) if problem.contains("256 tokens")),
        "{refused:?}"
    );
    world.system(token(nth(0), None)).unwrap();
    world.system(SystemCommand::RevokeApiToken { id: nth(1) }).unwrap();
    assert!(asked(&world, ALICES, create(1)).is_ok());
    assert_eq!(world.state.system.api_tokens.of_account(ALICE).count(), ACCOUNT_TOKENS_MAX - 1);

    // One of before there was a bound.
    let many = 3 * ACCOUNT_TOKENS_MAX;
    for n in ACCOUNT_TOKENS_MAX..many {
        let end = Some(Timestamp(u64::MAX));
        let (name, hash, account) = ("x".to_owned(), digest(7), Some(ALICE));
        let fact = Fact::ApiTokenCreated { id: nth(n), name, hash, account, expires_at: end };
        let event = Event { at: world.now, actor: Actor::System, trace: TraceContext::default(), fact };
        world.state.apply(StreamId::System, &event).unwrap();
        world.events.push((StreamId::System, event));
    }
    assert!(matches!(asked(&world, ALICES, create(many)), Err(Rejection::Conflict { .. })));
    let removed = world.system(SystemCommand::RemoveAccount { account: ALICE }).unwrap();
    assert_eq!(removed.events.len(), ACCOUNT_TOKENS_MAX + 1);
    assert_eq!(world.state.system.api_tokens.of_account(ALICE).count(), 0);
    assert_eq!(world.state.system.api_tokens.with_hash(digest(7)), None);
    assert!(world.state.system.timers.is_empty(), "nothing is left to wait for");
    invariants::replay(&world.events, &world.state);
}

#[test]
fn an_event_of_before_there_were_accounts_is_still_read() {
    let old = serde_json::json!({"type": "api_token", "id": Uuid::nil()});
    let actor: Actor = serde_json::from_value(old.clone()).unwrap();
    assert_eq!(actor, Actor::ApiToken { id: ApiTokenId(Uuid::nil()), account: None });
    assert_eq!(serde_json::to_value(&actor).unwrap(), old);
}

#[test]
fn a_token_ends_with_its_time_and_is_no_last_way_in() {
    let mut world = world();
    let (brief, end) = (ApiTokenId(Uuid::from_u128(0x920)), world.now.plus_ms(1_000));
    let create = |expires_at| SystemCommand::CreateApiToken {
        id: brief,
        name: "x".to_owned(),
        hash: digest(1),
        account: None,
        expires_at: Some(expires_at),
    };
    assert!(matches!(world.system(create(world.now)), Err(Rejection::Invalid { .. })));
    world.system(create(end)).unwrap();
    let store = || {
        Command::Tenant(
            TENANT,
            TenantCommand::StoreArtifact { digest: digest(7), size_bytes: 1, tenant_bytes_max: None },
        )
    };
    assert!(asked(&world, brief, store()).is_ok());
    let refused = world.system(SystemCommand::RevokeApiToken { id: ROOT });
    assert!(matches!(refused, Err(Rejection::Conflict { .. })), "{refused:?}");
    world.now = end;
    assert!(is_forbidden(&asked(&world, brief, store())), "to the millisecond, before any timer");
    world.wait_ms(0);
    assert!(!world.state.system.api_tokens.contains_key(&brief), "and then it goes by itself");
    world.system(create(world.now.plus_ms(1_000))).unwrap();
    world.system(SystemCommand::RevokeApiToken { id: brief }).unwrap();
    assert!(world.state.system.timers.is_empty(), "nothing is left to wait for");
    invariants::replay(&world.events, &world.state);
}
