//! Rules of environments.

use stella_api_types::environment::{Needs as NeedsDto, SetPath};
use stella_domain::environment::{Needs, PromotionPath, Requirement, SOAK_MS_RANGE};
use stella_domain::tenant::TenantState;

use crate::error::ApiError;
use crate::resolve;

/// What a release must have been through; `None` is nothing.
pub(crate) fn path(tenant: &TenantState, body: &SetPath) -> Result<Option<PromotionPath>, ApiError> {
    let Some(after) = &body.after else {
        return match body.others.as_slice() {
            [] => Ok(None),
            _ => Err(ApiError::invalid("others", "there is no first environment: say it as `after`")),
        };
    };
    let requirement = |field: &str, after: &str, soak_seconds: u64| {
        let soak_ms = soak_ms(field, soak_seconds)?;
        Ok(Requirement { after: resolve::environment(tenant, after)?.id, soak_ms })
    };
    let others = body.others.iter().enumerate().map(|(at, other)| {
        requirement(&format!("others[{at}].soak_seconds"), &other.after, other.soak_seconds)
    });
    let path = PromotionPath {
        first: requirement("soak_seconds", after, body.soak_seconds)?,
        auto: body.auto,
        others: others.collect::<Result<_, ApiError>>()?,
        needs: match body.needs {
            NeedsDto::All => Needs::All,
            NeedsDto::Any => Needs::Any,
        },
    };
    Ok(Some(path))
}

/// How long a release has to prove itself, from seconds to milliseconds.
fn soak_ms(field: &str, seconds: u64) -> Result<u64, ApiError> {
    let max = SOAK_MS_RANGE.1 / 1_000;
    if seconds <= max {
        return Ok(seconds * 1_000);
    }
    Err(ApiError::invalid(field, format!("is {seconds}; it must be at most {max} (30 days)")))
}
