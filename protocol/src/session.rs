//! A session between one agent and the control plane: in which order things may be said, without any IO.
//!
//! Two state machines, [`agent::AgentSession`] and [`control::ControlSession`], one for each end of the control stream. A
//! driver owns the transport and the clock, and turns the crank:
//!
//! ```text
//! bytes came in        -> handle_bytes, then poll_event until None
//! a deadline passed    -> handle_timeout, then poll_event until None
//! the connection ended -> handle_peer_close or handle_lost, then poll_event until None
//! after each of them, and after each frame that was queued: poll_transmit until None, then sleep until poll_timeout
//! ```
//!
//! Received bytes go in before timeouts: a driver that was held up must not take its own delay for the peer's silence.
//!
//! A session decodes a frame only when its event is polled. There is no queue of events that could grow, and between
//! frames a session owns no memory on the heap. What is not sent yet is bounded by
//! [`OUTGOING_BYTES_MAX`](crate::limits::OUTGOING_BYTES_MAX).
//!
//! Which attempts exist and how far they are is *not* here: it is in the journals of both ends, and a second copy could
//! only disagree. The session knows direction, order, identity (the session's epoch) and time.
//!
//! An agent does not watch for the control plane's silence: the control plane has nothing to say to an idle agent, and
//! the transport's idle time-out and keep-alive tell a dead connection without a frame.

use crate::close::CloseCode;
use crate::frame::FrameError;
use crate::id::SessionEpoch;

pub mod agent;
pub mod control;
mod outbox;

/// A moment on a clock that never goes back, in milliseconds since any fixed moment of this process.
///
/// Not a [`Timestamp`](crate::time::Timestamp): wall clocks jump, and a jump must not end ten thousand sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment and `milliseconds` more; saturates.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// The milliseconds from `earlier` to this moment; 0 if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a session waits for. It waits for one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The other end's hello or welcome is overdue.
    HandshakeTimeout,
    /// It is time to send a heartbeat.
    HeartbeatDue,
    /// Too many heartbeats of the other end are missing.
    PeerSilent,
}

/// What the other end must not have sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no valid frame.
    #[error("a frame was not understood")]
    Frame(#[source] FrameError),
    /// A good frame at the wrong time.
    #[error("a {frame} frame is not allowed while the session is {state}")]
    OutOfOrder {
        /// The frame's name.
        frame: &'static str,
        /// The state's name.
        state: &'static str,
    },
    /// A dispatch that names another session than the one it came in.
    #[error("a dispatch of session {named} came in session {session}")]
    ForeignDispatch {
        /// The session it came in.
        session: SessionEpoch,
        /// The session it names.
        named: SessionEpoch,
    },
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The other end sent what it must not.
    #[error("the other end broke the protocol")]
    Violation(#[source] Violation),
    /// The other end's hello or welcome did not come in time.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// The other end has missed too many heartbeats.
    #[error("no heartbeat came for too long")]
    PeerSilent,
    /// The agent said goodbye.
    #[error("the agent left on purpose")]
    Goodbye,
    /// This end closed it.
    #[error("closed here: {0}")]
    Local(CloseCode),
    /// The other end closed it.
    #[error("closed by the other end: {0}")]
    Peer(CloseCode),
    /// The other end closed it with a code of a later version.
    #[error("closed by the other end with the unknown code {0}")]
    PeerUnknown(u64),
    /// The connection is gone without a word.
    #[error("the connection was lost")]
    Lost,
}

impl CloseReason {
    /// The code to close the connection with.
    #[must_use]
    pub const fn code(&self) -> CloseCode {
        match self {
            Self::Violation(Violation::Frame(FrameError::TooLarge { .. })) => CloseCode::FrameTooLarge,
            Self::Violation(_) => CloseCode::ProtocolViolation,
            Self::HandshakeTimeout => CloseCode::HandshakeTimeout,
            Self::PeerSilent => CloseCode::PeerSilent,
            Self::Local(code) => *code,
            // There is nobody left to tell.
            Self::Goodbye | Self::Peer(_) | Self::PeerUnknown(_) | Self::Lost => CloseCode::Normal,
        }
    }

    /// From the code that the other end closed the connection with.
    fn from_peer(code: u64) -> Self {
        CloseCode::try_from(code).map_or(Self::PeerUnknown(code), Self::Peer)
    }
}

/// Why a frame was not queued. The session goes on; what it was about is still the caller's to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The session's state does not allow this frame.
    #[error("a {frame} frame cannot be sent while the session is {state}")]
    NotNow {
        /// The frame's name.
        frame: &'static str,
        /// The state's name.
        state: &'static str,
    },
    /// The dispatch was made for another session: it is stale, and this session must not carry it.
    #[error("a dispatch of session {named} cannot be sent in session {session}")]
    ForeignDispatch {
        /// This session.
        session: SessionEpoch,
        /// The session that the dispatch names.
        named: SessionEpoch,
    },
    /// The transport does not keep up: transmit what is queued first.
    #[error("{queued} bytes wait to be transmitted, and {max} are allowed")]
    QueueFull {
        /// How many bytes wait.
        queued: usize,
        /// How many may.
        max: usize,
    },
    /// The message is out of bounds.
    #[error("the message cannot become a frame")]
    Frame(#[source] FrameError),
}
