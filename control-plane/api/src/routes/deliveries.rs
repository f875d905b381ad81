//! What comes in by hooks: whose it is, whether it was signed by who has the secret, how much of it there may be, and what it starts.
//!
//! A stranger learns nothing: an unknown hook and a wrong signature have one answer. But the body is read only for a hook that is there,
//! and of a message that has a signature: its address cannot be guessed, and whoever has none shall not take memory or places.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, FromRequest as _, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stella_api_types::hook::HookTaken;
use stella_api_types::paths;
use stella_domain::command::{
    ActingAccount, Actor, Command, Idempotency, NewDeployment, NewRun, Outcome, Request, TenantCommand,
};
use stella_domain::deployment::{OnFailure, Strategy, TIMEOUT_MS_DEFAULT};
use stella_domain::hook::{Delivery, Hook, Wanted};
use stella_domain::rejection::Rejection;
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{DeploymentId, HookId, RunId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use tracing::{Span, field};
use uuid::Uuid;

use crate::body::{JSON_BYTES_MAX, Json, Path};
use crate::error::{ApiError, ErrorCode};
use crate::serve::LetIn;
use crate::submit::unexpected;
use crate::{App, resolve};

/// How far a signed time may be from ours, in milliseconds: clocks differ, and messages are tried again.
const TIMESTAMP_SKEW_MS_MAX: u64 = 300_000;
/// How long a message may take to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// How long it may wait for those before it.
const TURN_MAX: Duration = Duration::from_secs(5);
/// When to come back if that was too long.
const COME_BACK_S: u64 = 10;
/// The longest name of a delivery or an event, in characters.
const NAME_CHARACTERS_MAX: usize = 128;
/// Where senders name the delivery: GitHub, Gitea, Forgejo, and whoever writes a script.
const DELIVERY_HEADERS: [&str; 4] =
    ["x-github-delivery", "x-forgejo-delivery", "x-gitea-delivery", "idempotency-key"];
/// Where senders who sign a time name the delivery, and may sign the name too. A relay may add headers of its own.
const SIGNED_NAME_HEADER: &str = "idempotency-key";
/// What the keys of names that are signed begin with.
const SIGNED_NAMES: &str = "signed/";
/// Where senders name the kind of event.
const EVENT_HEADERS: [&str; 3] = ["x-github-event", "x-forgejo-event", "x-gitea-event"];

/// Takes a message: one that is signed with the hook's secret, `X-Hub-Signature-256` over the body as GitHub, Gitea and Forgejo sign it, or
/// `Stella-Signature` over `Stella-Timestamp`, a dot, `Idempotency-Key` and a dot if there is one, and the body. The same delivery is
/// taken once.
#[utoipa::path(post, path = paths::HOOK_DELIVERY, tag = "hooks", params(("hook" = String, Path)), security(()),
    request_body = Value,
    responses((status = 200, description = "It starts nothing, or had come before", body = HookTaken),
        (status = 201, body = HookTaken), (status = 202, description = "It waits for approvals", body = HookTaken)))]
pub(crate) async fn deliver(
    State(app): State<App>,
    Path(hook): Path<String>,
    Extension(trace): Extension<TraceContext>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<HookTaken>), ApiError> {
    let headers = request.headers().clone();
    let connection = request.extensions().get::<LetIn>().cloned();
    let signed = Signed::of(&headers, app.engine.now())?;
    let id = hook.parse::<HookId>().ok().filter(|id| find(&app.engine.state(), *id).is_some());
    let id = id.ok_or_else(no_such_hook)?;
    let Some(_place) = app.messages.take(id, TURN_MAX).await else {
        let detail = "too many messages are coming in; send it again later";
        return Err(ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail));
    };
    let body = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, &app)).await;
    let body = body.map_err(|_| stalled())?.map_err(too_large)?;
    // As it is by now: its secret may have been replaced while the message came.
    let (state, now) = (app.engine.state(), app.engine.now());
    let (tenant, hook) = find(&state, id).ok_or_else(no_such_hook)?;
    let covered = covered(&app, hook, &signed, &body, now).ok_or_else(no_such_hook)?;
    // Whoever has the secret is no stranger: a message that starts something is not cut off.
    if let Some(connection) = connection {
        connection.now();
    }
    Span::current().record("tenantId", field::display(tenant.id));
    let limits = app.tuning.limits();
    limits.hook(hook.id).and_then(|()| limits.tenant(tenant.id))?;
    let delivery = read(&headers, &body)?;
    let key = format!("hook/{}/{}", hook.id, signed.once(covered, &delivery, &body)?);
    let digest = Sha256::new().chain_update(&delivery.event).chain_update([0]).chain_update(&body).finalize();
    let idempotency = Some(Idempotency { key, digest: Digest(digest.into()) });
    let (known, event, message) = (Arc::clone(hook), delivery.event.clone(), delivery.id.clone());
    // Expressions are compiled, which takes more than a moment.
    let wanted = tokio::task::spawn_blocking(move || known.wants(&delivery));
    let wanted = wanted.await.map_err(|error| ApiError::internal(&error))??;
    let Some(wanted) = wanted else {
        tracing::info!(hook = %hook.name, event, delivery = message, "a hook ignores a message");
        return Ok((StatusCode::OK, Json(taken("ignored"))));
    };
    let (command, own) = command(tenant, wanted)?;
    let actor = acting(&state, hook)?;
    let command = Command::Tenant(tenant.id, command);
    let outcome = app.engine.submit(Request { actor, trace, idempotency, command }).await?;
    let (status, answer) = answered(&outcome, own)?;
    tracing::info!(
        hook = %hook.name, event, delivery = message, status = answer.status, repeated = answer.repeated,
        "a hook has taken a message"
    );
    Ok((status, Json(answer)))
}

/// A hook, and whose it is.
fn find(state: &stella_domain::state::State, id: HookId) -> Option<(&Arc<TenantState>, &Arc<Hook>)> {
    state.tenants.values().find_map(|tenant| Some((tenant, tenant.hooks.get(&id)?)))
}

fn too_large(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(
            ErrorCode::TooLarge,
            format!("a message may have at most {JSON_BYTES_MAX} bytes"),
        );
    }
    ApiError::new(ErrorCode::MalformedRequest, rejection.body_text())
}

fn stalled() -> ApiError {
    let detail = format!("the message did not come within {} s", BODY_TIME_MAX.as_secs());
    ApiError::new(ErrorCode::Timeout, detail)
}

fn no_such_hook() -> ApiError {
    stranger("there is no such hook, or its secret is another one")
}

fn stranger(why: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, why)
}

/// How a message is signed.
enum Signed {
    /// Over the body alone.
    Body { signature: Vec<u8> },
    /// Over the time, the delivery's name if its sender signs that too, and the body, with dots between them.
    Timed { signature: Vec<u8>, timestamp: String, name: String },
}

/// What a good signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covered {
    /// The delivery's name as well as the message.
    Name,
    /// Only the message.
    Message,
}

impl Signed {
    fn of(headers: &HeaderMap, now: Timestamp) -> Result<Self, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let decoded = |text: &str, prefix: &str| {
            let signature = text.strip_prefix(prefix).and_then(|digits| hex::decode(digits).ok());
            signature
                .ok_or_else(|| stranger(&format!("the signature is not {prefix} and 64 hexadecimal digits")))
        };
        if let Some(signature) = text("stella-signature") {
            let signature = decoded(signature, "v1=")?;
            let timestamp = text("stella-timestamp").unwrap_or_default().to_owned();
            let seconds = timestamp.parse::<u64>();
            let at = seconds.map_err(|_| {
                stranger("the header Stella-Timestamp must be the time in seconds since 1970")
            })?;
            if at.saturating_mul(1_000).abs_diff(now.0) > TIMESTAMP_SKEW_MS_MAX {
                return Err(stranger("the signed time is more than 5 minutes from now; is the clock right?"));
            }
            // One that cannot be a name is refused when the message is read.
            let name = named(headers, &[SIGNED_NAME_HEADER]).unwrap_or_default();
            return Ok(Self::Timed { signature, timestamp, name });
        }
        match text("x-hub-signature-256") {
            Some(signature) => Ok(Self::Body { signature: decoded(signature, "sha256=")? }),
            None => Err(stranger(
                "sign the body with the hook's secret: X-Hub-Signature-256, or Stella-Signature",
            )),
        }
    }

    /// What is the same if it comes again, and at no other message. A name that is not signed could be another one when somebody sends
    /// again what they have recorded: a message with a signed time is then known by its signature. Names that are signed have a space of
    /// their own, so that no recorded message can take one of them.
    ///
    /// A message that is signed without a time is known by its name, which anybody can change who has recorded it. Its body alone would not
    /// do: honest senders send the same one twice, as GitHub does for a workflow that is dispatched twice with the same inputs.
    fn once(&self, covered: Covered, delivery: &Delivery, body: &[u8]) -> Result<String, ApiError> {
        match (self, covered) {
            (Self::Timed { name, .. }, Covered::Name) => Ok(format!("{SIGNED_NAMES}{name}")),
            (Self::Timed { signature, .. }, Covered::Message) => Ok(hex::encode(signature)),
            (Self::Body { .. }, _) if delivery.id.is_empty() => Ok(hex::encode(Sha256::digest(body))),
            (Self::Body { .. }, _) if delivery.id.starts_with(SIGNED_NAMES) => {
                let problem = format!("must not begin with {SIGNED_NAMES}");
                Err(ApiError::invalid("x-github-delivery", problem))
            }
            (Self::Body { .. }, _) => Ok(delivery.id.clone()),
        }
    }

    /// What it covers, if it was made with this secret. A body is an object or an array, so no text can be read as both: as time, name and
    /// body, and as time and body.
    fn is_by(&self, secret: &stella_certs::hook::HookSecret, body: &[u8]) -> Option<Covered> {
        match self {
            Self::Body { signature } => secret.verifies(&[body], signature).then_some(Covered::Message),
            Self::Timed { signature, timestamp, name } => {
                let time = timestamp.as_bytes();
                let message = secret.verifies(&[time, b".", body], signature);
                let with_name = secret.verifies(&[time, b".", name.as_bytes(), b".", body], signature);
                let with_name = (with_name && !name.is_empty()).then_some(Covered::Name);
                with_name.or_else(|| message.then_some(Covered::Message))
            }
        }
    }
}

/// What was signed with one of the hook's secrets; `None` if nothing was.
fn covered(app: &App, hook: &Hook, signed: &Signed, body: &[u8], now: Timestamp) -> Option<Covered> {
    hook.salts(now).find_map(|salt| signed.is_by(&app.hook_key.secret(hook.id, &salt), body))
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Delivery, ApiError> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let is_json = media_type.split(';').next().is_some_and(|it| {
        let it = it.trim().to_ascii_lowercase();
        it == "application/json" || it.ends_with("+json")
    });
    if !is_json {
        let detail = "messages have to be application/json; choose that as the content type of the webhook";
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail));
    }
    let body = serde_json::from_slice::<Value>(body);
    let body = body.map_err(|error| ApiError::new(ErrorCode::MalformedRequest, error.to_string()))?;
    if !(body.is_object() || body.is_array()) {
        return Err(ApiError::new(ErrorCode::MalformedRequest, "a message has to be a JSON object or array"));
    }
    Ok(Delivery { event: named(headers, &EVENT_HEADERS)?, id: named(headers, &DELIVERY_HEADERS)?, body })
}

/// The first of these headers that is there.
fn named(headers: &HeaderMap, names: &[&str]) -> Result<String, ApiError> {
    let Some((name, value)) = names.iter().find_map(|name| Some((name, headers.get(*name)?))) else {
        return Ok(String::new());
    };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > NAME_CHARACTERS_MAX || !text.chars().all(|c| c.is_ascii_graphic()) {
        let problem = format!("must have 1 to {NAME_CHARACTERS_MAX} visible ASCII characters");
        return Err(ApiError::invalid(*name, problem));
    }
    Ok(text.to_owned())
}

/// Who it is: the hook, with the authority of its account as that is now.
fn acting(state: &stella_domain::state::State, hook: &Hook) -> Result<Actor, ApiError> {
    let account = state.system.accounts.get(&hook.account);
    let account = account
        .ok_or_else(|| Rejection::Forbidden { problem: "the hook's account was removed".to_owned() })?;
    let account = ActingAccount { id: account.id, name: account.name.clone() };
    Ok(Actor::Hook { id: hook.id, name: hook.name.clone(), account })
}

/// The command that starts it, and the id of what is new.
fn command(tenant: &TenantState, wanted: Wanted) -> Result<(TenantCommand, Uuid), ApiError> {
    let id = Uuid::now_v7();
    let command = match wanted {
        Wanted::Run { workflow, inputs } => {
            TenantCommand::StartRun(Box::new(NewRun { id: RunId(id), workflow, version: None, inputs }))
        }
        Wanted::Deploy { environment, release } => {
            let place = resolve::environment(tenant, &environment.to_string())?;
            let release = resolve::release(tenant, &release)?.id;
            TenantCommand::Deploy(Box::new(NewDeployment {
                id: DeploymentId(id),
                environment,
                release,
                strategy: place.strategy.clone().unwrap_or(Strategy::usual()),
                on_failure: OnFailure::default(),
                tolerate_failures: None,
                targets: None,
                timeout_ms: TIMEOUT_MS_DEFAULT,
                override_freeze: None,
                override_path: None,
                waive_way_back: None,
                replace_application: false,
                job: None,
            }))
        }
    };
    Ok((command, id))
}

fn taken(status: &str) -> HookTaken {
    HookTaken { status: status.to_owned(), repeated: false, run: None, deployment: None, promotion: None }
}

/// What is told of what it started; `own` is the id that it has if it was started just now.
#[expect(clippy::wildcard_enum_match_arm, reason = "a hook starts nothing else")]
fn answered(outcome: &Outcome, own: Uuid) -> Result<(StatusCode, HookTaken), ApiError> {
    let (status, id, answer) = match outcome {
        Outcome::Run(run) => {
            (StatusCode::CREATED, run.0, HookTaken { run: Some(run.to_string()), ..taken("started") })
        }
        Outcome::Deployment(id) => {
            (StatusCode::CREATED, id.0, HookTaken { deployment: Some(id.to_string()), ..taken("started") })
        }
        Outcome::Promotion(id) => {
            (StatusCode::ACCEPTED, id.0, HookTaken { promotion: Some(id.to_string()), ..taken("waits") })
        }
        other => return Err(unexpected(other)),
    };
    let repeated = id != own;
    Ok((if repeated { StatusCode::OK } else { status }, HookTaken { repeated, ..answer }))
}
