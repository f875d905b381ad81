//! `systemd` tasks: an action on a unit, and the wait until it is in the wanted state.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use stella_protocol::id::AttemptKey;
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{SystemdSpec, UnitAction};
use tokio::process::Command;

use super::{BoxFuture, Limits, RunContext, failed};
use crate::supervisor::MARKER;

/// How often the state is asked for after the action.
const INTERVAL: Duration = Duration::from_millis(200);

/// The longest unit name that systemd takes, in bytes.
const UNIT_BYTES_MAX: usize = 255;

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

/// The port to the host's units. Futures may be dropped at any time; whatever they started ends with them.
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
}

pub(super) async fn run(context: &RunContext, spec: &SystemdSpec) -> TaskOutcome {
    let limits = Limits::new(context);
    match limits.bound(act_and_wait(context, spec)).await {
        Ok(Ok(())) => TaskOutcome::Succeeded,
        Ok(Err(error)) => failed(&error),
        Err(stopped) => stopped.into(),
    }
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

async fn act_and_wait(context: &RunContext, spec: &SystemdSpec) -> Result<(), Error> {
    let unit = check_name(&spec.unit)?;
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
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@-".contains(&byte);
    let suffixes = [".service", ".socket", ".timer", ".target", ".path", ".mount"];
    let named = suffixes.iter().any(|suffix| unit.len() > suffix.len() && unit.ends_with(suffix));
    if named && unit.len() <= UNIT_BYTES_MAX && !unit.starts_with('-') && unit.bytes().all(plain) {
        Ok(unit)
    } else {
        Err(UnitError::Name(unit.chars().take(64).collect()))
    }
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
