//! What every question has: somebody to ask, a time-out, and a bound for the answer.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Url};
use stella_domain::gate::{Check, Outcome};
use stella_domain::name::{Identifier, Name};
use stella_domain::run::{StepState, Work};
use stella_domain::spans;
use stella_domain::state::State;
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{EnvironmentId, PromotionId, ReleaseId, RunId};
use stella_protocol::trace::TraceContext;

use crate::{Asker, Question};

/// How long an answer may take. The core gives up after [`stella_domain::gate::ANSWER_MS_MAX`], and the question may have waited for its turn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Somebody to ask.
#[derive(Clone)]
pub struct Source {
    url: Url,
    headers: HeaderMap,
    client: Client,
    tenants: Tenants,
}

/// Whose gates may ask somebody: what is answered is seen in the promotions of whoever asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tenants {
    /// Nobody has said it: everybody's, as long as there is one tenant.
    #[default]
    Unsaid,
    /// Everybody's.
    All,
    /// Those of these tenants.
    Only(BTreeSet<String>),
}

impl Tenants {
    /// Whether one of so many tenants may ask.
    #[must_use]
    pub fn include(&self, tenant: &str, count: usize) -> bool {
        match self {
            Self::Unsaid => count <= 1,
            Self::All => true,
            Self::Only(names) => names.contains(tenant),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers are secrets.
        f.debug_struct("Source").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Source {
    /// Somebody at `url`, trusted under `roots` (the system's if `None`), who gets these headers with each question. It is not
    /// followed where it redirects to: the headers are for nobody else.
    ///
    /// # Errors
    /// If no client can be made of that.
    pub fn new(
        url: Url,
        roots: Option<Vec<reqwest::Certificate>>,
        headers: HeaderMap,
        tenants: Tenants,
    ) -> Result<Self, reqwest::Error> {
        let mut builder = Client::builder().timeout(ANSWER_TIMEOUT).redirect(Policy::none());
        // Without TLS no authorities are needed, and a host may have none.
        if let Some(roots) = roots.or_else(|| (url.scheme() == "http").then(Vec::new)) {
            builder = builder.tls_certs_only(roots);
        }
        Ok(Self { url, headers, client: builder.build()?, tenants })
    }

    /// That a question may be asked here.
    ///
    /// # Errors
    /// [`Error::OthersOnly`].
    pub(crate) fn may_be_asked(&self, about: &About, key: impl FnOnce() -> String) -> Result<&Self, Error> {
        if self.tenants.include(&about.tenant, about.tenants) {
            return Ok(self);
        }
        Err(Error::OthersOnly { tenant: about.tenant.clone(), key: key() })
    }

    /// The address below the configured one.
    pub(crate) fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }

    pub(crate) const fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url).headers(self.headers.clone())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane does not know whom to ask.
    #[error("{key} is not configured on the control plane")]
    NotConfigured {
        /// The missing key.
        key: String,
    },
    /// It is not there for gates of this tenant.
    #[error(
        "gates of tenant {tenant} may not ask it: whoever runs the control plane can name the tenant in {key}.tenants"
    )]
    OthersOnly {
        /// Whose gate asks.
        tenant: String,
        /// The source's table in the configuration.
        key: String,
    },
    /// It cannot be reached, or does not answer in time.
    #[error("{} cannot be asked: {problem}", host(url))]
    Unreachable {
        /// Where.
        url: Url,
        /// What went wrong.
        problem: String,
    },
    /// It answers with an error.
    #[error("{} answered {status}", host(url))]
    Status {
        /// Where.
        url: Url,
        /// What it answered.
        status: reqwest::StatusCode,
    },
    /// Its answer cannot be used.
    #[error("the answer of {} cannot be used: {problem}", host(url))]
    Answer {
        /// Where.
        url: Url,
        /// What is wrong with it.
        problem: String,
    },
}

/// What may be known of an address by everybody who sees a promotion: a path or a query may hold a secret.
fn host(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    pub(crate) inputs: Option<Digest>,
}

/// What a question is about.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) check: Check,
    pub(crate) policy: Digest,
    pub(crate) subject: Subject,
    pub(crate) tenant: String,
    /// How many tenants there are.
    pub(crate) tenants: usize,
    pub(crate) environment: String,
    pub(crate) release: Release,
    pub(crate) trace: TraceContext,
}

/// For whom a gate is asked, as it is told to whoever is asked.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Subject {
    Promotion { promotion: String, plan: String, gate: String },
    Step { run: String, workflow: String, step: String, gate: String },
}

/// The release that wants to come.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Release {
    id: String,
    application: String,
    version: String,
    labels: std::collections::BTreeMap<String, String>,
}

impl About {
    /// What a question is about; `None` if it is not open any more.
    pub(crate) fn find(state: &State, question: &Question) -> Option<Self> {
        let tenant = state.tenants.get(&question.tenant)?;
        let found = match &question.of {
            Asker::Promotion(id, gate) => Found::promotion(tenant, (*id, gate), question.number)?,
            Asker::Step(run, step) => Found::step(tenant, (*run, step), question.number)?,
        };
        let environment = tenant.environments.get(&found.environment)?;
        let release = tenant.recipe(found.release)?;
        Some(Self {
            check: found.check,
            policy: found.policy,
            subject: found.subject,
            tenant: tenant.name.to_string(),
            tenants: state.tenants.len(),
            environment: environment.name.to_string(),
            release: Release {
                id: release.id.to_string(),
                application: release.application.to_string(),
                version: release.version.to_string(),
                labels: release.labels.clone(),
            },
            trace: found.trace,
        })
    }
}

/// What a question is about, as the state has it.
struct Found {
    check: Check,
    policy: Digest,
    environment: EnvironmentId,
    release: ReleaseId,
    subject: Subject,
    trace: TraceContext,
}

impl Found {
    fn promotion(tenant: &TenantState, (id, gate): (PromotionId, &Name), number: u32) -> Option<Self> {
        let asked = tenant.gates.get(&id)?.get(gate)?.asked?;
        let promotion = tenant.promotions.get(&id)?;
        let environment = promotion.wanted.environment;
        let standing = tenant.environments.get(&environment)?.gates.get(gate)?;
        let span = spans::gate(id, gate.as_str(), number);
        let subject = Subject::Promotion {
            promotion: id.to_string(),
            plan: promotion.plan.root.to_string(),
            gate: gate.to_string(),
        };
        (asked.number == number && asked.policy == standing.policy).then(|| Self {
            check: standing.gate.check.clone(),
            policy: standing.policy,
            environment,
            release: promotion.wanted.release,
            subject,
            trace: promotion.trace.with_span(span),
        })
    }

    fn step(tenant: &TenantState, (id, step): (RunId, &Identifier), number: u32) -> Option<Self> {
        let run = tenant.runs.get(&id)?;
        let found = run.steps.get(step).filter(|found| found.attempts == number)?;
        let asked = found.state.question()?;
        let StepState::Running { work: Work::Gate { environment, release, .. }, .. } = &found.state else {
            return None;
        };
        let subject = Subject::Step {
            run: id.to_string(),
            workflow: run.workflow.to_string(),
            step: step.to_string(),
            // One that a template has has no name but its step's.
            gate: asked.name.as_ref().map_or_else(|| step.to_string(), ToString::to_string),
        };
        Some(Self {
            check: asked.check.clone(),
            policy: asked.policy,
            environment: *environment,
            release: *release,
            subject,
            trace: run.trace.with_span(spans::step_gate(id, step, number)),
        })
    }
}

/// Sends a question and reads its answer, as far as it may be long.
pub(crate) async fn send(url: &Url, request: RequestBuilder) -> Result<Vec<u8>, Error> {
    let unreachable = |error: &reqwest::Error| {
        // The text of the error has the whole address; what is beneath it does not.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let problem = if error.is_timeout() { "it took too long".to_owned() } else { cause.to_string() };
        Error::Unreachable { url: url.clone(), problem }
    };
    let mut response = request.send().await.map_err(|error| unreachable(&error))?;
    if !response.status().is_success() {
        return Err(Error::Status { url: url.clone(), status: response.status() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            let problem = format!("it has more than {ANSWER_BYTES_MAX} bytes");
            return Err(Error::Answer { url: url.clone(), problem });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_answers_those_whom_it_is_for() {
        let only = Tenants::Only(BTreeSet::from(["acme".to_owned()]));
        for (tenants, tenant, count, may) in [
            (&Tenants::Unsaid, "acme", 1, true),
            (&Tenants::Unsaid, "acme", 2, false),
            (&Tenants::All, "acme", 2, true),
            (&only, "acme", 2, true),
            (&only, "globex", 2, false),
            (&only, "globex", 1, false),
        ] {
            assert_eq!(tenants.include(tenant, count), may, "{tenants:?} {tenant} of {count}");
        }
    }
}
