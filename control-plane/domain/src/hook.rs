//! Incoming webhooks: what something outside may start by a signed message, with whose authority, and with what of the message.
//!
//! Nothing of a hook is a secret. Its sender's secret follows from the salt here and from a key that is in no journal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_expression::Expression;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, EnvironmentId, HookId};
use stella_protocol::time::Timestamp;

use crate::choice;
use crate::command::{Actor, NewDeployment, TenantCommand};
use crate::name::{Identifier, Name};
use crate::rejection::Rejection;
use crate::workflow::{INPUTS_MAX, Meter, Variables};

/// How many hooks a tenant may have.
pub const HOOKS_MAX: usize = 256;
/// For how long a secret may still be good beside its successor, in milliseconds: 7 days.
pub const OVERLAP_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// How many secrets of before may be good beside the newest one.
pub const FORMER_SALTS_MAX: usize = 4;
/// What expressions of a hook can use.
pub const VARIABLES: [&str; 3] = ["body", "event", "delivery"];

/// An incoming webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its id: the end of its address.
    pub id: HookId,
    /// Its name, unique in the tenant.
    pub name: Name,
    /// The service account whose authority it has.
    pub account: AccountId,
    /// What it starts.
    pub action: HookAction,
    /// An expression: what it does not hold for is taken and starts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What the secret of its sender follows from.
    pub salt: Digest,
    /// What the secrets before it follow from, while they are still good: the newest last, at most [`FORMER_SALTS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formers: Vec<FormerSalt>,
    /// When it was created.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Actor,
    /// Who has made the secret, if it is not the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_by: Option<Actor>,
}

/// The salt of a secret that has a successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerSalt {
    /// The salt.
    pub salt: Digest,
    /// Until when the secret is still good.
    pub until: Timestamp,
    /// Who has made it, if it was not the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
}

/// What a hook starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum HookAction {
    /// A run of a workflow, at its newest version.
    Workflow {
        /// Which.
        workflow: Name,
        /// What it is given: for each input an expression.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        inputs: BTreeMap<Identifier, String>,
    },
    /// A promotion.
    Deploy {
        /// Where to.
        environment: EnvironmentId,
        /// What: an expression that comes to a release's id, or to `application:version`.
        release: String,
    },
}

/// What has come, after its signature was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What the sender calls this kind of message; empty if it says nothing.
    pub event: String,
    /// What the sender calls this message; empty if it says nothing.
    pub id: String,
    /// The message.
    pub body: Value,
}

/// What a delivery starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A run of this workflow, given this.
    Run {
        /// Which.
        workflow: Name,
        /// What it is given.
        inputs: BTreeMap<Identifier, Value>,
    },
    /// A promotion of this release to this environment.
    Deploy {
        /// Where to.
        environment: EnvironmentId,
        /// What: an id, or `application:version`.
        release: String,
    },
}

impl Hook {
    /// The salts whose secrets are good at `now`: the current one first.
    pub fn salts(&self, now: Timestamp) -> impl Iterator<Item = Digest> {
        std::iter::once(self.salt).chain(self.formers(now).map(|former| former.salt))
    }

    /// The salts of before whose secrets are still good at `now`, the newest first.
    pub fn formers(&self, now: Timestamp) -> impl Iterator<Item = &FormerSalt> {
        self.formers.iter().rev().filter(move |former| former.until > now)
    }

    /// Who can choose what it asks for, beside its account: whoever has written what it starts, and whoever has seen a secret that is good
    /// at `now` and can send messages.
    pub(crate) fn choosers(&self, now: Timestamp) -> Vec<Actor> {
        let made = self.formers(now).filter_map(|former| former.by.as_ref()).chain(&self.rotated_by);
        choice::each_once(std::iter::once(&self.created_by).chain(made))
    }

    /// Whether this is all that it may ask for.
    #[must_use]
    pub fn may(&self, command: &TenantCommand) -> bool {
        match (&self.action, command) {
            (HookAction::Workflow { workflow, .. }, TenantCommand::StartRun(new)) => {
                new.workflow == *workflow
            }
            (HookAction::Deploy { environment, .. }, TenantCommand::Deploy(new)) => {
                new.environment == *environment && is_plain(new)
            }
            _ => false,
        }
    }

    /// What a delivery starts; `None` if its `when` does not hold.
    ///
    /// # Errors
    /// Names the expression that has no value for it, or the wrong one.
    pub fn wants(&self, delivery: &Delivery) -> Result<Option<Wanted>, Rejection> {
        let values = [
            ("body".to_owned(), delivery.body.clone()),
            ("event".to_owned(), delivery.event.clone().into()),
            ("delivery".to_owned(), delivery.id.clone().into()),
        ];
        let variables = Variables::new(BTreeMap::from(values), Meter::default());
        if let Some(when) = &self.when
            && !variables.holds(when).map_err(|problem| Rejection::invalid("when", problem))?
        {
            return Ok(None);
        }
        let value = |field: &str, source: &str| {
            evaluate(&variables, source).map_err(|it| Rejection::invalid(field, it))
        };
        Ok(Some(match &self.action {
            HookAction::Workflow { workflow, inputs } => {
                let given = inputs.iter().map(|(name, source)| {
                    Ok((name.clone(), value(&format!("workflow.inputs.{name}"), source)?))
                });
                let inputs = given.collect::<Result<_, Rejection>>()?;
                Wanted::Run { workflow: workflow.clone(), inputs }
            }
            HookAction::Deploy { environment, release } => {
                let Value::String(release) = value("deploy.release", release)? else {
                    let problem = "comes to no text; it must be application:version, or a release's id";
                    return Err(Rejection::invalid("deploy.release", problem));
                };
                Wanted::Deploy { environment: *environment, release }
            }
        }))
    }
}

/// Whether it has nothing that takes more than asking for it.
const fn is_plain(new: &NewDeployment) -> bool {
    new.override_freeze.is_none()
        && new.override_path.is_none()
        && new.waive_way_back.is_none()
        && !new.replace_application
        && new.job.is_none()
}

fn evaluate(variables: &Variables, source: &str) -> Result<Value, String> {
    variables.compiles(source.len())?;
    let expression = Expression::compile(source).map_err(|error| error.to_string())?;
    variables.evaluate(&expression)
}

/// What is wrong with the expressions of a hook that is to be.
pub(crate) fn check(action: &HookAction, when: Option<&str>) -> Result<(), Rejection> {
    if let Some(when) = when {
        compiles("when", when)?;
    }
    match action {
        HookAction::Workflow { inputs, .. } => {
            if inputs.len() > INPUTS_MAX {
                let problem = format!("there are {}; at most {INPUTS_MAX} are allowed", inputs.len());
                return Err(Rejection::invalid("workflow.inputs", problem));
            }
            inputs.iter().try_for_each(|(name, source)| compiles(&format!("workflow.inputs.{name}"), source))
        }
        HookAction::Deploy { release, .. } => compiles("deploy.release", release),
    }
}

fn compiles(field: &str, source: &str) -> Result<(), Rejection> {
    let expression =
        Expression::compile(source).map_err(|error| Rejection::invalid(field, error.to_string()))?;
    match expression.references().iter().find(|it| !VARIABLES.contains(&it.name.as_str())) {
        None => Ok(()),
        Some(it) => {
            let problem = format!("{}: there is no {}; there are {}", it.at, it.name, VARIABLES.join(", "));
            Err(Rejection::invalid(field, problem))
        }
    }
}
