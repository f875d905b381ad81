//! What of a host a program depends on: files, space, the clock, certificates that end.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::{Findings, open_configured, run, unit};

const GROUP_AND_OTHERS: u32 = 0o077;
const WRITE_BY_GROUP_AND_OTHERS: u32 = 0o022;
/// How many files are looked at for their owner: a folder of a busy control plane has millions.
const FILES_MAX: usize = 100_000;
/// How deep folders are followed.
const DEPTH_MAX: usize = 8;
/// How many files are named.
const NAMED_MAX: usize = 3;
const DAY_S: u64 = 86_400;

/// How the files of a folder are meant to be.
#[derive(Clone, Debug)]
pub struct Private<'a> {
    /// What is looked at, as the finding calls it.
    pub check: &'static str,
    /// The folder. Its owner is meant to own everything in it.
    pub folder: &'a Path,
    /// Files in it that only their owner may read. One that is not there is passed over.
    pub secrets: Vec<PathBuf>,
}

/// Tells whether a folder is its owner's alone: nobody else can change it or read its secrets, and nothing in it is another
/// user's, as what a tool of root leaves behind.
pub fn private(wanted: &Private<'_>, findings: &mut Findings) {
    let Private { check, folder, secrets } = wanted;
    let shown = folder.display();
    let about = match fs::metadata(folder) {
        Ok(about) => about,
        Err(error) => return unreadable(check, folder, &error, findings),
    };
    if let Err(error) = fs::read_dir(folder) {
        return unreadable(check, folder, &error, findings);
    }
    if mode(&about) & WRITE_BY_GROUP_AND_OTHERS != 0 {
        let detail = format!("others than its owner may change {shown} (mode {:04o})", mode(&about));
        return findings.fail(*check, detail, format!("chmod go-rwx {}", quoted(folder)));
    }
    let there = secrets.iter().filter_map(|path| Some((path, fs::symlink_metadata(path).ok()?)));
    let open: Vec<_> =
        there.filter(|(_, it)| mode(it) & GROUP_AND_OTHERS != 0).map(|(path, _)| quoted(path)).collect();
    if !open.is_empty() {
        let detail = format!("others may read {}: whoever did may be you", open.join(", "));
        let remedy = format!("chmod 600 {}; and replace what is in there", open.join(" "));
        return findings.fail(*check, detail, remedy);
    }
    let mut others = Others { owner: about.uid(), looked_at: 0, found: BTreeSet::new(), count: 0 };
    others.look(folder, 0);
    if others.count > 0 {
        let named: Vec<_> = others.found.iter().map(|path| quoted(path)).collect();
        let more = if others.count > named.len() { " and others" } else { "" };
        let detail = format!(
            "{} of the files in {shown} belong to another user than the folder, such as {}{more}: the service may fail to write them",
            others.count,
            named.join(", ")
        );
        let (user, group) = (about.uid(), about.gid());
        return findings.fail(*check, detail, format!("chown -R {user}:{group} {}", quoted(folder)));
    }
    findings.ok(*check, format!("{shown} and its secrets are for user {} alone", about.uid()));
}

/// A path as a shell takes it, for remedies.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let shown = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if shown.chars().all(is_plain) { shown } else { format!("'{}'", shown.replace('\'', "'\\''")) }
}

fn mode(about: &Metadata) -> u32 {
    about.permissions().mode() & 0o7777
}

/// Why a path cannot be looked at.
fn unreadable(check: &'static str, path: &Path, error: &io::Error, findings: &mut Findings) {
    let remedy = if error.kind() == io::ErrorKind::PermissionDenied {
        "run this as root, or as the service's own user, with sudo -u"
    } else if error.kind() == io::ErrorKind::NotFound {
        "is the configured path the right one? the first start makes the folder"
    } else {
        "look at the kernel's log: dmesg | tail"
    };
    findings.fail(check, format!("{} cannot be read: {error}", path.display()), remedy);
}

/// The search for files of other users.
struct Others {
    owner: u32,
    looked_at: usize,
    found: BTreeSet<PathBuf>,
    count: usize,
}

impl Others {
    fn look(&mut self, folder: &Path, depth: usize) {
        // What cannot be read belongs to somebody else, and its folder was told already.
        let Ok(items) = fs::read_dir(folder) else { return };
        for path in items.flatten().map(|item| item.path()) {
            self.looked_at += 1;
            if self.looked_at > FILES_MAX {
                return;
            }
            // A file may be gone by now: the service runs.
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            if about.uid() != self.owner {
                self.count += 1;
                if self.found.len() < NAMED_MAX {
                    self.found.insert(path.clone());
                }
            }
            // Not through links: what they lead to is not the folder's.
            if about.is_dir() && depth < DEPTH_MAX {
                self.look(&path, depth + 1);
            }
        }
    }
}

/// Tells how much of the disk of a path is free, against what has to stay free.
pub fn free_space(
    check: &'static str,
    path: &Path,
    (reserve_bytes, what): (u64, &str),
    findings: &mut Findings,
) {
    let shown = path.display();
    let figures = match statvfs(path) {
        Ok(figures) => figures,
        Err(error) => return unreadable(check, path, &error.into(), findings),
    };
    let free = figures.blocks_available().saturating_mul(figures.fragment_size());
    let reserve = if reserve_bytes > 0 {
        format!(", the reserve is {}", mebibytes(reserve_bytes))
    } else {
        String::new()
    };
    let detail = format!("{} are free for {shown}{reserve}", mebibytes(free));
    let remedy =
        format!("free space, or grow the disk; what takes it: du -xh -d 2 {} | sort -h | tail", quoted(path));
    if figures.files() > 0 && figures.files_available() == 0 {
        findings.fail(check, format!("no file can be made any more for {shown}: no inode is free"), remedy);
    } else if free < reserve_bytes {
        findings.fail(check, format!("{detail}: {what} are refused until there is more"), remedy);
    } else if free < reserve_bytes.saturating_mul(2) {
        findings.warn(check, format!("{detail}: {what} will be refused soon"), remedy);
    } else {
        findings.ok(check, detail);
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}

/// Tells whether a folder can be written to. Nothing is written: the kernel is asked, so a file system that is read-only is seen
/// too. `seen_by` is the process whose view of the file system counts, as that of a confined service.
pub fn writable(
    check: &'static str,
    folder: &Path,
    seen_by: Option<u32>,
    remedy: &str,
    findings: &mut Findings,
) {
    let shown = folder.display();
    let view = seen_by.map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
    // Only root sees what another process sees.
    let view = view.filter(|root| fs::read_dir(root).is_ok());
    let (path, whose) = match &view {
        Some(root) => (root.join(folder.strip_prefix("/").unwrap_or(folder)), " by the service"),
        None => (folder.to_owned(), ""),
    };
    match fs::metadata(&path) {
        Ok(about) if !about.is_dir() => {
            return findings.fail(check, format!("{shown} is no folder"), remedy);
        }
        Ok(_) => {}
        Err(error) => {
            return findings.fail(check, format!("{shown} cannot be looked at: {error}"), remedy);
        }
    }
    match access(&path, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => findings.ok(check, format!("{shown} can be written to{whose}")),
        Err(error) => {
            findings.fail(check, format!("{shown} cannot be written to{whose}: {}", error.desc()), remedy);
        }
    }
}

/// A certificate, as far as its time is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime<'a> {
    /// What is looked at, as the finding calls it.
    pub check: &'static str,
    /// Since when it is good, and until when.
    pub validity: (SystemTime, SystemTime),
    /// Less than this left is told.
    pub soon: Duration,
    /// What replaces it.
    pub remedy: &'a str,
}

/// Tells until when a certificate is good.
pub fn lifetime(wanted: &Lifetime<'_>, now: SystemTime, findings: &mut Findings) {
    let Lifetime { check, validity: (not_before, not_after), soon, remedy } = *wanted;
    if now < not_before {
        let detail = "it is not valid yet: this host's clock is behind, and no peer will take it";
        return findings.fail(check, detail, "timedatectl set-ntp true");
    }
    match not_after.duration_since(now) {
        Ok(left) if left > soon => findings.ok(check, format!("good for another {}", in_words(left))),
        Ok(left) => findings.warn(check, format!("ends in {}", in_words(left)), remedy),
        Err(past) => {
            findings.fail(check, format!("has ended {} ago", in_words(past.duration())), remedy);
        }
    }
}

fn in_words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match time.as_secs() / DAY_S {
        0 | 1 => format!("{} h {} min", minutes / 60, minutes % 60),
        days => format!("{days} days"),
    }
}

/// Tells whether somebody sets this host's clock.
pub fn clock(findings: &mut Findings) {
    const CHECK: &str = "clock";
    let asked = unit::is_systemd()
        .then(|| run(&["timedatectl", "show", "--property", "NTPSynchronized", "--value"], 64).ok())
        .flatten()
        .filter(|ran| ran.status.success());
    match asked.as_ref().map(|ran| ran.out.trim()) {
        Some("yes") => findings.ok(CHECK, "is set by NTP"),
        Some("no") => findings.warn(
            CHECK,
            "is set by nobody: what differs by a minute makes good certificates bad, and times in logs wrong",
            "timedatectl set-ntp true",
        ),
        Some(_) | None => {
            findings.unknown(CHECK, "whether NTP sets it cannot be told here: timedatectl gives no answer")
        }
    }
}

/// What a file or a folder takes, in bytes. Links are not followed, and what is more than 8 folders deep is not counted; files
/// may come and go meanwhile.
#[must_use]
pub fn size_of(path: &Path) -> u64 {
    size_to(path, DEPTH_MAX)
}

fn size_to(path: &Path, depth: usize) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() && depth > 0 => {
            let items = fs::read_dir(path).into_iter().flatten().flatten();
            items.map(|item| size_to(&item.path(), depth - 1)).sum()
        }
        Ok(about) => about.len(),
        Err(_) => 0,
    }
}

/// Tells of a file that a service needs and its user cannot read.
pub fn readable(check: &'static str, path: &Path, findings: &mut Findings) -> bool {
    match open_configured(path) {
        Ok(_) => true,
        Err(error) => {
            unreadable(check, path, &error, findings);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;
    use crate::Verdict;

    fn one(look: impl FnOnce(&mut Findings)) -> (Verdict, String) {
        let mut findings = Findings::default();
        look(&mut findings);
        let [check] = findings.checks() else { panic!("{findings:?}") };
        (check.verdict, format!("{} -> {}", check.detail, check.remedy.clone().unwrap_or_default()))
    }

    #[test]
    fn a_folder_and_its_secrets_are_for_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "x").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let look = || {
            let secrets = vec![secret.clone(), folder.path().join("not-there")];
            one(|findings| private(&Private { check: "files", folder: folder.path(), secrets }, findings))
        };
        assert_eq!(look().0, Verdict::Ok, "{}", look().1);
        fs::set_permissions(&secret, Permissions::from_mode(0o640)).unwrap();
        let (verdict, told) = look();
        assert!(verdict == Verdict::Fail && told.contains("-> chmod 600"), "{told}");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o720)).unwrap();
        let (verdict, told) = look();
        assert!(verdict == Verdict::Fail && told.contains("-> chmod go-rwx"), "{told}");
        let gone = Private { check: "files", folder: Path::new("/nonexistent"), secrets: Vec::new() };
        assert_eq!(one(|findings| private(&gone, findings)).0, Verdict::Fail);
    }

    #[test]
    fn a_path_in_a_remedy_is_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/var/lib/x-1_2.d")), "/var/lib/x-1_2.d");
        let path = "/var/a b; rm -rf $HOME `id` it's";
        let ran = run(&["sh", "-c", &format!("printf %s {}", quoted(Path::new(path)))], 100).unwrap();
        assert_eq!(ran.out, path);
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(one(|findings| assert!(!readable("pipe", &pipe, findings))).0, Verdict::Fail);
    }

    #[test]
    fn a_folder_is_as_large_as_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), [0; 700]).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("c")).unwrap();
        assert_eq!(size_of(folder.path()), 700 + 1);
        assert_eq!(size_of(Path::new("/nonexistent")), 0);
    }

    #[test]
    fn space_is_told_against_the_reserve() {
        let look =
            |reserve| one(|findings| free_space("space", Path::new("/"), (reserve, "writes"), findings));
        assert_eq!(look(0).0, Verdict::Ok);
        assert_eq!(look(u64::MAX).0, Verdict::Fail);
        let free = statvfs("/").unwrap();
        let free = free.blocks_available().saturating_mul(free.fragment_size());
        assert_eq!(look(free / 4 * 3).0, Verdict::Warn);
        assert_eq!(
            one(|it| free_space("space", Path::new("/nonexistent"), (0, "writes"), it)).0,
            Verdict::Fail
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let look = |path: &Path, pid| one(|findings| writable("root", path, pid, "mend it", findings));
        assert_eq!(look(folder.path(), None).0, Verdict::Ok);
        assert_eq!(look(folder.path(), Some(std::process::id())).0, Verdict::Ok);
        assert_eq!(look(Path::new("/nonexistent"), None).0, Verdict::Fail);
        assert_eq!(look(Path::new("/proc/self/status"), None).0, Verdict::Fail);
    }

    #[test]
    fn a_certificate_is_told_by_what_is_left_of_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 * DAY_S);
        let day = Duration::from_secs(DAY_S);
        let look = |begin, end| {
            let wanted = Lifetime { check: "c", validity: (begin, end), soon: day * 30, remedy: "renew" };
            one(|findings| lifetime(&wanted, now, findings))
        };
        assert_eq!(look(now - day, now + day * 31), (Verdict::Ok, "good for another 31 days -> ".into()));
        assert_eq!(look(now - day, now + day * 2).0, Verdict::Warn);
        assert_eq!(
            look(now - day * 9, now - day * 3),
            (Verdict::Fail, "has ended 3 days ago -> renew".into())
        );
        assert!(look(now + day, now + day * 2).1.contains("clock is behind"));
    }
}
