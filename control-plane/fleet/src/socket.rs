//! The listener's socket as quinn sees it: the real one, but with short bursts.
//!
//! Every connection keeps the buffer of its largest burst for as long as it lives. With quinn's ten datagrams that is
//! 12 KiB for each agent, since the handshake alone fills it, and an idle agent never again sends more than one.
//! The length of a burst cannot be chosen in the transport's configuration, only whether there are any.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::limits::BURST_DATAGRAMS_MAX;

/// A socket that takes at most [`BURST_DATAGRAMS_MAX`] datagrams of a connection at once.
#[derive(Debug)]
pub(crate) struct ShortBursts(pub(crate) Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for ShortBursts {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments().min(BURST_DATAGRAMS_MAX)
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}
