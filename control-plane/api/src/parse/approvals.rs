//! Whose approval is needed, and what an approval comes with.

use stella_api_types::environment::{OnExpiry as OnExpiryDto, SetApprovals};
use stella_api_types::promotion as dto;
use stella_domain::access::{Role, Scope};
use stella_domain::promotion::{
    APPROVALS_MAX, ApprovalRule, ApprovalSignature, EXPIRES_MS_DEFAULT, EXPIRES_MS_RANGE, OnExpiry, Quorum,
};
use stella_domain::state::State;
use stella_protocol::id::{AccountId, EnvironmentId, TenantId};
use stella_signing::KeyError;

use super::{in_range, public_key};
use crate::error::ApiError;
use crate::resolve;

/// Whose approval is needed. Accounts that could not approve there are as good as not there: who sets the rule may not know all.
pub(crate) fn approvals(
    state: &State,
    tenant: TenantId,
    environment: EnvironmentId,
    body: &SetApprovals,
) -> Result<Option<ApprovalRule>, ApiError> {
    if body.needed == 0 {
        return match (body.from.as_slice(), body.also.as_slice()) {
            ([], []) => Ok(None),
            ([], _) => Err(ApiError::invalid("also", "there is no first group: say it as `needed`")),
            _ => {
                Err(ApiError::invalid("from", "names accounts, and none of them has to approve; set needed"))
            }
        };
    }
    let place = Scope::Environment(tenant, environment);
    let also = body.also.iter().enumerate().map(|(at, it)| {
        let from = approvers(state, place, &format!("also[{at}].from"), &it.from)?;
        Ok(Quorum { needed: it.needed, from })
    });
    Ok(Some(ApprovalRule {
        needed: body.needed,
        from: approvers(state, place, "from", &body.from)?,
        expires_ms: expires_ms(body.expires_in_seconds)?,
        also: also.collect::<Result<_, ApiError>>()?,
        on_expiry: on_expiry(body)?,
    }))
}

fn approvers(state: &State, place: Scope, field: &str, texts: &[String]) -> Result<Vec<AccountId>, ApiError> {
    let approver = |(at, text): (usize, &String)| {
        let account = resolve::account(state, text).ok().filter(|it| it.has(Role::Approver, place));
        account.map(|it| it.id).ok_or_else(|| {
            let problem = format!("there is no account {text:?} with the role approver there");
            ApiError::invalid(format!("{field}[{at}]"), problem)
        })
    };
    let most = usize::try_from(APPROVALS_MAX).unwrap_or(0) + 1;
    texts.iter().take(most).enumerate().map(approver).collect()
}

fn expires_ms(seconds: Option<u64>) -> Result<u64, ApiError> {
    let Some(seconds) = seconds else { return Ok(EXPIRES_MS_DEFAULT) };
    let expires_ms = seconds.checked_mul(1_000).filter(|it| in_range(*it, EXPIRES_MS_RANGE));
    expires_ms.ok_or_else(|| {
        let problem = format!("is {seconds}; it must be between 60 (a minute) and 7776000 (90 days)");
        ApiError::invalid("expires_in_seconds", problem)
    })
}

fn on_expiry(body: &SetApprovals) -> Result<OnExpiry, ApiError> {
    match (body.on_expiry, body.ask_again_max) {
        (OnExpiryDto::AskAgain, times) => Ok(OnExpiry::AskAgain { times: times.unwrap_or(1) }),
        (_, Some(_)) => Err(ApiError::invalid("ask_again_max", "is only for on_expiry ask_again")),
        (OnExpiryDto::Expire, None) => Ok(OnExpiry::Expire),
        (OnExpiryDto::Reject, None) => Ok(OnExpiry::Reject),
    }
}

/// What somebody has signed. Whether the key has made it, the core finds.
pub(crate) fn approval_signature(body: &dto::ApprovalSignature) -> Result<ApprovalSignature, ApiError> {
    Ok(ApprovalSignature {
        key: public_key("signature.public_key", &body.public_key)?,
        signature: body
            .signature
            .parse()
            .map_err(|error: KeyError| ApiError::invalid("signature.signature", error.to_string()))?,
    })
}
