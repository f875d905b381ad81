//! What a run is given, and what a person is asked for in the middle of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::VALUE_BYTES_MAX;

/// Something that is asked for: by a run, or of a person in the middle of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: InputKind,
    /// What it means, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it is if nobody says; without, somebody has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// For texts: how many characters there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// For numbers: the smallest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// For numbers: the largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// For choices: what there is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// True or false.
    Boolean,
    /// One of several texts.
    Choice,
}

impl Input {
    /// Whether a value is one of these.
    ///
    /// # Errors
    /// If not, with what would be.
    pub fn accepts(&self, value: &Value) -> Result<(), String> {
        match (self.kind, value) {
            (InputKind::Boolean, Value::Bool(_)) => Ok(()),
            (InputKind::Boolean, _) => Err("must be true or false".to_owned()),
            (InputKind::Number, value) => {
                let number = value.as_i64().ok_or("must be a whole number")?;
                let (min, max) = (self.min.unwrap_or(i64::MIN), self.max.unwrap_or(i64::MAX));
                if number < min {
                    return Err(format!("is {number}; it must be at least {min}"));
                }
                if number > max {
                    return Err(format!("is {number}; it must be at most {max}"));
                }
                Ok(())
            }
            (InputKind::Text, Value::String(text)) => {
                let length = text.chars().count();
                let max =
                    self.max_length.map_or(VALUE_BYTES_MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
                if length > max || text.len() > VALUE_BYTES_MAX {
                    let max = max.min(VALUE_BYTES_MAX);
                    return Err(format!("has {length} characters; it may have {max}"));
                }
                Ok(())
            }
            (InputKind::Choice, Value::String(text)) if self.options.contains(text) => Ok(()),
            (InputKind::Choice, _) => Err(format!("must be one of {}", self.options.join(", "))),
            (InputKind::Text, _) => Err("must be a text".to_owned()),
        }
    }
}
