//! The effective values, with where each came from.

use serde::Serialize;
use serde_json::Value;

use crate::Layers;

/// What is shown instead of a secret.
pub const MASKED: &str = "***";
/// A shorter part of an address's path is a word, and no secret that holds.
const SECRET_PART_BYTES_MIN: usize = 16;

/// One key as it is in effect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its full name.
    pub key: String,
    /// Its value; `null` if it has none.
    pub value: Value,
    /// `default`, a file, a variable or a flag.
    pub origin: String,
    /// Whether a reload takes over another value.
    pub reloads: bool,
}

impl Layers {
    /// All keys with their effective values, in the order of the table, for people: what is secret is masked, by the name of the key and
    /// in addresses. `values` is the checked configuration as JSON.
    #[must_use]
    pub fn effective(&self, values: &Value) -> Vec<Shown> {
        let mut shown = self.in_effect(values);
        for it in &mut shown {
            let is_secret = self.keys().iter().any(|key| key.covers(&it.key) && key.is_secret());
            if is_secret && !it.value.is_null() {
                it.value = Value::from(MASKED);
            }
            mask_addresses(&mut it.value);
        }
        shown
    }

    /// All keys with their effective values as they are: to compare them, and not to show them.
    #[must_use]
    pub fn in_effect(&self, values: &Value) -> Vec<Shown> {
        let leaves = leaves(values);
        let mut shown = Vec::new();
        for key in self.keys() {
            for (name, value) in leaves.iter().filter(|(name, _)| key.covers(name)) {
                shown.push(Shown {
                    key: name.clone(),
                    value: value.clone(),
                    origin: self.origin(name),
                    reloads: key.reloads,
                });
            }
        }
        shown
    }
}

fn mask_addresses(value: &mut Value) {
    match value {
        Value::String(text) => *text = masked_address(text),
        Value::Array(items) => items.iter_mut().for_each(mask_addresses),
        Value::Object(fields) => fields.values_mut().for_each(mask_addresses),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// An address without what in it may be what lets in: user and password, the long parts of its path, the values of its query, its
/// fragment. What is no address stays as it is.
#[must_use]
pub fn masked_address(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (path, rest) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let (query, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let mut masked = format!("{scheme}://");
    match authority.rsplit_once('@') {
        Some((_, host)) => masked.extend([MASKED, "@", host]),
        None => masked.push_str(authority),
    }
    let is_secret = |part: &&str| part.len() >= SECRET_PART_BYTES_MIN;
    let parts: Vec<_> =
        path.split('/').map(|part| Some(part).filter(is_secret).map_or(part, |_| MASKED)).collect();
    masked.push_str(&parts.join("/"));
    if let Some(query) = query.strip_prefix('?') {
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name, _)) => format!("{name}={MASKED}"),
            None => MASKED.to_owned(),
        };
        masked.push('?');
        masked.push_str(&query.split('&').map(pair).collect::<Vec<_>>().join("&"));
    }
    if !fragment.is_empty() {
        masked.extend(["#", MASKED]);
    }
    masked
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
