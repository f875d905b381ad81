//! What a run would do on targets, for a person.

use stella_api_types::deployment::DeploymentPlan;
use stella_api_types::workflow::{PlannedStep, RunPlan};

use crate::{gate, hold, pace, print, promotion, rollout, when};

pub(super) fn text(plan: &RunPlan) -> String {
    let head = format!("{} version {}, as things are now:", plan.workflow, plan.version);
    let steps = plan.steps.iter().map(step);
    let end = "Nothing was changed; leave out --plan to run it.".to_owned();
    std::iter::once(head).chain(steps).chain([end]).collect::<Vec<_>>().join("\n\n")
}

fn step(step: &PlannedStep) -> String {
    let needs = if step.needs.is_empty() { String::new() } else { format!(" ← {}", step.needs.join(", ")) };
    let makes_up = step.compensates.as_ref().map(|other| format!(" ↩ {other}")).unwrap_or_default();
    let mut lines = vec![format!("○ {} ({}){needs}{makes_up}", step.id, step.kind)];
    if let Some(problem) = &step.problem {
        let when = match step.kind.as_str() {
            "http" | "notify" => "would fail",
            _ if step.needs.is_empty() && step.compensates.is_none() => "would be refused",
            _ => "not now",
        };
        lines.push(format!("{when}: {problem}"));
    }
    if let Some(plan) = &step.plan {
        lines.push(on_targets(plan, step.kind == "task"));
        lines.extend(promotion::runs(&step.runs));
        lines.push(table(plan));
    }
    lines.join("\n")
}

fn on_targets(plan: &DeploymentPlan, is_job: bool) -> String {
    let release = format!("{}:{}", plan.release.application, plan.release.version);
    let what = if is_job { format!("job {release} in") } else { format!("{release} to") };
    let approvals = match plan.approvals_needed {
        0 => String::new(),
        1 => "; starts when 1 account has approved it".to_owned(),
        many => format!("; starts when {many} accounts have approved it"),
    };
    let gates = plan.gates.iter().map(|it| format!("\n{}", gate::planned(it)));
    let verified = plan.verification.iter();
    let verified = verified.map(|rule| format!("\nhas succeeded when {}", hold::verified(rule)));
    format!(
        "{what} {}: {}, {}, in {} at most{approvals}{}",
        plan.environment.name,
        print::count(plan.targets.len() as u64, "target"),
        pace::described(&plan.strategy, Some(plan.targets.len())),
        when::length(plan.timeout_seconds),
        gates.chain(verified).collect::<String>(),
    )
}

fn table(plan: &DeploymentPlan) -> String {
    let rows = plan.targets.iter().map(|target| {
        vec![
            target.target.name.clone(),
            rollout::wave(target),
            format!("{} ({})", target.agent.name, target.connectivity),
            target.warnings.join("; "),
        ]
    });
    print::table(&["TARGET", "WAVE", "AGENT", "WARNING"], rows.collect())
}
