//! From a handler to the engine, with the idempotency key of the request.

use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use imbl::OrdMap;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use stella_domain::access::{Role, Scope};
use stella_domain::command::{Actor, Command, Idempotency, Outcome, Request, TenantCommand};
use stella_domain::rejection::Rejection;
use stella_domain::state::SystemState;
use stella_domain::tenant::{AnsweredRequest, TenantState};
use stella_engine::SubmitError;
use stella_protocol::digest::Digest;
use stella_protocol::id::TenantId;

use crate::error::{ApiError, ErrorCode};
use crate::request::Caller;
use crate::{App, archive};

/// The longest idempotency key, in characters.
pub(crate) const KEY_CHARACTERS_MAX: usize = 128;

/// Everything about a changing request but its body: who, where, and the key that makes it safe to repeat.
#[derive(Debug)]
pub(crate) struct Change {
    caller: Caller,
    method: String,
    path: String,
    key: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Change {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller =
            caller.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated, "a bearer token is needed"))?;
        let key = match parts.headers.get("idempotency-key") {
            None => None,
            Some(value) => Some(parse_key(value.to_str().unwrap_or_default())?),
        };
        let path = OriginalUri::from_request_parts(parts, state)
            .await
            .map_or_else(|_| parts.uri.path().to_owned(), |uri| uri.path().to_owned());
        Ok(Self { caller, method: parts.method.to_string(), path, key })
    }
}

fn parse_key(text: &str) -> Result<String, ApiError> {
    let visible = text.chars().all(|c| c.is_ascii_graphic());
    if text.is_empty() || text.len() > KEY_CHARACTERS_MAX || !visible {
        let problem = format!("must have 1 to {KEY_CHARACTERS_MAX} visible ASCII characters");
        return Err(ApiError::invalid("Idempotency-Key", problem));
    }
    Ok(text.to_owned())
}

impl Change {
    /// Whether this very request was carried out before, so that what it names may be gone since.
    pub(crate) fn was_carried_out(
        &self,
        tenant: &TenantState,
        body: &impl Serialize,
    ) -> Result<bool, ApiError> {
        self.is_among(&tenant.requests, body)
    }

    /// The same for what belongs to no tenant.
    pub(crate) fn was_carried_out_in_system(
        &self,
        system: &SystemState,
        body: &impl Serialize,
    ) -> Result<bool, ApiError> {
        self.is_among(&system.requests, body)
    }

    fn is_among(
        &self,
        requests: &OrdMap<String, AnsweredRequest>,
        body: &impl Serialize,
    ) -> Result<bool, ApiError> {
        let Some(key) = self.scoped_key() else { return Ok(false) };
        let digest = self.digest(body)?;
        Ok(requests.get(&key).is_some_and(|answered| answered.digest == digest))
    }

    /// That the caller has a role, before anything costly is done for them. Whether a command may be carried out, the core decides.
    pub(crate) fn require(&self, app: &App, role: Role, scope: Scope) -> Result<(), ApiError> {
        let state = app.engine.state();
        Ok(self.caller.rights(&state, app.engine.now())?.require(role, scope)?)
    }

    /// The key as the core knows it: keys of one caller mean nothing to another.
    fn scoped_key(&self) -> Option<String> {
        self.key.as_ref().map(|key| format!("{}:{key}", self.caller.token))
    }

    /// Has a tenant's command carried out. The body is part of what an idempotency key stands for.
    pub(crate) async fn tenant(
        self,
        app: &App,
        tenant: TenantId,
        body: &(impl Serialize + Sync),
        command: TenantCommand,
    ) -> Result<Outcome, ApiError> {
        self.submit(app, body, Command::Tenant(tenant, command)).await
    }

    /// Who asks.
    pub(crate) fn actor(&self) -> Actor {
        self.caller.actor()
    }

    /// Has a command carried out.
    pub(crate) async fn submit(
        self,
        app: &App,
        body: &(impl Serialize + Sync),
        command: Command,
    ) -> Result<Outcome, ApiError> {
        let idempotency = match self.scoped_key() {
            None => None,
            Some(key) => Some(Idempotency { key, digest: self.digest(body)? }),
        };
        let tenant = if let Command::Tenant(tenant, _) = &command { Some(*tenant) } else { None };
        let request = Request { actor: self.actor(), trace: self.caller.trace.clone(), idempotency, command };
        match app.engine.submit(request).await {
            Err(SubmitError::Rejected(Rejection::NotFound { kind, id })) => {
                let found = tenant.and_then(|tenant| app.engine.state().tenants.get(&tenant).map(Arc::clone));
                let archived = match found {
                    Some(tenant) => archive::only_readable(app, &tenant, kind, &id).await?,
                    None => None,
                };
                Err(archived.unwrap_or_else(|| Rejection::NotFound { kind, id }.into()))
            }
            answer => Ok(answer?),
        }
    }

    fn digest(&self, body: &impl Serialize) -> Result<Digest, ApiError> {
        let mut hasher = Sha256::new();
        for part in [self.method.as_bytes(), self.path.as_bytes()] {
            hasher.update(part);
            hasher.update([0]);
        }
        hasher.update(serde_json::to_vec(body).map_err(|error| ApiError::internal(&error))?);
        Ok(Digest(hasher.finalize().into()))
    }
}

/// A command's outcome that cannot be: the core answered something else than it was asked.
pub(crate) fn unexpected(outcome: &Outcome) -> ApiError {
    tracing::error!(?outcome, "an unexpected outcome; this is a defect");
    ApiError::new(ErrorCode::Internal, "the answer of the core was not understood; please report it")
}
