//! What a session makes of what it hears. Synchronous: the loop that owns it does the waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use stella_certs::authority::IssuedCertificate;
use stella_domain::agent::FiguresAddress;
use stella_domain::command::{Report, TenantCommand};
use stella_engine::SubmitError;
use stella_protocol::close::CloseCode;
use stella_protocol::id::QuestionId;
use stella_protocol::message::{AttemptProbed, FiguresAt, Inspected, RenewRequest, Renewed, Trusts};
use stella_protocol::session::control::{ControlEvent, ControlSession};
use stella_protocol::session::{CloseReason, SendError};
use stella_protocol::trace::TraceContext;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};

use super::Peer;
use super::reports::{Answer, Reports, Verdict};
use crate::enrol::to_bytes;
use crate::life::{Certificates, Life};
use crate::limits::{ANSWER_TRIES_MAX, ASKERS_MAX, REPORT_RETRY_PAUSE};
use crate::orders::{self, Told};
use crate::registry::{Asker, Link};
use crate::trust::{AgentsTrust, Shown};
use crate::{Shared, limits};

/// A session that was welcomed.
pub(super) struct Conversation {
    shared: Arc<Shared>,
    peer: Peer,
    link: Arc<Link>,
    session: ControlSession,
    reports: Reports,
    told: Told,
    /// Who waits for the answer to a question that is not in the state. Few: see [`crate::limits::ASKERS_MAX`].
    askers: BTreeMap<QuestionId, Asker>,
    certificates: Certificates,
    trust: AgentsTrust,
    over: Option<CloseReason>,
}

impl Conversation {
    pub(super) fn new(
        shared: Arc<Shared>,
        link: Arc<Link>,
        session: ControlSession,
        life: Life,
        trust: AgentsTrust,
        told: Told,
    ) -> Self {
        let peer = Peer { tenant: link.tenant, agent: link.agent };
        let reports = Reports::new(shared.engine.clone(), peer, link.session);
        let certificates = Certificates::shown(life);
        let askers = BTreeMap::new();
        Self { shared, peer, link, session, reports, told, askers, certificates, trust, over: None }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) const fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) const fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) const fn reports(&mut self) -> &mut Reports {
        &mut self.reports
    }

    pub(super) const fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Why it is over.
    pub(super) fn end(self) -> CloseReason {
        self.over.unwrap_or(CloseReason::Lost)
    }

    /// Whether more may be read. Otherwise the agent has to wait, because the disk does not keep up with it.
    pub(super) fn has_room(&self) -> bool {
        self.reports.len() < limits::REPORTS_MAX
    }

    /// When [`Self::timed_out`] has to be called at the latest.
    pub(super) fn deadline(&self) -> Instant {
        let at = self.session.poll_timeout().map_or_else(|| self.shared.millis(), |(_, at)| at);
        self.shared.instant(at)
    }

    /// Bytes for the control stream; empty if there are none.
    pub(super) fn take_outgoing(&mut self) -> Bytes {
        self.session.poll_transmit().unwrap_or_default()
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        let now = self.shared.engine.now();
        if now >= self.certificates.end() {
            // Whoever renews in time never sees this; a key that leaked is worth no more than its certificate.
            tracing::warn!(tenantId = %self.peer.tenant, agentId = %self.peer.agent, "an agent's certificate ended in its session");
            return self.close(CloseCode::Unauthenticated);
        }
        self.session.handle_bytes(bytes);
        self.link.heard(now, None);
        self.hear();
    }

    pub(super) fn timed_out(&mut self) {
        self.session.handle_timeout(self.shared.millis());
        self.hear();
    }

    /// The connection or the control stream is gone; with the agent's code if it closed the connection itself.
    pub(super) fn lost(&mut self, code: Option<u64>) {
        match code {
            Some(code) => self.session.handle_peer_close(code),
            None => self.session.handle_lost(),
        }
        self.hear();
    }

    pub(super) fn close(&mut self, code: CloseCode) {
        self.session.close(code);
        self.hear();
    }

    /// Ends the session if the state says so, or sends what the state wants to be sent.
    pub(super) fn look_at_the_state(&mut self) {
        if self.shared.shutdown.is_cancelled() {
            return self.close(CloseCode::ShuttingDown);
        }
        let state = self.shared.engine.state();
        let Peer { tenant, agent } = self.peer;
        if let Err(code) = orders::check(&state, tenant, agent, self.link.session) {
            return self.close(code);
        }
        if let Err(code) = self.trust.check(&self.shared.authority) {
            tracing::warn!(tenantId = %tenant, agentId = %agent, "an agent's certificate is of a root that is trusted no more");
            return self.close(code);
        }
        if let Some(trust) = self.trust.tell(&self.shared.authority, &state, (tenant, agent)) {
            if trust.renew {
                self.certificates.wanted();
            }
            if self.session.trust(trust).is_err() {
                // It does not read, and is told in its next session.
                return self.close(CloseCode::Overloaded);
            }
        }
        self.ask_for_askers();
        self.told.ask_where_figures(&mut self.session);
        let clock = &self.shared.engine;
        match orders::tell(&mut self.told, &state, (tenant, agent), &mut self.session, clock) {
            // The rest follows at the next look. A session that is over has nobody to tell.
            Ok(()) | Err(SendError::QueueFull { .. } | SendError::NotNow { .. }) => {}
            Err(error @ (SendError::ForeignDispatch { .. } | SendError::Frame(_))) => {
                tracing::error!(tenantId = %tenant, agentId = %agent, %error, "an order cannot be sent");
            }
        }
    }

    /// Acts on what became of a report.
    pub(super) fn answered(&mut self, answer: Answer) {
        match self.reports.settle(answer) {
            Verdict::Nothing => {}
            Verdict::Acknowledge(key) => {
                // An agent that does not read is sent away; it reports again in its next session.
                if self.session.acknowledge(key).is_err() {
                    self.close(CloseCode::Overloaded);
                }
            }
            Verdict::Close(code) => self.close(code),
        }
        self.send_reports();
    }

    /// A stream has ended, with a code if the session has to. A task of one that was aborted or has panicked has lost its stream, and
    /// the agent opens another.
    pub(super) fn streamed(&mut self, ended: Result<Option<CloseCode>, JoinError>) {
        if let Ok(Some(code)) = ended {
            self.close(code);
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.session.poll_event(self.shared.millis()) {
            match event {
                ControlEvent::Heartbeat(heartbeat) => {
                    self.link.heard(self.shared.engine.now(), Some(heartbeat.resources));
                }
                ControlEvent::Accepted(accepted) => self.reports.take(Report::Accepted(accepted)),
                ControlEvent::Running(running) => self.reports.take(Report::Running(running)),
                ControlEvent::Finished(finished) => self.reports.take(Report::Finished(finished)),
                ControlEvent::Ending(ending) => self.reports.take(Report::Ending(ending)),
                ControlEvent::Renew(request) => self.renew(&request),
                ControlEvent::Trusts(trusts) => self.trusts(trusts),
                ControlEvent::Closed(reason) => self.over = Some(reason),
                ControlEvent::Inspected(inspected) => self.inspected(inspected),
                ControlEvent::Probed(probed) => self.probed(probed),
                ControlEvent::FiguresAt(figures) => self.figures_at(figures),
                // The state machine gives a second hello as a violation.
                ControlEvent::Hello(_) => self.session.close(CloseCode::ProtocolViolation),
            }
        }
        self.send_reports();
    }

    fn send_reports(&mut self) {
        while let Some(answer) = self.reports.send() {
            match self.reports.settle(answer) {
                Verdict::Nothing => {}
                Verdict::Acknowledge(key) if self.session.acknowledge(key).is_ok() => {}
                Verdict::Acknowledge(_) => return self.end_with(CloseCode::Overloaded),
                Verdict::Close(code) => return self.end_with(code),
            }
        }
    }

    /// As [`Self::close`], for callers that are inside of it.
    fn end_with(&mut self, code: CloseCode) {
        self.session.close(code);
        if let Some(ControlEvent::Closed(reason)) = self.session.poll_event(self.shared.millis()) {
            self.over = Some(reason);
        }
    }

    /// Has it recorded, without waiting for it: if that fails, the agent is told again in its next session.
    fn trusts(&mut self, trusts: Trusts) {
        let trust = match self.trust.hear(trusts) {
            Ok(Some(trust)) => trust,
            Ok(None) => return,
            Err(code) => return self.session.close(code),
        };
        let (peer, session) = (self.peer, self.link.session);
        let command = TenantCommand::RecordAgentTrust { agent: peer.agent, session, trust };
        let request = super::request(peer, TraceContext::default(), command);
        let engine = self.shared.engine.clone();
        self.shared.tasks.spawn(async move {
            if let Err(error) = engine.submit(request).await {
                tracing::warn!(tenantId = %peer.tenant, agentId = %peer.agent, %error, "what an agent trusts was not recorded");
            }
        });
    }

    /// Has an answer recorded that somebody waits for, without waiting for that: who needs it asks again.
    fn inspected(&mut self, inspected: Inspected) {
        if let Some(asker) = self.askers.remove(&inspected.question) {
            // Who does not wait any more does not need it.
            return drop(asker.send(inspected.holdings));
        }
        if !self.told.is_answered(inspected.question) {
            return;
        }
        let (agent, session) = (self.peer.agent, self.link.session);
        let Inspected { question, holdings } = inspected;
        let command = TenantCommand::AnswerInspection { agent, session, question, holdings };
        self.record(command, "what a host holds");
    }

    /// As [`Self::inspected`], about an attempt.
    fn probed(&mut self, probed: AttemptProbed) {
        if !self.told.is_answered(probed.question) {
            return;
        }
        let (agent, session) = (self.peer.agent, self.link.session);
        let AttemptProbed { question, effect } = probed;
        self.record(
            TenantCommand::AnswerProbe { agent, session, question, effect },
            "what is left of a task",
        );
    }

    /// Has it recorded where the agent's own figures are: where it says, or where it connects from.
    fn figures_at(&mut self, figures: FiguresAt) {
        if !self.told.figures_are_answered() {
            return self.session.close(CloseCode::ProtocolViolation);
        }
        let FiguresAt { host, port } = figures;
        let seen = || self.link.figures().remote.ip().to_canonical().to_string();
        let at = FiguresAddress { host: host.unwrap_or_else(seen), port };
        let (agent, session) = (self.peer.agent, self.link.session);
        self.record(TenantCommand::RecordAgentFigures { agent, session, at }, "where an agent's figures are");
    }

    /// Has something recorded that an agent says, without waiting for it. If that fails for long, the next session tells it again.
    fn record(&self, command: TenantCommand, what: &'static str) {
        let peer = self.peer;
        let request = super::request(peer, TraceContext::default(), command);
        let engine = self.shared.engine.clone();
        self.shared.tasks.spawn(async move {
            for _ in 0..ANSWER_TRIES_MAX {
                match engine.submit(request.clone()).await {
                    Err(SubmitError::NoSpace { .. } | SubmitError::Overloaded) => {
                        sleep(REPORT_RETRY_PAUSE).await;
                    }
                    // A rejection says that a newer session is there, which was asked anew.
                    Ok(_) | Err(SubmitError::Rejected(_) | SubmitError::Stopping) => return,
                }
            }
            tracing::warn!(tenantId = %peer.tenant, agentId = %peer.agent, "{what} was not recorded");
        });
    }

    /// Asks what somebody wants to know who waits for it, and forgets who does not any more.
    fn ask_for_askers(&mut self) {
        self.askers.retain(|_, asker| !asker.is_closed());
        for (inspect, asker) in self.link.take_questions() {
            let question = inspect.question;
            let has_room = self.askers.len() < ASKERS_MAX && self.told.understands_questions();
            if has_room && self.session.inspect(Box::new(inspect)).is_ok() {
                self.askers.insert(question, asker);
            }
        }
    }

    fn renew(&mut self, request: &RenewRequest) {
        let Peer { tenant, agent } = self.peer;
        if let Err(code) = orders::admit(&self.shared.engine.state(), tenant, agent) {
            return self.session.close(code);
        }
        if !self.shared.pace.may_renew(agent) {
            tracing::warn!(tenantId = %tenant, agentId = %agent, "an agent asks for certificates all the time");
            return self.refuse(CloseCode::Overloaded);
        }
        let lifetime = self.shared.config.certificate_lifetime;
        // The engine's clock, as the one that the certificate's end is compared with.
        let now = self.shared.engine.now();
        self.certificates.asked(now);
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.0);
        match self.shared.authority.issue_agent(&request.csr_der, tenant, agent, now, lifetime) {
            Ok(issued) => self.send_certificate(&issued),
            Err(stella_certs::authority::Error::Request(error)) => {
                tracing::warn!(tenantId = %tenant, agentId = %agent, %error, "a certificate request was refused");
                self.refuse(CloseCode::ProtocolViolation);
            }
            Err(error) => {
                tracing::error!(tenantId = %tenant, agentId = %agent, %error, "a certificate cannot be renewed");
                count_renewal("failed");
                self.session.close(CloseCode::Internal);
            }
        }
    }

    fn refuse(&mut self, code: CloseCode) {
        count_renewal("refused");
        self.session.close(code);
    }

    fn send_certificate(&mut self, issued: &IssuedCertificate) {
        let Peer { tenant, agent } = self.peer;
        self.certificates.issued(Life::between(issued.not_before, issued.not_after));
        self.link.set_life(self.certificates.known());
        self.trust.issued(Shown::of(&self.shared.authority, &issued.chain_der));
        let sent = self.session.renewed(Renewed {
            chain_der: to_bytes(&issued.chain_der),
            roots_der: to_bytes(&self.shared.authority.roots_der()),
        });
        match sent {
            Ok(()) => {
                count_renewal("sent");
                tracing::info!(tenantId = %tenant, agentId = %agent, event = "agent.certificate_renewed", "Agent certificate renewed");
            }
            Err(error) => {
                tracing::warn!(tenantId = %tenant, agentId = %agent, %error, "a renewed certificate was not sent");
                count_renewal("failed");
                self.session.close(CloseCode::Overloaded);
            }
        }
    }
}

/// What becomes of requests for certificates. All of them are there from 0 on: a first failure is an increase.
pub(crate) const RENEWALS: [&str; 3] = ["sent", "refused", "failed"];

fn count_renewal(result: &'static str) {
    metrics::counter!("stella_fleet_renewals_total", "result" => result).increment(1);
}
