//! What belongs to no tenant: the tenants themselves, and the API's tokens.

use stella_protocol::id::{ApiTokenId, TenantId};
use stella_protocol::time::Timestamp;

use super::Decision;
use crate::command::{Outcome, Request, SystemCommand};
use crate::event::{Fact, StreamId};
use crate::rejection::Rejection;
use crate::state::State;

/// How long an API token's name may be, in characters.
const TOKEN_NAME_MAX: usize = 128;

pub(super) fn decide(
    state: &State,
    request: &Request,
    command: &SystemCommand,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let mut decision = Decision::new(state);
    match command {
        SystemCommand::CreateTenant { id, name } => {
            if state.system.tenants.contains_key(name) {
                return Err(Rejection::exists(TenantId::KIND, name));
            }
            if state.tenants.contains_key(id) {
                return Err(Rejection::exists(TenantId::KIND, id));
            }
            let (created, opened) = (
                Fact::TenantCreated { id: *id, name: name.clone() },
                Fact::TenantOpened { id: *id, name: name.clone() },
            );
            decision.emit(StreamId::System, request, now, created)?;
            decision.emit(StreamId::Tenant(*id), request, now, opened)?;
            decision.outcome = Outcome::Tenant(*id);
        }
        SystemCommand::CreateApiToken { id, name, hash } => {
            let length = name.chars().count();
            if length == 0 || length > TOKEN_NAME_MAX || name.contains(char::is_control) {
                let problem = format!("must have 1 to {TOKEN_NAME_MAX} characters and no control characters");
                return Err(Rejection::invalid("name", problem));
            }
            if state.system.api_tokens.contains_key(id) {
                return Err(Rejection::exists(ApiTokenId::KIND, id));
            }
            let fact = Fact::ApiTokenCreated { id: *id, name: name.clone(), hash: *hash };
            decision.emit(StreamId::System, request, now, fact)?;
            decision.outcome = Outcome::ApiToken(*id);
        }
        SystemCommand::RevokeApiToken { id } => {
            if !state.system.api_tokens.contains_key(id) {
                return Err(Rejection::not_found(ApiTokenId::KIND, id));
            }
            if state.system.api_tokens.len() == 1 {
                let problem =
                    "it is the last one, and nobody could come in any more; create another one first";
                return Err(Rejection::conflict(problem));
            }
            decision.emit(StreamId::System, request, now, Fact::ApiTokenRevoked { id: *id })?;
        }
    }
    Ok(decision)
}
