//! Enrolment: tokens, and hosts that become agents with them.

use stella_protocol::digest::Digest;
use stella_protocol::id::{AgentId, EnrolmentTokenId};
use stella_protocol::limits::NAME_BYTES_MAX;
use stella_protocol::message::Profile;

use super::fields;
use super::transaction::Transaction;
use crate::apply::uses;
use crate::command::{NewEnrolmentToken, Outcome};
use crate::event::Fact;
use crate::name::Name;
use crate::rejection::Rejection;

/// How many hosts one token may enrol: a large fleet, and a bound for what a stolen token costs.
const USES_MAX: u64 = 100_000;
/// How many numbered names are tried before an agent's own id is part of its name.
const NUMBERED_NAMES_MAX: u32 = 9;

pub(super) fn revoke_token(
    tx: &mut Transaction<'_>,
    id: EnrolmentTokenId,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if !tx.tenant.enrolment_tokens.contains_key(&id) {
        return Err(Rejection::not_found(EnrolmentTokenId::KIND, id));
    }
    tx.emit(Fact::EnrolmentTokenRevoked { id, reason: reason.to_owned() })?;
    Ok(Outcome::Done)
}

pub(super) fn create_token(tx: &mut Transaction<'_>, new: &NewEnrolmentToken) -> Result<Outcome, Rejection> {
    if tx.tenant.enrolment_tokens.contains_key(&new.id) {
        return Err(Rejection::exists(EnrolmentTokenId::KIND, new.id));
    }
    fields::labels(&new.labels)?;
    fields::range("uses_max", new.uses_max.into(), (1, USES_MAX), "")?;
    if new.agent_name.is_some() && new.uses_max != 1 {
        return Err(Rejection::invalid(
            "agent_name",
            "only one agent can have it; leave it out, or set uses_max to 1",
        ));
    }
    if new.expires_at <= tx.now {
        return Err(Rejection::invalid("expires_at", "has passed already; choose a time in the future"));
    }
    tx.emit(Fact::EnrolmentTokenCreated {
        id: new.id,
        secret_hash: new.secret_hash,
        agent_name: new.agent_name.clone(),
        labels: new.labels.clone(),
        uses_max: new.uses_max,
        expires_at: new.expires_at,
        profile: Some(new.profile),
    })?;
    Ok(Outcome::EnrolmentToken(new.id))
}

/// What a host says of itself when it enrols.
pub(super) struct Host<'h> {
    pub(super) hostname: &'h str,
    pub(super) takes_profile: bool,
    pub(super) wanted: Option<Profile>,
}

pub(super) fn enrol(
    tx: &mut Transaction<'_>,
    token: EnrolmentTokenId,
    key_fingerprint: Digest,
    agent: AgentId,
    host: &Host<'_>,
) -> Result<Outcome, Rejection> {
    let Host { hostname, takes_profile, wanted } = *host;
    let refused = |problem: &str| Err(Rejection::EnrolmentRefused { problem: problem.to_owned() });
    if hostname.len() > NAME_BYTES_MAX {
        return Err(Rejection::invalid("hostname", format!("has more than {NAME_BYTES_MAX} bytes")));
    }
    let Some(paper) = tx.tenant.enrolment_tokens.get(&token) else {
        return refused("there is no such token; create a new one and try again");
    };
    if tx.now >= paper.expires_at {
        return refused("the token has expired; create a new one and try again");
    }
    // Before anything is used up: the host may come again with another word, or with another token.
    if let Some((wanted, granted)) = wanted.zip(paper.profile).filter(|(wanted, granted)| wanted != granted) {
        let (wanted, granted) = (wanted.name(), granted.name());
        return refused(&format!(
            "the token is for {granted}, and {wanted} was asked for; run it again with --profile {granted}, or create a token with --profile {wanted}. The token is not used up"
        ));
    }
    if let Some(known) = paper.used_by.get(&key_fingerprint) {
        return match tx.tenant.agents.get(known) {
            Some(agent) if agent.revoked.is_some() => refused(
                "the identity of this key was revoked; remove the agent's key and enrol with a new token",
            ),
            _ => Ok(Outcome::Agent(*known)),
        };
    }
    if paper.used_by.len() >= uses(paper.uses_max) {
        return refused("the token was used up by other hosts; create a new one and try again");
    }
    if tx.tenant.agents.contains_key(&agent) {
        return Err(Rejection::exists(AgentId::KIND, agent));
    }
    let name = match &paper.agent_name {
        Some(name) if tx.tenant.is_free_for_agent(name) => name.clone(),
        Some(name) => {
            return refused(&format!(
                "agent {name} is enrolled already; revoke it if this host takes its place, or create a token with another name"
            ));
        }
        None => {
            let wanted = Name::sanitized(hostname);
            free_name(tx, wanted.as_ref().map_or("agent", |name| name.as_str()), agent)?
        }
    };
    let hostname = hostname.to_owned();
    let profile_untold = !takes_profile;
    tx.emit(Fact::AgentEnrolled { agent, name, token, key_fingerprint, hostname, profile_untold })?;
    Ok(Outcome::Agent(agent))
}

/// The wanted name, with a number if it is taken, or with (the end of) the agent's id if many have it: never a long search.
fn free_name(tx: &Transaction<'_>, wanted: &str, agent: AgentId) -> Result<Name, Rejection> {
    let id = agent.0.simple().to_string();
    let numbers = (2..=NUMBERED_NAMES_MAX).map(|number| format!("-{number}"));
    let ids = [format!("-{}", &id[24..]), format!("-{id}")];
    for suffix in std::iter::once(String::new()).chain(numbers).chain(ids) {
        // Names are ASCII, so every byte is a place to cut.
        let kept = &wanted[..wanted.len().min(63 - suffix.len())];
        let name: Option<Name> = format!("{kept}{suffix}").parse().ok();
        if let Some(name) = name
            && tx.tenant.is_free_for_agent(&name)
        {
            return Ok(name);
        }
    }
    Err(Rejection::exists(AgentId::KIND, wanted))
}
