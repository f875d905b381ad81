//! What travels with a trace: who keeps it, for how long, and that it comes back from the journal.

use crate::common::{self, STAGING, TENANT, World, deployment, end, failed, new_deployment, rule};
use stella_domain::command::{Command, Report, Request, TenantCommand};
use stella_domain::deployment::OnFailure;
use stella_domain::event::Event;
use stella_domain::spans;
use stella_protocol::id::Position;
use stella_protocol::message::Finished;
use stella_protocol::trace::{Baggage, Correlation, TraceContext, TraceParent, TraceState};

fn trace() -> TraceContext {
    let state = TraceState::try_from("congo=t61rcWkgMzE".to_owned()).unwrap();
    let baggage = Baggage::try_from("order=1234".to_owned()).unwrap();
    let correlation = Correlation::try_from("corr-7".to_owned()).unwrap();
    TraceContext { trace_id: 0xabc, span_id: 0xdef, sampled: true, state, baggage, correlation }
}

fn in_trace(trace: TraceContext, n: u128, command: TenantCommand) -> Request {
    Request { trace, ..World::by(n, command) }
}

/// Which facts keep baggage, since the world is there.
fn keepers(world: &World) -> Vec<&'static str> {
    let kept = world.events.iter().filter(|(_, event)| !event.trace.baggage.is_empty());
    kept.map(|(_, event)| event.fact.name()).collect()
}

#[test]
fn what_was_asked_for_goes_on_in_the_trace_of_who_asked_and_only_its_beginning_keeps_the_baggage() {
    let mut world = World::with_release_1(2);
    (1..=2).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    let new = Box::new(new_deployment(2, 2, Some(1)));
    world.send(&in_trace(trace(), 1, TenantCommand::Deploy(new))).unwrap();
    // Whoever approves has a trace of their own, and nothing of it goes into the deployment.
    let approves = TenantCommand::ApprovePromotion {
        promotion: common::promotion(2),
        plan: world.promotion(2).plan.root,
        reason: String::new(),
        signature: None,
    };
    let another = Baggage::try_from("of=another".to_owned()).unwrap();
    let another = TraceContext { trace_id: 0x123, baggage: another, ..trace() };
    world.send(&in_trace(another, 2, approves)).unwrap();

    assert_eq!(world.promotion(2).trace, trace());
    let started = world.deployment(deployment(2));
    assert_eq!(started.trace, trace());
    let task = world.task_on(1);
    assert_eq!(task.trace, trace().parent());
    let work = spans::of_work(started, task);
    // What agents do is found by its deployment.
    let of_work = TraceContext { correlation: Correlation::default(), ..trace() };
    assert_eq!(work, of_work.with_span(spans::execution(task.key())));
    assert_eq!(spans::of_task(started, task), of_work.without_baggage());
    assert_eq!(keepers(&world), ["promotion_requested"]);
    let within = world.events.iter().filter(|(_, event)| event.trace.trace_id == 0xabc);
    assert!(
        within.clone().count() > 0 && within.clone().all(|(_, event)| event.trace.state == trace().state)
    );
    end(&world);
}

#[test]
fn a_rollback_that_starts_by_itself_takes_the_baggage_with_it() {
    let mut world = World::with_release_1(1);
    world.person(1);
    let new = Box::new(stella_domain::command::NewDeployment {
        on_failure: OnFailure::Rollback,
        ..new_deployment(2, 2, None)
    });
    world.send(&in_trace(trace(), 1, TenantCommand::Deploy(new))).unwrap();
    // As the fleet tells it: in the trace of the task.
    let task = world.task_on(1).clone();
    let told = spans::of_task(world.deployment(deployment(2)), &task);
    let finished = Finished {
        key: task.key(),
        position: Position(2),
        started_at: None,
        finished_at: world.now,
        outcome: failed("no"),
    };
    let (agent, session) = (common::agent(1), world.session(1));
    let command = TenantCommand::Report { agent, session, report: Report::Finished(finished) };
    let command = Command::Tenant(TENANT, command);
    world.send(&Request { trace: told, ..World::request(command) }).unwrap();
    assert_eq!(world.rollback_of(2).unwrap().trace, trace());
    assert_eq!(keepers(&world), ["promotion_requested"], "it is in the state already");
    end(&world);
}

#[test]
fn an_event_without_them_is_written_as_before_and_an_old_one_is_read() {
    let mut world = World::with_release_1(1);
    world.person(1);
    let bare = TraceContext::from(TraceParent { trace_id: 0xabc, span_id: 0xdef, sampled: true });
    for (n, trace) in [(2, bare), (3, trace())] {
        let new = Box::new(new_deployment(n, n, None));
        world.send(&in_trace(trace, 1, TenantCommand::Deploy(new))).unwrap();
        world.complete(1);
    }
    let written = |trace_id: bool| {
        let of = world.events.iter().filter(|(_, event)| event.fact.name() == "promotion_requested");
        let event = of.skip(usize::from(trace_id) + 1).map(|(_, event)| event).next().unwrap();
        (event.clone(), serde_json::to_string(event).unwrap())
    };
    let (old, text) = written(false);
    assert!(text.contains(r#""trace":{"trace_id":2748,"span_id":3567,"sampled":true}"#), "{text}");
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), old);
    let (new, text) = written(true);
    let carried =
        r#""sampled":true,"state":"congo=t61rcWkgMzE","baggage":"order=1234","correlation":"corr-7"}"#;
    assert!(text.contains(carried), "{text}");
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), new);
    let damaged = text.replace("order=1234", "order 1234");
    assert!(serde_json::from_str::<Event>(&damaged).is_err(), "what we never wrote is not believed");
}
