//! Values: JSON outside, the evaluator's inside.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use serde_json::{Number, Value};

use crate::error::Error;

/// Bytes of a text that weigh as much as one value.
const BYTES_A_WEIGHT: u64 = 16;

/// What a value weighs: see [`crate::cost`].
pub(crate) fn weight(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => text_weight(text),
        Value::Array(elements) => 1 + elements.iter().map(weight).sum::<u64>(),
        Value::Object(fields) => {
            1 + fields.iter().map(|(key, value)| text_weight(key) + weight(value)).sum::<u64>()
        }
    }
}

pub(crate) fn text_weight(text: &str) -> u64 {
    1 + u64::try_from(text.len()).unwrap_or(u64::MAX) / BYTES_A_WEIGHT
}

/// Whole numbers are `int` where they fit, so that they compare with the numbers that people write.
pub(crate) fn from_json(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(it) => cel::Value::Bool(*it),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => cel::Value::Int(int),
            (None, Some(uint)) => cel::Value::UInt(uint),
            (None, None) => number.as_f64().map_or(cel::Value::Null, cel::Value::Float),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(elements) => cel::Value::List(Arc::new(elements.iter().map(from_json).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (Key::from(key.as_str()), from_json(value)));
            cel::Value::Map(Map { map: Arc::new(fields.collect::<HashMap<_, _>>()) })
        }
    }
}

pub(crate) fn to_json(value: &cel::Value) -> Result<Value, Error> {
    let found = match value {
        cel::Value::Null => return Ok(Value::Null),
        cel::Value::Bool(it) => return Ok(Value::Bool(*it)),
        cel::Value::Int(int) => return Ok(Value::from(*int)),
        cel::Value::UInt(uint) => return Ok(Value::from(*uint)),
        cel::Value::Float(float) => match Number::from_f64(*float) {
            Some(number) => return Ok(Value::Number(number)),
            None => "a number that is infinite or none",
        },
        cel::Value::String(text) => return Ok(Value::from(text.as_str())),
        cel::Value::List(elements) => {
            return elements.iter().map(to_json).collect::<Result<_, _>>().map(Value::Array);
        }
        cel::Value::Map(map) => {
            let fields = map.map.iter().map(|(key, value)| match key {
                Key::String(key) => Ok((key.as_str().to_owned(), to_json(value)?)),
                Key::Int(_) | Key::Uint(_) | Key::Bool(_) => {
                    Err(Error::NotJson { found: "a map with keys that are not texts" })
                }
            });
            return fields.collect::<Result<_, _>>().map(Value::Object);
        }
        cel::Value::Bytes(_) => "bytes",
        cel::Value::Function(..) | cel::Value::Opaque(_) | cel::Value::Struct(_) => "a type or a function",
    };
    Err(Error::NotJson { found })
}

/// What a value is, for a person.
pub(crate) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
