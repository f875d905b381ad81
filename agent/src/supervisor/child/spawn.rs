//! Starting the command.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::{Uid, User};

use super::super::MARKER;
use super::super::spec::Spec;
use super::inherit::Unprotected;

/// Why a command was not started. Goes to a person as it is, so it names its cause itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the command has no program: argv is empty")]
    NoProgram,
    #[error("cannot run in {path:?}: {cause}; is it a folder that exists on this host?")]
    WorkingDirectory { path: PathBuf, cause: String },
    #[error("the program {program:?} is not in PATH ({path})")]
    NotFound { program: String, path: String },
    #[error("cannot run {program:?}: {cause}")]
    Spawn { program: PathBuf, cause: io::Error },
    #[error("there is no user {0:?} on this host")]
    NoUser(String),
    #[error("the user {user:?} cannot be looked up: {cause}")]
    LookUp { user: String, cause: nix::Error },
    #[error("the agent does not run as root and cannot run a command as {0:?}")]
    NotRoot(String),
}

/// Starts the command in a process group of its own, with pipes for its output.
pub(super) fn spawn(spec: &Spec) -> Result<Child, Error> {
    let (name, arguments) = spec.argv.split_first().ok_or(Error::NoProgram)?;
    check_directory(&spec.working_directory)?;
    let program = find_program(name, spec)?;
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(&spec.environment)
        .env(MARKER, spec.key.to_string())
        .current_dir(&spec.working_directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(name) = &spec.user {
        run_as(&mut command, name, spec)?;
    }
    let _unprotected = Unprotected::begin();
    command.spawn().map_err(|cause| Error::Spawn { program, cause })
}

/// `chdir` and `exec` fail with the same error: this tells which of them it would be.
fn check_directory(path: &Path) -> Result<(), Error> {
    let cause = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "not a folder".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::WorkingDirectory { path: path.to_path_buf(), cause })
}

/// Looks the program up here: with a path, the standard library starts it without a fork of its own.
fn find_program(name: &str, spec: &Spec) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return Ok(spec.working_directory.join(name));
    }
    let path = spec.environment.get("PATH").map_or("", String::as_str);
    let executable = |candidate: &PathBuf| {
        fs::metadata(candidate).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(executable)
        .ok_or_else(|| Error::NotFound { program: name.to_owned(), path: path.to_owned() })
}

/// Changes user and primary group. The standard library drops root's supplementary groups with that, and the user's own
/// are not added: a command gets no more groups than the one it is known by.
fn run_as(command: &mut Command, name: &str, spec: &Spec) -> Result<(), Error> {
    let found = User::from_name(name).map_err(|cause| Error::LookUp { user: name.to_owned(), cause })?;
    let user = found.ok_or_else(|| Error::NoUser(name.to_owned()))?;
    let variables: [(&str, OsString); 3] =
        [("HOME", user.dir.into()), ("USER", name.into()), ("LOGNAME", name.into())];
    for (variable, value) in variables.iter().filter(|(name, _)| !spec.environment.contains_key(*name)) {
        command.env(OsStr::new(variable), value);
    }
    if user.uid == Uid::effective() {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        return Err(Error::NotRoot(name.to_owned()));
    }
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    Ok(())
}
