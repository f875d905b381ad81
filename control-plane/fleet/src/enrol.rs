//! Enrolment: a host with a token and no identity gets one.
//!
//! The peer is unknown, so it may send one small frame, has a few seconds, and competes for a few places. Whether the
//! token lets it in is the core's decision; what is done here is what the core cannot: comparing secrets in constant
//! time, and signing. The certificate is signed after the enrolment is durable. If the answer is lost, the host asks
//! again with the same token and key, and gets a certificate for the same identity.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use quinn::{Connection, RecvStream, SendStream};
use stella_certs::token::{hash_secret, secrets_match};
use stella_certs::{CertificateDer, csr};
use stella_domain::command::{Actor, Command, Outcome, Request, TenantCommand};
use stella_domain::state::State;
use stella_engine::SubmitError;
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame::{self, Decoder, FrameError};
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::limits::{ENROL_REQUEST_BYTES_MAX, REASON_BYTES_MAX};
use stella_protocol::message::{EnrolRequest, EnrolRequestFor, EnrolResponse, Granted};
use stella_protocol::trace::TraceContext;
use tokio::time::timeout;
use uuid::Uuid;

use crate::limits::{ENROL_TIME_MAX, READ_BYTES_MAX};
use crate::pace::complain;
use crate::share::Share;
use crate::{Shared, close, orders};

/// Compared with when there is no such token, so that a guess takes as long as a hit.
const NO_TOKEN: Digest = Digest([0; 32]);

const BAD_TOKEN: &str = "the enrolment token is not known here; create a new one for this control plane";

/// What an enrolling host can be told and can say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaks {
    /// Whether it can be told for which profile it is let in.
    pub(crate) takes_profile: bool,
    /// Whether it says for which one it wants to be.
    pub(crate) says_profile: bool,
}

/// Serves one connection of an enrolling host.
pub(crate) async fn serve(shared: Arc<Shared>, connection: Connection, speaks: Speaks) {
    let Some(_place) = Share::take(&shared.enrolments, connection.remote_address().ip()) else {
        return close(&connection, CloseCode::Overloaded);
    };
    let exchange = timeout(ENROL_TIME_MAX, exchange(&shared, &connection, speaks));
    let code = match shared.shutdown.run_until_cancelled(exchange).await {
        None => CloseCode::ShuttingDown,
        Some(Err(_)) => CloseCode::HandshakeTimeout,
        Some(Ok(Err(code))) => code,
        Some(Ok(Ok(()))) => CloseCode::Normal,
    };
    close(&connection, code);
}

async fn exchange(shared: &Shared, connection: &Connection, speaks: Speaks) -> Result<(), CloseCode> {
    // A connection that is lost has nobody to tell.
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|_| CloseCode::Normal)?;
    let asking = read_request(&mut receive, speaks.says_profile).await?;
    let from = connection.remote_address().ip();
    let decided = decide(shared, &asking, speaks.takes_profile, from).await?;
    let result = if decided.is_ok() { "granted" } else { "refused" };
    metrics::counter!("stella_fleet_enrolments_total", "result" => result).increment(1);
    let answer = match decided {
        Ok(mut granted) => {
            // Who cannot be told is held to nothing, as before tokens had profiles.
            granted.profile = granted.profile.filter(|_| speaks.takes_profile);
            EnrolResponse::from(granted)
        }
        Err(reason) => EnrolResponse::Refused { reason },
    };
    let encoded = frame::encode(&answer).map_err(|error| {
        tracing::error!(%error, "the answer to an enrolment cannot be sent");
        CloseCode::Internal
    })?;
    reply(&mut send, &encoded).await
}

async fn read_request(receive: &mut RecvStream, says_profile: bool) -> Result<EnrolRequestFor, CloseCode> {
    let mut decoder = Decoder::with_limit(ENROL_REQUEST_BYTES_MAX);
    loop {
        let chunk = receive.read_chunk(READ_BYTES_MAX, true).await.map_err(|_| CloseCode::Normal)?;
        let chunk = chunk.ok_or(CloseCode::ProtocolViolation)?;
        decoder.push(&chunk.bytes).map_err(|error| violation(&error))?;
        let decoded = if says_profile {
            decoder.next::<EnrolRequestFor>()
        } else {
            let without = |request| EnrolRequestFor { profile: None, request };
            decoder.next::<EnrolRequest>().map(|request| request.map(without))
        };
        if let Some(asking) = decoded.map_err(|error| violation(&error))? {
            return Ok(asking);
        }
    }
}

/// Sends the answer and waits until the host has it, because closing the connection would throw it away.
async fn reply(send: &mut SendStream, answer: &[u8]) -> Result<(), CloseCode> {
    send.write_all(answer).await.map_err(|_| CloseCode::Normal)?;
    if send.finish().is_ok() {
        // The host may as well close the connection itself.
        drop(send.stopped().await);
    }
    Ok(())
}

/// What is granted, or why nothing is.
type Decided = Result<Granted, String>;

/// The answer; an error is a reason to close the connection without one.
async fn decide(
    shared: &Shared,
    asking: &EnrolRequestFor,
    takes_profile: bool,
    from: IpAddr,
) -> Result<Decided, CloseCode> {
    let EnrolRequestFor { profile: wanted, request } = asking;
    let Some(tenant) = tenant_of(&shared.engine.state(), request) else {
        complain!(shared, from, token = %request.token, hostname = %request.hostname, "an enrolment with an unknown token was refused");
        return Ok(refused(BAD_TOKEN));
    };
    let key_fingerprint = match csr::fingerprint(&request.csr_der) {
        Ok(fingerprint) => fingerprint,
        Err(error) => return Ok(refused(&error.to_string())),
    };
    let agent = AgentId(Uuid::now_v7());
    let command = TenantCommand::Enrol {
        token: request.token,
        key_fingerprint,
        agent,
        hostname: request.hostname.clone(),
        takes_profile,
        wanted: *wanted,
    };
    let submitted = shared.engine.submit(Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::Tenant(tenant, command),
    });
    match submitted.await {
        Ok(Outcome::Agent(agent)) => grant(shared, request, tenant, agent),
        Ok(other) => {
            tracing::error!(outcome = ?other, "an enrolment had an outcome that is not an agent");
            Err(CloseCode::Internal)
        }
        Err(SubmitError::Rejected(rejection)) => {
            complain!(shared, from, tenantId = %tenant, token = %request.token, %rejection, "an enrolment was refused");
            Ok(refused(&rejection.to_string()))
        }
        Err(SubmitError::NoSpace { .. } | SubmitError::Overloaded) => Err(CloseCode::Overloaded),
        Err(SubmitError::Stopping) => Err(CloseCode::ShuttingDown),
    }
}

fn grant(
    shared: &Shared,
    request: &EnrolRequest,
    tenant: TenantId,
    agent: AgentId,
) -> Result<Decided, CloseCode> {
    // An identity that the same key got before, and that was revoked since, is not given out again.
    let state = shared.engine.state();
    if orders::admit(&state, tenant, agent).is_err() {
        return Ok(refused("this key's identity was revoked; enrol with a new key and a new token"));
    }
    let lifetime = shared.config.certificate_lifetime;
    match shared.authority.issue_agent(&request.csr_der, tenant, agent, SystemTime::now(), lifetime) {
        Ok(issued) => {
            tracing::debug!(tenantId = %tenant, agentId = %agent, hostname = %request.hostname, "certificate issued");
            let known = state.tenants.get(&tenant).and_then(|tenant| tenant.agents.get(&agent));
            Ok(Ok(Granted {
                profile: known.and_then(|agent| agent.profile),
                tenant,
                agent,
                chain_der: to_bytes(&issued.chain_der),
                roots_der: to_bytes(&shared.authority.roots_der()),
            }))
        }
        Err(error) => {
            tracing::error!(tenantId = %tenant, agentId = %agent, %error, "a certificate cannot be issued");
            Err(CloseCode::Internal)
        }
    }
}

/// The tenant whose token this is. Every tenant is asked, and a secret is compared whether there is a token or not.
fn tenant_of(state: &State, request: &EnrolRequest) -> Option<TenantId> {
    let given = hash_secret(&request.secret);
    let found = state
        .tenants
        .iter()
        .find_map(|(tenant, owned)| Some((*tenant, owned.enrolment_tokens.get(&request.token)?.secret_hash)));
    let matches = secrets_match(&given, &found.map_or(NO_TOKEN, |(_, hash)| hash));
    found.filter(|_| matches).map(|(tenant, _)| tenant)
}

pub(crate) fn to_bytes(certificates: &[CertificateDer<'static>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.to_vec()).collect()
}

pub(crate) fn violation(error: &FrameError) -> CloseCode {
    if matches!(error, FrameError::TooLarge { .. }) {
        CloseCode::FrameTooLarge
    } else {
        CloseCode::ProtocolViolation
    }
}

fn refused(reason: &str) -> Decided {
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    Err(reason[..end].to_owned())
}
