//! Who this agent is: its key, its certificate, the roots that it trusts, and where its control plane is.
//!
//! One file holds all of it, mode 0600, replaced by a rename: a crash leaves the old identity or the new one, never a key
//! with another key's certificate.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stella_certs::{CertificateDer, PeerIdentity, PrivateKey, tls, validity_of_certificate};
use stella_doctor::{open_configured, read_all};
use stella_protocol::id::{AgentId, TenantId};
use zeroize::{Zeroize, Zeroizing};

/// The identity's file in a state folder.
pub(crate) const FILE: &str = "identity.json";
const VERSION: u32 = 1;
/// More is no identity.
const BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent has not been enrolled.
    #[error("this agent is not enrolled ({} is not there); run `stella-agent enrol --token <token> --server <host:port>` first", path.display())]
    Missing {
        /// The identity's file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("the identity in {} is damaged: {what}; enrol again with `stella-agent enrol --force`", path.display())]
    Damaged {
        /// The identity's file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A certificate that is not this agent's.
    #[error("the certificate is not usable: {0}")]
    Certificate(String),
}

/// An enrolled agent's identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub agent: AgentId,
    /// The control plane that it was enrolled with, `host:port`.
    pub server: String,
    /// The leaf and its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that it trusts.
    pub roots: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: PrivateKey,
    /// Whether what its token is for was kept in a file beside it, so that one that is not there was lost. Not so for those of before it was.
    pub has_profile: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    tenant: TenantId,
    agent: AgentId,
    server: String,
    chain_der: Vec<String>,
    roots_der: Vec<String>,
    key_pkcs8_der: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_profile: bool,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        self.key_pkcs8_der.zeroize();
    }
}

impl Identity {
    /// Puts an identity together and checks that its parts belong together: key and leaf, and the names in the leaf.
    ///
    /// # Errors
    /// [`Error::Certificate`] if they do not.
    pub fn new(
        server: String,
        chain_der: &[Vec<u8>],
        roots_der: &[Vec<u8>],
        key: PrivateKey,
    ) -> Result<Self, Error> {
        let certificates =
            |ders: &[Vec<u8>]| ders.iter().cloned().map(CertificateDer::from).collect::<Vec<_>>();
        let (chain, roots) = (certificates(chain_der), certificates(roots_der));
        let refused = |error: &dyn std::error::Error| Error::Certificate(crate::executor::reason_of(error));
        let leaf = chain.first().ok_or_else(|| Error::Certificate("there is none".to_owned()))?;
        let named = PeerIdentity::from_certificate(leaf).map_err(|error| refused(&error))?;
        let PeerIdentity::Agent { tenant, agent } = named else {
            return Err(Error::Certificate("it is the control plane's".to_owned()));
        };
        validity_of_certificate(leaf).map_err(|error| refused(&error))?;
        tls::quic_agent_client(chain.clone(), &key, &roots).map_err(|error| refused(&error))?;
        Ok(Self { tenant, agent, server, chain, roots, key, has_profile: false })
    }

    /// The same agent with a renewed certificate.
    ///
    /// # Errors
    /// [`Error::Certificate`] if it is another agent's, or not for this key.
    pub fn renewed(
        &self,
        chain_der: &[Vec<u8>],
        roots_der: &[Vec<u8>],
        key: PrivateKey,
    ) -> Result<Self, Error> {
        let renewed = Self::new(self.server.clone(), chain_der, roots_der, key)?;
        if (renewed.tenant, renewed.agent) != (self.tenant, self.agent) {
            return Err(Error::Certificate("it names another agent".to_owned()));
        }
        Ok(Self { has_profile: self.has_profile, ..renewed })
    }

    /// The same identity with other roots to trust.
    ///
    /// # Errors
    /// [`Error::Certificate`] if there is none, or one that is no root.
    pub fn trusting(&self, roots_der: &[Vec<u8>]) -> Result<Self, Error> {
        let chain: Vec<_> = self.chain.iter().map(|certificate| certificate.to_vec()).collect();
        let trusting = Self::new(self.server.clone(), &chain, roots_der, self.key.clone())?;
        Ok(Self { has_profile: self.has_profile, ..trusting })
    }

    /// From when until when the certificate is valid.
    #[must_use]
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        self.chain
            .first()
            .and_then(|leaf| validity_of_certificate(leaf).ok())
            .expect("an identity has a leaf whose validity was read when it was made")
    }

    /// Whether there is an identity in a state folder.
    #[must_use]
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(FILE).exists()
    }

    /// Reads the identity of a state folder. Blocks on the disk.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn load(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join(FILE);
        let read = open_configured(&path).and_then(|file| read_all(file, BYTES_MAX));
        let bytes = match read {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { path }),
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        };
        let damaged = |what: String| Error::Damaged { path: path.clone(), what };
        // The parser's message may quote the file, and with it the key.
        let on_disk: OnDisk =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("at line {}", error.line())))?;
        if on_disk.version != VERSION {
            return Err(damaged(format!("it has the unknown version {}", on_disk.version)));
        }
        let from_hex =
            |text: &String| hex::decode(text).map_err(|_| damaged("it is not hexadecimal".to_owned()));
        let chain = on_disk.chain_der.iter().map(from_hex).collect::<Result<Vec<_>, _>>()?;
        let roots = on_disk.roots_der.iter().map(from_hex).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKey::from_pkcs8_der(from_hex(&on_disk.key_pkcs8_der)?);
        let identity = Self::new(on_disk.server.clone(), &chain, &roots, key);
        let identity = identity.map_err(|error| damaged(error.to_string()))?;
        if (identity.tenant, identity.agent) != (on_disk.tenant, on_disk.agent) {
            return Err(damaged("the certificate names another agent".to_owned()));
        }
        Ok(Self { has_profile: on_disk.has_profile, ..identity })
    }

    /// Writes the identity into a state folder, in one step. Blocks on the disk.
    ///
    /// # Errors
    /// If it cannot be written; the one before is still there.
    pub fn save(&self, state_dir: &Path) -> Result<(), Error> {
        let to_hex = |ders: &[CertificateDer<'_>]| ders.iter().map(hex::encode).collect::<Vec<_>>();
        let on_disk = OnDisk {
            version: VERSION,
            tenant: self.tenant,
            agent: self.agent,
            server: self.server.clone(),
            chain_der: to_hex(&self.chain),
            roots_der: to_hex(&self.roots),
            key_pkcs8_der: hex::encode(self.key.secret_pkcs8_der()),
            has_profile: self.has_profile,
        };
        let bytes = serde_json::to_vec_pretty(&on_disk).expect("strings and numbers always become JSON");
        write_private(&state_dir.join(FILE), &Zeroizing::new(bytes))
    }
}

/// Makes the state folder, for this user alone.
///
/// # Errors
/// If it cannot be made.
pub fn create_state_dir(state_dir: &Path) -> Result<(), Error> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    created.map_err(|source| Error::Io { action: "create", path: state_dir.to_owned(), source })
}

/// Replaces a file in one step and makes that durable; only this user can read it.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || {
        // One that a crash left may have other rights.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}
