//! Reading certificates: the few facts that the rest of the product asks for.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use x509_parser::certificate::X509Certificate;

/// The bytes are not one certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate in DER, or bytes follow it")]
pub struct Malformed;

/// All certificates of a text in PEM; at least one. What else is in the text is passed over.
///
/// # Errors
/// If a part of it says that it is a certificate and is none, or nothing does.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Malformed> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| Malformed)?;
    if all.is_empty() {
        return Err(Malformed);
    }
    for certificate in &all {
        parse(certificate)?;
    }
    Ok(all)
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Parses exactly one certificate; trailing bytes are an error.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Malformed> {
    match x509_parser::parse_x509_certificate(certificate.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(Malformed),
    }
}

/// SHA-256 of the whole certificate in DER; this is what an enrolment token pins of the root.
#[must_use]
pub fn certificate_fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    sha256(certificate.as_ref())
}

/// SHA-256 of the certificate's `SubjectPublicKeyInfo`; equal to [`crate::csr::fingerprint`] of the request that asked
/// for it.
///
/// # Errors
/// If the bytes are not a certificate.
pub fn key_fingerprint_of_certificate(certificate: &CertificateDer<'_>) -> Result<Digest, Malformed> {
    Ok(sha256(parse(certificate)?.public_key().raw))
}

/// The serial number in lower-case hex without leading zero bytes: the form of
/// [`crate::IssuedCertificate::serial_hex`].
///
/// # Errors
/// If the bytes are not a certificate.
pub fn serial_hex_of_certificate(certificate: &CertificateDer<'_>) -> Result<String, Malformed> {
    let parsed = parse(certificate)?;
    let serial = parsed.raw_serial();
    let start = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    Ok(hex::encode(&serial[start..]))
}

/// From when until when the certificate is valid, to the second.
///
/// # Errors
/// If the bytes are not a certificate, or one of its times is before 1970.
pub fn validity_of_certificate(
    certificate: &CertificateDer<'_>,
) -> Result<(SystemTime, SystemTime), Malformed> {
    let parsed = parse(certificate)?;
    let validity = parsed.validity();
    Ok((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
}

fn at(unix_s: i64) -> Result<SystemTime, Malformed> {
    let unix_s = u64::try_from(unix_s).map_err(|_| Malformed)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_s)).ok_or(Malformed)
}
