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
use stella_readers::place::StateFile;

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

fn check(theirs: &Version, own: &Version) -> anyhow::Result<()> {
    ensure!(
        (theirs.major, theirs.minor) <= (own.major, own.minor),
        "version {theirs} has written it, and this is {own}, which would not understand all of it: install {}.{} or a newer one (docs/upgrading.md, Going back)",
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
