//! What a receiver is told: how one group of incidents stands.

use serde::Serialize;
use stella_api_types::time::rfc3339;
use stella_protocol::time::Timestamp;

use crate::incident::{Kind, Severity};

/// How many incidents a message lists. The others are counted.
const LISTED_MAX: usize = 20;

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The group that it is about: the same in all messages from the beginning to the end.
    pub group: String,
    /// When that group began.
    pub began_at: Timestamp,
    /// Which message of the group it is. One that is tried again has the same number only if it says the same.
    pub number: u64,
    /// What is wrong.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// The tenant's name; empty if it is about the control plane itself.
    pub tenant: String,
    /// The environment's name, if it is in one.
    pub environment: Option<String>,
    /// When it was written.
    pub at: Timestamp,
    /// Whether the receiver may believe that something is wrong.
    pub was_open: bool,
    /// Whether it only tries the receiver.
    pub is_test: bool,
    /// What is wrong now.
    pub open: Vec<Member>,
    /// What was wrong and has ended since.
    pub ended: Vec<Member>,
}

/// One incident of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its key in the book.
    pub id: String,
    /// The id of what it is about.
    pub subject: String,
    /// A sentence for people.
    pub summary: String,
    /// When it began.
    pub since: Timestamp,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Body<'m> {
    id: String,
    group: &'m str,
    status: &'static str,
    kind: &'static str,
    severity: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'m str>,
    at: String,
    title: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test: bool,
    open: usize,
    incidents: Vec<Listed<'m>>,
}

#[derive(Serialize)]
struct Listed<'m> {
    id: &'m str,
    status: &'static str,
    summary: &'m str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

impl Message {
    /// A message that only tries a receiver.
    #[must_use]
    pub fn test(at: Timestamp) -> Self {
        let member = Member {
            id: "test".to_owned(),
            subject: "test".to_owned(),
            summary: "this is a test: nothing is wrong".to_owned(),
            since: at,
            ended_at: None,
        };
        Self {
            group: "test".to_owned(),
            began_at: at,
            number: 0,
            kind: Kind::ApprovalWaiting,
            severity: Severity::Info,
            tenant: "test".to_owned(),
            environment: None,
            at,
            was_open: false,
            is_test: true,
            open: vec![member],
            ended: Vec::new(),
        }
    }

    /// The same whenever this message is sent, and no other's: receivers drop duplicates by it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.group, self.began_at.0, self.number)
    }

    /// `firing` while something is wrong, else `resolved`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        if self.open.is_empty() { "resolved" } else { "firing" }
    }

    /// One line: what is wrong, or that it is not any more.
    #[must_use]
    pub fn title(&self) -> String {
        if self.is_test {
            return "Test of Stella's notifications".to_owned();
        }
        let place = match &self.environment {
            None if self.kind.is_of_installation() => "Stella".to_owned(),
            None => self.tenant.clone(),
            Some(environment) => format!("{}/{environment}", self.tenant),
        };
        let (members, ending) =
            if self.open.is_empty() { (&self.ended, " (over)") } else { (&self.open, "") };
        match members.as_slice() {
            [only] => format!("{place}: {}{ending}", only.summary),
            several => format!("{place}: {} {}{ending}", several.len(), self.plural()),
        }
    }

    const fn plural(&self) -> &'static str {
        match self.kind {
            Kind::AgentOffline => "agents are offline",
            Kind::DeploymentFailed => "deployments failed",
            Kind::Rollback => "rollbacks",
            Kind::ApprovalWaiting => "promotions wait for approval",
            Kind::WritesRefused => "refusals of writes",
            Kind::PartFailed => "parts of the control plane have failed",
            Kind::CertificateExpiring => "certificates of the control plane end soon",
        }
    }

    /// A line for each incident, as many as people read.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let open = self.open.iter().map(|it| format!("{} (since {})", it.summary, rfc3339(it.since)));
        let ended = self.ended.iter().map(|it| format!("over: {}", it.summary));
        let mut lines: Vec<_> = open.chain(ended).take(LISTED_MAX).collect();
        let left = (self.open.len() + self.ended.len()).saturating_sub(lines.len());
        if left > 0 {
            lines.push(format!("and {left} more"));
        }
        lines
    }

    /// The whole message as JSON, with as many incidents as people read.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let listed = self.open.iter().chain(&self.ended).take(LISTED_MAX).map(|it| Listed {
            id: &it.subject,
            status: if it.ended_at.is_none() { "open" } else { "ended" },
            summary: &it.summary,
            since: rfc3339(it.since),
            ended: it.ended_at.map(rfc3339),
        });
        let body = Body {
            id: self.id(),
            group: &self.group,
            status: self.status(),
            kind: if self.is_test { "test" } else { self.kind.name() },
            severity: self.severity.name(),
            tenant: &self.tenant,
            environment: self.environment.as_deref(),
            at: rfc3339(self.at),
            title: self.title(),
            test: self.is_test,
            open: self.open.len(),
            incidents: listed.collect(),
        };
        serde_json::to_value(body).expect("texts and numbers have string keys and no failing serializer")
    }
}
