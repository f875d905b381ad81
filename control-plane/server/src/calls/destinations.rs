//! Where calls of workflows may go, and what goes with them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;
use reqwest::header::HeaderMap;
use reqwest::{Client, Url};
use stella_domain::name::Name;
use stella_gates::Tenants;

use crate::config::Workflows;
use crate::gates::{self, Endpoint};

/// A shorter value of a header is a word that may stand anywhere, and no secret that holds.
const SECRET_BYTES_MIN: usize = 8;

/// Where calls may go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destinations {
    /// Beginnings of addresses, and whose workflows may call there.
    allowed: Vec<(Url, Tenants)>,
    /// Those that have a name.
    named: BTreeMap<String, Named>,
}

/// Whose workflow it is, of so many tenants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose<'t> {
    pub(crate) tenant: &'t str,
    pub(crate) tenants: usize,
}

/// A destination with a name. What goes there has its headers.
#[derive(Clone)]
pub(super) struct Named {
    url: Url,
    tenants: Tenants,
    pub(super) client: Client,
    pub(super) headers: HeaderMap,
    /// What is masked in what it answers: an answer is in the journal for ever.
    secrets: Vec<String>,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers are secrets.
        f.debug_struct("Named").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// An address that may be called.
#[derive(Debug)]
pub(super) struct Permitted<'d> {
    pub(super) url: Url,
    /// What goes with it, if it was called by a name.
    pub(super) named: Option<&'d Named>,
}

impl Destinations {
    /// Reads where workflows may call, and the files with what goes there.
    ///
    /// # Errors
    /// Names the key that makes no sense.
    pub(crate) fn parse(config: &Workflows) -> anyhow::Result<Self> {
        let allowed = config.http_allowed.iter().map(|it| {
            let key = "workflows.http_allowed";
            let tenants = gates::tenants(key, it.tenants())?.unwrap_or(Tenants::Unsaid);
            Ok((prefix(key, it.url())?, tenants))
        });
        let named = config.http.iter().map(|(name, endpoint)| {
            let key = format!("workflows.http.{name}");
            name.parse::<Name>().with_context(|| format!("{key}: the name"))?;
            Ok((name.clone(), Named::read(&key, endpoint)?))
        });
        Ok(Self {
            allowed: allowed.collect::<anyhow::Result<_>>()?,
            named: named.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Whether nothing may be called but what has a name.
    pub(super) const fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    /// The address, if it is one that workflows of the tenant may call: a whole one, or with a destination's name what comes after its own.
    /// Both sides are compared as they would be dialled: without `..`, and with a port.
    pub(super) fn allow(
        &self,
        whose: Whose<'_>,
        to: Option<&Name>,
        text: &str,
    ) -> Result<Permitted<'_>, String> {
        if let Some(name) = to {
            let named = self.named.get(name.as_str()).filter(|it| whose.is_in(&it.tenants));
            let named = named.ok_or_else(|| whose.has_none(name))?;
            let below =
                format!("{}/{}", named.url.as_str().trim_end_matches('/'), text.trim_start_matches('/'));
            let url = address(if text.is_empty() { named.url.as_str() } else { &below })?;
            if !is_within(&url, &named.url) {
                return Err(format!("the path leads out of workflows.http.{name}"));
            }
            return Ok(Permitted { url, named: Some(named) });
        }
        let url = address(text)?;
        let mut within = self.allowed.iter().filter(|(prefix, _)| is_within(&url, prefix));
        if within.any(|(_, tenants)| whose.is_in(tenants)) {
            return Ok(Permitted { url, named: None });
        }
        let (where_to, tenant) = (url.host_str().unwrap_or_default(), whose.tenant);
        Err(format!(
            "workflows of tenant {tenant} may not call {where_to} there: whoever runs the control plane can add a beginning of the URL to \
             workflows.http_allowed, as {{ url = \"…\", tenants = [\"{tenant}\"] }}"
        ))
    }

    /// Why workflows of the tenant may not call it, if so. What is not known before it is called may be `None`.
    pub(crate) fn refusal(
        &self,
        whose: Whose<'_>,
        to: Option<&Name>,
        text: Option<&str>,
    ) -> Result<(), String> {
        match (to, text) {
            (None, None) => Ok(()),
            (to, text) => self.allow(whose, to, text.unwrap_or_default()).map(drop),
        }
    }
}

impl Whose<'_> {
    fn is_in(self, tenants: &Tenants) -> bool {
        tenants.include(self.tenant, self.tenants)
    }

    /// Does not tell what is others' from what nobody has.
    fn has_none(self, name: &Name) -> String {
        let tenant = self.tenant;
        format!(
            "workflows of tenant {tenant} have no destination {name}: whoever runs the control plane can set workflows.http.{name}.url, and name \
             the tenant in workflows.http.{name}.tenants"
        )
    }
}

impl Named {
    fn read(key: &str, endpoint: &Endpoint) -> anyhow::Result<Self> {
        let url = prefix(&format!("{key}.url"), &endpoint.url)?;
        let roots = endpoint.roots(key)?;
        let headers = endpoint.headers(key)?;
        if let Some(name) = super::OWN_HEADERS.iter().find(|name| headers.contains_key(**name)) {
            anyhow::bail!("{key}.headers_file has the header {name}, which is not for it to say");
        }
        let mut builder = super::builder();
        // Without TLS no authorities are needed, and a host may have none.
        if let Some(roots) = roots.or_else(|| (url.scheme() == "http").then(Vec::new)) {
            builder = builder.tls_certs_only(roots);
        }
        let client = builder.build().with_context(|| key.to_owned())?;
        let tenants = gates::tenants(key, endpoint.tenants.as_deref())?.unwrap_or(Tenants::Unsaid);
        let mut secrets: Vec<String> =
            headers.values().filter_map(|it| it.to_str().ok()).flat_map(forms).collect();
        // Of two that begin at one place the longer one: the shorter is a part of it.
        secrets.sort_by_key(|it| std::cmp::Reverse(it.len()));
        Ok(Self { url, tenants, client, headers, secrets })
    }

    /// A text that it has answered, without the secrets that were sent there.
    pub(super) fn masked(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// How the value of a header may come back: as it is, within a text of JSON, and the word after its scheme on its own.
fn forms(value: &str) -> impl Iterator<Item = String> {
    let quoted = serde_json::Value::from(value).to_string();
    let escaped = quoted.trim_matches('"').to_owned();
    let word = value.split_once(' ').map(|(_, word)| word.trim().to_owned());
    let all = [Some(value.to_owned()), Some(escaped), word];
    all.into_iter().flatten().filter(|it| it.len() >= SECRET_BYTES_MIN)
}

/// The beginning of addresses that a key says.
fn prefix(key: &str, text: &str) -> anyhow::Result<Url> {
    // Somebody may have put what lets in there.
    let shown = stella_settings::masked_address(text);
    let wrong = || format!("{key}: {shown:?} is no URL such as https://hooks.example.com/deploys/");
    let url = Url::parse(text).with_context(wrong)?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    anyhow::ensure!(plain && is_read_in_one_way(&url), wrong());
    Ok(url)
}

/// The address that a text is, if it leads where it says.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL holds credentials".to_owned());
    }
    if !is_read_in_one_way(&url) {
        return Err("the path of the URL has an encoded slash, backslash or dot, which others may decode before they look where it leads; \
                    write it plainly"
            .to_owned());
    }
    Ok(url)
}

fn is_within(url: &Url, prefix: &Url) -> bool {
    let rest = url.path().strip_prefix(prefix.path());
    prefix.scheme() == url.scheme()
        && prefix.host() == url.host()
        && prefix.port_or_known_default() == url.port_or_known_default()
        && rest.is_some_and(|rest| rest.is_empty() || prefix.path().ends_with('/') || rest.starts_with('/'))
}

/// Whether everybody takes the path for the same one. What is encoded is sent as it is, and many servers decode it first:
/// `deploys/..%2fadmin` is below `deploys/` here, and `admin` there. An encoded `%` might be decoded twice.
fn is_read_in_one_way(url: &Url) -> bool {
    let path = url.path().to_ascii_lowercase();
    // Some servers take what follows a semicolon off each segment.
    let climbs = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    !["%2f", "%5c", "%2e", "%25", "%00", "%3b"].iter().any(|encoded| path.contains(encoded))
        && !path.contains('\\')
        && !path.split('/').any(climbs)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ACME: Whose<'_> = Whose { tenant: "acme", tenants: 1 };

    fn read(config: Value) -> anyhow::Result<Destinations> {
        stella_certs::install_provider();
        Destinations::parse(&serde_json::from_value(config).unwrap())
    }

    fn allowed(prefixes: &[&str]) -> Destinations {
        read(json!({ "http_allowed": prefixes })).unwrap()
    }

    /// One destination, with headers from a file.
    fn with_headers(lines: &str) -> anyhow::Result<Destinations> {
        let folder = tempfile::tempdir().unwrap();
        let headers_file = folder.path().join("headers");
        std::fs::write(&headers_file, lines).unwrap();
        read(json!({ "http": { "a": { "url": "https://h/", "headers_file": headers_file } } }))
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn each_destination_is_for_its_tenants() {
        let hooks = read(json!({
            "http_allowed": [
                "https://plain/",
                { "url": "https://ours/", "tenants": ["acme"] },
                { "url": "https://all/", "tenants": ["*"] },
            ],
            "http": {
                "plain": { "url": "https://plain/" },
                "ours": { "url": "https://ours/", "tenants": ["acme"] },
                "all": { "url": "https://all/", "tenants": ["*"] },
            },
        }))
        .unwrap();
        let (one, acme) = (ACME, Whose { tenants: 2, ..ACME });
        let globex = Whose { tenant: "globex", ..acme };
        for (whose, to, may) in [
            (one, "plain", true),
            (one, "ours", true),
            (acme, "plain", false),
            (acme, "ours", true),
            (globex, "plain", false),
            (globex, "ours", false),
            (globex, "all", true),
            (one, "nothing", false),
        ] {
            let name = name(to);
            let by_address = hooks.allow(whose, None, &format!("https://{to}/x"));
            let by_name = hooks.allow(whose, Some(&name), "x");
            assert_eq!((by_address.is_ok(), by_name.is_ok()), (may, may), "{whose:?} {to}");
            for told in [by_address.map(drop), by_name.map(drop)].into_iter().filter_map(Result::err) {
                assert!(told.contains(whose.tenant) && told.contains("workflows.http"), "{told}");
            }
            // Of a step whose path is only known later the name is known, and of an address nothing.
            assert_eq!(hooks.refusal(whose, Some(&name), None).is_ok(), may);
            assert!(hooks.refusal(whose, None, None).is_ok());
        }
        // What is others' is no different from what is not there.
        let told = |to: &str| hooks.allow(globex, Some(&name(to)), "").unwrap_err();
        assert_eq!(told("ours").replace("ours", "none"), told("none"));
    }

    #[test]
    fn a_path_stays_below_its_destination() {
        let hooks = read(json!({ "http": { "a": { "url": "https://h.example.com/rest/api/" } } })).unwrap();
        let to = |path: &str| hooks.allow(ACME, Some(&name("a")), path).map(|it| it.url.to_string());
        for (path, url) in [
            ("", "https://h.example.com/rest/api/"),
            ("issue", "https://h.example.com/rest/api/issue"),
            ("/issue?of=shop", "https://h.example.com/rest/api/issue?of=shop"),
            ("@evil.example/", "https://h.example.com/rest/api/@evil.example/"),
            ("https://evil.example/", "https://h.example.com/rest/api/https://evil.example/"),
            ("//evil.example/", "https://h.example.com/rest/api/evil.example/"),
        ] {
            assert_eq!(to(path).as_deref(), Ok(url), "{path}");
        }
        for path in
            ["../admin", "issue/../../admin", "%2e%2e/admin", "..%2fadmin", "x\\..\\..\\x", "..;/admin"]
        {
            assert!(to(path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_makes_no_sense_names_its_key() {
        let allowed = |it: Value| json!({ "http_allowed": [it] });
        let named = |name: &str, it: Value| json!({ "http": { name: it } });
        for (config, key) in [
            (allowed(json!({ "url": "ftp://h/" })), "workflows.http_allowed"),
            (allowed(json!({ "url": "https://h/", "tenants": ["A B"] })), "workflows.http_allowed.tenants"),
            (named("a", json!({ "url": "https://h/?key=1" })), "workflows.http.a.url"),
            (named("a", json!({ "url": "https://h/", "tenants": ["A B"] })), "workflows.http.a.tenants"),
            (
                named("a", json!({ "url": "https://h/", "headers_file": "/none" })),
                "workflows.http.a.headers_file",
            ),
            (named("A", json!({ "url": "https://h/" })), "workflows.http.A"),
        ] {
            let told = format!("{:#}", read(config).unwrap_err());
            assert!(told.contains(key), "{key}: {told}");
        }
        let told = read(named("a", json!({ "url": "https://me:pw@h/?key=x1" }))).unwrap_err().to_string();
        assert!(!told.contains("pw") && !told.contains("x1"), "{told}");
        let told = with_headers("Traceparent: 00-1\n").unwrap_err().to_string();
        assert!(told.contains("workflows.http.a.headers_file has the header traceparent"), "{told}");
    }

    #[test]
    fn an_answer_that_repeats_what_was_sent_is_masked() {
        let lines = "Authorization: Bearer k1-5678901234567\nX-Key: a\"1234567\nX-Short: yes\n";
        let hooks = with_headers(lines).unwrap();
        let named = hooks.allow(ACME, Some(&name("a")), "").unwrap().named.unwrap();
        let answer = r#"{"sent": "Bearer k1-5678901234567", "token": "k1-5678901234567", "key": "a\"1234567", "ok": "yes"}"#;
        assert_eq!(named.masked(answer), r#"{"sent": "***", "token": "***", "key": "***", "ok": "yes"}"#);
        assert!(!format!("{hooks:?}").contains("k1-5678901234567"));
    }

    #[test]
    fn only_what_is_below_an_allowed_beginning_is_called() {
        let hooks = allowed(&["https://hooks.example.com/deploys/", "http://127.0.0.1:8080/x"]);
        for url in [
            "https://hooks.example.com/deploys/1?a=b",
            "https://hooks.example.com:443/deploys/",
            "https://HOOKS.example.com/deploys/x/../y",
            "https://hooks.example.com/deploys/a%20b?to=..%2fadmin",
            "http://127.0.0.1:8080/x",
            "http://127.0.0.1:8080/x/y",
        ] {
            assert!(hooks.allow(ACME, None, url).is_ok(), "{url}");
        }
        for url in [
            "https://hooks.example.com/",
            "https://hooks.example.com/deploys/../admin",
            "https://hooks.example.com/deploys/%2e%2e/admin",
            "https://hooks.example.com/deploys/..%2fadmin",
            "https://hooks.example.com/deploys/%2e%2e%2Fadmin",
            "https://hooks.example.com/deploys/..%5Cadmin",
            "https://hooks.example.com/deploys/..%252fadmin",
            "https://hooks.example.com/deploys/.%2E/admin",
            "https://hooks.example.com/deploys/..;x=1/admin",
            "http://hooks.example.com/deploys/",
            "https://hooks.example.com:444/deploys/",
            "https://hooks.example.com.evil.example/deploys/",
            "https://hooks.example.com@evil.example/deploys/",
            "https://user@hooks.example.com/deploys/",
            "http://127.0.0.1:8080/xy",
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "no address",
        ] {
            assert!(hooks.allow(ACME, None, url).is_err(), "{url}");
        }
        assert!(read(json!({ "http_allowed": ["https://hooks.example.com/a%2fb/"] })).is_err());
        let told = allowed(&[]).allow(ACME, None, "https://example.com/").unwrap_err();
        assert!(told.contains("workflows.http_allowed"), "{told}");
    }
}
