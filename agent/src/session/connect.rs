//! Dialling the control plane.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, TransportConfig, VarInt};
use stella_certs::{CONTROL_PLANE_NAME, tls};
use stella_protocol::close::{Advice, CloseCode};
use stella_protocol::digest::Digest;
use stella_protocol::limits::HANDSHAKE_TIMEOUT_MS;
use tokio::time::{sleep, timeout};

use super::resolve::{ADDRESSES_MAX, RESOLVE_DURATION_MAX, Resolver};
use crate::identity::Identity;

/// The pause after which the agent says something, so that middle boxes and the control plane know that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The silence after which a connection is dead.
const IDLE_MAX_MS: u32 = 30_000;

/// How much of one stream the agent takes before it has read it. What comes is control frames and artifacts.
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;

/// Streams that the control plane sends on at the same time: the control stream, and as many downloads as it lets be open.
const STREAMS_MAX: u32 = 8;

/// How much of all of them together: downloads that nobody reads, because the host's disk hangs say, never keep a frame of the control
/// stream from coming.
const RECEIVE_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// How much may be sent and not acknowledged by the other end's transport. A new stream of output goes back this far.
pub(super) const SEND_WINDOW_BYTES: u64 = 256 * 1024;

/// How long one address may take to answer.
const DIAL_DURATION_MAX: Duration = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);

/// How long a try may take in all: the name, and each of its addresses.
pub(super) const TRY_DURATION_MAX: Duration =
    RESOLVE_DURATION_MAX.saturating_add(DIAL_DURATION_MAX.saturating_mul(ADDRESSES_MAX));

/// How long a probe waits for a refusal beside the way there and back, and how often it looks.
const PROBE_PATIENCE: Duration = Duration::from_millis(300);
const PROBE_PAUSE: Duration = Duration::from_millis(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the control plane leads nowhere.
    #[error("{server:?} cannot be resolved; write the control plane's address as host:port")]
    Resolve {
        /// What was configured.
        server: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The identity cannot be used.
    #[error("the agent's identity cannot be used; enrol again")]
    Identity(#[source] tls::Error),
    /// No socket.
    #[error("cannot open a UDP socket")]
    Socket(#[source] io::Error),
    /// The address cannot be dialled.
    #[error("{address} cannot be dialled")]
    Dial {
        /// Where to.
        address: SocketAddr,
        /// What quinn said.
        #[source]
        source: quinn::ConnectError,
    },
    /// Nobody answered in time.
    #[error("{address} does not answer; is the control plane there, and is UDP allowed?")]
    Silent {
        /// Who did not.
        address: SocketAddr,
    },
    /// The connection was refused or lost.
    #[error("the connection to {address} failed")]
    Connection {
        /// Where to.
        address: SocketAddr,
        /// Why.
        #[source]
        source: ConnectionError,
    },
}

impl Error {
    /// What to do now.
    pub(crate) fn advice(&self) -> Advice {
        match self {
            Self::Identity(_) => Advice::NeedsOperator,
            Self::Connection { source, .. } => advice_of(source),
            Self::Resolve { .. } | Self::Socket(_) | Self::Dial { .. } | Self::Silent { .. } => Advice::Retry,
        }
    }
}

/// What the end of a connection advises.
pub(super) fn advice_of(error: &ConnectionError) -> Advice {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::try_from(close.error_code.into_inner()).map_or(Advice::RetrySlowly, CloseCode::advice)
        }
        // The other end does not take this certificate, or has none that this end takes.
        ConnectionError::ConnectionClosed(close) if is_of_tls(u64::from(close.error_code)) => {
            Advice::NeedsOperator
        }
        ConnectionError::TransportError(error) if is_of_tls(u64::from(error.code)) => Advice::NeedsOperator,
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Advice::Retry,
    }
}

/// Errors of the TLS handshake have the range 0x100 to 0x1ff (RFC 9000, section 20.1).
fn is_of_tls(code: u64) -> bool {
    (0x100..0x200).contains(&code)
}

/// A connection and the socket below it.
#[derive(Debug)]
pub(crate) struct Connected {
    /// Dropping it takes the socket away: after the connection.
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
}

impl Connected {
    /// Closes the connection and waits, shortly, until the other end has been told.
    pub(crate) async fn close(self, code: CloseCode) {
        self.connection.close(VarInt::from_u32(code.code()), b"");
        // What is not told now is told by the other end's idle time-out.
        let _told = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// Dials for a session.
pub(super) async fn dial_session(
    server: &str,
    identity: &Identity,
    resolver: &mut Resolver,
) -> Result<Connected, Error> {
    let config = tls::quic_agent_client(identity.chain.clone(), &identity.key, &identity.roots);
    dial(server, config.map_err(Error::Identity)?, resolver).await
}

/// A control plane that has taken this agent's certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) address: SocketAddr,
    pub(crate) round_trip: Duration,
}

/// Dials, waits until the other end has judged this agent's certificate, and goes without a hello: the session that a running
/// agent has is not touched.
///
/// # Errors
/// As a session's try would fail.
pub(crate) async fn probe(server: &str, identity: &Identity) -> Result<Reached, Error> {
    let connected = dial_session(server, identity, &mut Resolver::default()).await?;
    let connection = &connected.connection;
    let address = connection.remote_address();
    // The handshake is done there before anything else is judged, and what is refused then is closed at once.
    let judged = async {
        while connection.stats().frame_rx.handshake_done == 0 {
            sleep(PROBE_PAUSE).await;
        }
        sleep(connection.rtt() * 2 + PROBE_PATIENCE).await;
    };
    let outcome = tokio::select! {
        biased;
        source = connection.closed() => Err(Error::Connection { address, source }),
        judged = timeout(DIAL_DURATION_MAX, judged) => match judged {
            Ok(()) => Ok(Reached { address, round_trip: connection.rtt() }),
            Err(_) => Err(Error::Silent { address }),
        },
    };
    connected.close(CloseCode::Normal).await;
    outcome
}

/// Dials for an enrolment, with the one root of the token.
pub(crate) async fn dial_enrolment(server: &str, root: Digest) -> Result<Connected, Error> {
    dial(server, tls::quic_enrol_client(root).map_err(Error::Identity)?, &mut Resolver::default()).await
}

async fn dial(server: &str, tls: rustls::ClientConfig, resolver: &mut Resolver) -> Result<Connected, Error> {
    let config = client_config(tls)?;
    let resolve = |source| Error::Resolve { server: server.to_owned(), source };
    let addresses = resolver.look_up(server).await.map_err(resolve)?;
    let mut last = resolve(io::Error::other("the name has no address"));
    for address in addresses {
        match dial_address(address, config.clone()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_address(address: SocketAddr, config: ClientConfig) -> Result<Connected, Error> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = Endpoint::client(any).map_err(Error::Socket)?;
    let connecting = endpoint.connect_with(config, address, CONTROL_PLANE_NAME);
    let connecting = connecting.map_err(|source| Error::Dial { address, source })?;
    match timeout(DIAL_DURATION_MAX, connecting).await {
        Ok(Ok(connection)) => Ok(Connected { endpoint, connection }),
        Ok(Err(source)) => Err(Error::Connection { address, source }),
        Err(_) => Err(Error::Silent { address }),
    }
}

fn client_config(tls: rustls::ClientConfig) -> Result<ClientConfig, Error> {
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|_| Error::Socket(io::Error::other("the TLS configuration has no cipher suite for QUIC")))?;
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX_MS))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        // The control plane opens no stream.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use quinn::crypto::rustls::QuicServerConfig;
    use stella_certs::tls::ServerIdentity;
    use stella_certs::{Authority, csr};
    use stella_protocol::id::{AgentId, TenantId};
    use uuid::Uuid;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Nothing here waits for anything but the other end, in virtual time.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Both ends of a connection that this agent has dialled, and their sockets.
    async fn connected() -> (Connection, Connection, [Endpoint; 2]) {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let authority = Authority::open_or_create(folder.path(), now).unwrap();
        let server = ServerIdentity::new(&authority.issue_server(&[], now, DAY).unwrap()).unwrap();
        let tls = tls::quic_server(&server, &authority.roots_der()).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let there = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = there.local_addr().unwrap();
        let made = csr::generate().unwrap();
        let (tenant, agent) = (TenantId(Uuid::from_u128(1)), AgentId(Uuid::from_u128(2)));
        let issued = authority.issue_agent(&made.csr_der, tenant, agent, now, DAY).unwrap();
        let ders =
            |all: &[stella_certs::CertificateDer<'_>]| all.iter().map(|it| it.to_vec()).collect::<Vec<_>>();
        let roots = ders(&authority.roots_der());
        let identity =
            Identity::new(address.to_string(), &ders(&issued.chain_der), &roots, made.key_der).unwrap();
        let tls = tls::quic_agent_client(identity.chain.clone(), &identity.key, &identity.roots).unwrap();
        let dialled = dial_address(address, client_config(tls).unwrap());
        let accepted = async { there.accept().await.unwrap().await.unwrap() };
        let (dialled, accepted) = tokio::join!(dialled, accepted);
        let Connected { endpoint, connection } = dialled.unwrap();
        (connection, accepted, [endpoint, there])
    }

    #[tokio::test(start_paused = true)]
    async fn downloads_that_nobody_reads_do_not_keep_the_control_stream_from_coming() {
        let (agent, control_plane, _sockets) = connected().await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS_MAX {
            let (mut send, receive) = agent.open_bi().await.unwrap();
            send.write_all(b"?").await.unwrap();
            let (answer, _) = control_plane.accept_bi().await.unwrap();
            streams.push((answer, receive, send));
        }
        let (mut answer, mut control, _send) = streams.remove(0);
        for (download, ..) in &mut streams {
            // As much as it may send.
            let all = download.write_all(&[7; 2 * STREAM_WINDOW_BYTES as usize]);
            timeout(PATIENCE, all).await.expect_err("more than the window was taken");
        }
        let sent = timeout(PATIENCE, answer.write_all(b"welcome")).await;
        sent.expect("there is no room for the frame").unwrap();
        let mut frame = [0; 7];
        timeout(PATIENCE, control.read_exact(&mut frame)).await.expect("the frame does not come").unwrap();
        assert_eq!(&frame, b"welcome");
    }
}
