//! How a session ends: the application error codes of the QUIC connection, and what an agent makes of them.
//!
//! Codes are append-only. Their text is for people; programs go by the number.

use std::fmt;

/// Why one end closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// On purpose and in order. Also what a transport says whose owner just went away, so it promises nothing.
    Normal = 0,
    /// The other end sent something that it must not.
    ProtocolViolation = 1,
    /// The other end sent a frame over the limit.
    FrameTooLarge = 2,
    /// The other end's hello or welcome did not come in time.
    HandshakeTimeout = 3,
    /// The other end has missed too many heartbeats.
    PeerSilent = 4,
    /// The certificate does not prove an agent's identity (wrong authority, role or names, expired).
    Unauthenticated = 5,
    /// The agent's identity was revoked.
    Revoked = 6,
    /// The certificate is good and no such agent exists (any more).
    UnknownAgent = 7,
    /// A newer session of the same agent has taken over.
    Superseded = 8,
    /// The closing end shuts down; it may be back soon.
    ShuttingDown = 9,
    /// The control plane has no room for the session now.
    Overloaded = 10,
    /// The closing end has failed in itself.
    Internal = 11,
}

/// What an agent does after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Reconnect with the usual backoff.
    Retry,
    /// Reconnect, and begin with the longest pause of the backoff: soon would make it worse.
    RetrySlowly,
    /// A person has to act first. Trying again changes nothing until then; try at the longest pause only, and say so loudly.
    NeedsOperator,
}

/// A number that is no close code of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a close code of this protocol version")]
pub struct UnknownCloseCode(pub u64);

impl CloseCode {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Normal,
        Self::ProtocolViolation,
        Self::FrameTooLarge,
        Self::HandshakeTimeout,
        Self::PeerSilent,
        Self::Unauthenticated,
        Self::Revoked,
        Self::UnknownAgent,
        Self::Superseded,
        Self::ShuttingDown,
        Self::Overloaded,
        Self::Internal,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// What an agent that is told this code does.
    #[must_use]
    pub const fn advice(self) -> Advice {
        match self {
            Self::Normal | Self::HandshakeTimeout | Self::PeerSilent | Self::ShuttingDown => Advice::Retry,
            // A mistake or a load that will be the same in a moment; and two agents of one identity must not chase each other.
            Self::ProtocolViolation
            | Self::FrameTooLarge
            | Self::Superseded
            | Self::Overloaded
            | Self::Internal => Advice::RetrySlowly,
            Self::Unauthenticated | Self::Revoked | Self::UnknownAgent => Advice::NeedsOperator,
        }
    }

    /// Whether trying again can succeed without a person's help.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        !matches!(self.advice(), Advice::NeedsOperator)
    }
}

impl From<CloseCode> for u32 {
    fn from(code: CloseCode) -> Self {
        code.code()
    }
}

impl TryFrom<u64> for CloseCode {
    type Error = UnknownCloseCode;

    fn try_from(code: u64) -> Result<Self, UnknownCloseCode> {
        Self::ALL.into_iter().find(|known| u64::from(known.code()) == code).ok_or(UnknownCloseCode(code))
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "the session was ended",
            Self::ProtocolViolation => "the other end broke the protocol; are both versions compatible?",
            Self::FrameTooLarge => "a frame was over the limit",
            Self::HandshakeTimeout => "the handshake took too long",
            Self::PeerSilent => "no heartbeat came for too long",
            Self::Unauthenticated => {
                "the certificate does not prove an agent's identity; enrol the agent again"
            }
            Self::Revoked => "the agent was revoked; enrol it again with a new token if that was a mistake",
            Self::UnknownAgent => "the control plane does not know this agent; enrol it again",
            Self::Superseded => {
                "a newer session of the same agent has taken over; does another host use its identity?"
            }
            Self::ShuttingDown => "the other end shuts down",
            Self::Overloaded => "the control plane has no room for another session now",
            Self::Internal => "the other end failed; its log says why",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_their_place_in_the_list_and_come_back() {
        for (index, code) in CloseCode::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(code.code()).unwrap(), index, "{code:?}");
            assert_eq!(CloseCode::try_from(u64::from(code.code())), Ok(code));
        }
        assert_eq!(CloseCode::try_from(12), Err(UnknownCloseCode(12)));
        assert_eq!(CloseCode::try_from(u64::MAX), Err(UnknownCloseCode(u64::MAX)));
    }

    #[test]
    fn only_questions_of_identity_need_a_person() {
        let stopping: Vec<_> = CloseCode::ALL.into_iter().filter(|code| !code.is_retryable()).collect();
        assert_eq!(stopping, [CloseCode::Unauthenticated, CloseCode::Revoked, CloseCode::UnknownAgent]);
    }
}
