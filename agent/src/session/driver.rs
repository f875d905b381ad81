//! One session: turns the crank of [`AgentSession`] between the connection and the runner.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use quinn::{RecvStream, SendStream};
use stella_certs::certificate_fingerprint;
use stella_protocol::close::{Advice, CloseCode};
use stella_protocol::limits::{HANDSHAKE_TIMEOUT_MS, HEARTBEATS_MISSED_MAX};
use stella_protocol::message::{
    AttemptProbe, AttemptProbed, Heartbeat, Hello, Inspected, Renewed, Trust, Trusts, Welcome, capability,
};
use stella_protocol::session::agent::{AgentEvent, AgentSession};
use stella_protocol::session::{CloseReason, Millis, SendError};
use stella_protocol::time::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::{Connected, advice_of};
use super::inspections::{Answer, Inspections};
use super::renewal::{Received, Renewal};
use super::{Config, End};
use crate::executor::reason_of;
use crate::identity::Identity;
use crate::report::{REPORTS_MAX, Report};
use crate::runner::{Gone, Order};

/// How much is read from the control stream at once.
const READ_BYTES: usize = 16 * 1024;

/// How long a goodbye may take.
const GOODBYE_DURATION_MAX: Duration = Duration::from_secs(1);

/// How long the loop may wait at one place: for its next turn, the longest pause between heartbeats; within a turn, for the runner and
/// for the disk.
const TURN_DURATION_MAX: Duration = Duration::from_secs(120);

/// The shortest silence of the other end's transport that ends a session. Every heartbeat has to be acknowledged by it, so
/// that a control plane that was restarted is noticed before the idle time-out.
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// A host's clock that is off by more than this is told: certificates have times.
const SKEW_TOLD: Duration = Duration::from_secs(60);

/// Runs one session to its end.
pub(super) async fn drive(config: &mut Config, connected: Connected, stop: &CancellationToken) -> End {
    let opened = timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), connected.connection.open_bi()).await;
    let (send, receive) = match opened {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => {
            return End { advice: advice_of(&error), reason: reason_of(&error), welcomed_at: None };
        }
        Err(_) => return failed("the control plane lets no control stream be opened"),
    };
    let begun = Instant::now();
    let session = match hello(config).await {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return failed(&reason_of(&error)),
        Err(gone) => return failed(&gone.to_string()),
    };
    let mut driver = Driver {
        inspections: Inspections::new(
            config.surroundings.clone(),
            config.runner.clone(),
            Arc::clone(&config.questions),
        ),
        config,
        connected,
        session,
        send,
        receive,
        unsent: Bytes::new(),
        reports: None,
        renewal: Renewal::default(),
        tells_trust: false,
        begun,
        welcomed_at: None,
        told_time: None,
        heard: (0, begun),
    };
    let end = driver.run(stop).await;
    driver.connected.close(end.1).await;
    end.0
}

fn failed(reason: &str) -> End {
    End { advice: Advice::RetrySlowly, reason: reason.to_owned(), welcomed_at: None }
}

/// How long ago something was queued, or a little longer, by the control plane's clock; `None` if that is yet to come, because the clock was
/// set meanwhile. What it told in its welcome was on its way for as long as a handshake takes, at most.
fn age_of(since: Timestamp, told: Timestamp, passed: Duration) -> Option<Duration> {
    let now = Duration::from_millis(told.0).saturating_add(passed);
    let since = Duration::from_millis(since.0);
    let is_to_come = since > now + Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    (!is_to_come).then(|| now.saturating_sub(since))
}

async fn hello(config: &Config) -> Result<Result<AgentSession, SendError>, Gone> {
    let facts = config.runner.hello().await?;
    let always = capability::TRUST
        | capability::HOLDINGS
        | capability::TRACE
        | capability::ENDING
        | capability::LISTS_ALL
        | capability::PROBES
        | capability::CERTAIN
        | capability::UNBEGUN;
    let spans = if config.sends_spans { capability::SPANS } else { 0 };
    let figures = if config.figures.is_some() { capability::FIGURES } else { 0 };
    let hello = Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: facts.capabilities | always | config.rights.bits() | spans | figures,
        journal: facts.journal,
        control_plane: facts.control_plane,
        open: facts.open,
        resources: config.resources.fresh(config.runner.pulse().tasks_running).await,
    };
    Ok(AgentSession::new(hello, Millis(0)))
}

struct Driver<'a> {
    config: &'a mut Config,
    connected: Connected,
    session: AgentSession,
    send: SendStream,
    receive: RecvStream,
    /// Taken from the session and not yet by the transport.
    unsent: Bytes,
    /// From the welcome on.
    reports: Option<mpsc::Receiver<Report>>,
    renewal: Renewal,
    inspections: Inspections,
    /// Whether the control plane wants to know what is trusted and shown here.
    tells_trust: bool,
    begun: Instant,
    welcomed_at: Option<Instant>,
    /// The control plane's time, and when it was told.
    told_time: Option<(Timestamp, Instant)>,
    /// How many datagrams had come, and when that changed.
    heard: (u64, Instant),
}

/// What woke the driver.
enum Wake {
    Bytes(Result<Option<usize>, quinn::ReadError>),
    Written(Result<usize, quinn::WriteError>),
    Report(Option<Report>),
    Found(Answer),
    Timeout,
    Stop,
}

impl Driver<'_> {
    async fn run(&mut self, stop: &CancellationToken) -> (End, CloseCode) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.config.progress.next_within(TURN_DURATION_MAX);
            if self.unsent.is_empty() {
                self.unsent = self.session.poll_transmit().unwrap_or_default();
            }
            let deadline =
                self.session.poll_timeout().map(|(_, at)| self.begun + Duration::from_millis(at.0));
            let wake = tokio::select! {
                biased;
                () = stop.cancelled() => Wake::Stop,
                read = self.receive.read(&mut buffer) => Wake::Bytes(read),
                written = self.send.write(&self.unsent), if !self.unsent.is_empty() => Wake::Written(written),
                () = at(deadline) => Wake::Timeout,
                report = next(&mut self.reports), if self.unsent.is_empty() => Wake::Report(report),
                found = self.inspections.next(), if self.unsent.is_empty() => Wake::Found(found),
            };
            match wake {
                Wake::Bytes(Ok(Some(length))) => self.session.handle_bytes(&buffer[..length]),
                Wake::Bytes(Ok(None) | Err(_)) | Wake::Written(Err(_)) => self.lost().await,
                Wake::Written(Ok(length)) => self.unsent.advance(length),
                Wake::Report(Some(report)) => self.report(report),
                Wake::Report(None) => self.reports_ended(),
                Wake::Found(Answer::Inspected(inspected)) => self.inspected(inspected),
                Wake::Found(Answer::Probed(probed)) => self.probed(probed),
                Wake::Timeout => self.timeout().await,
                Wake::Stop => return self.goodbye().await,
            }
            let now = self.now();
            while let Some(event) = self.session.poll_event(now) {
                match self.act(event).await {
                    Ok(None) => {}
                    Ok(Some(reason)) => return (self.end(&reason), reason.code()),
                    Err(Gone) => return (self.ended(Advice::Retry, Gone.to_string()), CloseCode::Internal),
                }
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    // === what comes ===

    async fn act(&mut self, event: AgentEvent) -> Result<Option<CloseReason>, Gone> {
        match event {
            AgentEvent::Welcomed(welcome) => self.welcomed(welcome).await?,
            AgentEvent::Dispatch(dispatch) => self.config.runner.order(Order::Dispatch(dispatch)).await?,
            AgentEvent::Cancel(cancel) => self.config.runner.order(Order::Cancel(cancel)).await?,
            AgentEvent::End(cancel) => self.config.runner.order(Order::End(cancel)).await?,
            AgentEvent::Acknowledged(keys) => self.config.runner.order(Order::Acknowledge(keys)).await?,
            AgentEvent::Renewed(renewed) => self.renewed(&renewed).await,
            AgentEvent::Trust(trust) => self.trust(&trust).await,
            AgentEvent::Inspect(question) => {
                if let Some(refused) = self.inspections.take(*question) {
                    self.inspected(refused);
                }
            }
            AgentEvent::Probe(probe) => self.probe(*probe),
            AgentEvent::WhereFigures => self.tell_where_figures(),
            AgentEvent::Drain => tracing::info!("the control plane sends nothing new in this session"),
            AgentEvent::Closed(reason) => return Ok(Some(reason)),
        }
        Ok(None)
    }

    async fn welcomed(&mut self, welcome: Welcome) -> Result<(), Gone> {
        let (session, reports) = mpsc::channel(REPORTS_MAX);
        let Welcome { control_plane, settled, now, .. } = welcome;
        let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let skew = host.abs_diff(Duration::from_millis(now.0));
        if skew > SKEW_TOLD {
            let skew_s = skew.as_secs();
            tracing::warn!(
                skew_s,
                "the clocks of this host and the control plane differ; certificates depend on them"
            );
        }
        self.config.runner.order(Order::Attach { control_plane, settled, session }).await?;
        self.reports = Some(reports);
        let at = Instant::now();
        self.welcomed_at = Some(at);
        self.told_time = Some((now, at));
        self.config.link.send_replace(Some(self.connected.connection.clone()));
        tracing::info!(session = welcome.session.0, "welcomed by the control plane");
        Ok(())
    }

    async fn renewed(&mut self, renewed: &Renewed) {
        let identity = match self.renewal.receive(&self.config.identity, renewed) {
            Some(Ok(Received::Take(identity))) => identity,
            Some(Ok(Received::Later)) => {
                return tracing::warn!(
                    "the new certificate is not valid yet by this host's clock, and waits: is the clock right?"
                );
            }
            Some(Err(error)) => {
                return tracing::error!(%error, "the new certificate is refused; the old one stays");
            }
            None => return tracing::warn!("a certificate came that was not asked for"),
        };
        self.take_renewed(identity).await;
    }

    async fn take_renewed(&mut self, identity: Identity) {
        if self.take(identity).await {
            tracing::info!("the certificate was renewed; the next session shows the new one");
            self.tell_trust();
        }
    }

    /// Takes over whom to trust. The control plane was verified with the roots that are trusted until now.
    async fn trust(&mut self, trust: &Trust) {
        let identity = match self.config.identity.trusting(&trust.roots_der) {
            Ok(identity) => identity,
            Err(error) => {
                return tracing::error!(%error, "the new roots are refused; those before stay");
            }
        };
        self.tells_trust = true;
        self.renewal.forget_waiting();
        if identity.roots != self.config.identity.roots {
            if !self.take(identity).await {
                return;
            }
            tracing::info!(roots = trust.roots_der.len(), "the roots to trust were replaced");
        }
        self.tell_trust();
        if trust.renew {
            self.renewal.want();
            self.renew();
        }
    }

    /// Keeps an identity for this session and those after it; whether it is on the disk.
    async fn take(&mut self, identity: Identity) -> bool {
        let (saved, state_dir) = (identity.clone(), self.config.state_dir.clone());
        let error: Box<dyn std::error::Error> =
            match tokio::task::spawn_blocking(move || saved.save(&state_dir)).await {
                Ok(Ok(())) => {
                    self.config.pulse.certified_until(identity.validity().1);
                    self.config.identity = identity;
                    return true;
                }
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            };
        let reason = reason_of(error.as_ref());
        tracing::error!(reason, "the agent's identity cannot be kept; the one before stays");
        false
    }

    fn tell_trust(&mut self) {
        if !self.tells_trust {
            return;
        }
        let identity = &self.config.identity;
        let roots = identity.roots.iter().map(certificate_fingerprint).collect();
        let Some(certificate) = identity.chain.first().map(certificate_fingerprint) else { return };
        let sent = self.session.trusts(Trusts { roots, certificate });
        self.judge("what is trusted", sent);
    }

    fn renew(&mut self) {
        if let Some(request) = self.renewal.due(&self.config.identity) {
            let sent = self.session.renew(request);
            self.judge("a request for a certificate", sent);
        }
    }

    // === what goes ===

    fn report(&mut self, report: Report) {
        let sent = match report {
            Report::Accepted(accepted) => self.session.accepted(accepted),
            Report::Running(running) => self.session.running(running),
            Report::Finished(finished) => self.session.finished(finished),
            Report::Ending(ending) => self.session.ending(ending),
        };
        self.judge("a report", sent);
    }

    fn inspected(&mut self, inspected: Inspected) {
        tracing::debug!(question = %inspected.question, "told what this host holds");
        let sent = self.session.inspected(inspected);
        self.judge("what this host holds", sent);
    }

    /// Takes a question about an attempt. The host's clock has no part in how old that is.
    fn probe(&mut self, probe: AttemptProbe) {
        let Some((told, at)) = self.told_time else { return };
        let age = age_of(probe.since, told, at.elapsed());
        if let Some(refused) = self.inspections.take_probe(probe, age) {
            self.probed(refused);
        }
    }

    fn probed(&mut self, probed: AttemptProbed) {
        tracing::info!(question = %probed.question, effect = ?probed.effect, "told what is left of an attempt");
        let sent = self.session.probed(probed);
        self.judge("what is left of an attempt", sent);
    }

    /// Nobody asks an agent that has none for others.
    fn tell_where_figures(&mut self) {
        if let Some(figures) = self.config.figures.clone() {
            let sent = self.session.figures_at(figures);
            self.judge("where the figures are", sent);
        }
    }

    fn reports_ended(&mut self) {
        self.reports = None;
        // A runner that has stopped in order has said everything, and the order to stop follows. One that is there has cut
        // this session off, because too much was waiting.
        if !self.config.runner.is_gone() {
            self.session.close(CloseCode::Internal);
        }
    }

    async fn timeout(&mut self) {
        let now = self.now();
        self.session.handle_timeout(now);
        if !self.session.poll_heartbeat_due(now) {
            return;
        }
        let pulse = self.config.runner.pulse();
        let resources = self.config.resources.last(pulse.tasks_running);
        let sent = self.session.heartbeat(Heartbeat { position: pulse.position, resources }, now);
        if sent.is_ok() {
            self.config.pulse.beat();
        }
        self.judge("a heartbeat", sent);
        if let Some(identity) = self.renewal.ripe(&self.config.identity) {
            self.take_renewed(identity).await;
        }
        self.renew();
        self.listen(now);
    }

    /// Ends the session if the other end's transport has acknowledged nothing for some heartbeats.
    fn listen(&mut self, now: Millis) {
        let heard = self.connected.connection.stats().udp_rx.datagrams;
        if heard != self.heard.0 {
            self.heard = (heard, Instant::now());
        }
        let interval_ms = self.session.poll_timeout().map_or(0, |(_, next)| next.since(now));
        let patience =
            Duration::from_millis(interval_ms.saturating_mul(HEARTBEATS_MISSED_MAX)).max(SILENCE_MIN);
        if self.heard.1.elapsed() >= patience {
            self.session.handle_lost();
        }
    }

    /// A report that does not get out must not be lost silently: the next session tells everything again.
    fn judge(&mut self, what: &str, sent: Result<(), SendError>) {
        if let Err(error) = sent {
            tracing::warn!(reason = reason_of(&error), "{what} cannot be sent; the session is ended");
            self.session.close(CloseCode::Internal);
        }
    }

    // === how it ends ===

    /// The control stream is gone. What the connection died of is known a moment later at most.
    async fn lost(&mut self) {
        match timeout(Duration::from_secs(1), self.connected.connection.closed()).await {
            Ok(quinn::ConnectionError::ApplicationClosed(close)) => {
                self.session.handle_peer_close(close.error_code.into_inner());
            }
            Ok(_) | Err(_) => self.session.handle_lost(),
        }
    }

    fn end(&self, reason: &CloseReason) -> End {
        let transport = self.connected.connection.close_reason();
        let advice = match reason {
            CloseReason::Peer(code) => code.advice(),
            CloseReason::Violation(_) | CloseReason::PeerUnknown(_) | CloseReason::Local(_) => {
                Advice::RetrySlowly
            }
            CloseReason::Lost => transport.as_ref().map_or(Advice::Retry, advice_of),
            CloseReason::HandshakeTimeout | CloseReason::PeerSilent | CloseReason::Goodbye => Advice::Retry,
        };
        let mut text = reason_of(reason);
        if let (CloseReason::Lost, Some(transport)) = (reason, transport) {
            text = format!("{text}: {transport}");
        }
        self.ended(advice, text)
    }

    fn ended(&self, advice: Advice, reason: String) -> End {
        End { advice, reason, welcomed_at: self.welcomed_at }
    }

    /// Says what is left to say, then goodbye.
    async fn goodbye(&mut self) -> (End, CloseCode) {
        while let Some(report) = self.reports.as_mut().and_then(|reports| reports.try_recv().ok()) {
            self.report(report);
        }
        let told = async {
            if self.session.goodbye().is_err() {
                return;
            }
            let mut unsent = std::mem::take(&mut self.unsent);
            loop {
                if self.send.write_all(&unsent).await.is_err() {
                    return;
                }
                match self.session.poll_transmit() {
                    Some(more) => unsent = more,
                    None => break,
                }
            }
            if self.send.finish().is_ok() {
                // Either way there is nothing more to do.
                let _acknowledged = self.send.stopped().await;
            }
        };
        let _in_time = timeout(GOODBYE_DURATION_MAX, told).await;
        (self.ended(Advice::Retry, "the agent stops".to_owned()), CloseCode::Normal)
    }
}

async fn next(reports: &mut Option<mpsc::Receiver<Report>>) -> Option<Report> {
    match reports {
        Some(reports) => reports.recv().await,
        None => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_yet_to_come_has_no_age() {
        let (told, passed) = (Timestamp(1_000_000), Duration::from_secs(60));
        let age = |since| age_of(Timestamp(since), told, passed);
        assert_eq!(age(900_000), Some(Duration::from_secs(160)));
        assert_eq!(age(1_060_000 + HANDSHAKE_TIMEOUT_MS), Some(Duration::ZERO), "the welcome was on its way");
        assert_eq!(age(1_060_001 + HANDSHAKE_TIMEOUT_MS), None);
        assert_eq!(age(u64::MAX), None);
    }
}
