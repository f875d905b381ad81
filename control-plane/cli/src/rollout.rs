//! Deployments and rollbacks.

pub(crate) mod describe;

use serde::Serialize;
use stella_api_types::deployment::{
    CancelDeployment, CreateDeployment, Deployment as Dto, DeploymentDetail, DeploymentPlan,
    OnFailure as DtoOnFailure, PlannedGroups, PlannedTarget, RetryDeployment, RollbackDeployment,
    RollbackPlan, TargetTasks,
};
use stella_api_types::paths;
use stella_api_types::promotion::{Asked, Promotion};
use stella_api_types::release::{Release, ReleaseRef, Standing};

use crate::args::{Deploy, Deployment, OnFailure, Output, Rollback, Wait, Window};
use crate::client::Error;
use crate::follow::{self, Look};
use crate::{Context, failure, gate, guide, hold, pace, print, promotion, task, watch, when, window};

/// The status of what is not there.
const NOT_FOUND: u16 = 404;

pub(crate) async fn deploy(context: &Context, command: Deploy) -> Result<bool, Error> {
    let body = CreateDeployment {
        environment: command.environment,
        release: command.release,
        channel: command.channel,
        tolerate_failures: command.tolerate,
        strategy: command.pace.is_given().then(|| pace::strategy(command.pace)).transpose()?,
        on_failure: match command.on_failure {
            OnFailure::Rollback => DtoOnFailure::Rollback,
            OnFailure::Stop => DtoOnFailure::Stop,
            OnFailure::Ask => DtoOnFailure::Ask,
        },
        targets: (!command.targets.is_empty()).then_some(command.targets),
        labels: pace::each_once("--label", command.labels)?,
        timeout_seconds: command.timeout,
        override_freeze: command.override_freeze,
        override_path: command.override_path,
        waive_way_back: command.waive_way_back,
        replace_application: command.replace_application,
    };
    if command.plan {
        return plan(context, &body, command.tasks).await;
    }
    let key = command.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let path = context.path(paths::DEPLOYMENTS, &[])?;
    let asked: Asked = context.client.post(&path, &body, Some(&key)).await?;
    warn_of(
        context,
        match &asked {
            Asked::Started(created) => &created.deployment.release.id,
            Asked::Waits(promotion) => &promotion.release.id,
        },
    )
    .await;
    if context.output == Output::Text
        && let Asked::Started(created) = &asked
        && created
            .targets
            .iter()
            .all(|it| it.previous.as_ref().is_some_and(|there| there.id == it.release.id))
    {
        print::warning("every target has this release already; its steps are run again");
    }
    follow_up(context, &asked, command.wait).await
}

/// What is on a target, by its version, and with its name if it is another application than the one to come.
fn in_place(current: &ReleaseRef, coming: &ReleaseRef) -> String {
    if current.application == coming.application {
        current.version.clone()
    } else {
        format!("{}:{}", current.application, current.version)
    }
}

/// A plan, with what it would run on its target if it is for a single one.
#[derive(Serialize)]
struct PlannedWithTasks {
    #[serde(flatten)]
    plan: DeploymentPlan,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<TargetTasks>,
}

/// What a deployment to a single target would run there.
async fn tasks(context: &Context, body: &CreateDeployment) -> Result<TargetTasks, Error> {
    let Some([target]) = body.targets.as_deref() else {
        return Err(Error::Usage("--tasks shows the tasks of one target: give --target once".to_owned()));
    };
    let path = context.path(paths::DEPLOYMENT_PLAN_TASKS, &[])?;
    context.client.post_where(&path, &[("target", target)], body).await
}

/// The number of the wave of a target, or `-` if it would be left out.
pub(crate) fn wave(target: &PlannedTarget) -> String {
    if target.wave == 0 { "-".to_owned() } else { target.wave.to_string() }
}

async fn plan(context: &Context, body: &CreateDeployment, with_tasks: bool) -> Result<bool, Error> {
    let path = context.path(paths::DEPLOYMENT_PLANS, &[])?;
    let plan: DeploymentPlan = context.client.post(&path, body, None).await?;
    let tasks = if with_tasks { Some(tasks(context, body).await?) } else { None };
    let planned = PlannedWithTasks { plan, tasks };
    print::result(context.output, &planned, |PlannedWithTasks { plan, tasks }| {
        let rows = plan.targets.iter().enumerate().map(|(at, target)| {
            vec![
                (at + 1).to_string(),
                match &target.domain {
                    None => wave(target),
                    Some(domain) => format!("{} ({domain})", wave(target)),
                },
                match target.part.as_deref() {
                    Some("switch") => format!("{} (leads)", target.target.name),
                    _ => in_colour(&target.target.name, target.colour.as_deref()),
                },
                format!("{} ({})", target.agent.name, target.connectivity),
                target
                    .current
                    .as_ref()
                    .map_or_else(|| "-".into(), |current| in_place(current, &plan.release)),
                plan.release.version.clone(),
                target.way_back.as_ref().map_or_else(|| "-".into(), |it| it.state.clone()),
                target.warnings.join("; "),
            ]
        });
        let wave = pace::label(&plan.strategy).map_or_else(|| "WAVE".to_owned(), |it| format!("WAVE ({it})"));
        let head = ["#", &wave, "TARGET", "AGENT", "NOW", "THEN", "WAY BACK", "WARNING"];
        let table = print::table(&head, rows.collect());
        let at_once = pace::described(&plan.strategy, Some(plan.targets.len()));
        let on_failure = match plan.on_failure {
            DtoOnFailure::Rollback => "is rolled back",
            DtoOnFailure::Stop => "stops where it is",
            DtoOnFailure::Ask => "waits for a decision",
        };
        let tolerated = plan.tolerate_failures.as_ref();
        let tolerated = tolerated.map(|it| format!(" of more than {it} of them")).unwrap_or_default();
        let approvals = match plan.approvals_needed {
            0 => String::new(),
            1 => "\nstarts when 1 account has approved it".to_owned(),
            many => format!("\nstarts when {many} accounts have approved it"),
        };
        let gates = plan.gates.iter().map(|it| format!("\n{}", gate::planned(it)));
        let proven = plan.proven_in.iter().map(|it| {
            format!("\nhas succeeded in {} {}", it.environment.name, when::moment_and_age(&it.since))
        });
        let verified = plan.verification.iter();
        let verified = verified.map(|rule| format!("\nhas succeeded when {}", hold::verified(rule)));
        let gates: String = proven.chain(gates).chain(verified).collect();
        let warnings: String = plan.warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
        let groups = plan.groups.as_ref().map(groups).unwrap_or_default();
        let tasks = tasks.as_ref().map(|it| format!("\n\n{}", describe::tasks(it))).unwrap_or_default();
        format!(
            "{}:{} to {}: {}, {at_once}, in {} at most; on failure{tolerated} it {on_failure}{groups}\neach target: {}{approvals}{gates}\nplan {}{warnings}\n\n\
             {table}{tasks}\n\nNothing was changed; leave out --plan to deploy.",
            plan.release.application,
            plan.release.version,
            plan.environment.name,
            print::count(plan.targets.len() as u64, "target"),
            when::length(plan.timeout_seconds),
            pace::steps(&plan.steps, &plan.phases),
            plan.plan.root,
        )
    })?;
    Ok(true)
}

/// Which group has the traffic, and which gets the release.
fn groups(groups: &PlannedGroups) -> String {
    let (leads, targets) = (
        if groups.switches == 1 { "leads" } else { "lead" },
        if groups.members == 1 { "target" } else { "targets" },
    );
    let live =
        groups.live.as_ref().map_or_else(|| "no group is live".to_owned(), |live| format!("{live} is live"));
    format!(
        "\ngroups: {live}, {} gets the release ({} {targets}); then {} {leads} the traffic there",
        groups.gets, groups.members, groups.switches
    )
}

/// A target's name, with the colour that it gets.
fn in_colour(name: &str, colour: Option<&str>) -> String {
    colour.map_or_else(|| name.to_owned(), |colour| format!("{name} ({colour})"))
}

/// Says that a release is deprecated, on standard error: the result is for programs. The deployment is there already, so
/// nothing here can fail it.
async fn warn_of(context: &Context, release: &str) {
    let Ok(path) = context.path(paths::RELEASE, &[release]) else { return };
    let Ok(release) = context.client.get::<Release>(&path).await else { return };
    if release.standing == Standing::Deprecated {
        let (application, version) = (&release.application, &release.version);
        let why = hold::because(release.judged.as_ref());
        print::warning(&format!("release {application}:{version} is deprecated{why}"));
    }
}

pub(crate) async fn rollback(context: &Context, command: Rollback) -> Result<bool, Error> {
    let id = command.deployment.clone();
    match roll_back(context, command).await {
        Err(error) => Err(no_deployment(context, &id, error).await),
        outcome => outcome,
    }
}

async fn roll_back(context: &Context, command: Rollback) -> Result<bool, Error> {
    let body = RollbackDeployment { targets: (!command.targets.is_empty()).then_some(command.targets) };
    if command.plan {
        return rollback_plan(context, &command.deployment, &body).await;
    }
    let key = uuid::Uuid::new_v4().to_string();
    let path = context.path(paths::DEPLOYMENT_ROLLBACK, &[&command.deployment])?;
    let created: DeploymentDetail = context.client.post(&path, &body, Some(&key)).await?;
    started(context, &created, command.wait).await
}

async fn rollback_plan(
    context: &Context,
    deployment: &str,
    body: &RollbackDeployment,
) -> Result<bool, Error> {
    let path = context.path(paths::DEPLOYMENT_ROLLBACK_PLANS, &[deployment])?;
    let plan: RollbackPlan = context.client.post(&path, body, None).await?;
    print::result(context.output, &plan, describe::rollback_plan)?;
    Ok(true)
}

/// What was asked for: followed, or told how to go on.
async fn follow_up(context: &Context, became: &Asked, wait: Wait) -> Result<bool, Error> {
    match became {
        Asked::Started(created) => started(context, created, wait).await,
        Asked::Waits(waiting) if wait.wait => {
            if !promotion::starts(context, waiting).await? {
                return Ok(false);
            }
            followed(context, &waiting.id).await
        }
        Asked::Waits(waiting) => {
            asked(context, waiting.as_ref(), "waits", promotion::waits)?;
            Ok(true)
        }
    }
}

/// What was started: followed, or told how to follow it.
async fn started(context: &Context, created: &DeploymentDetail, wait: Wait) -> Result<bool, Error> {
    let id = &created.deployment.id;
    if wait.wait {
        return followed(context, id).await;
    }
    asked(context, created, "started", |created| {
        let kind = watch::kind(&created.deployment);
        let left = describe::left(&created.left_out, describe::NAMED_MAX);
        let left: String = left.into_iter().map(|line| format!("\n{line}")).collect();
        format!("{kind} {id} started; follow it with: stella deployment watch {id}{left}")
    })?;
    Ok(true)
}

/// What was asked for; for programs with what became of it, as the two have different fields.
fn asked<T: Serialize>(
    context: &Context,
    value: &T,
    outcome: &str,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    let mut json = serde_json::to_value(value).map_err(|error| Error::Usage(error.to_string()))?;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("outcome".to_owned(), outcome.into());
    }
    print::result(context.output, &json, |_| text(value))
}

/// Follows a deployment to its end, and tells why it failed if it did; whether it succeeded.
async fn followed(context: &Context, id: &str) -> Result<bool, Error> {
    let tenant = context.settings.tenant()?;
    let watching = async {
        let succeeded = watch::follow(&context.client, tenant, id, context.output).await?;
        if !succeeded && context.output == Output::Text {
            failure::explain(context, id).await?;
        }
        Ok(succeeded)
    };
    follow::unless_interrupted(watching, || {
        format!(
            "watch it again with: stella deployment watch {id}; end the deployment with: stella deployment cancel {id} --reason REASON"
        )
    })
    .await
}

/// Follows what was asked for: what it waits for, as long as it does, and then its deployment; whether that succeeded.
pub(crate) async fn watched(context: &Context, id: &str) -> Result<bool, Error> {
    let path = context.path(paths::PROMOTION, &[id])?;
    let look = async || context.client.get::<Promotion>(&path).await;
    let found = follow::until(follow::INTERVAL, look, |look| {
        Ok(match look {
            Look::Found(found) => Some(found),
            Look::Lost(why) => {
                print::warning(&format!("{why}; trying again"));
                None
            }
        })
    });
    match found.await {
        Ok(found) if found.status != "started" && !promotion::starts(context, &found).await? => Ok(false),
        Ok(_) => followed(context, id).await,
        // A rollback follows from no promotion.
        Err(Error::Refused(problem)) if problem.status == NOT_FOUND => followed(context, id).await,
        Err(error) => Err(error),
    }
}

/// A deployment that is not there may be a promotion that has not started: then that is said.
async fn no_deployment(context: &Context, id: &str, error: Error) -> Error {
    let Error::Refused(mut problem) = error else { return error };
    if problem.status == NOT_FOUND
        && let Ok(path) = context.path(paths::PROMOTION, &[id])
        && let Ok(found) = context.client.get::<Promotion>(&path).await
        // Otherwise the deployment is there, and something of it is not.
        && found.status != "started"
    {
        let what = match found.waits_for.as_slice() {
            _ if found.ended_at.is_some() => format!("a promotion that is {}", found.status),
            [] => "a promotion that has not started yet".to_owned(),
            waits_for => format!("a promotion that waits for {}", waits_for.join(", ")),
        };
        let end = match found.ended_at {
            None => format!(", and end it with: stella promotion withdraw {id} --reason REASON"),
            Some(_) => String::new(),
        };
        problem.detail = format!("{id} is no deployment, but {what}; see: stella promotion show {id}{end}");
    }
    Error::Refused(problem)
}

pub(crate) async fn deployment(context: &Context, command: Deployment) -> Result<bool, Error> {
    let id = command.deployment().map(str::to_owned);
    match (change(context, command).await, id) {
        (Err(error), Some(id)) => Err(no_deployment(context, &id, error).await),
        (outcome, _) => outcome,
    }
}

async fn change(context: &Context, command: Deployment) -> Result<bool, Error> {
    match command {
        Deployment::List { environment, application, status, window } => {
            let filters = [("environment", environment), ("application", application), ("status", status)];
            list(context, filters, &window).await?;
            Ok(true)
        }
        Deployment::Logs { deployment, targets, steps } => {
            task::logs_of(context, &deployment, &targets, &steps).await?;
            Ok(true)
        }
        Deployment::Show { deployment } => {
            show(context, &deployment).await?;
            Ok(true)
        }
        Deployment::Watch { deployment } => watched(context, &deployment).await,
        Deployment::Retry { deployment, targets, wait } => {
            let path = context.path(paths::DEPLOYMENT_RETRY, &[&deployment])?;
            let body = RetryDeployment { targets: (!targets.is_empty()).then_some(targets) };
            let key = uuid::Uuid::new_v4().to_string();
            let asked: Asked = context.client.post(&path, &body, Some(&key)).await?;
            follow_up(context, &asked, wait).await
        }
        Deployment::Retire { deployment, wait } => {
            let path = context.path(paths::DEPLOYMENT_RETIRE, &[&deployment])?;
            let key = uuid::Uuid::new_v4().to_string();
            let created: DeploymentDetail =
                context.client.post(&path, &serde_json::json!({}), Some(&key)).await?;
            started(context, &created, wait).await
        }
        Deployment::Pause { deployment, reason } => {
            hold::pause(context, &deployment, reason).await?;
            Ok(true)
        }
        Deployment::RetryTarget { deployment, target } => {
            guide::retry(context, &deployment, &target).await?;
            Ok(true)
        }
        Deployment::Skip { deployment, target, reason } => {
            guide::skip(context, &deployment, &target, reason).await?;
            Ok(true)
        }
        Deployment::Prove { deployment } => {
            guide::prove(context, &deployment).await?;
            Ok(true)
        }
        Deployment::Waive { deployment, reason } => {
            guide::waive(context, &deployment, reason).await?;
            Ok(true)
        }
        Deployment::Fail { deployment, rollback, reason } => {
            guide::fail(context, &deployment, rollback, reason).await?;
            Ok(true)
        }
        Deployment::Resume { deployment } => {
            hold::resume(context, &deployment).await?;
            Ok(true)
        }
        Deployment::Cancel { deployment, reason } => {
            let path = context.path(paths::DEPLOYMENT_CANCEL, &[&deployment])?;
            let cancelled: DeploymentDetail =
                context.client.post(&path, &CancelDeployment { reason }, None).await?;
            print::result(context.output, &cancelled, |it| {
                format!("deployment {} is {}", it.deployment.id, it.deployment.status)
            })?;
            Ok(true)
        }
    }
}

async fn list(context: &Context, filters: [(&str, Option<String>); 3], window: &Window) -> Result<(), Error> {
    let query: Vec<(&str, &str)> =
        filters.iter().filter_map(|(key, value)| value.as_deref().map(|value| (*key, value))).collect();
    let path = context.path(paths::DEPLOYMENTS, &[])?;
    let deployments =
        window::list(context, &path, &query, window, |it: &Dto| (&it.id, &it.created_at)).await?;
    let head = ["ID", "RELEASE", "ENVIRONMENT", "STATUS", "TARGETS", "CREATED", "BY"];
    print::list(context.output, &deployments, &head, |deployment| {
        let kind = match watch::kind(deployment) {
            "deployment" => String::new(),
            kind => format!(" ({kind})"),
        };
        let paused = deployment.paused_for.as_ref().map(|it| format!(" (paused: {it})")).unwrap_or_default();
        vec![
            deployment.id.clone(),
            format!("{}:{}", deployment.release.application, deployment.release.version),
            deployment.environment.name.clone(),
            format!("{}{kind}{paused}", deployment.status),
            format!("{}/{}", deployment.counts.succeeded, deployment.counts.total),
            when::ago(&deployment.created_at),
            started_by(deployment),
        ]
    })
}

async fn show(context: &Context, id: &str) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT, &[id])?;
    let detail: DeploymentDetail = context.client.get(&path).await?;
    // A rollback follows from no promotion, and what cannot be read is left out.
    let promotion: Option<Promotion> = match context.output {
        Output::Json => None,
        Output::Text => context.client.get(&context.path(paths::PROMOTION, &[id])?).await.ok(),
    };
    print::result(context.output, &detail, |it| describe::deployment(it, promotion.as_ref()))
}

/// Who has started a deployment; for a rollback that started by itself not the agent that it followed from.
pub(crate) fn started_by(deployment: &Dto) -> String {
    let by_itself = deployment.rollback_of.as_ref().is_some_and(|of| of.reason != "manual");
    match &deployment.created_by {
        Some(by) if !by_itself || by.account.is_some() => task::by(by),
        _ if by_itself => "itself".to_owned(),
        _ => "-".to_owned(),
    }
}
