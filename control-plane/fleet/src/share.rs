//! What one network may have of the places that everybody competes for before anything is known of them.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use stella_protocol::network::Shares;

/// One place, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Mutex<Shares>>,
    address: IpAddr,
}

impl Share {
    /// One for an address; `None` if its network has its share, or there is none left.
    pub(crate) fn take(shares: &Arc<Mutex<Shares>>, address: IpAddr) -> Option<Self> {
        let taken = shares.lock().take(address);
        taken.then(|| Self { shares: Arc::clone(shares), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.lock().give_back(self.address);
    }
}
