//! From a release's step to the work that an agent is given.

use std::collections::BTreeMap;

use stella_protocol::spec::{ArtifactSpec, CheckSpec, CommandSpec, Probe, SystemdSpec, TaskSpec};
use stella_protocol::validate::{Invalid, Validate};
use subst::VariableMap;

use crate::colour::{Colour, Place};
use crate::deployment::{Deployment, TargetRollout};
use crate::name::Version;
use crate::release::{Component, Release, Step, StepAction};
use crate::target::Target;
use crate::template::{self, TemplateError};
use crate::tenant::TenantState;

/// The names that every text may refer to; a target's variables may not be called so.
pub(crate) const BUILT_IN: [&str; 6] = ["target", "slot", "colour", "version", "environment", "application"];

/// Why a step cannot become work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenderError {
    /// A text cannot be filled in.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// It is more than an agent accepts.
    #[error(transparent)]
    Bounds(#[from] Invalid),
    /// It names a component that the release does not have.
    #[error("the release has no component {component:?}")]
    Component {
        /// Which.
        component: String,
    },
}

/// Where names in texts lead to: the built-in ones and a target's variables.
#[derive(Debug)]
pub(crate) struct Names<'n> {
    target: &'n str,
    slot: &'n str,
    version: &'n str,
    environment: &'n str,
    application: &'n str,
    colour: Option<Colour>,
    variables: &'n BTreeMap<String, String>,
}

impl<'n> Names<'n> {
    pub(crate) fn new(
        environment: &'n str,
        release: &'n Release,
        target: &'n Target,
        colour: Option<Colour>,
        variables: &'n BTreeMap<String, String>,
    ) -> Self {
        Self {
            target: target.name.as_str(),
            slot: target.slot.as_ref().map_or("", |slot| slot.as_str()),
            version: release.version.as_str(),
            environment,
            application: release.application.as_str(),
            colour,
            variables,
        }
    }
}

impl<'a> VariableMap<'a> for Names<'_> {
    type Value = &'a str;

    fn get(&'a self, name: &str) -> Option<&'a str> {
        match name {
            "target" => Some(self.target),
            "slot" => Some(self.slot),
            "version" => Some(self.version),
            "environment" => Some(self.environment),
            "application" => Some(self.application),
            // Before there were colours, a target could have a variable of this name.
            "colour" => {
                let own = self.variables.get("colour").map_or("", String::as_str);
                Some(self.colour.map_or(own, |colour| colour.name()))
            }
            other => {
                let of_colour = self.colour.map(|colour| format!("{other}_{}", colour.name()));
                let found = of_colour.and_then(|name| self.variables.get(&name));
                found.or_else(|| self.variables.get(other)).map(String::as_str)
            }
        }
    }
}

/// The work of one step on one target of a deployment; `None` if what it needs is gone.
pub(crate) fn task(
    tenant: &TenantState,
    deployment: &Deployment,
    rollout: &TargetRollout,
    place: &Place<'_>,
) -> Option<Result<TaskSpec, RenderError>> {
    let target = tenant.targets.get(&rollout.target)?;
    let environment = tenant.environments.get(&deployment.environment)?;
    let (release, colour) = (place.release, place.leg.colour);
    let names =
        Names::new(environment.name.as_str(), release, target, colour, rollout.variables_for(release.id));
    Some(on_target(release, place.step, &names))
}

/// The work of one step with all names filled in.
pub(crate) fn on_target(release: &Release, step: &Step, names: &Names<'_>) -> Result<TaskSpec, RenderError> {
    let fill = |text: &str| template::expand(text, names);
    work(&release.components, &release.version, step, names.colour, &fill)
}

/// The work of one step, its texts passed through `fill`; checked against what an agent accepts. A colour has folders of its own.
pub(crate) fn work(
    components: &[Component],
    version: &Version,
    step: &Step,
    colour: Option<Colour>,
    fill: &dyn Fn(&str) -> Result<String, TemplateError>,
) -> Result<TaskSpec, RenderError> {
    let timeout_ms = step.timeout_ms;
    let check = |probe, &interval_ms: &u64, &successes: &u32| {
        TaskSpec::Check(CheckSpec { probe, interval_ms, successes, timeout_ms })
    };
    let all = |texts: &[String]| texts.iter().map(|text| fill(text)).collect::<Result<Vec<_>, _>>();
    let spec = match &step.action {
        StepAction::Artifact { component: name, keep_releases } => {
            let component = components.iter().find(|component| component.name == *name);
            let component =
                component.ok_or_else(|| RenderError::Component { component: name.to_string() })?;
            TaskSpec::Artifact(ArtifactSpec {
                component: match colour {
                    Some(colour) => format!("{name}-{}", colour.name()),
                    None => name.to_string(),
                },
                version: version.to_string(),
                digest: component.digest,
                size_bytes: component.size_bytes,
                keep_releases: *keep_releases,
                timeout_ms,
            })
        }
        StepAction::Command { argv, environment, working_directory, user } => {
            let filled = environment.iter().map(|(name, value)| Ok((name.clone(), fill(value)?)));
            TaskSpec::Command(CommandSpec {
                argv: all(argv)?,
                environment: filled.collect::<Result<_, TemplateError>>()?,
                working_directory: working_directory.as_deref().map(fill).transpose()?,
                user: user.as_deref().map(fill).transpose()?,
                timeout_ms,
            })
        }
        StepAction::CheckHttp { url, status, interval_ms, successes } => {
            check(Probe::Http { url: fill(url)?, status: *status }, interval_ms, successes)
        }
        StepAction::CheckTcp { address, interval_ms, successes } => {
            check(Probe::Tcp { address: fill(address)? }, interval_ms, successes)
        }
        StepAction::CheckCommand { argv, interval_ms, successes } => {
            let (environment, working_directory, user) = (BTreeMap::new(), None, None);
            let command = CommandSpec { argv: all(argv)?, environment, working_directory, user, timeout_ms };
            check(Probe::Command(command), interval_ms, successes)
        }
        StepAction::Systemd { unit, action } => {
            TaskSpec::Systemd(SystemdSpec { unit: fill(unit)?, action: *action, timeout_ms })
        }
    };
    spec.validate()?;
    Ok(spec)
}

/// How many references the texts of a step have together.
pub(crate) fn references(step: &Step) -> usize {
    let many = |texts: &[String]| texts.iter().map(|text| template::references(text)).sum::<usize>();
    let maybe = |text: &Option<String>| text.as_deref().map_or(0, template::references);
    match &step.action {
        StepAction::Artifact { .. } => 0,
        StepAction::Command { argv, environment, working_directory, user } => {
            let values: usize = environment.values().map(|value| template::references(value)).sum();
            many(argv) + values + maybe(working_directory) + maybe(user)
        }
        StepAction::CheckHttp { url: text, .. }
        | StepAction::CheckTcp { address: text, .. }
        | StepAction::Systemd { unit: text, .. } => template::references(text),
        StepAction::CheckCommand { argv, .. } => many(argv),
    }
}
