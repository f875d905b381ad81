//! What happens in a session: dispatch and reports, takeover, output, artifacts, and its end.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a failure here is a failed test")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Agent, Frames, Identity, World, create_tenant, digest, hello, soon};
use stella_domain::agent::{Connectivity, OPEN_TASKS_MAX};
use stella_domain::command::TenantCommand;
use stella_domain::deployment::Status;
use stella_domain::state::State;
use stella_domain::task::TaskState;
use stella_fleet::FleetConfig;
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame;
use stella_protocol::id::{AgentId, AttemptKey, DeploymentId, Incarnation, Position, TaskId};
use stella_protocol::message::{
    Accepted, ArtifactRequest, ArtifactResponse, Dispatch, Finished, Heartbeat, Hello, JournalMark,
    OpenAttempt, OutputChunk, OutputHeader, OutputSource, Phase, RenewRequest, Resources, Running,
    TaskOutcome, ToAgent, ToControlPlane, capability,
};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::{Baggage, TraceContext, TraceParent, TraceState};
use stella_protocol::validate::Validate;
use uuid::Uuid;

fn accepted(dispatch: &Dispatch) -> ToControlPlane {
    ToControlPlane::Accepted(Accepted { key: dispatch.key(), position: Position(2) })
}

fn finished(key: AttemptKey) -> ToControlPlane {
    ToControlPlane::Finished(report(key))
}

fn report(key: AttemptKey) -> Finished {
    Finished {
        key,
        position: Position(3),
        started_at: Some(Timestamp(1)),
        finished_at: Timestamp(2),
        outcome: TaskOutcome::Succeeded,
    }
}

fn task_state(world: &World, state: &State, task: TaskId) -> TaskState {
    state.tenants[&world.tenant].tasks[&task].state.clone()
}

/// Begins a deployment whose task the agent accepts.
async fn work(world: &World, agent: &mut Agent, id: AgentId) -> (DeploymentId, Dispatch) {
    let deployment = world.deploy(id).await;
    let dispatch = agent.hear_dispatch().await;
    agent.say(&accepted(&dispatch)).await;
    world.until(|state| matches!(task_state(world, state, dispatch.task), TaskState::Accepted { .. })).await;
    (deployment, dispatch)
}

fn status(world: &World, state: &State, deployment: DeploymentId) -> Status {
    state.tenants[&world.tenant].deployments[&deployment].status.clone()
}

fn connectivity(world: &World, state: &State, identity: &Identity) -> Connectivity {
    state.tenants[&world.tenant].agents[&identity.agent].connectivity.clone()
}

#[tokio::test]
async fn a_task_is_dispatched_accepted_finished_and_acknowledged() {
    // Only events wake the session.
    let world = World::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    let identity = world.enrol().await;
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    for _ in 0..3 {
        let deployment = world.deploy(identity.agent).await;
        let dispatch = agent.hear_dispatch().await;
        assert_eq!((dispatch.session, dispatch.deployment), (welcome.session, deployment));
        assert_eq!(dispatch.target_name, "web-1");
        // It was durable before it was sent.
        let state = task_state(&world, &world.state(), dispatch.task);
        assert!(matches!(state, TaskState::Dispatched { session, .. } if session == welcome.session));

        // In one go: the reports keep their order on the way to the journal.
        agent.say(&accepted(&dispatch)).await;
        agent.say(&ToControlPlane::Running(Running { key: dispatch.key(), started_at: Timestamp(1) })).await;
        agent.say(&finished(dispatch.key())).await;
        assert_eq!(agent.hear().await, ToAgent::Acknowledge(vec![dispatch.key()]));
        assert!(matches!(task_state(&world, &world.state(), dispatch.task), TaskState::Succeeded(_)));
        assert_eq!(status(&world, &world.state(), deployment), Status::Succeeded);
    }
}

#[tokio::test]
async fn what_nobody_knows_any_more_is_asked_about_and_ended_at_once() {
    // Only events wake the session.
    let world = World::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    let identity = world.enrol().await;
    let able = Hello { capabilities: capability::COMMAND | capability::PROBES, ..hello(vec![]) };
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, able).await;
    let (deployment, dispatch) = work(&world, &mut agent, identity.agent).await;
    let key = dispatch.key();
    let outcome = TaskOutcome::Unknown { reason: "its supervisor was killed".to_owned() };
    agent.say(&ToControlPlane::Finished(Finished { outcome, ..report(key) })).await;
    let mut heard = [agent.hear().await, agent.hear().await];
    heard.sort_by_key(ToAgent::name);
    assert_eq!(heard[0], ToAgent::Acknowledge(vec![key]));
    let ToAgent::Probe(probe) = &heard[1] else { panic!("no question: {heard:?}") };
    assert_eq!(probe.key, key);

    let cancel = TenantCommand::CancelDeployment { deployment, reason: "not today".to_owned() };
    world.submit(cancel).await.unwrap();
    let ToAgent::Cancel(cancel) = agent.hear().await else { panic!("it may still run there") };
    assert_eq!(cancel.key, key);
}

/// An agent that can be asked what is left of an attempt, with a journal of its own.
fn askable(journal: u128, open: Vec<OpenAttempt>) -> Hello {
    let journal = JournalMark { incarnation: Incarnation(Uuid::from_u128(journal)), position: Position(3) };
    Hello { journal, capabilities: capability::COMMAND | capability::PROBES, ..hello(open) }
}

#[tokio::test]
async fn of_two_hosts_with_one_identity_none_is_asked_what_the_other_does() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let address = world.fleet.local_addr();
    let (mut first, _) = Agent::connect(address, &identity, askable(1, vec![])).await;
    let (_, dispatch) = work(&world, &mut first, identity.agent).await;
    let (mut clone, _) = Agent::connect(address, &identity, askable(2, vec![])).await;
    assert!(matches!(task_state(&world, &world.state(), dispatch.task), TaskState::Unknown { .. }));
    assert_eq!(first.closed().await, CloseCode::Superseded);

    // The one that is at work is back, as agents are that were superseded.
    let open = vec![OpenAttempt { key: dispatch.key(), phase: Phase::Running }];
    let (mut first, _) = Agent::connect(address, &identity, askable(1, open)).await;
    assert_eq!(clone.frames.next::<ToAgent>().await, None, "it would know nothing of it");
    first.say(&finished(dispatch.key())).await;
    assert_eq!(first.hear().await, ToAgent::Acknowledge(vec![dispatch.key()]));
    assert!(matches!(task_state(&world, &world.state(), dispatch.task), TaskState::Succeeded(_)));
}

#[tokio::test]
async fn an_agent_that_nobody_supersedes_is_asked_what_is_left() {
    let soon_and_often = |config: &mut FleetConfig| {
        (config.probes_after, config.reconcile_interval) =
            (Duration::from_millis(100), Duration::from_millis(20));
    };
    let world = World::with(soon_and_often).await;
    let identity = world.enrol().await;
    let address = world.fleet.local_addr();
    let (mut first, _) = Agent::connect(address, &identity, askable(1, vec![])).await;
    let (_, dispatch) = work(&world, &mut first, identity.agent).await;
    // Its process was killed: nobody has seen the end of its session.
    let (mut again, _) = Agent::connect(address, &identity, askable(2, vec![])).await;
    let ToAgent::Probe(probe) = again.hear().await else { panic!("no question") };
    assert_eq!(probe.key, dispatch.key());
}

#[tokio::test]
async fn what_travels_with_a_trace_is_for_agents_that_understand_it() {
    let world = World::new().await;
    let state = TraceState::try_from("congo=t61rcWkgMzE".to_owned()).unwrap();
    let baggage = Baggage::try_from("order=1234".to_owned()).unwrap();
    let bare = TraceParent { trace_id: 0xabc, span_id: 0xdef, sampled: false };
    let whole = TraceContext { state: state.clone(), baggage: baggage.clone(), ..bare.into() };
    let identity = world.enrol().await;
    let (mut old, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    world.deploy_in(identity.agent, whole.clone()).await;
    let first = old.hear_dispatch().await;
    assert_eq!(
        (first.trace.trace_id, first.trace.sampled),
        (0xabc, false),
        "an old agent gets the trace alone"
    );

    // The same agent after its update: what it was sent before comes again, with everything.
    let able = Hello { capabilities: capability::TRACE, ..hello(vec![]) };
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, able).await;
    let ToAgent::TracedDispatch(traced) = agent.hear().await else { panic!("no traced dispatch") };
    assert_eq!((traced.dispatch.key(), traced.dispatch.trace), (first.key(), first.trace));
    assert_eq!((traced.state.clone(), traced.baggage.clone()), (state, baggage));
    assert_ne!(traced.dispatch.trace.span_id, 0xdef, "the work has a span of its own");
    // Where nothing travels along, nothing new is said.
    world.deploy_in(identity.agent, bare.into()).await;
    assert_eq!(agent.hear_dispatch().await.trace.trace_id, 0xabc);
}

#[tokio::test]
async fn what_was_queued_while_the_agent_was_away_follows_the_welcome() {
    let world = World::new().await;
    let identity = world.enrol().await;
    world.deploy(identity.agent).await;
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let dispatch = agent.hear_dispatch().await;
    assert_eq!(dispatch.session, welcome.session);

    // Sent again in the next session if the agent does not know it, and not sent if it does.
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let again = agent.hear_dispatch().await;
    assert_eq!((again.key(), again.session), (dispatch.key(), welcome.session));
    let open = vec![OpenAttempt { key: dispatch.key(), phase: Phase::Finished }];
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(open.clone())).await;
    assert_eq!(welcome.settled, []);
    agent.say(&finished(dispatch.key())).await;
    assert_eq!(agent.hear().await, ToAgent::Acknowledge(vec![dispatch.key()]));
    // As if the acknowledgement had been lost.
    let (_agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(open)).await;
    assert_eq!(welcome.settled, [dispatch.key()]);
}

#[tokio::test]
async fn a_cancelled_deployment_reaches_the_agent() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let (deployment, dispatch) = work(&world, &mut agent, identity.agent).await;
    let reason = "wrong version".to_owned();
    world.submit(TenantCommand::CancelDeployment { deployment, reason }).await.unwrap();
    match agent.hear().await {
        ToAgent::Cancel(cancel) => assert_eq!(cancel.key, dispatch.key()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_result_that_finds_the_disk_full_is_acknowledged_when_it_is_durable() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    world.deploy(identity.agent).await;
    let dispatch = agent.hear_dispatch().await;

    world.disk_is_full.store(true, Ordering::SeqCst);
    agent.say(&accepted(&dispatch)).await;
    agent.say(&finished(dispatch.key())).await;
    soon(async {
        while !world.handle.health().no_space {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The session goes on and is answered, but not with an acknowledgement.
    let made = stella_certs::csr::generate().unwrap();
    agent.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    assert!(matches!(agent.hear().await, ToAgent::Renewed(_)));
    assert!(matches!(task_state(&world, &world.state(), dispatch.task), TaskState::Dispatched { .. }));

    world.disk_is_full.store(false, Ordering::SeqCst);
    assert_eq!(agent.hear().await, ToAgent::Acknowledge(vec![dispatch.key()]));
    assert!(matches!(task_state(&world, &world.state(), dispatch.task), TaskState::Succeeded(_)));
    assert_eq!(world.fleet.live(identity.agent).unwrap().session, welcome.session);
}

#[tokio::test]
async fn a_newer_session_takes_over() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (first, one) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let (_second, two) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    assert_eq!(two.session, one.session.next());
    assert_eq!(first.closed().await, CloseCode::Superseded);
    assert_eq!(world.fleet.sessions(), 1);
    assert_eq!(world.fleet.live(identity.agent).unwrap().session, two.session);
    assert!(matches!(connectivity(&world, &world.state(), &identity), Connectivity::Online { .. }));
}

#[tokio::test]
async fn heartbeats_are_seen_and_a_silent_agent_becomes_suspect() {
    let world = World::with(|config| config.heartbeat_interval_ms = 300).await;
    let identity = world.enrol().await;
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    assert_eq!(welcome.heartbeat_interval_ms, 300);
    let resources = Resources { tasks_running: 3, load_1m: 0.5, ..Resources::default() };
    agent.say(&ToControlPlane::Heartbeat(Heartbeat { position: Position(1), resources })).await;
    soon(async {
        while world.fleet.live(identity.agent).is_some_and(|live| live.resources != resources) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let heard = world.fleet.last_seen(identity.agent).unwrap();
    assert_eq!(agent.closed().await, CloseCode::PeerSilent);
    world.until(|state| matches!(connectivity(&world, state, &identity), Connectivity::Suspect { .. })).await;
    assert!(world.fleet.live(identity.agent).is_none());
    // The silence counts from what was heard, not from when it was noticed.
    assert_eq!(world.fleet.last_seen(identity.agent), Some(heard));
}

#[tokio::test]
async fn when_an_agent_was_last_heard_is_known_after_a_restart_and_a_damaged_file_is_none() {
    let mut world = World::new().await;
    let identity = world.enrol().await;
    let (agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    drop(agent);
    world.until(|state| matches!(connectivity(&world, state, &identity), Connectivity::Suspect { .. })).await;
    let heard = world.fleet.last_seen(identity.agent).unwrap();
    world.restart_fleet().await;
    assert_eq!(world.fleet.last_seen(identity.agent), Some(heard));

    // A clock that was set back makes no silence negative.
    let future = serde_json::json!({ identity.agent.to_string(): u64::MAX }).to_string();
    world.shutdown.cancel();
    soon(world.fleet.stopped()).await;
    std::fs::write(world.last_seen_file(), future).unwrap();
    world.restart_fleet().await;
    assert!(world.fleet.last_seen(identity.agent).unwrap() <= world.handle.now());

    world.shutdown.cancel();
    soon(world.fleet.stopped()).await;
    std::fs::write(world.last_seen_file(), "{").unwrap();
    world.restart_fleet().await;
    assert_eq!(world.fleet.last_seen(identity.agent), None);
}

#[tokio::test]
async fn a_session_that_only_the_state_knows_is_ended() {
    let world = World::with(|config| config.reconcile_interval = Duration::from_millis(20)).await;
    let identity = world.enrol().await;
    // As a crash leaves it: connected in the journal, and no connection.
    let connect = TenantCommand::ConnectAgent {
        agent: identity.agent,
        hello: Box::new(hello(vec![])),
        journal_rolled_back: false,
    };
    world.submit(connect).await.unwrap();
    world.until(|state| matches!(connectivity(&world, state, &identity), Connectivity::Suspect { .. })).await;
    // A session that is there is left alone.
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    world.deploy(identity.agent).await;
    agent.hear_dispatch().await;
    assert!(matches!(connectivity(&world, &world.state(), &identity), Connectivity::Online { .. }));
}

#[tokio::test]
async fn a_session_of_before_the_start_is_ended_after_the_time_to_come_back() {
    let mut world = World::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    let connect = |identity: &Identity| TenantCommand::ConnectAgent {
        agent: identity.agent,
        hello: Box::new(hello(vec![])),
        journal_rolled_back: false,
    };
    let (gone, back) = (world.enrol().await, world.enrol().await);
    for identity in [&gone, &back] {
        world.submit(connect(identity)).await.unwrap();
    }
    world.change(|config| {
        (config.reconcile_interval, config.return_time) =
            (Duration::from_millis(10), Duration::from_secs(3600));
    });
    world.restart_fleet().await;
    // What is not of before is ended after two looks, so there have been more since.
    for _ in 0..2 {
        let new = world.enrol().await;
        world.submit(connect(&new)).await.unwrap();
        world.until(|state| matches!(connectivity(&world, state, &new), Connectivity::Suspect { .. })).await;
    }
    for identity in [&gone, &back] {
        let found = connectivity(&world, &world.state(), identity);
        assert!(matches!(found, Connectivity::Online { .. }), "{found:?}");
    }
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &back, hello(vec![])).await;
    world.deploy(back.agent).await;
    agent.hear_dispatch().await;

    world.change(|config| (config.heartbeat_interval_ms, config.return_time) = (100, Duration::ZERO));
    world.restart_fleet().await;
    world.until(|state| matches!(connectivity(&world, state, &gone), Connectivity::Suspect { .. })).await;
}

#[tokio::test]
async fn a_shutdown_tells_the_agents_and_says_nothing_of_them() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    world.shutdown.cancel();
    let (code, ()) = tokio::join!(agent.closed(), soon(world.fleet.stopped()));
    assert_eq!(code, CloseCode::ShuttingDown);
    assert!(matches!(connectivity(&world, &world.state(), &identity), Connectivity::Online { .. }));
    assert_eq!(world.fleet.sessions(), 0);
}

#[tokio::test]
async fn an_agent_that_says_goodbye_is_noted_with_its_reason() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    agent.say(&ToControlPlane::Goodbye).await;
    assert_eq!(agent.closed().await, CloseCode::Normal);
    world.until(|state| matches!(connectivity(&world, state, &identity), Connectivity::Suspect { .. })).await;
}

async fn send_output(agent: &Agent, key: AttemptKey, offset: u64, texts: &[&str], end: bool) {
    let mut stream = soon(agent.connection.open_uni()).await.unwrap();
    let mut say = Vec::new();
    add(&mut say, &OutputHeader { key, offset });
    for text in texts {
        let bytes = text.as_bytes().to_vec();
        add(&mut say, &OutputChunk { source: OutputSource::Stdout, at: Timestamp(1), bytes });
    }
    soon(stream.write_all(&say)).await.unwrap();
    if end {
        stream.finish().unwrap();
    }
    // Whether it was read or refused.
    drop(soon(stream.stopped()).await);
}

fn add<T: serde::Serialize + Validate>(bytes: &mut Vec<u8>, message: &T) {
    bytes.extend_from_slice(&frame::encode(message).unwrap());
}

#[tokio::test]
async fn output_is_kept_once_and_only_for_the_agents_own_tasks() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    world.deploy(identity.agent).await;
    let key = agent.hear_dispatch().await.key();
    let mut changes = world.output.subscribe(key).unwrap();

    send_output(&agent, key, 0, &["one ", "two "], true).await;
    send_output(&agent, key, 4, &["two ", "three"], true).await;
    let page = soon(async {
        loop {
            let page = world.output.read(world.tenant, key, 0, 100).await.unwrap();
            if page.complete && page.chunks.len() == 3 {
                return page;
            }
            changes.changed().await.unwrap();
        }
    })
    .await;
    let text: Vec<u8> = page.chunks.into_iter().flat_map(|chunk| chunk.bytes).collect();
    assert_eq!(text, b"one two three");

    // Another agent of the same tenant, and a task that does not exist.
    let (stranger, _) = Agent::connect(world.fleet.local_addr(), &world.enrol().await, hello(vec![])).await;
    send_output(&stranger, key, 13, &["forged"], false).await;
    let unknown = AttemptKey { task: TaskId(Uuid::from_u128(1)), ..key };
    send_output(&stranger, unknown, 0, &["forged"], false).await;
    let page = world.output.read(world.tenant, key, 0, 100).await.unwrap();
    assert_eq!(page.chunks.len(), 3);
    assert!(world.output.read(world.tenant, unknown, 0, 100).await.unwrap().chunks.is_empty());

    // Garbage on a stream ends the session.
    let mut stream = soon(agent.connection.open_uni()).await.unwrap();
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(agent.closed().await, CloseCode::FrameTooLarge);
}

/// All output of an attempt, once its agent has said that nothing follows.
async fn complete_output(world: &World, key: AttemptKey) -> String {
    let mut changes = world.output.subscribe(key).unwrap();
    soon(async {
        while !world.output.read(world.tenant, key, 0, 100).await.unwrap().complete {
            changes.changed().await.unwrap();
        }
        output_text(world, key).await
    })
    .await
}

#[tokio::test]
async fn output_that_breaks_off_in_the_middle_of_a_frame_does_not_end_the_session() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let (_, dispatch) = work(&world, &mut agent, identity.agent).await;
    let key = dispatch.key();
    let header = frame::encode(&OutputHeader { key, offset: 0 }).unwrap();
    let chunk = OutputChunk { source: OutputSource::Stdout, at: Timestamp(1), bytes: b"a chunk".to_vec() };
    let whole = [&header[..], &frame::encode(&chunk).unwrap()].concat();
    for length in [0, 2, header.len() + 2, whole.len() - 1] {
        let mut stream = soon(agent.connection.open_uni()).await.unwrap();
        stream.write_all(&whole[..length]).await.unwrap();
        stream.finish().unwrap();
        drop(soon(stream.stopped()).await);
    }
    send_output(&agent, key, 0, &["all of it"], true).await;
    assert_eq!(complete_output(&world, key).await, "all of it");
    agent.say(&finished(key)).await;
    assert_eq!(agent.hear().await, ToAgent::Acknowledge(vec![key]));
}

#[tokio::test]
async fn output_of_what_is_long_over_is_refused() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (deployment, dispatch) = work(&world, &mut agent, identity.agent).await;
        agent.say(&finished(dispatch.key())).await;
        assert_eq!(agent.hear().await, ToAgent::Acknowledge(vec![dispatch.key()]));
        assert_eq!(status(&world, &world.state(), deployment), Status::Succeeded);
        keys.push(dispatch.key());
    }
    let [whole, part] = keys[..] else { panic!("{keys:?}") };
    // Output has a stream of its own, and may come after the result.
    send_output(&agent, whole, 0, &["all"], true).await;
    assert_eq!(complete_output(&world, whole).await, "all");
    assert_eq!(refusal(&world, &agent, part, 0, "some").await, None);

    let hour_ms = 3_600_000;
    world.later_ms.fetch_add(hour_ms, Ordering::SeqCst);
    assert_eq!(refusal(&world, &agent, whole, 3, "forged").await, Some(CloseCode::Normal), "it is complete");
    assert_eq!(
        refusal(&world, &agent, part, 4, " more").await,
        None,
        "it is not: its agent may have been away"
    );
    world.later_ms.fetch_add(24 * hour_ms, Ordering::SeqCst);
    assert_eq!(refusal(&world, &agent, part, 9, "forged").await, Some(CloseCode::Normal));
    for (key, kept) in [(whole, "all"), (part, "some more")] {
        assert_eq!(output_text(&world, key).await, kept);
    }
}

/// With which code output is refused; `None` once it is kept.
async fn refusal(
    world: &World,
    agent: &Agent,
    key: AttemptKey,
    offset: u64,
    text: &str,
) -> Option<CloseCode> {
    let mut stream = soon(agent.connection.open_uni()).await.unwrap();
    let mut say = Vec::new();
    add(&mut say, &OutputHeader { key, offset });
    add(&mut say, &OutputChunk { source: OutputSource::Stdout, at: Timestamp(1), bytes: text.into() });
    stream.write_all(&say).await.unwrap();
    let mut changes = world.output.subscribe(key).unwrap();
    let kept = async {
        while !output_text(world, key).await.ends_with(text) {
            changes.changed().await.unwrap();
        }
    };
    tokio::select! {
        stopped = soon(stream.stopped()) => {
            let code = stopped.unwrap().expect("it has no end");
            Some(CloseCode::try_from(code.into_inner()).unwrap())
        }
        () = soon(kept) => {
            // It breaks off; dropped, it would end as if this were all.
            stream.reset(0_u32.into()).unwrap();
            None
        }
    }
}

async fn output_text(world: &World, key: AttemptKey) -> String {
    let page = world.output.read(world.tenant, key, 0, 100).await.unwrap();
    String::from_utf8(page.chunks.into_iter().flat_map(|chunk| chunk.bytes).collect()).unwrap()
}

async fn fetch(agent: &Agent, digest: Digest, offset: u64) -> (ArtifactResponse, Vec<u8>) {
    let (mut send, receive) = soon(agent.connection.open_bi()).await.unwrap();
    soon(send.write_all(&frame::encode(&ArtifactRequest { digest, offset }).unwrap())).await.unwrap();
    let mut frames = Frames::new(receive);
    let response = frames.next_exact().await;
    (response, frames.rest().await)
}

#[tokio::test]
async fn commands_that_print_and_go_on_do_not_keep_an_agent_from_its_archives() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    world.deploy(identity.agent).await;
    let key = agent.hear_dispatch().await.key();
    world.release(world.tenant, b"the next release").await;
    let mut open = Vec::new();
    // One for each, and another that begins behind a gap.
    for n in 0..2 * OPEN_TASKS_MAX {
        let mut stream = soon(agent.connection.open_uni()).await.unwrap();
        let header = OutputHeader { key, offset: u64::from(n) };
        stream.write_all(&frame::encode(&header).unwrap()).await.unwrap();
        open.push(stream);
    }
    // All of them are being read.
    let last = OutputChunk { source: OutputSource::Stdout, at: Timestamp(1), bytes: b"x".to_vec() };
    let mut changes = world.output.subscribe(key).unwrap();
    open.last_mut().unwrap().write_all(&frame::encode(&last).unwrap()).await.unwrap();
    soon(changes.changed()).await.unwrap();
    let (response, bytes) = fetch(&agent, digest(b"the next release"), 0).await;
    assert_eq!(response, ArtifactResponse::Found { size_bytes: 16 });
    assert_eq!(bytes, b"the next release");
    drop(open);
}

#[tokio::test]
async fn artifacts_of_the_own_tenants_releases_are_given_from_any_offset() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    world.release(world.tenant, &content).await;
    let size_bytes = content.len() as u64;
    for offset in [0, 777_777, size_bytes] {
        let (response, bytes) = fetch(&agent, digest(&content), offset).await;
        assert_eq!(response, ArtifactResponse::Found { size_bytes });
        assert!(bytes == content[usize::try_from(offset).unwrap()..]);
    }

    let other = create_tenant(&world.handle, "other").await;
    world.release(other, b"the other tenant's").await;
    // Uploaded, and in no release.
    let mut upload = world.artifacts.upload(digest(b"loose"), 100).await.unwrap();
    upload.write(b"loose").await.unwrap();
    upload.finish().await.unwrap();
    let loose =
        TenantCommand::StoreArtifact { digest: digest(b"loose"), size_bytes: 5, tenant_bytes_max: None };
    world.submit(loose).await.unwrap();
    for hidden in [digest(b"the other tenant's"), digest(b"loose"), Digest([1; 32])] {
        assert_eq!(fetch(&agent, hidden, 0).await, (ArtifactResponse::NotFound, vec![]));
    }
}

#[tokio::test]
async fn what_was_cancelled_while_its_agent_was_away_is_ended_when_it_is_back() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let (deployment, dispatch) = work(&world, &mut agent, identity.agent).await;
    drop(agent);
    world.until(|state| matches!(connectivity(&world, state, &identity), Connectivity::Suspect { .. })).await;
    let reason = "wrong version".to_owned();
    world.submit(TenantCommand::CancelDeployment { deployment, reason }).await.unwrap();
    // Nobody could be told in time.
    world.later_ms.fetch_add(120_000, Ordering::SeqCst);
    world.until(|state| matches!(task_state(&world, state, dispatch.task), TaskState::Unknown { .. })).await;
    world.until(|state| status(&world, state, deployment).is_final()).await;

    let open = vec![OpenAttempt { key: dispatch.key(), phase: Phase::Running }];
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(open)).await;
    let ToAgent::Cancel(cancel) = agent.hear().await else {
        panic!("nobody asks for the end of what still runs")
    };
    assert_eq!(cancel.key, dispatch.key());
    let outcome = TaskOutcome::Cancelled;
    let (started_at, finished_at) = (Some(Timestamp(1)), Timestamp(2));
    let report = Finished { key: dispatch.key(), position: Position(3), started_at, finished_at, outcome };
    agent.say(&ToControlPlane::Finished(report)).await;
    world.until(|state| matches!(task_state(&world, state, dispatch.task), TaskState::Cancelled(_))).await;
}
