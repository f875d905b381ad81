//! What people hold back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Actor;

/// Who held something back, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Why, for people.
    pub reason: String,
    /// Who.
    pub by: Actor,
    /// Since when.
    pub since: String,
}

/// Holds something back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldBack {
    /// Why, for people.
    pub reason: String,
}
