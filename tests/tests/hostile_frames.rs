//! Whoever speaks nonsense harms nobody but themselves.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stella_api_types::deployment::OnFailure;
use stella_certs::{EnrolmentToken, tls};
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame::{self, Decoder};
use stella_protocol::limits::{ENROL_REQUEST_BYTES_MAX, FRAME_BYTES_MAX};
use stella_protocol::message::{ArtifactRequest, ArtifactResponse};
use stella_protocol::session::CloseReason;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_token, token};
use stella_tests::process::resident_bytes;
use stella_tests::recipe::{self, rolling, shell};
use stella_tests::sim::{self, Identity, Memory, Session};
use stella_tests::wait::PATIENCE;
use tokio::time::timeout;

/// Fixed: garbage that once did harm has to come again.
const SEED: u64 = 0x5e1f_00d5;

fn server(cluster: &Cluster) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], cluster.control_plane.agents_port()))
}

async fn invitation(cluster: &Cluster, name: &str) -> Result<EnrolmentToken> {
    let created = create_token(&cluster.api, TENANT, &token(Some(name), 1)).await?;
    Ok(created.token.context("the token is not in the answer")?.parse()?)
}

/// Datagrams that are no QUIC, and some that look like its first packet.
fn spray(server: SocketAddr, random: &mut StdRng) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for round in 0..2_000_usize {
        let mut datagram = vec![0; 1 + round % 1_400];
        random.fill_bytes(&mut datagram);
        if round % 3 == 0 && datagram.len() > 5 {
            datagram[0] = 0xc3;
            datagram[1..5].copy_from_slice(&1_u32.to_be_bytes());
        }
        // A full buffer drops them, as a network would.
        socket.send_to(&datagram, server).ok();
    }
    Ok(())
}

async fn open(cluster: &Cluster, identity: &Identity) -> Result<Session> {
    let endpoint = sim::endpoint()?;
    Session::open(&endpoint, server(cluster), identity.client()?, &Memory::default()).await
}

/// What the control plane makes of these bytes on the control stream of an agent in good standing.
async fn verdict(cluster: &Cluster, identity: &Identity, bytes: &[u8]) -> Result<CloseReason> {
    let mut session = open(cluster, identity).await?;
    session.send_raw(bytes).await?;
    timeout(PATIENCE, session.closed()).await.context("the session lives on nonsense")
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_oversized_frames_do_no_harm_to_others() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("count", "echo run >> runs")])).await?;
    let before = cluster.api.agent(TENANT, "web-1").await?.session;
    let mut random = StdRng::seed_from_u64(SEED);
    spray(server(&cluster), &mut random)?;

    let identity =
        sim::enrol(&sim::endpoint()?, server(&cluster), &invitation(&cluster, "evil").await?).await?;
    let pid = cluster.control_plane.pid()?;
    let resident = resident_bytes(pid)?;
    let too_large = u32::try_from(FRAME_BYTES_MAX + 1)?.to_be_bytes();
    assert_eq!(verdict(&cluster, &identity, &too_large).await?, CloseReason::Peer(CloseCode::FrameTooLarge));
    assert_eq!(verdict(&cluster, &identity, &[0xff; 64]).await?, CloseReason::Peer(CloseCode::FrameTooLarge));
    let mut garbage = vec![0; 4 + 1_000];
    random.fill_bytes(&mut garbage);
    garbage[..4].copy_from_slice(&1_000_u32.to_be_bytes());
    assert_eq!(
        verdict(&cluster, &identity, &garbage).await?,
        CloseReason::Peer(CloseCode::ProtocolViolation)
    );
    let empty = 0_u32.to_be_bytes();
    assert_eq!(verdict(&cluster, &identity, &empty).await?, CloseReason::Peer(CloseCode::ProtocolViolation));

    other_streams(&cluster, &identity, &mut random).await?;
    enrolment(&cluster, &mut random).await?;
    spray(server(&cluster), &mut random)?;

    let grown = resident_bytes(pid)?.saturating_sub(resident);
    ensure!(grown < 64 << 20, "the control plane grew by {grown} bytes");
    let after = cluster.api.agent(TENANT, "web-1").await?;
    assert_eq!(
        (after.connectivity.as_str(), after.session),
        ("online", before),
        "the honest agent noticed nothing"
    );
    let deployed = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    assert_eq!(deployed.deployment.status, "succeeded", "{deployed:?}");
    assert_eq!(cluster.agents[0].read("runs"), "run\n");
    cluster.passed()
}

/// Nonsense on streams for output and for artifacts ends the session that sends it, and what belongs to nobody is not given.
async fn other_streams(cluster: &Cluster, identity: &Identity, random: &mut StdRng) -> Result<()> {
    let mut nonsense = vec![0; 60_000];
    for length in [1_000, u32::MAX, 1_000, u32::MAX] {
        random.fill_bytes(&mut nonsense);
        nonsense[..4].copy_from_slice(&length.to_be_bytes());
        for is_output in [true, false] {
            let mut session = open(cluster, identity).await?;
            let mut stream = match is_output {
                true => session.connection.open_uni().await?,
                false => session.connection.open_bi().await?.0,
            };
            // The control plane may have cut the connection in the middle of it: that is its right.
            stream.write_all(&nonsense).await.ok();
            let reason =
                timeout(PATIENCE, session.closed()).await.context("the session lives on nonsense")?;
            let CloseReason::Peer(code) = reason else { anyhow::bail!("{reason:?}") };
            let is_judged = matches!(code, CloseCode::ProtocolViolation | CloseCode::FrameTooLarge);
            ensure!(is_judged, "a frame of {length} bytes was answered with {code:?}");
        }
    }
    let session = open(cluster, identity).await?;
    let (mut send, mut receive) = session.connection.open_bi().await?;
    send.write_all(&frame::encode(&ArtifactRequest { digest: Digest([7; 32]), offset: 0 })?).await?;
    let answer = timeout(PATIENCE, receive.read_to_end(FRAME_BYTES_MAX)).await??;
    let mut decoder = Decoder::with_limit(FRAME_BYTES_MAX);
    decoder.push(&answer)?;
    let decoded = decoder.next::<ArtifactResponse>()?;
    ensure!(decoded == Some(ArtifactResponse::NotFound), "{decoded:?}");
    Ok(())
}

/// Nonsense from somebody who has no identity at all.
async fn enrolment(cluster: &Cluster, random: &mut StdRng) -> Result<()> {
    let root = invitation(cluster, "never").await?.root;
    let endpoint = sim::endpoint()?;
    let mut nonsense = vec![0; 4 + 512];
    for length in [512, u32::try_from(ENROL_REQUEST_BYTES_MAX)? + 1, u32::MAX, 0] {
        let config = sim::client_config(tls::quic_enrol_client(root)?)?;
        let connection = sim::dial(&endpoint, server(cluster), config).await?;
        random.fill_bytes(&mut nonsense);
        nonsense[..4].copy_from_slice(&length.to_be_bytes());
        let (mut send, _receive) = connection.open_bi().await?;
        send.write_all(&nonsense).await.ok();
        let reason =
            timeout(PATIENCE, connection.closed()).await.context("the connection lives on nonsense")?;
        let quinn::ConnectionError::ApplicationClosed(close) = &reason else {
            anyhow::bail!("{reason}");
        };
        let code = CloseCode::try_from(close.error_code.into_inner())?;
        let is_judged = matches!(code, CloseCode::ProtocolViolation | CloseCode::FrameTooLarge);
        ensure!(is_judged, "a frame of {length} bytes was answered with {code:?}");
    }
    Ok(())
}
