//! What an authority takes from a request (the key) and what it does not (everything else).
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::time::{Duration, SystemTime};

use common::{HOUR, World, agent, tenant};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use stella_certs::authority::Error as AuthorityError;
use stella_certs::csr::{self, Error};
use stella_certs::{
    PeerIdentity, identity, key_fingerprint_of_certificate, serial_hex_of_certificate,
    validity_of_certificate,
};
use stella_protocol::limits::CSR_BYTES_MAX;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

fn request_with(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn names_and_extensions_in_a_request_are_ignored() {
    let world = World::new();
    let forged = request_with(|params| {
        params.distinguished_name.push(DnType::CommonName, "control-plane.stella.internal");
        params.subject_alt_names = vec![
            SanType::URI("stella://control-plane".try_into().unwrap()),
            SanType::URI(
                PeerIdentity::Agent { tenant: tenant(2), agent: agent(2) }.to_uri().try_into().unwrap(),
            ),
            SanType::DnsName("control-plane.stella.internal".try_into().unwrap()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 9999, 1], vec![5, 0])];
    });
    let issued = world.authority.issue_agent(&forged, tenant(1), agent(1), SystemTime::now(), HOUR).unwrap();

    let leaf = &issued.chain_der[0];
    let identity = PeerIdentity::from_certificate(leaf).unwrap();
    assert_eq!(identity, PeerIdentity::Agent { tenant: tenant(1), agent: agent(1) });
    let (_, parsed) = X509Certificate::from_der(leaf).unwrap();
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any && usage.other.is_empty());
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!format!("{}", parsed.subject()).contains("control-plane"));
    assert_eq!(parsed.extensions().iter().filter(|e| e.oid.to_id_string() == "1.3.9999.1").count(), 0);
}

#[test]
fn what_is_issued_is_what_is_reported() {
    let world = World::new();
    let made = csr::generate().unwrap();
    let now = SystemTime::now();
    let issued = world.authority.issue_agent(&made.csr_der, tenant(1), agent(1), now, HOUR).unwrap();
    let leaf = &issued.chain_der[0];
    assert_eq!(issued.chain_der.len(), 2);
    assert_eq!(validity_of_certificate(leaf).unwrap(), (issued.not_before, issued.not_after));
    assert_eq!(serial_hex_of_certificate(leaf).unwrap(), issued.serial_hex);
    assert_eq!(issued.serial_hex.len(), 32);
    assert_eq!(key_fingerprint_of_certificate(leaf).unwrap(), issued.key_fingerprint);
    assert_eq!(csr::fingerprint(&made.csr_der).unwrap(), issued.key_fingerprint);
    assert!(issued.not_before < now && issued.not_before > now - Duration::from_secs(600));
    assert!(issued.not_after <= now + HOUR && issued.not_after > now + HOUR - Duration::from_secs(2));

    let again = world.authority.issue_agent(&made.csr_der, tenant(1), agent(1), now, HOUR).unwrap();
    assert_ne!(again.serial_hex, issued.serial_hex);
}

#[test]
fn a_second_request_for_the_same_key_has_the_same_fingerprint() {
    let made = csr::generate().unwrap();
    let again = csr::request_for_key(&made.key_der).unwrap();
    assert_eq!(csr::fingerprint(&again).unwrap(), csr::fingerprint(&made.csr_der).unwrap());
    let other = csr::generate().unwrap();
    assert_ne!(csr::fingerprint(&other.csr_der).unwrap(), csr::fingerprint(&made.csr_der).unwrap());
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    // The body of one request with the signature of another: somebody asks for a certificate for a key they do not have.
    let (mine, theirs) = (csr::generate().unwrap(), csr::generate().unwrap());
    let mut forged = theirs.csr_der;
    let key_at = |der: &[u8]| der.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap() + 2;
    let (from, to) = (key_at(&mine.csr_der), key_at(&forged));
    forged[to..to + 64].copy_from_slice(&mine.csr_der[from..from + 64]);
    assert!(matches!(csr::fingerprint(&forged), Err(Error::BadSignature)));
    let world = World::new();
    let refused = world.authority.issue_agent(&forged, tenant(1), agent(1), SystemTime::now(), HOUR);
    assert!(matches!(refused, Err(AuthorityError::Request(Error::BadSignature))));
}

#[test]
fn a_tampered_request_is_refused() {
    let made = csr::generate().unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&made.csr_der).unwrap();
    let signed = parsed.certification_request_info.raw;
    let start = made.csr_der.windows(signed.len()).position(|window| window == signed).unwrap();
    for at in start..start + signed.len() {
        for bit in 0..8 {
            let mut tampered = made.csr_der.clone();
            tampered[at] ^= 1 << bit;
            assert!(csr::fingerprint(&tampered).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn oversized_and_trailing_requests_are_refused() {
    let mut padded = csr::generate().unwrap().csr_der;
    padded.push(0);
    assert!(matches!(csr::fingerprint(&padded), Err(Error::Malformed)));
    padded.resize(CSR_BYTES_MAX + 1, 0);
    assert!(
        matches!(csr::fingerprint(&padded), Err(Error::TooLarge { bytes }) if bytes == CSR_BYTES_MAX + 1)
    );
    assert!(matches!(csr::fingerprint(&[]), Err(Error::Malformed)));
}

#[test]
fn other_kinds_of_key_are_refused() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        assert!(matches!(csr::fingerprint(request.der()), Err(Error::UnsupportedKey)));
        let key = stella_certs::PrivateKey::from_pkcs8_der(key.serialize_der());
        assert!(matches!(csr::request_for_key(&key), Err(Error::BadPrivateKey)));
    }
}

#[test]
fn a_lifetime_of_nothing_and_a_clock_before_1970_are_refused() {
    let world = World::new();
    let made = csr::generate().unwrap();
    let issue =
        |now, lifetime| world.authority.issue_agent(&made.csr_der, tenant(1), agent(1), now, lifetime);
    assert!(matches!(issue(SystemTime::now(), Duration::ZERO), Err(AuthorityError::Time)));
    assert!(matches!(issue(SystemTime::UNIX_EPOCH, HOUR), Err(AuthorityError::Time)));
    assert!(matches!(issue(SystemTime::now(), Duration::MAX), Err(AuthorityError::Time)));
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let world = World::new();
    let made = csr::generate().unwrap();
    let century = HOUR * 24 * 365 * 100;
    let issued =
        world.authority.issue_agent(&made.csr_der, tenant(1), agent(1), SystemTime::now(), century).unwrap();
    let (_, issuer_end) = validity_of_certificate(&issued.chain_der[1]).unwrap();
    assert_eq!(issued.not_after, issuer_end);
    let later = issuer_end + Duration::from_secs(1);
    let refused = world.authority.issue_agent(&made.csr_der, tenant(1), agent(1), later, HOUR);
    assert!(matches!(refused, Err(AuthorityError::Expired { .. })));
}

#[test]
fn a_servers_extra_names_are_checked() {
    let world = World::new();
    let issue = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        world.authority.issue_server(&names, SystemTime::now(), HOUR)
    };
    let server = issue(&["stella.example.org", "LOCALHOST", "192.0.2.1", "2001:db8::1"]).unwrap();
    assert_eq!(server.chain.len(), 3);
    assert_eq!(PeerIdentity::from_certificate(&server.chain[0]).unwrap(), PeerIdentity::ControlPlane);
    let (_, parsed) = X509Certificate::from_der(&server.chain[0]).unwrap();
    // One URI, four fixed names and three new ones.
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 8);
    for bad in ["", "a b", "*.example.org", "stella://control-plane", "höst", "10.0.0.0/8"] {
        assert!(matches!(issue(&[bad]), Err(AuthorityError::BadName { name }) if name == bad), "{bad}");
    }
    assert!(matches!(issue(&["a.example"; 65]), Err(AuthorityError::TooManyNames { count: 65 })));
}

#[test]
fn identities_are_read_strictly() {
    let agent_uri = || {
        SanType::URI(PeerIdentity::Agent { tenant: tenant(1), agent: agent(1) }.to_uri().try_into().unwrap())
    };
    let plane_uri = || SanType::URI("stella://control-plane".try_into().unwrap());
    let dns = || SanType::DnsName("a.example".try_into().unwrap());
    let client = || vec![ExtendedKeyUsagePurpose::ClientAuth];
    let server = || vec![ExtendedKeyUsagePurpose::ServerAuth];
    let read = |names: Vec<SanType>, usages: Vec<ExtendedKeyUsagePurpose>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = usages;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        PeerIdentity::from_certificate(certificate.der())
    };
    assert!(read(vec![agent_uri()], client()).is_ok());
    assert!(read(vec![dns(), plane_uri()], server()).is_ok());

    assert_eq!(read(vec![], client()), Err(identity::Error::NoIdentity));
    assert_eq!(read(vec![dns()], client()), Err(identity::Error::NoIdentity));
    let other = || SanType::URI("https://example.org".try_into().unwrap());
    assert_eq!(read(vec![other()], client()), Err(identity::Error::NoIdentity));
    for names in [
        vec![agent_uri(), plane_uri()],
        vec![agent_uri(), agent_uri()],
        vec![agent_uri(), other()],
        vec![agent_uri(), dns()],
        vec![agent_uri(), SanType::Rfc822Name("a@example.org".try_into().unwrap())],
    ] {
        assert_eq!(read(names.clone(), client()), Err(identity::Error::Ambiguous), "{names:?}");
    }
    for usages in [vec![], server(), vec![ExtendedKeyUsagePurpose::Any], [client(), server()].concat()] {
        let refused = read(vec![agent_uri()], usages.clone());
        assert!(matches!(refused, Err(identity::Error::WrongUsage { role: "agent", .. })), "{usages:?}");
    }
    for usages in [vec![], client(), [client(), server()].concat()] {
        let refused = read(vec![plane_uri()], usages.clone());
        assert!(
            matches!(refused, Err(identity::Error::WrongUsage { role: "control plane", .. })),
            "{usages:?}"
        );
    }
    let unknown = read(vec![SanType::URI("stella://admin".try_into().unwrap())], client());
    assert!(matches!(unknown, Err(identity::Error::Unknown { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tampering_never_yields_another_key(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let made = csr::generate().unwrap();
        let honest = csr::fingerprint(&made.csr_der).unwrap();
        let mut tampered = made.csr_der;
        let at = at.index(tampered.len());
        tampered[at] = to;
        // The parser reads some tags of the unsigned envelope loosely; what they enclose is proven all the same.
        if let Ok(fingerprint) = csr::fingerprint(&tampered) {
            prop_assert_eq!(fingerprint, honest);
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(csr::fingerprint(&bytes).is_err());
        let certificate = stella_certs::CertificateDer::from(bytes);
        prop_assert!(PeerIdentity::from_certificate(&certificate).is_err());
        prop_assert!(validity_of_certificate(&certificate).is_err());
    }
}
