//! The list of what a release was unpacked to, kept beside it, and whether the release still is that.
//!
//! ```text
//! stella-files 1 sha256:<of the archive>
//! file x 1234 sha256:<...> bin/web       `x` if its owner may execute it, else `-`; then its size in bytes
//! dir log
//! link ../lib lib64                      target, then path
//! end 3 sha256:<of all lines before this one>
//! ```
//!
//! Bytes of a path that are not printable, spaces and `%` are written as `%20`. The list is made from the bytes on their way to
//! the disk, so that it says what was verified against the release's digest and not what the disk made of it.
//!
//! What is compared is what the release brought: contents, targets of links, and whether a program can be executed. Files that
//! were added since do no harm, for programs leave caches and logs beside themselves; owners and other modes are the business of
//! the release's own steps.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};
use stella_archive::Kind;
use stella_protocol::digest::Digest;

use super::super::Stopped;
use super::remove::MayGoOn;

/// The first line, before the archive's digest. Another form has another number.
const HEAD: &str = "stella-files 1";

/// The longest line that is read, in bytes: two paths of an archive, every byte of them escaped, and what is before them.
const LINE_BYTES_MAX: u64 = 8 * 1024;

/// How much of a file is read at once, in bytes.
const PIECE_BYTES: usize = 128 * 1024;

/// How many things that are wrong are named before they are only counted.
const NAMED_MAX: usize = 3;

/// What a release was unpacked to.
#[derive(Debug, Default)]
pub(super) struct FileList(BTreeMap<PathBuf, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    File { executable: bool, size: u64, digest: Digest },
    Dir,
    Link(PathBuf),
}

impl FileList {
    /// Notes a file as it was written.
    pub(super) fn file(&mut self, path: PathBuf, mode: u32, size: u64, digest: Digest) {
        self.0.insert(path, Entry::File { executable: is_executable(mode), size, digest });
    }

    /// Notes a second name of a file.
    pub(super) fn hard_link(&mut self, path: PathBuf, of: &Path) {
        if let Some(entry) = self.0.get(of).cloned() {
            self.0.insert(path, entry);
        }
    }

    pub(super) fn symbolic_link(&mut self, path: PathBuf, target: PathBuf) {
        self.0.insert(path, Entry::Link(target));
    }

    pub(super) fn dir(&mut self, path: PathBuf) {
        self.0.insert(path, Entry::Dir);
    }

    /// What was unpacked to this path, but for folders.
    pub(super) fn kind(&self, path: &Path) -> Option<Kind> {
        match self.0.get(path)? {
            Entry::File { .. } => Some(Kind::File),
            Entry::Link(_) => Some(Kind::Link),
            Entry::Dir => None,
        }
    }

    /// Writes the list of the release with this digest.
    pub(super) fn write(&self, archive: Digest, into: &mut impl Write) -> io::Result<()> {
        let mut hasher = Sha256::new();
        let mut say = |line: String| {
            hasher.update(&line);
            into.write_all(line.as_bytes())
        };
        say(format!("{HEAD} {archive}\n"))?;
        for (path, entry) in &self.0 {
            let path = escaped(path);
            say(match entry {
                Entry::File { executable, size, digest } => {
                    let x = if *executable { 'x' } else { '-' };
                    format!("file {x} {size} {digest} {path}\n")
                }
                Entry::Dir => format!("dir {path}\n"),
                Entry::Link(target) => format!("link {} {path}\n", escaped(target)),
            })?;
        }
        let end = format!("end {} {}\n", self.0.len(), Digest(hasher.finalize().into()));
        into.write_all(end.as_bytes())
    }
}

/// What came of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// All is there and as it was unpacked.
    Same { files: u32, bytes: u64 },
    /// Something is not; what, for a person.
    Differs(String),
    /// Nobody can say; why, for a person.
    Unclear(String),
}

/// Compares a release's folder with its list. `may_go_on` is asked before each piece that is read.
pub(super) fn compare(
    list: File,
    archive: Digest,
    release: &Dir,
    may_go_on: MayGoOn<'_>,
) -> Result<Compared, Stopped> {
    let mut list = BufReader::new(list);
    let entries = match check(&mut list, archive, may_go_on)? {
        Ok(entries) => entries,
        Err(why) => return Ok(Compared::Unclear(format!("the list of its files {why}"))),
    };
    if let Err(error) = list.seek(SeekFrom::Start(0)).and_then(|_| read_line(&mut list)) {
        return Ok(Compared::Unclear(format!("the list of its files cannot be read: {error}")));
    }
    let mut sums = Sums::default();
    for _ in 0..entries {
        may_go_on()?;
        let line = match read_line(&mut list) {
            Ok(line) => line,
            Err(error) => {
                return Ok(Compared::Unclear(format!("the list of its files cannot be read: {error}")));
            }
        };
        let Some((path, entry)) = parse(&line) else {
            return Ok(Compared::Unclear("the list of its files is of a form that is not known".to_owned()));
        };
        let found = look(release, &path, &entry, may_go_on)?;
        sums.add(&path, &entry, found);
    }
    Ok(sums.result())
}

/// Whether the list is whole: how many entries it has, or what is the matter with it.
fn check(
    list: &mut BufReader<File>,
    archive: Digest,
    may_go_on: MayGoOn<'_>,
) -> Result<Result<u64, String>, Stopped> {
    let mut hasher = Sha256::new();
    let mut lines = 0_u64;
    loop {
        if lines.is_multiple_of(1024) {
            may_go_on()?;
        }
        let line = match read_line(list) {
            Ok(line) => line,
            Err(error) => return Ok(Err(format!("cannot be read: {error}"))),
        };
        if lines == 0 && line != format!("{HEAD} {archive}\n") {
            return Ok(Err("is not one of this release".to_owned()));
        }
        if let Some(end) = line.strip_prefix("end ") {
            let sum = Digest(hasher.finalize().into());
            let is_whole = end == format!("{} {sum}\n", lines.saturating_sub(1));
            return Ok(if is_whole { Ok(lines.saturating_sub(1)) } else { Err("is damaged".to_owned()) });
        }
        if line.is_empty() {
            return Ok(Err("has no end".to_owned()));
        }
        hasher.update(&line);
        lines += 1;
    }
}

/// One line with its end; empty at the end of the list.
fn read_line(list: &mut BufReader<File>) -> io::Result<String> {
    let mut line = String::new();
    list.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    if line.is_empty() || line.ends_with('\n') {
        return Ok(line);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a line is cut off or too long"))
}

fn parse(line: &str) -> Option<(PathBuf, Entry)> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let kind = words.next()?;
    let entry = match kind {
        "file" => {
            let executable = match words.next()? {
                "x" => true,
                "-" => false,
                _ => return None,
            };
            let size = words.next()?.parse().ok()?;
            Entry::File { executable, size, digest: words.next()?.parse().ok()? }
        }
        "dir" => Entry::Dir,
        "link" => Entry::Link(unescaped(words.next()?)?),
        _ => return None,
    };
    let path = unescaped(words.next()?)?;
    words.next().is_none().then_some((path, entry))
}

/// What became of one entry.
enum Found {
    Same,
    Differs(String),
    Unreadable(io::Error),
}

#[derive(Default)]
struct Sums {
    files: u32,
    bytes: u64,
    wrong: Vec<String>,
    wrong_beyond: usize,
    unreadable: Option<String>,
}

impl Sums {
    fn add(&mut self, path: &Path, entry: &Entry, found: Found) {
        match found {
            Found::Same => {
                if let Entry::File { size, .. } = entry {
                    self.files = self.files.saturating_add(1);
                    self.bytes = self.bytes.saturating_add(*size);
                }
            }
            Found::Differs(how) if self.wrong.len() < NAMED_MAX => {
                self.wrong.push(format!("{} {how}", shown(path)));
            }
            Found::Differs(_) => self.wrong_beyond += 1,
            Found::Unreadable(error) => {
                self.unreadable.get_or_insert_with(|| format!("{} cannot be read: {error}", shown(path)));
            }
        }
    }

    fn result(self) -> Compared {
        if !self.wrong.is_empty() {
            let more = match self.wrong_beyond {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            return Compared::Differs(format!("{}{more}", self.wrong.join(", ")));
        }
        match self.unreadable {
            Some(why) => Compared::Unclear(why),
            None => Compared::Same { files: self.files, bytes: self.bytes },
        }
    }
}

fn look(release: &Dir, path: &Path, entry: &Entry, may_go_on: MayGoOn<'_>) -> Result<Found, Stopped> {
    let found = match release.symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => return Ok(failed(error)),
    };
    let same = match entry {
        Entry::Dir => found.is_dir(),
        Entry::Link(target) => match release.read_link_contents(path) {
            Ok(now) => found.is_symlink() && now == *target,
            Err(_) => false,
        },
        Entry::File { executable, size, digest } => {
            if !found.is_file() || found.len() != *size {
                return Ok(Found::Differs("is not what was unpacked".to_owned()));
            }
            if *executable && !is_executable(found.mode()) {
                return Ok(Found::Differs("cannot be executed any more".to_owned()));
            }
            match hash(release, path, may_go_on)? {
                Ok(now) => now == *digest,
                Err(error) => return Ok(failed(error)),
            }
        }
    };
    Ok(if same { Found::Same } else { Found::Differs("is not what was unpacked".to_owned()) })
}

/// What the disk cannot read is lost; what this user may not read may be as it was.
fn failed(error: io::Error) -> Found {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        Found::Differs("is missing".to_owned())
    } else if kind == io::ErrorKind::PermissionDenied {
        Found::Unreadable(error)
    } else {
        Found::Differs(format!("cannot be read ({error})"))
    }
}

fn hash(release: &Dir, path: &Path, may_go_on: MayGoOn<'_>) -> Result<io::Result<Digest>, Stopped> {
    // What has become a pipe meanwhile is opened without waiting for somebody at its other end.
    let options = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).clone();
    let mut file = match release.open_with(path, &options) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    match file.metadata() {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Ok(Err(io::ErrorKind::NotFound.into())),
        Err(error) => return Ok(Err(error)),
    }
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        may_go_on()?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(Ok(Digest(hasher.finalize().into()))),
            Ok(length) => hasher.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

const fn is_executable(mode: u32) -> bool {
    mode & 0o100 != 0
}

fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            // Writing to a text cannot fail.
            let _written = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn unescaped(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// A path as it may be shown to a person.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().take(128).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_is_one_word_and_comes_back() {
        let strange = PathBuf::from(OsString::from_vec((1..=255).filter(|byte| *byte != b'/').collect()));
        let text = escaped(&strange);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
        assert_eq!(unescaped(&text), Some(strange));
        for broken in ["%", "%4", "%zz"] {
            assert_eq!(unescaped(broken), None, "{broken}");
        }
    }
}
