//! What never leaves a host in a bundle: secrets that are known by their value, in every form that they are written in.
//!
//! Logs are masked when they are written, by the names and the looks of what is in them. A bundle goes to people outside, so it is
//! masked once more, with what this host knows: the content of its own secrets' files. A value is found as it is, in
//! JSON, percent-encoded, in hexadecimal, and in base64, also in the middle of more.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD,
};
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::open_configured;

const MASK: &str = "[REDACTED]";
/// A shorter value is a word that may stand anywhere, and guessed faster than found.
const SECRET_BYTES_MIN: usize = 6;
/// A shorter piece of base64 or hexadecimal may stand anywhere too.
const ENCODED_BYTES_MIN: usize = 7;
/// A shorter run of base64 is a word, and holds no secret with its name.
const RUN_BYTES_MIN: usize = 24;
/// Base64 that may have been cut off.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CUT_OFF);
const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, CUT_OFF);
const CUT_OFF: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The largest file of secrets, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// What a variable of the environment that holds a secret has in its name.
const SECRET_WORDS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY"];
/// Before the secret in a header.
const SCHEMES: [&str; 3] = ["basic", "bearer", "token"];
const KEY_BEGINS: &str = "-----BEGIN ";
const KEY_NAME_ENDS: &str = "PRIVATE KEY-----";

/// The secrets that are known. They are wiped when it is dropped.
#[derive(Default)]
pub struct Mask {
    forms: BTreeSet<String>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").field("forms", &self.forms.len()).finish_non_exhaustive()
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        for mut form in std::mem::take(&mut self.forms) {
            form.zeroize();
        }
    }
}

impl Mask {
    /// Hides a value. One of less than 6 bytes is not hidden: it would be found in words.
    pub fn hide(&mut self, secret: &str) {
        if secret.len() < SECRET_BYTES_MIN {
            return;
        }
        self.forms.insert(secret.to_owned());
        // Quoted, and quoted once more: a log line that has a body of JSON.
        let escaped = Value::from(secret).to_string();
        self.forms.insert(escaped[1..escaped.len() - 1].to_owned());
        for keeps in ["-._~", "-._~!'()*", ""] {
            for is_upper in [true, false] {
                let encoded = percent(secret, keeps, is_upper);
                self.forms.insert(encoded.replace("%20", "+"));
                self.forms.insert(encoded);
            }
        }
        // Every byte of it, as some programs do.
        for is_upper in [true, false] {
            self.forms.insert(secret.bytes().map(|byte| percent_byte(byte, is_upper)).collect());
        }
        self.hide_bytes(secret.as_bytes());
    }

    /// Hides bytes that are written in hexadecimal or base64: a key.
    pub fn hide_bytes(&mut self, secret: &[u8]) {
        if secret.len() < SECRET_BYTES_MIN {
            return;
        }
        self.forms.insert(hex::encode(secret));
        self.forms.insert(hex::encode_upper(secret));
        let encoded = |engine: &GeneralPurpose, before: usize| {
            let bytes = Zeroizing::new([&vec![0; before], secret].concat());
            let text = engine.encode(bytes.as_slice());
            // Characters that hold bits of what is before or after it may be any.
            let begin = [0, 2, 3][before];
            let end = text.len() - usize::from(!(before + secret.len()).is_multiple_of(3));
            text[begin..end].to_owned()
        };
        for before in 0..3 {
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let form = encoded(engine, before);
                if form.len() >= ENCODED_BYTES_MIN {
                    self.forms.insert(form);
                }
            }
        }
    }

    /// Hides what a file of secrets holds: a token, a password, headers, credentials, a key. One that cannot be read can be in
    /// nothing that this process reads either.
    pub fn hide_file(&mut self, path: &Path) {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = open_configured(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        if read.is_err() {
            return;
        }
        let Ok(text) = std::str::from_utf8(&bytes) else { return self.hide_bytes(&bytes) };
        self.hide(text.trim());
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("-----")) {
            self.hide(line);
            // Of a header the value, and of that what follows the scheme.
            let value = line.split_once(':').map_or(line, |(_, value)| value).trim();
            self.hide(value);
            let credentials = value
                .split_once(' ')
                .filter(|(scheme, _)| SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)));
            if let Some((_, credentials)) = credentials {
                self.hide(credentials.trim());
                self.hide_login(credentials.trim());
            }
        }
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        if let Ok(key) = STANDARD.decode(Zeroizing::new(body).trim()) {
            self.hide_bytes(&Zeroizing::new(key));
        }
    }

    /// The password of `user:password` in base64.
    fn hide_login(&mut self, credentials: &str) {
        let decoded = STANDARD.decode(credentials).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((_, password)) = decoded.as_deref().and_then(|login| login.split_once(':')) {
            self.hide(password);
        }
    }

    /// Hides what variables of the environment hold whose names say that it is a secret.
    pub fn hide_environment(&mut self) {
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().to_ascii_uppercase();
            // A path to a secret is named for all to see.
            if !name.ends_with("_FILE") && SECRET_WORDS.iter().any(|word| name.contains(word)) {
                self.hide(&value.to_string_lossy());
            }
        }
    }

    /// A text without what is hidden, without keys in PEM, and without what looks like a secret or is called one.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let masked = self.without_encoded(&without_keys(&self.values(text)));
        // Line by line: a bracket that is open in one must not hide the rest of a log.
        masked.split('\n').map(stella_telemetry::redact_text).collect::<Vec<_>>().join("\n")
    }

    /// The texts of a document without what is hidden. Keys stay: a document of ours has no secret under any key.
    pub fn document(&self, document: &mut Value) {
        match document {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.document(item)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.document(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Without what is base64 of a text with a secret in it, as a header has it that nobody here knows.
    fn without_encoded(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(begin) = rest.find(is_base64) {
            let length = rest[begin..].find(|c| !is_base64(c)).unwrap_or(rest.len() - begin);
            let (before, run) = (&rest[..begin], &rest[begin..begin + length]);
            masked.push_str(before);
            masked.push_str(if self.is_encoded_secret(run) { MASK } else { run });
            rest = &rest[begin + length..];
        }
        masked.push_str(rest);
        masked
    }

    fn is_encoded_secret(&self, run: &str) -> bool {
        if run.len() < RUN_BYTES_MIN {
            return false;
        }
        let whole = run.len() - usize::from(run.len() % 4 == 1);
        let decoded = [&LENIENT, &LENIENT_URL_SAFE].into_iter().find_map(|it| it.decode(&run[..whole]).ok());
        let decoded = decoded.map(Zeroizing::new).and_then(|it| String::from_utf8(it.to_vec()).ok());
        decoded
            .map(Zeroizing::new)
            .is_some_and(|text| stella_telemetry::redact_text(&text) != *text || self.values(&text) != *text)
    }

    /// A text without what is hidden, the longest first: a value that is a part of another one must not cut it in two.
    pub(crate) fn values(&self, text: &str) -> String {
        let mut forms: Vec<_> = self.forms.iter().filter(|form| text.contains(form.as_str())).collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        let mut masked = text.to_owned();
        for form in forms {
            masked = masked.replace(form.as_str(), MASK);
        }
        masked
    }
}

const fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_')
}

fn percent(text: &str, keeps: &str, is_upper: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || keeps.contains(c) {
            encoded.push(c);
        } else {
            encoded.push_str(&percent_byte(byte, is_upper));
        }
    }
    encoded
}

fn percent_byte(byte: u8, is_upper: bool) -> String {
    if is_upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }
}

/// Private keys in PEM, whoever they belong to.
fn without_keys(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(KEY_BEGINS) {
        let (before, from) = rest.split_at(at);
        masked.push_str(before);
        let name = from[KEY_BEGINS.len()..].find("-----").map(|end| &from[..KEY_BEGINS.len() + end + 5]);
        match name {
            Some(name) if name.ends_with(KEY_NAME_ENDS) => {
                masked.push_str(MASK);
                let body = &from[name.len()..];
                // One that is cut off is a key too.
                let end = body.find(KEY_NAME_ENDS).map_or(body.len(), |end| end + KEY_NAME_ENDS.len());
                rest = &body[end..];
            }
            Some(_) | None => {
                masked.push_str(KEY_BEGINS);
                rest = &from[KEY_BEGINS.len()..];
            }
        }
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE;

    use super::*;

    const SECRET: &str = "p%q \"r/s+t=ü\\w?";

    fn hiding(secret: &str) -> Mask {
        let mut mask = Mask::default();
        mask.hide(secret);
        mask
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let mask = hiding(SECRET);
        let json = serde_json::json!({ "body": SECRET }).to_string();
        let all: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for text in [
            SECRET.to_owned(),
            json,
            percent(SECRET, "-._~", true),
            percent(SECRET, "-._~", false),
            percent(SECRET, "-._~!'()*", true),
            percent(SECRET, "-._~", true).replace("%20", "+"),
            all,
            hex::encode(SECRET),
            hex::encode_upper(SECRET),
            STANDARD.encode(SECRET),
            URL_SAFE.encode(SECRET),
        ] {
            let masked = mask.text(&format!("before {text} after"));
            assert!(
                masked.contains(MASK) && masked.starts_with("before ") && masked.ends_with(" after"),
                "{masked}"
            );
            assert!(!masked.contains(&text), "{masked}");
        }
    }

    #[test]
    fn a_secret_is_found_in_base64_of_more() {
        let secret = "correct-horse";
        let mask = hiding(secret);
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "x", "xy", "xyz"] {
                let text = STANDARD.encode(format!("{before}{secret}{after}"));
                let masked = mask.text(&text);
                assert!(masked.contains(MASK), "{before}…{after}: {masked}");
                // What is left of it are the bits that it shares with its neighbours.
                assert!(masked.len() < text.len(), "{before}…{after}: {masked}");
            }
        }
    }

    #[test]
    fn what_files_of_secrets_hold_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let login = STANDARD.encode("me:hunter22hunter22");
        std::fs::write(&path, format!("Authorization: Basic {login}\nX-Key: abcdefgh\n")).unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nTUlHSEFnRUFNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VI\n-----END PRIVATE KEY-----\n";
        let mut mask = Mask::default();
        mask.hide_file(&path);
        std::fs::write(&path, key).unwrap();
        mask.hide_file(&path);
        mask.hide_file(Path::new("/nonexistent"));
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        mask.hide_file(&pipe);
        let der = STANDARD.decode("TUlHSEFnRUFNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VI").unwrap();
        for text in [
            login.as_str(),
            "hunter22hunter22",
            "abcdefgh",
            "TUlHSEFnRUFNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VI",
            &hex::encode(der),
        ] {
            assert_eq!(mask.text(&format!("x {text} y")), format!("x {MASK} y"));
        }
        assert_eq!(mask.text("Authorized, and X-Keys"), "Authorized, and X-Keys");
    }

    #[test]
    fn keys_and_what_looks_like_a_secret_are_hidden_from_whomever_they_are() {
        let mask = Mask::default();
        let pem = "a -----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY----- b";
        assert_eq!(mask.text(pem), "a [REDACTED] b");
        assert_eq!(mask.text("a -----BEGIN PRIVATE KEY-----\nAAAA"), "a [REDACTED]");
        let public = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
        assert_eq!(mask.text(public), public);
        assert_eq!(mask.text("one\npassword=abc123 two\nthree"), "one\npassword=[REDACTED] two\nthree");
        let mut document = serde_json::json!({"tokens": 3, "why": ["password=abc123"]});
        mask.document(&mut document);
        assert_eq!(document, serde_json::json!({"tokens": 3, "why": ["password=[REDACTED]"]}));
        assert_eq!(hiding("short").text("a short text"), "a short text");
        let token = format!("stella_{}", "Ab1_".repeat(11));
        for text in
            [token.as_str(), "grant_type=password&password=correct horse", "{\"token\":\"correct horse\"}"]
        {
            for encoded in [STANDARD.encode(text), URL_SAFE.encode(text)] {
                let masked = mask.text(&format!("x {encoded} y"));
                assert!(masked.starts_with("x [REDACTED]") && masked.ends_with(" y"), "{masked}");
            }
        }
        let harmless = "/var/lib/stella-orchestrator/artifacts and 0199f5f4-7b3c-7c1d-9d55-4f2b8e6a1c33";
        assert_eq!(mask.text(harmless), harmless);
    }
}
