//! `check` tasks: ask until the answer is yes a few times in a row, or until the time is up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use stella_protocol::message::{Effect, TaskOutcome};
use stella_protocol::spec::{CheckSpec, CommandSpec, Probe};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::artifact::inspect::Patience;
use super::probe::{absent, there, unclear};
use super::{Limits, RunContext, Stopped, command, failed, reason_of};
use crate::supervisor::Supervisor;

/// How long one try may take: a service that needs longer to say that it is healthy is not.
const TRY_DURATION_MAX: Duration = Duration::from_secs(10);

/// The shortest pause between two tries, so that no check becomes a load.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Why a check by a command is not asked again.
const COMMAND_MAY_BE_LEFT: &str =
    "nobody can confirm that nothing of the check's command is left; look at the host, and settle the task";

/// After how many equal answers one of them is said again.
const TRIES_PER_LINE: u32 = 20;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the check's URL {0:?} is not an http:// URL with a host")]
    Url(String),
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Where the command of a probe keeps its records; each try has the folder for itself.
pub(super) fn probe_dir(attempt_dir: &Path) -> PathBuf {
    attempt_dir.join("probe")
}

/// What one try said.
enum Answer {
    Good(String),
    Bad(String),
    /// A command of which it is not certain that it is gone: trying again could run it twice.
    Unknown(String),
}

pub(super) async fn run(supervisor: &Supervisor, context: &RunContext, spec: &CheckSpec) -> TaskOutcome {
    let limits = Limits::new(context);
    let prober = match Prober::new(supervisor, context, &spec.probe) {
        Ok(prober) => prober,
        Err(error) => return failed(&error),
    };
    let began = Instant::now();
    let wanted = spec.successes.max(1);
    let mut said = Said::default();
    let mut in_a_row = 0;
    loop {
        let answer = match limits.check() {
            Ok(()) => prober.ask(&limits).await,
            Err(stopped) => Err(stopped),
        };
        let tries = said.tries + 1;
        match answer {
            Ok(Answer::Good(answer)) => {
                in_a_row += 1;
                said.note(context, &answer).await;
                if in_a_row >= wanted {
                    context.output.say(&format!("healthy after {}", count(tries))).await;
                    return TaskOutcome::Succeeded;
                }
            }
            Ok(Answer::Bad(answer)) => {
                in_a_row = 0;
                said.note(context, &answer).await;
            }
            Ok(Answer::Unknown(reason)) => return TaskOutcome::Unknown { reason },
            Err(Stopped::Cancelled) => return TaskOutcome::Cancelled,
            Err(Stopped::TimedOut) => return said.not_healthy(began.elapsed()),
        }
        match limits.pause(Duration::from_millis(spec.interval_ms).max(INTERVAL_MIN)).await {
            Ok(()) => {}
            Err(Stopped::Cancelled) => return TaskOutcome::Cancelled,
            Err(Stopped::TimedOut) => return said.not_healthy(began.elapsed()),
        }
    }
}

/// Asks again, because nobody knows what was answered. Only what is not healthy for as long as the check may take is not healthy; and what
/// became of a command nobody knows.
pub(super) async fn probe(spec: &CheckSpec, patience: &Patience) -> Effect {
    let plain = match &spec.probe {
        Probe::Http { url, status } => match Plain::http(url, *status) {
            Ok(plain) => plain,
            Err(error) => return unclear(reason_of(&error)),
        },
        Probe::Tcp { address } => Plain::Tcp { address },
        Probe::Command(_) => return unclear(COMMAND_MAY_BE_LEFT.to_owned()),
    };
    let (began, its_own) = (Instant::now(), patience.at_most(Duration::from_millis(spec.timeout_ms)));
    let (wanted, mut in_a_row) = (spec.successes.max(1), 0);
    loop {
        let last = match plain.ask().await {
            Answer::Good(answer) => {
                in_a_row += 1;
                answer
            }
            Answer::Bad(answer) | Answer::Unknown(answer) => {
                in_a_row = 0;
                answer
            }
        };
        if in_a_row >= wanted {
            return there(format!("it was asked again, and is healthy: {last}"));
        }
        let pause = Duration::from_millis(spec.interval_ms).max(INTERVAL_MIN);
        if its_own.pause(pause).await.is_err() {
            return if patience.check().is_ok() {
                absent(format!("it was asked again, and is not healthy: {last}"))
            } else {
                let (took_s, may_s) = (began.elapsed().as_secs(), spec.timeout_ms / 1000);
                unclear(format!(
                    "it was asked again for {took_s} s of the {may_s} s that it may take: {last}"
                ))
            };
        }
    }
}

/// The tries so far.
#[derive(Default)]
struct Said {
    tries: u32,
    repeated: u32,
    last: Option<String>,
}

impl Said {
    /// Counts a try, and says its answer if that is new.
    async fn note(&mut self, context: &RunContext, answer: &str) {
        self.tries = self.tries.saturating_add(1);
        self.repeated = if self.last.as_deref() == Some(answer) { self.repeated + 1 } else { 0 };
        if self.repeated.is_multiple_of(TRIES_PER_LINE) {
            context.output.say(&format!("try {}: {answer}", self.tries)).await;
        }
        self.last = Some(answer.to_owned());
    }

    fn not_healthy(&self, after: Duration) -> TaskOutcome {
        let last = self.last.as_deref().unwrap_or("there was no answer in time");
        let reason =
            format!("not healthy after {} in {:.1} s; {last}", count(self.tries), after.as_secs_f64());
        TaskOutcome::Failed { reason, exit_code: None }
    }
}

fn count(tries: u32) -> String {
    if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") }
}

/// What is needed to ask without a command.
enum Plain<'a> {
    Http { client: Client, url: Url, status: u16 },
    Tcp { address: &'a str },
}

impl Plain<'_> {
    fn http(url: &str, status: u16) -> Result<Self, Error> {
        Ok(Self::Http { client: client()?, url: parse_url(url)?, status })
    }

    async fn ask(&self) -> Answer {
        match self {
            Self::Http { client, url, status } => ask_http(client, url, *status).await,
            Self::Tcp { address } => ask_tcp(address).await,
        }
    }
}

/// What is needed to ask.
enum Prober<'a> {
    Plain(Plain<'a>),
    Command { supervisor: &'a Supervisor, context: &'a RunContext, spec: &'a CommandSpec },
}

impl<'a> Prober<'a> {
    fn new(supervisor: &'a Supervisor, context: &'a RunContext, probe: &'a Probe) -> Result<Self, Error> {
        Ok(match probe {
            Probe::Http { url, status } => Self::Plain(Plain::http(url, *status)?),
            Probe::Tcp { address } => Self::Plain(Plain::Tcp { address }),
            Probe::Command(spec) => Self::Command { supervisor, context, spec },
        })
    }

    async fn ask(&self, limits: &Limits) -> Result<Answer, Stopped> {
        match self {
            Self::Plain(plain) => limits.bound(plain.ask()).await,
            // The supervisor holds time-out and cancel itself, and must not be dropped before the tree is gone.
            Self::Command { supervisor, context, spec } => {
                ask_command(supervisor, context, spec, limits.left()).await
            }
        }
    }
}

/// Made for each task and dropped with it: an idle agent holds no client.
fn client() -> Result<Client, Error> {
    // The client wants a provider even if it never speaks TLS.
    stella_certs::install_provider();
    Client::builder()
        .no_proxy()
        // It never speaks TLS: it needs no authorities, and a host without any has checks too.
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TRY_DURATION_MAX)
        .pool_max_idle_per_host(0)
        .http1_only()
        .user_agent(concat!("stella-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(Error::Client)
}

fn parse_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.has_host());
    url.ok_or_else(|| Error::Url(text.chars().take(256).collect()))
}

async fn ask_http(client: &Client, url: &Url, wanted: u16) -> Answer {
    // The body is not read: the status is the answer.
    match client.get(url.clone()).send().await {
        Ok(response) if response.status().as_u16() == wanted => {
            Answer::Good(format!("the answer was {}", response.status()))
        }
        Ok(response) => {
            let wanted =
                StatusCode::from_u16(wanted).map_or_else(|_| wanted.to_string(), |status| status.to_string());
            Answer::Bad(format!("the last answer was {}, not {wanted}", response.status()))
        }
        Err(error) => Answer::Bad(format!("the last try failed: {}", reason_of(&error.without_url()))),
    }
}

async fn ask_tcp(address: &str) -> Answer {
    let connect = async {
        let mut last = std::io::Error::other("the name has no address");
        let found: Vec<SocketAddr> = lookup_host(address).await?.collect();
        for address in found {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    match timeout(TRY_DURATION_MAX, connect).await {
        Ok(Ok(())) => Answer::Good("the connection was accepted".to_owned()),
        Ok(Err(error)) => Answer::Bad(format!("the last try to connect to {address} failed: {error}")),
        Err(_) => Answer::Bad(format!("the last try to connect to {address} had no answer in time")),
    }
}

async fn ask_command(
    supervisor: &Supervisor,
    context: &RunContext,
    spec: &CommandSpec,
    left: Duration,
) -> Result<Answer, Stopped> {
    let dir = probe_dir(&context.attempt_dir);
    if let Err(error) = fresh_parent(&dir).await {
        return Ok(Answer::Bad(format!("cannot prepare {}: {error}", dir.display())));
    }
    let own = Duration::from_millis(spec.timeout_ms);
    match command::run_in(supervisor, context, spec, &dir, own.min(left)).await {
        TaskOutcome::Succeeded => Ok(Answer::Good("the command exited with code 0".to_owned())),
        TaskOutcome::Failed { reason, .. } | TaskOutcome::Refused { reason } => Ok(Answer::Bad(reason)),
        TaskOutcome::Interrupted => Ok(Answer::Bad("the command was ended from outside".to_owned())),
        TaskOutcome::TimedOut if own < left => Ok(Answer::Bad(format!("the command took more than {own:?}"))),
        TaskOutcome::TimedOut => Err(Stopped::TimedOut),
        TaskOutcome::Cancelled => Err(Stopped::Cancelled),
        TaskOutcome::Unknown { reason } => Ok(Answer::Unknown(reason)),
    }
}

/// Removes what the try before left; the folder above it must be there.
async fn fresh_parent(dir: &Path) -> std::io::Result<()> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match dir.parent() {
        Some(parent) => tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).await,
        None => Ok(()),
    }
}
