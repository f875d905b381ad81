//! What is simulated, as it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use stella_domain::amount::Amount;
use stella_domain::deployment::{OnFailure, Strategy, TARGETS_MAX, TIMEOUT_MS_DEFAULT};
use stella_domain::freeze::Freeze;
use stella_domain::name::Name;
use stella_domain::release::Phase;
use stella_domain::way_back::ProofRule;
use stella_domain::workflow::{Span, strategy};

/// How many faults a scenario may have.
const FAULTS_MAX: usize = 256;
/// How many environments there may be on the way.
pub const STAGES_MAX: usize = 16;
/// The latest that something may be planned for, in milliseconds: 30 days.
pub(crate) const HORIZON_MS: u64 = 30 * 24 * 3_600_000;

/// A fleet, a release, an environment, and what happens to them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about, for people.
    #[serde(default)]
    pub description: String,
    /// When the deployment is asked for, on a clock in UTC: for freezes. A Monday morning if nothing is said.
    #[serde(default = "starts_default")]
    pub(crate) starts: Start,
    /// The hosts.
    pub(crate) fleet: Vec<Group>,
    /// Where the deployment goes, and what goes for it there.
    #[serde(default)]
    pub(crate) environment: Policy,
    /// The environments that the release has to have succeeded in before, one after the other.
    #[serde(default)]
    pub(crate) path: Vec<Stage>,
    /// What is done on each target, one after the other; to bring the version before back it is the same.
    pub(crate) steps: Vec<Step>,
    /// How.
    #[serde(default)]
    pub(crate) deploy: Deploy,
    /// What people do.
    #[serde(default)]
    pub(crate) people: People,
    /// What goes wrong.
    #[serde(default)]
    pub(crate) faults: Vec<Fault>,
}

/// A point in time, in milliseconds since 1970, written as `2026-01-05T09:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Start(pub(crate) u64);

impl TryFrom<String> for Start {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "is no point in time; write 2026-01-05T09:00:00Z";
        let at: jiff::Timestamp = text.parse().map_err(|_| wrong)?;
        // What happens before the request needs a day, and timers some years.
        u64::try_from(at.as_millisecond()).ok().filter(|ms| *ms > 24 * 3_600_000).map(Self).ok_or(wrong)
    }
}

/// 2026-01-05T09:00:00Z.
const fn starts_default() -> Start {
    Start(1_767_603_600_000)
}

/// Hosts that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// How many.
    pub(crate) hosts: u32,
    /// What their names begin with; `host` if nothing is said.
    pub(crate) name: Option<Name>,
    /// Labels that all of them have.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Labels of which each host has the next value, round and round.
    #[serde(default)]
    pub(crate) spread: BTreeMap<String, Vec<String>>,
    /// Whether they cannot be reached, all the time.
    #[serde(default)]
    pub(crate) away: bool,
}

/// What goes for the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    /// How many targets may be at risk at once.
    pub(crate) budget: Option<Amount>,
    /// When silence is taken for a network event.
    pub(crate) silence: Option<Silence>,
    /// How long the release proves itself on all targets in the end.
    pub(crate) bake: Option<Span>,
    /// Whether every target must be able to go back.
    #[serde(default)]
    pub(crate) require_way_back: bool,
    /// What is wanted of the proof that hosts could go back.
    #[serde(default)]
    pub(crate) way_back_proof: ProofRule,
    /// How long a host takes for it.
    pub(crate) proof_takes: Option<Range>,
    /// How likely a host has lost the version before.
    #[serde(default)]
    pub(crate) proof_fails: Chance,
    /// How many people have to approve.
    pub(crate) approvals: Option<u32>,
    /// Gates that ask something outside.
    #[serde(default)]
    pub(crate) gates: Vec<GatePolicy>,
    /// When nothing new may come.
    #[serde(default)]
    pub(crate) freezes: Vec<Freeze>,
}

/// An environment on the way. All of its hosts get the release at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) name: Name,
    /// How many hosts it has.
    pub(crate) hosts: u32,
    /// For how long the release must have succeeded there before it goes on.
    pub(crate) soak: Option<Span>,
}

/// See [`stella_domain::environment::SilenceRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Silence {
    pub(crate) percent: u32,
    pub(crate) within: Span,
}

/// A gate that asks something outside, and is open unless a fault closes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatePolicy {
    pub(crate) name: Name,
    /// For how long an answer holds.
    #[serde(default = "ttl_default")]
    pub(crate) ttl: Span,
    /// Whether it is about what was brought.
    #[serde(default)]
    pub(crate) verifies: bool,
}

/// Something that is done on a target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) name: Name,
    /// How long it takes.
    pub(crate) takes: Range,
    /// How likely the new version fails there on a host.
    #[serde(default)]
    pub(crate) fails: Chance,
    /// How long it may take.
    #[serde(default = "step_timeout_default")]
    pub(crate) timeout: Span,
    /// What it is a part of.
    #[serde(default)]
    pub(crate) phase: Phase,
}

/// How the deployment is made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deploy {
    /// How targets follow one another; one at a time if nothing is said.
    #[serde(default = "strategy_default", deserialize_with = "strategy")]
    pub(crate) strategy: Strategy,
    /// What is done when more targets fail than are tolerated.
    #[serde(default)]
    pub(crate) on_failure: OnFailure,
    /// How many that are.
    pub(crate) tolerate_failures: Option<Amount>,
    /// How long it may take in all.
    #[serde(default = "timeout_default")]
    pub(crate) timeout: Span,
    /// Whether the version before is there on all targets.
    #[serde(default = "yes")]
    pub(crate) replaces: bool,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            strategy: strategy_default(),
            on_failure: OnFailure::default(),
            tolerate_failures: None,
            timeout: timeout_default(),
            replaces: true,
        }
    }
}

/// What people do, if they do anything, and how long they take for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct People {
    /// They approve.
    pub(crate) approve: Option<Range>,
    /// They resume what would be paused for ever.
    pub(crate) resume: Option<Range>,
    /// They decide about a target that has failed, if the deployment asks them to.
    pub(crate) decide: Option<Range>,
    /// What.
    #[serde(default)]
    pub(crate) decision: Decision,
}

/// What people do about a target that has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    /// Try it again.
    #[default]
    Retry,
    /// Leave it alone.
    Skip,
    /// Give the deployment up, and take it back.
    RollBack,
}

/// Something that happens from a point in time on, counted from the request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what", deny_unknown_fields)]
pub(crate) enum Fault {
    /// Hosts cannot be reached. They go on with what they do.
    Silent {
        at: Span,
        #[serde(rename = "for")]
        lasts: Span,
        #[serde(default = "all")]
        hosts: Amount,
        #[serde(default, rename = "where")]
        labels: BTreeMap<String, String>,
    },
    /// Hosts start again. What they do is interrupted.
    Crash {
        at: Span,
        #[serde(rename = "for", default = "boot_default")]
        lasts: Span,
        #[serde(default = "all")]
        hosts: Amount,
        #[serde(default, rename = "where")]
        labels: BTreeMap<String, String>,
    },
    /// The new version does not work on hosts: one of its steps fails.
    Breaks {
        #[serde(default = "zero")]
        at: Span,
        #[serde(rename = "for", default = "ever")]
        lasts: Span,
        step: Name,
        #[serde(default = "all")]
        hosts: Amount,
        #[serde(default, rename = "where")]
        labels: BTreeMap<String, String>,
    },
    /// The control plane is away, and starts again.
    ControlPlaneDown {
        at: Span,
        #[serde(rename = "for")]
        lasts: Span,
    },
    /// What a gate asks does not let through.
    GateClosed {
        #[serde(default = "zero")]
        at: Span,
        #[serde(rename = "for", default = "ever")]
        lasts: Span,
        gate: Name,
    },
    /// Somebody pauses the deployment.
    Pause {
        at: Span,
        #[serde(rename = "for")]
        lasts: Span,
    },
    /// Somebody cancels the deployment.
    Cancel { at: Span },
    /// Hosts are out of rotation: before the request already, if nothing else is said.
    Drain {
        #[serde(default = "zero")]
        at: Span,
        #[serde(rename = "for", default = "ever")]
        lasts: Span,
        #[serde(default = "all")]
        hosts: Amount,
        #[serde(default, rename = "where")]
        labels: BTreeMap<String, String>,
    },
    /// Somebody leaves hosts out of the deployment that wait for it, or on which it has failed.
    Skip {
        #[serde(default = "zero")]
        at: Span,
        #[serde(default = "all")]
        hosts: Amount,
        #[serde(default, rename = "where")]
        labels: BTreeMap<String, String>,
    },
}

impl Fault {
    /// When it begins, and when it ends if it does, in milliseconds after the request.
    pub(crate) fn times(&self) -> (u64, Option<u64>) {
        match self {
            Self::Silent { at, lasts, .. }
            | Self::Crash { at, lasts, .. }
            | Self::ControlPlaneDown { at, lasts }
            | Self::Breaks { at, lasts, .. }
            | Self::GateClosed { at, lasts, .. }
            | Self::Drain { at, lasts, .. }
            | Self::Pause { at, lasts } => {
                (at.0, at.0.checked_add(lasts.0).filter(|_| lasts.0 <= HORIZON_MS))
            }
            Self::Cancel { at } | Self::Skip { at, .. } => (at.0, None),
        }
    }

    /// Whether it is there before the request: what it asks of the control plane decides what the request comes to.
    pub(crate) const fn comes_first(&self) -> bool {
        matches!(self, Self::Drain { at: Span(0), .. })
    }

    /// Which hosts it is about, if it is about hosts.
    pub(crate) const fn hosts(&self) -> Option<(Amount, &BTreeMap<String, String>)> {
        match self {
            Self::Silent { hosts, labels, .. }
            | Self::Crash { hosts, labels, .. }
            | Self::Breaks { hosts, labels, .. }
            | Self::Drain { hosts, labels, .. }
            | Self::Skip { hosts, labels, .. } => Some((*hosts, labels)),
            Self::ControlPlaneDown { .. }
            | Self::GateClosed { .. }
            | Self::Pause { .. }
            | Self::Cancel { .. } => None,
        }
    }
}

/// A length of time that is not known exactly: `20s`, or `20s..45s`, each as likely as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Range {
    pub(crate) shortest_ms: u64,
    pub(crate) longest_ms: u64,
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (shortest, longest) = text.split_once("..").unwrap_or((&text, &text));
        let span = |text: &str| {
            Span::from_str(text).map_err(|_| format!("{text:?} is no length of time; write 20s, or 20s..45s"))
        };
        let (Span(shortest_ms), Span(longest_ms)) = (span(shortest)?, span(longest)?);
        if shortest_ms > longest_ms {
            return Err(format!("begins with the longer one; write {longest}..{shortest}"));
        }
        Ok(Self { shortest_ms, longest_ms })
    }
}

/// How likely something is, in millionths; written `0.5%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Chance(pub(crate) u32);

impl Chance {
    /// Of what always happens.
    pub(crate) const CERTAIN: u32 = 1_000_000;
}

impl TryFrom<String> for Chance {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "is no chance; write a share of 0% to 100% with at most four places, such as 0.5%";
        let percent = text.strip_suffix('%').ok_or(wrong)?;
        let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 4 || whole.len() > 3 {
            return Err(wrong);
        }
        let whole: u32 = whole.parse().map_err(|_| wrong)?;
        let part: u32 = format!("{part:0<4}").parse().map_err(|_| wrong)?;
        Some(whole * 10_000 + part).filter(|it| *it <= Self::CERTAIN).map(Self).ok_or(wrong)
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

impl Scenario {
    /// How many hosts there are.
    pub(crate) fn hosts(&self) -> u64 {
        self.fleet.iter().map(|group| u64::from(group.hosts)).sum()
    }

    /// What is wrong with it as far as the core does not say so: the field, and the problem.
    pub(crate) fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        self.check_fleet(&mut wrong);
        self.check_path(&mut wrong);
        self.check_steps(&mut wrong);
        self.check_faults(&mut wrong);
        for (field, range) in [
            ("people.approve", self.people.approve),
            ("people.resume", self.people.resume),
            ("people.decide", self.people.decide),
        ] {
            if range.is_some_and(|range| range.longest_ms > HORIZON_MS) {
                wrong.push((field.to_owned(), "is longer than 30 days".to_owned()));
            }
        }
        let mut names = BTreeSet::new();
        for (at, gate) in self.environment.gates.iter().enumerate() {
            if !names.insert(&gate.name) {
                let problem = format!("there is a gate {} already", gate.name);
                wrong.push((format!("environment.gates[{at}].name"), problem));
            }
        }
        wrong
    }

    fn check_fleet(&self, wrong: &mut Vec<(String, String)>) {
        let hosts = self.hosts();
        if hosts == 0 || hosts > u64::try_from(TARGETS_MAX).unwrap_or(u64::MAX) {
            let problem = format!("has {hosts} hosts; a deployment has 1 to {TARGETS_MAX}");
            wrong.push(("fleet".to_owned(), problem));
        }
        for (at, group) in self.fleet.iter().enumerate() {
            for (label, values) in &group.spread {
                let field = format!("fleet[{at}].spread.{label}");
                if values.is_empty() {
                    wrong.push((field, "has no values".to_owned()));
                } else if group.labels.contains_key(label) {
                    wrong.push((field, "is among the labels of all of them already".to_owned()));
                }
            }
        }
    }

    fn check_path(&self, wrong: &mut Vec<(String, String)>) {
        if self.path.len() > STAGES_MAX {
            let problem = format!("has {} environments; at most {STAGES_MAX} are possible", self.path.len());
            wrong.push(("path".to_owned(), problem));
        }
        for (at, stage) in self.path.iter().enumerate() {
            if stage.hosts == 0 || u64::from(stage.hosts) > u64::try_from(TARGETS_MAX).unwrap_or(u64::MAX) {
                let problem = format!("has {} hosts; a deployment has 1 to {TARGETS_MAX}", stage.hosts);
                wrong.push((format!("path[{at}].hosts"), problem));
            }
            if stage.soak.is_some_and(|soak| soak.0 > HORIZON_MS) {
                wrong.push((format!("path[{at}].soak"), "is longer than 30 days".to_owned()));
            }
            if self.path[..at].iter().any(|before| before.name == stage.name) {
                let problem = format!("there is an environment {} already", stage.name);
                wrong.push((format!("path[{at}].name"), problem));
            }
        }
    }

    fn check_steps(&self, wrong: &mut Vec<(String, String)>) {
        if self.steps.is_empty() {
            wrong.push(("steps".to_owned(), "has none; a release does something on a host".to_owned()));
        }
        for (at, step) in self.steps.iter().enumerate() {
            if step.takes.shortest_ms == 0 {
                let problem = "takes no time at all; write 1ms at least".to_owned();
                wrong.push((format!("steps[{at}].takes"), problem));
            }
        }
    }

    fn check_faults(&self, wrong: &mut Vec<(String, String)>) {
        if self.faults.len() > FAULTS_MAX {
            let problem = format!("has {}; there may be {FAULTS_MAX}", self.faults.len());
            wrong.push(("faults".to_owned(), problem));
        }
        for (at, fault) in self.faults.iter().enumerate() {
            let mut say =
                |field: &str, problem: String| wrong.push((format!("faults[{at}].{field}"), problem));
            if fault.times().0 > HORIZON_MS {
                say("at", "is later than 30 days".to_owned());
            }
            if let Fault::Breaks { step, .. } = fault
                && !self.steps.iter().any(|it| it.name == *step)
            {
                say("step", format!("there is no step {step}"));
            }
            if let Fault::GateClosed { gate, .. } = fault
                && !self.environment.gates.iter().any(|it| it.name == *gate)
            {
                say("gate", format!("there is no gate {gate} in environment.gates"));
            }
            if let Some((amount, labels)) = fault.hosts() {
                if matches!(amount, Amount::Percent(0 | 101..) | Amount::Count(0)) {
                    say("hosts", format!("is {amount}; write a number of at least 1, or a share up to 100%"));
                }
                if !self.fleet.iter().any(|group| group.has(labels)) {
                    say("where", "no host has these labels".to_owned());
                }
            }
        }
    }
}

impl Group {
    /// Whether some of its hosts have these labels.
    fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(label, value)| {
            self.labels.get(label) == Some(value)
                || self.spread.get(label).is_some_and(|values| values.contains(value))
        })
    }
}

const fn all() -> Amount {
    Amount::Percent(100)
}

const fn zero() -> Span {
    Span(0)
}

const fn ever() -> Span {
    Span(u64::MAX)
}

const fn boot_default() -> Span {
    Span(30_000)
}

const fn ttl_default() -> Span {
    Span(60_000)
}

const fn step_timeout_default() -> Span {
    Span(600_000)
}

const fn timeout_default() -> Span {
    Span(TIMEOUT_MS_DEFAULT)
}

const fn yes() -> bool {
    true
}

const fn strategy_default() -> Strategy {
    Strategy::Rolling(stella_domain::strategy::Rolling::of(1))
}
