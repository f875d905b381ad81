//! Versions, as they are spoken in ALPN.

/// A session of an enrolled agent, version 1.
pub const ALPN_AGENT: &[u8] = b"stella-agent/1";

/// Enrolment of an agent that has no certificate yet, version 1.
pub const ALPN_ENROL: &[u8] = b"stella-enrol/1";

/// The same, version 2: the answer may be a [`crate::message::EnrolResponse::GrantedFor`].
pub const ALPN_ENROL_2: &[u8] = b"stella-enrol/2";

/// The same, version 3: the request is a [`crate::message::EnrolRequestFor`]. An agent offers all of them.
pub const ALPN_ENROL_3: &[u8] = b"stella-enrol/3";
