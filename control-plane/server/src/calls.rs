//! Makes the calls that steps of workflows wait for, tells receivers what steps tell them, and tells the core what became of it.
//!
//! What has to be called is in the state; this looks there again whenever something was committed, and after a restart. So a call is
//! made at least once, and may be made again when the process ends before its answer is durable: each attempt carries a key that is the
//! same every time, by which the other side can tell. Where may be called, and who may be told, is in the configuration; without it nothing is.
//!
//! What receivers are told has the same turns as calls, and the same ends; below, both are calls.
//!
//! The core gives up on an answer by itself. Here a call has the time that its step gives it, from when it has its turn.

mod destinations;
mod notices;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response};
use serde_json::Value;
use stella_domain::command::{Actor, Command, Request as Submission, TenantCommand};
use stella_domain::name::Identifier;
use stella_domain::run::{BODY_BYTES_MAX, CallOutcome, Outgoing, Request};
use stella_domain::spans;
use stella_domain::state::State;
use stella_engine::Handle;
use stella_gates::turns::Turns;
use stella_notify::notice::Notice;
use stella_protocol::id::{RunId, TenantId};
use stella_protocol::trace::{BAGGAGE, TRACEPARENT, TRACESTATE, TraceContext};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use destinations::Permitted;
pub(crate) use destinations::{Destinations, Whose};
use notices::Receivers;

use crate::config::Config;
use crate::followed::another;

/// How many calls are under way at once. Others wait for their turn.
const CALLS_MAX: usize = 128;
/// How many of them are of one tenant. Each may take as long as a step may give it, and may keep as much as
/// [`stella_domain::run::BODY_BYTES_MAX`].
const CALLS_OF_TENANT_MAX: usize = 32;
/// The pause before an answer is told again that the journal did not take.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// What is said of a call that broke off.
const BROKEN: &str = "the call broke off by a defect of the control plane; its log says more";
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

/// What an answer is for.
type Key = (TenantId, RunId, Identifier, u32);

/// What became of an answer.
#[derive(Debug)]
enum Told {
    /// It is in the journal.
    Taken,
    /// The core does not take it, and would not the next time. Or the control plane stops.
    Refused,
}

/// Makes the calls.
#[derive(Debug)]
pub(crate) struct Caller {
    engine: Handle,
    /// None where nothing may be called: a host without authorities' certificates cannot have one, and needs none then.
    client: Option<Client>,
    allowed: Arc<Destinations>,
    receivers: Arc<Receivers>,
    config: watch::Receiver<Arc<Config>>,
    turns: Turns<Key, Told>,
    /// Calls whose answer the core did not take: they are not made again and again. Their step ends at its deadline.
    refused: HashSet<Key>,
    /// Calls that broke off by a defect: the core is told that they have failed.
    broken: HashSet<Key>,
}

impl Caller {
    /// # Errors
    /// If there is no HTTP client, or a receiver makes no sense.
    pub(crate) fn new(engine: Handle, mut config: watch::Receiver<Arc<Config>>) -> anyhow::Result<Self> {
        let now = Arc::clone(&config.borrow_and_update());
        let allowed = Arc::new(Destinations::parse(&now.workflows)?);
        Ok(Self {
            engine,
            client: Self::client(&allowed)?,
            allowed,
            receivers: Arc::new(Receivers::of(&now.notifications)?),
            config,
            turns: Turns::new(CALLS_MAX, CALLS_OF_TENANT_MAX),
            refused: HashSet::new(),
            broken: HashSet::new(),
        })
    }

    /// What calls, if anything may be called that has no name.
    ///
    /// # Errors
    /// If there is no HTTP client.
    pub(crate) fn client(allowed: &Destinations) -> anyhow::Result<Option<Client>> {
        let client = (!allowed.is_empty()).then(|| builder().build()).transpose();
        client.context("no HTTP client can be made for workflows")
    }

    /// Takes over where may be called from now on, and who may be told; calls under way go on. Both were tried before the configuration was taken over.
    fn follow(&mut self) {
        let config = Arc::clone(&self.config.borrow_and_update());
        let allowed = Destinations::parse(&config.workflows);
        match allowed.and_then(|allowed| Ok((Self::client(&allowed)?, allowed))) {
            Ok((client, allowed)) => {
                self.client = self.client.take().or(client);
                self.allowed = Arc::new(allowed);
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "where workflows may call stays as it was")
            }
        }
        match Receivers::of(&config.notifications) {
            Ok(receivers) => self.receivers = Arc::new(receivers),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "whom workflows may tell stays as it was")
            }
        }
    }

    /// Makes calls until `until` is cancelled. Those under way are made again after the next start.
    pub(crate) async fn run(mut self, until: CancellationToken) {
        let mut commits = self.engine.subscribe();
        loop {
            self.begin();
            tokio::select! {
                biased;
                () = until.cancelled() => return,
                (key, ended) = self.turns.ended() => self.note(key, ended),
                () = another(&mut self.config) => self.follow(),
                commit = commits.recv() => if matches!(commit, Err(RecvError::Closed)) {
                    return;
                },
            }
        }
    }

    /// Begins the calls that the state has and whose turn it is, and gives up those that it has no more.
    fn begin(&mut self) {
        let state = self.engine.state();
        let mut wanted: Vec<Key> = keys(&state).collect();
        if !(self.refused.is_empty() && self.broken.is_empty()) {
            let all: HashSet<&Key> = wanted.iter().collect();
            self.refused.retain(|key| all.contains(key));
            self.broken.retain(|key| all.contains(key));
            wanted.retain(|key| !self.refused.contains(key));
        }
        for turn in self.turns.next(wanted.into_iter().map(|key| (key.0, key))) {
            let Some((wanted, trace)) = find(&state, &turn.1) else { continue };
            let (client, engine, allowed) =
                (self.client.clone(), self.engine.clone(), Arc::clone(&self.allowed));
            let receivers = Arc::clone(&self.receivers);
            let (key, is_broken) = (turn.1.clone(), self.broken.contains(&turn.1));
            self.turns.start(turn, async move {
                let outcome = if is_broken {
                    CallOutcome::Failed { reason: BROKEN.to_owned() }
                } else {
                    match &wanted {
                        Wanted::Call { request, tenant, tenants } => {
                            let whose = Whose { tenant, tenants: *tenants };
                            let way = allowed.allow(whose, request.to.as_ref(), &request.url);
                            call(client.as_ref(), way, &key, request, &trace).await
                        }
                        Wanted::Notice { receiver, notice, limit } => {
                            receivers.notify(receiver, notice, engine.now(), *limit).await
                        }
                    }
                };
                tell(&engine, &key, trace, outcome).await
            });
        }
    }

    /// Notes how a call ended.
    fn note(&mut self, key: Key, ended: Result<Told, JoinError>) {
        match ended {
            Ok(Told::Taken) => {}
            Ok(Told::Refused) => drop(self.refused.insert(key)),
            Err(error) => {
                let (_, run, step, attempt) = &key;
                tracing::error!(%run, %step, attempt, %error, "a call broke off; this is a defect");
                self.broken.insert(key);
            }
        }
    }
}

/// How calls are made. What is sent is for the address that is allowed, and for nobody that it may point to.
fn builder() -> ClientBuilder {
    Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).no_proxy()
}

/// The calls that somebody waits for.
fn keys(state: &State) -> impl Iterator<Item = Key> {
    let tenants = state.tenants.values();
    tenants.flat_map(|tenant| {
        tenant.calls.iter().filter_map(|(run, step)| {
            let found = tenant.runs.get(run)?.steps.get(step)?;
            found.state.outgoing()?;
            Some((tenant.id, *run, step.clone(), found.attempts))
        })
    })
}

/// What a step wants.
enum Wanted {
    /// What to call, for one of so many tenants.
    Call { request: Request, tenant: String, tenants: usize },
    /// What to tell whom, and how long that may take.
    Notice { receiver: String, notice: Box<Notice>, limit: Duration },
}

/// What is to be done, and in which trace.
fn find(state: &State, key: &Key) -> Option<(Wanted, TraceContext)> {
    let (tenant, run, step, attempt) = key;
    let (tenant, tenants) = (state.tenants.get(tenant)?, state.tenants.len());
    let run = tenant.runs.get(run)?;
    let trace = run.trace.with_span(spans::step(run.id, step));
    let wanted = match run.steps.get(step)?.state.outgoing()? {
        Outgoing::Call(request) => {
            Wanted::Call { request: request.clone(), tenant: tenant.name.to_string(), tenants }
        }
        Outgoing::Notice(said) => Wanted::Notice {
            receiver: said.receiver.clone(),
            limit: Duration::from_millis(said.timeout_ms),
            notice: Box::new(Notice {
                key: idempotency_key(key),
                at: said.at,
                severity: said.severity,
                tenant: tenant.name.to_string(),
                workflow: run.workflow.to_string(),
                version: run.version,
                run: run.id.to_string(),
                step: step.to_string(),
                attempt: *attempt,
                message: said.message.clone(),
                trace: trace.headers().collect(),
            }),
        },
    };
    Some((wanted, trace))
}

/// By what the other side knows that it has seen an attempt before.
fn idempotency_key((_, run, step, attempt): &Key) -> String {
    format!("{run}/{step}/{attempt}")
}

/// Makes one call.
async fn call(
    client: Option<&Client>,
    way: Result<Permitted<'_>, String>,
    key: &Key,
    request: &Request,
    trace: &TraceContext,
) -> CallOutcome {
    let limit = Duration::from_millis(request.timeout_ms);
    let work = async {
        let way = way?;
        let client = way.named.map(|named| &named.client).or(client);
        let client = client.ok_or_else(|| "nothing may be called".to_owned())?;
        let answer = filled(client, &way, key, request, trace)?.send().await;
        let answer = answer.map_err(|error| said(&error))?;
        let status = answer.status().as_u16();
        let body = if request.keep_body { Some(kept(answer, &way).await?) } else { None };
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
    way: &Permitted<'_>,
    key: &Key,
    request: &Request,
    trace: &TraceContext,
) -> Result<RequestBuilder, String> {
    let method = Method::from_bytes(request.method.name().as_bytes());
    let mut call = client.request(method.map_err(|error| error.to_string())?, way.url.clone());
    let own = way.named.map(|named| named.headers.clone()).unwrap_or_default();
    let mut has_type = own.contains_key(CONTENT_TYPE);
    for (name, value) in &request.headers {
        let header = HeaderName::from_bytes(name.as_bytes());
        let header = header.map_err(|_| format!("the header {name} has a name that is none"))?;
        if OWN_HEADERS.contains(&header.as_str()) || own.contains_key(&header) {
            return Err(format!("the header {name} is not the template's to set"));
        }
        has_type |= header == CONTENT_TYPE;
        let value = HeaderValue::from_str(value);
        call = call.header(header, value.map_err(|_| format!("the header {name} has a value that is none"))?);
    }
    call = call.headers(own).header("idempotency-key", idempotency_key(key));
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

/// The body of an answer: as JSON if it is, as text otherwise. Who was sent a secret may repeat it.
async fn kept(mut answer: Response, way: &Permitted<'_>) -> Result<Value, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| said(&error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(format!("the answer has more than {BODY_BYTES_MAX} bytes, and is to be kept"));
        }
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&body);
    let text = way.named.map_or_else(|| text.to_string(), |named| named.masked(&text));
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// An error for a person, without the address: it may hold what is not for everybody.
fn said(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    format!("the call failed: {source}")
}

/// Tells the core, until it has heard.
async fn tell(
    engine: &Handle,
    (tenant, run, step, attempt): &Key,
    trace: TraceContext,
    outcome: CallOutcome,
) -> Told {
    let command = TenantCommand::AnswerCall { run: *run, step: step.clone(), attempt: *attempt, outcome };
    let command = Command::Tenant(*tenant, command);
    let submission = Submission { actor: Actor::System, trace, idempotency: None, command };
    loop {
        match engine.submit(submission.clone()).await {
            Ok(_) => return Told::Taken,
            Err(stella_engine::SubmitError::Stopping) => return Told::Refused,
            Err(stella_engine::SubmitError::Rejected(rejection)) => {
                tracing::warn!(%run, %step, %rejection, "the answer to a call was not taken");
                return Told::Refused;
            }
            Err(error) => {
                tracing::warn!(%run, %step, %error, "the answer to a call waits for the journal");
                tokio::time::sleep(TELL_AGAIN).await;
            }
        }
    }
}
