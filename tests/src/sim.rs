//! A host that exists only as a QUIC connection: real TLS, real frames, no disk and no processes.
//!
//! Tests use it to be precise about what goes over the wire, and to say what no honest agent says. The load tool drives
//! thousands of them; they keep their journals in memory, which is said wherever a figure depends on it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt,
};
use stella_certs::{CONTROL_PLANE_NAME, CertificateDer, EnrolmentToken, PrivateKey, csr, tls};
use stella_protocol::close::CloseCode;
use stella_protocol::frame::{self, HEADER_BYTES};
use stella_protocol::id::{AgentId, Incarnation, Position, TenantId};
use stella_protocol::limits::{FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS};
use stella_protocol::message::{
    EnrolRequest, EnrolRequestFor, EnrolResponse, Hello, JournalMark, Resources, Welcome, capability,
};
use stella_protocol::session::agent::{AgentEvent, AgentSession};
use stella_protocol::session::{CloseReason, Millis};
use stella_protocol::time::Timestamp;
use tokio::time::timeout;
use uuid::Uuid;

/// As the real agent has them.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const IDLE_MAX_MS: u32 = 30_000;
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
const RECEIVE_WINDOW_BYTES: u32 = 1024 * 1024;
const SEND_WINDOW_BYTES: u64 = 256 * 1024;

/// How long a single exchange may take.
const EXCHANGE_TIME_MAX: Duration = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);

/// How much is read from the control stream at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// And after the welcome, when little comes at a time.
const IDLE_READ_BYTES: usize = 1024;

/// Who a simulated host is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its agent id.
    pub agent: AgentId,
    /// The leaf and its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that it trusts.
    pub roots: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: PrivateKey,
}

impl Identity {
    /// Reads the identity of a real agent from its file.
    ///
    /// # Errors
    /// If it is not one.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct OnDisk {
            tenant: TenantId,
            agent: AgentId,
            chain_der: Vec<String>,
            roots_der: Vec<String>,
            key_pkcs8_der: String,
        }
        let file: OnDisk = serde_json::from_slice(&fs::read(path)?).context("no identity file")?;
        let certificates = |texts: &[String]| -> Result<Vec<_>> {
            texts.iter().map(|text| Ok(CertificateDer::from(hex::decode(text)?))).collect()
        };
        Ok(Self {
            tenant: file.tenant,
            agent: file.agent,
            chain: certificates(&file.chain_der)?,
            roots: certificates(&file.roots_der)?,
            key: PrivateKey::from_pkcs8_der(hex::decode(&file.key_pkcs8_der)?),
        })
    }

    /// What to dial with.
    ///
    /// # Errors
    /// If key and certificate do not belong together.
    pub fn client(&self) -> Result<ClientConfig> {
        client_config(tls::quic_agent_client(self.chain.clone(), &self.key, &self.roots)?)
    }
}

/// A UDP socket to dial from.
///
/// # Errors
/// If there is none.
pub fn endpoint() -> Result<Endpoint> {
    Endpoint::client(([127, 0, 0, 1], 0).into()).context("cannot open a UDP socket")
}

/// QUIC as the real agent speaks it.
///
/// # Errors
/// If the TLS configuration cannot be used for QUIC.
pub fn client_config(tls: rustls::ClientConfig) -> Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls)?;
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX_MS))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Dials, and waits for the end of the handshake.
///
/// # Errors
/// If nobody answers, or the handshake fails.
pub async fn dial(endpoint: &Endpoint, server: SocketAddr, config: ClientConfig) -> Result<Connection> {
    let connecting = endpoint.connect_with(config, server, CONTROL_PLANE_NAME)?;
    Ok(timeout(EXCHANGE_TIME_MAX, connecting).await.context("no handshake in time")??)
}

/// Asks for an identity for this key. The answer may be a refusal.
///
/// # Errors
/// If there is no answer.
pub async fn ask_to_enrol(
    endpoint: &Endpoint,
    server: SocketAddr,
    token: &EnrolmentToken,
    key: &PrivateKey,
) -> Result<EnrolResponse> {
    let request = EnrolRequest {
        token: token.id,
        secret: token.secret,
        csr_der: csr::request_for_key(key)?,
        hostname: "simulated".to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let connection = dial(endpoint, server, client_config(tls::quic_enrol_client(token.root)?)?).await?;
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await?;
        let asking = EnrolRequestFor { profile: None, request };
        send.write_all(&frame::encode(&asking)?).await?;
        send.finish()?;
        let bytes = receive.read_to_end(HEADER_BYTES + FRAME_BYTES_MAX).await?;
        Ok(frame::decode(bytes.get(HEADER_BYTES..).unwrap_or_default())?)
    };
    let answer = timeout(EXCHANGE_TIME_MAX, exchange).await.context("no answer to the enrolment in time")?;
    connection.close(VarInt::from_u32(0), b"");
    answer
}

/// A new identity with a new key.
///
/// # Errors
/// If the control plane refuses it.
pub async fn enrol(endpoint: &Endpoint, server: SocketAddr, token: &EnrolmentToken) -> Result<Identity> {
    let key = csr::generate()?.key_der;
    let answer = ask_to_enrol(endpoint, server, token, &key).await?;
    let granted = answer.into_granted().map_err(|reason| anyhow::anyhow!("refused: {reason}"))?;
    let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
    Ok(Identity {
        tenant: granted.tenant,
        agent: granted.agent,
        chain: certificates(granted.chain_der),
        roots: certificates(granted.roots_der),
        key,
    })
}

/// What a simulated host remembers between its sessions.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Its journal, which is a number.
    pub journal: JournalMark,
    /// What it saw of the control plane's.
    pub control_plane: Option<JournalMark>,
}

impl Default for Memory {
    fn default() -> Self {
        let incarnation = Incarnation(Uuid::new_v4());
        Self { journal: JournalMark { incarnation, position: Position(0) }, control_plane: None }
    }
}

impl Memory {
    /// The position of one more record.
    pub const fn record(&mut self) -> Position {
        self.journal.position = self.journal.position.next();
        self.journal.position
    }

    /// What to say first.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: capability::ARTIFACT
                | capability::COMMAND
                | capability::CHECK
                | capability::SYSTEMD
                | capability::LISTS_ALL,
            journal: self.journal,
            control_plane: self.control_plane,
            open: Vec::new(),
            resources: Resources::default(),
        }
    }
}

/// The wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A live session. The caller turns the crank.
#[derive(Debug)]
pub struct Session {
    /// The connection, for what no honest agent does with it.
    pub connection: Connection,
    /// What was said in the welcome.
    pub welcome: Welcome,
    /// The protocol's part.
    pub logic: AgentSession,
    send: SendStream,
    receive: RecvStream,
    buffer: Vec<u8>,
    begun: Instant,
    frames: Frames,
}

impl Session {
    /// Dials, says hello and waits for the welcome.
    ///
    /// # Errors
    /// If there is none: the error's chain has the [`CloseReason`] if the session was closed.
    pub async fn open(
        endpoint: &Endpoint,
        server: SocketAddr,
        config: ClientConfig,
        memory: &Memory,
    ) -> Result<Self> {
        let connection = dial(endpoint, server, config).await?;
        match Self::welcomed(connection.clone(), memory).await {
            Ok(session) => Ok(session),
            // A refusal may come before the first stream is open; it is the reason for whatever failed.
            Err(error) => Err(match connection.close_reason() {
                Some(quinn::ConnectionError::ApplicationClosed(close)) => {
                    anyhow::Error::new(refusal(close.error_code.into_inner())).context("no session")
                }
                Some(reason) => error.context(reason.to_string()),
                None => error,
            }),
        }
    }

    async fn welcomed(connection: Connection, memory: &Memory) -> Result<Self> {
        let opened = timeout(EXCHANGE_TIME_MAX, connection.open_bi()).await;
        let (send, receive) = opened.context("no control stream in time")??;
        let mut opening = Opening {
            logic: AgentSession::new(memory.hello(), Millis(0))?,
            connection,
            send,
            receive,
            buffer: vec![0; READ_BYTES],
            begun: Instant::now(),
            frames: Frames::default(),
        };
        let welcome = timeout(EXCHANGE_TIME_MAX, opening.welcome()).await.context("no welcome in time")??;
        let Opening { logic, connection, send, receive, mut buffer, begun, frames } = opening;
        // Thousands of these wait at the same time: what an idle one needs is small.
        buffer.truncate(IDLE_READ_BYTES);
        buffer.shrink_to_fit();
        Ok(Self { connection, welcome, logic, send, receive, buffer, begun, frames })
    }

    /// The session's clock.
    #[must_use]
    pub fn now(&self) -> Millis {
        since(self.begun)
    }

    /// When the session wants to be looked at, even if nothing comes.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.logic.poll_timeout().map(|(_, at)| self.begun + Duration::from_millis(at.0))
    }

    /// Waits for bytes and gives them to the session. Safe to cancel.
    pub async fn read(&mut self) {
        let read = self.receive.read(&mut self.buffer).await;
        self.frames.see(&read, &self.buffer);
        take(&mut self.logic, &self.connection, read, &self.buffer);
    }

    /// The frames that came, by their ordinal, as bits.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames.seen
    }

    /// The next thing that the control plane said.
    pub fn event(&mut self) -> Option<AgentEvent> {
        let now = self.now();
        self.logic.poll_event(now)
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// If the connection is gone; the next [`Self::read`] says why.
    pub async fn flush(&mut self) -> Result<()> {
        while let Some(bytes) = self.logic.poll_transmit() {
            self.send.write_all(&bytes).await?;
        }
        Ok(())
    }

    /// Sends bytes that no session has made.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.send.write_all(bytes).await?)
    }

    /// Waits until the session is over; heartbeats are not sent.
    pub async fn closed(&mut self) -> CloseReason {
        loop {
            while let Some(event) = self.event() {
                if let AgentEvent::Closed(reason) = event {
                    return reason;
                }
            }
            self.read().await;
        }
    }
}

/// Which frames came, as they are on the wire: each is its length and a body, which begins with its ordinal.
#[derive(Debug, Default)]
struct Frames {
    seen: u64,
    header: Vec<u8>,
    /// What is to come of the body, and whether it has begun.
    left: usize,
    has_begun: bool,
}

impl Frames {
    fn see(&mut self, read: &Result<Option<usize>, quinn::ReadError>, buffer: &[u8]) {
        let Ok(Some(length)) = read else { return };
        for &byte in &buffer[..*length] {
            if self.left == 0 {
                self.header.push(byte);
                if let Ok(length) = <[u8; HEADER_BYTES]>::try_from(self.header.as_slice()) {
                    self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    self.has_begun = false;
                    self.header.clear();
                }
                continue;
            }
            if !self.has_begun {
                self.seen |= 1_u64.checked_shl(byte.into()).unwrap_or(1 << 63);
                self.has_begun = true;
            }
            self.left -= 1;
        }
    }
}

/// A session that has not been welcomed.
struct Opening {
    logic: AgentSession,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    buffer: Vec<u8>,
    begun: Instant,
    frames: Frames,
}

impl Opening {
    async fn welcome(&mut self) -> Result<Welcome> {
        loop {
            while let Some(bytes) = self.logic.poll_transmit() {
                // What is wrong with the connection is told by the read.
                drop(self.send.write_all(&bytes).await);
            }
            let read = self.receive.read(&mut self.buffer).await;
            self.frames.see(&read, &self.buffer);
            take(&mut self.logic, &self.connection, read, &self.buffer);
            match self.logic.poll_event(since(self.begun)) {
                Some(AgentEvent::Welcomed(welcome)) => return Ok(welcome),
                Some(AgentEvent::Closed(reason)) => {
                    return Err(anyhow::Error::new(reason).context("no session"));
                }
                Some(other) => bail!("{other:?} came before the welcome"),
                None => {}
            }
        }
    }
}

fn refusal(code: u64) -> CloseReason {
    CloseCode::try_from(code).map_or(CloseReason::PeerUnknown(code), CloseReason::Peer)
}

fn since(begun: Instant) -> Millis {
    Millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn take(
    logic: &mut AgentSession,
    connection: &Connection,
    read: Result<Option<usize>, quinn::ReadError>,
    buffer: &[u8],
) {
    if let Ok(Some(length)) = read {
        return logic.handle_bytes(&buffer[..length]);
    }
    match connection.close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => {
            logic.handle_peer_close(close.error_code.into_inner())
        }
        Some(_) | None => logic.handle_lost(),
    }
}
