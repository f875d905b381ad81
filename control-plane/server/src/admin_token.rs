//! `stella-orchestrator admin-token`: the way back in for whoever has the host, and no token any more that administers the installation.
//!
//! It gives nobody more than they have: whoever may use the socket may read the state folder with the keys of the authority, take it away
//! in a backup and write another journal. But it does so in the open: the token is an event like any other token, with who has asked in
//! its name, and it ends by itself. No token that is there is touched.
//!
//! The token is made here and goes to the caller alone: the control plane is told its hash, as it is all that it keeps.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use stella_api_types::time::rfc3339;
use stella_certs::ApiToken;
use stella_domain::access::{Account, Role, Scope};
use stella_domain::command::{Actor, Command, Request, SystemCommand};
use stella_domain::state::State;
use stella_engine::Handle;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, ApiTokenId};
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

use crate::local;

/// The longest that one is good for, in hours: it is for making others with it.
const HOURS_MAX: u64 = 30 * 24;
const HOUR_MS: u64 = 3_600_000;
/// How many accounts a refusal names.
const NAMED_MAX: usize = 8;
/// The longest name of a user that is taken from `sudo`.
const SUDO_USER_BYTES_MAX: usize = 32;

const EXAMPLES: &str = "Examples:
  sudo stella-orchestrator admin-token --file /root/stella-token
  sudo stella-orchestrator admin-token --account ada --hours 1";

/// Whose it is, and where it goes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AdminTokenArgs {
    /// The account that it is of, one that is admin everywhere; of none if not given: then it may do everything, as the first one.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// For how many hours it is good.
    #[arg(long, value_name = "COUNT", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=HOURS_MAX))]
    hours: u64,
    /// The file to write it to, for its owner only; it must not exist. If not given, it is printed.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// What the control plane is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// Of the token.
    hash: Digest,
    account: Option<String>,
    hours: u64,
    /// Who is root by `sudo`, as that says: for those who read the events, and worth what root's word is worth.
    sudo_user: Option<String>,
}

/// What the control plane has recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    id: ApiTokenId,
    name: String,
    expires_at: String,
}

// === the caller ===

/// Has a token recorded, and gives it to the caller.
pub(crate) fn run(args: &AdminTokenArgs, state_dir: &Path) -> anyhow::Result<bool> {
    let token = ApiToken::generate()?;
    // First: a token that is recorded and can be shown to nobody is of no use.
    let kept = args.file.as_deref().map(|file| Kept::write(file, state_dir, &token)).transpose()?;
    let sudo_user = std::env::var("SUDO_USER").ok().filter(|user| is_plain(user));
    let (hash, account) = (token.hash(), args.account.clone());
    let ask = local::Request::AdminToken(Ask { hash, account, hours: args.hours, sudo_user });
    let mut answer = local::call(state_dir, &ask)?.with_context(|| {
        format!(
            "no control plane runs on {}; start it: it is what records tokens. Nothing was made",
            state_dir.display()
        )
    })?;
    let mut said = Vec::new();
    answer.read_to_end(&mut said)?;
    let Recorded { id, name, expires_at } =
        serde_json::from_slice(&said).context("the control plane's answer was cut short")?;
    match kept {
        Some(kept) => writeln!(io::stdout(), "written to {}", kept.keep().display())?,
        None => writeln!(io::stdout(), "{token}").with_context(|| {
            format!("it was recorded and cannot be shown: stella token revoke {id}, with another one")
        })?,
    }
    // Beside the token, for a person: standard output is it alone.
    let whose = args
        .account
        .as_ref()
        .map_or_else(|| "may do everything".to_owned(), |it| format!("is of account {it}"));
    writeln!(
        io::stderr(),
        "Token {id} ({name}) {whose}, until {expires_at}. It is not shown again, and no other token was changed.\n\
         Make one with it that lasts (stella account list; stella token create), then revoke what was lost: stella token list; stella token revoke ID"
    )?;
    Ok(true)
}

/// A file with the token in it, which goes unless it is kept.
struct Kept<'a>(Option<&'a Path>);

impl<'a> Kept<'a> {
    fn write(file: &'a Path, state_dir: &Path, token: &ApiToken) -> anyhow::Result<Self> {
        let wrong = || format!("{} cannot be written", file.display());
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new(".")).canonicalize().with_context(wrong)?;
        // There, root would follow what the folder's user has planted, and leave what that user cannot back up.
        ensure!(
            state_dir.canonicalize().ok().is_none_or(|state_dir| !folder.starts_with(state_dir)),
            "{} is in the state folder, whose files are the control plane's own: name a file elsewhere",
            file.display()
        );
        let mut new =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(wrong)?;
        let kept = Self(Some(file));
        writeln!(new, "{token}").and_then(|()| new.sync_all()).with_context(wrong)?;
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(wrong)?;
        Ok(kept)
    }

    fn keep(mut self) -> &'a Path {
        self.0.take().unwrap_or_else(|| Path::new(""))
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            // What stays lets nobody in, unless only the answer was lost; then it ends by itself.
            fs::remove_file(file).ok();
        }
    }
}

/// Whether it can be the name of a user, and forges nothing where it is shown.
fn is_plain(user: &str) -> bool {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "._-@".contains(it);
    (1..=SUDO_USER_BYTES_MAX).contains(&user.len()) && user.chars().all(is_plain)
}

// === the control plane ===

/// Records a token of whoever is at the socket.
///
/// # Errors
/// If it is of nobody who administers the installation, or cannot be recorded.
pub(crate) async fn record(engine: &Handle, caller: u32, ask: Ask) -> anyhow::Result<Recorded> {
    let Ask { hash, account, hours, sudo_user } = ask;
    ensure!((1..=HOURS_MAX).contains(&hours), "hours must be between 1 and {HOURS_MAX}");
    let account = account.map(|account| administrator(&engine.state(), &account)).transpose()?;
    // A directory of users may be slow to answer.
    let name = tokio::task::spawn_blocking(move || name(caller, sudo_user.as_deref())).await?;
    let id = ApiTokenId(Uuid::now_v7());
    let expires_at = engine.now().plus_ms(hours * HOUR_MS);
    let command = Command::System(SystemCommand::CreateApiToken {
        id,
        name: name.clone(),
        hash,
        account,
        expires_at: Some(expires_at),
    });
    let (actor, trace) = (Actor::System, TraceContext::default());
    engine
        .submit(Request { actor, trace, idempotency: None, command })
        .await
        .context("it is not recorded")?;
    let expires_at = rfc3339(expires_at);
    tracing::warn!(%id, user = caller, %name, %expires_at, "a credential of an administrator was made on this host");
    Ok(Recorded { id, name, expires_at })
}

/// What it is called: who has asked for it is told to everybody who sees it.
fn name(caller: u32, sudo_user: Option<&str>) -> String {
    let user = User::from_uid(Uid::from_raw(caller)).ok().flatten().map(|user| user.name);
    let user = user.filter(|user| is_plain(user)).unwrap_or_else(|| format!("user {caller}"));
    let mut name = format!("made on the host by {user}");
    if let Some(sudo_user) = sudo_user.filter(|user| is_plain(user)) {
        // A text takes everything.
        write!(name, " (sudo of {sudo_user})").ok();
    }
    name
}

/// The account of this name, which administers the installation.
fn administrator(state: &State, wanted: &str) -> anyhow::Result<AccountId> {
    let administers = |account: &Account| account.has(Role::Admin, Scope::Installation);
    let accounts = &state.system.accounts;
    let found = accounts.values().find(|it| it.name.as_str() == wanted && administers(it));
    found.map(|it| it.id).with_context(|| {
        let mut others = accounts.values().filter(|it| administers(it)).map(|it| it.name.to_string());
        let named: Vec<_> = others.by_ref().take(NAMED_MAX).collect();
        let more = if others.next().is_some() { " and others" } else { "" };
        let there = if named.is_empty() {
            "none does".to_owned()
        } else {
            format!("these do: {}{more}", named.join(", "))
        };
        format!(
            "account {wanted:?} does not administer the installation, or is not there; {there}. Without --account the token is of none and may do everything"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_who_has_asked_and_nobody_writes_more_into_it() {
        assert_eq!(name(0, None), "made on the host by root");
        assert_eq!(name(0, Some("ada")), "made on the host by root (sudo of ada)");
        assert_eq!(name(4_000_000_000, None), "made on the host by user 4000000000");
        for forged in ["", "a b", "ada) (by nobody", "a\nb", "ä", &"a".repeat(SUDO_USER_BYTES_MAX + 1)] {
            assert_eq!(name(0, Some(forged)), "made on the host by root", "{forged:?}");
        }
    }

    #[test]
    fn a_file_is_its_owners_alone_and_takes_nobodys_place() {
        use std::os::unix::fs::PermissionsExt as _;

        let (folder, state_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, token) = (folder.path().join("token"), ApiToken::generate().unwrap());
        drop(Kept::write(&file, state_dir.path(), &token).unwrap());
        assert!(!file.exists(), "it is not kept by itself");
        assert_eq!(Kept::write(&file, state_dir.path(), &token).unwrap().keep(), file);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{token}\n"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        Kept::write(&file, state_dir.path(), &ApiToken::generate().unwrap()).err().expect("it is there");
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{token}\n"), "it was touched");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        Kept::write(&link, state_dir.path(), &token).err().expect("a link is followed");
        assert!(!folder.path().join("elsewhere").exists());
        let inside = state_dir.path().join("admin-token");
        let error = Kept::write(&inside, state_dir.path(), &token).err().expect("in the state folder");
        assert!(error.to_string().contains("name a file elsewhere") && !inside.exists(), "{error}");
    }
}
