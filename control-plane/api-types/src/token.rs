//! Bearer tokens of the API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::Named;

/// A new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiToken {
    /// What it is for, for people: 1 to 128 characters.
    pub name: String,
    /// Whose it is: an account's name or id. Without one it may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// What is known of a token. The token itself is not: only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Its id: who did something, in events.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Whose it is; absent for one that may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Named>,
    /// Whether this request came with it.
    pub is_yours: bool,
    /// When it was created.
    pub created_at: String,
}

/// The answer to the creation of a token.
///
/// Not `Debug`: it carries a secret.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[expect(missing_debug_implementations, reason = "it carries a secret")]
pub struct ApiTokenCreated {
    /// The token. Shown once: absent when an idempotent request is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Why there is no token in this answer, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What is known of it.
    pub details: ApiToken,
}
