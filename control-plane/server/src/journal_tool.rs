//! `stella-orchestrator journal`: the way out of a damaged or outgrown database. The control plane must be stopped.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Subcommand;
use stella_api_types::time::{parse_rfc3339, rfc3339};
use stella_engine::Checkpoint;
use stella_journal::{Coverage, ImportError, JournalConfig, MissingEvents, SledJournal, Until};
use stella_protocol::time::Timestamp;
use tempfile::NamedTempFile;

use crate::owner::become_owner;
use crate::written_by;

/// The longest first line of an export.
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// How the tools open a journal: it is only read, or fills up once.
pub(crate) const TOOL_CONFIG: JournalConfig = JournalConfig { cache_bytes: 64 << 20, reserve_bytes: 0 };

/// What to do with a journal.
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Check every record: checksums, hash chains, positions, heads.
    #[command(after_help = "Example:\n  sudo stella-orchestrator journal verify")]
    Verify,
    /// Write all events as JSON lines.
    #[command(after_help = "Example:\n  sudo stella-orchestrator journal export /var/backups/journal.jsonl")]
    Export {
        /// The file to write, for its owner only; it must not exist.
        file: PathBuf,
        /// Write what is readable of a damaged journal, and say what is missing.
        #[arg(long)]
        salvage: bool,
    },
    /// Fill a new journal with exported events. It gets a new incarnation, so that agents notice.
    #[command(
        after_help = "Example:\n  sudo stella-orchestrator journal import /var/backups/journal.jsonl --until 2026-01-31T09:30:00Z"
    )]
    Import {
        /// The file to read.
        file: PathBuf,
        /// Leave out what happened after this time, as in 2026-01-31T09:30:00Z.
        #[arg(long, value_parser = parse_rfc3339)]
        until: Option<Timestamp>,
    },
}

/// Runs one on the journal of a state folder; whether all is well. Files of whoever runs it are opened as theirs, the journal as its
/// owner's.
pub(crate) fn run(command: &JournalCommand, state_dir: &Path, directory: &Path) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match command {
        JournalCommand::Verify => {
            let _as_owner = become_owner(state_dir)?;
            verify(directory, &mut out)
        }
        JournalCommand::Export { file, salvage } => {
            let wrong = || format!("{} cannot be created", file.display());
            ensure!(!file.try_exists().with_context(wrong)?, "{}: it is there already", wrong());
            // Under another name until it is whole: half of an export must not look like one, nor be in the way of the next.
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let new = NamedTempFile::new_in(folder.unwrap_or_else(|| Path::new("."))).with_context(wrong)?;
            let mut writer = BufWriter::new(new);
            let coverage = if *salvage { Coverage::Salvage } else { Coverage::Complete };
            let summary = {
                let _as_owner = become_owner(state_dir)?;
                let version = Some(written_by::newest(state_dir));
                stella_journal::export(directory, &mut writer, coverage, version)?
            };
            let whole = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            whole.as_file().sync_all()?;
            whole.persist_noclobber(file).map_err(|error| error.error).with_context(wrong)?;
            writeln!(out, "exported {} events of {} streams", summary.events, summary.streams)?;
            for damage in &summary.damage {
                writeln!(out, "damaged: {}", damage.summary())?;
            }
            missing(&mut out, &summary.missing)?;
            Ok(true)
        }
        JournalCommand::Import { file, until } => {
            let wrong = || format!("{} cannot be read", file.display());
            let mut opened = BufReader::new(File::open(file).with_context(wrong)?);
            // It may be a pipe, which cannot be read twice.
            let mut header = Vec::new();
            opened.by_ref().take(HEADER_BYTES_MAX).read_until(b'\n', &mut header).with_context(wrong)?;
            if let Some(version) = stella_journal::version_of(&mut header.as_slice())? {
                written_by::refuse_newer_version(&version)
                    .with_context(|| format!("{} is not imported", file.display()))?;
            }
            let mut opened = header.as_slice().chain(opened);
            let summary = {
                let _as_owner = become_owner(state_dir)?;
                let until = until.map_or(Until::End, Until::Time);
                stella_journal::import(&mut opened, directory, until).map_err(with_time)?
            };
            let (events, streams, incarnation) = (summary.events, summary.streams, summary.incarnation);
            writeln!(
                out,
                "imported {events} events of {streams} streams; the journal's incarnation is {incarnation}"
            )?;
            if summary.left_out > 0 {
                writeln!(out, "left out: {} later events", summary.left_out)?;
            }
            missing(&mut out, &summary.missing)?;
            Ok(true)
        }
    }
}

/// Says when it began, if nothing of it was to be taken over.
pub(crate) fn with_time(error: ImportError) -> anyhow::Error {
    let first = if let ImportError::NothingUntil { first } = &error { Some(rfc3339(*first)) } else { None };
    let error = anyhow::Error::from(error);
    match first {
        Some(first) => error.context(format!("nothing would be left: the first event is of {first}")),
        None => error,
    }
}

fn verify(directory: &Path, out: &mut impl Write) -> anyhow::Result<bool> {
    let report = stella_journal::verify(directory)?;
    for stream in &report.streams {
        let head = stream.head.map_or_else(|| "no head".to_owned(), |head| head.hash.to_string());
        writeln!(out, "{}: {} events, {head}", stream.stream, stream.events)?;
    }
    let (snapshots, archived) = (report.snapshots, report.archived);
    writeln!(out, "epoch {}, {snapshots} snapshots, {archived} records in the archive", report.epoch)?;
    for problem in &report.problems {
        writeln!(out, "damaged: {}", problem.summary())?;
    }
    if report.has_more_problems {
        writeln!(out, "there are more problems than are listed")?;
    }
    if !report.is_whole() {
        writeln!(out, "the journal is DAMAGED")?;
        return Ok(false);
    }
    let journal = SledJournal::open(directory, TOOL_CONFIG)?;
    let point =
        Checkpoint::of_journal(Arc::new(journal)).context("the journal is whole, but leads to no state")?;
    writeln!(out, "state: {}", point.state_hash()?)?;
    writeln!(out, "the journal is whole")?;
    Ok(true)
}

fn missing(out: &mut impl Write, missing: &[MissingEvents]) -> anyhow::Result<()> {
    for events in missing {
        let end = events.end.map_or_else(|| "an unknown end".to_owned(), |end| end.to_string());
        writeln!(out, "missing: {} from {} to {end}: {}", events.stream, events.from, events.why)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_of_a_newer_version_is_not_imported() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, file) = (folder.path().join("journal"), folder.path().join("events.jsonl"));
        drop(SledJournal::open(&directory, TOOL_CONFIG).unwrap());
        run(&JournalCommand::Export { file: file.clone(), salvage: false }, folder.path(), &directory)
            .unwrap();
        let other = folder.path().join("other");
        let import = JournalCommand::Import { file: file.clone(), until: None };
        let own = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&own), "{text}");
        std::fs::write(&file, text.replace(&own, "\"version\":\"99.1.2\"")).unwrap();
        let refused = format!("{:#}", run(&import, folder.path(), &other).unwrap_err());
        assert!(refused.contains("version 99.1.2 has written it"), "{refused}");
        assert!(!other.exists(), "something was made");
        std::fs::write(&file, text).unwrap();
        assert!(run(&import, folder.path(), &other).unwrap());
    }

    #[test]
    fn what_is_exported_of_a_folder_of_a_newer_version_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(written_by::newest(folder.path()), env!("CARGO_PKG_VERSION"));
        std::fs::write(folder.path().join(written_by::FILE_NAME), r#"{"version":"99.1.2"}"#).unwrap();
        assert_eq!(written_by::newest(folder.path()), "99.1.2");
    }

    #[test]
    fn an_export_that_fails_leaves_nothing_behind_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, file) = (folder.path().join("journal"), folder.path().join("events.jsonl"));
        let export = JournalCommand::Export { file: file.clone(), salvage: false };
        // A control plane holds it.
        let settings = JournalConfig { cache_bytes: 1 << 20, reserve_bytes: 0 };
        let held = SledJournal::open(&directory, settings).unwrap();
        run(&export, folder.path(), &directory).unwrap_err();
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["journal"]);
        drop(held);
        assert!(run(&export, folder.path(), &directory).unwrap());
        let before = std::fs::read(&file).unwrap();
        let refused = format!("{:#}", run(&export, folder.path(), &directory).unwrap_err());
        assert!(refused.contains("it is there already"), "{refused}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}
