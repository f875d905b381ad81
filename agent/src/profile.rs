//! How much tasks may do here: what the token said at enrolment, and what is so.
//!
//! The host decides by how it runs the agent; the token is an upper bound. An agent with more rights than it was enrolled for runs
//! no task, since whoever made the token has promised that a control plane cannot do more there. One with fewer rights tries:
//! what it may not do fails by itself, and nothing is lost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use stella_doctor::{open_regular, read_all};
use stella_protocol::id::AgentId;
use stella_protocol::message::{Profile, capability};

use crate::identity::{self, Identity, write_private};

/// Beside the identity and not in it, and what says that it has to be there is in the identity.
pub(crate) const FILE: &str = "profile.json";
/// More is not what was written.
const BYTES_MAX: u64 = 4096;
/// Whoever may write to one of these may do everything, today or at the next boot.
const SYSTEM: [&str; 3] = ["/etc", "/usr", "/"];

/// What the token said, and to whom.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    agent: AgentId,
    profile: Option<Profile>,
}

/// Keeps what the token said. This comes before the identity is saved, so that there is no identity that does not have it yet.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn keep(
    state_dir: &Path,
    agent: AgentId,
    profile: Option<Profile>,
) -> Result<(), identity::Error> {
    let bytes = serde_json::to_vec(&OnDisk { agent, profile }).expect("an id and a word always become JSON");
    write_private(&state_dir.join(FILE), &bytes)
}

/// What it means that the file is gone, and how to bring it back.
pub(crate) const LOST: &str =
    "profile.json is not there, in which what this host was enrolled for was kept: it counts as confined";
pub(crate) const RESTORE: &str = "restore the whole state folder from a backup and not parts of it, or enrol this host again (stella-agent enrol --force)";

/// What an agent was enrolled for; `None` if its token did not say, as tokens did not before they had profiles. A file that is
/// damaged or lost, or that was written for another agent, counts as the least.
///
/// # Errors
/// If there is a file that cannot be read.
pub fn enrolled_for(state_dir: &Path, identity: &Identity) -> Result<Option<Profile>, identity::Error> {
    read(state_dir, identity.agent, identity.has_profile)
}

/// Whether the file of an agent that had one is not there.
#[must_use]
pub fn is_lost(state_dir: &Path, identity: &Identity) -> bool {
    identity.has_profile && state_dir.join(FILE).try_exists().is_ok_and(|exists| !exists)
}

fn read(state_dir: &Path, agent: AgentId, was_kept: bool) -> Result<Option<Profile>, identity::Error> {
    let path = state_dir.join(FILE);
    let content = open_regular(&path).and_then(|file| read_all(file, BYTES_MAX));
    match content {
        Ok(bytes) => Ok(match serde_json::from_slice::<OnDisk>(&bytes) {
            Ok(kept) if kept.agent == agent => kept.profile,
            Ok(_) | Err(_) => Some(Profile::Confined),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(was_kept.then_some(Profile::Confined)),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Some(Profile::Confined)),
        Err(source) => Err(identity::Error::Io { action: "read", path, source }),
    }
}

/// What a process may do beyond the confined profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    beyond: Option<String>,
}

impl Rights {
    /// Those of this process.
    #[must_use]
    pub fn own() -> Self {
        let status = Path::new("/proc/self/status");
        Self::judged(status, |_| Some(PathBuf::from("/")))
    }

    /// Those of another process, which only root can see.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let process = PathBuf::from(format!("/proc/{pid}"));
        // Root's own look says what root may do there, and nothing about other users.
        Self::judged(&process.join("status"), |status| is_root(status).then(|| process.join("root")))
    }

    /// What cannot be seen counts as everything. `view` is where the process's files are, if this process sees what that one may.
    fn judged(status: &Path, view: impl FnOnce(&str) -> Option<PathBuf>) -> Self {
        let beyond = match fs::read_to_string(status) {
            Ok(status) => capabilities(&status).or_else(|| changeable(&view(&status)?)),
            Err(error) => Some(format!("has rights that cannot be seen ({}: {error})", status.display())),
        };
        Self { beyond }
    }

    /// The profile that they amount to.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        if self.beyond.is_none() { Profile::Confined } else { Profile::Full }
    }

    /// Them as capability bits of a hello.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        match self.profile() {
            Profile::Confined => capability::PROFILE,
            Profile::Full => capability::PROFILE | capability::FULL,
        }
    }

    /// Why an agent that was enrolled for this runs no task; `None` if it may.
    #[must_use]
    pub fn objection(&self, enrolled: Option<Profile>) -> Option<String> {
        let beyond = self.beyond.as_ref()?;
        (enrolled == Some(Profile::Confined)).then(|| {
            format!(
                "this host was enrolled as confined, and its agent runs with full rights: it {beyond}. Take the rights away ({TAKE_AWAY}), or \
                 enrol it again with a token of `stella agent token --profile full`"
            )
        })
    }
}

/// How an administrator of the host confines the agent again.
pub(crate) const TAKE_AWAY: &str = "rm /etc/systemd/system/stella-agent.service.d/full.conf; systemctl daemon-reload; systemctl restart stella-agent. \
     Without that file another drop-in gives them, or systemd cannot enforce the sandbox of the unit here, as in some containers: see \
     systemctl cat stella-agent and its log";

/// How one lets it do everything.
pub(crate) const GIVE: &str = "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d \
     /usr/share/stella-agent/profiles/full.conf; systemctl daemon-reload; systemctl restart stella-agent";

/// Which part of the system can be written to.
fn changeable(root: &Path) -> Option<String> {
    let is_open =
        |folder: &&str| access(&root.join(folder.trim_start_matches('/')), AccessFlags::W_OK).is_ok();
    SYSTEM.into_iter().find(is_open).map(|folder| format!("may write to {folder}"))
}

/// What a line of `/proc/PID/status` says.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).unwrap_or_default()
}

fn is_root(status: &str) -> bool {
    field(status, "Uid").split_whitespace().any(|uid| uid == "0")
}

/// The capabilities that a process has, or gets by starting a program, as `/proc/PID/status` shows them.
fn capabilities(status: &str) -> Option<String> {
    // Every program that root starts has all of the bounding set, unless no new privileges may come.
    let gains = is_root(status) && field(status, "NoNewPrivs") != "1";
    let names = if gains { &["CapPrm", "CapBnd"][..] } else { &["CapPrm"] };
    names.iter().find_map(|name| {
        let set = field(status, name);
        (u64::from_str_radix(set, 16) != Ok(0)).then(|| format!("has capabilities ({name} {set})"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: u32, permitted: &str, bounding: &str, no_new: u8) -> String {
        format!(
            "Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapPrm:\t{permitted}\nCapBnd:\t{bounding}\nNoNewPrivs:\t{no_new}\n"
        )
    }

    #[test]
    fn only_who_can_change_nothing_of_the_system_is_confined() {
        let (none, all) = ("0000000000000000", "000001ffffffffff");
        assert_eq!(capabilities(&status(0, none, none, 1)), None, "the unit as it is installed");
        assert_eq!(capabilities(&status(0, none, all, 1)), None, "nothing new may come");
        assert_eq!(capabilities(&status(1000, none, all, 0)), None, "an ordinary user");
        for (uid, permitted, bounding, no_new) in
            [(0, all, all, 0), (0, none, all, 0), (0, all, all, 1), (1000, "0000000000000400", all, 1)]
        {
            let found = capabilities(&status(uid, permitted, bounding, no_new));
            assert!(found.is_some(), "{uid} {permitted} {bounding} {no_new}");
        }
        assert!(capabilities("").is_some(), "what is not told counts as all");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("status");
        fs::write(&file, status(0, none, none, 1)).unwrap();
        let rights = Rights::judged(&file, |_| Some(folder.path().to_owned()));
        assert_eq!(rights.profile(), Profile::Full, "the root itself can be written to: {rights:?}");
        let rights = Rights::judged(&file, |_| Some(folder.path().join("nothing-there")));
        assert_eq!(rights.profile(), Profile::Confined, "{rights:?}");
        let gone = Rights::judged(&folder.path().join("none"), |_| None);
        assert_eq!((gone.profile(), gone.bits()), (Profile::Full, capability::PROFILE | capability::FULL));
        assert_eq!(Rights { beyond: None }.bits(), capability::PROFILE);
    }

    #[test]
    fn more_rights_than_the_token_has_are_objected_to_and_fewer_are_not() {
        let (full, confined) = (Rights { beyond: Some("may write to /etc".into()) }, Rights { beyond: None });
        let said = full.objection(Some(Profile::Confined)).unwrap();
        assert!(said.contains("may write to /etc") && said.contains("rm /etc/systemd"), "{said}");
        for enrolled in [Some(Profile::Full), None] {
            assert_eq!(full.objection(enrolled), None);
            assert_eq!(confined.objection(enrolled), None);
        }
        assert_eq!(confined.objection(Some(Profile::Confined)), None);
    }

    #[test]
    fn what_was_kept_for_another_agent_or_is_damaged_counts_as_the_least() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (AgentId(uuid::Uuid::from_u128(1)), AgentId(uuid::Uuid::from_u128(2)));
        let kept = |agent| read(folder.path(), agent, false).unwrap();
        assert_eq!(kept(ours), None, "an agent of before tokens had profiles");
        let lost = read(folder.path(), ours, true).unwrap();
        assert_eq!(lost, Some(Profile::Confined), "one whose file is lost");
        for profile in [Some(Profile::Full), Some(Profile::Confined), None] {
            keep(folder.path(), ours, profile).unwrap();
            assert_eq!(kept(ours), profile);
            assert_eq!(kept(other), Some(Profile::Confined));
        }
        for damaged in ["", "{}", "{\"agent\": 3}", &"x".repeat(5000)] {
            fs::write(folder.path().join(FILE), damaged).unwrap();
            assert_eq!(kept(ours), Some(Profile::Confined), "{damaged:?}");
        }
    }
}
