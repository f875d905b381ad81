//! A certificate that somebody else has issued: for the API, whose callers then need to trust nothing of this installation's own.
//!
//! It is looked at before it is shown to anybody: a server that shows a chain in the wrong order, or a certificate whose key it does not
//! have, starts well and fails at each of its callers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::x509::{certificates_from_pem, parse, validity_of_certificate};
use crate::{Malformed, provider};

/// What the PEM of a key that needs a password begins with.
const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no certificate, or something that says that it is one and is none.
    #[error("there is no certificate in it (PEM), or one that cannot be read")]
    Chain(#[from] Malformed),
    /// There is no key.
    #[error("there is no private key in it (PEM)")]
    Key,
    /// Nobody is there to type its password.
    #[error("the private key needs a password; take it away: openssl pkey -in KEY -out NEW")]
    EncryptedKey,
    /// The key cannot be used, or is none of the chain's.
    #[error("the private key is not that of the certificate")]
    OtherKey {
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The server's own certificate is not the first.
    #[error(
        "the private key is that of certificate {position} in the file; the server's own has to be the first"
    )]
    NotFirst {
        /// Which it is, from 1 on.
        position: usize,
    },
    /// A certificate is not followed by that of who has issued it.
    #[error(
        "certificate {position} is issued by {issuer:?}, and the next in the file is of {next:?}: each has to be followed by its issuer's"
    )]
    Order {
        /// Which, from 1 on.
        position: usize,
        /// Who has issued it.
        issuer: String,
        /// Whose certificate comes next.
        next: String,
    },
    /// The names fit and the signatures do not.
    #[error("the certificates are not signed by those that follow them")]
    NotSigned {
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// It is for something else.
    #[error("the certificate is not for a server: its extended key usage leaves that out")]
    NotAServer,
    /// Callers that dial a name would refuse it.
    #[error("the certificate is not for {name:?}; it is for {}", has.join(", "))]
    Name {
        /// The name.
        name: String,
        /// Those that it has.
        has: Vec<String>,
    },
    /// It is not valid now.
    #[error("the certificate is not valid yet; is the clock of this host right?")]
    NotYet,
    /// It is not valid any more.
    #[error("the certificate, or one of its issuers, has ended")]
    Ended,
}

/// A chain, the server's own certificate first, and its key.
#[derive(Clone, Debug)]
pub struct GivenCertificate {
    certified: Arc<CertifiedKey>,
    validity: (SystemTime, SystemTime),
}

impl GivenCertificate {
    /// Reads both from PEM, and looks whether they can be shown at all: the key is that of the first certificate, each is followed by its
    /// issuer's, and it is for servers. Whether it is valid now, and for whom, is asked apart.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates_from_pem(chain)?;
        if key.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) {
            return Err(Error::EncryptedKey);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::Key)?;
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider())
            .map_err(|source| fitting(&chain, &key, source))?;
        in_order(&chain)?;
        signed(&chain)?;
        let mut validity = validity_of_certificate(&chain[0])?;
        for other in &chain[1..] {
            let (begins, ends) = validity_of_certificate(other)?;
            validity = (validity.0.max(begins), validity.1.min(ends));
        }
        Ok(Self { certified: Arc::new(certified), validity })
    }

    /// Whether callers that dial a name or an address take it.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn covers(&self, name: &str) -> Result<(), Error> {
        let covered = ServerName::try_from(name)
            .ok()
            .zip(ParsedCertificate::try_from(self.leaf()).ok())
            .is_some_and(|(server, leaf)| verify_server_name(&leaf, &server).is_ok());
        if covered {
            return Ok(());
        }
        Err(Error::Name { name: name.to_owned(), has: names(&parse(self.leaf())?) })
    }

    /// Whether all of the chain is valid.
    ///
    /// # Errors
    /// [`Error::NotYet`], [`Error::Ended`].
    pub fn valid_at(&self, now: SystemTime) -> Result<(), Error> {
        match self.validity {
            (begins, _) if now < begins => Err(Error::NotYet),
            (_, ends) if now >= ends => Err(Error::Ended),
            _ => Ok(()),
        }
    }

    /// From when until when all of the chain is valid.
    #[must_use]
    pub const fn validity(&self) -> (SystemTime, SystemTime) {
        self.validity
    }

    /// The server's own certificate.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl PartialEq for GivenCertificate {
    /// Whether callers are shown the same.
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

/// Whose the key is, if not the first certificate's.
fn fitting(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'_>, source: rustls::Error) -> Error {
    let is_its_key = |certificate: &CertificateDer<'static>| {
        CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider()).is_ok()
    };
    match chain.iter().position(is_its_key) {
        Some(index) => Error::NotFirst { position: index + 1 },
        None => Error::OtherKey { source },
    }
}

fn in_order(chain: &[CertificateDer<'static>]) -> Result<(), Error> {
    let leaf = parse(&chain[0])?;
    let usage = leaf.extended_key_usage().map_err(|_| Malformed)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(Error::NotAServer);
    }
    for (index, pair) in chain.windows(2).enumerate() {
        let [one, next] = [parse(&pair[0])?, parse(&pair[1])?];
        if one.issuer().as_raw() != next.subject().as_raw() {
            let (issuer, next) = (one.issuer().to_string(), next.subject().to_string());
            return Err(Error::Order { position: index + 1, issuer, next });
        }
    }
    Ok(())
}

/// Whether the signatures lead from the first certificate to the last, at a time when the first was valid for sure.
fn signed(chain: &[CertificateDer<'static>]) -> Result<(), Error> {
    let [leaf, between @ .., last] = chain else { return Ok(()) };
    let failed = |source| Error::NotSigned { source };
    let mut store = RootCertStore::empty();
    store.add(last.clone()).map_err(failed)?;
    let (begins, _) = validity_of_certificate(leaf)?;
    let at = begins.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| Malformed)?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(failed)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &store,
        between,
        UnixTime::since_unix_epoch(at),
        algorithms,
    )
    .map_err(failed)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let named = certificate.subject_alternative_name().ok().flatten();
    let all = named.map(|it| &it.value.general_names[..]).unwrap_or_default();
    let mut names: Vec<_> = all.iter().filter_map(told).collect();
    if names.is_empty() {
        names.push("no name at all (its subject alternative names are empty)".to_owned());
    }
    names
}

fn told(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
}
