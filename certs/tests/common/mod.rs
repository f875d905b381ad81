//! An authority in a temporary directory, and TLS handshakes in memory.
#![allow(dead_code, unreachable_pub, reason = "each test file includes it and uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use stella_certs::tls::{self, ServerIdentity};
use stella_certs::{Authority, CertificateDer, IssuedCertificate, PrivateKey, csr};
use stella_protocol::id::{AgentId, EnrolmentTokenId, TenantId};
use tempfile::TempDir;
use uuid::Uuid;

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn tenant(n: u128) -> TenantId {
    TenantId(Uuid::from_u128(0x7e00 + n))
}

pub fn agent(n: u128) -> AgentId {
    AgentId(Uuid::from_u128(0xa900 + n))
}

pub fn token_id(n: u128) -> EnrolmentTokenId {
    EnrolmentTokenId(Uuid::from_u128(n))
}

/// An authority and the directory that it lives in.
pub struct World {
    pub dir: TempDir,
    pub authority: Authority,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&dir.path().join("pki"), SystemTime::now()).unwrap();
        Self { dir, authority }
    }

    pub fn agent(&self) -> (IssuedCertificate, PrivateKey) {
        self.agent_at(SystemTime::now())
    }

    pub fn agent_at(&self, now: SystemTime) -> (IssuedCertificate, PrivateKey) {
        let made = csr::generate().unwrap();
        let issued = self.authority.issue_agent(&made.csr_der, tenant(1), agent(1), now, HOUR).unwrap();
        (issued, made.key_der)
    }

    pub fn server_identity(&self) -> Arc<ServerIdentity> {
        self.server_identity_at(SystemTime::now())
    }

    pub fn server_identity_at(&self, now: SystemTime) -> Arc<ServerIdentity> {
        ServerIdentity::new(&self.authority.issue_server(&[], now, HOUR).unwrap()).unwrap()
    }

    pub fn quic_server(&self) -> ServerConfig {
        tls::quic_server(&self.server_identity(), &self.authority.roots_der()).unwrap()
    }

    pub fn agent_client(&self) -> ClientConfig {
        let (issued, key) = self.agent();
        tls::quic_agent_client(issued.chain_der, &key, &self.authority.roots_der()).unwrap()
    }
}

/// How a handshake ended: what each side knows of the other, or the first error and whose it was.
#[derive(Debug)]
pub enum Ended {
    Done {
        alpn: Option<Vec<u8>>,
        group: rustls::NamedGroup,
        kind: HandshakeKind,
        client_chain: Option<Vec<CertificateDer<'static>>>,
        server_leaf: Vec<u8>,
    },
    ClientRefused(rustls::Error),
    ServerRefused(rustls::Error),
}

/// Pumps bytes between the two until both are done and silent, or one refuses.
pub fn handshake(client: ClientConfig, server: ServerConfig) -> Ended {
    let name = "203.0.113.7".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            if let Err(error) = server.process_new_packets() {
                return Ended::ServerRefused(error);
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            if let Err(error) = client.process_new_packets() {
                return Ended::ClientRefused(error);
            }
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking(), "the handshake stalled");
    Ended::Done {
        alpn: server.alpn_protocol().map(<[u8]>::to_vec),
        kind: client.handshake_kind().unwrap(),
        group: server.negotiated_key_exchange_group().unwrap().name(),
        client_chain: server.peer_certificates().map(<[_]>::to_vec),
        server_leaf: client.peer_certificates().unwrap()[0].to_vec(),
    }
}
