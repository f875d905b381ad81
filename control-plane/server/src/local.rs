//! Administration on the control plane's own host, by a socket in the state folder: what no token of the API may do, such as
//! taking a backup with the keys of the authority, or making a token for whoever has none any more.
//!
//! Who may connect is who may read the state folder anyway: the socket is for its owner, in a folder for its owner, and the
//! caller's user is asked of the kernel. A caller sends one request, a line of JSON, and gets one line, and after it what it
//! asked for.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use stella_engine::Handle;
use stella_telemetry::exposition::Exposition;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin_token::{self, Ask};
use crate::authority::{Rotator, Step};
use crate::backup::{self, Parts};
use crate::look::{Look, View};
use crate::reload::Reloader;

/// The socket's name in the state folder.
pub(crate) const SOCKET: &str = "control.sock";
/// How many callers are served at once: one takes a backup, others may look at something meanwhile.
const CALLERS_MAX: usize = 8;
/// The longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long a caller may take to send its request.
const REQUEST_DURATION_MAX: Duration = Duration::from_secs(10);
/// How long either end waits for the other to go on. A large state takes its time to be hashed before the first byte.
const STALL_DURATION_MAX: Duration = Duration::from_secs(300);
/// How long all of an answer may take that is made from what is in memory.
const LOOK_DURATION_MAX: Duration = Duration::from_secs(15);

/// What can be asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// A backup, which follows the answer.
    Backup(Parts),
    /// To read the configuration again; what was taken over follows, one line a key.
    Reload,
    /// A step of the certificate authority; how it is after it follows, as JSON.
    Ca(Step),
    /// To record a token of an administrator; what was recorded follows, as JSON.
    AdminToken(Ask),
    /// How it is; that follows, as JSON.
    Look,
    /// Its figures, which follow as Prometheus has them.
    Metrics,
}

impl Request {
    /// How long all of its answer may take. What takes a backup or changes files takes its time.
    const fn duration_max(&self) -> Option<Duration> {
        match self {
            Self::Look | Self::Metrics => Some(LOOK_DURATION_MAX),
            Self::Backup(_) | Self::Reload | Self::Ca(_) | Self::AdminToken(_) => None,
        }
    }
}

/// The line that is sent back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok,
    Refused(String),
}

/// Where the socket of a state folder is.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

// === the caller ===

/// Asks the control plane that runs on this folder; `None` if none does. What it sends is to be read from the result.
///
/// # Errors
/// If it cannot be asked, or refuses.
pub(crate) fn call(state_dir: &Path, request: &Request) -> anyhow::Result<Option<impl Read + use<>>> {
    call_within(state_dir, request, request.duration_max())
}

fn call_within(
    state_dir: &Path,
    request: &Request,
    duration_max: Option<Duration>,
) -> anyhow::Result<Option<impl Read + use<>>> {
    let socket = path(state_dir);
    let mut stream = match StdStream::connect(&socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be used", socket.display()));
        }
    };
    stream.set_read_timeout(Some(STALL_DURATION_MAX))?;
    stream.set_write_timeout(Some(duration_max.unwrap_or(STALL_DURATION_MAX)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let until = duration_max.map(|duration| (Instant::now() + duration, duration));
    let mut reader = BufReader::new(Answering { stream, until });
    let mut line = Vec::new();
    reader.by_ref().take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line)?;
    match serde_json::from_slice(&line).context("the control plane gave no answer")? {
        Answer::Ok => Ok(Some(reader)),
        Answer::Refused(why) => bail!("the control plane refuses: {why}"),
    }
}

/// What the control plane sends, until there was time enough for all of it.
struct Answering {
    stream: StdStream,
    until: Option<(Instant, Duration)>,
}

impl Read for Answering {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some((deadline, duration)) = self.until else { return self.stream.read(bytes) };
        let late = || {
            let why = format!(
                "does not answer within {} s: its disk or its writer is stuck",
                duration.as_secs_f64()
            );
            io::Error::new(io::ErrorKind::TimedOut, why)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        self.stream.set_read_timeout(Some(left))?;
        let is_late =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        self.stream.read(bytes).map_err(|error| if is_late(&error) { late() } else { error })
    }
}

// === the control plane ===

/// What callers are served with.
#[derive(Debug)]
pub(crate) struct Local {
    engine: Handle,
    state_dir: PathBuf,
    reloader: Arc<Reloader>,
    rotator: Rotator,
    view: View,
    /// One backup at a time: each reads the whole journal. None while the authority's files are being replaced.
    backups: Semaphore,
    shutdown: CancellationToken,
}

impl Local {
    pub(crate) fn new(
        engine: Handle,
        state_dir: PathBuf,
        reloader: Arc<Reloader>,
        rotator: Rotator,
        view: View,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { engine, state_dir, reloader, rotator, view, backups: Semaphore::new(1), shutdown })
    }
}

/// Makes the socket. Whoever holds the journal's lock calls this, so an old socket is nobody's.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn bind(state_dir: &Path) -> anyhow::Result<UnixListener> {
    let socket = path(state_dir);
    let wrong = || format!("the socket {} cannot be made", socket.display());
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(wrong),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&socket).with_context(wrong)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).with_context(wrong)?;
    Ok(listener)
}

/// Serves callers until the shutdown.
pub(crate) async fn serve(local: Arc<Local>, listener: UnixListener) {
    let callers = TaskTracker::new();
    let shutdown = local.shutdown.clone();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if callers.len() < CALLERS_MAX => {
                    let local = Arc::clone(&local);
                    callers.spawn(async move {
                        if let Err(error) = serve_one(&local, stream).await {
                            tracing::warn!(error = format!("{error:#}"), "a local request failed");
                        }
                    });
                }
                // It sees that the connection is closed.
                Ok(_) => tracing::warn!(callers = CALLERS_MAX, "too many local callers at once"),
                Err(error) => {
                    tracing::warn!(%error, "a local caller could not be taken");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    callers.close();
    callers.wait().await;
    // A socket that nobody listens at says the same, so trouble with it does not matter.
    std::fs::remove_file(path(&local.state_dir)).ok();
}

async fn serve_one(local: &Local, mut stream: UnixStream) -> anyhow::Result<()> {
    let caller = stream.peer_cred()?.uid();
    ensure!(
        caller == 0 || caller == nix::unistd::geteuid().as_raw(),
        "user {caller} is neither root nor the control plane's own"
    );
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new((&mut stream).take(REQUEST_BYTES_MAX));
    let read = tokio::time::timeout(REQUEST_DURATION_MAX, reader.read_until(b'\n', &mut line));
    read.await.context("no request came")??;
    match serde_json::from_slice(&line) {
        Ok(Request::Backup(parts)) => take_backup(local, stream, parts).await,
        Ok(Request::Reload) => reload(local, stream).await,
        Ok(Request::Ca(step)) => change_authority(local, stream, step).await,
        Ok(Request::AdminToken(ask)) => record_token(local, stream, caller, ask).await,
        Ok(Request::Look) => look(local, stream).await,
        Ok(Request::Metrics) => figures(local, stream).await,
        Err(error) => {
            let why =
                format!("the request is not understood by version {}: {error}", env!("CARGO_PKG_VERSION"));
            answer(&mut blocking(stream)?, &Answer::Refused(why))
        }
    }
}

async fn take_backup(local: &Local, stream: UnixStream, parts: Parts) -> anyhow::Result<()> {
    let mut stream = blocking(stream)?;
    let Ok(_one) = local.backups.try_acquire() else {
        return answer(
            &mut stream,
            &Answer::Refused("a backup is being taken, or the certificate authority changed".to_owned()),
        );
    };
    let point = match local.engine.checkpoint().await {
        Ok(point) => point,
        Err(error) => return answer(&mut stream, &Answer::Refused(error.to_string())),
    };
    let (state_dir, shutdown) = (local.state_dir.clone(), local.shutdown.clone());
    let taken = tokio::task::spawn_blocking(move || {
        answer(&mut stream, &Answer::Ok)?;
        backup::write(&point, &state_dir, parts, UntilShutdown { stream, shutdown })
    });
    taken.await?.context("a backup was not finished")?;
    tracing::info!(artifacts = parts.artifacts, output = parts.output, "backup taken");
    Ok(())
}

async fn reload(local: &Local, stream: UnixStream) -> anyhow::Result<()> {
    let mut stream = blocking(stream)?;
    let reloader = Arc::clone(&local.reloader);
    let reloaded = tokio::task::spawn_blocking(move || reloader.reload()).await?;
    match reloaded {
        Ok(changes) => {
            answer(&mut stream, &Answer::Ok)?;
            if changes.is_empty() {
                writeln!(stream, "nothing has changed")?;
            }
            changes.iter().try_for_each(|change| writeln!(stream, "{change}"))?;
            Ok(())
        }
        Err(error) => answer(&mut stream, &Answer::Refused(format!("{error:#}"))),
    }
}

async fn change_authority(local: &Local, stream: UnixStream, step: Step) -> anyhow::Result<()> {
    let mut stream = blocking(stream)?;
    // A backup of some files of before and some of after a step would be of no authority at all.
    let Ok(_no_backup) = local.backups.try_acquire() else {
        let why =
            "a backup is being taken, or the certificate authority changed; try again when that is done";
        return answer(&mut stream, &Answer::Refused(why.to_owned()));
    };
    match local.rotator.take(step).await {
        Ok(report) => {
            answer(&mut stream, &Answer::Ok)?;
            Ok(stream.write_all(&serde_json::to_vec(&report)?)?)
        }
        Err(error) => answer(&mut stream, &Answer::Refused(format!("{error:#}"))),
    }
}

async fn record_token(local: &Local, stream: UnixStream, caller: u32, ask: Ask) -> anyhow::Result<()> {
    let mut stream = blocking(stream)?;
    match admin_token::record(&local.engine, caller, ask).await {
        Ok(recorded) => {
            answer(&mut stream, &Answer::Ok)?;
            Ok(stream.write_all(&serde_json::to_vec(&recorded)?)?)
        }
        Err(error) => answer(&mut stream, &Answer::Refused(format!("{error:#}"))),
    }
}

async fn look(local: &Local, stream: UnixStream) -> anyhow::Result<()> {
    let mut stream = blocking(stream)?;
    let point = match local.engine.checkpoint().await {
        Ok(point) => point,
        Err(error) => return answer(&mut stream, &Answer::Refused(error.to_string())),
    };
    let authority = local.rotator.take(Step::Status).await?;
    let (engine, listening) = (local.engine.clone(), local.view.listening);
    let written = tokio::task::spawn_blocking(move || {
        let look = serde_json::to_vec(&Look::at(&point, &engine, listening, authority))?;
        answer(&mut stream, &Answer::Ok)?;
        Ok(stream.write_all(&look)?)
    });
    written.await?
}

async fn figures(local: &Local, stream: UnixStream) -> anyhow::Result<()> {
    let mut stream = blocking(stream)?;
    let render = Arc::clone(&local.view.render);
    let written = tokio::task::spawn_blocking(move || {
        answer(&mut stream, &Answer::Ok)?;
        Ok(stream.write_all(render(Exposition::Text).as_bytes())?)
    });
    written.await?
}

fn blocking(stream: UnixStream) -> anyhow::Result<StdStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(STALL_DURATION_MAX))?;
    Ok(stream)
}

fn answer(stream: &mut StdStream, answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

/// Ends a long answer when the control plane stops: a stop does not wait for a backup.
struct UntilShutdown {
    stream: StdStream,
    shutdown: CancellationToken,
}

impl Write for UntilShutdown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shutdown.is_cancelled() {
            return Err(io::Error::other("the control plane stops"));
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;
    use std::sync::mpsc;

    use super::*;

    /// Asks one that answers with this and then says nothing any more.
    fn asked(answer: &'static [u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let listener = StdListener::bind(path(folder.path())).unwrap();
        let (over, is_over) = mpsc::channel::<()>();
        let control_plane = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            is_over.recv().unwrap_err();
        });
        let outcome = call_within(folder.path(), &Request::Look, Some(Duration::from_millis(250)));
        let error = match outcome {
            Ok(answer) => anyhow::Error::from(answer.unwrap().read_to_end(&mut Vec::new()).unwrap_err()),
            Err(error) => error,
        };
        drop(over);
        control_plane.join().unwrap();
        format!("{error:#}")
    }

    #[test]
    fn a_control_plane_that_is_stuck_is_told_and_not_waited_for() {
        for answer in [b"".as_slice(), b"\"ok\"", b"\"ok\"\n{\"version\":"] {
            assert_eq!(asked(answer), "does not answer within 0.25 s: its disk or its writer is stuck");
        }
        assert_eq!(Request::Look.duration_max(), Some(LOOK_DURATION_MAX));
        assert_eq!(Request::Metrics.duration_max(), Some(LOOK_DURATION_MAX));
    }
}
