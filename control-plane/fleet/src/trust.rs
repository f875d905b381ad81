//! Whom an agent should trust, what it was told of it in a session, and what it says that it does.

use stella_certs::{Authority, CertificateDer, certificate_fingerprint};
use stella_domain::authority::AgentTrust;
use stella_domain::state::State;
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::message::{Trust, Trusts};

use crate::enrol::to_bytes;
use crate::limits::TRUST_REPORTS_MAX;

/// A certificate of an agent, and the trusted root that it is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    leaf: Digest,
    root: Option<Digest>,
}

impl Shown {
    /// Of a chain that TLS has accepted, or that was just issued.
    pub(crate) fn of(authority: &Authority, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = certificate_fingerprint(chain.first()?);
        Some(Self { leaf, root: authority.root_of(chain) })
    }
}

/// What one session knows of its agent's trust.
#[derive(Debug)]
pub(crate) struct AgentsTrust {
    /// The certificates that the agent may show: the one of this connection, and the newest that was issued in this session.
    shown: [Option<Shown>; 2],
    /// Whether it can be told.
    understands: bool,
    told: Option<AgentTrust>,
    reports: u32,
}

impl AgentsTrust {
    pub(crate) const fn new(shown: Option<Shown>, understands: bool) -> Self {
        Self { shown: [shown, None], understands, told: None, reports: 0 }
    }

    /// The agent has got another certificate in this session.
    pub(crate) const fn issued(&mut self, certificate: Option<Shown>) {
        self.shown[1] = certificate;
    }

    /// Whether the session may go on: one of its certificates has to be of a root that is trusted.
    pub(crate) fn check(&self, authority: &Authority) -> Result<(), CloseCode> {
        let is_trusted = |shown: &Shown| shown.root.is_some_and(|root| authority.trusts(&root));
        if self.shown.iter().flatten().any(is_trusted) { Ok(()) } else { Err(CloseCode::Unauthenticated) }
    }

    /// What to tell the agent now, if anything. It is told once: what does not reach it is said again in its next session.
    pub(crate) fn tell(
        &mut self,
        authority: &Authority,
        state: &State,
        (tenant, agent): (TenantId, AgentId),
    ) -> Option<Trust> {
        if !self.understands {
            return None;
        }
        let agent = state.tenants.get(&tenant)?.agents.get(&agent)?;
        let wanted = state.system.authority.as_ref()?.wanted_of(agent)?;
        if self.told.as_ref() == Some(&wanted) {
            return None;
        }
        let newest = self.shown[1].or(self.shown[0]);
        let renew = newest.and_then(|shown| shown.root) != Some(wanted.root);
        let roots = authority.roots_der();
        self.told = Some(wanted);
        Some(Trust { roots_der: to_bytes(&roots), renew })
    }

    /// What to record of an agent's word; `None` if it says nothing that can be relied on.
    ///
    /// # Errors
    /// If it says too much.
    pub(crate) fn hear(&mut self, trusts: Trusts) -> Result<Option<AgentTrust>, CloseCode> {
        self.reports += 1;
        if self.reports > TRUST_REPORTS_MAX {
            return Err(CloseCode::ProtocolViolation);
        }
        let shown = self.shown.iter().flatten().find(|shown| shown.leaf == trusts.certificate);
        let root = shown.and_then(|shown| shown.root);
        Ok(root.map(|root| AgentTrust { roots: trusts.roots, root }))
    }
}
