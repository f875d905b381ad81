//! Texts with `${expressions}` in them. `$${` is a literal `${`.

use std::collections::BTreeMap;

use serde_json::Value;
use stella_expression::{Error, Expression};

/// How many expressions a text may have.
const EXPRESSIONS_MAX: usize = 32;
/// How long a filled-in text may be, in bytes.
const RENDERED_BYTES_MAX: usize = 64 << 10;

/// A text in its parts.
#[derive(Debug)]
pub(crate) struct Text(Vec<Part>);

#[derive(Debug)]
enum Part {
    Literal(String),
    Expression(Box<Expression>),
}

impl Text {
    /// Takes a text apart.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut left) = (Vec::new(), text);
        while let Some(at) = left.find("${") {
            let (before, rest) = left.split_at(at);
            let rest = rest.get(2..).unwrap_or_default();
            if let Some(before) = before.strip_suffix('$') {
                parts.push(Part::Literal(format!("{before}${{")));
                left = rest;
                continue;
            }
            parts.push(Part::Literal(before.to_owned()));
            let end = end(rest).ok_or("has a ${ without its }; write $${ for a literal ${")?;
            let (source, after) = rest.split_at(end);
            let expression = Expression::compile(source).map_err(|error| format!("${{{source}}} {error}"))?;
            parts.push(Part::Expression(Box::new(expression)));
            if parts.len() > 2 * EXPRESSIONS_MAX {
                return Err(format!("has more than {EXPRESSIONS_MAX} expressions"));
            }
            left = after.get(1..).unwrap_or_default();
        }
        parts.push(Part::Literal(left.to_owned()));
        Ok(Self(parts))
    }

    /// Its expressions.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.0.iter().filter_map(|part| match part {
            Part::Expression(expression) => Some(&**expression),
            Part::Literal(_) => None,
        })
    }

    fn fill_in(&self, variables: &BTreeMap<String, Value>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Expression(expression) => match expression.evaluate(variables).map_err(said)? {
                    Value::String(value) => text.push_str(&value),
                    value @ (Value::Number(_) | Value::Bool(_)) => text.push_str(&value.to_string()),
                    Value::Null | Value::Array(_) | Value::Object(_) => {
                        return Err("an expression in it is no text, number or truth value".to_owned());
                    }
                },
            }
            if text.len() > RENDERED_BYTES_MAX {
                return Err(format!("becomes longer than {RENDERED_BYTES_MAX} bytes"));
            }
        }
        Ok(text)
    }
}

fn said(error: Error) -> String {
    format!("an expression in it {error}")
}

/// Fills a text in.
pub(crate) fn render(text: &str, variables: &BTreeMap<String, Value>) -> Result<String, String> {
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    Text::parse(text)?.fill_in(variables)
}

/// Where the expression ends: at the first brace that closes none of its own and is in no text of its.
fn end(source: &str) -> Option<usize> {
    let (mut deep, mut quote, mut escaped) = (0_u32, None, false);
    for (at, c) in source.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => deep += 1,
            (None, '}') if deep == 0 => return Some(at),
            (None, '}') => deep -= 1,
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_in_a_text_become_their_values() {
        let variables = BTreeMap::from([("inputs".to_owned(), json!({ "n": 3, "who": "Änne" }))]);
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("${inputs.n}", Ok("3")),
            ("a ${inputs.who} b ${inputs.n > 2}", Ok("a Änne b true")),
            ("$${inputs.n}", Ok("${inputs.n}")),
            ("${{'}': 'brace'}['}']}!", Ok("brace!")),
            ("${'it\\'s }'}", Ok("it's }")),
            ("${inputs.n", Err("has a ${ without its }; write $${ for a literal ${")),
            ("${[1]}", Err("an expression in it is no text, number or truth value")),
            ("${inputs.x}", Err("an expression in it has no value: No such key: x")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(render(text, &variables), expected, "{text}");
        }
    }
}
