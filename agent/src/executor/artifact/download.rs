//! Fetching an artifact into a file that a later try, or a later attempt, goes on from.

use std::io;
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use stella_protocol::spec::ArtifactSpec;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::super::{Limits, RunContext, Stopped};
use super::layout::{self, Component};
use super::room::{self, Room};
use super::source::SourceError;

/// How much is read at once, in bytes.
const PIECE_BYTES: usize = 128 * 1024;

/// A source that says nothing for so long has gone away.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How many tries in a row may bring nothing new.
const TRIES_WITHOUT_PROGRESS_MAX: u32 = 6;

/// The pause after the first try that brought nothing new; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    #[error(transparent)]
    Layout(#[from] layout::Error),
    #[error("the artifact {0} could not be fetched")]
    Source(Digest, #[source] SourceError),
    #[error("the source ended after {got} of {want} bytes")]
    Short { got: u64, want: u64 },
    #[error("the source went silent or broke off after {got} of {want} bytes")]
    Broken {
        got: u64,
        want: u64,
        #[source]
        source: io::Error,
    },
    #[error("the artifact has {got} bytes or more, the release says {want}; nothing was changed")]
    Size { got: u64, want: u64 },
    #[error("the artifact's digest is {got}, the release says {want}; nothing was changed")]
    Digest { got: Digest, want: Digest },
    #[error("cannot write the artifact to the host's disk")]
    Disk(#[source] io::Error),
    #[error("the artifact was not fetched")]
    Room(#[from] room::Error),
    #[error("the work on the disk failed; see the agent's log")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

impl Error {
    /// Whether another try may end differently.
    const fn is_transient(&self) -> bool {
        match self {
            Self::Source(_, SourceError::Unavailable { .. }) | Self::Short { .. } | Self::Broken { .. } => {
                true
            }
            Self::Source(_, SourceError::NotFound)
            | Self::Layout(_)
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::Disk(_)
            | Self::Room(_)
            | Self::Panicked(_)
            | Self::Stopped(_) => false,
        }
    }

    /// Whether it says nothing of the source, because the way to it is gone: the next try waits for another.
    fn is_of_the_way(&self) -> bool {
        matches!(self, Self::Broken { source, .. } if source.kind() == io::ErrorKind::NotConnected)
    }

    /// Why fetching was stopped, if it was.
    pub(super) const fn stopped(&self) -> Option<Stopped> {
        match self {
            Self::Stopped(stopped) => Some(*stopped),
            Self::Layout(error) => error.stopped(),
            Self::Source(..)
            | Self::Short { .. }
            | Self::Broken { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::Disk(_)
            | Self::Room(_)
            | Self::Panicked(_) => None,
        }
    }
}

/// Brings the whole artifact into the component's folder and verifies it. The file is at its beginning.
pub(super) async fn fetch(
    context: &RunContext,
    spec: &ArtifactSpec,
    component: &Arc<Component>,
    limits: &Limits,
) -> Result<std::fs::File, Error> {
    let (held, digest, bounds) = (Arc::clone(component), spec.digest, limits.clone());
    let opened = blocking(move || Ok((held.open_partial(digest, &|| bounds.check())?, held.room()?)));
    let (file, room) = opened.await?;
    let mut partial = Partial::resume(File::from_std(file), room, spec, limits).await?;
    // An artifact that cannot fit is not begun.
    let rest = spec.size_bytes.saturating_sub(partial.length);
    partial.look(rest).await?;
    let mut was_resumed = partial.length > 0;
    if was_resumed {
        context.output.say(&format!("going on after {} of {} bytes", partial.length, spec.size_bytes)).await;
    }
    loop {
        download(context, spec, &mut partial, limits).await?;
        let got = partial.digest();
        if got == spec.digest {
            break;
        }
        if !was_resumed {
            let held = Arc::clone(component);
            blocking(move || Ok(held.remove_partial(digest)?)).await?;
            return Err(Error::Digest { got, want: spec.digest });
        }
        // What an earlier attempt left may be what is wrong with it.
        context.output.say("what was fetched earlier does not fit; fetching all of it again").await;
        partial.restart().await?;
        was_resumed = false;
    }
    let mut file = partial.file;
    file.flush().await.map_err(Error::Disk)?;
    file.seek(SeekFrom::Start(0)).await.map_err(Error::Disk)?;
    Ok(file.into_std().await)
}

/// Fetches up to the wanted size, over as many tries as bring something new.
async fn download(
    context: &RunContext,
    spec: &ArtifactSpec,
    partial: &mut Partial,
    limits: &Limits,
) -> Result<(), Error> {
    let mut tries_without_progress = 0;
    while partial.length < spec.size_bytes {
        let before = partial.length;
        let Err(error) = one_try(context, spec, partial, limits).await else { continue };
        if partial.length > before {
            tries_without_progress = 0;
        } else if !error.is_of_the_way() {
            tries_without_progress += 1;
        }
        if !error.is_transient() || tries_without_progress >= TRIES_WITHOUT_PROGRESS_MAX {
            return Err(error);
        }
        context.output.say(&format!("{}; trying again", super::super::reason_of(&error))).await;
        limits.pause(PAUSE_MIN * 2_u32.pow(tries_without_progress)).await?;
    }
    Ok(())
}

async fn one_try(
    context: &RunContext,
    spec: &ArtifactSpec,
    partial: &mut Partial,
    limits: &Limits,
) -> Result<(), Error> {
    let want = spec.size_bytes;
    let opened = limits.bound(context.artifacts.fetch(spec.digest, partial.length)).await?;
    let mut fetched = opened.map_err(|error| Error::Source(spec.digest, error))?;
    if fetched.size_bytes != want {
        return Err(Error::Size { got: fetched.size_bytes, want });
    }
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = limits.bound(timeout(SILENCE_MAX, fetched.reader.read(&mut piece))).await?;
        let length = match read.map_err(io::Error::from).flatten() {
            Ok(length) => length,
            Err(source) => return Err(Error::Broken { got: partial.length, want, source }),
        };
        if length == 0 {
            return if partial.length == want {
                Ok(())
            } else {
                Err(Error::Short { got: partial.length, want })
            };
        }
        if partial.length + length as u64 > want {
            let got = partial.length + length as u64;
            // None of it can be trusted to belong to the artifact.
            partial.restart().await?;
            return Err(Error::Size { got, want });
        }
        partial.append(&piece[..length]).await?;
    }
}

/// The file and what is known of it.
struct Partial {
    file: File,
    room: Room,
    hasher: Sha256,
    length: u64,
}

impl Partial {
    /// Hashes what an earlier attempt left, so that the digest is one of everything.
    async fn resume(file: File, room: Room, spec: &ArtifactSpec, limits: &Limits) -> Result<Self, Error> {
        let mut partial = Self { file, room, hasher: Sha256::new(), length: 0 };
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            limits.check()?;
            let length = partial.file.read(&mut piece).await.map_err(Error::Disk)?;
            if length == 0 {
                return Ok(partial);
            }
            partial.hasher.update(&piece[..length]);
            partial.length += length as u64;
            if partial.length > spec.size_bytes {
                partial.restart().await?;
                return Ok(partial);
            }
        }
    }

    async fn append(&mut self, piece: &[u8]) -> Result<(), Error> {
        let bytes = piece.len() as u64;
        if self.room.note(bytes) {
            self.look(bytes).await?;
        }
        self.file.write_all(piece).await.map_err(Error::Disk)?;
        // `write_all` may leave the piece with a thread of the runtime: an error must not be lost, nor a later attempt see less.
        self.file.flush().await.map_err(Error::Disk)?;
        self.hasher.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Fails if so many bytes more do not fit on the disk.
    async fn look(&self, more: u64) -> Result<(), Error> {
        let room = self.room.clone();
        blocking(move || Ok(room.look(more)?)).await
    }

    async fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).await.map_err(Error::Disk)?;
        self.file.seek(SeekFrom::Start(0)).await.map_err(Error::Disk)?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }
}

/// Runs work on the disk on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(Error::Panicked)?
}
