//! An agent as a process, with a state folder and a host root of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::daemon::{self, Daemon};
use crate::{binaries, process, wait};

/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A host with an agent. The agent, and whatever it started, is killed when this is dropped.
#[derive(Debug)]
pub struct Agent {
    daemon: Daemon,
    name: String,
    folder: PathBuf,
    server: String,
}

impl Agent {
    /// A host without an identity.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(folder: &Path, name: &str, server: &str) -> Result<Self> {
        Self::with_flags(folder, name, server, &[])
    }

    /// As [`Self::new`], with more flags for `stella-agent run`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn with_flags(folder: &Path, name: &str, server: &str, flags: &[&str]) -> Result<Self> {
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("host"))?;
        // An existing file is named, so that no file of the machine is read.
        fs::write(folder.join("agent.toml"), "")?;
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(common(&folder, server));
        arguments.extend(
            ["--reserve-bytes", "1048576", "--drain-seconds", "1", "--log-format", "json"].map(String::from),
        );
        for flag in flags {
            // A flag that is given again replaces the one before; clap wants it once.
            if flag.starts_with("--")
                && let Some(at) = arguments.iter().position(|known| known == flag)
            {
                arguments.drain(at..at + 2);
            }
        }
        arguments.extend(flags.iter().map(ToString::to_string));
        let daemon = Daemon::new(
            &format!("agent {name}"),
            binaries::path("stella-agent")?,
            arguments,
            folder.join("agent.log"),
        );
        Ok(Self { daemon, name: name.to_owned(), folder, server: server.to_owned() })
    }

    /// The configuration's file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    /// Sets a section of the configuration and starts the agent again.
    ///
    /// # Errors
    /// If it does not stop or start.
    pub fn configure(&mut self, section: &str, keys: &str) -> Result<()> {
        let folder = self.config_file().with_extension("conf.d");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{section}.toml")), format!("[{section}]\n{keys}\n"))?;
        self.stop()?;
        self.start()
    }

    /// Gets an identity with a token.
    ///
    /// # Errors
    /// What `stella-agent enrol` says, if it is refused.
    pub fn enrol(&self, token: &str) -> Result<String> {
        self.enrol_with(token, &[])
    }

    /// As [`Self::enrol`], with more flags.
    ///
    /// # Errors
    /// What `stella-agent enrol` says, if it is refused.
    pub fn enrol_with(&self, token: &str, flags: &[&str]) -> Result<String> {
        let mut arguments = vec!["enrol".to_owned(), "--token".to_owned(), token.to_owned()];
        arguments.extend(flags.iter().map(ToString::to_string));
        arguments.extend(common(&self.folder, &self.server));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        daemon::run(&binaries::path("stella-agent")?, &arguments)
            .map_err(|error| anyhow::anyhow!("{}", format!("{error:#}").replace(token, "<token>")))
    }

    /// Runs another command of `stella-agent` with this host's flags, and whatever comes after them; how it ended.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tool(&self, arguments: &[&str]) -> Result<Output> {
        let mut agent = Command::new(binaries::path("stella-agent")?);
        let common = common(&self.folder, &self.server);
        // A flag that is given again replaces the one of this host; clap wants it once.
        let is_given = |flag: &str| flag.starts_with("--") && arguments.contains(&flag);
        let kept = common.chunks(2).filter(|pair| !is_given(&pair[0])).flatten();
        agent.args(arguments).args(kept).args(["--reserve-bytes", "1048576"]);
        agent.stdin(Stdio::null()).output().context("stella-agent cannot be run")
    }

    /// Starts it, on the state that is there.
    ///
    /// # Errors
    /// If it runs already.
    pub fn start(&mut self) -> Result<()> {
        self.daemon.start()
    }

    /// Ends the agent as a power cut would; what it started goes on, as it does when an agent crashes.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Asks it to end and checks that it does so in order.
    ///
    /// # Errors
    /// If it does not, or not in time.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.daemon.terminate(STOP_PATIENCE)?;
        anyhow::ensure!(status.success(), "agent {} ended with {status}", self.name);
        Ok(())
    }

    /// Takes over the identity of another host: what a cloned disk does.
    ///
    /// # Errors
    /// If the other has none.
    pub fn steal_identity(&self, other: &Self) -> Result<()> {
        fs::create_dir_all(self.state_dir())?;
        fs::copy(other.identity_file(), self.identity_file()).context("the other agent has no identity")?;
        fs::copy(other.state_dir().join("profile.json"), self.state_dir().join("profile.json"))?;
        Ok(())
    }

    /// Forgets the journal and keeps the identity: what a restored or wiped disk does. The agent must not run.
    ///
    /// # Errors
    /// If there is no journal.
    pub fn wipe_journal(&self) -> Result<()> {
        fs::remove_dir_all(self.state_dir().join("journal")).context("there is no journal to wipe")
    }

    /// Copies what its disk holds: what the agent keeps, and what tasks have changed. The agent must not run.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn save_disk(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        copy_tree(&self.state_dir(), &to.join("state"))?;
        copy_tree(&self.host_root(), &to.join("host"))
    }

    /// Puts back what [`Self::save_disk`] has copied: what a restored disk does. The agent must not run.
    ///
    /// # Errors
    /// If it cannot be put back.
    pub fn restore_disk(&self, from: &Path) -> Result<()> {
        fs::remove_dir_all(self.state_dir())?;
        fs::remove_dir_all(self.host_root())?;
        copy_tree(&from.join("state"), &self.state_dir())?;
        copy_tree(&from.join("host"), &self.host_root())
    }

    /// The file with key and certificate.
    #[must_use]
    pub fn identity_file(&self) -> PathBuf {
        self.state_dir().join("identity.json")
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The folder that tasks may change.
    #[must_use]
    pub fn host_root(&self) -> PathBuf {
        self.folder.join("host")
    }

    /// A file on its host, as text; empty if it is not there.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.host_root().join(path)).unwrap_or_default()
    }

    /// Its name, and its tenant's word for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.daemon.pid()
    }

    /// The process.
    pub const fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// The processes that it started and that live, the agent itself excluded.
    #[must_use]
    pub fn offspring(&self) -> Vec<u32> {
        let own = self.daemon.pid().ok();
        process::mentioning(&self.folder).into_iter().filter(|pid| Some(*pid) != own).collect()
    }

    /// What it has logged so far, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// How often a control plane has welcomed it.
    #[must_use]
    pub fn welcomes(&self) -> usize {
        self.log().matches("welcomed by the control plane").count()
    }

    /// Waits until it was welcomed more often than so. A control plane that was away calls its agents online before they are back.
    ///
    /// # Errors
    /// If it is not in time.
    pub async fn wait_welcomed(&self, before: usize) -> Result<()> {
        wait::until(&format!("agent {} is back", self.name()), async || {
            let welcomes = self.welcomes();
            ensure!(welcomes > before, "it was welcomed {welcomes} times");
            Ok(())
        })
        .await
    }

    /// Shows its log.
    pub fn show_log(&self) {
        self.daemon.show_log();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent first, or it would report what happens to its tasks. An agent that does not run is as good.
        drop(self.daemon.kill());
        for pid in self.offspring() {
            process::kill_now(pid);
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status()?;
    anyhow::ensure!(copied.success(), "{} cannot be copied", from.display());
    Ok(())
}

fn common(folder: &Path, server: &str) -> Vec<String> {
    let shown = |name: &str| folder.join(name).display().to_string();
    let flags = [
        "--config",
        &shown("agent.toml"),
        "--state-dir",
        &shown("state"),
        "--host-root",
        &shown("host"),
        "--server",
        server,
    ];
    flags.map(str::to_owned).to_vec()
}
