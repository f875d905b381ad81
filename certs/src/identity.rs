//! Who a certificate names. The chain is verified elsewhere ([`crate::tls`]); this reads the names strictly.

use rustls_pki_types::CertificateDer;
use stella_protocol::id::{AgentId, TenantId};
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};

use crate::x509::{Malformed, parse};

const SCHEME: &str = "stella:";
const CONTROL_PLANE_URI: &str = "stella://control-plane";
/// The longest part of an unknown URI that an error repeats, in characters.
const URI_SHOWN_MAX: usize = 120;

/// The identity in a certificate of the product's authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// An enrolled agent.
    Agent {
        /// The tenant that it belongs to.
        tenant: TenantId,
        /// The agent.
        agent: AgentId,
    },
    /// The control plane.
    ControlPlane,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a certificate.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no `stella:` URI among its names.
    #[error("the certificate has no stella:// name; it was not issued by a Stella control plane")]
    NoIdentity,
    /// It has names beside its identity that its role must not have, or two identities.
    #[error("the certificate has more names than its role may have")]
    Ambiguous,
    /// Its URI is not in the one form that is issued.
    #[error("the certificate's name {uri:?} is not a known identity")]
    Unknown {
        /// The URI, cut short.
        uri: String,
    },
    /// What it may be used for is not what its role is for.
    #[error("the certificate of role {role} must allow {usage} and nothing else")]
    WrongUsage {
        /// The role that its name claims.
        role: &'static str,
        /// The only extended key usage of that role.
        usage: &'static str,
    },
}

impl PeerIdentity {
    /// Reads the identity: exactly one `stella:` URI, and the one extended key usage of its role. An agent's
    /// certificate has no other name; a control plane's has host names and addresses beside it.
    ///
    /// # Errors
    /// As [`Error`] says. The signature and the validity are *not* checked here.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let parsed = parse(certificate)?;
        let names = parsed.subject_alternative_name().map_err(|_| Malformed)?.ok_or(Error::NoIdentity)?;
        let usage = parsed.extended_key_usage().map_err(|_| Malformed)?;
        let usage = usage.as_ref().map(|extension| extension.value);

        let mut uris = Vec::new();
        let mut host_names = 0_usize;
        for name in &names.value.general_names {
            if let GeneralName::URI(uri) = name {
                uris.push(*uri);
            } else if matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)) {
                host_names += 1;
            } else {
                return Err(Error::Ambiguous);
            }
        }
        let uri = match uris.as_slice() {
            [uri] if uri.starts_with(SCHEME) => *uri,
            uris if uris.iter().any(|uri| uri.starts_with(SCHEME)) => return Err(Error::Ambiguous),
            _ => return Err(Error::NoIdentity),
        };

        let identity = Self::from_uri(uri)?;
        match identity {
            Self::Agent { .. } if host_names > 0 => Err(Error::Ambiguous),
            Self::Agent { .. } if !is_only(usage, |usage| usage.client_auth) => {
                Err(Error::WrongUsage { role: "agent", usage: "clientAuth" })
            }
            Self::ControlPlane if !is_only(usage, |usage| usage.server_auth) => {
                Err(Error::WrongUsage { role: "control plane", usage: "serverAuth" })
            }
            Self::Agent { .. } | Self::ControlPlane => Ok(identity),
        }
    }

    /// The URI that goes into the certificate.
    #[must_use]
    pub fn to_uri(self) -> String {
        match self {
            Self::Agent { tenant, agent } => format!("stella://tenant/{tenant}/agent/{agent}"),
            Self::ControlPlane => CONTROL_PLANE_URI.to_owned(),
        }
    }

    fn from_uri(uri: &str) -> Result<Self, Error> {
        let unknown = || Error::Unknown { uri: uri.chars().take(URI_SHOWN_MAX).collect() };
        let identity = if uri == CONTROL_PLANE_URI {
            Self::ControlPlane
        } else {
            let (tenant, agent) = uri
                .strip_prefix("stella://tenant/")
                .and_then(|rest| rest.split_once("/agent/"))
                .ok_or_else(unknown)?;
            Self::Agent {
                tenant: tenant.parse().map_err(|_| unknown())?,
                agent: agent.parse().map_err(|_| unknown())?,
            }
        };
        // UUIDs have several spellings; only the one that is issued is accepted, so that text and identity are one to one.
        if identity.to_uri() == uri { Ok(identity) } else { Err(unknown()) }
    }
}

fn is_only(usage: Option<&ExtendedKeyUsage<'_>>, wanted: impl Fn(&ExtendedKeyUsage<'_>) -> bool) -> bool {
    usage.is_some_and(|usage| {
        let known = [
            usage.any,
            usage.server_auth,
            usage.client_auth,
            usage.code_signing,
            usage.email_protection,
            usage.time_stamping,
            usage.ocsp_signing,
        ];
        wanted(usage) && known.into_iter().filter(|set| *set).count() == 1 && usage.other.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str =
        "stella://tenant/0190f5f4-7b3c-7c1d-9d55-4f2b8e6a1c33/agent/0190f5f4-7b3c-7c1d-9d55-4f2b8e6a1c34";

    #[test]
    fn an_identity_has_one_spelling() {
        let identity = PeerIdentity::from_uri(AGENT).unwrap();
        assert_eq!(identity.to_uri(), AGENT);
        for other in [
            AGENT
                .to_uppercase()
                .replace("STELLA://TENANT/", "stella://tenant/")
                .replace("/AGENT/", "/agent/"),
            AGENT.replace('-', ""),
            format!("{AGENT}/"),
            format!("{AGENT}?x"),
            "stella://control-plane/".to_owned(),
            "stella://tenant//agent/".to_owned(),
        ] {
            assert!(matches!(PeerIdentity::from_uri(&other), Err(Error::Unknown { .. })), "{other}");
        }
    }
}
