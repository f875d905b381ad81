//! What people hold back: environments, releases and deployments.

use stella_api_types::amount::Amount;
use stella_api_types::deployment::{DeploymentDetail, Strategy};
use stella_api_types::environment::{
    Budget, Environment, Follows, Needs, ProofRule as ProofRuleDto, SetBudget, SetFollowed, SetFreeze,
    SetPath, SetSilence, SetStrategy, SetVerification, SetWayBack, SetWayBackProof, Verification,
};
use stella_api_types::hold::{Hold, HoldBack};
use stella_api_types::paths;
use stella_api_types::release::{JudgeRelease, Release, Standing};

use crate::args::ProofRule;
use crate::client::Error;
use crate::{Context, guide, pace, print, when};

pub(crate) async fn path(context: &Context, environment: &str, body: &SetPath) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_PATH, &[environment])?;
    let set: Environment = context.client.post(&path, body, None).await?;
    print::result(context.output, &set, |it| match &it.follows {
        Some(before) => format!("environment {} takes releases that come from {}", it.name, follows(before)),
        None => format!("environment {} takes any release", it.name),
    })
}

/// The path that the flags ask for: of several environments somebody has to say whether any of them is enough.
pub(crate) fn path_of(
    after: Vec<(String, Option<u64>)>,
    (any, all): (bool, bool),
    soak: u64,
    auto: bool,
) -> Result<SetPath, Error> {
    if after.len() > 1 && !any && !all {
        let problem = "of several environments, is one enough (--any), or are all needed (--all)?";
        return Err(Error::Usage(problem.to_owned()));
    }
    let stages =
        after.into_iter().map(|(after, own)| SetFollowed { after, soak_seconds: own.unwrap_or(soak) });
    let mut stages: Vec<SetFollowed> = stages.collect();
    let others = stages.split_off(stages.len().min(1));
    let first = stages.pop();
    Ok(SetPath {
        soak_seconds: first.as_ref().map_or(0, |it| it.soak_seconds),
        after: first.map(|it| it.after),
        auto,
        others,
        needs: if any { Needs::Any } else { Needs::All },
    })
}

/// What comes before an environment.
pub(crate) fn follows(it: &Follows) -> String {
    let stage = |name: &str, soak_seconds: u64| {
        let soak = (soak_seconds > 0).then(|| format!(" (+{})", when::length(soak_seconds)));
        format!("{name}{}", soak.unwrap_or_default())
    };
    let others = it.others.iter().map(|it| stage(&it.environment.name, it.soak_seconds));
    let stages: Vec<String> =
        std::iter::once(stage(&it.environment.name, it.soak_seconds)).chain(others).collect();
    let auto = if it.auto { ", by themselves" } else { "" };
    let between = match it.needs {
        Needs::All => " and ",
        Needs::Any => " or ",
    };
    format!("{}{auto}", stages.join(between))
}

pub(crate) async fn freeze(context: &Context, environment: &str, body: &SetFreeze) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_FREEZES, &[environment])?;
    let set: Environment = context.client.post(&path, body, None).await?;
    print::result(context.output, &set, |it| {
        let set = it.freezes.iter().find(|freeze| freeze.name == body.name);
        match set.and_then(|freeze| freeze.until.as_ref()) {
            Some(until) => {
                format!(
                    "environment {} is frozen until {}; rollbacks are let through",
                    it.name,
                    when::moment(until)
                )
            }
            None => {
                format!("environment {} will be frozen from {} on ({})", it.name, body.from, body.time_zone)
            }
        }
    })
}

pub(crate) async fn unfreeze(context: &Context, environment: &str, name: &str) -> Result<(), Error> {
    context.client.delete(&context.path(paths::ENVIRONMENT_FREEZE, &[environment, name])?).await?;
    print::result(context.output, &serde_json::json!({ "removed": name }), |_| {
        format!("freeze {name} removed")
    })
}

pub(crate) async fn budget(
    context: &Context,
    environment: &str,
    at_risk_max: Option<Amount>,
) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_BUDGET, &[environment])?;
    let set: Environment = context.client.post(&path, &SetBudget { at_risk_max }, None).await?;
    print::result(context.output, &set, |it| match &it.budget {
        Some(budget) => format!(
            "at most {} of {} may be at risk at once; {} now",
            print::count(budget.targets_max.into(), "target"),
            it.name,
            budget.at_risk
        ),
        None => format!("all targets of {} may be at risk at once", it.name),
    })
}

/// How much of a budget is used.
pub(crate) fn budget_of(budget: &Budget) -> String {
    format!("{}/{}", budget.at_risk, budget.targets_max)
}

pub(crate) async fn way_back(context: &Context, environment: &str, required: bool) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_WAY_BACK, &[environment])?;
    let set: Environment = context.client.post(&path, &SetWayBack { required }, None).await?;
    print::result(context.output, &set, |it| {
        let must =
            if it.requires_way_back { "must be able to go back on every target" } else { "need no way back" };
        format!("deployments to {} {must}", it.name)
    })
}

pub(crate) async fn strategy(
    context: &Context,
    environment: &str,
    strategy: Option<Strategy>,
) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_STRATEGY, &[environment])?;
    let set: Environment = context.client.post(&path, &SetStrategy { strategy }, None).await?;
    print::result(context.output, &set, |it| match &it.strategy {
        Some(strategy) => {
            format!("deployments to {} that do not say how: {}", it.name, pace::described(strategy, None))
        }
        None => format!("deployments to {} take one target at a time unless they say how", it.name),
    })
}

pub(crate) async fn way_back_proof(
    context: &Context,
    environment: &str,
    proof: ProofRule,
) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_WAY_BACK_PROOF, &[environment])?;
    let proof = match proof {
        ProofRule::Off => ProofRuleDto::Off,
        ProofRule::Reported => ProofRuleDto::Reported,
        ProofRule::Required => ProofRuleDto::Required,
    };
    let set: Environment = context.client.post(&path, &SetWayBackProof { proof }, None).await?;
    print::result(context.output, &set, |it| match it.way_back_proof {
        ProofRuleDto::Off => format!("hosts of {} are not asked whether they could go back", it.name),
        ProofRuleDto::Reported => {
            format!("hosts of {} say whether they could go back, and nothing waits for it", it.name)
        }
        ProofRuleDto::Required => {
            format!("deployments to {} begin when all hosts have proven that they could go back", it.name)
        }
    })
}

pub(crate) async fn verification(
    context: &Context,
    environment: &str,
    bake_seconds: Option<u64>,
) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_VERIFICATION, &[environment])?;
    let set: Environment = context.client.post(&path, &SetVerification { bake_seconds }, None).await?;
    print::result(context.output, &set, |it| match &it.verification {
        Some(rule) => format!("deployments to {} have succeeded when {}", it.name, verified(rule)),
        None => format!("deployments to {} have succeeded with their last target", it.name),
    })
}

/// What has to be over before a deployment has succeeded.
pub(crate) fn verified(rule: &Verification) -> String {
    let bake = when::length(rule.bake_seconds);
    format!("all targets have had the release for {bake} and the gates let through")
}

pub(crate) async fn silence(
    context: &Context,
    environment: &str,
    percent: Option<u32>,
    within_seconds: u64,
) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_SILENCE, &[environment])?;
    let set: Environment = context.client.post(&path, &SetSilence { percent, within_seconds }, None).await?;
    print::result(context.output, &set, |it| match &it.silence {
        Some(rule) => format!(
            "deployments to {} pause when more than {}% of its agents go silent within {}",
            it.name,
            rule.percent,
            when::length(rule.within_seconds)
        ),
        None => format!("deployments to {} go on however many agents are silent", it.name),
    })
}

pub(crate) async fn lock(context: &Context, environment: &str, reason: String) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_LOCK, &[environment])?;
    let locked: Environment = context.client.post(&path, &HoldBack { reason }, None).await?;
    print::result(context.output, &locked, |it| {
        format!("environment {} is locked; rollbacks are let through", it.name)
    })
}

pub(crate) async fn unlock(context: &Context, environment: &str) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_UNLOCK, &[environment])?;
    let unlocked: Environment = context.client.post(&path, &serde_json::json!({}), None).await?;
    print::result(context.output, &unlocked, |it| match held_now(it) {
        Some(held) => format!("environment {} is not locked any more, and {held}", it.name),
        None => format!("environment {} is open", it.name),
    })
}

/// Why nothing new comes to an environment now but for its lock, and until when; nothing if it does.
pub(crate) fn held_now(environment: &Environment) -> Option<String> {
    if let Some(since) = environment.silence.as_ref().and_then(|it| it.since.as_ref()) {
        return Some(format!("silent since {}", when::moment(since)));
    }
    let now = environment.freezes.iter().filter_map(|it| Some((it.until.as_ref()?, it)));
    let (until, freeze) = now.max_by_key(|(until, _)| until.as_str())?;
    Some(format!("frozen until {} ({})", when::moment(until), freeze.name))
}

pub(crate) async fn judge(
    context: &Context,
    release: &str,
    standing: Standing,
    reason: String,
) -> Result<(), Error> {
    let path = context.path(paths::RELEASE_STANDING, &[release])?;
    let judged: Release = context.client.post(&path, &JudgeRelease { standing, reason }, None).await?;
    print::result(context.output, &judged, |it| {
        format!("release {}:{} is {}", it.application, it.version, name(it.standing))
    })
}

pub(crate) async fn pause(context: &Context, deployment: &str, reason: String) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_PAUSE, &[deployment])?;
    let paused: DeploymentDetail = context.client.post(&path, &HoldBack { reason }, None).await?;
    print::result(context.output, &paused, |it| {
        let id = &it.deployment.id;
        format!("deployment {id} is paused; go on with: stella deployment resume {id}")
    })
}

pub(crate) async fn resume(context: &Context, deployment: &str) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT_RESUME, &[deployment])?;
    let resumed: DeploymentDetail = context.client.post(&path, &serde_json::json!({}), None).await?;
    print::result(context.output, &resumed, |it| {
        let (id, paused) = (&it.deployment.id, it.deployment.paused.as_ref());
        match paused {
            None => format!("deployment {id} goes on"),
            Some(hold) => format!(
                "deployment {id} is not held by anybody any more, but it is still paused{}; {}",
                print::because(Some(&hold.reason)),
                guide::way_on(&it.deployment)
            ),
        }
    })
}

/// A hold as a part of a sentence.
pub(crate) fn because(hold: Option<&Hold>) -> String {
    hold.map_or_else(String::new, |hold| {
        let by =
            hold.by.account.as_ref().map(|by| format!("by {} ", print::one_line(by))).unwrap_or_default();
        format!("{} ({by}since {})", print::because(Some(&hold.reason)), when::moment(&hold.since))
    })
}

/// A standing as it is written in the API.
pub(crate) const fn name(standing: Standing) -> &'static str {
    match standing {
        Standing::Good => "good",
        Standing::Deprecated => "deprecated",
        Standing::Blocked => "blocked",
    }
}
