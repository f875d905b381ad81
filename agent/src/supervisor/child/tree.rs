//! The command's process tree, seen from the subreaper above it.

use std::collections::HashSet;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::super::group::Group;
use super::super::process::{self, Process};
use super::super::record::End;

/// The command and everything that came of it.
#[derive(Debug)]
pub(super) struct Tree<'g> {
    this: i32,
    group: Option<&'g Group>,
    child: Child,
    child_pid: i32,
    end: Option<End>,
}

impl<'g> Tree<'g> {
    pub(super) fn new(child: Child, group: Option<&'g Group>) -> io::Result<Self> {
        let this = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let child_pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self { this, group, child, child_pid, end: None })
    }

    /// The command's own process, unless it is gone already.
    pub(super) fn command(&self) -> Option<Process> {
        Process::of(self.child_pid)
    }

    /// Collects the exit statuses of the command and of orphans.
    pub(super) fn reap(&mut self) {
        if self.end.is_none() {
            match self.child.try_wait() {
                Ok(Some(status)) => self.end = Some(end_of(status)),
                Ok(None) => {}
                Err(_) => self.end = Some(End::Unseen),
            }
        }
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                // The command may end between the two calls.
                Ok(WaitStatus::Exited(pid, code)) => self.note(pid, End::Exited { code }),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.note(pid, End::Signalled { signal: signal as i32 });
                }
                // No children, none with news, or a status that has no name: the command's own is read above.
                Ok(_) | Err(_) => break,
            }
        }
    }

    /// Whether nothing of the tree is left: without a child, a subreaper has no descendants either.
    pub(super) fn is_gone(&self) -> bool {
        self.end.is_some()
            && waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD)
            && self.group.is_none_or(|group| group.others().is_ok_and(|others| others.is_empty()))
    }

    fn note(&mut self, pid: Pid, end: End) {
        if pid.as_raw() == self.child_pid && self.end.is_none() {
            self.end = Some(end);
        }
    }

    pub(super) const fn command_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the command or anything below it is there. When in doubt (no `/proc`), it is.
    pub(super) fn is_running(&self) -> bool {
        self.end.is_none() || self.members().map_or(true, |members| !members.is_empty())
    }

    /// What is below this process, and what is in its group: a process may get out of either.
    fn members(&self) -> io::Result<Vec<Process>> {
        let mut members = process::descendants(&process::all()?, &[self.this]);
        if let Some(group) = self.group {
            let known: HashSet<i32> = members.iter().map(|member| member.pid).collect();
            members.extend(group.others()?.into_iter().filter(|other| !known.contains(&other.pid)));
        }
        Ok(members)
    }

    /// Ends every process of the tree, those too that are being forked at this moment if there is a group.
    pub(super) fn kill(&self) -> io::Result<()> {
        if let Some(group) = self.group {
            // What it leaves is seen as still there, and tried again.
            let _again = group.kill();
        }
        self.signal(Signal::SIGKILL)
    }

    /// Sends a signal to every process of the tree. One that may not be signalled is seen later as still there.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        for member in self.members()? {
            let _gone_or_forbidden = kill(Pid::from_raw(member.pid), signal);
        }
        Ok(())
    }

    pub(super) fn end(self) -> End {
        self.end.unwrap_or(End::Unseen)
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited { code },
        (None, Some(signal)) => End::Signalled { signal },
        (None, None) => End::Unseen,
    }
}
