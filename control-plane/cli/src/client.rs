//! The way to the API: one HTTPS client, errors that say what to do.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{DATE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stella_api_types::problem::Problem;
use stella_api_types::system::Health;
use stella_api_types::{Page, paths};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a whole answer; streams have no such limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How many items to ask for at a time.
const PAGE_ITEMS: u32 = 500;
/// How often a page of a list is asked for again because too much was asked for, and the longest pause before that. Who reads a long list
/// is let on with it: only a control plane that says the same all the time is given up.
const PAGE_RETRIES_MAX: u32 = 20;
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The pause if the control plane names none.
const PAUSE_DEFAULT: Duration = Duration::from_secs(1);
/// What a person can do about a control plane that passes over what it does not know.
const TOO_OLD: &str = "this control plane is older than this program, and its lists begin with the oldest: upgrade it, or use --output json, which lists all";

/// What went wrong, and so with which code to exit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The control plane said no.
    #[error("{}", describe(.0))]
    Refused(Box<Problem>),
    /// The control plane cannot be reached, or answered with something else.
    #[error("{url} cannot be reached: {problem}; check --url")]
    Unreachable {
        /// What was tried.
        url: String,
        /// Why not.
        problem: String,
    },
    /// A connection broke in the middle of an answer.
    #[error("the connection to {url} broke: {problem}")]
    Broken {
        /// Who answered.
        url: String,
        /// How.
        problem: String,
    },
    /// Somebody answers who is not known.
    #[error("{url} is not trusted: {problem}. {remedy}")]
    Untrusted {
        /// Who answered.
        url: String,
        /// What is wrong with the certificate.
        problem: String,
        /// What to do, by what is trusted.
        remedy: String,
    },
    /// The answer makes no sense.
    #[error(
        "the answer of {url} is not understood ({problem}); is it a Stella control plane of this version?"
    )]
    NotUnderstood {
        /// Who answered.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something is wrong on this side.
    #[error("{0}")]
    Usage(String),
    /// What was followed goes on in another journal, in which positions stand for something else.
    #[error(
        "the journal is another one than before: it was restored from a backup, or imported. What is read from position {next} on may \
         not be what comes next; look at what is there now, and follow it from where it ends: --after {end}"
    )]
    OtherJournal {
        /// Where it would have gone on.
        next: u64,
        /// Where the journal of now ends.
        end: u64,
    },
    /// Somebody has pressed Ctrl-C; what was watched, and how it goes on.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// Whether the same may work a little later.
    pub(crate) const fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused(problem) => problem.retryable,
            Self::Untrusted { .. }
            | Self::NotUnderstood { .. }
            | Self::Usage(_)
            | Self::OtherJournal { .. }
            | Self::Interrupted(_) => false,
        }
    }

    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::OtherJournal { .. } => 3,
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Untrusted { .. }
            | Self::NotUnderstood { .. } => 4,
            Self::Usage(_) => 2,
            // As a shell tells that SIGINT has ended a program.
            Self::Interrupted(_) => 130,
        }
    }
}

fn describe(problem: &Problem) -> String {
    let field = problem.field.as_ref().filter(|field| !problem.detail.starts_with(field.as_str()));
    let field = field.map(|field| format!("{field}: ")).unwrap_or_default();
    format!("{field}{} ({}, {})", problem.detail, problem.code, problem.status)
}

/// A client with its address and token.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    /// The file of what is trusted; without it what the system trusts is.
    ca: Option<PathBuf>,
}

impl Client {
    pub(crate) fn new(url: &str, token: String, ca: Option<&PathBuf>) -> Result<Self, Error> {
        let pem = ca.map(|path| read(path)).transpose()?;
        Self::trusting(url, token, ca.map(PathBuf::as_path).zip(pem.as_deref()))
    }

    /// A client that trusts some certificates (PEM), which are in a file or are to be; without them those of the system.
    pub(crate) fn trusting(url: &str, token: String, ca: Option<(&Path, &str)>) -> Result<Self, Error> {
        let usage = |problem: String| Error::Usage(problem);
        stella_certs::install_provider();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .https_only(true)
            .user_agent(concat!("stella/", env!("CARGO_PKG_VERSION")));
        address(url)?;
        if let Some((path, pem)) = ca {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|error| usage(format!("{} holds no certificate: {error}", path.display())))?;
            if certificates.is_empty() {
                return Err(usage(format!("{} holds no certificate (PEM)", path.display())));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| usage(format!("no HTTPS client can be made: {error}")))?;
        let ca = ca.map(|(path, _)| path.to_owned());
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token, ca })
    }

    /// A client of a double of the control plane that speaks no TLS.
    #[cfg(test)]
    pub(crate) fn of_double(url: String) -> Self {
        stella_certs::install_provider();
        Self { http: reqwest::Client::new(), url, token: "token".to_owned(), ca: None }
    }

    /// Where the control plane is.
    pub(crate) fn address(&self) -> &str {
        &self.url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.judged(response).await
    }

    /// An answer that is no refusal.
    async fn judged(&self, response: Response) -> Result<Response, Error> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => Err(Error::Refused(Box::new(problem))),
            Err(_) => {
                Err(Error::NotUnderstood { url: self.url.clone(), problem: format!("status {status}") })
            }
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = self.send(request.timeout(ANSWER_TIMEOUT)).await?;
        self.understood(response).await
    }

    /// Reads a page of a list, however many were read before it: a refusal because of that is waited out.
    async fn page<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let mut request = request.timeout(ANSWER_TIMEOUT);
        let mut retries = 0;
        loop {
            let again = request.try_clone();
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            match again {
                Some(again)
                    if response.status() == StatusCode::TOO_MANY_REQUESTS && retries < PAGE_RETRIES_MAX =>
                {
                    retries += 1;
                    tokio::time::sleep(pause(&response)).await;
                    request = again;
                }
                _ => return self.understood(self.judged(response).await?).await,
            }
        }
    }

    async fn understood<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::NotUnderstood { url: self.url.clone(), problem: error.to_string() })
    }

    /// How the control plane does, whatever that is, and the date of its answer.
    pub(crate) async fn health(&self) -> Result<(Health, Option<String>), Error> {
        let request = self.request(Method::GET, paths::HEALTH).timeout(CONNECT_TIMEOUT);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let health = serde_json::from_slice(&bytes)
            .map_err(|error| Error::NotUnderstood { url: self.url.clone(), problem: error.to_string() })?;
        Ok((health, date))
    }

    /// Reads one thing.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(self.request(Method::GET, path)).await
    }

    /// The same, with a query.
    pub(crate) async fn get_where<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// Reads all pages of a list.
    pub(crate) async fn list<T: DeserializeOwned + utoipa::ToSchema>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, Error>
    where
        Page<T>: DeserializeOwned,
    {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = self.request(Method::GET, path).query(query).query(&[("limit", PAGE_ITEMS)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<T> = self.page(request).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    /// Reads so many things of a list whose items have numbers, from one on.
    pub(crate) async fn between<T: DeserializeOwned + utoipa::ToSchema>(
        &self,
        path: &str,
        from: u64,
        count: u64,
    ) -> Result<Vec<T>, Error>
    where
        Page<T>: DeserializeOwned,
    {
        let query = [("after", from.to_string()), ("limit", count.to_string())];
        let page: Page<T> = self.page(self.request(Method::GET, path).query(&query)).await?;
        Ok(page.items)
    }

    /// Reads the newest of a list first, until `look` breaks off, at most `limit` of those for which it says yes; and whether there are more.
    pub(crate) async fn newest<T: DeserializeOwned + utoipa::ToSchema>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: usize,
        id: impl Fn(&T) -> &str,
        look: impl Fn(&T) -> ControlFlow<(), bool>,
    ) -> Result<(Vec<T>, bool), Error>
    where
        Page<T>: DeserializeOwned,
    {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let count = u32::try_from(limit - items.len()).unwrap_or(PAGE_ITEMS).min(PAGE_ITEMS);
            let request = self.request(Method::GET, path).query(query);
            let mut request = request.query(&[("first", "newest"), ("limit", &count.to_string())]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<T> = self.page(request).await?;
            if begins_with_the_oldest(page.items.iter().map(&id)) {
                return Err(Error::Usage(TOO_OLD.to_owned()));
            }
            for item in page.items {
                match look(&item) {
                    ControlFlow::Break(()) => return Ok((items, false)),
                    ControlFlow::Continue(is_wanted) => items.extend(is_wanted.then_some(item)),
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() || items.len() >= limit {
                return Ok((items, cursor.is_some()));
            }
        }
    }

    /// Changes something. The key makes it safe to repeat.
    pub(crate) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: Option<&str>,
    ) -> Result<T, Error> {
        let mut request = self.request(Method::POST, path).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.json(request).await
    }

    /// Asks for something that takes a whole body to say, with a query.
    pub(crate) async fn post_where<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: &B,
    ) -> Result<T, Error> {
        self.json(self.request(Method::POST, path).query(query).json(body)).await
    }

    /// Puts a JSON document as it is.
    pub(crate) async fn put_json<T: DeserializeOwned>(
        &self,
        path: &str,
        document: String,
    ) -> Result<T, Error> {
        self.json(self.request(Method::PUT, path).header("Content-Type", "application/json").body(document))
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, path).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Takes something away; with what there is to say about that, if anything is.
    pub(crate) async fn take_away<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        let response = self.send(self.request(Method::DELETE, path).timeout(ANSWER_TIMEOUT)).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.understood(response).await.map(Some)
    }

    /// Has something done to which there is no answer.
    pub(crate) async fn tell<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<(), Error> {
        self.send(self.request(Method::POST, path).timeout(ANSWER_TIMEOUT).json(body)).await.map(drop)
    }

    /// Whether something is there.
    pub(crate) async fn exists(&self, path: &str) -> Result<bool, Error> {
        let request = self.request(Method::HEAD, path).timeout(ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            // Ask again so that the problem has a body.
            _ => self.send(self.request(Method::GET, path).timeout(ANSWER_TIMEOUT)).await.map(|_| true),
        }
    }

    /// Sends a file as it is read.
    pub(crate) async fn upload(&self, path: &str, size: u64, body: reqwest::Body) -> Result<(), Error> {
        let request = self.request(Method::PUT, path).header("Content-Length", size);
        self.send(request.header("Content-Type", "application/octet-stream").body(body)).await.map(drop)
    }

    /// Opens a stream that goes on until the server ends it.
    pub(crate) async fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        accept: &str,
    ) -> Result<Response, Error> {
        let opened = self.send(self.request(Method::GET, path).query(query).header("Accept", accept));
        tokio::time::timeout(ANSWER_TIMEOUT, opened).await.map_err(|_| self.silent(ANSWER_TIMEOUT))?
    }

    /// Whom to trust instead of whom is trusted.
    fn trust(&self) -> String {
        match &self.ca {
            Some(file) => format!(
                "{} has to hold the authority of that certificate: pki/roots.crt of the control plane, if it is Stella's own; \
                 if it is from somebody else (api.certificate, or a proxy in front), theirs, or leave --ca away where this system trusts them",
                file.display()
            ),
            None => "Without --ca (STELLA_CA) it has to be of an authority that this system trusts; for one of Stella's own give \
                     --ca with pki/roots.crt of the control plane"
                .to_owned(),
        }
    }

    /// A connection that could not be made, or broke before there was an answer.
    fn unreachable(&self, error: &reqwest::Error) -> Error {
        if let Some(problem) = stella_certs::tls::certificate_problem(error) {
            let remedy = if problem.is_the_name { OTHER_NAME.to_owned() } else { self.trust() };
            return Error::Untrusted { url: self.url.clone(), problem: problem.text, remedy };
        }
        Error::Unreachable { url: self.url.clone(), problem: cause(error) }
    }

    /// A stream that broke.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Error {
        Error::Broken { url: self.url.clone(), problem: cause(error) }
    }

    /// A stream in which nothing came for too long.
    pub(crate) fn silent(&self, silence: Duration) -> Error {
        let problem = format!("nothing came for {} s", silence.as_secs());
        Error::Broken { url: self.url.clone(), problem }
    }
}

/// What to do about a certificate that is for other names than the one that was dialled.
const OTHER_NAME: &str = "Use one of its names in --url, or have this one added: on the control plane's host to api.names, then systemctl \
     reload stella-orchestrator; with a certificate of your own (api.certificate, or a proxy in front), to that one";

/// How long to wait before asking again.
fn pause(refusal: &Response) -> Duration {
    let named = refusal.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse().ok());
    named.map_or(PAUSE_DEFAULT, Duration::from_secs).min(PAUSE_MAX)
}

/// What is behind an error, in words for people.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let problem = cause.to_string();
    // All that is left of what kind of error it was below HTTP/2, and it leads into the documentation of a library.
    if problem.contains("close_notify") { "the other side has gone".to_owned() } else { problem }
}

/// Says what is wrong with an address that cannot be one of a control plane.
fn address(url: &str) -> Result<(), Error> {
    let problem = match url.split_once("://") {
        Some(("https", rest)) if !rest.is_empty() => return Ok(()),
        Some((_, rest)) => format!("{url} cannot be spoken to: write https://{rest}"),
        None => format!("{url:?} is no address: write https://{url}"),
    };
    Err(Error::Usage(problem))
}

/// Reads a small text file, with an error that names it.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Usage(format!("{} cannot be read: {error}", path.display())))
}

/// Whether a page begins with the oldest although the newest was asked for. Ids grow with the time.
fn begins_with_the_oldest<'i>(mut ids: impl Iterator<Item = &'i str>) -> bool {
    ids.next().zip(ids.next()).is_some_and(|(first, second)| first < second)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stella_api_types::event::Event;

    use super::{Client, address, begins_with_the_oldest};
    use crate::double::{Double, Said};

    fn event(position: u64) -> serde_json::Value {
        json!({
            "position": position, "type": "environment_created", "at": "2026-11-26T15:48:54.492Z",
            "actor": {"type": "system"}, "data": {},
        })
    }

    #[tokio::test]
    async fn a_long_list_is_read_whole_although_it_is_too_much_at_once() {
        let double = Double::start(|asked| match asked.number {
            1 | 3 => Said::refusal(429, Some(0)),
            2 => Said::json(&json!({"items": [event(0)], "next_cursor": "x"})),
            _ => Said::json(&json!({"items": [event(1)]})),
        })
        .await;
        let client = Client::of_double(double.url());
        let all: Vec<Event> = client.list("/events", &[]).await.unwrap();
        assert_eq!(all.iter().map(|it| it.position).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(double.asked(), 4);
    }

    #[tokio::test]
    async fn who_says_so_all_the_time_is_given_up() {
        let double = Double::start(|_| Said::refusal(429, Some(0))).await;
        let client = Client::of_double(double.url());
        let refused = client.between::<Event>("/events", 0, 10).await.unwrap_err();
        assert!(matches!(refused, super::Error::Refused(problem) if problem.status == 429));
        assert_eq!(double.asked(), super::PAGE_RETRIES_MAX + 1);
    }

    #[test]
    fn a_control_plane_that_does_not_know_what_is_asked_for_is_noticed() {
        let ids = ["01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-7ab2-80e2-4536b6584b71"];
        assert!(begins_with_the_oldest(ids.into_iter()));
        assert!(!begins_with_the_oldest(ids.into_iter().rev()));
        assert!(!begins_with_the_oldest(ids.into_iter().take(1)));
    }

    #[test]
    fn an_address_that_is_none_is_told_with_the_one_that_was_meant() {
        assert!(address("https://stella.example.com:8443").is_ok());
        let told = |url: &str| address(url).expect_err("it is none").to_string();
        assert!(told("http://a:1").contains("write https://a:1"));
        assert!(told("127.0.0.1:8443").contains("write https://127.0.0.1:8443"));
    }
}
