//! Where a collector is, and how it takes spans.

use std::path::PathBuf;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::{Error, outside};

/// A collector: the keys of the section `traces`, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it takes OTLP; without it no spans are sent.
    pub endpoint: Option<String>,
    /// How it takes it.
    pub protocol: Protocol,
    /// Whether what is sent is compressed.
    pub compression: Compression,
    /// The authorities that its certificate may be under (PEM); the system's if not set.
    pub ca: Option<PathBuf>,
    /// Headers for it, one `Name: value` a line: a file, because they are secrets.
    pub headers_file: Option<PathBuf>,
}

/// What OTLP travels in, by the names that OpenTelemetry gives to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
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
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// Smaller, for some work of the processor.
    Gzip,
}

impl Config {
    /// Looks at everything but whether somebody listens there. Reads the files.
    ///
    /// # Errors
    /// If something makes no sense, or a file is not there or not what it should be.
    pub fn check(&self) -> Result<(), Error> {
        self.address()?;
        if let Some(path) = &self.headers_file {
            outside::headers("traces.headers_file", path)?;
        }
        if let Some(path) = &self.ca {
            outside::roots("traces.ca", path)?;
        }
        Ok(())
    }

    /// Where spans are sent, if they are. Over HTTP an address without a path gets the usual one.
    ///
    /// # Errors
    /// If it is no URL, or has what the protocol does not use.
    pub fn address(&self) -> Result<Option<Url>, Error> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let mut url = outside::url("traces.endpoint", endpoint)?;
        match self.protocol {
            Protocol::Http if url.path() == "/" => url.set_path("/v1/traces"),
            Protocol::Http => {}
            Protocol::Grpc => {
                let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
                if !is_bare {
                    let (scheme, host) = (url.scheme(), url.host_str().unwrap_or("HOST"));
                    let problem = format!(
                        "traces.endpoint has a path, and gRPC uses none; {scheme}://{host}:4317 is usual, or set traces.protocol to \"http/protobuf\""
                    );
                    return Err(Error::Address(problem));
                }
            }
        }
        Ok(Some(url))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn address(written: Value) -> Result<String, Box<dyn std::error::Error>> {
        let config: Config = serde_json::from_value(written)?;
        Ok(config.address()?.map(String::from).unwrap_or_default())
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
            let error = address(written).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
