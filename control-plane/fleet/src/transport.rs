//! The socket, and QUIC sized for many connections that are mostly idle.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Runtime, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use stella_certs::CertificateDer;
use stella_certs::tls::{ServerIdentity, quic_server};

use crate::Error;
use crate::limits::{
    CONNECTION_WINDOW_BYTES, IDLE_TIME_MAX, INCOMING_BYTES_MAX, INCOMING_BYTES_TOTAL_MAX, INCOMING_MAX,
    OUTPUT_STREAMS_MAX, REQUEST_STREAMS_MAX, SEND_WINDOW_BYTES, SOCKET_BUFFER_BYTES, STREAM_WINDOW_BYTES,
};
use crate::socket::ShortBursts;

/// Opens the socket. The returned endpoint accepts connections.
pub(crate) fn listen(
    address: SocketAddr,
    identity: &Arc<ServerIdentity>,
    roots: &[CertificateDer<'static>],
) -> Result<Endpoint, Error> {
    let server = server_config(identity, roots)?;
    let failed = |source| Error::Listen { address, source };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    widen(&socket);
    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(ShortBursts(runtime.wrap_udp_socket(socket).map_err(failed)?));
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), socket, runtime)
        .map_err(failed)
}

/// How connections are accepted: under which roots agents are known.
pub(crate) fn server_config(
    identity: &Arc<ServerIdentity>,
    roots: &[CertificateDer<'static>],
) -> Result<ServerConfig, Error> {
    let tls = quic_server(identity, roots).map_err(Error::Tls)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(Error::Quic)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport_config()))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    Ok(server)
}

fn transport_config() -> TransportConfig {
    let idle = IdleTimeout::try_from(IDLE_TIME_MAX)
        .expect("half a minute is far below the limit of the wire format");
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(OUTPUT_STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(REQUEST_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(idle))
        .datagram_receive_buffer_size(None);
    config
}

/// Asks for large socket buffers: past the system's limit if the process may, else up to it.
fn widen(socket: &UdpSocket) {
    let socket = socket.as_fd();
    let received = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES));
    let sent = setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES)
        .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES));
    if let Err(error) = received.and(sent) {
        tracing::warn!(
            %error,
            wanted_bytes = SOCKET_BUFFER_BYTES,
            "cannot enlarge the socket's buffers; many agents that reconnect at once will do so slowly"
        );
    }
}
