//! One table from what went wrong to what the outside sees.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use stella_api_types::problem::{MEDIA_TYPE, Problem};
use stella_domain::rejection::Rejection;
use stella_engine::{ReadError, SubmitError};

/// Every kind of problem that the API tells of. The names are part of the API; each has a page in `docs/errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the title of each says what it means")]
pub enum ErrorCode {
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    Invalid,
    MalformedRequest,
    UnsupportedMediaType,
    TooLarge,
    Conflict,
    IdempotencyKeyReused,
    WrongDigest,
    RateLimited,
    Overloaded,
    Stopping,
    NoSpace,
    Timeout,
    Internal,
}

impl ErrorCode {
    /// All of them, for the documentation's test.
    pub const ALL: [Self; 18] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::AlreadyExists,
        Self::Invalid,
        Self::MalformedRequest,
        Self::UnsupportedMediaType,
        Self::TooLarge,
        Self::Conflict,
        Self::IdempotencyKeyReused,
        Self::WrongDigest,
        Self::RateLimited,
        Self::Overloaded,
        Self::Stopping,
        Self::NoSpace,
        Self::Timeout,
        Self::Internal,
    ];

    /// The code in the body.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::AlreadyExists => "already_exists",
            Self::Invalid => "invalid",
            Self::MalformedRequest => "malformed_request",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooLarge => "too_large",
            Self::Conflict => "conflict",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::WrongDigest => "wrong_digest",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Stopping => "stopping",
            Self::NoSpace => "no_space",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// For a person.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Unauthenticated => "A valid bearer token, or a signature of a hook, is needed",
            Self::Forbidden => "You may not do that",
            Self::NotFound => "There is no such thing",
            Self::MethodNotAllowed => "This path does not know that method",
            Self::AlreadyExists => "It exists already",
            Self::Invalid => "A field's value makes no sense",
            Self::MalformedRequest => "The request cannot be read",
            Self::UnsupportedMediaType => "The body's media type is not understood",
            Self::TooLarge => "The body is too large",
            Self::Conflict => "Something is in the way",
            Self::IdempotencyKeyReused => "The idempotency key belongs to another request",
            Self::WrongDigest => "The content does not have the digest that was promised",
            Self::RateLimited => "Too many requests",
            Self::Overloaded => "Too much is waiting",
            Self::Stopping => "The control plane is stopping",
            Self::NoSpace => "The control plane's disk is nearly full",
            Self::Timeout => "The request took too long",
            Self::Internal => "Something went wrong in the control plane",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::AlreadyExists | Self::Conflict => StatusCode::CONFLICT,
            Self::Invalid | Self::IdempotencyKeyReused | Self::WrongDigest => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::MalformedRequest => StatusCode::BAD_REQUEST,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the same request may go well later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::Stopping
                | Self::NoSpace
                | Self::Timeout
                | Self::Internal
        )
    }

    /// Whether it is certain that nothing was changed.
    #[must_use]
    pub const fn has_no_side_effects(self) -> bool {
        !matches!(self, Self::Stopping | Self::Timeout | Self::Internal)
    }
}

/// A problem on its way out.
#[derive(Clone, Debug)]
pub struct ApiError {
    code: ErrorCode,
    detail: String,
    field: Option<String>,
    retry_after_s: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, retry_after_s: None }
    }

    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::Invalid, detail) }
    }

    /// Says the field as the caller wrote it, where the core knows it by another name.
    pub(crate) fn named(mut self, as_written: impl FnOnce(String) -> String) -> Self {
        self.field = self.field.map(as_written);
        self
    }

    /// Adds where in a file the field is that it is about.
    pub(crate) fn placed(mut self, place: impl FnOnce(&str) -> String) -> Self {
        if let Some(field) = &self.field {
            self.detail = format!("{}{}", place(field), self.detail);
        }
        self
    }

    /// What it says to a person.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn not_found(kind: &str, id: &str) -> Self {
        let short: String = id.chars().take(80).collect();
        Self::new(ErrorCode::NotFound, format!("there is no {kind} {short:?}"))
    }

    /// With more at the end of what it says.
    pub(crate) fn hinting(mut self, hint: &str) -> Self {
        self.detail.push_str(hint);
        self
    }

    pub(crate) fn retry_after(code: ErrorCode, seconds: u64, detail: impl Into<String>) -> Self {
        Self { retry_after_s: Some(seconds), ..Self::new(code, detail) }
    }

    /// Hides a cause that is not the caller's business and logs it.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::new(
            ErrorCode::Internal,
            "the log of the control plane says more; look for the correlation id of this answer",
        )
    }

    /// The body; the path and the ids are those of the request.
    pub(crate) fn problem(
        self,
        instance: Option<String>,
        trace_id: Option<String>,
        correlation_id: Option<String>,
    ) -> Problem {
        Problem {
            kind: format!("urn:stella:error:{}", self.code.name()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail,
            instance,
            code: self.code.name().to_owned(),
            field: self.field,
            retryable: self.code.is_retryable(),
            no_side_effects: self.code.has_no_side_effects(),
            trace_id,
            correlation_id,
        }
    }
}

impl IntoResponse for ApiError {
    /// The ids are filled in by the request layer, which finds the error in the response's extensions.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"stella\""));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::NotFound { .. } => Self::new(ErrorCode::NotFound, detail),
            Rejection::Forbidden { .. } => Self::new(ErrorCode::Forbidden, detail),
            Rejection::Exists { .. } => Self::new(ErrorCode::AlreadyExists, detail),
            Rejection::Invalid { field, problem } => Self::invalid(field, problem),
            Rejection::TooLarge { .. } => Self::new(ErrorCode::TooLarge, detail),
            Rejection::KeyReused => Self::new(ErrorCode::IdempotencyKeyReused, detail),
            Rejection::Conflict { .. }
            | Rejection::EnrolmentRefused { .. }
            | Rejection::Revoked { .. }
            | Rejection::SessionSuperseded => Self::new(ErrorCode::Conflict, detail),
            Rejection::Defect(_) => Self::internal(&rejection),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stopping => Self::retry_after(ErrorCode::Stopping, 5, error.to_string()),
            ReadError::Journal(_)
            | ReadError::Event { .. }
            | ReadError::Archived { .. }
            | ReadError::Defect => Self::internal(&error),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::Rejected(rejection) => rejection.into(),
            SubmitError::NoSpace { .. } => Self::new(ErrorCode::NoSpace, detail),
            SubmitError::Overloaded => Self::retry_after(ErrorCode::Overloaded, 1, detail),
            SubmitError::Stopping => Self::retry_after(ErrorCode::Stopping, 5, detail),
        }
    }
}
