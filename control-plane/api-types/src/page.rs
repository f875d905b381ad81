//! Shapes that many answers share.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Items in the order of their ids, or against it with `first=newest`, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T: ToSchema> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `cursor` for the next page; absent on the last one. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A thing that is referred to: its id and the name that people know it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name; the id again if the thing is gone.
    pub name: String,
}
