//! Texts with `${expressions}` in them. `$${` is a literal `${`.
//!
//! Some texts are read twice: what a run has filled in is filled in once more for each target. In those a bare name, as in `${port}` or
//! `${port:80}`, is the target's, and is left for it; and whatever an expression has come to stays what it is, also if it looks like such
//! a name.

use serde_json::Value;
use stella_expression::Expression;

use super::quoting;
use super::variables::Variables;

/// How many expressions a text may have.
const EXPRESSIONS_MAX: usize = 32;
/// How long a filled-in text may be, in bytes.
const RENDERED_BYTES_MAX: usize = 64 << 10;

/// What expressions of a run can use, beside their own macros.
const OF_RUN: [&str; 4] = ["inputs", "steps", "run", "item"];

/// A text in its parts.
#[derive(Debug)]
pub(crate) struct Text(Vec<Part>);

#[derive(Debug)]
enum Part {
    Literal(String),
    Expression(Box<Expression>),
    /// A name that a target fills in, as it is written.
    Reference(String),
}

/// Who reads a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A run alone.
    Run,
    /// A run, and then each target.
    Target,
}

impl Text {
    /// Takes a text apart.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_for(Reader::Run, text)
    }

    /// Takes a text apart that each target reads as well.
    pub(crate) fn parse_for_target(text: &str) -> Result<Self, String> {
        Self::parse_for(Reader::Target, text)
    }

    fn parse_for(reader: Reader, text: &str) -> Result<Self, String> {
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
            if reader == Reader::Target
                && let Some(name) = reference(rest)
            {
                let end = reference_end(rest).ok_or("has a ${ without its }; write $${ for a literal ${")?;
                let (inner, after) = rest.split_at(end);
                if inner.contains("${") {
                    return Err(format!(
                        "the default of ${{{name}}} has a ${{ in it; a plain text is possible there"
                    ));
                }
                parts.push(Part::Reference(format!("${{{inner}}}")));
                left = after.get(1..).unwrap_or_default();
                continue;
            }
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
            Part::Literal(_) | Part::Reference(_) => None,
        })
    }

    fn fill_in(&self, variables: &Variables) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) | Part::Reference(literal) => text.push_str(literal),
                Part::Expression(expression) => text.push_str(&value(expression, variables)?),
            }
            is_bounded(&text)?;
        }
        Ok(text)
    }

    /// Fills it in for somebody who reads more in it than a text.
    fn fill_in_for(&self, mut syntax: impl quoting::Syntax, variables: &Variables) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) | Part::Reference(literal) => {
                    syntax.literal(literal)?;
                    text.push_str(literal);
                }
                Part::Expression(expression) => text.push_str(&syntax.value(&value(expression, variables)?)?),
            }
            is_bounded(&text)?;
        }
        syntax.end()?;
        Ok(text)
    }

    /// Fills it in for a target to fill in once more: what is literal now is literal there, too. `value` is what an expression comes to.
    pub(crate) fn fill_in_for_target(
        &self,
        value: &dyn Fn(&Expression) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            let literal = match part {
                Part::Literal(literal) => literal,
                Part::Expression(expression) => &value(expression)?,
                Part::Reference(_) if text.ends_with('$') => {
                    return Err("has a value that ends in $ right before a name of the target".to_owned());
                }
                Part::Reference(reference) => {
                    text.push_str(reference);
                    continue;
                }
            };
            // Two parts must not become a reference together.
            if text.ends_with('$') && literal.starts_with('{') {
                text.push('$');
            }
            text.push_str(&literal.replace("${", "$${"));
            is_bounded(&text)?;
        }
        Ok(text)
    }
}

fn value(expression: &Expression, variables: &Variables) -> Result<String, String> {
    match variables.evaluate(expression)? {
        Value::String(value) => Ok(value),
        value @ (Value::Number(_) | Value::Bool(_)) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err("an expression in it is no text, number or truth value".to_owned())
        }
    }
}

fn is_bounded(text: &str) -> Result<(), String> {
    if text.len() > RENDERED_BYTES_MAX {
        return Err(format!("becomes longer than {RENDERED_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Fills a text in.
pub(crate) fn render(text: &str, variables: &Variables) -> Result<String, String> {
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    variables.compiles(text.len())?;
    Text::parse(text)?.fill_in(variables)
}

/// Fills in a text that is more to its reader than a text. One without expressions is what the template says.
pub(crate) fn render_for(
    syntax: impl quoting::Syntax,
    text: &str,
    variables: &Variables,
) -> Result<String, String> {
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    variables.compiles(text.len())?;
    Text::parse(text)?.fill_in_for(syntax, variables)
}

/// Fills a text in that each target fills in once more.
pub(crate) fn render_for_target(text: &str, variables: &Variables) -> Result<String, String> {
    if text.contains("${") {
        variables.compiles(text.len())?;
    }
    Text::parse_for_target(text)?.fill_in_for_target(&|expression| value(expression, variables))
}

/// The name of the target's that is referred to here, behind a `${`: a bare one, maybe with a default. What a run has is none.
fn reference(source: &str) -> Option<&str> {
    let end = source.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, rest) = source.split_at(end);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (is_name && rest.starts_with(['}', ':']) && !OF_RUN.contains(&name)).then_some(name)
}

/// Where a reference ends: at the brace that closes it.
fn reference_end(source: &str) -> Option<usize> {
    let mut deep = 0_u32;
    for (at, c) in source.char_indices() {
        match c {
            '{' => deep += 1,
            '}' if deep == 0 => return Some(at),
            '}' => deep -= 1,
            _ => {}
        }
    }
    None
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
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::variables::Meter;
    use super::*;

    fn inputs(inputs: Value) -> Variables {
        Variables::new(BTreeMap::from([("inputs".to_owned(), inputs)]), Meter::default())
    }

    #[test]
    fn expressions_in_a_text_become_their_values() {
        let variables = inputs(json!({ "n": 3, "who": "Änne" }));
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

    #[test]
    fn what_a_target_fills_in_is_left_for_it_and_nothing_becomes_such_by_accident() {
        let variables =
            inputs(json!({ "n": 3, "sly": "${port}", "cut": "cost$", "brace": "{port}", "deep": "$${x}" }));
        let target = BTreeMap::from([("port".to_owned(), "80".to_owned())]);
        for (text, between, read) in [
            ("plain $HOME", "plain $HOME", "plain $HOME"),
            ("${port}/${inputs.n}", "${port}/3", "80/3"),
            ("${none:a{b}c} ${port:1}", "${none:a{b}c} ${port:1}", "a{b}c 80"),
            ("${inputs.sly}", "$${port}", "${port}"),
            ("$${port}", "$${port}", "${port}"),
            ("${inputs.cut}{port}", "cost$${port}", "cost${port}"),
            ("${inputs.cut}${inputs.brace}", "cost$${port}", "cost${port}"),
            ("$${inputs.brace}", "$${inputs.brace}", "${inputs.brace}"),
            ("$${x} ${inputs.deep}", "$${x} $$${x}", "${x} $${x}"),
            ("a$", "a$", "a$"),
        ] {
            let filled = render_for_target(text, &variables);
            assert_eq!(filled.as_deref(), Ok(between), "{text}");
            assert_eq!(crate::template::expand(between, &target).as_deref(), Ok(read), "{text}");
        }
        for (text, problem) in [
            ("${port", "has a ${ without its }; write $${ for a literal ${"),
            ("${port:8", "has a ${ without its }; write $${ for a literal ${"),
            ("${port:${inputs.n}}", "the default of ${port} has a ${ in it; a plain text is possible there"),
            ("${inputs.cut}${port}", "has a value that ends in $ right before a name of the target"),
            ("${inputs}", "an expression in it is no text, number or truth value"),
        ] {
            assert_eq!(render_for_target(text, &variables), Err(problem.to_owned()), "{text}");
        }
    }
}
