//! Whether those whom approval rules name can approve: an account may be removed or lose its role long after a rule was made.

use std::collections::{BTreeMap, BTreeSet};

use stella_protocol::id::{AccountId, EnvironmentId, TenantId};

use crate::access::{Role, Scope};
use crate::promotion::ApprovalRule;
use crate::state::State;

/// A rule that names an account which cannot approve there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedInVain {
    /// The tenant of the environment.
    pub tenant: TenantId,
    /// Whose rule it is.
    pub environment: EnvironmentId,
    /// How many approvals those whom the rule names can still give it.
    pub given: u32,
    /// How many it needs of them.
    pub needed: u32,
}

/// The rules that name an account in vain, also when it was removed.
#[must_use]
pub fn named_in_vain(state: &State, account: AccountId) -> Vec<NamedInVain> {
    let mut found = Vec::new();
    for tenant in state.tenants.values() {
        for environment in tenant.environments.values() {
            let place = Scope::Environment(tenant.id, environment.id);
            let Some(rule) = environment.approvals.as_ref().filter(|rule| named(rule).contains(&account))
            else {
                continue;
            };
            let gone = gone(state, rule, place);
            if gone.contains_key(&account) {
                let (given, needed) = met_without(rule, |id| gone.contains_key(id));
                found.push(NamedInVain { tenant: tenant.id, environment: environment.id, given, needed });
            }
        }
    }
    found
}

/// How many approvals those whom a rule names could give it without some of them, and how many it needs of them. Whoever has the role
/// may be anybody: only the groups that name somebody can lack some.
pub(crate) fn met_without(rule: &ApprovalRule, is_out: impl Fn(&AccountId) -> bool) -> (u32, u32) {
    let groups = ApprovalRule {
        needed: if rule.from.is_empty() { 0 } else { rule.needed },
        also: rule.also.iter().filter(|it| !it.from.is_empty()).cloned().collect(),
        ..rule.clone()
    };
    let accounts: Vec<AccountId> = named(rule).into_iter().filter(|id| !is_out(id)).collect();
    (groups.met_by(&accounts), groups.needed_in_all())
}

/// Those whom a rule names.
pub(crate) fn named(rule: &ApprovalRule) -> BTreeSet<AccountId> {
    rule.groups().flat_map(|(_, from)| from.iter().copied()).collect()
}

/// Those whom a rule names and who cannot approve there now, each with the reason. Of one that was removed only the id is left.
pub(crate) fn gone(state: &State, rule: &ApprovalRule, place: Scope) -> BTreeMap<AccountId, String> {
    let why = |id| match state.system.accounts.get(&id) {
        None => Some(format!("account {id} was removed")),
        Some(account) if !account.has(Role::Approver, place) => {
            Some(format!("account {} has not the role approver there", account.name))
        }
        Some(_) => None,
    };
    named(rule).into_iter().filter_map(|id| Some((id, why(id)?))).collect()
}
