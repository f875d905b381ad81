//! The HTTP API: where, for whom, and how much.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use stella_api::{AddressHeader, Proxies};
use stella_certs::GivenCertificate;
use stella_doctor::{CERTIFICATES_BYTES_MAX, open_configured, read_all};
use zeroize::Zeroizing;

/// The HTTP API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Api {
    /// Where to listen (HTTPS).
    pub(crate) listen: SocketAddr,
    /// Names and addresses that the server's certificate has beside `localhost`: what clients and agents dial.
    pub(crate) names: Vec<String>,
    /// A certificate that somebody else has issued, with its issuers' after it (PEM). Without it the control plane makes its own.
    pub(crate) certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub(crate) key: Option<PathBuf>,
    /// Addresses and networks of proxies, which are believed whom they ask for.
    pub(crate) trusted_proxies: Vec<String>,
    /// Which header they say it in.
    pub(crate) client_address_header: AddressHeader,
    /// The largest artifact, in bytes.
    pub(crate) artifact_bytes_max: u64,
    /// How much the archives of one tenant may be in all, in bytes; 0 is as much as there is room for.
    pub(crate) tenant_artifact_bytes_max: u64,
    /// How many releases one tenant may have; 0 is any number.
    pub(crate) tenant_releases_max: u64,
    /// How large what they say may be, with what scanners say of them, in bytes; 0 is any size.
    pub(crate) tenant_release_bytes_max: u64,
    /// Requests a minute for one token, and for one address before it is authenticated.
    pub(crate) requests_per_minute: u32,
    /// How many of them may come at once.
    pub(crate) burst: u32,
    /// Requests a minute for one tenant, over all tokens.
    pub(crate) tenant_requests_per_minute: u32,
    /// Messages a minute for one incoming webhook.
    pub(crate) hook_requests_per_minute: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            names: Vec::new(),
            certificate: None,
            key: None,
            trusted_proxies: Vec::new(),
            client_address_header: AddressHeader::default(),
            artifact_bytes_max: 2 << 30,
            tenant_artifact_bytes_max: 0,
            tenant_releases_max: 100_000,
            tenant_release_bytes_max: 256 << 20,
            requests_per_minute: 1_000,
            burst: 100,
            tenant_requests_per_minute: 500,
            hook_requests_per_minute: 100,
        }
    }
}

impl Api {
    /// The certificate that somebody else has issued, if there is one: with its key, in order, and for all of `api.names`. Whether it is
    /// valid now is not looked at: a control plane whose API shows one that has ended still serves its agents.
    ///
    /// # Errors
    /// Names the key that makes no sense, and the file.
    pub(crate) fn given(&self) -> anyhow::Result<Option<GivenCertificate>> {
        let (certificate, key) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) | (None, Some(_)) => anyhow::bail!("api.certificate and api.key go together"),
        };
        let wrong = || format!("api.certificate {}", certificate.display());
        let chain = read(certificate).with_context(wrong)?;
        let pem = Zeroizing::new(read(key).with_context(|| format!("api.key {}", key.display()))?);
        let given = GivenCertificate::from_pem(&chain, &pem)
            .with_context(|| format!("{} with api.key {}", wrong(), key.display()))?;
        for name in &self.names {
            given.covers(name).with_context(|| {
                format!("{}, and api.names has one that it is not for; agents need none of them: what they dial is agents.advertise", wrong())
            })?;
        }
        Ok(Some(given))
    }

    /// As [`Self::given`], and it is valid now.
    ///
    /// # Errors
    /// As [`Self::given`], or if it is not.
    pub(crate) fn given_now(&self) -> anyhow::Result<Option<GivenCertificate>> {
        let given = self.given()?;
        if let Some(given) = &given {
            let file = self.certificate.as_deref().unwrap_or_else(|| Path::new(""));
            given
                .valid_at(SystemTime::now())
                .with_context(|| format!("api.certificate {}", file.display()))?;
        }
        Ok(given)
    }

    /// The proxies that are believed.
    ///
    /// # Errors
    /// Names the one that is neither an address nor a network.
    pub(crate) fn proxies(&self) -> anyhow::Result<Proxies> {
        Proxies::parse(&self.trusted_proxies, self.client_address_header).context("api.trusted_proxies")
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    open_configured(path).and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX))
}
