//! The streams beside the control stream: task output comes in, artifacts go out.
//!
//! They are tasks of their own, so that neither delays a heartbeat. Both ask the state for permission: an agent writes
//! the output of its own tasks only, and reads only what a release of its own tenant refers to.

use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use stella_domain::state::State;
use stella_domain::task::Task;
use stella_domain::tenant::TenantState;
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame::{self, Decoder, FrameError};
use stella_protocol::id::AttemptKey;
use stella_protocol::limits::OUTPUT_CHUNK_BYTES_MAX;
use stella_protocol::message::{ArtifactRequest, ArtifactResponse, OutputChunk, OutputHeader};
use stella_protocol::time::Timestamp;
use stella_store::{OutputWriter, StoreError};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use crate::enrol::violation;
use crate::limits::{
    OUTPUT_AMENDED_MAX, OUTPUT_LATE_MAX, OUTPUT_STREAM_EVERY, READ_BYTES_MAX, REQUEST_BYTES_MAX,
    REQUEST_TIME_MAX, TRANSFER_STALL_MAX,
};
use crate::session::Peer;
use crate::{Shared, quic_code};

/// A chunk's frame beside its bytes: source, time and lengths.
const CHUNK_OVERHEAD_BYTES_MAX: usize = 64;

/// How a stream ended before its time.
#[derive(Debug)]
enum Ended {
    /// The agent broke the protocol: the whole session has to end.
    Violation(CloseCode),
    /// This stream is refused with a code; the session goes on.
    Refused(CloseCode),
    /// The connection or the stream is gone.
    Lost,
}

/// Takes one stream of output. Returns a code if the session has to end.
pub(crate) async fn output(shared: Arc<Shared>, peer: Peer, mut receive: RecvStream) -> Option<CloseCode> {
    match take_output(&shared, peer, &mut receive).await {
        Ok(()) | Err(Ended::Lost) => None,
        Err(Ended::Violation(code)) => Some(code),
        Err(Ended::Refused(code)) => {
            // It fails if the stream has ended, which is as good.
            drop(receive.stop(quic_code(code)));
            None
        }
    }
}

/// Answers one request. Returns a code if the session has to end.
pub(crate) async fn artifact(
    shared: Arc<Shared>,
    peer: Peer,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Option<CloseCode> {
    match give_artifact(&shared, peer, &mut send, &mut receive).await {
        Ok(()) | Err(Ended::Lost) => None,
        Err(Ended::Violation(code)) => Some(code),
        Err(Ended::Refused(code)) => {
            // It fails if the stream has ended, which is as good.
            drop(send.reset(quic_code(code)));
            None
        }
    }
}

async fn take_output(shared: &Arc<Shared>, peer: Peer, receive: &mut RecvStream) -> Result<(), Ended> {
    let mut decoder = Decoder::with_limit(OUTPUT_CHUNK_BYTES_MAX + CHUNK_OVERHEAD_BYTES_MAX);
    let mut open: Option<OutputWriter> = None;
    while let Some(chunk) = receive.read_chunk(READ_BYTES_MAX, true).await.map_err(|_| Ended::Lost)? {
        decoder.push(&chunk.bytes).map_err(broken)?;
        if open.is_none() {
            open = match decoder.next::<OutputHeader>().map_err(broken)? {
                Some(header) => Some(open_output(shared, peer, header).await?),
                None => continue,
            };
        }
        let mut chunks = Vec::new();
        while let Some(chunk) = decoder.next::<OutputChunk>().map_err(broken)? {
            chunks.push(chunk);
        }
        if let Some(writer) = open.as_mut().filter(|_| !chunks.is_empty()) {
            let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
            metrics::counter!("stella_fleet_output_bytes_total").increment(bytes as u64);
            writer.append(chunks).await.map_err(|error| refuse_output(peer, &error))?;
        }
    }
    match open {
        Some(writer) if decoder.pending_bytes() == 0 => {
            writer.complete().await.map_err(|error| refuse_output(peer, &error))
        }
        // Some agents end a stream so that they give up in the middle of a frame. Output decides nothing: a part of it is missing, and
        // the session goes on.
        Some(_) | None => Err(Ended::Lost),
    }
}

async fn open_output(shared: &Shared, peer: Peer, header: OutputHeader) -> Result<OutputWriter, Ended> {
    // Reading the file of a long output again and again is work. Most streams bring the first output of a task: those do not wait, however
    // many tasks an agent runs.
    if !is_first(shared, peer, header.key).await? {
        while !shared.pace.may_open_output(peer.agent) {
            sleep(OUTPUT_STREAM_EVERY).await;
        }
    }
    // An honest agent can be wrong here, after the journal was restored from a backup: then nobody waits for this output.
    let wanted = wanted(&shared.engine.state(), peer, header.key, shared.engine.now());
    let refused = match wanted {
        Wanted::No(why) => why,
        Wanted::Yes => return begin_output(shared, peer, header).await,
        Wanted::Rest => {
            let writer = begin_output(shared, peer, header).await?;
            if !writer.was_complete() {
                return Ok(writer);
            }
            "that is complete, and long over,"
        }
    };
    tracing::warn!(tenantId = %peer.tenant, agentId = %peer.agent, taskId = %header.key.task, attempt = header.key.attempt.0, "output of a task {refused} was refused");
    Err(Ended::Refused(CloseCode::Normal))
}

/// Whether output that is wanted has nothing before it.
async fn is_first(shared: &Shared, peer: Peer, key: AttemptKey) -> Result<bool, Ended> {
    if !matches!(wanted(&shared.engine.state(), peer, key, shared.engine.now()), Wanted::Yes) {
        return Ok(false);
    }
    let has_some = shared.output.has(peer.tenant, key).await;
    has_some.map(|has_some| !has_some).map_err(|error| refuse_output(peer, &error))
}

async fn begin_output(shared: &Shared, peer: Peer, header: OutputHeader) -> Result<OutputWriter, Ended> {
    shared.output.writer(peer.tenant, header).await.map_err(|error| refuse_output(peer, &error))
}

/// Whether an agent's output of an attempt is taken.
enum Wanted {
    Yes,
    /// Only if it is not complete.
    Rest,
    /// Not, for this reason.
    No(&'static str),
}

/// What an agent prints for its own tasks is wanted while they go on and a while longer. After that it could only fill the disk, or put
/// something beside what people have read.
fn wanted(state: &State, peer: Peer, key: AttemptKey, now: Timestamp) -> Wanted {
    let tenant = state.tenants.get(&peer.tenant);
    let is_own =
        |task: &&Arc<Task>| task.agent == peer.agent && key.attempt.0 >= 1 && key.attempt <= task.attempt;
    let Some((tenant, task)) =
        tenant.and_then(|tenant| Some((tenant, tenant.tasks.get(&key.task).filter(is_own)?)))
    else {
        return Wanted::No("that is not this agent's");
    };
    if !task.state.is_final() {
        return Wanted::Yes;
    }
    // By our own clock; when the task ended, the agent has said.
    let ended = tenant.deployments.get(&task.deployment).map_or(Some(Timestamp(0)), |it| it.finished_at);
    match ended.map(|ended| now.since(ended)) {
        None => Wanted::Yes,
        Some(since) if since < OUTPUT_AMENDED_MAX => Wanted::Yes,
        Some(since) if since < OUTPUT_LATE_MAX => Wanted::Rest,
        Some(_) => Wanted::No("that is long over"),
    }
}

fn refuse_output(peer: Peer, error: &StoreError) -> Ended {
    tracing::error!(tenantId = %peer.tenant, agentId = %peer.agent, error = error as &dyn std::error::Error, "task output cannot be stored");
    Ended::Refused(store_code(error))
}

async fn give_artifact(
    shared: &Shared,
    peer: Peer,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), Ended> {
    let request = timeout(REQUEST_TIME_MAX, read_request(receive)).await;
    let request = request.map_err(|_| Ended::Refused(CloseCode::HandshakeTimeout))??;
    let state = shared.engine.state();
    let is_allowed = state.tenants.get(&peer.tenant).is_some_and(|owned| is_released(owned, request.digest));
    drop(state);
    let opened = if is_allowed {
        let opened = shared.artifacts.open_at(request.digest, request.offset).await;
        opened.map_err(|error| refuse_artifact(peer, request.digest, &error))?
    } else {
        None
    };
    let Some((mut file, size_bytes)) = opened else {
        if is_allowed {
            tracing::error!(tenantId = %peer.tenant, artifact = %request.digest, "an artifact of a release is missing in the store");
        }
        answer(send, &ArtifactResponse::NotFound).await?;
        return send.finish().map_err(|_| Ended::Lost);
    };
    answer(send, &ArtifactResponse::Found { size_bytes }).await?;
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        let read = file.read(&mut buffer).await.map_err(|error| {
            tracing::error!(tenantId = %peer.tenant, artifact = %request.digest, %error, "an artifact cannot be read");
            Ended::Refused(CloseCode::Internal)
        })?;
        if read == 0 {
            return send.finish().map_err(|_| Ended::Lost);
        }
        write(send, &buffer[..read]).await?;
        metrics::counter!("stella_fleet_artifact_bytes_total").increment(read as u64);
    }
}

async fn read_request(receive: &mut RecvStream) -> Result<ArtifactRequest, Ended> {
    let mut decoder = Decoder::with_limit(REQUEST_BYTES_MAX);
    while let Some(chunk) = receive.read_chunk(READ_BYTES_MAX, true).await.map_err(|_| Ended::Lost)? {
        decoder.push(&chunk.bytes).map_err(broken)?;
        if let Some(request) = decoder.next().map_err(broken)? {
            return Ok(request);
        }
    }
    Err(Ended::Violation(CloseCode::ProtocolViolation))
}

fn is_released(owned: &TenantState, digest: Digest) -> bool {
    owned.artifacts.contains_key(&digest)
        && owned.releases.values().any(|release| release.components.iter().any(|part| part.digest == digest))
}

async fn answer(send: &mut SendStream, response: &ArtifactResponse) -> Result<(), Ended> {
    let encoded = frame::encode(response).map_err(|_| Ended::Refused(CloseCode::Internal))?;
    write(send, &encoded).await
}

async fn write(send: &mut SendStream, bytes: &[u8]) -> Result<(), Ended> {
    match timeout(TRANSFER_STALL_MAX, send.write_all(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Lost),
        Err(_) => Err(Ended::Refused(CloseCode::PeerSilent)),
    }
}

fn refuse_artifact(peer: Peer, digest: Digest, error: &StoreError) -> Ended {
    tracing::warn!(tenantId = %peer.tenant, agentId = %peer.agent, artifact = %digest, error = error as &dyn std::error::Error, "an artifact cannot be given");
    Ended::Refused(store_code(error))
}

fn store_code(error: &StoreError) -> CloseCode {
    if matches!(error, StoreError::NoSpace { .. }) {
        CloseCode::Overloaded
    } else if matches!(error, StoreError::BehindTheEnd { .. } | StoreError::Chunk { .. }) {
        CloseCode::ProtocolViolation
    } else {
        CloseCode::Internal
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
fn broken(error: FrameError) -> Ended {
    Ended::Violation(violation(&error))
}
