//! Certificate signing requests: made on the agent, judged by the authority.
//!
//! A request carries one fact that counts, the public key, and one proof, that its sender holds the private key. The
//! names and extensions in it are never read: who an agent is, is decided by the control plane.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SubjectPublicKeyInfo};
use stella_protocol::digest::Digest;
use stella_protocol::limits::CSR_BYTES_MAX;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::PrivateKey;
use crate::x509::sha256;

/// Why a request cannot be made or is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is larger than any honest request; it was not parsed.
    #[error("the certificate request has {bytes} bytes; at most {CSR_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// It cannot be parsed.
    #[error("the certificate request is not one PKCS #10 request in DER")]
    Malformed,
    /// Its sender does not prove that it holds the private key.
    #[error("the certificate request is not signed by the key that it is for")]
    BadSignature,
    /// It asks for a kind of key that is not issued for.
    #[error("the certificate request is for an unsupported kind of key; use an ECDSA key on the curve P-256")]
    UnsupportedKey,
    /// The private key at hand cannot be used.
    #[error("the private key is not an ECDSA P-256 key in PKCS #8; enrol the agent again")]
    BadPrivateKey,
    /// The key or the request cannot be made.
    #[error("cannot make a key and certificate request")]
    Generate {
        /// What failed underneath.
        #[source]
        source: rcgen::Error,
    },
}

/// A new key and the request for its certificate.
#[derive(Debug)]
pub struct KeyAndRequest {
    /// The private key; it never leaves the host.
    pub key_der: PrivateKey,
    /// The request (PKCS #10, DER), signed by the key.
    pub csr_der: Vec<u8>,
}

/// Makes a new ECDSA P-256 key and a request for it.
///
/// # Errors
/// [`Error::Generate`] if the machine's random source fails.
pub fn generate() -> Result<KeyAndRequest, Error> {
    let pair = Zeroizing::new(KeyPair::generate().map_err(|source| Error::Generate { source })?);
    let csr_der = request(&pair)?;
    Ok(KeyAndRequest { key_der: PrivateKey::from_pkcs8_der(pair.serialize_der()), csr_der })
}

/// Makes a request for a key that exists, for an enrolment that is tried again after a lost reply.
///
/// # Errors
/// [`Error::BadPrivateKey`] if the key is not one that [`generate`] makes.
pub fn request_for_key(key: &PrivateKey) -> Result<Vec<u8>, Error> {
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key.as_pki_type(), &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| Error::BadPrivateKey)?;
    request(&Zeroizing::new(pair))
}

/// SHA-256 of the `SubjectPublicKeyInfo` in the request, after its signature was verified. The same key has the same
/// fingerprint in every request, so that an enrolment can be repeated.
///
/// # Errors
/// As [`Error`] says; nothing but the size is looked at in a request that is too large.
pub fn fingerprint(csr_der: &[u8]) -> Result<Digest, Error> {
    verify(csr_der).map(|verified| verified.fingerprint)
}

/// What is left of a request after its proof was checked: the key and nothing else.
pub(crate) struct VerifiedKey {
    pub(crate) public_key: SubjectPublicKeyInfo,
    pub(crate) fingerprint: Digest,
}

pub(crate) fn verify(csr_der: &[u8]) -> Result<VerifiedKey, Error> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(Error::TooLarge { bytes: csr_der.len() });
    }
    // Not rcgen's own parser: it fails on extensions that it does not know, and they are to be ignored here.
    let Ok(([], csr)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(Error::Malformed);
    };
    let spki = csr.certification_request_info.subject_pki.raw;
    let public_key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| Error::UnsupportedKey)?;
    // One kind of key, so that there is no weak one to ask for.
    if rcgen::PublicKeyData::algorithm(&public_key) != &PKCS_ECDSA_P256_SHA256 {
        return Err(Error::UnsupportedKey);
    }
    csr.verify_signature().map_err(|_| Error::BadSignature)?;
    Ok(VerifiedKey { public_key, fingerprint: sha256(spki) })
}

fn request(pair: &KeyPair) -> Result<Vec<u8>, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(pair).map_err(|source| Error::Generate { source })?;
    Ok(csr.der().to_vec())
}
