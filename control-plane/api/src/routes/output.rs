//! What a task prints, line by line and as it comes.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use stella_api_types::paths;
use stella_api_types::task::OutputLine;
use stella_domain::state::State as Domain;
use stella_engine::Committed;
use stella_protocol::id::{AttemptKey, TenantId};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::body::{Path, Query};
use crate::error::ApiError;
use crate::{App, resolve, view};

const MEDIA_TYPE: &str = "application/x-ndjson";
/// How many pieces are read at once.
const PAGE_CHUNKS: usize = 500;
/// The longest that a follower waits without looking, so that a lost notice costs seconds and not for ever.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long output may come after the end of its task without the agent's word that it is complete. That word never
/// comes from an agent that is lost, or for a task that never reached one.
const LATE_OUTPUT_WINDOW: Duration = Duration::from_secs(5);

/// Which output.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutputQuery {
    /// The number of the first record that is wanted; 0 if not given.
    #[serde(default)]
    from: u64,
    /// Whether to go on until the task has ended and its output is complete.
    #[serde(default)]
    follow: bool,
}

/// Reads what the current attempt of a task prints: one JSON object a line.
#[utoipa::path(get, path = paths::TASK_OUTPUT, tag = "tasks",
    params(("tenant" = String, Path), ("task" = String, Path), OutputQuery),
    responses((status = 200, body = OutputLine, content_type = "application/x-ndjson")))]
pub(crate) async fn task_output(
    State(app): State<App>,
    Path((tenant, task)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, ApiError> {
    let mut reader = Reader::new(app, &tenant, &task, &query)?;
    // The first look is taken before the answer begins: what is wrong then can still be told.
    let first = reader.look().await?;
    let lines = stream::unfold((reader, Some(first)), |(mut reader, looked)| async move {
        let looked = match looked {
            Some(looked) => Some(looked),
            None => reader.next().await.transpose(),
        };
        match looked? {
            Ok(lines) => Some((Ok(lines), (reader, None))),
            Err(error) => Some((Err(error), (reader.ended(), None))),
        }
    });
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(lines)).into_response())
}
