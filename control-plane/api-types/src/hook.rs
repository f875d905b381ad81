//! Incoming webhooks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Actor;
use crate::page::Named;

/// A new hook. Exactly one of `workflow` and `deploy` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateHook {
    /// Its name, unique in the tenant.
    pub name: String,
    /// The service account whose authority it has: a name or an id.
    pub account: String,
    /// Runs a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<HookWorkflow>,
    /// Asks for a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<HookDeploy>,
    /// An expression over `body`, `event` and `delivery`: what it does not hold for is taken and starts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// Runs a workflow, at its newest version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HookWorkflow {
    /// Its name.
    pub name: String,
    /// What it is given: for each input an expression over `body`, `event` and `delivery`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// Asks for a promotion, as `stella deploy` does with nothing but these two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HookDeploy {
    /// Where to: a name or an id.
    pub environment: String,
    /// What: an expression that comes to `application:version`, or to a release's id.
    pub release: String,
}

/// A hook. Its secret is in no answer but the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hook {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where messages for it go: a path of this API.
    pub path: String,
    /// The service account whose authority it has. One that was removed has its id as its name: the hook starts nothing.
    pub account: Named,
    /// The workflow that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<HookWorkflow>,
    /// The promotion that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<HookDeploy>,
    /// What it must hold for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Until when a secret before this one is still good: the last of them, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_secret_until: Option<String>,
    /// When it was created.
    pub created_at: String,
    /// By whom.
    pub created_by: Actor,
}

/// The answer to the creation of a hook, and to the rotation of its secret.
///
/// Not `Debug`: it carries a secret.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[expect(missing_debug_implementations, reason = "it carries a secret")]
pub struct HookSecretMade {
    /// The secret. Shown once: absent when an idempotent request is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Why there is no secret in this answer, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The hook.
    pub details: Hook,
}

/// Another secret for a hook's sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateHook {
    /// For how long the secret before it is still good, in seconds: 0 if not given, 604800 (7 days) at most.
    #[serde(default)]
    pub overlap_seconds: u64,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookTaken {
    /// `started`, `waits` (a promotion that waits for approvals or gates), or `ignored` (`when` does not hold for it).
    pub status: String,
    /// Whether it had come before, under the same delivery id, and nothing new was started.
    pub repeated: bool,
    /// The run that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The deployment that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The promotion that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<String>,
}
