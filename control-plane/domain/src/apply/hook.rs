//! Incoming webhooks.

use std::sync::Arc;

use stella_protocol::id::HookId;

use super::{Applied, ensure, misplaced, missing, vacant};
use crate::event::{Event, Fact};
use crate::hook::{FORMER_SALTS_MAX, FormerSalt, Hook};
use crate::tenant::TenantState;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the caller sorts them")]
    pub(super) fn apply_hook(&mut self, event: &Event) -> Applied {
        let fact = &event.fact;
        match fact {
            Fact::HookCreated { id, name, account, action, when, salt } => {
                vacant(!self.hooks.contains_key(id), HookId::KIND, id, fact)?;
                let is_free = self.hooks.values().all(|hook| hook.name != *name);
                ensure(is_free, format!("hook {name}"), "there already", fact)?;
                let hook = Hook {
                    id: *id,
                    name: name.clone(),
                    account: *account,
                    action: action.clone(),
                    when: when.clone(),
                    salt: *salt,
                    formers: Vec::new(),
                    created_at: event.at,
                    created_by: event.actor.clone(),
                    rotated_by: None,
                };
                self.hooks.insert(*id, Arc::new(hook));
                Ok(())
            }
            Fact::HookRotated { id, salt, former_until, keeps_others } => {
                let hook = self.hooks.get_mut(id).ok_or_else(|| missing(HookId::KIND, id, fact))?;
                let hook = Arc::make_mut(hook);
                hook.formers.retain(|former| *keeps_others && former.until > event.at);
                if let Some(until) = *former_until {
                    hook.formers.push(FormerSalt { salt: hook.salt, until, by: hook.rotated_by.take() });
                    let over = hook.formers.len().saturating_sub(FORMER_SALTS_MAX);
                    hook.formers.drain(..over);
                }
                hook.salt = *salt;
                hook.rotated_by = Some(event.actor.clone());
                Ok(())
            }
            Fact::HookRemoved { id } => {
                self.hooks.remove(id).map(drop).ok_or_else(|| missing(HookId::KIND, id, fact))
            }
            other => Err(misplaced(other)),
        }
    }
}
