//! Every state of what people set up (environments, targets, releases, tokens, accounts, workflows, the authority), and every fact about
//! it: what follows, or that it is refused. The table is committed; `UPDATE_GOLDEN=1 cargo test` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::common::golden::{applied, compare, rows};
use crate::common::{
    self, STAGING, TENANT, TOKEN, World, account, agent, api_token, digest, findings, freeze, gate, http,
    name, new_deployment, promotion, release, rule, signed, target,
};
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::agent::FiguresAddress;
use stella_domain::amount::Amount;
use stella_domain::authority::{AgentTrust, AuthorityChange, AuthorityRecord, RotationPhase};
use stella_domain::channel::ChannelRule;
use stella_domain::command::{Outcome, TenantCommand};
use stella_domain::environment::{PromotionPath, SilenceRule, Verification};
use stella_domain::event::{Fact, StreamId};
use stella_domain::hook::HookAction;
use stella_domain::state::State;
use stella_domain::strategy::Strategy;
use stella_domain::tenant::TenantState;
use stella_domain::way_back::ProofRule;
use stella_protocol::id::{Attempt, AttemptKey, EnrolmentTokenId, EnvironmentId, HookId, TaskId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));
const OURS: StreamId = StreamId::Tenant(TENANT);

fn reason() -> String {
    "x".to_owned()
}

fn tenant(state: &State) -> &TenantState {
    &state.tenants[&TENANT]
}

/// The state after these facts.
fn after(world: &World, stream: StreamId, facts: &[Fact]) -> State {
    facts.iter().fold(world.state.clone(), |state, fact| applied(&state, stream, fact).unwrap())
}

/// The first fact of this name that has happened.
fn happened(world: &World, name: &str) -> Fact {
    world.events.iter().find(|(_, event)| event.fact.name() == name).unwrap().1.fact.clone()
}

// === environments ===

fn created(id: EnvironmentId, called: &str) -> Fact {
    let way_back_proof = ProofRule::Off;
    Fact::EnvironmentCreated { id, name: name(called), order: 1, way_back_proof }
}

fn path(environment: EnvironmentId, after: Option<EnvironmentId>) -> Fact {
    let requires = after.map(|after| PromotionPath::after(after, 0, false));
    Fact::EnvironmentPathSet { id: environment, requires }
}

fn environment_facts() -> Vec<(&'static str, Fact)> {
    let id = STAGING;
    let renamed = |to: &str| Fact::EnvironmentUpdated { id, name: Some(name(to)), order: None };
    let sale = freeze("sale", "1970-01-01T00:00", "1970-01-02T00:00");
    let nowhere = EnvironmentId(Uuid::from_u128(0x99));
    vec![
        ("environment_created, again", created(id, "other")),
        ("environment_created, a name that is taken", created(nowhere, "production")),
        ("environment_updated", renamed("test")),
        ("environment_updated, a name that is taken", renamed("production")),
        ("environment_updated, its place", Fact::EnvironmentUpdated { id, name: None, order: Some(7) }),
        ("environment_removed", Fact::EnvironmentRemoved { id }),
        ("environment_locked", Fact::EnvironmentLocked { id, reason: reason() }),
        ("environment_unlocked", Fact::EnvironmentUnlocked { id }),
        ("environment_freeze_set", Fact::EnvironmentFreezeSet { id, freeze: sale }),
        ("environment_freeze_removed", Fact::EnvironmentFreezeRemoved { id, freeze: name("sale") }),
        ("environment_silence_set, none", Fact::EnvironmentSilenceSet { id, rule: None }),
        (
            "environment_verification_set",
            Fact::EnvironmentVerificationSet { id, verification: Some(Verification { bake_ms: 60_000 }) },
        ),
        (
            "environment_went_silent",
            Fact::EnvironmentWentSilent { id, silent: 1, agents: 1, holds_stand: true },
        ),
        ("environment_heard_again", Fact::EnvironmentHeardAgain { id }),
        ("environment_path_set", path(id, Some(PRODUCTION))),
        ("environment_path_set, after what is not there", path(id, Some(nowhere))),
        ("environment_approvals_set", Fact::EnvironmentApprovalsSet { id, rule: Some(rule(1, &[])) }),
        ("environment_budget_set", Fact::EnvironmentBudgetSet { id, budget: Some(Amount::Count(1)) }),
        ("environment_way_back_set", Fact::EnvironmentWayBackSet { id, required: true }),
        (
            "environment_way_back_proof_set",
            Fact::EnvironmentWayBackProofSet { id, rule: ProofRule::Required },
        ),
        (
            "environment_strategy_set",
            Fact::EnvironmentStrategySet { id, strategy: Some(Strategy::AllAtOnce) },
        ),
        ("environment_gate_set", Fact::EnvironmentGateSet { id, gate: Box::new(gate("change", http())) }),
        ("environment_gate_removed", Fact::EnvironmentGateRemoved { id, gate: name("change") }),
        ("environment_channels_set", Fact::EnvironmentChannelsSet { id, channels: vec![name("stable")] }),
    ]
}

fn environment_seen(state: &State) -> String {
    let Some(it) = tenant(state).environments.get(&STAGING) else {
        return format!(
            "gone, called {:?}",
            tenant(state).environment_name(STAGING).map(ToString::to_string)
        );
    };
    let said = [
        (it.lock.is_some(), "locked"),
        (!it.freezes.is_empty(), "frozen"),
        (it.silence.is_some(), "ruled"),
        (it.silent_since.is_some(), "silent"),
        (it.requires.is_some(), "after another"),
        (it.approvals.is_some(), "approvals"),
        (it.budget.is_some(), "budget"),
        (it.requires_way_back, "way back"),
        (it.way_back_proof == ProofRule::Required, "proof"),
        (it.strategy.is_some(), "strategy"),
        (it.verification.is_some(), "verified"),
        (!it.gates.is_empty(), "gate"),
        (!it.channels.is_empty(), "channel"),
    ];
    let said: Vec<&str> = said.iter().filter(|(is_so, _)| *is_so).map(|(_, word)| *word).collect();
    format!("{} {} [{}]", it.name, it.order, said.join(", "))
}

fn environments(table: &mut String) {
    let (id, rule) = (STAGING, Some(SilenceRule { percent: 50, within_ms: 60_000 }));
    let mut world = World::new();
    world.enrol(1);
    let ruled = [created(PRODUCTION, "production"), Fact::EnvironmentSilenceSet { id, rule }];
    let there = World { state: after(&world, OURS, &ruled), now: world.now, events: world.events.clone() };
    let set: Vec<Fact> = environment_facts().into_iter().map(|(_, fact)| fact).collect();
    let with = |names: &[&str]| {
        let facts: Vec<Fact> = set.iter().filter(|it| names.contains(&it.name())).cloned().collect();
        facts.iter().fold(there.state.clone(), |state, fact| applied(&state, OURS, fact).unwrap_or(state))
    };
    let used = TenantCommand::CreateTarget(Box::new(common::new_target(1)));
    let mut with_target = World { state: there.state.clone(), now: there.now, events: Vec::new() };
    with_target.ok(used);
    for (label, state) in [
        ("environment that is there", there.state.clone()),
        ("environment that is locked", with(&["environment_locked"])),
        ("environment that is frozen", with(&["environment_freeze_set"])),
        ("environment that is silent", with(&["environment_went_silent"])),
        ("environment with a gate", with(&["environment_gate_set"])),
        ("environment with a target", with_target.state),
        ("environment after another", with(&["environment_path_set"])),
        ("environment before another", after(&there, OURS, &[path(PRODUCTION, Some(STAGING))])),
        ("environment that was removed", after(&there, OURS, &[Fact::EnvironmentRemoved { id }])),
    ] {
        rows(table, label, &state, OURS, &environment_facts(), &environment_seen);
    }
}

/// A promotion that has its approval waits for the end of a freeze.
fn held_promotions(table: &mut String) {
    let waits = |is_frozen: bool, is_approved: bool| {
        let mut world = World::with_release_1(1);
        (1..=2).for_each(|n| world.person(n));
        let (environment, rule) = (STAGING, Some(rule(1, &[])));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment, rule });
        if is_frozen {
            let freeze = Box::new(freeze("sale", "1970-01-01T00:00", "1970-01-02T00:00"));
            world.ok(TenantCommand::FreezeEnvironment { environment, freeze });
        }
        world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
        if is_approved {
            world.approve(2, 2).unwrap();
        }
        world.state
    };
    let id = promotion(2);
    let facts = [
        ("promotion_held", Fact::PromotionHeld { id, until: Some(Timestamp(5_000_000)) }),
        ("promotion_held, no more", Fact::PromotionHeld { id, until: None }),
    ];
    let seen = |state: &State| {
        let it = &tenant(state).promotions[&id];
        format!("{}, held until {:?}", it.status.name(), it.held_until.map(|until| until.0))
    };
    rows(table, "promotion that is pending", &waits(true, false), OURS, &facts, &seen);
    rows(table, "promotion that is held", &waits(true, true), OURS, &facts, &seen);
    rows(table, "promotion that has started", &waits(false, true), OURS, &facts, &seen);
}

// === targets, releases and what belongs to them ===

fn targets(table: &mut String) {
    let id = target(1);
    let idle = World::with_release_1(1);
    let mut busy = World::with_release_1(1);
    busy.deploy(2, 2, None);
    let updated = |agent| Fact::TargetUpdated {
        id,
        labels: Some(BTreeMap::from([("rack".to_owned(), "7".to_owned())])),
        variables: None,
        agent,
    };
    let facts = [
        ("target_created, again", happened(&idle, "target_created")),
        ("target_updated", updated(None)),
        ("target_updated, served by nobody", updated(Some(agent(9)))),
        ("target_updated, served anew", updated(Some(agent(1)))),
        ("target_removed", Fact::TargetRemoved { id }),
    ];
    let seen = |state: &State| match tenant(state).targets.get(&id) {
        None => "gone".to_owned(),
        Some(it) => format!("{} labels, current {}", it.labels.len(), it.current.is_some()),
    };
    let gone = after(&idle, OURS, &[Fact::TargetRemoved { id }]);
    rows(table, "target that is idle", &idle.state, OURS, &facts, &seen);
    rows(table, "target that is worked on", &busy.state, OURS, &facts, &seen);
    rows(table, "target that was removed", &gone, OURS, &facts, &seen);
}

fn releases(table: &mut String) {
    let (id, world) = (release(1), World::with_targets(1));
    let deprecated = || Fact::ReleaseDeprecated { id, reason: reason() };
    let blocked = || Fact::ReleaseBlocked { id, reason: reason() };
    let found = findings(1, &["CVE-1"]);
    let (application, stable) = (|| name("app"), || name("stable"));
    let channel =
        Fact::ChannelSet { application: application(), name: stable(), rule: ChannelRule::default() };
    let facts = [
        ("release_created, again", happened(&world, "release_created")),
        ("release_deprecated", deprecated()),
        ("release_blocked", blocked()),
        ("release_cleared", Fact::ReleaseCleared { id, reason: reason() }),
        (
            "findings_recorded",
            Fact::FindingsRecorded {
                release: id,
                scanner: found.scanner,
                digest: found.digest,
                findings: found.findings,
            },
        ),
        ("release_signing_set", Fact::ReleaseSigningSet { rule: Some(signed(1, &[])) }),
        ("release_signing_set, none", Fact::ReleaseSigningSet { rule: None }),
        ("artifact_stored, again", Fact::ArtifactStored { digest: digest(1), size_bytes: 10 }),
        ("artifact_removed", Fact::ArtifactRemoved { digest: digest(1) }),
        ("channel_set", channel.clone()),
        ("channel_removed", Fact::ChannelRemoved { application: application(), name: stable() }),
    ];
    let seen = |state: &State| {
        let it = tenant(state);
        let channels: usize = it.channels.values().map(imbl::OrdMap::len).sum();
        format!(
            "{}, {} reports, signing {}, {} archives, {channels} channels",
            it.releases[&id].standing.name(),
            it.findings.get(&id).map_or(0, |reports| reports.len()),
            it.signing.is_some(),
            it.artifacts.len(),
        )
    };
    for (label, reached) in [
        ("release that is good", vec![]),
        ("release that is deprecated", vec![deprecated()]),
        ("release that is blocked", vec![blocked()]),
        ("release of a channel, without its archive", vec![channel, facts[8].1.clone()]),
    ] {
        rows(table, label, &after(&world, OURS, &reached), OURS, &facts, &seen);
    }
}

// === who comes in ===

fn enrolment_tokens(table: &mut String) {
    let world = World::new();
    let revoked = || Fact::EnrolmentTokenRevoked { id: TOKEN, reason: reason() };
    let nobodys = EnrolmentTokenId(Uuid::from_u128(0x99));
    let facts = [
        ("enrolment_token_created, again", happened(&world, "enrolment_token_created")),
        ("enrolment_token_revoked", revoked()),
        ("enrolment_token_revoked, of nobody", Fact::EnrolmentTokenRevoked { id: nobodys, reason: reason() }),
        ("enrolment_token_forgotten", Fact::EnrolmentTokenForgotten { id: TOKEN }),
    ];
    let seen = |state: &State| match tenant(state).enrolment_tokens.get(&TOKEN) {
        None => "gone".to_owned(),
        Some(it) => format!("good until {}", it.expires_at.0),
    };
    rows(table, "enrolment token that is good", &world.state, OURS, &facts, &seen);
    rows(table, "enrolment token that was revoked", &after(&world, OURS, &[revoked()]), OURS, &facts, &seen);
}

fn agents(table: &mut String) {
    let mut there = World::with_targets(1);
    let mut revoked = World::with_targets(1);
    revoked.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: reason() });
    there.disconnect(1);
    let trust = |agent| {
        let trust = AgentTrust { roots: vec![digest(1)], root: digest(1) };
        Fact::AgentTrustChanged { agent, trust }
    };
    let figures = FiguresAddress { host: "web-1".to_owned(), port: 9100 };
    let key = AttemptKey { task: TaskId(Uuid::from_u128(0x99)), attempt: Attempt(1) };
    let facts = [
        ("agent_trust_changed", trust(agent(1))),
        ("agent_trust_changed, of nobody", trust(agent(9))),
        ("agent_figures_moved", Fact::AgentFiguresMoved { agent: agent(1), at: Some(figures) }),
        ("agent_draining", Fact::AgentDraining { agent: agent(1), reason: reason() }),
        ("agent_draining, of nobody", Fact::AgentDraining { agent: agent(9), reason: reason() }),
        ("agent_undrained", Fact::AgentUndrained { agent: agent(1) }),
        ("agent_figures_moved, away", Fact::AgentFiguresMoved { agent: agent(1), at: None }),
        ("report_ignored", Fact::ReportIgnored { agent: agent(1), key, reason: reason() }),
    ];
    let seen = |state: &State| {
        let it = &tenant(state).agents[&agent(1)];
        format!("trust {}, figures {}", it.trust.is_some(), it.figures.is_some())
    };
    rows(table, "agent that is away", &there.state, OURS, &facts, &seen);
    rows(table, "agent that was revoked", &revoked.state, OURS, &facts, &seen);
}

fn accounts(table: &mut String) {
    let mut world = World::new();
    (1..=2).for_each(|n| world.person(n));
    let (id, system) = (account(1), StreamId::System);
    let everywhere = || vec![Grant { role: Role::Viewer, tenant: None, environment: None }];
    let created = |id, called: &str| Fact::AccountCreated {
        id,
        name: name(called),
        kind: AccountKind::User,
        roles: everywhere(),
    };
    let revoked = |n| Fact::ApiTokenRevoked { id: api_token(n) };
    let facts = [
        ("account_created, again", created(id, "other")),
        ("account_created, a name that is taken", created(account(9), "person-2")),
        ("account_roles_set", Fact::AccountRolesSet { id, roles: everywhere() }),
        ("account_roles_set, none", Fact::AccountRolesSet { id, roles: vec![] }),
        ("account_removed", Fact::AccountRemoved { id }),
        ("api_token_created, again", happened(&world, "api_token_created")),
        ("api_token_revoked", revoked(1)),
        ("tenant_created, again", happened(&world, "tenant_created")),
        ("log_level_set", Fact::LogLevelSet { level: "debug".to_owned() }),
    ];
    let seen = |state: &State| {
        let roles = state.system.accounts.get(&id).map(|it| it.roles.len());
        let tokens = state.system.api_tokens.of_account(id).count();
        format!("roles {roles:?}, {tokens} tokens")
    };
    rows(table, "account that is there", &world.state, system, &facts, &seen);
    rows(table, "account without a token", &after(&world, system, &[revoked(1)]), system, &facts, &seen);
    let gone = after(&world, system, &[revoked(1), Fact::AccountRemoved { id }]);
    rows(table, "account that was removed", &gone, system, &facts, &seen);
}

// === incoming webhooks ===

fn hooks(table: &mut String) {
    let id = |n: u128| HookId(Uuid::from_u128(0x7000 + n));
    let created = |n: u128, called: &str| Fact::HookCreated {
        id: id(n),
        name: name(called),
        account: account(1),
        action: HookAction::Deploy { environment: STAGING, release: "'shop:1.0'".to_owned() },
        when: None,
        salt: digest(1),
    };
    let rotated = |n: u128, salt: u8, until: Option<u64>| Fact::HookRotated {
        id: id(n),
        salt: digest(salt),
        former_until: until.map(Timestamp),
        keeps_others: until.is_some(),
    };
    let facts = [
        ("hook_created", created(1, "shipped")),
        ("hook_created, of the same name", created(2, "shipped")),
        ("hook_created, another", created(2, "other")),
        ("hook_rotated, at once", rotated(1, 2, None)),
        ("hook_rotated, with an overlap", rotated(1, 3, Some(9_000))),
        ("hook_rotated, unknown", rotated(9, 3, None)),
        ("hook_removed", Fact::HookRemoved { id: id(1) }),
    ];
    let seen = |state: &State| {
        let hooks = tenant(state).hooks.values().map(|hook| {
            let former =
                hook.formers.iter().map(|it| format!(", before {} until {}", it.salt.0[0], it.until.0));
            format!("{} salt {}{}", hook.name, hook.salt.0[0], former.collect::<String>())
        });
        let hooks: Vec<String> = hooks.collect();
        if hooks.is_empty() { "none".to_owned() } else { hooks.join("; ") }
    };
    let world = World::new();
    for (label, reached) in [
        ("hook that is not there", vec![]),
        ("hook that is there", vec![created(1, "shipped")]),
        ("hook with a former secret", vec![created(1, "shipped"), rotated(1, 2, Some(8_000))]),
        ("hook that was removed", vec![created(1, "shipped"), Fact::HookRemoved { id: id(1) }]),
    ] {
        rows(table, label, &after(&world, OURS, &reached), OURS, &facts, &seen);
    }
}

// === the rest ===

fn workflows(table: &mut String) {
    let template = serde_json::json!({"name": "ship", "steps": [{"id": "a", "wait": "1s"}]});
    let template: Box<stella_domain::workflow::Template> = serde_json::from_value(template).unwrap();
    let applied = |version| Fact::WorkflowApplied { version, template: template.clone() };
    let removed = || Fact::WorkflowRemoved { name: name("ship"), reason: reason() };
    let facts = [
        ("workflow_applied, 1", applied(1)),
        ("workflow_applied, 2", applied(2)),
        ("workflow_removed", removed()),
    ];
    let seen = |state: &State| match tenant(state).workflows.get(&name("ship")) {
        None => "never applied".to_owned(),
        Some(it) => format!("version {}{}", it.newest(), if it.removed.is_some() { ", removed" } else { "" }),
    };
    let world = World::new();
    for (label, reached) in [
        ("workflow that is not there", vec![]),
        ("workflow that is there", vec![applied(1)]),
        ("workflow that was removed", vec![applied(1), removed()]),
    ] {
        rows(table, label, &after(&world, OURS, &reached), OURS, &facts, &seen);
    }
}

fn authority(table: &mut String) {
    let record = |root: u8, trusted: &[u8], phase| AuthorityRecord {
        root: digest(root),
        issuing: digest(root + 100),
        trusted: trusted.iter().map(|n| digest(*n)).collect(),
        phase,
    };
    let changed =
        |change, record: &AuthorityRecord| Fact::AuthorityChanged { change, record: record.clone() };
    let first = record(1, &[1], None);
    let rotated = AuthorityRecord { issuing: digest(150), ..first.clone() };
    let spread = record(1, &[1, 2], Some(RotationPhase::Distributing));
    let switched = record(2, &[2, 1], Some(RotationPhase::Switched));
    let done = record(2, &[2], None);
    let facts = [
        ("authority_changed, replaced", changed(AuthorityChange::Replaced, &first)),
        ("authority_changed, issuing", changed(AuthorityChange::IssuingRotated, &rotated)),
        ("authority_changed, started", changed(AuthorityChange::RotationStarted, &spread)),
        ("authority_changed, switched", changed(AuthorityChange::RootSwitched, &switched)),
        ("authority_changed, finished", changed(AuthorityChange::RotationFinished, &done)),
        ("authority_changed, cancelled", changed(AuthorityChange::RotationCancelled, &first)),
    ];
    let seen = |state: &State| match &state.system.authority {
        None => "never changed".to_owned(),
        Some(it) => format!("{} roots, {:?}", it.record.trusted.len(), it.record.phase),
    };
    let (world, system) = (World::new(), StreamId::System);
    rows(table, "authority of before", &world.state, system, &facts, &seen);
    let mut state = world.state;
    for (label, name) in [
        ("authority while agents are told of a root", "authority_changed, started"),
        ("authority that issues under the new root", "authority_changed, switched"),
        ("authority after a rotation", "authority_changed, finished"),
    ] {
        let fact = &facts.iter().find(|(it, _)| *it == name).unwrap().1;
        state = applied(&state, system, fact).unwrap();
        rows(table, label, &state, system, &facts, &seen);
    }
}

fn requests(table: &mut String) {
    let world = World::new();
    let key = || "key".to_owned();
    let answered = || Fact::RequestAnswered {
        key: key(),
        digest: digest(1),
        outcome: Outcome::Done,
        forgotten_at: Timestamp(9_000_000),
    };
    let facts = [
        ("request_answered", answered()),
        ("request_forgotten", Fact::RequestForgotten { key: key() }),
        ("tenant_opened, again", happened(&world, "tenant_opened")),
    ];
    let seen = |state: &State| format!("{} answers", tenant(state).requests.len());
    rows(table, "request that is new", &world.state, OURS, &facts, &seen);
    rows(table, "request that was answered", &after(&world, OURS, &[answered()]), OURS, &facts, &seen);
}

#[test]
fn the_table_of_transitions_is_as_committed() {
    let mut table = String::new();
    environments(&mut table);
    held_promotions(&mut table);
    targets(&mut table);
    releases(&mut table);
    enrolment_tokens(&mut table);
    agents(&mut table);
    accounts(&mut table);
    workflows(&mut table);
    hooks(&mut table);
    authority(&mut table);
    requests(&mut table);
    compare("setup.txt", &table);
}

/// Facts that no table has, and why.
const IN_NO_TABLE: [&str; 0] = [];

#[test]
fn every_fact_is_in_some_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut told = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|it| it == "txt") {
            let table = std::fs::read_to_string(path).unwrap();
            let rows = table.lines().filter_map(|line| line.strip_prefix("    "));
            told.extend(rows.filter_map(|row| Some(row.split([' ', ',']).next()?.to_owned())));
        }
    }
    let names = include_str!("../src/event/name.rs").lines();
    let names: Vec<&str> = names.filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).collect();
    assert!(names.len() > 100, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|it| !told.contains(**it)).collect();
    assert_eq!(missing, IN_NO_TABLE.iter().collect::<Vec<_>>(), "facts without a table");
}
