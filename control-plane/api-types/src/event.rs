//! The feed of events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A durable fact of a tenant, as it is in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the tenant's stream, from 0. Also the `id` in the event stream.
    pub position: u64,
    /// What happened, for example `deployment_succeeded`. Also the `event` in the event stream. New ones may be added.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub at: String,
    /// Who caused it.
    pub actor: Actor,
    /// In which trace, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What the request is called that caused it: its `x-correlation-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// What some of the ids in `data` stand for, as far as it is known: `release` (`application:version`), `environment`, `target`,
    /// `agent`, `step`, `deployment` (the id, if `data` has only that of a task).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub about: BTreeMap<String, String>,
    /// The fields of this type of event. Secrets' hashes are left out.
    #[schema(value_type = Object)]
    pub data: serde_json::Map<String, serde_json::Value>,
}

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// `system`, `api_token` or `agent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id of the token or the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name of the token's account, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// The end of a tenant's journal stream: noted elsewhere, it shows later that nothing before it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalHead {
    /// The random name of this life of the journal; an imported journal has another.
    pub incarnation: String,
    /// How many events there are.
    pub position: u64,
    /// The hash over all of them, `sha256:` and 64 hex digits; absent before the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}
