//! What is wrong with an archive, and what to do about it.

use std::{fmt, io};

use crate::{DEPTH_MAX, ENTRIES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PATHS_BYTES_MAX};

/// Why an archive can be no release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of its entries may not be in it.
    #[error("the archive's entry {path:?} {problem}")]
    Entry {
        /// Which, as it may be shown to a person.
        path: String,
        /// Why not.
        problem: Problem,
    },
    /// There are more than [`ENTRIES_MAX`].
    #[error("the archive has more than {ENTRIES_MAX} entries and folders")]
    TooMany,
    /// There are more than [`PATHS_BYTES_MAX`] bytes of them.
    #[error("the paths in the archive have more than {PATHS_BYTES_MAX} bytes together")]
    LongPaths,
    /// There is nothing in it.
    #[error("the archive has no entries")]
    Empty,
    /// It is none, or cut off, or broken.
    #[error("the archive cannot be read as .tar or .tar.gz")]
    Read(#[source] io::Error),
}

impl Error {
    /// An entry, by its path as the archive has it, that may not be there.
    #[must_use]
    pub fn entry(path: &[u8], problem: Problem) -> Self {
        Self::Entry { path: shown(path), problem }
    }

    /// What whoever makes the archive can do.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Entry { problem, .. } => problem.remedy(),
            Self::TooMany | Self::LongPaths => {
                "leave out what the release does not need, or make two components of it"
            }
            Self::Empty => "pack a folder with something in it: tar -C FOLDER -czf ARCHIVE .",
            Self::Read(_) => "hosts unpack .tar and .tar.gz; pack it again, and send all of it",
        }
    }
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Its path begins at the host's root.
    Absolute,
    /// Its path leads up.
    ParentDir,
    /// Its path has too many names.
    TooDeep,
    /// A part of its path is a link.
    BelowLink,
    /// Its path is too long.
    TooLong,
    /// A name in its path is too long.
    LongName,
    /// Its path, or the target of the link that it is, has a NUL in it.
    Nul,
    /// It is a link out of the release, to this target.
    LinkLeaves(String),
    /// It is a hard link to this, which is no file before it.
    HardLink(String),
    /// It is something else than a file, a folder or a link.
    Kind(&'static str),
    /// Something with its path has come already.
    Twice,
    /// With it the archive unpacks to more than so many bytes.
    TooLarge(u64),
    /// The archive ends within it.
    Short,
}

impl Problem {
    const fn remedy(&self) -> &'static str {
        match self {
            Self::Absolute | Self::ParentDir => {
                "pack the folder's content with paths relative to it: tar -C FOLDER -czf ARCHIVE ."
            }
            Self::TooDeep | Self::TooLong | Self::LongName => "shorten its path",
            Self::Nul => "pack it under another name: no file system takes this one",
            Self::BelowLink => "pack what the link leads to once, under its own path",
            Self::LinkLeaves(_) => {
                "let it lead to something in the release, by a relative target, or pack what it leads to (tar --dereference)"
            }
            Self::HardLink(_) => {
                "pack the file itself (tar --hard-dereference), or what it is a link to before it"
            }
            Self::Kind(_) => "leave it out (tar --exclude), and pack without --sparse",
            Self::Twice => "pack each path once",
            Self::TooLarge(_) => "leave out what the release does not need, or make two components of it",
            Self::Short => "the archive is cut off: pack it again, and send all of it",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute => f.write_str("has an absolute path"),
            Self::ParentDir => f.write_str("has .. in its path"),
            Self::TooDeep => write!(f, "is more than {DEPTH_MAX} folders deep"),
            Self::BelowLink => f.write_str("goes through a link of the same archive"),
            Self::TooLong => write!(f, "has a path of more than {PATH_BYTES_MAX} bytes"),
            Self::LongName => write!(f, "has a name of more than {NAME_BYTES_MAX} bytes in its path"),
            Self::Nul => f.write_str("has a NUL byte in its path or target"),
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

/// A path from an archive as it may be shown to a person.
pub(crate) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).into_owned()
}
