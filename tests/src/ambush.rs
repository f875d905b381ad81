//! A tracer that waits for a process at one system call on one file, and has it fail, hang or be the end.

use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};

use crate::wait;

/// Sends the tracer away when this is dropped; a call that it holds goes on then.
#[derive(Debug)]
pub struct Ambush {
    tracer: Child,
    pid: u32,
}

impl Ambush {
    /// Waits for a call on a file, until each of the process's threads is watched. `what` is that of strace's `inject`. What the tracer says
    /// is in the file `notes`.
    ///
    /// # Errors
    /// If there is no strace, or the file is not there.
    pub async fn lay(pid: u32, call: &str, what: &str, file: &Path, notes: &Path) -> Result<Self> {
        let file = file.canonicalize().with_context(|| file.display().to_string())?;
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
        let mut strace = Command::new("strace");
        strace.args(["-q", "-f", "-e", &trace, "-e", &inject]).arg("-P").arg(file).arg("-o").arg(notes);
        strace.args(["-p", &pid.to_string()]);
        let ambush = Self { tracer: strace.spawn().context("strace cannot be started")?, pid };
        ambush.wait().await?;
        Ok(ambush)
    }

    async fn wait(&self) -> Result<()> {
        let tasks = format!("/proc/{}/task", self.pid);
        wait::until("strace watches all threads", async || {
            for task in std::fs::read_dir(&tasks)? {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
                ensure!(tracer.is_some_and(|pid| pid.trim() == self.tracer.id().to_string()), "one is not");
            }
            Ok(())
        })
        .await
    }
}

impl Drop for Ambush {
    fn drop(&mut self) {
        // It ends with the process that it watches.
        self.tracer.kill().ok();
        self.tracer.wait().ok();
    }
}
