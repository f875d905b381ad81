//! Enrolment: a host without an identity becomes an agent.
//!
//! The key is made here and is on disk **before** it is sent: the control plane gives the same identity to the same token
//! and key, so a reply that was lost burns nothing, even if this process died. The token pins the root, so the host knows
//! whom it talks to before it trusts anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use serde::{Deserialize, Serialize};
use stella_certs::{EnrolmentToken, PrivateKey, certificate_fingerprint, csr};
use stella_protocol::frame::{self, FrameError, HEADER_BYTES};
use stella_protocol::id::EnrolmentTokenId;
use stella_protocol::limits::{FRAME_BYTES_MAX, NAME_BYTES_MAX};
use stella_protocol::message::{EnrolRequest, EnrolRequestFor, EnrolResponse, Profile};
use stella_protocol::version::ALPN_ENROL_3;
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

use crate::identity::{self, Identity, write_private};
use crate::journal::{self, Journal};
use crate::profile;
use crate::session::{ConnectError, Link, dial_enrolment};

/// How long the control plane may take to answer.
const ANSWER_DURATION_MAX: Duration = Duration::from_secs(30);

/// A key that waits for its certificate, in a state folder.
pub(crate) const PENDING_FILE: &str = "enrolling.json";

/// Where the journal is in a state folder.
pub(crate) const JOURNAL_DIR: &str = "journal";

/// Why a host was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The key.
    #[error("cannot make a key")]
    Key(#[source] csr::Error),
    /// No connection, or the server is not the one that the token names.
    #[error("cannot reach the control plane; if it is there, this token may be another control plane's")]
    Connect(#[source] ConnectError),
    /// The connection broke off.
    #[error("the control plane did not answer; run the same command again, the token is not burnt")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not understood.
    #[error("the control plane's answer is not understood; do its version and this one fit?")]
    Frame(#[source] FrameError),
    /// It said no.
    #[error("the control plane refuses: {reason}")]
    Refused {
        /// For a person.
        reason: String,
    },
    /// The token is for more or for less than was asked for here. This host may use it again; for others this use is gone.
    #[error("the token is for {}, and {} was asked for; this host is not enrolled. Run it again with --profile {}: this host's use of the token is kept for it", granted.name(), wanted.name(), granted.name())]
    OtherProfile {
        /// What was asked for.
        wanted: Profile,
        /// What the token says.
        granted: Profile,
    },
    /// It was enrolled for something else before.
    #[error("this host is enrolled as {} already, and {} was asked for; nothing was changed (--force makes a new identity)", enrolled.name(), wanted.name())]
    EnrolledFor {
        /// What was asked for.
        wanted: Profile,
        /// What it is enrolled for.
        enrolled: Profile,
    },
    /// The answer does not have the token's root.
    #[error("the control plane's answer does not have the root that the token names; nothing was kept")]
    WrongRoot,
    /// The old identity's journal cannot be set aside.
    #[error("the old identity's journal cannot be set aside; stop the agent first")]
    Journal(#[source] journal::Error),
    /// The same, by the file system.
    #[error("{} cannot be set aside", path.display())]
    SetAside {
        /// The journal.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What to enrol with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The one-time token.
    pub token: EnrolmentToken,
    /// `host:port` of the control plane.
    pub server: String,
    /// Where the identity goes.
    pub state_dir: PathBuf,
    /// What the token has to be for, if it says; `None` takes whatever it is for.
    pub profile: Option<Profile>,
    /// Whether an identity that is there is replaced. Its journal is set aside: its results are another agent's.
    pub force: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Enrolled {
    /// A new identity is there, for this much if its token says.
    New(Identity, Option<Profile>),
    /// There was one already, and nothing was changed.
    Already(Identity),
}

/// Enrols this host.
///
/// # Errors
/// As [`Error`] says. Trying again with the same token is always safe.
pub async fn enrol(options: &Options) -> Result<Enrolled, Error> {
    identity::create_state_dir(&options.state_dir)?;
    let old = match Identity::load(&options.state_dir) {
        Ok(identity) if !options.force => return already(options, identity),
        Ok(identity) => Some(identity.agent),
        Err(identity::Error::Missing { .. }) => None,
        Err(identity::Error::Damaged { .. }) if options.force => None,
        Err(error) => return Err(error.into()),
    };
    let key = pending_key(&options.state_dir, options.token.id)?;
    let request = EnrolRequest {
        token: options.token.id,
        secret: options.token.secret,
        csr_der: csr::request_for_key(&key).map_err(Error::Key)?,
        hostname: hostname(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let connected = dial_enrolment(&options.server, options.token.root).await.map_err(Error::Connect)?;
    let answer = ask(&connected.connection, options.profile, request).await;
    connected.close(stella_protocol::close::CloseCode::Normal).await;
    let granted = answer?.into_granted().map_err(|reason| Error::Refused { reason })?;
    let mut identity = Identity::new(options.server.clone(), &granted.chain_der, &granted.roots_der, key)?;
    if !identity.roots.iter().any(|root| certificate_fingerprint(root) == options.token.root) {
        return Err(Error::WrongRoot);
    }
    let profile = granted.profile;
    // A control plane that is told refuses it itself; one of before that is not. Older tokens and control planes say nothing, and such a
    // host is held to nothing.
    if let Some((wanted, granted)) =
        options.profile.zip(profile).filter(|(wanted, granted)| wanted != granted)
    {
        return Err(Error::OtherProfile { wanted, granted });
    }
    match old {
        Some(old) if old != identity.agent => set_journal_aside(&options.state_dir, &old.to_string())?,
        Some(_) => {}
        // Nobody knows any more whose it is: not this one's, which has never run.
        None => set_journal_aside(&options.state_dir, "unknown")?,
    }
    profile::keep(&options.state_dir, identity.agent, profile)?;
    identity.has_profile = true;
    identity.save(&options.state_dir)?;
    // The identity is durable; a key that stays is only used for this token again.
    let _stays = fs::remove_file(options.state_dir.join(PENDING_FILE));
    Ok(Enrolled::New(identity, profile))
}

/// There is an identity, and it stays.
fn already(options: &Options, identity: Identity) -> Result<Enrolled, Error> {
    let enrolled = profile::enrolled_for(&options.state_dir, &identity)?;
    match options.profile.zip(enrolled) {
        Some((wanted, enrolled)) if wanted != enrolled => Err(Error::EnrolledFor { wanted, enrolled }),
        Some(_) | None => Ok(Enrolled::Already(identity)),
    }
}

async fn ask(
    connection: &Link,
    profile: Option<Profile>,
    request: EnrolRequest,
) -> Result<EnrolResponse, Error> {
    let asked = async {
        let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
        let bytes = if says_profile(connection) {
            frame::encode(&EnrolRequestFor { profile, request })
        } else {
            frame::encode(&request)
        };
        let bytes = bytes.map_err(Error::Frame)?;
        send.write_all(&bytes).await.map_err(broken)?;
        send.finish().map_err(broken)?;
        let bytes = receive.read_to_end(HEADER_BYTES + FRAME_BYTES_MAX).await.map_err(broken)?;
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        frame::decode(body).map_err(Error::Frame)
    };
    timeout(ANSWER_DURATION_MAX, asked).await.map_err(broken)?
}

/// Whether the control plane takes what the token has to be for.
fn says_profile(connection: &Link) -> bool {
    let spoken = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    spoken.and_then(|data| data.protocol).as_deref() == Some(ALPN_ENROL_3)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broken(Box::new(error))
}

/// A key that waits for its certificate.
#[derive(Serialize, Deserialize)]
struct Pending {
    token: EnrolmentTokenId,
    key_pkcs8_der: String,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.key_pkcs8_der.zeroize();
    }
}

/// The key of an earlier try with this token, or a new one that is on disk already.
fn pending_key(state_dir: &Path, token: EnrolmentTokenId) -> Result<PrivateKey, Error> {
    let path = state_dir.join(PENDING_FILE);
    if let Some(key) = read_pending(&path, token) {
        return Ok(key);
    }
    let key = csr::generate().map_err(Error::Key)?.key_der;
    let pending = Pending { token, key_pkcs8_der: hex::encode(key.secret_pkcs8_der()) };
    let bytes = serde_json::to_vec(&pending).expect("two strings always become JSON");
    write_private(&path, &Zeroizing::new(bytes))?;
    Ok(key)
}

fn read_pending(path: &Path, token: EnrolmentTokenId) -> Option<PrivateKey> {
    let bytes = Zeroizing::new(fs::read(path).ok()?);
    let pending: Pending = serde_json::from_slice(&bytes).ok()?;
    let key = PrivateKey::from_pkcs8_der(hex::decode(&pending.key_pkcs8_der).ok()?);
    // One that was cut short by a full disk is replaced.
    (pending.token == token && csr::request_for_key(&key).is_ok()).then_some(key)
}

/// The results in it belong to an agent that this one is not any more.
fn set_journal_aside(state_dir: &Path, old: &str) -> Result<(), Error> {
    let path = state_dir.join(JOURNAL_DIR);
    if !path.exists() {
        return Ok(());
    }
    match Journal::open(&path, 0) {
        Ok(closed) => drop(closed),
        // It is set aside all the same: that is one remedy for it.
        Err(journal::Error::Damaged { .. }) => {}
        Err(error) => return Err(Error::Journal(error)),
    }
    let name = format!("{JOURNAL_DIR}-of-{old}");
    let others = (2..).map(|number| format!("{name}-{number}"));
    let mut places = std::iter::once(name.clone()).chain(others).map(|name| state_dir.join(name));
    let aside = places.find(|place| !place.exists()).expect("there is no end of numbers");
    fs::rename(&path, aside).map_err(|source| Error::SetAside { path, source })
}

fn hostname() -> String {
    let mut name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}
