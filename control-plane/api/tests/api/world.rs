//! A control plane without sockets, and what tests ask it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Builder;
use axum::http::{HeaderMap, Request, StatusCode};
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stella_api::{ApiConfig, ApiDeps, Tuning};
use stella_certs::{ApiToken, Authority, EnrolmentToken};
use stella_domain::command::{self, Actor, Command, Outcome, SystemCommand, TenantCommand};
use stella_domain::event::StreamId;
use stella_domain::name::Name;
use stella_engine::{Config, Engine, Handle};
use stella_journal::{JournalConfig, SledJournal};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, ApiTokenId, Incarnation, Position, TenantId};
use stella_protocol::message::{Hello, JournalMark, Resources};
use stella_protocol::trace::TraceContext;
use stella_store::{ArtifactStore, OutputStore, Room};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

/// How long a test waits for what must come. Only a broken test or a broken product waits that long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest artifact in tests, in bytes.
pub(crate) const ARTIFACT_BYTES_MAX: u64 = 64 * 1024;

/// One control plane.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) output: Arc<OutputStore>,
    pub(crate) token: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) deps: ApiDeps,
    router: Router,
    _folder: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body, which must come with this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.json()
    }
}

pub(crate) fn generous() -> ApiConfig {
    ApiConfig {
        artifact_bytes_max: ARTIFACT_BYTES_MAX,
        tenant_artifact_bytes_max: 0,
        tenant_releases_max: 0,
        tenant_release_bytes_max: 0,
        requests_per_minute: 1_000_000,
        burst: 1_000_000,
        tenant_requests_per_minute: 1_000_000,
        proxies: stella_api::Proxies::default(),
        hook_requests_per_minute: 1_000_000,
        agents_dial: stella_api::AgentsDial::Host("stella.test".into()),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(generous()).await
    }

    pub(crate) async fn with(config: ApiConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal_config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        let journal = SledJournal::open(&folder.path().join("journal"), journal_config).unwrap();
        let engine = Engine::start(Arc::new(journal), Config::default()).unwrap();
        let output = OutputStore::open(folder.path().join("output"), Room::new("/", 0)).unwrap();
        let deps = ApiDeps {
            engine: engine.handle(),
            artifacts: Arc::new(
                ArtifactStore::open(folder.path().join("artifacts"), Room::new("/", 0)).unwrap(),
            ),
            output: Arc::clone(&output),
            version: "1.2.3-test",
            authority: Arc::new(
                Authority::open_or_create(&folder.path().join("pki"), SystemTime::now()).unwrap(),
            ),
            hook_key: stella_certs::HookKey::generate().unwrap(),
            agents_port: 7_443,
            log_level: stella_telemetry::LogLevel::detached("info"),
            tuning: Tuning::new(&config),
            look: None,
            outside: Some(outside()),
            sample_ratio: 1.0,
            on_answer: None,
        };
        let shutdown = CancellationToken::new();
        let router = stella_api::router(deps.clone(), shutdown.clone());
        let token = new_token(&engine.handle()).await;
        Self { engine, output, token, shutdown, deps, router, _folder: folder }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.engine.handle()
    }

    /// A request with the token.
    pub(crate) fn request(&self, method: &str, path: &str) -> Builder {
        bare(method, path).header("authorization", format!("Bearer {}", self.token))
    }

    pub(crate) async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.open(request).await;
        let (head, body) = response.into_parts();
        let body = within(axum::body::to_bytes(body, 64 << 20)).await.unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(with_json(self.request("POST", path), body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn put(&self, path: &str, content: &[u8]) -> Answer {
        self.send(self.request("PUT", path).body(Body::from(content.to_vec())).unwrap()).await
    }

    /// How many events a tenant has.
    pub(crate) fn head(&self, tenant: &str) -> u64 {
        let id = self.handle().state().system.tenants[&tenant.parse::<Name>().unwrap()];
        self.handle().head(StreamId::Tenant(id)).0
    }

    /// How many events belong to no tenant.
    pub(crate) fn system_head(&self) -> u64 {
        self.handle().head(StreamId::System).0
    }

    pub(crate) async fn tenant(&self, name: &str) -> TenantId {
        let created = self.post("/api/v1/tenants", &json!({ "name": name })).await.expect(201);
        created["id"].as_str().unwrap().parse().unwrap()
    }

    /// An enrolled agent that never connected.
    pub(crate) async fn agent(&self, tenant: &str, name: &str) -> String {
        let path = format!("/api/v1/tenants/{tenant}/enrolment-tokens");
        let created = self.post(&path, &json!({ "name": name })).await.expect(201);
        let token: EnrolmentToken = created["token"].as_str().unwrap().parse().unwrap();
        let id = self.handle().state().system.tenants[&tenant.parse::<Name>().unwrap()];
        let command = TenantCommand::Enrol {
            token: token.id,
            key_fingerprint: Digest(Sha256::digest(name).into()),
            agent: AgentId(Uuid::now_v7()),
            hostname: name.into(),
            takes_profile: true,
            wanted: None,
        };
        let outcome = submit(&self.handle(), Command::Tenant(id, command)).await;
        let Outcome::Agent(agent) = outcome else { panic!("{outcome:?}") };
        agent.to_string()
    }

    /// A tenant with an environment, an agent, a target, a release and a deployment of it whose task waits for the agent.
    pub(crate) async fn busy_tenant(&self, name: &str) -> Busy {
        self.tenant(name).await;
        let at = format!("/api/v1/tenants/{name}");
        let environment =
            self.post(&format!("{at}/environments"), &json!({"name": "prod"})).await.expect(201);
        let agent = self.agent(name, "host-1").await;
        let target = json!({"name": "web-1", "environment": "prod", "agent": "host-1", "slot": "a"});
        let target = self.post(&format!("{at}/targets"), &target).await.expect(201);
        let content = archive_of(format!("archive of {name}").as_bytes());
        let digest = digest_of(&content);
        self.put(&format!("{at}/artifacts/{digest}"), &content).await.expect(200);
        let component = json!({"name": "web", "digest": digest});
        let release = json!({"application": "web", "version": "1.0.0", "components": [component]});
        let release = self.post(&format!("{at}/releases"), &release).await.expect(201);
        let deployment = json!({"environment": "prod", "release": "web:1.0.0"});
        let deployment = self.post(&format!("{at}/deployments"), &deployment).await.expect(201);
        let id = |it: &Value| it["id"].as_str().unwrap().to_owned();
        Busy {
            at,
            environment: id(&environment),
            agent,
            target: id(&target),
            digest,
            release: id(&release),
            deployment: id(&deployment),
            task: deployment["targets"][0]["task"].as_str().unwrap().to_owned(),
        }
    }
}

/// What a busy tenant has; all are ids but for the path and the digest.
pub(crate) struct Busy {
    pub(crate) at: String,
    pub(crate) environment: String,
    pub(crate) agent: String,
    pub(crate) target: String,
    pub(crate) digest: String,
    pub(crate) release: String,
    pub(crate) deployment: String,
    pub(crate) task: String,
}

/// An agent connects, with nothing open and always the same journal.
pub(crate) fn connect(agent: AgentId, capabilities: u64) -> TenantCommand {
    let hello = Box::new(Hello {
        agent_version: "0.1.0".to_owned(),
        capabilities,
        journal: JournalMark { incarnation: Incarnation(Uuid::from_u128(1)), position: Position(1) },
        control_plane: None,
        open: Vec::new(),
        resources: Resources::default(),
    });
    TenantCommand::ConnectAgent { agent, hello, journal_rolled_back: false }
}

/// A request without a token.
pub(crate) fn bare(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path)
}

pub(crate) fn with_json(request: Builder, body: &Value) -> Request<Body> {
    request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

/// An archive with one file: 1,536 bytes, and the file's in steps of 512.
pub(crate) fn archive_of(content: &[u8]) -> Vec<u8> {
    archive_with("content", content)
}

/// The same with a path as it is, whatever that leads to.
pub(crate) fn archive_with(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, content).unwrap();
    archive.into_inner().unwrap()
}

pub(crate) fn digest_of(content: &[u8]) -> String {
    Digest(Sha256::digest(content).into()).to_string()
}

/// A token of the API that the engine knows.
pub(crate) async fn new_token(engine: &Handle) -> String {
    let token = ApiToken::generate().unwrap();
    let id = ApiTokenId(Uuid::now_v7());
    let command = SystemCommand::CreateApiToken {
        id,
        name: "test".into(),
        hash: token.hash(),
        account: None,
        expires_at: None,
    };
    submit(engine, Command::System(command)).await;
    token.to_string()
}

pub(crate) async fn submit(engine: &Handle, command: Command) -> Outcome {
    let request =
        command::Request { actor: Actor::System, trace: TraceContext::default(), idempotency: None, command };
    engine.submit(request).await.unwrap()
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it never came")
}

/// A body that is read as it comes.
pub(crate) struct Reading {
    body: axum::body::BodyDataStream,
    read: Vec<u8>,
}

impl Reading {
    pub(crate) fn new(response: axum::response::Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self { body: response.into_body().into_data_stream(), read: Vec::new() }
    }

    /// What comes up to the next separator, without it; `None` at the end of the body.
    pub(crate) async fn until(&mut self, separator: &str) -> Option<String> {
        loop {
            let text = std::str::from_utf8(&self.read).unwrap();
            if let Some((found, rest)) = text.split_once(separator) {
                let (found, rest) = (found.to_owned(), rest.as_bytes().to_vec());
                self.read = rest;
                return Some(found);
            }
            self.read.extend_from_slice(&within(self.body.next()).await?.unwrap());
        }
    }
}

/// One Prometheus and no endpoint, and calls to one host.
fn outside() -> stella_api::Reach {
    // One destination, for one tenant.
    let may_call = |(tenant, count): (&str, usize), to: Option<&Name>, url: Option<&str>| match (to, url) {
        (None, None) => Ok(()),
        (None, Some(url)) if url.starts_with("https://hooks.example.com/") => Ok(()),
        (None, Some(url)) => Err(format!("calls to {url} are not allowed there")),
        (Some(to), _) if to.as_str() == "tickets" && count < 2 => Ok(()),
        (Some(to), _) => Err(format!("workflows of tenant {tenant} have no destination {to}")),
    };
    stella_api::Reach::new(stella_api::Outside {
        prometheus: std::collections::BTreeSet::from(["main".to_owned()]),
        http: std::collections::BTreeSet::new(),
        // As one without `tenants` in the configuration.
        may_ask: Arc::new(|_, tenant, count| match count {
            ..=1 => Ok(()),
            _ => Err(format!("gates of tenant {tenant} may not ask it: gates.prometheus.main.tenants")),
        }),
        may_call: Arc::new(may_call),
        may_notify: Arc::new(|tenant, receiver| Err(format!("{tenant} may not tell {receiver}"))),
    })
}
