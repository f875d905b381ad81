//! Whom the configuration names outside, and which files: what the doctor tries, and what a bundle must not hold.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::Url;
use stella_otlp::Protocol;
use zeroize::Zeroizing;

use super::{Config, DEFAULT_FILE, Loaded};
use crate::first_start::TOKEN_FILE;

/// The port of NATS.
const NATS_PORT: u16 = 4222;
/// A shorter part of an address is a word that may stand anywhere, and no secret that holds.
const SECRET_PART_BYTES_MIN: usize = 16;

/// Something that is listened at elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Its name or address.
    pub(crate) host: String,
    /// Its TCP port.
    pub(crate) port: u16,
    /// Whether it speaks TLS from the beginning.
    pub(crate) tls: bool,
    /// Whether requests to it are HTTP, which may go through a proxy.
    pub(crate) by_http: bool,
    /// The authorities that its certificate may be under; the system's if not set.
    pub(crate) ca: Option<PathBuf>,
}

impl Destination {
    /// Where a URL leads. Errors do not repeat it: it may hold a secret.
    pub(super) fn of_url(url: &str, ca: Option<PathBuf>) -> anyhow::Result<Self> {
        let url = Url::parse(url).context("the address is no URL")?;
        let host = url.host_str().context("the address names no host")?;
        let port = url.port_or_known_default().context("the address names no port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, tls: url.scheme() == "https", by_http: true, ca })
    }

    fn of_nats(server: &str) -> anyhow::Result<Self> {
        // TLS begins after a line in the clear there.
        let url = Url::parse(server).context("the address is none")?;
        let host = url.host_str().context("the address names no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port().unwrap_or(NATS_PORT), tls: false, by_http: false, ca: None })
    }
}

impl Config {
    /// Whom it names outside, each with what it is called in findings.
    pub(crate) fn destinations(&self) -> Vec<(String, anyhow::Result<Destination>)> {
        let mut all = Vec::new();
        for server in &self.event_bus.servers {
            all.push(("event bus".to_owned(), Destination::of_nats(server)));
        }
        if let Some(endpoint) = &self.traces.endpoint {
            let mut collector = Destination::of_url(endpoint, self.traces.ca.clone());
            if let Ok(collector) = &mut collector {
                collector.by_http = self.traces.protocol == Protocol::Http;
            }
            all.push(("traces".to_owned(), collector));
        }
        for (name, it) in self.gates.prometheus.iter().chain(&self.gates.http) {
            all.push((format!("gate source {name}"), Destination::of_url(&it.url, it.ca.clone())));
        }
        for (name, it) in &self.workflows.http {
            all.push((format!("call destination {name}"), Destination::of_url(&it.url, it.ca.clone())));
        }
        all.append(&mut self.notifications.destinations());
        all
    }

    /// The files with secrets that it names, and those of the state folder.
    pub(crate) fn secret_files(&self) -> Vec<PathBuf> {
        let gates = self.gates.prometheus.values().chain(self.gates.http.values());
        let named = [
            &self.traces.headers_file,
            &self.event_bus.credentials_file,
            &self.event_bus.client_key,
            &self.api.key,
        ];
        let named = named.into_iter().flatten().chain(gates.filter_map(|it| it.headers_file.as_ref()));
        let named = named.chain(self.workflows.header_files());
        named.chain(self.notifications.secret_files()).cloned().chain(self.own_secrets()).collect()
    }

    /// The files with secrets in the state folder.
    pub(crate) fn own_secrets(&self) -> Vec<PathBuf> {
        let mut found = vec![self.state_dir.join(TOKEN_FILE)];
        let pki = self.state_dir.join("pki");
        for folder in [pki.clone(), pki.join("next"), pki.join("next-issuing")] {
            let items = std::fs::read_dir(folder).into_iter().flatten().flatten();
            found.extend(
                items
                    .map(|item| item.path())
                    .filter(|path| path.extension().is_some_and(|it| it == "key" || it == "new")),
            );
        }
        found
    }

    /// Receivers' addresses, and what in any address may be what lets in: the long parts of its path and its query.
    pub(crate) fn secret_addresses(&self) -> Vec<Zeroizing<String>> {
        let mut found = Vec::new();
        let gates = self.gates.prometheus.values().chain(self.gates.http.values()).map(|it| &it.url);
        let gates = gates.chain(&self.traces.endpoint).map(String::as_str);
        for address in gates.chain(self.workflows.addresses()) {
            secret_parts(address, &mut found);
        }
        for address in self.notifications.addresses() {
            secret_parts(&address, &mut found);
            found.push(address);
        }
        found
    }
}

/// The host is told; what follows it may be what lets in.
fn secret_parts(address: &str, found: &mut Vec<Zeroizing<String>>) {
    let after_host = address.splitn(4, '/').nth(3).unwrap_or_default();
    let parts = after_host.split(['/', '?', '&', '=', '#']);
    let mut parts: Vec<_> = parts.map(|part| Zeroizing::new(part.to_owned())).collect();
    parts.push(Zeroizing::new(after_host.to_owned()));
    // As the one that it is sent to logs it.
    if let Ok(url) = Url::parse(address) {
        parts.extend(url.query_pairs().map(|(_, value)| Zeroizing::new(value.into_owned())));
    }
    found.extend(parts.into_iter().filter(|part| part.len() >= SECRET_PART_BYTES_MIN));
}

impl Loaded {
    /// Every file that the control plane reads at its start, beside the state folder.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let config = &self.config;
        let gates = config.gates.prometheus.values().chain(config.gates.http.values());
        let bus = &config.event_bus;
        let authorities = [
            &config.metrics.client_ca,
            &config.traces.ca,
            &bus.ca,
            &bus.client_certificate,
            &config.api.certificate,
        ];
        let file = self.file.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let mut all: Vec<_> = authorities.into_iter().flatten().cloned().collect();
        all.extend(gates.filter_map(|it| it.ca.clone()));
        all.extend(config.workflows.ca_files().cloned());
        all.extend(config.notifications.ca_files().cloned());
        all.extend(config.secret_files().into_iter().filter(|it| !it.starts_with(&config.state_dir)));
        all.extend(Some(file).filter(|it| Path::exists(it)));
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_the_long_parts_are_secrets_and_words_are_not() {
        let of = |address| {
            let mut found = Vec::new();
            secret_parts(address, &mut found);
            found.iter().map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("https://x/change"), Vec::<String>::new());
        assert_eq!(of("https://hooks.example.com"), Vec::<String>::new());
        assert_eq!(
            of("https://x/v1/state?api_key=k%31-5678901234567&x=1"),
            ["k%31-5678901234567", "v1/state?api_key=k%31-5678901234567&x=1", "k1-5678901234567"]
        );
        let long = "/T0AB12CD/x1Y2z3A4b5C6d7E8f9G0";
        assert_eq!(of(&format!("https://x{long}")), ["x1Y2z3A4b5C6d7E8f9G0", &long[1..]]);
    }

    #[test]
    fn an_address_leads_to_a_host_and_a_port() {
        let of = |url| Destination::of_url(url, None).map(|it| (it.host, it.port, it.tls)).ok();
        assert_eq!(of("https://h.example.com/x?y"), Some(("h.example.com".into(), 443, true)));
        assert_eq!(of("http://[::1]:9/"), Some(("::1".into(), 9, false)));
        assert_eq!(of("nothing"), None);
        let of = |server| Destination::of_nats(server).map(|it| (it.host, it.port)).ok();
        assert_eq!(of("tls://nats.example.com"), Some(("nats.example.com".into(), 4222)));
        assert_eq!(of("nats://127.0.0.1:80"), Some(("127.0.0.1".into(), 80)));
        assert_eq!(of("nats://127.0.0.1:4223"), Some(("127.0.0.1".into(), 4223)));
    }
}
