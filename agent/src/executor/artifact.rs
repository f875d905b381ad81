//! `artifact` tasks: fetch, verify, unpack, switch, prune.
//!
//! ```text
//! <host root>/[<slot>/]<component>/
//!     current -> releases/1.4.2-0123456789ab      switched by a rename: it points to one release or the other, never to none
//!     releases/1.4.2-0123456789ab/                complete and on disk before it has this name
//!     releases/.1.4.2-0123456789ab.digest         written after that; its time of change is when the release was last switched to
//!     releases/.1.4.2-0123456789ab.files          what was unpacked: see `list`
//!     .incoming/<digest>.part                     what has been fetched; a later attempt goes on from there
//!     .incoming/<attempt>.unpack/                 gone after the task, whatever its end
//!     .lock                                       one task at a time
//! ```
//!
//! A release that is there with the digest that is asked for is switched to without any source: that is how a rollback works
//! on a host that reaches nothing. It is read first: what somebody or the disk has changed since is fetched again, and where it cannot
//! be, `current` stays where it is.

mod download;
pub(super) mod inspect;
mod layout;
mod list;
pub(super) mod source;
pub(super) mod unpack;

use std::sync::Arc;
use std::time::Duration;

use stella_protocol::message::{Dispatch, TaskOutcome};
use stella_protocol::spec::ArtifactSpec;
use tokio::task::spawn_blocking;

use self::layout::{Component, Release};
use self::list::Compared;
use super::{Limits, RunContext, Stopped, failed};
use crate::host::{self, HostRoot};

/// How often a component that another task holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error(transparent)]
    Layout(#[from] layout::Error),
    #[error(transparent)]
    Download(#[from] download::Error),
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    #[error("{0}")]
    Stopped(#[from] Stopped),
    #[error("the work on the disk failed; see the agent's log")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("the release is on this host, but damaged ({damage}), and cannot be replaced")]
    Damaged { damage: String, source: Box<Self> },
}

impl Error {
    /// What a try to replace a damaged release ended with.
    fn of_replacing(self, damage: String) -> Self {
        match self {
            Self::Stopped(_)
            | Self::Download(download::Error::Stopped(_))
            | Self::Unpack(unpack::Error::Stopped(_))
            | Self::Damaged { .. } => self,
            Self::Host(_) | Self::Layout(_) | Self::Download(_) | Self::Unpack(_) | Self::Panicked(_) => {
                Self::Damaged { damage, source: Box::new(self) }
            }
        }
    }
}

impl From<Error> for TaskOutcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Stopped(stopped)
            | Error::Download(download::Error::Stopped(stopped))
            | Error::Unpack(unpack::Error::Stopped(stopped)) => stopped.into(),
            Error::Host(_)
            | Error::Layout(_)
            | Error::Download(_)
            | Error::Unpack(_)
            | Error::Panicked(_)
            | Error::Damaged { .. } => failed(&error),
        }
    }
}

pub(super) async fn run(context: &RunContext, spec: &ArtifactSpec) -> TaskOutcome {
    match deploy(context, spec).await {
        Ok(()) => TaskOutcome::Succeeded,
        Err(error) => error.into(),
    }
}

async fn deploy(context: &RunContext, spec: &ArtifactSpec) -> Result<(), Error> {
    let limits = Limits::new(context);
    let release = Release::new(spec)?;
    let component = lock(&context.host, &context.dispatch, spec, &limits).await?;

    let (looked_at, looked_for, bounds) = (Arc::clone(&component), release.clone(), limits.clone());
    let name = &release.name;
    match blocking(move || look(&looked_at, &looked_for, &bounds)).await? {
        None => bring(context, spec, &component, &release, &limits).await?,
        Some(Compared::Same { files, bytes }) => {
            let told = format!("{name} is on this host already: {files} files, {bytes} bytes");
            context.output.say(&told).await;
        }
        // Nobody who cannot say more stands in the way of a rollback.
        Some(Compared::Unclear(why)) => {
            let told = format!(
                "{name} is on this host already; whether it is as it was unpacked is not known: {why}"
            );
            context.output.say(&told).await;
        }
        Some(Compared::Differs(how)) => {
            context
                .output
                .say(&format!("{name} is on this host, but damaged: {how}; bringing it again"))
                .await;
            let brought = bring(context, spec, &component, &release, &limits).await;
            brought.map_err(|error| error.of_replacing(how))?;
        }
    }

    limits.check()?;
    let keep = spec.keep_releases;
    let switched = blocking(move || switch(&component, &release, keep)).await?;
    for line in switched {
        context.output.say(&line).await;
    }
    Ok(())
}

/// What is on this host of a release, every byte of it; `None` if it is not here.
fn look(component: &Component, release: &Release, limits: &Limits) -> Result<Option<Compared>, Error> {
    if !component.is_ready(release)? {
        return Ok(None);
    }
    Ok(Some(component.shelf()?.compare(release, &|| limits.check())?))
}

/// Fetches a release and unpacks it.
async fn bring(
    context: &RunContext,
    spec: &ArtifactSpec,
    component: &Arc<Component>,
    release: &Release,
    limits: &Limits,
) -> Result<(), Error> {
    let file = download::fetch(context, spec, component, limits).await?;
    let (component, release, limits) = (Arc::clone(component), release.clone(), limits.clone());
    let unpacked = blocking(move || install(&component, &release, file, &limits)).await?;
    context.output.say(&format!("unpacked {} entries, {} bytes", unpacked.entries, unpacked.bytes)).await;
    Ok(())
}

/// The component's folder, for this task alone.
async fn lock(
    host: &HostRoot,
    dispatch: &Dispatch,
    spec: &ArtifactSpec,
    limits: &Limits,
) -> Result<Arc<Component>, Error> {
    loop {
        let (host, slot, name) = (host.clone(), dispatch.slot.clone(), spec.component.clone());
        let opened = blocking(move || {
            let dir = host.component_dir(slot.as_deref(), &name)?;
            Ok(Component::lock(dir)?)
        });
        if let Some(component) = opened.await? {
            return Ok(Arc::new(component));
        }
        limits.pause(LOCK_INTERVAL).await?;
    }
}

/// Unpacks beside the releases and gives it its name once all of it is on disk. Removes the archive.
fn install(
    component: &Component,
    release: &Release,
    file: std::fs::File,
    limits: &Limits,
) -> Result<unpack::Unpacked, Error> {
    let temporary = component.create_temporary(limits.key)?;
    let result = component
        .open_temporary(limits.key)
        .map_err(Error::from)
        .and_then(|dir| Ok(unpack::unpack(file, &dir, release.size_bytes, limits)?));
    let unpacked = match result {
        Ok(unpacked) => unpacked,
        Err(error) => {
            // What cannot be removed now is removed by the next task of this component.
            let _left = component.remove_incoming(&temporary);
            return Err(error);
        }
    };
    component.install(&temporary, release, &unpacked.files)?;
    Ok(unpacked)
}

/// Switches, then prunes. What it says.
fn switch(component: &Component, release: &Release, keep: u8) -> Result<Vec<String>, Error> {
    let previous = component.current()?;
    component.switch(release)?;
    let mut lines = vec![match previous.as_deref() {
        Some(previous) if previous == release.name => format!("current stays at {previous}"),
        Some(previous) => format!("current is now {}, it was {previous}", release.name),
        None => format!("current is now {}", release.name),
    }];
    // The switch is done: a release that cannot be removed costs space, not the task.
    match component.prune(keep, &release.name, previous.as_deref()) {
        Ok(removed) => lines.extend(removed.iter().map(|name| format!("removed the old release {name}"))),
        Err(error) => {
            lines.push(format!("old releases could not be removed: {}", super::reason_of(&error)));
        }
    }
    Ok(lines)
}

/// Runs work on the disk on a thread for it, and waits for its end even if the task has to stop: it holds the component.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(Error::Panicked)?
}
