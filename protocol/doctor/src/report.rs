//! What was found.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It cannot be found out here.
    Unknown,
    /// It works, and will not or not well one day.
    Warn,
    /// It does not work.
    Fail,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a word or two.
    pub check: Cow<'static, str>,
    /// How it is.
    pub verdict: Verdict,
    /// What was found and what that means, in one line without secrets.
    pub detail: String,
    /// What to do: a command where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All that was looked at, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Findings(Vec<Check>);

impl Findings {
    /// Something is as it should be.
    pub fn ok(&mut self, check: impl Into<Cow<'static, str>>, detail: impl Into<String>) {
        self.push(check.into(), Verdict::Ok, detail.into(), None);
    }

    /// Something cannot be found out here.
    pub fn unknown(&mut self, check: impl Into<Cow<'static, str>>, detail: impl Into<String>) {
        self.push(check.into(), Verdict::Unknown, detail.into(), None);
    }

    /// Something works, and will not or not well one day.
    pub fn warn(
        &mut self,
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(check.into(), Verdict::Warn, detail.into(), Some(remedy.into()));
    }

    /// Something does not work.
    pub fn fail(
        &mut self,
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(check.into(), Verdict::Fail, detail.into(), Some(remedy.into()));
    }

    /// What others said may be in a detail, and names that they chose in a remedy: no secret and no control character get past
    /// this.
    fn push(&mut self, check: Cow<'static, str>, verdict: Verdict, detail: String, remedy: Option<String>) {
        let clean =
            |text: String| stella_telemetry::redact_text(&text.replace(|c: char| c.is_control(), " "));
        self.0.push(Check { check, verdict, detail: clean(detail), remedy: remedy.map(clean) });
    }

    /// Whether nothing fails.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.0.iter().all(|check| check.verdict != Verdict::Fail)
    }

    /// What was looked at, in its order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.0
    }

    /// For people: a line for each, and a line below it with what to do.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Check { check, verdict, detail, remedy } in &self.0 {
            let word = match verdict {
                Verdict::Ok => "ok  ",
                Verdict::Unknown => "?   ",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            };
            // Writing to a string does not fail.
            writeln!(text, "{word}  {check}: {detail}").ok();
            if let Some(remedy) = remedy {
                writeln!(text, "      -> {remedy}").ok();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_one_line_without_secrets() {
        let mut findings = Findings::default();
        findings.ok("a", "fine");
        assert!(findings.is_well());
        findings.warn("b", "line one\nline two \u{1b}[31m, password=hunter2hunter2", "mend it");
        assert!(findings.is_well());
        findings.fail("d", "broken", "look at\n\u{1b}[31m, password=hunter2hunter2");
        findings.fail("c", "broken", "do: this");
        assert!(!findings.is_well());
        let text = findings.text();
        assert!(!text.contains("hunter2") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(text.ends_with("FAIL  c: broken\n      -> do: this\n"), "{text}");
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(json[0], serde_json::json!({"check": "a", "verdict": "ok", "detail": "fine"}));
        assert_eq!(json[3]["remedy"], "do: this");
    }
}
