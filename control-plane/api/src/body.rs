//! Extractors whose refusals are problems of ours, and the pages of lists.

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use base64::Engine;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stella_api_types::Page;
use utoipa::{IntoParams, ToSchema};

use crate::error::{ApiError, ErrorCode};

/// The largest JSON body, in bytes. Larger things are artifacts.
pub(crate) const JSON_BYTES_MAX: usize = 1024 * 1024;
/// How many items a page has if the caller does not say.
const PAGE_ITEMS: usize = 100;
/// How many items a page can have.
const PAGE_ITEMS_MAX: usize = 500;

/// A JSON body in and out.
#[derive(Debug, FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be missing, or `null`, where nothing has to be said.
#[derive(Debug)]
pub(crate) struct MaybeJson<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(JsonRejection::from)?;
        // Whoever says nothing does not say in which format.
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        let axum::Json(body) = axum::Json::<Option<T>>::from_bytes(&bytes)?;
        Ok(Self(body.unwrap_or_default()))
    }
}

impl<T: serde::Serialize> axum::response::IntoResponse for Json<T> {
    fn into_response(self) -> axum::response::Response {
        axum::Json(self.0).into_response()
    }
}

/// The query.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(crate) struct Query<T>(pub(crate) T);

/// The path's parameters.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(crate) struct Path<T>(pub(crate) T);

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let text = rejection.body_text();
        // The framework's prefix says less than our code.
        let detail = text.split_once(": ").map_or(text.as_str(), |(_, rest)| rest).to_owned();
        match rejection.status().as_u16() {
            413 => {
                Self::new(ErrorCode::TooLarge, format!("a JSON body may have at most {JSON_BYTES_MAX} bytes"))
            }
            415 => {
                Self::new(ErrorCode::UnsupportedMediaType, "send the header Content-Type: application/json")
            }
            422 => match field_of(&detail) {
                Some(field) => Self::invalid(field, detail),
                None => Self::new(ErrorCode::Invalid, detail),
            },
            _ => Self::new(ErrorCode::MalformedRequest, detail),
        }
    }
}

/// The field that a deserialiser complains about: the path before its message, and the name in it if the path lacks that.
fn field_of(detail: &str) -> Option<String> {
    let (path, message) = match detail.split_once(": ") {
        Some((path, message)) if !path.contains(' ') => (path, message),
        _ => ("", detail),
    };
    let complaints = ["missing field `", "unknown field `"];
    let rest = complaints.iter().find_map(|complaint| message.strip_prefix(complaint));
    let name = rest.and_then(|rest| rest.split('`').next());
    let is_at_the_end =
        |name: &str| path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    match (path, name) {
        ("", None) => None,
        ("", Some(name)) => Some(name.to_owned()),
        (path, Some(name)) if !(message.starts_with("unknown") && is_at_the_end(name)) => {
            Some(format!("{path}.{name}"))
        }
        (path, _) => Some(path.to_owned()),
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ErrorCode::MalformedRequest, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ErrorCode::MalformedRequest, rejection.body_text())
    }
}

/// Which page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// How many items at most, 1 to 500; 100 if not given.
    pub(crate) limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`.
    pub(crate) cursor: Option<String>,
    /// `oldest` (if not given) or `newest`: what comes first.
    #[param(inline)]
    pub(crate) first: Option<First>,
}

/// What a list begins with. Ids grow with the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum First {
    /// What came first.
    Oldest,
    /// What came last.
    Newest,
}

impl Paging {
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        match self.limit {
            None => Ok(PAGE_ITEMS),
            Some(limit) if (1..=PAGE_ITEMS_MAX).contains(&limit) => Ok(limit),
            Some(limit) => Err(ApiError::invalid(
                "limit",
                format!("must be between 1 and {PAGE_ITEMS_MAX}, not {limit}"),
            )),
        }
    }

    /// Whether the list is walked from its end.
    pub(crate) fn is_back(&self) -> bool {
        self.first == Some(First::Newest)
    }

    /// What the cursor hides.
    pub(crate) fn after<K: std::str::FromStr>(&self) -> Result<Option<K>, ApiError> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(cursor).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let key = text.and_then(|text| text.parse().ok());
        key.map(Some).ok_or_else(|| {
            ApiError::invalid("cursor", "is not one that this list gave; start without a cursor")
        })
    }
}

/// Cuts a page out of an ordered list: what comes after the cursor, at most the limit.
pub(crate) fn page<K, V, D>(
    paging: &Paging,
    items: impl DoubleEndedIterator<Item = (K, V)>,
    view: impl Fn(V) -> D,
) -> Result<Json<Page<D>>, ApiError>
where
    K: Ord + std::fmt::Display + std::str::FromStr,
    D: ToSchema,
{
    match paging.is_back() {
        true => cut(paging, items.rev(), |key: &K, after| key >= after, view),
        false => cut(paging, items, |key: &K, after| key <= after, view),
    }
}

fn cut<K, V, D>(
    paging: &Paging,
    items: impl Iterator<Item = (K, V)>,
    is_before: impl Fn(&K, &K) -> bool,
    view: impl Fn(V) -> D,
) -> Result<Json<Page<D>>, ApiError>
where
    K: std::fmt::Display + std::str::FromStr,
    D: ToSchema,
{
    let (limit, after) = (paging.limit()?, paging.after::<K>()?);
    let mut rest =
        items.skip_while(|(key, _)| after.as_ref().is_some_and(|after| is_before(key, after))).peekable();
    let mut page = Page { items: Vec::new(), next_cursor: None };
    while let Some((key, value)) = rest.next() {
        page.items.push(view(value));
        if page.items.len() == limit {
            page.next_cursor = rest.peek().is_some().then(|| cursor(&key));
            break;
        }
    }
    Ok(Json(page))
}

/// Hides a key in a cursor.
pub(crate) fn cursor(key: &impl std::fmt::Display) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.to_string())
}
