//! What the steps `task` of a run ask for: a job on targets, with the authority of whoever started the run.

use serde_json::json;
use stella_protocol::id::{DeploymentId, EnvironmentId, ReleaseId, TargetId};

use super::run::{Outputs, variables};
use super::transaction::Transaction;
use super::{are_sound, channel, deploy_step, hold, promotion, signature};
use crate::access;
use crate::amount::Amount;
use crate::command::{NewDeployment, TenantCommand};
use crate::deployment::{OnFailure, Strategy};
use crate::environment::Environment;
use crate::job::{self, Job, own_release};
use crate::rejection::Rejection;
use crate::release::{Release, Step as Work};
use crate::run::Run;
use crate::strategy::Rolling;
use crate::tenant::TenantState;
use crate::workflow::{FILLED_BYTES_MAX, Meter, Step, TaskStep, Variables, render, render_for_target};

/// Asks for a step's job like anybody would for a deployment, and is refused like anybody would be. An attempt that follows on others leaves
/// out the targets on which they have done it; if that is all of them, the step has done what it should, with these outputs.
pub(super) fn ask(
    tx: &mut Transaction<'_>,
    run: &Run,
    step: &Step,
    task: &TaskStep,
    id: DeploymentId,
) -> Result<Option<Outputs>, Rejection> {
    let earlier = run.steps.get(&step.id).and_then(|found| found.job);
    if let Some(open) = earlier.filter(|id| tx.tenant.active_deployments.contains(id)) {
        let problem = format!("job {open} of the attempt before has not ended");
        return Err(Rejection::Conflict { problem });
    }
    let done = earlier.map_or_else(Vec::new, |earlier| tx.tenant.done_by_job(earlier));
    let new = wanted(&tx.tenant, run, (step, task), id, tx.meter())?;
    let chosen = new.targets.clone().unwrap_or_default();
    let left: Vec<TargetId> = chosen.iter().filter(|it| done.binary_search(it).is_err()).copied().collect();
    if let (Some(earlier), true) = (earlier, left.is_empty()) {
        return Ok(Some(outputs(earlier, done.len(), 0)));
    }
    // Something may still be running there: what a promotion would wait for and then do once more.
    let unknown = left.iter().find_map(|id| {
        let target = tx.tenant.targets.get(id)?;
        let task = tx.tenant.tasks.get(&target.blocked_by?)?;
        (Some(task.deployment) == earlier).then(|| (target.name.clone(), task.id))
    });
    if let Some((target, task)) = unknown {
        let problem = format!("nobody knows what became of task {task} on target {target}; settle it first");
        return Err(Rejection::Conflict { problem });
    }
    let new = if done.is_empty() { new } else { for_the_rest(new, left, done) };
    let command = TenantCommand::Deploy(Box::new(new.clone()));
    access::check_authority(tx.system, tx.actor(), tx.tenant.id, &command, tx.now)?;
    promotion::request(tx, &new)?;
    Ok(None)
}

/// The job as its step says, for all targets that it chooses.
pub(super) fn wanted(
    tenant: &TenantState,
    run: &Run,
    (step, task): (&Step, &TaskStep),
    id: DeploymentId,
    meter: &Meter,
) -> Result<NewDeployment, Rejection> {
    let variables = variables(run, meter);
    let fill = |field: &str, text: &str| {
        render(text, &variables).map_err(|problem| Rejection::invalid(field, problem))
    };
    let place = fill("environment", &task.environment)?;
    let environment = deploy_step::environment(tenant, &place)
        .ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, &place))?;
    let release = match &task.release {
        None => own_release(id),
        Some(release) => {
            let what = fill("release", release)?;
            deploy_step::release(tenant, &what).ok_or_else(|| Rejection::not_found(ReleaseId::KIND, &what))?
        }
    };
    let targets = deploy_step::chosen(tenant, environment, (&task.targets, &task.labels), &fill)?;
    let all = || tenant.targets_with(environment, &task.labels).map(|target| target.id).collect();
    let job = Job {
        workflow: run.workflow.clone(),
        run: run.id,
        step: step.id.clone(),
        steps: on_target(task, &variables)?,
        done: Vec::new(),
    };
    Ok(NewDeployment {
        id,
        environment,
        release,
        strategy: task
            .max_parallel
            .map_or(Strategy::AllAtOnce, |batch| Strategy::Rolling(Rolling { batch, ..Rolling::of(1) })),
        // There is nothing that it could be taken back to.
        on_failure: OnFailure::Stop,
        targets: Some(targets.unwrap_or_else(all)),
        timeout_ms: task.timeout.0,
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
        tolerate_failures: task.tolerate_failures,
        job: Some(Box::new(job)),
    })
}

/// What is run on each target, with what the run has filled in.
fn on_target(task: &TaskStep, variables: &Variables) -> Result<Vec<Work>, Rejection> {
    let mut steps = Vec::with_capacity(task.steps.len());
    for (at, step) in task.steps.iter().enumerate() {
        let mut fill = |field: &str, text: &str| {
            render_for_target(text, variables)
                .map_err(|problem| Rejection::invalid(format!("steps[{at}].{field}"), problem))
        };
        steps.extend(step.filled(&mut fill)?);
    }
    let bytes = serde_json::to_vec(&steps).map_or(usize::MAX, |json| json.len());
    if bytes > FILLED_BYTES_MAX {
        let problem =
            format!("become {bytes} bytes when they are filled in; at most {FILLED_BYTES_MAX} are possible");
        return Err(Rejection::invalid("steps", problem));
    }
    if let Ok(version) = "1".parse() {
        are_sound(&[], &version, &steps)?;
    }
    Ok(steps)
}

/// The same for some of the targets only. What was a share of all stays that many.
fn for_the_rest(new: NewDeployment, left: Vec<TargetId>, done: Vec<TargetId>) -> NewDeployment {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let total = count(new.targets.as_ref().map_or(0, Vec::len));
    let most = count(left.len()).saturating_sub(1);
    let tolerated = |amount: Amount| Amount::Count(amount.at_most(total).min(most));
    NewDeployment {
        strategy: new.strategy.counted(total),
        tolerate_failures: new.tolerate_failures.map(tolerated),
        targets: Some(left),
        job: new.job.map(|job| Box::new(Job { done, ..*job })),
        ..new
    }
}

/// What other steps may use of a job: which deployment carried it out, on how many targets it was done, and on how many it was not.
pub(super) fn outputs(id: DeploymentId, succeeded: usize, failed: u32) -> Outputs {
    let named = [("deployment", json!(id)), ("succeeded", json!(succeeded)), ("failed", json!(failed))];
    named.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Whether what a job runs may be run in an environment. Where releases have to come from does not matter to what brings none; who has to
/// have signed what is run on hosts does.
pub(super) fn may_run(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
) -> Result<(), Rejection> {
    let own = !tenant.releases.contains_key(&release.id);
    if own && tenant.signing.is_some() {
        return Err(Rejection::conflict(format!(
            "tenant {} demands signatures of all that is run, and nobody signs the steps of a template; put them into a release without artifacts, sign that, and name it as the task's release",
            tenant.name
        )));
    }
    if own {
        return Ok(());
    }
    if let Some(objection) = job::objection(release) {
        let problem = format!("is {}:{}; {objection}", release.application, release.version);
        return Err(Rejection::invalid("release", problem));
    }
    hold::is_usable(release)?;
    signature::is_signed(tenant, release)?;
    channel::is_taken(environment, release)
}
