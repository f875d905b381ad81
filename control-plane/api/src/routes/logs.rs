//! The output of tasks, as JSON lines, and live if wanted.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use serde::Deserialize;
use stella_api_types::paths;
use stella_api_types::task::OutputLine;
use stella_domain::event::StreamId;
use stella_protocol::id::{AttemptKey, TenantId};
use stella_store::{OutputPage, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::body::{Path, Query};
use crate::error::ApiError;
use crate::followers::{Follower, Following};
use crate::request::Caller;
use crate::{App, archive, resolve, view};

/// How many pieces are read at a time.
const PAGE_CHUNKS: usize = 256;
/// How often a follower looks at the task although no output came: the task may have ended without any.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a follower waits for the rest after the task has ended: output has a stream of its own and may come later than
/// the result. A task that never ran has none.
const REST_TIME_MAX: Duration = Duration::from_secs(5);

/// Which part of the output.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// From which piece on; 0 is the first.
    #[serde(default)]
    from: u64,
    /// Whether to go on until the task has ended.
    #[serde(default)]
    follow: bool,
}

/// The output of a task's current attempt, one JSON object a line.
#[utoipa::path(get, path = paths::TASK_OUTPUT, tag = "tasks",
    params(("tenant" = String, Path), ("task" = String, Path), Which),
    responses((status = 200, body = OutputLine, content_type = "application/x-ndjson")))]
pub(crate) async fn task_output(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((tenant, task)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Result<Response, ApiError> {
    let state = app.engine.state();
    let tenant = archive::with_task(&app, resolve::tenant(&state, &tenant)?, &task).await?;
    let key = resolve::task(&tenant, &task)?.key();
    // What cannot be read is told before the answer has begun: afterwards there is no way to say why it breaks off.
    app.output.read(tenant.id, key, which.from, 1).await?;
    let following =
        if which.follow { Some(app.followers.enter(Follower::of(&caller), Some(tenant.id))?) } else { None };
    let news = if which.follow { Some(app.output.subscribe(key)?) } else { None };
    let reader = Reader {
        app,
        caller,
        tenant: tenant.id,
        key,
        next: which.from,
        news,
        ended: false,
        rest_until: None,
        _following: following,
    };
    let media_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((media_type, Body::from_stream(reader.into_stream())).into_response())
}

/// Reads page after page; with `news`, until the task has ended.
struct Reader {
    app: App,
    caller: Caller,
    tenant: TenantId,
    key: AttemptKey,
    next: u64,
    news: Option<watch::Receiver<u64>>,
    ended: bool,
    /// Until when to wait for the rest, once the task is over.
    rest_until: Option<Instant>,
    _following: Option<Following>,
}

impl Reader {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, StoreError>> {
        stream::unfold(self, |mut reader| async move {
            loop {
                if reader.ended || !reader.caller.sees(&reader.app, StreamId::Tenant(reader.tenant)) {
                    return None;
                }
                match reader.page().await {
                    Ok(lines) if lines.is_empty() => {}
                    Ok(lines) => return Some((Ok(lines), reader)),
                    Err(error) => {
                        reader.ended = true;
                        return Some((Err(error), reader));
                    }
                }
            }
        })
    }

    /// The next page, empty after a fruitless wait; notes when it was the last.
    async fn page(&mut self) -> Result<Bytes, StoreError> {
        // Looked at first: what was written before the end is read after it.
        let is_over = self.task_is_over();
        let over = self.news.is_none() || (is_over && self.rest_is_overdue());
        if let Some(news) = &mut self.news {
            news.mark_unchanged();
        }
        let first = self.next;
        let page = self.app.output.read(self.tenant, self.key, first, PAGE_CHUNKS).await?;
        self.next = page.next;
        if page.chunks.is_empty() {
            // While the task goes on, its agent may have ended one stream only to begin another.
            self.ended = over || (is_over && page.complete) || self.app.shutdown.is_cancelled();
            if let (false, Some(news)) = (self.ended, &mut self.news) {
                tokio::select! {
                    _ = tokio::time::timeout(LOOK_INTERVAL, news.changed()) => {}
                    () = self.app.shutdown.cancelled() => self.ended = true,
                }
            }
        }
        Ok(lines(first, &page))
    }

    /// Whether the rest has been waited for long enough. To be asked once the task is over.
    fn rest_is_overdue(&mut self) -> bool {
        let until = *self.rest_until.get_or_insert_with(|| Instant::now() + REST_TIME_MAX);
        Instant::now() >= until
    }

    fn task_is_over(&self) -> bool {
        let state = self.app.engine.state();
        let task = state
            .tenants
            .get(&self.tenant)
            .and_then(|tenant| tenant.tasks.get(&self.key.task).map(Arc::clone));
        task.is_none_or(|task| task.attempt != self.key.attempt || task.state.is_final())
    }
}

fn lines(first: u64, page: &OutputPage) -> Bytes {
    let mut text = Vec::new();
    for (record, chunk) in (first..).zip(&page.chunks) {
        // Strings and numbers always serialise.
        if serde_json::to_writer(&mut text, &view::output_line(record, chunk)).is_ok() {
            text.push(b'\n');
        }
    }
    Bytes::from(text)
}
