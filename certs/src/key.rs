//! A private key in memory.

use std::fmt;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// A private key as PKCS #8 in DER. The bytes are wiped when it is dropped and never shown.
///
/// The bytes are not checked here: whoever uses the key parses it and reports what is wrong.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Takes the key's PKCS #8 DER, for example from an agent's key file.
    #[must_use]
    pub fn from_pkcs8_der(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The secret bytes, to be written to a file of mode 0600 and nowhere else.
    #[must_use]
    pub fn secret_pkcs8_der(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn as_pki_type(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.0.as_slice())
    }

    /// A copy in the type that rustls consumes; rustls parses it at once.
    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.as_pki_type().clone_key())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}
