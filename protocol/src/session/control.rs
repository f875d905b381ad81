//! The control plane's end of a session.

use bytes::Bytes;

use super::outbox::Outbox;
use super::{CloseReason, Millis, SendError, Timer, Violation};
use crate::close::CloseCode;
use crate::frame::Decoder;
use crate::id::{AttemptKey, SessionEpoch};
use crate::limits::{ACKNOWLEDGEMENTS_MAX, HANDSHAKE_TIMEOUT_MS, HEARTBEATS_MISSED_MAX};
use crate::message::{
    Accepted, AttemptProbe, AttemptProbed, Cancel, Dispatch, Ending, FiguresAt, Finished, Heartbeat, Hello,
    Inspect, Inspected, RenewRequest, Renewed, Running, ToAgent, ToControlPlane, TracedDispatch, Trust,
    Trusts, Welcome,
};

/// What the driver of a control plane's session has to act on.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlEvent {
    /// Who is there and what is open: answer with [`ControlSession::welcome`] or [`ControlSession::close`].
    Hello(Hello),
    /// The agent lives. (Every frame counts as a sign of life; this one brings figures.)
    Heartbeat(Heartbeat),
    /// The attempt is durable on the agent.
    Accepted(Accepted),
    /// The attempt has started.
    Running(Running),
    /// The attempt has ended: answer with [`ControlSession::acknowledge`] once that is durable.
    Finished(Finished),
    /// A certificate is wanted: answer with [`ControlSession::renewed`].
    Renew(RenewRequest),
    /// What the agent trusts and shows from now on.
    Trusts(Trusts),
    /// What the host holds: the answer to [`ControlSession::inspect`].
    Inspected(Inspected),
    /// Where the agent's own figures are: the answer to [`ControlSession::where_figures`].
    FiguresAt(FiguresAt),
    /// How far the end of a cancelled attempt has got.
    Ending(Ending),
    /// What is left of an attempt and of its effect: the answer to [`ControlSession::probe`].
    Probed(AttemptProbed),
    /// It is over. The last event, and there is exactly one: close the connection with [`CloseReason::code`].
    /// An agent that left on purpose shows as [`CloseReason::Goodbye`].
    Closed(CloseReason),
}

/// The control plane's end of a session: waits for the hello, is told what to welcome it with, then watches and commands.
#[derive(Debug)]
pub struct ControlSession {
    state: State,
    decoder: Decoder,
    outbox: Outbox,
    /// Acknowledgements that are not encoded yet, to share a frame.
    acknowledgements: Vec<AttemptKey>,
}

#[derive(Debug)]
enum State {
    /// Nothing has been said.
    AwaitingHello { deadline: Millis },
    /// The driver has the hello and owes the answer. The agent must be silent until then.
    AwaitingWelcome { deadline: Millis },
    /// Dispatches may be sent.
    Active(Live),
    /// Over. `told` once the driver has the event.
    Closed { reason: CloseReason, told: bool },
}

#[derive(Clone, Copy, Debug)]
struct Live {
    session: SessionEpoch,
    silence_ms_max: u64,
    heard_at: Millis,
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::AwaitingHello { .. } => "waiting for the hello",
            Self::AwaitingWelcome { .. } => "waiting for the welcome",
            Self::Active(_) => "active",
            Self::Closed { .. } => "closed",
        }
    }
}

impl ControlSession {
    /// A session of a connection that was accepted `now`. The hello and its welcome must come within
    /// [`HANDSHAKE_TIMEOUT_MS`].
    #[must_use]
    pub fn new(now: Millis) -> Self {
        Self {
            state: State::AwaitingHello { deadline: now.plus(HANDSHAKE_TIMEOUT_MS) },
            decoder: Decoder::new(),
            outbox: Outbox::default(),
            acknowledgements: Vec::new(),
        }
    }

    /// This session's number, from the welcome to the end.
    #[must_use]
    pub const fn session(&self) -> Option<SessionEpoch> {
        match &self.state {
            State::Active(live) => Some(live.session),
            State::AwaitingHello { .. } | State::AwaitingWelcome { .. } | State::Closed { .. } => None,
        }
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub const fn close_reason(&self) -> Option<&CloseReason> {
        match &self.state {
            State::Closed { reason, .. } => Some(reason),
            State::AwaitingHello { .. } | State::AwaitingWelcome { .. } | State::Active(_) => None,
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

    /// Acts on a passed deadline.
    pub fn handle_timeout(&mut self, now: Millis) {
        match self.poll_timeout() {
            Some((timer, deadline)) if deadline <= now => self.end(match timer {
                Timer::HandshakeTimeout => CloseReason::HandshakeTimeout,
                Timer::PeerSilent | Timer::HeartbeatDue => CloseReason::PeerSilent,
            }),
            Some(_) | None => {}
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

    /// Ends the session from here; what is queued is dropped.
    pub fn close(&mut self, code: CloseCode) {
        self.end(CloseReason::Local(code));
    }

    // === out ===

    /// The next thing to act on; `now` is when its bytes came.
    pub fn poll_event(&mut self, now: Millis) -> Option<ControlEvent> {
        if let State::Closed { reason, told } = &mut self.state {
            if std::mem::replace(told, true) {
                return None;
            }
            return Some(ControlEvent::Closed(reason.clone()));
        }
        let received = match self.decoder.next::<ToControlPlane>() {
            Ok(None) => return None,
            Ok(Some(frame)) => self.receive(frame, now),
            Err(error) => Err(CloseReason::Violation(Violation::Frame(error))),
        };
        match received {
            Ok(event) => Some(event),
            Err(reason) => {
                self.end(reason);
                self.poll_event(now)
            }
        }
    }

    /// Bytes for the control stream, in order.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        // Without room they wait for the next poll; what fills the room leaves now.
        let _no_room = self.flush_acknowledgements().is_err();
        self.outbox.take()
    }

    /// The one deadline that this session waits for.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<(Timer, Millis)> {
        match &self.state {
            State::AwaitingHello { deadline } | State::AwaitingWelcome { deadline } => {
                Some((Timer::HandshakeTimeout, *deadline))
            }
            State::Active(live) => Some((Timer::PeerSilent, live.heard_at.plus(live.silence_ms_max))),
            State::Closed { .. } => None,
        }
    }

    /// Answers the hello: the session exists from here on.
    ///
    /// # Errors
    /// [`SendError::NotNow`] unless a hello waits for its answer; [`SendError::Frame`] if the welcome is out of bounds.
    pub fn welcome(&mut self, welcome: Welcome, now: Millis) -> Result<(), SendError> {
        let State::AwaitingWelcome { .. } = &self.state else {
            return Err(SendError::NotNow { frame: "welcome", state: self.state.name() });
        };
        let live = Live {
            session: welcome.session,
            silence_ms_max: welcome.heartbeat_interval_ms.saturating_mul(HEARTBEATS_MISSED_MAX),
            heard_at: now,
        };
        self.outbox.push(&ToAgent::Welcome(welcome))?;
        self.state = State::Active(live);
        Ok(())
    }

    /// Sends an attempt to run. Call it after the attempt is durably `dispatched` in this session.
    ///
    /// # Errors
    /// [`SendError::ForeignDispatch`] if it is of another session, [`SendError::NotNow`] before the welcome, or another
    /// [`SendError`]; the attempt is in the journal and can be sent again.
    pub fn dispatch(&mut self, dispatch: Box<Dispatch>) -> Result<(), SendError> {
        self.check_dispatch(&dispatch)?;
        self.send(&ToAgent::Dispatch(dispatch))
    }

    /// The same with what travels with its trace. Call it only for an agent that understands it
    /// ([`crate::message::capability::TRACE`]).
    ///
    /// # Errors
    /// As [`Self::dispatch`].
    pub fn dispatch_traced(&mut self, dispatch: Box<TracedDispatch>) -> Result<(), SendError> {
        self.check_dispatch(&dispatch.dispatch)?;
        self.send(&ToAgent::TracedDispatch(dispatch))
    }

    /// Tells the agent to end an attempt.
    ///
    /// # Errors
    /// [`SendError`]; nothing was told.
    pub fn cancel(&mut self, cancel: Cancel) -> Result<(), SendError> {
        self.send(&ToAgent::Cancel(cancel))
    }

    /// Tells the agent that a result is durable here. Acknowledgements share frames: they leave with the next other
    /// frame or the next [`Self::poll_transmit`], up to [`ACKNOWLEDGEMENTS_MAX`] in one.
    ///
    /// # Errors
    /// [`SendError`]; the agent reports the result again in its next session.
    pub fn acknowledge(&mut self, key: AttemptKey) -> Result<(), SendError> {
        self.check_live("acknowledge")?;
        if self.acknowledgements.len() >= ACKNOWLEDGEMENTS_MAX {
            self.flush_acknowledgements()?;
        }
        self.acknowledgements.push(key);
        Ok(())
    }

    /// Sends the certificate that was asked for.
    ///
    /// # Errors
    /// [`SendError`]; the agent will ask again.
    pub fn renewed(&mut self, renewed: Renewed) -> Result<(), SendError> {
        self.send(&ToAgent::Renewed(renewed))
    }

    /// Tells the agent which roots to trust from now on. Call it only for an agent that understands it
    /// ([`crate::message::capability::TRUST`]).
    ///
    /// # Errors
    /// [`SendError`]; nothing was told.
    pub fn trust(&mut self, trust: Trust) -> Result<(), SendError> {
        self.send(&ToAgent::Trust(trust))
    }

    /// Ends an attempt as [`Self::cancel`] does, and has the agent say how far that gets. Call it only for an agent that understands it
    /// ([`crate::message::capability::ENDING`]).
    ///
    /// # Errors
    /// [`SendError`]; nothing was told.
    pub fn end_attempt(&mut self, cancel: Cancel) -> Result<(), SendError> {
        self.send(&ToAgent::End(cancel))
    }

    /// Asks what the host holds. Call it only for an agent that understands it
    /// ([`crate::message::capability::HOLDINGS`]).
    ///
    /// # Errors
    /// [`SendError`]; nothing was asked.
    pub fn inspect(&mut self, inspect: Box<Inspect>) -> Result<(), SendError> {
        self.send(&ToAgent::Inspect(inspect))
    }

    /// Asks what is left of an attempt and of its effect. Call it only for an agent that understands it
    /// ([`crate::message::capability::PROBES`]).
    ///
    /// # Errors
    /// [`SendError`]; nothing was asked.
    pub fn probe(&mut self, probe: Box<AttemptProbe>) -> Result<(), SendError> {
        self.send(&ToAgent::Probe(probe))
    }

    /// Asks where the agent serves its own figures. Call it only for an agent that understands it
    /// ([`crate::message::capability::FIGURES`]).
    ///
    /// # Errors
    /// [`SendError`]; nothing was asked.
    pub fn where_figures(&mut self) -> Result<(), SendError> {
        self.send(&ToAgent::WhereFigures)
    }

    // === inside ===

    fn check_dispatch(&self, dispatch: &Dispatch) -> Result<(), SendError> {
        let State::Active(live) = &self.state else {
            return Err(SendError::NotNow { frame: "dispatch", state: self.state.name() });
        };
        let (session, named) = (live.session, dispatch.session);
        if session == named { Ok(()) } else { Err(SendError::ForeignDispatch { session, named }) }
    }

    const fn check_live(&self, frame: &'static str) -> Result<(), SendError> {
        match self.session() {
            Some(_) => Ok(()),
            None => Err(SendError::NotNow { frame, state: self.state.name() }),
        }
    }

    /// Acknowledgements go first: they make room on the agent for what follows.
    fn send(&mut self, frame: &ToAgent) -> Result<(), SendError> {
        self.check_live(frame.name())?;
        self.flush_acknowledgements()?;
        self.outbox.push(frame)
    }

    fn flush_acknowledgements(&mut self) -> Result<(), SendError> {
        if self.acknowledgements.is_empty() {
            return Ok(());
        }
        let frame = ToAgent::Acknowledge(std::mem::take(&mut self.acknowledgements));
        self.outbox.push(&frame).inspect_err(|_| {
            if let ToAgent::Acknowledge(keys) = frame {
                self.acknowledgements = keys;
            }
        })
    }

    /// The only place where a frame changes the state. What is not listed is out of order.
    fn receive(&mut self, frame: ToControlPlane, now: Millis) -> Result<ControlEvent, CloseReason> {
        match (&mut self.state, frame) {
            (State::AwaitingHello { deadline }, ToControlPlane::Hello(hello)) => {
                self.state = State::AwaitingWelcome { deadline: *deadline };
                Ok(ControlEvent::Hello(hello))
            }
            (State::Active(live), frame) => {
                live.heard_at = live.heard_at.max(now);
                match frame {
                    ToControlPlane::Heartbeat(heartbeat) => Ok(ControlEvent::Heartbeat(heartbeat)),
                    ToControlPlane::Accepted(accepted) => Ok(ControlEvent::Accepted(accepted)),
                    ToControlPlane::Running(running) => Ok(ControlEvent::Running(running)),
                    ToControlPlane::Finished(finished) => Ok(ControlEvent::Finished(finished)),
                    ToControlPlane::Renew(request) => Ok(ControlEvent::Renew(request)),
                    ToControlPlane::Trusts(trusts) => Ok(ControlEvent::Trusts(trusts)),
                    ToControlPlane::Inspected(inspected) => Ok(ControlEvent::Inspected(inspected)),
                    ToControlPlane::FiguresAt(figures) => Ok(ControlEvent::FiguresAt(figures)),
                    ToControlPlane::Ending(ending) => Ok(ControlEvent::Ending(ending)),
                    ToControlPlane::Probed(probed) => Ok(ControlEvent::Probed(probed)),
                    ToControlPlane::Goodbye => Err(CloseReason::Goodbye),
                    ToControlPlane::Hello(_) => Err(out_of_order("hello", self.state.name())),
                }
            }
            (state, frame) => Err(out_of_order(frame.name(), state.name())),
        }
    }

    /// The first reason stands.
    fn end(&mut self, reason: CloseReason) {
        if self.close_reason().is_none() {
            self.decoder = Decoder::new();
            self.outbox = Outbox::default();
            self.acknowledgements = Vec::new();
            self.state = State::Closed { reason, told: false };
        }
    }
}

const fn out_of_order(frame: &'static str, state: &'static str) -> CloseReason {
    CloseReason::Violation(Violation::OutOfOrder { frame, state })
}
