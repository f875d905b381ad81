//! A PostgreSQL of a test's own, on a port of loopback.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::User;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::{ports, wait};

/// Where Debian has the versions.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Who runs it: it refuses root.
const USER: &str = "postgres";
/// The first user of the database, who may do everything there.
pub const OWNER: &str = "shop";
const PASSWORD: &str = "c0rrect-h0rse";

/// A server. It ends when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    password_file: PathBuf,
    _server: Daemon,
    _folder: TempDir,
}

impl Postgres {
    /// Starts a server with an empty database that is called as its owner, and waits until it answers.
    ///
    /// # Errors
    /// If it is not installed, this is not root, or it does not start.
    pub async fn start() -> Result<Self> {
        let versions = fs::read_dir(VERSIONS).context("PostgreSQL is not there; run `make tools` first")?;
        // Some may have the programs of clients only.
        let servers = versions.flatten().map(|item| item.path().join("bin"));
        let newest = servers.filter(|bin| bin.join("initdb").is_file()).max();
        let programs = newest.context("PostgreSQL is not there; run `make tools` first")?;
        let user = User::from_name(USER)?.context("there is no user postgres")?;
        let folder = tempfile::tempdir()?;
        let password_file = folder.path().join("password");
        fs::write(&password_file, PASSWORD)?;
        for path in [folder.path(), &password_file] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        let data = folder.path().join("data");
        let shown = |path: &Path| path.display().to_string();
        let become_postgres = ["--reuid", USER, "--regid", USER, "--clear-groups"];
        let made = Command::new("setpriv")
            .args(become_postgres)
            .arg(programs.join("initdb"))
            .args(["--username", OWNER, "--auth", "scram-sha-256", "--pwfile", &shown(&password_file)])
            .args(["--no-sync", "--pgdata", &shown(&data)])
            // Whoever runs the tests may have a language that this machine has not.
            .args(["--locale", "C.UTF-8", "--encoding", "UTF8"])
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = ports::free()?;
        let mut arguments: Vec<String> = become_postgres.map(str::to_owned).to_vec();
        arguments.extend([shown(&programs.join("postgres")), "-D".to_owned(), shown(&data)]);
        let sockets = format!("unix_socket_directories={}", folder.path().display());
        for setting in ["listen_addresses=127.0.0.1", &format!("port={port}"), &sockets, "fsync=off"] {
            arguments.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let log = folder.path().join("log");
        let mut server = Daemon::new("postgres", "/usr/bin/setpriv".into(), arguments, log);
        server.start()?;
        let password_file = folder.path().join("pgpass");
        fs::write(&password_file, format!("127.0.0.1:{port}:*:{OWNER}:{PASSWORD}\n"))?;
        fs::set_permissions(&password_file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        ensure!(fs::metadata(&password_file)?.uid() == 0, "tests with a database are run by root");
        let postgres = Self { port, password_file, _server: server, _folder: folder };
        wait::until("PostgreSQL answers", async || postgres.ask_in("postgres", "select 1").map(drop)).await?;
        postgres.ask_in("postgres", &format!("create database {OWNER}"))?;
        Ok(postgres)
    }

    /// Its port on loopback.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A file with the owner's password, as `psql` reads it.
    #[must_use]
    pub fn password_file(&self) -> &Path {
        &self.password_file
    }

    /// What a query in the database gives: a line for each row.
    ///
    /// # Errors
    /// What the database says, if it refuses.
    pub fn ask(&self, query: &str) -> Result<String> {
        self.ask_in(OWNER, query)
    }

    fn ask_in(&self, database: &str, query: &str) -> Result<String> {
        let port = self.port.to_string();
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1"]);
        psql.args(["--host", "127.0.0.1", "--port", &port, "--username", OWNER, "--dbname", database]);
        let ended = psql.args(["--command", query]).env("PGPASSFILE", &self.password_file).output()?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?.trim().to_owned())
    }
}
