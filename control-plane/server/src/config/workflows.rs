//! Where workflows may call, and with what: the part of the configuration that says it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::gates::Endpoint;

/// What workflows may do outside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Workflows {
    /// Where `http` steps may call: beginnings of URLs, such as `https://hooks.example.com/deploys/`. None means nowhere.
    pub(crate) http_allowed: Vec<Allowed>,
    /// Whom they may call by a name, with headers that no template holds.
    pub(crate) http: BTreeMap<String, Endpoint>,
}

/// A beginning of URLs, and whose workflows may call there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be a URL, or a table with `url` and `tenants`")]
pub(crate) enum Allowed {
    /// Everybody's, as long as there is one tenant.
    Plain(String),
    /// Those of the tenants that it names.
    Whose(AllowedFor),
}

/// See [`Allowed::Whose`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllowedFor {
    /// The beginning.
    pub(crate) url: String,
    /// Whose workflows may call there, by name; `*` is everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenants: Option<Vec<String>>,
}

impl Allowed {
    /// The beginning.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Plain(url) => url,
            Self::Whose(it) => &it.url,
        }
    }

    /// Whose workflows may call there, if that is said.
    pub(crate) fn tenants(&self) -> Option<&[String]> {
        match self {
            Self::Plain(_) => None,
            Self::Whose(it) => it.tenants.as_deref(),
        }
    }
}

impl Workflows {
    /// What nobody may call as soon as there are several tenants: each as it is called in findings, and the key that says whose it is.
    pub(crate) fn for_one_tenant_only(&self) -> impl Iterator<Item = (String, String)> {
        let unsaid = self.http_allowed.iter().filter(|it| it.tenants().is_none()).count();
        let prefixes = (unsaid > 0).then(|| {
            let name = format!("{unsaid} of workflows.http_allowed");
            (name, "workflows.http_allowed, as { url = \"…\", tenants = [\"…\"] }".to_owned())
        });
        let named = self.http.iter().filter(|(_, it)| it.tenants.is_none());
        let named = named
            .map(|(name, _)| (format!("call destination {name}"), format!("workflows.http.{name}.tenants")));
        prefixes.into_iter().chain(named)
    }

    /// Where it leads.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.http_allowed.iter().map(Allowed::url).chain(self.http.values().map(|it| it.url.as_str()))
    }

    /// The files with headers that it names.
    pub(crate) fn header_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.http.values().filter_map(|it| it.headers_file.as_ref())
    }

    /// The files with authorities that it names.
    pub(crate) fn ca_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.http.values().filter_map(|it| it.ca.as_ref())
    }
}
