//! What others are called with: their address, the authorities that they are trusted under, and headers that are secrets.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

/// The address in `key`: without credentials, which belong in the file of headers beside it.
pub(crate) fn url(key: &str, text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).with_context(|| format!("{key} is no URL"))?;
    ensure!(matches!(url.scheme(), "http" | "https"), "{key} must begin with https:// or http://");
    let bare = url.username().is_empty() && url.password().is_none();
    ensure!(bare, "{key} has credentials; they belong in the file of headers beside it");
    Ok(url)
}

/// The certificates in the file of `key`.
pub(crate) fn roots(key: &str, path: &Path) -> anyhow::Result<Vec<reqwest::Certificate>> {
    let wrong = || format!("{key} {}", path.display());
    let certificates = reqwest::Certificate::from_pem_bundle(&std::fs::read(path).with_context(wrong)?);
    let certificates = certificates.with_context(wrong)?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", wrong());
    Ok(certificates)
}

/// Lines of `Name: value` in the file of `key`. Errors name the line, never the value: it is a secret.
pub(crate) fn headers(key: &str, path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let wrong = || format!("{key} {}", path.display());
    let text = std::fs::read_to_string(path).with_context(wrong)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            let problem = || format!("{}: line {} is not `Name: value`", wrong(), at + 1);
            let (name, value) = line.split_once(':').with_context(problem)?;
            let name: HeaderName = name.trim().parse().ok().with_context(problem)?;
            let value = HeaderValue::from_str(value.trim()).ok().with_context(problem)?;
            let value = value.to_str().ok().with_context(problem)?;
            stella_telemetry::hide(value);
            Ok((name.to_string(), value.to_owned()))
        })
        .collect()
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
            let error = format!("{:#}", headers("k", &path).unwrap_err());
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
