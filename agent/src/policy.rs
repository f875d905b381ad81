//! What a control plane may do on this host, whoever it is: the host has the last word.
//!
//! It is a list of what is allowed. A kind of task that this agent does not know cannot be on it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stella_protocol::message::capability;
use stella_protocol::spec::TaskSpec;

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Brings an archive to the host root and switches to it.
    Artifact,
    /// Runs a command. A check by a command needs this as well.
    Command,
    /// Asks whether something is healthy.
    Check,
    /// Acts on a systemd unit.
    Systemd,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Artifact, Self::Command, Self::Check, Self::Systemd];

    /// The word for it, in the configuration and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Command => "command",
            Self::Check => "check",
            Self::Systemd => "systemd",
        }
    }

    const fn capability(self) -> u64 {
        match self {
            Self::Artifact => capability::ARTIFACT,
            Self::Command => capability::COMMAND,
            Self::Check => capability::CHECK,
            Self::Systemd => capability::SYSTEMD,
        }
    }

    const fn of(spec: &TaskSpec) -> Self {
        match spec {
            TaskSpec::Artifact(_) => Self::Artifact,
            TaskSpec::Command(_) => Self::Command,
            TaskSpec::Check(_) => Self::Check,
            TaskSpec::Systemd(_) => Self::Systemd,
        }
    }
}

/// A word that is no kind of task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of task; use artifact, command, check or systemd")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// The longest unit name that systemd takes, in bytes.
const UNIT_BYTES_MAX: usize = 255;

/// The types of units that a task may act on.
const UNIT_SUFFIXES: [&str; 6] = [".service", ".socket", ".timer", ".target", ".path", ".mount"];

/// Whether a text is the full name of a unit that a task may act on, and cannot be taken for an option or for a pattern.
#[must_use]
pub fn is_unit_name(unit: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@-".contains(&byte);
    let named = UNIT_SUFFIXES.iter().any(|suffix| unit.len() > suffix.len() && unit.ends_with(suffix));
    named && unit.len() <= UNIT_BYTES_MAX && !unit.starts_with('-') && unit.bytes().all(plain)
}

/// Units that tasks may act on: one by its full name, or with `web@*.service` all instances of a template. A `*` elsewhere would stand for
/// units that nobody has thought of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRule {
    /// All of the name, or what comes before the instance.
    head: String,
    /// What comes after the instance, if any instance will do.
    tail: Option<String>,
}

impl UnitRule {
    /// Whether this unit is meant.
    #[must_use]
    pub fn matches(&self, unit: &str) -> bool {
        let Some(tail) = &self.tail else { return unit == self.head };
        let instance = unit.strip_prefix(&self.head).and_then(|rest| rest.strip_suffix(tail.as_str()));
        instance.is_some_and(is_plain_instance)
    }
}

/// Whether an instance of a template is no more than a name, and not one that leads its unit to another path: systemd takes `-` for a slash and
/// `\x2e` for a dot where a unit says `%I`. One that is meant otherwise has to be named in full.
fn is_plain_instance(instance: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.-".contains(&byte);
    !instance.is_empty()
        && instance.bytes().all(plain)
        && !instance.starts_with('-')
        && !instance.contains("..")
}

impl fmt::Display for UnitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)?;
        self.tail.as_ref().map_or(Ok(()), |tail| write!(f, "*{tail}"))
    }
}

/// A text that names no units.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no unit name; write it in full, such as web.service, or web@*.service for all instances")]
pub struct NoUnit(String);

impl FromStr for UnitRule {
    type Err = NoUnit;

    fn from_str(text: &str) -> Result<Self, NoUnit> {
        let rule = match text.split_once("@*") {
            None => Self { head: text.to_owned(), tail: None },
            Some((template, tail)) => Self { head: format!("{template}@"), tail: Some(tail.to_owned()) },
        };
        let is_one = match &rule.tail {
            None => is_unit_name(text),
            // The type alone comes after the instance, and one `@` before it.
            Some(tail) => {
                UNIT_SUFFIXES.contains(&tail.as_str())
                    && rule.head.len() > 1
                    && rule.head.matches('@').count() == 1
                    && is_unit_name(&format!("{}x{tail}", rule.head))
            }
        };
        if is_one { Ok(rule) } else { Err(NoUnit(text.to_owned())) }
    }
}

/// The local policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    allowed: Vec<Kind>,
    /// What systemd tasks may act on; `None`: on every unit.
    units: Option<Vec<UnitRule>>,
    /// Why nothing may run here at all.
    objection: Option<String>,
}

impl Default for Policy {
    /// Every kind is allowed: what an agent without a policy file is installed for.
    fn default() -> Self {
        Self::allowing(&Kind::ALL)
    }
}

impl Policy {
    /// Allows these kinds and nothing else.
    #[must_use]
    pub fn allowing(kinds: &[Kind]) -> Self {
        Self { allowed: kinds.to_vec(), units: None, objection: None }
    }

    /// The same, with systemd tasks on these units only; `None`: on every unit.
    #[must_use]
    pub fn on_units(self, units: Option<Vec<UnitRule>>) -> Self {
        Self { units, ..self }
    }

    /// What systemd tasks may act on; `None`: on every unit.
    #[must_use]
    pub fn units(&self) -> Option<&[UnitRule]> {
        self.units.as_deref()
    }

    /// The same, unless there is a reason that nothing at all may run here.
    #[must_use]
    pub fn unless(self, objection: Option<String>) -> Self {
        Self { objection, ..self }
    }

    /// Whether tasks of this kind may run here.
    #[must_use]
    pub fn allows(&self, kind: Kind) -> bool {
        self.allowed.contains(&kind)
    }

    /// The allowed kinds as capability bits of a hello.
    #[must_use]
    pub fn capabilities(&self) -> u64 {
        self.allowed.iter().fold(0, |bits, kind| bits | kind.capability())
    }

    /// Why a task may not run here; `None` if it may.
    #[must_use]
    pub fn objection(&self, spec: &TaskSpec) -> Option<String> {
        if let Some(reason) = &self.objection {
            return Some(reason.clone());
        }
        let runs_a_command = match spec {
            TaskSpec::Check(check) => matches!(check.probe, stella_protocol::spec::Probe::Command(_)),
            TaskSpec::Artifact(_) | TaskSpec::Command(_) | TaskSpec::Systemd(_) => false,
        };
        let needed = [Some(Kind::of(spec)), runs_a_command.then_some(Kind::Command)];
        if let Some(missing) = needed.into_iter().flatten().find(|kind| !self.allowed.contains(kind)) {
            let kind = missing.name();
            return Some(format!(
                "the host's policy does not allow {kind} tasks; its agent.toml says so under policy.allow"
            ));
        }
        let unit = match spec {
            TaskSpec::Systemd(systemd) => &systemd.unit,
            TaskSpec::Artifact(_) | TaskSpec::Command(_) | TaskSpec::Check(_) => return None,
        };
        let is_named = self.units.as_ref().is_none_or(|units| units.iter().any(|rule| rule.matches(unit)));
        // As long as a name may be: it is another's word.
        let shown: String = unit.chars().take(UNIT_BYTES_MAX).collect();
        (!is_named).then(|| {
            format!(
                "the host's policy does not allow systemd tasks on {shown:?}; its agent.toml says so under policy.units"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use stella_protocol::spec::{SystemdSpec, UnitAction};

    use super::*;

    fn rule(text: &str) -> UnitRule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_means_one_unit_or_the_instances_of_one_template() {
        for text in ["web.service", "web@.service", "web@blue.service", "web@*.service", "a-b_c.timer"] {
            assert_eq!(rule(text).to_string(), text);
        }
        for wrong in [
            "",
            "web",
            "*",
            "*.service",
            "web*.service",
            "@*.service",
            "web@*",
            "web@*.exe",
            "web@a*.service",
            "web@*a.service",
            "web@*.service.service",
            "a@b@*.service",
            "web@**.service",
            "-x.service",
            "a b.service",
            "web@*.service@*.service",
            ".service",
        ] {
            assert!(wrong.parse::<UnitRule>().is_err(), "{wrong:?}");
        }
        let instances = rule("web@*.service");
        for (unit, is_meant) in [
            ("web@blue.service", true),
            ("web@blue-1.service", true),
            ("web@1.2:a_b.service", true),
            ("web@a@b.service", false),
            ("web@..-..-srv-x.service", false),
            ("web@a-..-..-srv-x.service", false),
            ("web@-etc-shadow.service", false),
            (r"web@\x2e\x2e-x.service", false),
            (r"web@a\x2fb.service", false),
            ("web@blue .service", false),
            ("web@.service", false),
            ("web.service", false),
            ("web@blue.timer", false),
            ("myweb@blue.service", false),
            ("poweroff.target", false),
        ] {
            assert_eq!(instances.matches(unit), is_meant, "{unit}");
        }
        assert!(rule("web.service").matches("web.service"));
        assert!(rule(r"web@a\x2fb.service").matches(r"web@a\x2fb.service"), "it is named in full");
        assert!(!rule("web.service").matches("web.service.service"));
    }

    #[test]
    fn tasks_act_on_the_units_that_are_named_and_without_names_on_all() {
        let task = |unit: &str| {
            TaskSpec::Systemd(SystemdSpec {
                unit: unit.to_owned(),
                action: UnitAction::Start,
                timeout_ms: 60_000,
            })
        };
        let all = Policy::default();
        assert_eq!(all.objection(&task("poweroff.target")), None);
        let some = Policy::allowing(&[Kind::Systemd])
            .on_units(Some(vec![rule("web.service"), rule("web@*.service")]));
        for unit in ["web.service", "web@blue.service"] {
            assert_eq!(some.objection(&task(unit)), None, "{unit}");
        }
        for unit in ["poweroff.target", "nginx.service", "ssh.service", "web.service\n", &"x".repeat(9999)] {
            let said = some.objection(&task(unit)).unwrap();
            assert!(said.contains("policy.units") && said.len() < 600, "{said}");
        }
        let none = Policy::default().on_units(Some(Vec::new()));
        assert!(none.objection(&task("web.service")).is_some());
        assert_eq!(none.capabilities(), all.capabilities());
    }
}
