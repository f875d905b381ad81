//! Where calls of workflows may go.

use anyhow::Context as _;
use reqwest::Url;

/// Where calls may go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destinations(Vec<Url>);

impl Destinations {
    /// Reads the beginnings of URLs.
    ///
    /// # Errors
    /// If one is none.
    pub(crate) fn parse(prefixes: &[String]) -> anyhow::Result<Self> {
        let parse = |prefix: &String| {
            let wrong = || {
                format!(
                    "workflows.http_allowed: {prefix:?} is no URL such as https://hooks.example.com/deploys/"
                )
            };
            let url = Url::parse(prefix).with_context(wrong)?;
            let plain = matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none();
            anyhow::ensure!(plain && is_read_in_one_way(&url), wrong());
            Ok(url)
        };
        prefixes.iter().map(parse).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Whether nothing may be called.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address, if it is one that may be called. Both sides are compared as they would be dialled: without `..`, and with
    /// a port.
    pub(crate) fn allow(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL holds credentials".to_owned());
        }
        if !is_read_in_one_way(&url) {
            return Err("the path of the URL has an encoded slash, backslash or dot, which others may decode before they look where it leads; \
                        write it plainly"
                .to_owned());
        }
        let within = |prefix: &Url| {
            let rest = url.path().strip_prefix(prefix.path());
            prefix.scheme() == url.scheme()
                && prefix.host() == url.host()
                && prefix.port_or_known_default() == url.port_or_known_default()
                && rest.is_some_and(|rest| {
                    rest.is_empty() || prefix.path().ends_with('/') || rest.starts_with('/')
                })
        };
        if self.0.iter().any(within) {
            return Ok(url);
        }
        let where_to = url.host_str().unwrap_or_default();
        Err(format!(
            "calls to {where_to} are not allowed there: whoever runs the control plane can add a beginning of the URL to workflows.http_allowed"
        ))
    }
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
    use super::*;

    fn allowed(prefixes: &[&str]) -> Destinations {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        Destinations::parse(&prefixes).unwrap()
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
            assert!(hooks.allow(url).is_ok(), "{url}");
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
            assert!(hooks.allow(url).is_err(), "{url}");
        }
        assert!(Destinations::parse(&["https://hooks.example.com/a%2fb/".to_owned()]).is_err());
        assert!(allowed(&[]).allow("https://example.com/").unwrap_err().contains("workflows.http_allowed"));
    }
}
