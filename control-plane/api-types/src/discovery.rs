//! What Prometheus asks for: whom to scrape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something to scrape, in the form of Prometheus' HTTP discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetGroup {
    /// One address, `host:port`.
    pub targets: Vec<String>,
    /// `__scheme__`, and what is known of it under names that begin with `__meta_stella_`: for relabelling.
    pub labels: BTreeMap<String, String>,
}
