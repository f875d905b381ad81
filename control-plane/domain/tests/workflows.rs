//! Workflows: what follows what, who decides, what a failure means, and what survives.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, World, account, agent, canary, checked_run, end, facts, failed, name, new_target, rule,
    states_of, target,
};
use serde_json::{Value, json};
use stella_domain::access::{Grant, Role};
use stella_domain::command::{NewRun, Outcome, SystemCommand, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::Strategy;
use stella_domain::event::Fact;
use stella_domain::name::Identifier;
use stella_domain::rejection::Rejection;
use stella_domain::run::{CallOutcome, Run, RunStatus, StepState, Work};
use stella_domain::strategy::Rolling;
use stella_domain::workflow::{CALL_WAIT_MS_MAX, NoticeSeverity, Template, check};
use stella_protocol::id::{PromotionId, RunId};
use stella_protocol::message::TaskOutcome;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

fn template(value: Value) -> Template {
    serde_json::from_value(value).unwrap()
}

/// Two targets with release 1, and three people.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world
}

fn steps(steps: Value) -> Template {
    template(
        json!({ "name": "ship", "inputs": { "version": { "type": "text", "default": "2.0" } }, "steps": steps }),
    )
}

/// Person 1 runs these steps.
fn run(wanted: Value) -> World {
    let mut world = world();
    world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(wanted))));
    start(&mut world, json!({})).unwrap();
    world
}

fn start(world: &mut World, inputs: Value) -> Result<Decision, Rejection> {
    let inputs = serde_json::from_value(inputs).unwrap();
    let new = NewRun { id: RUN, workflow: name("ship"), version: None, inputs };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new)))
}

fn now(world: &World) -> &Run {
    checked_run(world, RUN)
}

fn states(world: &World) -> String {
    states_of(now(world))
}

fn answer(world: &mut World, step: &str, outcome: CallOutcome) -> Decision {
    let attempt = world.tenant().runs[&RUN].steps[&id(step)].attempts;
    world.ok(TenantCommand::AnswerCall { run: RUN, step: id(step), attempt, outcome })
}

fn status(code: u16) -> CallOutcome {
    CallOutcome::Answered { status: code, body: None }
}

fn under_way(world: &World, step: &str) -> Work {
    let StepState::Running { work, .. } = &now(world).steps[&id(step)].state else { panic!() };
    work.clone()
}

fn approve(world: &mut World, who: u128, approve: bool) -> Result<Decision, Rejection> {
    let reason = "looked at it".to_owned();
    world.tell_as(who, TenantCommand::DecideStep { run: RUN, step: id("go"), approve, reason })
}

fn deploy(release: &str) -> Value {
    json!({ "release": release, "environment": "staging" })
}

fn deploy_as(strategy: Value) -> Value {
    json!({ "release": "x:1", "environment": "staging", "strategy": strategy })
}

/// To all targets at the same time.
fn deploy_all(release: &str) -> Value {
    let mut deploy = deploy(release);
    deploy["strategy"] = json!({ "type": "all_at_once" });
    deploy
}

#[test]
fn a_run_waits_asks_and_deploys_in_its_order() {
    let mut world = run(json!([
        { "id": "soak", "wait": "10m" },
        { "id": "go", "needs": ["soak"], "approval": { "needed": 2, "message": "ship ${inputs.version}?" } },
        { "id": "when", "needs": ["soak"], "input": { "note": { "type": "text", "max_length": 5 } } },
        { "id": "out", "needs": ["go", "when"], "when": "steps.when.outputs.note == 'yes'",
          "deploy": { "release": "shop:${inputs.version}", "environment": "staging" } },
        { "id": "tell", "needs": ["out"], "http": { "url": "https://example.com/${run.workflow}",
          "body": { "deployment": "${steps.out.outputs.deployment}" } } },
    ]));
    assert_eq!(states(&world), "running: go waiting, out waiting, soak running, tell waiting, when waiting");
    world.wait_ms(599_999);
    assert_eq!(now(&world).steps[&id("soak")].state.name(), "running");
    world.wait_ms(1);
    assert_eq!(
        states(&world),
        "running: go running, out waiting, soak succeeded, tell waiting, when running"
    );
    let StepState::Running { work: Work::Approval { message, .. }, .. } = &now(&world).steps[&id("go")].state
    else {
        panic!()
    };
    assert_eq!(message, "ship 2.0?");
    let refused = |result: Result<Decision, Rejection>| result.unwrap_err().to_string();
    assert!(
        refused(approve(&mut world, 1, true)).contains("nobody approves in a run that they have started")
    );
    for _ in 0..2 {
        approve(&mut world, 2, true).unwrap();
    }
    assert_eq!(now(&world).steps[&id("go")].state.name(), "running", "twice is once");
    approve(&mut world, 3, true).unwrap();
    assert_eq!(now(&world).steps[&id("go")].outputs["approved_by"], json!(["person-2", "person-3"]));
    let answers = |text: &str| TenantCommand::AnswerStep {
        run: RUN,
        step: id("when"),
        answers: BTreeMap::from([(id("note"), json!(text))]),
    };
    let long = world.tell_as(1, answers("too long")).unwrap_err();
    assert_eq!(long.to_string(), "answers.note: has 8 characters; it may have 5");
    world.tell_as(1, answers("yes")).unwrap();
    // The promotion is the starter's, whoever answered last, and its trace hangs below the step.
    let StepState::Running { work: Work::Deployment { deployment }, .. } =
        now(&world).steps[&id("out")].state
    else {
        panic!()
    };
    let promotion = &world.tenant().promotions[&PromotionId(deployment.0)];
    assert_eq!(promotion.requested_by, common::person(1));
    world.complete(1);
    world.complete(2);
    let StepState::Running { work: Work::Http(request), .. } = &now(&world).steps[&id("tell")].state else {
        panic!()
    };
    assert_eq!(
        (request.url.as_str(), &request.body),
        ("https://example.com/ship", &Some(json!({ "deployment": deployment })))
    );
    answer(&mut world, "tell", status(204));
    assert_eq!(now(&world).status, RunStatus::Succeeded);
    assert_eq!(world.tenant().totals.runs[&name("ship")]["succeeded"], 1);
    let begun = now(&world).steps.values().filter(|step| step.started_at.is_some()).count();
    let took = world.tenant().totals.steps_took.values().map(|took| took.count()).sum::<u64>();
    assert_eq!(took, begun as u64, "{:?}", world.tenant().totals.steps_took);
    assert!(world.tenant().active_runs.is_empty() && world.tenant().calls.is_empty());
}

#[test]
fn a_deployment_of_a_run_goes_the_way_of_every_promotion() {
    let mut world = world();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(
        json!([{ "id": "out", "deploy": deploy("shop:2.0") }]),
    ))));
    start(&mut world, json!({})).unwrap();
    let asked = world.tenant().open_promotions.iter().next().copied().unwrap();
    let plan = world.tenant().promotions[&asked].plan.root;
    let approve =
        TenantCommand::ApprovePromotion { promotion: asked, plan, reason: String::new(), signature: None };
    assert!(
        world
            .tell_as(1, approve.clone())
            .unwrap_err()
            .to_string()
            .contains("nobody approves what they have asked for")
    );
    assert_eq!(states(&world), "running: out running");
    world.tell_as(2, approve).unwrap();
    world.complete(1);
    world.complete(2);
    assert_eq!(states(&world), "succeeded: out succeeded");
}

#[test]
fn a_step_that_does_not_say_how_deploys_as_the_environment_does() {
    let unsaid = json!([{"id": "own", "deploy": deploy("shop:2.0")}]);
    let mut said = unsaid.clone();
    said[0]["deploy"]["strategy"] = json!({"type": "rolling", "batch": 1});
    let default = canary(&[(50, None)], None);
    for (steps, set, wanted) in [
        (&unsaid, None, Strategy::usual()),
        (&unsaid, Some(default.clone()), default.clone()),
        (&said, Some(default), Strategy::Rolling(Rolling::of(1))),
    ] {
        let mut world = world();
        world.ok(TenantCommand::SetEnvironmentStrategy { environment: STAGING, strategy: set });
        world.ok(TenantCommand::ApplyWorkflow(Box::new(self::steps(steps.clone()))));
        start(&mut world, json!({})).unwrap();
        let Work::Deployment { deployment } = under_way(&world, "own") else { panic!() };
        let deployment = world.deployment(deployment);
        assert_eq!(deployment.strategy, wanted);
        end(&world);
    }
}

#[test]
fn a_step_deploys_to_the_targets_that_have_its_labels() {
    for (line, wanted) in [("${inputs.version}", Some(target(7))), ("3.0", None)] {
        let mut world = world();
        let mut labelled = new_target(7);
        labelled.labels = BTreeMap::from([("line".to_owned(), "2.0".to_owned())]);
        world.enrol(7);
        world.connect(7, vec![]);
        world.ok(TenantCommand::CreateTarget(Box::new(labelled)));
        let mut own = json!([{"id": "own", "deploy": deploy("shop:2.0")}]);
        own[0]["deploy"]["labels"] = json!({ "line": line });
        world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(own))));
        start(&mut world, json!({})).unwrap();
        let Some(wanted) = wanted else {
            assert_eq!(states(&world), "failed: own failed");
            continue;
        };
        let Work::Deployment { deployment } = under_way(&world, "own") else { panic!() };
        assert_eq!(world.deployment(deployment).order.to_vec(), [wanted]);
        end(&world);
    }
}

#[test]
fn the_authority_is_the_starters_and_is_looked_at_when_it_is_needed() {
    let mut world = world();
    world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(json!([
        { "id": "soak", "wait": "1m" }, { "id": "out", "needs": ["soak"], "deploy": deploy("shop:2.0") },
    ])))));
    start(&mut world, json!({})).unwrap();
    let roles = vec![Grant { role: Role::Viewer, tenant: None, environment: None }];
    world.system(SystemCommand::SetAccountRoles { account: account(1), roles }).unwrap();
    world.wait_ms(60_000);
    assert_eq!(states(&world), "failed: out failed, soak succeeded");
    let RunStatus::Failed { reason } = &now(&world).status else { panic!() };
    assert!(reason.contains("account person-1 needs the role deployer in environment staging"), "{reason}");
    assert_eq!(world.tenant().promotions.len(), 1, "that of release 1 alone: nothing was asked for");
}

#[test]
fn a_failed_attempt_is_made_again_with_growing_pauses() {
    let mut world =
        run(json!([{ "id": "call", "retry": { "attempts": 3, "backoff": "10s", "backoff_max": "15s" },
        "http": { "url": "https://example.com/x" } }]));
    answer(&mut world, "call", status(503));
    assert_eq!(states(&world), "running: call backing_off");
    // What comes late about an earlier attempt is no news.
    world.ok(TenantCommand::AnswerCall { run: RUN, step: id("call"), attempt: 1, outcome: status(200) });
    world.wait_ms(9_999);
    assert_eq!(states(&world), "running: call backing_off");
    world.wait_ms(1);
    assert_eq!(states(&world), "running: call running");
    answer(&mut world, "call", CallOutcome::Failed { reason: "connection refused".to_owned() });
    world.wait_ms(15_000);
    answer(&mut world, "call", status(404));
    let RunStatus::Failed { reason } = &now(&world).status else { panic!() };
    assert_eq!(reason, "step call: the answer was 404");
    assert_eq!(now(&world).steps[&id("call")].attempts, 3);
}

#[test]
fn a_step_tells_somebody_and_is_over_when_that_was_taken() {
    let tell = |message: &str, more: Value| {
        let mut step = json!({ "id": "tell", "notify": { "receiver": "On_call-1", "message": message } });
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([step])
    };
    let told = |world: &World| {
        let Work::Notify(notice) = under_way(world, "tell") else { panic!() };
        assert!(world.tenant().calls.contains(&(RUN, id("tell"))), "whoever tells people finds it there");
        *notice
    };
    let mut world = run(tell("${inputs.version} is out", json!({ "retry": { "attempts": 2 } })));
    let notice = told(&world);
    assert_eq!((notice.receiver.as_str(), notice.message.as_str()), ("On_call-1", "2.0 is out"));
    assert_eq!((notice.severity, notice.timeout_ms), (NoticeSeverity::Info, 15_000));
    answer(&mut world, "tell", CallOutcome::Failed { reason: "the receiver cannot be reached".to_owned() });
    assert_eq!(states(&world), "running: tell backing_off");
    world.wait_ms(5_000);
    assert!(told(&world).at > notice.at, "another attempt is another message");
    answer(&mut world, "tell", CallOutcome::Told);
    assert_eq!(states(&world), "succeeded: tell succeeded");
    assert!(now(&world).steps[&id("tell")].outputs.is_empty() && world.tenant().calls.is_empty());

    // Nobody tells it: it does not wait for ever.
    let mut world = run(tell("x", json!({ "timeout": "2s" })));
    world.wait_ms(3_601_999);
    assert_eq!(states(&world), "running: tell running");
    world.wait_ms(1);
    let RunStatus::Failed { reason } = &now(&world).status else { panic!() };
    assert_eq!(reason, "step tell: there was no answer in time, the wait for its turn included");
    // What is for people has an end, and says something.
    let long = told(&run(tell(&"ü".repeat(3_001), json!({}))));
    assert!(long.message.chars().count() == 3_000 && long.message.ends_with("ü…"), "{}", long.message);
    let whole = told(&run(tell(&"ü".repeat(3_000), json!({}))));
    assert!(!whole.message.contains('…'));
    let world = run(tell("${' '}", json!({})));
    let RunStatus::Failed { reason } = &now(&world).status else { panic!() };
    assert_eq!(reason, "step tell: message becomes empty");
    // An answer to something else is none.
    let mut world = run(tell("x", json!({})));
    answer(&mut world, "tell", status(200));
    assert_eq!(states(&world), "failed: tell failed");
}

#[test]
fn a_call_by_a_name_says_what_comes_after_its_address() {
    let call = json!({ "to": "tickets", "path": "issue/${run.workflow}?of=${run.id}" });
    let mut world = run(json!([{ "id": "call", "http": call }]));
    let Work::Http(request) = under_way(&world, "call") else { panic!() };
    assert_eq!((request.to, request.url), (Some(name("tickets")), format!("issue/ship?of={RUN}")));
    answer(&mut world, "call", status(200));
    assert_eq!(states(&world), "succeeded: call succeeded");
}

/// Which accounts there are is for those who administer the installation.
#[test]
fn a_step_does_not_tell_which_accounts_there_are() {
    let reason = |world: &World| match &now(world).status {
        RunStatus::Failed { reason } => reason.clone(),
        other => panic!("{other:?}"),
    };
    let named = |who: &str| {
        let mut world = world();
        let theirs = SystemCommand::SetAccountRoles { account: account(3), roles: Vec::new() };
        world.system(theirs).unwrap();
        let steps = steps(json!([{ "id": "go", "approval": { "from": [who] } }]));
        world.ok(TenantCommand::ApplyWorkflow(Box::new(steps)));
        start(&mut world, json!({})).unwrap();
        reason(&world).replace(who, "NAME")
    };
    assert_eq!(named("person-3"), named("nobody"));
    assert_eq!(named("nobody"), "step go: there is no account NAME with a role in this tenant");
}

/// What leaves the control plane has its credentials, whoever the run is of.
#[test]
fn nothing_goes_out_for_whoever_could_not_start_the_run_any_more() {
    let call = json!({ "http": { "to": "tickets", "path": "x" } });
    let tell = json!({ "notify": { "receiver": "chat", "message": "x" } });
    let metric = json!({ "source": "m", "query": "up", "comparison": "above", "threshold": 1 });
    let ask = json!({ "gate": { "release": "shop:2.0", "environment": "staging", "metric": metric } });
    let viewer = vec![Grant { role: Role::Viewer, tenant: None, environment: None }];
    let demoted = SystemCommand::SetAccountRoles { account: account(1), roles: viewer };
    let removed = SystemCommand::RemoveAccount { account: account(1) };
    for (does, kind) in [(call, "calls"), (tell, "tells"), (ask, "asks")] {
        for (change, why) in [
            (None, ""),
            (Some(demoted.clone()), "account person-1 needs the role deployer"),
            (Some(removed.clone()), "account person-1 was removed"),
        ] {
            let mut step = does.clone();
            step.as_object_mut()
                .unwrap()
                .extend([("id".to_owned(), json!("out")), ("needs".to_owned(), json!(["soak"]))]);
            let mut world = run(json!([{ "id": "soak", "wait": "1m" }, step]));
            let is_changed = change.is_some();
            change.into_iter().for_each(|change| drop(world.system(change).unwrap()));
            world.wait_ms(60_000);
            let under_way = now(&world).steps[&id("out")].state.name();
            assert_eq!(under_way, if is_changed { "failed" } else { "running" }, "{kind} {why}");
            if let RunStatus::Failed { reason } = &now(&world).status {
                assert!(reason.contains(why), "{kind}: {reason}");
            }
        }
    }
}

/// Whoever starts the run has no say in where the credentials of a destination go.
#[test]
fn what_a_run_is_given_does_not_change_where_a_call_leads() {
    for (address, value, leads_to) in [
        (
            json!({ "to": "tickets", "path": "issue/${inputs.version}/comment?by=${inputs.version}" }),
            "A 1&b=c",
            Some("issue/A%201%26b%3Dc/comment?by=A%201%26b%3Dc"),
        ),
        (
            json!({ "to": "tickets", "path": "issue/${inputs.version}/comment" }),
            "A-1/../../user?username=evil&x=",
            None,
        ),
        (json!({ "url": "https://example.com/deploys/${inputs.version}" }), "..", None),
    ] {
        let mut world = world();
        world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(json!([{ "id": "call", "http": address }])))));
        start(&mut world, json!({ "version": value })).unwrap();
        match leads_to {
            Some(address) => {
                let Work::Http(request) = under_way(&world, "call") else { panic!() };
                assert_eq!(request.url, address);
            }
            None => {
                assert_eq!(states(&world), "failed: call failed");
                let RunStatus::Failed { reason } = &now(&world).status else { panic!() };
                assert!(reason.contains("has a value"), "{reason}");
            }
        }
    }
}

#[test]
fn a_held_step_is_retried_by_hand_or_fails_in_the_end() {
    let held =
        json!([{ "id": "call", "hold": "1h", "http": { "url": "https://example.com/x", "expect": [200] } }]);
    for retried in [true, false] {
        let mut world = run(held.clone());
        answer(&mut world, "call", status(204));
        assert_eq!(states(&world), "running: call held");
        if retried {
            world.tell_as(1, TenantCommand::RetryStep { run: RUN, step: id("call") }).unwrap();
            answer(&mut world, "call", status(200));
            assert_eq!(states(&world), "succeeded: call succeeded");
        } else {
            world.wait_ms(3_600_000);
            assert_eq!(states(&world), "failed: call failed");
            let late = world.tell_as(1, TenantCommand::RetryStep { run: RUN, step: id("call") }).unwrap_err();
            assert!(late.to_string().contains("has failed for good"), "{late}");
        }
    }
}

#[test]
fn a_failure_ends_what_waits_lets_end_what_works_and_is_made_up_for() {
    let mut world = run(json!([
        { "id": "one", "http": { "url": "https://example.com/1" } },
        { "id": "out", "needs": ["one"], "deploy": deploy("shop:2.0") },
        { "id": "bad", "needs": ["out"], "on_failure": "compensate", "http": { "url": "https://example.com/2" } },
        { "id": "long", "wait": "7d" },
        { "id": "after", "needs": ["bad"], "wait": "1s" },
        { "id": "undo_one", "compensates": "one", "http": { "url": "https://example.com/undo" } },
        { "id": "undo_out", "compensates": "out", "rollback": { "of": "out" } },
        { "id": "undo_bad", "compensates": "bad", "http": { "url": "https://example.com/never" } },
    ]));
    answer(&mut world, "one", status(200));
    world.complete(1);
    world.complete(2);
    answer(&mut world, "bad", status(500));
    assert_eq!(
        states(&world),
        "compensating: after skipped, bad failed, long cancelled, one succeeded, out succeeded, undo_bad waiting, undo_one waiting, undo_out running"
    );
    world.complete(1);
    world.complete(2);
    assert_eq!(now(&world).steps[&id("undo_one")].state.name(), "running", "the newest first, one at a time");
    answer(&mut world, "undo_one", status(200));
    assert_eq!(
        states(&world),
        "failed: after skipped, bad failed, long cancelled, one succeeded, out succeeded, undo_bad skipped, undo_one succeeded, undo_out succeeded"
    );
    let target = world.tenant().targets.values().next().unwrap().current;
    assert_eq!(target, Some(common::release(1)), "the deployment was taken back");
}

#[test]
fn what_a_rollback_leaves_is_among_the_outputs_of_its_step() {
    let mut world = run(json!([
        { "id": "out", "deploy": deploy_all("shop:2.0") },
        { "id": "soak", "needs": ["out"], "wait": "1m" },
        { "id": "undo", "needs": ["soak"], "rollback": { "of": "out" } },
        { "id": "tell", "needs": ["undo"], "when": "steps.undo.outputs.left > 0",
          "http": { "url": "https://example.com/${steps.undo.outputs.left_targets[0]}" } },
    ]));
    world.complete(1);
    world.complete(2);
    world.ok(TenantCommand::RevokeAgent { agent: agent(2), reason: "sold".to_owned() });
    world.wait_ms(60_000);
    world.complete(1);
    let outputs = &now(&world).steps[&id("undo")].outputs;
    assert_eq!((&outputs["left"], &outputs["left_targets"]), (&json!(1), &json!(["web-2"])));
    let Work::Http(call) = under_way(&world, "tell") else { panic!() };
    assert_eq!(call.url, "https://example.com/web-2");
    let deployed = &now(&world).steps[&id("out")].outputs;
    assert!(!deployed.contains_key("left"), "{deployed:?}");
}

#[test]
fn a_failure_that_does_not_matter_lets_others_go_on() {
    let mut world = run(json!([
        { "id": "a", "on_failure": "continue", "http": { "url": "https://example.com/1" } },
        { "id": "b", "needs": ["a"], "when": "steps.a.status == 'failed'", "wait": "1s" },
        { "id": "c", "needs": ["a"], "when": "steps.a.status == 'succeeded'", "wait": "1s" },
        { "id": "d", "needs": ["c"], "wait": "1s" },
    ]));
    answer(&mut world, "a", status(500));
    assert_eq!(states(&world), "running: a failed, b running, c skipped, d running");
    world.wait_ms(1_000);
    assert_eq!(states(&world), "succeeded: a failed, b succeeded, c skipped, d succeeded");
}

#[test]
fn a_cancelled_run_ends_with_its_deployments() {
    let mut world = run(json!([
        { "id": "out", "deploy": deploy_all("shop:2.0") },
        { "id": "call", "http": { "url": "https://example.com/1" } },
        { "id": "later", "needs": ["out"], "wait": "1s" },
        { "id": "undo", "compensates": "out", "rollback": { "of": "out" } },
    ]));
    let cancel = TenantCommand::CancelRun { run: RUN, reason: "not now".to_owned() };
    world.tell_as(1, cancel.clone()).unwrap();
    assert_eq!(states(&world), "cancelling: call cancelled, later skipped, out running, undo waiting");
    world.tell_as(1, cancel.clone()).unwrap();
    for n in [1, 2] {
        world.accept(n);
        world.finish(n, TaskOutcome::Cancelled);
    }
    assert_eq!(states(&world), "cancelled: call cancelled, later skipped, out cancelled, undo skipped");
    answer(&mut world, "call", status(200));
    assert_eq!(now(&world).steps[&id("call")].state.name(), "cancelled", "final is final");
    world.tell_as(1, cancel).unwrap();
    assert_eq!(
        world.events.iter().filter(|(_, event)| matches!(event.fact, Fact::RunEnded { .. })).count(),
        1
    );
}

#[test]
fn what_cannot_begin_fails_and_may_be_tried_again() {
    let mut world = world();
    world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "audit".to_owned() });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(json!([{ "id": "out", "retry": { "attempts": 2, "backoff": "1m" }, "deploy": deploy("shop:${inputs.version}") }])))));
    start(&mut world, json!({ "version": "2.0" })).unwrap();
    let StepState::BackingOff { reason, .. } = &now(&world).steps[&id("out")].state else { panic!() };
    assert!(reason.contains("audit"), "{reason}");
    world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
    world.wait_ms(60_000);
    world.complete(1);
    world.complete(2);
    assert_eq!(states(&world), "succeeded: out succeeded");
    // And a failed deployment fails its step, when it has been taken back.
    let mut world = run(json!([{ "id": "out", "deploy": deploy_all("shop:2.0") }]));
    world.finish(1, failed("exit 1"));
    world.finish(2, TaskOutcome::Succeeded);
    let of = world.tenant().deployments.values().find(|it| it.status.name() == "failed").unwrap().id;
    assert_eq!(states(&world), "running: out running", "{of} is being taken back");
    for n in 1..=2 {
        if world.tenant().targets[&target(n)].active.is_some() {
            world.complete(n);
        }
    }
    let RunStatus::Failed { reason } = &now(&world).status else { panic!("{}", states(&world)) };
    assert!(reason.starts_with("step out: deployment ") && reason.contains(" failed: "), "{reason}");
    assert!(world.tenant().agents.contains_key(&agent(1)));
}

#[test]
fn a_run_keeps_the_version_that_it_started_with() {
    let mut world = run(json!([{ "id": "a", "wait": "1m" }]));
    let other = steps(json!([{ "id": "b", "wait": "1m" }]));
    assert_eq!(world.ok(TenantCommand::ApplyWorkflow(Box::new(other.clone()))).outcome, Outcome::Workflow(2));
    assert!(
        world.ok(TenantCommand::ApplyWorkflow(Box::new(other))).events.is_empty(),
        "the same is no version"
    );
    world.ok(TenantCommand::RemoveWorkflow { name: name("ship"), reason: "old".to_owned() });
    world.wait_ms(60_000);
    assert_eq!(states(&world), "succeeded: a succeeded");
    let new = NewRun {
        id: RunId(Uuid::from_u128(0x5001)),
        workflow: name("ship"),
        version: Some(1),
        inputs: BTreeMap::new(),
    };
    let removed = world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap_err();
    assert_eq!(removed.to_string(), "workflow ship was removed (old); apply it again to run it");
}

#[test]
fn only_the_control_plane_answers_calls_and_only_approvers_approve() {
    let mut world = run(json!([
        { "id": "call", "http": { "url": "https://example.com/1" } },
        { "id": "go", "approval": { "environment": "staging", "from": ["person-3"] } },
    ]));
    let call = TenantCommand::AnswerCall { run: RUN, step: id("call"), attempt: 1, outcome: status(200) };
    assert!(matches!(world.tell_as(1, call), Err(Rejection::Forbidden { .. })));
    assert!(
        approve(&mut world, 2, true).unwrap_err().to_string().contains("not among those whom the step names")
    );
    let roles = vec![Grant { role: Role::Deployer, tenant: None, environment: None }];
    world.system(SystemCommand::SetAccountRoles { account: account(3), roles }).unwrap();
    assert!(
        approve(&mut world, 3, true)
            .unwrap_err()
            .to_string()
            .contains("needs the role approver in environment staging")
    );
    let roles = vec![Grant { role: Role::Approver, tenant: None, environment: None }];
    world.system(SystemCommand::SetAccountRoles { account: account(3), roles }).unwrap();
    approve(&mut world, 3, false).unwrap();
    assert_eq!(states(&world), "failing: call running, go failed");
    answer(&mut world, "call", status(200));
    let RunStatus::Failed { reason } = &now(&world).status else { panic!() };
    assert_eq!(reason, "step go: person-3 did not approve: looked at it");
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is one table")]
fn what_is_wrong_with_a_template_is_said_with_its_field() {
    for (wanted, expected) in [
        (json!([]), "steps: there are 0; a workflow has 1 to 64"),
        (
            json!([{ "id": "a", "wait": "1s" }, { "id": "a", "wait": "1s" }]),
            "steps[1].id: a is the id of steps[0] already",
        ),
        (json!([{ "id": "a", "needs": ["b"], "wait": "1s" }]), "steps[0].needs[0]: there is no step b"),
        (
            json!([{ "id": "a", "needs": ["a"], "wait": "1s" }]),
            "steps[0].needs[0]: a step cannot wait for itself",
        ),
        (
            json!([{ "id": "z", "needs": ["a"], "wait": "1s" }, { "id": "a", "needs": ["b"], "wait": "1s" }, { "id": "b", "needs": ["a"], "wait": "1s" }]),
            "steps[1].needs: they wait for one another in a circle: a needs b needs a",
        ),
        (
            json!([{ "id": "a" }]),
            "steps[0]: does nothing; give it one of deploy, rollback, task, approval, wait, input, http",
        ),
        (
            json!([{ "id": "a", "wait": "1s", "input": { "x": { "type": "text" } } }]),
            "steps[0]: does several things (wait, input); make them several steps",
        ),
        (json!([{ "id": "a", "wait": "0s" }]), "steps[0].wait: is 0s; it must be between 1s and 30d"),
        (
            json!([{ "id": "a", "timeout": "0s", "input": { "x": { "type": "text" } } }]),
            "steps[0].timeout: is 0s; it must be between 1s and 30d",
        ),
        (
            json!([{ "id": "a", "when": "inputs.other == '1'", "wait": "1s" }]),
            "steps[0].when: at character 1: there is no input other",
        ),
        (json!([{ "id": "a", "when": "1 +", "wait": "1s" }]), "steps[0].when: at character "),
        (
            json!([{ "id": "a", "when": "other", "wait": "1s" }]),
            "steps[0].when: at character 1: there is no other; there are inputs, steps and run",
        ),
        (
            json!([{ "id": "a", "wait": "1s" }, { "id": "b", "when": "steps.a.status == ''", "wait": "1s" }]),
            "steps[1].when: at character 1: step a may not be over by then; list it in needs",
        ),
        (
            json!([{ "id": "a", "deploy": { "release": "${inputs.x}", "environment": "staging" } }]),
            "steps[0].deploy.release: at character 1: there is no input x",
        ),
        (
            json!([{ "id": "a", "deploy": deploy_as(json!({ "type": "canary", "steps": [{ "percent": 0 }] })) }]),
            "steps[0].deploy.strategy.steps[0].percent: is 0; it must be between 1 and 99",
        ),
        (
            json!([{ "id": "a", "deploy": deploy_as(json!({ "type": "rolling", "batch": 1, "pause": "1ms" })) }]),
            "steps[0].deploy.strategy.pause: is 1; it must be between 1000 and 604800000 (a second to a week), in milliseconds",
        ),
        (
            json!([{ "id": "a", "deploy": { "release": "x:1", "environment": "staging", "tolerate_failures": "150%" } }]),
            "steps[0].deploy.tolerate_failures: is 150%; it must be between 1% and 99%",
        ),
        (
            json!([{ "id": "a", "http": { "url": "file:///etc/passwd" } }]),
            "steps[0].http.url: must begin with https:// or http://, not with an expression",
        ),
        (
            json!([{ "id": "a", "http": {} }]),
            "steps[0].http.url: is missing; or name a destination with `to`",
        ),
        (
            json!([{ "id": "a", "http": { "url": "https://x", "path": "y" } }]),
            "steps[0].http.path: goes with `to`, and there is none",
        ),
        (
            json!([{ "id": "a", "http": { "url": "https://x", "to": "tickets" } }]),
            "steps[0].http.url: goes with no `to`, which has an address",
        ),
        (
            json!([{ "id": "a", "http": { "to": "tickets", "path": "issue/${inputs.x}" } }]),
            "steps[0].http.path: at character 1: there is no input x",
        ),
        (
            json!([{ "id": "a", "http": { "url": "https://x", "headers": { "Authorization": "x" } } }]),
            "steps[0].http.headers.Authorization: templates are no place for secrets",
        ),
        (
            json!([{ "id": "a", "notify": { "receiver": "${inputs.version}", "message": "x" } }]),
            "steps[0].notify.receiver: must be the name of a receiver",
        ),
        (
            json!([{ "id": "a", "notify": { "receiver": "chat", "message": " " } }]),
            "steps[0].notify.message: is empty",
        ),
        (
            json!([{ "id": "a", "notify": { "receiver": "chat", "message": "${inputs.x}" } }]),
            "steps[0].notify.message: at character 1: there is no input x",
        ),
        (
            json!([{ "id": "a", "timeout": "16s", "notify": { "receiver": "chat", "message": "x" } }]),
            "steps[0]: a notification may take 15s at most",
        ),
        (
            json!([{ "id": "a", "approval": { "needed": 0 } }]),
            "steps[0].approval.needed: is 0; it must be between 1 and 16",
        ),
        (
            json!([{ "id": "a", "wait": "1s" }, { "id": "u", "compensates": "x", "wait": "1s" }]),
            "steps[1].compensates: there is no step x",
        ),
        (
            json!([{ "id": "a", "wait": "1s" }, { "id": "r", "needs": ["a"], "rollback": { "of": "a" } }]),
            "steps[1].rollback.of: step a deploys nothing",
        ),
        (
            json!([{ "id": "a", "retry": { "attempts": 0 }, "http": { "url": "https://x" } }]),
            "steps[0].retry.attempts: is 0; it must be between 1 and 20",
        ),
    ] {
        let problems = check(&steps(wanted.clone()));
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        assert!(first.starts_with(expected), "{wanted}: {first:?}");
    }
    let many: Vec<Value> = (0..65).map(|n| json!({ "id": format!("s{n}"), "wait": "1s" })).collect();
    assert_eq!(check(&steps(json!(many)))[0].to_string(), "steps: there are 65; a workflow has 1 to 64");
    let unknown = world().tell(TenantCommand::ApplyWorkflow(Box::new(steps(
        json!([{ "id": "a", "deploy": { "release": "web:1", "environment": "moon" } }]),
    ))));
    assert_eq!(unknown.unwrap_err().to_string(), "steps[0].deploy.environment: there is no environment moon");
}

#[test]
fn inputs_are_what_the_template_asks_for() {
    let mut world = world();
    let inputs = json!({ "n": { "type": "number", "min": 1, "max": 3 }, "b": { "type": "boolean", "default": false },
        "c": { "type": "choice", "options": ["x", "y"], "default": "x" } });
    let wanted =
        template(json!({ "name": "ship", "inputs": inputs, "steps": [{ "id": "a", "wait": "1s" }] }));
    world.ok(TenantCommand::ApplyWorkflow(Box::new(wanted)));
    for (inputs, expected) in [
        (json!({}), "inputs.n: is missing, and has no default"),
        (json!({ "n": 4 }), "inputs.n: is 4; it must be at most 3"),
        (json!({ "n": "1" }), "inputs.n: must be a whole number"),
        (json!({ "n": 1, "b": 1 }), "inputs.b: must be true or false"),
        (json!({ "n": 1, "c": "z" }), "inputs.c: must be one of x, y"),
        (json!({ "n": 1, "d": 1 }), "inputs.d: is not asked for; there are b, c, n"),
    ] {
        assert_eq!(start(&mut world, inputs).unwrap_err().to_string(), expected);
    }
    start(&mut world, json!({ "n": 2 })).unwrap();
    assert_eq!(json!(now(&world).inputs), json!({ "n": 2, "b": false, "c": "x" }));
    assert_eq!(
        start(&mut world, json!({ "n": 2 })).unwrap_err().to_string(),
        format!("run {:?} exists already", RUN.to_string())
    );
}

#[test]
fn a_step_needs_the_word_of_accounts_that_have_the_role_when_the_last_one_agrees() {
    let mut world = run(json!([{ "id": "go", "approval": { "needed": 2 } }]));
    world.person(4);
    approve(&mut world, 2, true).unwrap();
    world.give(2, Role::Deployer);
    let approvals = |world: &World| match &now(world).steps[&id("go")].state {
        StepState::Running { work: Work::Approval { approvals, .. }, .. } => approvals.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(approvals(&world), 0, "everybody sees it at once");
    let decision = approve(&mut world, 3, true).unwrap();
    assert_eq!(facts(&decision), ["step_approved"]);
    assert_eq!(now(&world).steps[&id("go")].state.name(), "running");
    approve(&mut world, 4, true).unwrap();
    assert_eq!(now(&world).steps[&id("go")].outputs["approved_by"], json!(["person-3", "person-4"]));
    assert_eq!(now(&world).status, RunStatus::Succeeded);
}

#[test]
fn a_call_that_nobody_answers_fails_once_it_has_waited_for_its_turn_long_enough() {
    let mut world =
        run(json!([{ "id": "call", "timeout": "1m", "retry": { "attempts": 2, "backoff": "10s" },
        "http": { "url": "https://example.com/x" } }]));
    let due = |world: &World| now(world).steps[&id("call")].state.due().unwrap();
    assert_eq!(due(&world).0 - world.now.0, 60_000 + CALL_WAIT_MS_MAX, "its own time, and the wait");
    world.wait_ms(60_000 + CALL_WAIT_MS_MAX - 1);
    assert_eq!(states(&world), "running: call running");
    world.wait_ms(1);
    assert_eq!(states(&world), "running: call backing_off");
    world.wait_ms(10_000);
    world.wait_ms(60_000 + CALL_WAIT_MS_MAX);
    let RunStatus::Failed { reason } = &now(&world).status else { panic!("{}", states(&world)) };
    assert_eq!(reason, "step call: there was no answer in time, the wait for its turn included");
    assert!(world.tenant().calls.is_empty(), "nobody is called for it any more");
}

/// Nobody has said no: a gate that is mended has everybody asked again, also by a run.
#[test]
fn a_promotion_that_is_void_is_asked_for_again_if_its_step_is_to_be_retried() {
    let mut world = world();
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    let retry = json!({ "attempts": 2, "backoff": "1m" });
    let out = json!([{ "id": "out", "retry": retry, "deploy": deploy_all("shop:2.0") }]);
    world.ok(TenantCommand::ApplyWorkflow(Box::new(steps(out))));
    start(&mut world, json!({})).unwrap();
    let first = *world.tenant().open_promotions.iter().next().unwrap();
    world.set_gate(common::gate("ticket", stella_domain::gate::Check::Manual));
    let StepState::BackingOff { reason, .. } = &now(&world).steps[&id("out")].state else {
        panic!("{}", states(&world))
    };
    assert!(reason.contains("gate ticket of staging was set"), "{reason}");
    world.wait_ms(60_000);
    let second = *world.tenant().open_promotions.iter().next().unwrap();
    assert!(first != second && states(&world) == "running: out running");
    // And not more often than it says.
    world.ok(TenantCommand::RemoveGate { environment: STAGING, gate: name("ticket") });
    let RunStatus::Failed { reason } = &now(&world).status else { panic!("{}", states(&world)) };
    assert!(
        reason.contains("the promotion is not valid any more: gate ticket of staging was removed"),
        "{reason}"
    );
    end(&world);
}
