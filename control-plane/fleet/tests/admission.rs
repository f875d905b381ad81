//! Who gets in: enrolment, certificates, revocation, and what broken peers can do.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use common::{Agent, Identity, World, hello, offer_to_enrol, offer_to_enrol_as, soon};
use stella_certs::tls::quic_enrol_client;
use stella_certs::{Authority, CertificateDer, EnrolmentToken, csr};
use stella_domain::agent::Connectivity;
use stella_domain::command::TenantCommand;
use stella_fleet::FleetConfig;
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, EnrolmentTokenId};
use stella_protocol::limits::FRAME_BYTES_MAX;
use stella_protocol::message::{
    EnrolResponse, Granted, Heartbeat, Profile, RenewRequest, Resources, ToAgent, ToControlPlane,
};
use stella_protocol::version::ALPN_AGENT;
use uuid::Uuid;

fn refusal(response: EnrolResponse) -> String {
    response.into_granted().expect_err("it was let in")
}

#[tokio::test]
async fn a_token_for_another_profile_is_refused_and_not_used_up() {
    let world = World::new().await;
    let token = world.token(1).await;
    let made = csr::generate().unwrap();
    let ask = |profile| offer_to_enrol_as(world.fleet.local_addr(), &token, made.csr_der.clone(), profile);
    let reason = ask(Some(Profile::Full)).await.unwrap().into_granted().unwrap_err();
    assert!(reason.contains("the token is for confined, and full was asked for"), "{reason}");
    let tenant = || world.state().tenants[&world.tenant].clone();
    assert!(tenant().agents.is_empty(), "an agent is there that no host is");
    assert!(tenant().enrolment_tokens[&token.id].used_by.is_empty(), "the token was used up");
    // The one use is still there, for this host with the right word and as well for one that does not care.
    let granted = ask(Some(Profile::Confined)).await.unwrap().into_granted().unwrap();
    assert_eq!(granted.profile, Some(Profile::Confined));
    assert_eq!(ask(None).await.unwrap().into_granted().unwrap().agent, granted.agent);
    ask(Some(Profile::Full)).await.unwrap().into_granted().unwrap_err();
}

#[tokio::test]
async fn the_same_token_and_key_get_the_same_identity_and_another_key_gets_none() {
    let world = World::new().await;
    let token = world.token(1).await;
    let made = csr::generate().unwrap();
    let mut identities = Vec::new();
    for _ in 0..2 {
        let csr_der = csr::request_for_key(&made.key_der).unwrap();
        let answer = offer_to_enrol(world.fleet.local_addr(), &token, csr_der).await.unwrap();
        let Granted { profile, tenant, agent, chain_der, roots_der } = answer.into_granted().unwrap();
        assert_eq!((tenant, profile), (world.tenant, Some(Profile::Confined)));
        let named = stella_certs::PeerIdentity::from_certificate(&CertificateDer::from(chain_der[0].clone()));
        assert_eq!(named.unwrap(), stella_certs::PeerIdentity::Agent { tenant, agent });
        assert_eq!(roots_der, [world.authority.roots_der()[0].to_vec()]);
        identities.push(agent);
    }
    assert_eq!(identities[0], identities[1]);
    assert_eq!(world.state().tenants[&world.tenant].agents.len(), 1);

    let other = csr::generate().unwrap().csr_der;
    let refused = offer_to_enrol(world.fleet.local_addr(), &token, other).await.unwrap();
    assert!(refusal(refused).contains("used up"));
}

#[tokio::test]
async fn expired_unknown_and_guessed_tokens_are_refused_with_a_reason() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let csr_der = || csr::generate().unwrap().csr_der;
    let good = world.token(1).await;

    let unknown = EnrolmentToken::generate(EnrolmentTokenId(Uuid::from_u128(1)), good.root).unwrap();
    assert!(refusal(offer_to_enrol(address, &unknown, csr_der()).await.unwrap()).contains("not known"));
    let mut guessed = good.clone();
    guessed.secret[31] ^= 1;
    assert!(refusal(offer_to_enrol(address, &guessed, csr_der()).await.unwrap()).contains("not known"));
    let broken = offer_to_enrol(address, &good, b"no request".to_vec()).await.unwrap();
    assert!(refusal(broken).contains("PKCS #10"));
    // Another root pinned in the token: the host does not even talk.
    let mut elsewhere = good.clone();
    elsewhere.root = Digest([9; 32]);
    offer_to_enrol(address, &elsewhere, csr_der()).await.unwrap_err();

    world.later_ms.store(120_000, Ordering::SeqCst);
    assert!(refusal(offer_to_enrol(address, &good, csr_der()).await.unwrap()).contains("expired"));
    assert!(world.state().tenants[&world.tenant].agents.is_empty());
}

#[tokio::test]
async fn garbage_instead_of_an_enrolment_request_closes_the_connection() {
    let world = World::new().await;
    let root = world.authority.root_fingerprint();
    for (bytes, code) in [
        (u32::MAX.to_be_bytes().to_vec(), CloseCode::FrameTooLarge),
        (17_000_u32.to_be_bytes().to_vec(), CloseCode::FrameTooLarge),
        ([&4_u32.to_be_bytes()[..], b"what"].concat(), CloseCode::ProtocolViolation),
    ] {
        let mut peer = Agent::dial(world.fleet.local_addr(), quic_enrol_client(root).unwrap()).await.unwrap();
        peer.say_bytes(&bytes).await;
        assert_eq!(peer.closed().await, code);
    }
}

#[tokio::test]
async fn an_agents_session_needs_a_certificate_of_this_authority() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let identity = world.enrol().await;

    let mut anonymous = quic_enrol_client(world.authority.root_fingerprint()).unwrap();
    anonymous.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    let peer = Agent::dial(address, anonymous).await.unwrap();
    assert_eq!(peer.closed().await, CloseCode::Unauthenticated);

    // The names are right and the signature is another authority's.
    let dir = tempfile::tempdir().unwrap();
    let forger = Authority::open_or_create(&dir.path().join("pki"), SystemTime::now()).unwrap();
    let made = csr::generate().unwrap();
    let lifetime = Duration::from_secs(3600);
    let forged = forger
        .issue_agent(&made.csr_der, identity.tenant, identity.agent, SystemTime::now(), lifetime)
        .unwrap();
    let forged = Identity { chain: forged.chain_der, key: made.key_der, ..identity.clone() };
    let refused = match Agent::dial(address, forged.client_config()).await {
        Ok(peer) => soon(peer.connection.closed()).await,
        Err(error) => error,
    };
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");

    // This authority's signature, for an agent that does not exist.
    let made = csr::generate().unwrap();
    let agent = AgentId(Uuid::from_u128(1));
    let issued =
        world.authority.issue_agent(&made.csr_der, identity.tenant, agent, SystemTime::now(), lifetime);
    let nobody = Identity { chain: issued.unwrap().chain_der, key: made.key_der, agent, ..identity };
    let peer = Agent::dial(address, nobody.client_config()).await.unwrap();
    assert_eq!(peer.closed().await, CloseCode::UnknownAgent);
    assert_eq!(world.fleet.sessions(), 0);
}

#[tokio::test]
async fn a_revoked_agent_is_cut_off_at_once_and_stays_out() {
    // Nothing but the event itself can end the session: the next comparison is in an hour.
    let world = World::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    // The best of a few: a busy machine may hold up one, and not what is slow by itself any.
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let identity = world.enrol().await;
        let (agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
        world
            .submit(TenantCommand::RevokeAgent { agent: identity.agent, reason: "stolen".to_owned() })
            .await
            .unwrap();
        let revoked = Instant::now();
        assert_eq!(agent.closed().await, CloseCode::Revoked);
        took = took.min(revoked.elapsed());

        let again = Agent::dial(world.fleet.local_addr(), identity.client_config()).await.unwrap();
        assert_eq!(again.closed().await, CloseCode::Revoked);
    }
    assert!(took < Duration::from_secs(1), "it took {took:?}");
}

#[tokio::test]
async fn garbage_and_oversized_frames_close_only_their_own_connection() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let (mut good, _) = Agent::connect(address, &world.enrol().await, hello(vec![])).await;
    let oversized = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    let garbage = [&8_u32.to_be_bytes()[..], &[0xff; 8]].concat();
    for (bytes, code) in [(oversized, CloseCode::FrameTooLarge), (garbage, CloseCode::ProtocolViolation)] {
        let identity = world.enrol().await;
        let (mut bad, _) = Agent::connect(address, &identity, hello(vec![])).await;
        bad.say_bytes(&bytes).await;
        assert_eq!(bad.closed().await, code);
        world
            .until(|state| {
                let agent = &state.tenants[&world.tenant].agents[&identity.agent];
                matches!(agent.connectivity, Connectivity::Suspect { .. })
            })
            .await;
        // Before the hello, too.
        let mut bad = Agent::dial(address, identity.client_config()).await.unwrap();
        bad.say_bytes(&bytes).await;
        assert_eq!(bad.closed().await, code);
    }
    // The good one is still heard and answered.
    good.say(&ToControlPlane::Heartbeat(Heartbeat {
        position: stella_protocol::id::Position(2),
        resources: Resources::default(),
    }))
    .await;
    let made = csr::generate().unwrap();
    good.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    assert!(matches!(good.hear().await, ToAgent::Renewed(_)));
    assert_eq!(world.fleet.sessions(), 1);
}

#[tokio::test]
async fn a_session_ends_with_its_certificate_unless_that_was_renewed() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let heartbeat = || {
        let position = stella_protocol::id::Position(2);
        ToControlPlane::Heartbeat(Heartbeat { position, resources: Resources::default() })
    };
    let (mut careless, _) = Agent::connect(address, &world.enrol().await, hello(vec![])).await;
    let (mut careful, _) = Agent::connect(address, &world.enrol().await, hello(vec![])).await;
    let life_ms =
        u64::try_from(FleetConfig::new("127.0.0.1:0".parse().unwrap()).certificate_lifetime.as_millis())
            .unwrap();
    world.later_ms.store(life_ms - 3_600_000, Ordering::SeqCst);
    let made = csr::generate().unwrap();
    careful.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    assert!(matches!(careful.hear().await, ToAgent::Renewed(_)));
    assert_eq!(world.fleet.sessions(), 2);

    world.later_ms.store(life_ms, Ordering::SeqCst);
    careless.say(&heartbeat()).await;
    assert_eq!(careless.closed().await, CloseCode::Unauthenticated);
    careful.say(&heartbeat()).await;
    let made = csr::generate().unwrap();
    careful.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    assert!(matches!(careful.hear().await, ToAgent::Renewed(_)));
}

#[tokio::test]
async fn a_renewed_certificate_is_for_the_same_identity_and_lets_in() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, welcome) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    let made = csr::generate().unwrap();
    agent.say(&ToControlPlane::Renew(RenewRequest { csr_der: made.csr_der })).await;
    let ToAgent::Renewed(renewed) = agent.hear().await else { panic!("not renewed") };
    let chain = renewed.chain_der.into_iter().map(CertificateDer::from).collect();
    let renewed = Identity { chain, key: made.key_der, ..identity };
    let (_agent, second) = Agent::connect(world.fleet.local_addr(), &renewed, hello(vec![])).await;
    assert_eq!(second.session, welcome.session.next());
}

#[tokio::test]
async fn there_is_an_end_to_the_number_of_sessions() {
    let world = World::with(|config| config.sessions_max = 1).await;
    let address = world.fleet.local_addr();
    let (first, second) = (world.enrol().await, world.enrol().await);
    let (_agent, _) = Agent::connect(address, &first, hello(vec![])).await;
    let refused = Agent::dial(address, second.client_config()).await.unwrap();
    assert_eq!(refused.closed().await, CloseCode::Overloaded);
}

#[tokio::test]
async fn an_agent_that_comes_and_goes_all_the_time_has_to_wait_and_others_have_not() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let (restless, other) = (world.enrol().await, world.enrol().await);
    let mut refused = None;
    // The bound is 60; a slow machine lets in a few more.
    for _ in 0..200 {
        let mut agent = Agent::dial(address, restless.client_config()).await.unwrap();
        agent.say(&ToControlPlane::Hello(hello(vec![]))).await;
        if agent.frames.next::<ToAgent>().await.is_none() {
            refused = Some(agent.closed().await);
            break;
        }
    }
    assert_eq!(refused, Some(CloseCode::Overloaded));
    let (_agent, _) = Agent::connect(address, &other, hello(vec![])).await;
}
