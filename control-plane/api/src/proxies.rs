//! Who asks, if a proxy asks for somebody else.
//!
//! A header is what its sender likes. It is believed only on a connection from a proxy that is named in the configuration, in the one
//! header that this proxy is known to write, and from its end on: what the last proxy has added stands last, and everything before the
//! first address that is no proxy's was written by nobody who is known.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How many proxies may stand behind each other.
const PROXIES_MAX: usize = 16;

/// The header in which proxies say whom they ask for. There is one: of the other a proxy passes on what its caller has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressHeader {
    /// `X-Forwarded-For`: addresses with commas between them.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as RFC 7239 has it.
    Forwarded,
}

impl AddressHeader {
    const fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => header::FORWARDED,
        }
    }
}

/// A proxy that is no address and no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network, such as 10.0.0.7 or fd00:1::/64")]
pub struct NoNetwork(String);

/// The proxies that are believed. Without any, who asks is who is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    networks: Vec<IpNet>,
    header: AddressHeader,
}

impl Proxies {
    /// Reads addresses and networks.
    ///
    /// # Errors
    /// [`NoNetwork`] for the first that is neither.
    pub fn parse(networks: &[String], header: AddressHeader) -> Result<Self, NoNetwork> {
        let parse = |text: &String| {
            let network = IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from));
            network.map_err(|_| NoNetwork(text.clone()))
        };
        Ok(Self { networks: networks.iter().map(parse).collect::<Result<_, _>>()?, header })
    }

    /// Whether this is one of them.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Who asks on a connection from `peer`.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let lines = headers.get_all(self.header.name());
        let lines: Vec<&str> = lines.iter().map(|line| line.to_str().unwrap_or_default()).collect();
        let hops = lines.iter().rev().flat_map(|line| elements(line, self.header).into_iter().rev());
        for hop in hops.take(PROXIES_MAX) {
            if !self.has(client) {
                break;
            }
            match address(hop, self.header) {
                Some(address) => client = address.to_canonical(),
                // It does not say for whom: nobody knows who wrote what stands before that.
                None => break,
            }
        }
        client
    }
}

/// What has commas between it, outside of quotes.
fn elements(line: &str, header: AddressHeader) -> Vec<&str> {
    let mut is_quoted = false;
    let split = line.split(|letter| {
        is_quoted ^= letter == '"' && header == AddressHeader::Forwarded;
        letter == ',' && !is_quoted
    });
    split.map(str::trim).collect()
}

/// For whom a proxy asks.
fn address(element: &str, header: AddressHeader) -> Option<IpAddr> {
    let node = match header {
        AddressHeader::XForwardedFor => element,
        AddressHeader::Forwarded => element.split(';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = value.trim();
            let value = value.strip_prefix('"').map_or(Some(value), |it| it.strip_suffix('"'))?;
            name.trim().eq_ignore_ascii_case("for").then_some(value)
        })?,
    };
    // A port may follow; an address of IPv6 is in brackets then, and in `Forwarded` always.
    let bare = match node.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if node.matches(':').count() == 1 => node.split_once(':')?.0,
        None => node,
    };
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn proxies(header: AddressHeader) -> Proxies {
        let networks = ["10.0.0.7", "192.168.0.0/16", "fd00:1::/64"].map(str::to_owned);
        Proxies::parse(&networks, header).unwrap()
    }

    fn client(header: AddressHeader, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_str(line).unwrap());
        }
        proxies(header).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_header_is_believed_from_its_end_on_as_far_as_proxies_wrote_it() {
        let of = |peer, lines: &[&str]| client(AddressHeader::XForwardedFor, peer, lines);
        assert_eq!(of("203.0.113.9", &["198.51.100.1"]), "203.0.113.9", "nobody's proxy");
        assert_eq!(of("10.0.0.7", &[]), "10.0.0.7", "it says nothing");
        assert_eq!(of("10.0.0.7", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("10.0.0.7", &["6.6.6.6, 198.51.100.1"]), "198.51.100.1", "what its caller wrote");
        assert_eq!(of("10.0.0.7", &["6.6.6.6, 198.51.100.1, 192.168.3.4"]), "198.51.100.1", "two proxies");
        assert_eq!(of("10.0.0.7", &["6.6.6.6", "198.51.100.1"]), "198.51.100.1", "in two lines");
        assert_eq!(of("10.0.0.7", &["192.168.1.1, 192.168.1.2"]), "192.168.1.1", "from within");
        assert_eq!(of("10.0.0.7", &["6.6.6.6, unknown"]), "10.0.0.7");
        assert_eq!(of("10.0.0.7", &["6.6.6.6, unknown, 192.168.1.2"]), "192.168.1.2");
        assert_eq!(of("::ffff:10.0.0.7", &["::ffff:198.51.100.1"]), "198.51.100.1", "IPv4 in IPv6");
        assert_eq!(of("fd00:1::2", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(of("fd00:1::2", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(of("10.0.0.7", &["198.51.100.1:55"]), "198.51.100.1");
        assert_eq!(of("fd00:2::2", &["2001:db8::1"]), "fd00:2::2", "another network");
        let many = vec!["192.168.1.1"; PROXIES_MAX + 3].join(",");
        assert_eq!(of("10.0.0.7", &[&format!("6.6.6.6,{many}")]), "192.168.1.1", "there is an end to it");
    }

    #[test]
    fn the_header_of_the_standard_is_read_with_its_quotes() {
        let of = |lines: &[&str]| client(AddressHeader::Forwarded, "10.0.0.7", lines);
        assert_eq!(of(&["for=198.51.100.1;proto=https;by=203.0.113.43"]), "198.51.100.1");
        assert_eq!(of(&["proto=https; For=\"198.51.100.1:4711\""]), "198.51.100.1");
        assert_eq!(of(&["for=6.6.6.6, for=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        assert_eq!(of(&["for=6.6.6.6", "for=\"[fd00:1::9]\""]), "6.6.6.6", "said by a proxy of ours");
        for nobody in
            ["for=unknown", "for=_hidden", "proto=https", "for=\"1.2.3.4", "for=6.6.6.6, for=\"", ""]
        {
            assert_eq!(of(&[nobody]), "10.0.0.7", "{nobody}");
        }
        // What its caller left open swallows what the proxy has added, and helps the caller to nothing.
        assert_eq!(of(&["for=6.6.6.6, for=\"7.7.7.7, for=198.51.100.1"]), "10.0.0.7");
        // The other header is what a caller has written.
        let other = client(AddressHeader::XForwardedFor, "10.0.0.7", &[]);
        assert_eq!(other, "10.0.0.7");
    }

    #[test]
    fn names_are_no_networks() {
        let of = |text: &str| Proxies::parse(&[text.to_owned()], AddressHeader::default());
        for good in ["127.0.0.1", "::1", "10.0.0.0/8", "::/0"] {
            assert!(of(good).is_ok(), "{good}");
        }
        for bad in ["proxy.example.com", "10.0.0.0/33", "", "10.0.0"] {
            let error = of(bad).unwrap_err().to_string();
            assert!(error.contains("neither an address nor a network"), "{error}");
        }
    }
}
