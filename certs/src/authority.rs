//! The certificate authority: a root that is used once, and an issuing intermediate that signs every day.
//!
//! Two levels, because the root is what agents pin for years and its key can then be taken off the machine: with
//! `root.key` moved away a thief of the disk can issue only until the intermediate is replaced. What is trusted is the
//! root; the intermediate travels in every chain.
//!
//! Files are the store, not the journal: they must be readable before anything else is, and an administrator has to be
//! able to move one of them away with `mv`. Both levels can be replaced while the authority is in use: see [`rotation`].

mod issue;
pub mod rotation;
mod store;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use stella_protocol::digest::Digest;
use time::OffsetDateTime;

pub use issue::{EXTRA_NAMES_MAX, IssuedCertificate, ServerCertificate};

use crate::x509::{self, Malformed, certificate_fingerprint, validity_of_certificate};
use crate::{RandomFailed, csr, random};
use store::{CaKey, Present, Store};

const ROOT_CRT: &str = "root.crt";
const ROOT_KEY: &str = "root.key";
const ISSUING_CRT: &str = "issuing.crt";
const ISSUING_KEY: &str = "issuing.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than most hosts live: replacing a root means reaching every agent.
const ROOT_LIFETIME: Duration = DAY.saturating_mul(20 * 365);
const ISSUING_LIFETIME: Duration = DAY.saturating_mul(10 * 365);
/// Certificates of the authority itself begin this long before they are made, for hosts whose clocks are behind.
const AUTHORITY_BACKDATED: Duration = DAY;
const SERIAL_BYTES: usize = 16;

/// Why the authority cannot be opened or cannot issue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refuses.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key could be read, or the directory changed, by others.
    #[error("{path} has mode {mode:04o}, so others than its owner may use it; run: chmod {wanted} {path}")]
    Permissive {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The argument of `chmod` that mends it.
        wanted: &'static str,
    },
    /// A file is not what its name says.
    #[error("{path} is not {expected}; restore it from a backup (it is never replaced by itself)")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Two files are each fine but do not belong together.
    #[error("{path} does not belong to {other}; restore both from the same backup")]
    Mismatch {
        /// One file.
        path: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// Files are missing that cannot be made again.
    #[error("the certificate authority in {dir} is incomplete: {missing} missing; {remedy}")]
    Incomplete {
        /// The authority's directory.
        dir: PathBuf,
        /// The names of the missing files.
        missing: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process is creating the same authority at this moment.
    #[error(
        "another process is creating the certificate authority in {dir}; start again when it has finished"
    )]
    Busy {
        /// The authority's directory.
        dir: PathBuf,
    },
    /// The root's key is needed and was taken away.
    #[error("{path} is needed for this; put it back, and take it away again afterwards")]
    RootKeyAway {
        /// Where it has to be.
        path: PathBuf,
    },
    /// What is asked for does not fit to where the rotation of the root is.
    #[error("{problem}; {remedy}")]
    NotNow {
        /// Where it is.
        problem: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A certificate of the authority is past its end, so that no peer would accept what it signs.
    #[error(
        "the certificate {path} has expired, by this host's clock: is the clock right? If it is, an issuing certificate is replaced with `stella-orchestrator ca rotate-issuing`, which needs root.key; without that, or for a root, a new authority has to be made"
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
    },
    /// The agent's request is refused.
    #[error(transparent)]
    Request(#[from] csr::Error),
    /// An extra name for the server is neither a DNS name nor an address.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    BadName {
        /// The name, cut short.
        name: String,
    },
    /// There are too many extra names.
    #[error("{count} extra names for the server's certificate; at most {EXTRA_NAMES_MAX} are allowed")]
    TooManyNames {
        /// How many were given.
        count: usize,
    },
    /// The time or the lifetime cannot be written into a certificate.
    #[error("the certificate's time of validity is empty or outside the years 1970 to 9999; check the clock")]
    Time,
    /// Signing failed underneath.
    #[error("cannot make a certificate")]
    Sign {
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
    /// What was just signed cannot be read back.
    #[error(transparent)]
    Unreadable(#[from] Malformed),
    /// The machine's random source failed.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

/// The open authority. It holds the issuing key; the root's key is read only to create, to check and to rotate.
pub struct Authority {
    store: Store,
    held: RwLock<Arc<Held>>,
    /// One change at a time. Whoever issues does not wait for it.
    changing: Mutex<()>,
}

/// What the authority works with; replaced whole.
struct Held {
    /// What the top of the folder has.
    signer: Arc<Signer>,
    rotation: Option<rotation::Held>,
    /// The fingerprints of the trusted roots, in order.
    trusted: Vec<Digest>,
}

/// A root, and the issuing certificate under it with its key.
struct Signer {
    root: CertificateDer<'static>,
    issuing: CertificateDer<'static>,
    issuing_path: PathBuf,
    issuing_not_after: SystemTime,
    issuer: Issuer<'static, CaKey>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("root", &self.root_fingerprint()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `dir`, and creates it if nothing is there. What a crash cut short, a creation or a step of a
    /// rotation, is finished. Otherwise files that exist are never replaced.
    ///
    /// # Errors
    /// As [`Error`] says; each message says what to do.
    pub fn open_or_create(dir: &Path, now: SystemTime) -> Result<Self, Error> {
        let store = Store::open(dir)?;
        rotation::resume(&store)?;
        if !store.present()?.is_complete() {
            let lock = store.lock()?;
            // What another process finished before the lock was ours is kept.
            complete(&store, store.present()?, &Names::first(), now)?;
            drop(lock);
        }
        let held = Held::read(&store, now)?;
        let authority = Self { store, held: RwLock::new(Arc::new(held)), changing: Mutex::new(()) };
        authority.write_bundle()?;
        Ok(authority)
    }

    /// The roots that peers have to trust, DER; the one that certificates are issued under first.
    #[must_use]
    pub fn roots_der(&self) -> Vec<CertificateDer<'static>> {
        self.held().roots()
    }

    /// SHA-256 of the DER of the root that certificates are issued under, for enrolment tokens.
    #[must_use]
    pub fn root_fingerprint(&self) -> Digest {
        certificate_fingerprint(&self.held().active().root)
    }

    /// [`Self::roots_der`] as PEM, for people and for HTTP clients.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        self.roots_der().iter().map(store::certificate_pem).collect()
    }

    /// Whether a root is trusted.
    #[must_use]
    pub fn trusts(&self, root: &Digest) -> bool {
        self.held.read().trusted.contains(root)
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read())
    }
}

impl Held {
    fn read(store: &Store, now: SystemTime) -> Result<Self, Error> {
        let rotation = rotation::load(store, now)?;
        let has_switched = rotation.as_ref().is_some_and(|it| it.phase == rotation::Phase::Switched);
        // What issues nothing any more is only trusted until every agent has left it: its end is no reason to stop.
        let signer = Arc::new(load(store, (!has_switched).then_some(now))?);
        let mut held = Self { signer, rotation, trusted: Vec::new() };
        held.trusted = held.roots().iter().map(certificate_fingerprint).collect();
        held.trusted.sort_unstable();
        Ok(held)
    }

    /// What issues.
    fn active(&self) -> &Arc<Signer> {
        match &self.rotation {
            Some(rotation) if rotation.phase == rotation::Phase::Switched => &rotation.next,
            Some(_) | None => &self.signer,
        }
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let active = self.active();
        let mut roots = vec![active.root.clone()];
        let others = [Some(&self.signer), self.rotation.as_ref().map(|rotation| &rotation.next)];
        let others = others.into_iter().flatten().filter(|other| other.root != active.root);
        roots.extend(others.map(|other| other.root.clone()));
        roots
    }
}

/// What the certificates of an authority are called, for people. A second root has another name than the first, because some
/// programs find issuers by name alone.
struct Names {
    root: String,
    issuing: String,
}

impl Names {
    fn first() -> Self {
        Self { root: "Stella Root CA".to_owned(), issuing: "Stella Issuing CA".to_owned() }
    }
}

/// Makes what is missing, in the order in which a later file proves the earlier ones: root key, root certificate,
/// issuing key, issuing certificate.
fn complete(store: &Store, present: Present, names: &Names, now: SystemTime) -> Result<(), Error> {
    let incomplete =
        |remedy| Error::Incomplete { dir: store.dir().to_owned(), missing: present.missing(), remedy };
    match present {
        _ if present.is_complete() => return Ok(()),
        // The issuing certificate is written last; with it there, something was taken away later.
        Present { issuing_crt: true, .. } => return Err(incomplete("restore the files from a backup")),
        Present { root_key: false, root_crt: false, issuing_key: false, .. } => {
            store.write_key(ROOT_KEY, &CaKey::generate()?)?;
        }
        Present { root_key: false, .. } => {
            return Err(incomplete("put root.key back, which is needed to finish, or restore a backup"));
        }
        Present { root_crt: false, issuing_key: true, .. } => {
            return Err(incomplete("restore root.crt from a backup"));
        }
        Present { .. } => {}
    }
    let root_key = store.read_key(ROOT_KEY)?;
    if !present.root_crt {
        let params = ca_params(&names.root, BasicConstraints::Constrained(1), now, ROOT_LIFETIME)?;
        let root = params.self_signed(&root_key).map_err(|source| Error::Sign { source })?;
        store.write_certificate(ROOT_CRT, root.der())?;
    }
    let root = read_ca(store, ROOT_CRT, Some(now))?;
    require_key(store, &root, ROOT_CRT, &root_key, ROOT_KEY)?;
    if !present.issuing_key {
        store.write_key(ISSUING_KEY, &CaKey::generate()?)?;
    }
    let issuing_key = store.read_key(ISSUING_KEY)?;
    let issuing = sign_issuing(&root, root_key, &names.issuing, &issuing_key, now)?;
    store.write_certificate(ISSUING_CRT, &issuing)
}

/// A certificate that lets `key` issue under a root.
fn sign_issuing(
    root: &CertificateDer<'static>,
    root_key: CaKey,
    name: &str,
    key: &CaKey,
    now: SystemTime,
) -> Result<CertificateDer<'static>, Error> {
    let (_, root_not_after) = validity_of_certificate(root)?;
    let left = root_not_after.duration_since(now).map_err(|_| Error::Time)?;
    let mut params = ca_params(name, BasicConstraints::Constrained(0), now, ISSUING_LIFETIME.min(left))?;
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(root, root_key).map_err(|source| Error::Sign { source })?;
    let issuing = params.signed_by(key, &issuer).map_err(|source| Error::Sign { source })?;
    Ok(issuing.into())
}

/// Reads a complete authority and checks that its files belong together, and that none has ended by `now`, if it is to issue.
fn load(store: &Store, now: Option<SystemTime>) -> Result<Signer, Error> {
    let root = read_ca(store, ROOT_CRT, now)?;
    let issuing = read_ca(store, ISSUING_CRT, now)?;
    let issuing_key = store.read_key(ISSUING_KEY)?;
    require_signed(store, &root, ROOT_CRT, &root, ROOT_CRT)?;
    require_signed(store, &issuing, ISSUING_CRT, &root, ROOT_CRT)?;
    require_key(store, &issuing, ISSUING_CRT, &issuing_key, ISSUING_KEY)?;
    if store.present()?.root_key {
        require_key(store, &root, ROOT_CRT, &store.read_key(ROOT_KEY)?, ROOT_KEY)?;
    }
    let (_, issuing_not_after) =
        validity_of_certificate(&issuing).map_err(|_| store.corrupt(ISSUING_CRT, CA_EXPECTED))?;
    let issuer = Issuer::from_ca_cert_der(&issuing, issuing_key).map_err(|source| Error::Sign { source })?;
    Ok(Signer { root, issuing, issuing_path: store.path(ISSUING_CRT), issuing_not_after, issuer })
}

const CA_EXPECTED: &str = "the certificate of an authority in PEM";

/// Reads the certificate of an authority; one that has ended is refused, unless nobody asks.
fn read_ca(store: &Store, name: &str, now: Option<SystemTime>) -> Result<CertificateDer<'static>, Error> {
    let certificate = store.read_certificate(name)?;
    let corrupt = || store.corrupt(name, CA_EXPECTED);
    if !x509::parse(&certificate).map_err(|_| corrupt())?.is_ca() {
        return Err(corrupt());
    }
    let (_, not_after) = validity_of_certificate(&certificate).map_err(|_| corrupt())?;
    if now.is_some_and(|now| now >= not_after) {
        return Err(Error::Expired { path: store.path(name) });
    }
    Ok(certificate)
}

fn require_signed(
    store: &Store,
    certificate: &CertificateDer<'_>,
    name: &str,
    by: &CertificateDer<'_>,
    by_name: &str,
) -> Result<(), Error> {
    let parsed = x509::parse(certificate).map_err(|_| store.corrupt(name, CA_EXPECTED))?;
    let signer = x509::parse(by).map_err(|_| store.corrupt(by_name, CA_EXPECTED))?;
    if parsed.verify_signature(Some(signer.public_key())).is_ok() {
        Ok(())
    } else {
        Err(Error::Mismatch { path: store.path(name), other: store.path(by_name) })
    }
}

fn require_key(
    store: &Store,
    certificate: &CertificateDer<'_>,
    name: &str,
    key: &CaKey,
    key_name: &str,
) -> Result<(), Error> {
    let parsed = x509::parse(certificate).map_err(|_| store.corrupt(name, CA_EXPECTED))?;
    if parsed.public_key().raw == rcgen::PublicKeyData::subject_public_key_info(key) {
        Ok(())
    } else {
        Err(Error::Mismatch { path: store.path(key_name), other: store.path(name) })
    }
}

fn ca_params(
    common_name: &str,
    constraints: BasicConstraints,
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, Error> {
    let not_before = now.checked_sub(AUTHORITY_BACKDATED).ok_or(Error::Time)?;
    let not_after = now.checked_add(lifetime).ok_or(Error::Time)?;
    let mut params = params(common_name, not_before, not_after)?;
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What every certificate has: a name for people, a time and a random serial number.
fn params(
    common_name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = offset(not_before)?;
    params.not_after = offset(not_after)?;
    params.serial_number = Some(SerialNumber::from(serial()?.to_vec()));
    Ok(params)
}

/// 126 random bits in 16 bytes: positive, and never with a leading zero, so that its hex form has one length.
fn serial() -> Result<[u8; SERIAL_BYTES], RandomFailed> {
    let mut serial: [u8; SERIAL_BYTES] = random()?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn offset(at: SystemTime) -> Result<OffsetDateTime, Error> {
    let unix = at.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| Error::Time)?;
    let unix_s = i64::try_from(unix.as_secs()).map_err(|_| Error::Time)?;
    OffsetDateTime::from_unix_timestamp(unix_s).map_err(|_| Error::Time)
}
