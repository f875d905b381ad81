//! What people decide about the targets of a running deployment.

use stella_api_types::deployment::{Deployment, DeploymentDetail, FailDeployment};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;

use crate::client::Error;
use crate::{Context, print, when};

pub(crate) async fn retry(context: &Context, deployment: &str, target: &str) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_TARGET_RETRY, &[deployment, target])?;
    let guided: DeploymentDetail = context.client.post(&path, &serde_json::json!({}), None).await?;
    print::result(context.output, &guided, |it| {
        let id = &it.deployment.id;
        format!("target {target} is tried again; follow it with: stella deployment watch {id}")
    })
}

pub(crate) async fn skip(
    context: &Context,
    deployment: &str,
    target: &str,
    reason: String,
) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_TARGET_SKIP, &[deployment, target])?;
    let guided: DeploymentDetail = context.client.post(&path, &HoldBack { reason }, None).await?;
    print::result(context.output, &guided, |it| {
        let goes_on = if it.deployment.paused.is_some() { "is still paused" } else { "goes on" };
        format!("target {target} is left alone; deployment {} {goes_on}", it.deployment.id)
    })
}

pub(crate) async fn prove(context: &Context, deployment: &str) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_PROVE, &[deployment])?;
    let asked: DeploymentDetail = context.client.post(&path, &serde_json::json!({}), None).await?;
    print::result(context.output, &asked, |it| {
        let open = it.deployment.way_back.as_ref().map_or(0, |way_back| way_back.open);
        let id = &it.deployment.id;
        format!("{open} targets are asked whether they could go back; see: stella deployment show {id}")
    })
}

pub(crate) async fn waive(context: &Context, deployment: &str, reason: String) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_WAIVE, &[deployment])?;
    let waived: DeploymentDetail = context.client.post(&path, &HoldBack { reason }, None).await?;
    print::result(context.output, &waived, |it| {
        let goes_on = if it.deployment.paused.is_some() { "is still paused" } else { "goes on" };
        format!("the proof of the way back is waived; deployment {} {goes_on}", it.deployment.id)
    })
}

pub(crate) async fn fail(
    context: &Context,
    deployment: &str,
    roll_back: bool,
    reason: String,
) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_FAIL, &[deployment])?;
    let body = FailDeployment { roll_back, reason };
    let failed: DeploymentDetail = context.client.post(&path, &body, None).await?;
    print::result(context.output, &failed, |it| {
        let rollbacks = it.rollbacks.iter().map(|id| format!("; taken back by {id}")).collect::<String>();
        format!("deployment {} is {}{rollbacks}", it.deployment.id, it.deployment.status)
    })
}

/// When a pause ends of which so many seconds are left once agents are heard again.
pub(crate) fn when_heard(left_seconds: u64) -> String {
    format!("{} after its agents are heard again", when::length(left_seconds))
}

/// How a paused deployment goes on, for a person who watches it.
pub(crate) fn way_on(deployment: &Deployment) -> String {
    let id = &deployment.id;
    let resumes_at = deployment.resumes_at.as_deref().map(when::moment);
    match deployment.paused_for.as_deref() {
        Some("failure") => format!(
            "decide with: stella deployment retry-target {id} TARGET; skip {id} TARGET --reason REASON; or fail {id} [--rollback] --reason REASON"
        ),
        Some("way_back") => format!(
            "put it right and ask again: stella deployment prove {id}; leave it out: skip {id} TARGET --reason REASON; or: waive {id} --reason REASON"
        ),
        Some("budget") if !deployment.budget_used_up_by.is_empty() => {
            let by = deployment.budget_used_up_by.join(", ");
            format!(
                "does not go on by itself: for the failed targets of {by}: stella deployment retry-target ID TARGET, or skip ID TARGET --reason REASON; or raise the budget: stella env budget {} --at-most AMOUNT",
                deployment.environment.name
            )
        }
        Some("budget" | "silence" | "freeze") => {
            let at = resumes_at.map(|at| format!(" at {at}")).unwrap_or_default();
            format!("goes on by itself{at}")
        }
        _ => {
            let stands =
                deployment.resumes_in_seconds.map(|left| format!("goes on {}, or ", when_heard(left)));
            let by_itself =
                resumes_at.map(|at| format!("goes on at {at}, or ")).or(stands).unwrap_or_default();
            format!("{by_itself}go on with: stella deployment resume {id}")
        }
    }
}
