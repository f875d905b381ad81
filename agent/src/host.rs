//! The host root: the one folder that tasks may change, and the folders of slots and components in it.
//!
//! Everything under it is reached through a [`cap_std::fs::Dir`], so that a link which somebody planted there cannot lead
//! a write out of it; and the folders of slots and components are opened one name at a time and never through a link, so that
//! none can lead it to those of another slot. Commands are the exception: they are programs and go where their user may go.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt as _};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

/// The longest name of a slot, a component or a version, in bytes: with a digest and a prefix it still is a file name.
pub const NAME_BYTES_MAX: usize = 128;

/// How many slots are prepared at the same time. Each has a thread, which hangs if the slot's own file system or that of the host root
/// hangs.
pub const PREPARED_MAX: usize = 8;

/// How many of them look at the host root at the same time.
const LOOKING_MAX: usize = 2;

/// The host root.
#[derive(Clone, Debug)]
pub struct HostRoot {
    path: PathBuf,
    dir: Arc<Dir>,
    reserve_bytes: u64,
    /// For [`Self::prepare_slot`].
    turns: Arc<Turns>,
}

/// Whose turn it is to prepare a slot. One that hangs keeps its own turn and one of all, so that other slots go on.
#[derive(Debug)]
struct Turns {
    slots: Mutex<HashMap<String, Weak<Semaphore>>>,
    all: Arc<Semaphore>,
    root: Arc<Semaphore>,
}

impl Turns {
    fn new() -> Self {
        Self {
            slots: Mutex::default(),
            all: Arc::new(Semaphore::new(PREPARED_MAX)),
            root: Arc::new(Semaphore::new(LOOKING_MAX)),
        }
    }

    fn of(&self, slot: &str) -> Arc<Semaphore> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = slots.get(slot).and_then(Weak::upgrade) {
            return turn;
        }
        slots.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        slots.insert(slot.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Why a folder of the host root is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error("the host root must be an absolute path; it is {0:?}")]
    NotAbsolute(PathBuf),
    /// A name that could lead out of its folder, or that no person could read.
    #[error(
        "{kind} {name:?} is no plain name; use letters, digits and . _ + ~ -, not starting with a dot or a dash"
    )]
    Name {
        /// What was named.
        kind: &'static str,
        /// How, cut to 64 characters.
        name: String,
    },
    /// A relative working directory with `..` in it.
    #[error("the working directory {0:?} leaves the host root; write it without .., or as an absolute path")]
    LeavesRoot(String),
    /// What is there now is not what was opened.
    #[error(
        "the host root {0:?} is not the folder that the agent has opened: a file system was mounted over it since. Restart the agent, and let \
         its unit wait for the mount (RequiresMountsFor=)"
    )]
    MountedOver(PathBuf),
    /// Somebody has put a link where the folder of a slot or a component has to be.
    #[error(
        "{path:?} is a link, and the agent follows none to a slot or a component: it may lead to another slot. Remove it; to have the folder on \
         another disk, mount that there"
    )]
    Link {
        /// Where.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("cannot open {path:?}")]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl HostRoot {
    /// Opens the host root and creates it if it is not there.
    ///
    /// # Errors
    /// If the path is relative, or cannot be created or opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.is_absolute() {
            return Err(Error::NotAbsolute(path.to_path_buf()));
        }
        let opened = std::fs::create_dir_all(path)
            .and_then(|()| path.canonicalize())
            .and_then(|path| Ok((Dir::open_ambient_dir(&path, ambient_authority())?, path)));
        let (dir, path) = opened.map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let turns = Arc::new(Turns::new());
        Ok(Self { path, dir: Arc::new(dir), reserve_bytes: 0, turns })
    }

    /// The same, of whose disk so many bytes stay free whatever is brought to it.
    #[must_use]
    pub fn keeping_free(self, reserve_bytes: u64) -> Self {
        Self { reserve_bytes, ..self }
    }

    /// How many bytes of its disk have to stay free.
    pub(crate) const fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Where the host root is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a slot's folder; of the host root itself without a slot.
    ///
    /// # Errors
    /// If the slot's name is not a plain one.
    pub fn slot_path(&self, slot: Option<&str>) -> Result<PathBuf, Error> {
        Ok(match slot {
            Some(slot) => self.path.join(plain_name("slot", slot)?),
            None => self.path.clone(),
        })
    }

    /// Fails if the path leads to another folder by now: what goes through the handle, and commands, which go by the path, would not
    /// meet. Blocks on the disk.
    fn in_place(&self) -> Result<(), Error> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let opened = self.dir.dir_metadata().map_err(io)?;
        let found = Dir::open_ambient_dir(&self.path, ambient_authority())
            .and_then(|dir| dir.dir_metadata())
            .map_err(io)?;
        if (opened.dev(), opened.ino()) == (found.dev(), found.ino()) {
            Ok(())
        } else {
            Err(Error::MountedOver(self.path.clone()))
        }
    }

    /// Creates a slot's folder if it is not there: it belongs to the target, so a target's first command finds it. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// If the name is not a plain one, or the disk says no.
    pub fn create_slot(&self, slot: Option<&str>) -> Result<(), Error> {
        self.in_place()?;
        self.create_beneath(slot)
    }

    fn create_beneath(&self, slot: Option<&str>) -> Result<(), Error> {
        let Some(slot) = slot else { return Ok(()) };
        let slot = plain_name("slot", slot)?;
        let path = || self.path.join(slot);
        create(&self.dir, slot).map_err(|source| Error::Io { path: path(), source })?;
        // It is not opened: the agent's user may not be one who reads it.
        match self.dir.symlink_metadata(slot) {
            Ok(found) if found.is_symlink() => Err(Error::Link { path: path() }),
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(Error::Io { path: path(), source: io::ErrorKind::NotADirectory.into() }),
            Err(source) => Err(Error::Io { path: path(), source }),
        }
    }

    /// As [`Self::create_slot`], on a thread of its own. Whoever does not wait any more drops this; a thread that hangs keeps its turn, so
    /// that there are never many of them.
    ///
    /// # Errors
    /// As [`Self::create_slot`].
    pub async fn prepare_slot(&self, slot: Option<&str>) -> Result<(), Error> {
        // In this order: who waits for a slot that hangs keeps nobody else waiting.
        let own = match slot {
            Some(slot) => Some(turn(&self.turns.of(slot)).await),
            None => None,
        };
        let one_of_all = turn(&self.turns.all).await;
        let root = turn(&self.turns.root).await;
        let (host, slot) = (self.clone(), slot.map(str::to_owned));
        let created = spawn_blocking(move || {
            let _turns = (own, one_of_all);
            host.in_place()?;
            drop(root);
            host.create_beneath(slot.as_deref())
        });
        created.await.unwrap_or_else(|error| Err(Error::Io { path: self.path.clone(), source: error.into() }))
    }

    /// Opens the folder of a component in a slot, and creates both if they are not there. Blocks on the disk.
    ///
    /// # Errors
    /// If a name is not a plain one, or the disk says no.
    pub fn component_dir(&self, slot: Option<&str>, component: &str) -> Result<Dir, Error> {
        self.in_place()?;
        self.walk(slot, component, create)
    }

    /// Opens the folder of a component in a slot, if it is there. Creates nothing; blocks on the disk.
    ///
    /// # Errors
    /// If a name is not a plain one, or the disk says no.
    pub fn find_component(&self, slot: Option<&str>, component: &str) -> Result<Option<Dir>, Error> {
        match self.walk(slot, component, |_, _| Ok(())) {
            Ok(dir) => Ok(Some(dir)),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the folder of a component, one name after another, each after `prepare`.
    fn walk(
        &self,
        slot: Option<&str>,
        component: &str,
        prepare: impl Fn(&Dir, &str) -> io::Result<()>,
    ) -> Result<Dir, Error> {
        let slot = slot.map(|slot| plain_name("slot", slot)).transpose()?;
        let component = plain_name("component", component)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let (mut dir, mut path) = (self.dir.try_clone().map_err(io(&self.path))?, self.path.clone());
        for name in slot.into_iter().chain([component]) {
            path.push(name);
            prepare(&dir, name).map_err(io(&path))?;
            dir = match open_dir_nofollow(&dir, name) {
                Ok(next) => next,
                Err(_) if dir.symlink_metadata(name).is_ok_and(|found| found.is_symlink()) => {
                    return Err(Error::Link { path });
                }
                Err(source) => return Err(io(&path)(source)),
            };
        }
        Ok(dir)
    }

    /// Where a command runs: the slot's folder, a folder relative to it, or an absolute path.
    ///
    /// # Errors
    /// If a relative path has `..` in it, or the slot's name is not a plain one.
    pub fn working_directory(&self, slot: Option<&str>, wanted: Option<&str>) -> Result<PathBuf, Error> {
        let base = self.slot_path(slot)?;
        let Some(wanted) = wanted else { return Ok(base) };
        let path = Path::new(wanted);
        if path.is_relative() && path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::LeavesRoot(wanted.chars().take(256).collect()));
        }
        Ok(base.join(path))
    }
}

/// Creates a folder unless something has its name.
fn create(dir: &Dir, name: &str) -> io::Result<()> {
    match dir.create_dir(name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Opens the folder of this plain name, and not what a link of the name leads to: [`Dir::open_dir`] follows links that stay within its
/// handle.
pub(crate) fn open_dir_nofollow(dir: &Dir, name: &str) -> io::Result<Dir> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(dir, Path::new(name), flags, Mode::empty()).map_err(io::Error::from)?;
    Ok(Dir::from_std_file(File::from(opened)))
}

/// `None` never comes: nobody closes these.
async fn turn(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).acquire_owned().await.ok()
}

/// Checks that a name is one path component that cannot be mistaken for anything else.
///
/// # Errors
/// If it is not.
pub fn plain_name<'a>(kind: &'static str, name: &'a str) -> Result<&'a str, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with(['.', '-']);
    if fits && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err(Error::Name { kind, name: name.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_beneath_what_was_mounted_over_the_host_root() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("root"), folder.path().join("aside"));
        let root = HostRoot::open(&path).unwrap();
        root.create_slot(None).unwrap();
        root.component_dir(Some("web-1"), "web").unwrap();
        // Another folder under its name, as a mount makes it.
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        for refused in [root.create_slot(None), root.component_dir(None, "web").map(drop)] {
            assert!(matches!(&refused, Err(Error::MountedOver(at)) if *at == root.path()), "{refused:?}");
        }
        assert!(std::fs::read_dir(&path).unwrap().next().is_none());
        std::fs::remove_dir(&path).unwrap();
        assert!(matches!(root.create_slot(None), Err(Error::Io { .. })));
        std::fs::rename(&aside, &path).unwrap();
        root.create_slot(Some("web-2")).unwrap();
    }

    #[test]
    fn no_link_leads_from_one_slot_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let root = HostRoot::open(folder.path()).unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, root.path().join(name)).unwrap();
            root.path().join(name)
        };
        root.component_dir(Some("prod"), "web").unwrap();
        root.create_slot(Some("staging")).unwrap();
        let component = link("../prod/web", "staging/web");
        let slot = link("prod", "other");
        for (slot, at) in [("staging", &component), ("other", &slot)] {
            let refused = [
                root.component_dir(Some(slot), "web").map(drop),
                root.find_component(Some(slot), "web").map(drop),
            ];
            for refused in refused {
                assert!(matches!(&refused, Err(Error::Link { path }) if path == at), "{refused:?}");
            }
        }
        assert!(matches!(root.create_slot(Some("other")), Err(Error::Link { path }) if path == slot));
        let dangling = link("../prod/new", "staging/new");
        let refused = root.component_dir(Some("staging"), "new").map(drop);
        assert!(matches!(&refused, Err(Error::Link { path }) if *path == dangling), "{refused:?}");
        assert!(!root.path().join("prod/new").exists(), "nothing is made where it leads");
        assert!(root.find_component(Some("prod"), "web").unwrap().is_some());
        assert!(root.find_component(Some("prod"), "none").unwrap().is_none());
        assert!(root.find_component(Some("none"), "web").unwrap().is_none());
    }

    #[test]
    fn a_host_root_that_is_a_link_is_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, path) = (folder.path().join("disk"), folder.path().join("root"));
        std::fs::create_dir(&disk).unwrap();
        std::os::unix::fs::symlink(&disk, &path).unwrap();
        HostRoot::open(&path).unwrap().component_dir(Some("prod"), "web").unwrap();
        assert!(disk.join("prod/web").is_dir());
    }
}
