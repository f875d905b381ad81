//! The TLS configurations of every listener and of the agent. TLS 1.3 only, everywhere.
//!
//! No 0-RTT, because a replayed dispatch would be a second effect. No session tickets, because a resumed session skips
//! the certificate checks, and with them expiry. The server's certificate is taken from a [`ServerIdentity`] at every
//! handshake, so that it can be replaced while connections live.

mod verifier;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::version::{ALPN_AGENT, ALPN_ENROL, ALPN_ENROL_2, ALPN_ENROL_3};

use crate::x509::validity_of_certificate;
use crate::{GivenCertificate, PeerIdentity, PrivateKey, ServerCertificate, identity, provider};
use verifier::{AgentVerifier, ControlPlaneVerifier, KnownCertificateVerifier, PinnedRootVerifier};

pub use verifier::Refusal;

/// Why a configuration cannot be made, or a connection must not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The certificate and the key cannot be used, or do not belong together.
    #[error("the certificate chain and its private key cannot be used together")]
    Certificate {
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// A root to trust cannot be used.
    #[error("a root certificate cannot be used")]
    Root {
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// There is no root to trust.
    #[error("there is no root certificate to trust")]
    NoRoots,
    /// The provider does not speak TLS 1.3.
    #[error("the cryptographic provider cannot be used for TLS 1.3")]
    Provider {
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The peer speaks neither protocol of the QUIC listener.
    #[error("the peer negotiated no known protocol")]
    UnknownProtocol,
    /// The peer wants an agent's session and has shown no certificate.
    #[error("the peer asks for an agent's session without a certificate")]
    NoCertificate,
    /// A private key is not one.
    #[error("there is no private key in it (PEM)")]
    Key,
    /// The peer's certificate names nobody.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The peer's certificate is of another role.
    #[error("the peer's certificate is not an agent's")]
    NotAnAgent,
}

/// The server's certificate and key, replaceable while the server runs.
///
/// All listeners share one; a handshake takes whatever is in it at that moment, and connections that exist are not
/// touched.
pub struct ServerIdentity {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerIdentity {
    /// Takes the first certificate.
    ///
    /// # Errors
    /// [`Error::Certificate`] if chain and key do not belong together.
    pub fn new(certificate: &ServerCertificate) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { current: RwLock::new(certified(certificate)?) }))
    }

    /// Puts another certificate in place for the handshakes to come.
    ///
    /// # Errors
    /// [`Error::Certificate`] if chain and key do not belong together; the one before stays.
    pub fn replace(&self, certificate: &ServerCertificate) -> Result<(), Error> {
        let certified = certified(certificate)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// As [`Self::replace`], by one that somebody else has issued.
    pub fn replace_by_given(&self, given: &GivenCertificate) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = given.certified();
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The value is swapped whole, so a panic elsewhere cannot have left half of one.
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Who is at the other end of an accepted QUIC connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicPeer {
    /// A host without an identity, which may send one enrolment request and nothing else.
    Enrolling {
        /// Whether it can be told what its token lets tasks do.
        takes_profile: bool,
        /// Whether it says what its token has to be for.
        says_profile: bool,
    },
    /// An enrolled agent. Whether it is revoked is not known here.
    Agent {
        /// Its tenant.
        tenant: TenantId,
        /// Its id.
        agent: AgentId,
        /// From when and until when its certificate is valid. TLS looks at it once; a connection may live longer.
        validity: (SystemTime, SystemTime),
    },
}

impl QuicPeer {
    /// Judges a finished handshake by its ALPN and the client's certificates. The listener calls this for every
    /// connection: TLS itself lets a client without a certificate in, for enrolment.
    ///
    /// # Errors
    /// If the ALPN is unknown, or an agent's session is asked for without an agent's certificate.
    pub fn admit(alpn: Option<&[u8]>, certificates: Option<&[CertificateDer<'_>]>) -> Result<Self, Error> {
        match alpn {
            Some(ALPN_ENROL_3) => Ok(Self::Enrolling { takes_profile: true, says_profile: true }),
            Some(ALPN_ENROL_2) => Ok(Self::Enrolling { takes_profile: true, says_profile: false }),
            Some(ALPN_ENROL) => Ok(Self::Enrolling { takes_profile: false, says_profile: false }),
            Some(ALPN_AGENT) => {
                let leaf = certificates.and_then(<[_]>::first).ok_or(Error::NoCertificate)?;
                match PeerIdentity::from_certificate(leaf)? {
                    PeerIdentity::Agent { tenant, agent } => {
                        let validity = validity_of_certificate(leaf).map_err(identity::Error::from)?;
                        Ok(Self::Agent { tenant, agent, validity })
                    }
                    PeerIdentity::ControlPlane => Err(Error::NotAnAgent),
                }
            }
            Some(_) | None => Err(Error::UnknownProtocol),
        }
    }
}

/// For the QUIC listener, which serves agents and enrolment under one port.
///
/// A client's certificate is verified when there is one, and it must then be an agent's; it may be absent, because
/// enrolment has none. The listener MUST pass every connection through [`QuicPeer::admit`], which requires an identity
/// under [`ALPN_AGENT`].
///
/// # Errors
/// [`Error::NoRoots`] or [`Error::Root`] for the roots.
pub fn quic_server(
    identity: &Arc<ServerIdentity>,
    roots: &[CertificateDer<'static>],
) -> Result<ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(store(roots)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|_| Error::NoRoots)?;
    let builder = server_builder()?.with_client_cert_verifier(Arc::new(AgentVerifier::new(verifier)));
    // The server's order decides between those that an enrolling host offers.
    let protocols = [ALPN_AGENT, ALPN_ENROL_3, ALPN_ENROL_2, ALPN_ENROL];
    Ok(finish_server(builder.with_cert_resolver(resolver(identity)), &protocols))
}

/// For an enrolled agent: shows its certificate, and accepts only the control plane. The name that is dialled does not
/// matter; [`crate::CONTROL_PLANE_NAME`] is what the certificate has to have.
///
/// # Errors
/// [`Error::NoRoots`] or [`Error::Root`] for the roots, [`Error::Certificate`] for the identity.
pub fn quic_agent_client(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
    roots: &[CertificateDer<'static>],
) -> Result<ClientConfig, Error> {
    let verifier = ControlPlaneVerifier::for_roots(store(roots)?)?;
    let config = client_builder(Arc::new(verifier))?
        .with_client_auth_cert(chain, key.to_rustls())
        .map_err(|source| Error::Certificate { source })?;
    Ok(finish_client(config, &[ALPN_AGENT]))
}

/// For a host that enrols: it trusts the one root whose DER has this SHA-256, from the enrolment token. The server sends
/// that root in its chain; the rest is verified as by an enrolled agent.
///
/// # Errors
/// [`Error::Provider`], which no build of this product gives.
pub fn quic_enrol_client(root_fingerprint: Digest) -> Result<ClientConfig, Error> {
    let verifier = PinnedRootVerifier::new(root_fingerprint);
    let config = client_builder(Arc::new(verifier))?.with_no_client_auth();
    Ok(finish_client(config, &[ALPN_ENROL_3, ALPN_ENROL_2, ALPN_ENROL]))
}

/// For the HTTPS API. Callers show bearer tokens, not certificates.
///
/// # Errors
/// [`Error::Provider`], which no build of this product gives.
pub fn https_server(identity: &Arc<ServerIdentity>) -> Result<ServerConfig, Error> {
    let builder = server_builder()?.with_no_client_auth();
    Ok(finish_server(builder.with_cert_resolver(resolver(identity)), HTTP))
}

/// For whoever has the very certificate that an HTTPS server should show, and asks whether it shows that. Its names and its times do not
/// matter.
///
/// # Errors
/// [`Error::Provider`], which no build of this product gives.
pub fn https_client_of(leaf: &CertificateDer<'static>) -> Result<ClientConfig, Error> {
    let verifier = KnownCertificateVerifier::new(leaf.clone());
    Ok(finish_client(client_builder(Arc::new(verifier))?.with_no_client_auth(), HTTP))
}

/// What is wrong with the certificate of the other end, if that is why a connection has failed: for errors of HTTP clients, which have
/// it somewhere inside.
#[must_use]
pub fn certificate_problem(error: &(dyn std::error::Error + 'static)) -> Option<CertificateProblem> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            let text = if *problem == CertificateError::UnknownIssuer {
                "its certificate is of no authority that is trusted here".to_owned()
            } else if let CertificateError::Other(refusal) = problem {
                refusal.0.to_string()
            } else {
                problem.to_string()
            };
            let is_the_name = matches!(
                problem,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            );
            return Some(CertificateProblem { text, is_the_name });
        }
        // The source of an error of the system is the source of what it holds, and leaves that out.
        cause = held_by(error).or_else(|| error.source());
    }
    None
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateProblem {
    /// For people.
    pub text: String,
    /// Whether it is only that it is for other names than the one that was dialled: `text` has both.
    pub is_the_name: bool,
}

fn held_by<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e (dyn std::error::Error + 'static)> {
    let held = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    Some(held)
}

/// For the metrics listener. With `client_roots`, a scraper has to show a certificate under one of them.
///
/// # Errors
/// [`Error::NoRoots`] or [`Error::Root`] for the client roots.
pub fn metrics_server(
    identity: &Arc<ServerIdentity>,
    client_roots: Option<&[CertificateDer<'static>]>,
) -> Result<ServerConfig, Error> {
    let Some(client_roots) = client_roots else {
        return https_server(identity);
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(store(client_roots)?, provider())
        .build()
        .map_err(|_| Error::NoRoots)?;
    let builder = server_builder()?.with_client_cert_verifier(verifier);
    Ok(finish_server(builder.with_cert_resolver(resolver(identity)), HTTP))
}

/// For figures that an agent serves by itself, with a certificate that its host was given; scrapers have to show a certificate
/// under one of `client_roots`. The key is PEM.
///
/// # Errors
/// [`Error::NoRoots`] or [`Error::Root`] for the client roots, [`Error::Key`] for a key that cannot be read,
/// [`Error::Certificate`] if it is another certificate's.
pub fn scraped_server(
    chain: Vec<CertificateDer<'static>>,
    key_pem: &[u8],
    client_roots: &[CertificateDer<'static>],
) -> Result<ServerConfig, Error> {
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| Error::Key)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(store(client_roots)?, provider())
        .build()
        .map_err(|_| Error::NoRoots)?;
    let config = server_builder()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| Error::Certificate { source })?;
    Ok(finish_server(config, &[b"http/1.1"]))
}

const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

fn certified(certificate: &ServerCertificate) -> Result<Arc<CertifiedKey>, Error> {
    CertifiedKey::from_der(certificate.chain.clone(), certificate.key.to_rustls(), &provider())
        .map(Arc::new)
        .map_err(|source| Error::Certificate { source })
}

fn resolver(identity: &Arc<ServerIdentity>) -> Arc<dyn ResolvesServerCert> {
    Arc::<ServerIdentity>::clone(identity)
}

fn store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    if roots.is_empty() {
        return Err(Error::NoRoots);
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|source| Error::Root { source })?;
    }
    Ok(Arc::new(store))
}

fn server_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, Error> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| Error::Provider { source })
}

fn finish_server(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

fn client_builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| Error::Provider { source })?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    config
}
