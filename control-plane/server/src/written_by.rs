//! Which version has written here. Events and state get fields that an older program would pass over without a word, and decide on what
//! is left; so none older than the newest that was ever here goes on.
//!
//! Versions count by their first two numbers: what is written does not change within them.

use std::io;
use std::path::Path;

use anyhow::{Context, ensure};
use semver::Version;
use serde::{Deserialize, Serialize};
use stella_doctor::{open_regular, read_all};
use stella_domain::state::State;
use stella_durable::Store;
use stella_readers::place::StateFile;

use crate::doctor::BOOK;
use crate::first_start::TOKEN_FILE;

/// The file in the state folder. It is in no backup: a backup names its version itself.
pub(crate) const FILE_NAME: &str = "written-by.json";
/// The largest that is read, in bytes.
const BYTES_MAX: u64 = 4 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct WrittenBy {
    version: String,
}

/// Refuses a state folder that a newer version has written to.
///
/// # Errors
/// If one has, or that cannot be told.
pub(crate) fn refuse_newer(state_dir: &Path) -> anyhow::Result<()> {
    let wrong = || format!("which version has written to {} cannot be told", state_dir.display());
    match read(state_dir).with_context(wrong)? {
        Some(version) => {
            check(&version, &own()?).with_context(|| format!("{} is not opened", state_dir.display()))
        }
        None => Ok(()),
    }
}

/// What a control plane leaves in its state folder beside the journal, once that has begun.
const SIGNS: [&str; 3] = [FILE_NAME, TOKEN_FILE, ROOT];

/// Refuses a state folder that was in use and has no journal any more. One that is opened where there is none begins anew: agents are sent
/// away, and the first token is overwritten by one that nobody knows once the journal is back.
///
/// # Errors
/// If it is one, or that cannot be told.
pub(crate) fn refuse_lost_journal(state_dir: &Path, journal: &Path) -> anyhow::Result<()> {
    if Store::exists(journal) {
        return Ok(());
    }
    for sign in SIGNS {
        let sign = state_dir.join(sign);
        let is_there =
            sign.try_exists().with_context(|| format!("{} cannot be looked at", sign.display()))?;
        ensure!(
            !is_there,
            "there is no journal in {}, and {} says that there was one: is a file system not mounted? Put the journal back, or restore a backup into an empty state folder; to begin anew, empty the state folder",
            journal.display(),
            sign.display()
        );
    }
    Ok(())
}

/// The root that all agents trust. Without it, all that is left of an authority is of no use to them.
const ROOT: &str = "pki/root.crt";

/// Whether the root's certificate is there.
///
/// # Errors
/// If that cannot be told.
pub(crate) fn has_authority(state_dir: &Path) -> anyhow::Result<bool> {
    let root = state_dir.join(ROOT);
    root.try_exists().with_context(|| format!("{} cannot be looked at", root.display()))
}

/// Refuses a state folder whose journal is in use and that has no certificate authority any more. Another one would be made there, which no
/// agent trusts, and the control plane would look well.
///
/// # Errors
/// If it is one, or that cannot be told.
pub(crate) fn refuse_lost_authority(state_dir: &Path, is_in_use: bool) -> anyhow::Result<()> {
    ensure!(
        !is_in_use || has_authority(state_dir)?,
        "there is no {} in {}, and the journal says that there was one: is a file system not mounted? Put pki/ back, from a backup if need be; to begin anew with an authority that no agent and no command line trusts: stella-orchestrator ca create ({BOOK}/disaster-recovery.md, The authority is lost)",
        ROOT,
        state_dir.display()
    );
    Ok(())
}

/// Whether anything was ever decided here: the first token comes right after the authority.
pub(crate) fn is_in_use(state: &State) -> bool {
    !state.system.api_tokens.is_empty() || !state.tenants.is_empty()
}

/// Remembers that this version writes here from now on, if none newer of the same two numbers does already.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn remember(state_dir: &Path) -> anyhow::Result<()> {
    let own = own()?;
    if read(state_dir)?.is_some_and(|there| there >= own) {
        return Ok(());
    }
    let file = StateFile::new(state_dir.join(FILE_NAME));
    file.save(&WrittenBy { version: own.to_string() })
        .with_context(|| format!("{} cannot be written", file.path().display()))
}

/// Refuses what a newer version than this one has written, by the version that it names.
///
/// # Errors
/// If it is newer, or no version.
pub(crate) fn refuse_newer_version(version: &str) -> anyhow::Result<()> {
    check(&version.parse().with_context(|| format!("{version:?} is no version"))?, &own()?)
}

/// The newest version that has written to a state folder, as far as it can be told, or this one.
pub(crate) fn newest(state_dir: &Path) -> String {
    let own = env!("CARGO_PKG_VERSION");
    // An export of what is damaged is not to fail for this.
    let there = read(state_dir).ok().flatten().zip(own.parse().ok()).filter(|(there, own)| there > own);
    there.map_or_else(|| own.to_owned(), |(there, _)| there.to_string())
}

fn check(theirs: &Version, own: &Version) -> anyhow::Result<()> {
    ensure!(
        (theirs.major, theirs.minor) <= (own.major, own.minor),
        "version {theirs} has written it, and this is {own}, which would not understand all of it: install {}.{} or a newer one ({BOOK}/upgrading.md, Going back)",
        theirs.major,
        theirs.minor
    );
    Ok(())
}

fn own() -> anyhow::Result<Version> {
    env!("CARGO_PKG_VERSION").parse().context("this program's version is none")
}

fn read(state_dir: &Path) -> anyhow::Result<Option<Version>> {
    // Root looks too, in a folder that is another's.
    match open_regular(&state_dir.join(FILE_NAME)).and_then(|file| read_all(file, BYTES_MAX)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice::<WrittenBy>(&bytes)?.version.parse()?)),
        // A version before this file was thought of, or none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_newer_minor_version_has_written_is_refused_and_a_patch_is_not() {
        for (theirs, own, is_let_in) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.9", "0.1.0", true),
            ("0.1.0", "0.2.0", true),
            ("0.9.3", "1.0.0", true),
            ("0.2.0", "0.1.9", false),
            ("1.0.0", "0.9.0", false),
            ("2.0.0-rc.1", "1.9.0", false),
        ] {
            let checked = check(&version(theirs), &version(own));
            assert_eq!(checked.is_ok(), is_let_in, "{theirs} read by {own}: {checked:?}");
        }
        refuse_newer_version(env!("CARGO_PKG_VERSION")).unwrap();
        refuse_newer_version("new").unwrap_err();
    }

    #[test]
    fn a_folder_that_was_in_use_and_has_no_journal_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        refuse_lost_journal(folder.path(), &journal).expect("a new one");
        // A mount point whose file system is away.
        fs::create_dir(&journal).unwrap();
        refuse_lost_journal(folder.path(), &journal).expect("nothing says that there was one");
        for sign in SIGNS {
            let file = folder.path().join(sign);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            let error = refuse_lost_journal(folder.path(), &journal).unwrap_err().to_string();
            assert!(error.contains(sign) && error.contains("not mounted"), "{error}");
            fs::remove_file(&file).unwrap();
        }
        fs::write(folder.path().join(FILE_NAME), "").unwrap();
        fs::write(journal.join("db"), "").unwrap();
        refuse_lost_journal(folder.path(), &journal).expect("it is there");
    }

    #[test]
    fn an_authority_is_missed_where_there_was_one_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        refuse_lost_authority(folder.path(), false).expect("the first start makes it, also after a crash");
        // Nothing, a mount point, what does not help without the root.
        for make in [None, Some("pki/"), Some("pki/root.key"), Some("pki/issuing.crt")] {
            if let Some(file) = make.map(|it| folder.path().join(it)) {
                fs::create_dir_all(folder.path().join("pki")).unwrap();
                if !file.is_dir() {
                    fs::write(&file, "").unwrap();
                }
            }
            let error = refuse_lost_authority(folder.path(), true).unwrap_err().to_string();
            assert!(error.contains("not mounted") && error.contains("ca create"), "{make:?}: {error}");
        }
        fs::write(folder.path().join(ROOT), "").unwrap();
        refuse_lost_authority(folder.path(), true).expect("it is there");
    }

    #[test]
    fn the_newest_that_was_there_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        refuse_newer(folder.path()).unwrap();
        remember(folder.path()).unwrap();
        refuse_newer(folder.path()).unwrap();
        assert_eq!(read(folder.path()).unwrap().unwrap(), own().unwrap());
        let file = folder.path().join(FILE_NAME);
        fs::write(&file, r#"{"version":"99.1.2"}"#).unwrap();
        let error = format!("{:#}", refuse_newer(folder.path()).unwrap_err());
        assert!(error.contains("version 99.1.2 has written it") && error.contains("install 99.1"), "{error}");
        remember(folder.path()).unwrap();
        assert_eq!(read(folder.path()).unwrap().unwrap(), version("99.1.2"));
        // What cannot be told is no leave to go on.
        fs::write(&file, "{").unwrap();
        refuse_newer(folder.path()).unwrap_err();
    }
}
