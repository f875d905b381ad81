//! One address that wants all places, and others that come all the same.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, dial_from, offer_on, soon};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use stella_certs::csr;
use stella_certs::tls::quic_enrol_client;
use stella_protocol::close::CloseCode;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a handshake may take, as the fleet has it.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How many handshakes one address may have at once: from here on places have to be shared.
const OF_ONE_MAX: usize = 64;
/// How many may go on in the name of an address that nobody has proven to have.
const UNPROVEN_MAX: usize = 4;
/// Three times as many as one may have.
const CLIENTS: usize = 192;

/// What has passed between the clients and the fleet.
#[derive(Debug, Default)]
struct Seen {
    /// The clients' connections that have said something.
    begun: HashSet<Vec<u8>>,
    /// Those of them that were answered with more than a demand to prove their address.
    answered: HashSet<Vec<u8>>,
}

/// The ids of a long header: of who is to get the packet, and of who has sent it.
fn ids(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = datagram.get(5..)?.split_first()?;
    let (to, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first()?;
    Some((to, rest.get(..usize::from(*length))?))
}

/// Brings what clients say to the fleet, and of what that says only the demands to prove an address, or not even those: so handshakes begin
/// and never end.
async fn swallow(clients: UdpSocket, fleet: UdpSocket, seen: watch::Sender<Seen>, proves_address: bool) {
    let (mut said, mut answer) = ([0; 2048], [0; 2048]);
    let mut client: Option<SocketAddr> = None;
    loop {
        tokio::select! {
            received = clients.recv_from(&mut said) => {
                let (length, from) = received.unwrap();
                client = Some(from);
                if let Some((_, id)) = ids(&said[..length]) {
                    seen.send_if_modified(|seen| seen.begun.insert(id.to_vec()));
                }
                fleet.send(&said[..length]).await.unwrap();
            }
            received = fleet.recv(&mut answer) => {
                let datagram = &answer[..received.unwrap()];
                let is_retry = datagram[0] & 0xf0 == 0xf0;
                if let (true, Some(client)) = (is_retry, client) {
                    if proves_address {
                        clients.send_to(datagram, client).await.unwrap();
                    }
                } else if let Some((id, _)) = ids(datagram) {
                    seen.send_if_modified(|seen| seen.answered.insert(id.to_vec()));
                }
            }
        }
    }
}

/// Clients that begin handshakes from 127.0.0.1 and never end them.
async fn crowd(world: &World, proves_address: bool) -> (JoinSet<()>, watch::Receiver<Seen>) {
    let mut work = JoinSet::new();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let (inner, outer) = (UdpSocket::bind(local).await.unwrap(), UdpSocket::bind(local).await.unwrap());
    outer.connect(world.fleet.local_addr()).await.unwrap();
    let middle = inner.local_addr().unwrap();
    let (seen, looks) = watch::channel(Seen::default());
    work.spawn(swallow(inner, outer, seen, proves_address));
    let (endpoint, root) = (Endpoint::client(local).unwrap(), world.authority.root_fingerprint());
    for _ in 0..CLIENTS {
        let tls = QuicClientConfig::try_from(quic_enrol_client(root).unwrap()).unwrap();
        let connecting =
            endpoint.connect_with(ClientConfig::new(Arc::new(tls)), middle, "localhost").unwrap();
        work.spawn(async move { drop(connecting.await) });
    }
    (work, looks)
}

/// How many may have been answered of whom one may have so many at once. Places come back when handshakes fail, or are given up on a slow
/// machine.
fn most(at_once: usize, began: Instant) -> usize {
    let rounds = 1 + began.elapsed().as_secs() / HANDSHAKE_TIME_MAX.as_secs();
    2 * at_once * usize::try_from(rounds).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_leave_room_for_those_of_others() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let identity = world.enrol().await;
    let began = Instant::now();
    let (mut work, mut looks) = crowd(&world, true).await;
    let is_busy = |seen: &Seen| seen.begun.len() >= CLIENTS && seen.answered.len() >= OF_ONE_MAX;
    drop(soon(looks.wait_for(is_busy)).await.unwrap());

    let connection = dial_from([127, 0, 0, 2], address, identity.client_config()).await.unwrap();
    assert!(connection.close_reason().is_none());
    // Without a share all of them would have gone on.
    let answered = looks.borrow().answered.len();
    assert!(answered < most(OF_ONE_MAX, began), "{answered} of {CLIENTS} went on");
    work.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_sent_in_the_name_of_an_address_do_not_lock_it_out() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let identity = world.enrol().await;
    let began = Instant::now();
    let (mut work, mut looks) = crowd(&world, false).await;
    let has_begun = |seen: &Seen| seen.begun.len() >= CLIENTS && !seen.answered.is_empty();
    drop(soon(looks.wait_for(has_begun)).await.unwrap());

    // Whose address it is.
    let connection = dial_from([127, 0, 0, 1], address, identity.client_config()).await.unwrap();
    assert!(connection.close_reason().is_none());
    let answered = looks.borrow().answered.len();
    assert!(answered <= most(UNPROVEN_MAX, began), "{answered} went on, and nobody has proven anything");
    work.shutdown().await;
}

fn code(error: &ConnectionError) -> Option<u64> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    Some(close.error_code.into_inner())
}

#[tokio::test]
async fn enrolments_that_say_nothing_leave_room_for_those_of_others() {
    let world = World::new().await;
    let address = world.fleet.local_addr();
    let (token, made) = (world.token(1).await, csr::generate().unwrap());
    let mut idle: Vec<Connection> = Vec::new();
    for _ in 0..64 {
        let tls = quic_enrol_client(token.root).unwrap();
        idle.push(dial_from([127, 0, 0, 1], address, tls).await.unwrap());
    }
    let turned_away = soon(idle.last().unwrap().closed()).await;
    assert_eq!(code(&turned_away), Some(u64::from(CloseCode::Overloaded.code())), "{turned_away}");

    let tls = quic_enrol_client(token.root).unwrap();
    let connection = dial_from([127, 0, 0, 2], address, tls).await.unwrap();
    let answer = offer_on(connection, &token, made.csr_der, None).await.unwrap();
    assert!(answer.into_granted().is_ok());
}
