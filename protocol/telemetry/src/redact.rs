//! Masking of secrets, by the name of what holds them: `password`, `token`, `secret`, `credentials`, `authorization`, as a
//! part of a key, in any case, at any depth.

use serde_json::{Map, Value};

/// What stands in a secret's place.
pub(crate) const MASK: &str = "[REDACTED]";

/// A key that contains one of these holds a secret.
const SECRET_KEYS: [&str; 5] = ["password", "token", "secret", "credentials", "authorization"];

/// Keys that contain one of the words and name a secret without being one.
const HARMLESS_KEYS: [&str; 4] = ["tokenid", "token_id", "secretname", "secret_name"];

/// Whether a key holds a secret.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !HARMLESS_KEYS.contains(&key.as_str()) && SECRET_KEYS.iter().any(|word| key.contains(word))
}

/// Masks the members of an object, at any depth.
pub(crate) fn redact_object(object: &mut Map<String, Value>) {
    for (key, value) in object.iter_mut() {
        if is_secret_key(key) { *value = Value::String(MASK.into()) } else { redact_value(value) }
    }
}

fn redact_value(value: &mut Value) {
    match value {
        Value::Object(object) => redact_object(object),
        Value::Array(items) => items.iter_mut().for_each(redact_value),
        Value::String(text) => {
            if let Some(masked) = redact_if_needed(text) {
                *text = masked;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Masks secrets in a text: JSON inside it, `key=value` and `key: value` pairs (URLs and headers).
#[must_use]
pub fn redact_text(text: &str) -> String {
    redact_if_needed(text).unwrap_or_else(|| text.to_owned())
}

fn redact_if_needed(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if !SECRET_KEYS.iter().any(|word| lower.contains(word)) {
        return None;
    }
    if let Ok(mut nested @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text) {
        redact_value(&mut nested);
        return Some(nested.to_string());
    }
    Some(redact_pairs(text))
}

/// Masks what follows `key=` or `key:`; an `authorization` header loses everything up to its line's end.
fn redact_pairs(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, from_separator) = rest.split_at(at);
        let key = before
            .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .next()
            .unwrap_or("");
        let (separator, after) = from_separator.split_at(1);
        masked.push_str(before);
        masked.push_str(separator);
        rest = after;
        if !key.is_empty() && is_secret_key(key) {
            let spaces = rest.len() - rest.trim_start_matches(' ').len();
            let whole_line = key.eq_ignore_ascii_case("authorization");
            let ends = |c: char| {
                if whole_line {
                    c == '\n'
                } else {
                    c.is_whitespace() || matches!(c, '&' | ',' | ';' | '"' | '\'')
                }
            };
            let value = &rest[spaces..];
            let end = value.find(ends).unwrap_or(value.len());
            if end > 0 {
                masked.push_str(&rest[..spaces]);
                masked.push_str(MASK);
                rest = &value[end..];
            }
        }
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_masked_at_any_depth_and_in_any_case() {
        let mut object = serde_json::json!({
            "Password": "p1", "nested": {"apiToken": "t1", "list": [{"client_secret": 1}]}, "tokenId": "public",
        });
        redact_object(object.as_object_mut().unwrap());
        let text = object.to_string();
        assert!(!text.contains("p1") && !text.contains("t1"), "{text}");
        assert_eq!(object["nested"]["list"][0]["client_secret"], MASK);
        assert_eq!(object["tokenId"], "public");
    }

    #[test]
    fn texts_lose_secrets_in_urls_headers_and_nested_json() {
        for (text, secret) in [
            ("GET /x?access_token=abc123&y=1", "abc123"),
            ("Authorization: Bearer abc123\nHost: h", "abc123"),
            (r#"{"password":"abc123","user":"u"}"#, "abc123"),
            ("db password=abc123, host=h", "abc123"),
        ] {
            let masked = redact_text(text);
            assert!(!masked.contains(secret), "{masked}");
            assert!(masked.contains(MASK), "{masked}");
        }
        assert_eq!(redact_text("Authorization: Bearer x\nHost: h"), "Authorization: [REDACTED]\nHost: h");
        assert_eq!(redact_text("nothing to hide: here"), "nothing to hide: here");
    }
}
