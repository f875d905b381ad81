//! Ed25519 keys and signatures.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use zeroize::Zeroizing;

use crate::statement::Signed;

/// What comes before the 32 bytes of an ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PUBLIC_TAG: &str = "PUBLIC KEY";
const PRIVATE_TAG: &str = "PRIVATE KEY";

/// Why a text is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no public key.
    #[error("is no ed25519 public key in PEM, which begins with -----BEGIN PUBLIC KEY-----")]
    NoPublicKey,
    /// It is a private key: it must not be sent anywhere.
    #[error("is a private key: keep it where it is, and give the public key")]
    Private,
    /// It is no private key.
    #[error("is no ed25519 private key as PKCS #8 in PEM, which begins with -----BEGIN PRIVATE KEY-----")]
    NoPrivateKey,
    /// It is no signature.
    #[error("is no ed25519 signature: 64 bytes in base64")]
    NoSignature,
    /// No key could be made.
    #[error("the cryptographic library made no key")]
    NotMade,
}

/// The public half of a key that signs releases. In JSON it is the base64 of its `SubjectPublicKeyInfo`: the middle of its PEM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    fn spki(self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.0].concat()
    }

    /// SHA-256 over its `SubjectPublicKeyInfo` in DER: what `openssl pkey -pubin -outform DER | sha256sum` prints.
    #[must_use]
    pub fn fingerprint(self) -> Digest {
        Digest(Sha256::digest(self.spki()).into())
    }

    /// It in PEM.
    #[must_use]
    pub fn to_pem(self) -> String {
        in_pem(PUBLIC_TAG, self.spki())
    }

    /// Whether its other half has signed this statement.
    #[must_use]
    pub fn has_signed(self, statement: &impl Signed, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&statement.signed_bytes(), &signature.0).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads PEM, or the middle of it alone.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let der = if text.contains("-----BEGIN") {
            let pem = pem::parse(text).map_err(|_| KeyError::NoPublicKey)?;
            if pem.tag().ends_with(PRIVATE_TAG) {
                return Err(KeyError::Private);
            }
            pem.into_contents()
        } else {
            BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyError::NoPublicKey)?
        };
        let bytes = der.strip_prefix(&SPKI_PREFIX).and_then(|rest| rest.try_into().ok());
        bytes.map(Self).ok_or(KeyError::NoPublicKey)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        BASE64_STANDARD.encode(key.spki())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// A signature. In JSON it is base64.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; 64]);

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyError::NoSignature)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::NoSignature)
    }
}

impl TryFrom<String> for Signature {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// A key that signs releases: both halves. It stays with whoever signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| KeyError::NotMade)
    }

    /// Reads PKCS #8 in PEM, as [`Self::to_pem`] and `openssl genpkey -algorithm ed25519` write it.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let pem = pem::parse(text).map_err(|_| KeyError::NoPrivateKey)?;
        if pem.tag() != PRIVATE_TAG {
            return Err(KeyError::NoPrivateKey);
        }
        let der = Zeroizing::new(pem.into_contents());
        Ed25519KeyPair::from_pkcs8(&der).map(Self).map_err(|_| KeyError::NoPrivateKey)
    }

    /// It as PKCS #8 in PEM, to be written to a file that only its owner reads.
    ///
    /// # Errors
    /// If the library cannot write it.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| KeyError::NotMade)?;
        Ok(Zeroizing::new(in_pem(PRIVATE_TAG, der.as_ref())))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref();
        PublicKey(bytes.try_into().expect("an ed25519 public key has 32 bytes"))
    }

    /// Signs a statement.
    #[must_use]
    pub fn sign(&self, statement: &impl Signed) -> Signature {
        let signature = self.0.sign(&statement.signed_bytes());
        Signature(signature.as_ref().try_into().expect("an ed25519 signature has 64 bytes"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().fingerprint())
    }
}

fn in_pem(tag: &str, der: impl Into<Vec<u8>>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}
