//! What one attempt leaves to the next: a supervisor process that is ready, and a folder with a record.
//!
//! To start a supervisor costs as much as four commands: the agent's binary is mapped and relocated each time. So one that
//! is ready for another attempt is kept and given the next. There are never more than attempts that have run side by
//! side, and none of them outlives its pool: it leaves when its standard input is closed.
//!
//! To make and remove a folder and a file costs as much as one command, on a large file system even more. So the folder of
//! an attempt that is forgotten, with nothing but its record in it, keeps its name until the next attempt renames it.
//! An agent that starts removes it, as every folder of an attempt that its journal does not know.
//!
//! The new name is not made durable: that would be one more barrier for each command, and the record says whose it is.
//! After a power cut a folder may have an old name again; an agent that starts looks into the records and puts that right
//! (see [`restore_names`]).

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use stella_protocol::id::AttemptKey;
use tokio::io::BufReader;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::group::{self, Groups};
use super::process::{Process, boot_id};
use super::record::{Given, is_all_of, key_of};
use super::run::StartError;
use super::{SUPERVISOR_VARIABLE, VERB};

/// How many supervisors may wait: as many attempts as an agent may run side by side. Each has about a mebibyte.
const WAITING_MAX: usize = 64;

/// How many folders are kept: as many as supervisors.
const FOLDERS_MAX: usize = WAITING_MAX;

/// A supervisor process. Dropping it lets it leave when it is done.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) child: Child,
    pub(super) orders: ChildStdin,
    pub(super) frames: BufReader<ChildStdout>,
    process: Process,
}

impl Worker {
    /// Starts one. Blocks for milliseconds; needs the runtime's context. `attempts_dir` is for people who look at
    /// processes.
    fn spawn(program: &Path, attempts_dir: &Path, groups: Option<&Groups>) -> Result<Self, StartError> {
        let groups = groups.and_then(|groups| Some((group::VARIABLE, serde_json::to_string(groups).ok()?)));
        let mut child = Command::new(program)
            .arg(VERB)
            .arg(attempts_dir)
            .env_clear()
            .env(SUPERVISOR_VARIABLE, "1")
            .envs(groups)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(StartError::Spawn)?;
        let process = child.id().and_then(|pid| Process::of(i32::try_from(pid).ok()?));
        let parts = (process, child.stdin.take(), child.stdout.take());
        let (Some(process), Some(orders), Some(frames)) = parts else {
            return Err(StartError::Spawn(io::Error::other("it cannot be seen in /proc")));
        };
        Ok(Self { child, orders, frames: BufReader::new(frames), process })
    }

    /// Writes down in the attempt's folder that this supervisor will have it.
    fn give(&self, attempt_dir: &Path, key: AttemptKey) -> io::Result<()> {
        Given { key, supervisor: self.process, boot_id: boot_id()? }.write(attempt_dir)
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the process after it was told that there is nothing more to do; at most `limit`. The runtime reaps it in
    /// any case.
    pub(super) async fn leave(self, limit: Duration) {
        let Self { mut child, orders, .. } = self;
        drop(orders);
        let _reaped = timeout(limit, child.wait()).await;
    }
}

/// What is kept. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    workers: Vec<Worker>,
    folders: Vec<PathBuf>,
}

impl Pool {
    /// A supervisor that an attempt is written down for. Blocks on the disk; needs the runtime's context.
    pub(super) fn take(
        &self,
        program: &Path,
        groups: Option<&Groups>,
        attempt_dir: &Path,
        key: AttemptKey,
    ) -> Result<Worker, StartError> {
        let worker = match self.take_worker() {
            Some(worker) => worker,
            None => Worker::spawn(program, attempt_dir.parent().unwrap_or(attempt_dir), groups)?,
        };
        let failed = |source: io::Error| {
            let path = attempt_dir.to_path_buf();
            if source.kind() == io::ErrorKind::AlreadyExists {
                StartError::StartedBefore(path)
            } else {
                StartError::Folder { path, source }
            }
        };
        let is_new = self.make_folder(attempt_dir).map_err(failed)?;
        worker.give(attempt_dir, key).map_err(failed)?;
        if is_new {
            // The supervisor makes the record durable, and nobody else the names that lead to it.
            sync_folder(attempt_dir).map_err(failed)?;
            attempt_dir.parent().map_or(Ok(()), sync_folder).map_err(failed)?;
        }
        Ok(worker)
    }

    /// The one that was busy last. One that was killed meanwhile is none.
    fn take_worker(&self) -> Option<Worker> {
        loop {
            let mut worker = self.kept().workers.pop()?;
            if worker.is_alive() {
                return Some(worker);
            }
        }
    }

    /// Gives the attempt a folder that must not exist. Whether it is a new one.
    fn make_folder(&self, attempt_dir: &Path) -> io::Result<bool> {
        let kept = self.kept().folders.pop_if(|folder| folder.parent() == attempt_dir.parent());
        if let Some(folder) = kept {
            match renameat2(AT_FDCWD, &folder, AT_FDCWD, attempt_dir, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => return Ok(false),
                Err(Errno::EEXIST) => {
                    self.kept().folders.push(folder);
                    return Err(Errno::EEXIST.into());
                }
                // A file system that cannot do that, or somebody has removed it.
                Err(_) => drop(fs::remove_dir_all(&folder)),
            }
        }
        DirBuilder::new().mode(0o700).create(attempt_dir)?;
        Ok(true)
    }

    /// Keeps one that is ready for another attempt.
    pub(super) fn put(&self, worker: Worker) {
        let workers = &mut self.kept().workers;
        if workers.len() < WAITING_MAX {
            workers.push(worker);
        }
    }

    /// Does away with the folder of an attempt that is forgotten: keeps it for another, or removes it. Blocks on the disk.
    pub(super) fn put_folder(&self, attempt_dir: PathBuf) -> io::Result<()> {
        if is_all_of(&attempt_dir).unwrap_or(false) {
            let folders = &mut self.kept().folders;
            if folders.len() < FOLDERS_MAX {
                folders.push(attempt_dir);
                return Ok(());
            }
        }
        fs::remove_dir_all(attempt_dir)
    }

    /// Lets all of it go. Blocks on the disk.
    pub(super) fn rest(&self) {
        let Kept { workers, folders } = std::mem::take(&mut *self.kept());
        drop(workers);
        for folder in folders {
            // The next start of the agent removes what is left.
            let _left = fs::remove_dir_all(folder);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives each folder the name of the attempt whose record it has: a power cut may have taken its last name away. `folder_of`
/// says where the folder of an attempt belongs, if it is one that still matters. Blocks on the disk; for the start only,
/// before anything is looked for by its name.
///
/// # Errors
/// If the folders cannot be listed, or one of them cannot be renamed.
pub fn restore_names(
    attempts_dir: &Path,
    folder_of: impl Fn(AttemptKey) -> Option<PathBuf>,
) -> io::Result<()> {
    let mut is_changed = false;
    for entry in fs::read_dir(attempts_dir)? {
        let folder = entry?.path();
        let Some(right) = key_of(&folder).and_then(&folder_of) else { continue };
        if right == folder {
            continue;
        }
        match renameat2(AT_FDCWD, &folder, AT_FDCWD, &right, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => is_changed = true,
            // A copy that somebody has made: the one with the name counts. And a file system that cannot do this has never
            // let a folder serve twice.
            Err(Errno::EEXIST | Errno::EINVAL | Errno::ENOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if is_changed { sync_folder(attempts_dir) } else { Ok(()) }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
