//! Certificates that somebody else has issued: what is wrong with them is told before anybody is shown one.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use stella_certs::GivenCertificate;
use stella_certs::given::Error;
use time::{Duration, OffsetDateTime};

/// An authority with an intermediate one, as public ones are.
struct Site {
    root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn site() -> Site {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = named("Example Root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let intermediate = named("Example Issuing");
    let signed = intermediate.signed_by(&key, &Issuer::new(root, root_key)).unwrap().pem();
    Site { root: root_pem, intermediate: signed, issuer: Issuer::new(intermediate, key) }
}

impl Site {
    /// A certificate and its key.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names = ["stella.example.com", "*.apps.example.com", "192.0.2.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn read(chain: &[&str], key: &str) -> Result<GivenCertificate, Error> {
    GivenCertificate::from_pem(chain.concat().as_bytes(), key.as_bytes())
}

fn told(chain: &[&str], key: &str) -> String {
    read(chain, key).unwrap_err().to_string()
}

#[test]
fn a_whole_chain_is_taken_for_the_names_that_it_has() {
    let site = site();
    let (leaf, key) = site.issue(|_| ());
    let given = read(&[&leaf, &site.intermediate], &key).unwrap();
    read(&[&leaf, &site.intermediate, &site.root], &key).unwrap();
    read(&[&leaf], &key).unwrap();
    given.valid_at(SystemTime::now()).unwrap();
    for name in ["stella.example.com", "one.apps.example.com", "192.0.2.1"] {
        given.covers(name).unwrap();
    }
    for name in ["example.com", "one.two.apps.example.com", "192.0.2.2", "no name"] {
        let error = given.covers(name).unwrap_err().to_string();
        let has = "it is for stella.example.com, *.apps.example.com, 192.0.2.1";
        assert!(error.contains(name) && error.contains(has), "{error}");
    }
}

#[test]
fn what_cannot_be_shown_is_refused_with_what_is_wrong() {
    let site = site();
    let (leaf, key) = site.issue(|_| ());
    let (other, other_key) = site.issue(|_| ());
    assert_eq!(told(&[], &key), "there is no certificate in it (PEM), or one that cannot be read");
    assert_eq!(told(&[&leaf], "nothing"), "there is no private key in it (PEM)");
    assert_eq!(told(&[&leaf], &other_key), "the private key is not that of the certificate");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert!(told(&[&leaf], &encrypted).contains("openssl pkey -in"));
    let issuer_first = told(&[&site.intermediate, &leaf], &key);
    assert!(issuer_first.contains("that of certificate 2 in the file"), "{issuer_first}");
    let gap = told(&[&leaf, &site.root], &key);
    assert!(gap.contains("\"CN=Example Issuing\"") && gap.contains("\"CN=Example Root\""), "{gap}");
    let wrong_way = told(&[&leaf, &site.root, &site.intermediate], &key);
    assert!(wrong_way.contains("certificate 1 is issued by"), "{wrong_way}");
    assert!(told(&[&leaf, &other], &key).contains("certificate 1"), "two of servers");
    // The same names, and another authority.
    let stranger = self::site();
    let forged = told(&[&leaf, &stranger.intermediate], &key);
    assert_eq!(forged, "the certificates are not signed by those that follow them");
    let (of_client, key) =
        site.issue(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(told(&[&of_client, &site.intermediate], &key).contains("not for a server"));
}

#[test]
fn it_ends_when_the_first_of_its_chain_ends() {
    let site = site();
    let now = OffsetDateTime::now_utc();
    let (leaf, key) = site.issue(|it| {
        it.not_before = now - Duration::days(9);
        it.not_after = now - Duration::days(1);
    });
    let given = read(&[&leaf, &site.intermediate], &key).unwrap();
    assert!(matches!(given.valid_at(SystemTime::now()), Err(Error::Ended)));
    assert!(given.valid_at((now - Duration::days(2)).into()).is_ok());
    assert!(matches!(given.valid_at((now - Duration::days(10)).into()), Err(Error::NotYet)));
}
