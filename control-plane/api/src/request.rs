//! What every request goes through, in this order: trace and correlation, authentication, the address's rate limit if that fails and the
//! token's if it does not, whether the tenant is any of its business, the tenant's rate limit, the handler; then metrics, and the body of a problem.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use axum::RequestExt;
use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use sha2::{Digest as _, Sha256};
use stella_api_types::paths;
use stella_domain::access::Rights;
use stella_domain::command::{ActingAccount, Actor};
use stella_domain::event::StreamId;
use stella_domain::state::State as DomainState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{ApiTokenId, TenantId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::{Correlation, TRACEPARENT, TraceContext, TraceParent, is_in_sample};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field};

use crate::error::{ApiError, ErrorCode};
use crate::serve::LetIn;
use crate::{AnsweredRequest, App, OnAnswer};

const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");

/// How much of what a caller calls itself is of interest.
const USER_AGENT_CHARACTERS_MAX: usize = 256;
/// How long to trust that the wall clock goes on as it does.
const CLOCK_CHECK: Duration = Duration::from_mins(1);

/// Who asks, and in which trace. Handlers get it as an extension.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) token: ApiTokenId,
    account: Option<ActingAccount>,
    pub(crate) trace: TraceContext,
}

impl Caller {
    pub(crate) fn actor(&self) -> Actor {
        Actor::ApiToken { id: self.token, account: self.account.clone() }
    }

    /// What may be asked, now: what answers for long has to look again.
    pub(crate) fn rights<'s>(&self, state: &'s DomainState, now: Timestamp) -> Result<Rights<'s>, ApiError> {
        Rights::of(state, self.token, now).ok_or_else(|| {
            let detail = "the token has expired or was revoked; ask for another one";
            ApiError::new(ErrorCode::Unauthenticated, detail)
        })
    }

    /// Whether what happens there may be known, now.
    pub(crate) fn sees(&self, app: &App, stream: StreamId) -> bool {
        self.rights(&app.engine.state(), app.engine.now()).is_ok_and(|rights| match stream {
            StreamId::System => rights.administers(),
            StreamId::Tenant(tenant) => rights.sees(tenant),
        })
    }

    /// Waits until the token's life is over; for ever if that has no end. A clock that is set is noticed a minute later.
    pub(crate) fn expired(&self, app: &App) -> impl Future<Output = ()> + use<> {
        let token = app.engine.state().system.api_tokens.get(&self.token).and_then(|it| it.expires_at);
        let left = token.map(|at| Duration::from_millis(at.0.saturating_sub(app.engine.now().0)));
        async move {
            match left {
                Some(left) => tokio::time::sleep(left.min(CLOCK_CHECK)).await,
                None => std::future::pending().await,
            }
        }
    }
}

/// The status of a request whose caller went away before the answer, as proxies have it in their logs. Nobody receives it.
const CALLER_GONE: u16 = 499;
/// What a route can fail with by the control plane's fault; only what changes something needs space on the disk.
const FAILURES: [&str; 3] = ["500", "503", "504"];
const FAILURE_OF_CHANGES: &str = "507";

/// The layer around all routes.
pub(crate) async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response<Body> {
    let (trace, is_callers) = trace_of(request.headers(), app.sample_ratio);
    let trace = TraceContext { correlation: correlation_of(request.headers()), ..trace };
    let correlation = String::from(trace.correlation.clone());
    let mut answering = Answering::new(&app, &request, trace.clone(), is_callers);
    let span = answering.span.clone();
    let answered = async {
        let tenant = tenant_of(&app, &mut request).await;
        answering.request.tenant = tenant.as_ref().map(|(_, id)| *id);
        if let Some(id) = answering.request.tenant {
            Span::current().record("tenantId", field::display(id));
        }
        request.extensions_mut().insert(trace.clone());
        match admit(&app, &request, tenant.as_ref(), &trace) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    answering.was_admitted = true;
                    // Only tests call the router without a connection.
                    if let Some(connection) = request.extensions().get::<LetIn>() {
                        connection.now();
                    }
                    request.extensions_mut().insert(caller);
                }
                next.run(request).await
            }
            Err(error) => error.into_response(),
        }
    };
    let mut response = answered.instrument(span).await;
    complete(&mut response, &answering.request.path, trace.parent(), &correlation);
    answering.request.status = response.status().as_u16();
    response
}

/// A request that is being answered. When it is dropped, the answer is said and counted: also if that is because the caller has hung
/// up, since what was asked may have happened all the same.
struct Answering {
    request: AnsweredRequest,
    was_admitted: bool,
    began: Instant,
    span: Span,
    on_answer: Option<OnAnswer>,
    shutdown: CancellationToken,
    /// No longer in flight once the rest is said.
    _in_flight: InFlight,
}

impl Answering {
    fn new(app: &App, request: &Request, trace: TraceContext, is_callers: bool) -> Self {
        let method = method_label(request);
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
        // It is there at every level that the log may have.
        let span = tracing::error_span!(
            "http.request",
            traceId = format!("{:032x}", trace.trace_id),
            // As in the lines of the events that it causes.
            spanId = format!("{:016x}", trace.span_id),
            tenantId = field::Empty,
            correlationId = String::from(trace.correlation.clone()),
            "http.method" = method,
            "http.route" = route,
        );
        let request = AnsweredRequest {
            trace,
            is_callers,
            method,
            route: route.to_owned(),
            path: request.uri().path().to_owned(),
            status: CALLER_GONE,
            tenant: None,
            user_agent: user_agent_of(request.headers()),
            started: SystemTime::now(),
            took: Duration::ZERO,
        };
        Self {
            request,
            was_admitted: false,
            began: Instant::now(),
            span,
            on_answer: app.on_answer.clone(),
            shutdown: app.shutdown.clone(),
            _in_flight: InFlight::new(method),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.request.took = self.began.elapsed();
        // Not every answer that nobody got is for want of a caller.
        if self.request.status == CALLER_GONE && std::thread::panicking() {
            self.request.status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
        } else if self.request.status == CALLER_GONE && self.shutdown.is_cancelled() {
            self.request.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        }
        let AnsweredRequest { method, ref route, ref path, status, took, .. } = self.request;
        self.span.in_scope(|| say(method, status, took, self.was_admitted));
        // Whom a limit refuses would fill the queue of spans at the pace of their own.
        let is_traced =
            !is_probe(path) && (self.was_admitted || status != StatusCode::TOO_MANY_REQUESTS.as_u16());
        if let Some(OnAnswer(tell)) = self.on_answer.as_ref().filter(|_| is_traced) {
            tell(&self.request);
        }
        count(method, route, status);
        metrics::histogram!("stella_http_request_duration_seconds", "method" => method, "path" => route.clone())
            .record(took);
    }
}

/// What may have changed something is found in the log by the id that its caller has; what only looks, and what strangers want, is
/// too much for it.
fn say(method: &str, status: u16, took: Duration, was_admitted: bool) {
    let milliseconds = took.as_secs_f64() * 1e3;
    let message = match status {
        CALLER_GONE => "request given up by its caller: what it asked may have happened",
        _ => "request answered",
    };
    if was_admitted && is_change(method) {
        tracing::info!(status, milliseconds, "{message}");
    } else {
        tracing::debug!(status, milliseconds, "{message}");
    }
}

fn is_change(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD")
}

/// Counts an answer. Each route has the series of its failures from its first answer on: one that began above 0 would be no increase.
fn count(method: &'static str, path: &str, status: u16) {
    let answers = |status: String| metrics::counter!("stella_http_requests_total", "method" => method, "path" => path.to_owned(), "status" => status);
    answers(status.to_string()).increment(1);
    if !is_probe(path) {
        let of_changes = is_change(method).then_some(FAILURE_OF_CHANGES);
        for failure in FAILURES.into_iter().chain(of_changes) {
            answers(failure.to_owned()).increment(0);
        }
    }
}

/// Whether it asks how the control plane does, which is asked all the time.
fn is_probe(path: &str) -> bool {
    matches!(path, paths::HEALTH | paths::HEALTH_READY | paths::HEALTH_LIVE)
}

/// Lets a request in, with its caller if the path needs one.
fn admit(
    app: &App,
    request: &Request,
    tenant: Option<&(String, TenantId)>,
    trace: &TraceContext,
) -> Result<Option<Caller>, ApiError> {
    let path = request.uri().path();
    if is_probe(path) {
        return Ok(None);
    }
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    // Only tests call the router without a connection.
    let peer = address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |info| info.0.ip());
    let address = app.tuning.proxies().client(peer, request.headers());
    // Who sends something to a hook shows that they may by a signature of it, which is looked at when all of it has come.
    if path == paths::OPENAPI || is_delivery(request) {
        app.tuning.limits().address(address)?;
        return Ok(None);
    }
    let Some(token) = authenticate(app, request.headers()) else {
        app.tuning.limits().address(address)?;
        let detail = if request.headers().contains_key(header::AUTHORIZATION) {
            "the token is not known: it has expired, was revoked, or is of another installation"
        } else {
            "send the header Authorization: Bearer TOKEN; the first token is in the file admin-token of the state folder"
        };
        return Err(ApiError::new(ErrorCode::Unauthenticated, detail));
    };
    app.tuning.limits().token(token)?;
    let state = app.engine.state();
    let anonymous = Caller { token, account: None, trace: trace.clone() };
    let rights = anonymous.rights(&state, app.engine.now())?;
    if let Some((text, tenant)) = tenant {
        // The same answer as for one that does not exist.
        if !rights.sees(*tenant) {
            return Err(ApiError::not_found(TenantId::KIND, text));
        }
        app.tuning.limits().tenant(*tenant)?;
    } else if let Some(account) = rights.account() {
        // An account makes tokens for itself, each with requests of its own; together they have one token's of what no tenant bounds.
        app.tuning.limits().account(account.id)?;
    }
    let account = rights.account().map(|it| ActingAccount { id: it.id, name: it.name.clone() });
    Ok(Some(Caller { account, ..anonymous }))
}

/// Whether it is a message to a hook.
fn is_delivery(request: &Request) -> bool {
    request.extensions().get::<MatchedPath>().is_some_and(|path| path.as_str() == paths::HOOK_DELIVERY)
}

/// Whose token a request has.
fn authenticate(app: &App, headers: &HeaderMap) -> Option<ApiTokenId> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let hash = Digest(Sha256::digest(token.trim().as_bytes()).into());
    let given = stella_certs::ApiToken::from_str(token.trim()).map_or(hash, |token| token.hash());
    app.engine.state().system.api_tokens.with_hash(given).map(|known| known.id)
}

/// The tenant that the path leads to, decoded as the handler sees it: another way to write it must not escape the limit.
async fn tenant_of(app: &App, request: &mut Request) -> Option<(String, TenantId)> {
    let parameters = request.extract_parts::<RawPathParams>().await.ok()?;
    let (_, text) = parameters.iter().find(|(name, _)| *name == "tenant")?;
    let id = crate::resolve::tenant_id(&app.engine.state(), text).ok()?;
    Some((text.to_owned(), id))
}

/// What the caller calls itself, as far as it is printable and short.
fn user_agent_of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(text.chars().take(USER_AGENT_CHARACTERS_MAX).collect())
}

/// The trace of a request, and whether the caller sent it. Whether a caller's is sampled is the caller's decision; of those that begin
/// here, what is not part of our share is not sampled from here on, for whoever it leads to.
fn trace_of(headers: &HeaderMap, ratio: f64) -> (TraceContext, bool) {
    let given =
        TraceContext::from_headers(|name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes));
    if given.is_valid() {
        return (given, true);
    }
    let (trace_id, span_id) = (uuid::Uuid::new_v4().as_u128(), uuid::Uuid::new_v4().as_u64_pair().1);
    (TraceContext { trace_id, span_id, sampled: is_in_sample(trace_id, ratio), ..given }, false)
}

/// What the caller calls the request, if it may be kept; without what is a secret in it, because it goes into the journal.
fn correlation_of(headers: &HeaderMap) -> Correlation {
    let given = headers.get(CORRELATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|text| Correlation::try_from(stella_telemetry::redact_text(text)).ok());
    given.unwrap_or_else(|| uuid::Uuid::new_v4().to_string().try_into().unwrap_or_default())
}

/// The method as a label: callers must not be able to invent new ones.
fn method_label(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "OTHER",
    }
}

/// Gives every response its ids, and every problem its body.
fn complete(response: &mut Response<Body>, instance: &str, trace: TraceParent, correlation: &str) {
    if let Some(error) = error_of(response) {
        let trace_id = Some(format!("{:032x}", trace.trace_id));
        let problem = error.problem(Some(instance.to_owned()), trace_id, Some(correlation.to_owned()));
        *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        let media_type = HeaderValue::from_static(stella_api_types::problem::MEDIA_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
    if let Ok(value) = HeaderValue::from_str(correlation) {
        headers.insert(CORRELATION, value);
    }
}

/// The problem of a response: ours, or one for a status that the framework made.
fn error_of(response: &mut Response<Body>) -> Option<ApiError> {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        return Some(error);
    }
    let status = response.status();
    match status {
        StatusCode::METHOD_NOT_ALLOWED => Some(ApiError::new(
            ErrorCode::MethodNotAllowed,
            "the header Allow lists the methods that this path knows",
        )),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Some(ApiError::new(
            ErrorCode::Timeout,
            "the answer took too long; what was asked may still happen",
        )),
        StatusCode::INTERNAL_SERVER_ERROR if !response.headers().contains_key(header::CONTENT_TYPE) => {
            Some(ApiError::new(ErrorCode::Internal, "the log of the control plane says more"))
        }
        _ => None,
    }
}

/// Counts requests that are being worked on, cancelled ones included.
struct InFlight(&'static str);

impl InFlight {
    fn new(method: &'static str) -> Self {
        metrics::gauge!("stella_http_requests_in_flight", "method" => method).increment(1.0);
        Self(method)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!("stella_http_requests_in_flight", "method" => self.0).decrement(1.0);
    }
}
