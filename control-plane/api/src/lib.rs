//! The HTTP API: who asks, how much, what, and the answer.
//!
//! Nothing is decided here. A request becomes a command for the engine, and an answer is read from the durable state
//! afterwards. Every error is an `application/problem+json` body made in [`error`]; every path is a constant in
//! `stella_api_types::paths`; the OpenAPI document is generated from the handlers' annotations.

mod archive;
mod archives;
mod body;
mod document;
pub mod error;
mod followers;
mod health;
mod limits;
mod outside;
mod parse;
mod proxies;
mod request;
mod resolve;
mod roles;
mod routes;
mod scan;
mod serve;
mod submit;
mod turns;
mod uploads;
mod view;
mod way_back;

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use stella_certs::{Authority, HookKey};
use stella_engine::Handle;
use stella_protocol::id::{AgentId, HookId, TenantId};
use stella_protocol::message::{Holding, Inspect};
use stella_protocol::trace::TraceContext;
use stella_store::{ArtifactStore, OutputStore};
use stella_telemetry::LogLevel;
use tokio_util::sync::CancellationToken;

use archives::Archives;
use followers::Followers;
pub use limits::Tuning;
pub use outside::{MayAsk, MayCall, MayNotify, Outside, Reach};
pub use proxies::{AddressHeader, NoNetwork, Proxies};
pub use routes::{openapi, router};
pub use serve::{Error, MetricsTls, Render, serve, serve_metrics};
use turns::Turns;
use uploads::Uploads;

/// How many reports of scanners come in at once: each is held in memory.
const REPORTS_MAX: usize = 8;
/// How many of them one tenant may have.
const REPORTS_OF_TENANT_MAX: usize = 4;

/// How many messages to hooks come in at once: each is held in memory, and nobody knows yet who sends it.
const MESSAGES_MAX: usize = 64;
/// How many of them one hook may have.
const MESSAGES_OF_HOOK_MAX: usize = 8;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The largest artifact, in bytes.
    pub artifact_bytes_max: u64,
    /// How much the archives of one tenant may be in all, in bytes; 0 is as much as there is room for.
    pub tenant_artifact_bytes_max: u64,
    /// How many releases one tenant may have; 0 is any number.
    pub tenant_releases_max: u64,
    /// How large what they say may be, with what scanners say of them, in bytes; 0 is any size.
    pub tenant_release_bytes_max: u64,
    /// Requests a minute for one token, and for one address that is not authenticated.
    pub requests_per_minute: u32,
    /// How many of them may come at once.
    pub burst: u32,
    /// Requests a minute for one tenant, over all tokens.
    pub tenant_requests_per_minute: u32,
    /// Proxies that are believed whom they ask for.
    pub proxies: Proxies,
    /// Messages a minute for one incoming webhook.
    pub hook_requests_per_minute: u32,
    /// What agents are told to dial.
    pub agents_dial: AgentsDial,
}

/// What agents are told to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentsDial {
    /// This address, `host:port`.
    Address(String),
    /// This name or address, and the port at which they are listened for.
    Host(String),
}

/// What the API works with.
#[derive(Clone, Debug)]
pub struct ApiDeps {
    /// Decides and remembers.
    pub engine: Handle,
    /// Where uploaded archives go.
    pub artifacts: Arc<ArtifactStore>,
    /// Where the output of tasks is read.
    pub output: Arc<OutputStore>,
    /// The software's version.
    pub version: &'static str,
    /// The certificate authority: what enrolment tokens pin, and what clients have to trust.
    pub authority: Arc<Authority>,
    /// What the secrets of incoming webhooks are made from.
    pub hook_key: HookKey,
    /// The port at which agents are listened for.
    pub agents_port: u16,
    /// How much is logged.
    pub log_level: LogLevel,
    /// What can change while it runs.
    pub tuning: Arc<Tuning>,
    /// The share of traces that is sampled, 0 to 1. What is not part of it is passed on as not sampled.
    pub sample_ratio: f64,
    /// Told of each request when it is answered.
    pub on_answer: Option<OnAnswer>,
    /// Asks agents what their hosts hold; without it nobody is asked.
    pub look: Option<LookAtHosts>,
    /// What can be asked and called outside; without it nothing is said about that.
    pub outside: Option<Reach>,
}

/// Somebody who can ask an agent what its host holds. `None` if it does not answer within the question's time.
#[derive(Clone)]
pub struct LookAtHosts(pub Arc<Look>);

/// See [`LookAtHosts`].
pub type Look = dyn Fn(AgentId, Inspect) -> BoxFuture<'static, Option<Vec<Holding>>> + Send + Sync;

impl std::fmt::Debug for LookAtHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookAtHosts")
    }
}

/// Somebody who wants to know of each request; must not block.
#[derive(Clone)]
pub struct OnAnswer(pub Arc<dyn Fn(&AnsweredRequest) + Send + Sync>);

impl std::fmt::Debug for OnAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnAnswer")
    }
}

/// A request that was answered: its head was, a stream may go on.
#[derive(Clone, Debug)]
pub struct AnsweredRequest {
    /// Its trace and span.
    pub trace: TraceContext,
    /// Whether the caller sent both, so that the span is the caller's own.
    pub is_callers: bool,
    /// The method.
    pub method: &'static str,
    /// The template of its path.
    pub route: String,
    /// Its path, without a query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The tenant that the path leads to.
    pub tenant: Option<TenantId>,
    /// What the caller calls itself.
    pub user_agent: Option<String>,
    /// When it came.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// What every handler has.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Handle,
    pub(crate) artifacts: Arc<ArtifactStore>,
    pub(crate) output: Arc<OutputStore>,
    pub(crate) version: &'static str,
    pub(crate) authority: Arc<Authority>,
    pub(crate) hook_key: HookKey,
    pub(crate) agents_port: u16,
    pub(crate) log_level: LogLevel,
    pub(crate) sample_ratio: f64,
    pub(crate) on_answer: Option<OnAnswer>,
    pub(crate) look: Option<LookAtHosts>,
    pub(crate) outside: Option<Reach>,
    pub(crate) tuning: Arc<Tuning>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) archives: Archives,
    /// For reports of scanners that come in, each some megabytes of memory.
    pub(crate) reports: Turns<TenantId>,
    /// For reading them, which takes some hundred more.
    pub(crate) report_reads: Turns<TenantId>,
    /// For messages to hooks, which come from anybody.
    pub(crate) messages: Turns<HookId>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) started: Instant,
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub(crate) fn new(deps: ApiDeps, shutdown: CancellationToken) -> Self {
        let ApiDeps {
            engine,
            artifacts,
            output,
            version,
            authority,
            hook_key,
            agents_port,
            log_level,
            tuning,
            sample_ratio,
            on_answer,
            look,
            outside,
        } = deps;
        let started = Instant::now();
        Self(Arc::new(Inner {
            engine,
            artifacts,
            output,
            version,
            authority,
            hook_key,
            agents_port,
            log_level,
            sample_ratio,
            on_answer,
            look,
            outside,
            tuning,
            followers: Arc::default(),
            archives: Archives::default(),
            reports: Turns::new(REPORTS_MAX, REPORTS_OF_TENANT_MAX),
            report_reads: Turns::new(1, 1),
            messages: Turns::new(MESSAGES_MAX, MESSAGES_OF_HOOK_MAX),
            uploads: Arc::default(),
            shutdown,
            started,
        }))
    }

    /// What agents are told to dial now, `host:port`.
    pub(crate) fn agent_address(&self) -> String {
        match self.tuning.agents_dial().as_ref() {
            AgentsDial::Address(address) => address.clone(),
            AgentsDial::Host(host) if host.contains(':') => format!("[{host}]:{}", self.agents_port),
            AgentsDial::Host(host) => format!("{host}:{}", self.agents_port),
        }
    }
}
