//! What an archive of a release may hold. It is asked by who makes one, by the control plane that takes it, and by the host that unpacks
//! it, which believes neither of the others.
//!
//! Nothing here touches a disk: entries are read one by one, bounded, and what the rules let through is handed to a [`Sink`].
//!
//! - Paths are relative and without `..`, and never go through a link of the same archive.
//! - A symbolic link's target is relative, has `..` only at its beginning, and stays inside. With `..` only there, it means
//!   the same by its text as on the disk, whatever other links there are.
//! - A hard link's target is a file of the same archive that has come already.
//! - Each path is there once; a folder may be named again.
//! - No devices, pipes or sparse files; no owners; no set-uid, set-gid and sticky bits.
//! - Bytes, entries, folders that are named nowhere but in paths, depth, path lengths and header sizes are bounded, whatever the
//!   headers say.

mod check;
mod problem;

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

pub use check::{check, check_while};
pub use problem::{Error, Problem};

/// The most that an archive may unpack to, in bytes.
pub const UNPACKED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// How many entries an archive may have, with the folders that only their paths name.
pub const ENTRIES_MAX: usize = 100_000;

/// How many names a path may have.
pub const DEPTH_MAX: usize = 64;

/// How long all paths and targets of links may be together, in bytes: they are held in memory until the archive has ended.
pub const PATHS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An archive may unpack to this many times its own size ...
const RATIO_MAX: u64 = 20;

/// ... or to this many bytes, if that is more: small texts compress well.
const UNPACKED_BYTES_FLOOR: u64 = 64 * 1024 * 1024;

/// The longest path in an archive, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// The longest name in a path, in bytes: what file systems take.
const NAME_BYTES_MAX: usize = 255;

/// How much may be read to get to the next entry, in bytes: its header, long names and attributes.
const HEADER_BYTES_MAX: u64 = 64 * 1024;

/// How much the way to all entries may be together, for each that an archive may have, in bytes: a header, and twice a long name with one
/// of its own.
const HEADER_BYTES_USUAL: u64 = 4 * 1024;

const PIECE_BYTES: usize = 64 * 1024;

/// What has a path in an archive, apart from folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, by its first name or another.
    File,
    /// A symbolic link.
    Link,
}

/// Takes what the rules let through, in the archive's order. What it answers with ends the reading.
pub trait Sink {
    /// Why it does not go on.
    type Error;

    /// What it has taken under this path.
    fn kind(&self, path: &Path) -> Option<Kind>;
    /// Asked before each entry, each folder and each piece of a file.
    fn may_go_on(&mut self) -> Result<(), Self::Error>;
    /// A folder that is new. Its own entry may come later, or never.
    fn folder(&mut self, path: &Path) -> Result<(), Self::Error>;
    /// The entry of a folder that is there, with its mode.
    fn folder_entry(&mut self, path: PathBuf, mode: u32) -> Result<(), Self::Error>;
    /// A symbolic link.
    fn symbolic_link(&mut self, path: PathBuf, target: PathBuf) -> Result<(), Self::Error>;
    /// Another name of a file that has come.
    fn hard_link(&mut self, path: PathBuf, of: &Path) -> Result<(), Self::Error>;
    /// A file begins; `size` bytes of it follow.
    fn begin_file(&mut self, path: &Path, mode: u32, size: u64) -> Result<(), Self::Error>;
    /// The next bytes of the file that has begun.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The file that has begun is whole.
    fn end_file(&mut self, path: PathBuf) -> Result<(), Self::Error>;
}

/// Why an archive was not read to its end.
#[derive(Debug)]
pub enum Failed<E> {
    /// Something is wrong with it.
    Archive(Error),
    /// The sink did not go on.
    Sink(E),
}

impl<E> From<Error> for Failed<E> {
    fn from(error: Error) -> Self {
        Self::Archive(error)
    }
}

/// What an archive was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many entries it has.
    pub entries: usize,
    /// How many bytes its files are.
    pub bytes: u64,
}

/// Reads an archive (`.tar`, `.tar.gz`) of so many bytes and hands on what may be in it. Blocks on the reader.
///
/// # Errors
/// [`Failed::Archive`] for the first thing that is wrong with it, and what the sink says. What was handed on then means nothing.
pub fn read<S: Sink>(
    archive: impl Read + 'static,
    archive_bytes: u64,
    sink: &mut S,
) -> Result<Summary, Failed<S::Error>> {
    let bytes_max = archive_bytes.saturating_mul(RATIO_MAX).clamp(UNPACKED_BYTES_FLOOR, UNPACKED_BYTES_MAX);
    let allowance = Rc::new(Cell::new(0));
    let left = bytes_max + ENTRIES_MAX as u64 * HEADER_BYTES_USUAL;
    let reader =
        Metered { inner: open(archive).map_err(Error::Read)?, allowance: Rc::clone(&allowance), left };
    let mut archive = Archive::new(reader);
    let mut entries = archive.entries().map_err(Error::Read)?;
    let mut walk = Walk::new(bytes_max, sink);
    loop {
        walk.may_go_on()?;
        allowance.set(HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(Error::Read)?;
        // The data and its padding. The walk counts what comes out; this counts what goes in.
        allowance.set((bytes_max - walk.done.bytes).saturating_add(HEADER_BYTES_MAX));
        walk.entry(entry)?;
    }
    if walk.done.entries == 0 {
        return Err(Error::Empty.into());
    }
    Ok(walk.done)
}

fn open(archive: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut archive = BufReader::with_capacity(PIECE_BYTES, archive);
    let is_gzip = archive.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(archive)) } else { Box::new(archive) })
}

/// Fails once more was read than allowed: long names are held in memory by the `tar` crate, at any length.
struct Metered {
    inner: Box<dyn Read>,
    /// How much there may be up to the next entry, in bytes.
    allowance: Rc<Cell<u64>>,
    /// How much there may be up to the archive's end, in bytes, whatever it is: what unpacks to nothing takes its time as well.
    left: u64,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let left = self.allowance.get().checked_sub(length as u64);
        self.allowance.set(left.ok_or_else(|| io::Error::other("a header or its names are too large"))?);
        let left = self.left.checked_sub(length as u64);
        self.left = left.ok_or_else(|| io::Error::other("its headers are too large together"))?;
        Ok(length)
    }
}

struct Walk<'s, S> {
    sink: &'s mut S,
    bytes_max: u64,
    /// Those that are there.
    folders: HashSet<PathBuf>,
    /// Of all paths that are held here and by the sink.
    paths_bytes: usize,
    /// Entries, comments between them, and folders that none of them has named.
    count: usize,
    done: Summary,
}

impl<'s, S: Sink> Walk<'s, S> {
    fn new(bytes_max: u64, sink: &'s mut S) -> Self {
        let (folders, done) = (HashSet::new(), Summary::default());
        Self { sink, bytes_max, folders, paths_bytes: 0, count: 0, done }
    }

    fn may_go_on(&mut self) -> Result<(), Failed<S::Error>> {
        self.sink.may_go_on().map_err(Failed::Sink)
    }

    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), Failed<S::Error>> {
        let name = entry.path_bytes().into_owned();
        let refuse = |problem| Error::entry(&name, problem);
        let kind = entry.header().entry_type();
        self.count()?;
        if kind == EntryType::XGlobalHeader {
            // A comment, as git writes it. Read here, so that the way to the next entry is short.
            io::copy(&mut entry.take(HEADER_BYTES_MAX), &mut io::sink()).map_err(Error::Read)?;
            return Ok(());
        }
        self.done.entries += 1;
        let path = self.inner_path(&name).map_err(refuse)?;
        if path.as_os_str().is_empty() {
            // "./", the release's own folder.
            return if kind == EntryType::Directory { Ok(()) } else { Err(refuse(Problem::Twice).into()) };
        }
        let mode = entry.header().mode().map_err(Error::Read)? & 0o777;
        self.hold(&path)?;
        if let Some(parent) = path.parent() {
            self.folders(parent)?;
        }
        if kind.is_dir() {
            if self.sink.kind(&path).is_some() {
                return Err(refuse(Problem::Twice).into());
            }
            if !self.folders.contains(&path) {
                self.folder(&path)?;
            }
            return self.sink.folder_entry(path, mode).map_err(Failed::Sink);
        }
        let is_known = kind.is_file() || kind.is_contiguous() || kind.is_symlink() || kind.is_hard_link();
        if !is_known {
            return Err(refuse(Problem::Kind(name_of(kind))).into());
        }
        if self.sink.kind(&path).is_some() || self.folders.contains(&path) {
            return Err(refuse(Problem::Twice).into());
        }
        if kind.is_symlink() || kind.is_hard_link() {
            self.link(path, &link_target(&entry), kind.is_symlink(), &name)
        } else {
            self.file(&mut entry, path, mode, &name)
        }
    }

    /// One more entry, comment or folder.
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
    fn folders(&mut self, path: &Path) -> Result<(), Failed<S::Error>> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !self.folders.contains(*folder))
            .collect();
        for folder in missing.into_iter().rev() {
            self.may_go_on()?;
            self.count()?;
            self.folder(folder)?;
        }
        Ok(())
    }

    /// Nothing else has its path: that was looked at with the path that leads there.
    fn folder(&mut self, folder: &Path) -> Result<(), Failed<S::Error>> {
        self.hold(folder)?;
        self.sink.folder(folder).map_err(Failed::Sink)?;
        self.folders.insert(folder.to_owned());
        Ok(())
    }

    fn link(
        &mut self,
        path: PathBuf,
        target: &[u8],
        is_symbolic: bool,
        name: &[u8],
    ) -> Result<(), Failed<S::Error>> {
        let refuse = |problem| Error::entry(name, problem);
        let taken = if is_symbolic {
            let target = inner_target(&path, target).map_err(refuse)?;
            self.hold(&target)?;
            self.sink.symbolic_link(path, target)
        } else {
            let file = self.inner_path(target).ok();
            let file = file.filter(|target| self.sink.kind(target) == Some(Kind::File));
            let file = file.ok_or_else(|| refuse(Problem::HardLink(problem::shown(target))))?;
            self.sink.hard_link(path, &file)
        };
        taken.map_err(Failed::Sink)
    }

    /// The path inside the release; empty for the release's own folder.
    fn inner_path(&self, bytes: &[u8]) -> Result<PathBuf, Problem> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(Problem::TooLong);
        }
        // An extended header can have one.
        if bytes.contains(&0) {
            return Err(Problem::Nul);
        }
        let mut path = PathBuf::new();
        for part in Path::new(std::ffi::OsStr::from_bytes(bytes)).components() {
            match self.sink.kind(&path) {
                Some(Kind::Link) => return Err(Problem::BelowLink),
                Some(Kind::File) => return Err(Problem::Twice),
                None => {}
            }
            match part {
                Component::Normal(name) if name.len() > NAME_BYTES_MAX => return Err(Problem::LongName),
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
        name: &[u8],
    ) -> Result<(), Failed<S::Error>> {
        let size = entry.size();
        if size > self.bytes_max - self.done.bytes {
            return Err(Error::entry(name, Problem::TooLarge(self.bytes_max)).into());
        }
        self.sink.begin_file(&path, mode, size).map_err(Failed::Sink)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = size;
        while left > 0 {
            self.may_go_on()?;
            let length = entry.read(&mut piece).map_err(Error::Read)?;
            if length == 0 {
                return Err(Error::entry(name, Problem::Short).into());
            }
            self.sink.bytes(&piece[..length]).map_err(Failed::Sink)?;
            left = left.saturating_sub(length as u64);
        }
        self.done.bytes += size;
        self.sink.end_file(path).map_err(Failed::Sink)
    }
}

fn link_target(entry: &Entry<'_, impl Read>) -> Vec<u8> {
    entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default()
}

/// The target of a symbolic link, if it stays inside the release.
fn inner_target(link: &Path, target: &[u8]) -> Result<PathBuf, Problem> {
    if target.contains(&0) {
        return Err(Problem::Nul);
    }
    let leaves = || Problem::LinkLeaves(problem::shown(target));
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
