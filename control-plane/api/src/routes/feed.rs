//! What happened in a tenant, or outside of all: pages of the journal, or a feed of server-sent events that never ends by itself.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{self, Stream};
use serde::Deserialize;
use std::sync::Arc;
use stella_api_types::event::{Event, JournalHead};
use stella_api_types::{Page, paths};
use stella_domain::access::{Role, Scope};
use stella_domain::event::StreamId;
use stella_domain::state::State as DomainState;
use stella_engine::{Committed, CommittedEvent};
use stella_protocol::id::{Position, TenantId};
use tokio::sync::broadcast::{self, error::RecvError};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::{Json, Paging, Path, Query, cursor};
use crate::error::ApiError;
use crate::followers::{Follower, Following};
use crate::request::Caller;
use crate::{App, resolve, view};

/// How many events are read at a time.
const PAGE_EVENTS: usize = 500;
/// How often a quiet feed says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// The first position that is wanted, from 0.
    after: Option<u64>,
    /// How many items at most, 1 to 500; 100 if not given. Only for pages.
    limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`. Only for pages.
    cursor: Option<String>,
}

/// Events of a tenant. With `Accept: text/event-stream` a live feed; its `id` is the position, and a client that comes
/// back with `Last-Event-ID` goes on after it.
#[utoipa::path(get, path = paths::EVENTS, tag = "events", params(("tenant" = String, Path), Which),
    responses((status = 200, content((Page<Event> = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn events(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(tenant): Path<String>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let stream = StreamId::Tenant(resolve::tenant_id(&app.engine.state(), &tenant)?);
    answer(app, caller, stream, which, &headers).await
}

/// Events that belong to no tenant: tenants, accounts and tokens that came and went. For who administers the installation.
#[utoipa::path(get, path = paths::SYSTEM_EVENTS, tag = "events", params(Which),
    responses((status = 200, content((Page<Event> = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn system_events(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    caller.rights(&app.engine.state(), app.engine.now())?.require(Role::Admin, Scope::Installation)?;
    answer(app, caller, StreamId::System, which, &headers).await
}

async fn answer(
    app: App,
    caller: Caller,
    stream: StreamId,
    which: Which,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let wants_feed = text(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream"));
    if wants_feed {
        let tenant = match stream {
            StreamId::Tenant(tenant) => Some(tenant),
            StreamId::System => None,
        };
        let following = app.followers.enter(Follower::of(&caller), tenant)?;
        let live = app.engine.follow(stream);
        // Rights are the system's.
        let rights = app.engine.follow(StreamId::System);
        let next = first_of_feed(text("last-event-id"), which.after, app.engine.head(stream))?;
        let feed = Feed { app, caller, stream, next, live, rights, _following: following };
        return Ok(Sse::new(feed.into_stream())
            .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
            .into_response());
    }
    let paging = Paging { limit: which.limit, cursor: which.cursor, first: None };
    let limit = paging.limit()?;
    let from = Position(paging.after::<u64>()?.or(which.after).unwrap_or(0));
    let found = app.engine.read(stream, from, limit).await.map_err(|error| ApiError::internal(&error))?;
    let next = found.last().map(|last| last.position.next()).filter(|next| *next < app.engine.head(stream));
    let state = app.engine.state();
    let items = found.iter().map(|it| view::event(&state, it)).collect();
    Ok(Json(Page { items, next_cursor: next.map(|next| cursor(&next)) }).into_response())
}

/// The end of a tenant's journal: its position, and the hash over everything before it.
#[utoipa::path(get, path = paths::JOURNAL, tag = "events", params(("tenant" = String, Path)), responses((status = 200, body = JournalHead)))]
pub(crate) async fn journal(
    State(app): State<App>,
    Path(tenant): Path<String>,
) -> Result<Json<JournalHead>, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    Ok(Json(head(&app, StreamId::Tenant(tenant))))
}

/// The end of the journal of what belongs to no tenant. For who administers the installation.
#[utoipa::path(get, path = paths::SYSTEM_JOURNAL, tag = "events", responses((status = 200, body = JournalHead)))]
pub(crate) async fn system_journal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<JournalHead>, ApiError> {
    caller.rights(&app.engine.state(), app.engine.now())?.require(Role::Admin, Scope::Installation)?;
    Ok(Json(head(&app, StreamId::System)))
}

fn head(app: &App, stream: StreamId) -> JournalHead {
    // They are asked for one after the other, and belong together only if the head stayed where it was meanwhile.
    let (position, hash) = loop {
        let position = app.engine.head(stream);
        let hash = app.engine.head_hash(stream);
        if app.engine.head(stream) == position {
            break (position, hash.map(|hash| hash.to_string()));
        }
    };
    // One journal holds all streams.
    let incarnation = app.engine.journal_mark(TenantId(Uuid::nil())).incarnation;
    JournalHead { incarnation: incarnation.to_string(), position: position.0, hash }
}

/// Where a feed begins. What cannot be honoured is refused: from the start it would show old events as new ones, and beyond
/// the end it would be silent about everything until the journal gets there.
fn first_of_feed(
    last_event_id: Option<&str>,
    after: Option<u64>,
    head: Position,
) -> Result<Position, ApiError> {
    let (field, next) = match last_event_id {
        Some(id) => {
            let seen = id.trim().parse::<u64>().map_err(|_| {
                ApiError::invalid("Last-Event-ID", "is not the id of an event of this feed: a whole number")
            })?;
            ("Last-Event-ID", seen.saturating_add(1))
        }
        None => ("after", after.unwrap_or(0)),
    };
    if next > head.0 {
        return Err(ApiError::invalid(
            field,
            format!(
                "leads to position {next}, but the journal ends before {}; was it restored from a backup? \
                 Read the state anew, and go on from /journal's position",
                head.0
            ),
        ));
    }
    Ok(Position(next))
}

/// Events from the journal until its end, then from commits as they come; from the journal again whenever commits were missed.
struct Feed {
    app: App,
    caller: Caller,
    stream: StreamId,
    next: Position,
    live: broadcast::Receiver<Arc<Committed>>,
    /// What may end it.
    rights: broadcast::Receiver<Arc<Committed>>,
    _following: Following,
}

impl Feed {
    fn into_stream(self) -> impl Stream<Item = Result<SseEvent, Infallible>> {
        let batches = stream::unfold(self, |mut feed| async move {
            let batch = feed.batch().await?;
            let state = feed.app.engine.state();
            let events: Vec<_> = batch.iter().map(|event| Ok(sse(&state, event))).collect();
            Some((events, feed))
        });
        batches.flat_map(stream::iter)
    }

    /// The next events in order; `None` at the end of the feed. A revocation is a commit too, as is a role that is taken away, and ends it at once; so does the end of the token's life.
    async fn batch(&mut self) -> Option<Vec<CommittedEvent>> {
        let mut heard = self.live.try_recv().ok();
        while self.caller.sees(&self.app, self.stream) {
            let batch = heard.take().map(|commit| self.news_of(&commit)).filter(|batch| !batch.is_empty());
            if let Some(batch) = batch {
                self.next = Position(self.next.0 + batch.len() as u64);
                return Some(batch);
            }
            if self.next < self.app.engine.head(self.stream) {
                let page = self.app.engine.read(self.stream, self.next, PAGE_EVENTS).await;
                let page = page
                    .inspect_err(|error| {
                        tracing::error!(error = error as &dyn std::error::Error, "a feed ended")
                    })
                    .ok()?;
                if let Some(last) = page.last() {
                    self.next = last.position.next();
                    return Some(page);
                }
            }
            heard = self.news().await?;
        }
        None
    }

    /// What of a commit comes next here, so that it need not be read back; nothing if something before it was missed.
    fn news_of(&self, commit: &Committed) -> Vec<CommittedEvent> {
        let events = commit.events.iter().filter(|it| it.stream == self.stream && it.position >= self.next);
        let next = (self.next.0..).map(Position);
        let in_order = events.zip(next).take_while(|(event, next)| event.position == *next);
        in_order.map(|(event, _)| event.clone()).take(PAGE_EVENTS).collect()
    }

    /// Waits until there is something to look at, which may be in a commit; `None` at the end of the feed.
    async fn news(&mut self) -> Option<Option<Arc<Committed>>> {
        let shutdown = self.app.shutdown.clone();
        let expired = self.caller.expired(&self.app);
        tokio::pin!(expired);
        let heard = tokio::select! {
            () = shutdown.cancelled() => return None,
            () = &mut expired => return Some(None),
            commit = self.live.recv() => commit,
            commit = self.rights.recv() => commit,
        };
        match heard {
            Ok(commit) => Some(Some(commit)),
            // The journal has what was missed.
            Err(RecvError::Lagged(_)) => Some(None),
            Err(RecvError::Closed) => None,
        }
    }
}

fn sse(state: &DomainState, committed: &CommittedEvent) -> SseEvent {
    let event = view::event(state, committed);
    let sse = SseEvent::default().id(event.position.to_string()).event(event.kind.clone());
    sse.json_data(&event).unwrap_or_else(|_| SseEvent::default().comment("an event could not be written"))
}
