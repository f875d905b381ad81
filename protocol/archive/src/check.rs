//! An archive is looked at, and goes nowhere.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Failed, Kind, Sink, Summary, read};

/// Whether a host would take an archive (`.tar`, `.tar.gz`) of so many bytes, but for the room on its disk. Blocks on the reader, and
/// decompresses at most [`crate::UNPACKED_BYTES_MAX`] bytes of files, and the headers of [`crate::ENTRIES_MAX`].
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(archive: impl Read + 'static, archive_bytes: u64) -> Result<Summary, Error> {
    match check_while(archive, archive_bytes, || Ok::<(), Infallible>(())) {
        Ok(summary) => Ok(summary),
        Err(Failed::Archive(error)) => Err(error),
        Err(Failed::Sink(never)) => match never {},
    }
}

/// As [`check`], for as long as `may_go_on`, which is asked before each entry and each piece of a file.
///
/// # Errors
/// The first thing that is wrong with it, or why it was given up.
pub fn check_while<E>(
    archive: impl Read + 'static,
    archive_bytes: u64,
    may_go_on: impl FnMut() -> Result<(), E>,
) -> Result<Summary, Failed<E>> {
    read(archive, archive_bytes, &mut Looked { found: HashMap::new(), may_go_on })
}

/// Remembers what there was.
struct Looked<F> {
    found: HashMap<PathBuf, Kind>,
    may_go_on: F,
}

impl<E, F: FnMut() -> Result<(), E>> Sink for Looked<F> {
    type Error = E;

    fn kind(&self, path: &Path) -> Option<Kind> {
        self.found.get(path).copied()
    }

    fn may_go_on(&mut self) -> Result<(), E> {
        (self.may_go_on)()
    }

    fn folder(&mut self, _path: &Path) -> Result<(), E> {
        Ok(())
    }

    fn folder_entry(&mut self, _path: PathBuf, _mode: u32) -> Result<(), E> {
        Ok(())
    }

    fn symbolic_link(&mut self, path: PathBuf, _target: PathBuf) -> Result<(), E> {
        self.found.insert(path, Kind::Link);
        Ok(())
    }

    fn hard_link(&mut self, path: PathBuf, _of: &Path) -> Result<(), E> {
        self.found.insert(path, Kind::File);
        Ok(())
    }

    fn begin_file(&mut self, _path: &Path, _mode: u32, _size: u64) -> Result<(), E> {
        Ok(())
    }

    fn bytes(&mut self, _bytes: &[u8]) -> Result<(), E> {
        Ok(())
    }

    fn end_file(&mut self, path: PathBuf) -> Result<(), E> {
        self.found.insert(path, Kind::File);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Write as _};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    use super::*;

    /// An archive of entries as they are, whatever is wrong with their paths.
    fn packed(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for (kind, path, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let content = if is_link { "" } else { *content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn checked(archive: Vec<u8>) -> Result<Summary, Error> {
        let size = archive.len() as u64;
        check(Cursor::new(archive), size)
    }

    fn told(entries: &[(EntryType, &str, &str)]) -> String {
        let error = checked(packed(entries)).unwrap_err();
        assert!(error.remedy().len() > 10, "{error}");
        error.to_string()
    }

    const FILE: EntryType = EntryType::Regular;
    const DIR: EntryType = EntryType::Directory;
    const LINK: EntryType = EntryType::Symlink;
    const HARD: EntryType = EntryType::Link;

    #[test]
    fn a_nul_in_an_extended_header_is_refused() {
        for (kind, key) in [(FILE, "path"), (LINK, "linkpath")] {
            let mut archive = Builder::new(Vec::new());
            archive.append_pax_extensions([(key, &b"a\0b"[..])]).unwrap();
            let mut header = Header::new_ustar();
            header.set_path("web").unwrap();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append(&header, &[][..]).unwrap();
            let error = checked(archive.into_inner().unwrap()).unwrap_err();
            assert!(error.to_string().contains("has a NUL byte in its path or target"), "{key}: {error}");
        }
    }

    #[test]
    fn a_release_is_taken_packed_or_not() {
        let good = packed(&[
            (DIR, "./", ""),
            (FILE, "./bin/web", "#!/bin/sh"),
            (DIR, "./bin", ""),
            (LINK, "./web", "bin/web"),
            (LINK, "./bin/up", "../bin/web"),
            (HARD, "./copy", "bin/web"),
        ]);
        assert_eq!(checked(good.clone()).unwrap(), Summary { entries: 6, bytes: 9 });
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&good).unwrap();
        assert_eq!(checked(packer.finish().unwrap()).unwrap().entries, 6);
    }

    #[test]
    fn what_reaches_out_is_refused_by_its_entry() {
        assert_eq!(told(&[(FILE, "../x", "")]), "the archive's entry \"../x\" has .. in its path");
        assert_eq!(told(&[(FILE, "/etc/x", "")]), "the archive's entry \"/etc/x\" has an absolute path");
        assert!(told(&[(FILE, "a/../x", "")]).contains("has .. in its path"));
        assert!(told(&[(LINK, "a", "/etc"), (FILE, "a/x", "")]).contains("leaves the release"));
        assert!(told(&[(LINK, "a", "b"), (FILE, "a/x", "")]).contains("goes through a link"));
        assert!(told(&[(LINK, "a", "b/../../etc")]).contains("its target is \"b/../../etc\""));
        assert!(told(&[(HARD, "a", "/etc/shadow")]).contains("is a hard link to \"/etc/shadow\""));
        assert!(told(&[(HARD, "a", "b"), (FILE, "b", "")]).contains("no file before it"));
        assert!(told(&[(EntryType::Char, "null", "")]).contains("is a device"));
        assert!(told(&[(EntryType::Fifo, "pipe", "")]).contains("is a named pipe"));
    }

    #[test]
    fn a_path_is_there_once() {
        for twice in [
            [(FILE, "a", "1"), (FILE, "./a", "2")],
            [(FILE, "a", "1"), (FILE, "a/b", "2")],
            [(FILE, "a/b", "1"), (FILE, "a", "2")],
            [(LINK, "a", "b"), (LINK, "a", "c")],
            [(FILE, "a", "1"), (DIR, "a", "")],
            [(DIR, "a", ""), (LINK, "a", "b")],
        ] {
            assert!(told(&twice).contains("twice"), "{twice:?}");
        }
    }

    #[test]
    fn what_is_no_archive_or_a_part_of_one_is_told() {
        assert!(matches!(checked(Vec::new()), Err(Error::Empty)));
        assert!(matches!(checked(vec![0; 1024]), Err(Error::Empty)));
        assert!(matches!(checked(b"name: web\n".to_vec()), Err(Error::Read(_))));
        assert!(matches!(checked(b"\x1f\x8bno".to_vec()), Err(Error::Read(_))));
        let whole = packed(&[(FILE, "a", &"x".repeat(2_000))]);
        assert!(checked(whole[..1024].to_vec()).is_err());
    }

    /// A gigabyte of zeros in a megabyte: it is given up where it goes beyond its bound, and not read to its end.
    #[test]
    fn a_bomb_is_given_up() {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        let mut header = Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_entry_type(FILE);
        header.set_size(1 << 30);
        header.set_mode(0o644);
        header.set_cksum();
        packer.write_all(header.as_bytes()).unwrap();
        io::copy(&mut io::repeat(0).take(1 << 20), &mut packer).unwrap();
        let error = checked(packer.finish().unwrap()).unwrap_err();
        assert!(error.to_string().contains("beyond 67108864 bytes"), "{error}");
    }

    /// A comment as git writes it, with so many bytes in it.
    fn comment(bytes: usize) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path("pax_global_header").unwrap();
        header.set_entry_type(EntryType::XGlobalHeader);
        header.set_size(bytes as u64);
        header.set_cksum();
        let mut comment = header.as_bytes().to_vec();
        comment.resize(512 + bytes.next_multiple_of(512), 0);
        comment
    }

    /// The same bytes again and again.
    struct Endless(Cursor<Vec<u8>>);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.position() == self.0.get_ref().len() as u64 {
                self.0.set_position(0);
            }
            self.0.read(buffer)
        }
    }

    /// What is told of an archive of a thousand bytes that unpacks to these without an end.
    fn told_of_endless(piece: Vec<u8>) -> Error {
        check(Endless(Cursor::new(piece)), 1_000).unwrap_err()
    }

    #[test]
    fn comments_are_counted_like_entries() {
        let mut few = comment(20);
        few.extend(packed(&[(FILE, "a", "1")]));
        assert_eq!(checked(few).unwrap(), Summary { entries: 1, bytes: 1 });
        let error = told_of_endless(comment(0));
        assert!(matches!(error, Error::TooMany), "{error}");
    }

    /// As many comments as there may be, each as large as it may be, would be gigabytes.
    #[test]
    fn comments_are_not_read_beyond_what_entries_may_need() {
        let Error::Read(error) = told_of_endless(comment(60 * 1024)) else { panic!("it was read") };
        assert!(error.to_string().contains("too large together"), "{error}");
    }

    #[test]
    fn an_archive_that_nobody_waits_for_is_not_read_on() {
        let archive = packed(&[(FILE, "a", &"x".repeat(2_000))]);
        let size = archive.len() as u64;
        let given_up = check_while(Cursor::new(archive.clone()), size, || Err("nobody waits"));
        assert!(matches!(given_up, Err(Failed::Sink("nobody waits"))), "{given_up:?}");
        let looked = checked(archive);
        assert_eq!(looked.unwrap(), Summary { entries: 1, bytes: 2_000 });
    }
}
