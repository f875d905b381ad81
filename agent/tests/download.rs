//! Downloads through connections that come and go, and have few streams. The time is virtual, the connections are real ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod control_plane;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::artifacts::{digest_of, web};
use common::{Host, Task};
use control_plane::{ControlPlane, DAY, PATIENCE, read_frame, soon};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, SendStream, TransportConfig};
use stella_agent::session::{Link, SessionArtifacts};
use stella_certs::{CONTROL_PLANE_NAME, tls};
use stella_protocol::frame;
use stella_protocol::message::{ArtifactRequest, ArtifactResponse, TaskOutcome};
use stella_protocol::spec::{ArtifactSpec, TaskSpec};
use tokio::sync::watch;
use tokio::time::sleep;

const HOUR: Duration = Duration::from_secs(3600);

/// A host whose artifacts come through the connection that is shown to it.
struct Fixture {
    control_plane: ControlPlane,
    home: tempfile::TempDir,
    host: Host,
    link: watch::Sender<Option<Link>>,
}

impl Fixture {
    fn new(control_plane: ControlPlane) -> Self {
        let link = watch::Sender::new(None);
        let mut host = Host::new();
        host.artifacts = Arc::new(SessionArtifacts::new(link.subscribe()));
        Self { control_plane, home: tempfile::tempdir().unwrap(), host, link }
    }

    /// A new connection: the agent's end, with its socket, and the control plane's.
    async fn connect(&self) -> (Endpoint, Connection, Connection) {
        let identity = self.control_plane.enrol(self.home.path(), DAY);
        let tls = tls::quic_agent_client(identity.chain.clone(), &identity.key, &identity.roots).unwrap();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(5)));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = self.control_plane.endpoint.local_addr().unwrap();
        let connecting = endpoint.connect_with(config, address, CONTROL_PLANE_NAME).unwrap();
        let (agents, accepted) =
            tokio::join!(soon("the agent's end", connecting), self.control_plane.accept());
        (endpoint, agents.unwrap(), accepted.0)
    }

    fn start(&self, component: &str, archive: &[u8]) -> Task {
        self.host.start(TaskSpec::Artifact(ArtifactSpec {
            component: component.to_owned(),
            version: "1.0.0".to_owned(),
            digest: digest_of(archive),
            size_bytes: archive.len() as u64,
            keep_releases: 2,
            timeout_ms: u64::try_from((3 * HOUR).as_millis()).unwrap(),
        }))
    }
}

/// The next download, with the answer that there is such an artifact.
async fn serve(connection: &Connection, archive: &[u8], offset: u64) -> SendStream {
    let (mut send, mut receive) = soon("a request", connection.accept_bi()).await.unwrap();
    let request: ArtifactRequest = read_frame(&mut receive).await.unwrap();
    assert_eq!(request, ArtifactRequest { digest: digest_of(archive), offset });
    let found = ArtifactResponse::Found { size_bytes: archive.len() as u64 };
    send.write_all(&frame::encode(&found).unwrap()).await.unwrap();
    send
}

async fn outcome(task: Task) -> TaskOutcome {
    soon("the task's end", task.run).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_download_outlasts_a_control_plane_that_is_away_for_an_hour() {
    let fixture = Fixture::new(ControlPlane::start());
    let archive = web("1.0.0");
    // It is away when the task begins.
    let task = fixture.start("web", &archive);
    sleep(HOUR).await;
    let (_socket, agents, control_planes) = fixture.connect().await;
    fixture.link.send_replace(Some(agents));
    let mut send = serve(&control_planes, &archive, 0).await;
    send.write_all(&archive[..700]).await.unwrap();
    let partial =
        fixture.host.root.path().join(format!("web/.incoming/{}.part", digest_of(&archive).to_hex()));
    common::wait_for("the first bytes", || partial.metadata().is_ok_and(|file| file.len() == 700)).await;

    // It goes away in the middle. The connection that is lost is shown for a moment longer.
    control_planes.close(0_u8.into(), b"");
    sleep(Duration::from_secs(1)).await;
    fixture.link.send_replace(None);
    sleep(HOUR).await;
    assert!(!task.run.is_finished(), "it was given up before its time");
    let (_socket, agents, control_planes) = fixture.connect().await;
    fixture.link.send_replace(Some(agents));
    let mut send = serve(&control_planes, &archive, 700).await;
    send.write_all(&archive[700..]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(outcome(task).await, TaskOutcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_lost_one_after_the_other_are_no_tries() {
    let fixture = Fixture::new(ControlPlane::start());
    let archive = web("1.0.0");
    let task = fixture.start("web", &archive);
    for round in 0..20 {
        let (_socket, agents, control_planes) = fixture.connect().await;
        fixture.link.send_replace(Some(agents));
        // Some go before they have answered, others before they have sent a byte of it.
        if round % 2 == 0 {
            soon("a request", control_planes.accept_bi()).await.unwrap();
        } else {
            let _send = serve(&control_planes, &archive, 0).await;
        }
        control_planes.close(0_u8.into(), b"");
        fixture.link.send_replace(None);
    }
    let (_socket, agents, control_planes) = fixture.connect().await;
    fixture.link.send_replace(Some(agents));
    let mut send = serve(&control_planes, &archive, 0).await;
    send.write_all(&archive).await.unwrap();
    send.finish().unwrap();
    assert_eq!(outcome(task).await, TaskOutcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_download_waits_for_its_turn_while_others_take_all_streams() {
    let fixture = Fixture::new(ControlPlane::start_with_requests(1));
    let (_socket, agents, control_planes) = fixture.connect().await;
    fixture.link.send_replace(Some(agents));
    let (first, second) = (web("1.0.0"), web("2.0.0"));
    let slow = fixture.start("web", &first);
    let mut send = serve(&control_planes, &first, 0).await;
    let waiting = fixture.start("database", &second);
    // Byte by byte: a source that says nothing has gone away.
    for byte in &first[..600] {
        send.write_all(&[*byte]).await.unwrap();
        sleep(PATIENCE / 2).await;
    }
    assert!(!waiting.run.is_finished(), "it was given up before its turn");
    send.write_all(&first[600..]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(outcome(slow).await, TaskOutcome::Succeeded);
    let mut send = serve(&control_planes, &second, 0).await;
    send.write_all(&second).await.unwrap();
    send.finish().unwrap();
    assert_eq!(outcome(waiting).await, TaskOutcome::Succeeded);
}

/// One that is there and does not answer has its limit as before.
#[tokio::test(start_paused = true)]
async fn a_control_plane_that_does_not_answer_fails_the_download() {
    let fixture = Fixture::new(ControlPlane::start());
    let (_socket, agents, control_planes) = fixture.connect().await;
    fixture.link.send_replace(Some(agents));
    let task = fixture.start("web", &web("1.0.0"));
    let mut ignored = Vec::new();
    for _ in 0..6 {
        ignored.push(tokio::time::timeout(HOUR, control_planes.accept_bi()).await.unwrap().unwrap());
    }
    let ended = tokio::time::timeout(HOUR, task.run).await.unwrap().unwrap();
    assert!(common::failure(&ended).contains("the control plane does not answer"), "{ended:?}");
}
