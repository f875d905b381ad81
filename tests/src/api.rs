//! A client of the HTTP API that a test can be precise with: every answer, and every refusal as a value.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stella_api_types::agent::Agent;
use stella_api_types::deployment::{CreateDeployment, DeploymentDetail};
use stella_api_types::event::Event;
use stella_api_types::problem::{MEDIA_TYPE, Problem};
use stella_api_types::task::Task;
use stella_api_types::{Page, paths};
use utoipa::ToSchema;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How many items a page has.
const PAGE_ITEMS: u32 = 500;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The control plane refused it.
    #[error("refused with {} {}: {}", .0.status, .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// There was no answer.
    #[error("no answer")]
    NoAnswer(#[from] reqwest::Error),
    /// The answer is not what the API promises.
    #[error("status {status} with a body that is not understood ({problem}): {body}")]
    NotUnderstood {
        /// The status.
        status: StatusCode,
        /// What is wrong with it.
        problem: String,
        /// The body's beginning.
        body: String,
    },
}

impl Failure {
    /// The refusal, if it is one.
    ///
    /// # Errors
    /// The failure itself, if it is another one.
    pub fn into_problem(self) -> Result<Problem, Self> {
        match self {
            Self::Refused(problem) => Ok(*problem),
            other @ (Self::NoAnswer(_) | Self::NotUnderstood { .. }) => Err(other),
        }
    }
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The media type.
    pub media_type: String,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    fn failure(&self, problem: impl ToString) -> Failure {
        let body = String::from_utf8_lossy(&self.body).chars().take(500).collect();
        Failure::NotUnderstood { status: self.status, problem: problem.to_string(), body }
    }

    /// The refusal in it.
    ///
    /// # Errors
    /// If it is none in the promised form.
    pub fn problem(&self) -> Result<Problem, Failure> {
        if self.media_type != MEDIA_TYPE {
            return Err(self.failure(format!("media type {:?}", self.media_type)));
        }
        let problem: Problem = serde_json::from_slice(&self.body).map_err(|error| self.failure(error))?;
        if problem.status != self.status.as_u16() {
            return Err(self.failure("the problem names another status"));
        }
        Ok(problem)
    }

    fn into_json<T: DeserializeOwned>(self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(self
                .problem()
                .map_or_else(|failure| failure, |problem| Failure::Refused(Box::new(problem))));
        }
        serde_json::from_slice(&self.body).map_err(|error| self.failure(error))
    }
}

/// The API of one control plane.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Api {
    /// A client that trusts one CA.
    ///
    /// # Errors
    /// If the CA's certificate cannot be read.
    pub fn new(port: u16, ca_pem: &[u8], token: &str) -> anyhow::Result<Self> {
        stella_certs::install_provider();
        let ca = reqwest::Certificate::from_pem_bundle(ca_pem).context("the CA is no PEM certificate")?;
        let http = reqwest::Client::builder()
            .tls_certs_only(ca)
            .https_only(true)
            .connect_timeout(TIMEOUT)
            .build()
            .context("cannot make an HTTPS client")?;
        Ok(Self { http, url: format!("https://localhost:{port}"), token: token.trim().to_owned() })
    }

    /// The same control plane with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// A request to make, with the token.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// The answer to a request, whatever it is.
    ///
    /// # Errors
    /// If there is none.
    pub async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let response = request.timeout(TIMEOUT).send().await?;
        let status = response.status();
        let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        Ok(Answer { status, media_type, body: response.bytes().await? })
    }

    /// Reads one thing.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(self.request(Method::GET, path)).await?.into_json()
    }

    /// Reads all pages of a list.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn list<T>(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<T>, Failure>
    where
        T: DeserializeOwned + ToSchema,
        Page<T>: DeserializeOwned,
    {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = self.request(Method::GET, path).query(query).query(&[("limit", PAGE_ITEMS)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<T> = self.answer(request).await?.into_json()?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    /// Changes something. With a key it may be repeated.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        let mut request = self.request(Method::POST, path).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.answer(request).await?.into_json()
    }

    /// Stores an archive; its digest.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn upload(&self, tenant: &str, archive: &[u8]) -> Result<String, Failure> {
        let digest = crate::recipe::digest(archive);
        let path = paths::fill(paths::ARTIFACT, &[tenant, &digest]);
        let request = self.request(Method::PUT, &path).header("Content-Type", "application/octet-stream");
        let answer = self.answer(request.body(archive.to_vec())).await?;
        if answer.status.is_success() {
            return Ok(digest);
        }
        answer.into_json::<serde_json::Value>().map(|_| digest)
    }

    // === what the stories ask for ===

    /// Starts a deployment.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn deploy(
        &self,
        tenant: &str,
        body: &CreateDeployment,
        key: Option<&str>,
    ) -> Result<DeploymentDetail, Failure> {
        self.post(&paths::fill(paths::DEPLOYMENTS, &[tenant]), body, key).await
    }

    /// A deployment with its targets.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn deployment(&self, tenant: &str, id: &str) -> Result<DeploymentDetail, Failure> {
        self.get(&paths::fill(paths::DEPLOYMENT, &[tenant, id])).await
    }

    /// The tasks of a deployment.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn tasks(&self, tenant: &str, deployment: &str) -> Result<Vec<Task>, Failure> {
        self.list(&paths::fill(paths::DEPLOYMENT_TASKS, &[tenant, deployment]), &[]).await
    }

    /// An agent.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn agent(&self, tenant: &str, agent: &str) -> Result<Agent, Failure> {
        self.get(&paths::fill(paths::AGENT, &[tenant, agent])).await
    }

    /// Everything that has happened in a tenant.
    ///
    /// # Errors
    /// If there is no good answer.
    pub async fn events(&self, tenant: &str) -> Result<Vec<Event>, Failure> {
        self.list(&paths::fill(paths::EVENTS, &[tenant]), &[]).await
    }
}

/// What people and their programs have caused: times that run out, and hosts that are busy, go on meanwhile.
#[must_use]
pub fn by_people(mut events: Vec<Event>) -> Vec<Event> {
    events.retain(|event| event.actor.kind == "api_token");
    events
}
