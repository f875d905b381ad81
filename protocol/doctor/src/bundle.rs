//! A file for support: what is known of a program on this host, without its secrets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::facts::facts;
use crate::{Findings, Mask, open_regular, run, told, unit};

/// The largest member, in bytes: more is read by nobody.
pub const MEMBER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// All members together, in bytes, before they are compressed.
pub const BUNDLE_BYTES_MAX: usize = 24 * 1024 * 1024;
/// How many lines of the unit's log are asked for.
const LOG_LINES: &str = "5000";
const FORMAT: u32 = 1;
const MODE: u32 = 0o600;

/// Which end of a text stays if it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Its beginning.
    Head,
    /// Its end: a log.
    Tail,
}

/// What is in a bundle, and what is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    /// Whose bundle it is.
    pub program: String,
    /// Its version.
    pub version: String,
    /// When it was made, in seconds since 1970.
    pub made_at_unix_s: u64,
    /// What is in it.
    pub members: Vec<Member>,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
}

impl Manifest {
    /// For people: what is in the bundle at `path`, and what is not.
    #[must_use]
    pub fn text(&self, path: &Path) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for Member { name, about, bytes, .. } in &self.members {
            writeln!(text, "{name:22} {bytes:>9} bytes  {about}").ok();
        }
        for LeftOut { name, why } in &self.left_out {
            writeln!(text, "{name:22} left out: {why}").ok();
        }
        writeln!(text, "{} is for its owner only; look through it before you send it", path.display()).ok();
        text
    }
}

/// A member of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the archive, below the folder of the program.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Its size, in bytes.
    pub bytes: usize,
    /// SHA-256 of it.
    pub sha256: String,
    /// How many bytes of the original are not in it, because it was too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut_bytes: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Something that a bundle does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub name: String,
    /// Why.
    pub why: String,
}

/// A bundle that is being gathered. Every text goes through the mask when it is added.
#[derive(Debug)]
pub struct Bundle {
    program: &'static str,
    version: &'static str,
    made_at: SystemTime,
    mask: Mask,
    members: BTreeMap<String, (Member, String)>,
    left_out: BTreeMap<String, String>,
    bytes: usize,
}

impl Bundle {
    /// An empty one.
    #[must_use]
    pub fn new(program: &'static str, version: &'static str, made_at: SystemTime, mask: Mask) -> Self {
        let (members, left_out) = (BTreeMap::new(), BTreeMap::new());
        Self { program, version, made_at, mask, members, left_out, bytes: 0 }
    }

    /// Adds a text.
    pub fn text(&mut self, name: &str, about: &str, text: &str, keep: Keep) {
        // Masked first: a secret that is cut in two is not found any more.
        let masked = self.mask.text(text);
        let cut_bytes = masked.len().saturating_sub(MEMBER_BYTES_MAX);
        let content = match keep {
            _ if cut_bytes == 0 => masked,
            Keep::Head => masked[..masked.floor_char_boundary(MEMBER_BYTES_MAX)].to_owned(),
            Keep::Tail => masked[masked.ceil_char_boundary(cut_bytes)..].to_owned(),
        };
        self.add(name, about, content, cut_bytes);
    }

    /// Adds a document. One that is too large is left out: a part of it is no document.
    pub fn document(&mut self, name: &str, about: &str, document: impl Serialize) {
        let text = serde_json::to_value(document).and_then(|mut document: Value| {
            self.mask.document(&mut document);
            serde_json::to_string_pretty(&document)
        });
        match text {
            Ok(text) if text.len() <= MEMBER_BYTES_MAX => self.add(name, about, text + "\n", 0),
            Ok(text) => self.leave_out(name, &format!("it is too large: {} bytes", text.len())),
            Err(error) => self.leave_out(name, &format!("it cannot be written: {error}")),
        }
    }

    fn add(&mut self, name: &str, about: &str, content: String, cut_bytes: usize) {
        if self.bytes + content.len() > BUNDLE_BYTES_MAX {
            return self.leave_out(name, "there is no room left for it in the bundle");
        }
        self.bytes += content.len();
        let member = Member {
            name: name.to_owned(),
            about: about.to_owned(),
            bytes: content.len(),
            sha256: hex::encode(Sha256::digest(content.as_bytes())),
            cut_bytes,
        };
        self.members.insert(name.to_owned(), (member, content));
    }

    /// Says that something is not in the bundle.
    pub fn leave_out(&mut self, name: &str, why: &str) {
        let why = self.mask.text(why);
        self.left_out.insert(name.to_owned(), why);
    }

    /// Adds what is the same for all programs: the doctor's findings and facts about the host, with the disks of these folders.
    pub fn host(&mut self, findings: &Findings, folders: &[&Path]) {
        self.document("doctor.json", "what the doctor finds", findings);
        self.text("doctor.txt", "the same, for people", &findings.text(), Keep::Head);
        self.document("host.json", "the operating system, memory, load and disks", facts(folders));
    }

    /// Adds what systemd knows of a unit: its state, its files, and the end of its log.
    pub fn unit(&mut self, name: &str) {
        let asked = [
            (
                "unit-status.txt",
                "systemctl status, without the unit's processes",
                vec!["systemctl", "status", "--no-pager", "--lines", "0"],
            ),
            (
                "unit.txt",
                "systemctl cat: the unit and what changes it, without values of variables",
                vec!["systemctl", "cat", "--no-pager"],
            ),
            (
                "journal.txt",
                "the end of the unit's log",
                vec!["journalctl", "--no-pager", "-o", "short-iso-precise", "-n", LOG_LINES, "-u"],
            ),
        ];
        for (member, about, mut argv) in asked {
            if !unit::is_systemd() {
                self.leave_out(member, "systemd does not run this host");
                continue;
            }
            if argv[0] == "systemctl" {
                argv.push("--");
            }
            argv.push(name);
            match run(&argv, BUNDLE_BYTES_MAX) {
                // `status` ends with 3 for a unit that does not run.
                Ok(ran) if !ran.out.trim().is_empty() => {
                    let text = match member {
                        "unit-status.txt" => told::without_processes(&ran.out),
                        "unit.txt" => told::without_values(&ran.out),
                        _ => ran.out,
                    };
                    self.text(member, about, &text, Keep::Tail);
                }
                Ok(ran) => {
                    let said = ran.err.lines().next().unwrap_or("nothing").to_owned();
                    self.leave_out(member, &format!("{} says: {said}", argv[0]));
                }
                Err(error) => self.leave_out(member, &format!("{} cannot be asked: {error}", argv[0])),
            }
        }
    }

    /// Adds the end of a log file.
    pub fn log_file(&mut self, file: Option<&Path>) {
        const NAME: &str = "log.txt";
        let Some(path) = file else {
            return self.leave_out(NAME, "log.file is not set; see journal.txt");
        };
        match tail(path) {
            Ok(text) => self.text(NAME, "the end of the log file", &text, Keep::Tail),
            Err(error) => self.leave_out(NAME, &format!("{} cannot be read: {error}", path.display())),
        }
    }

    /// Writes the bundle, for its owner only. Nothing is overwritten, and half of a bundle never has its name.
    ///
    /// # Errors
    /// If it cannot be written, or something is there already.
    pub fn write(self, path: &Path) -> io::Result<Manifest> {
        let made_at_unix_s =
            self.made_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let manifest = Manifest {
            format: FORMAT,
            program: self.program.to_owned(),
            version: self.version.to_owned(),
            made_at_unix_s,
            members: self.members.values().map(|(member, _)| member.clone()).collect(),
            left_out: self.left_out.into_iter().map(|(name, why)| LeftOut { name, why }).collect(),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // Its mode is 0600 from the start.
        let file = NamedTempFile::new_in(folder.unwrap_or_else(|| Path::new(".")))?;
        let mut archive = tar::Builder::new(GzEncoder::new(&file, Compression::default()));
        let head = serde_json::to_string_pretty(&manifest)? + "\n";
        let members = self.members.values().map(|(member, content)| (member.name.as_str(), content));
        for (name, content) in std::iter::once(("manifest.json", &head)).chain(members) {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(MODE);
            header.set_mtime(made_at_unix_s);
            archive.append_data(
                &mut header,
                format!("{}-support/{name}", self.program),
                content.as_bytes(),
            )?;
        }
        archive.into_inner()?.finish()?.flush()?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        Ok(manifest)
    }
}

/// The end of a file: twice a member's size, because it is cut once more when it is masked.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = open_regular(path)?;
    let (size, wanted) = (file.metadata()?.len(), 2 * MEMBER_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(size.saturating_sub(wanted)))?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // A line that began before it may be half of a secret.
    let begin = if size > wanted { text.find('\n').map_or(text.len(), |at| at + 1) } else { 0 };
    Ok(text[begin..].to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn bundle() -> Bundle {
        let mut mask = Mask::default();
        mask.hide("hunter22hunter22");
        Bundle::new("stella-x", "1.2.3", SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7), mask)
    }

    fn members(path: &Path) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let read = |entry: io::Result<tar::Entry<'_, GzDecoder<File>>>| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mode().unwrap(), MODE);
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn a_bundle_has_a_manifest_and_no_secret_and_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.tar.gz"), folder.path().join("two.tar.gz"));
        for path in [&one, &two] {
            let mut bundle = bundle();
            bundle.text("b.txt", "a text", "it is hunter22hunter22", Keep::Head);
            bundle.document("a.json", "a document", serde_json::json!({"x": "hunter22hunter22"}));
            bundle.leave_out("c", "it said hunter22hunter22");
            bundle.write(path).unwrap();
        }
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap(), "the same has the same bytes");
        assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o7777, MODE);
        let found = members(&one);
        assert!(found.values().all(|text| !text.contains("hunter22")), "{found:?}");
        let manifest: Manifest = serde_json::from_str(&found["stella-x-support/manifest.json"]).unwrap();
        assert_eq!(manifest.made_at_unix_s, 7);
        assert_eq!(manifest.left_out[0].why, "it said [REDACTED]");
        for member in &manifest.members {
            let content = &found[&format!("stella-x-support/{}", member.name)];
            assert_eq!(member.sha256, hex::encode(Sha256::digest(content.as_bytes())));
        }
        assert_eq!(found.len(), manifest.members.len() + 1);
        let error = bundle().write(&one).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn what_is_too_long_is_cut_at_the_right_end_and_a_bundle_has_a_bound() {
        let long = format!("first\n{}\nlast", "ü".repeat(MEMBER_BYTES_MAX / 2));
        let mut bundle = bundle();
        bundle.text("head", "", &long, Keep::Head);
        bundle.text("tail", "", &long, Keep::Tail);
        let (head, tail) = (&bundle.members["head"], &bundle.members["tail"]);
        assert!(head.1.starts_with("first") && !head.1.ends_with("last"));
        assert!(tail.1.ends_with("last") && !tail.1.starts_with("first"));
        assert!(head.0.cut_bytes >= 11 && head.1.len() <= MEMBER_BYTES_MAX);
        bundle.document("huge", "", &long);
        assert!(bundle.left_out["huge"].contains("too large"));
        for number in 0..6 {
            bundle.text(&format!("more-{number}"), "", &long, Keep::Head);
        }
        assert!(bundle.left_out["more-5"].contains("no room"));
        assert!(bundle.bytes <= BUNDLE_BYTES_MAX);
    }

    #[test]
    fn of_a_log_file_the_end_is_read_from_a_whole_line_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(tail(&path).unwrap(), "one\ntwo\n");
        let line = format!("{}\n", "x".repeat(999));
        std::fs::write(&path, line.repeat(2 * MEMBER_BYTES_MAX / 1_000 + 10)).unwrap();
        let text = tail(&path).unwrap();
        assert!(text.starts_with('x') && text.len().is_multiple_of(1_000) && text.len() > MEMBER_BYTES_MAX);
        let mut bundle = bundle();
        bundle.log_file(Some(Path::new("/nonexistent")));
        assert!(bundle.left_out["log.txt"].contains("cannot be read"));
        // Whoever owns the folder may have put something else there.
        let (link, pipe) = (folder.path().join("link"), folder.path().join("pipe"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        bundle.log_file(Some(&link));
        assert!(bundle.left_out["log.txt"].contains("is a link"), "{bundle:?}");
        bundle.log_file(Some(&pipe));
        assert!(bundle.left_out["log.txt"].contains("is no file"), "{bundle:?}");
        assert!(bundle.members.is_empty());
    }
}
