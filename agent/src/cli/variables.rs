//! The environment beside what the command line's parser reads of it: a variable that nobody reads would be passed over without a word,
//! and with it what somebody has meant to forbid.

use crate::config::{Error, KEYS};
use crate::policy::Kind;

/// What the names of all of the agent's variables begin with.
const PREFIX: &str = "STELLA_AGENT_";
/// The variable of `policy.allow`.
pub(super) const ALLOW: &str = "STELLA_AGENT_ALLOW";
/// Its name by the rule that all others follow.
pub(super) const ALLOW_BY_RULE: &str = "STELLA_AGENT_POLICY_ALLOW";
/// Variables that are no keys of the configuration.
const OTHERS: [&str; 5] = ["CONFIG", "TOKEN", "PROFILE", "DELEGATED", "POLICY_UNITS_REQUIRED"];

/// The variable of a key of the file.
pub(super) fn of_key(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Refuses variables that look like the agent's and are not.
///
/// # Errors
/// Names the first one, and what may have been meant.
pub(super) fn refuse_unknown(names: impl Iterator<Item = String>) -> Result<(), Error> {
    let mut known: Vec<_> = KEYS.iter().map(|key| of_key(key.name)).collect();
    known.extend(OTHERS.map(|name| format!("{PREFIX}{name}")));
    known.push(ALLOW.to_owned());
    for name in names.filter(|name| name.starts_with(PREFIX)) {
        if !known.contains(&name) {
            let meant =
                stella_settings::most_like(&name, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(Error::UnknownVariable { name, meant });
        }
    }
    Ok(())
}

/// What the environment says of `policy.allow`, by either name.
///
/// # Errors
/// If the two differ, or one is not understood.
pub(super) fn allowed(short: Option<&str>, by_rule: Option<&str>) -> Result<Option<Vec<Kind>>, Error> {
    if let (Some(short), Some(by_rule)) = (short, by_rule)
        && short != by_rule
    {
        return Err(Error::TwoVariables { one: ALLOW, other: ALLOW_BY_RULE });
    }
    let Some(text) = by_rule.or(short) else { return Ok(None) };
    let kinds: Result<Vec<Kind>, _> = text.split(',').map(str::parse).collect();
    kinds.map(Some).map_err(|_| Error::Value {
        key: "policy.allow",
        value: text.to_owned(),
        expected: "use artifact, command, check and systemd, with commas between them",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_nobody_reads_is_refused_with_the_one_that_was_meant() {
        let check =
            |name: &str| refuse_unknown([name.to_owned()].into_iter()).map_err(|error| error.to_string());
        for known in ["PATH", "STELLA_AGENT_ALLOW", "STELLA_AGENT_POLICY_ALLOW", "STELLA_AGENT_TOKEN"] {
            check(known).expect(known);
        }
        KEYS.iter().for_each(|key| check(&of_key(key.name)).expect(key.name));
        assert_eq!(
            check("STELLA_AGENT_POLICY_ALOW").unwrap_err(),
            "there is no variable STELLA_AGENT_POLICY_ALOW; did you mean STELLA_AGENT_POLICY_ALLOW?"
        );
        assert_eq!(check("STELLA_AGENT_X").unwrap_err(), "there is no variable STELLA_AGENT_X");
    }

    #[test]
    fn a_policy_is_read_by_either_name_and_not_by_two_that_differ() {
        let artifact = Some(vec![Kind::Artifact]);
        assert_eq!(allowed(None, None).unwrap(), None);
        assert_eq!(allowed(Some("artifact"), None).unwrap(), artifact);
        assert_eq!(allowed(None, Some("artifact")).unwrap(), artifact);
        assert_eq!(allowed(Some("artifact"), Some("artifact")).unwrap(), artifact);
        let error = allowed(Some("artifact,command"), Some("artifact")).unwrap_err().to_string();
        assert!(error.contains(ALLOW) && error.contains(ALLOW_BY_RULE), "{error}");
        allowed(None, Some("artefact")).unwrap_err();
    }
}
