//! `stella-orchestrator backup` and `restore`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Args;
use stella_api_types::time::{parse_rfc3339, rfc3339};
use stella_durable::Store;
use stella_engine::Checkpoint;
use stella_journal::{OpenError, SledJournal, Until};
use stella_protocol::id::Position;
use tempfile::NamedTempFile;

use super::last::{self, LastBackup};
use super::restore::{self, Restored, Wanted};
use super::seal::Checker;
use super::shelf::{Shelf, unfinished_in};
use super::{Header, Parts, write};
use crate::journal_tool::TOOL_CONFIG;
use crate::owner::become_owner;
use crate::{local, written_by};

const BACKUP_EXAMPLES: &str = "Examples:
  sudo stella-orchestrator backup --into /var/backups/stella --keep 14
  sudo stella-orchestrator backup /var/backups/stella.backup
  sudo stella-orchestrator backup - --without-output | ssh backup.example.com 'cat > stella.backup'";

/// What to back up, and where to.
#[derive(Debug, Args)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(crate) struct BackupArgs {
    /// The file to write, for its owner only; it must not exist. `-` is standard output.
    #[arg(required_unless_present = "into", conflicts_with = "into")]
    file: Option<PathBuf>,
    /// A folder that is there: the backup gets a name by its time in it, once it was read back and found whole.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// How many backups of such names the folder keeps; older ones are removed when the new one is there.
    #[arg(long, requires = "into", value_name = "COUNT", default_value = "7")]
    keep: NonZeroUsize,
    /// Leave out the archives of releases: they are still where they were built.
    #[arg(long)]
    without_artifacts: bool,
    /// Leave out what tasks printed.
    #[arg(long)]
    without_output: bool,
}

const RESTORE_EXAMPLES: &str = "Examples:
  sudo stella-orchestrator restore /var/backups/stella.backup --check
  sudo stella-orchestrator restore /var/backups/stella.backup --until 2026-01-31T09:30:00Z";

/// What to restore.
#[derive(Debug, Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// Leave out what happened later: a time (2026-01-31T09:30:00Z), or an event as in `stella events` (acme@1234, system@7).
    #[arg(long, value_parser = parse_wanted)]
    until: Option<Wanted>,
    /// Check the backup to its last byte, say what it holds, and write nothing.
    #[arg(long, conflicts_with = "until")]
    check: bool,
}

/// Takes a backup of a control plane that runs, or of a stopped one's folder. `reserve_bytes` of the control plane's disk are left free
/// by backups that are taken again and again.
pub(crate) fn backup(args: &BackupArgs, state_dir: &Path, reserve_bytes: u64) -> anyhow::Result<bool> {
    let parts = Parts { artifacts: !args.without_artifacts, output: !args.without_output };
    match (&args.into, &args.file) {
        (Some(folder), _) => into_folder(folder, args.keep, state_dir, parts, reserve_bytes)?,
        (None, Some(file)) if file == Path::new("-") => {
            let mut out = io::stdout().lock();
            let bytes = copy(state_dir, parts, &mut out)?;
            out.flush()?;
            writeln!(io::stderr(), "backup written: {bytes} bytes")?;
        }
        (None, Some(file)) => to_file(file, state_dir, parts)?,
        (None, None) => bail!("say where to: FILE, or --into FOLDER"),
    }
    Ok(true)
}

fn to_file(file: &Path, state_dir: &Path, parts: Parts) -> anyhow::Result<()> {
    let wrong = || format!("{} cannot be created", file.display());
    ensure!(!file.try_exists().with_context(wrong)?, "{}: it is there already", wrong());
    // Under another name until it is whole: half of a backup must not look like one.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let new = unfinished_in(folder.unwrap_or_else(|| Path::new("."))).with_context(wrong)?;
    let mut writer = BufWriter::new(new);
    copy(state_dir, parts, &mut writer)?;
    let whole = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    let (_, taken) = place(whole, |_| Ok(file.to_owned()), state_dir)?;
    last::remember(state_dir, taken)
}

fn into_folder(
    folder: &Path,
    keep: NonZeroUsize,
    state_dir: &Path,
    parts: Parts,
    reserve_bytes: u64,
) -> anyhow::Result<()> {
    let shelf = Shelf::take(folder)?;
    let mut writer = BufWriter::new(shelf.sparing(shelf.new_file()?, state_dir, reserve_bytes)?);
    copy(state_dir, parts, &mut writer)?;
    let whole = writer.into_inner().map_err(io::IntoInnerError::into_error)?.into_inner();
    let (placed, taken) =
        place(whole, |header| Ok(shelf.place(parse_rfc3339(&header.taken_at)?)), state_dir)?;
    // Not before: what is there is worth more than what may not come to its end.
    let removed = shelf.keep(keep.get(), &placed)?;
    let mut out = io::stdout().lock();
    removed.iter().try_for_each(|path| writeln!(out, "removed {}", path.display()))?;
    // At the end: where this cannot be written, backups are taken and old ones go all the same.
    last::remember(state_dir, taken)
}

/// Gives a backup its name once it is on the disk and whole, and tells; what there is to remember of it.
fn place(
    whole: NamedTempFile,
    name: impl FnOnce(&Header) -> anyhow::Result<PathBuf>,
    state_dir: &Path,
) -> anyhow::Result<(PathBuf, LastBackup)> {
    whole.as_file().sync_all()?;
    // What is on the disk, not what was sent there.
    let header = restore::check(whole.path())?;
    let bytes = whole.as_file().metadata()?.len();
    let file = name(&header)?;
    let wrong = || format!("{} cannot be created", file.display());
    whole.persist_noclobber(&file).map_err(|error| error.error).with_context(wrong)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new("."))).with_context(wrong)?;
    folder.sync_all().with_context(wrong)?;
    let mut out = io::stdout().lock();
    writeln!(out, "backup of {} written to {}", header.taken_at, file.display())?;
    describe(&mut out, &header)?;
    writeln!(out, "it holds the keys of the certificate authority: keep it as you keep those")?;
    warn_of_the_same_place(&file, state_dir)?;
    Ok((file, LastBackup { taken_at: parse_rfc3339(&header.taken_at)?, bytes }))
}

/// What is lost together with the state is no help then.
fn warn_of_the_same_place(file: &Path, state_dir: &Path) -> anyhow::Result<()> {
    // The backup is there and good, whatever can be found out about its place.
    let places = file.canonicalize().ok().zip(state_dir.canonicalize().ok());
    if places.is_some_and(|(file, state_dir)| file.starts_with(state_dir)) {
        writeln!(
            io::stderr(),
            "warning: {} is in the state folder, and is lost with it: put backups elsewhere (no backup holds another one)",
            file.display()
        )?;
    }
    Ok(())
}

/// Writes a whole backup to `out`; how many bytes it has.
fn copy(state_dir: &Path, parts: Parts, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut checked = Checked { out, checker: Checker::new(), bytes: 0 };
    match local::call(state_dir, &local::Request::Backup(parts))? {
        Some(mut running) => {
            io::copy(&mut running, &mut checked).context("the backup cannot be written, or not be read")?;
        }
        None => {
            // Nobody there holds the folder still: what a link in it leads to is in the backup only if its owner may read it.
            let _as_owner = become_owner(state_dir)?;
            let journal = state_dir.join("journal");
            written_by::refuse_newer(state_dir)?;
            // Opening it where it is not would make an empty one, and a backup of that.
            written_by::refuse_lost_journal(state_dir, &journal)?;
            ensure!(
                Store::exists(&journal),
                "there is no control plane in {} to take a backup of",
                state_dir.display()
            );
            let journal = SledJournal::open(&journal, TOOL_CONFIG).map_err(|error| {
                if matches!(error, OpenError::InUse(_)) {
                    anyhow::anyhow!("a control plane runs on {}, but nobody listens at {}: is it just starting, or are you another user?", state_dir.display(), local::path(state_dir).display())
                } else {
                    error.into()
                }
            })?;
            let point = Checkpoint::of_journal(Arc::new(journal))?;
            write(&point, state_dir, parts, &mut checked)?;
        }
    }
    let bytes = checked.bytes;
    checked.checker.finish().context("the control plane did not finish the backup; its log says why")?;
    Ok(bytes)
}

/// Passes a backup on and checks it.
struct Checked<'a, W> {
    out: &'a mut W,
    checker: Checker,
    bytes: u64,
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.checker.write_all(&bytes[..written])?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Fills an empty state folder from a backup, or only checks one.
pub(crate) fn restore(args: &RestoreArgs, state_dir: &Path) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    if args.check {
        let header = restore::check(&args.file)?;
        writeln!(out, "the backup is whole: taken {} by version {}", header.taken_at, header.version)?;
        describe(&mut out, &header)?;
        return Ok(true);
    }
    let wanted = args.until.clone().unwrap_or(Wanted::All);
    let Restored { header, journal, state, files, file_bytes } =
        restore::restore(&args.file, state_dir, &wanted)?;
    writeln!(out, "restored into {}", state_dir.display())?;
    writeln!(
        out,
        "journal: {} events of {} streams, the newest of {}",
        journal.events,
        journal.streams,
        rfc3339(journal.last)
    )?;
    if journal.left_out > 0 {
        writeln!(out, "left out: {} later events", journal.left_out)?;
    }
    writeln!(out, "files: {files}, {file_bytes} bytes")?;
    writeln!(out, "incarnation: {} (it was {})", journal.incarnation, header.incarnation)?;
    writeln!(out, "state: {state}")?;
    if journal.left_out == 0 && state == header.state {
        writeln!(out, "that is the state that the backup was taken of")?;
    }
    for (there, what) in
        [(header.parts.artifacts, "archives of releases"), (header.parts.output, "output of tasks")]
    {
        if !there {
            writeln!(out, "missing: the backup was taken without the {what}")?;
        }
    }
    Ok(true)
}

fn describe(out: &mut impl Write, header: &Header) -> io::Result<()> {
    for it in &header.streams {
        let name = it
            .tenant
            .as_ref()
            .map_or_else(|| it.stream.to_string(), |tenant| format!("{} ({tenant})", it.stream));
        writeln!(out, "{name}: {} events, {}", it.events, it.hash)?;
    }
    writeln!(out, "incarnation: {}", header.incarnation)?;
    writeln!(out, "newest event: {}", header.last_event_at)?;
    writeln!(out, "state: {}", header.state)
}

fn parse_wanted(text: &str) -> Result<Wanted, String> {
    if let Ok(time) = parse_rfc3339(text) {
        return Ok(Wanted::Until(Until::Time(time)));
    }
    let event = text.rsplit_once('@').and_then(|(stream, position)| {
        Some(Wanted::Event(stream.to_owned(), Position(position.parse().ok()?)))
    });
    event.ok_or_else(|| {
        "write a time as in 2026-01-31T09:30:00Z, or an event as in acme@1234 or system@7".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn args(file: Option<PathBuf>, into: Option<PathBuf>) -> BackupArgs {
        let keep = NonZeroUsize::new(7).unwrap();
        BackupArgs { file, into, keep, without_artifacts: false, without_output: false }
    }

    fn members(backup: &Path) -> Vec<PathBuf> {
        let mut archive = tar::Archive::new(File::open(backup).unwrap());
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect()
    }

    /// Otherwise each is as large as all before it together.
    #[test]
    fn backups_that_are_put_into_the_state_folder_are_in_no_backup() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path();
        drop(SledJournal::open(&state_dir.join("journal"), TOOL_CONFIG).unwrap());
        let (shelf, by_hand) = (state_dir.join("backups"), state_dir.join("mine"));
        fs::create_dir(&shelf).unwrap();
        fs::write(shelf.join(".stella-x1y2z3.unfinished"), "cut off").unwrap();
        fs::write(state_dir.join("notes"), "mine").unwrap();
        backup(&args(Some(by_hand.clone()), None), state_dir, 0).unwrap();
        for _ in 0..2 {
            backup(&args(None, Some(shelf.clone())), state_dir, 0).unwrap();
        }
        let last = folder.path().join("last");
        backup(&args(Some(last.clone()), None), state_dir, 0).unwrap();
        for backup in [by_hand, last] {
            let members: Vec<_> = members(&backup).iter().map(|it| it.display().to_string()).collect();
            assert_eq!(members, ["stella-backup.json", "state/notes", "journal/000001.jsonl.gz", "sha256"]);
        }
    }
}
