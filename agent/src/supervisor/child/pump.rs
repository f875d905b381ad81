//! From the command's pipes to the agent and to the spool.
//!
//! At most one frame waits for the agent; until it is taken, the command's pipes are not read, so a slow agent slows the
//! command down as any pipe does. An agent that is gone does not: then only the spool is written.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use stella_protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use stella_protocol::message::{EndingStage, OutputSource};

use super::super::frame::{self, Spool};
use super::super::record::Ended;
use crate::output::now;

/// What is still read after the end, in bytes: more than two full pipes hold. A daemon that goes on writing is cut off here.
const DRAIN_BYTES_MAX: usize = 256 * 1024;

/// How long the agent may take to read the last frames.
const FLUSH_DURATION_MAX: Duration = Duration::from_secs(2);

/// The pipes of one command.
#[derive(Debug)]
pub(super) struct Pump {
    sources: Vec<(OutputSource, File)>,
    agent: Option<File>,
    pending: Vec<u8>,
    sent: usize,
    spool: Spool,
    buffer: Vec<u8>,
}

impl Pump {
    /// Standard output becomes the way to the agent.
    pub(super) fn new(attempt_dir: &Path) -> io::Result<Self> {
        let agent = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        set_nonblocking(&agent)?;
        let spool = Spool::new(attempt_dir);
        Ok(Self {
            sources: Vec::new(),
            agent: Some(agent),
            pending: Vec::new(),
            sent: 0,
            spool,
            buffer: Vec::new(),
        })
    }

    /// Reads these from now on.
    pub(super) fn attach(
        &mut self,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<()> {
        let stdout = stdout.map(|pipe| (OutputSource::Stdout, File::from(OwnedFd::from(pipe))));
        let stderr = stderr.map(|pipe| (OutputSource::Stderr, File::from(OwnedFd::from(pipe))));
        self.sources = stdout.into_iter().chain(stderr).collect();
        self.sources.iter().try_for_each(|(_, pipe)| set_nonblocking(pipe))
    }

    /// Waits for a signal, for output or for the agent, at most `limit`, and moves what can be moved.
    pub(super) fn wait(&mut self, signals: &SignalFd, limit: Option<Duration>) -> io::Result<()> {
        self.poll(Some(signals), limit)?;
        self.send();
        self.receive();
        Ok(())
    }

    /// Reads what the command has left in its pipes.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let give_up_at = Instant::now() + FLUSH_DURATION_MAX;
        let mut read = 0;
        while read < DRAIN_BYTES_MAX {
            self.flush(give_up_at)?;
            let now_read = self.receive();
            if now_read == 0 {
                break;
            }
            read += now_read;
        }
        self.flush(give_up_at)
    }

    /// Tells the agent how far the end has got. Behind what waits for it: that is one frame at most.
    pub(super) fn tell(&mut self, stage: EndingStage) {
        frame::encode_stage(stage, now(), &mut self.pending);
        self.send();
    }

    /// Tells the agent how it ended, and whether this supervisor is ready for another attempt. Whether it still listens.
    pub(super) fn finish(&mut self, ended: &Ended, is_ready: bool) -> io::Result<bool> {
        let give_up_at = Instant::now() + FLUSH_DURATION_MAX;
        self.flush(give_up_at)?;
        frame::encode_end(ended, is_ready, &mut self.pending)?;
        self.send();
        self.flush(give_up_at)?;
        Ok(self.agent.is_some())
    }

    fn poll(&self, signals: Option<&SignalFd>, limit: Option<Duration>) -> io::Result<()> {
        let mut waited: Vec<PollFd<'_>> = Vec::with_capacity(4);
        waited.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        if self.pending.is_empty() {
            waited.extend(self.sources.iter().map(|(_, pipe)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        } else {
            waited.extend(self.agent.iter().map(|agent| PollFd::new(agent.as_fd(), PollFlags::POLLOUT)));
        }
        // Rounded up: a wait of less than a millisecond must not become a busy loop.
        let round_up = |limit: Duration| PollTimeout::try_from(limit + Duration::from_millis(1));
        let timeout = limit.map_or(PollTimeout::NONE, |limit| round_up(limit).unwrap_or(PollTimeout::MAX));
        match poll(&mut waited, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads one piece from each pipe, unless a frame still waits. How many bytes that were.
    fn receive(&mut self) -> usize {
        let mut total = 0;
        let mut index = 0;
        self.buffer.resize(OUTPUT_CHUNK_BYTES_MAX, 0);
        while self.pending.is_empty() && index < self.sources.len() {
            let (source, pipe) = &mut self.sources[index];
            match pipe.read(&mut self.buffer) {
                Ok(0) => {
                    let _closed = self.sources.remove(index);
                    continue;
                }
                Ok(length) => {
                    let (source, at) = (*source, now());
                    frame::encode_output(source, at, &self.buffer[..length], &mut self.pending);
                    self.spool.write(&self.pending, at, length);
                    self.send();
                    total += length;
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => {
                    let _broken = self.sources.remove(index);
                    continue;
                }
            }
            index += 1;
        }
        total
    }

    /// Writes as much of the waiting frame as the agent takes now. An agent that is gone takes all of it.
    fn send(&mut self) {
        while self.sent < self.pending.len() {
            let Some(agent) = &mut self.agent else { break };
            match agent.write(&self.pending[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.agent = None,
            }
        }
        self.pending.clear();
        self.sent = 0;
    }

    /// Waits until the agent has taken the waiting frame; after `give_up_at` it counts as gone.
    fn flush(&mut self, give_up_at: Instant) -> io::Result<()> {
        while !self.pending.is_empty() {
            let left = give_up_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.agent = None;
            } else {
                self.poll(None, Some(left))?;
            }
            self.send();
        }
        Ok(())
    }
}

fn set_nonblocking(pipe: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
