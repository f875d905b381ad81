//! Where traces go, and how.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::outside;

/// Where traces go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Traces {
    /// Where a collector takes OTLP; without it no traces are exported.
    pub(crate) endpoint: Option<String>,
    /// How it takes it.
    pub(crate) protocol: Protocol,
    /// Whether what is sent is compressed.
    pub(crate) compression: Compression,
    /// The authorities that its certificate may be under (PEM); the system's if not set.
    pub(crate) ca: Option<PathBuf>,
    /// Headers for it, one `Name: value` a line: a file, because they are secrets.
    pub(crate) headers_file: Option<PathBuf>,
    /// The share of traces that is exported, 0 to 1.
    pub(crate) sample_ratio: f64,
}

/// What OTLP travels in, by the names that OpenTelemetry gives to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// A collector usually listens on port 4317 for it.
    #[serde(rename = "grpc")]
    Grpc,
    /// A collector usually listens on port 4318 for it.
    #[default]
    #[serde(rename = "http/protobuf", alias = "http")]
    Http,
}

/// How what is sent is compressed, by the names that OpenTelemetry gives to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            compression: Compression::default(),
            ca: None,
            headers_file: None,
            sample_ratio: 1.0,
        }
    }
}

impl Traces {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.address()?;
        self.headers_file.as_deref().map(|path| outside::headers("traces.headers_file", path)).transpose()?;
        ensure!(
            (0.0..=1.0).contains(&self.sample_ratio),
            "traces.sample_ratio must be between 0 and 1, not {}",
            self.sample_ratio
        );
        Ok(())
    }

    /// Where spans are sent, if they are. Over HTTP an address without a path gets the usual one.
    ///
    /// # Errors
    /// If it is no URL, or has what the protocol does not use.
    pub(crate) fn address(&self) -> anyhow::Result<Option<Url>> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let mut url = outside::url("traces.endpoint", endpoint)?;
        match self.protocol {
            Protocol::Http if url.path() == "/" => url.set_path("/v1/traces"),
            Protocol::Http => {}
            Protocol::Grpc => {
                let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
                let host = url.host_str().context("traces.endpoint has no host")?;
                ensure!(
                    is_bare,
                    "traces.endpoint has a path, and gRPC uses none; {}://{host}:4317 is usual, or set traces.protocol to \"http/protobuf\"",
                    url.scheme()
                );
            }
        }
        Ok(Some(url))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn address(written: Value) -> anyhow::Result<String> {
        let traces: Traces = serde_json::from_value(written)?;
        Ok(traces.address()?.map(String::from).unwrap_or_default())
    }

    #[test]
    fn the_address_is_what_the_protocol_needs() {
        for (written, wanted) in [
            (json!({}), ""),
            (json!({"endpoint": "http://c:4318/v1/traces"}), "http://c:4318/v1/traces"),
            (json!({"endpoint": "http://c:4318", "protocol": "http/protobuf"}), "http://c:4318/v1/traces"),
            (json!({"endpoint": "https://c/otlp", "protocol": "http"}), "https://c/otlp"),
            (
                json!({"endpoint": "https://c:4317", "protocol": "grpc", "compression": "gzip"}),
                "https://c:4317/",
            ),
        ] {
            assert_eq!(address(written.clone()).unwrap(), wanted, "{written}");
        }
        for (written, problem) in [
            (json!({"endpoint": "http://c:4318/v1/traces", "protocol": "grpc"}), "http://c:4317 is usual"),
            (json!({"protocol": "http/json"}), "http/json"),
            (json!({"compression": "zstd"}), "zstd"),
        ] {
            let error = format!("{:#}", address(written).unwrap_err());
            assert!(error.contains(problem), "{error}");
        }
    }
}
