//! What goes out for a step: its texts are filled in when its turn comes, and stay what they are.

use std::collections::BTreeMap;

use serde_json::Value;

use super::run::{Begun, variables};
use super::transaction::Transaction;
use crate::run::{Notice, Request, Run, Work};
use crate::workflow::{
    Address, CALL_MS_DEFAULT, Call, FILLED_BYTES_MAX, Meter, NOTICE_CHARS_MAX, NOTICE_MS_MAX, Notify, Span,
    Variables, render, render_for,
};

/// A call, filled in.
pub(super) fn request(run: &Run, call: &Call, timeout: Option<Span>, meter: &Meter) -> Begun {
    let variables = variables(run, meter);
    let fill =
        |field: &str, text: &str| render(text, &variables).map_err(|problem| format!("{field} {problem}"));
    let mut headers = BTreeMap::new();
    for (name, value) in &call.headers {
        headers.insert(name.clone(), fill(&format!("headers.{name}"), value)?);
    }
    let body = call.body.as_ref().map(|body| fill_in(body, &variables)).transpose()?;
    let (field, syntax) =
        if call.to.is_some() { ("path", Address::below()) } else { ("url", Address::whole()) };
    let url =
        render_for(syntax, call.address(), &variables).map_err(|problem| format!("{field} {problem}"))?;
    let request = Request {
        url,
        to: call.to.clone(),
        method: call.method,
        headers,
        body,
        expect: call.expect.clone(),
        keep_body: call.keep_body,
        timeout_ms: timeout.map_or(CALL_MS_DEFAULT, |timeout| timeout.0),
    };
    let bytes = serde_json::to_vec(&request).map_or(usize::MAX, |json| json.len());
    if bytes > FILLED_BYTES_MAX {
        return Err(format!("the call becomes {bytes} bytes long; at most {FILLED_BYTES_MAX} are possible"));
    }
    Ok(Work::Http(Box::new(request)))
}

/// What somebody is told, filled in.
pub(super) fn notice(tx: &Transaction<'_>, run: &Run, notify: &Notify, timeout: Option<Span>) -> Begun {
    let message = render(&notify.message, &variables(run, tx.meter()));
    let message = message.map_err(|problem| format!("message {problem}"))?;
    if message.trim().is_empty() {
        return Err("message becomes empty".to_owned());
    }
    let message = match message.char_indices().nth(NOTICE_CHARS_MAX) {
        Some(_) => message.chars().take(NOTICE_CHARS_MAX - 1).chain(['…']).collect(),
        None => message,
    };
    Ok(Work::Notify(Box::new(Notice {
        receiver: notify.receiver.clone(),
        message,
        severity: notify.severity,
        at: tx.now,
        timeout_ms: timeout.map_or(NOTICE_MS_MAX, |timeout| timeout.0),
    })))
}

/// A body is at most as deep as the template's JSON may be, which its parser bounds.
pub(super) fn fill_in(body: &Value, variables: &Variables) -> Result<Value, String> {
    Ok(match body {
        Value::String(text) => {
            Value::String(render(text, variables).map_err(|problem| format!("body {problem}"))?)
        }
        Value::Array(parts) => {
            Value::Array(parts.iter().map(|part| fill_in(part, variables)).collect::<Result<_, _>>()?)
        }
        Value::Object(parts) => {
            let parts = parts.iter().map(|(name, part)| Ok((name.clone(), fill_in(part, variables)?)));
            Value::Object(parts.collect::<Result<_, String>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => body.clone(),
    })
}
