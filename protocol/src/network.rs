//! Networks that one party usually has as a whole, and what each of them may take of something that there is only so much of.
//!
//! A host has one address of IPv4 and a whole /64 of IPv6; who is given more is given a /48. To count by single addresses of IPv6
//! is not to count at all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// How much more a site, a /48 of IPv6, may take than one host.
const SITE_FACTOR: usize = 4;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// That of the host with an address: the address of IPv4, or the /64 of IPv6.
    #[must_use]
    pub fn of_host(address: IpAddr) -> Self {
        Self::of(address, 64)
    }

    /// That of the site which a host is in: the /48 of IPv6; of IPv4 it is the address again.
    #[must_use]
    pub fn of_site(address: IpAddr) -> Self {
        Self::of(address, 48)
    }

    fn of(address: IpAddr, bits: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self { address: address.to_canonical(), bits: 32 },
            IpAddr::V6(whole) => {
                let first = u128::MAX << (128 - u32::from(bits));
                Self { address: Ipv6Addr::from_bits(whole.to_bits() & first).into(), bits }
            }
        }
    }
}

/// What there is.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In all.
    pub all_max: usize,
    /// From how many on it has to be shared.
    pub busy: usize,
    /// How many one host may have of them then.
    pub busy_host_max: usize,
    /// How many one host may have of them before.
    pub host_max: usize,
}

/// Counts what hosts have taken, and keeps any of them from taking all: as long as there is plenty each may have much, and when it
/// gets scarce only who has less than its share gets more.
#[derive(Debug)]
pub struct Shares {
    bounds: Bounds,
    all: usize,
    taken: HashMap<Network, usize>,
}

impl Shares {
    /// Nothing is taken.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, all: 0, taken: HashMap::new() }
    }

    /// How many are taken in all.
    #[must_use]
    pub const fn all(&self) -> usize {
        self.all
    }

    /// Takes one for a host; `false` if there is none for it now. Each that is taken is given back once.
    #[must_use]
    pub fn take(&mut self, host: IpAddr) -> bool {
        let Bounds { all_max, busy, busy_host_max, host_max } = self.bounds;
        let share = if self.all >= busy { busy_host_max } else { host_max };
        let (network, site) = (Network::of_host(host), Network::of_site(host));
        let count = |of: &Network| self.taken.get(of).copied().unwrap_or(0);
        if self.all >= all_max
            || count(&network) >= share
            || count(&site) >= share.saturating_mul(SITE_FACTOR)
        {
            return false;
        }
        self.all += 1;
        *self.taken.entry(network).or_default() += 1;
        if site != network {
            *self.taken.entry(site).or_default() += 1;
        }
        true
    }

    /// Takes one for somebody who stands for many hosts; `false` if all are taken. It is given back by [`Self::give_back_for_many`].
    #[must_use]
    pub const fn take_for_many(&mut self) -> bool {
        let is_free = self.all < self.bounds.all_max;
        if is_free {
            self.all += 1;
        }
        is_free
    }

    /// Gives back what was taken for many.
    pub const fn give_back_for_many(&mut self) {
        self.all = self.all.saturating_sub(1);
    }

    /// Gives back what a host has taken.
    pub fn give_back(&mut self, host: IpAddr) {
        let (network, site) = (Network::of_host(host), Network::of_site(host));
        self.all = self.all.saturating_sub(1);
        self.leave(network);
        if site != network {
            self.leave(site);
        }
    }

    fn leave(&mut self, network: Network) {
        if let Some(count) = self.taken.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.taken.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_of_ipv6_is_its_first_64_bits() {
        let host = |text: &str| Network::of_host(address(text));
        assert_eq!(host("2001:db8:1:2::1"), host("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(host("2001:db8:1:2::1"), host("2001:db8:1:3::1"));
        assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"), "it is the same host");
        let site = |text: &str| Network::of_site(address(text));
        assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:ffff::1"));
        assert_ne!(site("2001:db8:1::1"), host("2001:db8:1::1"));
    }

    #[test]
    fn who_comes_first_leaves_some_for_others() {
        let bounds = Bounds { all_max: 20, busy: 10, busy_host_max: 2, host_max: 12 };
        let mut shares = Shares::new(bounds);
        let (greedy, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let taken = (0..30).filter(|_| shares.take(greedy)).count();
        assert_eq!(taken, 10, "until it has to be shared");
        assert_eq!((0..5).filter(|_| shares.take(other)).count(), 2);
        // One network of IPv6, and then one site.
        let within = |network: u16, host: u16| address(&format!("2001:db8:0:{network:x}::{host:x}"));
        assert_eq!((0..5).filter(|host| shares.take(within(0, *host))).count(), 2);
        let of_site = (1..9).flat_map(|network| (0..5).map(move |host| (network, host)));
        assert_eq!(of_site.filter(|(network, host)| shares.take(within(*network, *host))).count(), 6);
        assert_eq!(shares.all(), 20);
        assert!(!shares.take(address("192.0.2.9")) && !shares.take_for_many(), "there is none left");
        (0..10).for_each(|_| shares.give_back(greedy));
        assert!(!shares.take(other), "it has its share");
        assert!(shares.take(greedy));
        shares.give_back(greedy);
        (0..2).for_each(|_| shares.give_back(other));
        assert_eq!((0..30).filter(|_| shares.take_for_many()).count(), 12, "as many as there are");
        (0..12).for_each(|_| shares.give_back_for_many());
        assert_eq!(shares.all(), 8);
        assert!(!shares.taken.contains_key(&Network::of_host(other)), "who has gone is forgotten");
    }
}
