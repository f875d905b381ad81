//! Unpacking an archive that nobody vouches for but its digest.
//!
//! Two walls: the rules of `stella-archive`, which name the entry to a person and which the control plane asks too, and `cap-std`,
//! through whose handle of the folder all is written, and which would refuse what they overlook. What has to stay free on the disk
//! stays free.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, File, OpenOptions, Permissions, PermissionsExt as _};
use sha2::{Digest as _, Sha256};
use stella_archive::{Failed, Kind, Problem, Sink};
use stella_protocol::digest::Digest;

use super::super::{Limits, Stopped};
use super::list::FileList;
use super::room::{self, ENTRY_BYTES, Room};

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    #[error("{}; nothing was changed", .0)]
    Archive(#[source] stella_archive::Error),
    #[error("the archive cannot be unpacked; nothing was changed")]
    Room(#[from] room::Error),
    #[error("cannot unpack {path:?}")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

impl Error {
    /// Why unpacking was stopped, if it was.
    pub(super) const fn stopped(&self) -> Option<Stopped> {
        match self {
            Self::Stopped(stopped) => Some(*stopped),
            Self::Archive(_) | Self::Room(_) | Self::Write { .. } => None,
        }
    }
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) entries: usize,
    pub(super) bytes: u64,
    pub(super) files: FileList,
}

/// Unpacks into an empty folder. On an error, what is in the folder means nothing.
pub(super) fn unpack(
    file: fs::File,
    into: &Dir,
    archive_bytes: u64,
    room: Room,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    let mut unpacker =
        Unpacker { into, room, limits, dirs: Vec::new(), files: FileList::default(), open: None };
    let done = stella_archive::read(file, archive_bytes, &mut unpacker).map_err(|failed| match failed {
        Failed::Archive(error) => Error::Archive(error),
        Failed::Sink(error) => error,
    })?;
    Ok(Unpacked { entries: done.entries, bytes: done.bytes, files: unpacker.finish()? })
}

struct Unpacker<'a> {
    into: &'a Dir,
    room: Room,
    limits: &'a Limits,
    /// Modes are set at the end: a folder without write permission must be filled first.
    dirs: Vec<(PathBuf, u32)>,
    files: FileList,
    /// The file that has begun.
    open: Option<Open>,
}

/// A file that is being written.
struct Open {
    file: File,
    shown: String,
    mode: u32,
    size: u64,
    hasher: Sha256,
}

impl Sink for Unpacker<'_> {
    type Error = Error;

    fn kind(&self, path: &Path) -> Option<Kind> {
        self.files.kind(path)
    }

    fn may_go_on(&mut self) -> Result<(), Error> {
        Ok(self.limits.check()?)
    }

    fn folder(&mut self, path: &Path) -> Result<(), Error> {
        self.room.take(ENTRY_BYTES)?;
        self.into.create_dir(path).map_err(|error| taken(error, path))
    }

    fn folder_entry(&mut self, path: PathBuf, mode: u32) -> Result<(), Error> {
        self.files.dir(path.clone());
        self.dirs.push((path, mode | 0o700));
        Ok(())
    }

    fn symbolic_link(&mut self, path: PathBuf, target: PathBuf) -> Result<(), Error> {
        self.room.take(ENTRY_BYTES)?;
        self.into.symlink_contents(&target, &path).map_err(|error| taken(error, &path))?;
        self.files.symbolic_link(path, target);
        Ok(())
    }

    fn hard_link(&mut self, path: PathBuf, of: &Path) -> Result<(), Error> {
        self.room.take(ENTRY_BYTES)?;
        self.into.hard_link(of, self.into, &path).map_err(|error| taken(error, &path))?;
        self.files.hard_link(path, of);
        Ok(())
    }

    fn begin_file(&mut self, path: &Path, mode: u32, size: u64) -> Result<(), Error> {
        self.room.take(ENTRY_BYTES)?;
        if size > ENTRY_BYTES {
            self.room.look(size)?;
        }
        let options = OpenOptions::new().write(true).create_new(true).clone();
        let file = self.into.open_with(path, &options).map_err(|error| taken(error, path))?;
        self.open = Some(Open { file, shown: shown(path), mode, size, hasher: Sha256::new() });
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        self.room.take(bytes.len() as u64)?;
        open.file.write_all(bytes).map_err(|source| Error::Write { path: open.shown.clone(), source })?;
        open.hasher.update(bytes);
        Ok(())
    }

    fn end_file(&mut self, path: PathBuf) -> Result<(), Error> {
        let Some(Open { file, shown, mode, size, hasher }) = self.open.take() else { return Ok(()) };
        let set = file.set_permissions(Permissions::from_mode(mode));
        set.map_err(|source| Error::Write { path: shown, source })?;
        self.files.file(path, mode, size, Digest(hasher.finalize().into()));
        Ok(())
    }
}

impl Unpacker<'_> {
    fn finish(self) -> Result<FileList, Error> {
        for (path, mode) in self.dirs.iter().rev() {
            let set = self.into.set_permissions(path, Permissions::from_mode(*mode));
            set.map_err(|source| Error::Write { path: path.display().to_string(), source })?;
        }
        Ok(self.files)
    }
}

/// What the rules would have to refuse before the disk does.
fn taken(error: io::Error, path: &Path) -> Error {
    if error.kind() == io::ErrorKind::AlreadyExists {
        let path = shown(path);
        Error::Archive(stella_archive::Error::Entry { path, problem: Problem::Twice })
    } else {
        Error::Write { path: shown(path), source: error }
    }
}

/// A path as it may be shown to a person.
fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().take(256).collect()
}
