//! Calls, bodies with texts in them, and what people are told.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{CALL_MS_MAX, Call, HEADERS_MAX, NOTICE_MS_MAX, Notify, Span, Step};
use super::Checker;
use crate::name::Identifier;

impl Checker<'_> {
    pub(super) fn call(&mut self, field: &str, step: &Step, call: &Call, known: &BTreeSet<&Identifier>) {
        self.address(field, call, known);
        if call.headers.len() > HEADERS_MAX {
            let problem = format!("there are {}; at most {HEADERS_MAX} are allowed", call.headers.len());
            self.say(format!("{field}.headers"), problem);
        }
        for (name, value) in &call.headers {
            let token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(token) {
                self.say(format!("{field}.headers.{name}"), "a header's name has letters, digits and '-'");
            }
            if ["authorization", "cookie", "proxy-authorization"]
                .contains(&name.to_ascii_lowercase().as_str())
            {
                let problem = "templates are no place for secrets: give it to a destination in the control plane's configuration \
                               (workflows.http.NAME.headers_file), and call that with `to`";
                self.say(format!("{field}.headers.{name}"), problem);
            }
            self.text(&format!("{field}.headers.{name}"), value, known);
        }
        if let Some(body) = &call.body {
            self.body(&format!("{field}.body"), body, known);
        }
        if let Some(code) = call.expect.iter().find(|code| !(100..=599).contains(*code)) {
            self.say(format!("{field}.expect"), format!("{code} is no status code of HTTP"));
        }
        if step.timeout.is_some_and(|timeout| timeout.0 > CALL_MS_MAX) {
            self.say(
                field,
                format!("a call may take {} at most; lower the step's timeout", Span(CALL_MS_MAX)),
            );
        }
    }

    fn address(&mut self, field: &str, call: &Call, known: &BTreeSet<&Identifier>) {
        self.text(&format!("{field}.url"), &call.url, known);
        self.text(&format!("{field}.path"), &call.path, known);
        if call.to.is_some() {
            if !call.url.is_empty() {
                let problem =
                    "goes with no `to`, which has an address; say what comes after that with `path`";
                self.say(format!("{field}.url"), problem);
            }
            return;
        }
        if !call.path.is_empty() {
            self.say(
                format!("{field}.path"),
                "goes with `to`, and there is none; say the whole address with `url`",
            );
        }
        if call.url.is_empty() {
            self.say(format!("{field}.url"), "is missing; or name a destination with `to`");
        } else if !(call.url.starts_with("https://") || call.url.starts_with("http://")) {
            self.say(format!("{field}.url"), "must begin with https:// or http://, not with an expression");
        }
    }

    pub(super) fn notify(
        &mut self,
        field: &str,
        step: &Step,
        notify: &Notify,
        known: &BTreeSet<&Identifier>,
    ) {
        if !Notify::may_be_receiver(&notify.receiver) {
            let problem =
                "must be the name of a receiver: 1 to 63 letters, digits, '-' and '_', and no expression";
            self.say(format!("{field}.notify.receiver"), problem);
        }
        if notify.message.trim().is_empty() {
            self.say(format!("{field}.notify.message"), "is empty; what are people told?");
        }
        self.text(&format!("{field}.notify.message"), &notify.message, known);
        if step.timeout.is_some_and(|timeout| timeout.0 > NOTICE_MS_MAX) {
            let problem =
                format!("a notification may take {} at most; lower the step's timeout", Span(NOTICE_MS_MAX));
            self.say(field, problem);
        }
    }

    pub(super) fn body(&mut self, field: &str, body: &Value, known: &BTreeSet<&Identifier>) {
        match body {
            Value::String(text) => self.text(field, text, known),
            Value::Array(parts) => {
                parts
                    .iter()
                    .enumerate()
                    .for_each(|(at, part)| self.body(&format!("{field}[{at}]"), part, known));
            }
            Value::Object(parts) => {
                parts.iter().for_each(|(name, part)| self.body(&format!("{field}.{name}"), part, known));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}
