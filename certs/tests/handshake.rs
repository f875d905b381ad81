//! Who gets in, and who does not: real handshakes between the configurations of both ends.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Ended, HOUR, World, agent, handshake, tenant};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::{CertificateError, ClientConfig, Error, HandshakeKind, RootCertStore, ServerConfig};
use stella_certs::tls::{self, QuicPeer, Refusal, ServerIdentity};
use stella_certs::{PeerIdentity, PrivateKey, ServerCertificate, csr, provider};
use stella_protocol::digest::Digest;
use stella_protocol::version::{ALPN_AGENT, ALPN_ENROL, ALPN_ENROL_2};

fn refusal(error: &Error) -> Option<&Refusal> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return None };
    other.0.downcast_ref()
}

/// A server configuration with any chain, as an attacker would make it.
fn rogue_server(chain: Vec<stella_certs::CertificateDer<'static>>, key: &PrivateKey) -> ServerConfig {
    let certificate = ServerCertificate {
        chain,
        key: key.clone(),
        not_before: SystemTime::now(),
        not_after: SystemTime::now(),
    };
    let identity = ServerIdentity::new(&certificate).unwrap();
    let mut config = tls::https_server(&identity).unwrap();
    config.alpn_protocols = vec![ALPN_AGENT.to_vec(), ALPN_ENROL.to_vec()];
    config
}

#[test]
fn an_agent_gets_a_session_and_is_known_by_its_certificate() {
    let world = World::new();
    let Ended::Done { alpn, client_chain, .. } = handshake(world.agent_client(), world.quic_server()) else {
        panic!("the handshake failed");
    };
    let peer = QuicPeer::admit(alpn.as_deref(), client_chain.as_deref()).unwrap();
    let QuicPeer::Agent { tenant: of, agent: who, validity } = peer else { panic!("{peer:?}") };
    assert_eq!((of, who), (tenant(1), agent(1)));
    assert_eq!(validity, stella_certs::validity_of_certificate(&client_chain.unwrap()[0]).unwrap());
    assert!(validity.0 < validity.1);
}

#[test]
fn the_key_exchange_is_hybrid_post_quantum() {
    let world = World::new();
    let Ended::Done { group, .. } = handshake(world.agent_client(), world.quic_server()) else {
        panic!("the handshake failed");
    };
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn an_agent_of_another_authority_is_refused() {
    let (ours, theirs) = (World::new(), World::new());
    let (issued, key) = theirs.agent();
    let client = tls::quic_agent_client(issued.chain_der, &key, &ours.authority.roots_der()).unwrap();
    // Both authorities bear the same names, so it is the signature that tells them apart.
    let ended = handshake(client, ours.quic_server());
    assert!(
        matches!(
            ended,
            Ended::ServerRefused(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            ))
        ),
        "{ended:?}"
    );
}

#[test]
fn a_control_plane_of_another_authority_is_refused_by_the_agent() {
    let (ours, theirs) = (World::new(), World::new());
    let ended = handshake(ours.agent_client(), theirs.quic_server());
    assert!(
        matches!(
            ended,
            Ended::ClientRefused(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            ))
        ),
        "{ended:?}"
    );
}

#[test]
fn an_agent_cannot_play_the_control_plane() {
    let world = World::new();
    let (issued, key) = world.agent();
    let ended = handshake(world.agent_client(), rogue_server(issued.chain_der.clone(), &key));
    assert!(matches!(ended, Ended::ClientRefused(Error::InvalidCertificate(_))), "{ended:?}");

    // Nor towards a host that enrols, with the right root in its chain.
    let mut chain = issued.chain_der;
    chain.extend(world.authority.roots_der());
    let client = tls::quic_enrol_client(world.authority.root_fingerprint()).unwrap();
    let ended = handshake(client, rogue_server(chain, &key));
    assert!(matches!(ended, Ended::ClientRefused(Error::InvalidCertificate(_))), "{ended:?}");
}

#[test]
fn the_control_planes_certificate_does_not_enter_as_an_agent() {
    let world = World::new();
    let server = world.authority.issue_server(&[], SystemTime::now(), HOUR).unwrap();
    let client = tls::quic_agent_client(server.chain, &server.key, &world.authority.roots_der()).unwrap();
    let ended = handshake(client, world.quic_server());
    assert!(matches!(ended, Ended::ServerRefused(Error::InvalidCertificate(_))), "{ended:?}");
}

#[test]
fn a_certificate_without_a_stated_usage_has_no_role() {
    // webpki takes such a certificate for both roles; only the role checks on top of it refuse.
    let world = World::new();
    let pki = world.dir.path().join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let issuing_key = KeyPair::from_pem(&read("issuing.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("issuing.crt"), issuing_key).unwrap();
    let (issued, _) = world.agent();
    let sign = |names: Vec<SanType>| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (vec![leaf.into(), issued.chain_der[1].clone()], PrivateKey::from_pkcs8_der(key.serialize_der()))
    };
    let uri = |identity: PeerIdentity| SanType::URI(identity.to_uri().try_into().unwrap());
    let name = || SanType::DnsName(stella_certs::CONTROL_PLANE_NAME.try_into().unwrap());

    let agent = PeerIdentity::Agent { tenant: tenant(1), agent: agent(1) };
    for identity in [PeerIdentity::ControlPlane, agent] {
        let (chain, key) = sign(vec![name(), uri(identity)]);
        let ended = handshake(world.agent_client(), rogue_server(chain, &key));
        let Ended::ClientRefused(error) = &ended else { panic!("{ended:?}") };
        assert!(matches!(refusal(error), Some(Refusal::NoIdentity { .. })), "{error:?}");
    }
    let (chain, key) = sign(vec![uri(agent)]);
    let client = tls::quic_agent_client(chain, &key, &world.authority.roots_der()).unwrap();
    let ended = handshake(client, world.quic_server());
    let Ended::ServerRefused(error) = &ended else { panic!("{ended:?}") };
    assert!(matches!(refusal(error), Some(Refusal::NoIdentity { .. })), "{error:?}");
}

#[test]
fn an_expired_agent_is_refused() {
    let world = World::new();
    let (issued, key) = world.agent_at(SystemTime::now() - 2 * HOUR);
    let client = tls::quic_agent_client(issued.chain_der, &key, &world.authority.roots_der()).unwrap();
    let ended = handshake(client, world.quic_server());
    assert!(
        matches!(
            ended,
            Ended::ServerRefused(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        ),
        "{ended:?}"
    );
}

#[test]
fn an_expired_control_plane_is_refused() {
    let world = World::new();
    let identity = world.server_identity_at(SystemTime::now() - 2 * HOUR);
    let server = tls::quic_server(&identity, &world.authority.roots_der()).unwrap();
    let ended = handshake(world.agent_client(), server);
    assert!(
        matches!(
            ended,
            Ended::ClientRefused(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        ),
        "{ended:?}"
    );
}

#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    let world = World::new();
    let (issued, _) = world.agent();
    let (_, other_key) = world.agent();
    let made = tls::quic_agent_client(issued.chain_der, &other_key, &world.authority.roots_der());
    assert!(matches!(made, Err(tls::Error::Certificate { .. })));
}

#[test]
fn a_host_enrols_without_a_certificate_under_the_pinned_root() {
    let world = World::new();
    let client = tls::quic_enrol_client(world.authority.root_fingerprint()).unwrap();
    let Ended::Done { alpn, client_chain, .. } = handshake(client, world.quic_server()) else {
        panic!("the handshake failed");
    };
    assert_eq!(client_chain, None);
    let peer = QuicPeer::admit(alpn.as_deref(), None).unwrap();
    assert_eq!(peer, QuicPeer::Enrolling { takes_profile: true, says_profile: true });
}

#[test]
fn enrolment_speaks_the_newest_version_that_both_ends_know() {
    let world = World::new();
    let client = || tls::quic_enrol_client(world.authority.root_fingerprint()).unwrap();
    for (known, takes_profile) in [(&[ALPN_ENROL][..], false), (&[ALPN_ENROL_2, ALPN_ENROL][..], true)] {
        let (mut old_client, mut old_server) = (client(), world.quic_server());
        old_client.alpn_protocols = known.iter().map(|name| name.to_vec()).collect();
        old_server.alpn_protocols = old_client.alpn_protocols.clone();
        for (client, server) in [(old_client, world.quic_server()), (client(), old_server)] {
            let Ended::Done { alpn, .. } = handshake(client, server) else { panic!("the handshake failed") };
            let peer = QuicPeer::admit(alpn.as_deref(), None).unwrap();
            assert_eq!(peer, QuicPeer::Enrolling { takes_profile, says_profile: false });
        }
    }
}

#[test]
fn without_a_certificate_there_is_no_agent_session() {
    let world = World::new();
    let mut client = tls::quic_enrol_client(world.authority.root_fingerprint()).unwrap();
    client.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    let Ended::Done { alpn, client_chain, .. } = handshake(client, world.quic_server()) else {
        panic!("TLS alone lets it in, since the listener serves enrolment too");
    };
    let refused = QuicPeer::admit(alpn.as_deref(), client_chain.as_deref());
    assert!(matches!(refused, Err(tls::Error::NoCertificate)));
    assert!(matches!(QuicPeer::admit(alpn.as_deref(), Some(&[])), Err(tls::Error::NoCertificate)));
    assert!(matches!(QuicPeer::admit(None, None), Err(tls::Error::UnknownProtocol)));
}

#[test]
fn another_root_than_the_pinned_one_is_refused() {
    let (ours, theirs) = (World::new(), World::new());
    let pinned = ours.authority.root_fingerprint();
    let ended = handshake(tls::quic_enrol_client(pinned).unwrap(), theirs.quic_server());
    let Ended::ClientRefused(error) = &ended else { panic!("{ended:?}") };
    assert_eq!(refusal(error), Some(&Refusal::NotThePinnedRoot { pinned }));
}

#[test]
fn sending_the_pinned_root_is_not_enough() {
    let (ours, theirs) = (World::new(), World::new());
    let mut server = theirs.authority.issue_server(&[], SystemTime::now(), HOUR).unwrap();
    // The root is public: anyone can append it to a chain of their own.
    server.chain.extend(ours.authority.roots_der());
    let client = tls::quic_enrol_client(ours.authority.root_fingerprint()).unwrap();
    let ended = handshake(client, rogue_server(server.chain, &server.key));
    let Ended::ClientRefused(error) = &ended else { panic!("{ended:?}") };
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error:?}");
    assert_eq!(refusal(error), None, "the pin matched and the chain did not: {error:?}");
}

#[test]
fn a_pin_of_anything_else_than_a_root_opens_nothing() {
    let world = World::new();
    let server = world.authority.issue_server(&[], SystemTime::now(), HOUR).unwrap();
    let leaf = stella_certs::certificate_fingerprint(&server.chain[0]);
    for pinned in [leaf, Digest([0; 32])] {
        let ended = handshake(tls::quic_enrol_client(pinned).unwrap(), world.quic_server());
        assert!(matches!(ended, Ended::ClientRefused(_)), "{ended:?}");
    }
}

#[test]
fn tls_1_2_is_refused_everywhere() {
    let world = World::new();
    let roots = world.authority.roots_der();
    let identity = world.server_identity();
    let servers = [
        tls::quic_server(&identity, &roots).unwrap(),
        tls::https_server(&identity).unwrap(),
        tls::metrics_server(&identity, None).unwrap(),
        tls::metrics_server(&identity, Some(&roots)).unwrap(),
    ];
    for server in servers {
        let ended = handshake(plain_client(&world, &[&rustls::version::TLS12]), server);
        assert!(
            matches!(
                ended,
                Ended::ServerRefused(Error::PeerIncompatible(
                    rustls::PeerIncompatible::Tls12NotOfferedOrEnabled
                        | rustls::PeerIncompatible::SupportedVersionsExtensionRequired
                ))
            ),
            "{ended:?}"
        );
    }
}

#[test]
fn another_protocol_is_refused() {
    let world = World::new();
    let mut client = world.agent_client();
    client.alpn_protocols = vec![b"stella-agent/2".to_vec()];
    let ended = handshake(client, world.quic_server());
    assert!(matches!(ended, Ended::ServerRefused(Error::NoApplicationProtocol)), "{ended:?}");
}

#[test]
fn the_api_is_reached_by_any_client_that_trusts_the_root() {
    let world = World::new();
    let server = tls::https_server(&world.server_identity_named(&["203.0.113.7"])).unwrap();
    let Ended::Done { alpn, .. } = handshake(plain_client(&world, &[&rustls::version::TLS13]), server) else {
        panic!("the handshake failed");
    };
    assert_eq!(alpn.as_deref(), Some(&b"h2"[..]));
    // Without the extra name the same client has dialled an address that is not in the certificate.
    let server = tls::https_server(&world.server_identity()).unwrap();
    let ended = handshake(plain_client(&world, &[&rustls::version::TLS13]), server);
    assert!(matches!(ended, Ended::ClientRefused(Error::InvalidCertificate(_))), "{ended:?}");
}

#[test]
fn metrics_can_ask_for_a_client_certificate() {
    let world = World::new();
    let identity = world.server_identity_named(&["203.0.113.7"]);
    let open = tls::metrics_server(&identity, None).unwrap();
    let ended = handshake(plain_client(&world, &[&rustls::version::TLS13]), open);
    assert!(matches!(ended, Ended::Done { .. }), "{ended:?}");
    let closed = tls::metrics_server(&identity, Some(&world.authority.roots_der())).unwrap();
    let ended = handshake(plain_client(&world, &[&rustls::version::TLS13]), closed);
    assert!(matches!(ended, Ended::ServerRefused(Error::NoCertificatesPresented)), "{ended:?}");
}

#[test]
fn the_servers_certificate_is_replaced_without_a_new_configuration() {
    let world = World::new();
    let first = world.authority.issue_server(&[], SystemTime::now(), HOUR).unwrap();
    let second = world.authority.issue_server(&[], SystemTime::now(), HOUR).unwrap();
    let identity = ServerIdentity::new(&first).unwrap();
    let server = tls::quic_server(&identity, &world.authority.roots_der()).unwrap();
    let leaf = |server: &ServerConfig| match handshake(world.agent_client(), server.clone()) {
        Ended::Done { server_leaf, .. } => server_leaf,
        ended @ (Ended::ClientRefused(_) | Ended::ServerRefused(_)) => panic!("{ended:?}"),
    };
    assert_eq!(leaf(&server), first.chain[0].as_ref());
    identity.replace(&second).unwrap();
    assert_eq!(leaf(&server), second.chain[0].as_ref());

    // A pair that does not fit is refused, and the good one stays.
    let broken = ServerCertificate { key: first.key, ..second.clone() };
    assert!(matches!(identity.replace(&broken), Err(tls::Error::Certificate { .. })));
    assert_eq!(leaf(&server), second.chain[0].as_ref());
}

#[test]
fn no_session_is_resumed_so_that_no_check_is_skipped() {
    let world = World::new();
    let server = world.quic_server();
    let mut client = world.agent_client();
    // Even for a client that would resume; a clone shares its memory of sessions.
    client.resumption = Resumption::in_memory_sessions(8);
    for _ in 0..2 {
        let Ended::Done { kind, .. } = handshake(client.clone(), server.clone()) else {
            panic!("the handshake failed");
        };
        assert_eq!(kind, HandshakeKind::Full);
    }
    // The same client does resume where tickets are given, so the check above can fail.
    let mut generous = server;
    generous.send_tls13_tickets = 2;
    generous.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    let kinds = [(); 2].map(|()| match handshake(client.clone(), generous.clone()) {
        Ended::Done { kind, .. } => kind,
        ended @ (Ended::ClientRefused(_) | Ended::ServerRefused(_)) => panic!("{ended:?}"),
    });
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[test]
fn configurations_need_roots() {
    let world = World::new();
    let made = csr::generate().unwrap();
    assert!(matches!(tls::quic_server(&world.server_identity(), &[]), Err(tls::Error::NoRoots)));
    assert!(matches!(tls::quic_agent_client(Vec::new(), &made.key_der, &[]), Err(tls::Error::NoRoots)));
}

/// An ordinary TLS client, such as a browser, that trusts the root.
fn plain_client(world: &World, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in world.authority.roots_der() {
        roots.add(root).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), ALPN_AGENT.to_vec()];
    config
}

impl World {
    fn server_identity_named(&self, names: &[&str]) -> Arc<ServerIdentity> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let lifetime = Duration::from_secs(600);
        ServerIdentity::new(&self.authority.issue_server(&names, SystemTime::now(), lifetime).unwrap())
            .unwrap()
    }
}
