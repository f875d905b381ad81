//! The authority's files. A file appears whole or not at all, and keys are readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::{Error, ISSUING_CRT, ISSUING_KEY, ROOT_CRT, ROOT_KEY};

const DIR_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
const GROUP_AND_OTHERS: u32 = 0o077;
const WRITE_BY_GROUP_AND_OTHERS: u32 = 0o022;
const MODE_BITS: u32 = 0o7777;
/// The largest file that is read, in bytes; an honest one has about a thousand.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A key of the authority; wiped when it is dropped.
pub(super) struct CaKey(KeyPair);

impl CaKey {
    pub(super) fn generate() -> Result<Self, Error> {
        KeyPair::generate().map(Self).map_err(|source| Error::Sign { source })
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// Which files are there.
#[derive(Clone, Copy)]
pub(super) struct Present {
    pub(super) root_crt: bool,
    pub(super) root_key: bool,
    pub(super) issuing_crt: bool,
    pub(super) issuing_key: bool,
}

impl Present {
    /// Whether everything is there that issuing needs; the root's key may be elsewhere.
    pub(super) const fn is_complete(self) -> bool {
        self.root_crt && self.issuing_crt && self.issuing_key
    }

    pub(super) fn missing(self) -> String {
        let files = [
            (ROOT_CRT, self.root_crt),
            (ROOT_KEY, self.root_key),
            (ISSUING_CRT, self.issuing_crt),
            (ISSUING_KEY, self.issuing_key),
        ];
        let missing: Vec<_> = files.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
        missing.join(", ")
    }
}

/// The authority's directory.
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.try_exists().map_err(io_error("look for", dir))? {
            DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(io_error("create", dir))?;
            // The directory's own entry has to survive a power loss as the files in it do.
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
        }
        let mode = mode_of(&fs::metadata(dir).map_err(io_error("inspect", dir))?);
        // Whoever may write here may put a root of their own in place. Reading the certificates does no harm.
        if mode & WRITE_BY_GROUP_AND_OTHERS != 0 {
            return Err(Error::Permissive { path: dir.to_owned(), mode, wanted: "go-w" });
        }
        Ok(Self { dir: dir.to_owned() })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn corrupt(&self, name: &str, expected: &'static str) -> Error {
        Error::Corrupt { path: self.path(name), expected }
    }

    pub(super) fn present(&self) -> Result<Present, Error> {
        Ok(Present {
            root_crt: self.has(ROOT_CRT)?,
            root_key: self.has(ROOT_KEY)?,
            issuing_crt: self.has(ISSUING_CRT)?,
            issuing_key: self.has(ISSUING_KEY)?,
        })
    }

    /// Whether a file or folder is there.
    pub(super) fn has(&self, name: &str) -> Result<bool, Error> {
        let path = self.path(name);
        path.try_exists().map_err(io_error("look for", &path))
    }

    /// A folder below, as a store of its own; made if it is not there.
    pub(super) fn below(&self, name: &str) -> Result<Self, Error> {
        Self::open(&self.path(name))
    }

    /// Puts a file of another store in the place of this one's.
    pub(super) fn take_over(&self, name: &str, from: &Self) -> Result<(), Error> {
        let (old, path) = (from.path(name), self.path(name));
        fs::rename(&old, &path).map_err(io_error("put in place", &path))?;
        sync_dir(&self.dir)
    }

    /// Takes a file away, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        gone(fs::remove_file(&path)).map_err(io_error("remove", &path))?;
        sync_dir(&self.dir)
    }

    /// Takes a folder below away with what is in it, if it is there.
    pub(super) fn remove_below(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        gone(fs::remove_dir_all(&path)).map_err(io_error("remove", &path))?;
        sync_dir(&self.dir)
    }

    /// Keeps other processes from creating at the same time, until the returned file is dropped.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let dir = File::open(&self.dir).map_err(io_error("open", &self.dir))?;
        match dir.try_lock() {
            Ok(()) => Ok(dir),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { dir: self.dir.clone() }),
            Err(TryLockError::Error(source)) => Err(io_error("lock", &self.dir)(source)),
        }
    }

    pub(super) fn read_certificate(&self, name: &str) -> Result<CertificateDer<'static>, Error> {
        let pem = self.read(name, MODE_BITS)?;
        let mut found = CertificateDer::pem_slice_iter(&pem);
        match (found.next(), found.next()) {
            (Some(Ok(certificate)), None) => Ok(certificate),
            _ => Err(self.corrupt(name, "one certificate in PEM")),
        }
    }

    pub(super) fn read_key(&self, name: &str) -> Result<CaKey, Error> {
        let pem = self.read(name, !GROUP_AND_OTHERS)?;
        let corrupt = || self.corrupt(name, "one private key in PEM (PKCS #8)");
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| corrupt())?;
        let key = KeyPair::try_from(&der).map(CaKey).map_err(|_| corrupt());
        der.zeroize();
        key
    }

    pub(super) fn write_certificate(
        &self,
        name: &str,
        certificate: &CertificateDer<'_>,
    ) -> Result<(), Error> {
        self.write(name, certificate_pem(certificate).as_bytes(), CERTIFICATE_MODE)
    }

    pub(super) fn write_text(&self, name: &str, text: &str) -> Result<(), Error> {
        self.write(name, text.as_bytes(), CERTIFICATE_MODE)
    }

    /// What a text file says; `None` if it is not there.
    pub(super) fn read_text(&self, name: &str, expected: &'static str) -> Result<Option<String>, Error> {
        if !self.has(name)? {
            return Ok(None);
        }
        let bytes = self.read(name, MODE_BITS)?;
        String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| self.corrupt(name, expected))
    }

    pub(super) fn write_key(&self, name: &str, key: &CaKey) -> Result<(), Error> {
        self.write(name, Zeroizing::new(key.0.serialize_pem()).as_bytes(), KEY_MODE)
    }

    /// Reads a small regular file that has no permission bits outside `allowed`.
    fn read(&self, name: &str, allowed: u32) -> Result<Zeroizing<Vec<u8>>, Error> {
        let path = self.path(name);
        // Asked before it is opened: to open a pipe would wait for a writer.
        let not_a_file = || self.corrupt(name, "a small regular file");
        if !fs::metadata(&path).map_err(io_error("inspect", &path))?.is_file() {
            return Err(not_a_file());
        }
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let metadata = file.metadata().map_err(io_error("inspect", &path))?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(not_a_file());
        }
        let mode = mode_of(&metadata);
        if mode & !allowed != 0 {
            return Err(Error::Permissive { path, mode, wanted: "600" });
        }
        let mut contents = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX).read_to_end(&mut contents).map_err(io_error("read", &path))?;
        Ok(contents)
    }

    /// Puts a file in place: written and durable under another name first, so that a crash leaves all or nothing.
    /// Callers hold the lock, and have seen that no key and no certificate of the name exists.
    fn write(&self, name: &str, contents: &[u8], mode: u32) -> Result<(), Error> {
        let path = self.path(name);
        let temporary = self.path(&format!(".{name}.new"));
        gone(fs::remove_file(&temporary)).map_err(io_error("remove", &temporary))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(io_error("create", &temporary))?;
        file.write_all(contents).map_err(io_error("write", &temporary))?;
        file.sync_all().map_err(io_error("make durable", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("put in place", &path))?;
        sync_dir(&self.dir)
    }
}

/// A certificate in PEM.
pub(super) fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.as_ref()), config)
}

/// What is not there need not be removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|opened| opened.sync_all()).map_err(io_error("make durable", dir))
}

fn mode_of(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & MODE_BITS
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
