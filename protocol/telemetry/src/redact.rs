//! Masking of secrets. By the name of what holds them: `password`, `token`, `secret`, `credentials`, `authorization`, as a part of a key, in
//! any case, at any depth, also in texts: headers, URLs, JSON within JSON. By their look: tokens of our own. And by their value: what the
//! program has read from its secrets' files ([`hide`]).

use std::sync::RwLock;

use serde_json::{Map, Value};

/// What stands in a secret's place.
pub(crate) const MASK: &str = "[REDACTED]";

/// A key that contains one of these holds a secret.
const SECRET_KEYS: [&str; 5] = ["password", "token", "secret", "credentials", "authorization"];

/// Keys that contain one of the words and name a secret without being one.
const HARMLESS_KEYS: [&str; 4] = ["tokenid", "token_id", "secretname", "secret_name"];

/// Before a value that goes on after a space.
const SCHEMES: [&str; 4] = ["bearer", "basic", "digest", "token"];

/// How our own tokens begin, and how many characters of base64 follow at least.
const OWN_TOKENS: [(&str, usize); 2] = [("stella_", 43), ("stella-enrol-1.", 43)];

/// A shorter value is a word that may stand anywhere.
const HIDDEN_BYTES_MIN: usize = 8;

/// How many values are hidden at most: a bound for a defect, not for a configuration.
const HIDDEN_MAX: usize = 256;

static HIDDEN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Masks this value in all lines from now on, whatever holds it. Values of less than 8 bytes are not: they would be found in words.
pub fn hide(value: &str) {
    // A writer that panicked has left a whole list.
    let mut hidden = HIDDEN.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    if value.len() >= HIDDEN_BYTES_MIN && hidden.len() < HIDDEN_MAX && !hidden.iter().any(|it| it == value) {
        hidden.push(value.to_owned());
        // A value that is a part of another one must not cut it in two.
        hidden.sort_by_key(|it| std::cmp::Reverse(it.len()));
    }
}

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

/// Masks secrets in a text: JSON inside it, `key=value` and `key: value` pairs (URLs and headers), passwords in URLs, tokens of our own, and
/// values that were hidden.
#[must_use]
pub fn redact_text(text: &str) -> String {
    redact_if_needed(text).unwrap_or_else(|| text.to_owned())
}

fn redact_if_needed(text: &str) -> Option<String> {
    let by_value = without_hidden(text);
    let text = by_value.as_deref().unwrap_or(text);
    let lower = text.to_ascii_lowercase();
    let by_key = SECRET_KEYS.iter().any(|word| lower.contains(word)).then(|| redact_by_key(text));
    let text = by_key.as_deref().unwrap_or(text);
    let by_look = text.contains("://").then(|| redact_userinfo(text));
    let text = by_look.as_deref().unwrap_or(text);
    let own = OWN_TOKENS.iter().any(|(prefix, _)| text.contains(prefix)).then(|| redact_own_tokens(text));
    own.or(by_look).or(by_key).or(by_value)
}

fn without_hidden(text: &str) -> Option<String> {
    let hidden = HIDDEN.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut masked: Option<String> = None;
    for value in hidden.iter() {
        let current = masked.as_deref().unwrap_or(text);
        if current.contains(value.as_str()) {
            masked = Some(current.replace(value.as_str(), MASK));
        }
    }
    masked
}

fn redact_by_key(text: &str) -> String {
    if let Ok(mut nested @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text) {
        redact_value(&mut nested);
        return nested.to_string();
    }
    redact_pairs(text)
}

/// Masks what follows a secret's key and `=` or `:`, also if quotes are around either.
fn redact_pairs(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, from_separator) = rest.split_at(at);
        let (separator, after) = from_separator.split_at(1);
        masked.push_str(before);
        masked.push_str(separator);
        rest = after;
        let key = key_before(before);
        if !key.is_empty() && is_secret_key(key) {
            let (kept, end) = value_after(rest, key.to_ascii_lowercase().contains("authorization"));
            if end > kept {
                masked.push_str(&rest[..kept]);
                masked.push_str(MASK);
                rest = &rest[end..];
            }
        }
    }
    masked.push_str(rest);
    masked
}

/// The word before a separator, without spaces and (escaped) quotes between them.
fn key_before(before: &str) -> &str {
    let before = before.trim_end_matches([' ', '"', '\'', '\\']);
    before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).next().unwrap_or("")
}

/// Where a value begins and ends: to its closing quote or bracket if it has an opening one, else to the next space or separator; a header's
/// to the end of the line.
fn value_after(rest: &str, is_header: bool) -> (usize, usize) {
    let begin = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    let value = &rest[begin..];
    let escapes = value.len() - value.trim_start_matches('\\').len();
    let opening = value[escapes..].chars().next();
    match opening {
        Some(quote @ ('"' | '\'')) => {
            let kept = begin + escapes + 1;
            (kept, kept + closing_quote(&rest[kept..], quote, escapes))
        }
        Some('[' | '{') if escapes == 0 => (begin, begin + closing_bracket(value)),
        _ if is_header => {
            // A quote ends it too: a header may be a member of JSON within the text.
            let end = value.find(['\n', '\r', '"', '\'']).unwrap_or(value.len());
            (begin, begin + end)
        }
        _ => {
            let ends = |c: char| c.is_whitespace() || matches!(c, '&' | ',' | ';' | '"' | '\'' | '}' | ']');
            let first = value.find(ends).unwrap_or(value.len());
            if !SCHEMES.iter().any(|scheme| value[..first].eq_ignore_ascii_case(scheme)) {
                return (begin, begin + first);
            }
            let spaces = value[first..].len() - value[first..].trim_start_matches(' ').len();
            let second = &value[first + spaces..];
            (begin, begin + first + spaces + second.find(ends).unwrap_or(second.len()))
        }
    }
}

/// Where a quoted text ends: at a quote with as many backslashes before it as the opening one has.
fn closing_quote(text: &str, quote: char, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, c) in text.char_indices() {
        if c == quote && backslashes == escapes {
            return at - escapes;
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
    }
    text.len()
}

/// Where a list or an object ends; at the end of the text if it does not.
fn closing_bracket(text: &str) -> usize {
    let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut is_escaped) => {}
            '\\' => is_escaped = true,
            '"' => is_text = !is_text,
            '[' | '{' if !is_text => depth += 1,
            ']' | '}' if !is_text => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

/// Masks the password of `scheme://user:password@host`.
fn redact_userinfo(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>');
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        let password = authority.rfind('@').and_then(|at| Some((authority[..at].find(':')?, at)));
        rest = after;
        if let Some((colon, at)) = password {
            masked.push_str(&authority[..=colon]);
            masked.push_str(MASK);
            rest = &after[at..];
        }
    }
    masked.push_str(rest);
    masked
}

/// Masks tokens that this product has made.
fn redact_own_tokens(text: &str) -> String {
    let mut masked = text.to_owned();
    for (prefix, length_min) in OWN_TOKENS {
        let mut from = 0;
        while let Some(at) = masked[from..].find(prefix).map(|at| from + at) {
            let begin = at + prefix.len();
            let is_base64 = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let length = masked[begin..].find(|c| !is_base64(c)).unwrap_or(masked.len() - begin);
            // Names of metrics begin so too, and have no capitals.
            let is_token = length >= length_min
                && masked[begin..begin + length].contains(|c: char| c.is_ascii_uppercase());
            if is_token {
                masked.replace_range(begin..begin + length, MASK);
                from = begin + MASK.len();
            } else {
                from = begin;
            }
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        for text in [
            "GET /x?access_token=abc123&y=1",
            "Authorization: Bearer abc123\nHost: h",
            "Proxy-Authorization: Basic abc123",
            "X-Token: Bearer abc123",
            r#"{"password":"abc123","user":"u"}"#,
            r#"the body was {"password":"correct abc123 horse","user":"u"}"#,
            r#"escaped {\"password\":\"say \\\"abc123\\\" aloud\",\"user\":\"u\"}"#,
            r#"headers: {"authorization": "Bearer abc123", "host": "h"}"#,
            r#"tokens: ["x", "abc123"] and more"#,
            "secret={ a: { b: abc123 } }",
            "password = 'correct abc123 horse'",
            "db password=abc123, host=h",
            "postgres://me:abc123@db.example.com/x",
            "https://me:a@b:abc123@db.example.com/x",
            "with stella_AAAAabc123AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA and more",
            "with stella-enrol-1.AAAAabc123AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            let masked = redact_text(text);
            assert!(!masked.contains("abc123"), "{masked}");
            assert!(masked.contains(MASK), "{masked}");
        }
        assert_eq!(redact_text("Authorization: Bearer x\nHost: h"), "Authorization: [REDACTED]\nHost: h");
        assert_eq!(redact_text(r#"a {"token":"x","user":"u"}"#), r#"a {"token":"[REDACTED]","user":"u"}"#);
        for harmless in [
            "nothing to hide: here",
            "https://db.example.com:5432/x?y=me@there",
            "stella_deployment_recent_timestamp_seconds_of_all_environments",
        ] {
            assert_eq!(redact_text(harmless), harmless);
        }
    }

    #[test]
    fn a_value_that_is_hidden_is_seen_nowhere() {
        hide("short");
        hide("s3cr3t-v4lu3");
        hide("s3cr3t-v4lu3-and-more");
        assert_eq!(redact_text("is s3cr3t-v4lu3-and-more short?"), "is [REDACTED] short?");
        let mut object = serde_json::json!({"any": ["where: s3cr3t-v4lu3!"]});
        redact_object(object.as_object_mut().unwrap());
        assert_eq!(object["any"][0], "where: [REDACTED]!");
    }

    /// What holds a secret, as it may come into a line. `{}` is its place.
    fn holder() -> impl Strategy<Value = String> {
        let word = prop::sample::select(SECRET_KEYS.to_vec());
        let key = ("[a-zA-Z_]{0,6}", word, any::<bool>(), "[a-zA-Z_]{0,4}").prop_filter_map(
            "a harmless key",
            |(before, word, upper, after)| {
                let word = if upper { word.to_ascii_uppercase() } else { word.to_owned() };
                let key = format!("{before}{word}{after}");
                is_secret_key(&key).then_some(key)
            },
        );
        let shape = prop::sample::select(vec![
            "K={}",
            "K: {}",
            "?a=b&K={}&c=d",
            "{\"K\":\"{}\"}",
            "{\"a\":{\"K\":[\"x\",\"{}\"]}}",
            "{\"K\": {\"a\": \"{}\"}}",
            "K=\"x {} y\"",
            "'K': 'x {} y'",
            "K: Bearer {}",
        ]);
        (key, shape, 0..3_usize).prop_map(|(key, shape, depth)| {
            let mut text = shape.replace('K', &key);
            for _ in 0..depth {
                text = serde_json::json!({ "body": text }).to_string();
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// Whatever is around it.
        #[test]
        fn a_secret_under_a_secrets_key_is_masked(
            before in "\\PC{0,20}|[\\x00-\\x1f\"'\\\\{}\\[\\]:=,; ]{0,10}",
            holder in holder(),
            after in "\\PC{0,20}",
        ) {
            let secret = "Zq7Zq7Zq7Zq7";
            let text = format!("{before} {}\n{after}", holder.replace("{}", secret));
            let masked = redact_text(&text);
            prop_assert!(!masked.contains(secret), "{} became {}", text, masked);
        }

        /// Nothing panics, and what was masked stays as it is.
        #[test]
        fn masking_twice_is_masking_once(text in "(\\PC|[\\x00-\\x1f]|token|password|=|:|\"|\\\\|://|@|stella_){0,40}") {
            let once = redact_text(&text);
            prop_assert_eq!(redact_text(&once).contains("Zq7"), once.contains("Zq7"));
        }
    }
}
