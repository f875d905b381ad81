//! `${name}` in texts, by the crate `subst`.
//!
//! That crate also knows `$name` and escapes with a backslash. Steps hold shell scripts and regular expressions, where both
//! mean something else; so a text is translated first: only `${` is special, and `$${` is a literal `${`.

use std::borrow::Cow;

use subst::VariableMap;

/// How deep references may be nested in defaults. Parsing is recursive, and texts come from outside.
const NESTING_MAX: u32 = 4;

/// Why a text cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// It refers to something that there is not.
    #[error("there is no variable {name}")]
    Missing {
        /// Which.
        name: String,
    },
    /// It is not well-formed.
    #[error("{problem}; write ${{name}} for a variable and $${{ for a literal ${{")]
    Syntax {
        /// What is wrong.
        problem: String,
    },
}

/// How many references there are, at most.
pub(crate) fn references(text: &str) -> usize {
    // What is escaped is none.
    text.matches("${").count() - text.matches("$${").count()
}

/// Whether it can be filled in if all variables are there.
pub(crate) fn check(text: &str) -> Result<(), TemplateError> {
    let prepared = prepare(text)?;
    subst::Template::from_str(&prepared).map(drop).map_err(|error| syntax(&error))
}

/// Fills it in.
pub(crate) fn expand<'v, M>(text: &str, variables: &'v M) -> Result<String, TemplateError>
where
    M: VariableMap<'v>,
    M::Value: AsRef<str>,
{
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    let prepared = prepare(text)?;
    let template = subst::Template::from_str(&prepared).map_err(|error| syntax(&error))?;
    template.expand(variables).map_err(|error| match error {
        subst::error::ExpandError::NoSuchVariable(missing) => TemplateError::Missing { name: missing.name },
    })
}

fn syntax(error: &subst::error::ParseError) -> TemplateError {
    TemplateError::Syntax { problem: error.to_string() }
}

/// Our text in the language of `subst`.
fn prepare(text: &str) -> Result<Cow<'_, str>, TemplateError> {
    if !text.contains(['$', '\\']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut prepared = String::with_capacity(text.len() + 8);
    let mut nesting = 0_u32;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let taken = if rest.starts_with("$${") {
            prepared.push_str("\\$\\{");
            3
        } else if rest.starts_with("${") {
            nesting += 1;
            prepared.push_str("${");
            2
        } else {
            match character {
                '$' | '\\' => prepared.push('\\'),
                '{' if nesting > 0 => nesting += 1,
                '}' => nesting = nesting.saturating_sub(1),
                _ => {}
            }
            prepared.push(character);
            character.len_utf8()
        };
        if nesting > NESTING_MAX {
            return Err(TemplateError::Syntax {
                problem: format!("references are nested deeper than {NESTING_MAX}"),
            });
        }
        rest = &rest[taken..];
    }
    Ok(Cow::Owned(prepared))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn filled(text: &str) -> Result<String, TemplateError> {
        check(text)?;
        expand(text, &BTreeMap::from([("port", "80"), ("a", "A")]))
    }

    #[test]
    fn only_braces_refer() {
        for (text, want) in [
            ("plain", "plain"),
            ("http://h:${port}/", "http://h:80/"),
            ("${none:x${a}y}", "xAy"),
            (r"sed 's/\./x/' $HOME $? $1 \", r"sed 's/\./x/' $HOME $? $1 \"),
            ("awk '{print $1}' ${port}", "awk '{print $1}' 80"),
            ("$${port} ${port}", "${port} 80"),
            ("ü${port}ü", "ü80ü"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(filled("${user}"), Err(TemplateError::Missing { name: "user".to_owned() }));
        for text in ["${", "${}", "${port", "${po rt}", "${a:${a:${a:${a:${a:x}}}}}"] {
            assert!(matches!(filled(text), Err(TemplateError::Syntax { .. })), "{text}");
        }
        let deep = "${a:".repeat(50_000);
        assert!(matches!(filled(&deep), Err(TemplateError::Syntax { .. })));
    }
}
