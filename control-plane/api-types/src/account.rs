//! Who uses the API, and what they may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::Named;

/// A role, and where it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GiveRole {
    /// `viewer`, `deployer`, `operator` or `admin`, each of which may do what the ones before it may; or `approver`, who may see and decide.
    pub role: String,
    /// In which tenant: its name or id. In all of them, and outside of them, if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// In which environment of the tenant: its name or id. In all of the tenant if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

/// Somebody new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// A name, unique in the installation.
    pub name: String,
    /// `user` for a person, `service` for a program.
    #[serde(default = "user")]
    pub kind: String,
    /// What it may do; nothing if it is not given.
    #[serde(default)]
    pub roles: Vec<GiveRole>,
}

fn user() -> String {
    "user".to_owned()
}

/// What an account may do from now on, instead of what it may do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRoles {
    /// All of its roles.
    pub roles: Vec<GiveRole>,
}

/// A role, and where it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// `viewer`, `deployer`, `operator`, `admin` or `approver`. New ones may be added.
    pub role: String,
    /// In which tenant; everywhere if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Named>,
    /// In which environment; in all of the tenant if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Named>,
}

/// Who uses the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `user` or `service`.
    pub kind: String,
    /// What it may do.
    pub roles: Vec<Grant>,
    /// How many tokens it has.
    pub tokens: u64,
    /// When it was created.
    pub created_at: String,
    /// What is in vain now: approval rules that name it where it cannot approve. Absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What the removal of an account leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedAccount {
    /// Approval rules that still name it.
    pub warnings: Vec<String>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The id of the token that the request came with.
    pub token: String,
    /// Whose it is; absent for a token without an account, which may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
}
