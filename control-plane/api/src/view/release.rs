//! Releases.

use stella_api_types::release as dto;
use stella_domain::hold::Standing;
use stella_domain::name::Name;
use stella_domain::release::{Phase, Release, Step, StepAction};
use stella_domain::signature::statement;
use stella_domain::tenant::TenantState;
use stella_protocol::id::ReleaseId;
use stella_protocol::spec::UnitAction;

use super::{hold, signing, time};

/// A release.
pub(crate) fn release(tenant: &TenantState, release: &Release) -> dto::Release {
    let components = release.components.iter().map(|component| dto::Component {
        name: component.name.to_string(),
        digest: component.digest.to_string(),
        size_bytes: component.size_bytes,
        removed: !tenant.artifacts.contains_key(&component.digest),
    });
    dto::Release {
        id: release.id.to_string(),
        application: release.application.to_string(),
        version: release.version.to_string(),
        components: components.collect(),
        steps: release.steps.iter().map(step).collect(),
        labels: release.labels.clone(),
        provenance: release.provenance.as_ref().map(signing::provenance),
        channels: release.channels.iter().map(Name::to_string).collect(),
        statement: statement(release).digest().to_string(),
        signatures: signing::signatures(tenant, release),
        standing: match release.standing {
            Standing::Good => dto::Standing::Good,
            Standing::Deprecated(_) => dto::Standing::Deprecated,
            Standing::Blocked(_) => dto::Standing::Blocked,
        },
        judged: release.standing.hold().map(hold),
        created_at: time(release.created_at),
    }
}

/// A release that is referred to.
pub(super) fn release_ref(tenant: &TenantState, id: ReleaseId) -> dto::ReleaseRef {
    let release = tenant.recipe(id);
    let text = |text: Option<String>| text.unwrap_or_else(|| id.to_string());
    dto::ReleaseRef {
        id: id.to_string(),
        application: text(release.map(|release| release.application.to_string())),
        version: text(release.map(|release| release.version.to_string())),
    }
}

/// A step.
pub(super) fn step(step: &Step) -> dto::Step {
    dto::Step {
        name: step.name.to_string(),
        timeout_ms: step.timeout_ms,
        phase: phase(step.phase),
        action: action(&step.action),
    }
}

/// What a step is a part of.
pub(super) const fn phase(phase: Phase) -> dto::Phase {
    match phase {
        Phase::Prepare => dto::Phase::Prepare,
        Phase::Switch => dto::Phase::Switch,
        Phase::Retire => dto::Phase::Retire,
    }
}

fn action(action: &StepAction) -> dto::StepAction {
    match action {
        StepAction::Artifact { component, keep_releases } => {
            dto::StepAction::Artifact { component: component.to_string(), keep_releases: *keep_releases }
        }
        StepAction::Command { argv, environment, working_directory, user } => dto::StepAction::Command {
            argv: argv.clone(),
            environment: environment.clone(),
            working_directory: working_directory.clone(),
            user: user.clone(),
        },
        StepAction::CheckHttp { url, status, interval_ms, successes } => dto::StepAction::CheckHttp {
            url: url.clone(),
            status: *status,
            interval_ms: *interval_ms,
            successes: *successes,
        },
        StepAction::CheckTcp { address, interval_ms, successes } => dto::StepAction::CheckTcp {
            address: address.clone(),
            interval_ms: *interval_ms,
            successes: *successes,
        },
        StepAction::CheckCommand { argv, interval_ms, successes } => dto::StepAction::CheckCommand {
            argv: argv.clone(),
            interval_ms: *interval_ms,
            successes: *successes,
        },
        StepAction::Systemd { unit, action } => {
            dto::StepAction::Systemd { unit: unit.clone(), action: unit_action(*action) }
        }
    }
}

const fn unit_action(action: UnitAction) -> dto::UnitAction {
    match action {
        UnitAction::Start => dto::UnitAction::Start,
        UnitAction::Stop => dto::UnitAction::Stop,
        UnitAction::Restart => dto::UnitAction::Restart,
        UnitAction::ReloadOrRestart => dto::UnitAction::ReloadOrRestart,
    }
}
