//! `systemd` tasks: an action on a unit, and the wait until it is in the wanted state.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stella_protocol::id::AttemptKey;
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{SystemdSpec, UnitAction};
use tokio::process::Command;
use tokio::time::timeout;

use super::{BoxFuture, Limits, RunContext, failed, reason_of};
use crate::policy::is_unit_name;
use crate::supervisor::MARKER;

/// How often the state is asked for after the action.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long taking back what was asked for may take.
const TAKE_BACK_MAX: Duration = Duration::from_secs(10);

/// How much of what `systemctl` says goes into a reason, in bytes.
const WORDS_BYTES_MAX: usize = 1024;

/// What a unit manager says of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActiveState {
    /// It runs.
    Active,
    /// It does not run.
    Inactive,
    /// It ended badly.
    Failed,
    /// On its way: activating, deactivating, reloading, or a state that this agent does not know.
    Other(String),
}

/// Why a unit manager did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// Not every host has systemd as its first process.
    #[error("this host does not run systemd; a systemd task cannot be run here")]
    NoSystemd,
    /// The name could be taken for an option or another unit.
    #[error("{0:?} is no unit name; write it in full, for example web.service")]
    Name(String),
    /// It refused.
    #[error("systemctl {verb} {unit} failed: {words}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Of which unit.
        unit: String,
        /// What it said.
        words: String,
    },
    /// It could not be asked.
    #[error("cannot run systemctl")]
    Io(#[from] std::io::Error),
}

/// The port to the host's units. Futures may be dropped at any time; the processes that they started end with them. What the manager was
/// asked for does not: that is what [`Self::take_back`] is for.
pub trait UnitManager: std::fmt::Debug + Send + Sync {
    /// Asks for the action and waits until the manager says that it is done. `key` marks processes that this starts.
    fn act<'a>(
        &'a self,
        unit: &'a str,
        action: UnitAction,
        key: AttemptKey,
    ) -> BoxFuture<'a, Result<(), UnitError>>;

    /// The unit's state now.
    fn active_state<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<ActiveState, UnitError>>;

    /// Takes back what was asked for and is not done. Tells whether there was something.
    fn take_back<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<bool, UnitError>>;
}

pub(super) async fn run(context: &RunContext, spec: &SystemdSpec) -> TaskOutcome {
    let limits = Limits::new(context);
    let has_asked = AtomicBool::new(false);
    match limits.bound(act_and_wait(context, spec, &has_asked)).await {
        Ok(Ok(())) => TaskOutcome::Succeeded,
        Ok(Err(error)) => failed(&error),
        Err(stopped) => {
            if has_asked.load(Ordering::Relaxed) {
                take_back(context, &spec.unit).await;
            }
            stopped.into()
        }
    }
}

/// The manager goes on with what it was asked for whether somebody waits for that or not, and would merge it with what is asked for next.
async fn take_back(context: &RunContext, unit: &str) {
    let told = match timeout(TAKE_BACK_MAX, context.units.take_back(unit)).await {
        Ok(Ok(false)) => return,
        Ok(Ok(true)) => {
            format!("the job of {unit} was cancelled; `systemctl status {unit}` tells how far it got")
        }
        Ok(Err(error)) => format!("the job of {unit} may go on: {}", reason_of(&error)),
        Err(_) => format!("the job of {unit} may go on: systemd did not answer"),
    };
    context.output.say(&told).await;
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error("the unit {0} has failed; `journalctl -u {0}` on the host tells why")]
    Failed(String),
    #[error("the unit {0} has stopped again; `journalctl -u {0}` on the host tells why")]
    Stopped(String),
}

async fn act_and_wait(context: &RunContext, spec: &SystemdSpec, has_asked: &AtomicBool) -> Result<(), Error> {
    let unit = check_name(&spec.unit)?;
    has_asked.store(true, Ordering::Relaxed);
    context.units.act(unit, spec.action, context.dispatch.key()).await?;
    let wants_active = match spec.action {
        UnitAction::Start | UnitAction::Restart | UnitAction::ReloadOrRestart => true,
        UnitAction::Stop => false,
    };
    loop {
        match (context.units.active_state(unit).await?, wants_active) {
            (ActiveState::Active, true) | (ActiveState::Inactive | ActiveState::Failed, false) => {
                return Ok(());
            }
            (ActiveState::Failed, true) => return Err(Error::Failed(unit.to_owned())),
            (ActiveState::Inactive, true) => return Err(Error::Stopped(unit.to_owned())),
            (ActiveState::Active, false) | (ActiveState::Other(_), _) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

fn check_name(unit: &str) -> Result<&str, UnitError> {
    if is_unit_name(unit) { Ok(unit) } else { Err(UnitError::Name(unit.chars().take(64).collect())) }
}

/// systemd, asked through `systemctl`: the one interface that every version has, and that needs no D-Bus library.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemctl;

impl UnitManager for Systemctl {
    fn act<'a>(
        &'a self,
        unit: &'a str,
        action: UnitAction,
        key: AttemptKey,
    ) -> BoxFuture<'a, Result<(), UnitError>> {
        Box::pin(async move {
            let verb = match action {
                UnitAction::Start => "start",
                UnitAction::Stop => "stop",
                UnitAction::Restart => "restart",
                UnitAction::ReloadOrRestart => "reload-or-restart",
            };
            let (succeeded, words) = systemctl(&[verb, "--", unit], Some(key)).await?;
            if succeeded { Ok(()) } else { Err(UnitError::Refused { verb, unit: unit.to_owned(), words }) }
        })
    }

    fn active_state<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<ActiveState, UnitError>> {
        Box::pin(async move {
            let show = ["show", "--property=ActiveState", "--value", "--", unit];
            let (succeeded, words) = systemctl(&show, None).await?;
            if !succeeded {
                return Err(UnitError::Refused { verb: "show", unit: unit.to_owned(), words });
            }
            Ok(match words.as_str() {
                "active" => ActiveState::Active,
                "inactive" => ActiveState::Inactive,
                "failed" => ActiveState::Failed,
                _ => ActiveState::Other(words),
            })
        })
    }

    fn take_back<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<bool, UnitError>> {
        Box::pin(async move {
            let Some(job) = job_of(unit).await? else { return Ok(false) };
            let (succeeded, words) = systemctl(&["cancel", "--", &job], None).await?;
            // It may have been done meanwhile.
            if succeeded || job_of(unit).await?.as_ref() != Some(&job) {
                Ok(true)
            } else {
                Err(UnitError::Refused { verb: "cancel", unit: unit.to_owned(), words })
            }
        })
    }
}

/// The number of the job that a unit has.
async fn job_of(unit: &str) -> Result<Option<String>, UnitError> {
    let show = ["show", "--property=Job", "--value", "--", unit];
    let (succeeded, words) = systemctl(&show, None).await?;
    if !succeeded {
        return Err(UnitError::Refused { verb: "show", unit: unit.to_owned(), words });
    }
    Ok(Some(words).filter(|job| job.parse::<u32>().is_ok_and(|job| job > 0)))
}

/// Runs `systemctl`; whether it succeeded, and what it said.
async fn systemctl(arguments: &[&str], key: Option<AttemptKey>) -> Result<(bool, String), UnitError> {
    // The same test as sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(UnitError::NoSystemd);
    }
    let mut command = Command::new("/usr/bin/systemctl");
    command
        .args(["--no-ask-password", "--no-pager"])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(key) = key {
        command.env(MARKER, key.to_string());
    }
    let output = command.output().await?;
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    let said = String::from_utf8_lossy(&said[..said.len().min(WORDS_BYTES_MAX)]);
    Ok((output.status.success(), said.trim().to_owned()))
}
