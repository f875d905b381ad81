//! Replacing the two levels of the authority while it is in use.
//!
//! The issuing certificate is replaced in one step: whoever trusts the root trusts the new one.
//!
//! A root is replaced in steps, because agents have to learn to trust the new one, and some of them are away:
//!
//! | step | trusted | issues | a peer that knows only the old root |
//! |---|---|---|---|
//! | start | both | the old | is told of the new one in its session |
//! | switch | both | the new | still gets in and is told: the new issuing key is certified by the old root as well |
//! | finish | the new | the new | is left behind and has to enrol again |
//!
//! The cross-certificate is for the issuing key and not for the new root: the old root allows one intermediate below it, and
//! programs that check this of roots too would refuse two.
//!
//! The new files are in the folder `next`, and the file `rotation` says how far it is. Each step is one durable write of that
//! file; what follows from it is done again by `resume` if a crash cut it short. A step that was done already is no error.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use stella_protocol::digest::Digest;

use super::store::{CaKey, Store};
use super::{
    Authority, Error, ISSUING_CRT, ISSUING_KEY, Names, ROOT_CRT, ROOT_KEY, Signer, complete, read_ca,
    require_key, require_signed, sign_issuing,
};
use crate::random;
use crate::x509::{certificate_fingerprint, parse, validity_of_certificate};

/// The roots to trust, in PEM: what HTTP clients are given.
const BUNDLE: &str = "roots.crt";
/// How far the rotation of the root is.
const ROTATION: &str = "rotation";
/// The folder of the new root.
const NEXT: &str = "next";
/// The new issuing key, certified by the old root.
const CROSS_CRT: &str = "cross.crt";
/// The folder of a new issuing certificate under the same root.
const NEXT_ISSUING: &str = "next-issuing";
/// What the file says while the new files are being put in the place of the old ones.
const FINISHING: &str = "finishing";
const ROTATION_EXPECTED: &str = "the word distributing, switched or finishing";

/// How far the rotation of the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The new root is there and is to be trusted. Everything is still issued under the old one.
    Distributing,
    /// Everything is issued under the new root. The old one is still trusted.
    Switched,
}

impl Phase {
    /// The word for it, on the disk and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Distributing => "distributing",
            Self::Switched => "switched",
        }
    }
}

/// A rotation that is under way.
pub(super) struct Held {
    pub(super) phase: Phase,
    pub(super) next: Arc<Signer>,
    cross: CertificateDer<'static>,
}

/// What the authority is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What certificates are issued under.
    pub active: Pair,
    /// How far the rotation of the root is; `None` if there is none.
    pub phase: Option<Phase>,
    /// The other root and what is under it, while there is one.
    pub other: Option<Pair>,
    /// The fingerprints of the roots that are trusted, in order.
    pub trusted: Vec<Digest>,
}

/// A root and the issuing certificate under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// SHA-256 of the root's DER.
    pub root: Digest,
    /// When it ends.
    pub root_not_after: SystemTime,
    /// SHA-256 of the issuing certificate's DER.
    pub issuing: Digest,
    /// When it ends.
    pub issuing_not_after: SystemTime,
}

/// How many certificates of a chain are looked at: an honest one has three, and each is compared with each.
const CHAIN_MAX: usize = 8;

impl super::Held {
    /// The certificate by which who trusts only the old root finds its way, while that is needed.
    pub(super) fn cross(&self) -> Option<&CertificateDer<'static>> {
        self.rotation.as_ref().filter(|rotation| rotation.phase == Phase::Switched).map(|it| &it.cross)
    }
}

impl Authority {
    /// What it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        let held = self.held();
        let pair = |signer: &Signer| {
            // They were read when they were loaded.
            let (_, root_not_after) =
                validity_of_certificate(&signer.root).expect("a certificate that was read before");
            Pair {
                root: certificate_fingerprint(&signer.root),
                root_not_after,
                issuing: certificate_fingerprint(&signer.issuing),
                issuing_not_after: signer.issuing_not_after,
            }
        };
        let active = held.active();
        let other = held.rotation.as_ref().map(|rotation| match rotation.phase {
            Phase::Distributing => pair(&rotation.next),
            Phase::Switched => pair(&held.signer),
        });
        let phase = held.rotation.as_ref().map(|it| it.phase);
        Status { active: pair(active), phase, other, trusted: held.trusted.clone() }
    }

    /// Which of the trusted roots the first certificate of a chain leads to, where TLS has accepted it. TLS may have done so by roots
    /// that are trusted no more by now, so that one root alone needs a look as well. Certificates that are in the chain and on no way
    /// from the first one count for nothing: anybody can add those of others.
    #[must_use]
    pub fn root_of(&self, chain: &[CertificateDer<'_>]) -> Option<Digest> {
        let held = self.held();
        let (mut on_the_way, others) = (vec![chain.first()?], &chain[1..chain.len().min(CHAIN_MAX)]);
        let mut looked_at = 0;
        while let Some(certificate) = on_the_way.get(looked_at).copied() {
            let issuers =
                others.iter().filter(|it| !on_the_way.contains(it) && is_signed_by(certificate, it));
            on_the_way.extend(issuers.collect::<Vec<_>>());
            looked_at += 1;
        }
        let leads = |root: &&CertificateDer<'_>| on_the_way.iter().any(|it| is_signed_by(it, root));
        held.roots().iter().find(leads).map(certificate_fingerprint)
    }

    /// Replaces the issuing certificate and its key by new ones under the same root.
    ///
    /// # Errors
    /// [`Error::RootKeyAway`] without the root's key, [`Error::NotNow`] during a rotation of the root, which replaces it
    /// anyway; otherwise as [`Error`] says.
    pub fn rotate_issuing(&self, now: SystemTime) -> Result<(), Error> {
        let _one = self.changing.lock();
        let held = self.held();
        if held.rotation.is_some() {
            return Err(ROTATED_ANYWAY);
        }
        let lock = self.store.lock()?;
        replace_issuing(&self.store, &held.signer.root, now)?;
        drop(lock);
        self.reload(now)
    }

    /// Opens the authority in `dir`, which nobody has open, and replaces its issuing certificate. This is the way to one whose issuing
    /// certificate has ended: [`Self::open_or_create`] refuses it.
    ///
    /// # Errors
    /// As [`Self::rotate_issuing`]; before the switch to a new root, a rotation of the root is in nobody's way.
    pub fn open_with_new_issuing(dir: &Path, now: SystemTime) -> Result<Self, Error> {
        let store = Store::open(dir)?;
        resume(&store)?;
        if phase(&store)? == Some(Phase::Switched) {
            return Err(ROTATED_ANYWAY);
        }
        let lock = store.lock()?;
        replace_issuing(&store, &read_ca(&store, ROOT_CRT, Some(now))?, now)?;
        drop(lock);
        Self::open_or_create(dir, now)
    }

    /// Makes a new root, to be trusted beside the old one.
    ///
    /// # Errors
    /// [`Error::RootKeyAway`] without the old root's key, which has to certify the new issuing key, [`Error::NotNow`] if
    /// everything is issued under the new root already; otherwise as [`Error`] says.
    pub fn start_rotation(&self, now: SystemTime) -> Result<(), Error> {
        let _one = self.changing.lock();
        let held = self.held();
        match held.rotation.as_ref().map(|rotation| rotation.phase) {
            None => {}
            Some(Phase::Distributing) => return Ok(()),
            Some(Phase::Switched) => {
                return Err(Error::NotNow {
                    problem: "the control plane has switched to a new root already",
                    remedy: "finish that rotation before you start another",
                });
            }
        }
        let lock = self.store.lock()?;
        let old_key = root_key(&self.store)?;
        let next = self.store.below(NEXT)?;
        // A start that was cut short goes on with the files that it left.
        complete(&next, next.present()?, &Names::another()?, now)?;
        let new = super::load(&next, Some(now))?;
        if !next.has(CROSS_CRT)? {
            let key = next.read_key(ISSUING_KEY)?;
            let name = common_name(&new.issuing)?;
            next.write_certificate(CROSS_CRT, &sign_issuing(&held.signer.root, old_key, &name, &key, now)?)?;
        }
        self.store.write_text(ROTATION, &format!("{}\n", Phase::Distributing.name()))?;
        drop(lock);
        self.reload(now)
    }

    /// Issues everything under the new root from now on. Both are trusted.
    ///
    /// # Errors
    /// [`Error::NotNow`] if no rotation was started; otherwise as [`Error`] says.
    pub fn switch_root(&self, now: SystemTime) -> Result<(), Error> {
        let _one = self.changing.lock();
        match self.held().rotation.as_ref().map(|rotation| rotation.phase) {
            None => return Err(NOT_STARTED),
            Some(Phase::Switched) => return Ok(()),
            Some(Phase::Distributing) => {}
        }
        let lock = self.store.lock()?;
        // One that has ended since it was made would keep the control plane from starting.
        super::load(&self.store.below(NEXT)?, Some(now))?;
        self.store.write_text(ROTATION, &format!("{}\n", Phase::Switched.name()))?;
        drop(lock);
        self.reload(now)
    }

    /// Trusts the old root no more, and destroys its keys that are here.
    ///
    /// # Errors
    /// [`Error::NotNow`] if there was no switch to a new root; otherwise as [`Error`] says.
    pub fn finish_rotation(&self, now: SystemTime) -> Result<(), Error> {
        let _one = self.changing.lock();
        match self.held().rotation.as_ref().map(|rotation| rotation.phase) {
            None => return Err(NOT_STARTED),
            Some(Phase::Distributing) => {
                return Err(Error::NotNow {
                    problem: "the new root is not in use yet",
                    remedy: "switch to it first",
                });
            }
            Some(Phase::Switched) => {}
        }
        let lock = self.store.lock()?;
        self.store.write_text(ROTATION, &format!("{FINISHING}\n"))?;
        finish_root(&self.store)?;
        drop(lock);
        self.reload(now)
    }

    /// Gives a new root up that is not in use yet.
    ///
    /// # Errors
    /// [`Error::NotNow`] after the switch to it: what it has certified by then needs it. Otherwise as [`Error`] says.
    pub fn cancel_rotation(&self, now: SystemTime) -> Result<(), Error> {
        let _one = self.changing.lock();
        match self.held().rotation.as_ref().map(|rotation| rotation.phase) {
            None => return Ok(()),
            Some(Phase::Distributing) => {}
            Some(Phase::Switched) => {
                return Err(Error::NotNow {
                    problem: "the new root is in use, and agents have certificates of it",
                    remedy: "finish the rotation, and start another if this root is not wanted",
                });
            }
        }
        let lock = self.store.lock()?;
        self.store.remove(ROTATION)?;
        self.store.remove_below(NEXT)?;
        drop(lock);
        self.reload(now)
    }

    /// Takes over what is on the disk now.
    fn reload(&self, now: SystemTime) -> Result<(), Error> {
        let held = super::Held::read(&self.store, now)?;
        *self.held.write() = Arc::new(held);
        self.write_bundle()
    }

    pub(super) fn write_bundle(&self) -> Result<(), Error> {
        let wanted = self.roots_pem();
        let there = self.store.read_text(BUNDLE, "certificates in PEM")?;
        if there.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.store.write_text(BUNDLE, &wanted)
    }
}

const NOT_STARTED: Error =
    Error::NotNow { problem: "no rotation of the root is under way", remedy: "start one first" };

const ROTATED_ANYWAY: Error = Error::NotNow {
    problem: "the root is being rotated, and the issuing certificate with it",
    remedy: "finish or cancel that first",
};

impl Names {
    /// Names that no other authority of this installation has.
    fn another() -> Result<Self, Error> {
        let number = hex::encode(random::<4>()?);
        Ok(Self { root: format!("Stella Root CA {number}"), issuing: format!("Stella Issuing CA {number}") })
    }
}

/// Reads the rotation that is under way.
pub(super) fn load(store: &Store, now: SystemTime) -> Result<Option<Held>, Error> {
    let Some(phase) = phase(store)? else { return Ok(None) };
    let below = store.below(NEXT)?;
    // The one that issues is not let through when it has ended; what is not in use yet, or any more, keeps nothing from working.
    let next = super::load(&below, (phase == Phase::Switched).then_some(now))?;
    let cross = read_ca(&below, CROSS_CRT, None)?;
    require_key(&below, &cross, CROSS_CRT, &below.read_key(ISSUING_KEY)?, ISSUING_KEY)?;
    require_signed(&below, &cross, CROSS_CRT, &store.read_certificate(ROOT_CRT)?, ROOT_CRT)?;
    Ok(Some(Held { phase, next: Arc::new(next), cross }))
}

fn phase(store: &Store) -> Result<Option<Phase>, Error> {
    match store.read_text(ROTATION, ROTATION_EXPECTED)?.as_deref().map(str::trim_ascii) {
        None => Ok(None),
        Some("distributing") => Ok(Some(Phase::Distributing)),
        Some("switched") => Ok(Some(Phase::Switched)),
        Some(_) => Err(store.corrupt(ROTATION, ROTATION_EXPECTED)),
    }
}

/// Finishes what a crash cut short. A new root of which nothing says that it was started is left for the next start.
pub(super) fn resume(store: &Store) -> Result<(), Error> {
    let is_finishing =
        store.read_text(ROTATION, ROTATION_EXPECTED)?.is_some_and(|phase| phase.trim_ascii() == FINISHING);
    if !is_finishing && !store.has(NEXT_ISSUING)? {
        return Ok(());
    }
    let _lock = store.lock()?;
    if is_finishing {
        finish_root(store)?;
    }
    finish_issuing(store)
}

/// Makes a new issuing pair under a root and puts it in place. The caller has the lock.
fn replace_issuing(store: &Store, root: &CertificateDer<'static>, now: SystemTime) -> Result<(), Error> {
    let root_key = root_key(store)?;
    require_key(store, root, ROOT_CRT, &root_key, ROOT_KEY)?;
    store.remove_below(NEXT_ISSUING)?;
    let next = store.below(NEXT_ISSUING)?;
    let key = CaKey::generate()?;
    next.write_key(ISSUING_KEY, &key)?;
    let issuing = sign_issuing(root, root_key, &Names::another()?.issuing, &key, now)?;
    // With it the new pair is complete, and only goes on from here.
    next.write_certificate(ISSUING_CRT, &issuing)?;
    finish_issuing(store)
}

/// Puts a complete new issuing pair in place; one that is not complete is nothing.
fn finish_issuing(store: &Store) -> Result<(), Error> {
    if !store.has(NEXT_ISSUING)? {
        return Ok(());
    }
    let next = store.below(NEXT_ISSUING)?;
    if next.has(ISSUING_CRT)? {
        // Without the key here, it is in its place already.
        if next.has(ISSUING_KEY)? {
            store.take_over(ISSUING_KEY, &next)?;
        }
        store.take_over(ISSUING_CRT, &next)?;
    }
    store.remove_below(NEXT_ISSUING)
}

/// Puts the new root's files in the place of the old one's, certificates after their keys.
fn finish_root(store: &Store) -> Result<(), Error> {
    if store.has(NEXT)? {
        let next = store.below(NEXT)?;
        if next.has(ROOT_CRT)? {
            take_root_key(store, &next)?;
            store.take_over(ROOT_CRT, &next)?;
        }
        if next.has(ISSUING_KEY)? {
            store.take_over(ISSUING_KEY, &next)?;
        }
        if next.has(ISSUING_CRT)? {
            store.take_over(ISSUING_CRT, &next)?;
        }
        store.remove_below(NEXT)?;
    }
    store.remove(ROTATION)
}

/// The new root's key may have been taken away; the old one must not stay in its place then.
fn take_root_key(store: &Store, next: &Store) -> Result<(), Error> {
    if next.has(ROOT_KEY)? {
        return store.take_over(ROOT_KEY, next);
    }
    if !store.has(ROOT_KEY)? {
        return Ok(());
    }
    let root = next.read_certificate(ROOT_CRT)?;
    // A crash may have come after the new one was put here.
    if require_key(next, &root, ROOT_CRT, &store.read_key(ROOT_KEY)?, ROOT_KEY).is_ok() {
        return Ok(());
    }
    store.remove(ROOT_KEY)
}

fn root_key(store: &Store) -> Result<CaKey, Error> {
    if store.has(ROOT_KEY)? {
        store.read_key(ROOT_KEY)
    } else {
        Err(Error::RootKeyAway { path: store.path(ROOT_KEY) })
    }
}

fn is_signed_by(certificate: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    match (parse(certificate), parse(root)) {
        (Ok(certificate), Ok(root)) => certificate.verify_signature(Some(root.public_key())).is_ok(),
        _ => false,
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let parsed = parse(certificate)?;
    let name = parsed.subject().iter_common_name().find_map(|name| name.as_str().ok());
    name.map(str::to_owned).ok_or(Error::Unreadable(crate::Malformed))
}
