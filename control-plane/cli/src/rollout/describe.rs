//! A deployment for people.

use stella_api_types::deployment::{
    Deployment, DeploymentDetail, DeploymentTarget, LeftTarget, OnFailure, PlannedTask, RollbackOf,
    RollbackPlan, TargetTasks, TargetWayBack,
};
use stella_api_types::promotion::Promotion;

use super::{in_colour, in_place, started_by};
use crate::{guide, hold, pace, print, watch, when};

/// How many targets of a kind a line names that is not a plan; JSON has them all.
pub(crate) const NAMED_MAX: usize = 20;

/// What it is and how, its times, who let it through, and each target's part.
pub(super) fn deployment(detail: &DeploymentDetail, promotion: Option<&Promotion>) -> String {
    let deployment = &detail.deployment;
    let mut text = vec![headline(deployment), how(deployment), times(deployment)];
    text.extend(promotion.into_iter().flat_map(permitted));
    if let Some(RollbackOf { id, reason }) = &deployment.rollback_of {
        let why = match reason.as_str() {
            "manual" => "",
            "gate" => ", which a gate halted",
            "verification" => ", which did not pass its verification",
            "time_out" => ", which took too long",
            "blocked" => ", whose release was blocked",
            _ => ", which failed",
        };
        text.push(format!("takes back {id}{why}"));
    }
    if let Some(rule) = deployment.verification.as_ref().filter(|_| !deployment.is_final) {
        text.push(format!("has succeeded when {}", hold::verified(rule)));
    }
    if let Some(waived) = deployment.way_back.as_ref().and_then(|it| it.waived.as_ref()) {
        text.push(format!("the proof of the way back was waived{}", hold::because(Some(waived))));
    }
    text.extend(left(&detail.left_out, NAMED_MAX));
    text.extend(detail.rollbacks.iter().map(|id| format!("taken back by {id}")));
    text.extend(
        deployment
            .keeps_until
            .iter()
            .map(|until| format!("the old colour is kept until {}", when::moment(until))),
    );
    text.push(String::new());
    let head = ["TARGET", "PROGRESS", "SINCE", "STEP", "RELEASE", "BEFORE", "WAY BACK", "REASON"];
    text.push(print::table(&head, detail.targets.iter().map(row).collect()));
    let failed = detail.targets.iter().filter(|it| it.progress == "failed");
    let logs: Vec<String> = failed
        .filter_map(|it| Some(format!("{}: stella task logs {}", it.target.name, it.task.as_ref()?)))
        .collect();
    if !logs.is_empty() {
        text.push(format!("\nwhat the failed tasks printed:\n  {}", logs.join("\n  ")));
    }
    text.join("\n")
}

/// What taking a deployment back would do.
pub(super) fn rollback_plan(plan: &RollbackPlan) -> String {
    let rows = plan.targets.iter().map(|target| {
        vec![
            in_colour(&target.target.name, target.colour.as_deref()),
            format!("{} ({})", target.agent.name, target.connectivity),
            target.current.as_ref().map_or_else(|| "-".into(), |current| in_place(current, &target.release)),
            target.release.version.clone(),
            target.warnings.join("; "),
        ]
    });
    let table = print::table(&["TARGET", "AGENT", "NOW", "THEN", "WARNING"], rows.collect());
    let left: String = left(&plan.left_out, usize::MAX).iter().map(|line| format!("\n{line}")).collect();
    let targets = plan.targets.len();
    format!(
        "takes back {} in {}: {}, {}, in {} at most{left}\n\n{table}\n\nNothing was changed; leave out --plan to roll back.",
        plan.rollback_of,
        plan.environment.name,
        print::count(targets as u64, "target"),
        pace::described(&plan.strategy, Some(targets)),
        when::length(plan.timeout_seconds),
    )
}

/// What a rollback leaves as it is, a line for each reason, with so many names at most.
pub(crate) fn left(left: &[LeftTarget], named_max: usize) -> Vec<String> {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for it in left {
        let name = it.target.name.as_str();
        match by_reason.iter_mut().find(|(reason, _)| *reason == it.reason) {
            Some((_, names)) => names.push(name),
            None => by_reason.push((&it.reason, vec![name])),
        }
    }
    let line = |(reason, names): (&str, Vec<&str>)| {
        let more = names.len().saturating_sub(named_max);
        let named = names[..names.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        print::one_line(&format!("left as it is: {named}{more}: {reason}"))
    };
    by_reason.into_iter().map(line).collect()
}

/// What would be run on one target, and what would take that back: each task as it is, with its digest.
pub(crate) fn tasks(work: &TargetTasks) -> String {
    let task = |it: &PlannedTask| {
        let step = in_colour(&it.step, it.colour.as_deref());
        format!("\n  {}  {}\n    {}", print::one_line(&step), it.digest, print::one_line(&it.task))
    };
    let there: String = work.tasks.iter().map(task).collect();
    let back = match &work.rollback {
        None => "there is nothing to go back to".to_owned(),
        Some(back) if back.tasks.is_empty() => {
            format!(
                "it cannot go back to {}: a step of that cannot be filled in any more",
                back.release.version
            )
        }
        Some(back) => {
            let tasks: String = back.tasks.iter().map(task).collect();
            format!("to go back to {}:{tasks}", back.release.version)
        }
    };
    format!("run on {}:{there}\n{back}", work.target.name)
}

fn headline(deployment: &Deployment) -> String {
    let reason = print::because(deployment.reason.as_deref());
    let resumes = deployment.resumes_at.as_deref().map(when::moment);
    let stands = deployment.resumes_in_seconds.map(|left| format!(", goes on {}", guide::when_heard(left)));
    let resumes = resumes.map(|at| format!(", goes on at {at}")).or(stands).unwrap_or_default();
    let paused = deployment.paused.as_ref();
    let paused = paused.map(|it| format!(", paused{}{resumes}", hold::because(Some(it)))).unwrap_or_default();
    let stage = deployment.stage.as_ref().filter(|_| !deployment.is_final);
    let stage = stage.map(|stage| format!(" ({stage})")).unwrap_or_default();
    let by = match started_by(deployment).as_str() {
        "-" => String::new(),
        by => format!(", by {by}"),
    };
    format!(
        "{} {}:{} to {}{by}: {}{stage}{}{reason}{paused}",
        deployment.id,
        deployment.release.application,
        deployment.release.version,
        deployment.environment.name,
        deployment.status,
        watch::exceptions(deployment)
    )
}

fn how(deployment: &Deployment) -> String {
    let targets = usize::try_from(deployment.counts.total).ok();
    let on_failure = match deployment.on_failure {
        OnFailure::Rollback => "is rolled back",
        OnFailure::Stop => "stops where it is",
        OnFailure::Ask => "waits for a decision",
    };
    let tolerated = deployment.tolerate_failures.as_ref();
    let tolerated = tolerated.map(|it| format!(" of more than {it}")).unwrap_or_default();
    let pace = pace::described(&deployment.strategy, targets);
    format!("{pace}; on failure{tolerated} it {on_failure}")
}

fn times(deployment: &Deployment) -> String {
    let created = when::moment_and_age(&deployment.created_at);
    match &deployment.finished_at {
        Some(at) => {
            let took = when::took(&deployment.created_at, at).unwrap_or_default();
            format!("started {created}, ended {} after {took}", when::moment(at))
        }
        None => format!("started {created}, must have ended at {}", when::moment(&deployment.deadline)),
    }
}

/// Who let it through, and why it came although something spoke against it.
fn permitted(promotion: &Promotion) -> Vec<String> {
    let approvals = promotion.approvals.iter().map(|it| {
        let reason = print::because(Some(it.reason.as_str()).filter(|reason| !reason.is_empty()));
        format!("approved by {} at {}{reason}", it.by.name, when::moment(&it.at))
    });
    let gates = promotion.gates.iter().filter_map(|it| {
        if let Some(hold) = &it.overridden {
            return Some(format!("gate {} was overridden{}", it.gate, hold::because(Some(hold))));
        }
        // What a program has found is shown with the promotion; what a person has said is a permission.
        let (by, at) = (it.by.as_ref()?.account.as_ref()?, it.evaluated_at.as_ref()?);
        let said = print::because(it.reason.as_deref());
        (it.status == "passed").then(|| {
            format!("gate {} was passed by {} at {}{said}", it.gate, print::one_line(by), when::moment(at))
        })
    });
    let freeze = promotion
        .override_freeze
        .iter()
        .map(|why| format!("came in spite of a freeze: {}", print::one_line(why)));
    let path = promotion
        .override_path
        .iter()
        .map(|why| format!("came by no path that leads there: {}", print::one_line(why)));
    let way_back = promotion
        .waive_way_back
        .iter()
        .map(|why| format!("came although it might not be able to go back: {}", print::one_line(why)));
    let replaces = promotion
        .replace_application
        .then(|| "replaces the application that was there, which nobody looks after then".to_owned());
    approvals.chain(gates).chain(freeze).chain(path).chain(way_back).chain(replaces).collect()
}

fn row(target: &DeploymentTarget) -> Vec<String> {
    let step =
        target.step.as_ref().map_or_else(|| "-".into(), |it| format!("{} {}/{}", it.name, it.number, it.of));
    vec![
        in_colour(&target.target.name, target.colour.as_deref()),
        target.progress.clone(),
        target.at.as_deref().map_or_else(|| "-".into(), when::ago),
        step,
        target.release.version.clone(),
        target.previous.as_ref().map_or_else(|| "-".into(), |previous| previous.version.clone()),
        target.way_back.as_ref().map_or_else(|| "-".into(), |it| it.state.clone()),
        target.reason.clone().or_else(|| doubt(target.way_back.as_ref())).unwrap_or_default(),
    ]
}

/// Why a target could not go back, or why nobody can say.
fn doubt(way_back: Option<&TargetWayBack>) -> Option<String> {
    way_back?.reason.as_ref().map(|reason| format!("way back: {reason}"))
}
