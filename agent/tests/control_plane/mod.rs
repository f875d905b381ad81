//! A control plane of a few lines on a real connection, and what it makes up.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use serde::de::DeserializeOwned;
use stella_agent::config::{Config, Settings};
use stella_agent::identity::Identity;
use stella_agent::policy::Policy;
use stella_agent::service::Service;
use stella_agent::supervisor::Supervisor;
use stella_certs::tls::{self, QuicPeer, ServerIdentity};
use stella_certs::{Authority, CertificateDer, csr, serial_hex_of_certificate};
use stella_protocol::frame;
use stella_protocol::id::{
    AgentId, Attempt, AttemptKey, DeploymentId, Generation, Incarnation, Position, SessionEpoch, TargetId,
    TaskId, TenantId,
};
use stella_protocol::message::{Dispatch, Finished, Hello, JournalMark, OutputChunk, OutputHeader, Welcome};
use stella_protocol::session::Millis;
use stella_protocol::session::control::{ControlEvent, ControlSession};
use stella_protocol::spec::{CommandSpec, TaskSpec};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceParent;
use stella_protocol::validate::Validate;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// No wait of a test takes longer, unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// The secret in the environment of every made-up command.
pub(crate) const SECRET: &str = "hunter2-in-the-environment";

thread_local! {
    /// Recovery finds processes by their attempt, so no two tests may have attempts in common. Each test has a thread.
    static TASKS: u128 = Uuid::new_v4().as_u128() & !0xffff_ffff;
}

/// The first attempt of a task of this test.
pub(crate) fn key(task: u128) -> AttemptKey {
    AttemptKey { task: TaskId(Uuid::from_u128(TASKS.with(|tasks| tasks | task))), attempt: Attempt(1) }
}

/// A command for target 1, generation 1.
pub(crate) fn dispatch(task: u128, script: &str) -> Dispatch {
    Dispatch {
        task: key(task).task,
        attempt: Attempt(1),
        session: SessionEpoch(1),
        deployment: DeploymentId(Uuid::from_u128(77)),
        target: TargetId(Uuid::from_u128(1)),
        target_name: "web-1".to_owned(),
        slot: None,
        generation: Generation(1),
        release_version: "1.0.0".to_owned(),
        spec: TaskSpec::Command(CommandSpec {
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            environment: BTreeMap::from([("PASSWORD".to_owned(), SECRET.to_owned())]),
            working_directory: None,
            user: None,
            timeout_ms: 60_000,
        }),
        trace: TraceParent::default(),
    }
}

pub(crate) fn on(dispatch: Dispatch, target: u128, generation: u64) -> Dispatch {
    Dispatch { target: TargetId(Uuid::from_u128(target)), generation: Generation(generation), ..dispatch }
}

/// Fails the test if `work` takes too long.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// Waits until a file has this content.
pub(crate) async fn until_file_is(path: &Path, content: &str) {
    until_file(path, |text| text == content).await;
}

/// Waits until a file has what is waited for. One that is not there is empty. Whoever writes it tells nobody: it is read again until then.
pub(crate) async fn until_file(path: &Path, is_ready: impl Fn(&str) -> bool) {
    soon(&format!("the content of {}", path.display()), async {
        while !is_ready(&std::fs::read_to_string(path).unwrap_or_default()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A control plane with an authority, on a port of its own.
pub(crate) struct ControlPlane {
    pub(crate) authority: Authority,
    pub(crate) endpoint: Endpoint,
    pub(crate) mark: JournalMark,
    _dir: tempfile::TempDir,
}

impl ControlPlane {
    pub(crate) fn start() -> Self {
        Self::start_with_streams(100)
    }

    /// One that lets so many streams of output be open.
    pub(crate) fn start_with_streams(streams_max: u8) -> Self {
        Self::start_with(streams_max, 100)
    }

    /// One that lets so many streams of requests be open.
    pub(crate) fn start_with_requests(requests_max: u8) -> Self {
        Self::start_with(100, requests_max)
    }

    fn start_with(streams_max: u8, requests_max: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = Authority::open_or_create(dir.path(), now).unwrap();
        let identity = ServerIdentity::new(&authority.issue_server(&[], now, DAY).unwrap()).unwrap();
        let tls = tls::quic_server(&identity, &authority.roots_der()).unwrap();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_uni_streams(streams_max.into());
        transport.max_concurrent_bidi_streams(requests_max.into());
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let mark = JournalMark { incarnation: Incarnation(Uuid::from_u128(5)), position: Position(10) };
        Self { authority, endpoint, mark, _dir: dir }
    }

    pub(crate) fn server(&self) -> String {
        self.endpoint.local_addr().unwrap().to_string()
    }

    /// Makes an identity for a new agent in a state folder.
    pub(crate) fn enrol(&self, state_dir: &Path, lifetime: Duration) -> Identity {
        let made = csr::generate().unwrap();
        let (tenant, agent) = (TenantId(Uuid::from_u128(1)), AgentId(Uuid::from_u128(2)));
        let issued =
            self.authority.issue_agent(&made.csr_der, tenant, agent, SystemTime::now(), lifetime).unwrap();
        let identity = Identity::new(
            self.server(),
            &ders(&issued.chain_der),
            &ders(&self.authority.roots_der()),
            made.key_der,
        );
        let identity = identity.unwrap();
        identity.save(state_dir).unwrap();
        identity
    }

    pub(crate) async fn accept(&self) -> (Connection, QuicPeer) {
        soon("an agent's connection", async {
            loop {
                let incoming = self.endpoint.accept().await.unwrap();
                let Ok(connection) = incoming.await else { continue };
                let handshake = connection.handshake_data().unwrap();
                let handshake = handshake.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
                let certificates = certificates(&connection);
                let peer = QuicPeer::admit(handshake.protocol.as_deref(), certificates.as_deref()).unwrap();
                return (connection, peer);
            }
        })
        .await
    }

    /// The next agent, with its hello, not welcomed.
    pub(crate) async fn greet(&self) -> (Peer, Hello) {
        let (connection, _) = self.accept().await;
        let (send, receive) = soon("a control stream", connection.accept_bi()).await.unwrap();
        let session = ControlSession::new(Millis(0));
        let mut peer = Peer { connection, send, receive, session };
        let ControlEvent::Hello(hello) = peer.next().await else { panic!("no hello first") };
        (peer, hello)
    }

    /// The next agent, welcomed with session number 1.
    pub(crate) async fn welcome(&self) -> (Peer, Hello) {
        let (mut peer, hello) = self.greet().await;
        peer.welcome(self.mark, Vec::new()).await;
        (peer, hello)
    }
}

pub(crate) fn ders(certificates: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.to_vec()).collect()
}

fn certificates(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity().map(|identity| *identity.downcast::<Vec<CertificateDer<'static>>>().unwrap())
}

/// The control plane's end of one session.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    pub(crate) session: ControlSession,
}

impl Peer {
    /// The next thing that the agent says.
    pub(crate) async fn next(&mut self) -> ControlEvent {
        let Self { receive, session, .. } = self;
        soon("a frame of the agent", async {
            loop {
                if let Some(event) = session.poll_event(Millis(0)) {
                    return event;
                }
                let mut buffer = vec![0; 4096];
                match receive.read(&mut buffer).await {
                    Ok(Some(length)) => session.handle_bytes(&buffer[..length]),
                    Ok(None) | Err(_) => session.handle_lost(),
                }
            }
        })
        .await
    }

    /// The next thing about an attempt. Heartbeats do not prolong the wait.
    pub(crate) async fn report(&mut self) -> ControlEvent {
        soon("a report", async {
            loop {
                let event = self.next().await;
                if !matches!(event, ControlEvent::Heartbeat(_)) {
                    return event;
                }
            }
        })
        .await
    }

    /// The next result; what comes before it is passed over.
    pub(crate) async fn finished(&mut self) -> Finished {
        loop {
            match self.report().await {
                ControlEvent::Finished(finished) => return finished,
                ControlEvent::Closed(reason) => panic!("the session is over: {reason:?}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn welcome(&mut self, control_plane: JournalMark, settled: Vec<AttemptKey>) {
        let welcome = Welcome {
            session: SessionEpoch(1),
            control_plane,
            heartbeat_interval_ms: 50,
            settled,
            now: Timestamp(0),
        };
        self.session.welcome(welcome, Millis(0)).unwrap();
        self.transmit().await;
    }

    pub(crate) async fn dispatch(&mut self, dispatch: Dispatch) {
        self.session.dispatch(Box::new(dispatch)).unwrap();
        self.transmit().await;
    }

    pub(crate) async fn acknowledge(&mut self, key: AttemptKey) {
        self.session.acknowledge(key).unwrap();
        self.transmit().await;
    }

    pub(crate) async fn transmit(&mut self) {
        while let Some(bytes) = self.session.poll_transmit() {
            self.send.write_all(&bytes).await.unwrap();
        }
    }

    /// Opens the next stream of output.
    pub(crate) async fn output(&self) -> (OutputHeader, RecvStream) {
        let mut stream = soon("an output stream", self.connection.accept_uni()).await.unwrap();
        let header = read_frame(&mut stream).await.expect("a stream begins with a header");
        (header, stream)
    }

    /// The serial of the certificate that the agent has shown.
    pub(crate) fn serial(&self) -> String {
        serial_hex_of_certificate(&certificates(&self.connection).unwrap()[0]).unwrap()
    }
}

/// The next frame of a stream; `None` at its end.
pub(crate) async fn read_frame<T: DeserializeOwned + Validate>(stream: &mut RecvStream) -> Option<T> {
    let mut header = [0; 4];
    soon("a frame", stream.read_exact(&mut header)).await.ok()?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(header)).unwrap()];
    soon("a frame's body", stream.read_exact(&mut body)).await.unwrap();
    Some(frame::decode(&body).unwrap())
}

/// All bytes of an output stream, to its end or up to a number of bytes.
pub(crate) async fn read_output(stream: &mut RecvStream, bytes_max: usize) -> Vec<u8> {
    let mut output = Vec::new();
    while output.len() < bytes_max {
        let Some(chunk) = read_frame::<OutputChunk>(stream).await else { break };
        output.extend(chunk.bytes);
    }
    output
}

/// A state folder and a host root.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn enrolled(control_plane: &ControlPlane) -> Self {
        let home = Self::new();
        stella_agent::identity::create_state_dir(&home.state()).unwrap();
        control_plane.enrol(&home.state(), DAY);
        home
    }
}

/// An agent in this process; its supervisors are real ones.
pub(crate) struct Agent {
    stop: CancellationToken,
    task: JoinHandle<Result<(), stella_agent::service::Error>>,
}

impl Agent {
    pub(crate) fn start(home: &Home) -> Self {
        Self::with_policy(home, Policy::default())
    }

    pub(crate) fn with_policy(home: &Home, policy: Policy) -> Self {
        let settings = Settings {
            state_dir: Some(home.state()),
            host_root: Some(home.root()),
            drain_seconds: Some(1),
            reserve_bytes: Some(0),
            ..Settings::default()
        };
        let empty = home.dir.path().join("agent.toml");
        std::fs::write(&empty, "").unwrap();
        let config = Config::load(Some(&empty), &settings).unwrap();
        let config = Config { policy, concurrency: NonZeroUsize::new(4).unwrap(), ..config };
        let supervisor = Supervisor::at(PathBuf::from(env!("CARGO_BIN_EXE_stella-agent")));
        let service = Service::open(config, supervisor).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(service.run(stop.clone()));
        Self { stop, task }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon("the agent's stop", self.task).await.unwrap().unwrap();
    }

    /// Ends it without a word, as a crash does.
    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(soon("the agent's end", self.task).await.unwrap_err().is_cancelled());
    }
}
