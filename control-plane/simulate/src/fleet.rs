//! The hosts of a scenario, and the commands that make a tenant with them: the same that people and agents would send.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use rand::seq::SliceRandom as _;
use stella_domain::amount::Amount;
use stella_domain::command::{NewDeployment, NewRelease, NewTarget};
use stella_domain::deployment::{OnFailure, Strategy};
use stella_domain::gate::{Check, Gate};
use stella_domain::name::{Name, NameError, Version};
use stella_domain::release::{Component, KEEP_RELEASES_DEFAULT, Step, StepAction};
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AccountId, AgentId, ApiTokenId, DeploymentId, EnrolmentTokenId, EnvironmentId, Incarnation, Position,
    ReleaseId, TargetId, TenantId,
};
use stella_protocol::message::JournalMark;
use uuid::Uuid;

use crate::dice::Dice;
use crate::host::Host;
use crate::queue::HostIndex;
use crate::scenario::Scenario;

// What there is one of has an id of its own; what there are many of is counted.
pub(crate) const TENANT: TenantId = TenantId(Uuid::from_u128(1));
pub(crate) const PLACE: EnvironmentId = EnvironmentId(Uuid::from_u128(2));
pub(crate) const TOKEN: EnrolmentTokenId = EnrolmentTokenId(Uuid::from_u128(3));
/// The version that is there before, and its deployment.
pub(crate) const OLD: ReleaseId = ReleaseId(Uuid::from_u128(4));
pub(crate) const OLD_DEPLOYMENT: DeploymentId = DeploymentId(Uuid::from_u128(5));
/// The version that is to come, and its deployment.
pub(crate) const NEW: ReleaseId = ReleaseId(Uuid::from_u128(6));
pub(crate) const DEPLOYMENT: DeploymentId = DeploymentId(Uuid::from_u128(7));

/// An environment on the way.
pub(crate) fn stage(at: usize) -> EnvironmentId {
    EnvironmentId(Uuid::from_u128(0x1_0000 + u128::try_from(at).unwrap_or_default()))
}

/// The deployment of a version to an environment on the way.
pub(crate) fn stage_deployment(at: usize, release: ReleaseId) -> DeploymentId {
    let first = if release == OLD { 0x2_0000 } else { 0x3_0000 };
    DeploymentId(Uuid::from_u128(first + u128::try_from(at).unwrap_or_default()))
}

/// The endpoint that gates ask.
const ENDPOINT: &str = "simulated";

/// The account of an approver, and the token that they come in with.
pub(crate) fn approver(number: u32) -> (AccountId, ApiTokenId) {
    let digits = Uuid::from_u128(0x1_0000 + u128::from(number));
    (AccountId(digits), ApiTokenId(digits))
}

/// All hosts, in the order of the file, and after them those on the way. Their names have as many digits as they need to be in that order too.
pub(crate) fn hosts(scenario: &Scenario) -> Vec<Host> {
    let width = scenario.hosts().to_string().len();
    let mut counts = BTreeMap::<&str, u32>::new();
    let mut hosts = Vec::new();
    for group in &scenario.fleet {
        let prefix = group.name.as_ref().map_or("host", Name::as_str);
        for at in 0..group.hosts {
            let count = counts.entry(prefix).or_default();
            *count += 1;
            let mut labels = group.labels.clone();
            for (label, values) in &group.spread {
                let turn = usize::try_from(at).unwrap_or_default() % values.len().max(1);
                labels.extend(values.get(turn).map(|value| (label.clone(), value.clone())));
            }
            let name = format!("{prefix}-{count:0width$}");
            let host = host(hosts.len(), PLACE, name);
            hosts.push(Host { labels, away: group.away, ..host });
        }
    }
    for (at, on_the_way) in scenario.path.iter().enumerate() {
        let width = on_the_way.hosts.to_string().len();
        for number in 1..=on_the_way.hosts {
            let name = format!("{}-{number:0width$}", on_the_way.name);
            hosts.push(host(hosts.len(), stage(at), name));
        }
    }
    hosts
}

fn host(at: usize, place: EnvironmentId, name: String) -> Host {
    let digits = Uuid::from_u128(0x100_0000 + u128::try_from(at).unwrap_or_default());
    Host {
        agent: AgentId(digits),
        target: TargetId(digits),
        place,
        name,
        labels: BTreeMap::new(),
        cut: 0,
        away: false,
        down: 0,
        drained: 0,
        session: None,
        journal: JournalMark { incarnation: Incarnation(digits), position: Position(0) },
        attempts: BTreeMap::new(),
    }
}

/// The hosts that a fault meets: of those that the scenario is about, with these labels, as many as it says, drawn by lot.
pub(crate) fn struck(
    hosts: &[Host],
    (amount, labels): (Amount, &BTreeMap<String, String>),
    dice: Dice,
    fault: usize,
) -> Vec<HostIndex> {
    let has = |host: &Host| {
        host.place == PLACE && labels.iter().all(|(label, value)| host.labels.get(label) == Some(value))
    };
    let mut candidates: Vec<HostIndex> =
        hosts.iter().enumerate().filter(|(_, host)| has(host)).map(|(at, _)| at).collect();
    let total = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
    candidates.shuffle(&mut dice.of("struck", &[&fault.to_be_bytes()]));
    candidates.truncate(usize::try_from(amount.at_least(total)).unwrap_or(usize::MAX));
    candidates.sort_unstable();
    candidates
}

pub(crate) fn target(host: &Host) -> Result<NewTarget, NameError> {
    Ok(NewTarget {
        id: host.target,
        environment: host.place,
        name: Name::from_str(&host.name)?,
        kind: Name::from_str("host")?,
        agent: host.agent,
        slot: None,
        labels: host.labels.clone(),
        variables: BTreeMap::new(),
    })
}

pub(crate) fn digest_of(release: ReleaseId) -> Digest {
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(release.0.as_bytes());
    Digest(digest)
}

/// A version with the steps of the scenario. What a step does is of no matter, for nothing is run; but the first one brings what
/// a host can have lost when it is to go back.
pub(crate) fn release(scenario: &Scenario, id: ReleaseId, version: &str) -> Result<NewRelease, NameError> {
    let nothing = StepAction::Command {
        argv: vec!["true".to_owned()],
        environment: BTreeMap::new(),
        working_directory: None,
        user: None,
    };
    let component = Name::from_str("simulated")?;
    let artifact = StepAction::Artifact { component, keep_releases: KEEP_RELEASES_DEFAULT };
    let step = |(at, step): (usize, &crate::scenario::Step)| Step {
        name: step.name.clone(),
        action: if at == 0 { artifact.clone() } else { nothing.clone() },
        timeout_ms: step.timeout.0,
        phase: step.phase,
    };
    Ok(NewRelease {
        id,
        application: Name::from_str("simulated")?,
        version: Version::from_str(version)?,
        components: vec![Component {
            name: Name::from_str("simulated")?,
            digest: digest_of(id),
            size_bytes: 1,
        }],
        steps: scenario.steps.iter().enumerate().map(step).collect(),
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    })
}

pub(crate) fn deployment(scenario: &Scenario) -> NewDeployment {
    let deploy = &scenario.deploy;
    NewDeployment {
        id: DEPLOYMENT,
        environment: PLACE,
        release: NEW,
        strategy: deploy.strategy.clone(),
        on_failure: deploy.on_failure,
        tolerate_failures: deploy.tolerate_failures,
        targets: None,
        timeout_ms: deploy.timeout.0,
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
        job: None,
    }
}

/// A version to an environment on the way: there is nothing to be careful about there.
pub(crate) fn on_the_way(scenario: &Scenario, at: usize, release: ReleaseId) -> NewDeployment {
    NewDeployment {
        id: stage_deployment(at, release),
        environment: stage(at),
        release,
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::default(),
        tolerate_failures: None,
        ..deployment(scenario)
    }
}

pub(crate) fn gates(scenario: &Scenario) -> Result<Vec<Gate>, NameError> {
    let endpoint = Name::from_str(ENDPOINT)?;
    let gate = |policy: &crate::scenario::GatePolicy| Gate {
        name: policy.name.clone(),
        check: Check::Http { endpoint: endpoint.clone() },
        ttl_ms: policy.ttl.0,
        verifies: policy.verifies,
    };
    Ok(scenario.environment.gates.iter().map(gate).collect())
}
