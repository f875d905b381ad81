//! Agents are told of a new root, answer when they have it, and are cut off with the old one.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a failure here is a failed test")]

mod common;

use std::time::SystemTime;

use common::{Agent, Identity, World, hello, soon};
use stella_certs::authority::rotation::Phase;
use stella_certs::{CertificateDer, certificate_fingerprint, csr};
use stella_domain::authority::{AgentTrust, AuthorityRecord, RotationPhase};
use stella_domain::command::{Actor, Command, Request, SystemCommand};
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::message::{Hello, RenewRequest, ToAgent, ToControlPlane, Trust, Trusts, capability};
use stella_protocol::trace::TraceContext;

/// An agent that can be told.
fn capable() -> Hello {
    Hello { capabilities: capability::TRUST, ..hello(vec![]) }
}

/// What the control plane does after a step: the journal first, then the listener and the sessions.
async fn record(world: &World) {
    let status = world.authority.status();
    let record = AuthorityRecord {
        root: status.active.root,
        issuing: status.active.issuing,
        trusted: status.trusted,
        phase: status.phase.map(|phase| match phase {
            Phase::Distributing => RotationPhase::Distributing,
            Phase::Switched => RotationPhase::Switched,
        }),
    };
    let request = Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::System(SystemCommand::RecordAuthority(record)),
    };
    soon(world.handle.submit(request)).await.unwrap();
    world.fleet.trust_has_changed().unwrap();
}

async fn start(world: &World) {
    world.authority.start_rotation(SystemTime::now()).unwrap();
    record(world).await;
}

async fn hear_trust(agent: &mut Agent) -> Trust {
    match agent.hear().await {
        ToAgent::Trust(trust) => trust,
        other => panic!("{other:?} instead of roots to trust"),
    }
}

fn fingerprints(ders: &[Vec<u8>]) -> Vec<Digest> {
    ders.iter().map(|der| certificate_fingerprint(&CertificateDer::from(der.clone()))).collect()
}

fn trust_of(world: &World, identity: &Identity) -> Option<AgentTrust> {
    world.state().tenants[&world.tenant].agents[&identity.agent].trust.clone()
}

#[tokio::test]
async fn an_agent_is_told_renews_and_is_recorded_only_for_what_was_seen_of_it() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, capable()).await;
    start(&world).await;
    let trust = hear_trust(&mut agent).await;
    let old = world.authority.status().active.root;
    assert_eq!((trust.roots_der.len(), trust.renew), (2, false));
    let mut roots = fingerprints(&trust.roots_der);
    // A certificate that nobody has seen proves nothing.
    let foreign = Trusts { roots: roots.clone(), certificate: Digest([9; 32]) };
    agent.say(&ToControlPlane::Trusts(foreign)).await;
    let shown = Trusts { roots: roots.clone(), certificate: certificate_fingerprint(&identity.chain[0]) };
    agent.say(&ToControlPlane::Trusts(shown)).await;
    roots.sort_unstable();
    let id = identity.agent;
    world.until(|state| state.tenants[&world.tenant].agents[&id].trust.is_some()).await;
    assert_eq!(trust_of(&world, &identity), Some(AgentTrust { roots: roots.clone(), root: old }));

    world.authority.switch_root(SystemTime::now()).unwrap();
    record(&world).await;
    assert!(hear_trust(&mut agent).await.renew, "its certificate is of the old root");
    let made = csr::generate().unwrap();
    agent.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    let ToAgent::Renewed(renewed) = agent.hear().await else { panic!("no certificate") };
    let certificate = fingerprints(&renewed.chain_der)[0];
    agent.say(&ToControlPlane::Trusts(Trusts { roots: roots.clone(), certificate })).await;
    let new = world.authority.status().active.root;
    world.until(|state| state.tenants[&world.tenant].agents[&id].trust.as_ref().unwrap().root == new).await;

    // With the certificate that it has got, the session goes on when the old root is gone.
    world.authority.finish_rotation(SystemTime::now()).unwrap();
    record(&world).await;
    let trust = hear_trust(&mut agent).await;
    assert_eq!((fingerprints(&trust.roots_der), trust.renew), (vec![new], false));
}

#[tokio::test]
async fn an_agent_that_would_not_understand_is_not_told_and_is_cut_off_at_the_end() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    start(&world).await;
    let made = csr::generate().unwrap();
    agent.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    match agent.hear().await {
        ToAgent::Renewed(renewed) => assert_eq!(renewed.roots_der.len(), 2, "it learns by its renewal"),
        other => panic!("{other:?}"),
    }
    world.authority.switch_root(SystemTime::now()).unwrap();
    record(&world).await;
    world.authority.finish_rotation(SystemTime::now()).unwrap();
    record(&world).await;
    assert_eq!(agent.closed().await, CloseCode::Unauthenticated);
    assert_eq!(trust_of(&world, &identity), None);
}

#[tokio::test]
async fn without_a_rotation_nobody_is_told_anything() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, capable()).await;
    world.authority.rotate_issuing(SystemTime::now()).unwrap();
    record(&world).await;
    let made = csr::generate().unwrap();
    agent.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    assert!(matches!(agent.hear().await, ToAgent::Renewed(_)));
}

#[tokio::test]
async fn an_agent_that_tells_without_end_is_sent_away() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, capable()).await;
    for _ in 0..=64 {
        let said = Trusts { roots: Vec::new(), certificate: Digest([9; 32]) };
        agent.say(&ToControlPlane::Trusts(said)).await;
    }
    assert_eq!(agent.closed().await, CloseCode::ProtocolViolation);
}
