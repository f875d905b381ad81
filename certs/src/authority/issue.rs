//! Issuing: to agents by their request, to the control plane itself.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, ServerName};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, TenantId};
use zeroize::Zeroizing;

use super::{Authority, Error, Signer, params};
use crate::x509::{serial_hex_of_certificate, validity_of_certificate};
use crate::{CONTROL_PLANE_NAME, PeerIdentity, PrivateKey, csr};

/// Certificates begin this long before they are issued, for peers whose clocks are a little behind.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// How many extra names a server certificate may have: the chain is sent in every handshake.
pub const EXTRA_NAMES_MAX: usize = 64;

/// The longest part of a refused name that an error repeats, in characters.
const NAME_SHOWN_MAX: usize = 120;

/// A certificate for an agent.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// The leaf and the issuing intermediate, DER, leaf first. The root is not in it: the agent has it.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// The serial number in hex, for revocation.
    pub serial_hex: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid. Earlier than asked for when the issuing certificate ends before.
    pub not_after: SystemTime,
    /// SHA-256 of the public key's `SubjectPublicKeyInfo`: [`csr::fingerprint`] of the request.
    pub key_fingerprint: Digest,
}

/// A certificate for the control plane, with its key. The key is in memory only: a new one is made at every start.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// The leaf, the issuing intermediate and the roots, DER, leaf first. The roots are in it because an enrolling agent
    /// knows only a root's fingerprint. Between the switch to a new root and the end of the old one there are two
    /// intermediates with one key, so that who trusts either root finds a way to it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKey,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl Authority {
    /// Issues a certificate for the key in the request, to the agent that the caller names. Every name and extension in
    /// the request is ignored.
    ///
    /// # Errors
    /// [`Error::Request`] if the request is refused, [`Error::Time`] if the lifetime is zero, [`Error::Expired`] if the
    /// issuing certificate is at its end.
    pub fn issue_agent(
        &self,
        csr_der: &[u8],
        tenant: TenantId,
        agent: AgentId,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, Error> {
        let verified = csr::verify(csr_der)?;
        let held = self.held();
        let signer = held.active();
        let mut params = signer.leaf_params(&agent.to_string(), now, lifetime)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(PeerIdentity::Agent { tenant, agent })?];
        let leaf = signer.sign(&params, &verified.public_key)?;
        let (not_before, not_after) = validity_of_certificate(&leaf)?;
        Ok(IssuedCertificate {
            serial_hex: serial_hex_of_certificate(&leaf)?,
            chain_der: vec![leaf, signer.issuing.clone()],
            not_before,
            not_after,
            key_fingerprint: verified.fingerprint,
        })
    }

    /// Whether these can be the extra names of a certificate for the control plane.
    ///
    /// # Errors
    /// [`Error::BadName`] or [`Error::TooManyNames`].
    pub fn check_names(extra_names: &[String]) -> Result<(), Error> {
        server_names(extra_names).map(drop)
    }

    /// Issues a certificate for the control plane with a new key. `extra_names` are the DNS names and addresses under
    /// which people and agents reach it, beside the local ones, which it always has.
    ///
    /// # Errors
    /// [`Error::BadName`] or [`Error::TooManyNames`] for the extra names; otherwise as [`Authority::issue_agent`].
    pub fn issue_server(
        &self,
        extra_names: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<ServerCertificate, Error> {
        let key = Zeroizing::new(KeyPair::generate().map_err(|source| Error::Sign { source })?);
        let held = self.held();
        let signer = held.active();
        let mut params = signer.leaf_params(CONTROL_PLANE_NAME, now, lifetime)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = server_names(extra_names)?;
        let leaf = signer.sign(&params, &*key)?;
        let (not_before, not_after) = validity_of_certificate(&leaf)?;
        let mut chain = vec![leaf];
        // Before the other one: programs that try only one way are those with the old root.
        chain.extend(held.cross().cloned());
        chain.push(signer.issuing.clone());
        chain.extend(held.roots());
        Ok(ServerCertificate {
            chain,
            key: PrivateKey::from_pkcs8_der(key.serialize_der()),
            not_before,
            not_after,
        })
    }
}

impl Signer {
    fn leaf_params(
        &self,
        common_name: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<CertificateParams, Error> {
        if now >= self.issuing_not_after {
            return Err(Error::Expired { path: self.issuing_path.clone() });
        }
        if lifetime.is_zero() {
            return Err(Error::Time);
        }
        let not_before = now.checked_sub(BACKDATED).ok_or(Error::Time)?;
        let not_after = now.checked_add(lifetime).ok_or(Error::Time)?.min(self.issuing_not_after);
        let mut params = params(common_name, not_before, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, Error> {
        let certificate =
            params.signed_by(public_key, &self.issuer).map_err(|source| Error::Sign { source })?;
        Ok(certificate.into())
    }
}

fn server_names(extra_names: &[String]) -> Result<Vec<SanType>, Error> {
    if extra_names.len() > EXTRA_NAMES_MAX {
        return Err(Error::TooManyNames { count: extra_names.len() });
    }
    let mut names = vec![uri(PeerIdentity::ControlPlane)?];
    let fixed = [CONTROL_PLANE_NAME, "localhost", "127.0.0.1", "::1"];
    for name in fixed.into_iter().chain(extra_names.iter().map(String::as_str)) {
        let name = host_name(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn host_name(name: &str) -> Result<SanType, Error> {
    let bad = || Error::BadName { name: name.chars().take(NAME_SHOWN_MAX).collect() };
    match ServerName::try_from(name).map_err(|_| bad())? {
        ServerName::DnsName(dns) => Ok(SanType::DnsName(ia5(&dns.as_ref().to_ascii_lowercase())?)),
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(IpAddr::from(address))),
        _ => Err(bad()),
    }
}

fn uri(identity: PeerIdentity) -> Result<SanType, Error> {
    Ok(SanType::URI(ia5(&identity.to_uri())?))
}

fn ia5(text: &str) -> Result<Ia5String, Error> {
    Ia5String::try_from(text).map_err(|source| Error::Sign { source })
}
