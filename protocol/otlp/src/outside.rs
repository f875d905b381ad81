//! What others are called with: their address, the authorities that they are trusted under, and headers that are secrets.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use crate::Error;

/// The address in `key`: without credentials, which belong in the file of headers beside it.
///
/// # Errors
/// If it is no such address. What is said does not repeat it.
pub fn url(key: &str, text: &str) -> Result<Url, Error> {
    let wrong = |problem: &str| Error::Address(format!("{key} {problem}"));
    let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has credentials; they belong in the file of headers beside it"));
    }
    Ok(url)
}

/// The certificates in the file of `key`.
///
/// # Errors
/// If it cannot be read, or holds none.
pub fn roots(key: &str, path: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let pem = std::fs::read(path).map_err(|error| wrong(key, path, error))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(key, path, error))?;
    if certificates.is_empty() {
        return Err(wrong(key, path, "holds no certificate"));
    }
    Ok(certificates)
}

/// Headers that are there to be read: what they hold would be masked where it is a word.
const HARMLESS_HEADERS: [&str; 5] =
    ["accept", "accept-language", "content-type", "user-agent", "x-scope-orgid"];

/// Lines of `Name: value` in the file of `key`. The values are masked in the log from now on, but those of headers that hold no secret.
///
/// # Errors
/// If it cannot be read, a line is none of these, or there are more than can be masked. What is said names the line, never the value: it is a secret.
pub fn headers(key: &str, path: &Path) -> Result<HashMap<String, String>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| wrong(key, path, error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(at, line)| {
        header(line).ok_or_else(|| wrong(key, path, format!("line {} is not `Name: value`", at + 1)))
    };
    let headers = lines.map(read).collect::<Result<HashMap<_, _>, _>>()?;
    let secrets = headers.iter().filter(|(name, _)| !HARMLESS_HEADERS.contains(&name.as_str()));
    stella_telemetry::hide(path, secrets.map(|(_, value)| value.as_str()))
        .map_err(|error| wrong(key, path, error))?;
    Ok(headers)
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let name: HeaderName = name.trim().parse().ok()?;
    let value = HeaderValue::from_str(value.trim()).ok()?;
    let value = value.to_str().ok()?;
    Some((name.to_string(), value.to_owned()))
}

pub(crate) fn wrong(key: &str, path: &Path, problem: impl Display) -> Error {
    Error::File { key: key.to_owned(), path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_a_wrong_line_is_named_without_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "Authorization: Basic c2VjcmV0\n\nX-Scope-OrgID: production\n").unwrap();
        let read = headers("k", &path).unwrap();
        assert_eq!((read.len(), read["authorization"].as_str()), (2, "Basic c2VjcmV0"));
        assert_eq!(stella_telemetry::redact_text("c2VjcmV0 in production"), "[REDACTED] in production");
        for wrong in ["X: 1\nc2VjcmV0", "X: 1\nX Y: c2VjcmV0", "X: 1\nX: c2VjcmV0\u{1}"] {
            std::fs::write(&path, wrong).unwrap();
            let error = headers("k", &path).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("c2Vj"), "{error}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_without_credentials() {
        url("k", "https://collector:4318/v1/traces").unwrap();
        for wrong in ["collector:4318", "ftp://collector", "https://me:secret@collector", ""] {
            let error = url("k", wrong).unwrap_err().to_string();
            assert!(error.contains('k') && !error.contains("secret@"), "{error}");
        }
    }
}
