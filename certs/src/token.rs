//! Bearer secrets: the one-time enrolment token and the API token.
//!
//! Both are shown once and stored only as a digest. A plain SHA-256 is enough for that, where a password would need a
//! slow hash: the secret is 256 random bits, so there is nothing to guess.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use stella_protocol::digest::Digest;
use stella_protocol::id::EnrolmentTokenId;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::x509::sha256;
use crate::{RandomFailed, random};

const ENROLMENT_PREFIX: &str = "stella-enrol-1.";
const ENROLMENT_FAMILY: &str = "stella-enrol-";
const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const ROOT_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const BODY_BYTES: usize = ID_BYTES + SECRET_BYTES + ROOT_BYTES;
const ENROLMENT_BYTES: usize = BODY_BYTES + CHECKSUM_BYTES;

const API_PREFIX: &str = "stella_";

/// Why a text is not a token. No variant repeats the text: a token with a typing error is still nearly a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTokenError {
    /// It is some other text.
    #[error("this is not a token of this kind; it has to begin with {expected:?}")]
    Prefix {
        /// What the token begins with.
        expected: &'static str,
    },
    /// It was made by a newer version.
    #[error("this enrolment token has another version; this software reads {expected:?} tokens")]
    Version {
        /// What tokens of the known version begin with.
        expected: &'static str,
    },
    /// Something is missing or too much.
    #[error(
        "the token is {actual} characters long after its prefix, not {expected}; copy all of it, and only it"
    )]
    Length {
        /// Characters after the prefix.
        actual: usize,
        /// Characters that there have to be.
        expected: usize,
    },
    /// It has characters that no token has.
    #[error("the token contains characters that do not belong in it; copy it again")]
    Encoding,
    /// It was changed on the way.
    #[error("the token's checksum is wrong; copy it again")]
    Checksum,
}

/// Lets one host enrol once. It pins the root, so that the host knows whom it enrols with before it trusts anything.
///
/// Written `stella-enrol-1.<base64url of id, secret, root fingerprint and checksum>`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EnrolmentToken {
    /// The public half: names the token in the control plane's records.
    #[zeroize(skip)]
    pub id: EnrolmentTokenId,
    /// The secret half.
    pub secret: [u8; SECRET_BYTES],
    /// SHA-256 of the root certificate's DER.
    #[zeroize(skip)]
    pub root: Digest,
}

impl EnrolmentToken {
    /// A new token with a random secret.
    ///
    /// # Errors
    /// If the machine's random source fails.
    pub fn generate(id: EnrolmentTokenId, root: Digest) -> Result<Self, RandomFailed> {
        Ok(Self { id, secret: random()?, root })
    }

    /// The digest of the secret half: what the control plane stores.
    #[must_use]
    pub fn secret_hash(&self) -> Digest {
        hash_secret(&self.secret)
    }
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new([0; ENROLMENT_BYTES]);
        let (body, checksum) = bytes.split_at_mut(BODY_BYTES);
        body[..ID_BYTES].copy_from_slice(self.id.0.as_bytes());
        body[ID_BYTES..ID_BYTES + SECRET_BYTES].copy_from_slice(&self.secret);
        body[ID_BYTES + SECRET_BYTES..].copy_from_slice(&self.root.0);
        checksum.copy_from_slice(&checksum_of(body));
        write!(f, "{ENROLMENT_PREFIX}{}", Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)).as_str())
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken")
            .field("id", &self.id)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl FromStr for EnrolmentToken {
    type Err = ParseTokenError;

    /// Reads a token; white space around it (a newline of the clipboard) is ignored.
    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim_ascii();
        let Some(encoded) = text.strip_prefix(ENROLMENT_PREFIX) else {
            return Err(if text.starts_with(ENROLMENT_FAMILY) {
                ParseTokenError::Version { expected: ENROLMENT_PREFIX }
            } else {
                ParseTokenError::Prefix { expected: ENROLMENT_PREFIX }
            });
        };
        let bytes: Zeroizing<[u8; ENROLMENT_BYTES]> = decode(encoded)?;
        let (body, checksum) = bytes.split_at(BODY_BYTES);
        if checksum != checksum_of(body) {
            return Err(ParseTokenError::Checksum);
        }
        Ok(Self {
            id: EnrolmentTokenId(Uuid::from_bytes(part(body, 0))),
            secret: part(body, ID_BYTES),
            root: Digest(part(body, ID_BYTES + SECRET_BYTES)),
        })
    }
}

/// Lets a person or a program use the HTTP API. Written `stella_<base64url of 32 random bytes>`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ApiToken([u8; SECRET_BYTES]);

impl ApiToken {
    /// A new random token.
    ///
    /// # Errors
    /// If the machine's random source fails.
    pub fn generate() -> Result<Self, RandomFailed> {
        random().map(Self)
    }

    /// The digest of the token: what the control plane stores, and by what it finds the token again.
    #[must_use]
    pub fn hash(&self) -> Digest {
        hash_secret(&self.0)
    }
}

impl fmt::Display for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{API_PREFIX}{}", Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0)).as_str())
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(redacted)")
    }
}

impl FromStr for ApiToken {
    type Err = ParseTokenError;

    /// Reads a token; white space around it is ignored.
    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let encoded = text
            .trim_ascii()
            .strip_prefix(API_PREFIX)
            .ok_or(ParseTokenError::Prefix { expected: API_PREFIX })?;
        decode(encoded).map(|bytes| Self(*bytes))
    }
}

/// The digest under which a secret is stored; [`EnrolmentToken::secret_hash`] of the secret that came over the wire.
#[must_use]
pub fn hash_secret(secret: &[u8; SECRET_BYTES]) -> Digest {
    sha256(secret)
}

/// Compares the digests of two secrets in constant time.
#[must_use]
pub fn secrets_match(a: &Digest, b: &Digest) -> bool {
    a.0.ct_eq(&b.0).into()
}

fn checksum_of(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    part(&sha256(body).0, 0)
}

/// `N` bytes from `start`; the callers' constants keep it in range.
fn part<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[start..start + N]);
    out
}

fn decode<const N: usize>(encoded: &str) -> Result<Zeroizing<[u8; N]>, ParseTokenError> {
    let expected = (N * 4).div_ceil(3);
    if !encoded.is_ascii() {
        return Err(ParseTokenError::Encoding);
    }
    if encoded.len() != expected {
        return Err(ParseTokenError::Length { actual: encoded.len(), expected });
    }
    let mut bytes = Zeroizing::new([0; N]);
    match URL_SAFE_NO_PAD.decode_slice(encoded, bytes.as_mut_slice()) {
        Ok(length) if length == N => Ok(bytes),
        Ok(_) | Err(_) => Err(ParseTokenError::Encoding),
    }
}
