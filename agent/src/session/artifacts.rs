//! Artifacts, through streams of the session's connection.
//!
//! A session that is not there is waited for, and so is a stream: the control plane lets only so many be open at the same time. Neither is
//! a try, and how long it may take is up to whoever asks. Only a control plane that is there and does not answer has a limit here.

use std::time::Duration;

use quinn::{RecvStream, SendStream};
use serde::de::DeserializeOwned;
use stella_protocol::digest::Digest;
use stella_protocol::frame::{self, HEADER_BYTES};
use stella_protocol::message::{ArtifactRequest, ArtifactResponse};
use stella_protocol::validate::Validate;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Link;
use crate::executor::{ArtifactSource, BoxFuture, Fetched, SourceError, reason_of};

/// How long the control plane may take to answer a request, once it has let a stream be opened.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// The largest answer before the raw bytes, in bytes.
const ANSWER_BYTES_MAX: usize = 1024;

/// Fetches artifacts from the control plane.
#[derive(Debug)]
pub struct SessionArtifacts {
    link: watch::Receiver<Option<Link>>,
}

impl SessionArtifacts {
    /// Artifacts through the connection that `link` shows.
    #[must_use]
    pub const fn new(link: watch::Receiver<Option<Link>>) -> Self {
        Self { link }
    }

    async fn open(&self, digest: Digest, offset: u64) -> Result<Fetched, SourceError> {
        loop {
            let connection = self.connection().await?;
            match fetch_through(&connection, digest, offset).await {
                // It was lost meanwhile.
                Err(_) if connection.close_reason().is_some() => {}
                fetched => return fetched,
            }
        }
    }

    /// The connection of the session that exists, or of the next one: one that is lost is shown for a moment longer.
    async fn connection(&self) -> Result<Link, SourceError> {
        let mut link = self.link.clone();
        let is_there = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.close_reason().is_none());
        let found = link.wait_for(is_there).await.ok().and_then(|link| link.clone());
        found.ok_or_else(|| unavailable("there is no session with the control plane any more"))
    }
}

impl ArtifactSource for SessionArtifacts {
    fn fetch(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<Fetched, SourceError>> {
        Box::pin(self.open(digest, offset))
    }
}

async fn fetch_through(connection: &Link, digest: Digest, offset: u64) -> Result<Fetched, SourceError> {
    let (send, receive) = connection.open_bi().await.map_err(|error| failed(&error))?;
    let asked = timeout(ANSWER_WAIT_MAX, ask(send, receive, digest, offset)).await;
    let (answer, stream) = asked.map_err(|_| unavailable("the control plane does not answer"))??;
    match answer {
        ArtifactResponse::Found { size_bytes } => Ok(Fetched { size_bytes, reader: Box::pin(stream) }),
        ArtifactResponse::NotFound => Err(SourceError::NotFound),
    }
}

async fn ask(
    mut send: SendStream,
    mut receive: RecvStream,
    digest: Digest,
    offset: u64,
) -> Result<(ArtifactResponse, RecvStream), SourceError> {
    send_request(&mut send, digest, offset).await?;
    let answer = read_frame(&mut receive, ANSWER_BYTES_MAX).await?;
    Ok((answer, receive))
}

async fn send_request(send: &mut SendStream, digest: Digest, offset: u64) -> Result<(), SourceError> {
    let request = frame::encode(&ArtifactRequest { digest, offset }).map_err(|error| failed(&error))?;
    send.write_all(&request).await.map_err(|error| failed(&error))?;
    send.finish().map_err(|error| failed(&error))
}

/// Reads one frame and not a byte more: raw bytes follow it.
async fn read_frame<T: DeserializeOwned + Validate>(
    receive: &mut RecvStream,
    body_bytes_max: usize,
) -> Result<T, SourceError> {
    let mut header = [0; HEADER_BYTES];
    receive.read_exact(&mut header).await.map_err(|error| failed(&error))?;
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > body_bytes_max {
        return Err(unavailable("the control plane's answer is too long"));
    }
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await.map_err(|error| failed(&error))?;
    frame::decode(&body).map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> SourceError {
    SourceError::Unavailable { reason: reason_of(error) }
}

fn unavailable(reason: &str) -> SourceError {
    SourceError::Unavailable { reason: reason.to_owned() }
}
