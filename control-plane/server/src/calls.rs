//! Makes the calls that steps of workflows wait for, and tells the core what became of them.
//!
//! What has to be called is in the state; this looks there again whenever something was committed, and after a restart. So a call is
//! made at least once, and may be made again when the process ends before its answer is durable: each carries a key that is the same
//! every time, by which the other side can tell. Where may be called is in the configuration; without it nothing is.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::Value;
use stella_domain::command::{Actor, Command, Request as Submission, TenantCommand};
use stella_domain::name::Identifier;
use stella_domain::run::{BODY_BYTES_MAX, CallOutcome, Request};
use stella_domain::spans;
use stella_domain::state::State;
use stella_engine::Handle;
use stella_protocol::id::{RunId, TenantId};
use stella_protocol::trace::{BAGGAGE, TRACEPARENT, TRACESTATE, TraceContext};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many calls are under way at once. Others wait for their turn.
const CALLS_MAX: usize = 32;
/// The pause before an answer is told again that the journal did not take.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers that are not a template's to set: they say what the request is, or are set here.
const OWN_HEADERS: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "idempotency-key",
    TRACEPARENT,
    TRACESTATE,
    BAGGAGE,
];

/// Where calls may go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destinations(Vec<Url>);

impl Destinations {
    /// Reads the beginnings of URLs.
    ///
    /// # Errors
    /// If one is none.
    pub(crate) fn parse(prefixes: &[String]) -> anyhow::Result<Self> {
        let parse = |prefix: &String| {
            let wrong = || {
                format!(
                    "workflows.http_allowed: {prefix:?} is no URL such as https://hooks.example.com/deploys/"
                )
            };
            let url = Url::parse(prefix).with_context(wrong)?;
            let plain = matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none();
            anyhow::ensure!(plain, wrong());
            Ok(url)
        };
        prefixes.iter().map(parse).collect::<anyhow::Result<_>>().map(Self)
    }

    /// The address, if it is one that may be called. Both sides are compared as they would be dialled: without `..`, and with
    /// a port.
    fn allow(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL holds credentials".to_owned());
        }
        let within = |prefix: &Url| {
            let rest = url.path().strip_prefix(prefix.path());
            prefix.scheme() == url.scheme()
                && prefix.host() == url.host()
                && prefix.port_or_known_default() == url.port_or_known_default()
                && rest.is_some_and(|rest| {
                    rest.is_empty() || prefix.path().ends_with('/') || rest.starts_with('/')
                })
        };
        if self.0.iter().any(within) {
            return Ok(url);
        }
        let where_to = url.host_str().unwrap_or_default();
        Err(format!(
            "calls to {where_to} are not allowed there: whoever runs the control plane can add a beginning of the URL to workflows.http_allowed"
        ))
    }
}

/// What an answer is for.
type Key = (TenantId, RunId, Identifier, u32);

/// Makes the calls.
#[derive(Debug)]
pub(crate) struct Caller {
    engine: Handle,
    /// None where nothing may be called: a host without authorities' certificates cannot have one, and needs none then.
    client: Option<Client>,
    allowed: Destinations,
    /// Calls whose answer the journal does not have yet.
    under_way: HashSet<Key>,
    /// They end with their key, if their answer was taken.
    calls: JoinSet<Option<Key>>,
}

impl Caller {
    /// # Errors
    /// If there is no HTTP client.
    pub(crate) fn new(engine: Handle, allowed: Destinations) -> anyhow::Result<Self> {
        // What is sent is for the address that is allowed, and for nobody that it may point to.
        let client = Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).no_proxy();
        let client = (!allowed.0.is_empty()).then(|| client.build()).transpose();
        let client = client.context("no HTTP client can be made for workflows")?;
        Ok(Self { engine, client, allowed, under_way: HashSet::new(), calls: JoinSet::new() })
    }

    /// Makes calls until `until` is cancelled. Those under way are made again after the next start.
    pub(crate) async fn run(mut self, until: CancellationToken) {
        let mut commits = self.engine.subscribe();
        loop {
            self.begin();
            tokio::select! {
                biased;
                () = until.cancelled() => return,
                Some(ended) = self.calls.join_next() => if let Ok(Some(key)) = ended {
                    self.under_way.remove(&key);
                },
                commit = commits.recv() => if matches!(commit, Err(RecvError::Closed)) {
                    return;
                },
            }
        }
    }

    /// Begins the calls that the state has and that are not under way.
    fn begin(&mut self) {
        let state = self.engine.state();
        for (key, request, trace) in wanted(&state) {
            if self.calls.len() >= CALLS_MAX {
                return;
            }
            if !self.under_way.insert(key.clone()) {
                continue;
            }
            let (client, engine, allowed) = (self.client.clone(), self.engine.clone(), self.allowed.clone());
            self.calls.spawn(async move {
                let outcome = call(client.as_ref(), &allowed, &key, &request, &trace).await;
                // What the core does not take is not called again and again.
                tell(&engine, &key, trace, outcome).await.then_some(key)
            });
        }
    }
}

fn wanted(state: &State) -> impl Iterator<Item = (Key, Request, TraceContext)> {
    let tenants = state.tenants.values();
    tenants.flat_map(|tenant| {
        tenant.calls.iter().filter_map(|(run, step)| {
            let run = tenant.runs.get(run)?;
            let found = run.steps.get(step)?;
            let request = found.state.call()?.clone();
            let trace = run.trace.with_span(spans::step(run.id, step));
            Some(((tenant.id, run.id, step.clone(), found.attempts), request, trace))
        })
    })
}

/// Makes one call.
async fn call(
    client: Option<&Client>,
    allowed: &Destinations,
    key: &Key,
    request: &Request,
    trace: &TraceContext,
) -> CallOutcome {
    let limit = Duration::from_millis(request.timeout_ms);
    let work = async {
        let url = allowed.allow(&request.url)?;
        let client = client.ok_or_else(|| "nothing may be called".to_owned())?;
        let answer = filled(client, url, key, request, trace)?.send().await;
        let answer = answer.map_err(|error| said(&error))?;
        let status = answer.status().as_u16();
        let body = if request.keep_body { Some(kept(answer).await?) } else { None };
        Ok::<_, String>(CallOutcome::Answered { status, body })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(reason)) => CallOutcome::Failed { reason },
        Err(_) => CallOutcome::Failed { reason: format!("there was no answer within {} s", limit.as_secs()) },
    }
}

fn filled(
    client: &Client,
    url: Url,
    (_, run, step, _): &Key,
    request: &Request,
    trace: &TraceContext,
) -> Result<RequestBuilder, String> {
    let method = Method::from_bytes(request.method.name().as_bytes());
    let mut call = client.request(method.map_err(|error| error.to_string())?, url);
    let mut has_type = false;
    for (name, value) in &request.headers {
        let header = HeaderName::from_bytes(name.as_bytes());
        let header = header.map_err(|_| format!("the header {name} has a name that is none"))?;
        if OWN_HEADERS.contains(&header.as_str()) {
            return Err(format!("the header {name} is not the template's to set"));
        }
        has_type |= header == CONTENT_TYPE;
        let value = HeaderValue::from_str(value);
        call = call.header(header, value.map_err(|_| format!("the header {name} has a value that is none"))?);
    }
    call = call.header("idempotency-key", format!("{run}/{step}"));
    for (name, value) in trace.headers() {
        call = call.header(name, value);
    }
    match &request.body {
        None => {}
        Some(Value::String(text)) => call = call.body(text.clone()),
        Some(json) => {
            if !has_type {
                call = call.header(CONTENT_TYPE, "application/json");
            }
            call = call.body(json.to_string());
        }
    }
    Ok(call)
}

/// The body of an answer: as JSON if it is, as text otherwise.
async fn kept(mut answer: Response) -> Result<Value, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| said(&error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(format!("the answer has more than {BODY_BYTES_MAX} bytes, and is to be kept"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned())))
}

/// An error for a person, without the address: it may hold what is not for everybody.
fn said(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    format!("the call failed: {source}")
}

/// Tells the core, until it has heard; whether it took the answer.
async fn tell(
    engine: &Handle,
    (tenant, run, step, attempt): &Key,
    trace: TraceContext,
    outcome: CallOutcome,
) -> bool {
    let command = TenantCommand::AnswerCall { run: *run, step: step.clone(), attempt: *attempt, outcome };
    let command = Command::Tenant(*tenant, command);
    let submission = Submission { actor: Actor::System, trace, idempotency: None, command };
    loop {
        match engine.submit(submission.clone()).await {
            Ok(_) => return true,
            Err(stella_engine::SubmitError::Stopping) => return false,
            Err(stella_engine::SubmitError::Rejected(rejection)) => {
                tracing::warn!(%run, %step, %rejection, "the answer to a call was not taken");
                return false;
            }
            Err(error) => {
                tracing::warn!(%run, %step, %error, "the answer to a call waits for the journal");
                tokio::time::sleep(TELL_AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(prefixes: &[&str]) -> Destinations {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        Destinations::parse(&prefixes).unwrap()
    }

    #[test]
    fn only_what_is_below_an_allowed_beginning_is_called() {
        let hooks = allowed(&["https://hooks.example.com/deploys/", "http://127.0.0.1:8080/x"]);
        for url in [
            "https://hooks.example.com/deploys/1?a=b",
            "https://hooks.example.com:443/deploys/",
            "https://HOOKS.example.com/deploys/x/../y",
            "http://127.0.0.1:8080/x",
            "http://127.0.0.1:8080/x/y",
        ] {
            assert!(hooks.allow(url).is_ok(), "{url}");
        }
        for url in [
            "https://hooks.example.com/",
            "https://hooks.example.com/deploys/../admin",
            "https://hooks.example.com/deploys/%2e%2e/admin",
            "http://hooks.example.com/deploys/",
            "https://hooks.example.com:444/deploys/",
            "https://hooks.example.com.evil.example/deploys/",
            "https://hooks.example.com@evil.example/deploys/",
            "https://user@hooks.example.com/deploys/",
            "http://127.0.0.1:8080/xy",
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "no address",
        ] {
            assert!(hooks.allow(url).is_err(), "{url}");
        }
        assert!(allowed(&[]).allow("https://example.com/").unwrap_err().contains("workflows.http_allowed"));
    }
}
