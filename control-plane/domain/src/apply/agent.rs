//! Who serves: enrolment tokens and agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use stella_protocol::id::{AgentId, EnrolmentTokenId, SessionEpoch};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, illegal, misplaced, missing, vacant};
use crate::agent::{Agent, Connectivity, EnrolmentToken, RECONNECT_WINDOW_MS, Revocation, lost_its_end};
use crate::event::{Event, Fact, IllegalTransition};
use crate::hold::Hold;
use crate::tenant::{AgentWork, TenantState, Timer};

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_agent(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        match fact {
            Fact::EnrolmentTokenCreated { .. } => self.token_created(at, fact),
            Fact::EnrolmentTokenRevoked { id, reason: _ } | Fact::EnrolmentTokenForgotten { id } => {
                let token = self.enrolment_tokens.remove(id);
                let token = token.ok_or_else(|| missing(EnrolmentTokenId::KIND, id, fact))?;
                self.timers.remove(&(token.forgotten_at(), Timer::EnrolmentTokenEnded(*id)));
                Ok(())
            }
            Fact::AgentEnrolled { .. } => self.agent_enrolled(at, fact),
            Fact::AgentConnected { .. } => self.agent_connected(at, fact),
            Fact::AgentDisconnected { agent: id, session, reason: _ } => {
                let agent = self.agent_mut(*id, fact)?;
                let live =
                    matches!(agent.connectivity, Connectivity::Online { .. }) && agent.session == *session;
                ensure(live, format!("agent {id}"), connectivity(agent), fact)?;
                agent.connectivity = Connectivity::Suspect { since: at };
                agent.silent_since = Some(at);
                self.silent.insert((at, *id));
                self.timers.insert((at.plus_ms(RECONNECT_WINDOW_MS), Timer::ReconnectWindow(*id)));
                Ok(())
            }
            Fact::AgentOffline { agent: id } => {
                let agent = self.agent_mut(*id, fact)?;
                let Connectivity::Suspect { since } = agent.connectivity else {
                    return Err(illegal(format!("agent {id}"), connectivity(agent), fact));
                };
                agent.connectivity = Connectivity::Offline { since: at };
                self.stop_waiting_for(*id, since);
                Ok(())
            }
            Fact::AgentRevoked { agent: id, reason } => {
                let agent = self.agent_mut(*id, fact)?;
                ensure(agent.revoked.is_none(), format!("agent {id}"), "revoked", fact)?;
                agent.revoked = Some(Revocation { at, reason: reason.clone() });
                let before = std::mem::replace(&mut agent.connectivity, Connectivity::Offline { since: at });
                if let Connectivity::Suspect { since } = before {
                    self.stop_waiting_for(*id, since);
                }
                self.end_silence(*id, fact)
            }
            Fact::AgentUndrained { agent: id } => {
                let agent = self.agent_mut(*id, fact)?;
                ensure(agent.draining.is_some(), format!("agent {id}"), "not draining", fact)?;
                agent.draining = None;
                Ok(())
            }
            Fact::AgentTrustChanged { agent: id, trust } => {
                let agent = self.agent_mut(*id, fact)?;
                ensure(agent.revoked.is_none(), format!("agent {id}"), "revoked", fact)?;
                agent.trust = Some(trust.clone());
                self.note(*id, at, fact)
            }
            Fact::AgentFiguresMoved { agent: id, at: address } => {
                let agent = self.agent_mut(*id, fact)?;
                ensure(agent.revoked.is_none(), format!("agent {id}"), "revoked", fact)?;
                agent.figures.clone_from(address);
                self.note(*id, at, fact)
            }
            Fact::ReportIgnored { agent: id, key: _, reason: _ } => self.note(*id, at, fact),
            other => Err(misplaced(other)),
        }
    }

    pub(super) fn apply_draining(&mut self, event: &Event) -> Applied {
        let fact = &event.fact;
        let Fact::AgentDraining { agent: id, reason } = fact else { return Err(misplaced(fact)) };
        let agent = self.agent_mut(*id, fact)?;
        ensure(agent.revoked.is_none(), format!("agent {id}"), "revoked", fact)?;
        // Another reason does not begin it anew.
        let since = agent.draining.as_ref().map_or(event.at, |hold| hold.since);
        agent.draining = Some(Hold { reason: reason.clone(), by: event.actor.clone(), since });
        Ok(())
    }

    fn token_created(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let Fact::EnrolmentTokenCreated {
            id,
            secret_hash,
            agent_name,
            labels,
            uses_max,
            expires_at,
            profile,
        } = fact
        else {
            return Err(misplaced(fact));
        };
        vacant(!self.enrolment_tokens.contains_key(id), EnrolmentTokenId::KIND, id, fact)?;
        let token = EnrolmentToken {
            id: *id,
            secret_hash: *secret_hash,
            agent_name: agent_name.clone(),
            labels: labels.clone(),
            profile: *profile,
            uses_max: *uses_max,
            used_by: BTreeMap::new(),
            expires_at: *expires_at,
            created_at: at,
        };
        self.timers.insert((token.forgotten_at(), Timer::EnrolmentTokenEnded(*id)));
        self.enrolment_tokens.insert(*id, Arc::new(token));
        Ok(())
    }

    /// Counts an event that changes next to nothing.
    fn note(&mut self, id: AgentId, at: Timestamp, fact: &Fact) -> Applied {
        let work = self.work.get_mut(&id).ok_or_else(|| missing(AgentId::KIND, id, fact))?;
        Arc::make_mut(work).note(at);
        Ok(())
    }

    fn agent_enrolled(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let Fact::AgentEnrolled { agent: id, name, token, key_fingerprint, hostname, profile_untold } = fact
        else {
            return Err(misplaced(fact));
        };
        vacant(!self.agents.contains_key(id), AgentId::KIND, id, fact)?;
        vacant(self.is_free_for_agent(name), AgentId::KIND, name, fact)?;
        let paper = self
            .enrolment_tokens
            .get_mut(token)
            .ok_or_else(|| missing(EnrolmentTokenId::KIND, token, fact))?;
        let paper = Arc::make_mut(paper);
        let unused =
            !paper.used_by.contains_key(key_fingerprint) && paper.used_by.len() < uses(paper.uses_max);
        ensure(unused, format!("enrolment token {token}"), "used up", fact)?;
        paper.used_by.insert(*key_fingerprint, *id);
        let agent = Agent {
            id: *id,
            name: name.clone(),
            labels: paper.labels.clone(),
            profile: paper.profile.filter(|_| !profile_untold),
            hostname: hostname.clone(),
            version: String::new(),
            capabilities: 0,
            key_fingerprint: *key_fingerprint,
            token: *token,
            connectivity: Connectivity::Never,
            silent_since: None,
            session: SessionEpoch::default(),
            journal: None,
            revoked: None,
            draining: None,
            trust: None,
            figures: None,
            enrolled_at: at,
        };
        self.agents.insert(*id, Arc::new(agent));
        self.index.agents.insert(name.clone(), *id);
        self.work.insert(*id, Arc::new(AgentWork::default()));
        Ok(())
    }

    fn agent_connected(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let Fact::AgentConnected { agent: id, session, journal, version, capabilities } = fact else {
            return Err(misplaced(fact));
        };
        let agent = self.agent_mut(*id, fact)?;
        ensure(agent.revoked.is_none(), format!("agent {id}"), "revoked", fact)?;
        ensure(
            *session == agent.session.next(),
            format!("agent {id}"),
            format!("in session {}", agent.session),
            fact,
        )?;
        agent.session = *session;
        agent.journal = Some(*journal);
        agent.version.clone_from(version);
        agent.capabilities = *capabilities;
        let before = std::mem::replace(&mut agent.connectivity, Connectivity::Online { since: at });
        if let Connectivity::Suspect { since } = before {
            self.stop_waiting_for(*id, since);
        }
        self.end_silence(*id, fact)?;
        let work = self.work.get_mut(id).ok_or_else(|| missing(AgentId::KIND, id, fact))?;
        let work = Arc::make_mut(work);
        if work.journal.is_some_and(|known| lost_its_end(known, *journal)) {
            work.went_back = Some(at);
        }
        work.journal = Some(*journal);
        Ok(())
    }

    fn end_silence(&mut self, id: AgentId, fact: &Fact) -> Applied {
        if let Some(since) = self.agent_mut(id, fact)?.silent_since.take() {
            self.silent.remove(&(since, id));
        }
        Ok(())
    }

    fn stop_waiting_for(&mut self, agent: AgentId, suspect_since: Timestamp) {
        self.timers.remove(&(suspect_since.plus_ms(RECONNECT_WINDOW_MS), Timer::ReconnectWindow(agent)));
    }

    fn agent_mut(&mut self, id: AgentId, fact: &Fact) -> Result<&mut Agent, IllegalTransition> {
        self.agents.get_mut(&id).map(Arc::make_mut).ok_or_else(|| missing(AgentId::KIND, id, fact))
    }
}

/// Uses as a length; what does not fit is more than there can be keys.
pub(crate) fn uses(uses_max: u32) -> usize {
    usize::try_from(uses_max).unwrap_or(usize::MAX)
}

fn connectivity(agent: &Agent) -> String {
    let state = match agent.connectivity {
        Connectivity::Never => "never seen",
        Connectivity::Online { .. } => "online",
        Connectivity::Suspect { .. } => "suspect",
        Connectivity::Offline { .. } => "offline",
    };
    format!("{state} in session {}", agent.session)
}
