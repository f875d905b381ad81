//! What a well-formed message may say: the second check, after the frame's size and its encoding.
//!
//! Both ends apply it: the sender, so that a mistake is an error at its source, and the receiver, which trusts nobody.
//! Every message that passes fits in a frame. Meaning that needs state (is this task known, is this path allowed) is
//! checked by whoever has that state.

use std::collections::BTreeMap;

use crate::limits::{
    ACKNOWLEDGEMENTS_MAX, ARGUMENTS_MAX, CERTIFICATES_MAX, CHAIN_BYTES_MAX, COMMAND_BYTES_MAX, CSR_BYTES_MAX,
    HEARTBEAT_INTERVAL_MS_RANGE, HOLDINGS_MAX, INSPECT_TIME_MS_MAX, NAME_BYTES_MAX, OPEN_ATTEMPTS_MAX,
    OUTPUT_CHUNK_BYTES_MAX, PATH_BYTES_MAX, REASON_BYTES_MAX, TASK_TIME_MS_MAX, VERSION_BYTES_MAX,
};
use crate::message::{
    ArtifactRequest, ArtifactResponse, AttemptProbe, Cancel, Dispatch, Effect, EnrolRequest, EnrolRequestFor,
    EnrolResponse, FiguresAt, Finished, Heartbeat, Hello, Holding, Inspect, Inspected, OutputChunk,
    OutputHeader, RenewRequest, Renewed, Resources, TaskOutcome, ToAgent, ToControlPlane, Trust, Trusts,
    Wanted, Welcome,
};
use crate::spec::{ArtifactSpec, CheckSpec, CommandSpec, Probe, SystemdSpec, TaskSpec};

/// A message whose bounds can be checked without knowing anything else.
pub trait Validate {
    /// Names the first field that is out of bounds.
    fn validate(&self) -> Result<(), Invalid>;
}

/// A field that is out of bounds. It never carries the field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Too many items or bytes.
    #[error("{field} has {length} {unit}, more than the {max} that are allowed")]
    TooLong {
        /// The field's path in the message.
        field: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
        /// What is counted: `bytes` or `items`.
        unit: &'static str,
    },
    /// A number outside its range.
    #[error("{field} is {value}; it must be between {min} and {max}")]
    OutOfRange {
        /// The field's path in the message.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The smallest allowed.
        min: u64,
        /// The largest allowed.
        max: u64,
    },
    /// Something that must be there is not.
    #[error("{field} is empty")]
    Empty {
        /// The field's path in the message.
        field: &'static str,
    },
    /// A text that is no name of a host and no address.
    #[error("{field} is not the name of a host or an address")]
    NotAHost {
        /// The field's path in the message.
        field: &'static str,
    },
    /// A measurement that is not a number of 0 or more. It would not survive comparison or JSON.
    #[error("{field} is not a finite number of 0 or more")]
    NotANumber {
        /// The field's path in the message.
        field: &'static str,
    },
}

impl Invalid {
    /// The field that is out of bounds.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::TooLong { field, .. }
            | Self::OutOfRange { field, .. }
            | Self::Empty { field }
            | Self::NotAHost { field }
            | Self::NotANumber { field } => field,
        }
    }
}

// === control stream ===

impl Validate for ToControlPlane {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Hello(hello) => hello.validate(),
            Self::Heartbeat(heartbeat) => heartbeat.validate(),
            Self::Finished(finished) => finished.validate(),
            Self::Renew(request) => request.validate(),
            Self::Trusts(trusts) => trusts.validate(),
            Self::Inspected(inspected) => inspected.validate(),
            Self::Probed(probed) => probed.effect.validate(),
            Self::FiguresAt(figures) => figures.validate(),
            // Enums and ids have no bounds.
            Self::Ending(_) => Ok(()),
            Self::Accepted(_) | Self::Running(_) | Self::Goodbye => Ok(()),
        }
    }
}

impl Validate for ToAgent {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Welcome(welcome) => welcome.validate(),
            Self::Dispatch(dispatch) => dispatch.validate(),
            // The lists are within their bounds whenever they exist.
            Self::TracedDispatch(traced) => traced.dispatch.validate(),
            Self::Cancel(cancel) | Self::End(cancel) => cancel.validate(),
            Self::Acknowledge(keys) => items("acknowledge", keys.len(), ACKNOWLEDGEMENTS_MAX),
            Self::Renewed(renewed) => renewed.validate(),
            Self::Trust(trust) => trust.validate(),
            Self::Inspect(inspect) => inspect.validate(),
            Self::Probe(probe) => probe.validate(),
            Self::Drain | Self::WhereFigures => Ok(()),
        }
    }
}

impl Validate for Hello {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("hello.agent_version", self.agent_version.len(), VERSION_BYTES_MAX)?;
        items("hello.open", self.open.len(), OPEN_ATTEMPTS_MAX)?;
        self.resources.validate()
    }
}

impl Validate for Welcome {
    fn validate(&self) -> Result<(), Invalid> {
        range("welcome.heartbeat_interval_ms", self.heartbeat_interval_ms, HEARTBEAT_INTERVAL_MS_RANGE)?;
        items("welcome.settled", self.settled.len(), OPEN_ATTEMPTS_MAX)
    }
}

impl Validate for Dispatch {
    fn validate(&self) -> Result<(), Invalid> {
        range("dispatch.attempt", self.attempt.0.into(), (1, u32::MAX.into()))?;
        bytes("dispatch.target_name", self.target_name.len(), NAME_BYTES_MAX)?;
        optional("dispatch.slot", self.slot.as_deref(), NAME_BYTES_MAX)?;
        bytes("dispatch.release_version", self.release_version.len(), VERSION_BYTES_MAX)?;
        self.spec.validate()
    }
}

impl Validate for Cancel {
    fn validate(&self) -> Result<(), Invalid> {
        range("cancel.grace_ms", self.grace_ms, (0, TASK_TIME_MS_MAX))
    }
}

impl Validate for Heartbeat {
    fn validate(&self) -> Result<(), Invalid> {
        self.resources.validate()
    }
}

impl Validate for Resources {
    fn validate(&self) -> Result<(), Invalid> {
        let is_a_load = self.load_1m.is_finite() && self.load_1m >= 0.0;
        if is_a_load { Ok(()) } else { Err(Invalid::NotANumber { field: "resources.load_1m" }) }
    }
}

impl Validate for Finished {
    fn validate(&self) -> Result<(), Invalid> {
        self.outcome.validate()
    }
}

impl Validate for TaskOutcome {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Failed { reason, .. } | Self::Unknown { reason } | Self::Refused { reason } => {
                bytes("outcome.reason", reason.len(), REASON_BYTES_MAX)
            }
            Self::Succeeded | Self::TimedOut | Self::Cancelled | Self::Interrupted => Ok(()),
        }
    }
}

// === what a host holds ===

impl Validate for Inspect {
    fn validate(&self) -> Result<(), Invalid> {
        optional("inspect.slot", self.slot.as_deref(), NAME_BYTES_MAX)?;
        if self.wanted.is_empty() {
            return Err(Invalid::Empty { field: "inspect.wanted" });
        }
        items("inspect.wanted", self.wanted.len(), HOLDINGS_MAX)?;
        range("inspect.timeout_ms", self.timeout_ms, (1, INSPECT_TIME_MS_MAX))?;
        self.wanted.iter().try_for_each(Validate::validate)
    }
}

impl Validate for Wanted {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("wanted.component", self.component.len(), NAME_BYTES_MAX)?;
        bytes("wanted.version", self.version.len(), VERSION_BYTES_MAX)
    }
}

impl Validate for Inspected {
    fn validate(&self) -> Result<(), Invalid> {
        items("inspected.holdings", self.holdings.len(), HOLDINGS_MAX)?;
        self.holdings.iter().try_for_each(Validate::validate)
    }
}

impl Validate for Holding {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Damaged { reason } | Self::Unverified { reason } => {
                bytes("holding.reason", reason.len(), REASON_BYTES_MAX)
            }
            Self::Present { .. } | Self::Absent => Ok(()),
        }
    }
}

impl Validate for AttemptProbe {
    fn validate(&self) -> Result<(), Invalid> {
        range("probe.attempt", self.key.attempt.0.into(), (1, u32::MAX.into()))?;
        optional("probe.slot", self.slot.as_deref(), NAME_BYTES_MAX)?;
        range("probe.timeout_ms", self.timeout_ms, (1, INSPECT_TIME_MS_MAX))?;
        self.spec.validate()
    }
}

impl Validate for Effect {
    fn validate(&self) -> Result<(), Invalid> {
        let (Self::There { what: text } | Self::Absent { what: text } | Self::Unclear { reason: text }) =
            self;
        bytes("effect.reason", text.len(), REASON_BYTES_MAX)
    }
}

// === figures ===

impl Validate for FiguresAt {
    fn validate(&self) -> Result<(), Invalid> {
        optional("figures.host", self.host.as_deref(), NAME_BYTES_MAX)?;
        range("figures.port", self.port.into(), (1, u16::MAX.into()))?;
        if self.host.as_deref().is_none_or(is_host) {
            Ok(())
        } else {
            Err(Invalid::NotAHost { field: "figures.host" })
        }
    }
}

/// Whether a text is an address, an IPv6 one without brackets, or may be the name of a host: nothing in it can end it or begin
/// something else in a URL.
#[must_use]
pub fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_name = text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label);
    is_name || text.parse::<std::net::Ipv6Addr>().is_ok()
}

// === certificates and enrolment ===

impl Validate for RenewRequest {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("renew.csr_der", self.csr_der.len(), CSR_BYTES_MAX)
    }
}

impl Validate for Renewed {
    fn validate(&self) -> Result<(), Invalid> {
        certificates("renewed.chain_der", &self.chain_der)?;
        certificates("renewed.roots_der", &self.roots_der)
    }
}

impl Validate for Trust {
    fn validate(&self) -> Result<(), Invalid> {
        if self.roots_der.is_empty() {
            return Err(Invalid::Empty { field: "trust.roots_der" });
        }
        certificates("trust.roots_der", &self.roots_der)
    }
}

impl Validate for Trusts {
    fn validate(&self) -> Result<(), Invalid> {
        items("trusts.roots", self.roots.len(), CERTIFICATES_MAX)
    }
}

impl Validate for EnrolRequest {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("enrol.csr_der", self.csr_der.len(), CSR_BYTES_MAX)?;
        bytes("enrol.hostname", self.hostname.len(), NAME_BYTES_MAX)?;
        bytes("enrol.agent_version", self.agent_version.len(), VERSION_BYTES_MAX)
    }
}

impl Validate for EnrolRequestFor {
    fn validate(&self) -> Result<(), Invalid> {
        self.request.validate()
    }
}

impl Validate for EnrolResponse {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Granted { chain_der, roots_der, .. } | Self::GrantedFor { chain_der, roots_der, .. } => {
                certificates("granted.chain_der", chain_der)?;
                certificates("granted.roots_der", roots_der)
            }
            Self::Refused { reason } => bytes("refused.reason", reason.len(), REASON_BYTES_MAX),
        }
    }
}

// === output and artifacts ===

impl Validate for OutputHeader {
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

impl Validate for OutputChunk {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("output.bytes", self.bytes.len(), OUTPUT_CHUNK_BYTES_MAX)
    }
}

impl Validate for ArtifactRequest {
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

impl Validate for ArtifactResponse {
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

// === tasks ===

impl Validate for TaskSpec {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Artifact(spec) => spec.validate(),
            Self::Command(spec) => spec.validate(),
            Self::Check(spec) => spec.validate(),
            Self::Systemd(spec) => spec.validate(),
        }
    }
}

impl Validate for ArtifactSpec {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("artifact.component", self.component.len(), NAME_BYTES_MAX)?;
        bytes("artifact.version", self.version.len(), VERSION_BYTES_MAX)?;
        range("artifact.keep_releases", self.keep_releases.into(), (1, u8::MAX.into()))?;
        range("artifact.timeout_ms", self.timeout_ms, (1, TASK_TIME_MS_MAX))
    }
}

impl Validate for CommandSpec {
    fn validate(&self) -> Result<(), Invalid> {
        if self.argv.is_empty() {
            return Err(Invalid::Empty { field: "command.argv" });
        }
        items("command.argv", self.argv.len(), ARGUMENTS_MAX)?;
        items("command.environment", self.environment.len(), ARGUMENTS_MAX)?;
        bytes(
            "command.argv and command.environment",
            command_bytes(&self.argv, &self.environment),
            COMMAND_BYTES_MAX,
        )?;
        optional("command.working_directory", self.working_directory.as_deref(), PATH_BYTES_MAX)?;
        optional("command.user", self.user.as_deref(), NAME_BYTES_MAX)?;
        range("command.timeout_ms", self.timeout_ms, (1, TASK_TIME_MS_MAX))
    }
}

impl Validate for CheckSpec {
    fn validate(&self) -> Result<(), Invalid> {
        match &self.probe {
            Probe::Http { url, .. } => bytes("check.url", url.len(), PATH_BYTES_MAX)?,
            Probe::Tcp { address } => bytes("check.address", address.len(), PATH_BYTES_MAX)?,
            Probe::Command(command) => command.validate()?,
        }
        range("check.interval_ms", self.interval_ms, (1, TASK_TIME_MS_MAX))?;
        range("check.successes", self.successes.into(), (1, u32::MAX.into()))?;
        range("check.timeout_ms", self.timeout_ms, (1, TASK_TIME_MS_MAX))
    }
}

impl Validate for SystemdSpec {
    fn validate(&self) -> Result<(), Invalid> {
        bytes("systemd.unit", self.unit.len(), NAME_BYTES_MAX)?;
        range("systemd.timeout_ms", self.timeout_ms, (1, TASK_TIME_MS_MAX))
    }
}

// === the few kinds of bounds ===

const fn bytes(field: &'static str, length: usize, max: usize) -> Result<(), Invalid> {
    at_most(field, length, max, "bytes")
}

const fn items(field: &'static str, length: usize, max: usize) -> Result<(), Invalid> {
    at_most(field, length, max, "items")
}

const fn at_most(field: &'static str, length: usize, max: usize, unit: &'static str) -> Result<(), Invalid> {
    if length <= max { Ok(()) } else { Err(Invalid::TooLong { field, length, max, unit }) }
}

fn optional(field: &'static str, text: Option<&str>, max: usize) -> Result<(), Invalid> {
    text.map_or(Ok(()), |text| bytes(field, text.len(), max))
}

const fn range(field: &'static str, value: u64, (min, max): (u64, u64)) -> Result<(), Invalid> {
    if min <= value && value <= max { Ok(()) } else { Err(Invalid::OutOfRange { field, value, min, max }) }
}

fn certificates(field: &'static str, certificates: &[Vec<u8>]) -> Result<(), Invalid> {
    items(field, certificates.len(), CERTIFICATES_MAX)?;
    bytes(field, certificates.iter().map(Vec::len).sum(), CHAIN_BYTES_MAX)
}

fn command_bytes(argv: &[String], environment: &BTreeMap<String, String>) -> usize {
    let arguments: usize = argv.iter().map(String::len).sum();
    let variables: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    arguments + variables
}
