//! Every state and every fact about it: what follows, or that it is refused. The table is committed; a change of the state
//! machines is a change of that file. `UPDATE_GOLDEN=1 cargo test` writes it anew.

mod deployments;
mod promotions;

use std::fmt::Write as _;

use crate::common::colours::{blue_green, groups, in_group, new_coloured};
use crate::common::golden;
use crate::common::{
    self, STAGING, TENANT, TOKEN, World, agent, canary, deployment, digest, failed, hello, mark, name,
    new_deployment, new_release, promotion, release, rule, target,
};
use stella_domain::agent::Connectivity;
use stella_domain::amount::Amount;
use stella_domain::colour::Stage;
use stella_domain::command::{NewDeployment, Report, TenantCommand};
use stella_domain::deployment::{Cause, OnFailure, RollbackReason};
use stella_domain::environment::Verification;
use stella_domain::event::{Event, Fact, PlannedTarget, StreamId};
use stella_domain::gate::{Gate, Outcome};
use stella_domain::hold::PauseCause;
use stella_domain::probe::ProbeAnswer;
use stella_domain::promotion::Objection;
use stella_domain::signature::statement;
use stella_domain::state::State;
use stella_domain::strategy::{BlueGreen, Rolling, Strategy};
use stella_domain::task::EndingStage;
use stella_domain::way_back::{ProofAnswer, ProofRule};
use stella_protocol::id::{Attempt, AttemptKey, DeploymentId, Generation, Position, SessionEpoch, TaskId};
use stella_protocol::message::{Effect, Ending, Hello, Holding, TaskOutcome, capability};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

fn outcomes() -> [(&'static str, TaskOutcome); 7] {
    [
        ("succeeded", TaskOutcome::Succeeded),
        ("failed", failed("x")),
        ("timed_out", TaskOutcome::TimedOut),
        ("cancelled", TaskOutcome::Cancelled),
        ("interrupted", TaskOutcome::Interrupted),
        ("unknown", TaskOutcome::Unknown { reason: "x".to_owned() }),
        ("refused", TaskOutcome::Refused { reason: "x".to_owned() }),
    ]
}

/// The tenant's state just before the first fact of this name, or at the end.
fn before(world: &World, fact: &str) -> State {
    let mut state = State::default();
    apply_until(&mut state, world, fact);
    state
}

/// Applies what has happened, up to the first fact of this name.
fn apply_until(state: &mut State, world: &World, fact: &str) {
    for (stream, event) in world.events.iter().take_while(|(_, event)| event.fact.name() != fact) {
        state.apply(*stream, event).unwrap();
    }
}

/// One line for each fact: what it makes of the state.
fn rows(
    table: &mut String,
    label: &str,
    state: &State,
    facts: &[(String, Fact)],
    seen: impl Fn(&State) -> String,
) {
    writeln!(table, "{label}").unwrap();
    for (name, fact) in facts {
        let mut after = state.clone();
        let event = Event {
            at: Timestamp(2_000_000),
            actor: common::person(2),
            trace: TraceContext::default(),
            fact: fact.clone(),
        };
        let result = match after.apply(StreamId::Tenant(TENANT), &event) {
            Ok(()) => format!("-> {}", seen(&after)),
            Err(_) => "refused".to_owned(),
        };
        writeln!(table, "    {name:<40} {result}").unwrap();
    }
}

fn task_facts(key: AttemptKey, session: SessionEpoch) -> Vec<(String, Fact)> {
    let at = Timestamp(1_500_000);
    let wrong = AttemptKey { attempt: Attempt(2), ..key };
    let mut facts = vec![
        Fact::TaskQueued { task: key.task, deployment: deployment(2), target: target(1), step: 0 },
        Fact::TaskAccepted { key, position: Position(9) },
        Fact::TaskStarted { key, started_at: at },
        Fact::TaskHandedBack { key, position: Position(9) },
        Fact::TaskBecameUnknown { key, reason: "x".to_owned() },
        Fact::TaskCancelRequested { key },
    ]
    .into_iter()
    .map(|fact| (fact.name().to_owned(), fact))
    .collect::<Vec<_>>();
    facts.push(("task_dispatched, same session".to_owned(), Fact::TaskDispatched { key, session }));
    facts.push((
        "task_dispatched, newer session".to_owned(),
        Fact::TaskDispatched { key, session: session.next() },
    ));
    facts.push((
        "task_accepted, other attempt".to_owned(),
        Fact::TaskAccepted { key: wrong, position: Position(9) },
    ));
    for (name, stage) in [
        ("delivered", EndingStage::Delivered),
        ("terminated", EndingStage::Terminated),
        ("killed", EndingStage::Killed),
    ] {
        facts.push((format!("task_ending, {name}"), Fact::TaskEnding { key, stage }));
    }
    for number in [1, 2] {
        let fact = Fact::TaskProbeAsked { key, number, until: Timestamp(2_500_000) };
        facts.push((format!("task_probe_asked, number {number}"), fact));
    }
    for answer in [
        ProbeAnswer::Done { what: "x".to_owned() },
        ProbeAnswer::NotDone { what: "x".to_owned() },
        ProbeAnswer::Unclear { reason: "x".to_owned() },
    ] {
        facts.push((format!("task_probed, {}", answer.name()), Fact::TaskProbed { key, answer }));
    }
    for (name, outcome) in outcomes() {
        let fact = Fact::TaskFinished {
            key,
            position: None,
            started_at: None,
            finished_at: at,
            outcome,
            never_began: false,
        };
        facts.push((format!("task_finished, {name}"), fact));
    }
    facts
}

fn tasks(table: &mut String) {
    let fresh = || {
        let mut world = World::with_release_1(1);
        world.disconnect(1);
        world.deploy(2, 2, None);
        world
    };
    let mut situations: Vec<(String, World)> = vec![("queued".to_owned(), fresh())];
    let mut reached = |label: &str, steps: &dyn Fn(&mut World)| {
        let mut world = fresh();
        world.connect(1, vec![]);
        steps(&mut world);
        situations.push((label.to_owned(), world));
    };
    reached("dispatched", &|_| ());
    reached("accepted", &|world| {
        world.accept(1);
    });
    reached("running", &|world| {
        world.run(1);
    });
    reached("running, told to end", &|world| {
        world.run(1);
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
    });
    reached("running, TERM sent", &|world| {
        world.run(1);
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
        let key = world.task_on(1).key();
        let stage = stella_protocol::message::EndingStage::Terminated;
        world.report(1, Report::Ending(Ending { key, stage }));
    });
    reached("unknown, its host is not asked", &|world| {
        let journal = world.tenant().work[&agent(1)].journal.unwrap();
        let hello = hello(journal, vec![]);
        let capabilities = hello.capabilities & !capability::PROBES;
        world.connect_with(1, Hello { capabilities, ..hello }, false);
        world.finish(1, TaskOutcome::Unknown { reason: "x".to_owned() });
    });
    reached("unknown, its host cannot tell", &|world| {
        world.finish(1, TaskOutcome::Unknown { reason: "x".to_owned() });
        world.probe(1, Effect::Unclear { reason: "x".to_owned() });
    });
    for (name, outcome) in outcomes() {
        reached(&format!("finished as {name}"), &|world| {
            world.finish(1, outcome.clone());
        });
    }
    for (label, world) in situations {
        let deployment = world.deployment(deployment(2));
        let first = world
            .tenant()
            .tasks
            .values()
            .find(|task| task.deployment == deployment.id && task.step.as_str() == "install");
        let (key, session) = (first.unwrap().key(), world.session(1));
        rows(table, &format!("task {label}"), &world.state, &task_facts(key, session), |state| {
            let task = &state.tenants[&TENANT].tasks[&key.task];
            let asked = task.cancellation().map(|it| format!(", its cancellation {}", it.name()));
            let probed = task.unprobed().map(|it| format!(", {it}"));
            format!("{}{}{}", task.state.name(), asked.unwrap_or_default(), probed.unwrap_or_default())
        });
    }
}

/// A deployment to one target.
fn created(id: DeploymentId, n: u128) -> Fact {
    Fact::DeploymentCreated {
        id,
        environment: STAGING,
        release: release(2),
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::Stop,
        cause: Cause::Requested,
        targets: vec![PlannedTarget {
            target: target(n),
            release: release(2),
            previous: None,
            domain: None,
            legs: vec![],
        }],
        deadline: Timestamp(9_000_000),
        tolerate_failures: None,
        verification: None,
        left: Vec::new(),
    }
}

fn agents(table: &mut String) {
    let mut world = World::new();
    world.enrol(1);
    let mut situations = vec![("never seen", world.state.clone(), 0)];
    world.connect(1, vec![]);
    situations.push(("online", world.state.clone(), 1));
    world.disconnect(1);
    situations.push(("suspect", world.state.clone(), 1));
    world.wait_ms(30_000);
    situations.push(("offline", world.state.clone(), 1));
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: String::new() });
    situations.push(("revoked", world.state.clone(), 1));
    let id = agent(1);
    for (label, state, session) in situations {
        let (reason, journal, version) = (String::new(), mark(1, 0), String::new());
        let connected = |session| Fact::AgentConnected {
            agent: id,
            session,
            journal,
            version: version.clone(),
            capabilities: 0,
        };
        let gone = |session| Fact::AgentDisconnected { agent: id, session, reason: reason.clone() };
        let enrolled = |agent, key| Fact::AgentEnrolled {
            agent,
            name: name("other"),
            token: TOKEN,
            key_fingerprint: digest(key),
            hostname: String::new(),
            profile_untold: false,
        };
        let facts = [
            ("agent_connected, next session", connected(SessionEpoch(session + 1))),
            ("agent_connected, same session", connected(SessionEpoch(session))),
            ("agent_disconnected, its session", gone(SessionEpoch(session))),
            ("agent_disconnected, other session", gone(SessionEpoch(session + 7))),
            ("agent_offline", Fact::AgentOffline { agent: id }),
            ("agent_revoked", Fact::AgentRevoked { agent: id, reason: reason.clone() }),
            ("agent_enrolled, again", enrolled(id, 9)),
            ("agent_enrolled, another", enrolled(agent(2), 9)),
        ]
        .map(|(name, fact)| (name.to_owned(), fact));
        rows(table, &format!("agent {label}"), &state, &facts, |state| {
            let agent = &state.tenants[&TENANT].agents[&id];
            let connectivity = match agent.connectivity {
                Connectivity::Never => "never seen",
                Connectivity::Online { .. } => "online",
                Connectivity::Suspect { .. } => "suspect",
                Connectivity::Offline { .. } => "offline",
            };
            format!("{connectivity}{}", if agent.revoked.is_some() { ", revoked" } else { "" })
        });
    }
}

#[test]
fn the_table_of_transitions_is_as_committed() {
    let mut table = String::new();
    tasks(&mut table);
    deployments::deployments(&mut table);
    deployments::proofs(&mut table);
    deployments::overtaken(&mut table);
    deployments::canaries(&mut table);
    deployments::batches(&mut table);
    deployments::bakes(&mut table);
    deployments::blue_greens(&mut table);
    deployments::grouped(&mut table);
    agents(&mut table);
    promotions::promotions(&mut table);
    promotions::gates(&mut table);
    promotions::signatures(&mut table);
    golden::compare("transitions.txt", &table);
}

#[test]
fn a_stream_takes_only_its_own_facts() {
    let world = World::with_release_1(1);
    assert!(before(&world, "") == world.state);
    for (stream, event) in &world.events {
        let other = if *stream == StreamId::System { StreamId::Tenant(TENANT) } else { StreamId::System };
        let error = world.state.clone().apply(other, event).unwrap_err();
        assert_eq!(error.fact, event.fact.name(), "both sides are named");
        assert!(!error.state.is_empty() && !error.subject.is_empty());
    }
}
