//! From a backup to a state folder. The backup is checked to its last byte before anything is written, and a folder that was
//! only half filled is not taken for a control plane's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use flate2::read::GzDecoder;
use stella_engine::Checkpoint;
use stella_journal::{ImportError, ImportSummary, SledJournal, Stream, Until, import, time_of};
use stella_protocol::digest::Digest;
use stella_protocol::id::Position;
use stella_protocol::time::Timestamp;

use super::seal;
use super::{FORMAT, HEADER_NAME, Header, JOURNAL_FOLDER, STATE_FOLDER, UNFINISHED};
use crate::journal_tool::{TOOL_CONFIG, with_time};
use crate::owner::become_owner;
use crate::written_by;

/// The longest header, in bytes: one with the streams of a hundred thousand tenants is shorter.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Up to where a backup is restored, as a person says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Until(Until),
    /// The events up to the time of this one. The stream is `system`, `tenant/<uuid>` or a tenant's name.
    Event(String, Position),
}

/// What was restored.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) header: Header,
    pub(super) journal: ImportSummary,
    /// SHA-256 of the state that the new journal leads to.
    pub(super) state: Digest,
    pub(super) files: u64,
    pub(super) file_bytes: u64,
}

/// Checks a backup to its last byte.
///
/// # Errors
/// If it is not a whole one, or of a format that this software does not know.
pub(super) fn check(path: &Path) -> anyhow::Result<Header> {
    let mut file = open(path)?;
    let named = || format!("{} is no good backup", path.display());
    let members = seal::check(&mut file).with_context(named)?;
    read_header(&mut tar::Archive::new(BufReader::new(members)).entries()?).with_context(named)
}

/// Fills a new or empty state folder from a backup.
///
/// # Errors
/// As [`check`], and if the folder is in use or cannot be written. What was written then is refused by the next start.
pub(super) fn restore(path: &Path, state_dir: &Path, wanted: &Wanted) -> anyhow::Result<Restored> {
    let header = check(path)?;
    let until = resolve(path, &header, wanted)?;
    let mut file = open(path)?;
    make_folder(state_dir).with_context(|| named(state_dir))?;
    let _as_owner = become_owner(state_dir)?;
    prepare(state_dir)?;
    let members = seal::check(&mut file)?;
    let mut archive = tar::Archive::new(BufReader::new(members));
    let mut entries = archive.entries()?;
    read_header(&mut entries)?;
    let (mut files, mut file_bytes) = (0, 0);
    let journal = loop {
        let entry = entries.next().context("there is no journal in the backup")??;
        let name = entry.path()?.into_owned();
        if name.starts_with(JOURNAL_FOLDER) {
            let mut events = BufReader::new(Events::new(entry, entries));
            break import(&mut events, &state_dir.join("journal"), until).map_err(with_time)?;
        }
        file_bytes += extract(entry, &name, state_dir)
            .with_context(|| format!("{} cannot be restored", name.display()))?;
        files += 1;
    };
    let state = replay(state_dir, &header, until)?;
    finish(state_dir).context("the restored folder cannot be made durable")?;
    Ok(Restored { header, journal, state, files, file_bytes })
}

/// Refuses a state folder that a restore has left half filled.
///
/// # Errors
/// If it is one.
pub(crate) fn refuse_unfinished(state_dir: &Path) -> anyhow::Result<()> {
    ensure!(
        !state_dir.join(UNFINISHED).try_exists()?,
        "a restore into {} did not finish: empty the folder and restore again",
        state_dir.display()
    );
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn read_header<R: Read>(entries: &mut tar::Entries<'_, R>) -> anyhow::Result<Header> {
    let foreign = "it is not a backup of a Stella control plane";
    let first = entries.next().context(foreign)?.context(foreign)?;
    ensure!(first.path()?.as_os_str() == HEADER_NAME, "{foreign}");
    let mut text = Vec::new();
    first.take(HEADER_BYTES_MAX).read_to_end(&mut text)?;
    let format: FormatOnly = serde_json::from_slice(&text).context(foreign)?;
    ensure!(
        format.format == FORMAT,
        "its format {} is not known to this software; restore it with the version that wrote it, or a newer one",
        format.format
    );
    // Before the rest, which a newer one may have more of.
    written_by::refuse_newer_version(&format.version)?;
    serde_json::from_slice(&text).context("its header makes no sense")
}

#[derive(serde::Deserialize)]
struct FormatOnly {
    format: u32,
    version: String,
}

// === up to where ===

fn resolve(path: &Path, header: &Header, wanted: &Wanted) -> anyhow::Result<Until> {
    let (name, position) = match wanted {
        Wanted::All => return Ok(Until::End),
        Wanted::Until(until) => {
            // Before anything is written. The system's stream begins every journal.
            let first = time_of_event(path, Stream::System, Position(0))?;
            if let (Until::Time(last), Some(first)) = (*until, first)
                && last < first
            {
                return Err(with_time(ImportError::NothingUntil { first }));
            }
            return Ok(*until);
        }
        Wanted::Event(name, position) => (name, *position),
    };
    let named = header
        .streams
        .iter()
        .find(|it| it.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == name))
        .map(|it| it.stream);
    let stream: Stream = match named {
        Some(stream) => stream,
        None => {
            name.parse().with_context(|| format!("{name:?} is no tenant in this backup, and no stream"))?
        }
    };
    let time = time_of_event(path, stream, position)?;
    let time = time.with_context(|| format!("there is no event {position} of {name} in the backup"))?;
    Ok(Until::Time(time))
}

fn time_of_event(path: &Path, stream: Stream, position: Position) -> anyhow::Result<Option<Timestamp>> {
    let mut file = open(path)?;
    let mut archive = tar::Archive::new(BufReader::new(seal::check(&mut file)?));
    let mut entries = archive.entries()?;
    let first = loop {
        let entry = entries.next().context("there is no journal in the backup")??;
        if entry.path()?.starts_with(JOURNAL_FOLDER) {
            break entry;
        }
    };
    Ok(time_of(&mut BufReader::new(Events::new(first, entries)), stream, position)?)
}

/// The members of the journal, one after the other.
struct Events<'a, R: Read> {
    current: GzDecoder<tar::Entry<'a, R>>,
    rest: tar::Entries<'a, R>,
}

impl<'a, R: Read> Events<'a, R> {
    fn new(first: tar::Entry<'a, R>, rest: tar::Entries<'a, R>) -> Self {
        Self { current: GzDecoder::new(first), rest }
    }
}

impl<R: Read> Read for Events<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.rest.next() {
                Some(entry) => self.current = GzDecoder::new(entry?),
                None => return Ok(0),
            }
        }
    }
}

// === the folder ===

/// Checks that the folder is empty, and marks it as unfinished.
fn prepare(state_dir: &Path) -> anyhow::Result<()> {
    let named = || named(state_dir);
    refuse_unfinished(state_dir)?;
    ensure!(
        fs::read_dir(state_dir).with_context(named)?.next().is_none(),
        "{} is not empty: a backup is restored into an empty one; move its content away",
        named()
    );
    let mark = state_dir.join(UNFINISHED);
    File::create_new(&mark)
        .and_then(|mark| mark.sync_all())
        .and_then(|()| File::open(state_dir)?.sync_all())
        .with_context(named)
}

fn named(state_dir: &Path) -> String {
    format!("the state folder {}", state_dir.display())
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes one file; how many bytes it has.
fn extract<R: Read>(mut entry: tar::Entry<'_, R>, name: &Path, state_dir: &Path) -> anyhow::Result<u64> {
    let inside = name.strip_prefix(STATE_FOLDER).context("it is no part of a state folder")?;
    let is_plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(
        is_plain && inside.file_name().is_some() && entry.header().entry_type().is_file(),
        "it is no file inside of the state folder"
    );
    let place = state_dir.join(inside);
    if let Some(folder) = place.parent() {
        make_folder(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
    Ok(io::copy(&mut entry, &mut file)?)
}

/// Whether the journal leads to the state that the backup was taken of.
fn replay(state_dir: &Path, header: &Header, until: Until) -> anyhow::Result<Digest> {
    let journal = SledJournal::open(&state_dir.join("journal"), TOOL_CONFIG)?;
    let point = Checkpoint::of_journal(Arc::new(journal)).context(
        "the restored journal does not lead to a state; is this software older than the backup's?",
    )?;
    let state = point.state_hash()?;
    // Another version may write the same state in another way.
    if until == Until::End && header.version == env!("CARGO_PKG_VERSION") && state != header.state {
        bail!(
            "the restored journal leads to the state {state}, the backup was of {}; the folder {} is of no use",
            header.state,
            state_dir.display()
        );
    }
    Ok(state)
}

/// Makes everything durable and takes the mark away.
fn finish(state_dir: &Path) -> io::Result<()> {
    let folder = File::open(state_dir)?;
    nix::unistd::syncfs(&folder)?;
    fs::remove_file(state_dir.join(UNFINISHED))?;
    folder.sync_all()
}
