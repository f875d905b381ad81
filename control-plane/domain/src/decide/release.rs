//! Releases.

use std::collections::BTreeSet;

use stella_protocol::id::ReleaseId;

use super::transaction::Transaction;
use super::{channel, fields, provenance, signature};
use crate::command::{NewRelease, Outcome};
use crate::event::Fact;
use crate::name::{Name, Version};
use crate::rejection::Rejection;
use crate::release::{
    ARTIFACT_TIMEOUT_MS_DEFAULT, COMPONENTS_MAX, Component, KEEP_RELEASES_DEFAULT, KEEP_RELEASES_MAX, Phase,
    ReleaseBounds, STEP_TIMEOUT_MS_RANGE, STEPS_MAX, Step, StepAction, bytes_of,
};
use crate::tenant::TenantState;
use crate::{render, template};

/// How many references to variables a step may have: with the bound of a variable's value it bounds what a step grows to.
const REFERENCES_MAX: usize = 64;
/// How many good answers in a row a check may want.
const SUCCESSES_MAX: u64 = 1_000;
/// The shortest pause between two tries of a check, in milliseconds: less would be a load test.
const INTERVAL_MS_MIN: u64 = 10;

pub(super) fn create(tx: &mut Transaction<'_>, new: &NewRelease) -> Result<Outcome, Rejection> {
    if tx.tenant.releases.contains_key(&new.id) {
        return Err(Rejection::exists(ReleaseId::KIND, new.id));
    }
    let versions = tx.tenant.index.releases.get(&new.application);
    if versions.is_some_and(|versions| versions.contains_key(&new.version)) {
        return Err(Rejection::exists(ReleaseId::KIND, format!("{}:{}", new.application, new.version)));
    }
    fields::labels(&new.labels)?;
    new.provenance.iter().try_for_each(provenance::makes_sense)?;
    components(tx, new)?;
    let mut steps = new.steps.clone();
    if steps.is_empty() {
        steps = new.components.iter().map(artifact_step).collect();
    }
    if steps.is_empty() {
        return Err(Rejection::invalid(
            "components",
            "a release without components needs steps; give it one or the other",
        ));
    }
    are_sound(&new.components, &new.version, &steps)?;
    phases(&steps)?;
    let bytes = bytes_of(&new.components, &steps, &new.labels, new.provenance.as_ref());
    has_room(&tx.tenant, new.bounds, (1, bytes, 0))?;
    tx.emit(Fact::ReleaseCreated {
        id: new.id,
        application: new.application.clone(),
        version: new.version.clone(),
        components: new.components.clone(),
        steps,
        labels: new.labels.clone(),
        provenance: new.provenance.clone().map(Box::new),
        channels: channel::of(&tx.tenant, new),
    })?;
    for (at, (key, signed)) in new.signatures.iter().enumerate() {
        signature::sign(tx, new.id, *key, signed).map_err(|rejection| {
            if let Rejection::Invalid { field, problem } = rejection {
                return Rejection::invalid(format!("signatures[{at}].{field}"), problem);
            }
            rejection
        })?;
    }
    signature::may_come_in(&tx.tenant, new.id)?;
    Ok(Outcome::Release(new.id))
}

/// Whether so many releases more, or so many bytes for others that go, are not too much for the tenant.
pub(super) fn has_room(
    tenant: &TenantState,
    bounds: ReleaseBounds,
    (count, more, less): (u64, u64, u64),
) -> Result<(), Rejection> {
    let there = u64::try_from(tenant.releases.len()).unwrap_or(u64::MAX);
    if let Some(max) = bounds.count_max
        && there.saturating_add(count) > max
        && count > 0
    {
        return Err(Rejection::conflict(format!(
            "tenant {} has {there} releases, and may have {max}: whoever runs the control plane can raise api.tenant_releases_max",
            tenant.name
        )));
    }
    let used = tenant.index.release_bytes;
    if let Some(max) = bounds.bytes_max
        && used.saturating_sub(less).saturating_add(more) > max
        && more > less
    {
        let grows = more - less;
        return Err(Rejection::conflict(format!(
            "what the releases of tenant {} say, with what scanners say of them, has {used} bytes, and {grows} more are over its {max}: \
             whoever runs the control plane can raise api.tenant_release_bytes_max",
            tenant.name
        )));
    }
    Ok(())
}

/// Whether these can be the steps of something that has these components: bounded, each of another name, and each such as an agent could
/// do it once its texts are filled in.
pub(crate) fn are_sound(
    components: &[Component],
    version: &Version,
    steps: &[Step],
) -> Result<(), Rejection> {
    if steps.len() > STEPS_MAX {
        let problem = format!("there are {}; at most {STEPS_MAX} are allowed", steps.len());
        return Err(Rejection::invalid("steps", problem));
    }
    let mut names = BTreeSet::new();
    for (index, step) in steps.iter().enumerate() {
        if !names.insert(&step.name) {
            return Err(Rejection::invalid(
                format!("steps[{index}].name"),
                format!("{} is there twice", step.name),
            ));
        }
        check_step(components, version, index, step)?;
    }
    Ok(())
}

fn components(tx: &Transaction<'_>, new: &NewRelease) -> Result<(), Rejection> {
    if new.components.len() > COMPONENTS_MAX {
        let problem = format!("there are {}; at most {COMPONENTS_MAX} are allowed", new.components.len());
        return Err(Rejection::invalid("components", problem));
    }
    let mut names: BTreeSet<&Name> = BTreeSet::new();
    for (index, Component { name, digest, size_bytes }) in new.components.iter().enumerate() {
        if !names.insert(name) {
            return Err(Rejection::invalid(
                format!("components[{index}].name"),
                format!("{name} is there twice"),
            ));
        }
        let Some(stored) = tx.tenant.artifacts.get(digest) else {
            let problem = format!(
                "{digest} is not stored for this tenant; upload it first: PUT .../artifacts/{digest}"
            );
            return Err(Rejection::invalid(format!("components[{index}].digest"), problem));
        };
        if stored != size_bytes {
            let problem = format!("is {size_bytes}, but {digest} is stored with {stored} bytes");
            return Err(Rejection::invalid(format!("components[{index}].size_bytes"), problem));
        }
    }
    Ok(())
}

fn artifact_step(component: &Component) -> Step {
    let action =
        StepAction::Artifact { component: component.name.clone(), keep_releases: KEEP_RELEASES_DEFAULT };
    let (name, timeout_ms) = (component.name.clone(), ARTIFACT_TIMEOUT_MS_DEFAULT);
    Step { name, action, timeout_ms, phase: Phase::Prepare }
}

/// Steps are run in the order of their phases, so they are written in it; and what can be switched has something to switch to.
fn phases(steps: &[Step]) -> Result<(), Rejection> {
    for (index, pair) in steps.windows(2).enumerate() {
        let [before, step] = pair else { continue };
        if step.phase < before.phase {
            let problem = format!(
                "is {}, and the step before it is of the phase {}; write steps in the order prepare, switch, retire",
                step.phase.name(),
                before.phase.name()
            );
            return Err(Rejection::invalid(format!("steps[{}].phase", index + 1), problem));
        }
    }
    for (index, step) in steps.iter().enumerate() {
        if step.phase != Phase::Prepare && matches!(step.action, StepAction::Artifact { .. }) {
            let problem = "must be prepare: an artifact step fills the colour that is not live";
            return Err(Rejection::invalid(format!("steps[{index}].phase"), problem));
        }
    }
    let has = |phase| steps.iter().any(|step| step.phase == phase);
    match (has(Phase::Prepare), has(Phase::Switch), has(Phase::Retire)) {
        (_, false, true) => {
            let problem =
                "there are some of the phase retire and none of the phase switch; nothing would ever be idle";
            Err(Rejection::invalid("steps", problem))
        }
        (false, true, _) => {
            let problem = "there are some of the phase switch and none that prepares; there would be nothing to switch to";
            Err(Rejection::invalid("steps", problem))
        }
        _ => Ok(()),
    }
}

fn check_step(
    components: &[Component],
    version: &Version,
    index: usize,
    step: &Step,
) -> Result<(), Rejection> {
    let field = |name: &str| format!("steps[{index}].{name}");
    fields::range(field("timeout_ms"), step.timeout_ms, STEP_TIMEOUT_MS_RANGE, " (a second to a day)")?;
    check_action(&step.action, step.timeout_ms, &field)?;
    let references = render::references(step);
    if references > REFERENCES_MAX {
        let problem = format!("refers to variables {references} times; at most {REFERENCES_MAX} are allowed");
        return Err(Rejection::invalid(format!("steps[{index}]"), problem));
    }
    let unfilled = |text: &str| template::check(text).map(|()| text.to_owned());
    let work = render::work(components, version, step, None, &unfilled);
    work.map(drop).map_err(|error| Rejection::invalid(format!("steps[{index}]"), error.to_string()))
}

fn check_action(
    action: &StepAction,
    timeout_ms: u64,
    field: &dyn Fn(&str) -> String,
) -> Result<(), Rejection> {
    let no_nul = |name: &str, texts: &[&String]| {
        if texts.iter().any(|text| text.contains('\0')) {
            return Err(Rejection::invalid(field(name), "must not have a NUL character"));
        }
        Ok(())
    };
    let pace = |interval_ms: u64, successes: u32| {
        fields::range(field("interval_ms"), interval_ms, (INTERVAL_MS_MIN, timeout_ms), " (the time-out)")?;
        fields::range(field("successes"), successes.into(), (1, SUCCESSES_MAX), "")
    };
    let program = |argv: &[String]| {
        if argv.first().is_none_or(String::is_empty) {
            return Err(Rejection::invalid(field("argv"), "must begin with a program"));
        }
        no_nul("argv", &argv.iter().collect::<Vec<_>>())
    };
    match action {
        StepAction::Artifact { keep_releases, .. } => {
            fields::range(field("keep_releases"), (*keep_releases).into(), (1, KEEP_RELEASES_MAX.into()), "")
        }
        StepAction::Command { argv, environment, working_directory, user } => {
            program(argv)?;
            if environment.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
                return Err(Rejection::invalid(
                    field("environment"),
                    "a name must not be empty or have '=' or NUL",
                ));
            }
            no_nul("environment", &environment.values().collect::<Vec<_>>())?;
            no_nul("working_directory", working_directory.as_ref().as_slice())?;
            no_nul("user", user.as_ref().as_slice())
        }
        StepAction::CheckHttp { url, status, interval_ms, successes } => {
            if !url
                .strip_prefix("http://")
                .is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
            {
                return Err(Rejection::invalid(field("url"), "must start with http:// and have no spaces"));
            }
            fields::range(field("status"), (*status).into(), (100, 599), "")?;
            pace(*interval_ms, *successes)
        }
        StepAction::CheckTcp { address, interval_ms, successes } => {
            if !address.contains(':') {
                return Err(Rejection::invalid(
                    field("address"),
                    "must be host:port, for example localhost:8080",
                ));
            }
            pace(*interval_ms, *successes)
        }
        StepAction::CheckCommand { argv, interval_ms, successes } => {
            program(argv)?;
            pace(*interval_ms, *successes)
        }
        StepAction::Systemd { unit, .. } => {
            if unit.is_empty() || unit.contains(['/', '\0']) {
                return Err(Rejection::invalid(
                    field("unit"),
                    "must be a unit's name, for example web.service",
                ));
            }
            Ok(())
        }
    }
}
