//! The folder of one component. Everything here blocks on the disk.

use std::fs::TryLockError;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::SystemTime;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, File, OpenOptions, Permissions, PermissionsExt as _};
use nix::fcntl::{RenameFlags, renameat2};
use nix::unistd::syncfs;
use stella_protocol::digest::Digest;
use stella_protocol::id::AttemptKey;
use stella_protocol::message::Wanted;
use stella_protocol::spec::ArtifactSpec;

use super::super::Stopped;
use super::list::{self, Compared, FileList};
use super::remove::{self, MayGoOn};
use super::room::Room;
use crate::host::{self, open_dir_nofollow, plain_name};

const CURRENT: &str = "current";
const RELEASES: &str = "releases";
const INCOMING: &str = ".incoming";
const LOCK: &str = ".lock";
/// How the name of the list of a release's files ends.
const LIST: &str = ".files";
/// How the name of what has been fetched ends.
const PARTIAL: &str = ".part";

/// The longest marker that is read, in bytes. One has 72.
const MARKER_BYTES_MAX: u64 = 128;

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error("`current` is there and is no link to a release; move it away on the host")]
    CurrentIsNoLink,
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

impl Error {
    /// Why the work was stopped, if it was.
    pub(super) const fn stopped(&self) -> Option<Stopped> {
        match self {
            Self::Stopped(stopped) => Some(*stopped),
            Self::Io { .. } | Self::CurrentIsNoLink => None,
        }
    }
}

fn during<T>(action: impl Into<String>, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { action: action.into(), source })
}

/// A release of a component, as it is named on the host.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// The folder's name.
    pub(super) name: String,
    pub(super) digest: Digest,
    /// The archive's size.
    pub(super) size_bytes: u64,
}

impl Release {
    pub(super) fn new(spec: &ArtifactSpec) -> Result<Self, host::Error> {
        let name = name_of(&spec.version, spec.digest)?;
        Ok(Self { name, digest: spec.digest, size_bytes: spec.size_bytes })
    }

    /// As it is asked about: nobody needs the archive's size to look for what was unpacked from it.
    pub(super) fn of(wanted: &Wanted) -> Result<Self, host::Error> {
        let name = name_of(&wanted.version, wanted.digest)?;
        Ok(Self { name, digest: wanted.digest, size_bytes: 0 })
    }
}

/// A component's folder, held by one task. Dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Component {
    dir: Dir,
    releases: Dir,
    incoming: Dir,
    reserve_bytes: u64,
    _lock: std::fs::File,
}

impl Component {
    /// `None` if another task holds it. Removes what tasks that were killed have left behind.
    ///
    /// `reserve_bytes` of its disk have to stay free.
    pub(super) fn lock(dir: Dir, reserve_bytes: u64, may_go_on: MayGoOn<'_>) -> Result<Option<Self>, Error> {
        let options = OpenOptions::new().create(true).truncate(false).write(true).clone();
        let lock = during("open the component's lock", dir.open_with(LOCK, &options))?.into_std();
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io { action: "lock the component".to_owned(), source });
            }
        }
        let releases = during("open the releases", open_or_create(&dir, RELEASES, 0o755))?;
        let incoming = during("open the folder for downloads", open_or_create(&dir, INCOMING, 0o700))?;
        let component = Self { dir, releases, incoming, reserve_bytes, _lock: lock };
        component.clean(may_go_on)?;
        Ok(Some(component))
    }

    /// Everything incoming but partial downloads is from a task that did not end by itself.
    fn clean(&self, may_go_on: MayGoOn<'_>) -> Result<(), Error> {
        for name in names(&self.incoming)? {
            if !name.ends_with(PARTIAL) {
                self.remove_incoming(&name, may_go_on)?;
            }
        }
        Ok(())
    }

    /// Removes partial downloads that are too old, by when they were last written to; all of them if the disk is short of room. Their names.
    pub(super) fn give_up_partials(
        &self,
        is_too_old: impl Fn(SystemTime) -> bool,
        may_go_on: MayGoOn<'_>,
    ) -> Result<Vec<String>, Error> {
        let is_short = self.room()?.look(0).is_err();
        let mut removed = Vec::new();
        for name in names(&self.incoming)? {
            let written_at = self.incoming.symlink_metadata(&name).and_then(|found| found.modified());
            if is_short || written_at.is_ok_and(|at| is_too_old(at.into_std())) {
                self.remove_incoming(&name, may_go_on)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// The disk that downloads and releases are on.
    pub(super) fn room(&self) -> Result<Room, Error> {
        let dir = during("open the folder for downloads", self.incoming.try_clone())?;
        Ok(Room::new(dir, self.reserve_bytes))
    }

    /// The file that an artifact is fetched into, at its beginning. Downloads of other artifacts are given up.
    pub(super) fn open_partial(
        &self,
        digest: Digest,
        may_go_on: MayGoOn<'_>,
    ) -> Result<std::fs::File, Error> {
        let wanted = partial_name(digest);
        for name in names(&self.incoming)? {
            if name != wanted {
                self.remove_incoming(&name, may_go_on)?;
            }
        }
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).clone();
        let opened = self.incoming.open_with(&wanted, &options);
        Ok(during("open the file to fetch into", opened)?.into_std())
    }

    pub(super) fn remove_partial(&self, digest: Digest) -> Result<(), Error> {
        // It is one file, whatever its size.
        self.remove_incoming(&partial_name(digest), &|| Ok(()))
    }

    /// A fresh folder to unpack into; its name.
    pub(super) fn create_temporary(&self, key: AttemptKey) -> Result<String, Error> {
        let name = temporary_name(key);
        during("create a folder to unpack into", self.incoming.create_dir(&name))?;
        Ok(name)
    }

    pub(super) fn open_temporary(&self, key: AttemptKey) -> Result<Dir, Error> {
        during("open the folder to unpack into", self.incoming.open_dir(temporary_name(key)))
    }

    pub(super) fn remove_incoming(&self, name: &str, may_go_on: MayGoOn<'_>) -> Result<(), Error> {
        match remove::remove(&self.incoming, Path::new(name), may_go_on) {
            Ok(()) => Ok(()),
            Err(remove::Error::Stopped(stopped)) => Err(stopped.into()),
            Err(remove::Error::Io(source)) => {
                Err(Error::Io { action: format!("remove {INCOMING}/{name}"), source })
            }
        }
    }

    /// Whether the release is complete on this host.
    pub(super) fn is_ready(&self, release: &Release) -> Result<bool, Error> {
        let is_dir = self.releases.symlink_metadata(&release.name).is_ok_and(|found| found.is_dir());
        Ok(is_marked(&self.releases, release)? && is_dir)
    }

    /// Its releases, to look at.
    pub(super) fn shelf(&self) -> Result<Shelf, Error> {
        during("open the releases", self.releases.try_clone()).map(Shelf)
    }

    /// Makes an unpacked release durable and gives it its name, then the list of its files and its marker. Removes the download.
    ///
    /// A folder that is there under the name, without its marker or damaged, is swapped out in the same step: `current` may point to it.
    pub(super) fn install(
        &self,
        temporary: &str,
        release: &Release,
        files: &FileList,
        may_go_on: MayGoOn<'_>,
    ) -> Result<(), Error> {
        let action = || format!("install the release {}", release.name);
        during(action(), self.incoming.set_permissions(temporary, Permissions::from_mode(0o755)))?;
        // One call for all files: a barrier for each would take minutes for an archive of many.
        let synced = self.releases.open(".").and_then(|handle| Ok(syncfs(handle.into_std())?));
        during("write the release to disk", synced)?;
        if self.releases.symlink_metadata(&release.name).is_ok() {
            let swap = RenameFlags::RENAME_EXCHANGE;
            let (from, to) = (Path::new(temporary), Path::new(&release.name));
            let swapped = renameat2(&self.incoming, from, &self.releases, to, swap);
            during(action(), swapped.map_err(io::Error::from))?;
        } else {
            during(action(), self.incoming.rename(temporary, &self.releases, &release.name))?;
        }
        during("write the releases' folder to disk", sync(&self.releases))?;
        during("write the list of a release's files", self.write_list(release, files))?;
        during("write a release's marker", self.write_marker(release))?;
        self.remove_partial(release.digest)?;
        self.remove_incoming(temporary, may_go_on)
    }

    /// The marker comes after it and makes both names durable: a release with a marker has its list.
    fn write_list(&self, release: &Release, files: &FileList) -> io::Result<()> {
        let list = list_name(&release.name);
        let temporary = format!("{list}.new");
        let options = OpenOptions::new().create(true).truncate(true).write(true).clone();
        let mut file = BufWriter::new(self.releases.open_with(&temporary, &options)?);
        files.write(release.digest, &mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        self.releases.rename(&temporary, &self.releases, &list)
    }

    fn write_marker(&self, release: &Release) -> io::Result<()> {
        let marker = marker_name(&release.name);
        let temporary = format!("{marker}.new");
        let options = OpenOptions::new().create(true).truncate(true).write(true).clone();
        let mut file = self.releases.open_with(&temporary, &options)?;
        writeln!(file, "{}", release.digest)?;
        file.sync_all()?;
        self.releases.rename(&temporary, &self.releases, &marker)?;
        sync(&self.releases)
    }

    /// The release that `current` points to.
    pub(super) fn current(&self) -> Result<Option<String>, Error> {
        current(&self.dir)
    }

    /// Points `current` to a release, in one step.
    pub(super) fn switch(&self, release: &Release) -> Result<(), Error> {
        let target = Path::new(RELEASES).join(&release.name);
        let switched = self
            .incoming
            .symlink_contents(&target, CURRENT)
            .and_then(|()| self.incoming.rename(CURRENT, &self.dir, CURRENT))
            .and_then(|()| sync(&self.dir));
        during("switch `current`", switched)?;
        // When a release was last switched to decides when it is pruned.
        let touched = self.releases.open(marker_name(&release.name));
        let touched = touched.and_then(|file| file.into_std().set_modified(SystemTime::now()));
        during("note the time of the switch", touched)
    }

    /// Removes releases beyond `keep`, those first that were switched to longest ago, and never `current` or `previous`. Where nobody
    /// knows `previous`, since the switch was made by an earlier try, the one that was switched to last stays in its place. The removed
    /// ones' names.
    pub(super) fn prune(
        &self,
        keep: u8,
        current: &str,
        previous: Option<&str>,
        may_go_on: MayGoOn<'_>,
    ) -> Result<Vec<String>, Error> {
        let mut old = Vec::new();
        let mut kept = 0;
        for name in names(&self.releases)?.into_iter().filter(|name| !name.starts_with('.')) {
            if name == current || Some(name.as_str()) == previous {
                kept += 1;
                continue;
            }
            let switched_to = self.releases.symlink_metadata(marker_name(&name));
            let at = switched_to.and_then(|marker| marker.modified()).map(|at| at.into_std());
            old.push((at.unwrap_or(SystemTime::UNIX_EPOCH), name));
        }
        old.sort();
        let room = usize::from(keep.max(2)).saturating_sub(kept);
        let excess = old.len().saturating_sub(room);
        let mut removed = Vec::with_capacity(excess);
        for (_, name) in old.into_iter().take(excess) {
            may_go_on()?;
            self.remove_release(&name, may_go_on)?;
            removed.push(name);
        }
        self.remove_orphaned_lists()?;
        Ok(removed)
    }

    /// An agent that knows nothing of lists leaves them when it removes a release.
    fn remove_orphaned_lists(&self) -> Result<(), Error> {
        for name in names(&self.releases)? {
            let Some(release) = name.strip_prefix('.').and_then(|name| name.strip_suffix(LIST)) else {
                continue;
            };
            if self.releases.symlink_metadata(release).is_err() {
                during("remove the list of a release's files", self.releases.remove_file(&name))?;
            }
        }
        Ok(())
    }

    /// The marker goes first and the folder moves out of the way before it is taken apart: no half of it is ever a release.
    fn remove_release(&self, name: &str, may_go_on: MayGoOn<'_>) -> Result<(), Error> {
        let action = || format!("remove the release {name}");
        match self.releases.remove_file(marker_name(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return during(action(), Err(error)),
            Ok(()) | Err(_) => {}
        }
        match self.releases.remove_file(list_name(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return during(action(), Err(error)),
            Ok(()) | Err(_) => {}
        }
        during(action(), self.releases.rename(name, &self.incoming, name))?;
        self.remove_incoming(name, may_go_on)
    }
}

/// The release that `current` points to in a component's folder.
pub(super) fn current(component: &Dir) -> Result<Option<String>, Error> {
    match component.symlink_metadata(CURRENT) {
        Ok(found) if found.is_symlink() => {}
        Ok(_) => return Err(Error::CurrentIsNoLink),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { action: "look at `current`".to_owned(), source }),
    }
    let target = during("read `current`", component.read_link_contents(CURRENT))?;
    Ok(target.file_name().and_then(|name| name.to_str()).map(str::to_owned))
}

/// Whether a task holds a component's folder. Whoever wants it at this very moment tries again.
pub(super) fn is_held(component: &Dir) -> Result<bool, Error> {
    let lock = match component.open(LOCK) {
        Ok(lock) => lock.into_std(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(Error::Io { action: "open the component's lock".to_owned(), source }),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => {
            Err(Error::Io { action: "look at the component's lock".to_owned(), source })
        }
    }
}

/// Whether a folder is one that [`Component::lock`] has made into a component's.
pub(super) fn is_component(dir: &Dir) -> bool {
    let is_dir = |name| dir.symlink_metadata(name).is_ok_and(|found| found.is_dir());
    is_dir(RELEASES) && is_dir(INCOMING) && dir.symlink_metadata(LOCK).is_ok_and(|found| found.is_file())
}

/// The releases of a component as somebody sees them who only looks.
#[derive(Debug)]
pub(super) struct Shelf(Dir);

impl Shelf {
    /// `None` if there are none.
    pub(super) fn open(component: &Dir) -> Result<Option<Self>, Error> {
        match open_dir_nofollow(component, RELEASES) {
            Ok(releases) => Ok(Some(Self(releases))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { action: "open the releases".to_owned(), source }),
        }
    }

    /// Whether the release was complete on this host once, and was not removed since.
    pub(super) fn is_marked(&self, release: &Release) -> Result<bool, Error> {
        is_marked(&self.0, release)
    }

    /// Whether a marked release is what was unpacked. Reads every byte of it; `may_go_on` is asked before each piece.
    pub(super) fn compare(&self, release: &Release, may_go_on: MayGoOn<'_>) -> Result<Compared, Stopped> {
        let dir = match self.open_release(release) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Compared::Differs("its folder is missing".to_owned()));
            }
            // As with its files: what this user may not read may be as it was.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Compared::Unclear(format!("its folder cannot be opened: {error}")));
            }
            Err(error) => return Ok(Compared::Differs(format!("its folder cannot be opened ({error})"))),
        };
        let list = match self.0.open(list_name(&release.name)) {
            Ok(list) => list.into_std(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why =
                    "it was unpacked by an agent that kept no list of its files; the next release has one";
                return Ok(Compared::Unclear(why.to_owned()));
            }
            Err(error) => {
                return Ok(Compared::Unclear(format!("the list of its files cannot be opened: {error}")));
            }
        };
        list::compare(list, release.digest, &dir, may_go_on)
    }

    fn open_release(&self, release: &Release) -> io::Result<Dir> {
        if !self.0.symlink_metadata(&release.name)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        self.0.open_dir(&release.name)
    }
}

fn is_marked(releases: &Dir, release: &Release) -> Result<bool, Error> {
    let marker = match releases.open(marker_name(&release.name)) {
        Ok(file) => during("read a release's marker", read_bounded(file))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            return Err(Error::Io { action: "open a release's marker".to_owned(), source });
        }
    };
    Ok(marker.trim_end() == release.digest.to_string())
}

/// The name of a release's folder.
fn name_of(version: &str, digest: Digest) -> Result<String, host::Error> {
    Ok(format!("{}-{}", plain_name("version", version)?, digest.short()))
}

fn partial_name(digest: Digest) -> String {
    format!("{}{PARTIAL}", digest.to_hex())
}

fn temporary_name(key: AttemptKey) -> String {
    format!("{key}.unpack")
}

fn marker_name(release: &str) -> String {
    format!(".{release}.digest")
}

fn list_name(release: &str) -> String {
    format!(".{release}{LIST}")
}

fn open_or_create(dir: &Dir, name: &str, mode: u32) -> io::Result<Dir> {
    let mut builder = DirBuilder::new();
    builder.mode(mode);
    match dir.create_dir_with(name, &builder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    open_dir_nofollow(dir, name)
}

/// A handle of a folder is not one that can be synced; opening it as a file is.
fn sync(dir: &Dir) -> io::Result<()> {
    dir.open(".")?.sync_all()
}

fn read_bounded(file: File) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MARKER_BYTES_MAX), &mut text)?;
    Ok(text)
}

/// Names that are no text are none of ours.
fn names(dir: &Dir) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        dir.entries()?
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect()
    };
    during("list the component's folder", list())
}
