//! Whether the service's user can read what the configuration names. The kernel is asked, as that user: folders on the way count, and so
//! do groups and access lists, which a file's mode says nothing about.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, faccessat, geteuid};
use stella_doctor::Findings;
use stella_doctor::host::quoted;
use stella_doctor::unit::Unit;

use super::BOOK;
use crate::config::Loaded;
use crate::owner::become_service;

const CHECK: &str = "files";

/// Tells whether the owner of the state folder, who is the service's user, may read all files of the configuration.
pub(super) fn readable_by_the_service(loaded: &Loaded, unit: Option<&Unit>, findings: &mut Findings) {
    let Ok(owner) = fs::metadata(&loaded.config.state_dir).map(|it| (it.uid(), it.gid())) else { return };
    let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    if !geteuid().is_root() && geteuid() != user {
        let detail = format!("whether user {user} may read them, only root can tell, or that user");
        return findings.unknown(CHECK, detail);
    }
    // What systemd hands over is readable for the service by other means than its mode.
    let mut all = loaded.files();
    all.retain(|path| !path.starts_with("/run/credentials"));
    // Where links lead to, root can tell.
    let places: Vec<_> =
        all.iter().map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone())).collect();
    let closed: Vec<_> = {
        let more = unit.map(Unit::supplementary_groups).unwrap_or_default();
        let _as_service = match become_service(user, group, &more) {
            Ok(as_service) => as_service,
            Err(error) => return findings.unknown(CHECK, format!("{error:#}")),
        };
        all.iter().zip(&places).filter_map(|(path, place)| Closed::find(path, place)).collect()
    };
    let whose = name_of(user);
    if closed.is_empty() {
        return findings
            .ok(CHECK, format!("user {whose} may read all {} files of the configuration", all.len()));
    }
    let told: Vec<_> = closed.iter().map(Closed::told).collect();
    let detail = format!(
        "user {whose}, whom the state folder belongs to, may not read {}: the control plane does not start, or fails there",
        told.join(", ")
    );
    let remedies: Vec<_> = closed.iter().map(|it| it.remedy(&whose, group)).collect();
    findings.fail(CHECK, detail, format!("{}; {BOOK}/reverse-proxies.md", remedies.join("; ")));
}

/// A file that cannot be read.
struct Closed<'a> {
    path: &'a Path,
    /// The first folder on the way to it that lets nobody through.
    folder: Option<PathBuf>,
}

impl<'a> Closed<'a> {
    /// `place` is the same file without links.
    fn find(path: &'a Path, place: &Path) -> Option<Self> {
        if may(path, AccessFlags::R_OK) {
            return None;
        }
        // From the root on: below a folder that is closed everything looks closed.
        let mut folders: Vec<_> = path.ancestors().skip(1).chain(place.ancestors().skip(1)).collect();
        folders.sort_by_key(|folder| folder.components().count());
        let folder = folders.into_iter().find(|folder| !may(folder, AccessFlags::X_OK)).map(Path::to_owned);
        Some(Self { path, folder })
    }

    fn told(&self) -> String {
        match &self.folder {
            Some(folder) => format!("{} (the folder {} is closed)", quoted(self.path), quoted(folder)),
            None => quoted(self.path),
        }
    }

    /// What lets the service read it and takes it from nobody who reads it now.
    fn remedy(&self, user: &str, group: Gid) -> String {
        let (path, group) = (
            quoted(self.path),
            Group::from_gid(group).ok().flatten().map_or_else(|| group.to_string(), |it| it.name),
        );
        if self.folder.is_some() {
            return format!(
                "install -d -m 0750 -g {group} /etc/stella/tls; install -m 0640 -g {group} {path} /etc/stella/tls/, and name it there"
            );
        }
        let about = fs::metadata(self.path).ok();
        let readers = about.filter(|it| it.gid() != 0 && it.permissions().mode() & 0o040 != 0);
        let readers = readers.and_then(|it| Group::from_gid(Gid::from_raw(it.gid())).ok().flatten());
        match readers {
            Some(readers) => format!("usermod -aG {} {user}", quoted(Path::new(&readers.name))),
            None => format!("chgrp {group} {path}; chmod g+r {path}"),
        }
    }
}

/// Whether this process may, by its effective user and groups.
fn may(path: &Path, what: AccessFlags) -> bool {
    faccessat(AT_FDCWD, path, what, AtFlags::AT_EACCESS).is_ok()
}

fn name_of(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |it| it.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_a_file_is_named_and_nobody_loses_it() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (live, file) = (folder.path().join("live"), folder.path().join("live/key.pem"));
        fs::create_dir(&live).unwrap();
        fs::write(&file, "").unwrap();
        open(folder.path(), 0o755);
        let look = |folder_mode, file_mode| {
            open(&live, folder_mode);
            open(&file, file_mode);
            let nobody = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            let _as_service = become_service(nobody.0, nobody.1, &[]).unwrap();
            Closed::find(&file, &file)
                .map(|closed| (closed.folder.clone(), closed.remedy("nobody", nobody.1)))
        };
        assert_eq!(look(0o755, 0o644), None);
        let (closed, remedy) = look(0o700, 0o644).expect("its folder is closed");
        assert_eq!(closed, Some(live.clone()));
        assert!(remedy.contains("install -m 0640"), "{remedy}");
        let (closed, remedy) = look(0o755, 0o600).expect("it is root's");
        assert!(closed.is_none() && remedy.starts_with("chgrp "), "{remedy}");
        std::os::unix::fs::chown(&file, Some(0), Some(1)).unwrap();
        let (_, remedy) = look(0o755, 0o640).expect("it is another group's");
        assert!(remedy.starts_with("usermod -aG "), "{remedy}");
    }
}
