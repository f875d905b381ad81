//! Bad input: each refusal names the field and what to do, and changes nothing.

use std::collections::BTreeMap;

use crate::common::{
    STAGING, TOKEN, World, agent, conflict, deployment, digest, findings, name, new_deployment, new_release,
    new_target, release, target,
};
use stella_domain::agent::ENDED_TOKEN_MEMORY_MS;
use stella_domain::command::{
    NewDeployment, NewEnrolmentToken, NewFindings, NewRelease, NewTarget, Outcome, SystemCommand,
    TargetChange, TenantCommand,
};
use stella_domain::decide::IDEMPOTENCY_KEY_BYTES_MAX;
use stella_domain::deployment::Status;
use stella_domain::event::Fact;
use stella_domain::name::Name;
use stella_domain::rejection::Rejection;
use stella_domain::release::{Component, ReleaseBounds, STEPS_MAX, Step, StepAction};
use stella_domain::strategy::{Rolling, Strategy};
use stella_protocol::id::{EnrolmentTokenId, EnvironmentId, TaskId, TenantId};
use stella_protocol::message::{Profile, TaskOutcome};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

#[track_caller]
fn refused(world: &mut World, command: TenantCommand) -> Rejection {
    let (before, events) = (world.state.clone(), world.events.len());
    let rejection = world.tell(command).expect_err("a rejection");
    assert!(world.state == before && world.events.len() == events, "a rejection changes nothing");
    rejection
}

#[track_caller]
fn invalid(world: &mut World, command: TenantCommand, want: &str, hint: &str) {
    match refused(world, command) {
        Rejection::Invalid { field, problem } => {
            assert_eq!(field, want, "{problem}");
            assert!(problem.contains(hint), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

fn with_step(change: impl FnOnce(&mut Step)) -> TenantCommand {
    let mut new = new_release(9);
    new.components[0].digest = digest(1);
    change(&mut new.steps[1]);
    TenantCommand::CreateRelease(Box::new(new))
}

fn command(argv: &[&str]) -> StepAction {
    let argv = argv.iter().map(ToString::to_string).collect();
    StepAction::Command { argv, environment: BTreeMap::new(), working_directory: None, user: None }
}

#[test]
fn releases() {
    let mut world = World::with_targets(1);
    let with = |change: &dyn Fn(&mut NewRelease)| {
        let mut new = new_release(9);
        new.components[0].digest = digest(1);
        change(&mut new);
        TenantCommand::CreateRelease(Box::new(new))
    };
    let component = || Component { name: name("web"), digest: digest(1), size_bytes: 10 };
    invalid(
        &mut world,
        with(&|new| new.components[0].digest = digest(77)),
        "components[0].digest",
        "upload it first: PUT",
    );
    invalid(
        &mut world,
        with(&|new| new.components[0].size_bytes = 11),
        "components[0].size_bytes",
        "10 bytes",
    );
    invalid(&mut world, with(&|new| new.components.push(component())), "components[1].name", "twice");
    invalid(
        &mut world,
        with(&|new| (new.components, new.steps) = (vec![], vec![])),
        "components",
        "needs steps",
    );
    invalid(&mut world, with(&|new| new.components.clear()), "steps[0]", "no component \"web\"");
    invalid(&mut world, with(&|new| new.steps[1].name = name("install")), "steps[1].name", "twice");
    invalid(
        &mut world,
        with(&|new| new.steps = vec![new.steps[0].clone(); STEPS_MAX + 1]),
        "steps",
        "at most",
    );
    let label = |new: &mut NewRelease| drop(new.labels.insert("a b".to_owned(), String::new()));
    invalid(&mut world, with(&label), "labels.a b", "letters");
    let same = TenantCommand::CreateRelease(Box::new(NewRelease { id: release(9), ..new_release(1) }));
    assert!(matches!(refused(&mut world, same), Rejection::Exists { kind: "release", .. }));
    world.ok(with(&|new| new.steps.clear()));
    assert_eq!(world.tenant().releases[&release(9)].steps.len(), 1, "an artifact step for each component");
}

/// They stay, and all of them are in memory.
#[test]
fn a_tenant_has_a_bound_of_releases_and_of_what_they_say() {
    let mut world = World::with_release_1(1);
    let create = |n: u8, bounds| {
        let mut new = NewRelease { bounds, ..new_release(n) };
        new.components[0].digest = digest(1);
        TenantCommand::CreateRelease(Box::new(new))
    };
    let said = world.tenant().index.release_bytes;
    assert_eq!(said, world.tenant().releases.values().map(|it| it.bytes()).sum::<u64>());
    let there = u64::try_from(world.tenant().releases.len()).unwrap();
    let count = |max| ReleaseBounds { count_max: Some(max), bytes_max: None };
    let bytes = |max| ReleaseBounds { count_max: None, bytes_max: Some(max) };
    let is_full = |refused: Rejection, key: &str| {
        assert!(matches!(&refused, Rejection::Conflict { problem } if problem.contains(key)), "{refused}");
    };
    is_full(refused(&mut world, create(7, count(there))), "api.tenant_releases_max");
    world.ok(create(7, count(there + 1)));
    let more = world.tenant().releases[&release(7)].bytes();
    assert_eq!(world.tenant().index.release_bytes, said + more);
    is_full(refused(&mut world, create(8, bytes(said + 2 * more - 1))), "api.tenant_release_bytes_max");
    world.ok(create(8, bytes(said + 2 * more)));

    // What scanners say of one counts, and no longer than until they say something else.
    let full = world.tenant().index.release_bytes;
    let report = |critical: &[&str], bounds| {
        TenantCommand::RecordFindings(Box::new(NewFindings { bounds, ..findings(7, critical) }))
    };
    is_full(refused(&mut world, report(&["CVE-1"], bytes(full))), "api.tenant_release_bytes_max");
    world.ok(report(&["CVE-1", "CVE-2"], bytes(full + 1_000)));
    let reported = world.tenant().index.release_bytes;
    assert!(reported > full);
    world.ok(report(&["CVE-1"], bytes(full)));
    assert!(world.tenant().index.release_bytes < reported);
}

#[test]
fn steps() {
    let mut world = World::with_targets(1);
    let http = |url: &str, interval_ms, successes| StepAction::CheckHttp {
        url: url.to_owned(),
        status: 200,
        interval_ms,
        successes,
    };
    let cases: Vec<(StepAction, &str, &str)> = vec![
        (http("https://x", 100, 1), "steps[1].url", "http://"),
        (http("http://x", 0, 1), "steps[1].interval_ms", "between"),
        (http("http://x", 100, 0), "steps[1].successes", "between"),
        (http("http://${x", 100, 1), "steps[1]", "closing brace"),
        (command(&[]), "steps[1].argv", "program"),
        (command(&["a\0"]), "steps[1].argv", "NUL"),
        (command(&["a", &"x".repeat(300_000)]), "steps[1]", "command.argv"),
        (command(&["a", &"${x}".repeat(65)]), "steps[1]", "65 times"),
        (
            StepAction::Artifact { component: name("web"), keep_releases: 0 },
            "steps[1].keep_releases",
            "between 1 and 50",
        ),
        (StepAction::Artifact { component: name("db"), keep_releases: 1 }, "steps[1]", "no component \"db\""),
        (
            StepAction::CheckTcp { address: "x".to_owned(), interval_ms: 100, successes: 1 },
            "steps[1].address",
            "host:port",
        ),
    ];
    for (action, field, hint) in cases {
        invalid(&mut world, with_step(|step| step.action = action), field, hint);
    }
    invalid(&mut world, with_step(|step| step.timeout_ms = 999), "steps[1].timeout_ms", "a second to a day");
    invalid(
        &mut world,
        with_step(|step| step.timeout_ms = 86_400_001),
        "steps[1].timeout_ms",
        "a second to a day",
    );
}

#[test]
fn targets() {
    let mut world = World::with_targets(2);
    let with = |change: &dyn Fn(&mut NewTarget)| {
        let mut new = NewTarget { agent: agent(1), ..new_target(7) };
        change(&mut new);
        TenantCommand::CreateTarget(Box::new(new))
    };
    let nowhere = EnvironmentId(Uuid::from_u128(9));
    assert!(matches!(
        refused(&mut world, with(&|new| new.environment = nowhere)),
        Rejection::NotFound { kind: "environment", .. }
    ));
    assert!(matches!(
        refused(&mut world, with(&|new| new.agent = agent(9))),
        Rejection::NotFound { kind: "agent", .. }
    ));
    assert!(matches!(
        refused(&mut world, with(&|new| new.name = name("web-1"))),
        Rejection::Exists { kind: "target", .. }
    ));
    let slot = |slot: &str| Some(name(slot));
    let problem = refused(&mut world, with(&|new| new.slot = slot("a"))).to_string();
    assert!(problem.contains("web-1 has the whole host"), "{problem}");
    world.ok(TenantCommand::RemoveTarget { id: target(1) });
    world.ok(with(&|new| new.slot = slot("a")));
    let other = |new: &mut NewTarget| (new.id, new.name) = (target(8), name("web-8"));
    let problem = refused(&mut world, with(&|new| (other(new), new.slot = slot("a")).1)).to_string();
    assert!(problem.contains("slot a belongs to target web-7"), "{problem}");
    let problem = refused(&mut world, with(&|new| other(new))).to_string();
    assert!(problem.contains("give this one a slot too"), "{problem}");
    let variable = |key: &'static str, value: &'static str| {
        with(&move |new| {
            drop((other(new), new.slot = slot("b"), new.variables.insert(key.to_owned(), value.to_owned())))
        })
    };
    invalid(&mut world, variable("version", "1"), "variables.version", "built in");
    invalid(&mut world, variable("a-b", "1"), "variables.a-b", "letters");
    invalid(&mut world, variable("a", "\0"), "variables.a", "NUL");
    world.ok(TenantCommand::RevokeAgent { agent: agent(2), reason: String::new() });
    invalid(&mut world, with(&|new| (other(new), new.agent = agent(2)).1), "agent", "was revoked");
}

#[test]
fn deployments() {
    let mut world = World::with_targets(2);
    let with = |change: &dyn Fn(&mut NewDeployment)| {
        let mut new = new_deployment(1, 1, Some(1));
        change(&mut new);
        TenantCommand::Deploy(Box::new(new))
    };
    invalid(
        &mut world,
        with(&|new| new.strategy = Strategy::Rolling(Rolling::of(0))),
        "strategy.batch",
        "at least one",
    );
    invalid(&mut world, with(&|new| new.timeout_ms = 10), "timeout_ms", "a second to a week");
    invalid(&mut world, with(&|new| new.targets = Some(vec![])), "targets", "create one first");
    invalid(&mut world, with(&|new| new.targets = Some(vec![target(1), target(1)])), "targets[1]", "twice");
    let unknown = refused(&mut world, with(&|new| new.targets = Some(vec![target(9)])));
    assert!(matches!(unknown, Rejection::NotFound { kind: "target", .. }));
    let unknown = refused(&mut world, with(&|new| new.release = release(9)));
    assert!(matches!(unknown, Rejection::NotFound { kind: "release", .. }));
    world.ok(TenantCommand::RemoveTarget { id: target(2) });
    let bare = NewTarget { variables: BTreeMap::new(), ..new_target(2) };
    world.ok(TenantCommand::CreateTarget(Box::new(bare)));
    invalid(&mut world, with(&|_| ()), "targets[web-2].variables.port", "set it on the target");
    world.ok(with(&|new| new.targets = Some(vec![target(1)])));
    let busy =
        refused(&mut world, with(&|new| (new.id, new.targets) = (deployment(2), Some(vec![target(1)]))));
    assert!(
        busy.to_string().contains(&format!("deployment {} works on target web-1", deployment(1))),
        "{busy}"
    );
    let busy = refused(&mut world, TenantCommand::RemoveTarget { id: target(1) });
    assert!(busy.to_string().contains("wait for its end or cancel it"), "{busy}");
    let task = TaskId(Uuid::nil());
    let settle = TenantCommand::SettleTask { task, succeeded: true, reason: String::new() };
    invalid(&mut world, settle, "reason", "how you know");
    let elsewhere = TenantCommand::CreateEnvironment {
        id: EnvironmentId(Uuid::from_u128(8)),
        name: name("prod"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    };
    world.ok(elsewhere);
    let stranger = with(&|new| {
        new.id = deployment(3);
        (new.environment, new.targets) = (EnvironmentId(Uuid::from_u128(8)), Some(vec![target(1)]));
    });
    invalid(&mut world, stranger, "targets[0]", "not in environment prod");
}

#[test]
fn a_token_of_before_tokens_had_profiles_has_none() {
    let mut world = World::new();
    let id = EnrolmentTokenId(Uuid::from_u128(50));
    let fact = Fact::EnrolmentTokenCreated {
        id,
        secret_hash: digest(1),
        agent_name: None,
        labels: BTreeMap::new(),
        uses_max: 1,
        expires_at: world.now.plus_ms(1),
        profile: None,
    };
    let text = serde_json::to_string(&fact).unwrap();
    assert!(!text.contains("profile"), "an older control plane would not read {text}");
    assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
    let bound = TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
        id,
        secret_hash: digest(1),
        agent_name: None,
        labels: BTreeMap::new(),
        profile: Profile::Confined,
        uses_max: 1,
        expires_at: Timestamp(u64::MAX),
    }));
    world.ok(bound);
    assert_eq!(world.tenant().enrolment_tokens[&id].profile, Some(Profile::Confined));
}

#[test]
fn a_host_that_cannot_be_told_its_profile_is_held_to_none() {
    let mut world = World::new();
    let bound = EnrolmentTokenId(Uuid::from_u128(50));
    world.ok(TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
        id: bound,
        secret_hash: digest(1),
        agent_name: None,
        labels: BTreeMap::new(),
        profile: Profile::Confined,
        uses_max: 2,
        expires_at: Timestamp(u64::MAX),
    })));
    for (n, takes_profile, recorded) in [(11, true, Some(Profile::Confined)), (12, false, None)] {
        let enrolled = world.ok(TenantCommand::Enrol {
            token: bound,
            key_fingerprint: digest(n),
            agent: agent(n.into()),
            hostname: "edge".to_owned(),
            takes_profile,
            wanted: None,
        });
        assert_eq!(world.tenant().agents[&agent(n.into())].profile, recorded);
        let text = serde_json::to_string(&enrolled.events[0]).unwrap();
        assert_eq!(text.contains("profile_untold"), !takes_profile, "{text}");
    }
}

#[test]
fn a_token_is_taken_back_or_forgotten_and_whom_it_let_in_stays() {
    let mut world = World::new();
    let token = |n| EnrolmentTokenId(Uuid::from_u128(n));
    let create = |world: &mut World, n: u128| {
        let expires_at = world.now.plus_ms(1_000);
        world.ok(TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
            id: token(n),
            secret_hash: digest(1),
            agent_name: None,
            labels: BTreeMap::new(),
            profile: Profile::Confined,
            uses_max: 9,
            expires_at,
        })));
    };
    let enrol = |n: u128, key| TenantCommand::Enrol {
        token: token(n),
        key_fingerprint: digest(key),
        agent: agent(u128::from(key)),
        hostname: "edge".to_owned(),
        takes_profile: true,
        wanted: None,
    };
    create(&mut world, 50);
    create(&mut world, 51);
    world.ok(enrol(50, 11));
    let revoke =
        |reason: &str| TenantCommand::RevokeEnrolmentToken { id: token(50), reason: reason.to_owned() };
    invalid(&mut world, revoke(&"x".repeat(5_000)), "reason", "bytes");
    world.ok(revoke("it was in an image"));
    assert!(world.tenant().agents.contains_key(&agent(11)), "its agent stays");
    for key in [11, 12] {
        let told = refused(&mut world, enrol(50, key));
        assert!(matches!(told, Rejection::EnrolmentRefused { .. }), "{told:?}");
    }
    assert!(matches!(refused(&mut world, revoke("again")), Rejection::NotFound { .. }));

    // One that has ended is shown for a week.
    world.wait_ms(1_000 + ENDED_TOKEN_MEMORY_MS - 1);
    assert!(world.tenant().enrolment_tokens.contains_key(&token(51)));
    world.wait_ms(1);
    assert!(!world.tenant().enrolment_tokens.contains_key(&token(51)));
}

#[test]
fn enrolment() {
    let mut world = World::new();
    let once = EnrolmentTokenId(Uuid::from_u128(50));
    let now = world.now;
    let token = |agent_name: Option<Name>, uses_max, expires_at| {
        let labels = BTreeMap::from([("rack".to_owned(), "7".to_owned())]);
        let (secret_hash, profile) = (digest(1), Profile::Full);
        let new =
            NewEnrolmentToken { id: once, secret_hash, agent_name, labels, profile, uses_max, expires_at };
        TenantCommand::CreateEnrolmentToken(Box::new(new))
    };
    invalid(&mut world, token(None, 0, now.plus_ms(1)), "uses_max", "between");
    invalid(&mut world, token(None, 1, now), "expires_at", "future");
    invalid(&mut world, token(Some(name("x")), 2, now.plus_ms(1)), "agent_name", "only one");
    world.ok(token(Some(name("edge")), 1, now.plus_ms(1_000)));
    let enrol = |token, key, n| TenantCommand::Enrol {
        token,
        key_fingerprint: digest(key),
        agent: agent(n),
        hostname: "é".to_owned(),
        takes_profile: true,
        wanted: None,
    };
    let why = |rejection: Rejection| match rejection {
        Rejection::EnrolmentRefused { problem } => problem,
        other => panic!("{other:?}"),
    };
    let none = EnrolmentTokenId(Uuid::from_u128(51));
    assert!(why(refused(&mut world, enrol(none, 1, 1))).contains("no such token"));
    assert_eq!(world.ok(enrol(once, 1, 1)).outcome, Outcome::Agent(agent(1)));
    let again = world.ok(enrol(once, 1, 2));
    assert_eq!(
        (again.outcome, again.events.len()),
        (Outcome::Agent(agent(1)), 0),
        "a lost reply burns nothing"
    );
    assert!(why(refused(&mut world, enrol(once, 2, 2))).contains("used up"));
    world.wait_ms(1_000);
    assert!(why(refused(&mut world, enrol(once, 1, 1))).contains("expired"));
    let first = &world.tenant().agents[&agent(1)];
    assert_eq!((first.name.as_str(), first.labels["rack"].as_str()), ("edge", "7"));
    assert_eq!(first.profile, Some(Profile::Full));
    for (key, n) in [(3, 3), (4, 4)] {
        world.ok(enrol(TOKEN, key, n));
    }
    assert_eq!(
        world.tenant().agents[&agent(3)].name.as_str(),
        "agent",
        "nothing of the host's name can be used"
    );
    assert_eq!(world.tenant().agents[&agent(4)].name.as_str(), "agent-2");
    world.ok(TenantCommand::RevokeAgent { agent: agent(3), reason: String::new() });
    assert!(why(refused(&mut world, enrol(TOKEN, 3, 9))).contains("was revoked"));
}

#[test]
fn a_name_that_was_asked_for_is_given_or_the_host_is_refused() {
    let mut world = World::new();
    let token = |n: u128| EnrolmentTokenId(Uuid::from_u128(0x7000 + n));
    let enrol = |n: u8| TenantCommand::Enrol {
        token: token(n.into()),
        key_fingerprint: digest(n),
        agent: agent(n.into()),
        hostname: "new".to_owned(),
        takes_profile: true,
        wanted: None,
    };
    for n in 1..4 {
        let named = NewEnrolmentToken {
            id: token(n),
            agent_name: Some(name("db-1")),
            secret_hash: digest(1),
            labels: BTreeMap::new(),
            profile: Profile::Confined,
            uses_max: 1,
            expires_at: Timestamp(u64::MAX),
        };
        world.ok(TenantCommand::CreateEnrolmentToken(Box::new(named)));
    }
    world.ok(enrol(1));
    let why = refused(&mut world, enrol(2)).to_string();
    assert!(why.contains("agent db-1 is enrolled already; revoke it"), "{why}");
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: String::new() });
    world.ok(enrol(2));
    let now = world.tenant();
    assert_eq!(now.agents[&agent(2)].name, name("db-1"), "with the token that was not used up");
    assert_eq!(now.index.agents[&name("db-1")], agent(2));
    assert!(refused(&mut world, enrol(3)).to_string().contains("is enrolled already"));
}

#[test]
fn a_target_is_changed_in_place_and_can_be_moved_to_another_agent() {
    let mut world = World::with_targets(2);
    let set = |text: &str| Some(text.to_owned());
    let change = |with: &dyn Fn(&mut TargetChange)| {
        let (labels, variables) = (BTreeMap::new(), BTreeMap::new());
        let mut change = TargetChange { id: target(1), labels, variables, agent: None };
        with(&mut change);
        TenantCommand::UpdateTarget(Box::new(change))
    };
    let nothing = world.ok(change(&|_| ()));
    assert_eq!((nothing.outcome, nothing.events.len()), (Outcome::Target(target(1)), 0));
    world.ok(change(&|it| {
        it.labels.insert("rack".to_owned(), set("7"));
        it.variables.insert("port".to_owned(), set("9000"));
    }));
    world.ok(change(&|it| drop(it.labels.insert("rack".to_owned(), None))));
    let now = &world.tenant().targets[&target(1)];
    assert!(!now.labels.contains_key("rack") && now.variables["port"] == "9000", "{now:?}");
    invalid(
        &mut world,
        change(&|it| drop(it.variables.insert("version".to_owned(), set("1")))),
        "variables.version",
        "built in",
    );
    let busy = refused(&mut world, change(&|it| it.agent = Some(agent(2)))).to_string();
    assert!(busy.contains("web-2 has the whole host"), "{busy}");
    world.ok(TenantCommand::RemoveTarget { id: target(2) });

    // What is under way keeps its variables and its agent.
    let only = NewDeployment { targets: Some(vec![target(1)]), ..new_deployment(1, 1, None) };
    world.ok(TenantCommand::Deploy(Box::new(only)));
    world.ok(change(&|it| drop(it.variables.insert("port".to_owned(), set("9001")))));
    let part = &world.tenant().deployments[&deployment(1)].targets[&target(1)];
    assert_eq!(part.variables["port"], "9000");
    let busy = refused(&mut world, change(&|it| it.agent = Some(agent(2)))).to_string();
    assert!(busy.contains("works on target web-1"), "{busy}");
    while !world.status(1).is_final() {
        world.finish(1, TaskOutcome::Succeeded);
    }
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(1)));
    let before = world.tenant().targets[&target(1)].generation;
    world.ok(change(&|it| it.agent = Some(agent(2))));
    let now = &world.tenant().targets[&target(1)];
    assert_eq!((now.agent, now.generation), (agent(2), before), "the fence stays where it was");
    assert_eq!((now.current, now.last, now.idle), (None, None, None), "nothing is known of what is there");
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: String::new() });
    invalid(&mut world, change(&|it| it.agent = Some(agent(1))), "agent", "was revoked");
}

#[test]
fn many_hosts_of_one_name_have_different_names() {
    let mut world = World::new();
    for n in 0..40 {
        let hostname = "h".repeat(100);
        world.ok(TenantCommand::Enrol {
            token: TOKEN,
            key_fingerprint: digest(n),
            agent: agent(u128::from(n) << 64),
            hostname,
            takes_profile: true,
            wanted: None,
        });
    }
    assert_eq!(world.tenant().index.agents.len(), 40);
}

#[test]
fn tenants_and_keys() {
    let mut world = World::new();
    let id = TenantId(Uuid::from_u128(5));
    let again = world.system(SystemCommand::CreateTenant { id, name: name("acme") });
    assert!(matches!(again.unwrap_err(), Rejection::Exists { kind: "tenant", .. }));
    let empty = world.tell_once("", digest(1), TenantCommand::RemoveTarget { id: target(1) });
    assert!(matches!(empty.unwrap_err(), Rejection::Invalid { field, .. } if field == "idempotency_key"));
    let long = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1);
    let long = world.tell_once(&long, digest(1), TenantCommand::RemoveTarget { id: target(1) }).unwrap_err();
    assert_eq!(long.to_string(), "idempotency_key: must have 1 to 256 bytes; any random text will do");
    let store =
        |size_bytes| TenantCommand::StoreArtifact { digest: digest(1), size_bytes, tenant_bytes_max: None };
    invalid(&mut world, store(0), "size_bytes", "not empty");
    world.ok(store(5));
    assert!(world.ok(store(5)).events.is_empty());
    assert!(matches!(refused(&mut world, store(6)), Rejection::Conflict { .. }));
    let first = TenantCommand::CreateEnvironment {
        id: EnvironmentId(Uuid::from_u128(7)),
        name: name("staging"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    };
    assert!(matches!(refused(&mut world, first), Rejection::Exists { kind: "environment", .. }));
    assert_eq!(world.tenant().environments[&STAGING].order, 0);
    assert_eq!(world.state.next_due(), Some(Timestamp(u64::MAX)), "only the token's end, which never comes");
}

#[test]
fn another_application_comes_to_a_target_only_if_that_is_said() {
    let mut world = World::with_release_1(2);
    let other = NewRelease { application: name("other"), ..new_release(4) };
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(other)));
    let wanted = new_deployment(2, 4, None);
    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(wanted.clone()))));
    assert!(refused.contains("has shop:1.0, and other is another application"), "{refused}");
    let wanted = NewDeployment { replace_application: true, ..wanted };
    world.ok(TenantCommand::Deploy(Box::new(wanted)));
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
}
