//! Agents and the tokens that they enrol with.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, EnrolmentTokenId, SessionEpoch};
use stella_protocol::message::{JournalMark, Profile, capability};
use stella_protocol::time::Timestamp;

use crate::authority::AgentTrust;
use crate::hold::Hold;
use crate::name::Name;

/// After a lost session an agent is suspect for this long, in milliseconds; then it is offline.
pub const RECONNECT_WINDOW_MS: u64 = 30_000;
/// How many attempts an agent is given at the same time. More would only wait on the host instead of here, where they can
/// still be taken back; and it stays far below what an agent refuses ([`stella_protocol::limits::OPEN_ATTEMPTS_MAX`]).
pub const OPEN_TASKS_MAX: u32 = 32;
/// How many events one agent may cause at once that change next to nothing: reports without effect, and changes of what it trusts.
/// Further ones are only answered. An honest agent repeats itself at most once for each attempt that it has open, and the journal
/// must not grow by a dishonest one.
pub const NOTES_BURST: u64 = 512;
/// After how long an agent that has used these up may cause one more, in milliseconds, however often it comes and goes: some hundred
/// kilobytes a day.
pub const NOTE_EVERY_MS: u64 = 60_000;

/// How long a token that lets nobody in any more is still shown, in milliseconds: a week, for who wonders why a host was refused.
pub const ENDED_TOKEN_MEMORY_MS: u64 = 7 * 24 * 3_600_000;

/// An enrolled identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id, which is in its certificate.
    pub id: AgentId,
    /// Its name, unique in the tenant.
    pub name: Name,
    /// For selecting; from the token.
    pub labels: BTreeMap<String, String>,
    /// What tasks may do on its host; from the token. `None` if that is of before tokens had one: then the host decides alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// How the host calls itself.
    pub hostname: String,
    /// The software version of its last session; empty before the first.
    pub version: String,
    /// What its last session said that it can do: bits of [`stella_protocol::message::capability`]. None in snapshots of before this was
    /// kept.
    #[serde(default)]
    pub capabilities: u64,
    /// The digest of the public key that it enrolled with.
    pub key_fingerprint: Digest,
    /// The token that it enrolled with.
    pub token: EnrolmentTokenId,
    /// Whether it can be reached.
    pub connectivity: Connectivity,
    /// When its session was lost, until it has a new one or is revoked.
    #[serde(default)]
    pub silent_since: Option<Timestamp>,
    /// Its latest session; 0 before the first.
    pub session: SessionEpoch,
    /// Its own journal as its last hello had it; `None` before the first session. What it has reported since is in
    /// [`crate::tenant::AgentWork::journal`].
    pub journal: Option<JournalMark>,
    /// When and why it was revoked, if it was. A revoked agent never connects again.
    pub revoked: Option<Revocation>,
    /// Who has taken its host out of rotation, when and why; `None` if nobody has. What is under way there comes to its end, and nothing
    /// new begins: see [`crate::tenant::TenantState::under_way_on`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Hold>,
    /// Whom it trusts, if it was told by name; `None` trusts what it was enrolled or renewed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<AgentTrust>,
    /// Where its own figures can be scraped from other hosts; `None` if they cannot, as its last session said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<FiguresAddress>,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
}

/// Where an agent serves `/metrics`, over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiguresAddress {
    /// A name or an address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for FiguresAddress {
    /// `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Agent {
    /// How it runs, as its last session said; `None` if that said nothing about it.
    #[must_use]
    pub const fn runs_as(&self) -> Option<Profile> {
        Profile::of_capabilities(self.capabilities)
    }

    /// Whether it tells how far the end of a cancelled task has got, as its last session said.
    #[must_use]
    pub const fn tells_endings(&self) -> bool {
        self.capabilities & capability::ENDING != 0
    }
}

/// Whether an agent can be reached. Silence is not failure: suspect and offline are different, and neither fails a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Connectivity {
    /// Enrolled and not seen yet.
    Never,
    /// It has a live session.
    Online {
        /// Since when.
        since: Timestamp,
    },
    /// Its session was lost a short time ago.
    Suspect {
        /// Since when.
        since: Timestamp,
    },
    /// It has been away for longer than the reconnect window.
    Offline {
        /// Since when.
        since: Timestamp,
    },
}

/// That an identity is not believed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why, in the words of who did it.
    pub reason: String,
}

/// A token that lets hosts enrol. Only the hash of its secret is known here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// The public half.
    pub id: EnrolmentTokenId,
    /// SHA-256 of the secret half. Comparing it in constant time is the caller's part: see [`crate::command::TenantCommand::Enrol`].
    pub secret_hash: Digest,
    /// The name that the agent gets; `None` takes the host's own. Only with `uses_max` 1.
    pub agent_name: Option<Name>,
    /// Labels that its agents get.
    pub labels: BTreeMap<String, String>,
    /// What tasks may do on the hosts of its agents; `None` if it is of before tokens had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// How many different keys may enrol with it. At least 1.
    pub uses_max: u32,
    /// The keys that did, and what they became: the same key always gets the same identity.
    pub used_by: BTreeMap<Digest, AgentId>,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    /// When it was created.
    pub created_at: Timestamp,
}

impl EnrolmentToken {
    /// When it is forgotten.
    #[must_use]
    pub const fn forgotten_at(&self) -> Timestamp {
        self.expires_at.plus_ms(ENDED_TOKEN_MEMORY_MS)
    }
}

/// Whether an agent's journal is the one that was seen before, and has lost its end since.
#[must_use]
pub fn lost_its_end(known: JournalMark, now: JournalMark) -> bool {
    known.incarnation == now.incarnation && now.position < known.position
}
