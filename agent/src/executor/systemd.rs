//! `systemd` tasks: an action on a unit, and the wait until it is in the wanted state.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use stella_protocol::id::AttemptKey;
use stella_protocol::limits::HANDSHAKE_TIMEOUT_MS;
use stella_protocol::message::{Effect, TaskOutcome};
use stella_protocol::spec::{SystemdSpec, UnitAction};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::artifact::inspect::Patience;
use super::probe::{absent, there, unclear};
use super::{BoxFuture, Limits, RunContext, failed, reason_of};
use crate::policy::is_unit_name;
use crate::supervisor::MARKER;

/// How often the state is asked for after the action.
const INTERVAL: Duration = Duration::from_millis(200);

/// By how much an attempt may be older than the control plane's clock makes it: as long as a welcome may be on its way.
const AGE_ERROR_MAX: Duration = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);

/// What tells when a unit last became active, by two clocks.
const ENTERED: &str = "--property=ActiveEnterTimestampMonotonic,ActiveEnterTimestamp";

/// The days from the first of March of the year 0 to 1970.
const DAYS_TO_1970: u64 = 719_468;

/// How long taking back what was asked for may take.
const TAKE_BACK_MAX: Duration = Duration::from_secs(10);

/// Why a job is not cancelled.
const SHARED: &str = "it was asked for by others too";
const MAY_BE_OTHERS: &str = "systemd did not say whether it is this task's";
const WOULD_STAY_DOWN: &str = "it has begun, and a unit that was stopped for a restart would stay down";

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

/// How a unit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitStanding {
    /// Its state.
    pub state: ActiveState,
    /// Whether something that it was asked for is not done.
    pub has_job: bool,
    /// How long ago it last became active; `None` if it never has, or nobody knows.
    pub active_for: Option<Duration>,
    /// How long ago that was at least, by the wall clock, which goes on while the host is suspended and is set after its memory was
    /// restored, when the other clock has stood still; `None` if nobody knows.
    pub by_wall_clock: Option<Duration>,
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
    Io(#[from] io::Error),
}

/// What a task asks a unit manager for.
#[derive(Debug)]
pub struct Request {
    /// Of which unit.
    pub unit: String,
    /// What.
    pub action: UnitAction,
    /// Marks the processes that are started for it.
    pub key: AttemptKey,
    /// Set as soon as the manager has told.
    job: OnceLock<Job>,
}

/// The manager's job for a request. It merges what is asked of one unit, so a job may serve several.
#[derive(Clone, Copy, Debug)]
struct Job {
    id: u32,
    /// Whether the unit had it before the task asked.
    is_older: bool,
}

impl Request {
    /// Nothing was asked yet.
    #[must_use]
    pub const fn new(unit: String, action: UnitAction, key: AttemptKey) -> Self {
        Self { unit, action, key, job: OnceLock::new() }
    }
}

/// What became of a request that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenBack {
    /// The manager was not at it any more.
    Over,
    /// Its job was cancelled.
    Cancelled,
    /// Its job goes on, for this reason.
    GoesOn(&'static str),
}

/// The port to the host's units. Futures may be dropped at any time; the processes that they started end with them. What the manager was
/// asked for does not: that is what [`Self::take_back`] is for.
pub trait UnitManager: std::fmt::Debug + Send + Sync {
    /// Asks for it and waits until the manager says that it is done.
    fn act<'a>(&'a self, request: &'a Arc<Request>) -> BoxFuture<'a, Result<(), UnitError>>;

    /// The unit's state now.
    fn active_state<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<ActiveState, UnitError>>;

    /// How the unit stands now.
    fn standing<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<UnitStanding, UnitError>>;

    /// Takes back what was asked for and is not done, unless it serves others too, or the unit would be left down.
    fn take_back<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<TakenBack, UnitError>>;
}

pub(super) async fn run(context: &RunContext, spec: &SystemdSpec) -> TaskOutcome {
    let unit = match check_name(&spec.unit) {
        Ok(unit) => unit.to_owned(),
        Err(error) => return failed(&error),
    };
    let request = Arc::new(Request::new(unit, spec.action, context.dispatch.key()));
    match Limits::new(context).bound(act_and_wait(context, &request)).await {
        Ok(Ok(())) => TaskOutcome::Succeeded,
        Ok(Err(error)) => failed(&error),
        Err(stopped) => {
            take_back(context, &request).await;
            stopped.into()
        }
    }
}

/// The manager goes on with what it was asked for whether somebody waits for that or not, and would merge it with what is asked for next.
async fn take_back(context: &RunContext, request: &Request) {
    let unit = &request.unit;
    let told = match timeout(TAKE_BACK_MAX, context.units.take_back(request)).await {
        Ok(Ok(TakenBack::Over)) => return,
        Ok(Ok(TakenBack::Cancelled)) => {
            format!("the job of {unit} was cancelled; `systemctl status {unit}` tells how far it got")
        }
        Ok(Ok(TakenBack::GoesOn(why))) => format!("the job of {unit} goes on: {why}"),
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

async fn act_and_wait(context: &RunContext, request: &Arc<Request>) -> Result<(), Error> {
    let unit = &request.unit;
    context.units.act(request).await?;
    let wants_active = match request.action {
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

/// Looks whether a unit is as an action would have left it that was asked for so long ago, or a little longer, if that is known. What it is
/// about to do is waited for.
pub(super) async fn probe(
    units: &dyn UnitManager,
    spec: &SystemdSpec,
    age: Option<Duration>,
    patience: &Patience,
) -> Effect {
    let began = Instant::now();
    let unit = match check_name(&spec.unit) {
        Ok(unit) => unit,
        Err(error) => return unclear(reason_of(&error)),
    };
    loop {
        let standing = match units.standing(unit).await {
            Ok(standing) => standing,
            Err(error) => return unclear(reason_of(&error)),
        };
        if let Some(effect) = judge(unit, spec.action, &standing, age.map(|age| age + began.elapsed())) {
            return effect;
        }
        if patience.pause(INTERVAL).await.is_err() {
            return unclear(format!("the unit {unit} has not come to rest"));
        }
    }
}

/// `None` as long as the unit is on its way.
fn judge(unit: &str, action: UnitAction, standing: &UnitStanding, age: Option<Duration>) -> Option<Effect> {
    let UnitStanding { state, has_job: false, .. } = standing else { return None };
    let is = |word: &str| format!("the unit {unit} is {word}");
    Some(match (state, action) {
        (ActiveState::Other(_), _) => return None,
        (ActiveState::Active, UnitAction::Start) => there(is("active")),
        (ActiveState::Active, UnitAction::Stop) => absent(is("active")),
        (ActiveState::Inactive, UnitAction::Stop) => there(is("inactive")),
        (ActiveState::Failed, UnitAction::Stop) => there(is("stopped, and has failed")),
        (ActiveState::Inactive, _) => absent(is("inactive")),
        (ActiveState::Failed, _) => absent(is("failed")),
        (ActiveState::Active, UnitAction::Restart | UnitAction::ReloadOrRestart) => {
            let since = |for_: Duration, when: &str| {
                is(&format!("active since {} s ago, {when} the task was there", for_.as_secs()))
            };
            match is_of(action, standing, age) {
                Some((true, active_for)) => there(since(active_for, "when")),
                Some((false, active_for)) => absent(since(active_for, "before")),
                None => {
                    unclear(is("active; whether it was restarted or reloaded for this task cannot be told"))
                }
            }
        }
    })
}

/// Whether an active unit became so by an action that was asked for so long ago, and how long it has been, if both are certain. That it did
/// takes two clocks that agree: one of them may have stood still, and the other may have been set.
fn is_of(action: UnitAction, standing: &UnitStanding, age: Option<Duration>) -> Option<(bool, Duration)> {
    let (active_for, age) = (standing.active_for?, age?);
    if standing.by_wall_clock.is_some_and(|at_least| at_least.max(active_for) <= age) {
        Some((true, active_for))
    } else if active_for > age + AGE_ERROR_MAX && action == UnitAction::Restart {
        Some((false, active_for))
    } else {
        None
    }
}

fn check_name(unit: &str) -> Result<&str, UnitError> {
    if is_unit_name(unit) { Ok(unit) } else { Err(UnitError::Name(unit.chars().take(64).collect())) }
}

/// systemd, asked through `systemctl`: the one interface that every version has, and that needs no D-Bus library.
#[derive(Debug, Default)]
pub struct Systemctl {
    /// What tasks of this agent wait for.
    waited_for: Mutex<Vec<Arc<Request>>>,
}

/// A place among the requests that are waited for.
struct Waiting<'a> {
    systemctl: &'a Systemctl,
    request: &'a Arc<Request>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waited_for = self.systemctl.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        waited_for.retain(|it| !Arc::ptr_eq(it, self.request));
    }
}

impl Systemctl {
    fn wait<'a>(&'a self, request: &'a Arc<Request>) -> Waiting<'a> {
        let mut waited_for = self.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        waited_for.push(Arc::clone(request));
        Waiting { systemctl: self, request }
    }

    /// Whether another task waits for this job too. A request of the same unit whose job is not told yet may have been merged into it.
    fn is_shared(&self, request: &Request, job: u32) -> bool {
        let waited_for = self.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        waited_for.iter().any(|it| it.job.get().map_or(it.unit == request.unit, |of| of.id == job))
    }
}

impl UnitManager for Systemctl {
    fn act<'a>(&'a self, request: &'a Arc<Request>) -> BoxFuture<'a, Result<(), UnitError>> {
        Box::pin(async move {
            let _waiting = self.wait(request);
            let verb = match request.action {
                UnitAction::Start => "start",
                UnitAction::Stop => "stop",
                UnitAction::Restart => "restart",
                UnitAction::ReloadOrRestart => "reload-or-restart",
            };
            let before = job_of(&request.unit).await?;
            let (succeeded, words) = enqueue(verb, request, before).await?;
            let unit = request.unit.clone();
            if succeeded { Ok(()) } else { Err(UnitError::Refused { verb, unit, words }) }
        })
    }

    fn active_state<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<ActiveState, UnitError>> {
        Box::pin(async move {
            let show = ["show", "--property=ActiveState", "--value", "--", unit];
            let (succeeded, words) = systemctl(&show).await?;
            if !succeeded {
                return Err(UnitError::Refused { verb: "show", unit: unit.to_owned(), words });
            }
            Ok(parse_state(&words))
        })
    }

    fn standing<'a>(&'a self, unit: &'a str) -> BoxFuture<'a, Result<UnitStanding, UnitError>> {
        Box::pin(async move {
            let show = ["show", "--property=ActiveState", "--property=Job", ENTERED, "--", unit];
            let (succeeded, words) = systemctl(&show).await?;
            if !succeeded {
                return Err(UnitError::Refused { verb: "show", unit: unit.to_owned(), words });
            }
            let up = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(io::Error::from)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(parse_standing(&words, up.into(), now))
        })
    }

    fn take_back<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<TakenBack, UnitError>> {
        Box::pin(async move {
            let unit = &request.unit;
            let Some(&Job { id, is_older }) = request.job.get() else {
                // `systemctl` ended before it could tell.
                let has_job = job_of(unit).await?.is_some();
                return Ok(if has_job { TakenBack::GoesOn(MAY_BE_OTHERS) } else { TakenBack::Over });
            };
            let Some(job) = queued(unit, id).await? else { return Ok(TakenBack::Over) };
            if is_older || self.is_shared(request, id) {
                return Ok(TakenBack::GoesOn(SHARED));
            }
            let brings_back = matches!(request.action, UnitAction::Restart | UnitAction::ReloadOrRestart);
            if brings_back && (job.has_begun || self.active_state(unit).await? != ActiveState::Active) {
                return Ok(TakenBack::GoesOn(WOULD_STAY_DOWN));
            }
            let (succeeded, words) = systemctl(&["cancel", "--", &id.to_string()]).await?;
            if succeeded {
                Ok(TakenBack::Cancelled)
            } else if queued(unit, id).await?.is_none() {
                // It was done meanwhile.
                Ok(TakenBack::Over)
            } else {
                Err(UnitError::Refused { verb: "cancel", unit: unit.clone(), words })
            }
        })
    }
}

fn parse_state(word: &str) -> ActiveState {
    match word {
        "active" => ActiveState::Active,
        "inactive" => ActiveState::Inactive,
        "failed" => ActiveState::Failed,
        other => ActiveState::Other(other.to_owned()),
    }
}

/// What `systemctl show` says in lines of `Property=value`; `up` and `now` are the times of the clocks that its timestamps are of.
fn parse_standing(words: &str, up: Duration, now: Duration) -> UnitStanding {
    let value = |property: &str| {
        words.lines().find_map(|line| line.strip_prefix(property)?.strip_prefix('=')).unwrap_or_default()
    };
    let entered = value("ActiveEnterTimestampMonotonic").parse().ok().filter(|micros| *micros > 0);
    UnitStanding {
        state: parse_state(value("ActiveState")),
        has_job: value("Job").parse::<u32>().is_ok_and(|job| job > 0),
        active_for: entered.map(|micros| up.saturating_sub(Duration::from_micros(micros))),
        // It is told without what is left of the second.
        by_wall_clock: parse_utc(value("ActiveEnterTimestamp"))
            .map(|entered| now.saturating_sub(entered + Duration::from_secs(1))),
    }
}

/// `Sat 2026-11-28 02:15:00 UTC`, since 1970.
fn parse_utc(words: &str) -> Option<Duration> {
    let mut words = words.split(' ').skip(1);
    let (date, time) = (words.next()?, words.next()?);
    if words.next() != Some("UTC") {
        return None;
    }
    let number = |word: Option<&str>| word?.parse::<u64>().ok();
    let (mut date, mut time) = (date.split('-'), time.split(':'));
    let (year, month, day) = (number(date.next())?, number(date.next())?, number(date.next())?);
    let (hour, minute, second) = (number(time.next())?, number(time.next())?, number(time.next())?);
    let is_there = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_there || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years that begin in March end with their leap day.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1;
    Some(Duration::from_secs((days.checked_sub(DAYS_TO_1970)? * 24 + hour) * 3600 + minute * 60 + second))
}

/// Asks for an action and waits for its end; whether it succeeded, and what was said if not. The job's number comes before the wait.
async fn enqueue(verb: &str, request: &Request, before: Option<u32>) -> Result<(bool, String), UnitError> {
    let mut command = prepared(&["--show-transaction", verb, "--", &request.unit])?;
    command.env(MARKER, request.key.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut words = Vec::new();
    if let Some(said) = child.stderr.take() {
        let mut lines = BufReader::new(said).split(b'\n');
        while let Some(line) = lines.next_segment().await? {
            if let Some(job) = line.strip_prefix(b"Enqueued ") {
                if let Some(id) = anchor(job) {
                    let _told_once = request.job.set(Job { id, is_older: before == Some(id) });
                }
            } else if words.len() < WORDS_BYTES_MAX {
                words.extend(line);
                words.push(b'\n');
            }
        }
    }
    let succeeded = child.wait().await?.success();
    Ok((succeeded, cut(&words)))
}

/// The number in `anchor job 42 web.service/restart.`
fn anchor(job: &[u8]) -> Option<u32> {
    let job = std::str::from_utf8(job).ok()?.strip_prefix("anchor job ")?;
    job.split(' ').next()?.parse().ok()
}

/// The number of the job that a unit has.
async fn job_of(unit: &str) -> Result<Option<u32>, UnitError> {
    let show = ["show", "--property=Job", "--value", "--", unit];
    let (succeeded, words) = systemctl(&show).await?;
    if !succeeded {
        return Err(UnitError::Refused { verb: "show", unit: unit.to_owned(), words });
    }
    Ok(words.parse().ok().filter(|job| *job > 0))
}

/// A job that is not over.
#[derive(Debug, PartialEq, Eq)]
struct Queued {
    /// Whether it is being done. A restart that is a start by now has stopped the unit.
    has_begun: bool,
}

async fn queued(unit: &str, id: u32) -> Result<Option<Queued>, UnitError> {
    let output = prepared(&["list-jobs", "--no-legend", "--plain", "--full"])?.output().await?;
    if !output.status.success() {
        let words = cut(&output.stderr);
        return Err(UnitError::Refused { verb: "list-jobs", unit: unit.to_owned(), words });
    }
    Ok(find_queued(&String::from_utf8_lossy(&output.stdout), id))
}

/// Finds a job in lines of `NUMBER UNIT TYPE STATE`.
fn find_queued(jobs: &str, id: u32) -> Option<Queued> {
    let id = id.to_string();
    jobs.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next()? == id;
        let (kind, state) = (words.nth(1)?, words.next()?);
        is_it.then(|| Queued { has_begun: kind == "start" || state != "waiting" })
    })
}

/// Runs `systemctl`; whether it succeeded, and what it said.
async fn systemctl(arguments: &[&str]) -> Result<(bool, String), UnitError> {
    let output = prepared(arguments)?.output().await?;
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    Ok((output.status.success(), cut(said)))
}

fn prepared(arguments: &[&str]) -> Result<Command, UnitError> {
    // The same test as sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(UnitError::NoSystemd);
    }
    let mut command = Command::new("/usr/bin/systemctl");
    command
        .args(["--no-ask-password", "--no-pager"])
        .args(arguments)
        .env_clear()
        // Timestamps are told in the time of this zone.
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

fn cut(said: &[u8]) -> String {
    String::from_utf8_lossy(&said[..said.len().min(WORDS_BYTES_MAX)]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_mins(1);

    #[test]
    fn a_job_is_found_by_its_number() {
        assert_eq!(anchor(b"anchor job 136 slow.service/restart."), Some(136));
        assert_eq!(anchor(b"auxiliary job 137 db.service/start."), None);
        let jobs = "238 slow.service   restart running\n28  behind.service start   waiting\n40 idle.service restart waiting\n";
        assert_eq!(find_queued(jobs, 238), Some(Queued { has_begun: true }));
        assert_eq!(find_queued(jobs, 28), Some(Queued { has_begun: true }));
        assert_eq!(find_queued(jobs, 40), Some(Queued { has_begun: false }));
        assert_eq!(find_queued(jobs, 23), None);
    }

    fn standing(state: ActiveState, active_for: Option<Duration>) -> UnitStanding {
        UnitStanding { state, has_job: false, active_for, by_wall_clock: active_for }
    }

    fn seen(action: UnitAction, standing: &UnitStanding) -> &'static str {
        seen_after(action, standing, Some(AGE))
    }

    fn seen_after(action: UnitAction, standing: &UnitStanding, age: Option<Duration>) -> &'static str {
        match judge("web.service", action, standing, age) {
            None => "waits",
            Some(Effect::There { .. }) => "there",
            Some(Effect::Absent { .. }) => "absent",
            Some(Effect::Unclear { .. }) => "unclear",
        }
    }

    #[test]
    fn a_unit_shows_what_it_was_asked_for_or_not() {
        use UnitAction::{ReloadOrRestart, Restart, Start, Stop};
        let actions = [Start, Stop, Restart, ReloadOrRestart];
        let table = |standing: &UnitStanding| actions.map(|action| seen(action, standing));
        let active = |for_| standing(ActiveState::Active, for_);
        let since = [AGE, AGE + Duration::from_secs(1), AGE + AGE_ERROR_MAX + Duration::from_secs(1)];
        assert_eq!(table(&active(Some(since[0]))), ["there", "absent", "there", "there"]);
        assert_eq!(
            table(&active(Some(since[1]))),
            ["there", "absent", "unclear", "unclear"],
            "perhaps since then"
        );
        assert_eq!(table(&active(Some(since[2]))), ["there", "absent", "absent", "unclear"], "since before");
        assert_eq!(table(&active(None)), ["there", "absent", "unclear", "unclear"]);
        for state in [ActiveState::Inactive, ActiveState::Failed] {
            assert_eq!(table(&standing(state, None)), ["absent", "there", "absent", "absent"]);
        }
        let on_its_way = standing(ActiveState::Other("activating".to_owned()), None);
        assert_eq!(table(&on_its_way), ["waits"; 4]);
        let with_job = UnitStanding { has_job: true, ..active(Some(since[0])) };
        assert_eq!(table(&with_job), ["waits"; 4], "what it was asked for is not done");
    }

    #[test]
    fn a_restart_takes_two_clocks_that_agree_and_a_task_that_has_an_age() {
        use UnitAction::{ReloadOrRestart, Restart, Start, Stop};
        let actions = [Start, Stop, Restart, ReloadOrRestart];
        let active = |active_for, by_wall_clock| UnitStanding {
            by_wall_clock,
            ..standing(ActiveState::Active, Some(active_for))
        };
        let table = |standing: &UnitStanding, age| actions.map(|action| seen_after(action, standing, age));
        let clear = ["there", "absent", "there", "there"];
        let not_clear = ["there", "absent", "unclear", "unclear"];
        // It runs for twelve minutes and was suspended for an hour: it may be older than a task of an hour ago.
        let minutes = Duration::from_mins;
        assert_eq!(table(&active(minutes(12), Some(minutes(72))), Some(minutes(62))), not_clear);
        assert_eq!(table(&active(minutes(12), Some(minutes(12))), Some(minutes(62))), clear);
        assert_eq!(table(&active(minutes(12), Some(minutes(1))), Some(minutes(62))), clear, "set back");
        assert_eq!(table(&active(minutes(12), None), Some(minutes(62))), not_clear);
        assert_eq!(table(&active(minutes(12), Some(minutes(12))), None), not_clear);
        let before = table(&active(minutes(12), Some(minutes(12))), Some(minutes(2)));
        assert_eq!(before, ["there", "absent", "absent", "unclear"]);
    }

    #[test]
    fn the_words_of_systemctl_are_read_whatever_their_order() {
        let (up, now) = (Duration::from_secs(100), Duration::from_secs(1_795_832_100));
        let said = "ActiveEnterTimestampMonotonic=40000000\nJob=\nActiveState=active\n\
                    ActiveEnterTimestamp=Sat 2026-11-28 02:14:00 UTC";
        let active_for = Some(Duration::from_secs(60));
        let by_wall_clock = Some(Duration::from_secs(59));
        let active = UnitStanding { by_wall_clock, ..standing(ActiveState::Active, active_for) };
        assert_eq!(parse_standing(said, up, now), active);
        let said =
            "ActiveState=activating\nJob=123\nActiveEnterTimestampMonotonic=0\nActiveEnterTimestamp=\n";
        let on_its_way = standing(ActiveState::Other("activating".to_owned()), None);
        assert_eq!(parse_standing(said, up, now), UnitStanding { has_job: true, ..on_its_way });
        assert_eq!(parse_standing("", up, now), standing(ActiveState::Other(String::new()), None));
    }

    #[test]
    fn a_time_of_day_is_read_if_it_is_one() {
        let seconds = |words| parse_utc(words).map(|since| since.as_secs());
        assert_eq!(seconds("Thu 1970-01-01 00:00:01 UTC"), Some(1));
        assert_eq!(seconds("Tue 2000-02-29 23:59:59 UTC"), Some(951_868_799));
        assert_eq!(seconds("Sat 2026-11-28 02:15:00 UTC"), Some(1_795_832_100));
        for other in [
            "",
            "n/a",
            "Sat 2026-11-28 02:15:00 CET",
            "Sat 2026-13-28 02:15:00 UTC",
            "Sat 2026-11-28 02:15 UTC",
        ] {
            assert_eq!(seconds(other), None, "{other}");
        }
    }
}
