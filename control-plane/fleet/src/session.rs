//! The session of one agent, on one connection: the driver of the sans-IO state machine in the protocol crate.
//!
//! ```text
//! greet:     hello -> ConnectAgent -> welcome, all within the handshake's time
//! converse:  one select over the control stream, the engine's answers, wake-ups, new streams and the one timer
//! part:      close the connection, leave the registry, DisconnectAgent unless the control plane itself goes
//! ```
//!
//! Only the loops here await. What they decide is in [`Conversation`], which is synchronous.

mod conversation;
mod reports;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use quinn::{Chunk, Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use stella_domain::agent::Connectivity;
use stella_domain::command::{Actor, Command, Outcome, Request, TenantCommand};
use stella_domain::rejection::Rejection;
use stella_engine::SubmitError;
use stella_protocol::close::CloseCode;
use stella_protocol::id::{AgentId, SessionEpoch, TenantId};
use stella_protocol::message::{Hello, OpenAttempt, Phase, Welcome, capability};
use stella_protocol::session::CloseReason;
use stella_protocol::session::control::{ControlEvent, ControlSession};
use stella_protocol::trace::TraceContext;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout_at};

use crate::life::Life;
use crate::limits::{
    DISCONNECT_RETRY_PAUSE, DISCONNECT_TRIES_MAX, OUTPUT_TASKS_MAX, READ_BYTES_MAX, REQUEST_TASKS_MAX,
};
use crate::orders::Told;
use crate::pace::complain;
use crate::registry::Link;
use crate::trust::{AgentsTrust, Shown};
use crate::{Shared, close, orders, streams};
use conversation::Conversation;
pub(crate) use conversation::RENEWALS;

/// Who is at the other end, from the certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
}

/// The certificate that a connection began with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Certificate {
    pub(crate) life: Life,
    pub(crate) shown: Option<Shown>,
}

/// A session that was welcomed.
struct Greeted {
    control: Control,
    link: Arc<Link>,
    capabilities: u64,
    /// Whether nobody has seen the end of the one before.
    replaces: bool,
}

/// The control stream.
struct Control {
    send: SendStream,
    receive: RecvStream,
}

/// Serves one connection of an enrolled agent, from its first frame to the end of its session.
///
/// Without a renewal the session ends with the certificate that it began with.
pub(crate) async fn serve(shared: Arc<Shared>, connection: Connection, peer: Peer, certificate: Certificate) {
    if let Err(code) = may_enter(&shared, peer) {
        let remote = connection.remote_address();
        complain!(shared, remote.ip(), tenantId = %peer.tenant, agentId = %peer.agent, %remote, reason = %code, "a connection was refused");
        return close(&connection, code);
    }
    let mut session = ControlSession::new(shared.millis());
    let greeting = greet(&shared, &connection, (peer, certificate.life), &mut session);
    let greeted = match shared.shutdown.run_until_cancelled(Box::pin(greeting)).await {
        Some(greeted) => greeted,
        None => Err(CloseCode::ShuttingDown),
    };
    match greeted {
        Ok(Greeted { control, link, capabilities, replaces }) => {
            let trust = AgentsTrust::new(certificate.shown, capabilities & capability::TRUST != 0);
            let probes_after = if replaces { shared.config.probes_after } else { Duration::ZERO };
            let told = Told::new(capabilities, probes_after);
            let mut conversation = Conversation::new(
                Arc::clone(&shared),
                Arc::clone(&link),
                session,
                certificate.life,
                trust,
                told,
            );
            converse(&mut conversation, &connection, control).await;
            part(&shared, &connection, &link, conversation.end()).await;
        }
        Err(code) => {
            tracing::debug!(tenantId = %peer.tenant, agentId = %peer.agent, reason = %code, "a session did not begin");
            close(&connection, code);
        }
    }
}

fn may_enter(shared: &Shared, peer: Peer) -> Result<(), CloseCode> {
    orders::admit(&shared.engine.state(), peer.tenant, peer.agent)?;
    let has_room = shared.registry.len() < shared.config.sessions_max;
    // The last one: what does not begin for want of room is no entry.
    if has_room && shared.pace.may_enter(peer.agent) { Ok(()) } else { Err(CloseCode::Overloaded) }
}

// === greet ===

async fn greet(
    shared: &Arc<Shared>,
    connection: &Connection,
    (peer, life): (Peer, Life),
    session: &mut ControlSession,
) -> Result<Greeted, CloseCode> {
    let (_, deadline) = session.poll_timeout().ok_or(CloseCode::Internal)?;
    let deadline = shared.instant(deadline);
    let heard = timeout_at(deadline, hear_hello(shared, connection, session)).await;
    let (control, hello) = heard.map_err(|_| CloseCode::HandshakeTimeout)??;
    let before = orders::admit(&shared.engine.state(), peer.tenant, peer.agent)?.connectivity.clone();
    let replaces = matches!(before, Connectivity::Online { .. });
    // The engine answers after a flush, or not at all if it stops. An answer that comes too late leaves a session in the
    // state without a connection, which the sweep ends.
    let connected = timeout_at(deadline, connect(shared, peer, &hello)).await;
    let epoch = connected.map_err(|_| CloseCode::HandshakeTimeout)??;

    let heard = (shared.engine.now(), hello.resources);
    let link = Link::new(peer.tenant, peer.agent, epoch, connection.clone(), heard, life);
    let welcome = welcome(shared, peer, epoch, &hello);
    shared.registry.enter(&link);
    if let Err(error) = session.welcome(welcome, shared.millis()) {
        tracing::error!(tenantId = %peer.tenant, agentId = %peer.agent, %error, "a welcome cannot be sent");
        session.close(CloseCode::Internal);
    }
    tracing::debug!(
        tenantId = %peer.tenant,
        agentId = %peer.agent,
        session = epoch.0,
        remote = %connection.remote_address(),
        version = %hello.agent_version,
        "session opened"
    );
    Ok(Greeted { control, link, capabilities: hello.capabilities, replaces })
}

async fn hear_hello(
    shared: &Shared,
    connection: &Connection,
    session: &mut ControlSession,
) -> Result<(Control, Hello), CloseCode> {
    // The first stream that the agent opens. Whoever closes the connection now has nothing to be told.
    let (send, mut receive) = connection.accept_bi().await.map_err(|_| CloseCode::Normal)?;
    loop {
        let chunk = receive.read_chunk(READ_BYTES_MAX, true).await.map_err(|_| CloseCode::Normal)?;
        session.handle_bytes(&chunk.ok_or(CloseCode::Normal)?.bytes);
        match session.poll_event(shared.millis()) {
            Some(ControlEvent::Hello(hello)) => return Ok((Control { send, receive }, hello)),
            Some(ControlEvent::Closed(reason)) => return Err(reason.code()),
            // Nothing else comes out before the hello is answered.
            Some(_) | None => {}
        }
    }
}

async fn connect(shared: &Shared, peer: Peer, hello: &Hello) -> Result<SessionEpoch, CloseCode> {
    let journal_rolled_back =
        hello.control_plane.is_some_and(|seen| shared.engine.saw_the_future(peer.tenant, seen));
    let command = TenantCommand::ConnectAgent {
        agent: peer.agent,
        hello: Box::new(hello.clone()),
        journal_rolled_back,
    };
    match shared.engine.submit(request(peer, TraceContext::default(), command)).await {
        Ok(Outcome::Session(epoch)) => Ok(epoch),
        Ok(other) => {
            tracing::error!(outcome = ?other, "a connect had an outcome that is not a session");
            Err(CloseCode::Internal)
        }
        Err(SubmitError::Rejected(rejection)) => Err(match rejection {
            Rejection::Revoked { .. } => CloseCode::Revoked,
            Rejection::NotFound { .. } => CloseCode::UnknownAgent,
            other @ (Rejection::Exists { .. }
            | Rejection::Forbidden { .. }
            | Rejection::Invalid { .. }
            | Rejection::Conflict { .. }
            | Rejection::TooLarge { .. }
            | Rejection::KeyReused
            | Rejection::EnrolmentRefused { .. }
            | Rejection::SessionSuperseded
            | Rejection::Defect(_)) => {
                tracing::error!(tenantId = %peer.tenant, agentId = %peer.agent, rejection = %other, "a session was refused");
                CloseCode::Internal
            }
        }),
        Err(SubmitError::NoSpace { .. } | SubmitError::Overloaded) => Err(CloseCode::Overloaded),
        Err(SubmitError::Stopping) => Err(CloseCode::ShuttingDown),
    }
}

/// What the agent may forget at once: finished attempts of which the durable result is here.
///
/// Not what runs on although its task is settled here: its end is still news. And not what is unknown here, which
/// happens after a backup was restored: the agent reports it, and is acknowledged when its word is in the journal.
fn welcome(shared: &Shared, peer: Peer, session: SessionEpoch, hello: &Hello) -> Welcome {
    let state = shared.engine.state();
    let tasks = state.tenants.get(&peer.tenant).map(|owned| &owned.tasks);
    let is_settled = |open: &&OpenAttempt| {
        open.phase == Phase::Finished
            && tasks.and_then(|tasks| tasks.get(&open.key.task)).is_some_and(|task| {
                let is_over = task.attempt == open.key.attempt && task.state.is_final();
                // An earlier attempt was handed back.
                task.agent == peer.agent && (is_over || open.key.attempt < task.attempt)
            })
    };
    Welcome {
        session,
        control_plane: shared.engine.journal_mark(peer.tenant),
        heartbeat_interval_ms: shared.config.heartbeat_interval_ms,
        settled: hello.open.iter().filter(is_settled).map(|open| open.key).collect(),
        now: shared.engine.now(),
    }
}

// === converse ===

async fn converse(conversation: &mut Conversation, connection: &Connection, mut control: Control) {
    let shared = Arc::clone(conversation.shared());
    let peer = conversation.peer();
    let link = Arc::clone(conversation.link());
    let mut outgoing = Bytes::new();
    let mut outputs: JoinSet<Option<CloseCode>> = JoinSet::new();
    let mut requests: JoinSet<Option<CloseCode>> = JoinSet::new();
    let timer = sleep_until(conversation.deadline());
    tokio::pin!(timer);
    // What was committed between the connect and the entry in the registry woke nobody.
    conversation.look_at_the_state();
    loop {
        if outgoing.is_empty() {
            outgoing = conversation.take_outgoing();
        }
        if conversation.is_over() {
            return;
        }
        tokio::select! {
            biased;
            written = control.send.write(&outgoing), if !outgoing.is_empty() => match written {
                Ok(bytes) => outgoing.advance(bytes),
                Err(error) => conversation.lost(end_of_write(&error)),
            },
            Some(ended) = outputs.join_next(), if !outputs.is_empty() => conversation.streamed(ended),
            Some(ended) = requests.join_next(), if !requests.is_empty() => conversation.streamed(ended),
            answer = conversation.reports().next() => conversation.answered(answer),
            () = link.wake.notified() => conversation.look_at_the_state(),
            chunk = control.receive.read_chunk(READ_BYTES_MAX, true), if conversation.has_room() => {
                received(conversation, chunk);
            }
            stream = connection.accept_uni(), if outputs.len() < OUTPUT_TASKS_MAX => match stream {
                Ok(receive) => drop(outputs.spawn(streams::output(Arc::clone(&shared), peer, receive))),
                Err(error) => conversation.lost(end_of_connection(&error)),
            },
            stream = connection.accept_bi(), if requests.len() < REQUEST_TASKS_MAX => match stream {
                Ok((send, receive)) => {
                    drop(requests.spawn(streams::artifact(Arc::clone(&shared), peer, send, receive)));
                }
                Err(error) => conversation.lost(end_of_connection(&error)),
            },
            () = &mut timer => {
                conversation.timed_out();
                timer.as_mut().reset(conversation.deadline());
            }
        }
    }
}

fn received(conversation: &mut Conversation, chunk: Result<Option<Chunk>, ReadError>) {
    match chunk {
        Ok(Some(chunk)) => conversation.received(&chunk.bytes),
        // Without its control stream a session is over, whatever becomes of the connection.
        Ok(None) => conversation.lost(None),
        Err(ReadError::ConnectionLost(error)) => conversation.lost(end_of_connection(&error)),
        Err(
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected,
        ) => conversation.lost(None),
    }
}

/// The code that the agent closed the connection with, if it did.
const fn end_of_connection(error: &ConnectionError) -> Option<u64> {
    if let ConnectionError::ApplicationClosed(close) = error {
        Some(close.error_code.into_inner())
    } else {
        None
    }
}

const fn end_of_write(error: &WriteError) -> Option<u64> {
    if let WriteError::ConnectionLost(error) = error { end_of_connection(error) } else { None }
}

// === part ===

/// The connection ends first: a revoked agent is cut off before anything waits for the disk.
async fn part(shared: &Shared, connection: &Connection, link: &Arc<Link>, reason: CloseReason) {
    close(connection, reason.code());
    shared.registry.leave(link);
    let Link { tenant, agent, session, .. } = **link;
    metrics::counter!("stella_fleet_sessions_ended_total", "reason" => label(&reason)).increment(1);
    tracing::debug!(tenantId = %tenant, agentId = %agent, session = session.0, reason = &reason as &dyn std::error::Error, "session closed");
    // The newer session's connect has ended this one in the state; and that the control plane goes away says nothing of its agents: they are
    // as they were when it is back, and have their time to come back too.
    if matches!(reason, CloseReason::Local(CloseCode::Superseded | CloseCode::ShuttingDown)) {
        return;
    }
    let peer = Peer { tenant, agent };
    let mut pause = DISCONNECT_RETRY_PAUSE;
    for _ in 0..DISCONNECT_TRIES_MAX {
        let command = TenantCommand::DisconnectAgent { agent, session, reason: reason.to_string() };
        match shared.engine.submit(request(peer, TraceContext::default(), command)).await {
            Err(SubmitError::NoSpace { .. } | SubmitError::Overloaded) => sleep(pause).await,
            // A rejection says that a newer session is there, or that the agent is revoked: it is noted already.
            Ok(_) | Err(SubmitError::Rejected(_) | SubmitError::Stopping) => return,
        }
        pause = pause.saturating_mul(2).min(Duration::from_secs(5));
    }
    tracing::warn!(tenantId = %tenant, agentId = %agent, "the end of a session is not in the journal yet; the sweep will note it");
}

/// A request of an agent.
pub(crate) fn request(peer: Peer, trace: TraceContext, command: TenantCommand) -> Request {
    Request {
        actor: Actor::Agent { id: peer.agent },
        trace,
        idempotency: None,
        command: Command::Tenant(peer.tenant, command),
    }
}

const fn label(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Violation(_) => "violation",
        CloseReason::HandshakeTimeout => "handshake_timeout",
        CloseReason::PeerSilent => "silent",
        CloseReason::Goodbye => "goodbye",
        CloseReason::Local(_) => "closed",
        CloseReason::Peer(_) | CloseReason::PeerUnknown(_) => "closed_by_agent",
        CloseReason::Lost => "lost",
    }
}
