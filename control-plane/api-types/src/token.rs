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
    /// For how long it is good, in seconds; for ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// The longest life of a token that has an end, in seconds: ten years.
pub const EXPIRES_IN_SECONDS_MAX: u64 = 10 * 365 * 24 * 3_600;

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
    /// From when on it lets nobody in; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
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
