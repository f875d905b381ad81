//! Targets: hosts, or slots on them.

use std::collections::BTreeMap;

use stella_api_types::paths;
use stella_api_types::target::{CreateTarget, Target as Dto, UpdateTarget};

use crate::args::{ChangeTarget, NewTarget, Output, Target};
use crate::client::Error;
use crate::hold::because;
use crate::{Context, print, when};

/// What a target is if nothing is said.
const KIND: &str = "host";

pub(crate) async fn target(context: &Context, command: Target) -> Result<(), Error> {
    match command {
        Target::Create(new) => create(context, new).await,
        Target::List { environment, labels } => list(context, environment, &labels).await,
        Target::Show { target } => {
            let found: Dto = context.client.get(&context.path(paths::TARGET, &[&target])?).await?;
            print::result(context.output, &found, shown)
        }
        Target::Update(change) => update(context, change).await,
        Target::Remove { target } => {
            context.client.delete(&context.path(paths::TARGET, &[&target])?).await?;
            print::result(context.output, &serde_json::json!({ "removed": target }), |_| {
                format!("target {target} removed")
            })
        }
    }
}

async fn create(context: &Context, new: NewTarget) -> Result<(), Error> {
    let body = CreateTarget {
        name: new.name,
        environment: new.environment,
        agent: new.agent,
        kind: new.kind,
        slot: new.slot,
        labels: new.labels.into_iter().collect(),
        variables: new.variables.into_iter().collect(),
    };
    let path = context.path(paths::TARGETS, &[])?;
    let error = match context.client.post::<_, Dto>(&path, &body, None).await {
        Ok(created) => return print::result(context.output, &created, line),
        Err(error) => error,
    };
    let Error::Refused(mut problem) = error else { return Err(error) };
    if problem.code != "already_exists" {
        return Err(Error::Refused(problem));
    }
    let all: Vec<Dto> = context.client.list(&path, &[("environment", &body.environment)]).await?;
    let Some(there) = all.into_iter().find(|it| it.name == body.name) else {
        return Err(Error::Refused(problem));
    };
    let differs = differences(&body, &there);
    if differs.is_empty() {
        return print::result(context.output, &there, |it| {
            format!("{}\n(it was there already and is the same)", line(it))
        });
    }
    problem.detail = format!(
        "target {} is there already and is otherwise ({}); change it with: stella target update {}",
        there.name,
        differs.join(", "),
        there.name
    );
    Err(Error::Refused(problem))
}

fn line(it: &Dto) -> String {
    format!("target {} in {} {}", it.name, it.environment.name, it.id)
}

/// In what the target that is there is not the one that is wanted: what it has, and what was to be.
fn differences(wanted: &CreateTarget, there: &Dto) -> Vec<String> {
    let mut differs = Vec::new();
    if wanted.agent != there.agent.name && wanted.agent != there.agent.id {
        differs.push(format!("agent {} and not {}", there.agent.name, wanted.agent));
    }
    let kind = wanted.kind.as_deref().unwrap_or(KIND);
    if kind != there.kind {
        differs.push(format!("kind {} and not {kind}", there.kind));
    }
    if wanted.slot != there.slot {
        let named = |slot: &Option<String>| slot.clone().unwrap_or_else(|| "none".to_owned());
        differs.push(format!("slot {} and not {}", named(&there.slot), named(&wanted.slot)));
    }
    differs.extend(apart("label", &wanted.labels, &there.labels));
    differs.extend(apart("variable", &wanted.variables, &there.variables));
    differs
}

fn apart(what: &str, wanted: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<String> {
    let names = wanted.keys().chain(there.keys().filter(|name| !wanted.contains_key(*name)));
    let differs = names.filter(|name| wanted.get(*name) != there.get(*name));
    let value = |of: &BTreeMap<String, String>, name: &String| {
        of.get(name).map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"))
    };
    differs
        .map(|name| format!("{what} {name} {} and not {}", value(there, name), value(wanted, name)))
        .collect()
}

async fn list(
    context: &Context,
    environment: Option<String>,
    labels: &[(String, String)],
) -> Result<(), Error> {
    let query: Vec<(&str, &str)> = environment.iter().map(|name| ("environment", name.as_str())).collect();
    let mut targets: Vec<Dto> = context.client.list(&context.path(paths::TARGETS, &[])?, &query).await?;
    targets.retain(|it| labels.iter().all(|(label, value)| it.labels.get(label) == Some(value)));
    if context.output == Output::Text {
        targets.sort_by(|a, b| (&a.environment.name, &a.name).cmp(&(&b.environment.name, &b.name)));
    }
    let head = ["NAME", "ENVIRONMENT", "AGENT", "SLOT", "RELEASE", "LABELS", "ID"];
    print::list(context.output, &targets, &head, |target| {
        vec![
            target.name.clone(),
            target.environment.name.clone(),
            target.agent.name.clone(),
            target.slot.clone().unwrap_or_else(|| "-".into()),
            format!("{}{}", release(target), out_of_rotation(target)),
            if target.labels.is_empty() { "-".to_owned() } else { pairs(&target.labels) },
            target.id.clone(),
        ]
    })
}

/// That nothing comes there, or that deployments leave it out.
fn out_of_rotation(target: &Dto) -> &'static str {
    match (&target.quarantined, &target.draining) {
        (Some(_), _) => ", quarantined",
        (None, Some(_)) => ", draining",
        (None, None) => "",
    }
}

/// What is on a target.
fn release(target: &Dto) -> String {
    let current = target.current.as_ref();
    // A group without traffic has nothing, and may hold something.
    current.map_or_else(
        || format!("-{}", colours(target)),
        |it| format!("{}:{}{}", it.application, it.version, colours(target)),
    )
}

/// The colour that is live on a target, and what the other one holds.
fn colours(target: &Dto) -> String {
    let leads = if target.part.as_deref() == Some("switch") { "leads to " } else { "" };
    let live = target.colour.as_ref().map(|colour| format!(" ({leads}{colour})")).unwrap_or_default();
    let torn = if target.torn { ", its switch was left halfway" } else { "" };
    let idle = target.idle.as_ref();
    let idle = idle
        .map(|it| format!(", {}:{} idle ({})", it.release.application, it.release.version, it.colour))
        .unwrap_or_default();
    format!("{live}{idle}{torn}")
}

fn pairs(of: &BTreeMap<String, String>) -> String {
    of.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

fn shown(target: &Dto) -> String {
    let deployment = target.active_deployment.as_deref().unwrap_or("-");
    let mut text = format!(
        "target       {} {}\nenvironment  {}\nagent        {}\nkind         {}\nslot         {}\nrelease      {}\n\
         deployment   {deployment}\ngeneration   {}\ncreated      {}",
        target.name,
        target.id,
        target.environment.name,
        target.agent.name,
        target.kind,
        target.slot.as_deref().unwrap_or("-"),
        release(target),
        target.generation,
        when::moment_and_age(&target.created_at),
    );
    if let Some(it) = &target.quarantined {
        text.push_str(&format!(
            "\nquarantined  task {} of deployment {}: {} (since {})\n             its agent settles it when it is back, or you: stella task settle {}",
            it.task,
            it.deployment,
            print::one_line(&it.reason),
            when::moment(&it.since),
            it.task,
        ));
    }
    if let Some(hold) = &target.draining {
        text.push_str(&format!("\nrotation     out of it, with its agent{}", because(Some(hold))));
    }
    for (what, of) in [("label", &target.labels), ("variable", &target.variables)] {
        for (name, value) in of {
            text.push_str(&format!("\n{what:<12} {name}={value}"));
        }
    }
    text
}

async fn update(context: &Context, change: ChangeTarget) -> Result<(), Error> {
    let merged = |set: Vec<(String, String)>, taken: Vec<String>| {
        let set = set.into_iter().map(|(name, value)| (name, Some(value)));
        taken.into_iter().map(|name| (name, None)).chain(set).collect()
    };
    let is_moved = change.agent.is_some();
    let body = UpdateTarget {
        labels: merged(change.labels, change.no_labels),
        variables: merged(change.variables, change.no_variables),
        agent: change.agent,
    };
    let path = context.path(paths::TARGET_UPDATE, &[&change.target])?;
    let updated: Dto = context.client.post(&path, &body, None).await?;
    print::result(context.output, &updated, |it| {
        let unknown = is_moved && it.current.is_none();
        let next = if unknown { "\n\nnothing is known of what is there: deploy to it" } else { "" };
        format!("{}{next}", shown(it))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_otherwise_is_named() {
        let there: Dto = serde_json::from_value(serde_json::json!({
            "id": "1", "name": "web-1", "environment": {"id": "2", "name": "staging"},
            "agent": {"id": "3", "name": "host-1"}, "kind": "host",
            "labels": {"rack": "7"}, "variables": {"port": "80"}, "generation": 0, "created_at": "",
        }))
        .unwrap();
        let same = CreateTarget {
            name: "web-1".into(),
            environment: "staging".into(),
            agent: "host-1".into(),
            kind: None,
            slot: None,
            labels: there.labels.clone(),
            variables: there.variables.clone(),
        };
        assert!(differences(&same, &there).is_empty());
        assert!(differences(&CreateTarget { agent: "3".into(), ..same.clone() }, &there).is_empty());
        let other = CreateTarget {
            slot: Some("a".into()),
            labels: BTreeMap::new(),
            variables: BTreeMap::from([("port".to_owned(), "81".to_owned())]),
            ..same
        };
        let told = [
            "slot none and not a",
            "label rack \"7\" and not nothing",
            "variable port \"80\" and not \"81\"",
        ];
        assert_eq!(differences(&other, &there), told);
    }
}
