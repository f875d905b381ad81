//! Masking of secrets. By the name of what holds them: `password`, `token`, `secret`, `credentials`, `authorization`, as a part of a key, in
//! any case, at any depth, also in texts: headers, URLs, JSON within JSON. By their look: tokens of our own. And by their value: what the
//! program has read from its secrets' files ([`hide`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

/// What stands in a secret's place.
pub(crate) const MASK: &str = "[REDACTED]";

/// A key that contains one of these holds a secret, in any case.
pub const SECRET_KEYS: [&str; 5] = ["password", "token", "secret", "credentials", "authorization"];

/// Keys that contain one of the words and name a secret without being one.
const HARMLESS_KEYS: [&str; 4] = ["tokenid", "token_id", "secretname", "secret_name"];

/// Before a value that goes on after a space.
const SCHEMES: [&str; 4] = ["bearer", "basic", "digest", "token"];

/// How our own tokens begin, and how many characters of base64 follow at least.
const OWN_TOKENS: [(&str, usize); 2] = [("stella_", 43), ("stella-enrol-1.", 43)];

/// A shorter value is a word that may stand anywhere.
const HIDDEN_BYTES_MIN: usize = 8;

/// How many bytes of values are hidden at most, of all files together: a bound for a file that is none of secrets.
const HIDDEN_BYTES_MAX: usize = 1 << 20;

/// How much may stand before a string's quote, as in `b'…'`.
const STRING_PREFIX_CHARACTERS_MAX: usize = 2;

/// From which length on what stands in a user's place of a URL is taken for a token.
const TOKEN_BYTES_MIN: usize = 20;
/// The same if it has letters of both cases and digits.
const MIXED_TOKEN_BYTES_MIN: usize = 10;

static HIDDEN: RwLock<Hidden> = RwLock::new(Hidden { files: BTreeMap::new(), search: None });

/// Values that are masked wherever they stand.
#[derive(Debug)]
struct Hidden {
    files: BTreeMap<PathBuf, Secrets>,
    /// Finds any of them in one pass, however many there are; nothing is hidden without it.
    search: Option<AhoCorasick>,
}

/// What a file holds.
#[derive(Debug, Default)]
struct Secrets {
    now: BTreeSet<String>,
    /// What it held before that: a connection may use it still, and a reload may turn out to be refused.
    before: BTreeSet<String>,
}

/// There are too many secrets for all of them to be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has more than the log could mask: {HIDDEN_BYTES_MAX} bytes of secrets in all files together")]
pub struct TooManySecrets;

/// Masks the secrets in `file` in all lines from now on, whatever holds them, and those that it had when it was read before. What it had
/// before that is forgotten, so that secrets may be rotated for ever. Values of less than 8 bytes are not masked: they would be found in
/// words.
///
/// # Errors
/// If there are too many of them. Then nothing has changed.
pub fn hide<'v>(file: &Path, values: impl IntoIterator<Item = &'v str>) -> Result<(), TooManySecrets> {
    // A writer that panicked has changed nothing, or everything.
    HIDDEN.write().unwrap_or_else(PoisonError::into_inner).set(file, values)
}

impl Hidden {
    fn set<'v>(
        &mut self,
        file: &Path,
        values: impl IntoIterator<Item = &'v str>,
    ) -> Result<(), TooManySecrets> {
        let now: BTreeSet<String> = values.into_iter().flat_map(forms).collect();
        let known = self.files.get(file);
        if known.map_or(now.is_empty(), |known| known.now == now) {
            return Ok(());
        }
        let before = known.map(|known| known.now.clone()).unwrap_or_default();
        let others = self.files.iter().filter(|(other, _)| other.as_path() != file);
        let all: BTreeSet<&String> = others
            .flat_map(|(_, secrets)| secrets.now.iter().chain(&secrets.before))
            .chain(&now)
            .chain(&before)
            .collect();
        if all.iter().map(|value| value.len()).sum::<usize>() > HIDDEN_BYTES_MAX {
            return Err(TooManySecrets);
        }
        // Of two that begin at one place the longer one: the shorter is a part of it.
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(all);
        self.search = Some(search.map_err(|_| TooManySecrets)?);
        self.files.insert(file.to_owned(), Secrets { now, before });
        Ok(())
    }

    fn mask(&self, text: &str) -> Option<String> {
        let search = self.search.as_ref().filter(|search| search.is_match(text))?;
        let mut masked = String::with_capacity(text.len());
        search.replace_all_with(text, &mut masked, |_, _, masked| {
            masked.push_str(MASK);
            true
        });
        Some(masked)
    }
}

/// How a secret may be written: as it is, within a text of JSON, and the word after the scheme of a header on its own.
fn forms(value: &str) -> impl Iterator<Item = String> {
    let quoted = Value::from(value).to_string();
    let escaped = quoted[1..quoted.len() - 1].to_owned();
    let is_scheme = |word: &str| SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
    let word = value.split_once(' ').filter(|(scheme, _)| is_scheme(scheme)).map(|(_, word)| word.trim());
    let all = [Some(value.to_owned()), Some(escaped), word.map(str::to_owned)];
    all.into_iter().flatten().filter(|form| form.len() >= HIDDEN_BYTES_MIN)
}

/// Masks the values of what is under a secret's key in a text that may repeat them, beside what [`redact_text`] masks.
#[must_use]
pub fn redact_values<'v>(text: &str, pairs: impl IntoIterator<Item = (&'v String, &'v String)>) -> String {
    let mut masked = text.to_owned();
    let secret = |(key, value): &(&String, &String)| is_secret_key(key) && value.len() >= HIDDEN_BYTES_MIN;
    let mut secrets: Vec<&String> = pairs.into_iter().filter(secret).map(|(_, value)| value).collect();
    secrets.sort_by_key(|value| std::cmp::Reverse(value.len()));
    for value in secrets {
        masked = masked.replace(value.as_str(), MASK);
    }
    redact_text(&masked)
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
    HIDDEN.read().unwrap_or_else(PoisonError::into_inner).mask(text)
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
/// to the end of the line. An arrow's or an assignment's other half is not part of it.
fn value_after(rest: &str, is_header: bool) -> (usize, usize) {
    let begin = rest.len() - rest.trim_start_matches([' ', '\t', '=', '>']).len();
    let value = &rest[begin..];
    let escapes = value.len() - value.trim_start_matches('\\').len();
    let opening = value[escapes..].chars().next();
    match opening {
        Some(quote @ ('"' | '\'')) => {
            let kept = begin + escapes + 1;
            (kept, kept + closing_quote(&rest[kept..], quote, escapes))
        }
        Some('[' | '{') if escapes == 0 => (begin, begin + closing_bracket(value)),
        _ => {
            let bare = if is_header { end_of_header(value) } else { end_of_word(value) };
            (begin, begin + bare.max(end_of_wrapped(value).unwrap_or_default()))
        }
    }
}

/// A quote ends it too: a header may be a member of JSON within the text.
fn end_of_header(value: &str) -> usize {
    value.find(['\n', '\r', '"', '\'']).unwrap_or(value.len())
}

/// To the next space or separator; after the name of a scheme, to the one after that.
fn end_of_word(value: &str) -> usize {
    let ends = |c: char| c.is_whitespace() || matches!(c, '&' | ',' | ';' | '"' | '\'' | '}' | ']');
    let first = value.find(ends).unwrap_or(value.len());
    if !SCHEMES.iter().any(|scheme| value[..first].eq_ignore_ascii_case(scheme)) {
        return first;
    }
    let spaces = value[first..].len() - value[first..].trim_start_matches(' ').len();
    let second = &value[first + spaces..];
    first + spaces + second.find(ends).unwrap_or(second.len())
}

/// Where a value ends that programs print with its type around it: `Some("…")`, `Token(…)`, `Key { … }`, `b'…'`.
fn end_of_wrapped(value: &str) -> Option<usize> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    let name = value.find(|c| !is_of_name(c)).filter(|length| *length > 0)?;
    let begins_as_type = value.starts_with(|c: char| c.is_ascii_uppercase());
    let gap = usize::from(begins_as_type && value[name..].starts_with(" {"));
    let inside = &value[name + gap..];
    let begin = name + gap;
    match inside.chars().next()? {
        '(' | '[' | '{' => {
            let after = &inside[1..];
            let escapes = after.len() - after.trim_start_matches('\\').len();
            // Escaped quotes say nothing to the search for the bracket.
            let quoted = after[escapes..].chars().next().filter(|c| escapes > 0 && matches!(c, '"' | '\''));
            let quoted = quoted.map(|quote| {
                let from = 1 + escapes + 1;
                from + closing_quote(&inside[from..], quote, escapes)
            });
            Some(begin + closing_bracket(inside).max(quoted.unwrap_or_default()))
        }
        quote @ ('"' | '\'') if name <= STRING_PREFIX_CHARACTERS_MAX => {
            Some(begin + 1 + closing_quote(&inside[1..], quote, 0))
        }
        _ => None,
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

/// Where what begins with a bracket ends; at the end of the text if it does not.
fn closing_bracket(text: &str) -> usize {
    let opening = text.chars().next();
    let closing = match opening {
        Some('(') => ')',
        Some('[') => ']',
        _ => '}',
    };
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut is_escaped) => {}
            '\\' => is_escaped = true,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote.is_some() => quote = quote.filter(|quote| *quote != c),
            _ if Some(c) == opening => depth += 1,
            _ if c == closing => {
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

/// Masks the password of `scheme://user:password@host`, and what stands in a user's place and is a token.
fn redact_userinfo(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>');
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        rest = after;
        if let Some(at) = authority.rfind('@') {
            let (user, password) = match authority[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&authority[..at], None),
            };
            masked.push_str(if looks_like_a_token(user) { MASK } else { user });
            if password.is_some() {
                masked.push(':');
                masked.push_str(MASK);
            }
            rest = &after[at..];
        }
    }
    masked.push_str(rest);
    masked
}

/// Whether nobody would call a user so: it is long, or has letters of both cases and digits.
fn looks_like_a_token(user: &str) -> bool {
    let has = |kind: fn(&char) -> bool| user.chars().any(|c| kind(&c));
    user.len() >= TOKEN_BYTES_MIN
        || (user.len() >= MIXED_TOKEN_BYTES_MIN
            && has(char::is_ascii_digit)
            && has(char::is_ascii_uppercase)
            && has(char::is_ascii_lowercase))
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
            r#"{"password"=>"correct abc123 horse", "user"=>"u"}"#,
            r#"["token" => "abc123"]"#,
            "'token' => 'abc123'",
            r#"password := "abc123""#,
            r#"token == "abc123""#,
            r#"Config { token: Some("correct) abc123 horse"), user: "u" }"#,
            r#"authorization: Some("Bearer abc123")"#,
            r#"token: Some(Secret("abc123"))"#,
            r#"tokens: Pair("x", "abc123")"#,
            r#"token: Secret { value: "abc123" }"#,
            r"token: Some(abc123)",
            "password=a(b)abc123",
            "password=b'abc123'",
            r#"{\"log\":\"token: Some(\\\"x) abc123\\\")\"}"#,
            "https://ghp_AAAAAAAAAAAAAAAAabc123@github.com/x",
            "https://glpatAabc123@gitlab.example.com/x",
            "https://glpatAabc123:x-oauth-basic@github.com/x",
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
        assert_eq!(redact_text(r#"token: Some("x"), user: "u""#), r#"token: [REDACTED], user: "u""#);
        assert_eq!(redact_text(r#"{"token"=>"x", "a"=>1}"#), r#"{"token"=>"[REDACTED]", "a"=>1}"#);
        assert_eq!(redact_text(r#"a {"token":"x","user":"u"}"#), r#"a {"token":"[REDACTED]","user":"u"}"#);
        for harmless in [
            "nothing to hide: here",
            "https://db.example.com:5432/x?y=me@there",
            "ssh://deploy-user@git.example.com/x",
            "stella_deployment_recent_timestamp_seconds_of_all_environments",
        ] {
            assert_eq!(redact_text(harmless), harmless);
        }
    }

    #[test]
    fn a_value_that_is_hidden_is_seen_nowhere() {
        let values =
            ["short", "s3cr3t-v4lu3", "s3cr3t-v4lu3-and-more", "Bearer b34r3r-v4lu3", "a \"quoted\" one"];
        hide(Path::new("one"), values).unwrap();
        assert_eq!(redact_text("is s3cr3t-v4lu3-and-more short?"), "is [REDACTED] short?");
        assert_eq!(redact_text("sent b34r3r-v4lu3"), "sent [REDACTED]");
        assert_eq!(redact_text(r#"{"a":"a \"quoted\" one"}"#), r#"{"a":"[REDACTED]"}"#);
        let mut object = serde_json::json!({"any": ["where: s3cr3t-v4lu3!"]});
        redact_object(object.as_object_mut().unwrap());
        assert_eq!(object["any"][0], "where: [REDACTED]!");
    }

    #[test]
    fn a_file_hides_what_it_holds_and_what_it_held_before_however_often_it_is_rotated() {
        let mut hidden = Hidden { files: BTreeMap::new(), search: None };
        let (one, two) = (Path::new("one"), Path::new("two"));
        hidden.set(two, ["of-the-other"]).unwrap();
        for round in 1..2_000 {
            let name = |round: usize| format!("secret-{round:06}");
            hidden.set(one, [name(round).as_str()]).unwrap();
            // A reload that changes nothing forgets nothing.
            hidden.set(one, [name(round).as_str()]).unwrap();
            for masked in [name(round), "of-the-other".to_owned()] {
                assert_eq!(hidden.mask(&masked).as_deref(), Some(MASK));
            }
            assert_eq!(hidden.mask(&name(round - 1)).is_some(), round > 1);
            assert_eq!(hidden.mask(&name(round.saturating_sub(2))), None, "it is forgotten");
        }
    }

    #[test]
    fn all_of_many_are_masked_and_more_than_can_be_are_refused_and_change_nothing() {
        let mut hidden = Hidden { files: BTreeMap::new(), search: None };
        let many: Vec<String> = (0..5_000).map(|n| format!("secret-{n:06}")).collect();
        hidden.set(Path::new("one"), many.iter().map(String::as_str)).unwrap();
        for value in &many {
            assert_eq!(hidden.mask(&format!("it is {value}!")).unwrap(), "it is [REDACTED]!");
        }
        let large = "x".repeat(HIDDEN_BYTES_MAX);
        assert_eq!(hidden.set(Path::new("two"), [large.as_str()]), Err(TooManySecrets));
        assert!(hidden.mask(&large).is_none() && hidden.mask(&many[7]).is_some());
    }

    #[test]
    fn what_a_command_was_given_as_a_secret_is_masked_where_it_is_repeated() {
        let given = [("DB_PASSWORD", "hunter2-hunter2"), ("PGTOKEN", "no"), ("PLACE", "somewhere-else")];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let pairs = || given.iter().map(|(key, value)| (key, value));
        let text = "it said hunter2-hunter2, no, somewhere-else and token=abc";
        assert_eq!(
            redact_values(text, pairs()),
            "it said [REDACTED], no, somewhere-else and token=[REDACTED]"
        );
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
            "\"K\"=>\"x {} y\"",
            "[\"K\" => \"{}\"]",
            "K := \"x {} y\"",
            "K: Some(\"x {} y\")",
            "K: Some(Wrapped(\"{}\"))",
            "K: Wrapped { value: \"{}\", other: 1 }",
            "K=b'x {} y'",
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

        /// A token may stand where a URL has its user.
        #[test]
        fn a_token_in_a_users_place_is_masked(
            before in "\\PC{0,20}", prefix in "[a-z]{2,6}[_-]", password in "(:[a-z-]{0,12})?",
        ) {
            let secret = "Zq7Zq7Zq7Zq7";
            let masked = redact_text(&format!("{before} https://{prefix}{secret}{password}@h.example.com/x"));
            prop_assert!(!masked.contains(secret), "{}", masked);
        }

        /// Nothing panics, and what was masked stays as it is.
        #[test]
        fn masking_twice_is_masking_once(text in "(\\PC|[\\x00-\\x1f]|token|password|=|:|\"|\\\\|://|@|stella_){0,40}") {
            let once = redact_text(&text);
            prop_assert_eq!(redact_text(&once).contains("Zq7"), once.contains("Zq7"));
        }
    }
}
