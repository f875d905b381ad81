//! Unpacking an archive that nobody vouches for but its digest.
//!
//! Entries are looked at one by one and written through the folder's handle; the `unpack` functions of the `tar` crate are
//! not used. Two walls, then: the rules below, which name the entry to a person, and `cap-std`, which would refuse what they
//! overlook.
//!
//! - Paths are relative and without `..`, and never go through a link of the same archive.
//! - A symbolic link's target is relative, has `..` only at its beginning, and stays inside. With `..` only there, it means
//!   the same by its text as on the disk, whatever other links there are.
//! - A hard link's target is a file of the same archive that has been unpacked already.
//! - No devices, pipes or sparse files; no owners; no set-uid, set-gid and sticky bits.
//! - Bytes, entries, folders that are named nowhere but in paths, depth, path lengths and header sizes are bounded, whatever the
//!   headers say, and what has to stay free on the disk stays free.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use cap_std::fs::{Dir, OpenOptions, Permissions, PermissionsExt as _};
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use tar::{Archive, Entry, EntryType};

use super::super::{Limits, Stopped};
use super::list::FileList;
use super::room::{self, ENTRY_BYTES, Room};

/// The most that an archive may unpack to, in bytes.
pub const UNPACKED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// How many entries an archive may have, with the folders that only their paths name.
pub const ENTRIES_MAX: usize = 100_000;

/// How many names a path may have.
pub const DEPTH_MAX: usize = 64;

/// How long all paths and targets of links may be together, in bytes: they are held in memory until the release is on the disk.
pub const PATHS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An archive may unpack to this many times its own size ...
const RATIO_MAX: u64 = 20;

/// ... or to this many bytes, if that is more: small texts compress well.
const UNPACKED_BYTES_FLOOR: u64 = 64 * 1024 * 1024;

/// The longest path in an archive, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// How much may be read to get to the next entry, in bytes: its header, long names and attributes.
const HEADER_BYTES_MAX: u64 = 64 * 1024;

const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    #[error("the archive's entry {path:?} {problem}; nothing was changed")]
    Entry { path: String, problem: Problem },
    #[error("the archive has more than {ENTRIES_MAX} entries and folders; nothing was changed")]
    TooMany,
    #[error("the paths in the archive have more than {PATHS_BYTES_MAX} bytes together; nothing was changed")]
    LongPaths,
    #[error("the archive cannot be unpacked; nothing was changed")]
    Room(#[from] room::Error),
    #[error("the archive has no entries; nothing was changed")]
    Empty,
    #[error("the archive cannot be read as .tar or .tar.gz; nothing was changed")]
    Read(#[source] io::Error),
    #[error("cannot unpack {path:?}")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// What is wrong with an entry.
#[derive(Debug)]
pub(in super::super) enum Problem {
    Absolute,
    ParentDir,
    TooDeep,
    BelowLink,
    TooLong,
    LinkLeaves(String),
    HardLink(String),
    Kind(&'static str),
    Twice,
    TooLarge(u64),
    Short,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute => f.write_str("has an absolute path"),
            Self::ParentDir => f.write_str("has .. in its path"),
            Self::TooDeep => write!(f, "is more than {DEPTH_MAX} folders deep"),
            Self::BelowLink => f.write_str("goes through a link of the same archive"),
            Self::TooLong => write!(f, "has a path of more than {PATH_BYTES_MAX} bytes"),
            Self::LinkLeaves(target) => {
                write!(f, "is a link that leaves the release: its target is {target:?}")
            }
            Self::HardLink(target) => {
                write!(f, "is a hard link to {target:?}, which is no file before it in the archive")
            }
            Self::Kind(kind) => write!(f, "is {kind}, which cannot be part of a release"),
            Self::Twice => f.write_str("is in the archive twice"),
            Self::TooLarge(limit) => {
                write!(f, "brings the unpacked archive beyond {limit} bytes, the limit for its size")
            }
            Self::Short => f.write_str("is cut off"),
        }
    }
}

impl Error {
    /// Why unpacking was stopped, if it was.
    pub(super) const fn stopped(&self) -> Option<Stopped> {
        match self {
            Self::Stopped(stopped) => Some(*stopped),
            Self::Entry { .. }
            | Self::TooMany
            | Self::LongPaths
            | Self::Room(_)
            | Self::Empty
            | Self::Read(_)
            | Self::Write { .. } => None,
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
    let bytes_max = archive_bytes.saturating_mul(RATIO_MAX).clamp(UNPACKED_BYTES_FLOOR, UNPACKED_BYTES_MAX);
    let allowance = Rc::new(Cell::new(0));
    let reader = Metered { inner: open(file).map_err(Error::Read)?, allowance: Rc::clone(&allowance) };
    let mut archive = Archive::new(reader);
    let mut entries = archive.entries().map_err(Error::Read)?;
    let mut unpacker = Unpacker::new(into, bytes_max, room, limits);
    loop {
        limits.check()?;
        allowance.set(HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(Error::Read)?;
        // The data and its padding. The unpacker counts what comes out; this counts what goes in.
        allowance.set((bytes_max - unpacker.done.bytes).saturating_add(HEADER_BYTES_MAX));
        unpacker.entry(entry)?;
    }
    unpacker.finish()
}

fn open(mut file: fs::File) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 2];
    let is_gzip = match file.read_exact(&mut magic) {
        Ok(()) => magic == [0x1f, 0x8b],
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(0))?;
    let file = BufReader::with_capacity(PIECE_BYTES, file);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Fails once more was read than allowed: long names are held in memory by the `tar` crate, at any length.
struct Metered {
    inner: Box<dyn Read>,
    allowance: Rc<Cell<u64>>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let left = self.allowance.get().checked_sub(length as u64);
        self.allowance.set(left.ok_or_else(|| io::Error::other("a header or its names are too large"))?);
        Ok(length)
    }
}

struct Unpacker<'a> {
    into: &'a Dir,
    bytes_max: u64,
    room: Room,
    limits: &'a Limits,
    /// Those that are there.
    folders: HashSet<PathBuf>,
    /// Of all paths that are held here and in the list.
    paths_bytes: usize,
    /// Entries, and folders that none of them has named.
    count: usize,
    /// Modes are set at the end: a folder without write permission must be filled first.
    dirs: Vec<(PathBuf, u32)>,
    done: Unpacked,
}

impl<'a> Unpacker<'a> {
    fn new(into: &'a Dir, bytes_max: u64, room: Room, limits: &'a Limits) -> Self {
        Self {
            into,
            bytes_max,
            room,
            limits,
            folders: HashSet::new(),
            paths_bytes: 0,
            count: 0,
            dirs: Vec::new(),
            done: Unpacked::default(),
        }
    }

    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), Error> {
        let shown = shown(&entry.path_bytes());
        let refuse = |problem| Error::Entry { path: shown.clone(), problem };
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            // A comment, as git writes it. Read here, so that the way to the next entry is short.
            io::copy(&mut entry.take(HEADER_BYTES_MAX), &mut io::sink()).map_err(Error::Read)?;
            return Ok(());
        }
        self.done.entries += 1;
        self.count()?;
        let path = self.inner_path(&entry.path_bytes()).map_err(refuse)?;
        if path.as_os_str().is_empty() {
            // "./", the release's own folder.
            return if kind == EntryType::Directory { Ok(()) } else { Err(refuse(Problem::Twice)) };
        }
        let mode = entry.header().mode().map_err(Error::Read)? & 0o777;
        self.hold(&path)?;
        self.room.take(ENTRY_BYTES)?;
        if let Some(parent) = path.parent() {
            self.folders(parent, &shown)?;
        }
        if kind.is_file() || kind.is_contiguous() {
            self.file(&mut entry, path, mode, &shown)
        } else if kind.is_dir() {
            if self.done.files.has_link(&path) || self.done.files.has_file(&path) {
                return Err(refuse(Problem::Twice));
            }
            if !self.folders.contains(&path) {
                self.hold(&path)?;
                self.into.create_dir(&path).map_err(|error| taken(error, &shown))?;
                self.folders.insert(path.clone());
            }
            self.done.files.dir(path.clone());
            self.dirs.push((path, mode | 0o700));
            Ok(())
        } else if kind.is_symlink() || kind.is_hard_link() {
            self.link(path, &link_target(&entry), kind.is_symlink(), &shown)
        } else {
            Err(refuse(Problem::Kind(name_of(kind))))
        }
    }

    /// One more entry or folder.
    const fn count(&mut self) -> Result<(), Error> {
        self.count += 1;
        if self.count > ENTRIES_MAX { Err(Error::TooMany) } else { Ok(()) }
    }

    /// A path will be held in memory.
    fn hold(&mut self, path: &Path) -> Result<(), Error> {
        self.paths_bytes = self.paths_bytes.saturating_add(path.as_os_str().len());
        if self.paths_bytes > PATHS_BYTES_MAX { Err(Error::LongPaths) } else { Ok(()) }
    }

    /// Makes the folders of a path, and counts those that are new: an entry can name hundreds.
    fn folders(&mut self, path: &Path, shown: &str) -> Result<(), Error> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !self.folders.contains(*folder))
            .collect();
        for folder in missing.into_iter().rev() {
            self.limits.check()?;
            self.count()?;
            self.hold(folder)?;
            self.room.take(ENTRY_BYTES)?;
            self.into.create_dir(folder).map_err(|error| taken(error, shown))?;
            self.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    fn link(&mut self, path: PathBuf, target: &[u8], is_symbolic: bool, shown: &str) -> Result<(), Error> {
        let refuse = |problem| Error::Entry { path: shown.to_owned(), problem };
        if is_symbolic {
            let target = inner_target(&path, target).map_err(refuse)?;
            self.hold(&target)?;
            self.into.symlink_contents(&target, &path).map_err(|error| taken(error, shown))?;
            self.done.files.symbolic_link(path, target);
        } else {
            let file = self.inner_path(target).ok().filter(|target| self.done.files.has_file(target));
            let file = file.ok_or_else(|| refuse(Problem::HardLink(self::shown(target))))?;
            self.into.hard_link(&file, self.into, &path).map_err(|error| taken(error, shown))?;
            self.done.files.hard_link(path, &file);
        }
        Ok(())
    }

    /// The path inside the release; empty for the release's own folder.
    fn inner_path(&self, bytes: &[u8]) -> Result<PathBuf, Problem> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(Problem::TooLong);
        }
        let mut path = PathBuf::new();
        for part in Path::new(std::ffi::OsStr::from_bytes(bytes)).components() {
            if self.done.files.has_link(&path) {
                return Err(Problem::BelowLink);
            }
            match part {
                Component::Normal(name) => path.push(name),
                Component::CurDir => {}
                Component::ParentDir => return Err(Problem::ParentDir),
                Component::RootDir | Component::Prefix(_) => return Err(Problem::Absolute),
            }
        }
        if path.components().count() > DEPTH_MAX { Err(Problem::TooDeep) } else { Ok(path) }
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: PathBuf,
        mode: u32,
        shown: &str,
    ) -> Result<(), Error> {
        let refuse = |problem| Error::Entry { path: shown.to_owned(), problem };
        let write = |source| Error::Write { path: shown.to_owned(), source };
        let size = entry.size();
        if size > self.bytes_max - self.done.bytes {
            return Err(refuse(Problem::TooLarge(self.bytes_max)));
        }
        if size > ENTRY_BYTES {
            self.room.look(size)?;
        }
        let options = OpenOptions::new().write(true).create_new(true).clone();
        let mut file = self.into.open_with(&path, &options).map_err(|error| taken(error, shown))?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut hasher = Sha256::new();
        let mut left = size;
        while left > 0 {
            self.limits.check()?;
            let length = entry.read(&mut piece).map_err(Error::Read)?;
            if length == 0 {
                return Err(refuse(Problem::Short));
            }
            self.room.take(length as u64)?;
            file.write_all(&piece[..length]).map_err(write)?;
            hasher.update(&piece[..length]);
            left = left.saturating_sub(length as u64);
        }
        file.set_permissions(Permissions::from_mode(mode)).map_err(write)?;
        self.done.bytes += size;
        self.done.files.file(path, mode, size, Digest(hasher.finalize().into()));
        Ok(())
    }

    fn finish(self) -> Result<Unpacked, Error> {
        if self.done.entries == 0 {
            return Err(Error::Empty);
        }
        for (path, mode) in self.dirs.iter().rev() {
            let set = self.into.set_permissions(path, Permissions::from_mode(*mode));
            set.map_err(|source| Error::Write { path: path.display().to_string(), source })?;
        }
        Ok(self.done)
    }
}

fn taken(error: io::Error, path: &str) -> Error {
    let path = path.to_owned();
    if error.kind() == io::ErrorKind::AlreadyExists {
        Error::Entry { path, problem: Problem::Twice }
    } else {
        Error::Write { path, source: error }
    }
}

fn link_target(entry: &Entry<'_, impl Read>) -> Vec<u8> {
    entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default()
}

/// The target of a symbolic link, if it stays inside the release.
fn inner_target(link: &Path, target: &[u8]) -> Result<PathBuf, Problem> {
    let leaves = || Problem::LinkLeaves(shown(target));
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(target));
    let mut depth = link.components().count() - 1;
    let mut is_beginning = true;
    for part in path.components() {
        match part {
            Component::Normal(_) => is_beginning = false,
            Component::CurDir => {}
            Component::ParentDir if is_beginning => depth = depth.checked_sub(1).ok_or_else(leaves)?,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(leaves()),
        }
    }
    if target.is_empty() || target.len() > PATH_BYTES_MAX { Err(leaves()) } else { Ok(path) }
}

fn name_of(kind: EntryType) -> &'static str {
    if kind.is_character_special() || kind.is_block_special() {
        "a device"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_gnu_sparse() {
        "a sparse file"
    } else {
        "of an unknown kind"
    }
}

/// A path from an archive as it may be shown to a person.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).into_owned()
}
