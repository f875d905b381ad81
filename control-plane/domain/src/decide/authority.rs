//! Records what was done to the certificate authority, and what agents make of it.

use stella_protocol::id::{AgentId, SessionEpoch};
use stella_protocol::limits::CERTIFICATES_MAX;

use super::agent;
use super::transaction::Transaction;
use crate::authority::{AgentTrust, AuthorityRecord};
use crate::command::Outcome;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::state::State;

/// What has happened to the authority, if anything has.
pub(super) fn record(state: &State, record: &AuthorityRecord) -> Result<Option<Fact>, Rejection> {
    if record.trusted.len() > CERTIFICATES_MAX {
        return Err(Rejection::invalid("trusted", format!("has more than {CERTIFICATES_MAX} roots")));
    }
    if !record.trusted.is_sorted() || !record.trusted.contains(&record.root) {
        return Err(Rejection::invalid("trusted", "must be in order, with the root among them"));
    }
    let before = state.system.authority.as_ref().map(|it| &it.record);
    let change = record.change_since(before);
    Ok(change.map(|change| Fact::AuthorityChanged { change, record: record.clone() }))
}

/// An agent has on its disk what it trusts and shows from now on.
pub(super) fn agent_trusts(
    tx: &mut Transaction<'_>,
    id: AgentId,
    session: SessionEpoch,
    trust: &AgentTrust,
) -> Result<Outcome, Rejection> {
    let mut trust = trust.clone();
    trust.roots.sort_unstable();
    trust.roots.dedup();
    if trust.roots.len() > CERTIFICATES_MAX {
        return Err(Rejection::invalid("roots", format!("there are more than {CERTIFICATES_MAX}")));
    }
    agent::is_heard(tx, id, session)?;
    // One that changes its mind all the time is not believed for now, and says it again in its next session.
    let may_note = tx.tenant.work.get(&id).is_some_and(|work| work.may_note(tx.now));
    if may_note && tx.agent(id)?.trust.as_ref() != Some(&trust) {
        tx.emit(Fact::AgentTrustChanged { agent: id, trust })?;
    }
    Ok(Outcome::Done)
}
