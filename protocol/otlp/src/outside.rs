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

/// Lines of `Name: value` in the file of `key`. The values are masked in the log from now on.
///
/// # Errors
/// If it cannot be read, or a line is none of these. What is said names the line, never the value: it is a secret.
pub fn headers(key: &str, path: &Path) -> Result<HashMap<String, String>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| wrong(key, path, error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(at, line)| {
        header(line).ok_or_else(|| wrong(key, path, format!("line {} is not `Name: value`", at + 1)))
    };
    lines.map(read).collect()
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let name: HeaderName = name.trim().parse().ok()?;
    let value = HeaderValue::from_str(value.trim()).ok()?;
    let value = value.to_str().ok()?;
    stella_telemetry::hide(value);
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
        std::fs::write(&path, "Authorization: Basic c2VjcmV0\n\nX-Scope-OrgID: 7\n").unwrap();
        let read = headers("k", &path).unwrap();
        assert_eq!((read.len(), read["authorization"].as_str()), (2, "Basic c2VjcmV0"));
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
