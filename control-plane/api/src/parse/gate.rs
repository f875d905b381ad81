//! Gates, from the shapes of requests.

use stella_api_types::gate as dto;
use stella_domain::access::{Role, Scope};
use stella_domain::command::ActingAccount;
use stella_domain::findings::Severity;
use stella_domain::gate::{Allowed, Check, Comparison, Gate, Number, Security, TTL_MS_DEFAULT, TTL_MS_RANGE};
use stella_domain::state::State;
use stella_domain::tenant::TenantState;

use super::{in_range, name, reason, signature_rule};
use crate::error::ApiError;
use crate::resolve;

/// What must be so for a release to come to an environment.
pub(crate) fn gate(state: &State, tenant: &TenantState, body: &dto::SetGate) -> Result<Gate, ApiError> {
    Ok(Gate {
        name: name("name", &body.name)?,
        check: check(state, tenant, &body.check)?,
        ttl_ms: match body.ttl_seconds {
            None => TTL_MS_DEFAULT,
            Some(seconds) => {
                seconds.checked_mul(1_000).filter(|ms| in_range(*ms, TTL_MS_RANGE)).ok_or_else(|| {
                    let problem = format!("is {seconds}; it must be between 1 and 604800 (a week)");
                    ApiError::invalid("ttl_seconds", problem)
                })?
            }
        },
        verifies: body.verifies,
    })
}

fn check(state: &State, tenant: &TenantState, check: &dto::Check) -> Result<Check, ApiError> {
    Ok(match check {
        dto::Check::Security { limits, allowed, scanners, max_age_seconds, reporters } => {
            let limits = limits.iter().map(|(text, limit)| Ok((severity(text)?, *limit)));
            let scanners = scanners.iter().enumerate();
            let scanners = scanners.map(|(at, text)| name(&format!("check.scanners[{at}]"), text));
            let reporters = reporters.iter().enumerate();
            let reporters =
                reporters.map(|(at, text)| account(state, tenant, &format!("check.reporters[{at}]"), text));
            Check::Security(Security {
                limits: limits.collect::<Result<_, ApiError>>()?,
                allowed: allowed.iter().enumerate().map(self::allowed).collect::<Result<_, _>>()?,
                scanners: scanners.collect::<Result<_, _>>()?,
                max_age_ms: max_age_seconds.map(|seconds| seconds.saturating_mul(1_000)),
                reporters: reporters.collect::<Result<_, _>>()?,
            })
        }
        dto::Check::Metric { source, query, comparison, threshold } => Check::Metric {
            source: name("check.source", source)?,
            query: query.clone(),
            comparison: self::comparison(*comparison),
            threshold: threshold
                .as_f64()
                .and_then(|number| Number::try_from(number).ok())
                .ok_or_else(|| ApiError::invalid("check.threshold", "must be a finite number"))?,
        },
        dto::Check::Expression { expression } => Check::Expression { expression: expression.clone() },
        dto::Check::Http { endpoint } => Check::Http { endpoint: name("check.endpoint", endpoint)? },
        dto::Check::Manual {} => Check::Manual,
        dto::Check::Signature { needed, keys } => {
            Check::Signature(signature_rule(tenant, "check.keys", *needed, keys)?)
        }
    })
}

/// Accounts that have nothing to do in the tenant are as good as not there: who sets the gate may not know all.
fn account(state: &State, tenant: &TenantState, field: &str, text: &str) -> Result<ActingAccount, ApiError> {
    let name = name(field, text)?;
    let here = Scope::Somewhere(tenant.id);
    let found = resolve::account(state, name.as_str()).ok().filter(|it| it.has(Role::Viewer, here));
    found.map(|it| ActingAccount { id: it.id, name }).ok_or_else(|| {
        ApiError::invalid(field, format!("there is no account {text} with a role in this tenant"))
    })
}

fn severity(text: &str) -> Result<Severity, ApiError> {
    Severity::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| {
        let known = Severity::ALL.map(Severity::name).join(", ");
        ApiError::invalid(format!("check.limits.{text}"), format!("is no severity; there are {known}"))
    })
}

fn allowed((at, allowed): (usize, &dto::AllowedFinding)) -> Result<Allowed, ApiError> {
    let field = |name: &str| format!("check.allowed[{at}].{name}");
    let until = allowed.until.as_deref().map(stella_api_types::time::parse_rfc3339).transpose();
    Ok(Allowed {
        id: allowed.id.clone(),
        until: until.map_err(|error| ApiError::invalid(field("until"), error.to_string()))?,
        reason: reason(&field("reason"), &allowed.reason)?,
    })
}

const fn comparison(comparison: dto::Comparison) -> Comparison {
    match comparison {
        dto::Comparison::Below => Comparison::Below,
        dto::Comparison::AtMost => Comparison::AtMost,
        dto::Comparison::Above => Comparison::Above,
        dto::Comparison::AtLeast => Comparison::AtLeast,
    }
}
