//! Random walks: commands in any order, agents that accept, run, fail, go away, come back and lose their disks, time that
//! passes, restarts and restored backups of the control plane. After each step the invariants hold.

mod act;
mod hosts;
mod people;
mod recorded;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

use crate::common::plans::{Plans, Unproven};
use crate::common::{
    self, STAGING, TENANT, World, agent, deployment, hello, invariants, mark, name, new_deployment,
    new_target, release, target,
};
use act::{Act, Kind, act};
use proptest::collection::vec;
use proptest::prelude::proptest;
use proptest::test_runner::Config;
use serde_json::json;
use settings::Setting;
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::agent::Connectivity;
use stella_domain::amount::Amount;
use stella_domain::archive::{self, Rule};
use stella_domain::command::{
    Answer, Command, NewRun, NewTarget, Report, Request, SystemCommand, TargetChange, TenantCommand,
};
use stella_domain::deployment::OnFailure;
use stella_domain::environment::{Needs, PromotionPath, Requirement, SilenceRule, Verification};
use stella_domain::event::{Event, StreamId};
use stella_domain::gate::{Check, Gate, Outcome};
use stella_domain::hold::{PauseCause, Standing, Verdict};
use stella_domain::listening::Listening;
use stella_domain::promotion::{ApprovalRule, Objection, OnExpiry, Quorum};
use stella_domain::rejection::Rejection;
use stella_domain::run::{CallOutcome, Outgoing, StepState, Work};
use stella_domain::signature;
use stella_domain::state::State;
use stella_domain::strategy::{self as rollout, BlueGreen, Order, OrderBy, Rolling};
use stella_domain::task::TaskState;
use stella_domain::way_back::ProofRule;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AttemptKey, DeploymentId, EnvironmentId, Position, PromotionId, RunId};
use stella_protocol::message::{
    Accepted, Effect, Ending, EndingStage, Finished, Holding, Inspect, OpenAttempt, Phase, Running,
    TaskOutcome, capability,
};
use uuid::Uuid;

const AGENTS: u128 = 3;
const TARGETS: u128 = 4;
/// Where releases may come from, with a target each.
const BEFORE: [EnvironmentId; 2] =
    [EnvironmentId(Uuid::from_u128(0x7001)), EnvironmentId(Uuid::from_u128(0x7002))];
/// The first of them asks for all deployments.
const PEOPLE: u128 = 3;

/// One that goes through everything, and one that makes up for what it did.
fn workflows() -> [serde_json::Value; 6] {
    let deploy = json!({ "release": "shop:2.0", "environment": "staging" });
    let call = json!({ "url": "https://example.com/" });
    [
        json!({ "name": "walk-1", "steps": [
            { "id": "soak", "wait": "30s" },
            { "id": "go", "needs": ["soak"], "approval": { "needed": 1 }, "timeout": "1h" },
            { "id": "ask", "input": { "x": { "type": "number", "default": 1 } }, "hold": "1m" , "timeout": "1m", "on_failure": "continue" }
        ]}),
        json!({ "name": "walk-2", "steps": [
            { "id": "call", "http": call, "retry": { "attempts": 2, "backoff": "20s" } },
            { "id": "out", "needs": ["call"], "deploy": deploy, "hold": "1h", "timeout": "2h", "on_failure": "compensate" },
            { "id": "tell", "needs": ["out"], "notify": { "receiver": "chat", "message": "${run.id}" }, "on_failure": "compensate" },
            { "id": "side", "needs": ["call"], "when": "steps.call.attempts == 1", "wait": "1m" },
            { "id": "undo", "compensates": "call", "http": call, "retry": { "attempts": 2, "backoff": "20s" } },
            { "id": "back", "compensates": "out", "rollback": { "of": "out" } }
        ]}),
        json!({ "name": "walk-3", "steps": [
            { "id": "look", "gate": { "release": "shop:2.0", "environment": "staging", "signatures": 1 }, "on_failure": "continue" },
            { "id": "parts", "for_each": ["1", "2"], "workflow": { "name": "walk-1", "version": 1 },
              "retry": { "attempts": 2, "backoff": "20s" }, "timeout": "90s", "hold": "1m", "on_failure": "compensate" },
            { "id": "undo", "compensates": "look", "workflow": { "name": "walk-2", "version": 1 } }
        ]}),
        json!({ "name": "walk-5", "steps": [
            { "id": "metric", "gate": { "release": "shop:2.0", "environment": "staging", "metric":
                { "source": "main", "query": "errors{version=\"${run.version}\"}", "comparison": "at_most", "threshold": 0.5 } },
              "retry": { "attempts": 2, "backoff": "20s" }, "timeout": "1m", "hold": "1m", "on_failure": "continue" },
            { "id": "board", "gate": { "release": "shop:2.0", "environment": "staging", "http": { "endpoint": "board" } }, "on_failure": "continue" },
            { "id": "who", "needs": ["metric"], "gate": { "release": "shop:2.0", "environment": "staging", "manual": {} }, "timeout": "1h" }
        ]}),
        json!({ "name": "walk-4", "steps": [
            { "id": "warm", "retry": { "attempts": 3, "backoff": "20s" }, "hold": "1h", "timeout": "2h",
              "on_failure": "compensate", "task": { "environment": "staging", "max_parallel": 2, "tolerate_failures": 1, "steps": [
                { "name": "warm", "command": { "argv": ["/warm", "${port}"] } }, { "name": "see", "check_tcp": { "address": "localhost:${port}" } } ] } },
            { "id": "rest", "needs": ["warm"], "on_failure": "compensate", "task": { "environment": "staging", "labels": { "rack": "1" },
              "steps": [{ "name": "rest", "systemd": { "unit": "web.service", "action": "restart" } }] } },
            { "id": "undo", "compensates": "warm", "task": { "environment": "staging", "labels": { "rack": "0" },
              "steps": [{ "name": "undo", "command": { "argv": ["/undo"] } }] } }
        ]}),
        json!({ "name": "walk-6", "steps": [
            { "id": "first", "http": call },
            { "id": "out", "deploy": deploy, "retry": { "attempts": 2, "backoff": "20s" } },
            { "id": "parts", "workflow": { "name": "walk-2", "version": 1 }, "retry": { "attempts": 2, "backoff": "20s" } },
            { "id": "boom", "needs": ["first"], "on_failure": "compensate", "http": call },
            { "id": "undo", "compensates": "first", "deploy": { "release": "shop:1.0", "environment": "staging" } }
        ]}),
    ]
}

/// An agent with a journal.
#[derive(Default)]
struct Host {
    incarnation: u128,
    position: u64,
    mute: bool,
    open: BTreeMap<AttemptKey, (Phase, Option<TaskOutcome>)>,
}

struct Walk {
    world: World,
    hosts: BTreeMap<u128, Host>,
    /// The state that the events alone make.
    replayed: State,
    /// Where each command's events end.
    commands: Vec<usize>,
    ids: u128,
    /// Attempts that ever ran on a host.
    ran: BTreeSet<AttemptKey>,
    restored: bool,
    plans: Plans,
    unproven: Unproven,
}

fn strategy(kind: Kind, batch: Option<u32>) -> Option<rollout::Strategy> {
    let rolling = Rolling::of(batch.unwrap_or(2));
    let order = Some(Order { by: OrderBy::Domain, label: "rack".to_owned() });
    let max_unavailable = Some(Amount::Count(2));
    match kind {
        Kind::Plain => None,
        Kind::Canary => Some(common::canary(&[(30, Some(60_000)), (40, None)], batch)),
        Kind::Pausing => Some(rollout::Strategy::Rolling(Rolling { pause_ms: Some(60_000), ..rolling })),
        Kind::BlueGreen(confirm) | Kind::Groups(confirm) => Some(rollout::Strategy::BlueGreen(BlueGreen {
            warm_up_ms: batch.filter(|_| !confirm).map(|_| 60_000),
            confirm,
            batch: batch.map(Amount::Count),
            keep_ms: batch.map(|_| 60_000),
            groups: matches!(kind, Kind::Groups(_)).then(|| common::colours::groups(None)),
        })),
        Kind::Domains => Some(rollout::Strategy::Rolling(Rolling { order, max_unavailable, ..rolling })),
    }
}

impl Walk {
    fn new() -> Self {
        let mut world = World::with_targets(AGENTS);
        world.ok(TenantCommand::RemoveTarget { id: target(1) });
        (2..=AGENTS).for_each(|n| drop(world.ok(TenantCommand::RemoveTarget { id: target(n) })));
        for (n, of, slot, part) in [
            (1, 1, Some("a"), ("colour", "blue")),
            (2, 2, None, ("colour", "green")),
            (3, 3, None, ("role", "lb")),
            (4, 1, Some("b"), ("role", "lb")),
        ] {
            let labels = [("rack", (n % 2).to_string()), (part.0, part.1.to_owned())];
            let labels: BTreeMap<_, _> =
                labels.into_iter().map(|(label, value)| (label.to_owned(), value)).collect();
            let new = NewTarget { agent: agent(of), slot: slot.map(name), labels, ..new_target(n) };
            world.ok(TenantCommand::CreateTarget(Box::new(new)));
        }
        for (n, (id, of)) in (TARGETS + 1..).zip(BEFORE.into_iter().zip(["eu", "us"])) {
            let way_back_proof = ProofRule::Off;
            let create = TenantCommand::CreateEnvironment { id, name: name(of), order: None, way_back_proof };
            world.ok(create);
            let labels = [("rack".to_owned(), "0".to_owned())].into();
            let slot = Some(name(of));
            let new = NewTarget { environment: id, agent: agent(1), slot, labels, ..new_target(n) };
            world.ok(TenantCommand::CreateTarget(Box::new(new)));
        }
        for n in 4..=5 {
            world.ok(TenantCommand::StoreArtifact {
                digest: common::digest(n),
                size_bytes: 10,
                tenant_bytes_max: None,
            });
            world.ok(TenantCommand::CreateRelease(Box::new(common::colours::new_coloured(n))));
        }
        (1..=PEOPLE).for_each(|n| world.person(n));
        let roles = vec![Grant { role: Role::Deployer, tenant: Some(TENANT), environment: None }];
        let (id, kind) = (common::account(settings::SERVICE), AccountKind::Service);
        world.system(SystemCommand::CreateAccount { id, name: name("ci"), kind, roles }).unwrap();
        (1..=3).for_each(|n| drop(world.ok(common::add_key(n))));
        for workflow in workflows() {
            world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(workflow).unwrap())));
        }
        let hosts = (1..=AGENTS).map(|n| (n, Host { incarnation: n, ..Host::default() })).collect();
        let mut walk = Self {
            world,
            hosts,
            replayed: State::default(),
            commands: Vec::new(),
            ids: 0,
            ran: BTreeSet::new(),
            restored: false,
            plans: Plans::default(),
            unproven: Unproven::default(),
        };
        walk.apply_from(0);
        walk
    }

    fn apply_from(&mut self, first: usize) {
        for (stream, event) in &self.world.events[first..] {
            let json = serde_json::to_string(event).unwrap();
            let event: Event = serde_json::from_str(&json).unwrap();
            self.replayed.apply(*stream, &event).expect("INV-1: what was decided replays");
        }
        self.commands.push(self.world.events.len());
    }

    fn tell(&mut self, command: Command) -> bool {
        self.send(&World::request(command))
    }

    /// A rejection is fine; a defect, or a change with it, is not.
    fn send(&mut self, request: &Request) -> bool {
        let before = self.world.state.clone();
        let first = self.world.events.len();
        let told = self.world.send(request);
        if let Err(rejection) = told {
            assert!(!matches!(rejection, Rejection::Defect(_)), "{rejection:?}");
            assert!(self.world.state == before, "a rejection changed something");
            return false;
        }
        let events: &[(StreamId, Event)] = &self.world.events[first..];
        invariants::step(&before, &self.world.state, events);
        self.plans.step(&before, &self.world.state, events);
        self.unproven.note(events);
        self.unproven.check(self.world.tenant());
        self.apply_from(first);
        assert!(self.replayed == self.world.state, "INV-1: the replayed state differs");
        invariants::check(&self.world.state, self.world.now);
        true
    }

    fn tenant(&mut self, command: TenantCommand) -> bool {
        self.tell(Command::Tenant(TENANT, command))
    }

    fn online(&self, n: u128) -> bool {
        matches!(self.world.tenant().agents[&agent(n)].connectivity, Connectivity::Online { .. })
    }

    fn is_heard(&self, n: u128) -> bool {
        self.online(n) && !self.hosts[&n].mute
    }

    fn some_deployment(&self, which: usize) -> Option<DeploymentId> {
        let all: Vec<_> = self.world.tenant().deployments.keys().copied().collect();
        all.get(which.checked_rem(all.len())?).copied()
    }

    /// Mostly one that waits.
    fn some_promotion(&self, which: usize) -> Option<(PromotionId, Digest)> {
        let tenant = self.world.tenant();
        let mut all: Vec<_> =
            tenant.open_promotions.iter().filter_map(|id| tenant.promotions.get(id)).collect();
        if which.is_multiple_of(8) {
            all = tenant.promotions.values().collect();
        }
        all.get(which.checked_rem(all.len())?).map(|promotion| (promotion.id, promotion.plan.root))
    }

    fn deploy_before(&mut self, place: u128, release: u128) {
        self.ids += 1;
        let mut new = new_deployment(self.ids, release, None);
        new.environment = BEFORE[usize::try_from(place).unwrap()];
        // Whoever proves a release there has chosen what may come by itself.
        self.send(&World::by(1 + place, TenantCommand::Deploy(Box::new(new))));
    }

    #[expect(clippy::too_many_lines, reason = "a table: each act has its arm")]
    fn act(&mut self, act: Act) {
        match act {
            Act::Deploy { release, batch, kind, tolerate, only, on_failure, hours } => {
                self.ids += 1;
                let mut new = new_deployment(self.ids, release, batch);
                new.strategy = strategy(kind, batch).unwrap_or(new.strategy);
                new.tolerate_failures = tolerate.map(Amount::Count);
                new.targets = only.map(|targets| targets.into_iter().map(target).collect());
                if matches!(kind, Kind::Groups(_)) {
                    new.targets = None;
                }
                new.timeout_ms = hours * 3_600_000;
                new.on_failure = on_failure;
                self.send(&World::by(1, TenantCommand::Deploy(Box::new(new))));
            }
            Act::StartRun(kind) => self.start_run(kind),
            Act::LeadRun(which, how) => self.lead_run(which, how),
            Act::DeployBefore(place, release) => self.deploy_before(place, release),
            Act::Path(how) => self.path(how),
            Act::Rule(needed) => self.rule(needed),
            Act::Approve(which, who) => self.approve(which, who),
            Act::Role(who, all) => {
                let role = if all { Role::Admin } else { Role::Viewer };
                let roles = vec![Grant { role, tenant: None, environment: None }];
                self.tell(Command::System(SystemCommand::SetAccountRoles {
                    account: common::account(who),
                    roles,
                }));
            }
            Act::End(which, rejected) => self.end(which, rejected),
            Act::Cancel(which) => {
                if let Some(deployment) = self.some_deployment(which) {
                    self.tenant(TenantCommand::CancelDeployment { deployment, reason: "walk".to_owned() });
                }
            }
            Act::Pause(which, on) => self.pause(which, on),
            Act::RetryTarget(which, n) => {
                self.guide(which, |deployment| TenantCommand::RetryTarget { deployment, target: target(n) })
            }
            Act::SkipTarget(which, n) => self.guide(which, |deployment| TenantCommand::SkipTarget {
                deployment,
                target: target(n),
                reason: "walk".to_owned(),
            }),
            Act::GiveUp(which, roll_back) => self.guide(which, |deployment| TenantCommand::FailDeployment {
                deployment,
                roll_back,
                reason: "walk".to_owned(),
            }),
            Act::Budget(max) => {
                let budget = max.map(Amount::Count);
                self.tenant(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget });
            }
            Act::Silence(on) => self.silence(on),
            Act::Freeze(on) => self.freeze(on),
            Act::Proof(what) => self.proof(what),
            Act::Prove(n, how) => self.prove(n, how),
            Act::Probe(n, how) => self.probe(n, how),
            Act::ProveAgain(which, waived) => self.guide(which, |deployment| {
                if waived {
                    TenantCommand::WaiveWayBack { deployment, reason: "walk".to_owned() }
                } else {
                    TenantCommand::ProveWayBack { deployment }
                }
            }),
            Act::Lock(on) => self.lock(on),
            Act::Judge(n, what) => self.judge(n, what),
            Act::Retry(which) => self.retry(which),
            Act::Gate(kind, on) => self.gate(kind, on),
            Act::Verification(on) => self.verification(on),
            Act::Answer(which, how) => self.answer(which, how),
            Act::Word(which, who, word) => self.word(which, who, word),
            Act::Scan(release, bad) => self.scan(release, bad),
            Act::Demand(needed) => {
                let rule = (needed > 0).then(|| common::signed(needed, &[]));
                self.tenant(TenantCommand::SetReleaseSigning { rule });
            }
            Act::Sign(key, n) => {
                let statement = signature::statement(&self.world.tenant().releases[&release(n)]);
                let signature = common::signing_key(key).sign(&statement);
                let (release, key) = (release(n), common::key_id(key));
                self.tenant(TenantCommand::SignRelease { release, key, signature });
            }
            Act::RevokeKey(n) => {
                let (key, reason) = (common::key_id(n), "walk".to_owned());
                self.tenant(TenantCommand::RevokeReleaseKey { key, reason });
            }
            Act::Rollback(which) => self.rollback(which),
            Act::Retire(which) => self.retire(which),
            Act::Settle(which, succeeded) => self.settle(which, succeeded),
            Act::Archive(newer_max) => self.archive(newer_max),
            Act::Revoke(n) => {
                self.tenant(TenantCommand::RevokeAgent { agent: agent(n), reason: "walk".to_owned() });
            }
            Act::Drain(n, on) => {
                let (agent, reason) = (agent(n), "walk".to_owned());
                self.tenant(match on {
                    true => TenantCommand::DrainAgent { agent, reason },
                    false => TenantCommand::UndrainAgent { agent },
                });
            }
            Act::RemoveTarget(n) => {
                self.tenant(TenantCommand::RemoveTarget { id: target(n) });
            }
            Act::MoveTarget(n, to) => {
                let (labels, variables) = (BTreeMap::new(), BTreeMap::new());
                let change = TargetChange { id: target(n), labels, variables, agent: Some(agent(to)) };
                self.tenant(TenantCommand::UpdateTarget(Box::new(change)));
            }
            Act::Set(setting) => self.set(setting),
            Act::Wait(milliseconds) => self.wait(milliseconds),
            Act::Connect(n) => self.connect(n, false),
            Act::Disconnect(n) => self.disconnect(n),
            Act::Wipe(n) => {
                self.disconnect(n);
                let fresh = self.hosts[&n].incarnation + 100;
                self.hosts.insert(n, Host { incarnation: fresh, ..Host::default() });
            }
            Act::Mute(n) => self.hosts.get_mut(&n).unwrap().mute = true,
            Act::Accept(n) => self.accept(n),
            Act::Run(n) => self.run(n),
            Act::Ending(n, stage) => self.say_ending(n, stage),
            Act::Work(n, rounds, last) => {
                for round in 1..=rounds {
                    self.accept(n);
                    self.run(n);
                    self.finish(n, if round < rounds { TaskOutcome::Succeeded } else { last.clone() });
                }
            }
            Act::Finish(n, outcome) => self.finish(n, outcome),
            Act::Repeat(n) => self.repeat(n),
            Act::RestartControlPlane => {
                invariants::replay(&self.world.events, &self.world.state);
                (1..=AGENTS).for_each(|n| self.disconnect(n));
            }
            Act::RestoreControlPlane(lost) => self.restore(lost),
        }
    }

    fn archive(&mut self, newer_max: usize) {
        let rule = Rule { never_within_ms: 1_000, after_ms: Some(86_400_000), newer_max: Some(newer_max) };
        let ended = archive::due(self.world.tenant(), rule, self.world.now);
        self.tenant(TenantCommand::Archive(Box::new(ended)));
    }

    fn wait(&mut self, milliseconds: u64) {
        let until = self.world.now.plus_ms(milliseconds);
        while let Some(due) = self.world.state.next_due().filter(|due| *due <= until) {
            self.world.now = self.world.now.max(due);
            assert!(self.tell(Command::Tick(Listening::Always)));
        }
        self.world.now = until;
    }
}

/// Found by a walk: INV-11 is about what is put at risk, and a colour that is prepared is not.
#[test]
fn a_colour_is_prepared_while_a_budget_that_has_shrunk_is_exceeded() {
    let deploy = |release, only, kind| Act::Deploy {
        release,
        batch: None,
        kind,
        tolerate: None,
        only: Some(only),
        on_failure: OnFailure::Rollback,
        hours: 1,
    };
    let mut walk = Walk::new();
    walk.act(deploy(1, vec![2, 1], Kind::Pausing));
    walk.act(Act::Budget(Some(1)));
    walk.act(deploy(4, vec![3], Kind::BlueGreen(false)));
    let active = walk.world.tenant().deployments.values().filter(|it| it.counts.active > 0).count();
    assert_eq!(active, 2);
}

proptest! {
    #![proptest_config(Config { cases: 400, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn invariants_hold_on_every_walk(acts in vec(act(), 20..120)) {
        let mut walk = Walk::new();
        for act in acts {
            walk.act(act);
        }
        invariants::replay(&walk.world.events, &walk.world.state);
        invariants::never_again(&walk.world.events);
        if !walk.restored {
            common::colours::switched(&walk.world.events, &walk.world.state);
        }
    }

    /// However a walk went: once agents answer again and the time is up, every deployment has ended.
    #[test]
    fn every_deployment_ends(acts in vec(act(), 10..60)) {
        let mut walk = Walk::new();
        for act in acts {
            walk.act(act);
        }
        walk.silence(false);
        walk.freeze(false);
        walk.proof(0);
        walk.path(0);
        walk.set(Setting::Channels(false));
        walk.set(Setting::WayBack(false));
        walk.tenant(TenantCommand::SetEnvironmentBudget { environment: STAGING, budget: None });
        // A canary may hold twice more, and a pause comes after each target.
        for _ in 0..5 {
            let paused: Vec<_> = walk.world.tenant().active_deployments.iter().copied().collect();
            for deployment in paused {
                walk.tenant(TenantCommand::ResumeDeployment { deployment });
                if walk.world.deployment(deployment).paused_for == PauseCause::Failure {
                    let reason = "walk".to_owned();
                    walk.tenant(TenantCommand::FailDeployment { deployment, roll_back: true, reason });
                }
            }
            walk.wait(10 * 3_600_000);
        }
        let open = &walk.world.tenant().active_deployments;
        assert!(open.is_empty(), "{open:?}");
        walk.lock(false);
        walk.wait(8 * 86_400_000);
        let waiting = &walk.world.tenant().open_promotions;
        assert!(waiting.is_empty(), "after a week all have expired: {waiting:?}");
    }
}
