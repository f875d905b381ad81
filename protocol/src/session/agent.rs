//! The agent's end of a session.

use bytes::Bytes;

use super::outbox::Outbox;
use super::{CloseReason, Millis, SendError, Timer, Violation};
use crate::close::CloseCode;
use crate::frame::Decoder;
use crate::id::{AttemptKey, SessionEpoch};
use crate::limits::HANDSHAKE_TIMEOUT_MS;
use crate::message::{
    Accepted, AttemptProbe, AttemptProbed, Cancel, Ending, FiguresAt, Finished, Heartbeat, Hello, Inspect,
    Inspected, RenewRequest, Renewed, Running, ToAgent, ToControlPlane, TracedDispatch, Trust, Trusts,
    Welcome,
};

/// What the driver of an agent's session has to act on.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEvent {
    /// The session exists from here on.
    Welcomed(Welcome),
    /// Run this. It names this session.
    Dispatch(Box<TracedDispatch>),
    /// End this attempt.
    Cancel(Cancel),
    /// End this attempt, and say how far that gets: [`AgentSession::ending`].
    End(Cancel),
    /// These results are durable at the control plane.
    Acknowledged(Vec<AttemptKey>),
    /// The new certificate.
    Renewed(Renewed),
    /// Which roots to trust from now on: answer with [`AgentSession::trusts`] once that is durable.
    Trust(Trust),
    /// Say what the host holds: answer with [`AgentSession::inspected`].
    Inspect(Box<Inspect>),
    /// Say what is left of an attempt and of its effect: answer with [`AgentSession::probed`], or say again how it has ended.
    Probe(Box<AttemptProbe>),
    /// Say where the figures are: answer with [`AgentSession::figures_at`].
    WhereFigures,
    /// Finish what is open; no dispatch follows in this session.
    Drain,
    /// It is over. The last event, and there is exactly one: close the connection with [`CloseReason::code`].
    Closed(CloseReason),
}

/// The agent's end of a session: says hello, waits for the welcome, then heartbeats, reports and obeys.
#[derive(Debug)]
pub struct AgentSession {
    state: State,
    decoder: Decoder,
    outbox: Outbox,
}

#[derive(Debug)]
enum State {
    /// The hello is queued, the welcome has not come.
    Handshaking { deadline: Millis },
    /// Dispatches may come.
    Active(Live),
    /// The control plane sends no more dispatches; open attempts go on.
    Draining(Live),
    /// Over. `told` once the driver has the event.
    Closed { reason: CloseReason, told: bool },
}

#[derive(Clone, Copy, Debug)]
struct Live {
    session: SessionEpoch,
    heartbeat_interval_ms: u64,
    heartbeat_at: Millis,
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Handshaking { .. } => "waiting for the welcome",
            Self::Active(_) => "active",
            Self::Draining(_) => "draining",
            Self::Closed { .. } => "closed",
        }
    }
}

impl AgentSession {
    /// A session whose hello is ready to be transmitted. The welcome must come within
    /// [`HANDSHAKE_TIMEOUT_MS`] from `now`.
    ///
    /// # Errors
    /// If the hello is out of bounds.
    pub fn new(hello: Hello, now: Millis) -> Result<Self, SendError> {
        let mut outbox = Outbox::default();
        outbox.push(&ToControlPlane::Hello(hello))?;
        let state = State::Handshaking { deadline: now.plus(HANDSHAKE_TIMEOUT_MS) };
        Ok(Self { state, decoder: Decoder::new(), outbox })
    }

    /// This session's number, from the welcome to the end.
    #[must_use]
    pub const fn session(&self) -> Option<SessionEpoch> {
        match &self.state {
            State::Active(live) | State::Draining(live) => Some(live.session),
            State::Handshaking { .. } | State::Closed { .. } => None,
        }
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub const fn close_reason(&self) -> Option<&CloseReason> {
        match &self.state {
            State::Closed { reason, .. } => Some(reason),
            State::Handshaking { .. } | State::Active(_) | State::Draining(_) => None,
        }
    }

    // === in ===

    /// Takes bytes of the control stream. Their frames come out of [`Self::poll_event`].
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.close_reason().is_some() {
            return;
        }
        if let Err(error) = self.decoder.push(bytes) {
            self.end(CloseReason::Violation(Violation::Frame(error)));
        }
    }

    /// Acts on a passed deadline. A heartbeat that is due is the driver's to send: see [`Self::poll_heartbeat_due`].
    pub fn handle_timeout(&mut self, now: Millis) {
        if let Some((Timer::HandshakeTimeout, deadline)) = self.poll_timeout()
            && deadline <= now
        {
            self.end(CloseReason::HandshakeTimeout);
        }
    }

    /// The other end has closed the connection with this application error code.
    pub fn handle_peer_close(&mut self, code: u64) {
        self.end(CloseReason::from_peer(code));
    }

    /// The connection or its control stream is gone without an application error code.
    pub fn handle_lost(&mut self) {
        self.end(CloseReason::Lost);
    }

    /// Ends the session from here. What is queued is dropped; to leave in order, see [`Self::goodbye`].
    pub fn close(&mut self, code: CloseCode) {
        self.end(CloseReason::Local(code));
    }

    // === out ===

    /// The next thing to act on; `now` is when its bytes came.
    pub fn poll_event(&mut self, now: Millis) -> Option<AgentEvent> {
        if let State::Closed { reason, told } = &mut self.state {
            if std::mem::replace(told, true) {
                return None;
            }
            return Some(AgentEvent::Closed(reason.clone()));
        }
        let received = match self.decoder.next::<ToAgent>() {
            Ok(None) => return None,
            Ok(Some(frame)) => self.receive(frame, now),
            Err(error) => Err(Violation::Frame(error)),
        };
        match received {
            Ok(event) => Some(event),
            Err(violation) => {
                self.end(CloseReason::Violation(violation));
                self.poll_event(now)
            }
        }
    }

    /// Bytes for the control stream, in order.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.outbox.take()
    }

    /// The one deadline that this session waits for.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<(Timer, Millis)> {
        match &self.state {
            State::Handshaking { deadline } => Some((Timer::HandshakeTimeout, *deadline)),
            State::Active(live) | State::Draining(live) => Some((Timer::HeartbeatDue, live.heartbeat_at)),
            State::Closed { .. } => None,
        }
    }

    /// Whether the driver should measure the host now and call [`Self::heartbeat`].
    #[must_use]
    pub fn poll_heartbeat_due(&self, now: Millis) -> bool {
        matches!(self.poll_timeout(), Some((Timer::HeartbeatDue, at)) if at <= now)
    }

    /// Queues a heartbeat and sets the time of the next one, an interval from `now`.
    ///
    /// # Errors
    /// [`SendError`]; the next heartbeat is due an interval later all the same, so that a blocked stream is not hammered.
    pub fn heartbeat(&mut self, heartbeat: Heartbeat, now: Millis) -> Result<(), SendError> {
        if let State::Active(live) | State::Draining(live) = &mut self.state {
            live.heartbeat_at = now.plus(live.heartbeat_interval_ms);
        }
        self.send(&ToControlPlane::Heartbeat(heartbeat))
    }

    /// Reports that an attempt is durable here. Call it after the flush.
    ///
    /// # Errors
    /// [`SendError`]; the attempt is in the journal, and the next hello says so.
    pub fn accepted(&mut self, accepted: Accepted) -> Result<(), SendError> {
        self.send(&ToControlPlane::Accepted(accepted))
    }

    /// Reports that an attempt has started.
    ///
    /// # Errors
    /// As [`Self::accepted`].
    pub fn running(&mut self, running: Running) -> Result<(), SendError> {
        self.send(&ToControlPlane::Running(running))
    }

    /// Reports a result that is durable here. It stays in the journal until it is acknowledged.
    ///
    /// # Errors
    /// As [`Self::accepted`].
    pub fn finished(&mut self, finished: Finished) -> Result<(), SendError> {
        self.send(&ToControlPlane::Finished(finished))
    }

    /// Asks for a new certificate.
    ///
    /// # Errors
    /// [`SendError`]; nothing was asked.
    pub fn renew(&mut self, request: RenewRequest) -> Result<(), SendError> {
        self.send(&ToControlPlane::Renew(request))
    }

    /// Tells what is trusted and shown from now on. Durable here before it is told.
    ///
    /// # Errors
    /// [`SendError`]; the control plane asks again in the next session.
    pub fn trusts(&mut self, trusts: Trusts) -> Result<(), SendError> {
        self.send(&ToControlPlane::Trusts(trusts))
    }

    /// Answers a question about what the host holds.
    ///
    /// # Errors
    /// [`SendError`]; the control plane asks again in the next session, if it still wants to know.
    pub fn inspected(&mut self, inspected: Inspected) -> Result<(), SendError> {
        self.send(&ToControlPlane::Inspected(inspected))
    }

    /// Answers what is left of an attempt and of its effect.
    ///
    /// # Errors
    /// [`SendError`]; the control plane asks again in the next session, if it still wants to know.
    pub fn probed(&mut self, probed: AttemptProbed) -> Result<(), SendError> {
        self.send(&ToControlPlane::Probed(probed))
    }

    /// Says how far the end of a cancelled attempt has got.
    ///
    /// # Errors
    /// [`SendError`]; nothing was said.
    pub fn ending(&mut self, ending: Ending) -> Result<(), SendError> {
        self.send(&ToControlPlane::Ending(ending))
    }

    /// Answers where the agent's own figures are.
    ///
    /// # Errors
    /// [`SendError`]; the control plane asks again in the next session.
    pub fn figures_at(&mut self, figures: FiguresAt) -> Result<(), SendError> {
        self.send(&ToControlPlane::FiguresAt(figures))
    }

    /// Leaves on purpose: the goodbye is queued behind everything else, and the session is over here. Transmit what is
    /// left before closing the connection.
    ///
    /// # Errors
    /// [`SendError`]; the session goes on.
    pub fn goodbye(&mut self) -> Result<(), SendError> {
        self.send(&ToControlPlane::Goodbye)?;
        self.decoder = Decoder::new();
        self.state = State::Closed { reason: CloseReason::Local(CloseCode::Normal), told: false };
        Ok(())
    }

    // === inside ===

    fn send(&mut self, frame: &ToControlPlane) -> Result<(), SendError> {
        if self.session().is_none() {
            return Err(SendError::NotNow { frame: frame.name(), state: self.state.name() });
        }
        self.outbox.push(frame)
    }

    /// The only place where a frame changes the state. What is not listed is out of order.
    fn receive(&mut self, frame: ToAgent, now: Millis) -> Result<AgentEvent, Violation> {
        match (&self.state, frame) {
            (State::Handshaking { .. }, ToAgent::Welcome(welcome)) => {
                let live = Live {
                    session: welcome.session,
                    heartbeat_interval_ms: welcome.heartbeat_interval_ms,
                    heartbeat_at: now.plus(welcome.heartbeat_interval_ms),
                };
                self.state = State::Active(live);
                Ok(AgentEvent::Welcomed(welcome))
            }
            (State::Active(live), ToAgent::Dispatch(dispatch)) => {
                dispatched(live.session, Box::new((*dispatch).into()))
            }
            (State::Active(live), ToAgent::TracedDispatch(dispatch)) => dispatched(live.session, dispatch),
            (State::Active(live), ToAgent::Drain) => {
                self.state = State::Draining(*live);
                Ok(AgentEvent::Drain)
            }
            (State::Active(_) | State::Draining(_), ToAgent::Cancel(cancel)) => {
                Ok(AgentEvent::Cancel(cancel))
            }
            (State::Active(_) | State::Draining(_), ToAgent::Acknowledge(keys)) => {
                Ok(AgentEvent::Acknowledged(keys))
            }
            (State::Active(_) | State::Draining(_), ToAgent::Renewed(renewed)) => {
                Ok(AgentEvent::Renewed(renewed))
            }
            (State::Active(_) | State::Draining(_), ToAgent::Trust(trust)) => Ok(AgentEvent::Trust(trust)),
            (State::Active(_) | State::Draining(_), ToAgent::Inspect(inspect)) => {
                Ok(AgentEvent::Inspect(inspect))
            }
            (State::Active(_) | State::Draining(_), ToAgent::Probe(probe)) => Ok(AgentEvent::Probe(probe)),
            (State::Active(_) | State::Draining(_), ToAgent::WhereFigures) => Ok(AgentEvent::WhereFigures),
            (State::Active(_) | State::Draining(_), ToAgent::End(cancel)) => Ok(AgentEvent::End(cancel)),
            (state, frame) => Err(Violation::OutOfOrder { frame: frame.name(), state: state.name() }),
        }
    }

    /// The first reason stands.
    fn end(&mut self, reason: CloseReason) {
        if self.close_reason().is_none() {
            self.decoder = Decoder::new();
            self.outbox = Outbox::default();
            self.state = State::Closed { reason, told: false };
        }
    }
}

fn dispatched(session: SessionEpoch, traced: Box<TracedDispatch>) -> Result<AgentEvent, Violation> {
    let named = traced.dispatch.session;
    if session == named {
        Ok(AgentEvent::Dispatch(traced))
    } else {
        Err(Violation::ForeignDispatch { session, named })
    }
}
