//! Random walks: commands in any order, agents that accept, run, fail, go away, come back and lose their disks, time that
//! passes, restarts and restored backups of the control plane. After each step the invariants hold.

mod act;
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
fn workflows() -> [serde_json::Value; 5] {
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

    fn rule(&mut self, needed: u32) {
        let groups = |on_expiry| {
            let also = vec![Quorum { needed: 1, from: vec![common::account(2), common::account(3)] }];
            Some(ApprovalRule { also, on_expiry, ..common::rule(1, &[2]) })
        };
        let rule = match needed {
            0 => None,
            1 | 2 => Some(common::rule(needed, &[])),
            3 => groups(OnExpiry::Expire),
            4 => groups(OnExpiry::Reject),
            _ => groups(OnExpiry::AskAgain { times: 1 }),
        };
        self.tenant(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    }

    fn deploy_before(&mut self, place: u128, release: u128) {
        self.ids += 1;
        let mut new = new_deployment(self.ids, release, None);
        new.environment = BEFORE[usize::try_from(place).unwrap()];
        // Whoever proves a release there has chosen what may come by itself.
        self.send(&World::by(1 + place, TenantCommand::Deploy(Box::new(new))));
    }

    fn path(&mut self, how: u8) {
        let both = |needs, auto| {
            let others = vec![Requirement { after: BEFORE[1], soak_ms: 0 }];
            PromotionPath { others, needs, ..PromotionPath::after(BEFORE[0], 30_000, auto) }
        };
        let requires = match how {
            0 => None,
            1 => Some(PromotionPath::after(BEFORE[0], 30_000, false)),
            2 => Some(PromotionPath::after(BEFORE[1], 0, true)),
            3 => Some(both(Needs::Any, false)),
            4 => Some(both(Needs::Any, true)),
            5 => Some(both(Needs::All, false)),
            _ => Some(both(Needs::All, true)),
        };
        self.tenant(TenantCommand::SetEnvironmentPath { environment: STAGING, requires });
    }

    fn approve(&mut self, which: usize, who: u128) {
        if let Some((promotion, plan)) = self.some_promotion(which) {
            let reason = String::new();
            self.send(&World::by(
                who,
                TenantCommand::ApprovePromotion { promotion, plan, reason, signature: None },
            ));
        }
    }

    fn gate(&mut self, kind: u8, on: bool) {
        let (name, gate) = match kind {
            0 => ("scan", common::security("scan", &[])),
            1 => ("ask", common::gate("ask", common::http())),
            4 => ("bake", Gate { verifies: true, ..common::gate("bake", common::http()) }),
            2 => ("signed", common::gate("signed", Check::Signature(common::signed(1, &[])))),
            _ => ("manual", common::gate("manual", Check::Manual)),
        };
        let environment = STAGING;
        self.tenant(if on {
            TenantCommand::SetGate { environment, gate: Box::new(gate) }
        } else {
            TenantCommand::RemoveGate { environment, gate: common::name(name) }
        });
    }

    fn answer(&mut self, which: usize, how: u8) {
        let questions: Vec<_> = self
            .world
            .tenant()
            .gates
            .iter()
            .flat_map(|(promotion, records)| {
                records.iter().map(move |(gate, record)| (*promotion, gate, record))
            })
            .filter_map(|(promotion, gate, record)| Some((promotion, gate.clone(), record.asked?.number)))
            .collect();
        let Some(which) = which.checked_rem(questions.len()) else { return };
        let (promotion, gate, number) = questions[which].clone();
        let outcome = match how {
            0 => Outcome::Failed,
            1 => Outcome::Unavailable,
            _ => Outcome::Passed,
        };
        let reason = "walk".to_owned();
        self.tenant(TenantCommand::AnswerGate(Box::new(Answer {
            promotion,
            gate,
            number,
            outcome,
            reason,
            inputs: None,
        })));
    }

    fn scan(&mut self, release: u128, bad: bool) {
        let found: &[&str] = if bad { &["CVE-1"] } else { &[] };
        let new = common::findings(release, found);
        self.tenant(TenantCommand::RecordFindings(Box::new(new)));
    }

    fn word(&mut self, which: usize, who: u128, word: u8) {
        let Some((promotion, _)) = self.some_promotion(which) else { return };
        let (gate, reason) = (name("manual"), "walk".to_owned());
        self.send(&World::by(
            who,
            match word {
                0 => TenantCommand::OverrideGate { promotion, gate: name("scan"), reason },
                1 => TenantCommand::DecideGate { promotion, gate, passed: false, reason },
                _ => TenantCommand::DecideGate { promotion, gate, passed: true, reason },
            },
        ));
    }

    fn start_run(&mut self, kind: u128) {
        self.ids += 1;
        let id = RunId(Uuid::from_u128(0x6000 + self.ids));
        let workflow = name(&format!("walk-{kind}"));
        let new = NewRun { id, workflow, version: None, inputs: BTreeMap::new() };
        self.send(&World::by(1, TenantCommand::StartRun(Box::new(new))));
    }

    /// Says something to a step that waits for it, or to the run.
    fn lead_run(&mut self, which: usize, how: u8) {
        let runs: Vec<_> = self.world.tenant().active_runs.iter().copied().collect();
        let Some(run) = which.checked_rem(runs.len()).map(|which| runs[which]) else { return };
        let found = &self.world.tenant().runs[&run];
        let open: Vec<_> = found.steps.iter().filter(|(_, step)| step.state.is_under_way()).collect();
        let Some((step, state)) = which.checked_rem(open.len()).map(|which| open[which]) else { return };
        let (step, attempt) = (step.clone(), state.attempts);
        let reason = "walk".to_owned();
        let command = match (how, &state.state) {
            (0, _) => TenantCommand::CancelRun { run, reason },
            (1, _) => TenantCommand::RetryStep { run, step },
            (_, StepState::Held { .. } | StepState::BackingOff { .. }) => {
                TenantCommand::RetryStep { run, step }
            }
            (_, StepState::Running { work: Work::Input, .. }) => {
                TenantCommand::AnswerStep { run, step, answers: BTreeMap::new() }
            }
            (_, state) if state.question().is_some() => {
                let outcome = match how {
                    2..=3 => Outcome::Failed,
                    4 => Outcome::Unavailable,
                    _ => Outcome::Passed,
                };
                TenantCommand::AnswerStepGate { run, step, attempt, outcome, reason, inputs: None }
            }
            (_, StepState::Running { work: Work::Approval { .. } | Work::Gate { .. }, .. }) => {
                let who = 1 + u128::from(how) % PEOPLE;
                self.send(&World::by(who, TenantCommand::DecideStep { run, step, approve: how > 3, reason }));
                return;
            }
            (_, state) => {
                let outcome = match (how, state.outgoing()) {
                    (2..=5, _) => CallOutcome::Failed { reason },
                    (_, Some(Outgoing::Notice(_))) => CallOutcome::Told,
                    _ => CallOutcome::Answered { status: 200, body: None },
                };
                TenantCommand::AnswerCall { run, step, attempt, outcome }
            }
        };
        self.tenant(command);
    }

    fn settle(&mut self, which: usize, succeeded: bool) {
        let tasks = self.world.tenant().tasks.values();
        let unknown: Vec<_> = tasks.filter(|task| common::is_unknown(task)).map(|task| task.id).collect();
        if let Some(task) = which.checked_rem(unknown.len()).map(|which| unknown[which]) {
            let command = TenantCommand::SettleTask { task, succeeded, reason: "walk".to_owned() };
            // A person says it, so that no tick can be taken for one.
            self.send(&World::by(1, command));
        }
    }

    fn end(&mut self, which: usize, rejected: bool) {
        let Some((promotion, _)) = self.some_promotion(which) else { return };
        let reason = "walk".to_owned();
        let command = if rejected {
            TenantCommand::RejectPromotion { promotion, objection: Objection::TooRisky, reason }
        } else {
            TenantCommand::WithdrawPromotion { promotion, reason }
        };
        self.send(&World::by(2, command));
    }

    fn report(&mut self, n: u128, report: Report) {
        if self.is_heard(n) {
            let session = self.world.session(n);
            self.tenant(TenantCommand::Report { agent: agent(n), session, report });
        }
    }

    fn pause(&mut self, which: usize, on: bool) {
        let Some(deployment) = self.some_deployment(which) else { return };
        let reason = "walk".to_owned();
        self.tenant(if on {
            TenantCommand::PauseDeployment { deployment, reason }
        } else {
            TenantCommand::ResumeDeployment { deployment }
        });
    }

    /// Mostly one that runs.
    fn guide(&mut self, which: usize, command: impl Fn(DeploymentId) -> TenantCommand) {
        let active: Vec<_> = self.world.tenant().active_deployments.iter().copied().collect();
        if let Some(which) = which.checked_rem(active.len()) {
            self.tenant(command(active[which]));
        }
    }

    fn silence(&mut self, on: bool) {
        let rule = on.then_some(SilenceRule { percent: 33, within_ms: 60_000 });
        self.tenant(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
    }

    fn verification(&mut self, on: bool) {
        let verification = on.then_some(Verification { bake_ms: 60_000 });
        self.tenant(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    }

    fn freeze(&mut self, on: bool) {
        let (environment, name) = (STAGING, name("walk"));
        self.tenant(if on {
            let freeze = Box::new(common::freeze("walk", "1970-01-01T00:00", "1970-01-02T00:00"));
            TenantCommand::FreezeEnvironment { environment, freeze }
        } else {
            TenantCommand::UnfreezeEnvironment { environment, freeze: name }
        });
    }

    fn proof(&mut self, what: u8) {
        let rule = match what {
            0 => ProofRule::Off,
            1 => ProofRule::Reported,
            _ => ProofRule::Required,
        };
        self.tenant(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
    }

    fn prove(&mut self, n: u128, how: u8) {
        let Some(Inspect { question, wanted, .. }) = self.world.question(n).filter(|_| self.is_heard(n))
        else {
            return;
        };
        let holding = match how {
            0 => Holding::Absent,
            1 => Holding::Damaged { reason: "walk".to_owned() },
            2 => Holding::Unverified { reason: "walk".to_owned() },
            _ => Holding::Present { files: 1, bytes: 2 },
        };
        let (agent, session) = (agent(n), self.world.session(n));
        let holdings = vec![holding; wanted.len()];
        self.tenant(TenantCommand::AnswerInspection { agent, session, question, holdings });
    }

    fn probe(&mut self, n: u128, how: u8) {
        let asked = self.world.tenant().probes(agent(n), self.world.now).next();
        let Some(asked) = asked.filter(|_| self.is_heard(n)) else { return };
        let words = "walk".to_owned();
        let effect = match how {
            0 => Effect::Absent { what: words },
            1 => Effect::Unclear { reason: words },
            _ => Effect::There { what: words },
        };
        let (agent, session) = (agent(n), self.world.session(n));
        self.tenant(TenantCommand::AnswerProbe { agent, session, question: asked.question, effect });
    }

    fn lock(&mut self, on: bool) {
        let reason = "walk".to_owned();
        self.tenant(if on {
            TenantCommand::LockEnvironment { environment: STAGING, reason }
        } else {
            TenantCommand::UnlockEnvironment { environment: STAGING }
        });
    }

    fn judge(&mut self, n: u128, what: u8) {
        // What was blocked stays so: it excuses for ever who did not go back to it.
        if matches!(self.world.tenant().releases[&release(n)].standing, Standing::Blocked(_)) {
            return;
        }
        let verdict = match what {
            0 => Verdict::Block,
            1 => Verdict::Deprecate,
            _ => Verdict::Clear,
        };
        self.tenant(TenantCommand::JudgeRelease { release: release(n), verdict, reason: "walk".to_owned() });
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

    fn rollback(&mut self, which: usize) {
        if let Some(of) = self.some_deployment(which) {
            self.ids += 1;
            self.tenant(TenantCommand::Rollback { id: deployment(self.ids), of });
        }
    }

    fn retire(&mut self, which: usize) {
        if let Some(of) = self.some_deployment(which) {
            self.ids += 1;
            self.tenant(TenantCommand::RetireColours { id: deployment(self.ids), of });
        }
    }

    fn retry(&mut self, which: usize) {
        if let Some(of) = self.some_deployment(which) {
            self.ids += 1;
            let id = deployment(self.ids);
            self.tenant(TenantCommand::RetryDeployment { id, of, targets: None });
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        let until = self.world.now.plus_ms(milliseconds);
        while let Some(due) = self.world.state.next_due().filter(|due| *due <= until) {
            self.world.now = self.world.now.max(due);
            assert!(self.tell(Command::Tick));
        }
        self.world.now = until;
    }

    fn connect(&mut self, n: u128, journal_rolled_back: bool) {
        let host = &self.hosts[&n];
        let open =
            host.open.iter().map(|(key, (phase, _))| OpenAttempt { key: *key, phase: *phase }).collect();
        let mut hello = Box::new(hello(mark(host.incarnation, host.position), open));
        if n == AGENTS {
            // One is too old to be asked what its host holds.
            hello.capabilities &= !(capability::HOLDINGS | capability::PROBES);
        }
        self.tenant(TenantCommand::ConnectAgent { agent: agent(n), hello, journal_rolled_back });
        self.repeat(n);
    }

    fn disconnect(&mut self, n: u128) {
        let session = self.world.session(n);
        self.tenant(TenantCommand::DisconnectAgent { agent: agent(n), session, reason: "walk".to_owned() });
    }

    fn accept(&mut self, n: u128) {
        if !self.online(n) {
            return;
        }
        let session = self.world.session(n);
        let sent: Vec<_> = self
            .world
            .tenant()
            .unsettled_tasks(agent(n))
            .filter(|task| matches!(task.state, TaskState::Dispatched { session: of, .. } if of == session))
            .map(|task| task.key())
            .collect();
        for key in sent {
            let host = self.hosts.get_mut(&n).unwrap();
            if host.open.contains_key(&key) {
                continue;
            }
            host.position += 1;
            host.open.insert(key, (Phase::Accepted, None));
            let position = Position(host.position);
            self.report(n, Report::Accepted(Accepted { key, position }));
        }
    }

    /// Of the first that was told to end; nothing says that the stages come in order.
    fn say_ending(&mut self, n: u128, stage: u8) {
        let stages = [EndingStage::Delivered, EndingStage::Terminated, EndingStage::Killed];
        let tasks: Vec<_> = self.world.tenant().unsettled_tasks(agent(n)).cloned().collect();
        let key = tasks.iter().find(|task| task.cancel_requested).map(|task| task.key());
        if let Some(key) = key.filter(|key| self.hosts[&n].open.contains_key(key)) {
            self.report(n, Report::Ending(Ending { key, stage: stages[usize::from(stage)] }));
        }
    }

    fn run(&mut self, n: u128) {
        let host = self.hosts.get_mut(&n).unwrap();
        let Some((key, entry)) = host.open.iter_mut().find(|(_, (phase, _))| *phase == Phase::Accepted)
        else {
            return;
        };
        let key = *key;
        *entry = (Phase::Running, None);
        host.position += 1;
        // With a restored backup the same ids come again, and a person may have settled what was forgotten.
        assert!(self.ran.insert(key) || self.restored, "{key} ran twice");
        let started_at = self.world.now;
        self.report(n, Report::Running(Running { key, started_at }));
    }

    fn finish(&mut self, n: u128, outcome: TaskOutcome) {
        let host = self.hosts.get_mut(&n).unwrap();
        let Some((key, entry)) = host.open.iter_mut().find(|(_, (phase, _))| *phase == Phase::Running) else {
            return;
        };
        let key = *key;
        *entry = (Phase::Finished, Some(outcome));
        host.position += 1;
        self.say_finished(n, key);
    }

    fn say_finished(&mut self, n: u128, key: AttemptKey) {
        let host = &self.hosts[&n];
        let Some((_, Some(outcome))) = host.open.get(&key).cloned() else { return };
        let (position, finished_at) = (Position(host.position), self.world.now);
        if self.is_heard(n) {
            let report = Finished { key, position, started_at: None, finished_at, outcome };
            self.report(n, Report::Finished(report));
            self.hosts.get_mut(&n).unwrap().open.remove(&key);
        }
    }

    fn repeat(&mut self, n: u128) {
        let keys: Vec<_> = self.hosts[&n].open.keys().copied().collect();
        for key in keys {
            self.say_finished(n, key);
        }
    }

    fn restore(&mut self, lost: usize) {
        let kept = self.commands.len().saturating_sub(lost).max(1);
        self.commands.truncate(kept);
        self.world.events.truncate(*self.commands.last().unwrap());
        self.replayed = State::default();
        for (stream, event) in &self.world.events {
            self.replayed.apply(*stream, event).unwrap();
        }
        self.world.state = self.replayed.clone();
        self.restored = true;
        // What is asked for from now on may have the ids of what was forgotten.
        self.plans = Plans::default();
        self.unproven = Unproven::default();
        self.unproven.note(&self.world.events);
        for n in 1..=AGENTS {
            self.disconnect(n);
            self.connect(n, true);
        }
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
