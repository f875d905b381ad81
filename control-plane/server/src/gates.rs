//! Whom gates may ask: the part of the configuration that says it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};
use stella_domain::gate::Check;
use stella_domain::name::Name;
use stella_gates::{Source, Sources, Tenants};

use stella_otlp::outside;

/// Whom gates may ask, by the names that gates use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gates {
    /// Prometheus servers, or what has the same HTTP API.
    pub(crate) prometheus: BTreeMap<String, Endpoint>,
    /// HTTP endpoints.
    pub(crate) http: BTreeMap<String, Endpoint>,
}

/// One that gates may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    /// Where: of a Prometheus the address before `/api/v1/query`.
    pub(crate) url: String,
    /// The authorities that its certificate may be under (PEM); the system's if not set.
    #[serde(default)]
    pub(crate) ca: Option<PathBuf>,
    /// Headers for it, one `Name: value` a line: a file, because they are secrets.
    #[serde(default)]
    pub(crate) headers_file: Option<PathBuf>,
    /// Whose gates may ask it, by name; `*` is everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenants: Option<Vec<String>>,
}

// An endpoint is told whose gate asks, and may answer as it likes. A Prometheus answers whatever it is asked.
const UNSAID_PROMETHEUS: Tenants = Tenants::Unsaid;
const UNSAID_HTTP: Tenants = Tenants::All;
/// In the place of the name of a tenant.
const EVERYBODY: &str = "*";

impl Gates {
    /// Whom to ask.
    ///
    /// # Errors
    /// Names the key whose value makes no sense.
    pub(crate) fn sources(&self) -> anyhow::Result<Sources> {
        let all = |section: &str, endpoints: &BTreeMap<String, Endpoint>, unsaid: &Tenants| {
            let named = endpoints.iter().map(|(name, endpoint)| {
                let key = format!("gates.{section}.{name}");
                let name: Name = name.parse().with_context(|| format!("{key}: the name"))?;
                Ok((name, endpoint.source(&key, unsaid)?))
            });
            named.collect::<anyhow::Result<BTreeMap<Name, Source>>>()
        };
        Ok(Sources {
            prometheus: all("prometheus", &self.prometheus, &UNSAID_PROMETHEUS)?,
            http: all("http", &self.http, &UNSAID_HTTP)?,
        })
    }

    /// Whether a gate of a tenant, which is one of so many, may ask what it names. What is not configured may be asked by everybody.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn may_ask(&self, check: &Check, tenant: &str, count: usize) -> Result<(), String> {
        let (section, endpoints, name, unsaid) = match check {
            Check::Metric { source, .. } => ("prometheus", &self.prometheus, source, UNSAID_PROMETHEUS),
            Check::Http { endpoint } => ("http", &self.http, endpoint, UNSAID_HTTP),
            Check::Security(_) | Check::Expression { .. } | Check::Manual | Check::Signature(_) => {
                return Ok(());
            }
        };
        let Some(endpoint) = endpoints.get(name.as_str()) else { return Ok(()) };
        let key = format!("gates.{section}.{name}");
        let tenants = endpoint.tenants(&key).map_err(|error| format!("{error:#}"))?.unwrap_or(unsaid);
        if tenants.include(tenant, count) {
            return Ok(());
        }
        Err(stella_gates::Error::OthersOnly { tenant: tenant.to_owned(), key }.to_string())
    }

    /// The Prometheus servers that nobody may ask as soon as there are several tenants.
    pub(crate) fn for_one_tenant_only(&self) -> impl Iterator<Item = &str> {
        self.prometheus
            .iter()
            .filter(|(_, endpoint)| endpoint.tenants.is_none())
            .map(|(name, _)| name.as_str())
    }
}

impl Gates {
    /// The files that it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let all = self.prometheus.values().chain(self.http.values());
        all.flat_map(|it| [&it.ca, &it.headers_file].into_iter().flatten())
    }
}

impl Endpoint {
    fn source(&self, key: &str, unsaid: &Tenants) -> anyhow::Result<Source> {
        let tenants = self.tenants(key)?.unwrap_or_else(|| unsaid.clone());
        let url = outside::url(&format!("{key}.url"), &self.url)?;
        let (roots, headers) = (self.roots(key)?, self.headers(key)?);
        Source::new(url, roots, headers, tenants).with_context(|| key.to_owned())
    }

    /// The authorities that its certificate may be under, if they are not the system's.
    pub(crate) fn roots(&self, key: &str) -> anyhow::Result<Option<Vec<reqwest::Certificate>>> {
        let read = |path: &PathBuf| outside::roots(&format!("{key}.ca"), path);
        Ok(self.ca.as_ref().map(read).transpose()?)
    }

    /// What goes with each request to it. The values are masked in the log from now on.
    pub(crate) fn headers(&self, key: &str) -> anyhow::Result<HeaderMap> {
        let file = format!("{key}.headers_file");
        let headers = self.headers_file.as_deref().map(|path| outside::headers(&file, path)).transpose()?;
        HeaderMap::try_from(&headers.unwrap_or_default()).with_context(|| file.clone())
    }

    fn tenants(&self, key: &str) -> anyhow::Result<Option<Tenants>> {
        tenants(key, self.tenants.as_deref())
    }
}

/// Whose something of the configuration is, if its `tenants` say it.
///
/// # Errors
/// Names the key and what is no tenant's name.
pub(crate) fn tenants(key: &str, named: Option<&[String]>) -> anyhow::Result<Option<Tenants>> {
    let Some(named) = named else { return Ok(None) };
    if named.iter().any(|name| name == EVERYBODY) {
        return Ok(Some(Tenants::All));
    }
    for name in named {
        name.parse::<Name>().with_context(|| format!("{key}.tenants: {name:?}"))?;
    }
    Ok(Some(Tenants::Only(named.iter().cloned().collect())))
}
