//! A process of the product: started, watched, killed, started again. Its output goes to a file.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// How much of a log is shown when a test fails, in bytes.
const LOG_SHOWN_BYTES_MAX: usize = 16 * 1024;

/// What `ulimit -f` counts in, by POSIX.
const ULIMIT_UNIT_BYTES: u64 = 512;

/// A long-running process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    file_size_max: Option<u64>,
    child: Option<Child>,
}

impl Daemon {
    /// A process that is not started yet. `log` gets what it prints, over all its lives.
    #[must_use]
    pub fn new(name: &str, program: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        Self { name: name.to_owned(), program, arguments, log, file_size_max: None, child: None }
    }

    /// From the next start on, writes that would make a file larger than this fail, as on a broken disk.
    pub const fn limit_file_size(&mut self, bytes_max: Option<u64>) {
        self.file_size_max = bytes_max;
    }

    /// Starts it.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        anyhow::ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = open_log(&self.log)?;
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn command(&self) -> Command {
        let Some(bytes_max) = self.file_size_max else {
            let mut command = Command::new(&self.program);
            command.args(&self.arguments);
            return command;
        };
        // A limit is inherited; so is that its signal is ignored, which turns it into an error of the write.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes_max / ULIMIT_UNIT_BYTES);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).arg(&self.program).args(&self.arguments);
        command
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).with_context(|| format!("{} does not run", self.name))
    }

    /// Ends it as a power cut would: no handler runs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end, as a service manager does, and waits for it.
    ///
    /// # Errors
    /// If it does not run, or does not end in time; it is killed then.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        let pid = i32::try_from(self.pid()?)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        self.wait(patience)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it does not run, or does not end in time; it is killed then.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        while start.elapsed() < patience {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill()?;
        bail!("{} did not end within {} s and was killed", self.name, patience.as_secs())
    }

    /// Whether it runs, or how it ended.
    ///
    /// # Errors
    /// If it has ended or was not started.
    pub fn check(&mut self) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself: {status}", self.name),
        }
    }

    /// What it has printed so far, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Prints the end of its log to standard error.
    pub fn show_log(&self) {
        let log = self.log();
        let from = log.ceil_char_boundary(log.len().saturating_sub(LOG_SHOWN_BYTES_MAX));
        // Nobody can be told that telling failed.
        drop(writeln!(std::io::stderr(), "=== log of {} ===\n{}", self.name, &log[from..]));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill_now(child.id());
            drop(child.wait());
        }
    }
}

/// Runs a command of the product to its end; what it printed.
///
/// # Errors
/// If it cannot be started, or does not succeed: with what it printed.
pub fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{} {}: {}\n{printed}",
        program.display(),
        arguments.join(" "),
        output.status
    );
    Ok(printed)
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
