//! Where traces go, how, and which.

use std::path::PathBuf;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use stella_otlp::{Compression, Protocol};

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

impl Default for Traces {
    fn default() -> Self {
        let stella_otlp::Config { endpoint, protocol, compression, ca, headers_file } =
            stella_otlp::Config::default();
        Self { endpoint, protocol, compression, ca, headers_file, sample_ratio: 1.0 }
    }
}

impl Traces {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.collector().check()?;
        ensure!(
            (0.0..=1.0).contains(&self.sample_ratio),
            "traces.sample_ratio must be between 0 and 1, not {}",
            self.sample_ratio
        );
        Ok(())
    }

    /// Everything but which of them.
    pub(crate) fn collector(&self) -> stella_otlp::Config {
        let Self { endpoint, protocol, compression, ca, headers_file, .. } = self.clone();
        stella_otlp::Config { endpoint, protocol, compression, ca, headers_file }
    }
}
