//! Questions to an HTTP endpoint: a change management system, a test suite, whatever knows better.
//!
//! The question is a `POST` of JSON that says what wants to come where. The answer is JSON too: `{"passed": true, "reason": "…"}`.
//! A question may be asked more than once; it has the same `Idempotency-Key` then.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stella_domain::gate::Outcome;
use stella_protocol::digest::Digest;

use crate::Question;
use crate::ask::{About, Error, Release, Said, Source, Subject, send};

#[derive(Serialize)]
struct Body<'a> {
    tenant: &'a str,
    environment: &'a str,
    release: &'a Release,
    #[serde(flatten)]
    subject: &'a Subject,
    policy: String,
    question: u32,
}

#[derive(Deserialize)]
struct Answer {
    passed: bool,
    #[serde(default)]
    reason: String,
}

pub(crate) async fn ask(source: &Source, about: &About, question: &Question) -> Result<Said, Error> {
    let url = source.url();
    let body = Body {
        tenant: &about.tenant,
        environment: &about.environment,
        release: &about.release,
        subject: &about.subject,
        policy: about.policy.to_string(),
        question: question.number,
    };
    let key = format!("{}/{}", question.of, question.number);
    let mut request = source.post(url.clone()).json(&body).header("Idempotency-Key", key);
    for (name, value) in about.trace.headers() {
        request = request.header(name, value);
    }
    let answer = send(url, request).await?;
    let inputs = Some(Digest(Sha256::digest(&answer).into()));
    let read: Answer = serde_json::from_slice(&answer).map_err(|error| {
        let problem = format!("it is not {{\"passed\": true or false, \"reason\": \"…\"}} ({error})");
        Error::Answer { url: url.clone(), problem }
    })?;
    let outcome = if read.passed { Outcome::Passed } else { Outcome::Failed };
    let reason = match read.reason.trim() {
        "" if read.passed => "it says so".to_owned(),
        "" => "it says no, and not why".to_owned(),
        said => said.to_owned(),
    };
    Ok(Said { outcome, reason, inputs })
}
