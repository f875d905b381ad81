//! How an environment is set up, on one page; and what it is called, and whether it is there.

use stella_api_types::environment::{Approvals, Environment, Freeze, ProofRule, Repeats, UpdateEnvironment};
use stella_api_types::paths;

use crate::client::Error;
use crate::{Context, hold, pace, print, promotion, task, when};

pub(crate) async fn show(context: &Context, environment: &str) -> Result<(), Error> {
    let found: Environment = context.client.get(&context.path(paths::ENVIRONMENT, &[environment])?).await?;
    print::result(context.output, &found, text)
}

pub(crate) async fn update(
    context: &Context,
    environment: &str,
    name: Option<String>,
    order: Option<u32>,
) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_UPDATE, &[environment])?;
    let updated: Environment = context.client.post(&path, &UpdateEnvironment { name, order }, None).await?;
    print::result(context.output, &updated, |it| {
        format!("environment {} {} (order {})", it.name, it.id, it.order)
    })
}

pub(crate) async fn remove(context: &Context, environment: &str) -> Result<(), Error> {
    context.client.delete(&context.path(paths::ENVIRONMENT, &[environment])?).await?;
    print::result(context.output, &serde_json::json!({ "removed": environment }), |_| {
        format!("environment {environment} removed")
    })
}

fn text(it: &Environment) -> String {
    let mut lines = vec![format!("environment  {} {} (order {})", it.name, it.id, it.order)];
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12} {text}"));
    line("takes", takes(it));
    line("approvals", it.approvals.as_ref().map_or_else(|| "nobody's".to_owned(), approvals));
    line("strategy", strategy(it));
    line("at risk", at_risk(it));
    line("way back", way_back(it));
    if let Some(rule) = &it.verification {
        line("verified", format!("a deployment has succeeded when {}", hold::verified(rule)));
    }
    line("silence", silence(it));
    let lock = it.lock.as_ref();
    let lock = lock.map(|lock| format!("locked by {}{}", task::by(&lock.by), hold::because(Some(lock))));
    line("lock", lock.unwrap_or_else(|| "open".to_owned()));
    for gate in &it.gates {
        let (kind, wants) = crate::gate::described(&gate.check);
        let verifies = if gate.verifies { ", asked once the release has come" } else { "" };
        line("gate", format!("{} ({kind}): {wants}{verifies}", gate.name));
    }
    if !it.freezes.is_empty() {
        let head = ["FREEZE", "FROM", "TO", "ZONE", "REPEATS", "NOW", "REASON"];
        lines.push(format!("\n{}", print::table(&head, it.freezes.iter().map(freeze).collect())));
    }
    lines.join("\n")
}

fn takes(it: &Environment) -> String {
    let from = it.follows.as_ref().map(|before| format!("what has succeeded in {}", hold::follows(before)));
    let channels = match it.channels.as_slice() {
        [] => String::new(),
        channels => format!(", of the channels {}", channels.join(", ")),
    };
    let coming = it.follows.iter().flat_map(|before| &before.automatic);
    let coming = coming.map(|it| {
        let (application, version) = (&it.release.application, &it.release.version);
        format!("; {application}:{version} comes {}", when::ago(&it.due_at))
    });
    format!("{}{channels}{}", from.unwrap_or_else(|| "any release".to_owned()), coming.collect::<String>())
}

fn approvals(rule: &Approvals) -> String {
    let within = when::length(rule.expires_in_seconds);
    format!("{}, within {within}{}", promotion::whose(rule), promotion::late(rule))
}

fn strategy(it: &Environment) -> String {
    let strategy = it.strategy.as_ref().map(|strategy| pace::described(strategy, None));
    strategy.unwrap_or_else(|| "one target at a time unless a deployment says otherwise".to_owned())
}

fn at_risk(it: &Environment) -> String {
    it.budget.as_ref().map_or_else(
        || "all targets may be".to_owned(),
        |budget| {
            let most = print::count(budget.targets_max.into(), "target");
            format!("at most {} ({most}); {} now", budget.at_risk_max, budget.at_risk)
        },
    )
}

fn way_back(it: &Environment) -> String {
    let required = if it.requires_way_back { "required" } else { "not required" };
    let proof = match it.way_back_proof {
        ProofRule::Off => "hosts are not asked for a proof",
        ProofRule::Reported => "hosts say whether they could, and nothing waits for it",
        ProofRule::Required => "hosts have to prove it first",
    };
    format!("{required}; {proof}")
}

fn silence(it: &Environment) -> String {
    let Some(rule) = &it.silence else { return "nothing pauses when agents are silent".to_owned() };
    let since = rule.since.as_deref().map(when::moment_and_age);
    let since = since.map(|since| format!("; silent since {since}")).unwrap_or_default();
    let within = when::length(rule.within_seconds);
    format!("deployments pause when more than {}% go silent within {within}{since}", rule.percent)
}

fn freeze(it: &Freeze) -> Vec<String> {
    let repeats = match it.repeats {
        Repeats::Never => "-",
        Repeats::Daily => "daily",
        Repeats::Weekly => "weekly",
        Repeats::Yearly => "yearly",
    };
    let now = it.until.as_deref().map(|until| format!("until {}", when::moment(until)));
    vec![
        it.name.clone(),
        it.from.clone(),
        it.to.clone(),
        it.time_zone.clone(),
        repeats.to_owned(),
        now.unwrap_or_else(|| "-".to_owned()),
        it.reason.clone(),
    ]
}
