//! Why a promotion would not do any more what people were asked about, in words. The plan of then is not kept, only its hash: what has
//! changed is found in what this command has done.

use std::collections::BTreeMap;

use stella_protocol::id::DeploymentId;

use super::transaction::Transaction;
use crate::deployment::Deployment;
use crate::environment::Environment;
use crate::event::Fact;
use crate::plan::Plan;
use crate::promotion::Promotion;
use crate::target::Target;
use crate::tenant::TenantState;

/// How many changes a reason names before it only counts them.
const NAMED_MAX: usize = 3;

/// Why a promotion is void whose plan would be this one now.
pub(super) fn reason(
    tx: &Transaction<'_>,
    promotion: &Promotion,
    environment: &Environment,
    plan: Plan,
) -> String {
    if promotion.plan.targets != plan.targets {
        return format!("it has {} targets now, and had {}", plan.targets, promotion.plan.targets);
    }
    if promotion.plan.guards != plan.guards {
        return other_guards(tx, environment);
    }
    let Changes { named, more } = changes(tx, promotion, environment);
    match (named.join("; ").as_str(), more) {
        ("", _) => "its targets, what is on them, or how it is verified in the end, has changed".to_owned(),
        (named, 0) => named.to_owned(),
        (named, more) => format!("{named}; and {more} more"),
    }
}

/// The first changes by name, and how many more there are. As many targets as there may be have changed at once.
#[derive(Default)]
struct Changes {
    named: Vec<String>,
    more: usize,
}

impl Changes {
    fn add(&mut self, name: impl FnOnce() -> String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(name());
        } else {
            self.more += 1;
        }
    }
}

/// What guards an environment is not what it was: what has just changed, if that is known.
fn other_guards(tx: &Transaction<'_>, environment: &Environment) -> String {
    let name = &environment.name;
    #[expect(clippy::wildcard_enum_match_arm, reason = "most facts change no guard")]
    let changed = tx.facts_from(0).find_map(|fact| match fact {
        Fact::EnvironmentGateRemoved { id, gate } if *id == environment.id => {
            Some(format!("gate {gate} of {name} was removed"))
        }
        Fact::EnvironmentGateSet { id, gate } if *id == environment.id => {
            Some(format!("gate {} of {name} was set", gate.name))
        }
        Fact::EnvironmentBudgetSet { id, .. } if *id == environment.id => {
            Some(format!("how many targets of {name} may be at risk has changed"))
        }
        Fact::EnvironmentWayBackSet { id, .. } | Fact::EnvironmentWayBackProofSet { id, .. }
            if *id == environment.id =>
        {
            Some(format!("what {name} wants of the way back has changed"))
        }
        Fact::EnvironmentPathSet { id, .. } if *id == environment.id => {
            Some(format!("what comes before {name} has changed"))
        }
        Fact::EnvironmentChannelsSet { id, .. } if *id == environment.id => {
            Some(format!("the channels that {name} takes releases from have changed"))
        }
        Fact::ReleaseSigningSet { .. } => {
            Some("the signatures that every release must have have changed".to_owned())
        }
        _ => None,
    });
    let changed = changed.unwrap_or_else(|| {
        format!(
            "the gates of {name}, its budget, its path, its channels, what it wants of the way back, or the signatures that releases must have, have changed"
        )
    });
    format!("{changed}, and that is part of what people approve")
}

/// What has just changed of what it would do.
fn changes(tx: &Transaction<'_>, promotion: &Promotion, environment: &Environment) -> Changes {
    let before = tx.system.tenants.get(&tx.tenant.id);
    let place = before.and_then(|tenant| tenant.environments.get(&environment.id));
    let mut changes = Changes::default();
    if let Some(place) = place.filter(|place| place.name != environment.name) {
        changes.add(|| format!("{} is called {} now", place.name, environment.name));
    }
    if place.is_some_and(|place| place.verification != environment.verification) {
        changes
            .add(|| format!("how a deployment to {} is verified in the end has changed", environment.name));
    }
    let ended = ended(tx);
    for target in tx.tenant.meant_by(&promotion.wanted) {
        match before.and_then(|tenant| tenant.targets.get(&target.id)) {
            Some(before) => of_target(before, target, &mut changes),
            None => changes.add(|| format!("target {} is another one of that name", target.name)),
        }
        if let Some(deployment) = ended.iter().find(|it| has_changed(it, target)) {
            changes.add(|| brought(&tx.tenant, target, deployment.id));
        }
    }
    changes
}

/// What has changed of one target, but for what is on it.
fn of_target(before: &Target, now: &Target, changes: &mut Changes) {
    let name = &now.name;
    if before.agent != now.agent {
        changes.add(|| format!("target {name} is served by another agent"));
    }
    for variable in differing(&before.variables, &now.variables) {
        changes.add(|| format!("variable {variable} of {name} has changed"));
    }
    for label in differing(&before.labels, &now.labels) {
        changes.add(|| format!("label {label} of {name} has changed"));
    }
}

fn differing<'m>(
    before: &'m BTreeMap<String, String>,
    now: &'m BTreeMap<String, String>,
) -> impl Iterator<Item = &'m String> {
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    gone.chain(now.iter().filter(|(key, value)| before.get(*key) != Some(*value)).map(|(key, _)| key))
}

/// The deployments that have just ended.
fn ended<'t>(tx: &'t Transaction<'_>) -> Vec<&'t Deployment> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else ends a deployment")]
    let ended = tx.facts_from(0).filter_map(|fact| match fact {
        Fact::DeploymentSucceeded { id, .. }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. } => tx.tenant.deployments.get(id).map(AsRef::as_ref),
        _ => None,
    });
    ended.collect()
}

/// What a deployment that has just ended has brought to a target.
fn brought(tenant: &TenantState, target: &Target, by: DeploymentId) -> String {
    let there = target.current.and_then(|release| tenant.releases.get(&release));
    let there = there.map_or_else(|| "nothing".to_owned(), |it| format!("{}:{}", it.application, it.version));
    format!("{there} is on {} since deployment {by}", target.name)
}

/// Whether something else is on a target since a deployment than before it.
fn has_changed(deployment: &Deployment, target: &Target) -> bool {
    let part = deployment.targets.get(&target.id);
    part.is_some_and(|part| part.is_touched() && part.previous != target.current)
}
