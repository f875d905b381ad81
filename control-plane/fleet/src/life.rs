//! How long agents' certificates last: what is told of them, so that somebody hears of it before one has ended.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stella_protocol::time::Timestamp;

/// The life of an agent's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// From when on its agent asks for another one: at two thirds.
    pub renew_at: Timestamp,
    /// When it ends. Nothing lets the agent in after that.
    pub ends: Timestamp,
}

impl Life {
    /// Of a certificate that is valid from one time to another.
    pub(crate) fn between(not_before: SystemTime, not_after: SystemTime) -> Self {
        let renew_at = timestamp(stella_certs::renew_at(not_before, not_after));
        Self { renew_at, ends: timestamp(not_after) }
    }
}

/// To the millisecond. A certificate never begins before 1970, so neither does its end.
fn timestamp(at: SystemTime) -> Timestamp {
    let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

/// The certificates of a session's agent. Whether it could keep one that it was sent is not said; but one that could asks for no other
/// before that one is due.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The newest that the agent has for sure.
    kept: Life,
    /// The newest that was issued in this session.
    issued: Option<Life>,
    /// Whether the agent was told to ask at once.
    is_wanted: bool,
    is_doubtful: bool,
}

impl Certificates {
    pub(crate) const fn shown(life: Life) -> Self {
        Self { kept: life, issued: None, is_wanted: false, is_doubtful: false }
    }

    /// The agent is told to ask for another one.
    pub(crate) const fn wanted(&mut self) {
        self.is_wanted = true;
    }

    /// The agent asks for another one.
    pub(crate) fn asked(&mut self, now: Timestamp) {
        let is_wanted = std::mem::take(&mut self.is_wanted);
        let Some(issued) = self.issued else { return };
        self.is_doubtful = now < issued.renew_at && !is_wanted;
        if !self.is_doubtful {
            self.kept = issued;
        }
    }

    pub(crate) const fn issued(&mut self, life: Life) {
        self.issued = Some(life);
    }

    /// When the session ends with them: it was authenticated by the newest, kept or not.
    pub(crate) fn end(&self) -> Timestamp {
        self.issued.unwrap_or(self.kept).ends
    }

    /// What the agent comes back with.
    pub(crate) fn known(&self) -> Life {
        if self.is_doubtful { self.kept } else { self.issued.unwrap_or(self.kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn life(from: u64) -> Life {
        Life { renew_at: Timestamp(from + 200), ends: Timestamp(from + 300) }
    }

    #[test]
    fn a_certificate_that_is_asked_for_again_at_once_was_not_kept() {
        let mut certificates = Certificates::shown(life(0));
        certificates.asked(Timestamp(200));
        certificates.issued(life(200));
        assert_eq!((certificates.known(), certificates.end()), (life(200), Timestamp(500)));

        certificates.asked(Timestamp(220));
        certificates.issued(life(220));
        assert_eq!(
            (certificates.known(), certificates.end()),
            (life(0), Timestamp(520)),
            "it has the first only"
        );
        certificates.asked(Timestamp(240));
        certificates.issued(life(240));
        assert_eq!(certificates.known(), life(0));

        certificates.asked(Timestamp(440));
        certificates.issued(life(440));
        assert_eq!(certificates.known(), life(440), "the disk has room again");
    }

    #[test]
    fn a_certificate_that_the_control_plane_wants_replaced_was_kept() {
        let mut certificates = Certificates::shown(life(0));
        certificates.asked(Timestamp(200));
        certificates.issued(life(200));
        certificates.wanted();
        certificates.asked(Timestamp(210));
        certificates.issued(life(210));
        assert_eq!(certificates.known(), life(210));
        certificates.asked(Timestamp(220));
        assert_eq!(certificates.known(), life(200), "it was told once");
    }
}
