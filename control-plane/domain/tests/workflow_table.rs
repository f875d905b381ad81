//! Every state of a step and of a run, and every fact about it: what follows, or that it is refused. The table is committed;
//! `UPDATE_GOLDEN=1 cargo test` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::common::golden;
use crate::common::{self, TENANT, World, name};
use serde_json::json;
use stella_domain::command::{NewRun, TenantCommand};
use stella_domain::event::{Event, Fact, IllegalTransition, StreamId};
use stella_domain::gate::Outcome;
use stella_domain::name::Identifier;
use stella_domain::run::{CallOutcome, Run, StepEnd, StepRun, StepState, Turn, Work};
use stella_domain::tenant::TenantState;
use stella_protocol::id::RunId;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// The step that the table is about is `call`; `next` needs it, and `undo` makes up for it.
fn fresh() -> World {
    let mut world = World::with_release_1(1);
    (1..=2).for_each(|n| world.person(n));
    let call = json!({ "url": "https://example.com/" });
    let template = json!({ "name": "ship", "steps": [
        { "id": "first", "wait": "1s" },
        { "id": "call", "needs": ["first"], "http": call, "retry": { "attempts": 2 }, "hold": "1h" },
        { "id": "go", "needs": ["first"], "on_failure": "compensate", "approval": { "needed": 2 } },
        { "id": "next", "needs": ["call"], "wait": "1h" },
        { "id": "undo", "compensates": "call", "http": call },
    ]});
    let template = serde_json::from_value(template).unwrap();
    world.ok(TenantCommand::ApplyWorkflow(Box::new(template)));
    let new = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

fn answer(world: &mut World, step: &str, status: u16) {
    let attempt = world.tenant().runs[&RUN].steps[&id(step)].attempts;
    let outcome = CallOutcome::Answered { status, body: None };
    world.ok(TenantCommand::AnswerCall { run: RUN, step: id(step), attempt, outcome });
}

fn decide(world: &mut World, approve: bool) {
    let reason = String::new();
    world.tell_as(2, TenantCommand::DecideStep { run: RUN, step: id("go"), approve, reason }).unwrap();
}

fn cancel(world: &mut World) {
    world.ok(TenantCommand::CancelRun { run: RUN, reason: "x".to_owned() });
}

fn situations() -> Vec<(&'static str, World)> {
    let mut situations = vec![("waiting", fresh())];
    let mut reached = |label, steps: &dyn Fn(&mut World)| {
        let mut world = fresh();
        world.wait_ms(1_000);
        steps(&mut world);
        situations.push((label, world));
    };
    reached("running", &|_| ());
    reached("backing off", &|world| answer(world, "call", 500));
    reached("held", &|world| {
        answer(world, "call", 500);
        world.wait_ms(5_000);
        answer(world, "call", 500);
    });
    reached("succeeded", &|world| answer(world, "call", 200));
    reached("running, and go is approved by one of two", &|world| decide(world, true));
    reached("running in a run that compensates", &|world| decide(world, false));
    reached("succeeded in a run that compensates", &|world| {
        answer(world, "call", 200);
        decide(world, false);
    });
    reached("made up for in a run that failed", &|world| {
        answer(world, "call", 200);
        decide(world, false);
        answer(world, "undo", 200);
    });
    reached("cancelled in a run that was cancelled", &cancel);
    situations
}

fn facts() -> Vec<(String, Fact)> {
    let (run, until) = (RUN, Timestamp(9_000_000));
    let reason = || "x".to_owned();
    let started =
        |step: &str| Fact::StepStarted { run, step: id(step), work: Work::Wait { until }, deadline: None };
    let ended = |end| Fact::StepEnded { run, step: id("call"), end };
    let turned = |turn| Fact::RunTurned { id: run, turn };
    let mut facts = vec![
        ("step_started, call".to_owned(), started("call")),
        ("step_started, next".to_owned(), started("next")),
        ("step_started, undo".to_owned(), started("undo")),
        ("step_approved, call".to_owned(), Fact::StepApproved { run, step: id("call"), reason: reason() }),
        ("step_approved, go".to_owned(), Fact::StepApproved { run, step: id("go"), reason: reason() }),
        ("step_rejected, call".to_owned(), Fact::StepRejected { run, step: id("call"), reason: reason() }),
        ("step_rejected, go".to_owned(), Fact::StepRejected { run, step: id("go"), reason: reason() }),
    ];
    for (label, step, who) in
        [("go by who approved", "go", 2), ("go by another", "go", 3), ("call, which asks nobody", "call", 2)]
    {
        let account = common::account(who);
        let lapsed = Fact::StepApprovalLapsed { run, step: id(step), account, reason: reason() };
        facts.push((format!("step_approval_lapsed, {label}"), lapsed));
    }
    for fact in [
        Fact::StepBackedOff { run, step: id("call"), until, reason: reason() },
        Fact::StepHeld { run, step: id("call"), until, reason: reason() },
        Fact::StepOverdue { run, step: id("call"), reason: reason() },
    ] {
        facts.push((fact.name().to_owned(), fact));
    }
    for (name, end) in [
        ("succeeded", StepEnd::Succeeded { outputs: BTreeMap::new() }),
        ("failed", StepEnd::Failed { reason: reason() }),
        ("skipped", StepEnd::Skipped),
        ("cancelled", StepEnd::Cancelled),
    ] {
        facts.push((format!("step_ended, {name}"), ended(end)));
    }
    for (name, turn) in [
        ("failing", Turn::Failing { reason: reason() }),
        ("compensating", Turn::Compensating { reason: reason() }),
        ("cancelling", Turn::Cancelling { reason: reason() }),
    ] {
        facts.push((format!("run_turned, {name}"), turned(turn)));
    }
    facts.push(("run_ended".to_owned(), Fact::RunEnded { id: run, outputs: BTreeMap::new() }));
    facts.push(("run_archived".to_owned(), Fact::RunArchived { id: run }));
    facts
}

/// How far a run and its steps are, and who has agreed.
fn seen(run: &Run) -> String {
    let step = |(id, step): (&Identifier, &StepRun)| match &step.state {
        StepState::Running { work: Work::Approval { approvals, .. }, .. } if !approvals.is_empty() => {
            format!("{id} running with {} approvals", approvals.len())
        }
        state => format!("{id} {}", state.name()),
    };
    let steps: Vec<String> = run.steps.iter().map(step).collect();
    format!("{}: {}", run.status.name(), steps.join(", "))
}

/// A run with a step that runs another workflow for each of two items.
fn with_parts() -> World {
    let mut world = World::with_release_1(1);
    (1..=2).for_each(|n| world.person(n));
    let part = json!({ "name": "part", "steps": [{ "id": "ask", "approval": {} }] });
    let parts = json!({ "name": "part", "version": 1 });
    let whole = json!({ "name": "whole", "steps": [
        { "id": "parts", "for_each": ["1", "2"], "workflow": parts, "retry": { "attempts": 2 } },
    ]});
    for template in [part, whole] {
        world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    }
    let new = NewRun { id: RUN, workflow: name("whole"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

/// What is part of a run: the table is about the first of two.
fn parts(table: &mut String) {
    let child =
        |world: &World, at: usize| world.tenant().runs[&RUN].steps[&id("parts")].state.children()[at].run;
    let ends = |world: &mut World, at: usize, approve: bool| {
        let (run, step, reason) = (child(world, at), id("ask"), String::new());
        world.tell_as(2, TenantCommand::DecideStep { run, step, approve, reason }).unwrap();
    };
    type Steps<'s> = &'s dyn Fn(&mut World);
    let cases: [(&str, Steps<'_>); 4] = [
        ("running", &|_| ()),
        ("that has succeeded, and the other one runs", &|world| ends(world, 0, true)),
        ("that has failed, and the other one runs", &|world| ends(world, 0, false)),
        ("in a run that is being cancelled", &|world| {
            world.ok(TenantCommand::CancelRun { run: RUN, reason: "x".to_owned() });
        }),
    ];
    let first = child(&with_parts(), 0);
    for (label, steps) in cases {
        let mut world = with_parts();
        steps(&mut world);
        writeln!(table, "part {label}").unwrap();
        let outputs = BTreeMap::new();
        let started = |id, parent| Fact::RunStarted {
            id,
            workflow: name("part"),
            version: 1,
            inputs: BTreeMap::new(),
            parent,
            chosen_by: Vec::new(),
        };
        let other = RunId(Uuid::from_u128(0x5009));
        let cancelling = Turn::Cancelling { reason: "x".to_owned() };
        let facts = [
            ("run_started, again", started(first, Some((RUN, id("parts"))))),
            ("run_started, that the step does not wait for", started(other, Some((RUN, id("parts"))))),
            ("run_turned, cancelling", Fact::RunTurned { id: first, turn: cancelling }),
            (
                "step_ended, ask succeeded",
                ended(first, "ask", StepEnd::Succeeded { outputs: outputs.clone() }),
            ),
            ("run_ended", Fact::RunEnded { id: first, outputs: BTreeMap::new() }),
            ("run_archived", Fact::RunArchived { id: first }),
            ("step_ended, parts succeeded", ended(RUN, "parts", StepEnd::Succeeded { outputs })),
            ("step_ended, parts cancelled", ended(RUN, "parts", StepEnd::Cancelled)),
            ("run_ended, the whole", Fact::RunEnded { id: RUN, outputs: BTreeMap::new() }),
        ];
        for (name, fact) in facts {
            let (after, result) = applied(&world, fact);
            let result = match result {
                Ok(()) => {
                    let run = |id| after.runs.get(&id).map_or_else(|| "gone".to_owned(), |run| seen(run));
                    format!("-> {}; the whole {}", run(first), run(RUN))
                }
                Err(_) => "refused".to_owned(),
            };
            writeln!(table, "    {name:<46} {result}").unwrap();
        }
    }
}

/// A run with steps that ask a gate: of something outside, and of a person.
fn asking() -> World {
    let mut world = World::with_release_1(1);
    (1..=2).for_each(|n| world.person(n));
    let gate = |more: serde_json::Value| {
        let mut gate = json!({ "release": "shop:1.0", "environment": "staging" });
        gate.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        gate
    };
    let template = json!({ "name": "gates", "steps": [
        { "id": "board", "gate": gate(json!({ "http": { "endpoint": "board" } })), "retry": { "attempts": 2 } },
        { "id": "who", "gate": gate(json!({ "manual": {} })) },
    ]});
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let new = NewRun { id: RUN, workflow: name("gates"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

fn gate_facts() -> Vec<(String, Fact)> {
    let evaluated = |label: &str, step: &str, attempt| {
        let fact = Fact::StepGateEvaluated {
            run: RUN,
            step: id(step),
            attempt,
            gate: None,
            kind: "http".to_owned(),
            policy: common::digest(1),
            asked_at: Timestamp(1_000),
            outcome: Outcome::Passed,
            reason: "x".to_owned(),
            inputs: None,
            expires_at: None,
            again_at: None,
        };
        (format!("step_gate_evaluated, {label}"), fact)
    };
    let reason = || "x".to_owned();
    let succeeded = StepEnd::Succeeded { outputs: BTreeMap::new() };
    vec![
        evaluated("board at this attempt", "board", 1),
        evaluated("board at another one", "board", 2),
        evaluated("who", "who", 1),
        ("step_approved, who".to_owned(), Fact::StepApproved { run: RUN, step: id("who"), reason: reason() }),
        ("step_rejected, who".to_owned(), Fact::StepRejected { run: RUN, step: id("who"), reason: reason() }),
        (
            "step_overdue, board".to_owned(),
            Fact::StepOverdue { run: RUN, step: id("board"), reason: reason() },
        ),
        ("step_ended, board succeeded".to_owned(), ended(RUN, "board", succeeded)),
    ]
}

/// Steps that ask a gate.
fn gates(table: &mut String) {
    let answer = |world: &mut World, outcome| {
        let (reason, attempt) = ("x".to_owned(), world.tenant().runs[&RUN].steps[&id("board")].attempts);
        let step = id("board");
        world.ok(TenantCommand::AnswerStepGate { run: RUN, step, attempt, outcome, reason, inputs: None });
    };
    type Steps<'s> = &'s dyn Fn(&mut World);
    let cases: [(&str, Steps<'_>); 5] = [
        ("asked", &|_| ()),
        ("that has let through", &|world| answer(world, Outcome::Passed)),
        ("that has not, and is asked again", &|world| answer(world, Outcome::Failed)),
        ("that nobody can say", &|world| answer(world, Outcome::Unavailable)),
        ("of a run that was cancelled", &cancel),
    ];
    for (label, steps) in cases {
        let mut world = asking();
        steps(&mut world);
        writeln!(table, "gate {label}").unwrap();
        for (name, fact) in gate_facts() {
            let (after, result) = applied(&world, fact);
            let seen =
                if result.is_ok() { format!("-> {}", seen(&after.runs[&RUN])) } else { "refused".to_owned() };
            writeln!(table, "    {name:<46} {seen}").unwrap();
        }
    }
}

/// A run with a step whose promotion waits for an approval, another one, and what makes up for that.
fn pending() -> World {
    let mut world = World::with_release_1(1);
    (1..=2).for_each(|n| world.person(n));
    let rule = Some(common::rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: common::STAGING, rule });
    let call = json!({ "url": "https://example.com/" });
    let template = json!({ "name": "asks", "steps": [
        { "id": "first", "http": call },
        { "id": "us", "deploy": { "release": "shop:1.0", "environment": "staging" }, "retry": { "attempts": 2 } },
        { "id": "boom", "needs": ["first"], "on_failure": "compensate", "http": call },
        { "id": "undo", "compensates": "first", "http": call },
    ]});
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let new = NewRun { id: RUN, workflow: name("asks"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    answer(&mut world, "first", 200);
    world
}

/// Steps whose promotion waits, and what became of it when their run turned away.
fn promotions(table: &mut String) {
    type Steps<'s> = &'s dyn Fn(&mut World);
    let cases: [(&str, Steps<'_>); 3] = [
        ("pending", &|_| ()),
        ("pending when the run came to compensate", &|world| answer(world, "boom", 500)),
        ("pending when the run was cancelled", &cancel),
    ];
    for (label, steps) in cases {
        let mut world = pending();
        let promotion = *world.tenant().open_promotions.iter().next().unwrap();
        steps(&mut world);
        writeln!(table, "promotion of a step {label}").unwrap();
        let reason = || "x".to_owned();
        let compensating = Turn::Compensating { reason: reason() };
        let facts = [
            ("promotion_withdrawn", Fact::PromotionWithdrawn { id: promotion, reason: reason() }),
            ("promotion_expired", Fact::PromotionExpired { id: promotion }),
            ("step_backed_off, us", backed_off("us")),
            ("step_ended, us succeeded", ended(RUN, "us", StepEnd::Succeeded { outputs: BTreeMap::new() })),
            ("step_ended, us cancelled", ended(RUN, "us", StepEnd::Cancelled)),
            ("run_turned, compensating", Fact::RunTurned { id: RUN, turn: compensating }),
            ("run_ended", Fact::RunEnded { id: RUN, outputs: BTreeMap::new() }),
        ];
        for (name, fact) in facts {
            let (after, result) = applied(&world, fact);
            let result = match result {
                Ok(()) => {
                    let promotion = after.promotions[&promotion].status.name();
                    format!("-> {}; the promotion {promotion}", seen(&after.runs[&RUN]))
                }
                Err(_) => "refused".to_owned(),
            };
            writeln!(table, "    {name:<46} {result}").unwrap();
        }
    }
}

fn backed_off(step: &str) -> Fact {
    let (until, reason) = (Timestamp(9_000_000), "x".to_owned());
    Fact::StepBackedOff { run: RUN, step: id(step), until, reason }
}

fn ended(run: RunId, step: &str, end: StepEnd) -> Fact {
    Fact::StepEnded { run, step: id(step), end }
}

/// The tenant after a fact of person 2.
fn applied(world: &World, fact: Fact) -> (TenantState, Result<(), IllegalTransition>) {
    let mut after = world.state.clone();
    let (actor, trace) = (common::person(2), TraceContext::default());
    let event = Event { at: Timestamp(2_000_000), actor, trace, fact };
    let result = after.apply(StreamId::Tenant(TENANT), &event);
    (TenantState::clone(&after.tenants[&TENANT]), result)
}

#[test]
fn the_table_of_transitions_is_as_committed() {
    let mut table = String::new();
    for (label, world) in situations() {
        writeln!(table, "step {label}").unwrap();
        for (name, fact) in facts() {
            let (after, result) = applied(&world, fact);
            let seen = match (result, after.runs.get(&RUN)) {
                (Ok(()), None) => "-> gone".to_owned(),
                (Ok(()), Some(run)) => format!("-> {}", seen(run)),
                (Err(_), _) => "refused".to_owned(),
            };
            writeln!(table, "    {name:<46} {seen}").unwrap();
        }
    }
    parts(&mut table);
    gates(&mut table);
    promotions(&mut table);
    golden::compare("workflows.txt", &table);
}
