//! Why a command was not carried out. A rejection changed nothing.

use crate::event::IllegalTransition;
use crate::name::Name;

/// Why not. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no such thing in this tenant.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// Which kind of thing.
        kind: &'static str,
        /// What was looked for.
        id: String,
    },
    /// A name or version is taken.
    #[error("{kind} {name:?} exists already")]
    Exists {
        /// Which kind of thing.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A field's value makes no sense.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// It makes sense, but not now.
    #[error("{problem}")]
    Conflict {
        /// What is in the way and what to do.
        problem: String,
    },
    /// Whoever asks may not do that.
    #[error("{problem}")]
    Forbidden {
        /// Which role is missing and who can give it.
        problem: String,
    },
    /// More than the journal takes would have to be written at once.
    #[error(
        "what would have to be recorded has {bytes} bytes; at most {bytes_max} are taken at once, so ask for less in one request"
    )]
    TooLarge {
        /// How much it is, in bytes.
        bytes: usize,
        /// How much would be taken, in bytes.
        bytes_max: usize,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request; use a new key for a new request")]
    KeyReused,
    /// The token does not let this host enrol.
    #[error("enrolment refused: {problem}")]
    EnrolmentRefused {
        /// Why, and what to do.
        problem: String,
    },
    /// The agent's identity was revoked.
    #[error("agent {name} was revoked")]
    Revoked {
        /// Its name.
        name: Name,
    },
    /// The frame came on a session that is not the agent's latest.
    #[error("the session was superseded by a newer one of the same agent")]
    SessionSuperseded,
    /// The core contradicted itself: a defect. Nothing was changed.
    #[error("the command would have broken the state and was refused; this is a defect, please report it")]
    Defect(#[source] IllegalTransition),
}

impl Rejection {
    /// That there is no such thing.
    pub(crate) fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }

    /// That a name or an id is taken.
    pub(crate) fn exists(kind: &'static str, name: impl ToString) -> Self {
        Self::Exists { kind, name: name.to_string() }
    }

    /// That a field makes no sense.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// That it does not go now.
    pub(crate) fn conflict(problem: impl Into<String>) -> Self {
        Self::Conflict { problem: problem.into() }
    }
}
