//! Bounds that several commands share.

use std::collections::BTreeMap;

use crate::rejection::Rejection;
use crate::render;

/// How many labels a thing may have: each may become a metric's label or a filter.
const LABELS_MAX: usize = 32;
/// How many variables a target may have.
const VARIABLES_MAX: usize = 64;
/// How long a label's or a variable's name may be, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// How long a label's value may be, in bytes.
const LABEL_BYTES_MAX: usize = 255;
/// How long a variable's value may be, in bytes. It bounds what a step grows to when it is filled in.
const VARIABLE_BYTES_MAX: usize = 4096;
/// How long a reason may be, in bytes.
const REASON_BYTES_MAX: usize = 1024;

pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<(), Rejection> {
    if labels.len() > LABELS_MAX {
        return Err(Rejection::invalid(
            "labels",
            format!("there are {}; at most {LABELS_MAX} are allowed", labels.len()),
        ));
    }
    for (name, value) in labels {
        label_name(&format!("labels.{}", shown(name)), name)?;
        if value.len() > LABEL_BYTES_MAX || value.contains(char::is_control) {
            let problem =
                format!("a label's value has at most {LABEL_BYTES_MAX} bytes and no control characters");
            return Err(Rejection::invalid(format!("labels.{name}"), problem));
        }
    }
    Ok(())
}

pub(super) fn label_name(field: &str, name: &str) -> Result<(), Rejection> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let problem =
            format!("a label's name has 1 to {NAME_BYTES_MAX} letters, digits, '-', '_', '.' and '/'");
        return Err(Rejection::invalid(field, problem));
    }
    Ok(())
}

pub(super) fn variables(variables: &BTreeMap<String, String>) -> Result<(), Rejection> {
    if variables.len() > VARIABLES_MAX {
        let problem = format!("there are {}; at most {VARIABLES_MAX} are allowed", variables.len());
        return Err(Rejection::invalid("variables", problem));
    }
    for (name, value) in variables {
        let field = format!("variables.{}", shown(name));
        if name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            let problem = format!("a variable's name has 1 to {NAME_BYTES_MAX} letters, digits and '_'");
            return Err(Rejection::invalid(field, problem));
        }
        if render::BUILT_IN.contains(&name.as_str()) {
            return Err(Rejection::invalid(field, "is built in and cannot be set; choose another name"));
        }
        if value.len() > VARIABLE_BYTES_MAX || value.contains('\0') {
            let problem = format!("a variable's value has at most {VARIABLE_BYTES_MAX} bytes and no NUL");
            return Err(Rejection::invalid(field, problem));
        }
    }
    Ok(())
}

/// A person's reason: it goes into the journal and is shown.
pub(super) fn reason(reason: &str) -> Result<(), Rejection> {
    if reason.len() > REASON_BYTES_MAX {
        let problem = format!("has {} bytes; at most {REASON_BYTES_MAX} are allowed", reason.len());
        return Err(Rejection::invalid("reason", problem));
    }
    Ok(())
}

/// A text that came from outside, cut for showing.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A number that must lie in a range, its ends included.
pub(super) fn range(
    field: impl Into<String>,
    value: u64,
    (min, max): (u64, u64),
    unit: &str,
) -> Result<(), Rejection> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Rejection::invalid(field, format!("is {value}; it must be between {min} and {max}{unit}")))
}
