//! An agent that is driven by hand: it says what a test tells it to, right or wrong.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use stella_certs::tls::{quic_agent_client, quic_enrol_client};
use stella_certs::{CertificateDer, EnrolmentToken, PrivateKey, csr};
use stella_protocol::close::CloseCode;
use stella_protocol::frame::{self, Decoder};
use stella_protocol::id::{AgentId, Incarnation, Position, TenantId};
use stella_protocol::message::{
    Dispatch, EnrolRequest, EnrolRequestFor, EnrolResponse, Hello, JournalMark, OpenAttempt, Profile,
    Resources, ToAgent, ToControlPlane, Welcome,
};
use uuid::Uuid;

use super::soon;

/// An enrolled identity.
#[derive(Clone)]
pub struct Identity {
    pub tenant: TenantId,
    pub agent: AgentId,
    pub chain: Vec<CertificateDer<'static>>,
    pub roots: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
}

impl Identity {
    pub async fn enrol(control_plane: SocketAddr, token: &EnrolmentToken) -> Self {
        let made = csr::generate().unwrap();
        let answer = offer_to_enrol(control_plane, token, made.csr_der).await.unwrap();
        let granted = answer.into_granted().unwrap();
        Self {
            tenant: granted.tenant,
            agent: granted.agent,
            chain: granted.chain_der.into_iter().map(CertificateDer::from).collect(),
            roots: granted.roots_der.into_iter().map(CertificateDer::from).collect(),
            key: made.key_der,
        }
    }

    pub fn client_config(&self) -> rustls::ClientConfig {
        quic_agent_client(self.chain.clone(), &self.key, &self.roots).unwrap()
    }
}

/// Asks to enrol: the answer, or how the connection was closed.
pub async fn offer_to_enrol(
    control_plane: SocketAddr,
    token: &EnrolmentToken,
    csr_der: Vec<u8>,
) -> Result<EnrolResponse, ConnectionError> {
    offer_to_enrol_as(control_plane, token, csr_der, None).await
}

/// The same of a host that wants to be let in for a profile.
pub async fn offer_to_enrol_as(
    control_plane: SocketAddr,
    token: &EnrolmentToken,
    csr_der: Vec<u8>,
    profile: Option<Profile>,
) -> Result<EnrolResponse, ConnectionError> {
    let connection = dial(control_plane, quic_enrol_client(token.root).unwrap()).await?;
    offer_on(connection, token, csr_der, profile).await
}

/// As [`offer_to_enrol_as`], on a connection that is there.
pub async fn offer_on(
    connection: Connection,
    token: &EnrolmentToken,
    csr_der: Vec<u8>,
    profile: Option<Profile>,
) -> Result<EnrolResponse, ConnectionError> {
    let request = EnrolRequest {
        token: token.id,
        secret: token.secret,
        csr_der,
        hostname: "web-1.example".to_owned(),
        agent_version: "0.1.0".to_owned(),
    };
    let (mut send, receive) = soon(connection.open_bi()).await?;
    let asking = EnrolRequestFor { profile, request };
    soon(send.write_all(&frame::encode(&asking).unwrap())).await.unwrap();
    let mut frames = Frames { receive, decoder: Decoder::new() };
    match frames.next().await {
        Some(answer) => Ok(answer),
        None => Err(soon(connection.closed()).await),
    }
}

/// Connects from a socket of its own.
pub async fn dial(
    control_plane: SocketAddr,
    tls: rustls::ClientConfig,
) -> Result<Connection, ConnectionError> {
    dial_from([127, 0, 0, 1], control_plane, tls).await
}

/// Connects from a socket of its own at this address of the loopback.
pub async fn dial_from(
    from: [u8; 4],
    control_plane: SocketAddr,
    tls: rustls::ClientConfig,
) -> Result<Connection, ConnectionError> {
    let endpoint = Endpoint::client(SocketAddr::from((from, 0))).unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    soon(endpoint.connect_with(config, control_plane, "localhost").unwrap()).await
}

/// Frames of a stream.
pub struct Frames {
    receive: RecvStream,
    decoder: Decoder,
}

impl Frames {
    pub fn new(receive: RecvStream) -> Self {
        Self { receive, decoder: Decoder::new() }
    }

    /// The next frame; `None` if the stream ends before.
    pub async fn next<T>(&mut self) -> Option<T>
    where
        T: serde::de::DeserializeOwned + stella_protocol::validate::Validate,
    {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let chunk = soon(self.receive.read_chunk(65_536, true)).await.ok()??;
            self.decoder.push(&chunk.bytes).unwrap();
        }
    }

    /// The next frame of a stream on which something else follows: not a byte more is read.
    pub async fn next_exact<T>(&mut self) -> T
    where
        T: serde::de::DeserializeOwned + stella_protocol::validate::Validate,
    {
        let mut header = [0; frame::HEADER_BYTES];
        soon(self.receive.read_exact(&mut header)).await.unwrap();
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(header)).unwrap()];
        soon(self.receive.read_exact(&mut body)).await.unwrap();
        frame::decode(&body).unwrap()
    }

    /// Everything after the frames so far.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(chunk) = soon(self.receive.read_chunk(65_536, true)).await.unwrap() {
            rest.extend_from_slice(&chunk.bytes);
        }
        rest
    }
}

/// A connection with an open control stream.
pub struct Agent {
    pub connection: Connection,
    pub send: SendStream,
    pub frames: Frames,
}

impl Agent {
    /// Connects and opens the control stream. Nothing is said yet.
    pub async fn dial(control_plane: SocketAddr, tls: rustls::ClientConfig) -> Result<Self, ConnectionError> {
        let connection = dial(control_plane, tls).await?;
        let (send, receive) = soon(connection.open_bi()).await?;
        Ok(Self { connection, send, frames: Frames::new(receive) })
    }

    /// Connects and says hello.
    pub async fn connect(control_plane: SocketAddr, identity: &Identity, hello: Hello) -> (Self, Welcome) {
        let mut agent = Self::dial(control_plane, identity.client_config()).await.unwrap();
        agent.say(&ToControlPlane::Hello(hello)).await;
        match agent.hear().await {
            ToAgent::Welcome(welcome) => (agent, welcome),
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    pub async fn say(&mut self, frame: &ToControlPlane) {
        self.say_bytes(&frame::encode(frame).unwrap()).await;
    }

    /// Sends bytes; that the connection is being closed is for [`Self::closed`] to find.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        drop(soon(self.send.write_all(bytes)).await);
    }

    pub async fn hear(&mut self) -> ToAgent {
        match self.frames.next().await {
            Some(frame) => frame,
            None => panic!("the session ended: {}", soon(self.connection.closed()).await),
        }
    }

    pub async fn hear_dispatch(&mut self) -> Dispatch {
        match self.hear().await {
            ToAgent::Dispatch(dispatch) => *dispatch,
            other => panic!("{other:?} instead of a dispatch"),
        }
    }

    /// How the control plane closes the connection.
    pub async fn closed(&self) -> CloseCode {
        match soon(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                CloseCode::try_from(close.error_code.into_inner()).unwrap()
            }
            other => panic!("not closed by the control plane: {other}"),
        }
    }
}

pub fn hello(open: Vec<OpenAttempt>) -> Hello {
    Hello {
        agent_version: "0.1.0".to_owned(),
        capabilities: 0,
        journal: JournalMark { incarnation: Incarnation(Uuid::from_u128(7)), position: Position(1) },
        control_plane: None,
        open,
        resources: Resources::default(),
    }
}
