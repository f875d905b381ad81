//! Role checks on top of the chain checks of webpki, which stay in force.
//!
//! webpki alone is not enough: it lets a certificate without any extended key usage pass as both client and server, and
//! it knows names but no roles.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use stella_protocol::digest::Digest;

use super::Error;
use crate::x509::certificate_fingerprint;
use crate::{CONTROL_PLANE_NAME, PeerIdentity, identity, provider};

/// Why a peer's certificate was refused although its chain may be good. It is inside the handshake's error, as
/// [`CertificateError::Other`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The certificate names nobody.
    #[error("the peer's certificate has no identity that can be used")]
    NoIdentity {
        /// What is wrong with it.
        #[source]
        source: identity::Error,
    },
    /// An agent's certificate was shown by a server.
    #[error("the server showed an agent's certificate; it is not the control plane")]
    NotTheControlPlane,
    /// A server's certificate was shown by a client.
    #[error("the client showed the control plane's certificate; it is not an agent")]
    NotAnAgent,
    /// The server did not send the root that the enrolment token pins.
    #[error(
        "the server does not have the root certificate {pinned} of the enrolment token; check the address and the token"
    )]
    NotThePinnedRoot {
        /// The fingerprint in the token.
        pinned: Digest,
    },
    /// The server shows another certificate than the one that is known.
    #[error("the server shows another certificate")]
    AnotherCertificate,
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// Accepts the control plane, under given roots.
#[derive(Debug)]
pub(super) struct ControlPlaneVerifier {
    chain: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ControlPlaneVerifier {
    pub(super) fn for_roots(roots: Arc<RootCertStore>) -> Result<Self, Error> {
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|_| Error::NoRoots)?;
        Ok(Self { chain, name: control_plane_name() })
    }
}

fn control_plane_name() -> ServerName<'static> {
    let name = DnsName::try_from(CONTROL_PLANE_NAME)
        .expect("the constant is a DNS name, as every handshake test shows");
    ServerName::DnsName(name)
}

impl ServerCertVerifier for ControlPlaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.chain.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)?;
        match PeerIdentity::from_certificate(end_entity) {
            Ok(PeerIdentity::ControlPlane) => Ok(verified),
            Ok(PeerIdentity::Agent { .. }) => Err(Refusal::NotTheControlPlane.into()),
            Err(source) => Err(Refusal::NoIdentity { source }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts the control plane, under the one root with a known fingerprint, which the server has to send.
pub(super) struct PinnedRootVerifier {
    pinned: Digest,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedRootVerifier {
    pub(super) fn new(pinned: Digest) -> Self {
        Self { pinned, algorithms: provider().signature_verification_algorithms }
    }
}

impl fmt::Debug for PinnedRootVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedRootVerifier").field("pinned", &self.pinned).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedRootVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|certificate| certificate_fingerprint(certificate) == self.pinned)
            .ok_or(Refusal::NotThePinnedRoot { pinned: self.pinned })?;
        // That the root was sent proves nothing, since it is public. What follows verifies that the leaf chains to it.
        let mut roots = RootCertStore::empty();
        roots.add(root.clone())?;
        ControlPlaneVerifier::for_roots(Arc::new(roots))
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?
            .verify_server_cert(end_entity, intermediates, dialled, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts whoever has the key of the one certificate that is known.
pub(super) struct KnownCertificateVerifier {
    leaf: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KnownCertificateVerifier {
    pub(super) fn new(leaf: CertificateDer<'static>) -> Self {
        Self { leaf, algorithms: provider().signature_verification_algorithms }
    }
}

impl fmt::Debug for KnownCertificateVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownCertificateVerifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for KnownCertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity != self.leaf {
            return Err(Refusal::AnotherCertificate.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts agents. Whether a client has to show a certificate at all is the inner verifier's decision.
#[derive(Debug)]
pub(super) struct AgentVerifier {
    chain: Arc<dyn ClientCertVerifier>,
}

impl AgentVerifier {
    pub(super) fn new(chain: Arc<dyn ClientCertVerifier>) -> Self {
        Self { chain }
    }
}

impl ClientCertVerifier for AgentVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match PeerIdentity::from_certificate(end_entity) {
            Ok(PeerIdentity::Agent { .. }) => Ok(verified),
            Ok(PeerIdentity::ControlPlane) => Err(Refusal::NotAnAgent.into()),
            Err(source) => Err(Refusal::NoIdentity { source }.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
