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
pub(super) mod probe;
mod remove;
mod room;
pub(super) mod source;
pub(super) mod sweep;
pub(super) mod unpack;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stella_protocol::message::{Dispatch, TaskOutcome};
use stella_protocol::spec::ArtifactSpec;
use tokio::task::spawn_blocking;

use self::layout::{Component, Release};
use self::list::Compared;
use super::{Limits, RunContext, Stopped, failed};
use crate::host::{self, HostRoot};

/// How often a component that another task holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a task whose time is up may still take away what it has unpacked. What is left then is removed by the next task of the
/// component, or when the agent starts.
const CLEAN_UP_MAX: Duration = Duration::from_secs(30);

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
    /// Why the task was stopped, if it was.
    const fn stopped(&self) -> Option<Stopped> {
        match self {
            Self::Stopped(stopped) => Some(*stopped),
            Self::Layout(error) => error.stopped(),
            Self::Download(error) => error.stopped(),
            Self::Unpack(error) => error.stopped(),
            Self::Host(_) | Self::Panicked(_) | Self::Damaged { .. } => None,
        }
    }

    /// What a try to replace a damaged release ended with.
    fn of_replacing(self, damage: String) -> Self {
        if self.stopped().is_some() || matches!(self, Self::Damaged { .. }) {
            self
        } else {
            Self::Damaged { damage, source: Box::new(self) }
        }
    }
}

impl From<Error> for TaskOutcome {
    fn from(error: Error) -> Self {
        error.stopped().map_or_else(|| failed(&error), Self::from)
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
    let switched = blocking(move || switch(&component, &release, keep, &limits)).await?;
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

/// Fetches a release and unpacks it. What was fetched stays for another attempt, unless there is no room for it: then it would only
/// keep others from what is left.
async fn bring(
    context: &RunContext,
    spec: &ArtifactSpec,
    component: &Arc<Component>,
    release: &Release,
    limits: &Limits,
) -> Result<(), Error> {
    match fetch_and_install(context, spec, component, release, limits).await {
        Ok(unpacked) => {
            let told = format!("unpacked {} entries, {} bytes", unpacked.entries, unpacked.bytes);
            context.output.say(&told).await;
            Ok(())
        }
        Err(error) if room::is_lacking(&error) => {
            let (held, digest) = (Arc::clone(component), release.digest);
            if let Err(left) = blocking(move || Ok(held.remove_partial(digest)?)).await {
                let told = format!("what was fetched cannot be removed: {}", super::reason_of(&left));
                context.output.say(&told).await;
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
}

async fn fetch_and_install(
    context: &RunContext,
    spec: &ArtifactSpec,
    component: &Arc<Component>,
    release: &Release,
    limits: &Limits,
) -> Result<unpack::Unpacked, Error> {
    let file = download::fetch(context, spec, component, limits).await?;
    let (component, release, limits) = (Arc::clone(component), release.clone(), limits.clone());
    blocking(move || install(&component, &release, file, &limits)).await
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
        let bounds = limits.clone();
        let opened = blocking(move || {
            let dir = host.component_dir(slot.as_deref(), &name)?;
            Ok(Component::lock(dir, host.reserve_bytes(), &|| bounds.check())?)
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
    let unpack_and_install = || -> Result<unpack::Unpacked, Error> {
        let dir = component.open_temporary(limits.key)?;
        let unpacked = unpack::unpack(file, &dir, release.size_bytes, component.room()?, limits)?;
        component.install(&temporary, release, &unpacked.files, &|| limits.check())?;
        Ok(unpacked)
    };
    let result = unpack_and_install();
    if result.is_err() {
        // The task may be over its time already.
        let until = Instant::now() + CLEAN_UP_MAX;
        let may_go_on = || if Instant::now() < until { Ok(()) } else { Err(Stopped::TimedOut) };
        let _left = component.remove_incoming(&temporary, &may_go_on);
    }
    result
}

/// Switches, then prunes. What it says.
fn switch(component: &Component, release: &Release, keep: u8, limits: &Limits) -> Result<Vec<String>, Error> {
    let previous = component.current()?;
    component.switch(release)?;
    let mut lines = vec![match previous.as_deref() {
        Some(previous) if previous == release.name => format!("current stays at {previous}"),
        Some(previous) => format!("current is now {}, it was {previous}", release.name),
        None => format!("current is now {}", release.name),
    }];
    // The switch is done: a release that cannot be removed costs space, not the task.
    match component.prune(keep, &release.name, previous.as_deref(), &|| limits.check()) {
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
