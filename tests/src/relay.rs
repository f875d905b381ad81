//! The network between one agent and its control plane, as something that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::net::{UdpSocket, lookup_host};
use tokio::task::JoinSet;

/// Larger than any datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Passes datagrams on between an agent and a control plane, until it is cut or dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    _ways: JoinSet<()>,
}

impl Relay {
    /// A relay to a control plane, `host:port`.
    ///
    /// # Errors
    /// If the address is none, or there are no sockets.
    pub async fn to(control_plane: &str) -> Result<Self> {
        let there = lookup_host(control_plane).await?.find(SocketAddr::is_ipv4);
        let there = there.context("the control plane has no IPv4 address")?;
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        back.connect(there).await?;
        let (address, is_cut) = (front.local_addr()?, Arc::new(AtomicBool::new(false)));
        let agent = Arc::new(Mutex::new(None));
        let mut ways = JoinSet::new();
        let (from, to, cut, seen) =
            (Arc::clone(&front), Arc::clone(&back), Arc::clone(&is_cut), Arc::clone(&agent));
        ways.spawn(async move {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            // A datagram that is refused is lost, as on any network.
            loop {
                let Ok((length, whom)) = from.recv_from(&mut datagram).await else { continue };
                *seen.lock() = Some(whom);
                if !cut.load(Ordering::SeqCst) {
                    let _lost = to.send(&datagram[..length]).await;
                }
            }
        });
        let cut = Arc::clone(&is_cut);
        ways.spawn(async move {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let Ok(length) = back.recv(&mut datagram).await else { continue };
                let whom = *agent.lock();
                if let Some(whom) = whom.filter(|_| !cut.load(Ordering::SeqCst)) {
                    let _lost = front.send_to(&datagram[..length], whom).await;
                }
            }
        });
        Ok(Self { address, is_cut, _ways: ways })
    }

    /// Where the agent dials, `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Loses everything from now on, in both directions.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    /// Passes everything on again.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}
