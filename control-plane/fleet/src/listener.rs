//! Lets connections in, at a pace, and finds out who they are.

use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Endpoint, Incoming};
use stella_certs::CertificateDer;
use stella_certs::tls::{self, QuicPeer};
use stella_protocol::close::CloseCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::life::Life;
use crate::limits::{HANDSHAKE_TIME_MAX, HANDSHAKES_BUSY, HANDSHAKES_MAX};
use crate::pace::complain;
use crate::session::{Certificate, Peer};
use crate::share::Share;
use crate::trust::Shown;
use crate::{Shared, close, enrol, session};

/// Accepts connections until the shutdown.
pub(crate) async fn run(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = shared.shutdown.run_until_cancelled(endpoint.accept()).await;
        let Some(Some(incoming)) = next else { break };
        let going_on = HANDSHAKES_MAX - handshakes.available_permits();
        let (is_proven, address) = (incoming.remote_address_validated(), incoming.remote_address().ip());
        let share = if is_proven {
            Share::take(&shared.handshakes, address)
        } else if going_on < HANDSHAKES_BUSY {
            Share::take(&shared.unproven, address)
        } else {
            None
        };
        let Some(share) = share else {
            turn_away(incoming, is_proven);
            continue;
        };
        // Every handshake ends within its time, and many networks have to keep theirs at once for this to wait.
        let permit = shared.shutdown.run_until_cancelled(Arc::clone(&handshakes).acquire_owned()).await;
        let Some(Ok(permit)) = permit else { break };
        shared.tasks.spawn(serve(Arc::clone(&shared), incoming, (permit, share)));
    }
}

/// Whoever has not proven its address has to, and comes again with that. Whoever has shares with its network.
fn turn_away(incoming: Incoming, is_proven: bool) {
    if !is_proven && incoming.may_retry() {
        metrics::counter!("stella_fleet_handshakes_total", "result" => "retry").increment(1);
        if let Err(error) = incoming.retry() {
            error.into_incoming().refuse();
        }
        return;
    }
    // Its client sends it again: by then others of its network have got on, if they are honest.
    metrics::counter!("stella_fleet_handshakes_total", "result" => "too_many").increment(1);
    incoming.ignore();
}

/// The task of one connection. What follows the handshake is boxed: it would make every handshake as large as itself.
async fn serve(shared: Arc<Shared>, incoming: Incoming, place: (OwnedSemaphorePermit, Share)) {
    let remote = incoming.remote_address();
    let connection = match handshake(incoming).await {
        Ok(connection) => connection,
        Err(error) => {
            metrics::counter!("stella_fleet_handshakes_total", "result" => "failed").increment(1);
            tracing::debug!(%remote, %error, "a handshake failed");
            return;
        }
    };
    drop(place);
    match identify(&connection) {
        Ok((peer, chain)) => {
            metrics::counter!("stella_fleet_handshakes_total", "result" => "done").increment(1);
            match peer {
                QuicPeer::Enrolling { takes_profile, says_profile } => {
                    let speaks = enrol::Speaks { takes_profile, says_profile };
                    Box::pin(enrol::serve(shared, connection, speaks)).await;
                }
                QuicPeer::Agent { tenant, agent, validity: (not_before, not_after) } => {
                    let shown = Shown::of(&shared.authority, &chain);
                    let certificate = Certificate { life: Life::between(not_before, not_after), shown };
                    Box::pin(session::serve(shared, connection, Peer { tenant, agent }, certificate)).await;
                }
            }
        }
        Err(error) => {
            metrics::counter!("stella_fleet_handshakes_total", "result" => "refused").increment(1);
            complain!(shared, remote.ip(), %remote, %error, "a connection without an agent's identity was refused");
            close(&connection, CloseCode::Unauthenticated);
        }
    }
}

async fn handshake(incoming: Incoming) -> Result<Connection, ConnectionError> {
    timeout(HANDSHAKE_TIME_MAX, incoming.accept()?).await.unwrap_or(Err(ConnectionError::TimedOut))
}

/// Who it is, and with which certificates.
fn identify(connection: &Connection) -> Result<(QuicPeer, Vec<CertificateDer<'static>>), tls::Error> {
    let handshake = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer = QuicPeer::admit(
        handshake.as_ref().and_then(|data| data.protocol.as_deref()),
        certificates.as_ref().map(|certificates| certificates.as_slice()),
    )?;
    Ok((peer, certificates.map(|certificates| *certificates).unwrap_or_default()))
}
