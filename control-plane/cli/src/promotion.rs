//! Promotions: what waits for approvals and gates, and deciding on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stella_api_types::account::WhoAmI;
use stella_api_types::deployment::{DeploymentPlan, JobOf, OnFailure, TargetTasks};
use stella_api_types::environment::{Approvals, Environment, OnExpiry, SetApprovals, SetQuorum};
use stella_api_types::gate::GateState;
use stella_api_types::hold::HoldBack;
use stella_api_types::page::Named;
use stella_api_types::paths;
use stella_api_types::promotion::{
    ApprovalSignature, ApprovePromotion, Job, Objection as DtoObjection, Promotion as Dto, RejectPromotion,
};
use stella_api_types::release::{Step, StepAction, UnitAction};
use stella_protocol::digest::Digest;
use stella_signing::{ApprovalStatement, SigningKey};

use crate::args::{Objection, Output, Promotion, Window};
use crate::client::{Error, read};
use crate::follow::{self, Look};
use crate::{Context, gate, pace, print, promotion_proof, rollout, task, when, window};

/// The pause between two looks at a promotion that waits for people.
const INTERVAL: Duration = Duration::from_secs(2);

pub(crate) async fn promotion(context: &Context, command: Promotion) -> Result<bool, Error> {
    match command {
        Promotion::List { environment, status, window } => {
            list(context, environment, status, &window).await?
        }
        Promotion::Show { promotion, target: None } => show(context, &promotion).await?,
        Promotion::Show { promotion, target: Some(target) } => {
            let path = context.path(paths::PROMOTION_PLAN_TASKS, &[&promotion])?;
            let tasks: TargetTasks = context.client.get_where(&path, &[("target", &target)]).await?;
            print::result(context.output, &tasks, rollout::describe::tasks)?;
        }
        Promotion::Prove { promotion, target, part } => {
            promotion_proof::prove(context, &promotion, target.as_deref(), part).await?;
        }
        // Needs no control plane: `main` has answered it.
        Promotion::Verify { .. } => {}
        Promotion::Watch { promotion } => return rollout::watched(context, &promotion).await,
        Promotion::Approve { promotion, plan, reason, sign_with } => {
            approve(context, &promotion, plan, (reason, sign_with)).await?;
        }
        Promotion::Reject { promotion, objection, reason } => {
            let path = context.path(paths::PROMOTION_REJECT, &[&promotion])?;
            let body = RejectPromotion { objection: dto(objection), reason };
            let rejected: Dto = context.client.post(&path, &body, None).await?;
            print::result(context.output, &rejected, |it| format!("promotion {} is {}", it.id, it.status))?;
        }
        Promotion::Withdraw { promotion, reason } => {
            let path = context.path(paths::PROMOTION_WITHDRAW, &[&promotion])?;
            let withdrawn: Dto = context.client.post(&path, &HoldBack { reason }, None).await?;
            print::result(context.output, &withdrawn, |it| format!("promotion {} is {}", it.id, it.status))?;
        }
    }
    Ok(true)
}

async fn approve(
    context: &Context,
    promotion: &str,
    plan: Option<String>,
    (reason, sign_with): (String, Option<PathBuf>),
) -> Result<(), Error> {
    // What is signed names the whole id, and whose approval it is.
    let it = found(context, promotion).await?;
    let plan = plan.unwrap_or(it.plan.root);
    let signature = match sign_with {
        None => None,
        Some(file) => {
            let me: WhoAmI = context.client.get(paths::WHOAMI).await?;
            let nobody = "the token belongs to no account, and a signed approval is somebody's";
            let me = me.account.ok_or_else(|| Error::Usage(nobody.to_owned()))?;
            Some(signed(&file, &it.id, &plan, me.id)?)
        }
    };
    let path = context.path(paths::PROMOTION_APPROVE, &[&it.id])?;
    let body = ApprovePromotion { plan, reason, signature };
    let approved: Dto = context.client.post(&path, &body, None).await?;
    print::result(context.output, &approved, |it| match it.status.as_str() {
        "started" => format!(
            "promotion {0} has its approvals and has started; follow it with: stella deployment watch {0}",
            it.id
        ),
        _ => waits(it),
    })
}

/// The rule that the flags ask for: the first group is the one of `--needed`, or the first `--group`; none is nobody's approval.
pub(crate) fn rule_of(
    (needed, from): (Option<u32>, Vec<String>),
    mut groups: Vec<SetQuorum>,
    expires_in_seconds: Option<u64>,
    on_expiry: Option<(OnExpiry, Option<u32>)>,
) -> SetApprovals {
    let first = needed.map(|needed| SetQuorum { needed, from });
    let first = first.or_else(|| (!groups.is_empty()).then(|| groups.remove(0)));
    let SetQuorum { needed, from } = first.unwrap_or(SetQuorum { needed: 0, from: Vec::new() });
    let (on_expiry, ask_again_max) = on_expiry.unwrap_or_default();
    SetApprovals { needed, from, expires_in_seconds, also: groups, on_expiry, ask_again_max }
}

/// Sets whose approval an environment needs; 0 is nobody's.
pub(crate) async fn set_rule(context: &Context, environment: &str, rule: &SetApprovals) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_APPROVALS, &[environment])?;
    let set: Environment = context.client.post(&path, rule, None).await?;
    print::result(context.output, &set, |it| match &it.approvals {
        None => format!("environment {} takes promotions without approvals", it.name),
        Some(rule) => {
            format!("environment {} takes promotions that {} approved{}", it.name, whose(rule), late(rule))
        }
    })
}

/// How many approvals a rule needs in all.
pub(crate) fn needed(rule: &Approvals) -> u32 {
    rule.also.iter().fold(rule.needed, |sum, it| sum.saturating_add(it.needed))
}

/// Whose approvals a rule needs.
pub(crate) fn whose(rule: &Approvals) -> String {
    let also = rule.also.iter().map(|it| of_group(it.needed, &it.from));
    let all: Vec<String> = std::iter::once(of_group(rule.needed, &rule.from)).chain(also).collect();
    all.join(" and ")
}

fn of_group(needed: u32, from: &[Named]) -> String {
    let names: Vec<&str> = from.iter().map(|account| account.name.as_str()).collect();
    let from = if names.is_empty() { "the approvers there".to_owned() } else { names.join(", ") };
    format!("{needed} of {from}")
}

/// What comes of a promotion that not enough have approved in time, if it does not just expire.
pub(crate) fn late(rule: &Approvals) -> String {
    match (rule.on_expiry, rule.ask_again_max.unwrap_or(1)) {
        (OnExpiry::Expire, _) => String::new(),
        (OnExpiry::Reject, _) => "; silence is a no".to_owned(),
        (OnExpiry::AskAgain, 1) => "; they are asked again once".to_owned(),
        (OnExpiry::AskAgain, times) => format!("; they are asked again {times} times"),
    }
}

/// Reads a group of a rule: 2, 1:ada,bob.
pub(crate) fn group(text: &str) -> Result<SetQuorum, String> {
    let wrong =
        || format!("{text:?} is no group; write how many of whom: 1:ada,bob, or 2 for two of all approvers");
    let (needed, names) = text.split_once(':').unwrap_or((text, ""));
    let needed = needed.parse::<u32>().ok().filter(|needed| *needed > 0).ok_or_else(wrong)?;
    let from: Vec<String> = names.split(',').map(str::to_owned).collect();
    match from.as_slice() {
        [one] if one.is_empty() && !text.contains(':') => Ok(SetQuorum { needed, from: Vec::new() }),
        all if all.iter().any(String::is_empty) => Err(wrong()),
        _ => Ok(SetQuorum { needed, from }),
    }
}

/// Reads what comes of a promotion that not enough have approved in time.
pub(crate) fn on_expiry(text: &str) -> Result<(OnExpiry, Option<u32>), String> {
    match text.split_once(':') {
        None if text == "expire" => Ok((OnExpiry::Expire, None)),
        None if text == "reject" => Ok((OnExpiry::Reject, None)),
        None if text == "ask-again" => Ok((OnExpiry::AskAgain, None)),
        Some(("ask-again", times)) if times.parse::<u32>().is_ok() => {
            Ok((OnExpiry::AskAgain, times.parse().ok()))
        }
        _ => Err(format!("{text:?} is none of expire, reject, ask-again and ask-again:TIMES")),
    }
}

/// Signs with a key in a file that an account approves a plan of a promotion.
fn signed(file: &Path, promotion: &str, plan: &str, account: String) -> Result<ApprovalSignature, Error> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| Error::Usage(format!("{what} {error}"));
    let shown = file.display().to_string();
    let key = SigningKey::from_pem(&read(file)?).map_err(|error| wrong(&shown, &error))?;
    let plan = plan.parse::<Digest>().map_err(|error| wrong("the plan", &error))?;
    let (promotion, account) = (promotion.to_owned(), Some(account));
    let signature = key.sign(&ApprovalStatement { promotion, plan, account });
    let (public_key, signature) = (key.public().to_pem(), signature.to_string());
    Ok(ApprovalSignature { public_key, signature, fingerprint: None })
}

async fn found(context: &Context, id: &str) -> Result<Dto, Error> {
    context.client.get(&context.path(paths::PROMOTION, &[id])?).await
}

async fn list(
    context: &Context,
    environment: Option<String>,
    status: Option<String>,
    window: &Window,
) -> Result<(), Error> {
    let filters = [("environment", environment), ("status", status)];
    let query: Vec<(&str, &str)> =
        filters.iter().filter_map(|(key, value)| value.as_deref().map(|value| (*key, value))).collect();
    let path = context.path(paths::PROMOTIONS, &[])?;
    let promotions =
        window::list(context, &path, &query, window, |it: &Dto| (&it.id, &it.requested_at)).await?;
    let head =
        ["ID", "RELEASE", "ENVIRONMENT", "STATUS", "WAITS FOR", "APPROVALS", "TARGETS", "REQUESTED", "BY"];
    print::list(context.output, &promotions, &head, |it| {
        vec![
            it.id.clone(),
            format!("{}:{}", it.release.application, it.release.version),
            it.environment.name.clone(),
            it.status.clone(),
            if it.waits_for.is_empty() { "-".to_owned() } else { it.waits_for.join(", ") },
            format!("{}/{}", counted(it), it.approvals_needed),
            it.plan.targets.to_string(),
            when::ago(&it.requested_at),
            task::by(&it.requested_by),
        ]
    })
}

async fn show(context: &Context, id: &str) -> Result<(), Error> {
    let promotion = found(context, id).await?;
    let waits = matches!(promotion.status.as_str(), "pending" | "approved");
    let plan: Option<DeploymentPlan> = match (context.output, waits) {
        (Output::Text, true) => {
            // The promotion itself is worth showing all the same.
            let plan = context.client.get(&context.path(paths::PROMOTION_PLAN, &[id])?).await;
            plan.inspect_err(|error| print::warning(&error.to_string())).ok()
        }
        _ => None,
    };
    print::result(context.output, &promotion, |it| {
        let mut text = vec![summary(it)];
        text.extend(terms(it));
        text.extend(it.job.iter().flat_map(job));
        text.extend(it.approvals.iter().map(|approval| {
            let reason =
                if approval.reason.is_empty() { String::new() } else { format!(": {}", approval.reason) };
            let signed = approval.signature.as_ref().and_then(|it| it.fingerprint.as_ref());
            let signed = signed.map(|key| format!(", signed by key {key}")).unwrap_or_default();
            format!("approved by {} at {}{signed}{reason}", approval.by.name, when::moment(&approval.at))
        }));
        if it.ended_at.is_none() && !it.approvals_from.is_empty() {
            let groups: Vec<String> =
                it.approvals_from.iter().map(|group| of_group(group.needed, &group.from)).collect();
            text.push(format!("needs the approval of {}", groups.join(" and ")));
            let missing: Vec<String> =
                it.missing_from.iter().map(|group| of_group(group.needed, &group.from)).collect();
            if !missing.is_empty() {
                text.push(format!("still missing: {}", missing.join(" and ")));
            }
        }
        if it.asked_again > 0 {
            text.push(format!("asked for again: {}", print::count(it.asked_again.into(), "time")));
        }
        text.extend(it.lapsed.iter().map(|lapsed| {
            let (by, at) = (&lapsed.approval.by.name, when::moment(&lapsed.lapsed_at));
            format!("the approval of {by} counts no more since {at}: {}", lapsed.because)
        }));
        text.extend(gate::lines(&it.gates));
        if !it.waits_for.is_empty() {
            text.push(format!("waits for {}", it.waits_for.join(", ")));
            text.extend(it.holds.iter().map(|hold| print::one_line(hold)));
        }
        text.push(format!("asked for {}", when::moment_and_age(&it.requested_at)));
        if !it.chosen_by.is_empty() {
            let names: Vec<String> = it.chosen_by.iter().map(task::by).collect();
            text.push(format!("chosen by {}, who may not approve it either", names.join(", ")));
        }
        text.push(format!("plan {} ({})", it.plan.root, print::count(it.plan.targets.into(), "target")));
        if let Some(plan) = plan {
            let rows = plan.targets.iter().map(|target| {
                vec![
                    rollout::wave(target),
                    target.target.name.clone(),
                    format!("{} ({})", target.agent.name, target.connectivity),
                    target.current.as_ref().map_or_else(|| "-".into(), |current| current.version.clone()),
                    plan.release.version.clone(),
                    target.warnings.join("; "),
                ]
            });
            text.push(format!("each target: {}", pace::steps(&plan.steps, &plan.phases)));
            text.push(String::new());
            text.push(print::table(&["WAVE", "TARGET", "AGENT", "NOW", "THEN", "WARNING"], rows.collect()));
        }
        text.join("\n")
    })
}

/// How it would come, and what is let pass for it: all of that is in the hash that people approve.
fn terms(it: &Dto) -> Vec<String> {
    let targets = usize::try_from(it.plan.targets).ok();
    let on_failure = match it.on_failure {
        OnFailure::Rollback => "is rolled back",
        OnFailure::Stop => "stops where it is",
        OnFailure::Ask => "waits for a decision",
    };
    let tolerated = it.tolerate_failures.as_ref();
    let tolerated = tolerated.map(|it| format!(" of more than {it} of them")).unwrap_or_default();
    let how = pace::described(&it.strategy, targets);
    let limit = when::length(it.timeout_seconds);
    let mut terms = vec![format!("{how}, in {limit} at most; on failure{tolerated} it {on_failure}")];
    let although = [
        ("comes although the environment is frozen", &it.override_freeze),
        ("comes although the release has not been through what comes before", &it.override_path),
        ("comes although it could not go back on every target", &it.waive_way_back),
    ];
    terms.extend(although.iter().filter_map(|(what, why)| Some(format!("{what}: {}", why.as_ref()?))));
    if it.replace_application {
        terms.push("may take the place of another application".to_owned());
    }
    terms
}

/// Who wants a job, and what it would run on each target.
fn job(job: &Job) -> Vec<String> {
    let JobOf { workflow, run, step } = &job.of;
    let head = format!("a job of step {step} of run {run} of {workflow}; it brings nothing");
    std::iter::once(head).chain(runs(&job.steps)).collect()
}

/// What is run on each target, a line for each step.
pub(crate) fn runs(steps: &[Step]) -> impl Iterator<Item = String> {
    steps.iter().map(|step| format!("  runs {}: {}", step.name, action(&step.action)))
}

fn action(action: &StepAction) -> String {
    match action {
        StepAction::Artifact { component, .. } => format!("artifact {component}"),
        StepAction::Command { argv, environment, working_directory, user } => {
            let user = user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
            let folder = working_directory.as_ref().map(|folder| format!(" in {folder}")).unwrap_or_default();
            // Their values may be more than everybody should read on a screen.
            let with: Vec<&str> = environment.keys().map(String::as_str).collect();
            let with = if with.is_empty() { String::new() } else { format!(" with {}", with.join(" ")) };
            format!("{argv:?}{user}{folder}{with}")
        }
        StepAction::CheckHttp { url, status, .. } => format!("asks {url} for {status}"),
        StepAction::CheckTcp { address, .. } => format!("connects to {address}"),
        StepAction::CheckCommand { argv, .. } => format!("{argv:?} until it exits with 0"),
        StepAction::Systemd { unit, action } => match action {
            UnitAction::Start => format!("starts {unit}"),
            UnitAction::Stop => format!("stops {unit}"),
            UnitAction::Restart => format!("restarts {unit}"),
            UnitAction::ReloadOrRestart => format!("reloads or restarts {unit}"),
        },
    }
}

fn summary(it: &Dto) -> String {
    let reason = print::because(it.reason.as_deref());
    let by = it.ended_by.as_ref().map(|by| format!(" by {}", task::by(by))).unwrap_or_default();
    let expires = match (&it.expires_at, it.ended_at.is_none()) {
        (Some(at), true) => format!(", expires at {}", when::moment(at)),
        _ => String::new(),
    };
    format!(
        "promotion {} {}:{} to {}, asked for by {}: {}{by}{reason} ({} of {} approvals{expires})",
        it.id,
        it.release.application,
        it.release.version,
        it.environment.name,
        task::by(&it.requested_by),
        it.status,
        counted(it),
        it.approvals_needed,
    )
}

/// How many of the approvals that it needs it has: who is one too many for a group does not count for another. A control plane of before
/// does not know that, and says only who has approved.
fn counted(it: &Dto) -> u32 {
    let given = || u32::try_from(it.approvals.len()).unwrap_or(u32::MAX);
    it.approvals_missing.map_or_else(given, |missing| it.approvals_needed.saturating_sub(missing))
}

/// What a promotion that waits needs next, and what holds its environment meanwhile.
pub(crate) fn waits(it: &Dto) -> String {
    let holds = it.holds.iter().map(|hold| format!("\n  {}", print::one_line(hold)));
    [needs(it)].into_iter().chain(holds).collect()
}

fn needs(it: &Dto) -> String {
    if let Some(until) = it.held_until.as_deref().filter(|_| it.status == "approved").map(when::moment) {
        return format!("promotion {} has its approvals, and starts when the freeze ends: {until}", it.id);
    }
    let waits = |gate: &&GateState| {
        gate.kind.is_some() && !gate.verifies && !matches!(gate.status.as_str(), "passed" | "overridden")
    };
    let closed = it.gates.iter().filter(waits);
    let closed: Vec<_> = closed.cloned().collect();
    if it.status == "approved" {
        let approved = if it.approvals_needed > 0 { "has its approvals, and " } else { "" };
        return match gate::lines(&closed).as_slice() {
            [] => format!("promotion {} {approved}starts as soon as {} lets it", it.id, it.environment.name),
            lines => {
                let next = somebodys(it, &closed).map(|it| format!("; {it}")).unwrap_or_default();
                format!("promotion {} {approved}waits for {}{next}", it.id, lines.join("; "))
            }
        };
    }
    let mut gates: String = gate::lines(&closed).iter().map(|line| format!("\n  {line}")).collect();
    gates.extend(somebodys(it, &closed).map(|next| format!("\n  {next}")));
    // Where everybody with the role may approve there is nobody to name.
    let missing = it.missing_from.iter().filter(|_| !it.approvals_from.is_empty());
    let missing: Vec<String> = missing.map(|group| of_group(group.needed, &group.from)).collect();
    let (missing, who) = match missing.as_slice() {
        [] => (String::new(), "an approver"),
        groups => (format!(", missing {}", groups.join(" and ")), "one of them"),
    };
    format!(
        "promotion {0} waits for approvals: {1} of {2}{missing}; {who} may say: stella promotion approve {0}{gates}",
        it.id,
        counted(it),
        it.approvals_needed
    )
}

/// What somebody can do about the first gate that only a person opens.
fn somebodys(it: &Dto, closed: &[GateState]) -> Option<String> {
    let manual = closed.iter().find(|gate| gate.kind.as_deref() == Some("manual"))?;
    Some(format!("somebody else may say: stella gate pass {} {} --reason TEXT", it.id, manual.gate))
}

/// Waits until a promotion starts; whether it did.
pub(crate) async fn starts(context: &Context, waiting: &Dto) -> Result<bool, Error> {
    let say = |text: &str| {
        if context.output == Output::Text {
            print::line(text);
        }
    };
    let mut shown = String::new();
    let watching = follow::until(
        INTERVAL,
        async || found(context, &waiting.id).await,
        |look| {
            let it = match look {
                Look::Found(it) => it,
                Look::Lost(why) => {
                    print::warning(&format!("{why}; trying again"));
                    return Ok(None);
                }
            };
            let now = if it.ended_at.is_some() { summary(&it) } else { waits(&it) };
            if now != shown {
                say(&now);
                shown = now;
            }
            if it.ended_at.is_none() {
                return Ok(None);
            }
            let started = it.status == "started";
            if !started && context.output == Output::Json {
                print::json(&it)?;
            }
            Ok(Some(started))
        },
    );
    follow::unless_interrupted(watching, || {
        let id = &waiting.id;
        format!(
            "watch it again with: stella promotion watch {id}; ask for it no more with: stella promotion withdraw {id} --reason REASON"
        )
    })
    .await
}

const fn dto(objection: Objection) -> DtoObjection {
    match objection {
        Objection::NotTested => DtoObjection::NotTested,
        Objection::TooRisky => DtoObjection::TooRisky,
        Objection::BadTiming => DtoObjection::BadTiming,
        Objection::Incomplete => DtoObjection::Incomplete,
        Objection::Mistake => DtoObjection::Mistake,
        Objection::Other => DtoObjection::Other,
    }
}
