//! Deployments and rollbacks.

use std::collections::BTreeMap;

use stella_api_types::deployment::{
    CancelDeployment, CreateDeployment, Deployment as Dto, DeploymentDetail, DeploymentPlan,
    OnFailure as DtoOnFailure, RetryDeployment, TargetWayBack,
};
use stella_api_types::paths;
use stella_api_types::promotion::Asked;
use stella_api_types::release::{Release, ReleaseRef, Standing};

use crate::args::{Deploy, Deployment, OnFailure, Output, Rollback, Wait};
use crate::client::Error;
use crate::{Context, guide, hold, pace, print, promotion, task, watch};

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
        labels: each_once(command.labels)?,
        timeout_seconds: command.timeout,
        override_freeze: command.override_freeze,
        waive_way_back: command.waive_way_back,
        replace_application: command.replace_application,
    };
    if command.plan {
        return plan(context, &body).await;
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
    follow_up(context, &asked, command.wait).await
}

/// Labels by name. A target has one value of each, so that two cannot be wanted.
fn each_once(labels: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Error> {
    let mut wanted = BTreeMap::new();
    for (label, value) in labels {
        if wanted.insert(label.clone(), value).is_some() {
            let problem = format!(
                "--label {label}=… is given twice, and a target has one value of it; deploy once for each"
            );
            return Err(Error::Usage(problem));
        }
    }
    Ok(wanted)
}

/// What is on a target, by its version, and with its name if it is another application than the one to come.
fn in_place(current: &ReleaseRef, coming: &ReleaseRef) -> String {
    if current.application == coming.application {
        current.version.clone()
    } else {
        format!("{}:{}", current.application, current.version)
    }
}

async fn plan(context: &Context, body: &CreateDeployment) -> Result<bool, Error> {
    let path = context.path(paths::DEPLOYMENT_PLANS, &[])?;
    let plan: DeploymentPlan = context.client.post(&path, body, None).await?;
    print::result(context.output, &plan, |plan| {
        let rows = plan.targets.iter().enumerate().map(|(at, target)| {
            vec![
                (at + 1).to_string(),
                target
                    .domain
                    .as_ref()
                    .map_or_else(|| target.wave.to_string(), |it| format!("{} ({it})", target.wave)),
                in_colour(&target.target.name, target.colour.as_deref()),
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
        let head = ["#", "WAVE", "TARGET", "AGENT", "NOW", "THEN", "WAY BACK", "WARNING"];
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
        let gates = plan.gates.iter().map(|it| match &it.reason {
            Some(reason) => format!("\ngate {} {}: {reason}", it.gate, it.status),
            None => format!("\ngate {} ({}) would be asked", it.gate, it.kind),
        });
        let gates: String = gates.collect();
        let warnings: String = plan.warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
        format!(
            "{}:{} to {}: {} targets, {at_once}, in {} s at most; on failure{tolerated} it {on_failure}\neach target: {}{approvals}{gates}\nplan {}{warnings}\n\n\
             {table}\n\nNothing was changed; leave out --plan to deploy.",
            plan.release.application,
            plan.release.version,
            plan.environment.name,
            plan.targets.len(),
            plan.timeout_seconds,
            pace::steps(&plan.steps, &plan.phases),
            plan.plan.root,
        )
    })?;
    Ok(true)
}

/// Why a target could not go back, or why nobody can say.
fn doubt(way_back: Option<&TargetWayBack>) -> Option<String> {
    way_back?.reason.as_ref().map(|reason| format!("way back: {reason}"))
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
    let key = uuid::Uuid::new_v4().to_string();
    let path = context.path(paths::DEPLOYMENT_ROLLBACK, &[&command.deployment])?;
    let created: DeploymentDetail = context.client.post(&path, &serde_json::json!({}), Some(&key)).await?;
    started(context, &created, command.wait).await
}

/// What was asked for: followed, or told how to go on.
async fn follow_up(context: &Context, asked: &Asked, wait: Wait) -> Result<bool, Error> {
    match asked {
        Asked::Started(created) => started(context, created, wait).await,
        Asked::Waits(waiting) if wait.wait => {
            if !promotion::starts(context, waiting).await? {
                return Ok(false);
            }
            watch::follow(&context.client, context.settings.tenant()?, &waiting.id, context.output).await
        }
        Asked::Waits(waiting) => {
            print::result(context.output, waiting, |it| promotion::waits(it))?;
            Ok(true)
        }
    }
}

/// What was started: followed, or told how to follow it.
async fn started(context: &Context, created: &DeploymentDetail, wait: Wait) -> Result<bool, Error> {
    let id = &created.deployment.id;
    if wait.wait {
        return watch::follow(&context.client, context.settings.tenant()?, id, context.output).await;
    }
    print::result(context.output, created, |_| {
        format!("deployment {id} started; follow it with: stella deployment watch {id}")
    })?;
    Ok(true)
}

pub(crate) async fn deployment(context: &Context, command: Deployment) -> Result<bool, Error> {
    match command {
        Deployment::List { environment, status } => {
            list(context, environment, status).await?;
            Ok(true)
        }
        Deployment::Show { deployment } => {
            let found: DeploymentDetail =
                context.client.get(&context.path(paths::DEPLOYMENT, &[&deployment])?).await?;
            show(context.output, &found)?;
            Ok(true)
        }
        Deployment::Watch { deployment } => {
            watch::follow(&context.client, context.settings.tenant()?, &deployment, context.output).await
        }
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

async fn list(context: &Context, environment: Option<String>, status: Option<String>) -> Result<(), Error> {
    let filters = [("environment", environment), ("status", status)];
    let query: Vec<(&str, &str)> =
        filters.iter().filter_map(|(key, value)| value.as_deref().map(|value| (*key, value))).collect();
    let deployments: Vec<Dto> = context.client.list(&context.path(paths::DEPLOYMENTS, &[])?, &query).await?;
    let head = ["ID", "RELEASE", "ENVIRONMENT", "STATUS", "TARGETS", "CREATED", "BY"];
    print::list(context.output, &deployments, &head, |deployment| {
        let kind = match watch::kind(deployment) {
            "deployment" => String::new(),
            kind => format!(" ({kind})"),
        };
        vec![
            deployment.id.clone(),
            format!("{}:{}", deployment.release.application, deployment.release.version),
            deployment.environment.name.clone(),
            format!(
                "{}{kind}{}",
                deployment.status,
                if deployment.paused.is_some() { " (paused)" } else { "" }
            ),
            format!("{}/{}", deployment.counts.succeeded, deployment.counts.total),
            deployment.created_at.clone(),
            deployment.created_by.as_ref().map(task::by).unwrap_or_default(),
        ]
    })
}

fn show(output: Output, detail: &DeploymentDetail) -> Result<(), Error> {
    print::result(output, detail, |detail| {
        let deployment = &detail.deployment;
        let rows = detail.targets.iter().map(|target| {
            let step = target
                .step
                .as_ref()
                .map_or_else(|| "-".into(), |it| format!("{} {}/{}", it.name, it.number, it.of));
            vec![
                in_colour(&target.target.name, target.colour.as_deref()),
                target.progress.clone(),
                step,
                target.release.version.clone(),
                target.previous.as_ref().map_or_else(|| "-".into(), |previous| previous.version.clone()),
                target.way_back.as_ref().map_or_else(|| "-".into(), |it| it.state.clone()),
                target.reason.clone().or_else(|| doubt(target.way_back.as_ref())).unwrap_or_default(),
            ]
        });
        let head = ["TARGET", "PROGRESS", "STEP", "RELEASE", "BEFORE", "WAY BACK", "REASON"];
        let table = print::table(&head, rows.collect());
        let reason = print::because(deployment.reason.as_deref());
        let paused = deployment.paused.as_ref();
        let resumes =
            deployment.resumes_at.as_ref().map(|at| format!(", goes on at {at}")).unwrap_or_default();
        let paused =
            paused.map(|it| format!(", paused{}{resumes}", hold::because(Some(it)))).unwrap_or_default();
        let taken_back =
            detail.rollbacks.iter().map(|id| format!("\ntaken back by {id}")).collect::<String>();
        let by = deployment.created_by.as_ref().map(|by| format!(", by {}", task::by(by)));
        let by = by.unwrap_or_default();
        let stage = deployment.stage.as_ref().filter(|_| !deployment.is_final);
        let stage = stage.map(|stage| format!(" ({stage})")).unwrap_or_default();
        let kept = deployment.keeps_until.as_ref();
        let kept = kept.map(|until| format!("\nthe old colour is kept until {until}")).unwrap_or_default();
        let waived = deployment.way_back.as_ref().and_then(|it| it.waived.as_ref());
        let waived =
            waived.map(|it| format!("\nthe proof of the way back was waived{}", hold::because(Some(it))));
        let waived = waived.unwrap_or_default();
        format!(
            "{} {}:{} to {}{by}: {}{stage}{}{reason}{paused}{waived}{taken_back}{kept}\n\n{table}",
            deployment.id,
            deployment.release.application,
            deployment.release.version,
            deployment.environment.name,
            deployment.status,
            watch::exceptions(deployment)
        )
    })
}
