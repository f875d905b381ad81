//! Typed identifiers. Two things that must not be confused have two types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind} id; expected a UUID such as 0190f5f4-7b3c-7c1d-9d55-4f2b8e6a1c33")]
pub struct ParseIdError {
    /// Which kind of identifier was expected.
    pub kind: &'static str,
    /// What was given instead, cut to 64 characters.
    pub text: String,
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The word for this kind of identifier in messages to people.
            pub const KIND: &'static str = $kind;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($kind, ":{}"), self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| ParseIdError { kind: $kind, text: text.chars().take(64).collect() })
            }
        }
    )+};
}

uuid_ids! {
    /// A tenant: the boundary of isolation.
    TenantId = "tenant";
    /// A stage that releases pass through.
    EnvironmentId = "environment";
    /// A host, or a slot on one, in an environment.
    TargetId = "target";
    /// An enrolled agent identity. It is in the agent's certificate.
    AgentId = "agent";
    /// An immutable, versioned set of components.
    ReleaseId = "release";
    /// A request to bring a release into an environment. The deployment that follows from it has the same digits.
    PromotionId = "promotion";
    /// A release on its way to the targets of an environment.
    DeploymentId = "deployment";
    /// One execution of a workflow.
    RunId = "run";
    /// One unit of work on one target.
    TaskId = "task";
    /// A one-time enrolment token (its public half).
    EnrolmentTokenId = "enrolment token";
    /// A bearer token of the API (its public half).
    ApiTokenId = "API token";
    /// A person or a program that uses the API.
    AccountId = "account";
    /// An incoming webhook: the end of its address.
    HookId = "hook";
    /// One question to an agent about what its host holds.
    QuestionId = "question";
    /// The random name of one life of a journal. A wiped or restored journal has a new one.
    Incarnation = "journal incarnation";
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this one; saturates at the largest value.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

numbers! {
    /// Which try of a task this is, from 1. A new attempt supersedes the ones before it.
    Attempt(u32);
    /// Counts the sessions of one agent, from 1. Frames of an older session are fenced off.
    SessionEpoch(u64);
    /// Orders the deployments that touched one target. An agent ends older generations before it starts a newer one.
    Generation(u64);
    /// How many events a journal stream holds; also the position of the next event.
    Position(u64);
    /// The leader's term. An append with an older epoch than the journal's is refused.
    Epoch(u64);
}

/// One attempt of one task: the unit of exactly-once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    /// The task.
    pub task: TaskId,
    /// The attempt of that task.
    pub attempt: Attempt,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}
