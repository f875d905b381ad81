//! The effective values, with where each came from.

use serde::Serialize;
use serde_json::Value;

use crate::Layers;

/// One key as it is in effect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its full name.
    pub key: String,
    /// Its value; `null` if it has none, and masked if it is a secret.
    pub value: Value,
    /// `default`, a file, a variable or a flag.
    pub origin: String,
    /// Whether a reload takes over another value.
    pub reloads: bool,
}

impl Layers {
    /// All keys with their effective values, in the order of the table. `values` is the checked configuration as JSON.
    #[must_use]
    pub fn effective(&self, values: &Value) -> Vec<Shown> {
        let leaves = leaves(values);
        let mut shown = Vec::new();
        for key in self.keys() {
            for (name, value) in leaves.iter().filter(|(name, _)| key.covers(name)) {
                let is_secret = key.is_secret() && !value.is_null();
                shown.push(Shown {
                    key: name.clone(),
                    value: if is_secret { Value::from("***") } else { value.clone() },
                    origin: self.origin(name),
                    reloads: key.reloads,
                });
            }
        }
        shown
    }
}

/// The values of a tree by their full names; lists are values.
#[must_use]
pub fn leaves(values: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect("", values, &mut found);
    found
}

fn collect(prefix: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    let Value::Object(fields) = value else {
        found.push((prefix.to_owned(), value.clone()));
        return;
    };
    for (key, value) in fields {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        collect(&name, value, found);
    }
}
