//! From the texts of requests to the domain's types. An error names the field as the caller wrote it: `steps[1].name`.
//!
//! Only what a type cannot hold is refused here. What makes sense together is the core's to decide.

mod approvals;
mod environment;
mod gate;
mod signing;
mod strategy;

use stella_api_types::account::GiveRole;
use stella_api_types::deployment::OnFailure as OnFailureDto;
use stella_api_types::environment::ProofRule as ProofRuleDto;
use stella_api_types::environment::{Repeats as RepeatsDto, SetFreeze};
use stella_api_types::promotion::Objection as ObjectionDto;
use stella_api_types::release::{
    Phase as PhaseDto, Standing, Step as StepDto, StepAction as StepActionDto, UnitAction as UnitActionDto,
};
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::deployment::{OnFailure, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_RANGE};
use stella_domain::environment::{BAKE_MS_RANGE, SILENCE_MS_RANGE};
use stella_domain::freeze::{Freeze, Repeats};
use stella_domain::hold::Verdict;
use stella_domain::name::{Name, Version};
use stella_domain::promotion::{Objection, PromotionStatus};
use stella_domain::release::{Phase, Step, StepAction};
use stella_domain::state::State;
use stella_domain::way_back::ProofRule;
use stella_protocol::digest::Digest;
use stella_protocol::spec::UnitAction;

pub(crate) use self::strategy::{maybe_amount, strategy};
use crate::error::ApiError;
use crate::resolve;

pub(crate) use approvals::{approval_signature, approvals};
pub(crate) use environment::path;
pub(crate) use gate::gate;
pub(crate) use signing::{provenance, public_key, signature, signature_rule};

/// A name.
pub(crate) fn name(field: &str, text: &str) -> Result<Name, ApiError> {
    text.parse::<Name>().map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// A version.
pub(crate) fn version(field: &str, text: &str) -> Result<Version, ApiError> {
    text.parse::<Version>().map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// A digest.
pub(crate) fn digest(field: &str, text: &str) -> Result<Digest, ApiError> {
    text.parse::<Digest>().map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// Why a person does something. It is kept for ever, so saying nothing is refused; how long it may be, the core says.
pub(crate) fn reason(field: &str, text: &str) -> Result<String, ApiError> {
    match text.trim() {
        "" => Err(ApiError::invalid(field, "must say why: it is recorded")),
        said => Ok(said.to_owned()),
    }
}

/// What an account may do.
pub(crate) fn roles(state: &State, roles: &[GiveRole]) -> Result<Vec<Grant>, ApiError> {
    let numbered = roles.iter().enumerate();
    numbered
        .map(|(at, it)| {
            let field = |name: &str| format!("roles[{at}].{name}");
            let role = Role::ALL.into_iter().find(|role| role.name() == it.role).ok_or_else(|| {
                let known = Role::ALL.map(Role::name).join(", ");
                ApiError::invalid(field("role"), format!("is {:?}; it must be one of: {known}", it.role))
            })?;
            let missing = |name: &str, error: &ApiError| ApiError::invalid(field(name), error.detail());
            let tenant = it.tenant.as_deref().map(|text| resolve::tenant(state, text)).transpose();
            let tenant = tenant.map_err(|error| missing("tenant", &error))?;
            let environment = match (tenant, it.environment.as_deref()) {
                (_, None) => None,
                (None, Some(_)) => {
                    return Err(ApiError::invalid(field("tenant"), "must say in which tenant"));
                }
                (Some(tenant), Some(text)) => Some(
                    resolve::environment(tenant, text).map_err(|error| missing("environment", &error))?.id,
                ),
            };
            Ok(Grant { role, tenant: tenant.map(|it| it.id), environment })
        })
        .collect()
}

/// A time in which nothing new comes to an environment.
pub(crate) fn freeze(body: &SetFreeze) -> Result<Freeze, ApiError> {
    let clock = |field: &str, text: &str| {
        text.parse().map_err(|_| {
            ApiError::invalid(field, "must be a date and a time without a zone: 2026-12-18T18:00")
        })
    };
    Ok(Freeze {
        name: name("name", &body.name)?,
        reason: reason("reason", &body.reason)?,
        from: clock("from", &body.from)?,
        to: clock("to", &body.to)?,
        time_zone: body.time_zone.clone(),
        repeats: match body.repeats {
            RepeatsDto::Never => Repeats::Never,
            RepeatsDto::Daily => Repeats::Daily,
            RepeatsDto::Weekly => Repeats::Weekly,
            RepeatsDto::Yearly => Repeats::Yearly,
        },
    })
}

/// What is the matter with a promotion.
pub(crate) const fn objection(objection: ObjectionDto) -> Objection {
    match objection {
        ObjectionDto::NotTested => Objection::NotTested,
        ObjectionDto::TooRisky => Objection::TooRisky,
        ObjectionDto::BadTiming => Objection::BadTiming,
        ObjectionDto::Incomplete => Objection::Incomplete,
        ObjectionDto::Mistake => Objection::Mistake,
        ObjectionDto::Unanswered => Objection::Unanswered,
        ObjectionDto::Other => Objection::Other,
    }
}

/// Every promotion that has not come to its end.
pub(crate) const WAITING: &str = "waiting";

/// A promotion's status, or [`WAITING`].
pub(crate) fn promotion_status(field: &str, text: &str) -> Result<&'static str, ApiError> {
    let known = [WAITING, "pending", "approved"].into_iter().chain(PromotionStatus::ENDS);
    known.clone().find(|known| *known == text).ok_or_else(|| {
        let known = known.collect::<Vec<_>>().join(", ");
        ApiError::invalid(field, format!("is {text:?}; it must be one of: {known}"))
    })
}

/// What uses the API.
pub(crate) fn account_kind(field: &str, text: &str) -> Result<AccountKind, ApiError> {
    match text {
        "user" => Ok(AccountKind::User),
        "service" => Ok(AccountKind::Service),
        other => Err(ApiError::invalid(field, format!("is {other:?}; it must be user or service"))),
    }
}

/// How long a deployment may take, from seconds to milliseconds. The core would tell the bounds in milliseconds.
pub(crate) fn timeout_ms(field: &str, seconds: Option<u64>) -> Result<u64, ApiError> {
    let Some(seconds) = seconds else { return Ok(TIMEOUT_MS_DEFAULT) };
    let (min, max) = (TIMEOUT_MS_RANGE.0 / 1_000, TIMEOUT_MS_RANGE.1 / 1_000);
    if (min..=max).contains(&seconds) {
        return Ok(seconds * 1_000);
    }
    Err(ApiError::invalid(field, format!("is {seconds}; it must be between {min} and {max} (a week)")))
}

/// How long a release bakes in on all targets, from seconds to milliseconds.
pub(crate) fn bake_ms(field: &str, seconds: u64) -> Result<u64, ApiError> {
    seconds.checked_mul(1_000).filter(|ms| in_range(*ms, BAKE_MS_RANGE)).ok_or_else(|| {
        let (min, max) = (BAKE_MS_RANGE.0 / 1_000, BAKE_MS_RANGE.1 / 1_000);
        ApiError::invalid(field, format!("is {seconds}; it must be between {min} and {max} (a week)"))
    })
}

/// Within which time agents go silent together, from seconds to milliseconds.
pub(crate) fn silence_ms(field: &str, seconds: u64) -> Result<u64, ApiError> {
    let (min, max) = (SILENCE_MS_RANGE.0 / 1_000, SILENCE_MS_RANGE.1 / 1_000);
    if (min..=max).contains(&seconds) {
        return Ok(seconds * 1_000);
    }
    Err(ApiError::invalid(field, format!("is {seconds}; it must be between {min} and {max} (an hour)")))
}

/// The name of a deployment's status. A misspelt one would find nothing and look like good news.
pub(crate) fn status<'t>(field: &str, text: &'t str) -> Result<&'t str, ApiError> {
    const KNOWN: [&str; 6] = ["running", "halting", "cancelling", "succeeded", "failed", "cancelled"];
    if KNOWN.contains(&text) {
        return Ok(text);
    }
    Err(ApiError::invalid(field, format!("must be one of {}", KNOWN.join(", "))))
}

/// What to think of a release.
pub(crate) const fn verdict(standing: Standing) -> Verdict {
    match standing {
        Standing::Good => Verdict::Clear,
        Standing::Deprecated => Verdict::Deprecate,
        Standing::Blocked => Verdict::Block,
    }
}

/// What to do when more targets fail than are tolerated.
pub(crate) const fn on_failure(dto: OnFailureDto) -> OnFailure {
    match dto {
        OnFailureDto::Rollback => OnFailure::Rollback,
        OnFailureDto::Stop => OnFailure::Stop,
        OnFailureDto::Ask => OnFailure::Ask,
    }
}

/// The steps of a new release.
pub(crate) fn steps(steps: &[StepDto]) -> Result<Vec<Step>, ApiError> {
    steps.iter().enumerate().map(|(at, dto)| step(&format!("steps[{at}]"), dto)).collect()
}

/// The core knows a step's fields without the `action` that callers write around most of them.
pub(crate) fn step_field_as_written(field: String) -> String {
    match field.split_once("].") {
        Some((step, inner))
            if step.starts_with("steps[") && !matches!(inner, "name" | "timeout_ms" | "phase") =>
        {
            format!("{step}].action.{inner}")
        }
        _ => field,
    }
}

fn step(field: &str, dto: &StepDto) -> Result<Step, ApiError> {
    Ok(Step {
        name: name(&format!("{field}.name"), &dto.name)?,
        action: action(&format!("{field}.action"), &dto.action)?,
        timeout_ms: dto.timeout_ms,
        phase: match dto.phase {
            PhaseDto::Prepare => Phase::Prepare,
            PhaseDto::Switch => Phase::Switch,
            PhaseDto::Retire => Phase::Retire,
        },
    })
}

fn action(field: &str, dto: &StepActionDto) -> Result<StepAction, ApiError> {
    Ok(match dto {
        StepActionDto::Artifact { component, keep_releases } => StepAction::Artifact {
            component: name(&format!("{field}.component"), component)?,
            keep_releases: *keep_releases,
        },
        StepActionDto::Command { argv, environment, working_directory, user } => StepAction::Command {
            argv: argv.clone(),
            environment: environment.clone(),
            working_directory: working_directory.clone(),
            user: user.clone(),
        },
        StepActionDto::CheckHttp { url, status, interval_ms, successes } => StepAction::CheckHttp {
            url: url.clone(),
            status: *status,
            interval_ms: *interval_ms,
            successes: *successes,
        },
        StepActionDto::CheckTcp { address, interval_ms, successes } => StepAction::CheckTcp {
            address: address.clone(),
            interval_ms: *interval_ms,
            successes: *successes,
        },
        StepActionDto::CheckCommand { argv, interval_ms, successes } => {
            StepAction::CheckCommand { argv: argv.clone(), interval_ms: *interval_ms, successes: *successes }
        }
        StepActionDto::Systemd { unit, action } => {
            StepAction::Systemd { unit: unit.clone(), action: unit_action(*action) }
        }
    })
}

const fn unit_action(dto: UnitActionDto) -> UnitAction {
    match dto {
        UnitActionDto::Start => UnitAction::Start,
        UnitActionDto::Stop => UnitAction::Stop,
        UnitActionDto::Restart => UnitAction::Restart,
        UnitActionDto::ReloadOrRestart => UnitAction::ReloadOrRestart,
    }
}

/// What an environment wants of the proof that a deployment could go back.
pub(crate) const fn proof_rule(rule: ProofRuleDto) -> ProofRule {
    match rule {
        ProofRuleDto::Off => ProofRule::Off,
        ProofRuleDto::Reported => ProofRule::Reported,
        ProofRuleDto::Required => ProofRule::Required,
    }
}

const fn in_range(value: u64, (min, max): (u64, u64)) -> bool {
    min <= value && value <= max
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(error: ApiError) -> Option<String> {
        error.problem(None, None, None).field
    }

    #[test]
    fn an_error_names_the_field_as_the_caller_wrote_it() {
        let artifact =
            |component: &str| StepActionDto::Artifact { component: component.to_owned(), keep_releases: 3 };
        let step = |name: &str, action| StepDto {
            name: name.to_owned(),
            timeout_ms: 1_000,
            phase: PhaseDto::Prepare,
            action,
        };
        let good = step("unpack", artifact("web"));
        assert_eq!(steps(std::slice::from_ref(&good)).unwrap().len(), 1);
        let bad_name = steps(&[good, step("Not a name", artifact("web"))]).unwrap_err();
        assert_eq!(field_of(bad_name).as_deref(), Some("steps[1].name"));
        let bad_component = steps(&[step("unpack", artifact("../web"))]).unwrap_err();
        assert_eq!(field_of(bad_component).as_deref(), Some("steps[0].action.component"));
    }

    #[test]
    fn a_reason_says_something() {
        assert_eq!(reason("reason", " disk full ").unwrap(), "disk full");
        assert_eq!(field_of(reason("reason", " \n").unwrap_err()).as_deref(), Some("reason"));
    }
}
