//! Free ports, for processes that have to be told theirs.
//!
//! Port 0 is no way here: a control plane that is killed has to come back on the port that its agents know. The ports are
//! taken from below the range that the kernel gives to outgoing connections, so that none of them steals one.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is free for TCP and UDP on the loopback address, and was not given out by this process before.
///
/// # Errors
/// If there is none.
pub fn free() -> Result<u16> {
    // Processes that look at the same time begin at different places.
    let seed = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + seed.wrapping_add(step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between {FIRST} and {} is free", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let (one, other) = (free().unwrap(), free().unwrap());
        assert_ne!(one, other);
        TcpListener::bind(("127.0.0.1", one)).unwrap();
        UdpSocket::bind(("127.0.0.1", one)).unwrap();
    }
}
