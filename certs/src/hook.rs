//! Secrets of incoming webhooks. A signature can only be checked by who has the secret, so a digest is not enough; but the secret itself
//! is kept nowhere: it is made anew, whenever it is needed, from a key in a file of the control plane's own and a salt that is no secret.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use stella_protocol::digest::Digest;
use stella_protocol::id::HookId;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{RandomFailed, random};

/// What secrets begin with: what masks our tokens masks them too.
const PREFIX: &str = "stella_hook_";
const KEY_BYTES: usize = 32;
/// The largest file that is read, in bytes; one has 65.
const FILE_BYTES_MAX: u64 = 1024;
const GROUP_AND_OTHERS: u32 = 0o077;
/// What the key is used for: a key that were used for something else as well would make other secrets there.
const PURPOSE: &[u8] = b"stella incoming webhook 1";

/// The key that all secrets of incoming webhooks are made from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct HookKey([u8; KEY_BYTES]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum HookKeyError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The machine's random source fails.
    #[error(transparent)]
    Random(#[from] RandomFailed),
    /// Others than its owner may read or write the file.
    #[error("its mode is {mode:03o}, and others than its owner may use it; if nobody has read it: chmod 600")]
    Permissive {
        /// What they may.
        mode: u32,
    },
    /// The file holds something else.
    #[error("it has to hold 64 hexadecimal digits")]
    Malformed,
}

impl fmt::Debug for HookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookKey(redacted)")
    }
}

impl HookKey {
    /// A new random key.
    ///
    /// # Errors
    /// If the machine's random source fails.
    pub fn generate() -> Result<Self, RandomFailed> {
        Ok(Self(random()?))
    }

    /// The key in a file that only its owner can read, and whether the file was there. A new one is durable before it is used.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else.
    pub fn open_or_create(path: &Path) -> Result<(Self, bool), HookKeyError> {
        match Self::read(path) {
            Err(HookKeyError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.write(path)?;
                Ok((key, false))
            }
            read => Ok((read?, true)),
        }
    }

    /// Reads a small regular file that is its owner's alone, as the authority's keys are read.
    fn read(path: &Path) -> Result<Self, HookKeyError> {
        // Asked before it is opened: to open a pipe would wait for a writer.
        if !fs::metadata(path)?.is_file() {
            return Err(HookKeyError::Malformed);
        }
        let file = fs::File::open(path)?;
        let found = file.metadata()?;
        let mode = found.permissions().mode() & 0o777;
        if mode & GROUP_AND_OTHERS != 0 {
            return Err(HookKeyError::Permissive { mode });
        }
        if found.len() > FILE_BYTES_MAX {
            return Err(HookKeyError::Malformed);
        }
        let mut text = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        let bytes = hex::decode(text.trim_ascii()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| HookKeyError::Malformed)?;
        bytes.as_slice().try_into().map(Self).map_err(|_| HookKeyError::Malformed)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{}", Zeroizing::new(hex::encode(self.0)).as_str())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }

    /// The secret of a hook at a salt.
    #[must_use]
    pub fn secret(&self, hook: HookId, salt: &Digest) -> HookSecret {
        let mut mac = mac(&self.0);
        for part in [PURPOSE, hook.0.as_bytes().as_slice(), salt.0.as_slice()] {
            mac.update(part);
        }
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        HookSecret(Zeroizing::new(format!("{PREFIX}{}", encoded.as_str())))
    }
}

/// A secret that a hook's sender signs with.
pub struct HookSecret(Zeroizing<String>);

impl fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookSecret(redacted)")
    }
}

impl HookSecret {
    /// The text, for whoever is shown it once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the HMAC-SHA256 of these parts, one after another. Takes as long whatever the answer is.
    #[must_use]
    pub fn verifies(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        let mut mac = mac(self.0.as_bytes());
        parts.iter().for_each(|part| mac.update(part));
        mac.verify_slice(signature).is_ok()
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do")
}

/// A new salt.
///
/// # Errors
/// If the machine's random source fails.
pub fn salt() -> Result<Digest, RandomFailed> {
    Ok(Digest(random()?))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const HOOK: HookId = HookId(Uuid::from_u128(7));

    #[test]
    fn a_secret_is_the_same_each_time_and_another_for_each_hook_salt_and_key() {
        let key = HookKey([1; KEY_BYTES]);
        let secret = key.secret(HOOK, &Digest([2; 32]));
        assert_eq!(secret.expose(), key.secret(HOOK, &Digest([2; 32])).expose());
        assert!(secret.expose().starts_with(PREFIX) && secret.expose().len() == PREFIX.len() + 43);
        for other in [
            key.secret(HookId(Uuid::from_u128(8)), &Digest([2; 32])),
            key.secret(HOOK, &Digest([3; 32])),
            HookKey([2; KEY_BYTES]).secret(HOOK, &Digest([2; 32])),
        ] {
            assert_ne!(secret.expose(), other.expose());
        }
        assert!(!format!("{secret:?} {key:?}").contains(secret.expose()));
    }

    #[test]
    fn a_signature_is_that_of_openssl() {
        // By `printf '%s' '{"a":1}' | openssl dgst -sha256 -hmac key`.
        let secret = HookSecret(Zeroizing::new("key".to_owned()));
        let signature =
            hex::decode("88a67f24bbcdaed0e6c997404bb79a743baf44c6bab2f4c27328e3009d22e342").unwrap();
        assert!(secret.verifies(&[br#"{"a":1}"#], &signature));
        assert!(secret.verifies(&[br#"{"a""#, b":1}"], &signature), "parts are one text");
        assert!(!secret.verifies(&[br#"{"a":2}"#], &signature));
        for wrong in [&signature[..31], &[]] {
            assert!(!secret.verifies(&[br#"{"a":1}"#], wrong), "all of it is compared");
        }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hooks.key");
        let (made, was_there) = HookKey::open_or_create(&path).unwrap();
        assert!(!was_there);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (read, was_there) = HookKey::open_or_create(&path).unwrap();
        assert!(was_there && made.0 == read.0);
        for wrong in ["", "00", "zz"] {
            fs::write(&path, wrong).unwrap();
            assert!(matches!(HookKey::open_or_create(&path), Err(HookKeyError::Malformed)), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hooks.key");
        HookKey::open_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = HookKey::open_or_create(&path).unwrap_err();
            assert!(matches!(error, HookKeyError::Permissive { mode: found } if found == mode), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            HookKey::open_or_create(&path).unwrap();
        }
        let error = HookKey::open_or_create(folder.path()).unwrap_err();
        assert!(matches!(error, HookKeyError::Malformed), "{error}");
    }
}
