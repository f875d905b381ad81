//! Who is who: the certificate authority, the enrolment tokens and the TLS configurations of both ends.
//!
//! This crate knows certificates and no more: no sockets, no HTTP, no store of tenants or agents, and no clock of its
//! own when it issues (rustls reads the system clock when it verifies). Revocation is the fleet's work: it holds the
//! serials and ends the sessions, because a revocation list would act only at the next handshake.
//!
//! Roles are in the certificate, never in what a peer says: an agent has one name, a URI with its tenant and agent id,
//! and may only be a client; the control plane has the name [`CONTROL_PLANE_NAME`] and may only be a server. A stolen
//! agent key therefore cannot play control plane, and the control plane's key cannot enter as an agent.
//!
//! Reading order: [`authority`] (issues), [`csr`] (asks), [`token`] (lets in), [`identity`] (reads back), [`tls`]
//! (enforces); [`given`] is what comes from elsewhere. Beside them [`hook`] has the secrets of incoming webhooks.

pub mod authority;
pub mod csr;
pub mod given;
pub mod hook;
pub mod identity;
mod key;
pub mod lifetime;
pub mod tls;
pub mod token;
mod x509;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use authority::{Authority, IssuedCertificate, ServerCertificate};
pub use given::GivenCertificate;
pub use hook::{HookKey, HookSecret};
pub use identity::PeerIdentity;
pub use key::PrivateKey;
pub use lifetime::{renew_at, renewal_due};
pub use rustls_pki_types::CertificateDer;
pub use token::{ApiToken, EnrolmentToken};
pub use x509::{
    Malformed, certificate_fingerprint, certificates_from_pem, key_fingerprint_of_certificate,
    serial_hex_of_certificate, validity_of_certificate,
};

/// The DNS name in every certificate of a control plane, whatever its host is called. Agents require it, so that no
/// other server certificate of the same authority passes for the control plane.
pub const CONTROL_PLANE_NAME: &str = "control-plane.stella.internal";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
});

/// The one cryptographic provider of the product: aws-lc-rs, with the hybrid post-quantum key exchange preferred.
/// Nothing else names a provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the default of the process, for libraries that ask for none. Call it first in `main`; calling it
/// again changes nothing.
pub fn install_provider() {
    // An error means that a default is there already, which is this function's own promise.
    drop(CryptoProvider::clone(&PROVIDER).install_default());
}

/// The random source of the operating system failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed; nothing was generated")]
pub struct RandomFailed;

fn random<const N: usize>() -> Result<[u8; N], RandomFailed> {
    let mut bytes = [0; N];
    PROVIDER.secure_random.fill(&mut bytes).map_err(|_| RandomFailed)?;
    Ok(bytes)
}
