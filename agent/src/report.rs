//! What the runner has to say to the control plane, and where it says it.
//!
//! A report is never waited for. What a session cannot take is not lost: it is in the journal, and the next session is told.

use stella_protocol::message::{Accepted, Ending, Finished, Running};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// How many reports may wait for a session: all that can be open, with every report that it can have.
pub const REPORTS_MAX: usize = 4 * stella_protocol::limits::OPEN_ATTEMPTS_MAX;

/// A frame for the control plane about one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is in the journal.
    Accepted(Accepted),
    /// It has started.
    Running(Running),
    /// It is over, or was refused.
    Finished(Finished),
    /// It was cancelled, and its end has got so far.
    Ending(Ending),
}

/// The session that hears the reports, if there is one.
#[derive(Debug, Default)]
pub struct Outlet(Option<mpsc::Sender<Report>>);

impl Outlet {
    /// A new session takes over.
    pub fn attach(&mut self, session: mpsc::Sender<Report>) {
        self.0 = Some(session);
    }

    /// Says something, if somebody listens. A session that does not keep up is cut off: it sees the end of its reports, ends,
    /// and the next one hears everything again.
    pub fn say(&mut self, report: Report) {
        let Some(session) = &self.0 else { return };
        match session.try_send(report) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => self.0 = None,
            Err(TrySendError::Full(_)) => {
                tracing::warn!("the session does not keep up with the agent's reports; it is cut off");
                self.0 = None;
            }
        }
    }
}
